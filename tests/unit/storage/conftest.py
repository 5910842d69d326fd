"""Storages as fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.storage.stores import FarMemStore, FileStore, Get, MemTestStore, Put, Store, Way


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


@pytest.fixture(params=[FileStore, MemTestStore, FarMemStore], ids=["file", "mem", "far"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of storage in turn."""
    made = request.param(tmp_path)
    assert isinstance(made, Store)
    return made


@pytest.fixture(params=[Get, Put], ids=["get", "put"])
def way(request: pytest.FixtureRequest, store: Store) -> Way:
    """Both directions with each kind of storage."""
    made = request.param(store)
    assert isinstance(made, Way)
    return made
