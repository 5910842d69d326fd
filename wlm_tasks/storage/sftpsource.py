"""Files of hosts that are read by SFTP alone."""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Final

import asyncssh

from wlm_tasks.errors import StorageRefusedError
from wlm_tasks.hosts.sftp import Sftp

#: pieces on their way at a time, and the most bytes of each: so much of a file is in memory
PIECES: Final = 4
_PIECE: Final = 1024 * 1024
#: version 3 tells times in seconds: a file younger than that may change once more within its second
_YOUNG_S: Final = 10.0
#: whatever asyncssh has of a file or of a directory's entry
Attrs = asyncssh.SFTPAttrs
File = asyncssh.SFTPClientFile


def require_regular(attrs: Attrs, place: str) -> None:
    """Raise `StorageRefusedError` for what is no regular file; a FIFO would hold up the server."""
    kind = stat.S_IFMT(attrs.permissions or 0)
    if kind == stat.S_IFDIR:
        raise StorageRefusedError(f"{place}: Is a directory, expected a regular file")
    if kind not in {0, stat.S_IFREG}:  # a server may tell no kinds
        raise StorageRefusedError(f"{place}: is no regular file")


def is_link(attrs: Attrs) -> bool:
    """Tell whether it is a symbolic link."""
    return stat.S_ISLNK(attrs.permissions or 0)


async def found(client: asyncssh.SFTPClient, path: bytes) -> Attrs | None:
    """Return what has a name, a link itself; None if nothing has."""
    try:
        return await client.lstat(path)
    except asyncssh.SFTPNoSuchFile:
        return None


class SftpBytes:
    """A file that is read, some pieces ahead of whoever reads."""

    def __init__(self, session: Sftp, place: str, path: bytes, attrs: Attrs) -> None:
        self.place = place
        self._session = session
        self._path = path
        self._attrs = attrs
        self._reading: File | None = None
        self._ahead: deque[tuple[int, Future[bytes]]] = deque()
        self._left = b""
        self._at = self._asked = -1  # the next byte to give, and to ask for

    @property
    def size(self) -> int:
        """Bytes in all when it was opened."""
        return self._attrs.size or 0

    def identity(self) -> Hashable:
        """Return what is told of it, unless that may mean another content, too."""
        if time.time() - (self._attrs.mtime or time.time()) < _YOUNG_S:
            return object()
        return self._told()

    def _told(self) -> Hashable:
        return self._session.address, self._path, self._attrs.size, self._attrs.mtime

    def digest(self, length: int) -> str | None:  # noqa: ARG002
        """Tell nothing: nobody computes it there."""
        return None

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there."""
        if self._at != offset:
            self.forget()
            self._at = self._asked = offset
        if not self._left:
            self._ask(min(length, _PIECE))
            asked, future = self._ahead.popleft()
            self._left = self._session.end(self.place, future)
            if len(self._left) < asked:  # it has ended
                left, self._left = self._left, b""
                self.forget()
                self._left = left
                self._asked = offset + len(left)
        data, self._left = self._left[:length], self._left[length:]
        self._at += len(data)
        return data

    def _ask(self, length: int) -> None:
        """See to it that enough is on its way; behind the end no more than is wanted."""
        while len(self._ahead) < PIECES and (self._asked < self.size or not self._ahead):
            wanted = min(length, self.size - self._asked) if self._asked < self.size else length
            self._ahead.append((wanted, self._begin(self._asked, wanted)))
            self._asked += wanted

    def _begin(self, offset: int, length: int) -> Future[bytes]:
        file = self._reading
        if file is None:
            file = self._reading = self._session.do(self.place, self._open)
        return self._session.begin(lambda _client: file.read(length, offset))

    async def _open(self, client: asyncssh.SFTPClient) -> File:
        return await client.open(self._path, "rb")

    def forget(self) -> None:
        """Let nothing that was read ahead count."""
        self._ahead.clear()  # asyncssh would complain of what is cancelled
        self._left, self._at = b"", -1

    def close(self) -> None:
        """Give back what the server has open."""
        self.forget()
        if (file := self._reading) is not None:
            self._reading = None
            self._session.begin(lambda _client: file.close())


class SftpSource(SftpBytes):
    """A regular file to move."""

    def __init__(self, session: Sftp, path: str) -> None:
        super().__init__(session, path, os.fsencode(path), Attrs())
        self._attrs = session.do(path, self._look)
        self.mode = None if self._attrs.permissions is None else self._attrs.permissions & 0o777

    async def _look(self, client: asyncssh.SFTPClient) -> Attrs:
        require_regular(await client.stat(self._path), self.place)
        self._reading = await self._open(client)
        attrs = await self._reading.stat()
        require_regular(attrs, self.place)
        return attrs

    def changed(self) -> bool:
        """Ask for size and time again."""

        async def look(client: asyncssh.SFTPClient) -> Attrs:
            return await client.stat(self._path)

        try:
            now = self._session.do(self.place, look)
        except StorageRefusedError:
            return True
        return (now.size, now.mtime) != (self._attrs.size, self._attrs.mtime)
