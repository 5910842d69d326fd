"""``wlm repair``: what it lists, and each way to settle it; never two jobs without a word."""

from __future__ import annotations

from typing import Any

import pytest
from unit.cli.world import World

from wlm_tasks import runtime as runtime_module
from wlm_tasks.compute.fake import FakeBackend, FakeOutcome, FakeSite
from wlm_tasks.errors import BackendUnavailableError, SiteUnreachableError
from wlm_tasks.model.experiment import Experiment, Retry
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intents import Intent
from wlm_tasks.tasks.perform import job_spec

GONE = SiteUnreachableError("no route to host")


class Repairs:
    """Experiments with jobs on a site in memory."""

    def __init__(self, world: World) -> None:
        self.world, self.fake = world, FakeSite()
        self.fake.plan("hello", FakeOutcome(exit_code=None))

    def backend(self, **given: Any) -> FakeBackend:
        return FakeBackend(**{**given, "options": {"site": self.fake}})

    def undecided(self, *, taken: bool = False, **fields: Any) -> str:
        """An experiment whose submission broke off; `taken` says whether the site has the job."""
        experiment_id, claim, intent = self._intended(**fields)
        if taken:
            self.start(experiment_id, intent)
        self.world.store.claims.pause(claim, "undecided: no answer")
        return experiment_id

    def start(self, experiment_id: str, intent: Intent) -> None:
        """Let the site have the job after all."""
        spec = self.world.store.views.spec(experiment_id)
        self.fake.start(job_spec(Experiment.from_stored(spec), intent), None)

    def watched(self, **fields: Any) -> str:
        """An experiment whose job its site does not know any more."""
        experiment_id, claim, intent = self._intended(**fields)
        self.world.store.jobs.submitted(claim, intent.token, "n-1")
        self.world.store.jobs.unknown(now=[intent.token], no_more=[])
        self.later(3600)
        return experiment_id

    def _intended(self, **fields: Any) -> tuple[str, Claim, Intent]:
        experiment_id, store = self.world.add(**fields), self.world.store
        store.claims.finish(self.world.claim(experiment_id), carry_on=None)
        claim = self.world.claim(experiment_id, StepName.SUBMIT)
        workdir = self.world.client.runtime.site("local").workdir(experiment_id)
        intent = store.jobs.intend(claim, site="local", workdir=workdir)
        assert isinstance(intent, Intent)
        return experiment_id, claim, intent

    def later(self, seconds: float) -> None:
        """Let time pass."""
        times = {"jobs": ["unknown_at"], "experiments": ["ended_at", "updated_at"]}
        with self.world.store.database.write() as connection:
            for table, columns in times.items():
                changes = ", ".join(f"{column} = {column} - {seconds}" for column in columns)
                connection.exec_driver_sql(f"UPDATE {table} SET {changes}")  # noqa: S608

    def jobs(self, experiment_id: str) -> list[tuple[str, str | None]]:
        jobs = self.world.store.views.jobs(experiment_id)
        return [(str(job.state), job.native_id) for job in jobs]

    def step(self, experiment_id: str) -> str:
        steps = self.world.store.views.steps(experiment_id)
        return next(str(step.state) for step in steps if step.name is StepName.SUBMIT)

    def calls(self) -> list[str]:
        return [name for name, _token in self.fake.calls]


@pytest.fixture
def repairs(world: World, monkeypatch: pytest.MonkeyPatch) -> Repairs:
    made = Repairs(world)
    monkeypatch.setattr(
        runtime_module, "compute_backend", lambda _kind, **given: made.backend(**given)
    )
    return made


# -- the list ----------------------------------------------------------------------------------


def test_nothing_needs_a_person(repairs: Repairs) -> None:
    repairs.world.add()
    assert repairs.world.wlm("repair").stdout == "nothing needs a person\n"
    assert repairs.world.json("repair") == {"jobs": [], "sites": [], "queues": []}


def test_what_is_listed(repairs: Repairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    open_one, there = repairs.undecided(), repairs.undecided(taken=True)
    unknown = repairs.watched()
    shown = repairs.world.wlm("repair", code=1).stdout.splitlines()
    assert shown[0].startswith(f"{open_one}  job wlm-{open_one[4:]}-1 at site local is undecided")
    assert shown[1:4] == [
        "  undecided: no answer",
        "  the site knows no such job",
        f"  mend: wlm repair {open_one} --look, or --adopt NATIVE_ID, or --absent",
    ]
    assert "  the site has it as fake-1" in shown
    assert any(line.startswith(f"{unknown}  job") and " is unknown there" in line for line in shown)
    ids = repairs.world.wlm("repair", "-o", "ids", code=1).stdout.split()
    assert ids == [open_one, there, unknown]
    assert set(repairs.calls()) == {"find", "status"}  # looking changes nothing
    assert repairs.jobs(open_one) == [("INTENT", None)]


def test_a_site_that_cannot_be_asked_is_no_obstacle(repairs: Repairs) -> None:
    repairs.undecided()
    repairs.fake.trouble = GONE
    shown = repairs.world.wlm("repair", code=1).stdout
    assert "the site cannot be asked: no route to host" in shown


def test_what_is_young_is_left_out(repairs: Repairs) -> None:
    one = repairs.watched()
    repairs.later(-3590)
    assert repairs.world.wlm("repair").stdout == "nothing needs a person\n"
    repairs.world.wlm("cancel", one)
    assert repairs.world.wlm("repair").stdout == "nothing needs a person\n"


# -- undecided ---------------------------------------------------------------------------------


def test_a_look_finds_it(repairs: Repairs) -> None:
    one = repairs.undecided(taken=True)
    told = repairs.world.wlm("repair", one, "--look").stdout
    assert told == f"{one}  site local has it as fake-1\n"
    assert repairs.jobs(one) == [("PENDING", "fake-1")]
    assert repairs.world.state(one) == "SUBMITTED"
    told = repairs.world.wlm("repair", one, "--look").stdout
    assert told == f"{one}  site local says running\n"


def test_empty_looks_change_nothing_however_many(repairs: Repairs) -> None:
    one = repairs.undecided()
    for _ in range(5):
        told = repairs.world.wlm("repair", one, "--look", code=1)
        assert told.stdout == f"{one}  site local knows no such job\n"
        assert "one empty answer proves nothing" in told.stderr
    assert repairs.jobs(one) == [("INTENT", None)]
    assert repairs.step(one) == "PAUSED"
    assert repairs.fake.jobs == {}


def test_a_look_at_a_site_that_is_away(repairs: Repairs) -> None:
    one = repairs.undecided(taken=True)
    repairs.fake.trouble = GONE
    told = repairs.world.wlm("repair", one, "--look", code=1).stdout
    assert told == f"{one}  site local cannot be asked: no route to host\n"
    assert repairs.jobs(one) == [("INTENT", None)]


@pytest.mark.parametrize("away", [True, False])
def test_a_person_found_it(repairs: Repairs, *, away: bool) -> None:
    one = repairs.undecided()
    repairs.fake.trouble = GONE if away else None
    told = repairs.world.wlm("repair", one, "--adopt", "4711").stdout
    assert told == f"{one}  job wlm-{one[4:]}-1 is watched as 4711\n"
    assert repairs.jobs(one) == [("PENDING", "4711")]
    assert repairs.fake.jobs == {}


def test_a_person_may_be_wrong(repairs: Repairs) -> None:
    one = repairs.undecided(taken=True)
    told = repairs.world.wlm("repair", one, "--adopt", "4711", code=2).stderr
    assert told == ("wlm: error: --adopt: got '4711', expected 'fake-1': so site local says\n")
    assert repairs.jobs(one) == [("INTENT", None)]


def test_absent_bars_the_old_job_and_makes_room_for_a_new_one(repairs: Repairs) -> None:
    one = repairs.undecided()
    told = repairs.world.wlm("repair", one, "--absent", stdin="y\n")
    assert "confirms that nothing of job" in told.stderr
    assert repairs.jobs(one) == [("REJECTED", None)]
    assert repairs.step(one) == "READY"
    claim = repairs.world.claim(one, StepName.SUBMIT)
    workdir = repairs.world.client.runtime.site("local").workdir(one)
    intent = repairs.world.store.jobs.intend(claim, site="local", workdir=workdir)
    assert getattr(intent, "token", "") == f"wlm-{one[4:]}-2"
    assert repairs.fake.jobs[f"wlm-{one[4:]}-1"].status.reason == "cancelled"


def test_a_no_changes_nothing(repairs: Repairs) -> None:
    one = repairs.undecided()
    repairs.world.wlm("repair", one, "--absent", stdin="n\n", code=None)
    assert repairs.jobs(one) == [("INTENT", None)]
    assert repairs.step(one) == "PAUSED"
    assert "cancel" not in repairs.calls()


def test_a_site_that_cannot_promise_it_is_asked_about_once_more(repairs: Repairs) -> None:
    one = repairs.undecided()
    repairs.fake.fail("cancel", BackendUnavailableError("squeue does not answer"))
    told = repairs.world.wlm("repair", one, "--absent", stdin="y\nn\n", code=None)
    assert "its payload may run twice" in told.stderr
    assert repairs.jobs(one) == [("INTENT", None)]
    repairs.fake.trouble = GONE
    repairs.world.wlm("repair", one, "--absent", "--yes")  # that is an explicit word
    assert repairs.jobs(one) == [("REJECTED", None)]


def test_what_is_there_is_not_absent_whoever_says_so(repairs: Repairs) -> None:
    one = repairs.undecided(taken=True)
    told = repairs.world.wlm("repair", one, "--absent", "--yes", code=1).stderr
    assert "is not absent, site local has it as fake-1" in told
    assert repairs.jobs(one) == [("INTENT", None)]
    assert "cancel" not in repairs.calls()


def test_a_resume_looks_again_and_makes_no_second_token(repairs: Repairs) -> None:
    one = repairs.undecided(taken=True)
    repairs.world.wlm("resume", one)
    claim = repairs.world.claim(one, StepName.SUBMIT)
    intent = repairs.world.store.jobs.intend(claim, site="local", workdir="/w")
    assert (getattr(intent, "token", ""), getattr(intent, "first", None)) == (
        f"wlm-{one[4:]}-1", False,
    )  # fmt: skip
    assert "has neither" in repairs.world.wlm("repair", one, "--absent", "--yes", code=1).stderr


# -- unknown and orphaned ----------------------------------------------------------------------


def test_an_unknown_job_under_another_id(repairs: Repairs) -> None:
    one = repairs.watched()
    repairs.world.wlm("repair", one, "--adopt", "n-2")
    assert repairs.jobs(one) == [("PENDING", "n-2")]
    assert repairs.world.wlm("repair").stdout == "nothing needs a person\n"


@pytest.mark.parametrize(("most", "step", "state"), [(1, "DONE", "FAILED"), (2, "READY", "QUEUED")])
def test_an_unknown_job_is_given_up(repairs: Repairs, most: int, step: str, state: str) -> None:
    one = repairs.watched(retry=Retry(jobs=most))
    repairs.world.wlm("repair", one, "--absent", "--yes")
    assert repairs.jobs(one) == [("LOST", "n-1")]
    assert repairs.step(one) == step
    assert repairs.world.state(one) in (state, "SUBMITTED")
    if most == 1:
        assert "gone without a trace, says" in repairs.world.wlm("why", one).stdout


def test_a_job_that_runs_on_is_not_given_up(repairs: Repairs) -> None:
    one = repairs.watched()
    [job] = repairs.world.store.views.jobs(one)
    repairs.start(one, Intent(token=job.token, workdir=job.workdir, first=False))
    told = repairs.world.wlm("repair", one, "--absent", "--yes", code=1).stderr
    assert "site local says running" in told
    repairs.world.wlm("repair", one, "--look")
    assert repairs.jobs(one) == [("RUNNING", "n-1")]


def _orphan(repairs: Repairs) -> str:
    one = repairs.watched()
    repairs.world.wlm("cancel", one)
    repairs.later(3600)
    return one


def test_an_orphan_is_shown_and_ended(repairs: Repairs) -> None:
    one = _orphan(repairs)
    shown = repairs.world.wlm("repair", code=1).stdout
    assert "is not confirmed as gone" in shown
    told = repairs.world.wlm("repair", one, "--look").stdout
    assert told == f"{one}  site local confirms that it is gone\n"
    assert repairs.world.state(one) == "CANCELLED"


def test_an_orphan_whose_site_is_gone_for_good(repairs: Repairs) -> None:
    one = _orphan(repairs)
    repairs.fake.trouble = GONE
    told = repairs.world.wlm("repair", one, "--look", code=1).stdout
    assert told == f"{one}  site local does not confirm that it is gone\n"
    assert repairs.world.state(one) == "CANCELLING"
    repairs.world.wlm("repair", one, "--absent", "--yes")
    assert repairs.world.state(one) == "CANCELLED"
    assert repairs.jobs(one) == [("CANCELLED", "n-1")]


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--look",), "--look, --adopt and --absent: expected an ID"),
        (("{id}",), "expected one of --look, --adopt and --absent"),
        (("{id}", "--look", "--absent"), "expected one of --look, --adopt and --absent"),
        (("{id}", "--adopt", ""), "--adopt: got '', expected 1 to 255 characters"),
        (("{id}", "--adopt", "47 11"), "--adopt: got '47 11', expected 1 to 255"),
        (("{id}", "--adopt"), "--adopt"),
        (("exp-nosuch", "--look"), "exp-nosuch"),
        (("{sweep}", "--look"), "is a sweep, expected an experiment"),
    ],
)
def test_bad_input(repairs: Repairs, words: tuple[str, ...], told: str) -> None:
    one = repairs.undecided()
    sweep = repairs.world.sweep({"n": [1, 2]})
    given = [word.format(id=one, sweep=sweep) for word in words]
    result = repairs.world.wlm("repair", *given, code=2)
    assert told in result.stderr
    assert repairs.jobs(one) == [("INTENT", None)]


def test_an_experiment_that_is_well(repairs: Repairs) -> None:
    one = repairs.world.add()
    told = repairs.world.wlm("repair", one, "--look", code=1).stderr
    assert "has neither a submission that is undecided and paused nor a job" in told
