"""URLs of other schemes, by way of fsspec (https://filesystem-spec.readthedocs.io).

What holds for such a place is what the package behind its scheme makes of it: time limits,
retries and where credentials are found are that package's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from wlm_tasks.errors import ConfigError, InvalidPathError, StorageRefusedError
from wlm_tasks.model.checks import one_line, show
from wlm_tasks.model.ends import Source, Target
from wlm_tasks.model.paths import part_name
from wlm_tasks.storage.access import Access
from wlm_tasks.storage.any_file import AnyFile, AnyTarget, translated
from wlm_tasks.storage.base import StorageBackend
from wlm_tasks.storage.weburls import WebUrl, web_url

#: the schemes that are places on other hosts. Others of fsspec's open files of this host (file,
#: git, reference, ...), take another URL inside (zip, simplecache, generic) or run code (dask),
#: all of it by way of a text that anybody may hand in; `memory` would lose what is written
REMOTE: frozenset[str] = frozenset(
    {
        *("abfs", "az", "gs", "gcs", "oci", "oss", "tos", "lakefs", "hf", "dropbox"),
        *("hdfs", "arrow_hdfs", "webhdfs", "smb", "root"),
    }
)


def storage_of(scheme: str) -> Callable[..., StorageBackend] | None:
    """Return what makes the backend of a scheme, None if fsspec does not know it.

    Raises `ConfigError` for one that is refused, and where a package is missing.
    """
    if scheme not in {*fsspec.available_protocols(), *fsspec.registry}:
        return None
    if scheme not in REMOTE:
        raise ConfigError(
            f"URL's scheme: got {show(scheme)}, which fsspec knows, but it is not known as a place"
            " on another host without another URL inside"
        )
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise ConfigError(
            f"URL's scheme: {show(scheme)} needs a package ({one_line(str(error))})"
        ) from error
    return partial(FsspecStorage, scheme)


class FsspecStorage(StorageBackend):
    """Files by URL, of one scheme.

    Reading seeks and notices another content by what the package tells of it. Writing goes to
    ``.<name>.wlm-part``, begins anew each time and ends in a rename, or in a copy where there are
    no renames. Of what was written only the size is compared.
    """

    schemes: ClassVar[frozenset[str]] = REMOTE

    def __init__(
        self,
        scheme: str,
        *,
        name: str = "",
        options: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Settings are ``credentials`` (a user and a password) and ``token``; both are optional."""
        self._scheme = scheme
        self._access = Access(name, options, ("credentials", "token"), scheme)

    def check(self, url: str) -> None:
        """Refuse what cannot be a file's URL, URLs in URLs, and the name of a part file."""
        self._parsed(url)

    @contextmanager
    def source(self, url: str) -> Iterator[Source]:
        """Open the file of the URL."""
        parsed, files, path = self._place(url)
        with AnyFile(files, path, parsed.shown) as file:
            yield file

    @contextmanager
    def target(self, url: str, mode: int | None) -> Iterator[Target]:  # noqa: ARG002
        """Open the place of the file of the URL; permission bits are the store's own."""
        parsed, files, path = self._place(url)
        yield AnyTarget(files, path, parsed.shown)

    def _parsed(self, url: str) -> WebUrl:
        parsed = web_url(url, frozenset({self._scheme}), f"{self._scheme}://host/path/file")
        problem = ""
        if parsed.query:
            problem = "'?' as %3F"
        elif "::" in url or any("::" in part for part in parsed.segments):
            problem = "one without '::'"
        elif any("/" in part for part in parsed.segments):
            problem = "'/' as it is, without %2F"
        elif any("\udc80" <= char <= "\udcff" for part in parsed.segments for char in part):
            problem = "a path in UTF-8"
        if problem:
            raise InvalidPathError(f"URL: got {show(parsed.shown)}, expected {problem}")
        part_name(parsed.segments[-1])
        return parsed

    def _place(self, url: str) -> tuple[WebUrl, Any, str]:
        """Return the file system and what the file is called there."""
        parsed = self._parsed(url)
        port = "" if parsed.port is None else f":{parsed.port}"
        host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
        path = "/".join(parsed.segments)
        with translated(parsed.shown):
            files, there = fsspec.url_to_fs(
                f"{self._scheme}://{host}{port}/{path}", skip_instance_cache=True, **self._secrets()
            )
        if isinstance(files, LocalFileSystem) or getattr(files, "local_file", False):
            raise StorageRefusedError(f"{parsed.shown}: is a file of this host")
        # some packages take '#' and such as something else than a name's characters
        if not f"/{there}".endswith(f"/{path}"):
            raise StorageRefusedError(f"{parsed.shown}: cannot have this name there")
        return parsed, files, there

    def _secrets(self) -> dict[str, str]:
        pair, token = self._access.credentials(), self._access.token()
        found = {} if pair is None else {"username": pair[0], "password": pair[1]}
        return found if token is None else {"token": token}
