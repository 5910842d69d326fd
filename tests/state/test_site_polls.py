"""What polls keep to, and what they note."""

from __future__ import annotations

import pytest
from state.rig import Rig

from wlm_tasks.compute.base import JobState, JobStatus
from wlm_tasks.compute.fake import FakeOutcome
from wlm_tasks.tasks.polling import poll_once


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
