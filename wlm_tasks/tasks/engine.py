"""The step engine: claim, do, record; carry on or hand on.

A message is a hint that a step is ready. The engine claims the step (or what ought to come
first), does its work through `perform`, and records the outcome. What it holds is a claim with an
epoch; whoever holds a newer one makes its writes fail, and it leaves without harm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from wlm_tasks.errors import (
    FencedError,
    InputError,
    JobUndecidedError,
    PermanentError,
    ServiceError,
    SiteTroubleError,
    TransientError,
    WlmError,
)
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.steps import StepName
from wlm_tasks.runtime import Runtime
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.claims import Claim, GoOn, Holder, Leave
from wlm_tasks.state.intents import FirstJob
from wlm_tasks.state.upkeep import crash_reason
from wlm_tasks.tasks.gate import Blocked, Gate
from wlm_tasks.tasks.heartbeat import Heartbeat
from wlm_tasks.tasks.patience import patiently
from wlm_tasks.tasks.perform import limits_of
from wlm_tasks.tasks.shown import Shown
from wlm_tasks.tasks.submitting import Several, gathers, perform
from wlm_tasks.tasks.undecided import verdict
from wlm_tasks.tasks.work import Crowded, Done, Outcome, Recorded, Sliced, Work

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Result = Outcome | Blocked | WlmError


@dataclass(frozen=True)
class HandOn:
    """What the task is to do with its chain when the engine is done."""

    following: NextStep | None  #: to be sent next; None cuts the chain
    own: bool  #: whether that belongs to the message's own experiment
    poisoned: bool = False  #: the message belongs into the dead-letter queue


@dataclass(frozen=True)
class Left:
    """There was nothing to do."""

    reason: str


class Engine:
    """Works on steps for one process."""

    def __init__(self, runtime: Runtime, shown: Shown) -> None:
        self.runtime = runtime
        self._settings = runtime.settings.steps
        self._claims = runtime.store.claims
        self._shown = shown
        self._gate = Gate(runtime)
        self._heartbeat = Heartbeat(
            self._claims, every_s=self._settings.heartbeat_s, lease_s=self._settings.lease_s
        )

    def work(self, experiment_id: str, name: StepName, holder: Holder) -> HandOn | GoOn | Left:
        """Do what a message hints at: one claim and, with carry-on, those that follow.

        Raises `ServiceError` if the database stays out of reach; the message is then to be
        given back.
        """
        got = patiently(
            lambda: self._claims.claim(experiment_id, name, holder), self._settings.lease_s
        )
        if isinstance(got, Leave):
            return Left(got.reason)
        if isinstance(got, GoOn):
            return got
        expected = got.experiment_id == experiment_id and got.name == name
        return self._work_on(got, holder, expected=expected, own=experiment_id)

    def _work_on(self, claim: Claim, holder: Holder, *, expected: bool, own: str) -> HandOn:
        is_own = claim.experiment_id == own
        deadline = time.monotonic() + self._settings.slice_s
        if claim.crashes >= self._settings.poison_after:
            self._give_up(claim, crash_reason(claim.crashes))
            return HandOn(None, is_own, poisoned=is_own)
        try:
            spec = claim.spec or self._patiently(
                lambda: self.runtime.store.views.spec(claim.experiment_id)
            )
            experiment = Experiment.from_stored(spec)
        except InputError as error:
            self._give_up(claim, f"stored by another version: {error.message}")
            return HandOn(None, is_own)
        progress = self._progress(claim) if claim.attempt > 1 else {}
        while True:
            in_time = time.monotonic() < deadline
            work = Work(
                runtime=self.runtime,
                experiment=experiment,
                claim=claim,
                deadline=time.monotonic() + self._settings.slice_s,
                progress=progress,
                carry_on=holder if self._settings.carry_on and in_time else None,
                holder=holder,
                beside=partial(self._beside, holder),
                tell=partial(self._shown.progress, claim, holder, carried=not expected),
            )
            with self._shown.as_task(claim, holder, carried=not expected):
                following = self._step(work)
            if not isinstance(following, Claim):
                return HandOn(following, is_own)
            claim, expected, progress = following, False, {}

    def _patiently(self, action: Callable[[], _T]) -> _T:
        """As long as a claim may be held: giving it up would look as if its worker had died."""
        return patiently(action, self._settings.slice_s)

    def _give_up(self, claim: Claim, reason: str) -> None:
        """Fail a step without touching it."""
        try:
            self._patiently(lambda: self._claims.fail(claim, reason))
        except FencedError:
            self._fenced(claim)

    def _progress(self, claim: Claim) -> dict[str, Any]:
        """Where an earlier slice of the step stopped."""
        steps = self._patiently(lambda: self.runtime.store.views.steps(claim.experiment_id))
        return next((step.progress or {} for step in steps if step.seq == claim.seq), {})

    def _step(self, work: Work) -> NextStep | Claim | None:
        """One step from claim to record; what comes next, if it does now."""
        claim = work.claim
        try:
            with self._heartbeat.holding(claim):
                outcome = self._perform(work)
            return self._patiently(lambda: self._record(work, outcome))
        except FencedError:
            self._fenced(claim)
            return None

    def _perform(self, work: Work) -> _Result:
        """Do the work, if its site takes any now."""
        claim, site = work.claim, work.experiment.site
        if (blocked := self._patiently(lambda: self._gate.blocked(site, claim))) is not None:
            return blocked
        with self.runtime.connections.using(site) as crowded:
            if crowded:
                return Crowded(crowded, self.runtime.connections.pause_s(site))
            return self._try(work)

    @contextmanager
    def _beside(self, holder: Holder, claim: Claim) -> Iterator[None]:
        """What a step is to have that is claimed along with another."""
        with self._shown.as_task(claim, holder, carried=True), self._heartbeat.holding(claim):
            yield

    def _try(self, work: Work) -> Outcome | Blocked | WlmError:
        """Do the work; a fault comes back as the error it is."""
        claim = work.claim
        outcome: Outcome | Several | WlmError
        try:
            outcome = perform(work)
        except (FencedError, ServiceError):
            raise
        except WlmError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - a fault of ours must end in the rows, not in a lost message
            _log.exception("%s: step %s broke", claim.experiment_id, claim.name)
            outcome = PermanentError(f"unexpected {type(error).__name__}: {error}")
        if isinstance(outcome, Several):
            self._settle(outcome)
            outcome = outcome.own
        return self._heard(work, outcome)

    def _heard(self, work: Work, outcome: Outcome | WlmError) -> Outcome | Blocked | WlmError:
        """Tell the gate how it went with the step's site."""
        claim, site = work.claim, work.experiment.site
        if isinstance(outcome, FencedError | ServiceError):
            raise outcome
        if isinstance(outcome, SiteTroubleError):
            return self._patiently(lambda: self._gate.met(site, claim, outcome))
        if isinstance(outcome, WlmError | Crowded):
            return outcome
        if not isinstance(outcome, Recorded) or outcome.reached:
            self._patiently(lambda: self._gate.passed(site, claim))
        return outcome

    def _settle(self, several: Several) -> None:
        """Record the outcomes of steps that were claimed along with another.

        What is not recorded is looked for when its lease has run out. So it is with the rest if
        the database stays away: nobody waits for it once for each.
        """
        for work, outcome in several.others:
            if isinstance(outcome, ServiceError):  # has been waited for
                _log.warning("%s: not recorded: %s", work.claim.experiment_id, outcome)
                continue
            try:
                result = self._heard(work, outcome)
                self._patiently(partial(self._record, work, result))
            except FencedError:
                self._fenced(work.claim)
            except ServiceError as error:
                _log.warning("%s and after: not recorded: %s", work.claim.experiment_id, error)
                return

    def _record(self, work: Work, outcome: _Result) -> NextStep | Claim | None:
        claim = work.claim
        if isinstance(outcome, Done):
            return self._finish(work)
        if isinstance(outcome, Sliced):
            self._claims.give_back(claim, outcome.progress)
            return self._from(work, claim.name)
        if isinstance(outcome, WlmError):
            self._fault(work, outcome)
            return None
        if isinstance(outcome, Blocked):
            self._claims.hold(claim, outcome.reason)
            return None
        if isinstance(outcome, Crowded):
            self._claims.back_off(claim, outcome.reason, outcome.pause_s, tried=False)
            return None
        return outcome.following

    def _finish(self, work: Work) -> NextStep | Claim | None:
        if gathers(work):
            self._claims.finish(work.claim, carry_on=None, sent=False)
            return None
        carried = self._claims.finish(work.claim, carry_on=work.carry_on, job=self._first_job(work))
        return carried or self._after(work)

    def _fault(self, work: Work, error: WlmError) -> None:
        claim, retry = work.claim, work.experiment.retry
        _log.warning("%s: step %s: %s", claim.experiment_id, claim.name, error.message)
        if not isinstance(error, TransientError):
            self._claims.fail(claim, error.message)
        elif reason := self._hopeless(work, error):
            self._claims.pause(claim, reason)
        else:
            due_s = min(retry.backoff_s * 2**claim.tries, retry.max_backoff_s)
            self._claims.back_off(claim, error.message, due_s)

    def _hopeless(self, work: Work, error: TransientError) -> str | None:
        """Why a person is to look now, if trying again by ourselves makes no sense."""
        claim = work.claim
        if isinstance(error, JobUndecidedError):
            return verdict(self.runtime.store, claim, error, self._settings.undecided_s)
        if claim.tries + 1 < work.experiment.retry.tries:
            return None
        return f"gave up after {claim.tries + 1} tries: {error.message}"

    def _first_job(self, work: Work) -> FirstJob | None:
        """The job the next step submits, if nothing is to be counted or waited for before."""
        names, site = work.segment, work.experiment.site
        following = names[names.index(work.claim.name) + 1 :]
        if following[:1] != (StepName.SUBMIT,) or limits_of(work.site.settings):
            return None
        if not self._gate.is_open(site, StepName.SUBMIT, work.claim.experiment_id):
            return None
        return FirstJob(site=site, workdir=work.workdir)

    def _after(self, work: Work) -> NextStep | None:
        names = work.segment
        rest = names[names.index(work.claim.name) + 1 :]
        return self._from(work, rest[0]) if rest else None

    def _from(self, work: Work, name: StepName) -> NextStep:
        names = work.segment
        return NextStep(work.claim.experiment_id, names[names.index(name) :], work.claim.priority)

    def _fenced(self, claim: Claim) -> None:
        _log.warning("%s: step %s was taken over", claim.experiment_id, claim.name)
        try:
            self._claims.not_crashed(claim)
        except ServiceError as error:
            _log.warning("%s: %s", claim.experiment_id, error)

    def close(self) -> None:
        """End the heartbeat."""
        self._heartbeat.stop()


def without_redelivery(holder: Holder) -> Holder:
    """The same holder once it has taken over what its redelivered message had claimed."""
    return replace(holder, redelivered=False)
