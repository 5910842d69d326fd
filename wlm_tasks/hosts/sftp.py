"""SFTP with another host: one session of a process for each host and user, shared by all threads.

It is a channel of the connection that is there for scripts, and many requests are on their way on
it at a time. Unused it ends after a moment. Paths are bytes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import asyncssh

from wlm_tasks.errors import (
    BackendUnavailableError,
    SiteTroubleError,
    SiteUnreachableError,
    StorageMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.hosts.address import Address
from wlm_tasks.hosts.connections import Connections, connections
from wlm_tasks.hosts.faults import FOREIGN, translated
from wlm_tasks.hosts.ssh import SshShell, open_channel

#: seconds without any answer after which the other side is given up
STALL_S: Final = 60.0
#: seconds for which a session waits for its next user
_LINGER_S: Final = 5.0
_BLINK_S: Final = 0.02
_T = TypeVar("_T")
#: what is asked of a session, on the loop
Work = Callable[[asyncssh.SFTPClient], Coroutine[Any, Any, _T]]

_Opened = tuple[asyncssh.SSHClientConnection, asyncssh.SFTPClient]

_CLOSING: Final[set[asyncio.Task[None]]] = set()
_MISSING: Final = (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath)
_GONE: Final = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection)
_FULL: Final = (asyncssh.SFTPNoSpaceOnFilesystem, asyncssh.SFTPQuotaExceeded)
_REFUSED: Final = (
    asyncssh.SFTPPermissionDenied,
    asyncssh.SFTPWriteProtect,
    asyncssh.SFTPOpUnsupported,
    asyncssh.SFTPInvalidFilename,
    asyncssh.SFTPNotADirectory,
    asyncssh.SFTPFileIsADirectory,
)


class Sftp:
    """A session as one of its users has it; to be used from threads.

    Its methods raise `StorageMissingError`, `StorageRefusedError` and `StorageUnavailableError`.
    """

    def __init__(self, kept: Connections, session: _Session) -> None:
        self.address = session.address
        self._kept = kept
        self._session = session

    def do(self, place: str, work: Work[_T], *, patience_s: float | None = None) -> _T:
        """Do it and wait for that; `place` is shown in messages.

        `patience_s` is how long the server may say nothing meanwhile, if not the usual time.
        """
        return self.end(place, self.begin(work, patience_s))

    def begin(self, work: Work[_T], patience_s: float | None = None) -> Future[_T]:
        """Begin with it; `end` tells how it went."""
        return self._kept.begin(self._session.do(work, patience_s))

    def each(
        self,
        place: str,
        paths: Iterable[str],
        work: Callable[[asyncssh.SFTPClient, str], Coroutine[Any, Any, _T]],
        *,
        most: int,
        patience_s: float | None = None,
    ) -> Iterator[_T]:
        """Do it with each path below `place`, `most` at a time, and yield what comes of it."""
        waiting: deque[tuple[str, Future[_T]]] = deque()
        try:
            for path in paths:
                if len(waiting) >= most:
                    yield self.end(*waiting.popleft())
                future = self.begin(partial(_with_path, work, path), patience_s)
                waiting.append((f"{place}/{path}" if path else place, future))
            while waiting:
                yield self.end(*waiting.popleft())
        finally:
            wait([future for _place, future in waiting])  # nothing goes on behind the caller's back

    def repeat(self, work: Work[None], every_s: float) -> Future[None]:
        """Do it again and again, until that is cancelled or fails."""

        async def again() -> None:
            while True:
                await asyncio.sleep(every_s)
                await self._session.do(work)

        return self._kept.begin(again())

    def end(self, place: str, future: Future[_T]) -> _T:
        """Return what came of it."""
        with told(place, self.address):
            try:
                return future.result()
            except BaseException:
                future.cancel()
                raise


@contextmanager
def sftp(address: Address) -> Iterator[Sftp]:
    """Use the session with a host, opened if there is none.

    Raises `StorageUnavailableError` if there is no way to it.
    """
    kept = connections()
    shared = kept.shared(_Shared, address)
    with told(str(address), address):
        session = shared.enter()
    try:
        yield Sftp(kept, session)
    finally:
        shared.leave(kept, session)


@contextmanager
def told(place: str, address: Address) -> Iterator[None]:
    """Let errors out as a storage may raise them, each in one line."""
    try:
        with translated(address, f"moving bytes of {place}"), naming(place, address):
            yield
    except BackendUnavailableError as error:
        raise StorageUnavailableError(error.message) from error


@contextmanager
def naming(place: str, address: Address) -> Iterator[None]:
    """Let what a server answers out as an error of the storage at `place`."""
    try:
        yield
    except asyncssh.SFTPError as error:
        raise _of_server(error, place, address) from error


def _of_server(
    error: asyncssh.SFTPError, place: str, address: Address
) -> StorageRefusedError | StorageUnavailableError:
    words = " ".join(error.reason.split())[:300] or type(error).__name__
    if isinstance(error, _MISSING):
        return StorageMissingError(f"{place}: No such file or directory")
    if isinstance(error, _REFUSED):
        return StorageRefusedError(f"{place}: {words}")
    if isinstance(error, _FULL):
        return StorageUnavailableError(f"{place}: No space left on device ({words})")
    if isinstance(error, _GONE):
        return StorageUnavailableError(f"{address}: connection lost while {place} was moved")
    # version 3 of the protocol has one code for all else, of faults that pass and of those that
    # do not
    return StorageUnavailableError(f"{place}: its server says no more than {words!r}")


async def _with_path(
    work: Callable[[asyncssh.SFTPClient, str], Coroutine[Any, Any, _T]],
    path: str,
    client: asyncssh.SFTPClient,
) -> _T:
    return await work(client, path)


class _Session:
    """One session; its methods are for the loop, `users` for whoever has the lock of `_Shared`."""

    def __init__(self, address: Address, channel: AsyncExitStack, opened: _Opened) -> None:
        self.address = address
        self.users = 0
        self._channel = channel
        self._connection, self._sftp = opened
        self._ended = False
        self._asked: list[float] = []  # how long each that has no answer yet may wait, in seconds
        self._heard_at = 0.0

    @property
    def is_over(self) -> bool:
        """Whether nothing can be asked of it any more."""
        return self._ended or self._connection.is_closed()

    async def do(self, work: Work[_T], patience_s: float | None = None) -> _T:
        """Do it; given up when nothing at all is answered, whoever asked.

        Answers come one after the other: over a slow line one may have to wait for many, or for
        one that takes its time.
        """
        loop = asyncio.get_running_loop()
        if self.is_over:
            raise asyncssh.SFTPNoConnection("the session is over")
        if not self._asked:
            self._heard_at = loop.time()
        patience_s = max(STALL_S, patience_s or 0.0)
        self._asked.append(patience_s)
        task = asyncio.ensure_future(work(self._sftp))
        try:
            while not task.done():
                left = self._heard_at + max(self._asked) - loop.time()
                if left <= 0:
                    self.close()
                    raise SiteUnreachableError(
                        f"{self.address}: no answer to a request of SFTP for {max(self._asked):g} s"
                    )
                await asyncio.wait({task}, timeout=left)
            self._heard_at = loop.time()
            return task.result()
        except FOREIGN as error:
            if isinstance(error, _GONE) or not isinstance(error, asyncssh.SFTPError):
                self.close()
            raise
        finally:
            self._asked.remove(patience_s)
            task.add_done_callback(_look_at)

    def close(self) -> None:
        """End it; whoever waits for an answer is told that it is over."""
        if self._ended:
            return
        self._ended = True
        with suppress(*FOREIGN):
            self._sftp.exit()
        closing = asyncio.ensure_future(self._closing())
        _CLOSING.add(closing)  # a loop holds its tasks weakly
        closing.add_done_callback(_CLOSING.discard)

    async def _closing(self) -> None:
        with suppress(*FOREIGN):
            async with asyncio.timeout(1.0):
                await self._sftp.wait_closed()
        await self._channel.aclose()


def _look_at(task: asyncio.Task[Any]) -> None:
    # asyncio complains of errors that nobody has looked at
    if not task.cancelled():
        task.exception()


class _Shared:
    """The session with an address, if there is one."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._session: _Session | None = None

    def enter(self) -> _Session:
        """Return the session for one more user."""
        with self._lock:
            if self._session is None or self._session.is_over:
                opening = partial(_opened, self._address)
                self._session = _Session(self._address, *SshShell(self._address).open(opening))
            self._session.users += 1
            return self._session

    def leave(self, kept: Connections, session: _Session) -> None:
        """Have one user less."""
        with self._lock:
            session.users -= 1
            if not session.users:
                kept.begin(self._end(session))

    async def _end(self, session: _Session) -> None:
        """End it if nobody has used it for a moment."""
        if not session.is_over:
            await asyncio.sleep(_LINGER_S)
        # whoever has the lock may wait for this loop
        while not self._lock.acquire(blocking=False):
            await asyncio.sleep(_BLINK_S)
        try:
            if not session.users:
                session.close()
        finally:
            self._lock.release()


async def _opened(address: Address, connection: asyncssh.SSHClientConnection) -> _Opened:
    opening = partial(connection.start_sftp_client, path_encoding=None)
    try:
        return connection, await open_channel(connection, opening)
    except (asyncssh.SFTPError, asyncssh.ChannelOpenError) as error:
        refused = getattr(error, "code", None) == asyncssh.OPEN_REQUEST_SESSION_FAILED
        if connection.is_closed() or not (refused or isinstance(error, asyncssh.SFTPError)):
            raise
        raise SiteTroubleError(f"{address}: offers no SFTP ({error.reason})") from error
