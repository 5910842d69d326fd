"""One run per attempt, whoever submits, cancels or dies at whatever moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
from unit.compute.sites import LocalSite, forked

from services.processes import children, wait_for
from wlm_tasks.compute.attempt import Attempt
from wlm_tasks.compute.base import ENDED, JobSpec, JobState
from wlm_tasks.compute.job_script import render
from wlm_tasks.errors import BackendUnavailableError, JobCancelledError


def start_guard(spec: JobSpec) -> subprocess.Popen[bytes]:
    """Start one more copy of the job's guard, as a submitter does that is then killed."""
    environ = {"PATH": os.environ["PATH"], "WLM_JOB_TOKEN": spec.ref.token}
    script = f"{spec.ref.attempt_dir}/job.sh"
    return subprocess.Popen(["bash", script], env=environ, start_new_session=True)


def write_scripts(spec: JobSpec) -> None:
    attempt = Attempt(spec.ref)
    with attempt.locked():
        attempt.write("payload.sh", spec.script)
        attempt.write("job.sh", render(spec, bells=None))


def settle(local: LocalSite, spec: JobSpec) -> None:
    wait_for(lambda: not local.living(spec.ref), what=f"{local.living(spec.ref)} to end")


def test_eight_submitters_at_once_start_one_job(local: LocalSite) -> None:
    spec = local.spec("sleep 0.2")
    ids = local.scratch / "ids"

    def submit() -> None:
        native_id = local.another().submit(spec).native_id
        with ids.open("a") as file:
            file.write(f"{native_id}\n")

    with ExitStack() as stack:
        pids = [stack.enter_context(forked(submit)) for _ in range(8)]
        assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    local.wait_end(spec.ref)
    assert local.runs(spec.ref) == 1
    native_ids = ids.read_text().split()
    assert len(native_ids) == 8
    assert set(native_ids) == {local.backend.find(spec.ref)}


def test_five_guards_at_once_run_the_payload_once(local: LocalSite) -> None:
    spec = local.spec("sleep 0.2")
    write_scripts(spec)
    guards = [start_guard(spec) for _ in range(5)]
    for guard in guards:
        guard.wait(10)
    assert local.runs(spec.ref) == 1
    duplicates = Path(spec.ref.attempt_dir, "duplicates").read_text().splitlines()
    assert len(duplicates) == 4
    assert local.status(spec.ref).state is JobState.SUCCEEDED


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_submitters_killed_at_any_time(local: LocalSite, long_campaign: bool) -> None:
    chance = random.Random(20261122)
    for _ in range(300 if long_campaign else 30):
        spec = local.spec("true")
        with forked(partial(local.backend.submit, spec)) as pid:
            time.sleep(chance.uniform(0, 0.03))
            # half of the times with everything that it has started and that did not get away
            with suppress(ProcessLookupError):
                (os.kill if chance.random() < 0.5 else os.killpg)(pid, signal.SIGKILL)
        native_id = local.backend.submit(spec).native_id
        assert local.wait_end(spec.ref).state is JobState.SUCCEEDED
        settle(local, spec)
        assert local.runs(spec.ref) == 1
        assert local.backend.find(spec.ref) == native_id


#: where a kill is tried before each line
_RISKY: Final = tuple(
    f"/wlm_tasks/compute/{name}.py" for name in ("local", "attempt", "alive", "stopping")
)


def die_at_line(number: int, work: Callable[[], object]) -> None:
    """Do `work`, but be killed before the line of that number of the backend is executed."""
    count = 0

    def trace(frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.endswith(_RISKY):
            return None
        count += event == "line"
        if count > number:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    work()
    sys.settrace(None)


def lines_to_die_at(long_campaign: bool) -> range:
    return range(0, 1000, 1 if long_campaign else 9)


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_submitters_killed_at_each_line(local: LocalSite, long_campaign: bool) -> None:
    for number in lines_to_die_at(long_campaign):
        spec = local.spec("true")
        with forked(partial(die_at_line, number, partial(local.backend.submit, spec))) as pid:
            killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        local.backend.submit(spec)
        assert local.wait_end(spec.ref).state is JobState.SUCCEEDED
        settle(local, spec)
        assert local.runs(spec.ref) == 1
        if not killed:
            break
    assert number > 50
    assert not killed


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("submitted", [True, False])
def test_cancellers_killed_at_each_line(
    local: LocalSite, long_campaign: bool, submitted: bool
) -> None:
    for number in lines_to_die_at(long_campaign):
        spec = local.spec("while :; do sleep 0.02; done", stop_grace_s=1.0)
        if submitted:
            local.backend.submit(spec)
        with forked(partial(die_at_line, number, partial(local.backend.cancel, spec.ref))) as pid:
            killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        assert local.backend.cancel(spec.ref)
        runs = local.runs(spec.ref)
        assert not local.living(spec.ref)
        assert local.status(spec.ref).state is JobState.CANCELLED
        with pytest.raises(JobCancelledError):
            local.backend.submit(spec)
        assert local.runs(spec.ref) == runs <= submitted
        if not killed:
            break
    assert number > 50
    assert not killed


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_cancel_racing_submit(local: LocalSite, long_campaign: bool) -> None:
    chance = random.Random(20261123)
    for _ in range(300 if long_campaign else 30):
        spec = local.spec("while :; do sleep 0.02; done", stop_grace_s=1.0)
        with forked(partial(_submit_in_vain, local, spec)) as pid:
            time.sleep(chance.uniform(0, 0.03))
            assert local.another().cancel(spec.ref)
            runs = local.runs(spec.ref)
            assert not local.living(spec.ref)
            assert os.waitpid(pid, 0)[1] == 0
        settle(local, spec)
        assert local.runs(spec.ref) == runs <= 1
        assert local.status(spec.ref).state is JobState.CANCELLED
        with pytest.raises(JobCancelledError):
            local.backend.submit(spec)


def _submit_in_vain(local: LocalSite, spec: JobSpec) -> None:
    with suppress(JobCancelledError):
        local.backend.submit(spec)


def test_a_guard_on_its_way_finds_the_cancel(local: LocalSite) -> None:
    spec = local.spec("true")
    write_scripts(spec)
    assert local.backend.cancel(spec.ref)
    assert start_guard(spec).wait(10) == 0
    assert local.runs(spec.ref) == 0
    assert local.status(spec.ref).state is JobState.CANCELLED
    assert len(Path(spec.ref.attempt_dir, "duplicates").read_text().splitlines()) == 1


def test_a_guard_that_sees_the_mark_starts_nothing(local: LocalSite) -> None:
    """The canceller was killed after its first line, before it took the claim."""
    spec = local.spec("true")
    write_scripts(spec)
    Path(spec.ref.attempt_dir, "cancelled").touch()
    assert start_guard(spec).wait(10) == 0
    assert local.runs(spec.ref) == 0
    assert local.status(spec.ref).state is JobState.CANCELLED
    assert local.backend.cancel(spec.ref)


@contextmanager
def holding_the_lock(spec: JobSpec) -> Iterator[None]:
    """Another process holds the attempt's lock; killed at the end, which gives it back."""
    ready = Path(spec.ref.workdir, "ready")

    def hold() -> None:
        with Attempt(spec.ref).locked():
            ready.touch()
            signal.pause()

    with forked(hold):
        wait_for(ready.exists, what="the lock")
        yield


def test_the_lock_of_a_killed_submitter_is_free(local: LocalSite) -> None:
    spec = local.spec("true")
    with holding_the_lock(spec):
        pass
    local.backend.submit(spec)
    assert local.wait_end(spec.ref).state is JobState.SUCCEEDED


def test_a_job_outlives_the_end_of_all_that_started_it(local: LocalSite) -> None:
    spec = local.spec("sleep 0.4; echo done")

    def submit() -> None:
        local.backend.submit(spec)
        signal.pause()

    with forked(submit) as pid:
        wait_for(lambda: local.runs(spec.ref), what="the start")
        tree = _tree(pid)
        os.killpg(pid, signal.SIGKILL)
        for member in tree:
            with suppress(ProcessLookupError):
                os.kill(member, signal.SIGKILL)
    guard = int((local.backend.find(spec.ref) or "").split(":")[2])
    assert guard not in tree
    assert os.getsid(guard) == guard
    assert local.wait_end(spec.ref).state is JobState.SUCCEEDED
    assert local.output(spec.ref) == "done\n"


def _tree(pid: int) -> list[int]:
    """A process and its descendants."""
    return [pid, *(member for child in children(pid) for member in _tree(child))]


def test_a_submitter_waits_for_another_only_so_long(
    local: LocalSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.compute.attempt.LOCK_WAIT_S", 0.1)
    spec = local.spec("true")
    with holding_the_lock(spec), pytest.raises(BackendUnavailableError, match="lock: held by"):
        local.backend.submit(spec)
    assert local.runs(spec.ref) == 0
    assert local.status(spec.ref).state not in ENDED
