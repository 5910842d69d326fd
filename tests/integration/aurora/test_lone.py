"""Jobs that carry their files: fetched, verified, sent, and judged without a shared scratch."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from shlex import quote

import pytest
from integration.aurora.conftest import run
from unit.compute.aurora_site import LoneSite

from services.ftpfiles import FtpFiles
from services.processes import wait_for
from services.webfiles import WebFiles
from wlm_tasks.compute.base import JobSpec, JobState
from wlm_tasks.errors import JobCancelledError, JobRejectedError, JobUndecidedError
from wlm_tasks.model.experiment import Transfer

ODD = "it's $(id) {{x}} \u00e9.txt"
MADE = f"-out {ODD}"


def put(web: WebFiles, name: str, data: bytes) -> str:
    """Have a file on the server; returns its digest."""
    file = web.directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def test_inputs_come_and_outputs_go(lone: LoneSite, web: WebFiles) -> None:
    data = bytes(range(256)) * 5000
    digest = put(web, "in/a.bin", data)
    put(web, "in/a.bin?version=2", b"two")
    spec = replace(
        lone.spec(f"cat deep/a.bin > {quote(MADE)}; cmp -- deep/a.bin -x; cat two; pwd"),
        inputs=[
            Transfer(f"{web.url}/in/a.bin", "deep/a.bin", sha256=digest),
            Transfer(f"{web.url}/in/a.bin", "-x"),
            Transfer(f"{web.url}/in/a.bin?version=2", "two"),
            Transfer(f"{web.url}/in/a.bin", ODD),
        ],
        outputs=[
            Transfer(MADE, f"{web.url}/out/[x]{{a,b}}.bin", sha256=digest),
            Transfer(ODD, f"{web.url}/out/odd"),
        ],
    )
    status = run(lone, spec)
    assert (status.state, status.exit_code, status.reason) == (JobState.SUCCEEDED, 0, "")
    assert (web.directory / "out/[x]{a,b}.bin").read_bytes() == data
    assert (web.directory / "out/odd").read_bytes() == data
    assert lone.output(spec.ref).startswith("two")
    assert lone.output(spec.ref).rstrip().endswith("/sandbox/work")
    assert lone.runs(spec.ref) == 1


def test_a_site_without_a_place_for_uploads(mute: LoneSite, web: WebFiles) -> None:
    put(web, "in.txt", b"x")
    spec = replace(
        mute.spec("cp in.txt out.txt"),
        inputs=[Transfer(f"{web.url}/in.txt", "in.txt")],
        outputs=[Transfer("out.txt", f"{web.url}/out.txt")],
    )
    status = run(mute, spec)
    assert (status.state, status.exit_code) == (JobState.SUCCEEDED, 0)
    assert status.started_at is not None
    assert status.ended_at is not None
    assert (web.directory / "out.txt").read_bytes() == b"x"
    assert mute.backend.tail(spec.ref, "stdout", 5) == ""
    failed = run(mute, mute.spec("exit 3"))
    assert (failed.state, failed.exit_code) == (JobState.FAILED, None)
    assert failed.reason == "Aurora says FAILED: Task failed."


def test_an_input_that_is_missing_is_told_in_mesos_s_words(lone: LoneSite, web: WebFiles) -> None:
    spec = replace(lone.spec("true"), inputs=[Transfer(f"{web.url}/none", "in.txt")])
    status = run(lone, spec)
    assert status.state is JobState.FAILED
    assert "Aurora says FAILED: Failed to launch container" in status.reason
    assert "Failed to fetch all URIs" in status.reason
    assert lone.runs(spec.ref) == 0


def test_a_fetcher_that_is_switched_off(lone: LoneSite, web: WebFiles) -> None:
    lone.server.set(no_fetcher=True)
    spec = replace(lone.spec("true"), inputs=[Transfer(f"{web.url}/none", "in.txt")])
    with pytest.raises(JobRejectedError, match="Mesos Fetcher for individual jobs is disabled"):
        lone.backend.submit(spec)


def test_another_digest_ends_the_job_before_its_payload(lone: LoneSite, web: WebFiles) -> None:
    found, wanted = put(web, "in.txt", b"x"), "0" * 64
    spec = replace(
        lone.spec("true"), inputs=[Transfer(f"{web.url}/in.txt", "in.txt", sha256=wanted)]
    )
    status = run(lone, spec)
    assert status.state is JobState.FAILED
    assert status.reason.startswith("inputs[0].src: ")
    assert status.reason.endswith(f"has the SHA-256 {found}, expected {wanted}")
    assert lone.runs(spec.ref) == 0


@pytest.mark.parametrize(
    ("script", "path", "expected"),
    [
        ("true", "out.txt", "outputs[0].src: 'out.txt' was not made by the job"),
        ("mkdir d", "d", "outputs[0].src: 'd' was not made by the job"),
        ("ln -s /etc/passwd out", "out", "outputs[0].src: 'out' leads out of the directory"),
        ("true", "it's \"\\{{x}}", "was not made by the job"),
    ],
)
def test_an_output_that_is_not_there(
    lone: LoneSite, web: WebFiles, script: str, path: str, expected: str
) -> None:
    status = run(lone, replace(lone.spec(script), outputs=[Transfer(path, f"{web.url}/out")]))
    assert status.state is JobState.FAILED
    assert expected in status.reason
    assert not (web.directory / "out").exists()


@pytest.mark.parametrize("code", [403, 507, 302])
def test_an_upload_that_is_refused(lone: LoneSite, web: WebFiles, code: int) -> None:
    spec = replace(
        lone.spec("echo x > a; echo y > b"),
        outputs=[Transfer("a", f"{web.url}/a"), Transfer("b", f"{web.url}/{code}/b")],
    )
    status = run(lone, spec)
    assert status.state is JobState.FAILED
    assert status.reason.startswith("outputs[1].dest: 'http://")
    assert status.reason.endswith(f"was not taken by its server: status {code}")
    assert (web.directory / "a").read_text() == "x\n"


def test_an_upload_that_is_cut_short_is_found_out(lone: LoneSite, web: WebFiles) -> None:
    spec = replace(lone.spec("echo 1234567 > a"), outputs=[Transfer("a", f"{web.url}/short/a")])
    status = run(lone, spec)
    assert status.state is JobState.FAILED
    assert status.reason.endswith("has 4 bytes after the upload, expected 8")


def test_an_upload_of_other_bytes_is_found_out_by_its_digest(lone: LoneSite, web: WebFiles) -> None:
    digest = hashlib.sha256(b"12\n").hexdigest()
    spec = replace(
        lone.spec("echo 12 > a"),
        outputs=[Transfer("a", f"{web.url}/twisted/a", sha256=digest)],
    )
    status = run(lone, spec)
    assert status.reason.startswith("outputs[0].dest: ")
    assert status.reason.endswith(f"after the upload, expected {digest}")
    other = replace(spec, ref=lone.ref(), outputs=[replaced(spec, sha256="0" * 64)])
    status = run(lone, other)
    assert status.reason == f"outputs[0].src: 'a' has the SHA-256 {digest}, expected {'0' * 64}"


def replaced(spec: JobSpec, **changes: str) -> Transfer:
    """The first output with changes."""
    return spec.outputs[0].model_copy(update=changes)


def test_files_by_ftp(lone: LoneSite, ftp: FtpFiles) -> None:
    data = bytes(range(256)) * 1000
    (ftp.directory / "in.bin").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    spec = replace(
        lone.spec("cp in.bin out.bin"),
        inputs=[Transfer(f"{ftp.url}/in.bin", "in.bin", sha256=digest)],
        outputs=[
            Transfer("out.bin", f"{ftp.url}/new/out.bin", sha256=digest),
            Transfer("in.bin", f"{ftp.url}/refused/x"),
        ],
    )
    status = run(lone, spec)
    assert (ftp.directory / "new" / "out.bin").read_bytes() == data
    assert status.reason.startswith("outputs[1].dest: 'ftp://")
    assert "was not taken by its server: status 55" in status.reason


def test_an_upload_without_a_server(lone: LoneSite) -> None:
    spec = replace(lone.spec("echo x > a"), outputs=[Transfer("a", "http://127.0.0.1:1/a")])
    status = run(lone, spec)
    assert status.reason.endswith("was not taken by its server: status 000, curl's exit code 7")


def test_long_scripts_and_variables_come_in_pieces(lone: LoneSite) -> None:
    text = "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(3000))
    spec = lone.spec(f"echo {text} | wc -c; echo ${{#LONG}}", variables={"LONG": text[:100_000]})
    assert run(lone, spec).state is JobState.SUCCEEDED
    assert lone.output(spec.ref).split() == [str(len(text) + 1), "100000"]
    more = "".join(hashlib.sha512(str(n).encode()).hexdigest() for n in range(8000))
    with pytest.raises(JobRejectedError, match=r"script: got \d+ characters"):
        lone.backend.submit(lone.spec(f"echo {more}"))


def test_a_time_limit_and_a_signal(lone: LoneSite) -> None:
    status = run(lone, lone.spec("sleep 30", walltime_s=0.5, stop_grace_s=0.2))
    assert (status.state, status.reason[:9]) == (JobState.FAILED, "walltime:")
    status = run(lone, lone.spec("kill -9 $$"))
    assert (status.exit_code, status.reason[:7]) == (137, "signal:")


def test_a_guard_that_is_killed(lone: LoneSite) -> None:
    status = run(lone, lone.spec("echo there; kill -9 $PPID $(ps -o ppid= $PPID)"))
    assert (status.state, status.reason) == (JobState.FAILED, "its guard was killed")


@pytest.mark.parametrize("place", ["runs", "deaf/runs"])
def test_what_aurora_starts_again_finds_the_mark(lone: LoneSite, web: WebFiles, place: str) -> None:
    """With a server that heeds If-None-Match and with one that does not."""
    backend = lone.another(upload_url=f"{web.url}/{place}")
    lone.server.set(lost_running=1, lost_after_s=0.3, partitioned=True)
    spec = lone.spec("sleep 1")
    backend.submit(spec)
    wait_for(lambda: lone.server.seen()["active"] == 0, what="the successor's end")
    assert backend.status([spec.ref])[spec.ref.token].state is JobState.RUNNING
    done = web.directory / place / f"{spec.ref.token}.exit.json"
    wait_for(done.exists, what="the record of the one that was held for lost")
    status = backend.status([spec.ref])[spec.ref.token]
    assert (status.state, status.exit_code) == (JobState.SUCCEEDED, 0)
    assert lone.runs(spec.ref) == 1


def test_lost_before_it_began_runs_once(lone: LoneSite) -> None:
    lone.server.set(lost_starting=1)
    spec = lone.spec("true")
    assert run(lone, spec).state is JobState.SUCCEEDED
    assert lone.runs(spec.ref) == 1


def test_a_job_that_is_lost_again_and_again_before_it_begins(
    lone: LoneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.compute.aurora.notes._SILENCE_S", 0.1)
    lone.server.set(lost_starting=1000)
    spec = lone.spec("true", walltime_s=0.1, stop_grace_s=0.1)
    status = run(lone, spec)
    assert (status.state, lone.runs(spec.ref)) == (JobState.LOST, 0)
    assert lone.server.seen()["active"] == 0


def test_what_aurora_starts_again_is_ended_by_a_poll(
    mute: LoneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a mark the successor is killed, and the attempt is lost, not a success."""
    monkeypatch.setattr("wlm_tasks.compute.aurora.notes._SILENCE_S", 0.3)
    spec = mute.spec("sleep 30", walltime_s=1.0, stop_grace_s=0.1)
    mute.backend.submit(spec)
    wait_for(lambda: mute.runs(spec.ref), what="the payload")
    mute.server.set(lost_running=1, lost_after_s=0.0, step_s=0.3)
    wait_for(lambda: "is ended" in mute.status(spec.ref).reason, what="the successor")
    status = mute.wait_end(spec.ref)
    assert status.state is JobState.LOST
    assert "the agent was lost" in status.reason
    assert (mute.runs(spec.ref), mute.server.seen()["active"]) == (1, 0)


def test_a_payload_that_had_to_make_room_has_ended(lone: LoneSite) -> None:
    spec = lone.spec("sleep 30")
    lone.backend.submit(spec)
    wait_for(lambda: lone.runs(spec.ref), what="the payload")
    lone.server.set(preempt=1)
    wait_for(lambda: lone.server.seen()["active"] == 0, what="the end of the successor")
    status = lone.wait_end(spec.ref)
    assert (status.state, status.reason[:7]) == (JobState.FAILED, "signal:")
    assert lone.runs(spec.ref) == 1


@pytest.mark.parametrize("lost", ["lost_answer", "lost_call"])
def test_a_submission_without_an_answer(lone: LoneSite, lost: str) -> None:
    spec = lone.spec("true")
    lone.server.set(**{lost: {"createJob": 1}})

    def made() -> bool:
        try:
            lone.another().submit(spec)
        except JobUndecidedError:
            return False
        return True

    wait_for(made, what="the submission")
    assert lone.wait_end(spec.ref).state is JobState.SUCCEEDED
    assert lone.runs(spec.ref) == 1


def test_a_cancel_waits_until_a_call_without_answer_cannot_be_done_any_more(
    lone: LoneSite,
) -> None:
    spec = lone.spec("true")
    lone.server.set(lost_call={"createJob": 1})
    with pytest.raises(JobUndecidedError):
        lone.backend.submit(spec)
    assert not lone.another().cancel(spec.ref, wait_s=0.0)
    wait_for(lambda: lone.backend.cancel(spec.ref, wait_s=0.1), what="the proof")
    with pytest.raises(JobCancelledError):
        lone.backend.submit(spec)
    assert lone.status(spec.ref).state is JobState.CANCELLED
    assert lone.runs(spec.ref) == 0


def test_history_that_was_pruned_makes_no_second_job(lone: LoneSite) -> None:
    lone.server.set(prune_after_s=0.0)
    spec = lone.spec("exit 3")
    native_id = lone.backend.submit(spec).native_id
    ref = replace(spec.ref, native_id=native_id)
    status = lone.wait_end(ref)
    assert (status.state, status.exit_code) == (JobState.FAILED, 3)
    assert lone.another().submit(spec).native_id == native_id
    assert lone.runs(spec.ref) == 1
