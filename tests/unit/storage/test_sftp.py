"""Hosts that offer SFTP and no shell: which way is gone, what servers lack, and what is said."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from urllib.parse import quote

import asyncssh
import pytest
from unit.storage.places import Places
from unit.storage.stores import CONTROL, MiB, SftpStore, deliver, fetch, stop_after
from unit.storage.webstores import bring, take

from services import require
from services.fixtures import MakeSshd
from services.ports import free_port, release_port
from services.sshd import PrivateSshd
from wlm_tasks.errors import (
    StorageMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.hosts.connections import connections
from wlm_tasks.model.experiment import Transfer
from wlm_tasks.model.paths import lock_name, old_name, part_name
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.storage.scp import ScpStorage
from wlm_tasks.storage.trees import move_tree
from wlm_tasks.tasks.caching import Cached

DATA = os.urandom(2 * MiB + 5)


def store_of(directory: Path, server: PrivateSshd, **options: str | int) -> SftpStore:
    """Return a store by way of a server of the test's own."""
    (directory / "its").mkdir()
    store = SftpStore(directory / "its", server)
    store.backend = ScpStorage(name="lab", options=server.options | options)
    return store


def tells(store: SftpStore, scheme: str = "sftp") -> bool:
    """Whether its host computes digests, for which it takes a shell."""
    store.write("far.dat", DATA)
    with store.backend.source(store.url("far.dat").replace("sftp", scheme, 1)) as source:
        return source.digest(0) is not None


def test_a_shell_is_used_where_there_is_one(tmp_path: Path, make_sshd: MakeSshd) -> None:
    server = make_sshd()
    assert tells(store_of(tmp_path, server))
    assert server.logins() == 1


def test_a_shell_is_done_without_where_there_is_none(tmp_path: Path, make_sshd: MakeSshd) -> None:
    server = make_sshd(force="internal-sftp")
    store = store_of(tmp_path, server)
    assert not tells(store)
    assert take(store, DATA).moved == 0
    assert server.logins() == 1


def test_a_shell_is_done_without_where_that_is_wanted(tmp_path: Path, sshd: PrivateSshd) -> None:
    store = store_of(tmp_path, sshd, shell=False)
    assert not tells(store)
    assert tells(store, "scp")


def test_a_shell_is_missed_where_it_is_wanted(sftp: SftpStore) -> None:
    told = r"^\w+@127\.0\.0\.1:\d+: its login shell ran no bash .*; sftp:// does without a shell$"
    with pytest.raises(StorageUnavailableError, match=told):
        tells(sftp, "scp")
    sftp.backend = ScpStorage(name="lab", options={**sftp.server.options, "shell": True})
    with pytest.raises(StorageUnavailableError, match=told):
        tells(sftp)


def test_a_host_that_offers_neither(tmp_path: Path, make_sshd: MakeSshd) -> None:
    server = make_sshd(force="/bin/false")
    with pytest.raises(StorageUnavailableError, match=r"offers no SFTP") as caught:
        tells(store_of(tmp_path, server))
    assert "\n" not in str(caught.value)


def test_a_server_that_is_locked_in(tmp_path: Path, make_sshd: MakeSshd) -> None:
    require(os.geteuid() == 0, "only root can have a server lock itself in")
    with TemporaryDirectory(prefix="wlm-tests-", dir="/run") as name:
        root = Path(name)
        root.chmod(0o755)
        server = make_sshd(force="internal-sftp", chroot=root)
        storage = ScpStorage(name="lab", options=server.options)
        url = f"sftp://{server.host}:{server.port}/in/deep/x"
        (tmp_path / "x").write_bytes(DATA)
        assert deliver(storage, str(tmp_path), "x", url, CONTROL).moved == len(DATA)
        assert (root / "in/deep/x").read_bytes() == DATA
        assert fetch(storage, url, str(tmp_path), "y", CONTROL).complete
        (root / "in/link").symlink_to("/in/deep/x")
        (root / "in/out").symlink_to("/etc/passwd")
        entries = storage.tree(url.removesuffix("/deep/x"), "[dl]*").entries()
        assert [entry.path for entry in entries] == ["deep/x", "link"]


class Asyncssh:
    """A server of another make, that refuses to run commands; in the loop of the connections."""

    def __init__(self, options: dict[str, str | int], key: Path) -> None:
        self._options = options
        self._key = key

    async def start(self) -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            str(self._options["host"]),
            int(self._options["port"]),
            server_host_keys=[str(self._key)],
            authorized_client_keys=str(self._key.with_name("authorized_keys")),
            sftp_factory=True,
            allow_scp=False,
        )


@pytest.fixture
def other(tmp_path: Path, make_sshd: MakeSshd) -> Iterator[SftpStore]:
    server = make_sshd()
    server.stop()
    kept = connections()
    acceptor = kept.wait(Asyncssh(server.options, server.directory / "host_key").start())
    yield store_of(tmp_path, server)

    async def end() -> None:
        acceptor.close()
        await asyncio.wait_for(acceptor.wait_closed(), 5)

    kept.wait(end())


def test_a_server_of_another_make(other: SftpStore) -> None:
    assert not tells(other)
    new = DATA[1:]
    assert not take(other, new, control=stop_after(1)).complete
    assert take(other, new).moved == len(new) - MiB
    assert other.read("far.dat") == new
    assert bring(other) == new
    with pytest.raises(StorageUnavailableError, match="the host refuses that"):
        tells(other, "scp")


LESS = "posix-rename,statvfs,fsync,limits,hardlink,fstatvfs,lsetstat,copy-data"


@pytest.fixture
def less(tmp_path: Path, make_sshd: MakeSshd) -> SftpStore:
    """A server that has nothing of what OpenSSH adds to the protocol."""
    return store_of(tmp_path, make_sshd(force=f"internal-sftp -P {LESS}"))


def test_a_server_that_can_less(less: SftpStore) -> None:
    less.write("far.dat", b"old")
    assert not take(less, DATA, control=stop_after(1)).complete
    assert less.read("far.dat") == b"old"
    assert take(less, DATA).moved == len(DATA) - MiB
    assert less.read("far.dat") == DATA
    assert [path.name for path in less.far.iterdir()] == ["far.dat"]
    assert bring(less) == DATA


def test_an_old_file_that_stepped_aside_comes_back(less: SftpStore) -> None:
    less.write(old_name("far.dat"), b"old")
    assert not take(less, DATA, control=stop_after(1)).complete
    assert less.read("far.dat") == b"old"
    less.write(old_name("far.dat"), b"older")
    assert take(less, DATA).complete
    assert [path.name for path in less.far.iterdir()] == ["far.dat"]


def test_an_old_file_comes_back_if_the_new_gets_no_name(
    less: SftpStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    less.write("far.dat", b"old")
    rename = asyncssh.SFTPClient.rename

    async def refused(self: asyncssh.SFTPClient, old: bytes, new: bytes) -> None:
        if old.endswith(b".wlm-part"):
            raise asyncssh.SFTPFailure("Not now")
        await rename(self, old, new)

    monkeypatch.setattr(asyncssh.SFTPClient, "rename", refused)
    with pytest.raises(StorageUnavailableError, match=r"far\.dat: .*'Not now'"):
        take(less, DATA)
    assert less.read("far.dat") == b"old"
    assert {path.name for path in less.far.iterdir()} == {"far.dat", part_name("far.dat")}


def test_a_server_that_nobody_may_write_to(tmp_path: Path, make_sshd: MakeSshd) -> None:
    store = store_of(tmp_path, make_sshd(force="internal-sftp -R"))
    store.write("far.dat", DATA)
    assert bring(store) == DATA
    assert take(store, DATA).moved == 0
    with pytest.raises(StorageRefusedError, match=r"far\.dat: Permission denied"):
        take(store, b"other")
    with pytest.raises(StorageRefusedError, match=r"a/b/x: Permission denied"):
        take(store, DATA, url=store.url("a/b/x"))


def test_what_is_no_file(sftp: SftpStore) -> None:
    (sftp.far / "dir").mkdir()
    os.mkfifo(sftp.far / "fifo")
    for name, told in (("dir", "Is a directory"), ("fifo", "is no regular file")):
        url = sftp.url(name)
        with pytest.raises(StorageRefusedError, match=rf"{name}: {told}"):
            bring(sftp, url)
        with pytest.raises(StorageRefusedError, match=rf"{name}: {told}"):
            take(sftp, DATA, url=url)
    os.mkfifo(sftp.far / lock_name("x"))
    with pytest.raises(StorageRefusedError, match=r"x: its lock: is no regular file"):
        take(sftp, DATA, url=sftp.url("x"))
    with pytest.raises(StorageMissingError, match=r"none/x: No such file or directory"):
        bring(sftp, sftp.url("none/x"))
    sftp.write("file", b"")
    with pytest.raises(StorageRefusedError, match=r"far side/file: Not a directory"):
        take(sftp, DATA, url=sftp.url("file/x"))


def test_a_disk_that_is_too_small(sftp: SftpStore, small_disk: Path) -> None:
    url = f"sftp://{sftp.server.host}:{sftp.server.port}{small_disk}/x"
    with pytest.raises(StorageUnavailableError, match=r"x: No space left .* 2097157 needed"):
        take(sftp, DATA, url=url)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_under_way(sftp: SftpStore, small_disk: Path) -> None:
    data, other = DATA[: 128 * 1024], small_disk / "other"
    url = f"sftp://{sftp.server.host}:{sftp.server.port}{small_disk}/x"

    def fill(_done: int, _size: int) -> None:
        if not other.exists():
            with suppress(OSError):
                other.write_bytes(bytes(256 * 1024))

    control = TransferControl(bytes_per_s=256 * 1024, progress=fill)
    with pytest.raises(StorageUnavailableError, match=r"x: No space left on device"):
        take(sftp, data, url=url, control=control)
    assert not (small_disk / "x").exists()
    other.unlink()
    assert take(sftp, data, url=url).complete
    assert (small_disk / "x").read_bytes() == data


def test_the_wrong_host_key(sftp: SftpStore, tmp_path: Path, sshd: PrivateSshd) -> None:
    key = (sshd.directory / "host_key.pub").read_text()
    name = f"[{sftp.server.host}]:{sftp.server.port}"
    (tmp_path / "known").write_text(f"{name} {' '.join(key.split()[:2])}\n")
    options = {**sftp.server.options, "known_hosts": str(tmp_path / "known"), "shell": False}
    sftp.backend = ScpStorage(name="lab", options=options)
    with pytest.raises(StorageUnavailableError, match="its host key is not the one in"):
        bring(sftp)


def test_nobody_listens(sftp: SftpStore) -> None:
    port = free_port()
    sftp.backend = ScpStorage(name="lab", options={**sftp.server.options, "shell": False})
    with pytest.raises(StorageUnavailableError, match="connection refused"):
        bring(sftp, f"sftp://127.0.0.1:{port}/x")
    release_port(port)


def test_rights(sftp: SftpStore) -> None:
    (sftp.root / "x").write_bytes(DATA)
    (sftp.root / "x").chmod(0o751)
    deliver(sftp.backend, str(sftp.root), "x", sftp.url("far.dat"), CONTROL)
    assert sftp.path("far.dat").stat().st_mode & 0o777 == 0o751 & ~0o022
    with sftp.backend.source(sftp.url("far.dat")) as source:
        assert source.mode == 0o751


def test_links_give_way_and_are_never_written_through(sftp: SftpStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    for name in ("far.dat", part_name("far.dat")):
        sftp.path(name).symlink_to(precious)
    assert take(sftp, DATA).complete
    assert not sftp.path("far.dat").is_symlink()
    assert sftp.read("far.dat") == DATA
    assert precious.read_text() == "precious"
    sftp.path("link").symlink_to("far.dat")
    assert bring(sftp, sftp.url("link")) == DATA


@pytest.mark.parametrize(
    ("name", "text", "leads"),
    [
        ("x", "sub/../data", b"1"),
        ("x", "./way/data", b"2"),
        ("x", "way/../up", b"1"),
        ("x", "{root}/sub/data", b"2"),
        ("sub/x", ".././data", b"1"),
        ("sub/x", "../../source/data", None),
        ("x", "sub/../../source/data", None),
        ("x", "{root}", None),
        ("x", "{root}/../source/data", None),
        ("x", "data/", None),
        ("x", "sub", None),
        ("x", "x", None),
        ("x", "way/x", None),
        ("x", "nowhere/../data", None),
    ],
)
def test_links_of_a_directory(places: Places, name: str, text: str, leads: bytes | None) -> None:
    places.fill({"data": b"1", "sub/data": b"2"})
    (places.source / "up").symlink_to("data")
    (places.source / name).symlink_to(text.format(root=places.source))
    (places.source / "way").symlink_to("sub")
    tree = places.tree("sftp", "[!w]*")
    if leads is None:
        with pytest.raises(StorageRefusedError, match="x: is a symbolic link, expected one to"):
            tree.entries()
        return
    move_tree(tree, places.tree_target("local"), CONTROL)
    assert places.arrived() == {"data": b"1", "sub/data": b"2", "up": b"1", name: leads}


def test_a_lock_is_never_moved(places: Places) -> None:
    places.fill({"a": b"1", lock_name("a"): b"2"})
    assert [entry.path for entry in places.tree("sftp").entries()] == ["a"]


def test_nothing_is_left_of_a_url(sftp: SftpStore) -> None:
    url = sftp.url("a b/-x/ü\n;$(id)")
    assert quote("\n") in url
    assert take(sftp, DATA, url=url).complete
    assert (sftp.far / "a b/-x/ü\n;$(id)").read_bytes() == DATA
    assert [path.name for path in (sftp.far / "a b/-x").iterdir()] == ["ü\n;$(id)"]


def test_a_cache_lets_no_file_come_twice(sftp: SftpStore) -> None:
    """Only reading it would tell its digest."""
    sftp.write("far.dat", DATA)
    cached = Cached(cast("Any", None), cast("Any", None), "", cast("Any", None))
    with sftp.backend.source(sftp.url("far.dat")) as source:
        transfer = Transfer(sftp.url("far.dat"), "x")
        assert cached.bring(source, transfer, CONTROL, near=False) is None
