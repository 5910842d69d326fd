"""What only files can get wrong: special files, rights, other transfers' part files."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.storage.stores import (
    CONTROL,
    FileStore,
    MiB,
    deliver,
    fetch,
    get,
    put,
    sha256,
    stop_after,
    wait_for_tick,
)

from services import require
from wlm_tasks.errors import InvalidPathError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.model.paths import part_name
from wlm_tasks.storage import transfer
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.storage.file import FileStorage, file_path


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///a/b", "/a/b"),
        ("file:/a/b", "/a/b"),
        ("FILE://LOCALHOST/a", "/a"),
        ("file:///a%20b%25%2e/%3F%23", "/a b%./?#"),
        ("file:///%C3%A9/%FF", "/é/\udcff"),
        ("file:///a%0Ab", "/a\nb"),
        ("file:///a b\n", "/a b\n"),
    ],
)
def test_urls(url: str, path: str) -> None:
    assert file_path(url) == path


@pytest.mark.parametrize(
    "url",
    [
        *("", "file:", "file:a", "file://", "file:///", "file://host/a", "file://me@localhost/a"),
        *("http:///a", "/a", "file:///a/", "file:///a%00b", "file:///a\0", "file:///a?b"),
        *("file:///a#b", "file://a", "file://localhost", "file://localhost:80/a"),
    ],
)
def test_urls_that_are_none(url: str, tmp_path: Path) -> None:
    storage = FileStorage()
    (tmp_path / "x").touch()
    with pytest.raises(InvalidPathError, match=r"URL: got .* expected"):
        storage.size(url)
    with pytest.raises(InvalidPathError, match=r"URL: got .* expected"):
        fetch(storage, url, str(tmp_path), "x", CONTROL)
    with pytest.raises(InvalidPathError, match=r"URL: got .* expected"):
        deliver(storage, str(tmp_path), "x", url, CONTROL)
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
    assert not (tmp_path / "x").read_bytes()


def test_a_hard_link_as_part_file_is_replaced(files: FileStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (files.root / part_name("x")).hardlink_to(precious)
    files.write("far.dat", b"data")
    get(files)
    assert precious.read_text() == "precious"
    assert (files.root / "x").read_text() == "data"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a directory": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a socket": make_socket,
    "a device": lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
}


@pytest.mark.parametrize(("what", "make"), SPECIAL.items(), ids=SPECIAL)
def test_special_files(
    files: FileStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    make: Callable[[Path], None],
) -> None:
    require(what != "a device" or os.getuid() == 0, "only root can make a device")
    monkeypatch.chdir(tmp_path)
    make(Path("root/x"))
    make(Path("far side/far.dat"))
    with pytest.raises(StorageRefusedError, match=f"x: is {what}, expected a regular file"):
        put(files)
    with pytest.raises(StorageRefusedError, match=f"far.dat: is {what}, expected a regular"):
        get(files, "new")
    with pytest.raises(StorageRefusedError, match=f"far.dat: is {what}"):
        files.backend.size(files.url("far.dat"))
    files.write("good", b"data")
    with pytest.raises(StorageRefusedError, match=f"x: is {what}"):
        fetch(files.backend, files.url("good"), str(files.root), "x", CONTROL)


def test_directories_of_both_targets_are_made(files: FileStore) -> None:
    (files.root / "x").write_text("data")
    deliver(files.backend, str(files.root), "x", files.url("new/deep/y"), CONTROL)
    assert files.read("new/deep/y") == b"data"
    fetch(files.backend, files.url("new/deep/y"), str(files.root), "a/b/c", CONTROL)
    assert (files.root / "a" / "b" / "c").read_text() == "data"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o4755, 0o400])
def test_modes(files: FileStore, mode: int) -> None:
    files.write("far.dat", b"data")
    files.path("far.dat").chmod(mode)
    before = os.umask(0o027)
    try:
        get(files)
    finally:
        os.umask(before)
    assert stat.S_IMODE((files.root / "x").stat().st_mode) == (mode & 0o777 & ~0o027) | 0o600


def test_the_mode_of_a_part_that_was_left(files: FileStore) -> None:
    files.write("far.dat", b"data")
    files.path("far.dat").chmod(0o755)
    part = files.root / part_name("x")
    part.write_bytes(b"da")
    part.chmod(0o600)
    get(files)
    assert (files.root / "x").stat().st_mode & 0o700 == 0o700


def test_a_file_in_the_way_of_a_directory(files: FileStore) -> None:
    (files.root / "x").write_text("data")
    files.write("far.dat", b"data")
    with pytest.raises(StorageRefusedError, match="x/y: Not a directory"):
        get(files, "x/y")
    with pytest.raises(StorageRefusedError, match=r"far\.dat(/x)?: (Not a dir|File exists)"):
        deliver(files.backend, str(files.root), "x", files.url("far.dat/x"), CONTROL)


def test_a_root_that_is_gone(files: FileStore) -> None:
    files.root.rmdir()
    files.write("far.dat", b"data")
    with pytest.raises(StorageRefusedError, match="No such file or directory"):
        get(files)
    with pytest.raises(StorageRefusedError, match="No such file or directory"):
        put(files)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StorageUnavailableError),
        (errno.EDQUOT, StorageUnavailableError),
        (errno.EIO, StorageUnavailableError),
        (errno.ESTALE, StorageUnavailableError),
        (errno.EROFS, StorageRefusedError),
        (errno.EFBIG, StorageRefusedError),
    ],
)
@pytest.mark.parametrize("call", ["pwrite", "fsync", "replace"])
def test_faults_of_the_file_system(
    files: FileStore,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    kind: type[Exception],
    call: str,
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    files.write("far.dat", b"data")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(kind, match=f"root/x: {os.strerror(number)}") as caught:
            get(files)
    assert isinstance(caught.value.__cause__, OSError)
    assert not (files.root / "x").exists()
    get(files)


def test_short_writes(files: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:1000], offset))
    data = os.urandom(MiB)
    files.write("far.dat", data)
    get(files)
    assert (files.root / "x").read_bytes() == data


def test_the_bytes_are_durable_before_the_name(
    files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(fd: int) -> None:
        calls.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def note_replace(src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append("rename")
        replace(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    files.write("far.dat", b"data")
    get(files)
    assert calls == ["file", "rename", "directory"]


def test_many_at_once_to_one_target(files: FileStore) -> None:
    """One wins, the others say so; what arrives is whole."""
    data = os.urandom(4 * MiB)
    files.write("far.dat", data)
    outcomes: list[str] = []
    start = threading.Barrier(6)

    def fetch() -> None:
        start.wait()
        try:
            get(files)
            outcomes.append("done")
        except StorageUnavailableError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 6
    assert "done" in outcomes
    assert all(o == "done" or "being written by" in o for o in outcomes)
    assert sha256((files.root / "x").read_bytes()) == sha256(data)
    assert list(files.root.iterdir()) == [files.root / "x"]


def test_a_part_file_finished_by_another_before_it_is_locked(
    files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file locked then is the other one's result and must not be written to."""
    files.write("far.dat", b"data")
    part = files.root / part_name("x")
    flock = fcntl.flock
    locked: list[int] = []

    def lose_the_race(fd: int, operation: int) -> None:
        if not locked:
            part.write_bytes(b"other data")
            part.rename(files.root / "x")
            part.touch()
        locked.append(os.fstat(fd).st_ino)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", lose_the_race)
    with pytest.raises(StorageUnavailableError, match="by another transfer"):
        get(files)
    assert (files.root / "x").read_bytes() == b"other data"
    get(files)
    assert (files.root / "x").read_bytes() == b"data"
    assert list(files.root.iterdir()) == [files.root / "x"]
    assert locked[0] != locked[1]


def test_the_same_file_on_both_sides(files: FileStore) -> None:
    (files.root / "x").write_text("data")
    result = deliver(files.backend, str(files.root), "x", f"file://{files.root}/x", CONTROL)
    assert (result.complete, result.moved) == (True, 0)
    assert (files.root / "x").read_text() == "data"


@pytest.mark.parametrize("change", ["replaced", "removed", "same size", "same times", "longer"])
def test_changes_of_the_source(files: FileStore, change: str) -> None:
    path = files.path("far.dat")
    path.write_bytes(b"a" * 3 * MiB)
    times = path.stat()

    def edit(done: int, _size: int) -> None:
        if done != 2 * MiB:
            return
        wait_for_tick(files.root)
        if change == "replaced":
            other = files.path("other")
            other.write_bytes(path.read_bytes())
            other.replace(path)
        elif change == "removed":
            path.unlink()
        elif change == "longer":
            path.write_bytes(b"a" * 3 * MiB + b"b")
        else:
            with path.open("r+b") as file:
                file.write(b"b" * 3 * MiB)
            if change == "same times":  # as rsync --inplace -t leaves it
                os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    with pytest.raises(StorageUnavailableError, match="was changed while it was read"):
        fetch(
            files.backend,
            files.url("far.dat"),
            str(files.root),
            "x",
            TransferControl(progress=edit),
        )
    assert not (files.root / "x").exists()


@pytest.mark.parametrize("already", [False, True], ids=["new", "an empty one is there"])
def test_a_file_with_more_bytes_than_its_size(files: FileStore, already: bool) -> None:
    """One of /proc says 0: an empty copy would pass for the whole."""
    if already:
        (files.root / "x").touch()
    with pytest.raises(StorageRefusedError, match="version: has more bytes than the 0 it says"):
        fetch(files.backend, "file:///proc/version", str(files.root), "x", CONTROL)
    assert not (files.root / part_name("x")).exists()
    assert (files.root / "x").exists() == already


def test_a_file_with_fewer_bytes_than_its_size(
    files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of /sys, which say 4096; asked for again and again it would never be complete."""
    files.write("far.dat", b"data")
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, n, at: pread(fd, n, at) if at < 2 else b"")
    monkeypatch.setattr(transfer, "CHUNK", 2)
    with pytest.raises(StorageRefusedError, match="dat: has fewer bytes than the 4 it says"):
        get(files)
    assert list(files.root.iterdir()) == []


def test_holes_stay_holes(files: FileStore) -> None:
    data = bytes(3 * MiB) + b"data" + bytes(3 * MiB - 4) + bytes(MiB + 5)
    files.write("far.dat", data)
    for length in (1, 2, 20):
        url = files.url("far.dat")
        fetch(files.backend, url, str(files.root), "x", stop_after(length))
    assert (files.root / "x").read_bytes() == data
    assert (files.root / "x").stat().st_blocks * 512 <= 2 * MiB


def test_zeros_replace_what_is_no_hole(files: FileStore) -> None:
    files.write("far.dat", bytes(3 * MiB))
    (files.root / part_name("x")).write_bytes(bytes(MiB) + b"other" * MiB)
    get(files)
    assert (files.root / "x").read_bytes() == bytes(3 * MiB)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("//host/a", "no host or the host localhost"),
        ("///a?b", "as %3F"),
        ("///a%00b", "without NUL"),
        ("///a/b%2F", "a file's path"),
        ("///a/.b.wlm-part", "other than that of a part file"),
        (f"///a/{'n' * 256}", "at most 255 bytes"),
        (f"///{'%C3%A9' * 128}/a", "at most 255 bytes"),
        ("///a/%2e%2e", r"without '\.\.'"),
    ],
)
def test_urls_are_checked_by_their_text(place: str, said: str) -> None:
    with pytest.raises(InvalidPathError, match=said):
        FileStorage().check(f"file:{place}")


def test_urls_that_pass_the_check(files: FileStore) -> None:
    for name in ("a", "no/such/directory/x", "n" * 255, "é", "../x"):
        files.backend.check(files.url(name))


def test_part_names() -> None:
    assert part_name("a") == ".a.wlm-part"
    long = part_name("é" * 127)
    assert len(long.encode()) <= 255
    assert long.endswith(".wlm-part")
    assert long != part_name("é" * 126 + "e")
