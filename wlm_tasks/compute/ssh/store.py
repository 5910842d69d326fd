"""The files of a site behind SSH."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from wlm_tasks.compute.base import SiteStore
from wlm_tasks.compute.remote import SiteFiles
from wlm_tasks.hosts.files import HostFiles, inside
from wlm_tasks.hosts.ssh import SshShell
from wlm_tasks.model.ends import Directory, Source, Target


class SshStore(SiteStore):
    """The experiments' directories of one site."""

    def __init__(self, shell: SshShell, files: SiteFiles) -> None:
        self._files = HostFiles(shell, nullcontext)
        self._site = files

    def directory(self, workdir: str) -> Directory:
        """Return an experiment's directory."""
        self._site.check(workdir)
        return _Workdir(self._files, workdir, self._site.scratch)


class _Workdir:
    def __init__(self, files: HostFiles, workdir: str, scratch: str) -> None:
        self._files = files
        self._workdir = workdir
        self._scratch = scratch

    def source(self, path: str) -> AbstractContextManager[Source]:
        return self._files.source(inside(self._workdir, self._scratch, path))

    def target(self, path: str, mode: int | None) -> AbstractContextManager[Target]:
        return nullcontext(self._files.target(inside(self._workdir, self._scratch, path), mode))
