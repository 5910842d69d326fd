"""``s3://bucket/key`` URLs: objects of Amazon S3 and of services that speak its protocol."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import ClassVar, Final

from wlm_tasks.errors import InvalidPathError
from wlm_tasks.model.checks import show
from wlm_tasks.model.ends import Source, Target
from wlm_tasks.storage.base import StorageBackend
from wlm_tasks.storage.s3client import S3Object
from wlm_tasks.storage.s3settings import S3Settings
from wlm_tasks.storage.s3source import S3File, head, opened
from wlm_tasks.storage.s3target import S3Target
from wlm_tasks.storage.weburls import web_url

#: also names of old buckets and of other services, which had other rules
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
#: longest key, in bytes of UTF-8
_KEY_LIMIT: Final = 1024


class S3Storage(StorageBackend):
    """Objects by bucket and key.

    Reading resumes by ranges and notices another content by ETag, version and time. Writing goes
    by one request for small files and by a multipart upload for others, which resumes from the
    parts that are there; nothing has the key before it is whole. The service verifies each
    request's bytes by the digests that come with it. Transfers of one process to one key are kept
    apart, those of two processes are not.
    """

    schemes: ClassVar[frozenset[str]] = frozenset({"s3"})

    def __init__(
        self, *, name: str = "", options: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        """Settings are endpoint, region, credentials, ca_file and anonymous; all are optional."""
        self._settings = S3Settings(name, options)

    def check(self, url: str) -> None:
        """Refuse what cannot be an object's URL."""
        self._parsed(url)

    @contextmanager
    def source(self, url: str) -> Iterator[Source]:
        """Open the object of the URL."""
        at = self._object(url)
        with opened(S3File(at, head(at))) as file:
            yield file

    @contextmanager
    def target(self, url: str, mode: int | None) -> Iterator[Target]:  # noqa: ARG002
        """Open the place of the object of the URL; S3 knows no permission bits."""
        yield S3Target(self._object(url))

    def _object(self, url: str) -> S3Object:
        bucket, key, shown = self._parsed(url)
        return S3Object(self._settings, bucket, key, shown)

    def _parsed(self, url: str) -> tuple[str, str, str]:
        """Return bucket, key, and what to call the object; raises `InvalidPathError`."""
        parsed = web_url(url, self.schemes, "s3://bucket/key")
        key = "/".join(parsed.segments)
        problem = ""
        if parsed.query:
            problem = "'?' as %3F"
        elif parsed.port is not None or not _BUCKET.fullmatch(parsed.host):
            problem = "a bucket's name after s3://; `endpoint` in a table [storages.NAME] is a host"
        elif any("/" in segment for segment in parsed.segments):
            problem = "'/' as it is, without %2F"
        elif not _is_utf8(key) or len(key.encode()) > _KEY_LIMIT:
            problem = f"a key of at most {_KEY_LIMIT} bytes of UTF-8"
        if problem:
            raise InvalidPathError(f"URL: got {show(parsed.shown)}, expected {problem}")
        return parsed.host, key, parsed.shown


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
