"""The step engine: claim, do, record; carry on or hand on.

A message is a hint that a step is ready. The engine claims the step (or what ought to come
first), does its work through `perform`, and records the outcome. What it holds is a claim with an
epoch; whoever holds a newer one makes its writes fail, and it leaves without harm.

Steps that take a moment only are claimed several at a time, and go the rest of their way side by
side: `batch` says why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from wlm_tasks.errors import (
    FencedError,
    InputError,
    PermanentError,
    ServiceError,
    SiteTroubleError,
    WlmError,
)
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.steps import StepName
from wlm_tasks.runtime import Runtime
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.claims import GoOn, Leave
from wlm_tasks.state.holders import Claim, Holder
from wlm_tasks.state.upkeep import crash_reason
from wlm_tasks.tasks.ahead import DONE_AHEAD
from wlm_tasks.tasks.batch import Batch, Pace, Relief
from wlm_tasks.tasks.gate import Gate
from wlm_tasks.tasks.heartbeat import Heartbeat
from wlm_tasks.tasks.patience import patiently
from wlm_tasks.tasks.recorder import Recorder, Result
from wlm_tasks.tasks.shown import Shown
from wlm_tasks.tasks.submitting import Several, perform
from wlm_tasks.tasks.work import Crowded, Done, Handed, Outcome, Recorded, Sliced, Work

_log = logging.getLogger(__name__)
#: Seconds for which it is believed that nothing more urgent waits for steps that are claimed.
_BELIEVED_S: Final = 0.005
#: Seconds after which a round that goes slower than expected ends.
_ROUND_S: Final = 0.05


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


Send = Callable[[Sequence[NextStep]], None]


class Engine:
    """Works on steps for one process."""

    def __init__(self, runtime: Runtime, shown: Shown, send: Send) -> None:
        """Chains of other experiments than a message's own go out by `send`."""
        self.runtime = runtime
        self._send = send
        self._settings = runtime.settings.steps
        self._claims = runtime.store.claims
        self._batches = runtime.store.batches
        self._shown = shown
        self._gate = Gate(runtime)
        self._recorder = Recorder(runtime, self._gate)
        self._patiently = self._recorder.patiently
        self._pace = Pace(self._settings.batch)
        self._relief = Relief(self._relieve)
        self._heartbeat = Heartbeat(
            self._claims, every_s=self._settings.heartbeat_s, lease_s=self._settings.lease_s
        )

    def work(self, experiment_id: str, name: StepName, holder: Holder) -> HandOn | GoOn | Left:
        """Do what a message hints at: one claim and, with carry-on, those that follow.

        Raises `ServiceError` if the database stays out of reach; the message is then to be
        given back.
        """
        if not holder.redelivered and DONE_AHEAD.take(experiment_id, name):
            return Left("the step was done along with another")
        asked = time.monotonic()
        got = patiently(
            lambda: self._claims.claim(experiment_id, name, holder), self._settings.lease_s
        )
        if isinstance(got, Leave):
            return Left(got.reason)
        if isinstance(got, GoOn):
            return got
        expected = got.experiment_id == experiment_id and got.name == name
        is_own = got.experiment_id == experiment_id
        if got.crashes >= self._settings.poison_after:
            self._give_up(got, crash_reason(got.crashes))
            return HandOn(None, is_own, poisoned=is_own)
        lead = self._work(got, holder, carried=not expected)
        if lead is None:
            return HandOn(None, is_own)
        return HandOn(self._go([lead, *self._company(lead)], asked), is_own)

    def _work(self, claim: Claim, holder: Holder, *, carried: bool) -> Work | None:
        """What the work of a claimed step needs; None if it cannot be read, which is its end."""
        try:
            spec = claim.spec or self._patiently(
                lambda: self.runtime.store.views.spec(claim.experiment_id)
            )
            experiment = Experiment.from_stored(spec)
        except InputError as error:
            self._give_up(claim, f"stored by another version: {error.message}")
            return None
        return Work(
            runtime=self.runtime,
            experiment=experiment,
            claim=claim,
            deadline=time.monotonic() + self._settings.slice_s,
            progress=self._progress(claim) if claim.attempt > 1 else {},
            carry_on=holder if self._settings.carry_on else None,
            holder=holder,
            beside=partial(self._beside, holder),
            tell=partial(self._shown.progress, claim, holder, carried=carried),
            carried=carried,
        )

    def _give_up(self, claim: Claim, reason: str) -> None:
        """Fail a step without touching it."""
        try:
            self._patiently(lambda: self._claims.fail(claim, reason))
        except FencedError:
            self._recorder.fenced(claim)

    def _progress(self, claim: Claim) -> dict[str, Any]:
        """Where an earlier slice of the step stopped."""
        steps = self._patiently(lambda: self.runtime.store.views.steps(claim.experiment_id))
        return next((step.progress or {} for step in steps if step.seq == claim.seq), {})

    # -- several steps at once -------------------------------------------------------------

    def _company(self, lead: Work) -> list[Work]:
        """Others that wait for the same, claimed along, if all of them take a moment only."""
        claim, site, holder = lead.claim, lead.experiment.site, lead.holder
        most = self._room(lead, claim.name) - 1
        # what may be killing its workers, or tries out a site, does so alone
        if most < 1 or claim.crashes or self._settings.poison_after == 1:
            return []
        if not self._patiently(lambda: self._gate.is_open(site, claim.name, "")):
            return []
        claims = self._patiently(lambda: self._batches.claim_like(claim, holder, site, most))
        works = [self._work(one, holder, carried=True) for one in claims]
        return [work for work in works if work is not None]

    def _room(self, work: Work, name: StepName) -> int:
        """How many steps of a name may be in one slot's hands, on a step's site."""
        if name is StepName.SUBMIT and work.site.backend.batch > 1:
            return 1  # these the site takes together
        return self._pace.room(work.experiment.site, name)

    def _go(self, works: Sequence[Work], looked: float) -> NextStep | None:
        """Go with steps as far as this slot does; what the first one's experiment is to send.

        `looked` is when it was last seen that nothing more urgent waits.
        """
        lead, own = works[0].claim.experiment_id, None
        end = time.monotonic() + self._settings.slice_s
        ahead = frozenset(work.claim.experiment_id for work in works[1:])
        while works:
            batch = Batch(works)
            with self._heartbeat.holding(*(work.claim for work in works)):
                self._perform_all(batch, looked)
            results = self._some_carry_on(batch.take_done(), in_time=time.monotonic() < end)
            looked = time.monotonic()
            following = self._recorder.record(results)
            _remember(ahead, results)
            sent = {step.experiment_id: step for step in following if isinstance(step, NextStep)}
            own = sent.pop(lead, own)
            self._send(list(sent.values()))
            works = [
                self._onward(work, claim)
                for (work, _), claim in zip(results, following, strict=True)
                if isinstance(claim, Claim)
            ]
            ahead = frozenset()
        return own

    def _onward(self, work: Work, claim: Claim) -> Work:
        """The work of the next step of the same experiment."""
        return replace(
            work,
            claim=claim,
            deadline=time.monotonic() + self._settings.slice_s,
            progress={},
            tell=partial(self._shown.progress, claim, work.holder, carried=True),
            told=set(),
            carried=True,
        )

    def _some_carry_on(
        self, results: Sequence[tuple[Work, Result]], *, in_time: bool
    ) -> list[tuple[Work, Result]]:
        """Let as many go on here as there is room for; the others any worker may take."""
        room: dict[tuple[str, StepName | None], int] = {}
        some: list[tuple[Work, Result]] = []
        for work, result in results:
            name = work.following
            kind = work.experiment.site, name
            left = room.get(kind, self._room(work, name) if name is not None else 1)
            room[kind] = left - 1
            goes_on = in_time and left > 0
            some.append((work if goes_on else replace(work, carry_on=None), result))
        return some

    def _perform_all(self, batch: Batch, looked: float) -> None:
        """Do the work of all, unless something more urgent or a slow one comes in between."""
        begun = time.monotonic()
        with self._relief.watching(batch):
            try:
                while (work := batch.next()) is not None:
                    now = time.monotonic()
                    if batch.size > 1 and now - looked > _BELIEVED_S:
                        looked = now
                        if self._is_outranked(work):
                            batch.put_back(work)
                            self._let_go(batch)
                            return
                    self._do(batch, work)
                    if time.monotonic() - begun > _ROUND_S or self.runtime.stopping.is_set():
                        self._let_go(batch)
            except Exception:
                with suppress(ServiceError):  # what others have done is not lost by that
                    self._relieve(batch)
                raise

    def _is_outranked(self, work: Work) -> bool:
        claim, holder = work.claim, work.holder
        return self._patiently(lambda: self._batches.is_outranked(claim, holder))

    def _do(self, batch: Batch, work: Work) -> None:
        claim, begun = work.claim, time.monotonic()
        if claim.lost.is_set():
            self._recorder.fenced(claim)
            return
        try:
            with self._shown.as_task(claim, work.holder, carried=work.carried):
                result = self._perform(work)
        except FencedError:
            self._recorder.fenced(claim)
            return
        if isinstance(result, Done | Handed | Sliced):  # the others may not have done any work
            self._pace.took(work.experiment.site, claim.name, time.monotonic() - begun)
        batch.did(work, result)

    def _let_go(self, batch: Batch) -> None:
        """Give back what is not begun."""
        with batch.taking_waiting() as waiting:
            if not waiting:
                return
            claims = [work.claim for work in waiting]
            lost = self._patiently(lambda: self._batches.let_go(claims, "not begun by who had it"))
        for claim in lost:
            self._recorder.fenced(claim)
        self.runtime.wake()

    def _relieve(self, batch: Batch) -> None:
        """Record and give back what waits for a slow step."""
        with batch.taking_done() as done:
            here = [(replace(work, carry_on=None), result) for work, result in done]
            following = self._recorder.record(here)
        self._send([step for step in following if isinstance(step, NextStep)])
        self._let_go(batch)

    # -- one step --------------------------------------------------------------------------

    def _perform(self, work: Work) -> Result:
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

    def _try(self, work: Work) -> Result:
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

    def _heard(self, work: Work, outcome: Outcome | WlmError) -> Result:
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
                self._recorder.record([(work, self._heard(work, outcome))])
            except FencedError:
                self._recorder.fenced(work.claim)
            except ServiceError as error:
                _log.warning("%s and after: not recorded: %s", work.claim.experiment_id, error)
                return

    def close(self) -> None:
        """End the threads."""
        self._relief.stop()
        self._heartbeat.stop()


def _remember(ahead: Set[str], results: Sequence[tuple[Work, Result]]) -> None:
    """Messages are still to come of steps that were done along with another."""
    for work, result in results:
        if work.claim.experiment_id in ahead and isinstance(result, Done | Handed):
            DONE_AHEAD.add(work.claim.experiment_id, work.claim.name)


def without_redelivery(holder: Holder) -> Holder:
    """The same holder once it has taken over what its redelivered message had claimed."""
    return replace(holder, redelivered=False)
