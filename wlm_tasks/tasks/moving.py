"""Moving files between where they are kept and an experiment's directory on its site.

Bytes go straight from one end to the other: through this process and no file of this host, or
without it where both ends are on one host, or on two of which one may log in to the other.
"""

from __future__ import annotations

from wlm_tasks.compute.base import SiteStore
from wlm_tasks.config import Settings, SiteSettings
from wlm_tasks.hosts.cache import SiteCache
from wlm_tasks.hosts.detours import Logins
from wlm_tasks.model.ends import Directory
from wlm_tasks.model.experiment import Transfer
from wlm_tasks.model.paths import is_directory, split_tree
from wlm_tasks.plugins import storage_backend
from wlm_tasks.storage.base import StorageBackend, TransferControl, TransferResult
from wlm_tasks.storage.localtrees import LocalDirectory
from wlm_tasks.tasks.caching import Cached
from wlm_tasks.tasks.routes import Route


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
        site: SiteSettings | None = None,
    ) -> None:
        """Without `files` the worker sees the directory itself.

        Without `site` no host logs in to another.
        """
        self._settings = settings
        self._site = site
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
            target_tree = self._directory().tree_target(_path(transfer.dest))
            return self._route_here(transfer).move_tree(tree, target_tree, control)
        cached = self._cached(storage, transfer)
        if cached is not None and (taken := cached.take(transfer)) is not None:
            return taken
        with storage.source(transfer.src) as source:
            if cached is not None:
                taken = cached.bring(source, transfer, control, near=storage.near)
                if taken is not None:
                    return taken
            with self._directory().target(transfer.dest, source.mode) as target:
                return self._route_here(transfer).move(source, target, control)

    def _cached(self, storage: StorageBackend, transfer: Transfer) -> Cached | None:
        """Return how to bring a file by way of the cache, None if that makes no sense."""
        if self._cache is None or (storage.near and self._files is None):
            return None
        if not storage.near and transfer.sha256 is None and not storage.tells_digests:
            return None
        directory = self._place(self._cache.directory)
        return Cached(self._cache, directory, self._workdir, self._route_here(transfer).move)

    def take(self, transfer: Transfer, control: TransferControl) -> TransferResult | None:
        """Move an output out of it."""
        storage = self._storage(transfer.dest)
        if storage.moves_nothing:
            return None
        to, back = self._logins(transfer.dest)
        route = Route(Logins(source=to, target=back))
        if is_directory(transfer.dest):
            directory, pattern = split_tree(f"./{transfer.src}")
            tree = self._directory().tree(_path(directory), pattern)
            return route.move_tree(tree, storage.tree_target(transfer.dest[:-1]), control)
        with (
            self._directory().source(transfer.src) as source,
            storage.target(transfer.dest, source.mode) as target,
        ):
            return route.move(source, target, control)

    def _route_here(self, transfer: Transfer) -> Route:
        """Return the route of an input."""
        to, back = self._logins(transfer.src)
        return Route(Logins(source=back, target=to))

    def _logins(self, url: str) -> tuple[bool, bool]:
        """Return whether the site logs in to the storage of a URL, and that one to the site."""
        site, storage = self._site, self._settings.storage(url)
        if site is None or storage is None:
            return False, False
        return storage.name in site.direct_to, site.name in storage.direct_to

    def _storage(self, url: str) -> StorageBackend:
        return storage_backend(url, self._settings.storage(url))

    def _directory(self) -> Directory:
        return self._place(self._workdir)

    def _place(self, directory: str) -> Directory:
        if self._files is None:
            return LocalDirectory(directory)
        return self._files.directory(directory)
