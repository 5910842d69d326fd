"""Who may work on a step: holders, and their claims."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from wlm_tasks.model.steps import StepName
from wlm_tasks.state.intents import Intent


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who claims, by which message, and what else it could do."""

    worker: str  #: node name of the worker
    message_id: str  #: id of the Celery message in hand
    queues: tuple[str, ...]  #: queues this worker serves
    lease_s: float
    redelivered: bool = False

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """As parameters of statements."""
        return {
            "b_worker": self.worker,
            "b_message": self.message_id,
            "b_lease": self.lease_s,
            **{f"b_queue_{number}": queue for number, queue in enumerate(self.queues)},
        }


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to work on one step, until the epoch moves on."""

    experiment_id: str
    seq: int
    name: StepName
    epoch: int
    since: float  #: when it was claimed, by the database's clock
    priority: int
    attempt: int  #: how often the step was claimed, this time included
    tries: int  #: transient errors so far
    crashes: int  #: earlier holders that went away without a word
    last: bool
    #: the experiment as JSON; empty if the holder of the claim knows it already
    spec: str = field(default="", compare=False, repr=False)
    #: what was committed with the claim; None if it is still to be written down
    intent: Intent | None = field(default=None, compare=False)
    #: set when another holder has taken over; checked by long work
    lost: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    @property
    def key(self) -> dict[str, Any]:
        """As parameters of statements."""
        return {
            "b_experiment": self.experiment_id,
            "b_seq": self.seq,
            "b_epoch": self.epoch,
        }


def claim_of(row: Any, spec: str = "", intent: Intent | None = None) -> Claim:
    """The claim on a step that was just moved to RUNNING."""
    return Claim(
        experiment_id=row.experiment_id,
        seq=row.seq,
        name=StepName(row.name),
        epoch=row.epoch,
        since=row.started_at,
        priority=row.priority,
        attempt=row.attempt,
        tries=row.tries,
        crashes=row.crashes,
        last=bool(row.last),
        spec=spec,
        intent=intent,
    )
