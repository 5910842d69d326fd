"""Moving files between where they are kept and an experiment's directory on its site.

If the worker sees that directory itself, a storage writes and reads there. Otherwise a file stops
over in the spool, a directory of this host: the storage brings it there and the site takes it on,
or the other way round.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from wlm_tasks.compute.base import SiteStore
from wlm_tasks.errors import StorageUnavailableError
from wlm_tasks.model.experiment import Transfer
from wlm_tasks.plugins import storage_backend
from wlm_tasks.storage.base import TransferControl

#: seconds after which what a killed worker left in the spool is removed
_STALE_S: Final = 2 * 86_400.0
#: how often the directory may vanish between making and locking it
_TRIES: Final = 5


class Mover(ABC):
    """Moves single files; each returns False if it was told to stop before the end."""

    @abstractmethod
    def bring(self, transfer: Transfer, control: TransferControl) -> bool:
        """Move an input to the experiment's directory."""

    @abstractmethod
    def take(self, transfer: Transfer, control: TransferControl) -> bool:
        """Move an output out of it."""


@contextmanager
def mover(files: SiteStore | None, workdir: str, spool: Path) -> Iterator[Mover]:
    """Give what moves the files of one experiment, for one slice of one step.

    What is half fetched stays in the directory `spool` for the next slice; all else is gone.
    """
    if files is None:
        yield _Direct(workdir)
        return
    _sweep(spool.parent)
    lock = _lock(spool)
    moving = _Spooled(files, workdir, spool)
    try:
        yield moving
    finally:
        if not moving.unfinished:
            shutil.rmtree(spool, ignore_errors=True)
        os.close(lock)


def _lock(spool: Path) -> int:
    """Make the directory and lock it: an overtaken worker may still be at it."""
    for _ in range(_TRIES):
        try:
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(spool, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # its last user has just removed it
        except OSError as error:
            raise StorageUnavailableError(f"{spool}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), spool.stat()):
                return fd
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(fd)
            break
        os.close(fd)
    raise StorageUnavailableError(f"{spool}: is in use by another transfer on this host")


class _Direct(Mover):
    """The worker sees the directory."""

    def __init__(self, workdir: str) -> None:
        self._workdir = workdir

    def bring(self, transfer: Transfer, control: TransferControl) -> bool:
        storage = storage_backend(transfer.src)
        return storage.get(transfer.src, self._workdir, transfer.dest, control).complete

    def take(self, transfer: Transfer, control: TransferControl) -> bool:
        storage = storage_backend(transfer.dest)
        return storage.put(self._workdir, transfer.src, transfer.dest, control).complete


class _Spooled(Mover):
    """The site has the directory."""

    def __init__(self, files: SiteStore, workdir: str, spool: Path) -> None:
        self.unfinished = False
        self._files = files
        self._workdir = workdir
        self._spool = spool

    def bring(self, transfer: Transfer, control: TransferControl) -> bool:
        room, name = self._room(transfer.dest)
        fetched = storage_backend(transfer.src).get(transfer.src, str(room), name, control)
        if not fetched.complete or control.should_stop():
            self.unfinished = True
            return False
        self._files.put(room / name, self._workdir, transfer.dest)
        shutil.rmtree(room, ignore_errors=True)
        return True

    def take(self, transfer: Transfer, control: TransferControl) -> bool:
        room, name = self._room(transfer.src)
        self._files.get(self._workdir, transfer.src, room / name)
        stored = storage_backend(transfer.dest).put(str(room), name, transfer.dest, control)
        if not stored.complete:
            self.unfinished = True
            return False
        shutil.rmtree(room, ignore_errors=True)
        return True

    def _room(self, path: str) -> tuple[Path, str]:
        """Return a directory of the file's own and the file's name in it."""
        room = self._spool / hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:16]
        try:
            room.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageUnavailableError(f"{room}: {error.strerror}") from error
        return room, path.rpartition("/")[2]


def _sweep(spools: Path) -> None:
    """Remove what workers left that were killed long ago."""
    with suppress(OSError):  # another may do the same
        for spool in spools.iterdir():
            if time.time() - spool.stat().st_mtime > _STALE_S:
                shutil.rmtree(spool, ignore_errors=True)
