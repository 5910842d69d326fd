"""What an agent tells about its process, as Serf tags: 512 bytes for all of it. Pure.

Lists are joined by ``+``; one that had to be cut ends with a ``+``. Characters with a meaning of
their own in tags, or in what event handlers are given, are written as ``%XX``. Tags are read with
suspicion: whoever has the encryption key can set any.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final
from urllib.parse import unquote

from wlm_tasks.errors import ConfigError
from wlm_tasks.model.checks import problem

#: what Serf allows, in bytes as it encodes them
LIMIT: Final = 512
LOAD_BUCKETS: Final = 10
_LOADS_PER_BUCKET: Final = 5.0  #: a load of 1 for each CPU is the lowest of bucket 5
#: how far beyond its bucket a load must be for the bucket to change, in buckets
_HYSTERESIS: Final = 0.5
_SEPARATOR: Final = "+"
_ESCAPED: Final = re.compile(r"[%+,=\s\x00-\x1f\x7f]")
_SHORT: Final = 32  #: from this length on a text takes a longer head in msgpack
#: longest texts, in bytes as they are written: they must fit together, lists empty
_NAME_LIMIT: Final = 255
_INCARNATION: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WORD_LIMIT: Final = 31
_NUMBER_LIMIT: Final = 1_000_000_000


class Role(StrEnum):
    """What kind of process an agent belongs to."""

    WORKER = "worker"
    CONTROL = "control"
    SEED = "seed"


class WorkerState(StrEnum):
    """Whether a process takes new work."""

    UP = "up"
    DRAINING = "draining"


@dataclass(frozen=True, kw_only=True)
class WorkerAttributes:
    """What an agent tells about its process. Raises `ConfigError` for what no tag can hold."""

    role: Role
    name: str  #: Celery's node name, such as ``jobsub@host``
    incarnation: str  #: one life of the process; another one after every start
    state: WorkerState = WorkerState.UP
    version: str = ""
    queues: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    cpus: int = 0
    memory_mb: int = 0
    gpus: int = 0
    slots: int = 0  #: steps at a time
    load: int = 0  #: bucket of the load, 0 to 9, see `load_bucket`
    zone: str = ""
    queues_complete: bool = True  #: False where some did not fit
    capabilities_complete: bool = True

    def __post_init__(self) -> None:
        """Check each field."""
        _check_text("name", self.name, _NAME_LIMIT, empty=False)
        if not _INCARNATION.fullmatch(self.incarnation):
            expected = "1 to 64 letters, digits, '-' and '_'"
            raise ConfigError(problem("incarnation", self.incarnation, expected))
        for field in ("version", "zone"):
            _check_text(field, getattr(self, field), _WORD_LIMIT)
        for field in ("queues", "capabilities"):
            for item in getattr(self, field):
                _check_text(field, item, _NAME_LIMIT, empty=False)
        for field in ("cpus", "memory_mb", "gpus", "slots"):
            _check_number(field, getattr(self, field), _NUMBER_LIMIT)
        _check_number("load", self.load, LOAD_BUCKETS - 1)

    @property
    def tags(self) -> dict[str, str]:
        """As tags that fit: capabilities are cut first, then queues, from their ends."""
        fitting = self
        while encoded_size(tags := fitting._all_tags()) > LIMIT:
            if fitting.capabilities:
                fitting = replace(
                    fitting,
                    capabilities=fitting.capabilities[:-1],
                    capabilities_complete=False,
                )
            else:  # without any there is room for all the rest, see the limits above
                fitting = replace(fitting, queues=fitting.queues[:-1], queues_complete=False)
        return tags

    def _all_tags(self) -> dict[str, str]:
        """Return all of them, however long; what is not told is left out."""
        tags = {
            "role": str(self.role),
            "cel": _escape(self.name),
            "inc": self.incarnation,
            "st": str(self.state),
            "v": _escape(self.version),
            "q": _join(self.queues, complete=self.queues_complete),
            "cap": _join(self.capabilities, complete=self.capabilities_complete),
            "cpu": str(self.cpus or ""),
            "mem": str(self.memory_mb or ""),
            "gpu": str(self.gpus or ""),
            "slots": str(self.slots or ""),
            "ld": str(self.load),
            "zone": _escape(self.zone),
        }
        return {key: value for key, value in tags.items() if value}


def parse(tags: Mapping[str, str]) -> WorkerAttributes | None:
    """Return what tags tell; None if they are not as ours are. Unknown ones are passed over."""
    try:
        queues, queues_complete = _split(tags.get("q", ""))
        capabilities, capabilities_complete = _split(tags.get("cap", ""))
        return WorkerAttributes(
            role=Role(tags["role"]),
            name=_unescape(tags["cel"]),
            incarnation=tags["inc"],
            state=WorkerState(tags.get("st", "up")),
            version=_unescape(tags.get("v", "")),
            queues=queues,
            queues_complete=queues_complete,
            capabilities=capabilities,
            capabilities_complete=capabilities_complete,
            cpus=_number(tags.get("cpu", "0")),
            memory_mb=_number(tags.get("mem", "0")),
            gpus=_number(tags.get("gpu", "0")),
            slots=_number(tags.get("slots", "0")),
            load=_number(tags.get("ld", "0")),
            zone=_unescape(tags.get("zone", "")),
        )
    except (KeyError, ValueError, ConfigError):
        return None


def encoded_size(tags: Mapping[str, str]) -> int:
    """Return how many bytes tags take, as Serf counts: a byte, then a map in old msgpack."""
    head = 2 if len(tags) < 16 else 4  # noqa: PLR2004 - msgpack's
    return head + sum(map(_size, (*tags, *tags.values())))


def load_bucket(load_per_cpu: float, previous: int | None = None) -> int:
    """Return the bucket, 0 to 9, of a load average divided by the number of CPUs.

    It stays the `previous` one until the load is clearly outside of it, so that a load at the
    edge of two buckets makes no news. What is no number changes nothing.
    """
    if not math.isfinite(load_per_cpu):
        return 0 if previous is None else previous
    place = max(0.0, load_per_cpu * _LOADS_PER_BUCKET)
    if previous is not None and previous - _HYSTERESIS <= place < previous + 1 + _HYSTERESIS:
        return previous
    return int(min(place, LOAD_BUCKETS - 1))


def _check_text(field: str, value: object, limit: int, *, empty: bool = True) -> None:
    good = isinstance(value, str) and value.isprintable() and (empty or bool(value))
    if not good or not isinstance(value, str) or len(_escape(value).encode()) > limit:
        expected = f"{'at most' if empty else '1 to'} {limit} printable characters"
        raise ConfigError(problem(field, value, expected))


def _check_number(field: str, value: object, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= high:
        raise ConfigError(problem(field, value, f"a whole number from 0 to {high}"))


def _size(text: str) -> int:
    length = len(text.encode())
    return length + (1 if length < _SHORT else 3)


def _escape(text: str) -> str:
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", text)


def _unescape(text: str) -> str:
    """Return what was escaped; raises `ValueError` for what `_escape` never writes."""
    plain = unquote(text, errors="strict")
    if _escape(plain) != text:
        raise ValueError(text)
    return plain


def _join(items: Iterable[str], *, complete: bool) -> str:
    return _SEPARATOR.join([*map(_escape, items), *([] if complete else [""])]) or (
        "" if complete else _SEPARATOR
    )


def _split(text: str) -> tuple[tuple[str, ...], bool]:
    """Return the items and whether they are all there are."""
    if not text:
        return (), True
    complete = not text.endswith(_SEPARATOR)
    items = (text if complete else text[:-1]).split(_SEPARATOR)
    return tuple(map(_unescape, items if items != [""] else [])), complete


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,10}", text, re.ASCII):
        raise ValueError(text)
    return int(text)
