"""The directories of a site, seen through a shell."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from wlm_tasks.compute.attempt import ExitRecord, Where
from wlm_tasks.compute.base import JobRef
from wlm_tasks.compute.processes import here
from wlm_tasks.compute.remote import SiteFiles, parse
from wlm_tasks.errors import BackendUnavailableError, JobRejectedError
from wlm_tasks.hosts.scripts import failure
from wlm_tasks.hosts.shell import LocalShell, Ran

CLAIM = {"pid": 7, "start": 8, "boot": "b", "host": "h", "machine": "m", "namespace": "1"}


@pytest.fixture
def files(scratch: Path) -> SiteFiles:
    return SiteFiles(LocalShell(), str(scratch))


@pytest.fixture
def ref(scratch: Path) -> JobRef:
    """A job in whose directory nothing is yet."""
    ref = JobRef(token="t-1", workdir=f"{scratch}/-o wörk 'x'")
    os.makedirs(ref.attempt_dir)  # noqa: PTH103
    return ref


def write(ref: JobRef, name: str, text: str) -> None:
    Path(ref.attempt_dir, name).write_text(text)


def test_prepare(files: SiteFiles, scratch: Path) -> None:
    workdir = scratch / "a" / "-o wörk 'x' \n"
    files.prepare(str(workdir))
    files.prepare(str(workdir))
    assert workdir.stat().st_mode & 0o777 == 0o700
    assert not list(workdir.iterdir())


def test_prepare_where_a_link_leads_out(files: SiteFiles, scratch: Path, tmp_path: Path) -> None:
    (scratch / "out").symlink_to(tmp_path)
    with pytest.raises(JobRejectedError, match="expected a directory below"):
        files.prepare(f"{scratch}/out/work")
    assert not (tmp_path / "work").exists()


def test_prepare_where_nothing_can_be_written(scratch: Path) -> None:
    with pytest.raises(JobRejectedError, match=r"/proc/wlm.*No such file"):
        SiteFiles(LocalShell(), "/proc/wlm").prepare("/proc/wlm/x")
    (scratch / "file").touch()
    with pytest.raises(JobRejectedError, match="Not a directory"):
        SiteFiles(LocalShell(), str(scratch)).prepare(f"{scratch}/file/x")


def test_prepare_without_a_tool(files: SiteFiles, scratch: Path) -> None:
    with pytest.raises(BackendUnavailableError, match="nosuchtool: not found"):
        files.prepare(f"{scratch}/x", tools=["nosuchtool"])


def test_prepare_where_there_is_less_room_than_asked_for(files: SiteFiles, scratch: Path) -> None:
    files.prepare(f"{scratch}/x", disk_mb=1)
    with pytest.raises(BackendUnavailableError) as caught:
        files.prepare(f"{scratch}/x y", disk_mb=10**9)
    text = rf"{scratch}/x y: No space left for it: \d+ MiB are free, 1000000000 needed"
    assert re.fullmatch(text, caught.value.message)


def test_discard_where_scratch_is_away(files: SiteFiles, scratch: Path) -> None:
    files.prepare(f"{scratch}/x")
    assert files.discard(f"{scratch}/x")
    assert files.discard(f"{scratch}/x")
    scratch.rename(scratch.with_name("away"))
    with pytest.raises(BackendUnavailableError, match=f"{scratch}: is not there$"):
        files.discard(f"{scratch}/x")


def test_markers(files: SiteFiles, ref: JobRef) -> None:
    write(ref, "started", json.dumps({**CLAIM, "epoch": 1.5, "limit": 3, "job": "42"}) + "\n")
    write(ref, "exit.json", '{"code":3,"start":1.5,"end":2.5,"reason":"exit"}' + " " * 200 + "\n")
    write(ref, "cancelled", "")
    never = JobRef(token="t-2", workdir=ref.workdir)
    seen = files.markers([ref, never])
    assert seen.place == here()
    found = seen.of["t-1"]
    assert (found.directory, found.cancelled, found.trouble) == (True, True, "")
    assert found.exit == ExitRecord(code=3, start=1.5, end=2.5, reason="exit")
    assert found.started is not None
    assert found.started["job"] == "42"
    claim = found.claim(seen.place)
    assert claim is not None
    assert (claim.pid, claim.epoch, claim.limit_s) == (7, 1.5, 3)
    assert claim.seen_from(seen.place) is Where.ELSEWHERE
    nothing = seen.of["t-2"]
    assert (nothing.directory, nothing.started, nothing.exit) == (False, None, None)


def test_an_empty_claim_counts(files: SiteFiles, ref: JobRef) -> None:
    write(ref, "started", "")
    seen = files.markers([ref])
    claim = seen.of["t-1"].claim(seen.place)
    assert claim is not None
    assert claim.pid == -1


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_a_marker_that_is_no_file_is_told(files: SiteFiles, ref: JobRef, kind: str) -> None:
    path = Path(ref.attempt_dir, "exit.json")
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("nowhere")
    else:
        path.mkdir()
    found = files.markers([ref]).of["t-1"]
    assert found.exit is None
    assert "exit: is" in found.trouble


def test_scratch_that_is_away_says_nothing_of_jobs(tmp_path: Path) -> None:
    gone = SiteFiles(LocalShell(), str(tmp_path / "gone"))
    with pytest.raises(BackendUnavailableError, match="gone: No such file or directory"):
        gone.markers([JobRef(token="t", workdir=f"{tmp_path}/gone/x")])


def test_many_markers_in_one_script(files: SiteFiles, ref: JobRef) -> None:
    refs = [JobRef(token=f"t-{n}", workdir=ref.workdir) for n in range(2_000)]
    found = files.markers(refs).of
    assert len(found) == 2_000
    assert [token for token, markers in found.items() if markers.directory] == ["t-1"]


def test_tail(files: SiteFiles, ref: JobRef) -> None:
    Path(ref.attempt_dir, "stdout").write_bytes(b"x\n" * 300_000 + b"two\nthr\xffee\n")
    assert files.tail(ref, "stdout", 2) == "two\nthr\ufffdee\n"
    assert files.tail(ref, "stdout", 0) == ""
    assert len(files.tail(ref, "stdout", 10**6)) <= 256 * 1024
    assert files.tail(ref, "stderr", 2) == ""


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_tail_follows_no_link_and_waits_for_no_fifo(
    files: SiteFiles, ref: JobRef, kind: str
) -> None:
    path = Path(ref.attempt_dir, "stdout")
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/passwd")
    assert files.tail(ref, "stdout", 5) == ""


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ("wlm: line 3: /s/x: No space left on device", BackendUnavailableError, "/s/x: No space"),
        ("mkdir: cannot create directory '/s/x': Permission denied", JobRejectedError, "mkdir:"),
        ("touch: y: Disk quota exceeded\nrm: z: No such file", BackendUnavailableError, "Disk"),
        ("ls: Read-only file system", JobRejectedError, "/s/x: ls: Read-only"),
        ("ls: Stale file handle", BackendUnavailableError, "Stale file handle"),
        ("what is this", BackendUnavailableError, "/s/x: what is this"),
        ("", BackendUnavailableError, "/s/x: a script ended with code 1"),
    ],
)
def test_the_sites_own_words_tell_the_kind(said: str, kind: type[Exception], told: str) -> None:
    error = failure(Ran(1, b"", said.encode()), "/s/x")
    assert type(error) is kind
    assert told in error.message


@pytest.mark.parametrize("out", [b"", b"0 directory\n", b"place a b\n"])
def test_an_answer_without_its_beginning_proves_nothing(out: bytes) -> None:
    with pytest.raises(BackendUnavailableError):
        parse(out, ["t"])
