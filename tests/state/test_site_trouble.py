"""Workers, polls and control against a site in trouble: nothing fails, one notice each way."""

from __future__ import annotations

import logging

import pytest
from state.rig import Rig
from state.world import SETUP, SUBMIT, holder

from wlm_tasks.compute.base import SiteLoad
from wlm_tasks.compute.fake import FakeOutcome
from wlm_tasks.errors import (
    BackendUnavailableError,
    SiteAuthError,
    SiteMaintenanceError,
    SiteOverloadedError,
    SiteTroubleError,
    SiteUnreachableError,
)
from wlm_tasks.model.sites import SiteState
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.tasks.engine import Left
from wlm_tasks.tasks.watching import cancel_jobs

S = SiteState
GONE = SiteUnreachableError("ssh: connect to host alpha port 22: No route to host")


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
        rig.until(one, name)
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
    rig.until(other, SUBMIT)
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


def test_a_message_of_a_held_step_leaves(rig: Rig) -> None:
    one = rig.add()
    rig.fake.trouble = GONE
    rig.work()
    assert rig.engine.work(one, SETUP, holder("again")) == Left("the step is HELD")
