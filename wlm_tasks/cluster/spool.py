"""What event handlers of Serf agents have written down while nobody listened.

``deploy/serf/spool-events`` appends a line for each member that something happened to. It is a
second path, slower than `Membership` and less to be trusted, for what happened meanwhile. A
record can come twice, but not get lost: it is first moved aside, then handed out, and forgotten
when the reader says so.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from wlm_tasks.cluster.gossip import EventKind

_FIELDS: Final = 6
_TIME_LIMIT: Final = 1e11
_READ_SIZE: Final = 1024 * 1024


@dataclass(frozen=True)
class SpoolRecord:
    """Something that happened to a member."""

    time: float  #: seconds since 1970, by the clock of the agent's host
    event: EventKind
    node: str
    tags: Mapping[str, str]  #: without what could not be told apart


class SpoolBatch:
    """What was in a spool; it comes again until `done` was called."""

    def __init__(self, taken: Path) -> None:
        self._taken = taken
        lines = taken.read_bytes().split(b"\n") if taken.exists() else []
        found = [_read(line) for line in lines if line]
        self.records = [record for record in found if record is not None]
        self.skipped = len(found) - len(self.records)  #: lines that made no sense

    @classmethod
    def take(cls, spool: Path) -> Self:
        """Empty a spool; raises `OSError`. One reader at a time."""
        taken = spool.with_name(f"{spool.name}.taken")
        _move(spool, taken)
        return cls(taken)

    def done(self) -> None:
        """Forget the records; raises `OSError`."""
        self._taken.unlink(missing_ok=True)


def _move(spool: Path, taken: Path) -> None:
    """Append what is in the spool to what was taken before, with handlers locked out."""
    try:
        source = os.open(spool, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(source, fcntl.LOCK_EX)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        with open(os.open(taken, flags, 0o600), "ab") as target:  # noqa: PTH123 - a descriptor
            while data := os.read(source, _READ_SIZE):
                target.write(data)
            target.flush()
            os.fsync(target.fileno())
        os.ftruncate(source, 0)
    finally:
        os.close(source)


def _read(line: bytes) -> SpoolRecord | None:
    """Return the record of a line; None if it is none."""
    fields = line.decode(errors="surrogateescape").split("\t")
    if len(fields) != _FIELDS:
        return None
    when, kind, node, _address, _role, tags = fields
    try:
        time, event = int(when), EventKind(kind)
    except ValueError:
        return None
    if not node or not 0 <= time < _TIME_LIMIT:
        return None
    pairs = (pair.partition("=") for pair in tags.split(","))
    return SpoolRecord(float(time), event, node, {k: v for k, eq, v in pairs if k and eq})
