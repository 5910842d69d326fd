"""Jobs on a Slurm that breaks: one payload per attempt, and the right state each time."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from integration.slurm.conftest import GREEDY, KILLS_FOR_MEMORY, MakeSite
from unit.compute.slurm_site import BrokenShell, SlurmSite

from services.guardian import MARKER, marked_processes
from services.processes import wait_for
from wlm_tasks.compute import processes
from wlm_tasks.compute.base import ENDED, JobSpec, JobState
from wlm_tasks.errors import (
    BackendUnavailableError,
    JobUndecidedError,
    SiteUnreachableError,
)
from wlm_tasks.model.experiment import Resources

ENDLESS = "while :; do sleep 0.1; done"


def submit_at_last(site: SlurmSite, spec: JobSpec) -> str:
    """Submit as workers do: again and again until it is known."""
    ids: list[str] = []

    def submitted() -> bool:
        try:
            ids.append(site.another().submit(spec).native_id)
        except BackendUnavailableError:
            return False
        return True

    wait_for(submitted, 30.0, f"job {spec.ref.token} to be submitted", 0.2)
    return ids[0]


def test_an_answer_that_was_lost_while_the_controller_was_paused(make_site: MakeSite) -> None:
    site = make_site()
    spec = site.spec("true")
    site.slurm.pause_controller()
    with pytest.raises(JobUndecidedError, match="Socket timed out"):
        site.backend.submit(spec)
    # and it is as silent for those that only ask
    with pytest.raises(SiteUnreachableError):
        site.backend.submit(spec)
    with pytest.raises(SiteUnreachableError):
        site.backend.status([spec.ref])
    site.slurm.resume_controller()
    native_id = submit_at_last(site, spec)
    assert site.wait_end(spec.ref).state is JobState.SUCCEEDED
    assert site.slurm.jobs(spec.ref.token) == [native_id]
    assert site.runs(spec.ref) == 1


def test_a_controller_that_is_away(make_site: MakeSite) -> None:
    site = make_site()
    spec, running = site.spec("true"), site.spec(ENDLESS)
    site.backend.submit(running)
    site.wait_state(running.ref, JobState.RUNNING)
    site.slurm.controller.stop()
    for call in (
        lambda: site.backend.submit(spec),
        lambda: site.backend.cancel(running.ref),
    ):
        with pytest.raises(SiteUnreachableError, match="Slurm does not answer"):
            call()
    site.slurm.restart_controller()
    # the cancel that did not get through is remembered and not confirmed
    assert site.living(running.ref)
    wait_for(lambda: site.backend.cancel(running.ref), 20.0, "the end")
    assert site.status(running.ref).state is JobState.CANCELLED
    submit_at_last(site, spec)
    site.wait_state(spec.ref, JobState.SUCCEEDED)
    assert site.runs(spec.ref) == 1


def test_a_submitter_that_died_before_it_had_sent_anything(make_site: MakeSite) -> None:
    site = make_site()
    spec = site.spec("true")
    with pytest.raises(BackendUnavailableError):
        site.another(shell=BrokenShell("intended")).submit(spec)
    begun = time.monotonic()
    with pytest.raises(JobUndecidedError, match="may have taken it"):
        site.backend.submit(spec)
    absent = Path(spec.ref.attempt_dir, "absent")
    # a clock ten minutes ahead does not shorten the wait, nor one that is behind prolong it
    absent.write_text(f"{int(time.time()) + 600}\n")
    with pytest.raises(JobUndecidedError):
        site.backend.submit(spec)
    assert int(absent.read_text()) <= time.time()
    submit_at_last(site, spec)
    assert time.monotonic() - begun > 3.0
    site.wait_state(spec.ref, JobState.SUCCEEDED)
    assert len(site.slurm.jobs(spec.ref.token)) == 1
    assert site.runs(spec.ref) == 1


def test_a_job_that_was_purged_before_it_was_seen(make_site: MakeSite) -> None:
    site = make_site(MinJobAge=2)
    good, mute = site.spec("exit 0"), site.spec("exit 0")
    for spec in (good, mute):
        site.backend.submit(spec)
    wait_for(lambda: site.runs(mute.ref) and site.runs(good.ref), what="both to start")
    record = Path(mute.ref.attempt_dir, "exit.json")
    wait_for(record.exists, what="the exit record")
    record.unlink()
    wait_for(
        lambda: not site.slurm.command("squeue", "-h", "-t", "all").strip(), 30.0, "the purge", 0.3
    )
    assert site.status(good.ref).state is JobState.SUCCEEDED
    assert site.backend.submit(good).native_id == site.backend.find(good.ref)
    first = site.status(mute.ref)
    assert first.state is JobState.UNKNOWN
    assert "its exit record is looked for" in first.reason
    # as if that had been said for long enough
    Path(mute.ref.attempt_dir, "absent").write_text(f"{int(time.time()) - 13}\n")
    status = site.status(mute.ref)
    assert status.state is JobState.LOST
    assert "no exit record" in status.reason


def test_a_controller_killed_right_after_a_launch(make_site: MakeSite) -> None:
    site = make_site()
    spec = site.spec(ENDLESS)
    site.backend.submit(spec)
    wait_for(lambda: site.runs(spec.ref), what="its start")
    site.slurm.kill_controller()
    site.slurm.restart_controller()
    # it knows the job as waiting, ends what runs of it and launches it again
    status = site.wait_end(spec.ref)
    assert status.state is JobState.FAILED
    if Path(spec.ref.attempt_dir, "duplicates").exists():
        assert "it was not run a second time" in status.reason
    else:  # a node launches nothing of a job in the second in which it has ended it
        assert status.reason == "Slurm says FAILED"
        assert (
            "Job credential revoked" in (site.slurm.directory / "log" / "slurmctld.log").read_text()
        )
    assert site.runs(spec.ref) == 1
    assert not site.living(spec.ref)


def forgotten(site: SlurmSite) -> JobSpec:
    """A job that Slurm has taken, and forgotten with all its other memories."""
    first = replace(site.spec(ENDLESS), resources=Resources(cpus=64))
    site.backend.submit(first)
    site.wait_state(first.ref, JobState.RUNNING)
    spec = site.spec("true")
    site.backend.submit(spec)
    assert site.status(spec.ref).state is JobState.PENDING
    site.slurm.kill_controller()
    shutil.rmtree(site.slurm.directory / "state")
    (site.slurm.directory / "state").mkdir()
    site.slurm.restart_controller()
    return spec


def test_a_job_that_slurm_forgot_and_whose_id_it_gave_to_another(make_site: MakeSite) -> None:
    site = make_site()
    spec = forgotten(site)
    native_id = site.backend.find(spec.ref)
    for _ in range(2):
        site.slurm.command(
            "sbatch", "--job-name=foreign", "--output=/dev/null", "--hold", "--wrap=true"
        )
    assert native_id in site.slurm.jobs("foreign")
    ref = replace(spec.ref, native_id=native_id)
    assert site.status(ref).state is JobState.UNKNOWN
    status = site.wait_state(ref, JobState.LOST, timeout=20.0)
    assert status.reason == "Slurm forgot the job before it began; it will not begin any more"
    # nothing of it touches the job that has its id now, and it stays as it is
    assert site.backend.cancel(ref)
    assert native_id in site.slurm.jobs("foreign", "PENDING")
    assert site.runs(spec.ref) == 0


def test_a_node_that_died(make_site: MakeSite) -> None:
    site = make_site()
    spec = site.spec(ENDLESS)
    site.backend.submit(spec)
    wait_for(lambda: site.runs(spec.ref), what="its start")
    site.slurm.kill_node("wn1")
    steps = [pid for pid, line in marked_processes(os.environ[MARKER]).items() if "stepd" in line]
    for pid in steps:
        os.kill(pid, signal.SIGKILL)
    processes.send(processes.scan().of_job(spec.ref.token, None).values(), signal.SIGKILL)
    site.slurm.command("scontrol", "update", "NodeName=wn1", "State=DOWN", "Reason=died")
    status = site.wait_end(spec.ref)
    assert status.state is JobState.FAILED
    assert status.reason.startswith("node failure")
    assert site.runs(spec.ref) == 1


def test_a_job_that_uses_more_memory_than_it_asked_for(make_site: MakeSite) -> None:
    """Without cgroups slurmstepd looks itself, and its word for the end is another."""
    site = make_site(**KILLS_FOR_MEMORY)
    spec = replace(site.spec(GREEDY), resources=Resources(walltime_s=60, memory_mb=40))
    site.backend.submit(spec)
    wait_for(lambda: site.status(spec.ref).state in ENDED, 30.0, "its end", 0.3)
    status = site.status(spec.ref)
    assert status.state is JobState.FAILED
    assert status.reason == "out of memory: it used more memory than it had asked for"


def test_a_copy_of_the_job_leaves(make_site: MakeSite) -> None:
    site = make_site()
    spec = site.spec("sleep 1")
    site.backend.submit(spec)
    wait_for(lambda: site.runs(spec.ref), what="its start")
    script = f"{spec.ref.attempt_dir}/job.sh"
    copy = site.slurm.command(
        "sbatch", "--parsable", "--output=/dev/null", f"--job-name={spec.ref.token}", script
    )
    wait_for(
        lambda: copy.strip() in site.slurm.jobs(spec.ref.token, "COMPLETED"), what="the copy's end"
    )
    assert site.wait_end(spec.ref).state is JobState.SUCCEEDED
    assert site.backend.find(spec.ref) != copy.strip()
    assert site.runs(spec.ref) == 1
