"""How many jobs a role has at an Aurora site, whoever handed them in."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
from unit.compute.aurora_site import AuroraSite, aurora_options

from services.processes import wait_for
from wlm_tasks.compute.aurora.backend import AuroraBackend
from wlm_tasks.compute.base import JobSpec, JobState, SiteLoad

ASK = "getTasksWithoutConfigs"
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
    wait_for(lambda: mesos.server.seen()["active"] == 0, what="the end of what other tests left")
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


@pytest.fixture
def role(mesos: AuroraSite) -> Iterator[str]:
    """A role of which no other test has tasks."""
    yield f"role-{uuid4().hex[:8]}"
    mesos.server.others()


@pytest.fixture
def backend(mesos: AuroraSite, role: str) -> Iterator[AuroraBackend]:
    """The site as that role."""
    backend = mesos.another(role=role)
    yield backend
    mesos.server.reset()
    for ref in mesos.refs:
        backend.cancel(ref)
    backend.close()


def running(mesos: AuroraSite, backend: AuroraBackend) -> JobSpec:
    """A job of ours that the backend's last poll saw running."""
    spec = mesos.spec(ENDLESS)
    backend.submit(spec)
    token = spec.ref.token
    wait_for(lambda: backend.status([spec.ref])[token].state is JobState.RUNNING, what="its start")
    return spec


def test_states_that_count(mesos: AuroraSite, role: str, backend: AuroraBackend) -> None:
    spec = running(mesos, backend)
    queued = ("PENDING", "THROTTLED", "ASSIGNED", "STARTING")
    at_work = ("RUNNING", "KILLING", "RESTARTING", "PREEMPTING", "DRAINING")
    ended = ("FINISHED", "FAILED", "KILLED", "LOST")
    mesos.server.others(*(f"devel/{s} {s}" for s in (*queued, *at_work, *ended)), role=role)
    assert backend.load() == SiteLoad(queued=4, running=6, foreign=9)
    mesos.server.others("prod/a RUNNING", "devel/b PENDING", role=role)
    # without a poll before it ours are known by their tokens
    assert backend.load() == SiteLoad(queued=1, running=2, foreign=2)
    mesos.server.others("devel/a RUNNING", role="another")
    assert backend.load() == SiteLoad(queued=0, running=1, foreign=0)
    assert backend.cancel(spec.ref)
    # the exit record confirms a cancel, the task may be killed a moment longer
    nothing = SiteLoad(queued=0, running=0, foreign=0)
    wait_for(lambda: backend.load() == nothing, what="the task's end")


def test_jobs_that_look_like_ours(mesos: AuroraSite, role: str, backend: AuroraBackend) -> None:
    """Those of another installation, and those of another environment, where we are a site too."""
    running(mesos, backend)
    spec = running(mesos, backend)
    backend.status([spec.ref])
    assert backend.load() == SiteLoad(queued=0, running=2, foreign=1)
    assert backend.load() == SiteLoad(queued=0, running=2, foreign=0)
    elsewhere = mesos.another(role=role, environment="prod")
    assert elsewhere.load() == SiteLoad(queued=0, running=2, foreign=2)
    elsewhere.close()


def test_a_state_that_is_not_known_counts(mesos: AuroraSite, backend: AuroraBackend) -> None:
    running(mesos, backend)
    mesos.server.set(strange_status=42)
    assert backend.load() == SiteLoad(queued=0, running=1, foreign=0)


def test_a_count_is_one_request(mesos: AuroraSite, role: str, backend: AuroraBackend) -> None:
    specs = [running(mesos, backend) for _ in range(3)]
    mesos.server.others(*(f"devel/n{n} RUNNING" for n in range(200)), role=role)
    before = mesos.server.seen()["calls"]
    backend.status([spec.ref for spec in specs])
    assert backend.load() == SiteLoad(queued=0, running=203, foreign=200)
    after = mesos.server.seen()["calls"]
    made = {name: count - before.get(name, 0) for name, count in after.items()}
    assert {name: count for name, count in made.items() if count} == {ASK: 2}


@pytest.mark.parametrize(
    "fault",
    [
        {"no_leader": True},
        {"page": True},
        {"no_roles": True},
        {"broken": {ASK: 1}},
        {"lost_answer": {ASK: 1}},
        {"codes": {ASK: [0]}},
        {"codes": {ASK: [4]}},
        {"codes": {ASK: [6]}},
        {"redirect_to": "http://stranger:1"},
    ],
)
def test_a_count_that_fails_is_none(
    mesos: AuroraSite, backend: AuroraBackend, fault: dict[str, object]
) -> None:
    spec = running(mesos, backend)
    mesos.server.set(**fault)
    assert backend.load() is None
    mesos.server.reset()
    mesos.server.set(execute=True)
    assert backend.status([spec.ref])[spec.ref.token].state is JobState.RUNNING
    assert backend.load() == SiteLoad(queued=0, running=1, foreign=0)


def test_a_count_that_goes_on_failing_is_told_once(
    mesos: AuroraSite, backend: AuroraBackend, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for fails in (True, True, False, True):
            mesos.server.set(no_leader=fails)
            assert (backend.load() is None) is fails
    told = [one.message.partition(": Aurora at ")[0] for one in caplog.records]
    assert told == ["site mesos: its jobs are not counted"] * 2


def test_a_count_is_not_waited_for_long(
    mesos: AuroraSite, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.compute.aurora.backend._COUNT_S", 0.3)
    hurried = mesos.another(role=role)
    mesos.server.set(hang_s={ASK: 2.0})
    begun = time.monotonic()
    assert hurried.load() is None
    assert time.monotonic() - begun < 1.5
    hurried.close()
