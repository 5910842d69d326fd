"""What goes wrong on the way to a host behind SSH, and what is said of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from unit.compute.sites import forked

from services.fixtures import MakeSshd
from services.ports import free_port, release_port
from services.processes import children, wait_for
from services.sshd import PrivateSshd
from wlm_tasks.compute.remote import SiteFiles
from wlm_tasks.compute.ssh.backend import SshBackend
from wlm_tasks.errors import (
    BackendUnavailableError,
    ConfigError,
    JobRejectedError,
    SiteAuthError,
    SiteTroubleError,
    SiteUnreachableError,
)
from wlm_tasks.hosts import connections
from wlm_tasks.hosts import readers as kept
from wlm_tasks.hosts.address import address_of
from wlm_tasks.hosts.readers import Reader
from wlm_tasks.hosts.ssh import SshShell, open_channel


@pytest.fixture
def server(make_sshd: MakeSshd) -> PrivateSshd:
    """A server of the test's own."""
    return make_sshd()


def shell_of(server: PrivateSshd, **options: str | int) -> SshShell:
    return SshShell(address_of("test", server.options | options))


@pytest.fixture
def shell(server: PrivateSshd) -> Iterator[SshShell]:
    shell = shell_of(server)
    yield shell
    shell.close()


def fails(shell: SshShell, kind: type[Exception]) -> str:
    """Return the one line that is said."""
    try:
        with pytest.raises(kind) as caught:
            shell.run("true")
    finally:
        shell.close()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_host(server: PrivateSshd) -> None:
    message = fails(shell_of(server, host="no-such-host.invalid"), SiteUnreachableError)
    assert message.startswith(f"{server.user}@no-such-host.invalid:")
    assert "cannot be resolved" in message


def test_a_refused_port(server: PrivateSshd) -> None:
    port = free_port()
    try:
        message = fails(shell_of(server, port=port), SiteUnreachableError)
    finally:
        release_port(port)
    assert "connection refused" in message
    assert str(port) in message


def test_a_host_that_does_not_answer(server: PrivateSshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LOGIN_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        shell = shell_of(server, port=mute.getsockname()[1])
        assert "no answer in time" in fails(shell, SiteUnreachableError)


def test_no_ssh_behind_the_port(server: PrivateSshd) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            connection, _ = other.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        fails(shell_of(server, port=other.getsockname()[1]), SiteTroubleError)
        thread.join()


def test_an_unknown_host_key(server: PrivateSshd, tmp_path: Path) -> None:
    empty = tmp_path / "known"
    empty.touch()
    message = fails(shell_of(server, known_hosts=str(empty)), SiteAuthError)
    assert f"is not in {empty}" in message
    assert "ssh-keyscan" in message


def test_a_changed_host_key(server: PrivateSshd, tmp_path: Path) -> None:
    other = server.new_key("other").with_suffix(".pub").read_text().split()
    known = tmp_path / "known"
    known.write_text(f"[{server.host}]:{server.port} {other[0]} {other[1]}\n")
    message = fails(shell_of(server, known_hosts=str(known)), SiteAuthError)
    assert f"is not the one in {known}" in message


def test_files_that_cannot_be_used(server: PrivateSshd, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    assert f"key_file {gone}: No such file" in fails(shell_of(server, key_file=gone), SiteAuthError)
    text = fails(shell_of(server, known_hosts=gone), SiteAuthError)
    assert f"known_hosts {gone}: No such file" in text
    garbage = tmp_path / "garbage"
    garbage.write_text("this is no key, but s3cret\n")
    text = fails(shell_of(server, key_file=str(garbage)), SiteAuthError)
    assert str(garbage) in text
    assert "s3cret" not in text
    locked = server.new_key("locked", passphrase="s3cret-phrase")
    text = fails(shell_of(server, key_file=str(locked)), SiteAuthError)
    assert "has a passphrase" in text


def test_a_key_that_is_not_let_in(server: PrivateSshd) -> None:
    wrong = server.new_key("wrong")
    message = fails(shell_of(server, key_file=str(wrong)), SiteAuthError)
    assert "permission denied" in message
    assert str(wrong) in message
    message = fails(shell_of(server, user="nobody-at-all"), SiteAuthError)
    assert message.startswith(f"nobody-at-all@{server.host}:{server.port}: permission denied")


def test_a_login_shell_that_runs_nothing(server: PrivateSshd, shell: SshShell) -> None:
    keys = server.directory / "authorized_keys"
    keys.write_text(f'command="echo closed for today; exit 1" {keys.read_text()}')
    message = fails(shell, SiteTroubleError)
    assert "closed for today" in message


def test_noise_of_start_up_files(server: PrivateSshd, shell: SshShell) -> None:
    (server.home / ".bashrc").write_text(
        "echo welcome\necho noise >&2\nprintf 'wlm-'\ntrap 'echo bye' EXIT\n"
        "alias cat=false\nset -u\n"
    )
    ran = shell.run("echo out; cat; echo err >&2; exit 4", stdin=b"in")
    assert (ran.code, ran.out, ran.err) == (4, b"out\nin", b"err\n")


def test_scratch_that_cannot_be_written(server: PrivateSshd) -> None:
    backend = SshBackend(name="s", scratch="/proc/wlm", options=server.options)
    with pytest.raises(JobRejectedError, match=r"/proc/wlm.*No such file"):
        backend.prepare("/proc/wlm/x")
    backend.close()


def test_a_connection_cut_in_the_middle(
    server: PrivateSshd, shell: SshShell, tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    found: list[str] = []

    def ask() -> None:
        with pytest.raises(SiteUnreachableError) as caught:
            shell.run('touch "$1"; read -t 20 < "$2"', [str(begun), str(fifo)])
        found.append(str(caught.value))

    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    thread = threading.Thread(target=ask)
    thread.start()
    wait_for(begun.exists, what="the command's begin")
    server.cut()
    thread.join(10)
    assert "connection lost" in found[0]
    assert shell.run("echo again").out == b"again\n"
    with fifo.open("w"):  # ends what may still wait there
        pass


def test_a_server_restarted_in_between(server: PrivateSshd, shell: SshShell) -> None:
    assert shell.run("echo one").out == b"one\n"
    server.restart()
    assert shell.run("echo two").out == b"two\n"
    assert server.logins() == 1
    server.stop()
    with pytest.raises(SiteUnreachableError):
        shell.run("echo three")
    server.start()
    assert shell.run("echo four").out == b"four\n"


def test_one_connection_and_eight_channels(make_sshd: MakeSshd) -> None:
    server = make_sshd(max_sessions=connections.CHANNELS)
    shells = [shell_of(server) for _ in range(5)]
    found: list[bytes] = []

    def ask(number: int) -> None:
        found.append(shells[number % 5].run('sleep 0.05; echo "$1"', [str(number)]).out)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, found)) == list(range(50))
    assert server.logins() == 1
    assert len(server.connections()) == 1
    shells[0].close()
    wait_for(lambda: not server.connections(), what="the end of the connection")


def test_a_forked_process_has_its_own(server: PrivateSshd, shell: SshShell) -> None:
    assert shell.run("echo parent").out == b"parent\n"

    def child() -> None:
        assert shell.run("echo child").out == b"child\n"
        shell.close()

    with forked(child) as pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert shell.run("echo parent").out == b"parent\n"
    assert server.logins() == 2


def test_through_a_jump_host(make_sshd: MakeSshd, tmp_path: Path) -> None:
    gate, inner = make_sshd(), make_sshd()
    known = tmp_path / "known"
    known.write_text(gate.known_hosts.read_text() + inner.known_hosts.read_text())
    keys = gate.directory / "authorized_keys"
    keys.write_text(keys.read_text() + (inner.directory / "authorized_keys").read_text())
    jump = f"{gate.user}@{gate.host}:{gate.port}"
    shell = shell_of(inner, known_hosts=str(known), proxy_jump=jump)
    assert shell.run("echo inside").out == b"inside\n"
    assert (gate.logins(), inner.logins()) == (1, 1)
    inner.stop()
    assert f"{inner.host}:{inner.port}" in fails(shell, SiteUnreachableError)
    gate.stop()
    assert f"{gate.host}:{gate.port}" in fails(shell, SiteUnreachableError)


@pytest.mark.parametrize("jump", ["", "a b", "user@", "host:0", "host:99999", "a,,b", "-x y"])
def test_a_senseless_jump_host(server: PrivateSshd, jump: str) -> None:
    if jump:
        with pytest.raises(ConfigError, match=r"sites\.test\.proxy_jump"):
            address_of("test", server.options | {"proxy_jump": jump})
    with pytest.raises(ConfigError, match=r"sites\.test\.host: got nothing"):
        address_of("test", {})


def test_nothing_is_logged_of_hosts_and_users(
    shell: SshShell, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        shell.run("true")
    assert not caplog.records


def test_a_command_that_goes_on_holds_no_channel(server: PrivateSshd, shell: SshShell) -> None:
    for _ in range(connections.CHANNELS + 2):
        with pytest.raises(BackendUnavailableError, match=r"within 0\.05 s"):
            shell.run("sleep 1", timeout_s=0.05)
    assert shell.run("echo on", timeout_s=10).out == b"on\n"
    wait_for(lambda: len(server.connections()) == 1, what="the end of the other connections")


def readers(server: PrivateSshd) -> list[int]:
    """The shells that are kept on the host."""
    return [shell for connection in server.connections() for shell in children(connection)]


def test_a_shell_is_kept_for_a_moment(
    server: PrivateSshd, shell: SshShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shell.run("echo $$").out
    assert [shell.run("echo $$").out for _ in range(5)] == [first] * 5
    monkeypatch.setattr(connections, "READER_WAIT_S", 0.05)
    assert shell.run("echo $$").out == first
    wait_for(lambda: not readers(server), what="its end")
    assert shell.run("echo $$").out != first
    assert server.logins() == 1


def test_a_kept_shell_that_gets_old(shell: SshShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "AGE_S", 0.0)
    assert shell.run("echo $$").out != shell.run("echo $$").out


def test_a_kept_shell_that_was_killed(server: PrivateSshd, shell: SshShell) -> None:
    for _ in range(5):
        shell.run("true")
        for pid in readers(server):
            os.kill(pid, signal.SIGKILL)
        assert shell.run("echo on").out == b"on\n"
    assert server.logins() == 1


def test_a_script_that_kills_its_shell(shell: SshShell) -> None:
    shell.run("true")
    ran = shell.run("echo so far; kill -9 $$; sleep 0.1")
    assert (ran.code, ran.out) == (-9, b"so far\n")
    assert shell.run("echo on").out == b"on\n"


def test_a_connection_cut_while_a_shell_waits(server: PrivateSshd, shell: SshShell) -> None:
    for number in range(10):
        shell.run("true")
        server.cut()
        assert shell.run('echo "$1"', [str(number)]).out == f"{number}\n".encode()


def test_kept_shells_leave_room_for_files(make_sshd: MakeSshd, tmp_path: Path) -> None:
    server = make_sshd(max_sessions=connections.CHANNELS)
    shell = shell_of(server)
    with ThreadPoolExecutor(connections.CHANNELS) as pool:
        list(pool.map(lambda _: shell.run("sleep 0.2"), range(connections.CHANNELS)))
    assert len(readers(server)) == connections.CHANNELS
    assert shell.run("cat", stdin=b"x").out == b"x"  # what has an input has a channel of its own
    assert len(readers(server)) < connections.CHANNELS
    shell.close()


def test_what_a_script_writes_is_not_mistaken_for_its_end(shell: SshShell) -> None:
    for _ in range(2):
        ran = shell.run("printf wlm-0123456789abcdef+0\\;; printf 0\\; >&2; exit 4")
        assert (ran.code, ran.out, ran.err) == (4, b"wlm-0123456789abcdef+0;", b"0;")


@pytest.mark.parametrize("used", [False, True])
def test_a_fault_is_told_in_the_same_words(shell: SshShell, used: bool) -> None:
    if used:
        shell.run("true")
    files = SiteFiles(shell, "/scratch")
    with pytest.raises(JobRejectedError) as caught:
        files.run("cd -- /nosuch || exit 1", (), about="/place")
    assert str(caught.value) == "/place: cd: /nosuch: No such file or directory"


def test_channels_that_are_opened_for_nobody_are_closed(
    server: PrivateSshd, shell: SshShell
) -> None:
    shell.run("true")
    shared = connections.connections()

    async def give_up() -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.0005):
                async with shared.line(shell.address).channel() as connection:
                    reader = await open_channel(connection, partial(Reader.start, connection))
                    reader.close()  # it was fast enough

    for _ in range(30):
        shared.wait(give_up())
    wait_for(lambda: len(readers(server)) <= 1, what="the end of the others")
