"""FTP servers of all kinds: what they do wrong, and what is told of it."""

from __future__ import annotations

import ftplib
import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from unit.compute.sites import forked
from unit.storage.stores import CONTROL, MiB, fetch, stop_after
from unit.storage.webstores import FtpStore, bring, take

from services import require_service
from services.certificates import certificate
from services.ftpserver import PrivateFtp
from services.ports import free_port, release_port
from services.processes import wait_for
from wlm_tasks.errors import (
    ConfigError,
    InvalidPathError,
    StepError,
    StorageMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.storage.access import Access
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.storage.ftp import FtpStorage
from wlm_tasks.storage.ftpclient import FtpClient
from wlm_tasks.storage.weburls import web_url

DATA = os.urandom(2 * MiB + 5)


@pytest.fixture
def locked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FtpStore]:
    """One behind a password and TLS."""
    require_service("pyftpdlib", PrivateFtp.available())
    (tmp_path / "tls").mkdir()
    cert_file = certificate(tmp_path / "certificates")
    monkeypatch.setenv("LAB", "me:hunter2")
    with PrivateFtp(
        tmp_path / "tls", tmp_path / "ftps.log", password="hunter2", cert_file=cert_file
    ) as server:
        store = FtpStore(tmp_path, server)
        store.backend = FtpStorage(
            name="lab", options={"credentials": "env:LAB", "ca_file": str(cert_file)}
        )
        yield store


def test_tls(locked_up: FtpStore) -> None:
    assert not take(locked_up, DATA, control=stop_after(1)).complete
    assert locked_up.read_part("far.dat") == DATA[:MiB]
    assert take(locked_up, DATA).complete
    assert locked_up.read("far.dat") == DATA
    assert take(locked_up, DATA).moved == 0
    (locked_up.root / "x").unlink()
    assert bring(locked_up) == DATA


def test_a_certificate_that_is_not_trusted(locked_up: FtpStore) -> None:
    locked_up.backend = FtpStorage(name="lab", options={"credentials": "env:LAB"})
    with pytest.raises(
        StorageUnavailableError, match=r"certificate is not trusted.*storages\.lab\.ca_file"
    ):
        bring(locked_up)


def test_a_ca_file_that_is_none(locked_up: FtpStore, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name in ("empty", "none"):
        options = {"ca_file": str(tmp_path / name)}
        locked_up.backend = FtpStorage(name="lab", options=options)
        with pytest.raises(StorageUnavailableError, match=r"storages\.lab\.ca_file: got"):
            bring(locked_up)


def test_a_wrong_password(locked_up: FtpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB", "me:swordfish")
    with pytest.raises(
        StorageRefusedError, match=r"permission denied .*storages\.lab\.credentials leads to"
    ) as caught:
        bring(locked_up)
    assert "swordfish" not in str(caught.value)
    assert "swordfish" not in repr(vars(locked_up.backend))


def test_no_password(locked_up: FtpStore, tmp_path: Path) -> None:
    locked_up.backend = FtpStorage(options={"ca_file": str(tmp_path / "certificates/cert.pem")})
    with pytest.raises(StorageRefusedError, match=r"it may need `credentials` in a table"):
        bring(locked_up)


def test_a_server_that_repeats_what_it_is_told(
    ftp: FtpStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB", "me:hunter2")
    ftp.server.restart(answers={"PASS": "530 hunter2 is not the password."})
    ftp.backend = FtpStorage(name="lab", options={"credentials": "env:LAB"})
    with pytest.raises(StorageRefusedError, match=r"530 \*\*\* is not the password") as caught:
        bring(ftp)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "hunter2", "a:b\r\nDELE x"])
def test_bad_credentials(ftp: FtpStore, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LAB", value)
    ftp.backend = FtpStorage(name="lab", options={"credentials": "env:LAB"})
    with pytest.raises(StorageUnavailableError, match=r"storages\.lab\.credentials: got") as caught:
        bring(ftp)
    assert "hunter2" not in str(caught.value)


def test_the_address_a_server_names_does_not_count(ftp: FtpStore) -> None:
    ftp.server.restart(address="192.0.2.1")
    ftp.write("far.dat", DATA)
    assert bring(ftp) == DATA


def test_a_server_that_breaks_off(ftp: FtpStore) -> None:
    ftp.write("far.dat", DATA)
    ftp.server.restart(cut_after=MiB + 5)
    with pytest.raises(StorageUnavailableError, match=r"far\.dat: "):
        bring(ftp)
    assert not (ftp.root / "x").exists()
    assert (ftp.root / ".x.wlm-part").stat().st_size >= MiB
    ftp.server.restart()
    assert bring(ftp) == DATA


@pytest.mark.usefixtures("_impatient")
def test_a_server_that_stalls(ftp: FtpStore) -> None:
    ftp.write("far.dat", DATA)
    ftp.server.restart(stall_after=MiB)
    with pytest.raises(StorageUnavailableError, match="no byte in time"):
        bring(ftp)


def test_a_server_that_goes_away_while_it_is_written(ftp: FtpStore) -> None:
    data = os.urandom(16 * MiB)

    def progress(done: int, _size: int) -> None:
        if done == 4 * MiB:
            wait_for(lambda: len(ftp.read_part("far.dat") or b"") >= MiB, what="a part")
            ftp.server.process.stop()

    with pytest.raises(StorageUnavailableError):
        take(ftp, data, control=TransferControl(progress=progress))
    assert ftp.read("far.dat") is None
    ftp.server.start()
    kept = len(ftp.read_part("far.dat") or b"")
    assert kept >= MiB
    assert take(ftp, data).moved == len(data) - kept
    assert ftp.read("far.dat") == data


@pytest.mark.parametrize(
    ("answers", "kind", "told"),
    [
        ({"STOR": "550 Permission denied."}, StorageRefusedError, "550 Permission denied"),
        ({"STOR": "553 Name not allowed."}, StorageRefusedError, "553 Name not"),
        ({"STOR": "552 Quota exceeded."}, StorageUnavailableError, "no room left"),
        ({"STOR": "452 No space."}, StorageUnavailableError, "452 No space"),
        ({"STOR": "425 Later."}, StorageUnavailableError, "425 Later"),
        ({"STOR": "421 Too many."}, StorageUnavailableError, "421 Too many"),
        ({"STOR": "nonsense"}, StorageUnavailableError, "nonsense"),
        ({"SIZE": "500 What?"}, StorageRefusedError, "500 What"),
        ({"SIZE": "213 many"}, StorageUnavailableError, "213 many"),
        ({"SIZE": "213 -5"}, StorageUnavailableError, "213 -5"),
        ({"SIZE": "200 Yes."}, StorageUnavailableError, "200 Yes"),
        ({"PASV": "227 Somewhere."}, StorageUnavailableError, "227 Somewhere"),
        ({"RNTO": "451 Later."}, StorageUnavailableError, "451 Later"),
    ],
)
def test_answers(ftp: FtpStore, answers: dict[str, str], kind: type[StepError], told: str) -> None:
    ftp.server.restart(answers=answers)
    with pytest.raises(kind, match=told):
        take(ftp, DATA)
    assert ftp.read("far.dat") is None


@pytest.mark.parametrize(
    "answers",
    [{"MDTM": "502 No."}, {"REST": "502 No."}, {"MKD": "550 Is there."}],
    ids=str,
)
def test_servers_that_can_less(ftp: FtpStore, answers: dict[str, str]) -> None:
    ftp.server.restart(answers=answers)
    ftp.write("far.dat", DATA)
    url, root = ftp.url("far.dat"), str(ftp.root)
    assert fetch(ftp.backend, url, root, "x", stop_after(1)).moved == MiB
    assert fetch(ftp.backend, url, root, "x", CONTROL).moved == len(DATA) - MiB
    assert (ftp.root / "x").read_bytes() == DATA
    other = b"x" + DATA
    assert take(ftp, other, control=stop_after(1)).moved == MiB
    assert take(ftp, other).moved == len(other) - MiB
    assert ftp.read("far.dat") == other


def test_bytes_that_cannot_be_passed_over_in_time(
    ftp: FtpStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ftp.server.restart(answers={"REST": "502 No."})
    ftp.write("far.dat", DATA)
    url, root = ftp.url("far.dat"), str(ftp.root)
    assert fetch(ftp.backend, url, root, "x", stop_after(1)).moved == MiB
    monkeypatch.setattr("wlm_tasks.storage.ftp.PASS_S", -1.0)
    with pytest.raises(StorageUnavailableError, match=r"the 1048576 bytes .* passed over"):
        fetch(ftp.backend, url, root, "x", CONTROL)


def test_a_part_that_cannot_be_gone_on_with(ftp: FtpStore) -> None:
    ftp.server.restart(answers={"REST": "502 No."})
    ftp.write_part("far.dat", DATA[:MiB] + b"z" * MiB)
    with pytest.raises(StorageUnavailableError, match=r"the part that was there is removed"):
        take(ftp, DATA)
    assert ftp.read_part("far.dat") is None
    assert take(ftp, DATA).complete


@pytest.mark.parametrize("answer", ["502 No.", "550 No.", "451 Append/Restart not permitted."])
def test_a_server_that_appends_nothing(ftp: FtpStore, answer: str) -> None:
    ftp.server.restart(answers={"APPE": answer})
    assert take(ftp, DATA, control=stop_after(1)).moved == MiB
    assert take(ftp, DATA).moved == len(DATA) - MiB
    assert ftp.read("far.dat") == DATA


@pytest.mark.parametrize("answer", ["502 No.", "550 No.", "451 Append/Restart not permitted."])
def test_a_server_that_takes_whole_files_only(ftp: FtpStore, answer: str) -> None:
    ftp.server.restart(answers={"APPE": answer, "REST": answer})
    assert take(ftp, DATA, control=stop_after(1)).moved == MiB
    with pytest.raises(StorageUnavailableError, match=r"the part that was there is removed"):
        take(ftp, DATA)
    assert ftp.read_part("far.dat") is None
    assert take(ftp, DATA).moved == len(DATA)
    assert ftp.read("far.dat") == DATA


def test_a_server_that_replaces_no_file(ftp: FtpStore) -> None:
    ftp.server.restart(keeps_names=True)
    ftp.write("far.dat", b"old")
    assert take(ftp, DATA).complete
    assert [path.name for path in ftp.far.iterdir()] == ["far.dat"]
    assert ftp.read("far.dat") == DATA


def test_kills_while_a_file_is_replaced(ftp: FtpStore) -> None:
    """At each command from the last byte on one of both files is there, and a new try ends it."""
    ftp.server.restart(keeps_names=True)
    point = 0
    while not _killed(ftp, point):
        left = {path.name: path.read_bytes() for path in ftp.far.iterdir()}
        assert left.get("far.dat", left.get(".far.dat.wlm-old")) in {b"old", DATA}, point
        assert take(ftp, DATA).complete
        assert [path.name for path in ftp.far.iterdir()] == ["far.dat"], point
        assert ftp.read("far.dat") == DATA
        point += 1
    assert point > 8


def _killed(ftp: FtpStore, point: int) -> bool:
    """Kill a process before it sends that command of its commit; True if it sends fewer."""
    ftp.write("far.dat", b"old")

    def go() -> None:
        commands: Iterator[int] | None = None
        send = ftplib.FTP.putcmd

        def putcmd(self: ftplib.FTP, line: str) -> None:
            if commands is not None and next(commands) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            send(self, line)

        def progress(done: int, size: int) -> None:
            nonlocal commands
            if done == size:
                commands = itertools.count()

        ftplib.FTP.putcmd = putcmd  # type: ignore[method-assign]
        take(ftp, DATA, control=TransferControl(progress=progress))

    with forked(go) as pid:
        status = os.waitpid(pid, 0)[1]
    return os.WIFEXITED(status)


def test_an_old_file_comes_back_if_the_new_gets_no_name(
    ftp: FtpStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ftp.server.restart(keeps_names=True)
    ftp.write("far.dat", b"old")
    rename, asked = ftplib.FTP.rename, itertools.count()

    def refused(self: ftplib.FTP, old: str, new: str) -> str:
        if next(asked) == 2:
            raise ftplib.error_perm("550 Not now.")  # noqa: S321
        return rename(self, old, new)

    monkeypatch.setattr(ftplib.FTP, "rename", refused)
    with pytest.raises(StorageRefusedError, match=r"renaming: .*550 Not now"):
        take(ftp, DATA)
    assert ftp.read("far.dat") == b"old"
    assert {path.name for path in ftp.far.iterdir()} == {"far.dat", ".far.dat.wlm-part"}


def test_a_server_that_renames_nothing_keeps_the_old_file(ftp: FtpStore) -> None:
    ftp.server.restart(answers={"RNFR": "550 Permission denied."})
    ftp.write("far.dat", b"old")
    with pytest.raises(StorageRefusedError, match="renaming: the server refuses: 550 Permission"):
        take(ftp, DATA)
    assert ftp.read("far.dat") == b"old"


def test_a_command_of_two_lines_is_never_sent(ftp: FtpStore) -> None:
    ftp.write("far.dat", DATA)
    url = web_url(ftp.url("far.dat"), FtpStorage.schemes, "")
    client = FtpClient(url, Access("", {}, (), "ftp"))
    with closing(client), pytest.raises(StorageUnavailableError, match="makes no sense"):
        client.size("x\r\nDELE far.dat")
    assert ftp.read("far.dat") == DATA


def test_directories_are_made(ftp: FtpStore) -> None:
    assert take(ftp, DATA, url=ftp.url("a/b c/ü/far.dat")).complete
    assert ftp.read("a/b c/ü/far.dat") == DATA


def test_a_directory_is_no_file(ftp: FtpStore) -> None:
    (ftp.far / "far.dat").mkdir()
    with pytest.raises(StorageMissingError, match="No such file, or none that may be read"):
        bring(ftp)
    with pytest.raises(StorageRefusedError, match="renaming: the server refuses: 550"):
        take(ftp, DATA)


def test_a_file_by_its_absolute_path(ftp: FtpStore) -> None:
    ftp.write("far.dat", DATA)
    assert bring(ftp, f"{ftp.server.base}/%2Ffar.dat") == DATA


def test_nobody_listens(ftp: FtpStore) -> None:
    port = free_port()
    for host in (f"127.0.0.1:{port}", "no-such-host.invalid"):
        with pytest.raises(StorageUnavailableError, match="cannot be reached"):
            bring(ftp, f"ftp://{host}/x")
    release_port(port)


BAD = [
    *("ftp:", "ftp://", "ftp:///x", "ftp:x", "/x", "http://h/x", "ftp://h", "ftp://h/"),
    *("ftp://h/a/", "ftp://h/a/../b", "ftp://h/..", "ftp://h/%2e%2e/x", "ftp://h/./x"),
    *("ftp://h/a//b", "ftp://h//a", "ftp://h/a%2Fb", "ftp://h/%2F", "ftp://h/%2F%2Fa"),
    *("ftp://h/a%0Ab", "ftp://h/a%0D%0ADELE%20b", "ftp://h/a\nb", "ftp://h/a%00b", "ftp://h/%"),
    *("ftp://h/a%FFb", "ftp://h/a?b", "ftp://h/a#b", "ftp://h/a b", "ftp://u@h/x", "ftp://h:x/y"),
    *("ftp://u:hunter2@h/x", "ftp://h:0/x", "ftp://h:70000/x", "ftp://h/.x.wlm-part"),
    *("ftp://h/%2F../x", "ftp://h/..%2Fx", "ftp://h/.x.wlm-old"),
]


@pytest.mark.parametrize("url", BAD)
def test_bad_urls(url: str) -> None:
    backend = FtpStorage()
    with pytest.raises(InvalidPathError, match=r"got .*, expected ") as caught:
        backend.check(url)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidPathError), backend.source(url):
        pass
    with pytest.raises(InvalidPathError), backend.target(url, None):
        pass


@pytest.mark.parametrize(
    "url", ["ftp://h/x", "FTPS://h:2121/a/b", "ftp://[::1]/%2Fabs/x", "ftp://h/%3F"]
)
def test_good_urls(url: str) -> None:
    FtpStorage().check(url)


def test_unknown_settings() -> None:
    with pytest.raises(ConfigError, match=r"storages\.lab\.token: got '\*\*\*', expected no such"):
        FtpStorage(name="lab", options={"token": "hunter2"})
