"""Signals that reach a job's guard: by the shutdown of a host, or by ``scancel --signal``."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from unit.compute.sites import LocalSite, stopped_processes

from services.processes import wait_for
from wlm_tasks.compute.base import JobRef, JobState


def _says(local: LocalSite, ref: JobRef, text: str) -> bool:
    return text in local.output(ref)


def test_terminating_the_guard_ends_the_payload_with_evidence(local: LocalSite) -> None:
    """As the shutdown of a host does."""
    spec = local.spec("sleep 30")
    native_id = local.backend.submit(spec).native_id
    wait_for(lambda: local.runs(spec.ref), what="the start")
    os.kill(int(native_id.split(":")[2]), signal.SIGTERM)
    status = local.wait_end(spec.ref)
    assert (status.state, status.exit_code) == (JobState.FAILED, 143)
    assert "SIGTERM" in status.reason


def test_a_payload_that_cleans_up_when_the_guard_is_terminated(local: LocalSite) -> None:
    script = "trap 'sleep 0.2; exit 7' TERM\necho ready\nwhile :; do sleep 0.05; done"
    spec = local.spec(script)
    native_id = local.backend.submit(spec).native_id
    wait_for(lambda: "ready" in local.output(spec.ref), what="the start")
    os.kill(int(native_id.split(":")[2]), signal.SIGTERM)
    assert local.wait_end(spec.ref).exit_code == 7


def test_the_guard_passes_a_signal_on_once(local: LocalSite) -> None:
    """Many programs take a second one for the wish to stop at once, without a checkpoint."""
    script = (
        "trap 'echo INT' INT; sleep 60 & echo ready\n"
        "while [ ! -e go ]; do sleep 0.01; done; kill $!"
    )
    specs = [local.spec(script, stop_grace_s=30.0) for _ in range(10)]
    guards = [int(local.backend.submit(spec).native_id.split(":")[2]) for spec in specs]
    for spec, guard in zip(specs, guards, strict=True):
        says = partial(_says, local, spec.ref)
        wait_for(partial(says, "ready"), what="the start")
        os.kill(guard, signal.SIGINT)
        wait_for(partial(says, "INT"), what="the signal")
    Path(local.workdir, "go").touch()
    for spec in specs:
        assert local.wait_end(spec.ref).state is JobState.SUCCEEDED
        assert local.output(spec.ref) == "ready\nINT\n"


def test_what_ignores_the_guards_end_is_ended_after_the_grace(local: LocalSite) -> None:
    spec = local.spec("trap '' TERM; echo ready; sleep 60", stop_grace_s=0.5)
    native_id = local.backend.submit(spec).native_id
    wait_for(lambda: "ready" in local.output(spec.ref), what="the start")
    os.kill(int(native_id.split(":")[2]), signal.SIGTERM)
    assert local.wait_end(spec.ref).exit_code == 137
    wait_for(lambda: not local.living(spec.ref), what="the guard's end")


def test_a_signal_to_the_guard_while_it_waits_for_leftovers(local: LocalSite) -> None:
    """It neither leaves them behind nor waits longer for them."""
    script = "(trap 'sleep 1; exit' TERM; echo ready; while :; do sleep 0.05; done) & sleep 0.2"
    spec = local.spec(script, stop_grace_s=20.0)
    guard = int(local.backend.submit(spec).native_id.split(":")[2])
    wait_for(lambda: "ready" in local.output(spec.ref), what="the start")
    begun = time.monotonic()
    while local.living(spec.ref):
        with suppress(ProcessLookupError):
            os.kill(guard, signal.SIGTERM)
        time.sleep(0.1)
        assert time.monotonic() - begun < 10.0
    assert local.wait_end(spec.ref).exit_code in {0, 143}


def test_a_stopped_payload_hears_what_the_guard_passes_on(local: LocalSite) -> None:
    spec = local.spec("echo ready; kill -STOP $$; sleep 60", stop_grace_s=20.0)
    guard = int(local.backend.submit(spec).native_id.split(":")[2])
    wait_for(lambda: "ready" in local.output(spec.ref), what="the start")
    wait_for(lambda: stopped_processes(spec.ref.token), what="the stop")
    os.kill(guard, signal.SIGTERM)
    assert local.wait_end(spec.ref).exit_code == 143
