"""Moving files between where they are kept and an experiment's directory on its site.

Bytes go straight from one end to the other, through this process and no file of this host.
"""

from __future__ import annotations

from wlm_tasks.compute.base import SiteStore
from wlm_tasks.config import Settings
from wlm_tasks.hosts.cache import SiteCache
from wlm_tasks.model.ends import Directory
from wlm_tasks.model.experiment import Transfer
from wlm_tasks.model.paths import is_directory, split_tree
from wlm_tasks.plugins import storage_backend
from wlm_tasks.storage.base import StorageBackend, TransferControl, TransferResult
from wlm_tasks.storage.localtrees import LocalDirectory
from wlm_tasks.storage.transfer import move
from wlm_tasks.storage.trees import move_tree
from wlm_tasks.tasks.caching import Cached


def _path(directory: str) -> str:
    """Return a directory's path below that of the experiment, empty for that itself."""
    return "/".join(part for part in directory.split("/") if part not in {"", "."})


class Mover:
    """Moves what one transfer of an experiment means; returns None where nothing is to be moved."""

    def __init__(
        self,
        settings: Settings,
        files: SiteStore | None,
        workdir: str,
        cache: SiteCache | None = None,
    ) -> None:
        """Without `files` the worker sees the directory itself."""
        self._settings = settings
        self._cache = cache
        self._files = files
        self._workdir = workdir

    def bring(self, transfer: Transfer, control: TransferControl) -> TransferResult | None:
        """Move an input to the experiment's directory."""
        storage = self._storage(transfer.src)
        if storage.moves_nothing:
            return None
        if is_directory(transfer.dest):
            tree = storage.tree(*split_tree(transfer.src))
            return move_tree(tree, self._directory().tree_target(_path(transfer.dest)), control)
        cached = self._cached(storage, transfer)
        if cached is not None and (taken := cached.take(transfer)) is not None:
            return taken
        with storage.source(transfer.src) as source:
            if cached is not None:
                taken = cached.bring(source, transfer, control, near=storage.near)
                if taken is not None:
                    return taken
            with self._directory().target(transfer.dest, source.mode) as target:
                return move(source, target, control)

    def _cached(self, storage: StorageBackend, transfer: Transfer) -> Cached | None:
        """Return how to bring a file by way of the cache, None if that makes no sense."""
        if self._cache is None or (storage.near and self._files is None):
            return None
        if not storage.near and transfer.sha256 is None and not storage.tells_digests:
            return None
        directory = self._place(self._cache.directory)
        return Cached(self._cache, directory, self._workdir)

    def take(self, transfer: Transfer, control: TransferControl) -> TransferResult | None:
        """Move an output out of it."""
        storage = self._storage(transfer.dest)
        if storage.moves_nothing:
            return None
        if is_directory(transfer.dest):
            directory, pattern = split_tree(f"./{transfer.src}")
            tree = self._directory().tree(_path(directory), pattern)
            return move_tree(tree, storage.tree_target(transfer.dest[:-1]), control)
        with (
            self._directory().source(transfer.src) as source,
            storage.target(transfer.dest, source.mode) as target,
        ):
            return move(source, target, control)

    def _storage(self, url: str) -> StorageBackend:
        return storage_backend(url, self._settings.storage(url))

    def _directory(self) -> Directory:
        return self._place(self._workdir)

    def _place(self, directory: str) -> Directory:
        if self._files is None:
            return LocalDirectory(directory)
        return self._files.directory(directory)
