"""The SSH connections of this process: one for each host and user, shared by all threads.

An event loop in a thread of its own keeps them. It is made when first used and belongs to one
process: a forked child makes its own, and leaves alone what it inherited.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import asyncssh

from wlm_tasks.errors import SiteAuthError, SiteOverloadedError, WlmError
from wlm_tasks.hosts.address import Address
from wlm_tasks.hosts.faults import FOREIGN, LOGGING_IN, translated
from wlm_tasks.hosts.readers import Reader

#: most channels at a time on one connection: OpenSSH's MaxSessions is 10 unless it is set
CHANNELS: Final = 8
#: seconds for the way to the host, and for all until the login is done
_CONNECT_S: Final = 20.0
_LOGIN_S: Final = 40.0
#: longest wait for a free channel, in seconds
_CHANNEL_WAIT_S: Final = 120.0
#: seconds for which a reader waits for its next script
READER_WAIT_S: Final = 5.0
#: a silent connection is asked after so many seconds, and given up after so many questions
_KEEPALIVE_S: Final = 15.0
_KEEPALIVES: Final = 3
#: what may be on its way from the host unread, on each channel, and the largest packet that it
#: may send, in bytes
_WINDOW: Final = 8 * 1024 * 1024
_PACKET: Final = 256 * 1024
#: the fastest first
CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)
_T = TypeVar("_T")

# at INFO it tells hosts, users and paths
logging.getLogger("asyncssh").setLevel(logging.WARNING)


class Line:
    """The connection to one host; made when first used, replaced when it broke.

    To be used on the loop only.
    """

    def __init__(self, address: Address, via: Line | None) -> None:
        self.address = address
        self._via = via
        self._channels = asyncio.Semaphore(CHANNELS)
        self._opening: asyncio.Task[asyncssh.SSHClientConnection] | None = None
        self._users: Counter[asyncssh.SSHClientConnection] = Counter()
        self._readers: dict[Reader, asyncio.TimerHandle] = {}  # those that wait; newest last

    @asynccontextmanager
    async def channel(
        self, *, for_reader: bool = False
    ) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """Give the connection with a right to one channel, or to one that a reader has."""
        try:
            await asyncio.wait_for(self._channels.acquire(), _CHANNEL_WAIT_S)
        except TimeoutError as error:
            raise SiteOverloadedError(
                f"{self.address}: no free channel within {_CHANNEL_WAIT_S:g} s"
            ) from error
        try:
            connection = await self.connection()
            self._users[connection] += 1
            if not for_reader:
                self._make_room()
            try:
                yield connection
            finally:
                self._users -= Counter([connection])
                self._close_if_idle(connection)
        finally:
            self._channels.release()

    def _make_room(self) -> None:
        """End a reader that waits if its channel is one too many."""
        if self._readers and sum(self._users.values()) + len(self._readers) > CHANNELS:
            self._end_reader(next(iter(self._readers)))

    def take_reader(self, connection: asyncssh.SSHClientConnection) -> Reader | None:
        """Return the reader that has waited least, None if none waits."""
        while self._readers and connection is self._current():
            reader, timer = self._readers.popitem()
            timer.cancel()
            if reader.is_usable:
                return reader
            reader.close()
        return None

    def keep_reader(self, connection: asyncssh.SSHClientConnection, reader: Reader) -> None:
        """Let a reader wait a moment for its next script, or end it if it can have none."""
        if connection is not self._current() or not reader.is_usable:
            reader.close()
            return
        loop = asyncio.get_running_loop()
        self._readers[reader] = loop.call_later(READER_WAIT_S, self._end_reader, reader)

    def _end_reader(self, reader: Reader) -> None:
        self._readers.pop(reader).cancel()
        reader.close()

    def _end_readers(self) -> None:
        for reader in list(self._readers):
            self._end_reader(reader)

    def retire(self, connection: asyncssh.SSHClientConnection) -> None:
        """Let others use a new connection from now on.

        A command that was given up holds a session at the server as long as it lives, and these
        are counted.
        """
        if connection is self._current():
            self._opening = None
            self._end_readers()

    def _current(self) -> asyncssh.SSHClientConnection | None:
        task = self._opening
        return None if task is None or not task.done() or task.exception() else task.result()

    def _close_if_idle(self, connection: asyncssh.SSHClientConnection) -> None:
        """Close a connection that was retired once nobody uses it."""
        if connection is not self._current() and not self._users[connection]:
            connection.close()

    async def connection(self) -> asyncssh.SSHClientConnection:
        """Return the connection, made anew if there is none or it broke."""
        if self._over():
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(_look_at)
        assert self._opening is not None  # noqa: S101 - `_over` says so
        with translated(self.address, LOGGING_IN):
            # whoever gives up must not take it away from the others
            return await asyncio.shield(self._opening)

    def _over(self) -> bool:
        task = self._opening
        if task is None:
            return True
        return task.done() and (task.exception() is not None or task.result().is_closed())

    async def _open(self) -> asyncssh.SSHClientConnection:
        address = self.address
        _check_files(address)
        tunnel = None if self._via is None else await self._via.connection()
        async with asyncio.timeout(_LOGIN_S):
            return await asyncssh.connect(
                address.host,
                address.port,
                tunnel=tunnel,
                config=None,
                username=address.user,
                # with a key of its own the agent is left out: it may hold too many to be tried
                **(
                    {"client_keys": [_expand(address.key_file)], "agent_path": None}
                    if address.key_file
                    else {}
                ),
                known_hosts=str(address.known_hosts_file),
                preferred_auth="publickey",
                encryption_algs=CIPHERS,
                connect_timeout=_CONNECT_S,
                login_timeout=_LOGIN_S,
                keepalive_interval=_KEEPALIVE_S,
                keepalive_count_max=_KEEPALIVES,
                window=_WINDOW,
                max_pktsize=_PACKET,
            )

    async def close(self) -> None:
        """End the connection."""
        task, self._opening = self._opening, None
        if task is None:
            return
        self._end_readers()
        with suppress(*FOREIGN, WlmError, asyncio.CancelledError):
            connection = await task
            connection.close()
            await asyncio.wait_for(connection.wait_closed(), 1.0)


def _look_at(task: asyncio.Task[Any]) -> None:
    # asyncio complains of errors that nobody has looked at
    if not task.cancelled():
        task.exception()


def _expand(path: str | None) -> str:
    return str(Path(path or "").expanduser())


def _check_files(address: Address) -> None:
    """Raise `SiteAuthError` for a key or a list of host keys that cannot be used."""
    files = {"known_hosts": str(address.known_hosts_file)}
    if address.key_file is not None:
        files["key_file"] = _expand(address.key_file)
    for what, path in files.items():
        try:
            with open(path, "rb"):  # noqa: PTH123
                pass
        except OSError as error:
            raise SiteAuthError(
                f"{address}: {what} {path}: {error.strerror}; expected a file that"
                " the worker's user can read"
            ) from error
    try:
        asyncssh.read_known_hosts(files["known_hosts"])
        if "key_file" in files:
            asyncssh.read_private_key(files["key_file"])
    except asyncssh.KeyImportError as error:
        encrypted = "passphrase" in str(error).lower()
        told = (
            "has a passphrase; give it to an agent and leave out key_file" if encrypted else error
        )
        raise SiteAuthError(f"{address}: key_file {files.get('key_file')}: {told}") from error
    except (OSError, ValueError) as error:
        raise SiteAuthError(f"{address}: known_hosts {files['known_hosts']}: {error}") from error


class Connections:
    """All lines of one process, and the loop they live on."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._lines: dict[Address, Line] = {}
        self._shared: dict[tuple[object, Address], Any] = {}
        self._shared_lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wlm-ssh", daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do `work` on the loop and wait for it; to be called from other threads."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def begin(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Begin with `work` on the loop; to be called from other threads."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def shared(self, kind: Callable[[Address], _T], address: Address) -> _T:
        """Return what all threads have in common of an address: one of a kind."""
        with self._shared_lock:
            if (kind, address) not in self._shared:
                self._shared[kind, address] = kind(address)
            return cast("_T", self._shared[kind, address])

    def line(self, address: Address) -> Line:
        """Return the line to an address; on the loop."""
        if address not in self._lines:
            via = None if address.via is None else self.line(address.via)
            self._lines[address] = Line(address, via)
        return self._lines[address]

    async def close(self, address: Address) -> None:
        """End the connection to an address and those it goes through."""
        found: Address | None = address
        while found is not None:
            if (line := self._lines.get(found)) is not None:
                await line.close()
            found = found.via


_current: Connections | None = None
_lock = threading.Lock()
#: what a forked child inherited: to take it down would disturb the parent, whose epoll it shares
_inherited: Final[list[Connections]] = []


def connections() -> Connections:
    """Return the connections of this process."""
    global _current  # noqa: PLW0603 - one of a process
    with _lock:
        if _current is None or _current.pid != os.getpid():
            _current = Connections()
        return _current


def _after_fork() -> None:
    global _current, _lock  # noqa: PLW0603
    _lock = threading.Lock()  # another thread of the parent may hold it
    if _current is not None:
        _inherited.append(_current)
        _current = None


os.register_at_fork(after_in_child=_after_fork)
