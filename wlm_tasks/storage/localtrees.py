"""Directories of this host as trees of files."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from typing import Final

from wlm_tasks.errors import InvalidPathError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.model.ends import Entry, Source, Target, Tree, TreeTarget
from wlm_tasks.model.paths import PARTS, is_meant
from wlm_tasks.storage.archives import packed, take
from wlm_tasks.storage.beneath import open_source, target_directory, translated
from wlm_tasks.storage.localfiles import FileTarget, file_source, own_umask
from wlm_tasks.storage.locks import busy

#: how often the directory of what is on its way may vanish between making and locking it
_TRIES: Final = 5


class LocalDirectory:
    """A directory of this host as the place to move files to and from, never out of it."""

    def __init__(self, root: str) -> None:
        self._root = root

    def source(self, path: str) -> AbstractContextManager[Source]:
        """Open the file at `path` below the directory."""
        return file_source(partial(open_source, self._root, path), f"{self._root}/{path}")

    @contextmanager
    def target(self, path: str, mode: int | None) -> Iterator[Target]:
        """Open the place of `path` below the directory, directories made as needed."""
        with target_directory(self._root, path) as (dir_fd, name):
            yield FileTarget(dir_fd, name, f"{self._root}/{path}", mode=mode)

    def tree(self, path: str, pattern: str) -> Tree:
        """Return the files below `path`."""
        return LocalTree(self._root, path, pattern)

    def tree_target(self, path: str) -> TreeTarget:
        """Return the directory at `path`, made as needed."""
        return LocalTreeTarget(self._root, path)


class LocalTree:
    """Files below a directory of this host; `below` is where it is below `root`."""

    def __init__(self, root: str, below: str, pattern: str) -> None:
        self.place = f"{root}/{below}" if below else root
        self._root = root
        self._below = below
        self._pattern = pattern

    def entries(self) -> list[Entry]:
        """List them."""
        with translated(self.place):
            return sorted(self._listed(""), key=lambda entry: entry.path)

    def _listed(self, way: str) -> Iterator[Entry]:
        directory = f"{self.place}/{way}" if way else self.place
        with os.scandir(directory) as found:
            for item in found:
                path = f"{way}/{item.name}" if way else item.name
                if not is_meant(path, self._pattern):
                    continue
                if item.is_dir(follow_symlinks=False):
                    yield from self._listed(path)
                else:
                    yield self._entry(path)

    def _entry(self, path: str) -> Entry:
        with self.source(path) as source:
            return Entry(path, source.size, (source.mode or 0o600) & 0o777)

    def _within(self, path: str) -> str:
        return f"{self._below}/{path}" if self._below else path

    def source(self, path: str) -> AbstractContextManager[Source]:
        """Open one; a link that leads out of the root is refused."""
        opener = partial(_refusing, self._root, self._within(path))
        return file_source(opener, f"{self.place}/{path}")

    def digests(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Read them."""
        return {entry.path: self._digest(entry.path) for entry in entries}

    def _digest(self, path: str) -> str:
        fd = _refusing(self._root, self._within(path))
        with translated(f"{self.place}/{path}"), os.fdopen(fd, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def pack(self, entries: Sequence[Entry], word: str) -> AbstractContextManager[Iterator[bytes]]:
        """Archive them."""
        return nullcontext(packed(entries, word, self._read))

    def _read(self, entry: Entry) -> bytes:
        fd = _refusing(self._root, self._within(entry.path))
        with translated(f"{self.place}/{entry.path}"), os.fdopen(fd, "rb") as file:
            data = file.read(entry.size + 1)
        if len(data) != entry.size:
            raise StorageUnavailableError(f"{self.place}/{entry.path}: was changed meanwhile")
        return data


def _refusing(root: str, path: str) -> int:
    """Open a file below `root`; what leads out of it is refused for good."""
    try:
        return open_source(root, path)
    except InvalidPathError as error:
        raise StorageRefusedError(error.message) from error


class LocalTreeTarget:
    """A directory of this host to move files to; `below` is where it is below `root`."""

    unpacks = True

    def __init__(self, root: str, below: str) -> None:
        self._root = root
        self._below = below
        self._place = f"{root}/{below}" if below else root

    def _within(self, path: str) -> str:
        return f"{self._below}/{path}" if self._below else path

    @contextmanager
    def target(self, path: str, mode: int | None) -> Iterator[Target]:
        """Open the place of one file."""
        with target_directory(self._root, self._within(path)) as (dir_fd, name):
            yield FileTarget(dir_fd, name, f"{self._place}/{path}", mode=mode)

    def digests(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Read those that are there."""
        found = {}
        for entry in entries:
            with suppress(StorageRefusedError, InvalidPathError):
                fd = open_source(self._root, self._within(entry.path))
                with translated(self._place), os.fdopen(fd, "rb") as file:
                    if os.fstat(file.fileno()).st_size == entry.size:
                        found[entry.path] = hashlib.file_digest(file, "sha256").hexdigest()
        return found

    def unpack(
        self, entries: Sequence[Entry], word: str, stream: Iterator[bytes]
    ) -> dict[str, str]:
        """Take them from an archive."""
        with self._parts() as parts:
            sizes = {f"./{entry.path}": entry.size for entry in entries}
            arrived = take(sizes, word, stream, partial(_write, parts))
            missing = [entry.path for entry in entries if entry.path not in arrived]
            if missing:
                raise StorageUnavailableError(f"{self._place}/{missing[0]}: did not arrive")
            with translated(self._place):
                _sync(parts)
                umask = own_umask()
                for entry in entries:
                    self._name(parts, str(arrived[entry.path][0]), entry, umask)
                _sync(parts)
        return {path: digest for path, (_number, digest) in arrived.items()}

    def _name(self, parts: int, part: str, entry: Entry, umask: int) -> None:
        with target_directory(self._root, self._within(entry.path)) as (dir_fd, name):
            if stat.S_ISDIR(_mode(name, dir_fd)):
                raise StorageRefusedError(f"{self._place}/{entry.path}: Is a directory")
            os.chmod(part, entry.mode & 0o777 & ~umask | 0o600, dir_fd=parts)
            os.replace(part, name, src_dir_fd=parts, dst_dir_fd=dir_fd)

    @contextmanager
    def _parts(self) -> Iterator[int]:
        """Make and lock the directory of what is on its way, empty it, remove it in the end."""
        with (
            target_directory(self._root, self._within(PARTS)) as (parent, name),
            translated(f"{self._place}/{name}"),
        ):
            fd = self._locked(name, parent)
            try:
                _empty(fd)
                yield fd
                _empty(fd)
                os.rmdir(name, dir_fd=parent)
            finally:
                os.close(fd)

    def _locked(self, name: str, parent: int) -> int:
        for _ in range(_TRIES):
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
            with suppress(FileNotFoundError):  # its last user has just removed it
                fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    named = os.stat(name, dir_fd=parent, follow_symlinks=False)
                    if os.path.samestat(os.fstat(fd), named):
                        return fd
                except BlockingIOError:
                    os.close(fd)
                    break
                os.close(fd)
        raise busy(self._place)


def _empty(fd: int) -> None:
    for name in os.listdir(fd):
        if stat.S_ISDIR(_mode(name, fd)):
            shutil.rmtree(name, dir_fd=fd)
        else:
            os.unlink(name, dir_fd=fd)


def _write(dir_fd: int, number: int, path: str, data: bytes) -> None:
    with translated(path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(str(number), flags, 0o600, dir_fd=dir_fd)
        with os.fdopen(fd, "wb") as file:
            file.write(data)


def _mode(name: str, dir_fd: int) -> int:
    try:
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0


def _sync(fd: int) -> None:
    """Bring the file system's writes to the disk: one call for many files."""
    if ctypes.CDLL(None, use_errno=True).syncfs(fd):
        code = ctypes.get_errno() or errno.EIO
        raise OSError(code, os.strerror(code))
