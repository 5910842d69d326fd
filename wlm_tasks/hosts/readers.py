"""A bash on another host that is kept for a moment, since scripts often come in bursts.

To open a session, to start the user's login shell and then a bash costs a login host more than most
of our scripts do.
"""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import suppress
from typing import Final

import asyncssh

from wlm_tasks.hosts.faults import FOREIGN
from wlm_tasks.hosts.shell import READER, Letter

#: seconds after which a reader takes no more scripts: what its login shell set up may be outdated
AGE_S: Final = 60.0
_CHUNK: Final = 256 * 1024
#: most characters of an exit code and its semicolon
_CODE: Final = 4


class Reader:
    """One such bash, for one script at a time; to be used on the loop only."""

    def __init__(self, process: asyncssh.SSHClientProcess[bytes]) -> None:
        self._process = process
        self._old_at = asyncio.get_running_loop().time() + AGE_S
        self._usable = True
        self._scripts: set[str] = set()  # names of those that it has
        self._text = b""

    @classmethod
    async def start(cls, connection: asyncssh.SSHClientConnection) -> Reader:
        """Start one on a channel of its own."""
        return cls(await connection.create_process(READER, encoding=None))

    @property
    def is_usable(self) -> bool:
        """Whether it may be given another script."""
        is_old = asyncio.get_running_loop().time() >= self._old_at
        return self._usable and not is_old and not self._process.is_closing()

    async def heeds(self, letter: Letter) -> bool:
        """Ask one that has waited whether it is still there, before it gets the script.

        After False nothing has begun, even if the connection broke.
        """
        self._usable = False
        with suppress(*FOREIGN):
            self._greet(letter)
            await self._process.stdout.readuntil(letter.begun)
            self._usable = True
        return self._usable

    def _greet(self, letter: Letter) -> None:
        self._text = letter.part(self._scripts)
        self._process.stdin.write(letter.head(self._text))

    async def run(self, letter: Letter) -> tuple[int | None, bytes, bytes]:
        """Run a script and return its exit code and all that was written.

        If the reader ends meanwhile, the code is the reader's, None if the connection broke: then
        the script may have run, or still run.
        """
        asked = bool(self._text)  # then it has said already that it begins
        begun = letter.begun if asked else b""
        self._usable = False  # until it is back
        with suppress(BrokenPipeError):  # its channel is closed: how it ended is read below
            if not asked:
                self._greet(letter)
            self._process.stdin.write(self._text)
        (out, code), (err, echo) = await asyncio.gather(
            _until_end(self._process.stdout, letter), _until_end(self._process.stderr, letter)
        )
        if code is None or echo is None:
            await self._process.wait_closed()
            return exit_code(self._process), begun + out, err
        self._usable, self._text = True, b""
        return code, begun + out, err

    def close(self) -> None:
        """End it, and what it runs if that still heeds signals."""
        # after a full end nothing is left of it, and this does nothing
        with suppress(*FOREIGN):
            self._process.kill()
        self._process.close()


async def _until_end(stream: asyncssh.SSHReader[bytes], letter: Letter) -> tuple[bytes, int | None]:
    """Return what a script wrote and its exit code, None if the stream ended before that."""
    end = re.compile(re.escape(letter.ended) + rb"(\d+);")
    read = bytearray()
    while chunk := await stream.read(_CHUNK):
        start = max(0, len(read) - len(letter.ended) - _CODE)
        read += chunk
        if found := end.search(read, start):
            return bytes(read[: found.start()]), int(found[1])
    return bytes(read), None


def exit_code(process: asyncssh.SSHClientProcess[bytes]) -> int | None:
    """Return exit status, or minus the signal's number; None if the connection broke."""
    if process.exit_signal is not None:
        name = process.exit_signal[0]
        number = getattr(signal, f"SIG{name}", None)
        return -int(number) if number is not None else 255
    return process.exit_status
