"""The lists of ``squeue`` and ``sacct``: their formats and parsers.

Names of jobs hold anything: blanks, bars, line ends. So every field is followed by a mark that is
made anew for each list and that nobody could write into a name beforehand.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from wlm_tasks.compute.base import JobRef
from wlm_tasks.compute.slurm.states import ENDED

#: id, state, submission, start, end, reason, name; see squeue(1)
_SQUEUE: Final = ("%i", "%T", "%V", "%S", "%e", "%r", "%j")
SACCT: Final = "JobID,State,Submit,Start,End,Reason,JobName"
#: 7, one task of an array 7_2, those of its tasks that wait 7_[0-3,8%2]; long lists end in "..."
_ID: Final = re.compile(r"([0-9]+)(?:_(?:([0-9]+)|\[([^]]*)\]?))?")
#: more tasks than any list that Slurm writes out names
_MOST: Final = 100_000
#: the index of tasks that a list does not name any more
_ANY: Final = -1


@dataclass(frozen=True, slots=True)
class Row:
    """What Slurm knows of one job. Times are seconds since the epoch, None if it has none."""

    id: str  #: of a task of an array ``BASE_INDEX``
    state: str  #: in Slurm's word
    submitted_at: float | None
    starts_at: float | None  #: when it started, or is expected to
    ends_at: float | None  #: when it ended, or must have
    reason: str
    name: str

    @property
    def number(self) -> int:
        """The id as a number: later jobs have higher ones until Slurm begins anew."""
        return int(self.id.partition("_")[0])

    @property
    def index(self) -> int | None:
        """Its place in its array, None for a job of its own, `_ANY` if that is not told."""
        index = self.id.partition("_")[2]
        return int(index) if index else None


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
        match = _ID.fullmatch(fields[0].strip())
        if len(fields) != len(_SQUEUE) or match is None:
            continue
        _native, state, submitted, starts, ends, reason, name = fields
        for native in _ids(*match.groups()):
            yield Row(
                native,
                # "CANCELLED by 1000"
                state.partition(" ")[0],
                _time(submitted),
                _time(starts),
                _time(ends),
                reason.strip(),
                name,
            )


def _ids(base: str, index: str | None, tasks: str | None) -> list[str]:
    """Return the ids of the jobs that one line of a list is about."""
    if tasks is None:
        return [base if index is None else f"{base}_{index}"]
    found: list[int] = []
    for part in tasks.partition("%")[0].split(","):
        numbers = re.fullmatch("([0-9]+)(?:-([0-9]+)(?::([0-9]+))?)?", part)
        if numbers is None:
            found.append(_ANY)
            continue
        first, last, step = numbers.groups()
        found += range(int(first), int(last or first) + 1, max(1, int(step or 1)))[:_MOST]
    return [f"{base}_{number}" for number in found]


def _time(text: str) -> float | None:
    # N/A, NONE, Unknown, None
    return float(text) if re.fullmatch("[0-9]+", text.strip()) else None


class Rows:
    """The rows of a list, by the jobs they may be about."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._found: defaultdict[tuple[str, int | None], list[Row]] = defaultdict(list)
        for row in rows:
            self._found[row.name, row.index].append(row)

    def of(self, ref: JobRef) -> Sequence[Row]:
        """Return those of a job: of its own name, and of its place in its array."""
        found = [*self._found.get((ref.token, None), ())]
        if ref.array is not None:
            for index in (ref.array.index, _ANY):
                found += self._found.get((ref.array.name, index), ())
        return found


def names_of(refs: Iterable[JobRef]) -> dict[str, None]:
    """Return the names that these jobs have on the site, each once and in order."""
    names: dict[str, None] = {}
    for ref in refs:
        names[ref.token] = None
        if ref.array is not None:
            names[ref.array.name] = None
    return names


def choose(rows: Sequence[Row], *ids: str | None) -> Row | None:
    """Return which of the rows of one job is meant: by the first id that is there, else the last.

    The name decides and not the id alone: Slurm begins anew with its ids, so that an old one may
    be that of a foreign job today.
    """
    for wanted in ids:
        for row in rows:
            if row.id == wanted:
                return row
    return max(rows, key=lambda row: (row.submitted_at or 0, row.number), default=None)


def choose_listed(rows: Sequence[Row], native_id: str | None) -> Row | None:
    """Return which of the rows of ``squeue`` about one job is meant: one that lives goes first.

    Of two jobs of one name one claims the payload and the other leaves, and whose id was written
    down says nothing about which: as long as one lives, the job is not over.
    """
    return choose([row for row in rows if row.state not in ENDED] or rows, native_id)
