"""How many jobs a role has at an Aurora site, whoever handed them in."""

from __future__ import annotations

import pytest
from unit.compute.aurora_site import AuroraSite, aurora_options

from services.processes import wait_for
from wlm_tasks.compute.aurora.backend import AuroraBackend
from wlm_tasks.compute.base import JobState, SiteLoad
from wlm_tasks.errors import BackendUnavailableError

ENDLESS = "while :; do sleep 0.1; done"


def other(mesos: AuroraSite, **options: str) -> AuroraBackend:
    """A site of somebody else on the same scheduler."""
    return AuroraBackend(
        name="other",
        scratch=str(mesos.scratch),
        options={**aurora_options(mesos.server), **options},
    )


def load(mesos: AuroraSite) -> SiteLoad:
    found = mesos.backend.load()
    assert found is not None
    return found


def test_the_roles_foreign_jobs_are_counted(mesos: AuroraSite) -> None:
    before = load(mesos)
    ours, theirs, ended = (mesos.spec(script) for script in (ENDLESS, ENDLESS, "true"))
    mesos.backend.submit(ours)
    other(mesos, environment="test").submit(theirs)
    other(mesos, role="somebody").submit(mesos.spec(ENDLESS))  # has a quota of its own
    mesos.backend.submit(ended)
    mesos.wait_end(ended.ref)
    for spec in (ours, theirs):
        wait_for(lambda spec=spec: mesos.runs(spec.ref), what="its start")  # type: ignore[misc]
    mesos.server.set(never_schedule=True)
    waiting = mesos.spec("true")
    mesos.backend.submit(waiting)
    found = mesos.backend.status([ours.ref, waiting.ref, ended.ref])
    assert found[waiting.ref.token].state is JobState.PENDING
    assert load(mesos) == SiteLoad(
        queued=before.queued + 1, running=before.running + 2, foreign=before.foreign + 1
    )
    assert other(mesos, environment="test").cancel(theirs.ref)


def test_a_scheduler_that_does_not_tell(mesos: AuroraSite) -> None:
    mesos.server.set(lost_answer={"getTasksWithoutConfigs": 1})
    with pytest.raises(BackendUnavailableError):
        mesos.backend.load()
    assert load(mesos).queued >= 0
