"""Calls and answers as bytes: Thrift's binary protocol, by thriftpy2, on memory only."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any, Final

import thriftpy2
from thriftpy2.protocol import TCyBinaryProtocolFactory
from thriftpy2.thrift import TApplicationException, TMessageType
from thriftpy2.transport import TCyBufferedTransport, TCyMemoryBuffer

_IDL: Final = Path(__file__).with_name("aurora.thrift")
_BINARY: Final = TCyBinaryProtocolFactory()  # strict, as Aurora wants it


@cache
def idl() -> Any:
    """Return the module of the structures in ``aurora.thrift``."""
    return thriftpy2.load(str(_IDL), module_name="wlm_tasks_aurora_thrift")


def encode(method: str, arguments: dict[str, Any]) -> bytes:
    """Return the message that calls a method of the scheduler."""
    call = getattr(idl().AuroraSchedulerManager, f"{method}_args")(**arguments)
    buffer = TCyMemoryBuffer(b"")
    protocol = _BINARY.get_protocol(buffer)
    protocol.write_message_begin(method, TMessageType.CALL, 0)
    protocol.write_struct(call)
    protocol.write_message_end()
    buffer.flush()
    data: bytes = buffer.getvalue()
    return data


def decode(method: str, body: bytes) -> Any:
    """Return the ``Response`` in the answer to a call of `method`.

    Raises `ValueError` with words for a person if that is none: the server's own words if it
    answered with an exception.
    """
    try:
        name, kind, content = _read(method, body)
    except Exception as error:  # of arbitrary bytes the parser says many things
        raise ValueError(f"no Thrift message: {type(error).__name__}") from error
    if kind == TMessageType.EXCEPTION:
        raise ValueError(text(content.message) or "an exception without words")
    if name != method or kind != TMessageType.REPLY or content.success is None:
        raise ValueError(f"no answer to {method}")
    return content.success


class _Body:
    """A body to read from that ends with an error.

    thriftpy2's own buffers of memory do not tell an end: what a message lacks is then read as
    whatever the memory holds, and a list that was cut off may go on for ever.
    """

    def __init__(self, body: bytes) -> None:
        self._stream = io.BytesIO(body)

    def read(self, size: int) -> bytes:
        """Return 1 to `size` bytes; raises `EOFError`."""
        data = self._stream.read(size)
        if not data:
            raise EOFError
        return data


def _read(method: str, body: bytes) -> tuple[str, int, Any]:
    protocol = _BINARY.get_protocol(TCyBufferedTransport(_Body(body)))
    name, kind, _number = protocol.read_message_begin()
    if kind == TMessageType.EXCEPTION:
        content: Any = TApplicationException()
    else:
        content = getattr(idl().AuroraSchedulerManager, f"{method}_result")()
    protocol.read_struct(content)
    protocol.read_message_end()
    return text(name), kind, content


def text(value: object) -> str:
    """Return text of an answer; what is not UTF-8 arrives as bytes, what is missing as None."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)
