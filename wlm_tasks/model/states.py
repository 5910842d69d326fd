"""States of experiments, steps and jobs, and the one table of allowed moves."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from wlm_tasks.errors import IllegalTransitionError
from wlm_tasks.model.steps import StepName


class StepState(StrEnum):
    """How one step stands."""

    WAITING = "WAITING"  #: an earlier step is not done
    HELD = "HELD"  #: may start once a limit lets it (sweep's max_active, site's max_running)
    READY = "READY"  #: any worker of its queue may claim it
    RUNNING = "RUNNING"  #: claimed: one holder, one epoch, one lease
    WATCHING = "WATCHING"  #: the job is on its site; polls look after it
    BACKOFF = "BACKOFF"  #: a passing fault; tried again when due
    PAUSED = "PAUSED"  #: waits for a person
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class ExperimentState(StrEnum):
    """How an experiment stands, as its owner sees it."""

    QUEUED = "QUEUED"  #: accepted; no step has started
    PREPARING = "PREPARING"  #: directory and inputs are being made ready, the job is handed over
    SUBMITTED = "SUBMITTED"  #: the site has the job
    RUNNING = "RUNNING"  #: the job runs
    FINISHING = "FINISHING"  #: the job ended well; outputs are on their way
    PAUSED = "PAUSED"  #: waits for a person
    CANCELLING = "CANCELLING"  #: cancel asked for, its job's end not yet confirmed
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class JobRecord(StrEnum):
    """How a job stands in our books."""

    INTENT = "INTENT"  #: its token is committed; it may or may not exist on the site
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"
    REJECTED = "REJECTED"  #: the site refused it; it never existed


FINAL: Final = frozenset({ExperimentState.DONE, ExperimentState.FAILED, ExperimentState.CANCELLED})
LIVE_JOBS: Final = frozenset({JobRecord.INTENT, JobRecord.PENDING, JobRecord.RUNNING})

_S = StepState
#: From each state of a step, the states it may go to. The rewind of a retry is among them.
STEP_MOVES: Final[dict[StepState, frozenset[StepState]]] = {
    _S.WAITING: frozenset({_S.READY, _S.RUNNING, _S.WATCHING, _S.DONE, _S.CANCELLED}),
    _S.HELD: frozenset({_S.READY, _S.CANCELLED}),
    _S.READY: frozenset({_S.RUNNING, _S.FAILED, _S.CANCELLED}),
    _S.RUNNING: frozenset(
        {
            _S.RUNNING,
            _S.DONE,
            _S.READY,
            _S.HELD,
            _S.BACKOFF,
            _S.PAUSED,
            _S.FAILED,
            _S.CANCELLED,
        }
    ),
    _S.WATCHING: frozenset({_S.DONE, _S.FAILED, _S.WAITING, _S.CANCELLED}),
    _S.BACKOFF: frozenset({_S.READY, _S.CANCELLED}),
    _S.PAUSED: frozenset({_S.READY, _S.WAITING, _S.CANCELLED}),
    _S.DONE: frozenset({_S.READY, _S.WAITING}),
    _S.FAILED: frozenset({_S.READY, _S.WAITING}),
    _S.CANCELLED: frozenset({_S.READY, _S.WAITING}),
}


def check_move(old: StepState, new: StepState) -> None:
    """Raise `IllegalTransitionError` unless the table allows the move."""
    if new not in STEP_MOVES[old]:
        raise IllegalTransitionError(f"a step cannot go from {old} to {new}")


def sources(new: StepState) -> tuple[StepState, ...]:
    """All states from which a step may go to `new`."""
    return tuple(old for old, to in STEP_MOVES.items() if new in to)


_PREPARING_STEPS: Final = frozenset({StepName.SETUP, StepName.STAGE_IN, StepName.SUBMIT})
_VERDICTS: Final = {
    _S.FAILED: ExperimentState.FAILED,
    _S.PAUSED: ExperimentState.PAUSED,
    _S.CANCELLED: ExperimentState.CANCELLED,
}


def experiment_state(step: StepName, state: StepState, *, last: bool) -> ExperimentState | None:
    """The experiment's state when `step` has just gone to `state`; None if it stays as it is.

    `last` says whether it is the experiment's last step.
    """
    if state in _VERDICTS:
        return _VERDICTS[state]
    if state is _S.DONE and last:
        return ExperimentState.DONE
    if state is _S.WATCHING:
        return ExperimentState.SUBMITTED
    if state is _S.RUNNING and step in _PREPARING_STEPS:
        return ExperimentState.PREPARING
    if step is StepName.STAGE_OUT and state in (_S.READY, _S.RUNNING):
        return ExperimentState.FINISHING
    return None
