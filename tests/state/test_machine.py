"""Random operations in random order: whatever is done, the rows fit together.

Some operations are those of late writers: they use claims that may long be lost. What they may
raise is known; what must hold after each operation is `Rows.check`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from state.invariants import MOVING, Rows
from state.world import SETUP, STAGE_IN, STAGE_OUT, SUBMIT, World, caps, holder

from wlm_tasks.errors import FencedError, IllegalTransitionError, NotFoundError
from wlm_tasks.model.states import FINAL, ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import STEP_QUEUES, StepName
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intents import Intent
from wlm_tasks.state.politeness import SiteLimits
from wlm_tasks.state.schema import metadata
from wlm_tasks.state.store import Store

MESSAGES = st.sampled_from(["m1", "m2", "m3"])
QUEUES = st.sampled_from([STEP_QUEUES, ("envsetup", "staging"), ("jobsub",), ("envsetup",)])
POISON_AFTER = 3
ENDS = [JobRecord.SUCCEEDED, JobRecord.FAILED, JobRecord.LOST, JobRecord.CANCELLED]
ES = ExperimentState


class Machine(RuleBasedStateMachine):
    """The store under operations of workers, control and owners."""

    store: Store
    ids = Bundle("ids")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        with self.store.database.write() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
        self.world = World(self.store)
        self.rows = Rows(self.store)

    @staticmethod
    def _may(act: Callable[[], Any], *errors: type[Exception]) -> Any:
        try:
            return act()
        except errors:
            return None

    # -- owners ----------------------------------------------------------------------------

    @rule(target=ids, staging=st.booleans(), priority=st.sampled_from([1, 4, 9]))
    def add(self, staging: bool, priority: int) -> str:
        return self.world.add(staging=staging, priority=priority, sent=priority == 4)

    @rule(target=ids, size=st.integers(1, 3), active=st.integers(1, 2))
    def add_sweep(self, size: int, active: int) -> Any:
        return multiple(*self.world.add_sweep(size, max_active=active)[1])

    @rule(experiment_id=ids)
    def cancel(self, experiment_id: str) -> None:
        before = self.world.state(experiment_id)
        after = self.store.intake.cancel(experiment_id)
        assert after is self.world.state(experiment_id)
        assert after is before if before in FINAL else after in (ES.CANCELLING, ES.CANCELLED)

    @rule(experiment_id=ids, name=st.sampled_from([None, *StepName]))
    def retry(self, experiment_id: str, name: StepName | None) -> None:
        before = self.world.state(experiment_id)
        done = self._may(
            lambda: self.store.intake.retry(experiment_id, name),
            IllegalTransitionError,
            NotFoundError,
        )
        assert done is None or before in {*FINAL, ES.PAUSED}
        if done is not None:
            assert self.world.step(experiment_id, done).state is StepState.READY

    # -- workers ---------------------------------------------------------------------------

    @rule(
        target=claims,
        experiment_id=ids,
        name=st.sampled_from([SETUP, STAGE_IN, SUBMIT, STAGE_OUT]),
        message=MESSAGES,
        queues=QUEUES,
        redelivered=st.booleans(),
    )
    def claim(
        self, experiment_id: str, name: StepName, message: str, queues: Any, redelivered: bool
    ) -> Any:
        asking = holder(message, queues=queues, redelivered=redelivered)
        got = self.store.claims.claim(experiment_id, name, asking)
        if not isinstance(got, Claim):
            return multiple()
        step = self.world.step(got.experiment_id, got.name)
        assert (step.state, step.epoch) == (StepState.RUNNING, got.epoch)
        return got

    def _held(self, claim: Claim) -> bool:
        step = self.world.step(claim.experiment_id, claim.name)
        return (step.state, step.epoch) == (StepState.RUNNING, claim.epoch)

    def _write(self, claim: Claim, write: Callable[[], Any]) -> Any:
        """Let a holder write; it must be refused exactly if the claim is lost."""
        held = self._held(claim)
        try:
            result = write()
        except FencedError:
            assert not held
            return None
        assert held
        return result

    @rule(target=claims, claim=claims, message=st.one_of(st.none(), MESSAGES), queues=QUEUES)
    def finish(self, claim: Claim, message: str | None, queues: Any) -> Any:
        if claim.name is SUBMIT:  # has an end of its own
            return self._submit(claim, message, queues)
        carry_on = None if message is None else holder(message, queues=queues)
        carried = self._write(claim, lambda: self.store.claims.finish(claim, carry_on=carry_on))
        assert carried is None or self._held(carried)
        return multiple() if carried is None else carried

    def _submit(self, claim: Claim, message: str | None, queues: Any) -> Any:
        intent = self._write(claim, lambda: self._intend(claim, 3))
        if not isinstance(intent, Intent):
            return multiple()
        token = intent.token
        carry_on = None if message is None else holder(message, queues=queues)
        following = self.store.jobs.submitted(claim, token, f"n-{token}", carry_on=carry_on)
        assert following is None
        return multiple()

    def _intend(self, claim: Claim, cap: int) -> Any:
        return self.store.jobs.intend(
            claim, site="alpha", workdir="/w", limits=SiteLimits(max_running=cap)
        )

    @rule(claim=claims, cap=st.integers(0, 3))
    def intend(self, claim: Claim, cap: int) -> None:
        if claim.name is SUBMIT:
            self._write(claim, lambda: self._intend(claim, cap))

    @rule(claim=claims, how=st.sampled_from(["give_back", "back_off", "pause", "fail"]))
    def stop(self, claim: Claim, how: str) -> None:
        claims = self.store.claims
        writes: dict[str, Callable[[], Any]] = {
            "give_back": lambda: claims.give_back(claim, '{"file": 1}'),
            "back_off": lambda: claims.back_off(claim, "passing", 0.0),
            "pause": lambda: claims.pause(claim, "gave up"),
            "fail": lambda: claims.fail(claim, "broken"),
        }
        self._write(claim, writes[how])

    @rule(claim=claims)
    def reject(self, claim: Claim) -> None:
        if claim.name is SUBMIT and self._held(claim):
            intent = self._intend(claim, 9)
            if isinstance(intent, Intent):
                self.store.jobs.rejected(claim, intent, "no such partition")

    @rule(claim=claims)
    def signs_of_life(self, claim: Claim) -> None:
        held = self._held(claim)
        claim.lost.clear()
        self.store.claims.renew([claim], 60.0)
        assert claim.lost.is_set() is not held
        self.store.claims.not_crashed(claim)

    @rule(target=claims, experiment_id=ids, times=st.integers(1, 4), then=st.booleans())
    def as_usual(self, experiment_id: str, times: int, then: bool) -> Any:
        """Go some steps the usual way, so that what comes late is reached, too."""
        for _ in range(times):
            ready = [s for s in self.store.views.steps(experiment_id) if s.state in MOVING]
            if not ready:
                break
            if ready[0].state is StepState.WATCHING:
                self.world.end_job(experiment_id)
            elif ready[0].state is StepState.READY:
                mine = holder("m1", queues=[ready[0].queue])
                claim = self.store.claims.claim(experiment_id, ready[0].name, mine)
                if isinstance(claim, Claim):
                    self.finish_usually(claim)
        steps_ready = self.store.upkeep.ready(1)
        if not then or not steps_ready:
            return multiple()
        first = steps_ready[0]
        got = self.store.claims.claim(first.experiment_id, first.segment[0], holder("m2"))
        return got if isinstance(got, Claim) else multiple()

    def finish_usually(self, claim: Claim) -> None:
        if claim.name is SUBMIT:
            self._submit(claim, None, ())
        else:
            self.store.claims.finish(claim, carry_on=None)

    # -- sites -----------------------------------------------------------------------------

    @rule(experiment_id=ids, state=st.sampled_from([JobRecord.RUNNING, *ENDS]), most=st.just(2))
    def report(self, experiment_id: str, state: JobRecord, most: int) -> None:
        known = self.store.views.jobs(experiment_id)
        for job in known:
            self.world.report(job.token, state, max_jobs=most)

    @rule(experiment_id=ids)
    def end_jobs(self, experiment_id: str) -> None:
        """The message of a cancel, wanted or late."""
        gone = [job.token for job in self.store.jobs.to_end(experiment_id)]
        confirmed = self.store.jobs.cancelled(experiment_id, gone)
        assert not confirmed or self.world.state(experiment_id) is ES.CANCELLED

    # -- control ---------------------------------------------------------------------------

    @rule(everybody=st.booleans())
    def time_passes(self, everybody: bool) -> None:
        self.world.sql("UPDATE steps SET due_at = due_at - 100")
        if everybody:
            self.world.sql("UPDATE steps SET lease_until = lease_until - 100")

    @rule()
    def control(self) -> None:
        upkeep = self.store.upkeep
        upkeep.wake_due()
        upkeep.expire_leases(POISON_AFTER)
        upkeep.release_held(caps(alpha=2))
        ready = upkeep.unsent(100)
        upkeep.mark_sent(ready)
        assert upkeep.unsent(100) == []
        assert all(one.segment for one in ready)
        assert self.store.upkeep.wake_due() == self.store.upkeep.expire_leases(9) == 0

    @invariant()
    def fits_together(self) -> None:
        self.rows.check()

    @invariant()
    def no_more_than_allowed(self) -> None:
        for job in self.store.upkeep.to_cancel(0.0):
            assert self.world.state(job) in {*FINAL, ES.CANCELLING}


@pytest.mark.timeout(900)
def test_whatever_is_done_the_rows_fit_together(store: Store, long_campaign: bool) -> None:
    class OnThisStore(Machine):
        pass

    OnThisStore.store = store
    run_state_machine_as_test(
        OnThisStore,
        settings=settings(
            max_examples=150 if long_campaign else 20,
            stateful_step_count=60 if long_campaign else 40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
