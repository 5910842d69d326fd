"""``ftp://`` and ``ftps://`` URLs: files of FTP servers."""

from __future__ import annotations

import os
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from ftplib import FTP
from functools import partial
from types import MappingProxyType
from typing import ClassVar, Final

from wlm_tasks.errors import (
    InvalidPathError,
    StepError,
    StorageMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.model.checks import show
from wlm_tasks.model.ends import DigestOf, Part, Readable, Source, Target, Tree
from wlm_tasks.model.paths import old_name, part_name
from wlm_tasks.storage.access import Access
from wlm_tasks.storage.base import StorageBackend
from wlm_tasks.storage.ftpclient import FtpClient
from wlm_tasks.storage.ftplists import young
from wlm_tasks.storage.ftptrees import FtpTree
from wlm_tasks.storage.locks import Locks
from wlm_tasks.storage.weburls import WebUrl, web_url

_LOCKS: Final = Locks()
#: bytes taken from a connection at once, and seconds after which a slow one gives what it has
_PIECE: Final = 256 * 1024
_PATIENCE_S: Final = 1.0
#: seconds in which bytes that are here are passed over, as nothing can stop it meanwhile
PASS_S: Final = 600.0


class FtpStorage(StorageBackend):
    """Files by their path from the login's directory on, ``%2F`` for an absolute one (RFC 1738).

    Reading resumes by REST, writing by APPE to a part file that is renamed in the end. What was
    written is compared by its size, a part that is gone on with byte by byte; another content by
    its size and time of modification, to the second.

    FTP has no locks: two transfers to one file are kept apart within a process only. Those of two
    processes both write the part file, which shows in its size or when it is compared, mostly;
    experiments of different workers should not write one file.
    """

    schemes: ClassVar[frozenset[str]] = frozenset({"ftp", "ftps"})

    def __init__(
        self, *, name: str = "", options: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        """Settings are ``credentials``, without which it logs in as anonymous, and ``ca_file``."""
        self._access = Access(name, options, ("credentials", "ca_file"), "ftp")

    def check(self, url: str) -> None:
        """Refuse what cannot be a file's path, and the name of a part file."""
        self._path(url)

    @contextmanager
    def source(self, url: str) -> Iterator[Source]:
        """Open the file of the URL."""
        parsed, path = self._path(url)
        with closing(FtpClient(parsed, self._access)) as client:
            yield _Source(client, path)

    @contextmanager
    def target(self, url: str, mode: int | None) -> Iterator[Target]:  # noqa: ARG002
        """Open the place of the file of the URL; the server says which rights it has."""
        parsed, path = self._path(url)
        with closing(FtpClient(parsed, self._access)) as client:
            yield _Target(client, path, f"{parsed.host.lower()}:{parsed.port or 21}")

    def tree(self, url: str, pattern: str) -> Tree:
        """Return the files below the directory of the URL."""
        parsed, path = self._path(f"{url}/x")
        return FtpTree(self, url, partial(FtpClient, parsed, self._access), path[:-1], pattern)

    def _path(self, url: str) -> tuple[WebUrl, str]:
        parsed = web_url(url, self.schemes, "ftp://host/path/file")
        first, *segments = parsed.segments
        absolute = first.startswith("/")
        parts = [first[1:] if absolute else first, *segments]
        problem = ""
        if parsed.query:
            problem = "'?' as %3F"
        elif "" in parts or any("/" in part for part in parts) or {".", ".."} & set(parts):
            problem = "a path without '.', '..', '//' and %2F but at its begin"
        elif any(c in part for part in parts for c in "\r\n"):
            problem = "a path without line ends: FTP cannot carry them"
        elif any(os.fsencode(part) != part.encode(errors="replace") for part in parts):
            problem = "a path in UTF-8"
        if problem:
            raise InvalidPathError(f"URL: got {show(parsed.shown)}, expected {problem}")
        part_name(parts[-1])
        return parsed, ("/" if absolute else "") + "/".join(parts)


class _FtpFile:
    """A file of a server, read in one stream that begins where it is wanted."""

    def __init__(self, client: FtpClient, path: str, size: int, *, ours: bool = False) -> None:
        self.place = client.place
        self.mode: int | None = None
        self._client = client
        self._path = path
        self._size = size
        self._ours = ours
        self._modified = client.modified(path)
        self._at = -1  #: where the stream is

    @property
    def size(self) -> int:
        """Bytes in all when it was opened."""
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there."""
        if not self._client.streams or self._at != offset:
            if offset >= self._size:
                return b""
            self._begin(offset)
        return self._read(length)

    def _begin(self, offset: int) -> None:
        """Begin a stream there; where the server cannot, what is before it is passed over."""
        command = f"RETR {self._path}"
        self._at = offset
        if self._client.open(command, rest=offset):
            return
        self._client.open(command)
        self._at, until = 0, time.monotonic() + PASS_S
        while self._at < offset:
            if time.monotonic() > until:
                raise StorageUnavailableError(
                    f"{self.place}: its server sends files from their begin only, and the {offset}"
                    f" bytes that are here could not be passed over in {PASS_S:g} s"
                )
            self._read(min(_PIECE, offset - self._at))

    def _read(self, length: int) -> bytes:
        """Read on in the stream; an end before the end of the file is an error."""
        data = bytearray()
        until = time.monotonic() + _PATIENCE_S
        while self._client.streams and len(data) < length and time.monotonic() < until:
            piece = self._receive(min(_PIECE, length - len(data)))
            data += piece
            self._at += len(piece)
        if not data and self._at < self._size:
            raise StorageUnavailableError(
                f"{self.place}: the stream ended after {self._at} of {self._size} bytes"
            )
        return bytes(data)

    def _receive(self, length: int) -> bytes:
        try:
            return self._client.receive(length)
        except StorageUnavailableError as error:
            # a server breaks off a file that becomes shorter while it is sent
            if self._client.broke_off and self._client.size(self._path) != self._size:
                raise StorageUnavailableError(
                    f"{self.place}: was changed while it was read"
                ) from error
            raise

    def digest(self, length: int) -> None:
        """Tell nothing: no command for it is common."""

    def identity(self) -> Hashable:
        """Return size and time, unless the file may have another content of the same."""
        if self._modified is None or (not self._ours and young(self._modified)):
            return object()
        return self.place, self._path, self._size, self._modified


class _Source(_FtpFile):
    def __init__(self, client: FtpClient, path: str) -> None:
        size = client.size(path)
        if size is None:
            raise StorageMissingError(f"{client.place}: No such file, or none that may be read")
        super().__init__(client, path, size)

    def changed(self) -> bool:
        """Ask for size and time again."""
        return (
            self._client.size(self._path) != self._size
            or self._client.modified(self._path) != self._modified
        )


class _Target:
    def __init__(self, client: FtpClient, path: str, host: str) -> None:
        self._client = client
        self._path = path
        self._lock = f"{host}/{path}"
        directory, slash, name = path.rpartition("/")
        self._directory = directory
        self._part = f"{directory}{slash}{part_name(name)}"
        self._old = f"{directory}{slash}{old_name(name)}"

    @contextmanager
    def present(self) -> Iterator[Readable | None]:
        """Open what has the final name."""
        if self._client.size(self._old) is not None:
            with _LOCKS.held(self._lock, self._client.place):
                self._repair()
        size = self._client.size(self._path)
        yield None if size is None else _FtpFile(self._client, self._path, size)

    def _repair(self) -> None:
        """End what was begun when another transfer ended between two renames."""
        if self._client.size(self._path) is None:
            _rename(self._client, self._old, self._path)
        else:
            _remove(self._client, self._old)

    @contextmanager
    def part(self, size: int) -> Iterator[Part]:
        """Lock the part file, as far as that goes, and open it."""
        client = self._client
        with _LOCKS.held(self._lock, client.place):
            there = client.size(self._part)
            if there is None:
                _make_directories(client, self._directory)
            elif there > size:  # FTP cannot cut a file off
                _remove(client, self._part)
                there = None
            part = _FtpPart(client, self._part, (self._path, self._old), there or 0)
            yield part
            part.finish()


class _FtpPart(_FtpFile):
    """The part file; what is at its end is written over or behind, never cut off."""

    def __init__(self, client: FtpClient, part: str, names: tuple[str, str], size: int) -> None:
        """`names` are the final one, and that of a file which has it while it is replaced."""
        super().__init__(client, part, size, ours=True)
        self._name, self._old = names
        self._writes = False
        self._offset = 0  #: where the next byte goes
        self._wanted = size

    def identity(self) -> Hashable:
        """Return what it is known by now, after what was written."""
        self.finish()
        size = self._client.size(self._path)
        if size is None:
            return object()
        self._size, self._modified = size, self._client.modified(self._path)
        return super().identity()

    def truncate(self, size: int) -> None:
        """Note that what is written next goes there."""
        self._wanted = size
        if size == 0:
            # so that an empty file is one, and none has more bytes than are written
            self._open("STOR", 0)

    def write_at(self, offset: int, data: bytes) -> None:
        if not self._writes or self._offset != offset:
            self._go_on(offset)
        self._client.send(data)
        self._offset += len(data)
        self._wanted = self._offset

    def _go_on(self, offset: int) -> None:
        """Write from there on, in whatever way the server knows."""
        self.finish()
        at_end = offset > 0 and offset == self._client.size(self._path)
        if (at_end and self._open("APPE", offset)) or self._open("STOR", offset):
            return
        self.discard()
        raise StorageUnavailableError(
            f"{self.place}: the part that was there is removed, as the server lets nobody go on in"
            " one; the next try begins anew"
        )

    def commit(self, digest: DigestOf) -> None:  # noqa: ARG002
        """Rename it; how the server keeps its bytes is its own affair."""
        self.finish()
        size = self._client.size(self._path)
        if size != self._wanted:
            self.discard()
            raise StorageUnavailableError(
                f"{self.place}: arrived with {size} bytes, expected {self._wanted}"
            )
        try:
            _rename(self._client, self._path, self._name)
        except StorageRefusedError:
            # some servers rename to no name that is taken
            if self._client.size(self._name) is None:
                raise
            self._replace()

    def _replace(self) -> None:
        """Rename the old file out of the way first; it is removed when the new one is in place."""
        client = self._client
        _rename(client, self._name, self._old)
        try:
            _rename(client, self._path, self._name)
        except StepError:
            with suppress(StepError):  # then the next transfer does it
                _rename(client, self._old, self._name)
            raise
        _remove(client, self._old)

    def discard(self) -> None:
        self._client.drop()
        self._writes = False
        _remove(self._client, self._path)

    def finish(self) -> None:
        """End what is under way, so that the server has all that was written."""
        if self._writes:
            self._client.finish()
        elif self._client.streams:
            self._client.drop()
        self._writes = False

    def _open(self, command: str, offset: int) -> bool:
        """Begin to write there; False if the server does not let us."""
        self.finish()
        rest = offset if command == "STOR" else 0
        if not self._client.open(f"{command} {self._path}", rest=rest, writes=offset > 0):
            return False
        self._writes, self._offset, self._at = True, offset, -1
        return True


def _rename(client: FtpClient, old: str, new: str) -> None:
    def ask(ftp: FTP) -> None:
        ftp.rename(old, new)

    client.call(ask, "renaming: ")


def _remove(client: FtpClient, path: str) -> None:
    """Remove a file if it is there."""

    def ask(ftp: FTP) -> None:
        ftp.delete(path)

    if client.size(path) is not None:
        client.call(ask, "removing: ")


def _make_directories(client: FtpClient, directory: str) -> None:
    """Make those that are missing; whether they are there shows when they are used."""
    parts = directory.split("/")
    for count in range(1, len(parts) + 1):
        path = "/".join(parts[:count])
        if path:
            with suppress(StorageRefusedError):
                client.call(partial(_make, path))


def _make(path: str, ftp: FTP) -> None:
    ftp.mkd(path)
