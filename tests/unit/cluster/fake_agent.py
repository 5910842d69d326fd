"""What a Serf agent might say to a client, right or wrong, on a port of loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

import msgpack

#: answers a request, header and body, with the bytes to send; None closes the connection
Answers = Callable[[str, int, Mapping[str, Any]], bytes | None]
#: commands that are followed by a body
_WITH_BODY = {"handshake", "auth", "tags", "join", "force-leave", "stream"}


def packed(*things: object) -> bytes:
    """Things as they are sent."""
    return b"".join(msgpack.packb(thing, use_bin_type=False) for thing in things)


def ok(seq: int) -> dict[str, object]:
    """The header of an answer."""
    return {"Seq": seq, "Error": ""}


def member(name: str, status: str = "alive", **tags: str) -> dict[str, object]:
    """A member as an agent tells it."""
    return {"Name": name, "Addr": b"\x7f\0\0\1", "Port": 7946, "Status": status, "Tags": tags}


class FakeAgent:
    """Shakes hands by itself; `answers` says what comes after every other command."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.connections: list[socket.socket] = []
        self.commands: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.hang_up()

    def hang_up(self) -> None:
        """End all connections."""
        while self.connections:
            connection = self.connections.pop()
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                connection = self._server.accept()[0]
                self.connections.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        unpacker = msgpack.Unpacker(raw=False)
        header: Mapping[str, Any] | None = None
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                unpacker.feed(data)
                for thing in unpacker:
                    if header is None and thing["Command"] in _WITH_BODY:
                        header = thing
                        continue
                    asked, body = (thing, {}) if header is None else (header, thing)
                    header = None
                    answer = self._answer(asked["Command"], asked["Seq"], body)
                    if answer is None:
                        connection.shutdown(socket.SHUT_RDWR)
                        return
                    connection.sendall(answer)

    def _answer(self, command: str, seq: int, body: Mapping[str, Any]) -> bytes | None:
        self.commands.append(command)
        if command == "handshake":
            return packed(ok(seq))
        return self._answers(command, seq, body)
