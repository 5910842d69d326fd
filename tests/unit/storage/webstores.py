"""Storages of the web to run the storage tests on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from unit.storage.stores import CONTROL, FileStore, Store, deliver, fetch

from services.ftpdaemons import FtpDaemon
from services.ftpserver import PrivateFtp
from services.nginx import PrivateNginx
from services.webserver import WebServer
from wlm_tasks.model.paths import part_name
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.ftp import FtpStorage
from wlm_tasks.storage.http import HttpStorage


class HttpStore(Store):
    """Files of a server in this process. What is put there begins anew each time."""

    resumes = False

    def __init__(self, directory: Path, server: WebServer) -> None:
        super().__init__(directory)
        self.server = server
        self.backend = HttpStorage()

    def url(self, name: str) -> str:
        return self.server.url(name)

    def write(self, name: str, data: bytes) -> None:
        self.server.write(name, data)

    def read(self, name: str) -> bytes | None:
        return self.server.read(name)

    def write_part(self, name: str, data: bytes) -> None:
        raise AssertionError(f"{name}: a PUT has no part that {len(data)} bytes could be left in")

    def read_part(self, name: str) -> bytes | None:
        return None

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        with self.backend.target(self.url(name), None) as target, target.part(0):
            yield


class NginxStore(FileStore):
    """Files of this host by way of nginx. What is put there begins anew each time."""

    resumes = False

    def __init__(self, directory: Path, server: PrivateNginx) -> None:
        super().__init__(directory)
        self.far = server.directory
        self.server = server
        self.backend = HttpStorage()
        self._time = 1_000_000_000

    def url(self, name: str) -> str:
        return f"{self.server.base}/{quote(name)}"

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        # what it tells of a file is its size and its time in whole seconds
        self._time += 2
        os.utime(self.path(name), (self._time, self._time))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        with self.backend.target(self.url(name), None) as target, target.part(0):
            yield


class FtpStore(FileStore):
    """Files of this host by way of an FTP server."""

    cuts = False
    no_names = "\r\n"

    def __init__(
        self,
        directory: Path,
        server: PrivateFtp | FtpDaemon,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(directory)
        self.far = server.directory
        self.server: Any = server
        self.backend = FtpStorage(name="lab", options=options)
        self._time = 1_000_000_000

    def url(self, name: str) -> str:
        return f"{self.server.base}/{quote(name)}"

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        self._touch(self.path(name))

    def write_part(self, name: str, data: bytes) -> None:
        super().write_part(name, data)
        self._touch(self.path(part_name(name)))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        with self.backend.target(self.url(name), None) as target, target.part(0):
            yield
        self.path(part_name(name)).unlink(missing_ok=True)

    def _touch(self, path: Path) -> None:
        """Give it an old time, and each another one: the server tells whole seconds."""
        self._time += 2
        os.utime(path, (self._time, self._time))


def bring(store: Store, url: str = "", control: TransferControl = CONTROL) -> bytes:
    """Get the far file and return what has arrived."""
    fetch(store.backend, url or store.url("far.dat"), str(store.root), "x", control)
    return (store.root / "x").read_bytes()


def take(
    store: Store, data: bytes, url: str = "", control: TransferControl = CONTROL
) -> TransferResult:
    """Put the near file."""
    (store.root / "x").write_bytes(data)
    return deliver(store.backend, str(store.root), "x", url or store.url("far.dat"), control)
