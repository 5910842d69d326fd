"""Jobs on a Slurm that works: what is asked for, refused, told and ended."""

from __future__ import annotations

import os
import re
import signal
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from integration.slurm.conftest import start_it_again
from unit.compute.sites import forked
from unit.compute.slurm_site import SlurmSite

from services.processes import wait_for
from wlm_tasks.compute import processes
from wlm_tasks.compute.base import JobSpec, JobState, SiteLoad
from wlm_tasks.compute.slurm import backend
from wlm_tasks.compute.slurm.backend import SlurmBackend
from wlm_tasks.errors import BackendUnavailableError, JobRejectedError, SiteMaintenanceError
from wlm_tasks.model.experiment import Resources

#: of jobs that Slurm has taken
LIVE = "PENDING,RUNNING,COMPLETING,COMPLETED"


def asking(site: SlurmSite, script: str = "true", **resources: Any) -> JobSpec:
    asked = Resources(**({"walltime_s": 60.0} | resources))
    return replace(site.spec(script), resources=asked)


@pytest.mark.parametrize(
    ("asked", "options", "words"),
    [
        ({}, {"partition": "nope"}, "invalid partition specified: nope; .*Invalid partition name"),
        ({"memory_mb": 999_999}, {}, "Memory specification can not be satisfied"),
        ({"cpus": 1000}, {}, "Requested node configuration|More processors"),
        ({"nodes": 9, "cpus": 9}, {}, "Node count specification invalid|node configuration"),
        ({"gpus": 1}, {}, "Invalid generic resource"),
        ({"walltime_s": 25 * 3600}, {}, "time limit|partition configuration"),
    ],
)
def test_a_refusal_is_in_slurms_words(
    site: SlurmSite, asked: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    spec = asking(site, **asked)
    with pytest.raises(JobRejectedError, match=f"Slurm refused the job: .*({words})"):
        site.another(**options).submit(spec)
    assert site.slurm.jobs(spec.ref.token, LIVE) == []
    # it was certain: the same attempt may be sent again at once
    good = asking(site)
    assert site.backend.submit(replace(good, ref=spec.ref)).native_id
    site.wait_state(spec.ref, JobState.SUCCEEDED)


def test_a_partition_out_of_service_is_no_fault_of_the_job(site: SlurmSite) -> None:
    spec = asking(site)
    with pytest.raises(SiteMaintenanceError, match="Required partition not available"):
        site.another(partition="down").submit(spec)
    assert site.slurm.jobs(spec.ref.token, LIVE) == []


def test_a_setting_is_no_second_option(site: SlurmSite) -> None:
    spec = asking(site)
    with pytest.raises(JobRejectedError, match="nvalid partition"):
        site.another(partition="debug\n#SBATCH --array=1-9").submit(spec)
    assert site.slurm.jobs(spec.ref.token, LIVE) == []


def test_what_is_asked_for_is_what_slurm_gives(site: SlurmSite) -> None:
    site.another(partition="debug")
    spec = asking(site, "sleep 30", cpus=3, memory_mb=300, nodes=1, walltime_s=90.0)
    native_id = site.another(partition="debug").submit(spec).native_id
    told = site.slurm.command("scontrol", "show", "job", native_id)
    for word in (
        f"JobName={spec.ref.token}",
        f"Comment={spec.ref.token}",
        "NumCPUs=3",
        "mem=300M",
        "TimeLimit=00:02:00",
        "Requeue=0",
        "Partition=debug",
    ):
        assert word in told
    assert site.backend.cancel(spec.ref)


def test_the_guard_keeps_the_walltime_to_the_second(site: SlurmSite) -> None:
    spec = site.spec("sleep 50", walltime_s=1.0)
    site.backend.submit(spec)
    status = site.wait_end(spec.ref)
    assert status.state is JobState.FAILED
    assert status.reason.startswith("walltime")
    assert site.runs(spec.ref) == 1


def test_a_job_that_waits_says_why_and_until_when(site: SlurmSite) -> None:
    first = asking(site, "while :; do sleep 0.1; done", cpus=128, nodes=2, walltime_s=600.0)
    site.backend.submit(first)
    site.wait_state(first.ref, JobState.RUNNING)
    second = asking(site, cpus=1)
    site.backend.submit(second)
    pattern = r"waits for free nodes \(Resources\); expected to start 20..-..-.. ..:.. UTC"
    wait_for(
        lambda: re.fullmatch(pattern, site.status(second.ref).reason),
        20,
        f"a reason, {site.status(second.ref)}",
    )
    assert site.status(second.ref).state is JobState.PENDING
    assert site.backend.cancel(first.ref)
    site.wait_state(second.ref, JobState.SUCCEEDED)


def test_foreign_jobs_with_odd_names_are_in_nobodys_way(site: SlurmSite) -> None:
    for name in ("a b", "a|b", "a\nb", "%A|x", " "):
        site.slurm.command(
            "sbatch", "-H", f"--job-name={name}", "--output=/dev/null", "--wrap=true"
        )
    spec = asking(site, "sleep 30")
    native_id = site.backend.submit(spec).native_id
    site.wait_state(spec.ref, JobState.RUNNING)
    assert site.backend.find(replace(spec.ref, native_id=None)) == native_id
    assert site.backend.cancel(spec.ref)
    site.slurm.command("scancel", "-t", "PD", f"--user={os.getuid()}")


def test_the_accounts_foreign_jobs_are_counted(site: SlurmSite) -> None:
    site.slurm.drop_jobs()  # what another test has left is counted, too
    site.slurm.command("sbatch", "-H", "--job-name=theirs", "--output=/dev/null", "--wrap=true")
    spec = asking(site, "sleep 60")
    site.backend.submit(spec)
    wait_for(lambda: site.status(spec.ref).state is JobState.RUNNING, what="its start")
    assert site.backend.load() == SiteLoad(queued=1, running=1, foreign=1)
    assert site.backend.cancel(spec.ref)
    # without a poll before it asks itself
    assert site.backend.load() == SiteLoad(queued=1, running=0, foreign=1)
    site.slurm.command("scancel", "--name=theirs")


def test_many_ended_jobs_are_looked_at_in_batches(
    site: SlurmSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_AT_ONCE", 2)
    specs = [asking(site) for _ in range(5)]
    for spec in specs:
        site.backend.submit(spec)
    for spec in specs:
        site.wait_state(spec.ref, JobState.SUCCEEDED)
    found = site.backend.status([spec.ref for spec in specs])
    assert {found[spec.ref.token].state for spec in specs} == {JobState.SUCCEEDED}


def test_scratch_that_cannot_be_written(site: SlurmSite) -> None:
    nowhere = SlurmBackend(name="slurm", scratch="/proc/wlm", options={})
    with pytest.raises(JobRejectedError, match=r"/proc/wlm.*No such file"):
        nowhere.prepare("/proc/wlm/x")
    spec = asking(site)
    lost = replace(spec, ref=replace(spec.ref, workdir="/proc/wlm/x"))
    with pytest.raises(JobRejectedError, match=r"/proc/wlm.*No such file"):
        nowhere.submit(lost)
    assert site.slurm.jobs(spec.ref.token) == []


def test_a_disk_that_is_full(site: SlurmSite, small_disk: Path) -> None:
    small = SlurmBackend(name="slurm", scratch=str(small_disk), options={})
    spec = asking(site)
    spec = replace(spec, ref=replace(spec.ref, workdir=f"{small_disk}/work"))
    small.prepare(spec.ref.workdir)
    fill = small_disk / "fill"
    with suppress(OSError), fill.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    for call in (lambda: small.prepare(spec.ref.workdir), lambda: small.submit(spec)):
        with pytest.raises(BackendUnavailableError, match="No space left on device"):
            call()
    assert site.slurm.jobs(spec.ref.token) == []
    fill.unlink()
    small.submit(spec)
    wait_for(lambda: small.status([spec.ref])[spec.ref.token].exit_code == 0, what="the end")
    assert len(site.slurm.jobs(spec.ref.token)) == 1


def test_four_submitters_at_once_make_one_job(site: SlurmSite) -> None:
    spec = asking(site)
    ids = site.scratch / "ids"

    def submit() -> None:
        with ids.open("a") as file:
            file.write(f"{site.another().submit(spec).native_id}\n")

    with ExitStack() as stack:
        pids = [stack.enter_context(forked(submit)) for _ in range(4)]
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    site.wait_state(spec.ref, JobState.SUCCEEDED)
    assert set(ids.read_text().split()) == set(site.slurm.jobs(spec.ref.token))
    assert len(site.slurm.jobs(spec.ref.token)) == 1
    assert site.runs(spec.ref) == 1


def test_variables_of_the_caller_reach_neither_slurm_nor_the_job(
    site: SlurmSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "SBATCH_ARRAY_INX": "1-3",
        "SBATCH_HOLD": "1",
        "SQUEUE_STATES": "CANCELLED",
        "SQUEUE_FORMAT": "%i",
        "SLURM_TIME_FORMAT": "relative",
        "DATABASE_PASSWORD": "secret",
    }.items():
        monkeypatch.setenv(name, value)
    spec = asking(site, "env; sleep 1")
    site.backend.submit(spec)
    site.wait_state(spec.ref, JobState.RUNNING)
    site.wait_state(spec.ref, JobState.SUCCEEDED)
    output = site.output(spec.ref)
    assert f"WLM_JOB_TOKEN={spec.ref.token}\n" in output
    assert "SLURM_JOB_ID=" in output
    assert "secret" not in output
    assert "SLURM_ARRAY" not in output


def test_the_job_gets_its_own_signal_and_its_grace(site: SlurmSite) -> None:
    script = (
        "trap 'echo INT; sleep 1.5; echo bye; exit 0' INT; echo ready; while :; do sleep 0.1; done"
    )
    spec = site.spec(script, stop_signal="INT", stop_grace_s=20.0)
    site.backend.submit(spec)
    wait_for(lambda: "ready" in site.output(spec.ref), what="the payload's trap")
    assert not site.backend.cancel(spec.ref, wait_s=1.0)
    wait_for(lambda: site.another().cancel(spec.ref, wait_s=1.0), what="the end")
    assert site.output(spec.ref) == "ready\nINT\nbye\n"
    assert site.status(spec.ref).state is JobState.CANCELLED
    assert not site.living(spec.ref)


def test_after_the_grace_slurm_ends_it(site: SlurmSite) -> None:
    spec = site.spec("trap '' TERM INT; echo ready; while :; do sleep 0.1; done", stop_grace_s=1.0)
    site.backend.submit(spec)
    wait_for(lambda: "ready" in site.output(spec.ref), what="the payload's trap")
    wait_for(lambda: site.backend.cancel(spec.ref, wait_s=3.0), 30.0, what="the end")
    assert site.status(spec.ref).state is JobState.CANCELLED


def test_a_job_cancelled_while_it_waits(site: SlurmSite) -> None:
    first = asking(site, "while :; do sleep 0.1; done", cpus=128, nodes=2)
    site.backend.submit(first)
    site.wait_state(first.ref, JobState.RUNNING)
    second = asking(site)
    site.backend.submit(second)
    assert site.status(second.ref).state is JobState.PENDING
    assert site.backend.cancel(second.ref)
    assert site.status(second.ref).state is JobState.CANCELLED
    assert site.backend.cancel(first.ref)
    assert site.runs(second.ref) == 0
    # the payload heeded its signal: nothing was left for Slurm to end
    listed = ["squeue", "-h", "-t", "all", f"--name={first.ref.token}", "-o", "%T"]
    assert site.slurm.command(*listed).split() == ["FAILED"]
    assert site.status(first.ref).state is JobState.CANCELLED


def test_a_job_ended_by_hand_is_told_as_that(site: SlurmSite) -> None:
    spec = asking(site, "while :; do sleep 0.1; done")
    native_id = site.backend.submit(spec).native_id
    wait_for(lambda: site.runs(spec.ref), what="its start")
    site.slurm.command("scancel", native_id)
    status = site.wait_end(spec.ref)
    assert status.state is JobState.CANCELLED
    assert status.reason == "cancelled on the site: by scancel, or by Slurm that could not start it"


def test_slurm_may_not_put_a_job_back(site: SlurmSite) -> None:
    spec = asking(site, "sleep 1")
    native_id = site.backend.submit(spec).native_id
    site.wait_state(spec.ref, JobState.RUNNING)
    with pytest.raises(RuntimeError, match="operation is presently disabled"):
        site.slurm.command("scontrol", "requeue", native_id)
    site.wait_state(spec.ref, JobState.SUCCEEDED)


def test_a_job_put_back_by_force_does_not_run_again(site: SlurmSite) -> None:
    spec = asking(site, "while :; do sleep 0.1; done")
    native_id = site.backend.submit(spec).native_id
    wait_for(lambda: site.runs(spec.ref), what="its start")
    start_it_again(site, spec.ref, native_id)
    assert site.runs(spec.ref) == 1
    assert site.status(spec.ref).state is JobState.FAILED


def test_a_job_whose_processes_were_killed(site: SlurmSite) -> None:
    spec = asking(site, "while :; do sleep 0.1; done")
    site.backend.submit(spec)
    wait_for(lambda: site.runs(spec.ref), what="its start")
    guard = Path(spec.ref.attempt_dir, "started").read_text()
    pid = int(re.findall(r'"pid":(\d+)', guard)[0])
    os.kill(pid, signal.SIGKILL)
    processes.send(processes.scan().of_job(spec.ref.token, None).values(), signal.SIGKILL)
    status = site.wait_end(spec.ref)
    assert status.state is JobState.FAILED
    assert "FAILED" in status.reason
