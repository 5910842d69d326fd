"""What the tests of the command line share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.cli.world import World

from wlm_tasks.state.database import Database


@pytest.fixture(scope="session")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upgraded database file to copy."""
    path = tmp_path_factory.mktemp("template") / "wlm.db"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture
def world(tmp_path: Path, upgraded: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A data directory of the test's own, also the current directory."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(upgraded, data_dir / "wlm.db")
    monkeypatch.setenv("WLM_DATA_DIR", str(data_dir))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    made = World(tmp_path)
    yield made
    made.close()
