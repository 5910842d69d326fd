"""An Aurora site to run the compute tests on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from unit.compute.sites import LocalSite

from services.aurora import PrivateAurora
from wlm_tasks.compute.aurora.backend import AuroraBackend
from wlm_tasks.compute.aurora.notes import Patience

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


def aurora_options(server: PrivateAurora, **more: object) -> dict[str, object]:
    """Return what a site at this scheduler needs to be told."""
    own = {"url": server.url, "cluster": "example", "role": "gateway", "environment": "devel"}
    return {**own, **more}
