"""What is read: experiments, their steps, attempts, jobs and events, and how to ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wlm_tasks.model.arrays import InArray, in_array
from wlm_tasks.model.states import FINAL, ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import StepName


@dataclass(frozen=True, kw_only=True)
class ExperimentView:
    """One experiment. Times are seconds since the epoch."""

    id: str
    name: str
    key: str | None
    owner: str | None
    project: str | None
    site: str
    priority: int
    state: ExperimentState
    reason: str | None
    params: dict[str, Any]
    labels: dict[str, str]
    sweep_id: str | None
    member: int | None
    created_at: float
    updated_at: float
    ended_at: float | None
    cleanup: str | None = None  #: what becomes of its directory after the end, None if it is kept
    cleanup_after_s: float | None = None
    cleanup_reason: str | None = None  #: why its removal failed, so far
    removed_at: float | None = None

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL


@dataclass(frozen=True, kw_only=True)
class StepView:
    """One step. Times are seconds since the epoch."""

    seq: int
    name: StepName
    queue: str
    priority: int
    state: StepState
    epoch: int
    attempts: int
    tries: int
    crashes: int
    worker: str | None
    ready_at: float | None
    sent_at: float | None
    started_at: float | None
    ended_at: float | None
    due_at: float | None
    reason: str | None
    progress: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class JobView:
    """One job on its site. Times are seconds since the epoch."""

    token: str
    number: int
    site: str
    state: JobRecord
    workdir: str
    native_id: str | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    reason: str | None
    array_name: str | None = None  #: of the array it was to be submitted in
    array_index: int | None = None

    @property
    def array(self) -> InArray | None:
        """Its place among jobs handed to the site together, None for a job by itself."""
        return in_array(self.array_name, self.array_index)


@dataclass(frozen=True, kw_only=True)
class AttemptView:
    """One try of one step. Times are seconds since the epoch."""

    seq: int
    epoch: int
    worker: str | None
    started_at: float
    ended_at: float | None  #: None while it goes on
    outcome: str | None  #: the step's state after it; TAKEN_OVER by another worker
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class TransferView:
    """What one transfer has brought, verified. Times are seconds since the epoch."""

    step: StepName  #: STAGE_IN or STAGE_OUT
    number: int  #: its place among the inputs or outputs of the experiment
    files: int
    bytes: int
    #: of a file, None if neither end told it; of a directory that of its list of digests
    sha256: str | None
    #: of a directory: the digests of its files by their path below it, None if they are not kept
    digests: dict[str, str] | None
    at: float


@dataclass(frozen=True, kw_only=True)
class EventView:
    """One line of the event log; `step` is None for events of the whole experiment."""

    id: int
    at: float
    experiment_id: str | None
    step: int | None
    state: str
    epoch: int | None
    worker: str | None
    detail: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SweepView:
    """One sweep and how many of its members are in which state."""

    id: str
    name: str
    key: str | None
    size: int
    max_active: int | None
    created_at: float
    states: dict[ExperimentState, int]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which experiments to list; what is None does not matter."""

    states: Sequence[ExperimentState] = ()
    owner: str | None = None
    project: str | None = None
    site: str | None = None
    sweep_id: str | None = None
    name: str | None = None  #: part of the name, in any case
    labels: dict[str, str] = field(default_factory=dict)
    limit: int | None = 50


@dataclass(frozen=True, kw_only=True)
class RunningView:
    """A step that a worker works on; `since` in seconds since the epoch."""

    worker: str
    experiment_id: str
    step: str
    since: float | None
