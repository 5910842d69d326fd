"""A shell on another host, over SSH."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import asyncssh

from wlm_tasks.errors import (
    CommandGivenUpError,
    SiteNoShellError,
    SiteUnreachableError,
)
from wlm_tasks.hosts.address import Address
from wlm_tasks.hosts.connections import Line, connections
from wlm_tasks.hosts.faults import FOREIGN, translated
from wlm_tasks.hosts.readers import Reader, exit_code
from wlm_tasks.hosts.shell import RUN_TIMEOUT_S, Letter, Ran, Shell, compose

#: pauses before a session that was refused is asked for again, in seconds, each twice as long
_FIRST_PAUSE_S: Final = 0.02
_LAST_PAUSE_S: Final = 1.0
_T = TypeVar("_T")


class SshShell(Shell):
    """Runs scripts on the host of an address.

    Raises `SiteUnreachableError`, `SiteAuthError` or `SiteOverloadedError` where there is no way
    to the host, and where the connection broke before the script had ended.
    """

    def __init__(self, address: Address) -> None:
        self.address = address

    def run(
        self,
        script: str,
        arguments: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> Ran:
        """Run the script in a bash started by the user's login shell."""
        letter = compose(script, arguments, stdin)
        if stdin:

            async def deliver(connection: asyncssh.SSHClientConnection) -> Ran:
                return await self._deliver(connection, letter, timeout_s)

            return self.use(deliver)
        return self._anew(partial(self._read_out, letter, timeout_s))

    def use(self, work: Callable[[asyncssh.SSHClientConnection], Awaitable[_T]]) -> _T:
        """Do `work` with one channel of the connection, on the thread that keeps connections.

        It is done again with a new connection if it raises `ChannelGoneError`: an old one may
        have broken while nobody looked.
        """

        async def with_channel(line: Line) -> _T:
            async with line.channel() as connection:
                return await self._watched(line, connection, work)

        return self._anew(with_channel)

    def start(self, command: str) -> tuple[AsyncExitStack, asyncssh.SSHClientProcess[bytes]]:
        """Start a command on a channel of its own, as `open` does."""

        async def open_one(connection: asyncssh.SSHClientConnection) -> Any:
            return await open_channel(
                connection, lambda: connection.create_process(command, encoding=None)
            )

        return self.open(open_one)

    def open(
        self, opening: Callable[[asyncssh.SSHClientConnection], Awaitable[_T]]
    ) -> tuple[AsyncExitStack, _T]:
        """Open something on a channel of its own.

        The channel is given back when the stack is closed, on the thread that keeps connections.
        """

        async def start(line: Line) -> tuple[AsyncExitStack, _T]:
            async with AsyncExitStack() as stack:
                connection = await stack.enter_async_context(line.channel())
                opened = await self._watched(line, connection, opening)
                return stack.pop_all(), opened

        return self._anew(start)

    def _anew(self, once: Callable[[Line], Awaitable[_T]]) -> _T:
        """Do it on the loop, and again on a new connection after a `ChannelGoneError`."""
        kept = connections()

        async def twice() -> _T:
            line = kept.line(self.address)
            try:
                return await once(line)
            except ChannelGoneError:
                with translated(self.address, "opening a channel"):
                    try:
                        return await once(line)
                    except ChannelGoneError as error:
                        raise error.args[0] from error

        return kept.wait(twice())

    async def _watched(
        self,
        line: Line,
        connection: asyncssh.SSHClientConnection,
        work: Callable[[asyncssh.SSHClientConnection], Awaitable[_T]],
    ) -> _T:
        try:
            with translated(self.address, "running a command"):
                return await work(connection)
        except ChannelGoneError:
            connection.abort()
            raise
        except CommandGivenUpError:
            line.retire(connection)
            raise

    async def _read_out(self, letter: Letter, timeout_s: float, line: Line) -> Ran:
        """Give the letter to a reader that waits, or else to a new one."""

        async def read(connection: asyncssh.SSHClientConnection) -> Ran | None:
            waiting = line.take_reader(connection)
            reader = waiting
            if reader is None:
                reader = await open_channel(connection, partial(Reader.start, connection))
            try:
                async with self._in_time(timeout_s):
                    if waiting and not await waiting.heeds(letter):
                        return None
                    code, out, err = await reader.run(letter)
            finally:
                line.keep_reader(connection, reader)
            return self._answer(letter, code, out, err)

        while True:
            async with line.channel(for_reader=True) as connection:
                ran = await self._watched(line, connection, read)
            if ran is not None:
                return ran

    def close(self) -> None:
        """End the connection."""
        kept = connections()
        kept.wait(kept.close(self.address))

    async def _deliver(
        self, connection: asyncssh.SSHClientConnection, letter: Letter, timeout_s: float
    ) -> Ran:
        process = await open_channel(
            connection, lambda: connection.create_process(letter.command, encoding=None)
        )
        try:
            async with self._in_time(timeout_s):
                out, err = await process.communicate(letter.text + letter.stdin)
        finally:
            # after a full end nothing is left of it, and this does nothing
            with suppress(*FOREIGN):
                process.kill()
            process.close()
        return self._answer(letter, exit_code(process), bytes(out or b""), bytes(err or b""))

    @asynccontextmanager
    async def _in_time(self, timeout_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            raise CommandGivenUpError(
                f"{self.address}: a command did not end within {timeout_s:g} s"
            ) from error

    def _answer(self, letter: Letter, code: int | None, out: bytes, err: bytes) -> Ran:
        if code is None:
            raise SiteUnreachableError(
                f"{self.address}: connection lost while a command ran; it may have done its work"
            )
        ran = letter.answer(code, out, err)
        if ran is None:
            said = (err.strip() or out.strip()).decode(errors="replace")[-300:]
            raise SiteNoShellError(
                f"{self.address}: its login shell ran no bash (exit {code}): {said or 'no word'}"
            )
        return ran


class ChannelGoneError(Exception):
    """No channel could be opened because the connection is gone; its argument is the cause."""


async def open_channel(
    connection: asyncssh.SSHClientConnection, opening: Callable[[], Awaitable[_T]]
) -> _T:
    """Open a channel; raises `ChannelGoneError` if the connection turns out to be broken.

    Nothing has been done by then: what a command is to do follows on the channel.
    """
    pause = _FIRST_PAUSE_S
    while True:
        task = asyncio.ensure_future(opening())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # asyncssh would leave it half open for good
            task.add_done_callback(_close_late)
            raise
        except (asyncssh.ConnectionLost, asyncssh.ChannelOpenError, OSError) as error:
            if connection.is_closed() or not isinstance(error, asyncssh.ChannelOpenError):
                raise ChannelGoneError(error) from error
            if error.code == asyncssh.OPEN_REQUEST_SESSION_FAILED:  # it is not for want of room
                raise
            # sshd counts a session for a moment after its end
            if pause > _LAST_PAUSE_S:
                raise
        await asyncio.sleep(pause)
        pause *= 2


def _close_late(opening: asyncio.Future[Any]) -> None:
    """Close a channel that nobody waits for any more."""
    if not opening.cancelled() and opening.exception() is None:
        opened = opening.result()
        opened.close()
