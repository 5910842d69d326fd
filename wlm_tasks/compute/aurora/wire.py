"""Calls and answers as bytes: Thrift's binary protocol, by thriftpy2, on memory only."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Final

import thriftpy2
from thriftpy2.protocol import TCyBinaryProtocolFactory
from thriftpy2.thrift import TApplicationException, TMessageType
from thriftpy2.transport import TCyMemoryBuffer

from wlm_tasks.compute.aurora.form import check

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
    answer = getattr(idl().AuroraSchedulerManager, f"{method}_result")
    contents = {TMessageType.REPLY: answer, TMessageType.EXCEPTION: TApplicationException}
    try:
        name, kind = check(body, contents)
        content = _read(body, contents[kind]())
    except ValueError as error:
        raise ValueError(f"no Thrift message: {error}") from error
    except Exception as error:  # of arbitrary bytes the parser says many things
        raise ValueError(f"no Thrift message: {type(error).__name__}") from error
    if kind == TMessageType.EXCEPTION:
        raise ValueError(text(content.message) or "an exception without words")
    if name != method or content.success is None:
        raise ValueError(f"no answer to {method}")
    return content.success


def _read(body: bytes, content: Any) -> Any:
    protocol = _BINARY.get_protocol(TCyMemoryBuffer(body))
    protocol.read_message_begin()
    protocol.read_struct(content)
    return content


def text(value: object) -> str:
    """Return text of an answer; what is not UTF-8 arrives as bytes, what is missing as None."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return "" if value is None else str(value)
