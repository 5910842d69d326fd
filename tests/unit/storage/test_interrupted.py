"""Transfers over SSH under faults: kills, cut connections, stalls, bad bytes, full disks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from unit.compute.sites import forked
from unit.storage.stores import (
    CONTROL,
    Get,
    MiB,
    Put,
    ScpStore,
    Way,
    deliver,
    fetch,
    sha256,
    stop_after,
)

from services.fixtures import MakeSshd
from services.sshd import PrivateSshd
from wlm_tasks.errors import StorageUnavailableError
from wlm_tasks.hosts import streams
from wlm_tasks.model.paths import part_name
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.scp import ScpStorage
from wlm_tasks.storage.transfer import move

KILLS = 20


@pytest.fixture(params=[Get, Put], ids=["get", "put"])
def way(request: pytest.FixtureRequest, scp: ScpStore) -> Way:
    made = request.param(scp)
    assert isinstance(made, Way)
    return made


@dataclass
class Note:
    """What a transfer tells, in a file that outlives its process."""

    path: Path
    points: list[int] = field(default_factory=list)

    def progress(self, done: int, _size: int) -> None:
        self.points.append(done)
        with self.path.open("a") as file:
            file.write(f"{done}\n")

    def last(self) -> int:
        return int(self.path.read_text().split()[-1]) if self.path.exists() else 0


@pytest.mark.timeout(300)
def test_kills_at_any_point(way: Way, tmp_path: Path) -> None:
    """Bytes that were on their way when a worker was killed are moved again, and few are."""
    chance = random.Random(20)
    size = 256 * MiB
    data = chance.randbytes(MiB) * 255 + chance.randbytes(MiB)
    way.source(data)
    lost = 0
    for number, point in enumerate(sorted(chance.randrange(size) for _ in range(KILLS))):
        note = Note(tmp_path / f"note {number}")

        def go(point: int = point, note: Note = note) -> None:
            def progress(done: int, total: int) -> None:
                note.progress(done, total)
                if done >= point:
                    time.sleep(chance.random() / 100)
                    os.kill(os.getpid(), signal.SIGKILL)

            way.go(TransferControl(progress=progress))

        with forked(go) as pid:
            _pid, status = os.waitpid(pid, 0)
            assert os.WIFSIGNALED(status)
        assert way.target() is None
        lost += note.last() - len(way.part() or b"")
    result = way.go()
    assert result.complete
    assert way.target() == data
    assert way.part() is None
    assert lost + result.moved < size * 1.1
    assert lost < size * 0.1


def at(point: int, act: Callable[[], object]) -> TransferControl:
    """Return a control that does something once, when so many bytes are done."""
    left = [act]

    def progress(done: int, _size: int) -> None:
        if done >= point and left:
            left.pop()()

    return TransferControl(progress=progress)


def test_a_cut_connection(way: Way, sshd: PrivateSshd) -> None:
    data = os.urandom(32 * MiB)
    way.source(data)
    with pytest.raises(StorageUnavailableError, match="connection lost"):
        way.go(at(8 * MiB, sshd.cut))
    assert way.target() is None
    result = until_done(way)
    assert way.target() == data
    assert result.moved < len(data) - 4 * MiB


def until_done(way: Way) -> TransferResult:
    """Go on as a step would: what the host has not noticed yet may hold the part for a moment."""
    for _ in range(20):
        try:
            return way.go()
        except StorageUnavailableError as error:
            if "another transfer" not in error.message:
                raise
        time.sleep(0.2)
    raise AssertionError("the part stays locked")


def test_a_host_that_stalls(way: Way, sshd: PrivateSshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STALL_S", 1.0)
    data = os.urandom(64 * MiB)
    way.source(data)

    def send(sent: signal.Signals) -> None:
        for pid in sshd.connections():
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                process.send_signal(sent)

    begun = time.monotonic()
    with pytest.raises(StorageUnavailableError, match=r"took no byte|no answer in time"):
        way.go(at(4 * MiB, lambda: send(signal.SIGSTOP)))
    assert time.monotonic() - begun < 20
    assert way.target() is None
    send(signal.SIGCONT)
    result = until_done(way)
    assert way.target() == data
    assert result.moved <= len(data) - 2 * MiB


def test_a_byte_that_turns_over_on_the_target(scp: ScpStore) -> None:
    data = os.urandom(4 * MiB)
    way = Put(scp)
    way.source(data)

    def damage() -> None:
        part = scp.path(part_name("far.dat"))
        while part.stat().st_size < MiB:
            time.sleep(0.01)
        with part.open("r+b") as file:
            file.seek(1000)
            file.write(bytes([data[1000] ^ 1]))

    with pytest.raises(StorageUnavailableError, match=f"arrived with .*, expected {sha256(data)}"):
        way.go(at(len(data), damage))
    assert way.target() is None
    assert way.part() is None
    assert way.go().complete
    assert way.target() == data


def test_a_disk_that_is_too_small(sshd: PrivateSshd, scp: ScpStore, small_disk: Path) -> None:
    (scp.root / "x").write_bytes(os.urandom(MiB))
    url = f"scp://{sshd.host}:{sshd.port}{small_disk}/x"
    with pytest.raises(StorageUnavailableError, match=r"x: No space left .* 1048576 needed"):
        deliver(scp.backend, str(scp.root), "x", url, CONTROL)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_under_way(sshd: PrivateSshd, scp: ScpStore, small_disk: Path) -> None:
    (scp.root / "x").write_bytes(os.urandom(128 * 1024))
    other = small_disk / "other"
    url = f"scp://{sshd.host}:{sshd.port}{small_disk}/x"
    control = TransferControl(bytes_per_s=64 * 1024, progress=lambda _done, _size: fill(other))
    with pytest.raises(StorageUnavailableError, match="No space left on device"):
        deliver(scp.backend, str(scp.root), "x", url, control)
    assert not (small_disk / "x").exists()
    other.unlink()
    assert deliver(scp.backend, str(scp.root), "x", url, CONTROL).complete
    assert (small_disk / "x").read_bytes() == (scp.root / "x").read_bytes()


def fill(path: Path) -> None:
    """Write to a file until there is no room."""
    try:
        with path.open("ab") as file:
            file.write(bytes(512 * 1024))
    except OSError:
        pass


@pytest.fixture
def holder(scp: ScpStore) -> Iterator[subprocess.Popen[bytes]]:
    """A writer of the part file whose connection nobody has missed yet."""
    part = scp.path(part_name("far.dat"))
    script = 'exec 9>> "$1"; flock 9; echo locked; exec sleep 100'
    with subprocess.Popen(["bash", "-c", script, "x", part], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield process
        process.kill()


def test_a_writer_that_is_at_it_is_left_alone(
    scp: ScpStore, holder: subprocess.Popen[bytes]
) -> None:
    way = Put(scp)
    way.source(b"data")
    with pytest.raises(StorageUnavailableError, match="is being written by another transfer"):
        way.go()
    assert holder.poll() is None


def test_a_writer_that_nobody_has_missed_is_ended(
    scp: ScpStore, holder: subprocess.Popen[bytes]
) -> None:
    way = Put(scp)
    way.source(b"data")
    long_ago = time.time() - 4000
    os.utime(scp.path(part_name("far.dat")), (long_ago, long_ago))
    assert way.go().complete
    assert holder.wait(5) == -signal.SIGKILL
    assert way.target() == b"data"


def test_from_host_to_host(
    scp: ScpStore, make_sshd: MakeSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file of this one: the second half moves after a stop."""
    monkeypatch.chdir(tmp_path)
    other = make_sshd()
    data = os.urandom(5 * MiB + 1)
    scp.write("here", data)
    there = ScpStorage(name="there", options=other.options)
    target_url = f"sftp://{other.host}:{other.port}{tmp_path}/there"
    moved = []
    for stops in (3, 1000):
        with (
            scp.backend.source(scp.url("here")) as source,
            there.target(target_url, 0o640) as target,
        ):
            result = move(source, target, stop_after(stops))
            moved.append(result.moved)
    assert result.complete
    assert result.sha256 == sha256(data)
    assert moved == [3 * MiB, 2 * MiB + 1]
    assert (tmp_path / "there").read_bytes() == data
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o640


def test_many_transfers_at_once(scp: ScpStore) -> None:
    """More than there are channels of a connection."""
    threads = []
    for number in range(20):
        (scp.root / f"f{number}").write_bytes(os.urandom(MiB))
        scp.write(f"g{number}", os.urandom(MiB))

    failed: list[Exception] = []

    def both(number: int) -> None:
        try:
            deliver(scp.backend, str(scp.root), f"f{number}", scp.url(f"f{number}"), CONTROL)
            with scp.backend.source(scp.url(f"g{number}")) as source:
                assert source.read_at(0, MiB)
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    for number in range(20):
        threads.append(threading.Thread(target=both, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join(60)
    assert not failed
    for number in range(20):
        assert scp.read(f"f{number}") == (scp.root / f"f{number}").read_bytes()


def test_a_part_that_is_another_file_too(scp: ScpStore) -> None:
    precious = scp.path("precious")
    precious.write_bytes(b"precious")
    scp.path(part_name("far.dat")).hardlink_to(precious)
    way = Put(scp)
    way.source(b"data")
    assert way.go().complete
    assert way.target() == b"data"
    assert precious.read_bytes() == b"precious"


def test_a_part_that_is_replaced_before_it_gets_its_name(scp: ScpStore) -> None:
    way = Put(scp)
    way.source(os.urandom(2 * MiB))

    def replace_it() -> None:
        part = scp.path(part_name("far.dat"))
        other = scp.path("other")
        other.write_bytes(b"half")
        other.replace(part)

    with pytest.raises(StorageUnavailableError, match="another transfer"):
        way.go(at(2 * MiB, replace_it))
    assert way.target() is None


def test_more_gets_than_channels(scp: ScpStore, tmp_path: Path) -> None:
    """Each needs several: one for its bytes, others to ask for a digest and whether it changed."""
    for number in range(12):
        scp.write(f"f{number}", os.urandom(5 * MiB))
    control = TransferControl(bytes_per_s=20.0 * MiB)
    failed: list[Exception] = []

    def get(number: int) -> None:
        try:
            fetch(scp.backend, scp.url(f"f{number}"), str(scp.root), f"f{number}", control)
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=get, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed
    for number in range(12):
        assert (scp.root / f"f{number}").read_bytes() == scp.read(f"f{number}")


def test_slices_shorter_than_the_digest_of_what_has_arrived(scp: ScpStore) -> None:
    """What a slice has had compared, the next one of the same process need not."""
    asked = 0
    way = Put(scp)
    data = os.urandom(8 * MiB)
    way.source(data)
    for _ in range(20):
        result = way.go(stop_after(2))
        asked += 1
        if result.complete:
            break
    assert result.complete
    assert asked <= 8
    assert way.target() == data
