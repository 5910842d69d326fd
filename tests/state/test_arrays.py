"""Members of a sweep that are claimed together to be submitted in one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from state.rig import Rig
from state.world import SETUP, STAGE_IN, SUBMIT, World, holder, in_threads

from wlm_tasks.errors import (
    FencedError,
    JobRejectedError,
    JobUndecidedError,
    ServiceError,
    SiteUnreachableError,
)
from wlm_tasks.model.states import ExperimentState, JobRecord, StepState
from wlm_tasks.state.arrays import Company, Member
from wlm_tasks.state.claims import Leave
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intents import Held
from wlm_tasks.state.politeness import NO_LIMIT, SiteLimits
from wlm_tasks.tasks import patience, submitting


def company(most: int = 100, limits: SiteLimits = NO_LIMIT, **how: Any) -> Company:
    return Company(
        site=how.pop("site", "alpha"),
        workdir=lambda experiment_id: f"/scratch/{experiment_id}",
        limits=limits,
        most=most,
        alike=how.pop("alike", lambda _spec: True),
    )


def waiting(world: World, count: int, **fields: Any) -> list[str]:
    """Members of a sweep whose submits are ready, and were sent."""
    _sweep, ids = world.add_sweep(count, **fields)
    for experiment_id in ids:
        world.until(experiment_id, SUBMIT)
    return ids


def together(world: World, experiment_id: str, asked: Company | None = None) -> list[Member]:
    claim = world.claim(experiment_id, SUBMIT, message=f"m-{experiment_id}")
    mine = holder(f"m-{experiment_id}")
    members = world.store.arrays.intend(claim, mine, asked or company())
    assert isinstance(members, list), members
    return members


def ids_of(members: Sequence[Member]) -> list[str]:
    return [member.claim.experiment_id for member in members]


def test_all_that_wait_get_a_place_in_one_array(world: World) -> None:
    ids = waiting(world, 5)
    members = together(world, ids[2])
    assert ids_of(members) == [ids[2], ids[0], ids[1], ids[3], ids[4]]
    places = [member.intent.array for member in members]
    assert [place and place.index for place in places] == [0, 1, 2, 3, 4]
    [name] = {place.name for place in places if place is not None}
    for place, member in zip(places, members, strict=True):
        assert member.intent.first
        [job] = world.store.views.jobs(member.claim.experiment_id)
        assert (job.state, job.array, job.token) == (
            JobRecord.INTENT,
            place,
            member.intent.token,
        )
        assert job.workdir == f"/scratch/{member.claim.experiment_id}"
        assert world.step(member.claim.experiment_id, SUBMIT).state is StepState.RUNNING
        assert member.claim.attempt == 1
    assert name.startswith("wlm-array-")
    # their own messages find them claimed
    late = world.store.claims.claim(ids[0], SUBMIT, holder("another"))
    assert late == Leave("the step is RUNNING")
    # and the site is asked for them by their places
    world.store.jobs.submitted(members[1].claim, members[1].intent.token, "7_1")
    [live] = world.store.jobs.live("alpha")
    assert (live.native_id, live.array) == ("7_1", places[1])


def test_one_that_is_alone_has_no_array(world: World) -> None:
    [only, _later] = world.add_sweep(2)[1]
    world.until(only, SUBMIT)
    [member] = together(world, only)
    assert member.intent.array is None
    experiment_id = world.add()
    world.until(experiment_id, SUBMIT)
    waiting(world, 2)
    assert len(together(world, experiment_id)) == 1


def test_no_more_than_asked_for_and_only_those_alike(world: World) -> None:
    ids = waiting(world, 6)
    assert ids_of(together(world, ids[0], company(3))) == ids[:3]
    assert ids_of(together(world, ids[3], company(alike=lambda _spec: False))) == [ids[3]]
    other = waiting(world, 2)
    assert ids_of(together(world, ids[4])) == ids[4:]  # never of another sweep
    assert world.step(other[0], SUBMIT).state is StepState.READY


def test_who_has_a_job_or_met_trouble_goes_alone(world: World) -> None:
    ids = waiting(world, 5)
    claims = world.store.claims
    world.intend(claim := world.claim(ids[1], SUBMIT))  # its worker lost its way
    claims.give_back(claim)
    claims.back_off(world.claim(ids[2], SUBMIT), "passing", 20.0)
    world.store.intake.cancel(ids[3])
    world.sql("UPDATE steps SET crashes = 1 WHERE experiment_id = :e", e=ids[4])
    assert ids_of(together(world, ids[0])) == [ids[0]]
    # and nobody is taken along by it
    more = waiting(world, 2)
    assert ids_of(together(world, ids[1])) == [ids[1]]
    assert world.step(more[0], SUBMIT).state is StepState.READY


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        (SiteLimits(max_running=3), 3),
        (SiteLimits(max_queued=4), 4),
        (SiteLimits(submit_per_s=2.0), 2),
    ],
)
def test_limits_hold_for_each(world: World, limits: SiteLimits, count: int) -> None:
    ids = waiting(world, 6)
    assert ids_of(together(world, ids[0], company(limits=limits))) == ids[:count]
    states = Counter(world.step(one, SUBMIT).state for one in ids)
    assert states == {StepState.RUNNING: count, StepState.HELD: 1, StepState.READY: 5 - count}
    assert world.step(ids[count], SUBMIT).state is StepState.HELD
    assert world.job_states(ids[count]) == []


def test_without_a_place_for_the_first_none_goes(world: World) -> None:
    ids = waiting(world, 3)
    full = company(limits=SiteLimits(max_running=0))
    mine = holder()
    got = world.store.arrays.intend(world.claim(ids[0], SUBMIT), mine, full)
    assert isinstance(got, Held)
    assert world.step(ids[1], SUBMIT).state is StepState.READY


def test_what_is_urgent_is_not_overtaken(world: World) -> None:
    ids = waiting(world, 3)
    claim = world.claim(ids[0], SUBMIT)
    urgent = world.add(priority="urgent")
    members = world.store.arrays.intend(claim, holder(), company())
    assert isinstance(members, list)
    assert ids_of(members) == [ids[0]]
    assert world.step(urgent, SETUP).state is StepState.READY


def test_on_a_paused_site_nobody_is_taken_along(world: World) -> None:
    ids = waiting(world, 3)
    claim = world.claim(ids[0], SUBMIT)
    assert world.store.sites.pause("alpha", who="ada", reason=None)
    members = world.store.arrays.intend(claim, holder(), company())
    assert isinstance(members, list)
    assert ids_of(members) == [ids[0]]


def test_a_lost_claim_takes_nobody_along(world: World) -> None:
    ids = waiting(world, 3)
    claim = world.claim(ids[0], SUBMIT, message="m")
    world.claim(ids[0], SUBMIT, message="m", redelivered=True)
    with pytest.raises(FencedError):
        world.store.arrays.intend(claim, holder("m"), company())
    assert world.step(ids[1], SUBMIT).state is StepState.READY


def test_two_workers_never_claim_one_member_twice(world: World) -> None:
    ids = waiting(world, 24)

    def work(number: int) -> list[str]:
        mine = holder(f"m{number}", worker=f"w{number}@host")
        taken: list[str] = []
        for experiment_id in ids[number::4]:
            claim = world.store.claims.claim(experiment_id, SUBMIT, mine)
            if isinstance(claim, Claim):
                members = world.store.arrays.intend(claim, mine, company(5))
                assert isinstance(members, list)
                taken += ids_of(members)
        return taken

    taken = Counter(one for found in in_threads(4, work) for one in found)
    assert taken == Counter(ids)
    assert all(world.job_states(one) == [JobRecord.INTENT] for one in ids)
    places = [world.store.views.jobs(one)[0].array for one in ids]
    known = [place for place in places if place is not None]
    assert len(set(known)) == len(known)


def test_a_message_that_comes_again_gives_each_back(world: World) -> None:
    ids = waiting(world, 4)
    members = together(world, ids[0])
    again = world.store.claims.claim(
        ids[0], SUBMIT, holder(f"m-{ids[0]}", worker="w2@host", redelivered=True)
    )
    assert isinstance(again, Claim)
    assert again.crashes == 1
    others = [one for one in ids if one != again.experiment_id]
    for experiment_id in others:
        step = world.step(experiment_id, SUBMIT)
        assert (step.state, step.sent_at, step.reason) == (StepState.READY, None, "its worker died")
    for member in members:
        with pytest.raises(FencedError):
            world.store.jobs.submitted(member.claim, member.intent.token, "7_1")
    # each goes on alone and knows where to look
    claim = world.claim(others[0], SUBMIT, message="own")
    alone = world.store.arrays.intend(claim, holder("own"), company())
    assert isinstance(alone, list)
    [member] = alone
    assert not member.intent.first
    assert (
        member.intent.array == {m.claim.experiment_id: m.intent.array for m in members}[others[0]]
    )


# -- the engine --------------------------------------------------------------------------------


def sweep(rig: Rig, count: int, **fields: Any) -> list[str]:
    rig.fake.batch = 10
    _sweep, ids = rig.world.add_sweep(count, staging=False, **fields)
    return ids


def calls(rig: Rig) -> list[str]:
    return [name for name, _token in rig.fake.calls if name.startswith("submit")]


def test_members_wait_for_one_another_and_go_in_one_call(rig: Rig) -> None:
    ids = sweep(rig, 12)
    rig.work()  # set-ups; nobody carries on
    assert calls(rig) == []
    assert {rig.world.step(one, SUBMIT).state for one in ids} == {StepState.READY}
    assert rig.work() == 12
    assert calls(rig) == ["submit_many", *["submit"] * 10, "submit_many", *["submit"] * 2]
    rig.poll()
    assert {rig.world.state(one) for one in ids} == {ExperimentState.DONE}
    assert len(rig.fake.jobs) == 12


def test_an_experiment_of_its_own_carries_on(rig: Rig) -> None:
    rig.fake.batch = 10
    experiment_id = rig.add()
    rig.work()
    assert calls(rig) == ["submit"]
    assert rig.world.job_states(experiment_id) == [JobRecord.PENDING]


def test_one_by_one_where_the_site_takes_no_more(rig: Rig) -> None:
    sweep(rig, 3)
    rig.fake.batch = 1
    rig.work()
    assert calls(rig) == ["submit"] * 3


@pytest.mark.parametrize("lost", [False, True])
def test_a_call_that_fails_leaves_each_to_itself(rig: Rig, lost: bool) -> None:
    ids = sweep(rig, 4)
    rig.work()
    error = JobUndecidedError("who knows")
    (rig.fake.lose_answer if lost else rig.fake.fail)("submit_many", error)
    rig.work()
    for experiment_id in ids:
        step = rig.world.step(experiment_id, SUBMIT)
        assert (step.state, step.tries) == (StepState.BACKOFF, 1)
    rig.world.sql("UPDATE steps SET due_at = 0 WHERE due_at IS NOT NULL")
    rig.duties.wake()
    rig.fake.calls.clear()
    rig.work()
    assert calls(rig) == ["submit"] * 4
    assert len(rig.fake.jobs) == 4
    assert all(len(rig.world.job_states(one)) == 1 for one in ids)


def test_each_has_its_own_answer(rig: Rig) -> None:
    ids = sweep(rig, 3)
    rig.work()
    rig.fake.fail("submit", JobRejectedError("no such thing"))
    rig.work()
    rig.poll()
    states = {one: rig.world.state(one) for one in ids}
    assert sorted(states.values()) == ["DONE", "DONE", "FAILED"]
    [failed] = [one for one in ids if states[one] is ExperimentState.FAILED]
    assert rig.world.job_states(failed) == [JobRecord.REJECTED]


def test_trouble_of_the_site_holds_all(rig: Rig) -> None:
    ids = sweep(rig, 3)
    rig.work()
    rig.fake.fail("submit_many", SiteUnreachableError("no route"))
    rig.work()
    assert {rig.world.step(one, SUBMIT).state for one in ids} == {StepState.HELD}
    assert len(rig.changes()) == 1


def test_a_member_taken_over_meanwhile_does_no_harm(rig: Rig) -> None:
    ids = sweep(rig, 3)
    rig.work()

    def cancel(method: str, token: str, call: Any = rig.fake.call) -> None:
        if method == "submit_many":
            rig.world.store.intake.cancel(ids[1])
        call(method, token)

    rig.fake.call = cancel  # type: ignore[method-assign]
    rig.work()
    states = [rig.world.state(one) for one in ids]
    assert states[1] is ExperimentState.CANCELLING
    assert rig.world.job_states(ids[1]) == [JobRecord.INTENT]
    rig.duties.cancel()
    assert [rig.world.job_states(one) for one in (ids[0], ids[2])] == [[JobRecord.PENDING]] * 2


class Clock:
    """Stands still but for who sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("taken", [True, False])
def test_a_database_that_is_away_is_waited_for_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    ids = sweep(rig, 8)
    rig.work()
    if not taken:
        rig.fake.fail("submit_many", JobUndecidedError("who knows"))
    clock, store = Clock(), rig.world.store

    def away(*_args: Any, **_more: Any) -> None:
        raise ServiceError("the database is away")

    with monkeypatch.context() as patch:
        for module in (patience, submitting):
            patch.setattr(module, "time", clock)
        patch.setattr(store.jobs, "submitted", away)
        patch.setattr(store.claims, "back_off", away)
        rig.duties.dispatch()
        with pytest.raises(ServiceError):
            rig.engine.work(ids[0], SUBMIT, holder())
    # for what was claimed along, and for the step that took them along
    assert clock.now <= 2 * rig.app.settings.steps.slice_s
    # and when the leases have run out each is looked for
    rig.world.sql("UPDATE steps SET lease_until = 0 WHERE lease_until IS NOT NULL")
    rig.duties.expire()
    rig.work()
    rig.poll()
    assert {rig.world.state(one) for one in ids} == {ExperimentState.DONE}
    assert len(rig.fake.jobs) == 8


def test_staging_before_is_waited_for(world: World) -> None:
    ids = waiting(world, 2)
    third = world.add_sweep(1)[1][0]
    world.until(third, STAGE_IN)
    assert ids_of(together(world, ids[0])) == ids
