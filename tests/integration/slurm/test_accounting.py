"""Jobs on a Slurm with accounting: what Slurm has forgotten, what only accounting refuses."""

from __future__ import annotations

import getpass
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from integration.slurm.conftest import MakeSite
from integration.slurm.test_arrays import members
from unit.compute.slurm_site import BrokenShell, SlurmSite

from services.processes import wait_for
from services.slurm import ACCOUNT
from wlm_tasks.compute import processes
from wlm_tasks.compute.base import JobSpec, JobState, Submitted
from wlm_tasks.errors import BackendUnavailableError, JobRejectedError, SiteOverloadedError

ENDLESS = "while :; do sleep 0.1; done"


@pytest.fixture
def site(make_site: MakeSite) -> SlurmSite:
    """A site whose Slurm forgets jobs soon after their end, while its accounting does not."""
    return make_site(accounting=True, MinJobAge=2)


def purged(site: SlurmSite) -> None:
    """Wait until Slurm has forgotten every job."""
    wait_for(lambda: not site.slurm.command("squeue", "-h", "-t", "all"), 60.0, "the purge", 0.3)


def accounted(site: SlurmSite, spec: JobSpec) -> str:
    """What accounting says of the state of a job."""
    return site.slurm.command(
        "sacct", "-nXP", "-S", "now-1hour", "--name", spec.ref.token, "-o", "State"
    )


def fell_silent(site: SlurmSite, spec: JobSpec) -> None:
    """Let a job end without a word: its processes are killed, its guard first."""
    claim = Path(spec.ref.attempt_dir, "started").read_text()
    os.kill(int(claim.partition('"pid":')[2].partition(",")[0]), signal.SIGKILL)
    processes.send(processes.scan().of_job(spec.ref.token, None).values(), signal.SIGKILL)


@contextmanager
def accounting_off(site: SlurmSite) -> Iterator[None]:
    site.slurm.accounting.stop_slurmdbd()
    yield
    site.slurm.accounting.start_slurmdbd()


def test_the_end_of_a_job_that_slurm_has_forgotten(site: SlurmSite) -> None:
    spec = site.spec(ENDLESS)
    site.backend.submit(spec)
    wait_for(lambda: site.runs(spec.ref), what="its start")
    fell_silent(site, spec)
    purged(site)
    wait_for(lambda: "FAILED" in accounted(site, spec), what="the record")
    status = site.status(spec.ref)
    assert status.state is JobState.FAILED
    assert "FAILED" in status.reason
    assert status.ended_at is not None
    assert abs(time.time() - status.ended_at) < 120


def test_a_lost_answer_of_a_job_that_was_cancelled_and_forgotten(site: SlurmSite) -> None:
    """Nothing but accounting knows that it was there: it was never begun."""
    site.slurm.command("scontrol", "update", "PartitionName=debug", "State=DOWN")
    spec = site.spec("true")
    with pytest.raises(BackendUnavailableError):
        site.another(shell=BrokenShell("submitted")).submit(spec)
    site.slurm.command("scancel", f"--name={spec.ref.token}")
    purged(site)
    wait_for(lambda: "CANCELLED" in accounted(site, spec), what="the record")
    site.slurm.command("scontrol", "update", "PartitionName=debug", "State=UP")
    native_id = site.backend.submit(spec).native_id
    assert site.slurm.command("sacct", "-nXP", "-S", "now-1hour", "-o", "JobID").split() == [
        native_id
    ]
    assert site.status(spec.ref).state is JobState.CANCELLED
    assert site.runs(spec.ref) == 0


def test_accounting_that_is_switched_off_leaves_open_what_only_it_knows(site: SlurmSite) -> None:
    good, mute = site.spec("true"), site.spec(ENDLESS)
    for spec in (good, mute):
        site.backend.submit(spec)
    site.wait_state(good.ref, JobState.SUCCEEDED)
    wait_for(lambda: site.runs(mute.ref), what="its start")
    assert site.backend.accounting_trouble() is None
    with accounting_off(site):
        fell_silent(site, mute)
        purged(site)
        found = site.backend.status([good.ref, mute.ref])
        assert found[good.ref.token].state is JobState.SUCCEEDED
        assert found[mute.ref.token].state is JobState.UNKNOWN
        assert "accounting does not answer" in found[mute.ref.token].reason
        assert "sacct does not answer" in (site.backend.accounting_trouble() or "")
        # jobs go on meanwhile
        late = site.spec("true")
        site.backend.submit(late)
        site.wait_state(late.ref, JobState.SUCCEEDED)
    wait_for(lambda: site.status(mute.ref).state is JobState.FAILED, 30.0, "accounting", 0.3)
    assert site.backend.accounting_trouble() is None


def test_accounting_refuses_in_slurms_words(site: SlurmSite) -> None:
    for wrong, words in (
        (site.another(account="nobody"), "Invalid account or account/partition combination"),
        (site.another(qos="nothing"), "Invalid qos specification"),
    ):
        spec = site.spec("true")
        with pytest.raises(JobRejectedError, match=f"Slurm refused the job: .*{words}"):
            wrong.submit(spec)
        # it was certain: the same attempt may be sent again at once
        site.another(account=ACCOUNT).submit(spec)
        site.wait_state(spec.ref, JobState.SUCCEEDED)
        assert site.runs(spec.ref) == 1


def test_a_limit_of_the_account_is_no_fault_of_the_job(site: SlurmSite) -> None:
    limit = ["sacctmgr", "-i", "modify", "user", getpass.getuser(), "set"]
    first, second = site.spec(ENDLESS), site.spec("true")
    site.slurm.command(*limit, "MaxSubmitJobs=1")
    site.backend.submit(first)
    with pytest.raises(SiteOverloadedError, match=r"Slurm takes no job now: .*MaxSubmitJob"):
        site.backend.submit(second)
    site.slurm.command(*limit, "MaxSubmitJobs=-1")
    site.backend.submit(second)
    site.wait_state(second.ref, JobState.SUCCEEDED)
    assert site.runs(second.ref) == 1
    # an array is refused as a whole; of its members there is room for one
    site.slurm.command(*limit, "MaxSubmitJobs=2")
    specs = members(site, 3, ENDLESS)
    answers = site.backend.submit_many(specs)
    assert [type(answers[spec.ref.token]) for spec in specs] == [
        Submitted,
        SiteOverloadedError,
        SiteOverloadedError,
    ]
