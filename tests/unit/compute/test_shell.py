"""What every shell promises. A new one joins the fixture `shell`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.sshd import PrivateSshd
from wlm_tasks.errors import BackendUnavailableError
from wlm_tasks.hosts.address import address_of
from wlm_tasks.hosts.scripts import PREAMBLE
from wlm_tasks.hosts.shell import LocalShell, Shell
from wlm_tasks.hosts.ssh import SshShell

ODD = [
    "a b",
    "it's",
    '"x"',
    "\\",
    "a\nb\n",
    "é€😀",
    "$HOME `id` $(id)",
    "-n",
    "",
    "*",
    "!x",
    "\udcff",
]


@pytest.fixture(params=["local", "ssh", "ssh, used before"])
def shell(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Each kind of shell in turn."""
    if request.param == "local":
        yield LocalShell()
        return
    server: PrivateSshd = request.getfixturevalue("sshd")
    shell = SshShell(address_of("test", server.options))
    if request.param != "ssh":
        assert shell.run("echo begun; exit 3").code == 3
    yield shell
    shell.close()


def test_arguments_arrive_as_they_are(shell: Shell) -> None:
    ran = shell.run('printf "%s\\0" "$#" "$@"', ODD)
    assert ran.out.split(b"\0")[:-1] == [
        str(len(ODD)).encode(),
        *[word.encode(errors="surrogateescape") for word in ODD],
    ]


def test_standard_input_and_output_are_bytes(shell: Shell) -> None:
    data = bytes(range(256)) * 400
    ran = shell.run("cat; printf '\\377\\0' >&2", stdin=data)
    assert (ran.code, ran.out, ran.err) == (0, data, b"\xff\0")


@pytest.mark.parametrize(
    ("script", "code"), [("exit 7", 7), ("false", 1), ("kill -KILL $$", -9), ("kill -TERM $$", -15)]
)
def test_exit_codes(shell: Shell, script: str, code: int) -> None:
    assert shell.run(script).code == code


def test_a_script_says_what_went_wrong(shell: Shell) -> None:
    assert shell.run("echo out; echo no such thing >&2; exit 1").said == "no such thing"
    assert shell.run("echo only out; exit 1").said == "only out"


def test_tools_speak_english(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the user's locale is: their words are looked at."""
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    ran = shell.run(PREAMBLE + "env")
    assert b"LC_ALL=C" in ran.out.splitlines()


def test_much_output(shell: Shell) -> None:
    ran = shell.run("head -c 20000000 /dev/zero; head -c 1000000 /dev/zero >&2")
    assert (len(ran.out), len(ran.err)) == (20_000_000, 1_000_000)


def test_script_and_arguments_longer_than_a_command_line(shell: Shell) -> None:
    script = f"echo ${{#1}} $#\n# {'x' * 3_000_000}"
    assert shell.run(script, ["y" * 1_000_000, *["z"] * 2_000]).out == b"1000000 2001\n"


def test_a_script_without_input_meets_its_end(shell: Shell) -> None:
    assert shell.run("cat; echo done").out == b"done\n"


def test_the_time_may_be_over(shell: Shell) -> None:
    with pytest.raises(BackendUnavailableError, match=r"within 0\.3 s"):
        shell.run("sleep 1", timeout_s=0.3)
    assert shell.run("echo on").out == b"on\n"


def test_nul_is_refused(shell: Shell) -> None:
    with pytest.raises(ValueError, match="NUL"):
        shell.run("true", ["a\0b"])


def test_what_is_left_running_holds_nobody_up(shell: Shell, tmp_path: Path) -> None:
    end = tmp_path / "end"
    os.mkfifo(end)
    script = "setsid --fork sh -c \"read x < '$1'\" < /dev/null > /dev/null 2>&1; echo $?"
    assert shell.run(script, [str(end)], timeout_s=10).out == b"0\n"
    end.write_text("now\n")  # waits until it is read


def test_used_after_it_was_closed(shell: Shell) -> None:
    shell.close()
    assert shell.run("echo again").out == b"again\n"


def test_used_by_many_threads(shell: Shell) -> None:
    found: list[bytes] = []

    def ask(number: int) -> None:
        found.append(shell.run('echo "$1"; sleep 0.05', [str(number)]).out)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(text) for text in found) == list(range(24))


def test_one_script_leaves_nothing_to_the_next(shell: Shell) -> None:
    script = (
        'cd /; umask 0; found=1; helper() { :; }; trap "echo trapped" EXIT; set -u; exec 9> "$1"'
    )
    assert shell.run(script, ["/dev/null"]).out == b"trapped\n"
    look = 'echo "$PWD $(umask) ${found-none} $#"; hash helper || true; trap; echo "${none}"; : >&9'
    ran = shell.run(look)
    assert b"/ 0000" not in ran.out
    assert b" none 0\n" in ran.out
    assert b"trapped" not in ran.out
    assert b"helper" in ran.err
    assert b"9: Bad file descriptor" in ran.err
