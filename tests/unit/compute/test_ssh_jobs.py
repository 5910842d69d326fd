"""One job per attempt on a host behind SSH, whatever breaks on the way."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from unit.compute.sites import SshSite, forked, ignored_signals

from services.fixtures import MakeSshd
from services.processes import children, wait_for
from services.sshd import PrivateSshd
from wlm_tasks.compute.base import JobSpec, JobState
from wlm_tasks.compute.ssh.backend import SshBackend
from wlm_tasks.errors import BackendUnavailableError, SiteUnreachableError
from wlm_tasks.hosts.shell import compose


@pytest.fixture
def own(scratch: Path, make_sshd: MakeSshd) -> SshSite:
    """A site with a server of the test's own."""
    site = SshSite(scratch, make_sshd())
    site.backend.prepare(site.workdir)
    return site


def test_submitters_at_once(ssh: SshSite) -> None:
    spec = ssh.spec("sleep 0.1")
    found: list[str] = []

    def submit() -> None:
        found.append(ssh.another().submit(spec).native_id)

    threads = [threading.Thread(target=submit) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(set(found)) == 1
    assert ssh.wait_end(spec.ref).state is JobState.SUCCEEDED
    assert ssh.runs(spec.ref) == 1
    assert not Path(spec.ref.attempt_dir, "duplicates").exists()


def kill_scripts(server: PrivateSshd) -> None:
    """Kill what a backend runs there at this moment, as a host short of memory would."""
    for connection in server.connections():
        for shell in children(connection):
            for pid in (shell, *children(shell)):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


def disturbed(work: Callable[[], object], disturb: Callable[[], None], after_s: float) -> None:
    """Do `work`, and in the midst of it `disturb`; it may fail by that."""

    def run() -> None:
        try:
            work()
        except BackendUnavailableError:
            return

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(after_s)
    disturb()
    thread.join()


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ["cut", "kill"])
def test_submissions_disturbed_at_random(own: SshSite, long_campaign: bool, fault: str) -> None:
    """The connection is cut, or the script on the host killed, anywhere in a submission."""
    chance = random.Random(20261125)
    disturb = own.server.cut if fault == "cut" else partial(kill_scripts, own.server)
    for _ in range(200 if long_campaign else 15):
        spec = own.spec("echo done")
        disturbed(partial(own.backend.submit, spec), disturb, chance.uniform(0, 0.06))
        submitted = own.backend.submit(spec)
        assert own.backend.find(spec.ref) == submitted.native_id
        assert own.wait_end(spec.ref).state is JobState.SUCCEEDED
        assert own.runs(spec.ref) == 1
        assert own.output(spec.ref) == "done\n"
    own.backend.close()


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ["cut", "kill"])
def test_cancels_disturbed_at_random(own: SshSite, long_campaign: bool, fault: str) -> None:
    chance = random.Random(20261126)
    disturb = own.server.cut if fault == "cut" else partial(kill_scripts, own.server)
    for number in range(100 if long_campaign else 8):
        spec = own.spec("while :; do sleep 0.02; done", stop_grace_s=1.0)
        if number % 4:
            own.backend.submit(spec)
        disturbed(partial(own.backend.cancel, spec.ref), disturb, chance.uniform(0, 0.1))
        wait_for(partial(own.backend.cancel, spec.ref), what="the confirmation")
        assert own.status(spec.ref).state is JobState.CANCELLED
        assert not own.living(spec.ref)
    own.backend.close()


def test_a_submitter_that_was_killed(ssh: SshSite) -> None:
    spec = ssh.spec("while :; do sleep 0.05; done", stop_grace_s=0.2)
    with forked(lambda: ssh.another().submit(spec)) as pid:
        wait_for(lambda: ssh.runs(spec.ref), what="the start")
        os.kill(pid, signal.SIGKILL)
    assert ssh.backend.submit(spec).native_id == ssh.backend.find(spec.ref)
    assert ssh.runs(spec.ref) == 1
    assert ssh.backend.cancel(spec.ref)


def test_jobs_outlive_the_server(own: SshSite) -> None:
    spec = own.spec("while [ ! -e go ]; do sleep 0.02; done; exit 5")
    own.backend.submit(spec)
    own.server.stop()
    with pytest.raises(SiteUnreachableError):
        own.status(spec.ref)
    Path(own.workdir, "go").touch()
    own.server.start()
    assert own.wait_end(spec.ref).exit_code == 5
    own.backend.close()


def test_odd_places_and_scripts(ssh: SshSite) -> None:
    workdir = f"{ssh.scratch}/-a 'b' $(c) é"
    ssh.backend.prepare(workdir)
    spec = ssh.spec("pwd\nprintf '%s|' \"$ODD\" 'é' \"\\\\\"\n#" + "x" * 200_000)
    odd = "a'b\"c\n$d `e` \\ \udcff"
    spec = replace(spec, ref=replace(spec.ref, workdir=workdir), variables={"ODD": odd})
    ssh.backend.submit(spec)
    assert ssh.wait_end(spec.ref).state is JobState.SUCCEEDED
    stdout = Path(spec.ref.attempt_dir, "stdout").read_bytes()
    assert stdout == f"{workdir}\n{odd}|é|\\|".encode(errors="surrogateescape")


def test_a_small_environment_and_usual_signals(own: SshSite) -> None:
    (own.server.home / ".bashrc").write_text(
        "export SECRET=1 TMPDIR=/var/tmp\ntrap '' TERM PIPE\nulimit -c 0\n"
    )
    own.backend.close()  # what was started before knows nothing of it
    spec = own.spec("env; grep SigIgn /proc/self/status; kill -TERM $$; echo not reached")
    own.backend.submit(spec)
    assert own.wait_end(spec.ref).reason.startswith("signal: it was ended by SIGTERM")
    output = own.output(spec.ref)
    assert "SECRET" not in output
    assert "TMPDIR=/var/tmp\n" in output
    assert f"HOME={own.server.home}\n" in output
    assert not ignored_signals(output)
    own.backend.close()


def test_a_disk_that_is_full(sshd: PrivateSshd, small_disk: Path) -> None:
    backend = SshBackend(name="full", scratch=str(small_disk), options=sshd.options)
    workdir = f"{small_disk}/work"
    backend.prepare(workdir)
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={small_disk}/fill"], capture_output=True, check=False
    )
    site = SshSite(small_disk, sshd)
    spec = site.spec("true")
    spec = replace(spec, ref=replace(spec.ref, workdir=workdir))
    for call in (partial(backend.prepare, workdir), partial(backend.submit, spec)):
        with pytest.raises(BackendUnavailableError, match="No space left on device"):
            call()
    Path(small_disk, "fill").unlink()
    backend.submit(spec)
    wait_for(lambda: backend.status([spec.ref])[spec.ref.token].exit_code == 0, what="the end")
    backend.close()


def test_a_workdir_that_is_not_there(ssh: SshSite) -> None:
    spec = ssh.job()
    gone = replace(spec, ref=replace(spec.ref, workdir=f"{ssh.scratch}/gone"))
    with pytest.raises(Exception, match=r"gone: No such file or directory") as caught:
        ssh.backend.submit(gone)
    assert type(caught.value).__name__ == "JobRejectedError"


SHELLS = ["sh", "dash", "bash", "zsh", "ksh", "csh", "tcsh", "fish"]


@pytest.mark.parametrize("shell", [name for name in SHELLS if shutil.which(name)])
def test_whatever_the_login_shell_is(shell: str) -> None:
    letter = compose('printf "%s|" "$@"; cat', ["a b", "it's", "\\!"], b"\0in")
    done = subprocess.run(
        [shell, "-c", letter.command],
        input=letter.text + letter.stdin,
        capture_output=True,
        check=False,
    )
    ran = letter.answer(done.returncode, done.stdout, done.stderr)
    assert ran is not None
    assert (ran.code, ran.out) == (0, b"a b|it's|\\!|\0in")


@pytest.mark.parametrize("keep", [0, 1, 50, -1])
def test_a_script_that_is_cut_short_is_not_run(keep: int, tmp_path: Path) -> None:
    letter = compose('touch "$1"', [str(tmp_path / "ran")])
    done = subprocess.run(
        ["bash", "-c", letter.loader], input=letter.text[:keep], capture_output=True, check=False
    )
    ran = letter.answer(done.returncode, done.stdout, done.stderr)
    assert ran is not None
    assert (ran.code, ran.said) == (75, "it was cut short on its way")
    assert not (tmp_path / "ran").exists()


def test_many_jobs_in_one_command(own: SshSite) -> None:
    specs: list[JobSpec] = [own.spec("true") for _ in range(20)]
    for spec in specs:
        own.backend.submit(spec)
    refs = [spec.ref for spec in specs]

    def over() -> bool:
        found = own.backend.status(refs).values()
        return all(status.state is JobState.SUCCEEDED for status in found)

    wait_for(over, what="the end of all")
    assert own.server.logins() == 1
    own.backend.close()
