"""An Aurora site, and the Thrift compiler's code to look at bytes with."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from unit.compute.aurora_site import AuroraSite, LoneSite

from services import require_service
from services.aurora import PrivateAurora
from services.aurora_peer.generated import Generated, generate
from services.webfiles import WebFiles
from wlm_tasks.compute.base import JobSpec, JobStatus


@pytest.fixture
def mesos(tmp_path: Path, aurora: PrivateAurora) -> Iterator[AuroraSite]:
    """An Aurora site with its working directory prepared."""
    (tmp_path / "scratch").mkdir()
    site = AuroraSite(tmp_path / "scratch", aurora)
    site.backend.prepare(site.workdir)
    yield site
    site.clean()


@pytest.fixture
def lone(tmp_path: Path, aurora: PrivateAurora, web: WebFiles) -> Iterator[LoneSite]:
    """A site with a place for uploads."""
    yield from _site(tmp_path, aurora, web)


@pytest.fixture
def mute(tmp_path: Path, aurora: PrivateAurora) -> Iterator[LoneSite]:
    """A site without such a place: Aurora's words are all there is."""
    yield from _site(tmp_path, aurora, None)


def _site(tmp_path: Path, aurora: PrivateAurora, web: WebFiles | None) -> Iterator[LoneSite]:
    (tmp_path / "scratch").mkdir()
    site = LoneSite(tmp_path / "scratch", aurora, web)
    site.backend.prepare(site.workdir)
    yield site
    site.clean()
    site.backend.close()


def run(site: LoneSite, spec: JobSpec) -> JobStatus:
    """Run a job to its end."""
    site.backend.submit(spec)
    return site.wait_end(spec.ref)


class DeafServer:
    """Lets everybody connect and never answers."""

    def __init__(self, listener: socket.socket) -> None:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        self._listener = listener
        self._found: list[socket.socket] = []

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def connections(self) -> int:
        """How many have connected so far."""
        with suppress(BlockingIOError):
            while True:
                self._found.append(self._listener.accept()[0])
        return len(self._found)

    def close(self) -> None:
        """Let go of them."""
        for one in self._found:
            one.close()


@pytest.fixture
def deaf() -> Iterator[DeafServer]:
    """Such a server."""
    with socket.socket() as listener:
        server = DeafServer(listener)
        yield server
        server.close()


@pytest.fixture(scope="session")
def generated(session_dir: Path) -> Generated:
    """What the compiler makes of the peer's own description of the interface."""
    require_service("the Thrift compiler", PrivateAurora.available())
    return generate(session_dir / "aurora-code")
