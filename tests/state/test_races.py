"""Many at once: threads with connections of their own, on both databases."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from state.world import MONITOR, SETUP, STAGE_IN, SUBMIT, World, holder, in_threads

from wlm_tasks.errors import FencedError
from wlm_tasks.model.states import FINAL, ExperimentState, JobRecord, StepState
from wlm_tasks.state.claims import GoOn, Leave
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intents import Held, Intent
from wlm_tasks.state.politeness import SiteLimits
from wlm_tasks.state.reports import JobReport

OPEN = {"READY", "RUNNING", "WATCHING", "BACKOFF", "HELD", "PAUSED", "WAITING"}


def _no_step_of_a_cancelled_experiment_is_open(world: World, experiment_id: str) -> None:
    state = world.state(experiment_id)
    assert state in (ExperimentState.CANCELLED, ExperimentState.CANCELLING)
    assert not OPEN & set(world.steps(experiment_id)), world.steps(experiment_id)


def _no_error(results: list[Any], *expected: type[Exception]) -> None:
    odd = [one for one in results if isinstance(one, Exception) and not isinstance(one, expected)]
    assert not odd, odd


def test_each_of_200_steps_is_claimed_by_one_of_8_threads(world: World) -> None:
    _sweep, ids = world.add_sweep(200)

    def claim_all(number: int) -> list[Claim]:
        offset = number * 25  # everybody begins elsewhere, and then meets the others
        got = [
            world.store.claims.claim(one, SETUP, holder(f"m{number}", worker=f"w{number}"))
            for one in [*ids[offset:], *ids[:offset]]
        ]
        return [one for one in got if isinstance(one, Claim)]

    results = in_threads(8, claim_all)
    _no_error(results)
    claimed = Counter(claim.experiment_id for claims in results for claim in claims)
    assert claimed == Counter(ids)
    assert all(world.step(one, SETUP).epoch == 1 for one in ids)


def test_a_message_is_never_spent_while_its_step_waits(world: World) -> None:
    """Several workers are outranked by the same step: one gets it, the others lose nothing."""
    for _ in range(10):
        urgent = world.add(priority="urgent")
        low = [world.add(priority="low") for _ in range(6)]

        def claim(number: int, low: list[str] = low) -> Claim | GoOn | Leave:
            return world.store.claims.claim(low[number], SETUP, holder(f"m{number}"))

        results = in_threads(6, claim)
        claims = [one for one in results if isinstance(one, Claim)]
        claimed = {one.experiment_id for one in claims}
        assert len(claimed) == len(claims)
        assert urgent in claimed
        for own, got in zip(low, results, strict=True):
            # what is left is in somebody's hands; what is not yet, comes after what is
            assert isinstance(got, Claim) or own in claimed, results
        for one in [urgent, *low]:
            world.store.intake.cancel(one)


def test_cancel_against_claim(world: World) -> None:
    for number in range(100):
        experiment_id = world.add()

        def act(thread: int, experiment_id: str = experiment_id, number: int = number) -> Any:
            if thread:
                return world.store.intake.cancel(experiment_id)
            return world.store.claims.claim(experiment_id, SETUP, holder(f"m{number}"))

        results = in_threads(2, act)
        _no_error(results)
        _no_step_of_a_cancelled_experiment_is_open(world, experiment_id)
        if isinstance(results[0], Claim):
            with pytest.raises(FencedError):
                world.store.claims.finish(results[0], carry_on=None)


def test_cancel_against_finish(world: World) -> None:
    for number in range(100):
        claim = world.running(SETUP)

        def act(thread: int, claim: Claim = claim, number: int = number) -> Any:
            if thread:
                return world.store.intake.cancel(claim.experiment_id)
            return world.store.claims.finish(claim, carry_on=holder() if number % 2 else None)

        _no_error(in_threads(2, act), FencedError)
        _no_step_of_a_cancelled_experiment_is_open(world, claim.experiment_id)


def test_cancel_against_the_last_finish(world: World) -> None:
    states = Counter[ExperimentState]()
    for _ in range(50):
        experiment_id, token = world.submitted(staging=False)

        def act(thread: int, experiment_id: str = experiment_id, token: str = token) -> Any:
            if thread:
                return world.store.intake.cancel(experiment_id)
            return world.report(token, JobRecord.SUCCEEDED)

        results = in_threads(2, act)
        _no_error(results)
        state = world.state(experiment_id)
        assert state is results[1]
        states[state] += 1
        if state is ExperimentState.DONE:
            assert world.steps(experiment_id) == ["DONE"] * 3
        else:
            _no_step_of_a_cancelled_experiment_is_open(world, experiment_id)
            assert world.store.jobs.cancelled(experiment_id, [token]) == (
                state is ExperimentState.CANCELLING
            )
            assert world.state(experiment_id) is ExperimentState.CANCELLED
    assert set(states) <= FINAL | {ExperimentState.CANCELLING}


def test_cancel_against_a_job_run_again(world: World) -> None:
    for _ in range(60):
        experiment_id, token = world.submitted()

        def act(thread: int, experiment_id: str = experiment_id, token: str = token) -> Any:
            if thread:
                return world.store.intake.cancel(experiment_id)
            return world.report(token, JobRecord.FAILED, max_jobs=3)

        _no_error(in_threads(2, act))
        _no_step_of_a_cancelled_experiment_is_open(world, experiment_id)


def test_cancel_against_an_intent(world: World) -> None:
    for _ in range(60):
        claim = world.running(SUBMIT)

        def act(thread: int, claim: Claim = claim) -> Any:
            if thread:
                return world.store.intake.cancel(claim.experiment_id)
            return world.intend(claim)

        token, state = in_threads(2, act)
        assert isinstance(token, str | FencedError)
        expected = ExperimentState.CANCELLING if isinstance(token, str) else (
            ExperimentState.CANCELLED
        )  # fmt: skip
        assert state is expected
        _no_step_of_a_cancelled_experiment_is_open(world, claim.experiment_id)


def test_cancel_against_resume(world: World) -> None:
    for _ in range(60):
        experiment_id = world.into(StepState.PAUSED)

        def act(thread: int, experiment_id: str = experiment_id) -> Any:
            if thread:
                return world.store.intake.cancel(experiment_id)
            return world.store.intake.retry(experiment_id)

        _no_error(in_threads(2, act))
        assert (world.state(experiment_id), world.steps(experiment_id)[0]) in [
            (ExperimentState.CANCELLED, "CANCELLED"),
            (ExperimentState.QUEUED, "READY"),
        ]


def test_take_over_against_the_old_holder(world: World) -> None:
    for number in range(60):
        old = world.running(SETUP)

        def act(thread: int, old: Claim = old, number: int = number) -> Any:
            if thread:
                again = holder("message-1", worker="w2@host", redelivered=True)
                return world.store.claims.claim(old.experiment_id, SETUP, again)
            return world.store.claims.finish(old, carry_on=None)

        finished, taken = in_threads(2, act)
        if isinstance(finished, FencedError):
            assert isinstance(taken, Claim)
            assert taken.epoch == old.epoch + 1
            world.store.claims.finish(taken, carry_on=None)
        else:
            assert finished is None
            assert taken == GoOn(STAGE_IN)
        assert world.steps(old.experiment_id)[:2] == ["DONE", "READY"]


def test_a_sites_cap_holds_against_8_submitters(world: World) -> None:
    claims = [world.running(SUBMIT) for _ in range(8)]

    def intend(number: int) -> Intent | Held:
        return world.store.jobs.intend(
            claims[number], site="alpha", workdir="/w", limits=SiteLimits(max_running=3)
        )

    results = in_threads(8, intend)
    assert sum(isinstance(one, Intent) for one in results) == 3, results
    assert sum(isinstance(one, Held) for one in results) == 5, results


def test_an_end_is_recorded_by_one_of_two_polls(world: World) -> None:
    jobs = [world.submitted() for _ in range(20)]
    tokens = [token for _id, token in jobs]

    def record(number: int) -> Any:
        order = tokens if number else tokens[::-1]
        return world.store.jobs.record(
            [JobReport(token=token, state=JobRecord.SUCCEEDED) for token in order]
        )

    results = in_threads(4, record)
    _no_error(results)
    led_on = Counter(step.experiment_id for steps in results for step in steps)
    assert led_on == Counter(experiment_id for experiment_id, _token in jobs)
    assert all(world.step(one, MONITOR).state is StepState.DONE for one, _token in jobs)


def test_two_controls_expire_and_wake_each_step_once(world: World) -> None:
    silent = [world.into(StepState.RUNNING) for _ in range(10)]
    backed = [world.into(StepState.BACKOFF) for _ in range(10)]
    world.sql("UPDATE steps SET lease_until = 0, due_at = 0")
    results = in_threads(
        4, lambda _n: (world.store.upkeep.expire_leases(9), world.store.upkeep.wake_due())
    )
    _no_error(results)
    assert sum(one[0] for one in results) == sum(one[1] for one in results) == 10
    assert {world.step(one, SETUP).crashes for one in silent} == {1}
    assert {world.step(one, SETUP).state for one in [*silent, *backed]} == {StepState.READY}


def test_one_of_8_threads_holds_a_lease(world: World) -> None:
    acquire = world.store.coordination.acquire
    results = in_threads(8, lambda number: acquire("dispatch", f"h{number}", 30.0))
    assert sorted(results) == [False] * 7 + [True]
    assert world.store.coordination.holders() == {"dispatch": f"h{results.index(True)}"}


def test_a_sweeps_limit_holds_against_8_releases(world: World) -> None:
    _sweep, members = world.add_sweep(8, max_active=2)
    world.sql("UPDATE steps SET state = 'HELD' WHERE seq = 0")
    in_threads(8, lambda _number: world.store.upkeep.release_held({}))
    states = [world.steps(member)[0] for member in members]
    assert states.count("READY") == 2, states
