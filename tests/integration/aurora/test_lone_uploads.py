"""The server that takes exit records and streams of jobs which carry their files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from integration.aurora.conftest import DeafServer, run
from unit.compute.aurora_site import LoneSite

from services.processes import wait_for
from services.webfiles import WebFiles
from wlm_tasks.compute.base import JobRef, JobState


def test_an_upload_server_that_is_away(
    lone: LoneSite, web: WebFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known for a while, then Aurora's word counts."""
    spec = lone.spec("echo x")
    lone.backend.submit(spec)
    wait_for(lambda: lone.server.seen()["active"] == 0, what="the end")
    web.stop()
    assert lone.status(spec.ref).state is JobState.UNKNOWN
    monkeypatch.setattr("wlm_tasks.compute.aurora.sandboxed._RECORD_WAIT_S", 0.0)
    assert lone.status(spec.ref).state is JobState.SUCCEEDED
    web.start()
    assert lone.output(spec.ref) == "x\n"


def ended_jobs(site: LoneSite, count: int) -> list[JobRef]:
    """Jobs that have ended and that no poll has asked about."""
    specs = [site.spec("true") for _ in range(count)]
    for spec in specs:
        site.backend.submit(spec)
    wait_for(lambda: site.server.seen()["active"] == 0, what="the end")
    return [spec.ref for spec in specs]


def test_an_upload_server_that_does_not_answer_is_waited_for_by_one_job(
    lone: LoneSite, deaf: DeafServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.compute.aurora.uploads._READ_S", 0.1)
    monkeypatch.setattr("wlm_tasks.compute.aurora.uploads._REST_S", 0.7)
    monkeypatch.setattr("wlm_tasks.compute.aurora.sandboxed._RECORD_WAIT_S", 30.0)
    refs = ended_jobs(lone, 3)
    backend = lone.another(upload_url=deaf.url)
    found = backend.status(refs)
    assert [found[ref.token].state for ref in refs] == [JobState.UNKNOWN] * 3
    assert deaf.connections() == 1
    wait_for(lambda: backend.status(refs) and deaf.connections() == 2, what="the next request")
    # Aurora's word counts once the server has been silent for long, however long one read takes
    monkeypatch.setattr("wlm_tasks.compute.aurora.sandboxed._RECORD_WAIT_S", 0.0)
    monkeypatch.setattr("wlm_tasks.compute.aurora.sandboxed._POLL_S", 0.0)
    found = backend.status(refs)
    assert [found[ref.token].state for ref in refs] == [JobState.SUCCEEDED] * 3
    backend.close()


def test_records_hold_up_no_poll_for_long(
    lone: LoneSite, web: WebFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is fetched in any case; those for which there is no time wait for the next poll."""
    monkeypatch.setattr("wlm_tasks.compute.aurora.sandboxed._POLL_S", 0.0)
    monkeypatch.setattr("wlm_tasks.compute.aurora.sandboxed._RECORD_WAIT_S", 0.0)
    refs = ended_jobs(lone, 3)
    for ended in (1, 2, 3):
        states = [status.state for status in lone.backend.status(refs).values()]
        assert states.count(JobState.SUCCEEDED) == ended
        assert states.count(JobState.UNKNOWN) == 3 - ended
    assert sum(".exit.json" in one for one in web.requests() if one.startswith("GET")) == 3


def test_the_room_on_the_workers_disk_is_none_of_a_job_s_business(lone: LoneSite) -> None:
    lone.backend.prepare(lone.workdir, disk_mb=10**9, mark=3)
    assert Path(lone.workdir, ".wlm", "setup").read_text() == "3\n"


def test_a_record_of_a_good_end_against_aurora_s_word(lone: LoneSite, web: WebFiles) -> None:
    spec = lone.spec("exit 3")
    lone.backend.submit(spec)
    wait_for(lambda: lone.server.seen()["active"] == 0, what="the end")
    record = web.directory / "runs" / f"{spec.ref.token}.exit.json"
    record.write_text('{"code":0,"start":1,"end":2,"reason":"exit"}')
    for _ in range(2):  # nor is it kept
        assert lone.status(spec.ref).state is JobState.FAILED


@pytest.mark.parametrize(
    "data",
    ["", "[]", "nonsense", '{"code": 0}', '{"code":0,"reason":"exit","start":NaN}', "[" * 100_000],
)
def test_a_record_that_makes_no_sense(lone: LoneSite, web: WebFiles, data: str) -> None:
    spec = lone.spec("exit 3")
    lone.backend.submit(spec)
    wait_for(lambda: lone.server.seen()["active"] == 0, what="the end")
    (web.directory / "runs" / f"{spec.ref.token}.exit.json").write_text(data)
    status = lone.status(spec.ref)
    assert (status.state, status.reason) == (JobState.FAILED, "Aurora says FAILED: Task failed.")


def test_a_server_that_takes_no_mark(
    lone: LoneSite, web: WebFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.compute.aurora.sandboxed._RECORD_WAIT_S", 0.0)
    spec = lone.spec("true")
    backend = lone.another(upload_url=f"{web.url}/403")
    backend.submit(spec)
    wait_for(lambda: lone.server.seen()["active"] == 0, what="the end")
    assert backend.status([spec.ref])[spec.ref.token].state is JobState.FAILED
    assert lone.runs(spec.ref) == 0


def test_only_the_end_of_a_stream_is_read(lone: LoneSite, web: WebFiles) -> None:
    spec = lone.spec("seq 1 200000; echo bad >&2")
    assert run(lone, spec).state is JobState.SUCCEEDED
    assert lone.backend.tail(spec.ref, "stdout", 2) == "199999\n200000\n"
    assert lone.backend.tail(spec.ref, "stderr", 2) == "bad\n"
    record = json.loads((web.directory / "runs" / f"{spec.ref.token}.exit.json").read_text())
    assert record["reason"] == "exit"
