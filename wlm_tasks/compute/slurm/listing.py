"""The lists of ``squeue`` and ``sacct``: their formats and parsers.

Names of jobs hold anything: blanks, bars, line ends. So every field is followed by a mark that is
made anew for each list and that nobody could write into a name beforehand.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wlm_tasks.compute.slurm.states import ENDED

#: id, state, submission, start, end, reason, name; see squeue(1)
_SQUEUE: Final = ("%A", "%T", "%V", "%S", "%e", "%r", "%j")
SACCT: Final = "JobIDRaw,State,Submit,Start,End,Reason,JobName"


@dataclass(frozen=True, slots=True)
class Row:
    """What Slurm knows of one job. Times are seconds since the epoch, None if it has none."""

    id: str
    state: str  #: in Slurm's word
    submitted_at: float | None
    starts_at: float | None  #: when it started, or is expected to
    ends_at: float | None  #: when it ended, or must have
    reason: str
    name: str

    @property
    def number(self) -> int:
        """The id as a number: later jobs have higher ones until Slurm begins anew."""
        return int(self.id)


def squeue_format(mark: str) -> str:
    """Return the format for ``squeue -o``."""
    return mark + "".join(f"{field}{mark}" for field in _SQUEUE)


def parse_squeue(text: str, mark: str) -> list[Row]:
    """Return the rows of a list made with `squeue_format`."""
    # mark, seven fields with a mark each, line end
    pieces = text.split(mark)[1:]
    width = len(_SQUEUE) + 1
    return list(_rows(pieces[start : start + width - 1] for start in range(0, len(pieces), width)))


def parse_sacct(lines: Iterable[str], mark: str) -> list[Row]:
    """Return the rows of ``sacct -nXP --delimiter`` with `SACCT`, passing over torn lines."""
    return list(_rows(line.split(mark) for line in lines))


def _rows(records: Iterable[Sequence[str]]) -> Iterable[Row]:
    for fields in records:
        if len(fields) != len(_SQUEUE) or not re.fullmatch("[0-9]+", fields[0].strip()):
            continue
        native, state, submitted, starts, ends, reason, name = fields
        yield Row(
            native.strip(),
            # "CANCELLED by 1000"
            state.partition(" ")[0],
            _time(submitted),
            _time(starts),
            _time(ends),
            reason.strip(),
            name,
        )


def _time(text: str) -> float | None:
    # N/A, NONE, Unknown, None
    return float(text) if re.fullmatch("[0-9]+", text.strip()) else None


def by_name(rows: Iterable[Row]) -> Mapping[str, Sequence[Row]]:
    """Return the rows by the jobs' names."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.name].append(row)
    return found


def choose(rows: Sequence[Row], *ids: str | None) -> Row | None:
    """Return which of the rows of one name is meant: by the first id that is there, else the last.

    The name decides and not the id alone: Slurm begins anew with its ids, so that an old one may
    be that of a foreign job today.
    """
    for wanted in ids:
        for row in rows:
            if row.id == wanted:
                return row
    return max(rows, key=lambda row: (row.submitted_at or 0, row.number), default=None)


def choose_listed(rows: Sequence[Row], native_id: str | None) -> Row | None:
    """Return which of the rows of ``squeue`` with one name is meant: one that lives goes first.

    Of two jobs of one name one claims the payload and the other leaves, and whose id was written
    down says nothing about which: as long as one lives, the job is not over.
    """
    return choose([row for row in rows if row.state not in ENDED] or rows, native_id)
