"""Directories of FTP servers as trees of files: listed by MLSD or LIST, read one by one."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from ftplib import FTP
from threading import Lock
from typing import Final
from urllib.parse import quote

from wlm_tasks.errors import StorageMissingError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.model.ends import Entry, Source
from wlm_tasks.model.paths import is_meant
from wlm_tasks.storage.archives import packed
from wlm_tasks.storage.base import StorageBackend
from wlm_tasks.storage.ftpclient import FtpClient
from wlm_tasks.storage.ftplists import Item, items, young
from wlm_tasks.storage.trees import SMALL

#: digests that are remembered, of files read last: a few hundred bytes each
_REMEMBERED: Final = 50_000
#: FTP tells no rights that would hold here, so files get the usual ones
_MODE: Final = 0o666


class FtpTree:
    """Files below a directory of a server.

    Links are refused where the server tells them from files: where they lead is its own affair.
    """

    def __init__(
        self,
        storage: StorageBackend,
        url: str,
        connect: Callable[[], FtpClient],
        directory: str,
        pattern: str,
    ) -> None:
        """`directory` is what the URL's path is for the server, with a slash if it is not empty."""
        self.place = url
        self._storage = storage
        self._connect = connect
        self._directory = directory
        self._pattern = pattern
        self._known: dict[str, tuple[str, int, str]] = {}  #: what a file is remembered by

    def entries(self) -> list[Entry]:
        """List them, directory by directory."""
        with self._client() as client:
            top = self._directory
            if not top.startswith("/"):
                home = client.call(FTP.pwd)
                top = f"{home.removesuffix('/')}/{top}"
            return sorted(self._listed(client, top, "", ()), key=lambda entry: entry.path)

    def _listed(
        self, client: FtpClient, top: str, way: str, above: tuple[str, ...]
    ) -> Iterator[Entry]:
        client.place = f"{self.place}/{way}"
        facts, told = client.listing(f"{top}{way}".removesuffix("/") or "/")
        for item in items(client.place, told, facts=facts):
            path = f"{way}{item.name}"
            if not is_meant(path, self._pattern):
                continue
            if item.kind == "file":
                self._known[path] = (f"{self.place}/{path}", item.size, item.modified)
                yield Entry(path, item.size, _MODE)
            else:
                self._check_directory(path, item, above)
                beside = (*above, item.unique) if item.unique else above
                yield from self._listed(client, top, f"{path}/", beside)

    def _check_directory(self, path: str, item: Item, above: tuple[str, ...]) -> None:
        problem = ""
        if item.kind == "link":
            problem = "is a symbolic link, and FTP does not tell what it leads to"
        elif item.kind != "dir":
            problem = "is no regular file"
        elif item.unique in above:
            problem = "is a directory that it is itself in"
        if problem:
            raise StorageRefusedError(f"{self.place}/{path}: {problem}")

    def source(self, path: str) -> AbstractContextManager[Source]:
        """Open one, by a login of its own."""
        return self._storage.source(f"{self.place}/{quote(path)}")

    def digests(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Read small ones that are not remembered; large ones are compared one by one."""
        with self._client() as client:
            return {
                entry.path: self._digest(client, entry) for entry in entries if entry.size <= SMALL
            }

    def _digest(self, client: FtpClient, entry: Entry) -> str:
        known = self._known[entry.path]
        return _DIGESTS.find(known) or hashlib.sha256(self._read(client, entry)).hexdigest()

    @contextmanager
    def pack(self, entries: Sequence[Entry], word: str) -> Iterator[Iterator[bytes]]:
        """Archive them here."""
        with self._client() as client:
            yield packed(entries, word, lambda entry: self._read(client, entry))

    def _read(self, client: FtpClient, entry: Entry) -> bytes:
        client.place = f"{self.place}/{entry.path}"
        path = f"{self._directory}{entry.path}"
        try:
            client.open(f"RETR {path}")
        except StorageRefusedError as error:
            if client.size(path) is None:
                raise StorageMissingError(error.message) from error
            raise
        data = bytearray()
        while client.streams and len(data) <= entry.size:
            data += client.receive(SMALL)
        if len(data) != entry.size:
            client.drop()
            raise StorageUnavailableError(f"{client.place}: was changed meanwhile")
        _DIGESTS.keep(self._known[entry.path], hashlib.sha256(data).hexdigest())
        return bytes(data)

    def _client(self) -> closing[FtpClient]:
        client = self._connect()
        client.place = self.place
        return closing(client)


class _Digests:
    """Digests of files that have been read, so that the next slice need not read them again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int, str], str] = OrderedDict()
        self._lock = Lock()

    def keep(self, file: tuple[str, int, str], digest: str) -> None:
        """Remember that of a file, unless it may have another content of the same size and time."""
        if young(file[2]):
            return
        with self._lock:
            self._kept[file] = digest
            while len(self._kept) > _REMEMBERED:
                self._kept.popitem(last=False)

    def find(self, file: tuple[str, int, str]) -> str | None:
        """Return what is remembered."""
        with self._lock:
            return self._kept.get(file)


_DIGESTS: Final = _Digests()
