"""The files of a site behind SSH."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial

from wlm_tasks.compute.base import SiteStore
from wlm_tasks.compute.remote import SiteFiles
from wlm_tasks.errors import StorageRefusedError
from wlm_tasks.hosts.files import HostFiles
from wlm_tasks.hosts.places import Place, inside
from wlm_tasks.hosts.shell import Shell
from wlm_tasks.hosts.ssh import SshShell
from wlm_tasks.hosts.trees import HostTree, HostTreeTarget
from wlm_tasks.model.ends import Directory, Source, Target, Tree, TreeTarget


class SshStore(SiteStore):
    """The experiments' directories of one site."""

    def __init__(self, shell: SshShell, files: SiteFiles) -> None:
        self._shell = shell
        self._files = HostFiles(shell, nullcontext)
        self._site = files

    @property
    def shell(self) -> Shell:
        """The shell of the host."""
        return self._shell

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
        return self._files.source(self._at(path))

    def target(self, path: str, mode: int | None) -> AbstractContextManager[Target]:
        return nullcontext(self._files.target(self._at(path), mode))

    def tree(self, path: str, pattern: str) -> Tree:
        below = partial(_joined, path)
        return HostTree(
            self._files, self._directory(path), lambda file: self._at(below(file)), pattern
        )

    def tree_target(self, path: str) -> TreeTarget:
        below = partial(_joined, path)
        return HostTreeTarget(
            self._files, self._directory(path), lambda file: self._at(below(file))
        )

    def _at(self, path: str) -> Place:
        if not path:
            raise StorageRefusedError("path: got '', expected a relative path of a file")
        return self._directory(path)

    def _directory(self, path: str) -> Place:
        return inside(self._workdir, self._scratch, path)


def _joined(directory: str, path: str) -> str:
    return f"{directory}/{path}" if directory else path
