"""Opening files strictly below a directory, whatever links somebody puts in the way.

Every component is opened relative to the descriptor of the one before and never through a
symbolic link; where links are allowed their text is walked in the same way.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from wlm_tasks.errors import (
    InvalidPathError,
    StorageMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.model.checks import show

#: longest component, in bytes
COMPONENT_LIMIT: Final = 255
#: most links followed on one way, as the kernel has it
_LINKS_LIMIT: Final = 40
#: most directories held open on one way, so that a job's links cannot use up a worker's descriptors
_DEPTH_LIMIT: Final = 256
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: without waiting for the other end of a FIFO
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: faults that trying again cannot mend
_LASTING: Final = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOENT,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EINVAL,
        errno.ENXIO,
        errno.EFBIG,
    }
)
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turn the file system's errors into those a storage may raise, naming `place`."""
    try:
        yield
    except OSError as error:
        kind = StorageRefusedError if error.errno in _LASTING else StorageUnavailableError
        if error.errno == errno.ENOENT:
            kind = StorageMissingError
        raise kind(f"{place}: {error.strerror or error}") from error


def components(path: str) -> list[str]:
    """Split a relative path; raises `InvalidPathError` unless it stays where it starts."""
    parts = path.split("/")
    if "\0" in path or any(part in {"", ".", ".."} for part in parts):
        raise InvalidPathError(
            f"path: got {show(path)}, expected a relative path without '..', '.', '//' or NUL"
        )
    if any(len(os.fsencode(part)) > COMPONENT_LIMIT for part in parts):
        raise InvalidPathError(
            f"path: got {show(path)}, expected components of at most {COMPONENT_LIMIT} bytes"
        )
    return parts


@contextmanager
def target_directory(root: str, path: str) -> Iterator[tuple[int, str]]:
    """Open the directory a file is to go to, made if need be; give it and the file's name.

    Raises `InvalidPathError` where the way leads through a symbolic link.
    """
    *parents, name = components(path)
    with translated(f"{root}/{path}"):
        fd = os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)
        try:
            for part in parents:
                below = _make_directory(part, fd, path)
                os.close(fd)
                fd = below
            yield fd, name
        finally:
            os.close(fd)


def _make_directory(name: str, dir_fd: int, path: str) -> int:
    """Open a directory on the way to `path`, made if need be; a link in its place is refused."""
    with suppress(FileExistsError):
        os.mkdir(name, 0o777, dir_fd=dir_fd)
    if _is_link(name, dir_fd):
        raise InvalidPathError(
            f"path: got {show(path)}, expected one without symbolic links: {show(name)} is one"
        )
    return os.open(name, _DIRECTORY, dir_fd=dir_fd)


def open_source(root: str, path: str) -> int:
    """Open a regular file below `root` for reading and return its descriptor.

    Links are followed as long as they stay below `root`; raises `InvalidPathError` where one
    leads out, `StorageRefusedError` if there is no such file or it is not a regular one.
    """
    place = f"{root}/{path}"
    with translated(place), closing(_Walk(root, path)) as walk:
        name = walk.to_the_end()
        return open_regular(name, place, dir_fd=walk.fd)


def open_regular(name: str, place: str, *, dir_fd: int | None = None) -> int:
    """Open a regular file for reading; anything else is refused without touching it."""
    follow = dir_fd is None
    # opening a device can have effects, so look first; look again at what was opened
    require_regular(os.stat(name, dir_fd=dir_fd, follow_symlinks=follow), place)
    fd = os.open(name, _FILE & ~os.O_NOFOLLOW if follow else _FILE, dir_fd=dir_fd)
    try:
        require_regular(os.fstat(fd), place)
    except BaseException:
        os.close(fd)
        raise
    return fd


def require_regular(status: os.stat_result, place: str) -> None:
    """Raise `StorageRefusedError` saying what it is if it is not a regular file."""
    if not stat.S_ISREG(status.st_mode):
        what = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise StorageRefusedError(f"{place}: is {what}, expected a regular file")


class _Walk:
    """The way along a path's components, links among them, that never leaves its root."""

    def __init__(self, root: str, path: str) -> None:
        self._path = path
        self._todo = deque(components(path))
        self._links = 0
        # a link may name the root as it was given or as it is: "$PWD" of a job is either
        self._roots = [_split(str(Path(root).absolute())), _split(os.path.realpath(root))]
        self._dirs = [os.open(root, _DIRECTORY & ~os.O_NOFOLLOW)]

    @property
    def fd(self) -> int:
        """The directory reached."""
        return self._dirs[-1]

    def close(self) -> None:
        """Close every directory on the way."""
        self._back_to(0)

    def to_the_end(self) -> str:
        """Go to the directory of the file and return the file's name there, not a link."""
        while True:
            part = self._todo.popleft()
            if part == "..":
                self._up()
            elif _is_link(part, self.fd):
                self._follow(os.readlink(part, dir_fd=self.fd))
            elif self._todo:
                self._down(part)
            else:
                return part
            if not self._todo:
                raise StorageRefusedError(f"{self._path}: is a directory, expected a regular file")

    def _down(self, name: str) -> None:
        if len(self._dirs) >= _DEPTH_LIMIT:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self._dirs.append(os.open(name, _DIRECTORY, dir_fd=self.fd))

    def _up(self) -> None:
        if len(self._dirs) == 1:
            raise self._leaves()
        self._back_to(len(self._dirs) - 1)

    def _back_to(self, count: int) -> None:
        while len(self._dirs) > count:
            os.close(self._dirs.pop())

    def _follow(self, target: str) -> None:
        self._links += 1
        if self._links > _LINKS_LIMIT:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        parts = _split(target)
        if target.startswith("/"):
            parts = self._below(parts)
            self._back_to(1)
        self._todo.extendleft(reversed(parts))

    def _below(self, parts: list[str]) -> list[str]:
        """Return what an absolute path says after the root; what it says is walked, not trusted."""
        for root in self._roots:
            if parts[: len(root)] == root:
                return parts[len(root) :]
        raise self._leaves()

    def _leaves(self) -> InvalidPathError:
        return InvalidPathError(
            f"path: got {show(self._path)}, expected a file below its directory:"
            " a symbolic link leads out of it"
        )


def _split(path: str) -> list[str]:
    """Return the components of a path as the kernel reads them: ``//`` and ``/./`` are ``/``."""
    return [part for part in path.split("/") if part not in {"", "."}]


def _is_link(name: str, dir_fd: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
