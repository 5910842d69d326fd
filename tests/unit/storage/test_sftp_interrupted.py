"""Transfers by SFTP alone under faults: kills, cut connections, stalls, bad bytes, two writers."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncssh
import psutil
import pytest
from unit.compute.sites import forked
from unit.storage.stores import (
    Get,
    MiB,
    Put,
    SftpStore,
    Way,
    killed_at,
    sha256,
    stop_after,
)
from unit.storage.webstores import take

from services.fixtures import MakeSshd
from services.processes import children, wait_for
from services.sshd import PrivateSshd
from wlm_tasks.errors import StorageBusyError, StorageUnavailableError
from wlm_tasks.hosts import sftp as sessions
from wlm_tasks.model.paths import lock_name, part_name
from wlm_tasks.storage import sftplocks
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.storage.scp import ScpStorage

DATA = os.urandom(2 * MiB + 5)


@pytest.fixture(params=[Get, Put], ids=["get", "put"])
def way(request: pytest.FixtureRequest, sftp: SftpStore) -> Way:
    made = request.param(sftp)
    assert isinstance(made, Way)
    return made


def at(point: int, act: Callable[[], object]) -> TransferControl:
    """Return a control that does something once, when so many bytes are done."""
    left = [act]

    def progress(done: int, _size: int) -> None:
        if done >= point and left:
            left.pop()()

    return TransferControl(progress=progress)


def test_kills_at_any_point(sftp: SftpStore) -> None:
    """The lock that a killed process of this host leaves is in nobody's way."""
    chance = random.Random(20)
    data = chance.randbytes(32 * MiB)
    way = Put(sftp)
    way.source(data)
    for point in sorted(chance.randrange(len(data)) for _ in range(5)):
        killed_at(way, point, pause_s=chance.random() / 100)
        assert sftp.path(lock_name("far.dat")).exists()
        # what was on its way, and what the server has not written yet
        assert len(way.part() or b"") > point - 6 * MiB
    kept = len(way.part() or b"")
    result = way.go()
    assert result.complete
    assert result.moved == len(data) - kept
    assert way.target() == data
    assert [path.name for path in sftp.far.iterdir()] == ["far.dat"]


def test_a_kill_while_it_is_read_back(sftp: SftpStore) -> None:
    way = Put(sftp)
    way.source(DATA)

    def go() -> None:
        read = asyncssh.SFTPClientFile.read

        async def killing(self: asyncssh.SFTPClientFile, size: int, offset: int) -> object:
            if offset >= MiB:
                os.kill(os.getpid(), signal.SIGKILL)
            return await read(self, size, offset)

        asyncssh.SFTPClientFile.read = killing  # type: ignore[method-assign,assignment]
        way.go()

    with forked(go) as pid:
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    assert way.target() is None
    assert way.part() == DATA
    assert way.go().moved == 0
    assert way.target() == DATA


def test_a_cut_connection(way: Way, sftp_only: PrivateSshd) -> None:
    data = os.urandom(16 * MiB)
    way.source(data)
    with pytest.raises(StorageUnavailableError, match=r"connection lost|session is over"):
        way.go(at(8 * MiB, sftp_only.cut))
    assert way.target() is None
    result = way.go()
    assert way.target() == data
    assert result.moved < len(data) - 2 * MiB


def test_a_connection_that_was_cut_between_two_transfers(way: Way, sftp_only: PrivateSshd) -> None:
    way.source(DATA)
    way.go(stop_after(1))
    sftp_only.cut()
    wait_for(lambda: not sftp_only.connections(), what="that it is cut")
    time.sleep(0.1)
    assert way.go().moved == len(DATA) - MiB


def test_a_host_that_stalls(
    way: Way, sftp_only: PrivateSshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(16 * MiB)
    way.source(data)

    def send(sent: signal.Signals) -> None:
        for pid in sftp_only.connections():
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                process.send_signal(sent)

    with monkeypatch.context() as patched:
        patched.setattr(sessions, "STALL_S", 0.5)
        with pytest.raises(StorageUnavailableError, match=r"no answer to a request of SFTP"):
            way.go(at(4 * MiB, lambda: send(signal.SIGSTOP)))
    assert way.target() is None
    send(signal.SIGCONT)
    assert way.go().complete
    assert way.target() == data


def test_a_byte_that_turns_over_on_the_target(sftp: SftpStore) -> None:
    way = Put(sftp)
    way.source(DATA)

    def damage() -> None:
        part = sftp.path(part_name("far.dat"))
        wait_for(lambda: part.stat().st_size >= MiB, 20.0, "the byte", 0.01)
        with part.open("r+b") as file:
            file.seek(1000)
            file.write(bytes([DATA[1000] ^ 1]))

    with pytest.raises(StorageUnavailableError, match=f"arrived with .*, expected {sha256(DATA)}"):
        way.go(at(len(DATA), damage))
    assert way.target() is None
    assert way.part() is None
    assert way.go().complete
    assert way.target() == DATA


def test_what_another_process_has_written_is_read_once(
    sftp: SftpStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To find it equal is to read it back; what is written then is read back by itself."""
    way = Put(sftp)
    way.source(DATA)
    sftp.write_part("far.dat", DATA[:MiB])
    read = asyncssh.SFTPClientFile.read
    asked: list[tuple[int, int]] = []

    async def noted(self: asyncssh.SFTPClientFile, size: int, offset: int) -> object:
        asked.append((offset, size))
        return await read(self, size, offset)

    monkeypatch.setattr(asyncssh.SFTPClientFile, "read", noted)
    assert way.go().moved == len(DATA) - MiB
    assert asked == [(0, MiB), (MiB, MiB), (2 * MiB, 5)]


def test_a_part_that_is_replaced_before_it_gets_its_name(sftp: SftpStore) -> None:
    way = Put(sftp)
    way.source(DATA)

    def replace_it() -> None:
        other = sftp.path("other")
        other.write_bytes(b"half")
        other.replace(sftp.path(part_name("far.dat")))

    with pytest.raises(StorageUnavailableError):
        way.go(at(len(DATA), replace_it))
    assert way.target() is None


def test_kills_while_a_file_is_replaced(tmp_path: Path, make_sshd: MakeSshd) -> None:
    """Without posix-rename one of both files is there at each moment, and a new try ends it."""
    server = make_sshd(force="internal-sftp -P posix-rename")
    store = SftpStore(tmp_path, server)
    point = 0
    while not _killed(store, point):
        left = {path.name: path.read_bytes() for path in store.far.iterdir()}
        assert left.get("far.dat", left.get(".far.dat.wlm-old")) in {b"old", DATA}, point
        assert take(store, DATA).complete
        store.path(lock_name("far.dat")).unlink(missing_ok=True)  # if only that was left to do
        assert [path.name for path in store.far.iterdir()] == ["far.dat"], point
        assert store.read("far.dat") == DATA
        point += 1
    assert point > 4


def _killed(store: SftpStore, point: int) -> bool:
    """Kill a process before that change of a name; True if it makes fewer."""
    store.write("far.dat", b"old")

    def go() -> None:
        count = itertools.count()

        def counted(name: str) -> None:
            real = getattr(asyncssh.SFTPClient, name)

            async def wrapped(self: asyncssh.SFTPClient, *args: bytes) -> None:
                if next(count) == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                await real(self, *args)

            setattr(asyncssh.SFTPClient, name, wrapped)

        counted("rename")
        counted("remove")
        take(store, DATA)

    with forked(go) as pid:
        status = os.waitpid(pid, 0)[1]
    return os.WIFEXITED(status)


@pytest.fixture
def writer(sftp: SftpStore) -> Iterator[int]:
    """Another process that has the lock and has stopped in the middle."""
    (sftp.root / "x").write_bytes(DATA)
    ready, other = os.pipe()

    def stop(_done: int, _size: int) -> None:
        os.write(other, b".")
        signal.pause()

    with forked(lambda: take(sftp, DATA, control=TransferControl(progress=stop))) as pid:
        os.read(ready, 1)
        yield pid
    os.close(ready)
    os.close(other)


def test_two_processes_never_write_the_same(sftp: SftpStore, writer: int) -> None:
    with pytest.raises(StorageBusyError, match=r"far\.dat: is being written by another transfer"):
        take(sftp, DATA)
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    assert take(sftp, DATA).complete


def test_a_lock_that_nobody_renews_is_taken(sftp: SftpStore) -> None:
    lock = sftp.path(lock_name("far.dat"))
    for age_s, free in ((sftplocks.LEASE_S - 20, False), (sftplocks.LEASE_S + 2, True)):
        lock.write_bytes(b"elsewhere 1 1 1")
        os.utime(lock, (time.time() - age_s,) * 2)
        if free:
            assert take(sftp, DATA).complete
        else:
            with pytest.raises(StorageBusyError):
                take(sftp, DATA)
    assert [path.name for path in sftp.far.iterdir()] == ["far.dat"]


def test_a_lock_that_is_held_is_renewed(sftp: SftpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftplocks, "RENEW_S", 0.02)
    lock = sftp.path(lock_name("far.dat"))

    def renewed() -> None:
        os.utime(lock, (0, 0))
        wait_for(lambda: lock.stat().st_mtime > 0, what="that the lock is renewed")

    assert take(sftp, DATA, control=at(MiB, renewed)).complete
    assert not lock.exists()


@pytest.mark.parametrize("taken", [True, False])
def test_a_lock_that_could_not_be_renewed(
    sftp: SftpStore, monkeypatch: pytest.MonkeyPatch, *, taken: bool
) -> None:
    """Its holder goes on if nobody has it."""
    lock = sftp.path(lock_name("far.dat"))

    def doubt() -> None:
        monkeypatch.setattr(sftplocks, "DOUBT_S", -1.0)
        if taken:
            lock.write_bytes(b"elsewhere 1 1 1")

    if not taken:
        assert take(sftp, DATA, control=at(MiB, doubt)).complete
        assert not lock.exists()
        return
    with pytest.raises(StorageBusyError):
        take(sftp, DATA, control=at(MiB, doubt))
    assert sftp.read("far.dat") is None
    assert lock.read_bytes() == b"elsewhere 1 1 1"


def test_a_lock_that_another_has_just_taken_over(
    sftp: SftpStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = sftp.path(lock_name("far.dat"))
    lock.write_bytes(b"elsewhere 1 1 1")
    os.utime(lock, (0, 0))
    rename = asyncssh.SFTPClient.rename

    async def late(self: asyncssh.SFTPClient, old: bytes, new: bytes) -> None:
        if old.endswith(os.fsencode(lock.name)):
            lock.write_bytes(b"elsewhere 2 2 2")
        await rename(self, old, new)

    monkeypatch.setattr(asyncssh.SFTPClient, "rename", late)
    with pytest.raises(StorageBusyError):
        take(sftp, DATA)
    assert [path.name for path in sftp.far.iterdir()] == [lock.name]
    assert lock.read_bytes() == b"elsewhere 2 2 2"


def test_many_transfers_share_one_session(tmp_path: Path, make_sshd: MakeSshd) -> None:
    server = make_sshd(force="internal-sftp", max_sessions=2)
    store = SftpStore(tmp_path, server)
    store.backend = ScpStorage(name="lab", options=server.options)
    failed: list[Exception] = []

    def move(number: int) -> None:
        name = f"f{number}"
        try:
            (store.root / name).write_bytes(DATA + name.encode())
            with (
                store.backend.target(store.url(name), None) as target,
                target.part(3) as part,
            ):
                part.write_at(0, name.encode())
                part.commit(lambda _name: "")
            with store.backend.source(store.url(name)) as source:
                assert source.read_at(0, MiB) == name.encode()
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=move, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert server.logins() == 1
    assert store.read("f7") == b"f7"


def test_a_session_ends_when_nobody_uses_it(
    tmp_path: Path, make_sshd: MakeSshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "_LINGER_S", 0.05)
    server = make_sshd(force="internal-sftp")
    store = SftpStore(tmp_path, server)
    store.write("far.dat", DATA)
    for number in (1, 2):
        with store.backend.source(store.url("far.dat")):
            assert _sftp_servers(server)
        wait_for(lambda: not _sftp_servers(server), what="the end of the session")
        assert server.logins() == 1, number


def _sftp_servers(server: PrivateSshd) -> list[int]:
    return [pid for connection in server.connections() for pid in children(connection)]
