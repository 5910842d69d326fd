"""What a process needs at hand: settings, store, sites."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wlm_tasks.bell import ring
from wlm_tasks.compute.base import ComputeBackend
from wlm_tasks.config import Settings, SiteSettings
from wlm_tasks.connecting import Connections
from wlm_tasks.errors import InvalidExperimentError
from wlm_tasks.plugins import compute_backend
from wlm_tasks.state.store import Store


@dataclass(frozen=True)
class Site:
    """A configured site and the backend that speaks to it."""

    settings: SiteSettings
    backend: ComputeBackend

    def workdir(self, experiment_id: str) -> str:
        """The directory of an experiment on this site."""
        return f"{self.settings.directory}/{experiment_id}"


class Runtime:
    """Settings, store and sites of one process; opened when first used, not to be forked."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pid = os.getpid()
        self.stopping = threading.Event()  #: long work ends its slice
        self._sites: dict[str, Site] = {}
        self._lock = threading.Lock()

    @cached_property
    def store(self) -> Store:
        """The rows."""
        return Store(self.settings.database)

    @cached_property
    def connections(self) -> Connections:
        """The connections of this process with sites that limit them."""
        return Connections(
            self.settings.sites,
            lambda: self.store.connections,
            lambda name: self.site(name).backend.close(),
        )

    @property
    def bells(self) -> Path:
        """Where processes of this host leave their doorbells."""
        return self.settings.data_dir / "bells"

    def wake(self) -> None:
        """Tell control processes on this host that there is something to do."""
        ring(self.bells, "work")

    def site(self, name: str) -> Site:
        """A configured site; raises `InvalidExperimentError` if there is none of that name."""
        with self._lock:
            if name not in self._sites:
                self._sites[name] = self._open(name)
            return self._sites[name]

    def _open(self, name: str) -> Site:
        settings = self.settings.sites.get(name)
        if settings is None:
            known = ", ".join(sorted(self.settings.sites)) or "none is configured"
            raise InvalidExperimentError(
                f"site: got {name!r}, expected a configured site ({known})"
            )
        backend = compute_backend(
            settings.kind,
            name=name,
            scratch=settings.directory,
            options=settings.options,
            bells=str(self.bells),
        )
        return Site(settings, backend)

    def close(self) -> None:
        """Give back connections."""
        if "connections" in self.__dict__:
            self.connections.close()
        for site in self._sites.values():
            site.backend.close()
        if "store" in self.__dict__:
            self.store.close()
