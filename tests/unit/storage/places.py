"""Directories of each kind to move between."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from unit.storage.stores import CONTROL

from services.sshd import PrivateSshd
from wlm_tasks.compute.remote import SiteFiles
from wlm_tasks.compute.ssh.store import SshStore
from wlm_tasks.hosts.address import address_of
from wlm_tasks.hosts.ssh import SshShell
from wlm_tasks.model.ends import Tree, TreeTarget
from wlm_tasks.storage.base import TransferResult
from wlm_tasks.storage.file import FileStorage
from wlm_tasks.storage.localtrees import LocalDirectory
from wlm_tasks.storage.scp import ScpStorage
from wlm_tasks.storage.trees import move_tree

KINDS = ["local", "file", "scp", "sftp", "site"]


class Places:
    """A source directory and a target directory, and the ways to get at them."""

    def __init__(self, directory: Path, server: PrivateSshd, sftp_only: PrivateSshd) -> None:
        self.source = directory / "work" / "source"
        self.target = directory / "work" / "target"
        self.source.mkdir(parents=True)
        self._work = self.source.parent
        self._time = 1_000_000_000
        self._servers = {"scp": server, "sftp": sftp_only}
        self._storages = {"file": FileStorage()} | {
            kind: ScpStorage(name="lab", options=server.options)
            for kind, server in self._servers.items()
        }
        shell = SshShell(address_of("far", server.options))
        self._site = SshStore(shell, SiteFiles(shell, str(directory)))

    def url(self, scheme: str, path: Path) -> str:
        if scheme == "file":
            return f"file://{quote(str(path))}"
        server = self._servers[scheme]
        return f"{scheme}://{server.host}:{server.port}{quote(str(path))}"

    def tree(self, kind: str, pattern: str = "") -> Tree:
        if kind == "local":
            return LocalDirectory(str(self._work)).tree("source", pattern)
        if kind == "site":
            return self._site.directory(str(self._work)).tree("source", pattern)
        return self._storages[kind].tree(self.url(kind, self.source), pattern)

    def tree_target(self, kind: str) -> TreeTarget:
        if kind == "local":
            return LocalDirectory(str(self._work)).tree_target("target")
        if kind == "site":
            return self._site.directory(str(self._work)).tree_target("target")
        return self._storages[kind].tree_target(self.url(kind, self.target))

    def fill(self, files: dict[str, bytes]) -> None:
        for path, data in files.items():
            place = self.source / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            # an old time, each another one: SFTP tells whole seconds
            self._time += 2
            os.utime(place, (self._time, self._time))

    def arrived(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.target)): path.read_bytes()
            for path in self.target.rglob("*")
            if path.is_file()
        }


def go(places: Places, here: str, there: str, pattern: str = "") -> TransferResult:
    return move_tree(places.tree(here, pattern), places.tree_target(there), CONTROL)
