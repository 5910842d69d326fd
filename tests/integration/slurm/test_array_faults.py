"""Members of arrays on a Slurm that breaks: as jobs of their own, one payload per attempt."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace

from integration.slurm.conftest import GREEDY, KILLS_FOR_MEMORY, MakeSite, start_it_again
from integration.slurm.test_arrays import array_of, known, members
from unit.compute.slurm_site import SlurmSite

from services.guardian import MARKER, marked_processes
from services.processes import wait_for
from wlm_tasks.compute import processes
from wlm_tasks.compute.base import ENDED, JobSpec, JobState
from wlm_tasks.model.experiment import Resources

ENDLESS = "while :; do sleep 0.1; done"
GONE = "Slurm forgot or cancelled the job before it began; it will not begin any more"


def running(site: SlurmSite, count: int = 2) -> list[JobSpec]:
    """Members that have begun and do not end by themselves."""
    specs = members(site, count, ENDLESS)
    specs = known(specs, site.backend.submit_many(specs))
    for spec in specs:
        wait_for(lambda spec=spec: site.runs(spec.ref), 30, "its start")  # type: ignore[misc]
    return specs


def test_a_member_put_back_by_force_does_not_run_again(site: SlurmSite) -> None:
    spec, other = running(site)
    start_it_again(site, spec.ref, str(spec.ref.native_id))
    assert site.runs(spec.ref) == 1
    assert site.status(spec.ref).state is JobState.FAILED
    assert site.status(other.ref).state is JobState.RUNNING
    assert site.backend.cancel(other.ref)


def test_a_controller_killed_right_after_a_launch(make_site: MakeSite) -> None:
    site = make_site()
    specs = running(site)
    site.slurm.kill_controller()
    site.slurm.restart_controller()
    for spec in specs:
        # it knows the array as waiting, ends what runs of it and launches it again
        status = site.wait_end(spec.ref)
        assert status.state is JobState.FAILED, status
        assert site.runs(spec.ref) == 1
        assert not site.living(spec.ref)


def test_an_array_that_slurm_forgot_before_it_began(make_site: MakeSite) -> None:
    site = make_site()
    site.slurm.command("scontrol", "update", "PartitionName=debug", "State=DOWN")
    specs = members(site, 2)
    specs = known(specs, site.backend.submit_many(specs))
    site.slurm.kill_controller()
    shutil.rmtree(site.slurm.directory / "state")
    (site.slurm.directory / "state").mkdir()
    site.slurm.restart_controller()
    # its number is given to a foreign array
    for _ in range(2):
        site.slurm.command(
            "sbatch", "--job-name=foreign", "--output=/dev/null", "-H", "--array=0-1", "--wrap=true"
        )
    assert not site.slurm.jobs(array_of(specs))
    for spec in specs:
        status = site.wait_state(spec.ref, JobState.LOST, timeout=20.0)
        assert status.reason == GONE
        assert site.backend.cancel(spec.ref)
        assert site.runs(spec.ref) == 0
    listed = site.slurm.command("squeue", "-h", "-r", "--name=foreign", "-o", "%T").split()
    assert listed == ["PENDING"] * 4
    load = site.backend.load()
    assert load is not None
    assert (load.foreign, load.queued) == (4, 4)


def test_a_node_that_died(make_site: MakeSite) -> None:
    site = make_site()
    specs = running(site)
    site.slurm.kill_node("wn1")
    steps = [pid for pid, line in marked_processes(os.environ[MARKER]).items() if "stepd" in line]
    for pid in steps:
        os.kill(pid, signal.SIGKILL)
    for spec in specs:
        processes.send(processes.scan().of_job(spec.ref.token, None).values(), signal.SIGKILL)
    site.slurm.command("scontrol", "update", "NodeName=wn1", "State=DOWN", "Reason=died")
    for spec in specs:
        status = site.wait_end(spec.ref)
        assert status.state is JobState.FAILED
        assert status.reason.startswith("node failure")
        assert site.runs(spec.ref) == 1


def test_a_member_that_uses_more_memory_than_it_asked_for(make_site: MakeSite) -> None:
    site = make_site(**KILLS_FOR_MEMORY)
    asked = Resources(walltime_s=60, memory_mb=40)
    specs = [replace(spec, resources=asked) for spec in members(site, 2, "sleep 1")]
    specs[1] = replace(specs[1], script=f"{specs[1].script}\n{GREEDY}")
    specs = known(specs, site.backend.submit_many(specs))
    wait_for(lambda: site.status(specs[1].ref).state in ENDED, 30.0, "its end", 0.3)
    status = site.status(specs[1].ref)
    assert status.state is JobState.FAILED
    assert status.reason == "out of memory: it used more memory than it had asked for"
    assert site.wait_end(specs[0].ref).state is JobState.SUCCEEDED


def test_a_member_cancelled_by_hand_while_it_waits(make_site: MakeSite) -> None:
    """Neither Slurm's list nor its accounting then know anything of it."""
    site = make_site(accounting=True)
    site.slurm.command("scontrol", "update", "PartitionName=debug", "State=DOWN")
    specs = members(site, 2)
    specs = known(specs, site.backend.submit_many(specs))
    site.slurm.command("scancel", str(specs[1].ref.native_id))
    wait_for(lambda: site.status(specs[1].ref).state in ENDED, 40.0, "its end", 0.5)
    status = site.status(specs[1].ref)
    assert (status.state, status.reason) == (JobState.LOST, GONE)
    assert site.status(specs[0].ref).state is JobState.PENDING
    site.slurm.command("scontrol", "update", "PartitionName=debug", "State=UP")
    assert site.wait_end(specs[0].ref).state is JobState.SUCCEEDED
    assert [site.runs(spec.ref) for spec in specs] == [1, 0]
