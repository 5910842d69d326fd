"""The lock that is held as long as anything of a job lives: the file ``alive`` of its attempt.

Whoever starts a job takes a shared flock and hands the open file down: guard and payload inherit
it, and the kernel gives it back when the last of them ends. So a process that sees none of theirs,
since it counts its own in another container, can still prove that nothing of the job is left.

That holds within one kernel and for one and the same file only: a lock need not reach other hosts,
nor the same files mounted twice. The claim therefore notes device and inode of what was locked.

What the lock does not see is a process that closed what it inherited, as daemons do, and children
of Python's ``subprocess``, of ``sudo`` and of most ``mpirun``. Those that started them hold it for
them as long as they live themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

#: payloads name the descriptors they open themselves, mostly below this number
_DESCRIPTORS_FROM: Final = 64
# it may be anything by now: no link is followed, no FIFO waited for
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Held:
    """A lock to be inherited by a job."""

    fd: int
    file: str  #: which file that is, as ``DEVICE:INODE``


@contextlib.contextmanager
def held(path: str) -> Iterator[Held | None]:
    """Hold the lock for a job about to be started; None where the file system has no locks."""
    low = os.open(path, _FLAGS | os.O_CREAT, 0o600)
    try:
        fd = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, _DESCRIPTORS_FROM)
    finally:
        os.close(low)
    try:
        yield Held(fd, _identity(fd)) if _share(fd) else None
    finally:
        os.close(fd)


def _share(fd: int) -> bool:
    # not waiting: a payload of this attempt that runs already could keep the lock to itself
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def lives(path: str, file: str) -> bool | None:
    """Whether a job of this kernel whose claim notes that file lives; None if it cannot be told."""
    return _locked(path, file) if file else None


def is_locked(path: str) -> bool:
    """Whether somebody is seen to hold the lock, on whatever host; False proves nothing."""
    return _locked(path, None) is True


def _locked(path: str, file: str | None) -> bool | None:
    try:
        fd = os.open(path, _FLAGS)
    except OSError:
        return None
    try:
        if file is not None and _identity(fd) != file:
            return None
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(fd)


def _identity(fd: int) -> str:
    status = os.fstat(fd)
    return f"{status.st_dev}:{status.st_ino}"
