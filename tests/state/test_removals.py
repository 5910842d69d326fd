"""Directories that are removed after the end, by a worker at a site."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from state.rig import Rig
from state.test_cleaning import asked, begun
from state.world import SETUP

from wlm_tasks.errors import (
    BackendUnavailableError,
    IllegalTransitionError,
    JobRejectedError,
)
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.cleaning import AT_ONCE
from wlm_tasks.tasks.cleaning import remove_directory


def ended(rig: Rig) -> tuple[str, str]:
    """An experiment that is DONE, and its directory."""
    experiment_id = rig.world.store.intake.add(asked(staging=False), sent=False)
    while rig.work():
        pass
    rig.poll()
    assert rig.world.state(experiment_id) is ExperimentState.DONE
    return experiment_id, rig.app.runtime.site("alpha").workdir(experiment_id)


def test_control_asks_and_a_worker_removes(rig: Rig) -> None:
    experiment_id, workdir = ended(rig)
    assert workdir in rig.fake.workdirs
    assert (rig.duties.clean(), rig.duties.clean()) == (1, 0)
    assert rig.sent.system[-1] == ("wlm.remove", [experiment_id])
    assert remove_directory(rig.app.runtime, experiment_id) == "removed"
    assert workdir not in rig.fake.workdirs
    assert remove_directory(rig.app.runtime, experiment_id) == "not to be removed"
    assert rig.world.log(experiment_id).count((0, "REMOVED")) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_the_end_of_a_removal_lets_another_begin(rig: Rig, fails: bool) -> None:
    """However it ends; while it runs it has its place."""
    ended(rig)
    ended(rig)
    for number in range(AT_ONCE - 1):
        assert rig.world.store.connections.take("removals alpha", AT_ONCE, f"{number}", 1000)
    assert rig.duties.clean() == 1
    asked_for = str(rig.sent.system[-1][1][0])
    held: list[list[str]] = []
    backend = rig.app.runtime.site("alpha").backend
    discard = type(backend).discard

    def discards(*arguments: Any) -> bool:
        assert rig.duties.clean() == 0
        held.append(rig.world.store.connections.holders("removals alpha"))
        return discard(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(type(backend), "discard", discards)
        if fails:
            rig.fake.fail("discard", BackendUnavailableError("busy"))
        assert remove_directory(rig.app.runtime, asked_for) == ("failed" if fails else "removed")
    assert held
    assert asked_for in held[0]
    assert rig.duties.clean() == 1


def test_a_site_that_fails_and_one_that_is_away(rig: Rig) -> None:
    experiment_id, workdir = ended(rig)
    rig.fake.fail("discard", BackendUnavailableError("busy"))
    assert remove_directory(rig.app.runtime, experiment_id) == "failed"
    assert rig.world.store.views.experiment(experiment_id).cleanup_reason == "busy"
    assert rig.duties.clean() == 0
    rig.world.sql("UPDATE experiments SET cleanup_at = 0")
    rig.world.sql(
        "INSERT INTO sites (name, state, since) VALUES ('alpha', 'UNREACHABLE', 0)"
        " ON CONFLICT (name) DO UPDATE SET state = 'UNREACHABLE'"
    )
    assert rig.duties.clean() == 0
    assert remove_directory(rig.app.runtime, experiment_id) == "its site is away"
    rig.world.sql("UPDATE sites SET state = 'UP'")
    assert rig.duties.clean() == 1
    assert remove_directory(rig.app.runtime, experiment_id) == "removed"
    assert workdir not in rig.fake.workdirs


def test_a_crash_between_the_removal_and_its_record(rig: Rig) -> None:
    experiment_id, workdir = ended(rig)
    assert rig.world.store.cleaning.begin(experiment_id) is not None
    rig.fake.workdirs.discard(workdir)
    rig.world.sql("UPDATE experiments SET cleanup_at = 0")
    assert rig.duties.clean() == 1
    assert remove_directory(rig.app.runtime, experiment_id) == "removed"


def test_a_site_that_cannot(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment_id, _workdir = ended(rig)
    backend = rig.app.runtime.site("alpha").backend
    monkeypatch.setattr(type(backend), "discard", lambda *_: False)
    assert remove_directory(rig.app.runtime, experiment_id) == "kept"
    view = rig.world.store.views.experiment(experiment_id)
    assert (view.cleanup, view.removed_at) == (None, None)
    assert view.cleanup_reason == "site alpha cannot remove directories from here"
    assert rig.duties.clean() == 0
    assert rig.world.log(experiment_id).count((0, "KEPT")) == 1
    assert rig.world.store.intake.retry(experiment_id) is SETUP


def test_what_is_refused_for_good_is_kept(rig: Rig) -> None:
    experiment_id, _workdir = ended(rig)
    rig.fake.fail("discard", JobRejectedError("Read-only file system"))
    assert remove_directory(rig.app.runtime, experiment_id) == "kept"
    view = rig.world.store.views.experiment(experiment_id)
    assert (view.cleanup, view.cleanup_reason) == (None, "Read-only file system")
    assert rig.world.store.intake.retry(experiment_id) is SETUP


def test_a_removal_held_up_until_a_retry_runs(rig: Rig) -> None:
    """It was begun first, another one ended before, and the experiment is set up again."""
    experiment_id, workdir = ended(rig)
    late = begun(rig.world, experiment_id)
    assert remove_directory(rig.app.runtime, experiment_id) == "removed"
    rig.world.store.intake.retry(experiment_id)
    while rig.work():
        pass
    assert workdir in rig.fake.workdirs
    with pytest.raises(JobRejectedError, match="was set up again"):
        rig.app.runtime.site("alpha").backend.discard(workdir, late.mark)
    assert workdir in rig.fake.workdirs


def test_a_directory_that_is_refused_leaves_none_of_the_others(rig: Rig) -> None:
    experiment_id, workdir = ended(rig)
    rig.world.sql("UPDATE jobs SET workdir = '/0/old'")
    assert remove_directory(rig.app.runtime, experiment_id) == "kept"
    assert workdir not in rig.fake.workdirs
    reason = rig.world.store.views.experiment(experiment_id).cleanup_reason
    assert reason is not None
    assert "/0/old" in reason
    with pytest.raises(IllegalTransitionError, match="may have been removed: retry it from setup"):
        rig.world.store.intake.retry(experiment_id, StepName.SUBMIT)


def _no_site(rig: Rig) -> None:
    """As seen by a worker whose settings lack it, or are wrong."""
    rig.world.sql("DELETE FROM jobs")
    rig.world.sql("UPDATE experiments SET site = 'beta'")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [(None, "Device or resource busy"), (_no_site, "beta")],
    ids=["busy", "no such site here"],
)
def test_what_may_pass_is_tried_again_for_ever_and_is_in_nobodys_way(
    rig: Rig, wrong: Callable[[Rig], None] | None, reason: str
) -> None:
    experiment_id, _workdir = ended(rig)
    if wrong is not None:
        wrong(rig)
    for _ in range(20):
        rig.world.sql("UPDATE experiments SET cleanup_at = 0")
        rig.fake.fail("discard", BackendUnavailableError("Device or resource busy"))
        assert remove_directory(rig.app.runtime, experiment_id) == "failed"
    view = rig.world.store.views.experiment(experiment_id)
    assert (view.cleanup, view.removed_at) == ("delete", None)
    assert reason in str(view.cleanup_reason)
    assert rig.duties.clean() == 0  # not before its pause is over
    assert rig.world.store.intake.retry(experiment_id) is SETUP


def test_a_directory_whose_removal_was_refused_is_whole(rig: Rig) -> None:
    experiment_id, _workdir = ended(rig)
    rig.fake.fail("discard", JobRejectedError("is not below scratch"))
    assert remove_directory(rig.app.runtime, experiment_id) == "kept"
    assert rig.world.store.intake.retry(experiment_id, StepName.SUBMIT) is StepName.SUBMIT
