"""Jobs on the stand-in scheduler when answers, agents and histories go missing."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from unit.compute.aurora_site import AuroraSite, aurora_options

from services.processes import wait_for
from wlm_tasks.compute.aurora.backend import AuroraBackend
from wlm_tasks.compute.aurora.notes import Patience
from wlm_tasks.compute.base import ENDED, JobSpec, JobState, JobStatus
from wlm_tasks.errors import (
    JobRejectedError,
    JobUndecidedError,
    SiteAuthError,
    SiteOverloadedError,
    SiteUnreachableError,
)
from wlm_tasks.model.experiment import Resources


def hasty(mesos: AuroraSite, **patience: float) -> AuroraBackend:
    """A backend that waits half a second for answers."""
    return AuroraBackend(
        name="mesos",
        scratch=str(mesos.scratch),
        options=aurora_options(mesos.server),
        patience=Patience(**{"deadline_s": 0.1, "spacing_s": 0.1, **patience}),
        connect_s=0.5,
        read_s=0.5,
    )


def jobs_made(mesos: AuroraSite) -> int:
    return mesos.server.calls("createJob")


def test_an_answer_that_was_lost_is_looked_for(mesos: AuroraSite) -> None:
    spec, before = mesos.spec("true"), jobs_made(mesos)
    mesos.server.set(lost_answer={"createJob": 1})
    submitted = mesos.backend.submit(spec)
    assert submitted.native_id == f"gateway/devel/{spec.ref.token}"
    assert mesos.wait_end(spec.ref).state is JobState.SUCCEEDED
    assert (jobs_made(mesos) - before, mesos.runs(spec.ref)) == (1, 1)


def test_a_call_that_was_lost_is_not_sent_again_before_that_is_proven(mesos: AuroraSite) -> None:
    spec, before = mesos.spec("true"), jobs_made(mesos)
    patient = hasty(mesos, deadline_s=0.5, spacing_s=0.3)
    mesos.server.set(lost_call={"createJob": 1})
    begun = time.monotonic()
    with pytest.raises(JobUndecidedError, match="whether createJob was done is not known"):
        patient.submit(spec)

    def sent_again() -> bool:
        try:
            patient.submit(spec)
        except JobUndecidedError:
            assert jobs_made(mesos) - before == 1
            return False
        return True

    wait_for(sent_again, what="the proof that it was not done")
    assert time.monotonic() - begun >= 0.8
    assert jobs_made(mesos) - before == 2
    assert mesos.wait_end(spec.ref).state is JobState.SUCCEEDED
    assert mesos.runs(spec.ref) == 1


def test_a_call_that_is_done_long_after_nobody_waits_for_it(mesos: AuroraSite) -> None:
    spec = mesos.spec("true")
    mesos.server.set(hang_s={"createJob": 1.0})
    with pytest.raises(JobUndecidedError):
        hasty(mesos).submit(spec)
    wait_for(lambda: mesos.backend.find(spec.ref), what="the job")
    assert mesos.backend.submit(spec).native_id == mesos.backend.find(spec.ref)
    assert mesos.wait_end(spec.ref).state is JobState.SUCCEEDED
    assert mesos.runs(spec.ref) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"no_leader": True}, SiteUnreachableError),
        ({"credentials": "a:b"}, SiteAuthError),
        ({"forbidden": True}, SiteAuthError),
        ({"codes": {"createJob": [6]}}, SiteUnreachableError),
        ({"codes": {"createJob": [0]}}, JobRejectedError),
        ({"codes": {"createJob": [2]}}, JobUndecidedError),
        ({"broken": {"createJob": 1}}, JobUndecidedError),
        ({"page": True}, SiteUnreachableError),
    ],
)
def test_a_submission_that_failed_is_made_later(
    mesos: AuroraSite, fault: dict[str, object], error: type[Exception]
) -> None:
    spec = mesos.spec("true")
    mesos.server.set(**fault)
    with pytest.raises(error) as caught:
        mesos.backend.submit(spec)
    assert type(caught.value) is error
    mesos.server.reset()
    mesos.server.set(execute=True)

    def made() -> bool:
        try:
            mesos.backend.submit(spec)
        except JobUndecidedError:
            return False
        return True

    wait_for(made, what="the submission")
    assert mesos.wait_end(spec.ref).state is JobState.SUCCEEDED
    assert mesos.runs(spec.ref) == 1


def test_what_the_scheduler_refuses(mesos: AuroraSite) -> None:
    spec = mesos.spec("true")
    backend = mesos.another(tier="gold")
    with pytest.raises(JobRejectedError, match="Invalid tier 'gold'"):
        backend.submit(spec)
    with pytest.raises(JobRejectedError, match=r"nodes: got 2, expected 1 on an Aurora site"):
        backend.submit(replace(spec, resources=Resources(nodes=2)))
    assert backend.find(spec.ref) is None


def test_a_workdir_that_nobody_prepared(mesos: AuroraSite) -> None:
    spec = mesos.spec("true")
    moved = replace(spec, ref=replace(spec.ref, workdir=f"{mesos.scratch}/other"))
    with pytest.raises(JobRejectedError, match="was it prepared"):
        mesos.backend.submit(moved)
    assert not Path(moved.ref.workdir).exists()


@pytest.mark.parametrize("fault", ["lost_starting", "lost_running"])
def test_what_aurora_starts_again_runs_once(mesos: AuroraSite, fault: str) -> None:
    """Lost before the payload began, or while it goes on where it is."""
    mesos.server.set(**{fault: 1}, partitioned=True, lost_after_s=0.05)
    spec = mesos.spec("sleep 0.4")
    mesos.backend.submit(spec)
    status = mesos.wait_end(spec.ref)
    assert status.state is JobState.SUCCEEDED
    wait_for(lambda: mesos.server.seen()["active"] == 0, what="the successor's end")
    assert mesos.runs(spec.ref) == 1
    assert mesos.status(spec.ref) == status


def test_a_payload_that_had_to_make_room_has_ended(mesos: AuroraSite) -> None:
    spec = mesos.spec("sleep 30")
    mesos.backend.submit(spec)
    wait_for(lambda: mesos.runs(spec.ref), what="the payload")
    mesos.server.set(preempt=1)
    status = mesos.wait_end(spec.ref)
    assert (status.state, status.reason[:7]) == (JobState.FAILED, "signal:")
    wait_for(lambda: mesos.server.seen()["active"] == 0, what="the successor's end")
    assert mesos.runs(spec.ref) == 1


def test_a_payload_lost_with_its_agent(mesos: AuroraSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wlm_tasks.compute.aurora.notes._SILENCE_S", 0.5)
    mesos.server.set(lost_running=1, lost_after_s=0.2)
    spec = mesos.spec("sleep 30", walltime_s=1.0, stop_grace_s=0.1)
    mesos.backend.submit(spec)
    wait_for(lambda: "agent was lost" in mesos.status(spec.ref).reason, what="the loss")
    assert mesos.status(spec.ref).state is JobState.RUNNING
    status = mesos.wait_end(spec.ref)
    assert (status.state, mesos.runs(spec.ref)) == (JobState.LOST, 1)
    assert "it left no exit record" in status.reason


def test_history_that_was_pruned(mesos: AuroraSite) -> None:
    spec = mesos.spec("exit 3")
    mesos.server.set(prune_after_s=0.0)
    submitted = mesos.backend.submit(spec)
    status = mesos.wait_end(spec.ref)
    assert (status.state, status.exit_code) == (JobState.FAILED, 3)
    wait_for(lambda: mesos.server.seen()["active"] == 0, what="the task's end")
    assert mesos.another().submit(spec) == submitted
    assert mesos.status(replace(spec.ref, native_id=submitted.native_id)) == status
    assert mesos.runs(spec.ref) == 1


def waiting(mesos: AuroraSite) -> JobSpec:
    """A job that waits in Aurora's queue."""
    mesos.server.set(never_schedule=True)
    spec = mesos.spec("true")
    native_id = mesos.backend.submit(spec).native_id
    return replace(spec, ref=replace(spec.ref, native_id=native_id))


def test_why_jobs_wait_and_two_requests_for_all(mesos: AuroraSite) -> None:
    refs = [waiting(mesos).ref for _ in range(5)]
    asked = {
        name: mesos.server.calls(name) for name in ("getTasksWithoutConfigs", "getPendingReason")
    }
    found = mesos.backend.status(refs)
    assert {(one.state, one.reason) for one in found.values()} == {
        (JobState.PENDING, "Insufficient: CPU")
    }
    assert {name: mesos.server.calls(name) - before for name, before in asked.items()} == {
        "getTasksWithoutConfigs": 1,
        "getPendingReason": 1,
    }
    mesos.server.set(broken={"getPendingReason": 1})
    assert {one.state for one in mesos.backend.status(refs).values()} == {JobState.PENDING}


def test_a_job_that_somebody_killed_while_it_waited(mesos: AuroraSite) -> None:
    spec = waiting(mesos)
    hasty(mesos)._scheduler.kill(spec.ref.token)
    assert mesos.status(spec.ref).state is JobState.UNKNOWN  # one look-up is no proof
    status = mesos.wait_end(spec.ref)
    assert status.state is JobState.LOST
    assert "no longer lists it" in status.reason
    mesos.server.set(never_schedule=False)
    mesos.backend.submit(spec)
    wait_for(lambda: mesos.server.seen()["active"] == 0, what="the end of any copy")
    assert mesos.runs(spec.ref) == 0


def test_a_cancel_while_the_scheduler_is_away_stays_open(mesos: AuroraSite) -> None:
    spec = waiting(mesos)
    mesos.server.set(no_leader=True)
    with pytest.raises(SiteUnreachableError):
        mesos.backend.cancel(spec.ref)
    mesos.server.set(no_leader=False)
    assert mesos.status(spec.ref).state not in ENDED
    assert mesos.server.seen()["active"] == 1
    assert mesos.backend.cancel(spec.ref)
    assert mesos.server.seen()["active"] == 0
    assert mesos.status(spec.ref).state is JobState.CANCELLED


@pytest.mark.parametrize("lost", ["lost_answer", "lost_call"])
def test_a_kill_without_an_answer_is_looked_after(mesos: AuroraSite, lost: str) -> None:
    spec = mesos.spec("while :; do sleep 0.05; done")
    mesos.backend.submit(spec)
    mesos.wait_state(spec.ref, JobState.RUNNING)
    mesos.server.set(**{lost: {"killTasks": 1}})
    confirmed = mesos.backend.cancel(spec.ref, wait_s=2.0 if lost == "lost_answer" else 0.2)
    assert confirmed is (lost == "lost_answer")
    assert mesos.backend.cancel(spec.ref)
    assert not mesos.living(spec.ref)
    assert mesos.status(spec.ref).state is JobState.CANCELLED


def test_a_cancel_waits_no_longer_than_it_may(mesos: AuroraSite) -> None:
    spec = mesos.spec("trap '' TERM; touch ready; while :; do sleep 0.05; done")
    mesos.server.set(kill_grace_s=1.5)
    mesos.backend.submit(spec)
    wait_for(Path(mesos.workdir, "ready").exists, what="a payload that does not heed TERM")
    begun = time.monotonic()
    assert not mesos.backend.cancel(spec.ref, wait_s=0.3)
    assert time.monotonic() - begun < 1.0
    wait_for(lambda: mesos.backend.cancel(spec.ref, wait_s=1.0), what="the end")
    assert not mesos.living(spec.ref)


def test_an_unknown_state_is_said_to_be_unknown(mesos: AuroraSite) -> None:
    spec = mesos.spec("while :; do sleep 0.05; done")
    mesos.server.set(strange_status=42)
    mesos.backend.submit(spec)
    wait_for(lambda: mesos.runs(spec.ref), what="the start")
    strange = wait_for(lambda: _strange(mesos, spec), what="the strange state")
    assert strange is not None
    assert strange.state is JobState.RUNNING
    mesos.server.set(strange_status=None)
    assert mesos.backend.cancel(spec.ref)


def _strange(mesos: AuroraSite, spec: JobSpec) -> JobStatus | None:
    status = mesos.status(spec.ref)
    return status if "status 42" in status.reason else None


def test_a_missing_scheduler_ends_no_job(mesos: AuroraSite) -> None:
    spec = mesos.spec("true")
    ended, waits = mesos.spec("true"), waiting(mesos)
    mesos.server.set(never_schedule=False)
    mesos.backend.submit(ended)
    mesos.wait_end(ended.ref)
    mesos.server.set(no_leader=True)
    with pytest.raises(SiteUnreachableError):
        mesos.backend.status([spec.ref, ended.ref, waits.ref])
    assert mesos.status(ended.ref).state is JobState.SUCCEEDED  # the files tell


def test_links_of_a_job(mesos: AuroraSite) -> None:
    spec, root = mesos.spec("true"), mesos.server.url
    backend = mesos.another(mesos_url="http://mesos:5050/")
    page = f"{root}/scheduler/gateway/devel/{spec.ref.token}"
    assert backend.links(spec.ref) == {"aurora": page}
    backend.submit(spec)
    mesos.wait_end(spec.ref)
    assert backend.links(spec.ref) == {
        "aurora": page,
        "mesos": "http://mesos:5050/#/agents/agent-S1",
    }
    mesos.server.set(no_leader=True)
    assert backend.links(spec.ref) == {"aurora": page}


def test_a_quota_is_a_limit_not_an_error(
    mesos: AuroraSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.compute.aurora.answers._PASSING", ("answered with 0",))
    mesos.server.set(codes={"createJob": [0]})
    spec = mesos.spec("true")
    with pytest.raises(SiteOverloadedError):
        mesos.backend.submit(spec)
    mesos.backend.submit(spec)
    assert mesos.wait_end(spec.ref).state is JobState.SUCCEEDED
