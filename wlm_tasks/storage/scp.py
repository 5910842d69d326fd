"""``scp://`` and ``sftp://`` URLs: files of hosts behind SSH, ``sftp://`` also without a shell."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType
from typing import ClassVar, Final
from urllib.parse import unquote, unquote_to_bytes

from wlm_tasks.config.settings import own_user
from wlm_tasks.errors import (
    BackendUnavailableError,
    InvalidPathError,
    SiteNoShellError,
    StorageUnavailableError,
)
from wlm_tasks.hosts.address import Address, address_of
from wlm_tasks.hosts.files import HostFiles
from wlm_tasks.hosts.places import anywhere
from wlm_tasks.hosts.probe import has_shell
from wlm_tasks.hosts.ssh import SshShell
from wlm_tasks.hosts.trees import HostTree, HostTreeTarget
from wlm_tasks.model.checks import show
from wlm_tasks.model.ends import Source, Target, Tree, TreeTarget
from wlm_tasks.model.paths import part_name
from wlm_tasks.storage.base import StorageBackend
from wlm_tasks.storage.beneath import COMPONENT_LIMIT
from wlm_tasks.storage.sftptrees import SftpHost

_URL: Final = re.compile(
    r"(?:scp|sftp)://(?:(?P<user>[^@/:]+)@)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^@/:\[\]]+)"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/.*)",
    re.IGNORECASE | re.DOTALL,
)
_PORTS: Final = range(1, 65_536)


class ScpStorage(StorageBackend):
    """Files by absolute path on the host of the URL; the rights are those of the login.

    The host's key is verified, the user's ``~/.ssh/config`` not read. What says how to get in are
    the settings of a storage (``key_file``, ``known_hosts``, ``proxy_jump``, ``user``, ``port``);
    what the URL says goes first.
    """

    schemes: ClassVar[frozenset[str]] = frozenset({"scp", "sftp"})
    tells_digests: ClassVar[bool] = True

    def __init__(
        self, *, name: str = "", options: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        """`name` and `options` are those of the storage in the settings, if one is meant."""
        self._name = name
        self._options = options

    def check(self, url: str) -> None:
        """Refuse what cannot be a file's path on a host, and the name of a part file."""
        _host, path = _split(url)
        *parents, name = path.split("/")
        if any(len(os.fsencode(part)) > COMPONENT_LIMIT for part in [*parents, name]):
            raise InvalidPathError(
                f"URL: got {show(url)}, expected components of at most {COMPONENT_LIMIT} bytes"
            )
        part_name(name)

    def source(self, url: str) -> AbstractContextManager[Source]:
        """Open the file of the URL."""
        files, path = self._at(url)
        return files.source(path)

    def target(self, url: str, mode: int | None) -> AbstractContextManager[Target]:
        """Return the place of the file of the URL; directories are made as needed."""
        files, path = self._at(url)
        return files.target(path, mode)

    def tree(self, url: str, pattern: str) -> Tree:
        """Return the files below the directory of the URL."""
        files, path = self._at(url)
        return files.tree(path, pattern)

    def tree_target(self, url: str) -> TreeTarget:
        """Return the directory of the URL, made as needed."""
        files, path = self._at(url)
        return files.tree_target(path)

    def shell(self, url: str) -> SshShell:
        """Return the shell of the host of a URL."""
        host, _path = _split(url)
        return SshShell(self._address(host))

    def _at(self, url: str) -> tuple[_ByShell | SftpHost, str]:
        self.check(url)
        host, path = _split(url)
        address = self._address(host)
        by_shell = self._has_shell(url, address)
        return (_ByShell if by_shell else SftpHost)(address), path

    def _has_shell(self, url: str, address: Address) -> bool:
        if url[:3].lower() == "scp":
            return True
        if "shell" in self._options:
            return bool(self._options["shell"])
        with _translated():
            return has_shell(address)

    def _address(self, host: Mapping[str, str]) -> Address:
        options = {"user": own_user(), **self._options, **host}
        return address_of(self._name, options, section="storages")


class _ByShell:
    """The files of a host by scripts there."""

    def __init__(self, address: Address) -> None:
        self._files = HostFiles(SshShell(address), _translated)

    def source(self, path: str) -> AbstractContextManager[Source]:
        return self._files.source(anywhere(path))

    def target(self, path: str, mode: int | None) -> AbstractContextManager[Target]:
        return nullcontext(self._files.target(anywhere(path), mode))

    def tree(self, path: str, pattern: str) -> Tree:
        return HostTree(
            self._files, anywhere(path), lambda below: anywhere(f"{path}/{below}"), pattern
        )

    def tree_target(self, path: str) -> TreeTarget:
        return HostTreeTarget(
            self._files, anywhere(path), lambda below: anywhere(f"{path}/{below}")
        )


def _split(url: str) -> tuple[Mapping[str, str], str]:
    """Return what a URL says of the host, and the absolute path; raises `InvalidPathError`."""
    match = _URL.fullmatch(url)
    if match is None or (match["port"] and int(match["port"]) not in _PORTS):
        raise InvalidPathError(
            f"URL: got {show(url)}, expected one such as sftp://user@host:22/absolute/path"
        )
    if "?" in match["path"] or "#" in match["path"]:
        raise InvalidPathError(f"URL: got {show(url)}, expected '?' as %3F and '#' as %23")
    path = os.fsdecode(unquote_to_bytes(match["path"]))
    if "\0" in path or set(path.split("/")[1:]) & {"", ".", ".."}:
        raise InvalidPathError(
            f"URL: got {show(url)}, expected a file's path without '.', '..', '//' and NUL"
        )
    host = {"host": match["host"].strip("[]"), "user": unquote(match["user"] or "")}
    return {**{key: value for key, value in host.items() if value}, **_port(match["port"])}, path


def _port(text: str | None) -> dict[str, str]:
    return {"port": text} if text else {}


@contextmanager
def _translated() -> Iterator[None]:
    """Let no trouble of this host pass for trouble of the site of the experiment."""
    try:
        yield
    except SiteNoShellError as error:
        raise StorageUnavailableError(f"{error.message}; sftp:// does without a shell") from error
    except BackendUnavailableError as error:
        raise StorageUnavailableError(error.message) from error
