"""Files of hosts that are written by SFTP alone."""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Final

import asyncssh

from wlm_tasks.errors import StepError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.hosts.sftp import STALL_S, Sftp
from wlm_tasks.model.ends import DigestOf, Part, Readable
from wlm_tasks.model.paths import lock_name, old_name, part_name
from wlm_tasks.storage.locks import Locks, busy
from wlm_tasks.storage.sftplocks import SftpLock
from wlm_tasks.storage.sftpsource import (
    PIECES,
    Attrs,
    File,
    SftpBytes,
    found,
    is_link,
    require_regular,
)

_LOCKS: Final = Locks()
#: with fewer bytes free a write that failed is taken for one that found no room
_LOW: Final = 1024 * 1024
#: slowest rate at which a server is expected to bring bytes to its disk, bytes a second
_SLOW: Final = 5e6


class SftpTarget:
    """The place of a file."""

    def __init__(self, session: Sftp, path: str, mode: int | None, below: str) -> None:
        """The way from the directory `below` on leads through no symbolic link."""
        self._session = session
        self._place = path
        self._mode = mode
        self._below = os.fsencode(below)
        directory, _slash, name = path.rpartition("/")
        self._directory = os.fsencode(directory)
        self.path = os.fsencode(path)
        self.part_path = os.fsencode(f"{directory}/{part_name(name)}")
        self._old = os.fsencode(f"{directory}/{old_name(name)}")
        self._seen: tuple[object, ...] = ()  #: the status of what has the final name

    @contextmanager
    def present(self) -> Iterator[Readable | None]:
        """Open what has the final name."""
        attrs, aside = self._session.do(self._place, self._look)
        if aside is not None:
            with locked(self._session, self.path, self._place):
                self._session.do(self._place, self._repair)
            attrs, _aside = self._session.do(self._place, self._look)
        self._seen = _status(attrs)
        if attrs is None or is_link(attrs):
            yield None
            return
        there = SftpBytes(self._session, self._place, self.path, attrs)
        try:
            yield there
        finally:
            there.close()

    async def _look(self, client: asyncssh.SFTPClient) -> tuple[Attrs | None, Attrs | None]:
        """Return what has the final name, and what had it when a transfer ended too early."""
        attrs, aside = await asyncio.gather(found(client, self.path), found(client, self._old))
        if attrs is not None and not is_link(attrs):
            require_regular(attrs, self._place)
        return attrs, aside

    async def _repair(self, client: asyncssh.SFTPClient) -> None:
        """End what was begun when another transfer ended between two renames."""
        if await found(client, self.path) is None:
            await client.rename(self._old, self.path)
        else:
            await client.remove(self._old)

    @contextmanager
    def part(self, size: int) -> Iterator[Part]:
        """Lock the part file and open it."""
        session, place = self._session, self._place
        session.do(place, lambda client: make_directories(client, self._directory, self._below))
        self._require_room(size)
        with locked(session, self.path, place) as lock:
            if _status(session.do(place, self._look)[0]) != self._seen:
                raise busy(place)  # another was faster, and what is there may be what is wanted
            part = SftpPart(session, self, lock, place)
            part.open(self._mode)
            try:
                yield part
            except BaseException:
                with suppress(StepError):  # the first error says what happened
                    part.close()
                raise
            part.close()

    def _require_room(self, size: int) -> None:
        """Raise `StorageUnavailableError` unless there is room for what is missing, and a lock."""

        async def look(client: asyncssh.SFTPClient) -> tuple[Attrs | None, int | None]:
            return await asyncio.gather(found(client, self.part_path), self.room(client))

        part, room = self._session.do(self._place, look)
        missing = max(1, size - ((part and part.size) or 0))
        if room is not None and missing > room:
            raise StorageUnavailableError(
                f"{self._place}: No space left on device: {room} bytes are free, {missing} needed"
            )

    async def room(self, client: asyncssh.SFTPClient) -> int | None:
        """Return how many bytes are free, if the server tells."""
        try:
            told = await client.statvfs(self._directory or b"/")
        except asyncssh.SFTPError:
            return None
        return told.bavail * told.frsize

    async def name(self, client: asyncssh.SFTPClient) -> None:
        """Give the part its final name."""
        await give_name(client, self.part_path, self.path, self._old)


class SftpPart(SftpBytes):
    """The part file, while it is locked.

    It is read by its name and after it was closed for writing, so that what is read back is what
    gets the final name.
    """

    reads_back = True

    def __init__(self, session: Sftp, target: SftpTarget, lock: SftpLock, place: str) -> None:
        super().__init__(session, place, target.part_path, Attrs(size=0))
        self._target = target
        self._lock = lock
        self._pending: deque[Future[int]] = deque()
        self._writing: File | None = None
        self._known = True  #: whether `_attrs` are those of now

    def open(self, mode: int | None) -> None:
        """Find it, or make it."""
        there = self._session.do(self.place, self._find)
        self._attrs = there or self._attrs
        if there is None:
            bits = Attrs() if mode is None else Attrs(permissions=mode & 0o777 | 0o600)
            self._write("xb", bits)

    async def _find(self, client: asyncssh.SFTPClient) -> Attrs | None:
        """Return what is there already; a link in its place is removed."""
        attrs = await found(client, self._path)
        if attrs is not None and is_link(attrs):
            await client.remove(self._path)
            return None
        if attrs is not None:
            require_regular(attrs, f"{self.place}: its part file")
        return attrs

    def identity(self) -> Hashable:
        """Return what is told of it by now; it is ours as long as it is locked."""
        if not self._known:
            self._end_writing()
            self._attrs = self._session.do(self.place, self._find) or Attrs(size=0)
            self._known = True
        return self._told()

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there, once all that was written is."""
        self._end_writing()
        return super().read_at(offset, length)

    def truncate(self, size: int) -> None:
        """Cut off what follows."""
        if size == self.size:
            return
        file = self._write()
        self._session.do(self.place, lambda _client: file.truncate(size))
        self._attrs = Attrs(size=size)

    def write_at(self, offset: int, data: bytes) -> None:
        """Send the bytes on their way, a few pieces ahead of the server."""
        file = self._write()
        while len(self._pending) >= PIECES:
            self._wait()
        self._pending.append(self._session.begin(lambda _client: file.write(data, offset)))
        self._attrs = Attrs(size=offset + len(data))

    def _write(self, how: str = "r+b", bits: Attrs = Attrs()) -> File:  # noqa: B008 - never changed
        """Open it for writing, if it is not; what was read ahead does not count any more."""
        self._lock.require()
        self.forget()
        self._known = False
        if self._writing is None:

            async def opened(client: asyncssh.SFTPClient) -> File:
                return await client.open(self._path, how, bits)

            self._writing = self._session.do(self.place, opened)
        return self._writing

    def _wait(self) -> None:
        try:
            self._session.end(self.place, self._pending.popleft())
        except StorageUnavailableError as error:
            # what servers say of a full disk they say of all else, too
            room = None
            with suppress(StepError):
                room = self._session.do(self.place, self._target.room)
            if room is None or room >= _LOW:
                raise
            raise StorageUnavailableError(
                f"{self.place}: No space left on device: {room} bytes are free"
            ) from error

    def _end_writing(self) -> None:
        """Have all that was written on the disk, where the server lets us, and close the file.

        Raises the first of what went wrong.
        """
        file, self._writing = self._writing, None
        if file is None:
            return

        async def end(_client: asyncssh.SFTPClient) -> None:
            try:
                with suppress(asyncssh.SFTPOpUnsupported):
                    await file.fsync()
            finally:
                await file.close()

        failed: StepError | None = None
        while self._pending:
            try:
                self._wait()
            except StepError as error:
                failed = failed or error
        with suppress(*([StepError] if failed else [])):
            self._session.do(self.place, end, patience_s=STALL_S + self.size / _SLOW)
        if failed is not None:
            raise failed

    def commit(self, digest: DigestOf) -> None:  # noqa: ARG002
        """Give it the final name."""
        self._end_writing()
        self._lock.require()
        there = self._session.do(self.place, self._find)
        if there is None or there.size != self.size:
            raise busy(self.place)
        self._session.do(self.place, self._target.name)

    def discard(self) -> None:
        """Remove it."""
        with suppress(StepError):
            self._end_writing()
        self._session.do(self.place, lambda client: _removed(client, self._path))

    def close(self) -> None:
        """See to it that all that was written is there."""
        super().close()
        self._end_writing()


def _status(attrs: Attrs | None) -> tuple[object, ...]:
    return () if attrs is None else (attrs.size, attrs.mtime, attrs.permissions)


@contextmanager
def locked(session: Sftp, path: bytes, place: str) -> Iterator[SftpLock]:
    """Hold the lock of a path; raises `StorageBusyError` if another does."""
    directory, _slash, name = os.fsdecode(path).rpartition("/")
    with _LOCKS.held(f"{session.address}:{os.fsdecode(path)}", place):
        lock = SftpLock(session, os.fsencode(f"{directory}/{lock_name(name)}"), place)
        try:
            yield lock
        finally:
            lock.close()


async def give_name(client: asyncssh.SFTPClient, part: bytes, path: bytes, old: bytes) -> None:
    """Rename `part` to `path`; what has that name is replaced.

    Where a rename replaces nothing it steps aside before, to `old`; should that be the end, the
    next transfer goes on from there.
    """
    with suppress(asyncssh.SFTPOpUnsupported):
        return await client.posix_rename(part, path)
    try:
        await client.rename(part, path)
    except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
        there = await found(client, path)
        if there is None or stat.S_ISDIR(there.permissions or 0):
            raise
        await _removed(client, old)
        await client.rename(path, old)
        try:
            await client.rename(part, path)
        except BaseException:
            with suppress(asyncssh.SFTPError):
                await client.rename(old, path)
            raise
    return await _removed(client, old)


async def _removed(client: asyncssh.SFTPClient, path: bytes) -> None:
    with suppress(asyncssh.SFTPNoSuchFile):
        await client.remove(path)


async def make_directories(client: asyncssh.SFTPClient, path: bytes, below: bytes) -> None:
    """Make a directory and those above it; raises `StorageRefusedError` for what is none.

    If `below` says anything, no directory below it may be a symbolic link.
    """
    ways = [path]
    while (parent := ways[-1].rpartition(b"/")[0]) != b"":
        ways.append(parent)
    inner = [way for way in ways if below and way.startswith(below + b"/")]
    missing = []
    for way, attrs in zip(
        inner, await asyncio.gather(*(found(client, w) for w in inner)), strict=True
    ):
        if attrs is None:
            missing.append(way)
        else:
            _require_directory(attrs, way)
    for way in ways[len(inner) :]:
        try:
            _require_directory(await client.stat(way or b"/"), way)
            break
        except asyncssh.SFTPNoSuchFile:
            missing.append(way)
    for way in reversed(missing):
        try:
            await client.mkdir(way)
        except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
            _require_directory(await client.lstat(way), way)  # another has made it meanwhile


def _require_directory(attrs: Attrs, path: bytes) -> None:
    kind = stat.S_IFMT(attrs.permissions or 0)
    if kind not in {0, stat.S_IFDIR}:
        what = "is a symbolic link" if kind == stat.S_IFLNK else "Not a directory"
        raise StorageRefusedError(f"{os.fsdecode(path)}: {what}, expected a directory")
