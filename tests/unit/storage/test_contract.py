"""What every storage backend promises. A new backend joins the fixture `store`."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from unit.storage.stores import MiB, Store, Way, deliver, fetch, sha256, stop_after, wait_for_tick

from wlm_tasks.errors import InvalidPathError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.storage.base import TransferControl, TransferResult

#: neither its first nor its last byte is one that a test puts there
DATA = b"<" + os.urandom(3 * MiB + 5) + b">"


def done(data: bytes, moved: int) -> TransferResult:
    size = len(data)
    return TransferResult(complete=True, size=size, done=size, moved=moved, sha256=sha256(data))


@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["empty", "byte", "big"])
def test_a_file_arrives_whole(way: Way, data: bytes) -> None:
    way.source(data)
    assert way.go(TransferControl(sha256=sha256(data))) == done(data, len(data))
    assert way.target() == data
    assert way.part() is None


def test_doing_it_again_moves_nothing(way: Way) -> None:
    way.source(DATA)
    way.go()
    assert way.go() == done(DATA, 0)
    assert way.go(TransferControl(sha256=sha256(DATA))) == done(DATA, 0)


@pytest.mark.parametrize("old", [b"", DATA[:-1], DATA + b"x", b"y" + DATA[1:], DATA[:-1] + b"y"])
def test_something_else_at_the_target_is_replaced(way: Way, old: bytes) -> None:
    way.source(DATA)
    way.write_target(old)
    assert way.go() == done(DATA, len(DATA))
    assert way.target() == DATA


def test_what_is_at_the_target_stays_until_the_new_is_whole(way: Way) -> None:
    way.source(DATA)
    way.write_target(b"old")
    assert not way.go(stop_after(1)).complete
    assert way.target() == b"old"


def test_an_early_end_keeps_what_was_moved(resuming: Way) -> None:
    resuming.source(DATA)
    result = resuming.go(stop_after(2))
    assert result == TransferResult(complete=False, size=len(DATA), done=2 * MiB, moved=2 * MiB)
    assert resuming.target() is None
    assert resuming.part() == DATA[: 2 * MiB]
    assert resuming.go() == done(DATA, len(DATA) - 2 * MiB)
    assert resuming.target() == DATA


@pytest.mark.parametrize("length", [1, 2, 3])
def test_slices_of_any_length_come_to_an_end(resuming: Way, length: int) -> None:
    """Each is shorter than it takes to read again what those before it moved."""
    resuming.source(DATA)
    results = [resuming.go(stop_after(length))]
    while not results[-1].complete and len(results) < 10:
        results.append(resuming.go(stop_after(length)))
    assert resuming.target() == DATA
    assert sum(result.moved for result in results) == len(DATA)
    assert results[-1].sha256 == sha256(DATA)


@pytest.mark.parametrize("wanted", [None, sha256(DATA)], ids=["any", "digest"])
def test_an_equal_target_is_compared_in_slices(way: Way, wanted: str | None) -> None:
    compared_in_slices(way, DATA, wanted)


@pytest.mark.parametrize("wanted", [None, sha256(DATA)], ids=["any", "digest"])
def test_another_target_is_compared_in_slices(resuming: Way, wanted: str | None) -> None:
    compared_in_slices(resuming, DATA[:-1] + b"y", wanted)


def compared_in_slices(way: Way, there: bytes, wanted: str | None) -> None:
    way.source(DATA)
    way.write_target(there)
    for _ in range(20):  # what is compared, copied and, maybe, read back
        control = replace(stop_after(1), sha256=wanted)
        if (result := way.go(control)).complete:
            break
    assert result.complete
    assert way.target() == DATA


def test_a_part_is_compared_in_slices(resuming: Way) -> None:
    resuming.source(DATA)
    resuming.write_part(DATA[: 2 * MiB] + b"z")
    results = [resuming.go(stop_after(1))]
    while not results[-1].complete and len(results) < 10:
        results.append(resuming.go(stop_after(1)))
    assert [result.done for result in results[:2]] == [MiB, 2 * MiB]
    assert results[-1] == done(DATA, results[-1].moved)
    assert sum(result.moved for result in results) == len(DATA) - 2 * MiB


def test_what_was_touched_between_slices_is_read_again(resuming: Way) -> None:
    resuming.source(DATA)
    resuming.go(stop_after(2))
    wait_for_tick(resuming.store.root)
    resuming.write_part(b"z" + DATA[1 : 2 * MiB])
    assert resuming.go() == done(DATA, len(DATA))
    assert resuming.target() == DATA


def test_another_source_between_slices_is_read_from_its_begin(way: Way) -> None:
    way.source(DATA)
    way.go(stop_after(2))
    other = b"z" + DATA[1:]
    wait_for_tick(way.store.root)
    way.source(other)
    assert way.go() == done(other, len(other))
    assert way.target() == other


def test_a_stop_before_the_first_chunk(way: Way) -> None:
    way.source(DATA)
    assert way.go(stop_after(0)) == TransferResult(complete=False, size=len(DATA), done=0, moved=0)
    assert way.target() is None


@pytest.mark.parametrize(
    ("part", "kept"),
    [
        (DATA[: MiB + 5], MiB + 5),
        (DATA[:MiB] + b"z" * 100, MiB),
        (b"z" + DATA[1 : 2 * MiB], 0),
        (DATA + b"more", len(DATA)),
        (DATA, len(DATA)),
    ],
    ids=["whole", "torn", "foreign", "longer", "complete"],
)
def test_only_the_right_bytes_of_a_part_are_kept(resuming: Way, part: bytes, kept: int) -> None:
    if len(part) > len(DATA) and not resuming.cuts:
        kept = 0
    if part != DATA:
        kept -= kept % resuming.block
    resuming.source(DATA)
    resuming.write_part(part)
    assert resuming.go() == done(DATA, len(DATA) - kept)
    assert resuming.target() == DATA
    assert resuming.part() is None


def test_wrong_digest(way: Way) -> None:
    way.source(DATA)
    wanted = sha256(b"other")
    with pytest.raises(StorageRefusedError, match=f"has SHA-256 {sha256(DATA)}, .* {wanted}"):
        way.go(TransferControl(sha256=wanted))
    assert way.target() is None
    assert way.part() is None


def test_a_target_of_the_wanted_digest_is_kept(way: Way) -> None:
    wanted = b"a" * len(DATA)
    way.source(DATA)
    way.write_target(wanted)
    assert way.go(TransferControl(sha256=sha256(wanted))) == done(wanted, 0)
    assert way.target() == wanted


def test_another_transfer_to_the_same_target(way: Way) -> None:
    way.source(DATA)
    with (
        way.locked(),
        pytest.raises(StorageUnavailableError, match="is being written by another transfer"),
    ):
        way.go()
    assert way.target() is None
    assert way.go().complete


def test_a_source_that_changes_under_way(way: Way) -> None:
    way.source(DATA)
    other = b"new" * MiB

    def change(moved: int, _size: int) -> None:
        if moved == 2 * MiB:
            way.source(other)

    with pytest.raises(StorageUnavailableError, match="was changed while it was read"):
        way.go(TransferControl(progress=change))
    assert way.target() is None
    assert way.go().complete
    assert way.target() == other


def test_progress(way: Way) -> None:
    seen: list[tuple[int, int]] = []
    way.source(DATA)
    way.go(TransferControl(progress=lambda done, size: seen.append((done, size))))
    assert seen == [(n, len(DATA)) for n in (MiB, 2 * MiB, 3 * MiB, len(DATA))]


def test_rate(way: Way) -> None:
    way.source(DATA[: 100 * 1024])
    before = time.monotonic()
    way.go(TransferControl(bytes_per_s=200 * 1024))
    assert 0.2 < time.monotonic() - before < 5
    assert way.target() == DATA[: 100 * 1024]


def test_a_slow_transfer_stops_soon(way: Way) -> None:
    way.source(DATA)
    end = time.monotonic() + 0.3
    result = way.go(TransferControl(bytes_per_s=1000.0, should_stop=lambda: time.monotonic() > end))
    assert time.monotonic() - end < 2
    assert not result.complete
    assert result.done < MiB
    assert result.done or way.block > 1


def test_no_such_source(store: Store) -> None:
    with pytest.raises(StorageRefusedError, match=r"none\.dat: [Nn]o such file"):
        fetch(store.backend, store.url("none.dat"), str(store.root), "x", TransferControl())
    with pytest.raises(StorageRefusedError, match=r"none\.dat: No such file"):
        deliver(store.backend, str(store.root), "none.dat", store.url("x"), TransferControl())
    with pytest.raises(StorageRefusedError, match=r"none\.dat: [Nn]o such file"):
        store.backend.size(store.url("none.dat"))


def test_size(store: Store) -> None:
    store.write("far.dat", b"12345")
    assert store.backend.size(store.url("far.dat")) == 5


def test_schemes(store: Store) -> None:
    assert store.url("x").partition(":")[0] in store.backend.schemes


BAD_PATHS = [
    *("", ".", "..", "/", "/etc/passwd", "../x", "a/../x", "a/./x", "a//x", "a/", "x\0y"),
    *("a/..", "..\0", "x" * 256, f"a/{'x' * 256}/b", ".near.dat.wlm-part"),
]


@pytest.mark.parametrize("path", BAD_PATHS)
def test_paths_that_leave_the_root(store: Store, path: str) -> None:
    store.write("far.dat", b"data")
    with pytest.raises(InvalidPathError, match="path: got") as caught:
        fetch(store.backend, store.url("far.dat"), str(store.root), path, TransferControl())
    assert "\n" not in str(caught.value)
    assert list(store.root.iterdir()) == []
    if not path.endswith(".wlm-part"):
        with pytest.raises(InvalidPathError, match="path: got"):
            deliver(store.backend, str(store.root), path, store.url("out"), TransferControl())
        assert store.read("out") is None


NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=255
).filter(lambda name: len(name.encode()) <= 255 and name not in {".", ".."})


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(name=NAMES.filter(lambda name: not name.endswith(".wlm-part")))
def test_any_name_there_and_back(store: Store, name: str) -> None:
    assume(not set(name) & set(store.no_names))
    data = name.encode()
    store.write(name, data)
    backend, root = store.backend, str(store.root)
    assert fetch(backend, store.url(name), root, f"d/{name}", TransferControl()).complete
    assert (store.root / "d" / name).read_bytes() == data
    assert deliver(backend, root, f"d/{name}", store.url(name), TransferControl()) == done(data, 0)
    assert list(store.root.iterdir()) == [store.root / "d"]
    (store.root / "d" / name).unlink()


def test_a_stop_while_a_part_is_verified_keeps_it(resuming: Way) -> None:
    resuming.source(DATA)
    resuming.write_part(DATA[: 2 * MiB])
    assert resuming.go(stop_after(1)) == TransferResult(
        complete=False, size=len(DATA), done=MiB, moved=0
    )
    assert resuming.part() == DATA[: 2 * MiB]
    assert resuming.go() == done(DATA, len(DATA) - 2 * MiB)


def test_a_stop_while_the_target_is_compared(way: Way) -> None:
    way.source(DATA)
    way.write_target(DATA)
    assert way.go(stop_after(1)) == TransferResult(
        complete=False, size=len(DATA), done=MiB, moved=0
    )
    assert way.go() == done(DATA, 0)
