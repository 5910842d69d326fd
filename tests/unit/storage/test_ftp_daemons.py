"""The FTP storage against ProFTPD and vsftpd with TLS: interruptions, disks, names."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.storage.stores import Get, MiB, Put, Way, killed_at, sha256, stop_after
from unit.storage.webstores import FtpStore, bring, take

from services import require_service
from services.certificates import certificate
from services.ftpdaemons import PrivateProftpd, PrivateVsftpd
from services.processes import wait_for
from wlm_tasks.errors import StorageRefusedError, StorageUnavailableError
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.storage.ftp import FtpStorage

DATA = os.urandom(3 * MiB + 5)
KILLS = 2


@pytest.fixture(params=[PrivateProftpd, PrivateVsftpd], ids=["proftpd", "vsftpd"])
def daemon(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FtpStore]:
    kind = request.param
    require_service(kind.__name__, kind.program() is not None)
    monkeypatch.setenv("LAB", f"{PrivateProftpd.user}:{PrivateProftpd.password}")
    options = {"credentials": "env:LAB"} if kind is PrivateProftpd else {}
    cert_file = certificate(tmp_path / "certificates")
    options["ca_file"] = str(cert_file)
    (tmp_path / "ftp").mkdir()
    with kind(tmp_path / "ftp", tmp_path / "ftp server", cert_file=cert_file) as server:
        yield FtpStore(tmp_path, server, options)


@pytest.fixture(params=[Get, Put], ids=["get", "put"])
def way(request: pytest.FixtureRequest, daemon: FtpStore) -> Way:
    made = request.param(daemon)
    assert isinstance(made, Way)
    return made


def test_there_and_back_in_slices(way: Way) -> None:
    way.source(DATA)
    assert way.go(stop_after(1)).moved == MiB
    assert way.part() == DATA[:MiB]
    last = way.go(TransferControl(sha256=sha256(DATA)))
    assert (last.complete, last.moved) == (True, len(DATA) - MiB)
    assert way.target() == DATA
    assert way.go().moved == 0


def test_something_else_is_replaced(daemon: FtpStore) -> None:
    daemon.write("far.dat", b"old")
    assert take(daemon, DATA).complete
    assert take(daemon, b"").complete
    assert daemon.read("far.dat") == b""
    assert [path.name for path in daemon.far.iterdir()] == ["far.dat"]


def test_kills_at_any_point(way: Way) -> None:
    """What has arrived when a worker is killed is not moved again."""
    chance = random.Random(21)
    data = chance.randbytes(MiB) * 15
    way.source(data)
    for point in sorted(chance.randrange(len(data)) for _ in range(KILLS)):
        killed_at(way, point)
    # the server may write what was on its way for a moment yet
    kept = wait_for(lambda: len(way.part() or b""), what="a part")
    assert kept >= MiB
    assert way.go().complete
    assert way.target() == data
    assert way.part() is None


def test_a_server_that_goes_away(way: Way) -> None:
    server = way.store.server  # type: ignore[attr-defined]  # an `FtpStore`
    data = os.urandom(16 * MiB)
    way.source(data)

    def progress(done: int, _size: int) -> None:
        if done == 4 * MiB:
            wait_for(lambda: len(way.part() or b"") >= MiB, what="a part")
            server.process.stop()

    with pytest.raises(StorageUnavailableError, match=r"far\.dat: "):
        way.go(TransferControl(progress=progress))
    assert way.target() is None
    server.start()
    kept = len(way.part() or b"")
    assert kept >= MiB
    assert way.go().moved == len(data) - kept
    assert way.target() == data


def test_a_disk_that_is_too_small(daemon: FtpStore, small_disk: Path) -> None:
    (daemon.far / "small").symlink_to(small_disk)
    with pytest.raises(StorageUnavailableError, match=r"far\.dat: "):
        take(daemon, DATA, url=daemon.url("small/far.dat").replace("%2F", "/"))
    assert not (small_disk / "far.dat").exists()


def test_directories_are_made(daemon: FtpStore) -> None:
    url = daemon.url("a/b c/ü/far.dat").replace("%2F", "/")
    assert take(daemon, DATA, url=url).complete
    assert daemon.read("a/b c/ü/far.dat") == DATA


def test_what_the_server_refuses(daemon: FtpStore) -> None:
    (daemon.far / "far.dat").mkdir()
    with pytest.raises(StorageRefusedError, match=r"far\.dat: No such file, or none that may be"):
        bring(daemon)
    with pytest.raises(StorageRefusedError, match="renaming: the server refuses: 550"):
        take(daemon, DATA)


@pytest.mark.parametrize("daemon", [PrivateProftpd], indirect=True)
def test_a_wrong_password(daemon: FtpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB", "me:swordfish")
    with pytest.raises(
        StorageRefusedError, match=r"permission denied .*storages\.lab\.credentials leads to"
    ):
        bring(daemon)


@pytest.mark.parametrize("daemon", [PrivateVsftpd], indirect=True)
def test_a_server_that_wants_tls(daemon: FtpStore) -> None:
    daemon.backend = FtpStorage()
    with pytest.raises(StorageRefusedError, match=r"permission denied \(5"):
        bring(daemon, daemon.url("far.dat").replace("ftps://", "ftp://"))
