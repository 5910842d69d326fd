"""Files of this host as sources and targets of transfers."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from wlm_tasks.errors import InvalidPathError, StorageRefusedError
from wlm_tasks.model.ends import DigestOf, Part, Readable
from wlm_tasks.model.paths import part_name
from wlm_tasks.storage.beneath import (
    require_regular,
    translated,
)
from wlm_tasks.storage.locks import busy
from wlm_tasks.storage.prefix import CHUNK

#: how often a part file may vanish between opening and locking it, renamed by its transfer
_TRIES: Final = 5
_UNSEEN: Final = object()
_ZEROS: Final = bytes(CHUNK)


class FileBytes:
    """An open regular file."""

    def __init__(self, fd: int, place: str) -> None:
        self.place = place
        self.fd = fd
        self.status = os.fstat(fd)

    @property
    def size(self) -> int:
        """Bytes in all when it was opened."""
        return self.status.st_size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there."""
        with translated(self.place):
            return os.pread(self.fd, length, offset)

    def digest(self, length: int) -> None:
        """Tell nothing: the file is near."""

    def identity(self) -> Hashable:
        """Return what a file is known by, as it was when it was opened."""
        return _identity(self.status)


class FileSource(FileBytes):
    """A file to read, opened by `opener`, which is called again to see whether it still is."""

    def __init__(self, opener: Callable[[], int], place: str) -> None:
        super().__init__(opener(), place)
        self._opener = opener
        self.mode: int | None = stat.S_IMODE(self.status.st_mode)

    def changed(self) -> bool:
        """Compare size, times and inode with what was opened."""
        try:
            fd = self._opener()
        except (StorageRefusedError, InvalidPathError):
            return True
        try:
            return _identity(os.fstat(fd)) != _identity(self.status)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self.fd)


@contextmanager
def file_source(opener: Callable[[], int], place: str) -> Iterator[FileSource]:
    """Open a source for the time of a ``with``."""
    source = FileSource(opener, place)
    try:
        yield source
    finally:
        source.close()


class FileTarget:
    """A file to write, in an open directory.

    `mode` are the permission bits of a new file, as far as the umask allows them; None for
    those of any new file.
    """

    def __init__(self, dir_fd: int, name: str, place: str, *, mode: int | None) -> None:
        self._dir_fd = dir_fd
        self._name = name
        self._part_name = part_name(name)
        self._place = place
        self._seen: Hashable = _UNSEEN
        self._mode = 0o666 if mode is None else stat.S_IMODE(mode) & 0o777 | 0o600

    @contextmanager
    def present(self) -> Iterator[Readable | None]:
        """Open what has the final name. A link gives way; what is no file is refused."""
        try:
            status = os.stat(self._name, dir_fd=self._dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            status = None
        self._seen = _seen(status)
        if status is None or stat.S_ISLNK(status.st_mode):
            yield None
            return
        require_regular(status, self._place)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(self._name, flags, dir_fd=self._dir_fd)
        try:
            yield FileBytes(fd, self._place)
        finally:
            os.close(fd)

    @contextmanager
    def part(self, size: int) -> Iterator[Part]:  # noqa: ARG002 - writing tells of a full disk
        """Open and lock the part file, made if need be."""
        fd = self._lock()
        try:
            self._check_unchanged(fd)
            part = _PartFile(fd, self._dir_fd, self._part_name, self._name, self._place)
            if part.size:  # of an earlier try, which may have been for another file
                mode = self._mode & ~own_umask()
                # touched for no reason it would be another file for who goes on with it
                if stat.S_IMODE(part.status.st_mode) != mode:
                    with translated(self._place):
                        os.fchmod(fd, mode)
            yield part
        finally:
            os.close(fd)

    def _check_unchanged(self, fd: int) -> None:
        """Raise if what has the final name is not what `present` gave: another was faster."""
        try:
            now = _seen(os.stat(self._name, dir_fd=self._dir_fd, follow_symlinks=False))
        except FileNotFoundError:
            now = None
        if self._seen in {now, _UNSEEN}:
            return
        if not os.fstat(fd).st_size:
            with suppress(FileNotFoundError):
                os.unlink(self._part_name, dir_fd=self._dir_fd)
        raise busy(self._place)

    def _lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        for _ in range(_TRIES):
            with translated(f"{self._place} (part file)"):
                fd = os.open(self._part_name, flags, self._mode, dir_fd=self._dir_fd)
            try:
                if self._holds(fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise busy(self._place)

    def _holds(self, fd: int) -> bool:
        """Lock the part file; return whether it is the one of that name, and ours alone."""
        require_regular(os.fstat(fd), f"{self._place} (part file)")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy(self._place) from None
        opened = os.fstat(fd)
        if opened.st_nlink > 1:
            # a second name of some other file: writing here would change that one
            with suppress(FileNotFoundError):
                os.unlink(self._part_name, dir_fd=self._dir_fd)
            return False
        try:
            named = os.stat(self._part_name, dir_fd=self._dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(opened, named)


class _PartFile(FileBytes):
    def __init__(self, fd: int, dir_fd: int, part: str, name: str, place: str) -> None:
        super().__init__(fd, place)
        self._dir_fd = dir_fd
        self._part = part
        self._name = name
        self._end = self.size

    def identity(self) -> Hashable:
        """Return what it is known by now, after what was written."""
        with translated(self.place):
            return _identity(os.fstat(self.fd))

    def write_at(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if offset >= self._end and data == _ZEROS[: len(data)]:
            # a hole reads the same, so a sparse file stays one
            self.truncate(end)
            return
        self._end = max(self._end, end)
        with translated(self.place):
            rest = memoryview(data)
            while rest:
                written = os.pwrite(self.fd, rest, offset)
                offset += written
                rest = rest[written:]

    def truncate(self, size: int) -> None:
        with translated(self.place):
            os.ftruncate(self.fd, size)
        self._end = size

    def commit(self, digest: DigestOf) -> None:  # noqa: ARG002
        with translated(self.place):
            os.fsync(self.fd)
            os.replace(self._part, self._name, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
            os.fsync(self._dir_fd)

    def discard(self) -> None:
        with translated(self.place), suppress(FileNotFoundError):
            os.unlink(self._part, dir_fd=self._dir_fd)


def _seen(status: os.stat_result | None) -> Hashable:
    return None if status is None or stat.S_ISLNK(status.st_mode) else _identity(status)


def own_umask() -> int:
    """Return this process's umask without touching it: other threads make files, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("\nUmask:")[2].split()[0], 8)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    # anybody can set the time of modification back (cp -p, rsync -t), nobody that of change
    times = status.st_mtime_ns, status.st_ctime_ns
    return status.st_dev, status.st_ino, status.st_size, *times
