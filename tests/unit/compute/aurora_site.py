"""An Aurora site to run the compute tests on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from unit.compute.sites import LocalSite

from services.aurora import PrivateAurora
from services.webfiles import WebFiles
from wlm_tasks.compute.aurora.backend import AuroraBackend
from wlm_tasks.compute.aurora.notes import Patience
from wlm_tasks.compute.aurora.sandboxed import SandboxedBackend
from wlm_tasks.compute.base import JobRef

#: so short that tests can wait for a job that is absent for certain
BRIEF: Final = Patience(deadline_s=0.1, spacing_s=0.1)


class AuroraSite(LocalSite):
    """Jobs that a private Aurora really runs, on this host, in the same scratch directory."""

    def __init__(self, scratch: Path, server: PrivateAurora) -> None:
        self.server = server
        self.server.set(execute=True)
        super().__init__(scratch)

    def another(self, **settings: object) -> AuroraBackend:
        return AuroraBackend(
            name="mesos",
            scratch=str(self.scratch),
            options=aurora_options(self.server, **settings),
            bells=str(self.bells),
            patience=BRIEF,
        )


class LoneSite(AuroraSite):
    """Jobs in sandboxes that share no directory with the workers; `web` takes their uploads."""

    rings = False

    def __init__(self, scratch: Path, server: PrivateAurora, web: WebFiles | None) -> None:
        self.web = web
        super().__init__(scratch, server)

    def another(self, **settings: object) -> SandboxedBackend:
        upload = {"upload_url": f"{self.web.url}/runs"} if self.web is not None else {}
        own: dict[str, object] = {"shared_scratch": False, **upload}
        return SandboxedBackend(
            name="lone",
            scratch=str(self.scratch),
            options=aurora_options(self.server, **{**own, **settings}),
            bells=str(self.bells),
            patience=BRIEF,
        )

    def output(self, ref: JobRef) -> str:
        return self.backend.tail(ref, "stdout", 1000)


def aurora_options(server: PrivateAurora, **more: object) -> dict[str, object]:
    """Return what a site at this scheduler needs to be told."""
    own = {"url": server.url, "cluster": "example", "role": "gateway", "environment": "devel"}
    return {**own, **more}
