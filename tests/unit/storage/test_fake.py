"""What tests can make the fake storage do."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.storage.stores import MemTestStore, MiB, deliver, fetch

from wlm_tasks.errors import StorageUnavailableError
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.storage.fake import FakeStorage

CONTROL = TransferControl()


def test_faults_come_once_each(tmp_path: Path) -> None:
    mem = MemTestStore(tmp_path)
    mem.write("a", b"data")
    mem.store.fail("source", StorageUnavailableError("away"))
    with pytest.raises(StorageUnavailableError, match="away"):
        fetch(mem.backend, "mem:/a", str(mem.root), "a", CONTROL)
    assert fetch(mem.backend, "mem:/a", str(mem.root), "a", CONTROL).complete
    assert mem.store.calls == [("source", "mem:/a")] * 2


@pytest.mark.parametrize("way", ["get", "put"])
def test_a_transfer_that_breaks_goes_on_where_it_was(tmp_path: Path, way: str) -> None:
    mem = MemTestStore(tmp_path)
    mem.write("a", b"x" * 3 * MiB)
    (mem.root / "b").write_bytes(b"y" * 3 * MiB)
    mem.store.break_after(MiB, StorageUnavailableError("broken"))

    def go() -> int:
        if way == "get":
            return fetch(mem.backend, "mem:/a", str(mem.root), "a", CONTROL).moved
        return deliver(mem.backend, str(mem.root), "b", "mem:/b", CONTROL).moved

    with pytest.raises(StorageUnavailableError, match="broken"):
        go()
    assert go() == 2 * MiB


def test_a_store_shared_by_two(tmp_path: Path) -> None:
    mem = MemTestStore(tmp_path)
    mem.write("a", b"1")
    assert FakeStorage(mem.store).size("mem:/a") == 1
    assert FakeStorage().store.files == {}
