"""An Aurora site, and the Thrift compiler's code to look at bytes with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.compute.aurora_site import AuroraSite

from services import require_service
from services.aurora import PrivateAurora
from services.aurora_peer.generated import Generated, generate


@pytest.fixture
def mesos(tmp_path: Path, aurora: PrivateAurora) -> Iterator[AuroraSite]:
    """An Aurora site with its working directory prepared."""
    (tmp_path / "scratch").mkdir()
    site = AuroraSite(tmp_path / "scratch", aurora)
    site.backend.prepare(site.workdir)
    yield site
    site.clean()


@pytest.fixture(scope="session")
def generated(session_dir: Path) -> Generated:
    """What the compiler makes of the peer's own description of the interface."""
    require_service("the Thrift compiler", PrivateAurora.available())
    return generate(session_dir / "aurora-code")
