"""The lock of an embedded system: one process at a time carries out what a data directory holds."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Final

NAME: Final = "up.lock"
#: Somebody who only looks holds the lock for an instant; it is worth trying again for so long.
_PATIENCE_S: Final = 0.5


class UpLock:
    """Held by ``wlm up`` and by whoever does its work; gone with its process, however it ends."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / NAME
        self._fd = -1

    def take(self) -> bool:
        """Take it; False if another process has it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        end = time.monotonic() + _PATIENCE_S
        while not _locked(fd, fcntl.LOCK_EX):
            if time.monotonic() > end:
                os.close(fd)
                return False
            time.sleep(0.02)
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd
        return True

    def holder(self) -> str | None:
        """Return the process id of whoever has it, "?" if it cannot be told, None if nobody."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if _locked(fd, fcntl.LOCK_SH):
                return None
            return os.read(fd, 20).decode(errors="replace").strip() or "?"
        finally:
            os.close(fd)

    def release(self) -> None:
        """Give it back; the file stays, since removing it could hand the lock out twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _locked(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
