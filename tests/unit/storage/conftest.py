"""Storages as fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.storage.stores import FarMemStore, FileStore, Get, MemTestStore, Put, ScpStore, Store, Way

from services.sshd import PrivateSshd


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


@pytest.fixture
def scp(tmp_path: Path, sshd: PrivateSshd) -> ScpStore:
    return ScpStore(tmp_path, sshd)


@pytest.fixture(
    params=[FileStore, MemTestStore, FarMemStore, "scp"],
    ids=["file", "mem", "far", "scp"],
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each kind of storage in turn."""
    named = isinstance(request.param, str)
    made = request.getfixturevalue(request.param) if named else request.param(tmp_path)
    assert isinstance(made, Store)
    return made


@pytest.fixture(params=[Get, Put], ids=["get", "put"])
def way(request: pytest.FixtureRequest, store: Store) -> Way:
    """Both directions with each kind of storage."""
    made = request.param(store)
    assert isinstance(made, Way)
    return made
