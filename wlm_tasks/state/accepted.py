"""A job that its site has taken, on its way into the books."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, NamedTuple

from wlm_tasks.model.states import JobRecord
from wlm_tasks.state.holders import Claim, Holder
from wlm_tasks.state.reports import JobReport


class Way(Enum):
    """The answer of a boundary that was not passed."""

    ELSEHOW = auto()


class JobKind(NamedTuple):
    """What the transaction of an accepted job depends on."""

    usual: bool  #: it runs, or is over and well
    over: bool
    queues: int | None


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A job that its site has taken, and how it stands if the site knows at once."""

    claim: Claim  #: of the step that submitted it
    token: str
    native_id: str
    report: JobReport | None = None
    carry_on: Holder | None = None

    @property
    def kind(self) -> JobKind:
        """Jobs of one kind can be recorded together."""
        if self.report is None:
            return JobKind(usual=True, over=False, queues=None)
        queues = None if self.carry_on is None else len(self.carry_on.queues)
        return JobKind(usual=self.report.state is JobRecord.SUCCEEDED, over=True, queues=queues)

    @property
    def parameters(self) -> dict[str, Any]:
        """As parameters of statements."""
        claim, token = self.claim, self.token
        values = {
            **claim.key,
            "b_monitor": claim.seq + 1,
            "b_next": claim.seq + 2,
            "b_token": token,
            "b_native_id": self.native_id,
            "b_native": json.dumps({"job": token, "native_id": self.native_id}),
        }
        if self.carry_on is not None:
            values |= self.carry_on.parameters
        if (report := self.report) is not None:
            values |= {
                "b_exit_code": report.exit_code,
                "b_started": report.started_at,
                "b_ended": report.ended_at,
                "b_exit": json.dumps({"job": token, "exit_code": report.exit_code}),
            }
        return values
