"""What every compute backend promises. A new backend joins the fixture `site`."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
from unit.compute.sites import Site

from wlm_tasks.bell import Bell
from wlm_tasks.compute.base import ENDED, JobState
from wlm_tasks.errors import BackendUnavailableError, JobCancelledError, JobRejectedError


def test_a_job_that_succeeds(site: Site) -> None:
    spec = site.job(stdout="one\ntwo\nthree\n")
    submitted = site.backend.submit(spec)
    status = submitted.status or site.wait_end(spec.ref)
    assert status.state is JobState.SUCCEEDED
    assert status.exit_code == 0
    assert status.started_at is not None
    assert status.ended_at is not None
    assert status.started_at <= status.ended_at
    assert site.backend.tail(spec.ref, "stdout", 2) == "two\nthree\n"
    assert site.backend.tail(spec.ref, "stdout", 0) == ""
    assert site.backend.tail(spec.ref, "stderr", 2) == ""


def test_a_job_that_fails(site: Site) -> None:
    spec = site.job(exit_code=3)
    site.backend.submit(spec)
    status = site.wait_end(spec.ref)
    assert status.state is JobState.FAILED
    assert status.exit_code == 3
    assert "3" in status.reason


def test_submitting_again_finds_the_same_job(site: Site) -> None:
    spec = site.job(exit_code=None)
    first = site.backend.submit(spec)
    assert site.backend.submit(spec) == first
    assert site.another().submit(spec) == first
    assert site.backend.find(spec.ref) == first.native_id


def test_an_ended_job_is_not_started_again(site: Site) -> None:
    spec = site.job(exit_code=1)
    first = site.backend.submit(spec)
    ended = site.wait_end(spec.ref)
    assert site.another().submit(spec).native_id == first.native_id
    assert site.status(spec.ref) == ended


def test_two_attempts_are_two_jobs(site: Site) -> None:
    one, two = site.job(), site.job()
    assert site.backend.submit(one).native_id != site.backend.submit(two).native_id


def test_a_job_never_submitted_is_unknown(site: Site) -> None:
    ref = site.ref()
    assert site.status(ref).state is JobState.UNKNOWN
    assert site.backend.find(ref) is None
    assert site.backend.tail(ref, "stdout", 5) == ""


def test_status_of_many_jobs(site: Site) -> None:
    good, bad, endless = site.job(), site.job(exit_code=2), site.job(exit_code=None)
    for spec in (good, bad, endless):
        site.backend.submit(spec)
    site.wait_end(good.ref)
    site.wait_end(bad.ref)
    site.wait_state(endless.ref, JobState.RUNNING)
    never = site.ref()
    found = site.backend.status([good.ref, bad.ref, endless.ref, never])
    assert {token: status.state for token, status in found.items()} == {
        good.ref.token: JobState.SUCCEEDED,
        bad.ref.token: JobState.FAILED,
        endless.ref.token: JobState.RUNNING,
        never.token: JobState.UNKNOWN,
    }
    assert site.backend.status([]) == {}


def test_another_backend_finds_a_job_by_its_token_alone(site: Site) -> None:
    spec = site.job(exit_code=None)
    native_id = site.backend.submit(spec).native_id
    bare = replace(spec.ref, native_id=None)
    site.wait_state(spec.ref, JobState.RUNNING)
    assert site.another().find(bare) == native_id
    site.wait_state(spec.ref, JobState.RUNNING)
    assert site.another().status([bare])[bare.token].state is JobState.RUNNING


def test_cancelling_a_running_job(site: Site) -> None:
    spec = site.job(exit_code=None)
    site.backend.submit(spec)
    site.wait_state(spec.ref, JobState.RUNNING)
    assert site.another().cancel(spec.ref)
    status = site.status(spec.ref)
    assert status.state is JobState.CANCELLED
    assert status.ended_at is not None
    assert "cancelled" in status.reason
    assert site.backend.cancel(spec.ref)
    with pytest.raises(JobCancelledError):
        site.backend.submit(spec)


def test_a_job_cancelled_first_never_starts(site: Site) -> None:
    spec = site.job(exit_code=None)
    assert site.backend.cancel(spec.ref)
    with pytest.raises(JobCancelledError):
        site.another().submit(spec)
    assert site.status(spec.ref).state is JobState.CANCELLED
    assert site.backend.find(spec.ref) is None


def test_cancelling_an_ended_job_changes_nothing(site: Site) -> None:
    spec = site.job(exit_code=4)
    submitted = site.backend.submit(spec)
    ended = site.wait_end(spec.ref)
    assert site.backend.cancel(spec.ref)
    assert site.status(spec.ref) == ended
    assert site.backend.submit(spec).native_id == submitted.native_id


def test_the_end_of_a_job_rings_the_bell_on_its_own_host(site: Site) -> None:
    with Bell(site.bells) as bell:
        spec = site.job()
        site.backend.submit(spec)
        if not site.rings:
            site.wait_end(spec.ref)
        heard = bell.wait(10 if site.rings else 0)
    assert heard == ([spec.ref.token] if site.rings else [])
    assert site.wait_end(spec.ref).state in ENDED


def test_prepare_can_be_repeated(site: Site) -> None:
    site.backend.prepare(site.workdir)
    site.another().prepare(site.workdir)


def test_prepare_where_there_is_less_room_than_asked_for(site: Site) -> None:
    site.backend.prepare(site.workdir, disk_mb=1)
    expected = r"No space left for it: \d+ MiB are free, 1000000000 needed"
    refused = pytest.raises(BackendUnavailableError, match=expected)
    with nullcontext() if site.backend.carries_files else refused:
        site.backend.prepare(site.workdir, disk_mb=1_000_000_000)


def test_a_directory_that_is_not_there_is_discarded_already(site: Site) -> None:
    assert site.backend.discard(site.workdir)
    assert site.another().discard(site.workdir)


def test_a_directory_that_was_discarded_is_made_anew(site: Site) -> None:
    assert site.backend.discard(site.workdir)
    with pytest.raises(JobRejectedError):
        site.backend.submit(site.job())
    site.backend.prepare(site.workdir)
    spec = site.job()
    site.backend.submit(spec)
    assert site.wait_end(spec.ref).state is JobState.SUCCEEDED


def test_a_directory_that_was_set_up_again_is_left_to_its_new_owner(site: Site) -> None:
    site.backend.prepare(site.workdir, mark=9)
    site.another().prepare(site.workdir, mark=10)
    with pytest.raises(JobRejectedError, match="was set up again meanwhile"):
        site.backend.discard(site.workdir, 9)
    spec = site.job()
    site.backend.submit(spec)
    assert site.wait_end(spec.ref).state is JobState.SUCCEEDED
    assert site.backend.discard(site.workdir, 10)
    assert site.another().discard(site.workdir, 9)


@pytest.mark.parametrize("place", ["{scratch}", "{scratch}/..", "{scratch}/../x", "/etc", "work"])
def test_a_directory_outside_scratch_is_refused(site: Site, place: str) -> None:
    workdir = place.format(scratch=site.scratch)
    spec = site.job()
    moved = replace(spec, ref=replace(spec.ref, workdir=workdir))
    with pytest.raises(JobRejectedError, match=r"workdir: got .* expected a directory below"):
        site.backend.prepare(workdir)
    with pytest.raises(JobRejectedError, match="workdir"):
        site.backend.discard(workdir)
    with pytest.raises(JobRejectedError, match="workdir"):
        site.backend.submit(moved)
    with pytest.raises(JobRejectedError, match="workdir"):
        site.backend.cancel(moved.ref)


def test_url_of_a_path(site: Site) -> None:
    assert site.backend.url("/a/b c%") == f"{site.url}/a/b%20c%25"


def test_only_two_streams(site: Site) -> None:
    with pytest.raises(ValueError, match="stdout or stderr"):
        site.backend.tail(site.ref(), "../../etc/passwd", 1)
