"""The books on jobs: one token per job, evidence once, caps."""

from __future__ import annotations

import time
from typing import Any

import pytest
from state.world import MONITOR, STAGE_IN, STAGE_OUT, SUBMIT, World, caps, holder

from wlm_tasks.errors import FencedError
from wlm_tasks.model.states import ExperimentState, JobRecord, StepState
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intents import FirstJob, Held, Intent
from wlm_tasks.state.politeness import SiteLimits
from wlm_tasks.state.reports import JobReport

ENDED = [JobRecord.SUCCEEDED, JobRecord.FAILED, JobRecord.CANCELLED, JobRecord.LOST]


def test_the_token_is_the_same_until_its_job_has_ended(world: World) -> None:
    claim = world.running(SUBMIT)
    token = world.intend(claim)
    assert token == f"wlm-{claim.experiment_id.removeprefix('exp-')}-1"
    assert world.intend(claim) == token
    again = world.store.claims.claim(claim.experiment_id, SUBMIT, holder(redelivered=True))
    assert isinstance(again, Claim)
    assert world.intend(again) == token
    assert world.job_states(claim.experiment_id) == [JobRecord.INTENT]


@pytest.mark.parametrize("end", ENDED)
def test_a_job_that_ended_leaves_its_token_alone(world: World, end: JobRecord) -> None:
    experiment_id, token = world.submitted()
    world.end_job(experiment_id, end)
    if end is JobRecord.SUCCEEDED:
        world.store.claims.fail(world.claim(experiment_id, STAGE_OUT), "refused")
    world.store.intake.retry(experiment_id, SUBMIT)
    second = world.submit(experiment_id)
    assert second == token[:-1] + "2"
    assert world.job_states(experiment_id) == [end, JobRecord.PENDING]


def test_the_workdir_and_site_are_noted(world: World) -> None:
    claim = world.running(SUBMIT)
    token = world.intend(claim, site="beta")
    [job] = world.store.views.jobs(claim.experiment_id)
    assert (job.token, job.site, job.native_id) == (token, "beta", None)
    assert job.workdir == f"/scratch/{claim.experiment_id}"


def test_no_more_than_the_site_may_run(world: World) -> None:
    claims = [world.running(SUBMIT) for _ in range(4)]
    world.intend(claims[0], max_running=2)
    world.intend(claims[1], max_running=2)
    world.intend(claims[2], site="beta", max_running=1)  # another site's
    got = world.store.jobs.intend(
        claims[3], site="alpha", workdir="/w", limits=SiteLimits(max_running=2)
    )
    assert got == Held("site alpha: runs as many jobs as it may (2)")
    step = world.step(claims[3].experiment_id, SUBMIT)
    assert (step.state, step.reason, step.sent_at) == (StepState.HELD, got.reason, None)
    assert world.job_states(claims[3].experiment_id) == []
    assert world.store.upkeep.expire_leases(1) == 0
    assert world.intend(claims[0], max_running=1) == world.intend(claims[0])  # has its token


def test_a_free_slot_is_for_the_most_urgent_that_waits(world: World) -> None:
    experiment_id, _token = world.submitted()
    urgent = world.running(SUBMIT, priority="urgent")
    low = world.running(SUBMIT, priority="low")
    jobs = world.store.jobs
    assert isinstance(
        jobs.intend(urgent, site="alpha", workdir="/w", limits=SiteLimits(max_running=1)), Held
    )
    world.end_job(experiment_id)
    assert isinstance(
        jobs.intend(low, site="alpha", workdir="/w", limits=SiteLimits(max_running=1)), Held
    )
    assert world.store.upkeep.release_held(caps(alpha=1)) == 1
    assert world.step(urgent.experiment_id, SUBMIT).state is StepState.READY
    assert world.step(low.experiment_id, SUBMIT).state is StepState.HELD


@pytest.mark.parametrize(("priority", "goes"), [("low", False), ("high", False), ("urgent", True)])
def test_nor_of_one_as_urgent_that_waits(world: World, priority: str, goes: bool) -> None:
    other = world.running(SUBMIT, priority="high")
    claim = world.running(SUBMIT, priority=priority)
    jobs = world.store.jobs
    assert isinstance(
        jobs.intend(other, site="alpha", workdir="/w", limits=SiteLimits(max_running=0)), Held
    )
    got = jobs.intend(claim, site="alpha", workdir="/w", limits=SiteLimits(max_running=1))
    assert isinstance(got, Intent) is goes


def test_the_site_has_the_job(world: World) -> None:
    claim = world.running(SUBMIT)
    token = world.intend(claim)
    assert world.store.jobs.live("alpha") == []  # nobody asks a site about what it may not have
    assert world.store.jobs.submitted(claim, token, "4711") is None
    assert world.steps(claim.experiment_id)[2:] == ["DONE", "WATCHING", "WAITING"]
    assert world.state(claim.experiment_id) is ExperimentState.SUBMITTED
    [job] = world.store.jobs.live("alpha")
    assert (job.token, job.native_id, job.state) == (token, "4711", JobRecord.PENDING)
    assert job.workdir == f"/scratch/{claim.experiment_id}"
    assert world.store.jobs.live("beta") == []
    assert world.store.jobs.live("alpha", ["wlm-other-1"]) == []
    assert world.store.jobs.live("alpha", [token]) == [job]


def test_a_site_that_knows_the_end_at_once(world: World) -> None:
    claim = world.running(SUBMIT)
    token = world.intend(claim)
    report = JobReport(token=token, state=JobRecord.SUCCEEDED, exit_code=0)
    following = world.store.jobs.submitted(claim, token, "n", report=report)
    assert following == NextStep(claim.experiment_id, (STAGE_OUT,), claim.priority)
    assert world.steps(claim.experiment_id)[2:] == ["DONE", "DONE", "READY"]


def test_and_its_submitter_may_carry_on(world: World) -> None:
    claim = world.running(SUBMIT)
    token = world.intend(claim)
    report = JobReport(token=token, state=JobRecord.SUCCEEDED, exit_code=0)
    carried = world.store.jobs.submitted(claim, token, "n", report=report, carry_on=holder())
    assert isinstance(carried, Claim)
    assert carried.name is STAGE_OUT


@pytest.mark.parametrize("why", ["not served", "outranked"])
def test_or_may_not(world: World, why: str) -> None:
    claim = world.running(SUBMIT, priority="low")
    token = world.intend(claim)
    queues = ["jobsub"] if why == "not served" else ["jobsub", "staging", "envsetup"]
    if why == "outranked":
        world.add(priority="high")
    following = world.store.jobs.submitted(
        claim,
        token,
        "n",
        report=JobReport(token=token, state=JobRecord.SUCCEEDED),
        carry_on=holder(queues=queues),
    )
    assert following == NextStep(claim.experiment_id, (STAGE_OUT,), 1)
    assert world.step(claim.experiment_id, STAGE_OUT).state is StepState.READY


def test_an_experiment_without_outputs_is_done_with_its_job(world: World) -> None:
    experiment_id, token = world.submitted(staging=False)
    assert world.report(token, JobRecord.SUCCEEDED, exit_code=0) == []
    view = world.store.views.experiment(experiment_id)
    assert view.state is ExperimentState.DONE
    assert view.ended_at is not None


def test_a_running_job_makes_its_experiment_run(world: World) -> None:
    experiment_id, token = world.submitted()
    assert world.report(token, JobRecord.RUNNING, started_at=12.5) == []
    assert world.state(experiment_id) is ExperimentState.RUNNING
    assert world.store.views.jobs(experiment_id)[0].started_at == 12.5
    assert world.report(token, JobRecord.RUNNING, started_at=99.0) == []
    assert world.log(experiment_id).count((None, "RUNNING")) == 1
    world.report(token, JobRecord.SUCCEEDED)
    assert world.store.views.jobs(experiment_id)[0].started_at == 12.5


@pytest.mark.parametrize("end", ENDED)
def test_an_end_is_recorded_once(world: World, end: JobRecord) -> None:
    experiment_id, token = world.submitted()
    ready = world.report(token, end, exit_code=7, ended_at=50.0, reason="as it is")
    expected = [NextStep(experiment_id, (STAGE_OUT,), 4)] if end is JobRecord.SUCCEEDED else []
    assert ready == expected
    before = (world.store.views.steps(experiment_id), world.log(experiment_id))
    for other in (*ENDED, JobRecord.RUNNING, JobRecord.PENDING):
        assert world.report(token, other, max_jobs=9) == []
    assert (world.store.views.steps(experiment_id), world.log(experiment_id)) == before
    [job] = world.store.views.jobs(experiment_id)
    assert (job.state, job.exit_code, job.ended_at, job.reason) == (end, 7, 50.0, "as it is")


@pytest.mark.parametrize("end", ENDED[1:])
def test_a_job_that_went_wrong_ends_the_experiment(world: World, end: JobRecord) -> None:
    experiment_id, token = world.submitted()
    world.report(token, end)
    view = world.store.views.experiment(experiment_id)
    assert (view.state, view.reason) == (ExperimentState.FAILED, "the job failed")
    assert view.ended_at is not None
    assert world.step(experiment_id, MONITOR).state is StepState.FAILED
    assert world.store.upkeep.to_cancel(0) == []


def test_a_job_is_run_again_as_often_as_allowed(world: World) -> None:
    experiment_id, _first = world.submitted()
    for number in (1, 2):
        ready = world.end_job(experiment_id, JobRecord.FAILED, max_jobs=3, reason="exit code 1")
        assert ready == [NextStep(experiment_id, (SUBMIT,), 4)]
        assert world.steps(experiment_id) == ["DONE", "DONE", "READY", "WAITING", "WAITING"]
        assert world.step(experiment_id, SUBMIT).sent_at is not None
        assert world.submit(experiment_id).endswith(f"-{number + 1}")
    assert world.end_job(experiment_id, JobRecord.LOST, max_jobs=3, reason="gone") == []
    assert world.state(experiment_id) is ExperimentState.FAILED
    assert world.job_states(experiment_id) == [
        JobRecord.FAILED, JobRecord.FAILED, JobRecord.LOST,
    ]  # fmt: skip


def test_another_job_is_submitted_with_new_counts(world: World) -> None:
    experiment_id = world.add()
    world.until(experiment_id, SUBMIT)
    world.store.claims.back_off(world.claim(experiment_id, SUBMIT), "passing", 0.0)
    world.past("due_at", 1, experiment_id)
    world.store.upkeep.wake_due()
    world.claim(experiment_id, SUBMIT)
    world.past("lease_until", 100, experiment_id)
    world.store.upkeep.expire_leases(3)
    world.submit(experiment_id)
    world.end_job(experiment_id, JobRecord.FAILED, max_jobs=2)
    claim = world.claim(experiment_id, SUBMIT)
    assert (claim.tries, claim.crashes) == (0, 0)


def test_a_batch_of_reports(world: World) -> None:
    jobs = [world.submitted() for _ in range(3)]
    reports = [JobReport(token=token, state=JobRecord.SUCCEEDED) for _id, token in jobs]
    ready = world.store.jobs.record([*reports, *reports])
    assert {step.experiment_id for step in ready} == {one for one, _token in jobs}
    assert len(ready) == 3


def test_why_a_job_waits_may_change_while_it_waits(world: World) -> None:
    experiment_id, token = world.submitted()
    for reason in ("Too few CPUs", "Too little memory", None):
        assert world.report(token, JobRecord.PENDING, reason=reason) == []
        [job] = world.store.views.jobs(experiment_id)
        assert (job.state, job.reason) == (JobRecord.PENDING, reason)
        assert [live.reason for live in world.store.jobs.live("alpha")] == [reason]
    world.end_job(experiment_id)
    world.report(token, JobRecord.PENDING, reason="told late")
    assert world.store.views.jobs(experiment_id)[0].reason is None


def test_a_report_of_an_intent_or_of_nothing_is_nothing(world: World) -> None:
    claim = world.running(SUBMIT)
    token = world.intend(claim)
    assert world.report(token, JobRecord.SUCCEEDED) == []
    assert world.job_states(claim.experiment_id) == [JobRecord.INTENT]
    assert world.report("wlm-none-1", JobRecord.SUCCEEDED) == []


def test_a_refused_job(world: World) -> None:
    claim = world.running(SUBMIT)
    token = world.intend(claim)
    first = Intent(token=token, workdir="/w", first=True)
    world.store.jobs.rejected(claim, first, "no such partition: gold")
    view = world.store.views.experiment(claim.experiment_id)
    assert (view.state, view.reason) == (ExperimentState.FAILED, "no such partition: gold")
    [job] = world.store.views.jobs(claim.experiment_id)
    assert (job.state, job.reason) == (JobRecord.REJECTED, "no such partition: gold")
    assert world.store.upkeep.to_cancel(0) == []


def test_confirmation_for_an_experiment_that_is_not_cancelled(world: World) -> None:
    experiment_id, _token = world.submitted()
    assert not world.store.jobs.cancelled(experiment_id, [])
    assert world.state(experiment_id) is ExperimentState.SUBMITTED
    assert not world.store.jobs.cancelled("exp-none", [])


@pytest.mark.parametrize("max_running", [None, 5])
def test_a_claim_that_a_power_cut_undid_submits_nothing(
    world: World, max_running: int | None
) -> None:
    """Claims are not flushed: another one may get the same epoch, even under the same message."""
    lost = world.running(SUBMIT)
    time.sleep(0.01)  # SQLite's clock has milliseconds
    world.sql("UPDATE steps SET state = 'READY', epoch = epoch - 1 WHERE name = 'submit'")
    claim = world.claim(lost.experiment_id, SUBMIT)
    assert (claim.epoch, claim.seq) == (lost.epoch, lost.seq)
    with pytest.raises(FencedError):
        world.intend(lost, max_running=max_running)
    assert world.job_states(claim.experiment_id) == []
    assert world.intend(claim, max_running=max_running)


def test_a_second_submit_goes_where_the_first_went(world: World) -> None:
    """The site's scratch may have changed since; the job of the token has not moved."""
    jobs, claim = world.store.jobs, world.running(SUBMIT)
    first = jobs.intend(claim, site="alpha", workdir="/old/w")
    again = jobs.intend(claim, site="alpha", workdir="/new/w")
    assert isinstance(first, Intent)
    assert isinstance(again, Intent)
    assert (first.workdir, first.first) == ("/old/w", True)
    assert (again.workdir, again.first, again.token) == ("/old/w", False, first.token)


def test_a_refusal_does_not_forget_what_another_claim_may_have_submitted(world: World) -> None:
    claim = world.running(SUBMIT)
    world.intend(claim)
    again = world.store.claims.claim(claim.experiment_id, SUBMIT, holder(redelivered=True))
    assert isinstance(again, Claim)
    intent = world.store.jobs.intend(again, site="alpha", workdir="/w")
    assert isinstance(intent, Intent)
    world.store.jobs.rejected(again, intent, "no such directory")
    assert world.state(claim.experiment_id) is ExperimentState.FAILED
    assert world.job_states(claim.experiment_id) == [JobRecord.INTENT]
    assert world.store.upkeep.to_cancel(1) == [claim.experiment_id]


def carried_to_submit(world: World, claim: Claim, **how: Any) -> Claim | None:
    """Finish the step before submit, by a holder that would go on."""
    job = FirstJob(site="alpha", workdir="/w")
    return world.store.claims.finish(claim, carry_on=holder(**how), job=job)


def test_who_carries_on_to_submit_gets_the_intent_with_the_claim(world: World) -> None:
    claim = world.running(STAGE_IN)
    carried = carried_to_submit(world, claim)
    assert carried is not None
    token = f"wlm-{claim.experiment_id.removeprefix('exp-')}-1"
    assert carried.intent == Intent(token=token, workdir="/w", first=True)
    assert world.job_states(claim.experiment_id) == [JobRecord.INTENT]
    assert world.intend(carried) == token  # asked again it is the same
    world.store.jobs.submitted(carried, token, "native")
    assert world.job_states(claim.experiment_id) == [JobRecord.PENDING]


def test_no_intent_without_a_claim(world: World) -> None:
    claim = world.running(STAGE_IN)
    assert carried_to_submit(world, claim, queues=["staging"]) is None
    assert world.job_states(claim.experiment_id) == []
    again = world.running(STAGE_IN)
    world.store.intake.cancel(again.experiment_id)
    with pytest.raises(FencedError):
        carried_to_submit(world, again)
    assert world.job_states(again.experiment_id) == []


def test_after_an_earlier_job_the_intent_is_left_to_be_asked_for(world: World) -> None:
    experiment_id, token = world.submitted()
    world.end_job(experiment_id, JobRecord.FAILED, reason="exit code 1")
    world.store.intake.retry(experiment_id, STAGE_IN)
    carried = carried_to_submit(world, world.claim(experiment_id, STAGE_IN))
    assert carried is not None
    assert carried.intent is None
    assert world.intend(carried) == token[:-1] + "2"
