"""Directories from each kind of place to each other: packed, compared, whole, and never out."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.storage.places import Places, go
from unit.storage.stores import CONTROL, MiB, stop_after
from unit.storage.test_contract import NAMES

from wlm_tasks.errors import StorageRefusedError, StorageUnavailableError, TransientError, WlmError
from wlm_tasks.model import checksums
from wlm_tasks.storage import trees
from wlm_tasks.storage.base import SingleFiles, TransferControl, TransferResult
from wlm_tasks.storage.file import FileStorage
from wlm_tasks.storage.trees import move_tree

FILES = {
    "a": b"a",
    "empty": b"",
    "-dash": b"dash",
    "sub/b c": b"b",
    "sub/deeper/é\n\\'\"*": b"c",
    ".hidden": b"d",
    "sub/big": os.urandom(3 * MiB),
}


def test_a_directory_arrives_whole(places: Places, here: str, there: str) -> None:
    places.fill(FILES)
    (places.source / "sub/b c").chmod(0o750)
    size = sum(map(len, FILES.values()))
    result = go(places, here, there)
    assert (result.complete, result.size, result.moved) == (True, size, size)
    assert places.arrived() == FILES
    assert (places.target / "sub/b c").stat().st_mode & 0o700 == 0o700
    again = go(places, here, there)
    assert (again.complete, again.moved) == (True, 0)
    assert {path.name for path in places.target.iterdir()} == {p.split("/")[0] for p in FILES}


def test_only_what_is_missing_moves(places: Places, here: str, there: str) -> None:
    places.fill(FILES)
    go(places, here, there)
    (places.target / "a").write_bytes(b"x")
    (places.target / "sub/b c").unlink()
    (places.target / "other").write_bytes(b"stays")
    result = go(places, here, there)
    assert (result.complete, result.moved) == (True, 2)
    assert places.arrived() == {**FILES, "other": b"stays"}


def test_patterns(places: Places, here: str) -> None:
    names = ["a.dat", "b.dat", ".c.dat", "d.txt", "x.dat/deep", "[1].dat"]
    places.fill(dict.fromkeys(names, b"1"))

    def found(pattern: str) -> list[str]:
        return [entry.path for entry in places.tree(here, pattern).entries()]

    assert found("*.dat") == sorted(["a.dat", "b.dat", "x.dat/deep", "[1].dat"])
    assert found("[ab].*") == ["a.dat", "b.dat"]
    assert found(".*") == [".c.dat"]
    assert found("d.txt") == ["d.txt"]
    assert found("x.dat") == ["x.dat/deep"]
    assert found("") == sorted(names)
    with pytest.raises(StorageRefusedError, match="has no file that is meant"):
        move_tree(places.tree(here, "*.none"), places.tree_target("local"), CONTROL)


def test_what_is_ours_stays(places: Places, here: str) -> None:
    places.fill({"a": b"1", ".wlm/x": b"2", ".wlm-parts/y": b"3", "s/.b.wlm-part": b"4"})
    assert [entry.path for entry in places.tree(here).entries()] == ["a"]


def test_no_such_directory(places: Places, here: str) -> None:
    places.source.rmdir()
    with pytest.raises(StorageRefusedError, match=r"source.*No such file or directory"):
        places.tree(here).entries()


def test_links(places: Places, here: str, there: str) -> None:
    places.fill({"real": b"data"})
    (places.source / "link").symlink_to("real")
    go(places, here, there)
    assert places.arrived() == {"real": b"data", "link": b"data"}
    assert not (places.target / "link").is_symlink()


@pytest.mark.parametrize("leads", ["/etc/passwd", "../../outside", "nowhere", "sub"])
def test_links_that_lead_elsewhere(places: Places, here: str, leads: str) -> None:
    (places.source.parent.parent / "outside").write_text("secret")
    places.fill({"a": b"1", "sub/b": b"2"})
    (places.source / "link").symlink_to(leads)
    with pytest.raises(StorageRefusedError, match="link"):
        places.tree(here).entries()


def test_what_is_no_file(places: Places, here: str) -> None:
    places.fill({"a": b"1"})
    os.mkfifo(places.source / "fifo")
    with pytest.raises(StorageRefusedError, match=r"fifo: is (a FIFO|no regular file)"):
        places.tree(here).entries()


@pytest.mark.parametrize("there", ["local", "sftp", "site"])
def test_no_way_through_a_link(places: Places, tmp_path: Path, there: str) -> None:
    places.fill({"sub/x": b"1"})
    outside = tmp_path / "outside"
    outside.mkdir()
    places.target.mkdir()
    (places.target / "sub").symlink_to(outside)
    with pytest.raises(WlmError, match=r"symbolic link|cannot overwrite"):
        go(places, "local", there)
    assert list(outside.iterdir()) == []


def test_a_target_that_is_a_link(places: Places, tmp_path: Path) -> None:
    places.fill({"x": b"1"})
    outside = tmp_path / "outside"
    outside.mkdir()
    places.target.symlink_to(outside)
    for there in ("local", "site"):
        with pytest.raises(WlmError, match="symbolic link"):
            go(places, "local", there)
    assert list(outside.iterdir()) == []


def test_a_directory_in_the_place_of_a_file(places: Places, there: str) -> None:
    places.fill({"x": b"1"})
    (places.target / "x").mkdir(parents=True)
    with pytest.raises(StorageRefusedError, match=r"directory"):
        go(places, "local", there)


def test_slices(places: Places, here: str, there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "BUNCH_FILES", 2)
    places.fill(FILES)
    results: list[TransferResult] = []
    while not results or not results[-1].complete:
        tree, target = places.tree(here), places.tree_target(there)
        results.append(move_tree(tree, target, stop_after(1)))
        assert len(results) < 20
    assert len(results) > 2
    assert places.arrived() == FILES
    assert sum(result.moved for result in results) == sum(map(len, FILES.values()))


def test_another_transfer_to_the_same_directory(places: Places, there: str) -> None:
    """Each waits or is told; whoever was told tries again; nothing is mixed up."""
    places.fill({f"f{number}": os.urandom(2000) for number in range(300)})
    told: list[str] = []

    def work() -> None:
        for _ in range(50):
            try:
                go(places, "local", there)
            except StorageUnavailableError as error:
                told.append(error.message)
                continue
            return

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all("being written by another transfer" in text for text in told), told
    assert places.arrived() == {p.name: p.read_bytes() for p in places.source.iterdir()}
    assert not (places.target / ".wlm-parts").exists()


def test_a_byte_that_turns_over_on_the_way(
    places: Places, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.fill({"x": b"data" * 100})
    whole = checksums.write

    def other(digests: dict[str, str]) -> bytes:
        return whole(dict.fromkeys(digests, "f" * 64))

    with monkeypatch.context() as patched:
        patched.setattr(checksums, "write", other)
        with pytest.raises(TransientError, match="arrive"):
            go(places, "local", there)
    assert not (places.target / "x").exists()
    go(places, "local", there)
    assert (places.target / "x").read_bytes() == b"data" * 100


def test_one_by_one_where_nothing_can_be_packed(places: Places) -> None:
    places.fill(FILES)
    target = SingleFiles(FileStorage(), places.url("file", places.target))
    seen: list[tuple[int, int]] = []
    control = TransferControl(progress=lambda done, size: seen.append((done, size)))
    assert move_tree(places.tree("scp"), target, control).complete
    assert places.arrived() == FILES
    size = sum(map(len, FILES.values()))
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)


def test_rate(places: Places, there: str) -> None:
    places.fill({f"f{number}": bytes(1000) for number in range(100)})
    control = TransferControl(bytes_per_s=500_000.0)
    assert move_tree(places.tree("local"), places.tree_target(there), control).complete


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.lists(NAMES.filter(lambda n: not n.startswith(".wlm")), min_size=1, max_size=4))
def test_any_names(places: Places, names: list[str]) -> None:
    names = [name for name in names if not name.endswith(".wlm-part")] or ["x"]
    files = {name: name.encode() for name in names}
    places.fill(files)
    for here, there in (("local", "scp"), ("scp", "sftp"), ("sftp", "local"), ("scp", "site")):
        go(places, here, there)
        assert places.arrived() == files
        _remove(places.target)
    _remove(places.source)
    places.source.mkdir()


def _remove(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        (path.rmdir if path.is_dir() and not path.is_symlink() else path.unlink)()
    directory.rmdir()


@given(st.dictionaries(NAMES, st.text("0123456789abcdef", min_size=64, max_size=64)))
def test_checksums_as_text(digests: dict[str, str]) -> None:
    assert checksums.read(checksums.write(digests)) == digests


def test_a_file_that_is_replaced_is_never_missing(places: Places, there: str) -> None:
    places.fill({f"sub/f{number}": b"old" for number in range(50)})
    go(places, "local", there)
    ended = threading.Event()
    missing: list[str] = []
    paths = [places.target / "sub" / f"f{number}" for number in range(50)]

    def look() -> None:
        while not ended.is_set():
            missing.extend(str(path) for path in paths if not path.exists())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for turn in range(5):
            places.fill({f"sub/f{number}": f"new {turn}".encode() for number in range(50)})
            go(places, "local", there)
    finally:
        ended.set()
        watcher.join()
    assert missing == []
    assert {path.read_bytes() for path in paths} == {b"new 4"}


def test_what_a_kill_left_on_its_way_is_removed(places: Places, there: str) -> None:
    (places.target / ".wlm-parts" / "sub").mkdir(parents=True)
    (places.target / ".wlm-parts" / "sub" / "x").write_bytes(b"half")
    places.fill({"x": b"1"})
    go(places, "local", there)
    assert places.arrived() == {"x": b"1"}
    assert not (places.target / ".wlm-parts").exists()


def test_a_file_that_goes_meanwhile(places: Places, here: str) -> None:
    places.fill({"x": b"1"})
    tree = places.tree(here)
    entries = tree.entries()
    (places.source / "x").unlink()
    tree.entries = lambda: entries  # type: ignore[method-assign]
    with pytest.raises(StorageUnavailableError, match="was there before"):
        move_tree(tree, places.tree_target("local"), CONTROL)
