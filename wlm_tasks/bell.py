"""A doorbell between the processes of one host, so that nobody has to poll.

Whoever wants to be woken opens a `Bell` in an agreed directory: a FIFO of its own, with its pid
in the name. Whoever has news calls `ring`, which writes one word, such as a job's token, to every
FIFO there and never waits. A word is a hint: it is lost when nobody listens or when the
listener's pipe is full (64 KiB), so a listener still looks for itself now and then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self

#: longest word in bytes: with its newline still written in one piece (PIPE_BUF)
WORD_LIMIT: Final = 4095
_READ_SIZE: Final = 65_536
_SUFFIX: Final = ".bell"


class Bell:
    """One process's doorbell; rung by `ring` from any process, or by `wake` from any thread."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for fifo in directory.glob(f"*{_SUFFIX}"):
            _remove_if_stale(fifo)
        self._path = directory / f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        # under its name only once somebody listens: without a listener it might be taken for stale
        new = self._path.with_suffix(".new")
        os.mkfifo(new, 0o600)
        # for reading and writing: the pipe then has no end of file when a ringer leaves
        self._fd = os.open(new, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        new.rename(self._path)
        self._rest = b""

    def fileno(self) -> int:
        """Return the descriptor to wait on, readable once the bell was rung."""
        return self._fd

    def wait(self, timeout_s: float) -> list[str]:
        """Wait until rung, at most `timeout_s` seconds; return the words rung since last time.

        The list is empty after a time-out and after `wake`.
        """
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        # rounded up: a wait of less than a millisecond must not become a busy loop
        poll.poll(max(0, int(timeout_s * 1000 + 0.999)))
        return self._drain()

    def wake(self) -> None:
        """End the wait of the thread that listens; safe from any thread, also after `close`."""
        # full: the listener wakes up anyway; closed: nobody listens
        with contextlib.suppress(OSError):
            _write(self._path, b"\n")

    def close(self) -> None:
        """Remove the bell. Closing it again does nothing."""
        if self._fd < 0:
            return
        self._path.unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1

    def _drain(self) -> list[str]:
        data = self._rest
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._fd, _READ_SIZE):
                data += chunk
                if len(chunk) < _READ_SIZE:
                    break
        *lines, self._rest = data.split(b"\n")
        return [line.decode(errors="replace") for line in lines if line]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def ring(directory: Path, word: str = "") -> int:
    """Ring every bell in `directory` with `word`; return how many heard it.

    Never waits and never fails for want of listeners or of the directory; a bell whose process
    is dead is removed. Raises `ValueError` for a word that is too long or has a newline.
    """
    data = word.encode() + b"\n"
    if len(data) > WORD_LIMIT + 1 or b"\n" in data[:-1]:
        raise ValueError(f"word: got {len(data) - 1} bytes, expected one line of {WORD_LIMIT}")
    heard = 0
    for fifo in directory.glob(f"*{_SUFFIX}"):
        try:
            _write(fifo, data)
        except OSError as error:
            if error.errno == errno.ENXIO:
                _remove_if_stale(fifo)
        else:
            heard += 1
    return heard


def _write(fifo: Path, data: bytes) -> None:
    fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a FIFO", str(fifo))
        os.write(fd, data)
    finally:
        os.close(fd)


def _remove_if_stale(fifo: Path) -> None:
    pid = fifo.name.partition("-")[0]
    # a pid that is unknown here may live in another container that has the same directory
    if not pid.isdigit() or not _unheard(fifo):
        return
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        with contextlib.suppress(OSError):
            fifo.unlink()
    except (PermissionError, OverflowError):
        return


def _unheard(fifo: Path) -> bool:
    """Whether certainly nobody listens."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.ENXIO
    return False
