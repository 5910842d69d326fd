"""Whether bytes are a message of the form that is expected, looked at before they are read.

thriftpy2 forgives too much for a look-up whose empty answer counts as evidence: a list of another
type, or of a negative length, is read as an empty one, a field of another type is passed over, a
message that was cut off is read from whatever the memory holds behind it, and a length that lies
may keep it busy for minutes. Here each of these is a `ValueError`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from thriftpy2.thrift import TType

#: bytes of the types that are always as long
_LENGTHS: Final = {
    TType.BOOL: 1,
    TType.BYTE: 1,
    TType.I16: 2,
    TType.I32: 4,
    TType.I64: 8,
    TType.DOUBLE: 8,
}
_LISTS: Final = frozenset({TType.LIST, TType.SET})
_NESTED: Final = frozenset({TType.STRUCT, *_LISTS})
_DEPTH: Final = 32
_VERSION: Final = 0x8001
_INT: Final = struct.Struct(">i")
_FIELD: Final = struct.Struct(">bh")
_BEGIN: Final = struct.Struct(
    ">HBBi"
)  # version, a byte that says nothing, kind, length of the name


def check(body: bytes, contents: Mapping[int, Any]) -> tuple[str, int]:
    """Return the method and the kind of a whole message; raises `ValueError` for any other bytes.

    `contents` says by the kind of a message which structure is in it.
    """
    try:
        version, _, kind, length = _BEGIN.unpack_from(body)
        name_end = _BEGIN.size + length
        if version != _VERSION or kind not in contents or not 0 <= length <= len(body):
            raise ValueError("it begins otherwise")
        end = _Form(body).passed(TType.STRUCT, contents[kind], name_end + _INT.size, _DEPTH)
    except (struct.error, IndexError):
        raise ValueError("it is cut off") from None
    if end != len(body):
        raise ValueError("it does not end where its content does")
    return body[_BEGIN.size : name_end].decode(errors="replace"), kind


class _Form:
    """Walks over a message; `passed` returns the place behind a value."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def passed(self, kind: int, wanted: Any, at: int, depth: int) -> int:
        """Pass a value; `wanted` is how the IDL describes what is in it, None if it is unknown."""
        if depth == 0:
            raise ValueError("it is nested too deeply")
        if (length := _LENGTHS.get(kind)) is not None:
            return self._within(at, length)
        if kind == TType.STRING:
            return self._within(at + _INT.size, self._length(at))
        if kind == TType.STRUCT:
            return self._struct(wanted, at, depth - 1)
        if kind in _LISTS:
            return self._list(wanted, at, depth - 1)
        if kind == TType.MAP:
            return self._map(at, depth - 1)
        raise ValueError(f"it holds a value of type {kind}, which there is not")

    def _within(self, at: int, length: int) -> int:
        if at + length > len(self._body):
            raise IndexError
        return at + length

    def _length(self, at: int) -> int:
        """A length; each item that it counts takes a byte or more, those of structures too."""
        (length,) = _INT.unpack_from(self._body, at)
        if length < 0:
            raise ValueError(f"it tells a length of {length}")
        if length > len(self._body) - at - _INT.size:
            raise IndexError
        return int(length)

    def _struct(self, wanted: Any, at: int, depth: int) -> int:
        fields = {} if wanted is None else wanted.thrift_spec
        while self._body[at] != TType.STOP:
            kind, number = _FIELD.unpack_from(self._body, at)
            known = fields.get(number)
            if known is not None and known[0] != kind:
                raise ValueError(f"its field {known[1]} is of type {kind}, not {known[0]}")
            inner = known[2] if known is not None and kind in _NESTED else None
            at = self.passed(kind, inner, at + _FIELD.size, depth)
        return at + 1

    def _list(self, wanted: Any, at: int, depth: int) -> int:
        kind, length = self._body[at], self._length(at + 1)
        expected, inner = wanted if isinstance(wanted, tuple) else (wanted, None)
        if length and expected is not None and kind != expected:
            raise ValueError(f"it lists values of type {kind}, not {expected}")
        at += 1 + _INT.size
        for _ in range(length):
            at = self.passed(kind, inner, at, depth)
        return at

    def _map(self, at: int, depth: int) -> int:
        kinds, length = self._body[at : at + 2], self._length(at + 2)
        at += 2 + _INT.size
        for _ in range(length):
            for kind in kinds:
                at = self.passed(kind, None, at, depth)
        return at
