"""Our own client of a Serf agent's RPC: msgpack over TCP, blocking, answers told by their Seq.

Own, because those there are for Python are broken with current libraries or do not notice that
the agent is gone. Source of the protocol: https://www.serf.io/docs/agent/rpc.html
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from wlm_tasks.cluster.gossip import (
    EventKind,
    Gossip,
    Member,
    MemberEvent,
    read_event,
    read_members,
)
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.checks import one_line, show

_CONNECT_S: Final = 2.0
_REPLY_S: Final = 10.0
_READ_SIZE: Final = 65_536
#: the longest answer; 10,000 members take some 7 MB
_ANSWER_LIMIT: Final = 64 * 1024 * 1024
_WORDS_LIMIT: Final = 1000
_REFUSED_KEY: Final = "invalid authentication token"


class RpcClient(Gossip):
    """A connection with the agent that listens on `port` of this host."""

    def __init__(
        self,
        port: int,
        auth_key: str | None = None,
        *,
        host: str = "127.0.0.1",
        connect_s: float = _CONNECT_S,
        reply_s: float = _REPLY_S,
    ) -> None:
        """Connect; raises `ServiceError` if nobody listens there or the key is wrong."""
        try:
            import msgpack  # noqa: PLC0415 - an extra
        except ImportError:
            raise ServiceError(
                "Serf: the package msgpack is missing; pip install wlm-tasks[serf]"
            ) from None
        self._where = f"Serf's RPC at {host}:{port}"
        self._reply_s = reply_s
        self._pack = msgpack.Packer(use_bin_type=False, unicode_errors="surrogateescape").pack
        self._unpacker = msgpack.Unpacker(
            raw=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",
            max_buffer_size=_ANSWER_LIMIT,
        )
        self._no_more = msgpack.OutOfData
        self._seq = 0
        self._joining = False
        self._stream: int | None = None
        self._header: Mapping[Any, Any] | None = None  # of a record whose body is still to come
        self._events: deque[MemberEvent] = deque()
        self._socket = self._connected(host, port, connect_s)
        try:
            self._ask("handshake", {"Version": 1})
            if auth_key is not None:
                self._ask("auth", {"AuthKey": auth_key})
        except BaseException:
            self.close()
            raise

    def members(self) -> list[Member]:
        """Return all the agent knows, itself included; records that make no sense are left out."""
        return read_members(self._ask("members", has_answer=True).get("Members"))

    def set_tags(self, tags: Mapping[str, str], delete: Iterable[str] = ()) -> None:
        """Set some tags of the agent and delete others; waits until the news is on its way."""
        self._ask("tags", {"Tags": dict(tags), "DeleteTags": list(delete)})

    def stats(self) -> dict[str, dict[str, str]]:
        """Return the agent's own numbers, in sections."""
        answer = self._ask("stats", has_answer=True)
        return {
            str(section): {str(key): str(value) for key, value in values.items()}
            for section, values in answer.items()
            if isinstance(values, dict)
        }

    def join(self, addresses: Sequence[str]) -> int:
        """Contact agents (HOST:PORT) and return how many answered; raises if none did."""
        body = {"Existing": list(addresses), "Replay": False}
        answered = self._ask("join", body, has_answer=True).get("Num")
        return answered if isinstance(answered, int) else 0

    def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare a failed member gone; `prune` forgets it everywhere. Unknown names are fine."""
        self._ask("force-leave", {"Node": name, "Prune": prune})

    def leave(self) -> None:
        """Make the agent leave and end."""
        self._ask("leave")

    def watch(self) -> None:
        """Have the events of members sent from now on; `events` hands them out."""
        self._ask("stream", {"Type": ",".join(EventKind)})
        self._stream = self._seq

    def events(self, timeout_s: float) -> list[MemberEvent]:
        """Wait for events, at most so long, and return those that are there; maybe none."""
        deadline = 0.0 if self._events else time.monotonic() + timeout_s
        while (record := self._record(deadline)) is not None:
            self._take(*record)
            deadline = 0.0  # what has arrived already, without waiting for more
        found = list(self._events)
        self._events.clear()
        return found

    def close(self) -> None:
        """End the connection; a thread that waits in another method gets its `ServiceError`."""
        with contextlib.suppress(OSError):  # closed already, by whom does not matter
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _connected(self, host: str, port: int, timeout_s: float) -> socket.socket:
        try:
            connection = socket.create_connection((host, port), timeout_s)
        except ConnectionRefusedError:
            raise ServiceError(f"{self._where}: port closed, no agent listens there") from None
        except TimeoutError:
            raise ServiceError(f"{self._where}: no connection within {timeout_s:g} s") from None
        except OSError as error:
            raise ServiceError(f"{self._where}: {error.strerror or error}") from None
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def _ask(
        self, command: str, body: Mapping[str, object] | None = None, *, has_answer: bool = False
    ) -> Mapping[Any, Any]:
        """Send a command and return the body of its answer, empty if it has none."""
        self._seq += 1
        self._joining = command == "join"
        header = {"Seq": self._seq, "Command": command}
        data = self._pack(header) + (b"" if body is None else self._pack(body))
        deadline = time.monotonic() + self._reply_s
        try:
            self._socket.settimeout(self._reply_s)
            self._socket.sendall(data)
        except OSError as error:
            self._fail(f"{error.strerror or error}", error)
        while (record := self._record(deadline, awaited=has_answer)) is not None:
            if record[0].get("Seq") == self._seq:
                return self._answer(command, *record)
            self._take(*record)
        # what comes later could not be told from the next answer
        return self._fail(f"no answer to {command!r} within {self._reply_s:g} s")

    def _answer(self, command: str, header: Mapping[Any, Any], body: object) -> Mapping[Any, Any]:
        error = header.get("Error")
        if error:
            if str(error).lower() == _REFUSED_KEY:
                self._fail("wrong RPC key")
            if isinstance(body, _Missing):  # it may follow or not, so nothing can after it
                self.close()
            raise ServiceError(f"{self._where}: {command}: {_words(error)}")
        return body if isinstance(body, Mapping) else {}

    def _take(self, header: Mapping[Any, Any], body: object) -> None:
        """Keep a record of the stream."""
        if self._stream is None or header.get("Seq") != self._stream:
            self._fail(f"an answer to nothing that was asked (Seq {show(header.get('Seq'))})")
        if (event := read_event(body)) is not None:
            self._events.append(event)

    def _record(
        self, deadline: float, *, awaited: bool = False
    ) -> tuple[Mapping[Any, Any], object] | None:
        """Return the next record, header and body; None if there is none until the deadline.

        `awaited`: the answer to the last command has a body.
        """
        if self._header is None:
            header = self._object(deadline)
            if header is None:
                return None
            if not isinstance(header, Mapping):
                self._fail("its answer is not Serf's")
            self._header = header
        seq = self._header.get("Seq")
        has_body = (awaited and seq == self._seq) or (
            self._stream is not None and seq == self._stream
        )
        body: object = None
        # a join that failed tells how many answered all the same
        if has_body and self._header.get("Error") and not self._joining:
            body = _Missing()
        elif has_body and (body := self._object(deadline)) is None:
            return None
        header, self._header = self._header, None
        return header, body

    def _object(self, deadline: float) -> object:
        """Return the next thing that arrives; None at the deadline."""
        while True:
            try:
                found: object = self._unpacker.unpack()
            except self._no_more:
                if not self._receive(deadline):
                    return None
            except Exception as error:  # noqa: BLE001 - whatever msgpack says to garbage
                self._fail("its answer is not Serf's", error)
            else:
                return found if found is not None else _Missing()

    def _receive(self, deadline: float) -> bool:
        """Read what is there; False at the deadline."""
        try:
            # never 0, which would not wait but fail otherwise than by a time-out
            self._socket.settimeout(max(0.001, deadline - time.monotonic()))
            data = self._socket.recv(_READ_SIZE)
        except TimeoutError:
            return False
        except OSError as error:
            self._fail(f"{error.strerror or error}", error)
        if not data:
            self._fail("the agent has closed the connection")
        try:
            self._unpacker.feed(data)
        except Exception as error:  # noqa: BLE001 - see above
            self._fail("its answer is too long", error)
        return True

    def _fail(self, words: str, cause: BaseException | None = None) -> NoReturn:
        self.close()
        raise ServiceError(f"{self._where}: {words}") from cause


class _Missing:
    """In place of a body that was not read, or of nothing."""


def _words(error: object) -> str:
    """Return an agent's error as one line."""
    return one_line(" ".join(str(error).split()))[:_WORDS_LIMIT]
