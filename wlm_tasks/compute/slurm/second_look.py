"""The second look at jobs that Slurm does not list, or lists as ended: what is asked and answered.

The script is `wlm_tasks.compute.slurm.scripts.TRACES`; what follows from the answer is decided in
`wlm_tasks.compute.slurm.judging`.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from wlm_tasks.compute.base import JobRef
from wlm_tasks.compute.remote import parse
from wlm_tasks.compute.slurm.judging import Traces
from wlm_tasks.compute.slurm.listing import SACCT, Row, Rows, names_of, parse_sacct

#: a job and how Slurm lists it
Listed = tuple[JobRef, Row | None]
#: where Slurm does not say how long its messages may take, in seconds
_SETTLE_S: Final = 15
_ACCOUNT: Final = "account "


@dataclass(frozen=True, slots=True)
class SecondLook:
    """One look at some jobs."""

    refs: Sequence[JobRef]  #: the missing ones first
    missing: int  #: of how many nothing but a missing exit record would be known
    mark: str

    @classmethod
    def at(cls, jobs: Sequence[Listed]) -> Self:
        """Return a look at these jobs."""
        missing = [ref for ref, row in jobs if _is_missing(row)]
        others = [ref for ref, row in jobs if not _is_missing(row)]
        return cls([*missing, *others], len(missing), secrets.token_hex(8))

    def arguments(self, scratch: str) -> list[str]:
        """Return the script's arguments."""
        names = ",".join(names_of(self.refs[: self.missing]))
        places = [ref.attempt_dir for ref in self.refs]
        return [scratch, self.mark, str(self.missing), SACCT, names, *places]

    def parse(self, out: bytes) -> dict[str, Traces]:
        """Return what the script's answer tells of each job; raises `BackendUnavailableError`."""
        seen = parse(out, [ref.token for ref in self.refs])
        lines = out.decode(errors="replace").split("\n")
        said = dict(line.partition(" ")[::2] for line in lines)
        records = (line.removeprefix(_ACCOUNT) for line in lines if line.startswith(_ACCOUNT))
        accounts = Rows(parse_sacct(records, self.mark))
        result = {}
        for ref in self.refs:
            more = dict(line.partition(" ")[::2] for line in seen.more[ref.token])
            result[ref.token] = Traces(
                markers=seen.of[ref.token],
                place=seen.place,
                job=more.get("job"),
                used_up_memory="memory" in more,
                missing_s=int(more["missing"]) if "missing" in more else None,
                settle_s=int(said.get("settle", _SETTLE_S)),
                accounts=None if "silent" in said else accounts.of(ref),
            )
        return result


def _is_missing(row: Row | None) -> bool:
    """Whether Slurm does not list a job, or says no more than that it ended by itself."""
    return row is None or row.state == "COMPLETED"
