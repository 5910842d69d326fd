"""Members of a sweep that Slurm gets in one call."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from integration.slurm.conftest import MakeSite
from unit.compute.slurm_site import BrokenShell, SlurmSite

from services.processes import wait_for
from wlm_tasks.compute.base import ENDED, JobSpec, JobState, SiteLoad, Submitted
from wlm_tasks.errors import (
    BackendUnavailableError,
    JobCancelledError,
    JobRejectedError,
    JobUndecidedError,
    WlmError,
)
from wlm_tasks.hosts.shell import RUN_TIMEOUT_S, LocalShell, Ran
from wlm_tasks.model.arrays import InArray, array_name
from wlm_tasks.model.experiment import Resources


def members(site: SlurmSite, count: int, script: str = "true") -> list[JobSpec]:
    name = array_name()
    specs = [site.spec(script) for _ in range(count)]
    return [
        replace(spec, ref=replace(spec.ref, array=InArray(name, index)))
        for index, spec in enumerate(specs)
    ]


def array_of(specs: Sequence[JobSpec]) -> str:
    array = specs[0].ref.array
    assert array is not None
    return array.name


def known(specs: Sequence[JobSpec], answers: dict[str, Submitted | WlmError]) -> list[JobSpec]:
    """The same with the ids that were given."""
    found = []
    for spec in specs:
        answer = answers[spec.ref.token]
        assert isinstance(answer, Submitted), answer
        found.append(replace(spec, ref=replace(spec.ref, native_id=answer.native_id)))
    return found


def wait_for_all(site: SlurmSite, specs: Sequence[JobSpec], timeout: float = 60.0) -> None:
    refs = [spec.ref for spec in specs]

    def over() -> bool:
        return all(one.state in ENDED for one in site.backend.status(refs).values())

    wait_for(over, timeout, "the end of an array", interval=0.2)


class Counting(LocalShell):
    """Counts the scripts that may call sbatch."""

    def __init__(self) -> None:
        self.scripts: list[str] = []

    def run(
        self,
        script: str,
        arguments: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> Ran:
        if "sbatch --parsable" in script:
            self.scripts.append(script)
        return super().run(script, arguments, stdin=stdin, timeout_s=timeout_s)


def test_fifty_jobs_by_one_call(site: SlurmSite) -> None:
    shell = Counting()
    specs = members(site, 50)
    specs = known(specs, site.another(shell=shell).submit_many(specs))
    assert len(shell.scripts) == 1
    bases = {str(spec.ref.native_id).partition("_")[0] for spec in specs}
    assert len(bases) == 1
    assert [str(spec.ref.native_id).partition("_")[2] for spec in specs] == [
        str(number) for number in range(50)
    ]
    wait_for_all(site, specs, 120)
    states = site.backend.status([spec.ref for spec in specs])
    assert {status.state for status in states.values()} == {JobState.SUCCEEDED}
    assert all(site.runs(spec.ref) == 1 for spec in specs)
    # again, alone or together: the same jobs
    again = site.backend.submit_many(specs)
    assert {spec.ref.token: Submitted(native_id=str(spec.ref.native_id)) for spec in specs} == again
    assert site.backend.submit(specs[7]).native_id == specs[7].ref.native_id


def test_what_a_member_waits_for_is_told(site: SlurmSite) -> None:
    site.slurm.drop_jobs()  # what another test has left is counted, too
    specs = members(site, 5, "sleep 60")
    specs = known(specs, site.backend.submit_many(specs))
    for spec in specs:
        site.wait_state(spec.ref, JobState.RUNNING, 30)
    assert site.backend.find(specs[3].ref) == specs[3].ref.native_id
    refs = [spec.ref for spec in specs]
    assert {status.state for status in site.backend.status(refs).values()} == {JobState.RUNNING}
    assert site.backend.load() == SiteLoad(queued=0, running=5, foreign=0)


def test_a_cancel_of_one_leaves_the_others(site: SlurmSite) -> None:
    specs = members(site, 4, "while [ ! -e ../go ]; do sleep 0.1; done")
    specs = known(specs, site.backend.submit_many(specs))
    for spec in specs:
        site.wait_state(spec.ref, JobState.RUNNING, 30)
    # whoever does not know its number ends it, too
    assert site.backend.cancel(replace(specs[1].ref, native_id=None))
    assert site.status(specs[1].ref).state is JobState.CANCELLED
    assert {site.status(spec.ref).state for spec in (specs[0], *specs[2:])} == {JobState.RUNNING}
    (site.scratch / "go").touch()
    wait_for_all(site, specs)
    found = site.backend.status([spec.ref for spec in specs])
    assert [found[spec.ref.token].state for spec in specs] == [
        JobState.SUCCEEDED,
        JobState.CANCELLED,
        JobState.SUCCEEDED,
        JobState.SUCCEEDED,
    ]


def test_a_cancel_of_one_that_waits(site: SlurmSite) -> None:
    specs = members(site, 3)
    site.slurm.command("scontrol", "update", "PartitionName=debug", "State=DOWN")
    try:
        specs = known(specs, site.backend.submit_many(specs))
        assert {site.status(spec.ref).state for spec in specs} == {JobState.PENDING}
        assert site.backend.cancel(specs[2].ref)
        assert site.status(specs[0].ref).state is JobState.PENDING
    finally:
        site.slurm.command("scontrol", "update", "PartitionName=debug", "State=UP")
    wait_for_all(site, specs)
    assert [site.runs(spec.ref) for spec in specs] == [1, 1, 0]


def test_a_member_that_fails_says_so(site: SlurmSite) -> None:
    specs = members(site, 3)
    specs[1] = replace(specs[1], script=f"{specs[1].script}\nexit 7")
    specs = known(specs, site.backend.submit_many(specs))
    wait_for_all(site, specs)
    failed = site.status(specs[1].ref)
    assert (failed.state, failed.exit_code) == (JobState.FAILED, 7)
    assert site.status(specs[2].ref).state is JobState.SUCCEEDED
    assert site.backend.tail(specs[1].ref, "stdout", 5) == ""


def test_a_refusal_refuses_all(site: SlurmSite) -> None:
    specs = members(site, 4)
    answers = site.another(partition="nope").submit_many(specs)
    for spec in specs:
        answer = answers[spec.ref.token]
        assert isinstance(answer, JobRejectedError)
        assert "Invalid partition name" in answer.message
        assert not Path(spec.ref.attempt_dir, "intent").exists()
    # it was certain: the same attempts may be sent again at once
    wait_for_all(site, known(specs, site.backend.submit_many(specs)))
    assert all(site.runs(spec.ref) == 1 for spec in specs)


def test_those_of_which_something_is_known_go_alone(site: SlurmSite) -> None:
    specs = members(site, 4)
    alone = replace(specs[0], ref=replace(specs[0].ref, array=None))
    first = site.backend.submit(alone).native_id
    assert site.backend.cancel(specs[1].ref)
    bad = replace(specs[2], variables={"BASH_ENV\n": "x"})
    answers = site.backend.submit_many([specs[0], specs[1], bad, specs[3]])
    assert answers[specs[0].ref.token] == Submitted(native_id=first)
    assert isinstance(answers[specs[1].ref.token], JobCancelledError)
    assert isinstance(answers[bad.ref.token], JobRejectedError)
    last = answers[specs[3].ref.token]
    assert isinstance(last, Submitted)
    assert last.native_id.endswith("_3")
    wait_for_all(site, [specs[0], specs[3]])
    assert [site.runs(spec.ref) for spec in specs] == [1, 0, 0, 1]


def test_a_member_left_out_is_not_taken_for_a_task_of_the_array(site: SlurmSite) -> None:
    """That Slurm has the array says nothing of a member that was sent alone, and got lost."""
    *taken, left_out = members(site, 3)
    taken = known(taken, site.backend.submit_many(taken))
    with pytest.raises(BackendUnavailableError):
        site.another(shell=BrokenShell("intended")).submit(left_out)
    with pytest.raises(JobUndecidedError):
        site.backend.submit(left_out)
    assert site.backend.find(left_out.ref) is None
    wait_for_all(site, taken)


@pytest.mark.parametrize(
    ("point", "there"),
    [
        ("locked", False),
        ("written", False),
        ("intending", False),
        ("intended", False),
        ("submitted", True),
        ("recording", True),
        ("recorded", True),
    ],
)
@pytest.mark.parametrize("hold", [False, True])
def test_killed_at_a_point_each_runs_once(
    site: SlurmSite, point: str, there: bool, hold: bool
) -> None:
    specs = members(site, 3)
    if hold:
        site.slurm.command("scontrol", "update", "PartitionName=debug", "State=DOWN")
    try:
        with pytest.raises(BackendUnavailableError):
            site.another(shell=BrokenShell(point)).submit_many(specs)
        ids = submit_until_decided(site, specs)
    finally:
        site.slurm.command("scontrol", "update", "PartitionName=debug", "State=UP")
    bases = {native_id.partition("_")[0] for native_id in ids}
    assert (len(bases) == 1) == there
    wait_for_all(site, specs)
    assert [site.runs(spec.ref) for spec in specs] == [1, 1, 1]
    found = site.backend.status([spec.ref for spec in specs])
    assert {status.state for status in found.values()} == {JobState.SUCCEEDED}
    assert site.slurm.jobs(array_of(specs)) == [] or there


def submit_until_decided(site: SlurmSite, specs: Sequence[JobSpec]) -> list[str]:
    """As steps do: again after a pause, as long as it is open whether they were submitted."""
    ids: dict[str, str] = {}

    def decided() -> bool:
        for spec in [spec for spec in specs if spec.ref.token not in ids]:
            with suppress(JobUndecidedError):
                ids[spec.ref.token] = site.backend.submit(spec).native_id
        return len(ids) == len(specs)

    wait_for(decided, 60.0, "that all is decided", 0.3)
    return [ids[spec.ref.token] for spec in specs]


def test_slurm_without_arrays_gets_the_jobs_one_by_one(make_site: MakeSite) -> None:
    site = make_site(MaxArraySize=3)
    specs = members(site, 5)
    backend = site.another()
    assert backend.batch == 100
    specs = known(specs, backend.submit_many(specs))
    assert backend.batch == 1
    assert not any("_" in str(spec.ref.native_id) for spec in specs)
    wait_for_all(site, specs)
    assert all(site.runs(spec.ref) == 1 for spec in specs)


def test_accounting_knows_members_that_slurm_forgot(make_site: MakeSite) -> None:
    site = make_site(accounting=True, MinJobAge=2)
    specs = members(site, 3, "kill -9 $PPID; sleep 30")
    specs = known(specs, site.backend.submit_many(specs))
    wait_for(lambda: not site.slurm.jobs(array_of(specs)), 120, "forgotten jobs", interval=1.0)
    wait_for_all(site, specs, 60)
    for spec in specs:
        status = site.status(spec.ref)
        assert status.state is JobState.FAILED, status
        assert site.runs(spec.ref) == 1


def test_a_member_out_of_its_time(site: SlurmSite) -> None:
    specs = members(site, 2, "sleep 50")
    specs = [replace(one, resources=Resources(walltime_s=1.0)) for one in specs]
    specs = known(specs, site.backend.submit_many(specs))
    wait_for_all(site, specs)
    for spec in specs:
        status = site.status(spec.ref)
        assert status.state is JobState.FAILED
        assert status.reason.startswith("walltime")


def test_what_slurm_writes_is_with_each_attempt(site: SlurmSite) -> None:
    specs = members(site, 2, "sleep 60")
    specs = known(specs, site.backend.submit_many(specs))
    for spec in specs:
        site.wait_state(spec.ref, JobState.RUNNING, 30)
    number = str(specs[0].ref.native_id)
    site.slurm.command("scancel", number)  # not by us: the guard is ended by Slurm, which says so
    assert site.wait_end(specs[0].ref).state in {JobState.CANCELLED, JobState.FAILED}
    log = Path(specs[0].ref.attempt_dir, "slurm.log")
    wait_for(lambda: "CANCELLED" in log.read_text(), 10, "Slurm's own words")
    assert site.status(specs[1].ref).state is JobState.RUNNING
