"""Scripts on another host that give or take a stream of bytes, each on a channel of its own.

One piece is always on its way while the caller works on the one before, and no more than that: a
slow end holds up the other one, and memory stays bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final, TypeVar

from wlm_tasks.errors import SiteNoShellError, SiteUnreachableError
from wlm_tasks.hosts.connections import connections
from wlm_tasks.hosts.faults import FOREIGN, translated
from wlm_tasks.hosts.gate import StreamGate
from wlm_tasks.hosts.readers import exit_code
from wlm_tasks.hosts.scripts import failure
from wlm_tasks.hosts.shell import Ran, compose
from wlm_tasks.hosts.ssh import SshShell

#: seconds without a byte after which the other side is given up
STALL_S: Final = 60.0
_PIECE: Final = 1024 * 1024
#: bytes of a piece that are sent at once, so that a slow line is not taken for a stalled one
_SENT: Final = 128 * 1024
#: longest that a piece is waited for that is not whole, in seconds
_MOMENT_S: Final = 0.5
_T = TypeVar("_T")


class Stream:
    """A running script; to be used and closed by the thread that began it."""

    _end_s: float | None = None  #: seconds for its end, once it has all; None for the usual ones

    def __init__(
        self, shell: SshShell, script: str, arguments: Sequence[str], *, about: str
    ) -> None:
        """Start it; `about` is the file it is about, for messages."""
        self._address = shell.address
        self._about = about
        self._letter = compose(script, arguments)
        self._kept = connections()
        self._gate = self._kept.shared(StreamGate, shell.address)
        self._gate.enter()
        try:
            self._channel, self._process = shell.start(self._letter.command)
        except BaseException:
            self._gate.leave()
            raise
        self._pending: Future[Any] | None = None

    def _begin(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        return self._kept.begin(work)

    def _wait(self, future: Future[_T]) -> _T:
        with translated(self._address, f"moving bytes of {self._about}"):
            return future.result()

    def _over(self) -> Ran:
        """Wait for the end of the script; raises what `failure` makes of a bad one."""
        ran = self._wait(self._begin(asyncio.wait_for(self._ending(), self._end_s or STALL_S)))
        if ran.code:
            raise failure(ran, self._about)
        return ran

    async def _ending(self) -> Ran:
        process = self._process
        with suppress(*FOREIGN):  # it may have ended before
            process.stdin.write_eof()
        out, err = await asyncio.gather(process.stdout.read(), process.stderr.read())
        await process.wait_closed()
        code = exit_code(process)
        if code is None:
            raise SiteUnreachableError(
                f"{self._address}: connection lost while bytes of {self._about} were moved"
            )
        # of the output the begin may have been read before; on stderr it tells that it has begun
        _noise, mark, rest = out.partition(self._letter.begun)
        ran = self._letter.answer(code, self._letter.begun + (rest if mark else out), err)
        if ran is None or self._letter.begun not in err:
            said = (err.strip() or out.strip()).decode(errors="replace")[-300:]
            raise SiteNoShellError(
                f"{self._address}: its login shell ran no bash (exit {code}): {said or 'no word'}"
            )
        return ran

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self._pending is not None:
            self._pending.cancel()
        try:
            self._kept.begin(self._closing()).result()
        finally:
            self._gate.leave()

    async def _closing(self) -> None:
        with suppress(*FOREIGN):
            self._process.kill()
        self._process.close()
        await self._channel.aclose()


class Pull(Stream):
    """Reads what a script writes on its standard output."""

    def __init__(
        self, shell: SshShell, script: str, arguments: Sequence[str], *, about: str
    ) -> None:
        super().__init__(shell, script, arguments, about=about)
        self._left = b""
        self._ended = False
        self._pending = self._begin(self._first())

    async def _first(self) -> bytes:
        process = self._process
        process.stdin.write(self._letter.text)
        process.stdin.write_eof()
        with suppress(asyncio.IncompleteReadError):
            async with asyncio.timeout(STALL_S):
                await process.stdout.readuntil(self._letter.begun)
            return await self._next()
        return b""

    async def _next(self) -> bytes:
        """Return a whole piece, or what has come of it in a moment; nothing at the end."""
        loop, stdout = asyncio.get_running_loop(), self._process.stdout
        piece, until = bytearray(), loop.time() + _MOMENT_S
        while (len(piece) < _PIECE and loop.time() < until) or not piece:
            async with asyncio.timeout(STALL_S):
                read = await stdout.read(_PIECE - len(piece))
            if not read:
                break
            piece += read
        return bytes(piece)

    def read(self, length: int) -> bytes:
        """Return at most so many bytes, none at the end; raises if the script failed."""
        if not self._left and not self._ended:
            assert self._pending is not None  # noqa: S101 - one is, until the end
            self._left = self._wait(self._pending)
            if self._left:
                self._pending = self._begin(self._next())
            else:
                self._pending, self._ended = None, True
                self._over()
        data, self._left = self._left[:length], self._left[length:]
        return data


class Push(Stream):
    """Writes what a script reads on its standard input."""

    _end_s: float | None = 600.0  # it may have to bring much to a slow disk

    def __init__(
        self, shell: SshShell, script: str, arguments: Sequence[str], *, about: str
    ) -> None:
        super().__init__(shell, script, arguments, about=about)
        self._pending = self._begin(self._send(self._letter.text))

    def write(self, data: bytes) -> None:
        """Send bytes; raises the script's own error if it has ended."""
        self._settle()
        self._pending = self._begin(self._send(data))

    async def _send(self, data: bytes) -> None:
        stdin = self._process.stdin
        for start in range(0, len(data), _SENT):
            stdin.write(data[start : start + _SENT])
            async with asyncio.timeout(STALL_S):
                await stdin.drain()

    def _settle(self) -> None:
        """Wait until what was written before is on its way."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except TimeoutError as error:
            raise SiteUnreachableError(
                f"{self._address}: took no byte of {self._about} for {STALL_S:g} s"
            ) from error
        except FOREIGN:
            # it does not read any more: its own words say more than a broken pipe
            self._over()
            with translated(self._address, f"moving bytes of {self._about}"):
                raise

    def end(self) -> bytes:
        """Send the end and return what the script wrote; raises if it failed or did not get all."""
        self._settle()
        return self._over().out


class Dialogue(Push):
    """A script that is told line by line what to do, and answers so; bytes may follow a line."""

    _end_s = None

    def __init__(
        self, shell: SshShell, script: str, arguments: Sequence[str], *, about: str
    ) -> None:
        super().__init__(shell, script, arguments, about=about)
        self._begun = False

    def ask(self, words: str, *, timeout_s: float | None = None) -> str:
        """Say something and return the answer; raises the script's own error if it has ended."""
        self.write(f"{words}\n".encode())
        return self.answer(timeout_s=timeout_s)

    def answer(self, *, timeout_s: float | None = None) -> str:
        """Return the next line; raises the script's own error if it has ended."""
        self._settle()
        line = self._wait(self._begin(asyncio.wait_for(self._line(), timeout_s or STALL_S)))
        if not line.endswith(b"\n"):
            self._over()
            raise SiteUnreachableError(f"{self._address}: said nothing of {self._about}")
        return line.decode(errors="replace").strip()

    async def _line(self) -> bytes:
        stdout = self._process.stdout
        with suppress(asyncio.IncompleteReadError):
            if not self._begun:
                await stdout.readuntil(self._letter.begun)
                self._begun = True
            return bytes(await stdout.readline())
        return b""
