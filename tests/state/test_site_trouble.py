"""Workers, polls and control against a site in trouble: nothing fails, one notice each way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from state.sent import Sent
from state.world import SETUP, SUBMIT, World, experiment, holder

from wlm_tasks.celery import WlmCelery, make_app
from wlm_tasks.compute.base import JobState, JobStatus, SiteLoad
from wlm_tasks.compute.fake import FakeBackend, FakeOutcome, FakeSite
from wlm_tasks.config import load
from wlm_tasks.control.duties import Duties
from wlm_tasks.errors import (
    BackendUnavailableError,
    JobUndecidedError,
    SiteAuthError,
    SiteMaintenanceError,
    SiteOverloadedError,
    SiteTroubleError,
    SiteUnreachableError,
)
from wlm_tasks.model.experiment import Retry
from wlm_tasks.model.sites import SiteState
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.runtime import Site
from wlm_tasks.state.site_rows import SiteRow
from wlm_tasks.tasks import gate
from wlm_tasks.tasks.engine import Engine, Left
from wlm_tasks.tasks.polling import poll_once
from wlm_tasks.tasks.shown import Shown
from wlm_tasks.tasks.watching import cancel_jobs

S = SiteState
GONE = SiteUnreachableError("ssh: connect to host alpha port 22: No route to host")


class Rig:
    """One worker and one control process, a site in memory, and a broker that is a list."""

    def __init__(self, app: WlmCelery, sent: Sent) -> None:
        self.app, self.sent, self.fake = app, sent, FakeSite()
        self.world = World(app.runtime.store)
        settings = app.settings.sites["alpha"]
        backend = FakeBackend(name="alpha", scratch=settings.directory, options={"site": self.fake})
        app.runtime._sites["alpha"] = Site(settings, backend)
        self.engine = Engine(app.runtime, Shown(app, enabled=False))
        self.duties = Duties(app)

    def site(self) -> SiteRow:
        return self.world.store.sites.get("alpha")

    def add(self, **fields: Any) -> str:
        return self.world.add(experiment(staging=False, **fields), sent=False)

    def work(self) -> int:
        """Control dispatches, and the worker takes each message once; returns how many."""
        self.duties.dispatch()
        messages, self.sent.chains = self.sent.chains, []
        for number, step in enumerate(messages):
            mine = holder(f"m{number}")
            self.engine.work(step.experiment_id, step.segment[0], mine)
        return len(messages)

    def poll(self) -> str | None:
        """A poll, whenever the last one was."""
        self.world.sql("UPDATE polls SET begun_at = 0, sent_at = sent_at - 100")
        _ready, error = poll_once(self.app.runtime, "alpha", "m")
        return error

    def tick(self) -> int:
        """Control does what is due, and the worker what comes of it; returns messages sent."""
        self.duties.probe()
        self.duties.release()
        polls, self.sent.system = self.sent.system, []
        for _poll in polls:
            self.poll()
        return self.work() + len(polls)

    def time_for_a_probe(self) -> None:
        self.world.sql("UPDATE sites SET probe_at = 0 WHERE probe_at IS NOT NULL")

    def calls(self, method: str) -> int:
        return len([name for name, _token in self.fake.calls if name == method])

    def changes(self) -> list[tuple[str, str]]:
        events = [one for one in self.world.store.views.events() if one.state == "SITE"]
        return [(one.detail["was"], one.detail["state"]) for one in events]


@pytest.fixture
def rig(url: str, tmp_path: Path, sent: Sent) -> Iterator[Rig]:
    file = tmp_path / "wlm.toml"
    file.write_text(f'[sites.alpha]\nkind = "noop"\nscratch = "{tmp_path}/scratch"\n')
    environ = {
        "WLM_DATA_DIR": str(tmp_path),
        "HOME": str(tmp_path),
        "WLM_DATABASE_URL": "env:TEST_DATABASE",
        "TEST_DATABASE": url,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_DATABASE", url)
        patch.setattr(gate, "_KNOWN_S", 0.0)  # time passes faster here
        app = make_app(load(file, environ))
        made = Rig(app, sent)
        yield made
        made.engine.close()
        app.runtime.close()
        app.close()


@pytest.mark.parametrize(
    ("method", "name"), [("prepare", SETUP), ("submit", SUBMIT)], ids=["setup", "submit"]
)
@pytest.mark.parametrize("error", [GONE, SiteOverloadedError("busy"), SiteMaintenanceError("shut")])
def test_all_wait_and_all_go_on_when_it_is_back(
    rig: Rig, caplog: pytest.LogCaptureFixture, method: str, name: StepName,
    error: SiteTroubleError,
) -> None:  # fmt: skip
    caplog.set_level(logging.WARNING)
    ids = [rig.add() for _ in range(12)]
    for one in ids:
        rig.world.until(one, name)
    rig.world.sql("UPDATE steps SET sent_at = NULL")
    rig.fake.fail(method, *[error] * 50)
    assert rig.work() == 12
    assert {rig.world.step(one, name).state for one in ids} == {StepState.HELD}
    assert rig.calls(method) == 1  # the others saw that it is in vain
    reason = rig.world.step(ids[0], name).reason
    assert reason == f"site alpha: {error.message}"
    for _ in range(5):
        assert rig.tick() == 0  # nothing is sent while it is known to be in vain
    rig.time_for_a_probe()
    assert rig.tick() == 1
    rig.time_for_a_probe()
    assert rig.tick() == 1
    assert (rig.calls(method), rig.site().probes) == (3, 2)
    rig.fake._faults[method].clear()
    rig.time_for_a_probe()
    assert rig.tick() == 1
    assert rig.site().state is S.UP
    assert rig.tick() == 11
    assert {rig.world.state(one) for one in ids} == {ExperimentState.SUBMITTED}
    for one in ids:
        steps = rig.world.store.views.steps(one)
        assert [(step.tries, step.crashes) for step in steps] == [(0, 0)] * len(steps)
    assert rig.changes() == [("UP", rig.changes()[0][1]), (rig.changes()[0][1], "UP")]
    notices = [one for one in caplog.messages if "is UP again" in one or ", was UP" in one]
    assert len(notices) == 2


def test_a_poll_outage_fails_no_job_and_is_told_once(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    ids = [rig.add() for _ in range(3)]
    rig.work()
    rig.fake.trouble = GONE
    for _ in range(4):
        assert rig.poll() == GONE.message
    assert {rig.world.state(one) for one in ids} == {ExperimentState.SUBMITTED}
    assert rig.site().state is S.UNREACHABLE
    assert rig.duties.poll() == 0  # polls wait for the probe
    late = rig.add()
    rig.work()
    assert rig.world.step(late, SETUP).state is StepState.HELD
    assert rig.calls("prepare") == 3
    rig.fake.trouble = None
    rig.time_for_a_probe()
    assert rig.tick() > 0
    assert rig.site().state is S.UP
    assert len([one for one in caplog.messages if "alpha" in one]) == 2
    rig.tick()
    assert rig.world.state(late) is ExperimentState.SUBMITTED


def test_a_site_without_jobs_and_steps_is_asked_for_its_return(rig: Rig) -> None:
    one = rig.add()
    rig.fake.trouble = GONE
    rig.work()
    rig.world.store.intake.cancel(one)
    rig.time_for_a_probe()
    rig.tick()
    assert rig.site().state is S.UNREACHABLE
    rig.fake.trouble = None
    rig.time_for_a_probe()
    rig.tick()
    assert rig.site().state is S.UP
    assert rig.calls("find") == 2


def test_credentials_are_for_a_person(rig: Rig) -> None:
    ids = [rig.add() for _ in range(5)]
    rig.fake.trouble = SiteAuthError("Permission denied (publickey)")
    rig.work()
    assert rig.site().state is S.AUTH_NEEDED
    site = rig.site()
    assert site.probe_at is not None
    assert site.since is not None
    assert site.probe_at - site.since > 100  # no hammering: the account would be locked
    rig.fake.trouble = None
    assert rig.tick() == 0
    rig.world.store.sites.resume("alpha", who="ada")
    assert rig.tick() == 5
    assert {rig.world.state(one) for one in ids} == {ExperimentState.SUBMITTED}


def test_a_resume_too_early_costs_one_try(rig: Rig) -> None:
    for _ in range(5):
        rig.add()
    rig.fake.trouble = SiteAuthError("Permission denied (publickey)")
    rig.work()
    rig.world.store.sites.resume("alpha", who="ada")
    rig.tick()
    assert rig.site().state is S.AUTH_NEEDED
    assert rig.calls("prepare") == 2


def test_a_paused_site_gets_nothing_new_and_gives_back_what_it_has(rig: Rig) -> None:
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    running = rig.add()
    rig.work()
    rig.world.store.sites.pause("alpha", who="ada", reason="cooling")
    waiting = rig.add()
    rig.work()
    step = rig.world.step(waiting, SETUP)
    assert (step.state, step.reason) == (StepState.HELD, "site alpha: paused by ada: cooling")
    [token] = rig.fake.jobs
    rig.fake.finish(token)
    assert rig.poll() is None
    assert rig.world.state(running) is ExperimentState.DONE
    assert rig.tick() == 0
    rig.world.store.sites.resume("alpha", who="ada")
    assert rig.tick() == 1


def test_a_limit_of_ours_is_no_sign_of_the_site(rig: Rig) -> None:
    """A submit that our own cap holds has not been at the site, so it ends no trouble."""
    held = rig.add()
    rig.fake.fail("submit", SiteOverloadedError("QOSMaxSubmitJobPerUserLimit"))
    rig.work()
    rig.world.store.sites.counted("alpha", queued=0, running=99, foreign=99)
    object.__setattr__(rig.app.settings.sites["alpha"], "max_running", 5)
    other = rig.add()
    rig.world.until(other, SUBMIT)
    rig.world.sql("UPDATE sites SET probing = :e", e=other)
    rig.engine.work(other, SUBMIT, holder("m"))
    assert rig.world.step(other, SUBMIT).state is StepState.HELD
    assert rig.site().state is S.OVERLOADED
    assert rig.world.step(held, SUBMIT).state is StepState.HELD


def test_accounting_that_is_away_is_told_and_keeps_nobody(rig: Rig) -> None:
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    rig.add()
    rig.work()
    rig.fake.accounting = "sacct: Connection refused"
    assert rig.poll() is None
    assert (rig.site().state, rig.site().reason) == (S.ACCOUNTING_DOWN, "sacct: Connection refused")
    one = rig.add()
    rig.work()
    assert rig.world.state(one) is ExperimentState.SUBMITTED
    rig.fake.accounting = None
    rig.poll()
    rig.poll()
    assert rig.changes() == [("UP", "ACCOUNTING_DOWN"), ("ACCOUNTING_DOWN", "UP")]


def test_the_account_is_counted_by_polls(rig: Rig) -> None:
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    rig.add()
    rig.work()
    rig.fake.load = SiteLoad(queued=2, running=3, foreign=4)
    rig.poll()
    assert (rig.site().queued, rig.site().running, rig.site().foreign_jobs) == (2, 3, 4)


def test_an_outage_that_is_none_of_the_site_is_a_passing_fault(rig: Rig) -> None:
    one = rig.add()
    rig.fake.fail("prepare", BackendUnavailableError("disk full"))
    rig.work()
    step = rig.world.step(one, SETUP)
    assert (step.state, step.tries) == (StepState.BACKOFF, 1)
    assert rig.site().state is S.UP


def test_a_cancel_does_not_knock_in_vain(rig: Rig) -> None:
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    one = rig.add()
    rig.work()
    rig.fake.trouble = GONE
    rig.poll()
    rig.world.store.intake.cancel(one)
    assert not cancel_jobs(rig.app.runtime, one)
    assert rig.calls("cancel") == 0
    rig.fake.trouble = None
    rig.time_for_a_probe()
    rig.tick()
    assert cancel_jobs(rig.app.runtime, one)
    assert rig.world.state(one) is ExperimentState.CANCELLED


# -- polls -------------------------------------------------------------------------------------


def test_polls_keep_their_distance_whatever_messages_do(rig: Rig) -> None:
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    rig.add()
    rig.work()
    poll_once(rig.app.runtime, "alpha", "m0")
    before = rig.calls("status")
    for number in range(5):
        _ready, error = poll_once(rig.app.runtime, "alpha", f"m{number}")
        assert error == "is polled by another, or was a moment ago"
    assert rig.calls("status") == before


def test_polls_slow_down_while_nothing_changes(rig: Rig) -> None:
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    rig.add()
    rig.work()
    paces = []
    for _ in range(60):
        rig.poll()
        paces.append(rig.world.store.polls.pace("alpha") or 0.0)
    assert paces[0] < 1.5  # the job was seen to run
    assert 25.0 < paces[-1] <= 33.0
    now = rig.world.store.views.now()
    rig.world.sql("UPDATE polls SET sent_at = :at, done_at = :at", at=now - 2)
    rig.world.sql("UPDATE jobs SET created_at = created_at - 100")
    assert rig.duties.poll() == 0
    rig.add()
    rig.work()  # a new job: as often as at first
    assert rig.duties.poll() == 1


def test_jobs_unknown_to_their_site_are_noted(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    rig.add()
    rig.work()
    rig.poll()
    backend, unknown = rig.app.runtime.site("alpha").backend, JobStatus(state=JobState.UNKNOWN)
    with monkeypatch.context() as patch:
        patch.setattr(backend, "status", lambda refs: {ref.token: unknown for ref in refs})
        rig.poll()
        rig.poll()
    [case] = rig.world.store.repair.cases(0.0)
    assert (case.kind, case.site) == ("unknown", "alpha")
    assert rig.world.store.repair.cases(60.0) == []
    rig.poll()
    assert rig.world.store.repair.cases(0.0) == []


# -- undecided ---------------------------------------------------------------------------------

UNDECIDED = JobUndecidedError("no answer to sbatch")


def test_an_undecided_submission_is_looked_for_and_then_paused(rig: Rig) -> None:
    """For as long as the settings say, whatever tries the experiment has."""
    one = rig.add(retry=Retry(tries=1))
    rig.fake.fail("submit", *[UNDECIDED] * 9)
    rig.work()
    for _ in range(3):
        assert rig.world.step(one, SUBMIT).state is StepState.BACKOFF
        rig.world.sql("UPDATE steps SET due_at = 0 WHERE due_at IS NOT NULL")
        rig.duties.wake()
        rig.work()
    rig.world.sql("UPDATE jobs SET created_at = created_at - 901")
    rig.world.sql("UPDATE steps SET due_at = 0 WHERE due_at IS NOT NULL")
    rig.duties.wake()
    rig.work()
    step = rig.world.step(one, SUBMIT)
    assert step.state is StepState.PAUSED
    assert step.reason is not None
    assert step.reason.startswith("undecided: whether there is job wlm-")
    assert step.reason.endswith("no answer to sbatch; see: wlm repair")
    assert rig.world.job_states(one) == ["INTENT"]


def test_a_message_of_a_held_step_leaves(rig: Rig) -> None:
    one = rig.add()
    rig.fake.trouble = GONE
    rig.work()
    assert rig.engine.work(one, SETUP, holder("again")) == Left("the step is HELD")
