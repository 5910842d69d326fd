"""Payloads as fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.model.payload import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
