"""A private Slurm as a site, and shells that fail where a test wants it."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest
from unit.compute.sites import LocalSite

from services.guardian import MARKER
from services.slurm import PrivateSlurm
from wlm_tasks.compute.base import JobSpec
from wlm_tasks.compute.slurm.backend import SlurmBackend
from wlm_tasks.hosts.shell import RUN_TIMEOUT_S, LocalShell, Ran, Shell


class SlurmSite(LocalSite):
    """Jobs are real; their processes are on this host, as its nodes are."""

    slurm: PrivateSlurm
    options: dict[str, object]  #: settings of the site

    @classmethod
    def of(
        cls,
        slurm: PrivateSlurm,
        scratch: Path,
        monkeypatch: pytest.MonkeyPatch,
        **options: object,
    ) -> Self:
        """A site whose working directory is there."""
        for name, value in slurm.environ.items():
            monkeypatch.setenv(name, value)
        cls.options = options
        site = cls(scratch)
        site.slurm = slurm
        site.backend.prepare(site.workdir)
        return site

    def another(self, *, shell: Shell | None = None, **options: object) -> SlurmBackend:
        return SlurmBackend(
            name="slurm",
            scratch=str(self.scratch),
            options=self.options | options,
            bells=str(self.bells),
            shell=shell,
        )

    def spec(
        self,
        script: str,
        *,
        walltime_s: float = 60.0,
        variables: Mapping[str, str] | None = None,
        name: str = "",
        **stop: object,
    ) -> JobSpec:
        # a job gets nothing of our environment, and must end with the run all the same
        marked = {MARKER: os.environ[MARKER], **(variables or {})}
        return super().spec(script, walltime_s=walltime_s, variables=marked, name=name, **stop)

    def clean(self) -> None:
        mine = f"--user={getpass.getuser()}"
        if self.slurm.answers():
            self.slurm.command("scancel", "--state=PENDING", mine)
        super().clean()  # what runs ends sooner than if Slurm were to end it
        if self.slurm.answers():
            self.slurm.command("scancel", mine)


class BrokenShell(LocalShell):
    """A shell whose script, or whose caller as well, is killed at a point of the script."""

    def __init__(self, point: str, *, caller_too: bool = False) -> None:
        self.point = point
        self._kill = "kill -9 $PPID $$" if caller_too else "kill -9 $$"

    def run(
        self,
        script: str,
        arguments: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> Ran:
        assert f": point {self.point}\n" in script
        broken = script.replace(f": point {self.point}\n", f"{self._kill}\n")
        return super().run(broken, arguments, stdin=stdin, timeout_s=timeout_s)
