"""The fakes: what tests can make them do, and the site that does nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.compute.sites import FakeTestSite

from wlm_tasks.compute.base import JobRef, JobSpec, JobState
from wlm_tasks.compute.fake import FakeBackend, FakeOutcome, NoopBackend
from wlm_tasks.errors import BackendUnavailableError, ConfigError, JobRejectedError
from wlm_tasks.model.experiment import Resources


def test_planned_outcomes(fake: FakeTestSite) -> None:
    spec = JobSpec(ref=fake.ref(), script="", resources=Resources(), name="melt")
    fake.site.plan("melt", FakeOutcome(exit_code=9, stderr="oops\n"))
    fake.backend.submit(spec)
    assert fake.status(spec.ref).exit_code == 9
    assert fake.backend.tail(spec.ref, "stderr", 1) == "oops\n"
    assert fake.site.jobs[spec.ref.token].spec == spec


def test_ends_from_outside(fake: FakeTestSite) -> None:
    one, two = fake.job(exit_code=None), fake.job(exit_code=None)
    fake.backend.submit(one)
    fake.backend.submit(two)
    fake.site.finish(one.ref.token, 7)
    fake.site.finish(one.ref.token, 0)
    fake.site.lose(two.ref.token)
    assert fake.status(one.ref).exit_code == 7
    assert fake.status(two.ref).state is JobState.LOST


def test_faults_come_once_each_and_in_order(fake: FakeTestSite) -> None:
    spec = fake.job()
    fake.site.fail("submit", BackendUnavailableError("away"), JobRejectedError("no"))
    with pytest.raises(BackendUnavailableError, match="away"):
        fake.backend.submit(spec)
    with pytest.raises(JobRejectedError, match="no"):
        fake.backend.submit(spec)
    assert fake.status(spec.ref).state is JobState.UNKNOWN
    fake.backend.submit(spec)
    assert fake.status(spec.ref).state is JobState.SUCCEEDED
    assert fake.site.calls.count(("submit", spec.ref.token)) == 3


@pytest.mark.parametrize("method", ["submit", "cancel"])
def test_a_lost_answer(fake: FakeTestSite, method: str) -> None:
    spec = fake.job(exit_code=None)
    fake.site.lose_answer(method, BackendUnavailableError("timed out"))
    with pytest.raises(BackendUnavailableError):
        fake.backend.submit(spec) if method == "submit" else fake.backend.cancel(spec.ref)
    expected = JobState.RUNNING if method == "submit" else JobState.CANCELLED
    assert fake.status(spec.ref).state is expected


def test_a_site_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sites\.x\.site: got 'no', expected a FakeSite"):
        FakeBackend(name="x", scratch="/x", options={"site": "no"})


def test_noop_touches_nothing(tmp_path: Path) -> None:
    backend = NoopBackend(name="noop", scratch=str(tmp_path), options={}, bells=None)
    ref = JobRef(token="t", workdir=f"{tmp_path}/w")
    backend.prepare(ref.workdir)
    submitted = backend.submit(JobSpec(ref=ref, script="exit 1", resources=Resources()))
    assert submitted.native_id == backend.find(ref) == "t"
    assert submitted.status is not None
    assert submitted.status.state is JobState.SUCCEEDED
    assert backend.status([ref]) == {"t": submitted.status}
    assert backend.cancel(ref)
    assert backend.tail(ref, "stdout", 5) == ""
    assert backend.url("/a b") == "file:///a%20b"
    backend.close()
    assert list(tmp_path.iterdir()) == []
