"""Inputs by way of a site's cache: the first experiment brings a file there, the others find it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from wlm_tasks.errors import StorageBusyError
from wlm_tasks.hosts.cache import SMALLEST, SiteCache
from wlm_tasks.model.ends import Directory, Source
from wlm_tasks.model.experiment import Transfer
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.prefix import Prefix
from wlm_tasks.storage.transfer import MoveOne

#: seconds between two looks at a file that another experiment is bringing
_LOOK_S: Final = 0.3


class Cached:
    """Brings inputs of one experiment by way of its site's cache."""

    def __init__(self, cache: SiteCache, directory: Directory, workdir: str, one: MoveOne) -> None:
        """`directory` is the cache's own, `workdir` the experiment's; `one` brings a file there."""
        self._move_one = one
        self._cache = cache
        self._directory = directory
        self._workdir = workdir

    def take(self, transfer: Transfer) -> TransferResult | None:
        """Take a file whose digest is known, without a look at its source; None if it is not so."""
        if transfer.sha256 is None or (size := self._cache.size(transfer.sha256)) is None:
            return None
        return self._take(transfer.sha256, transfer, None, size)

    def bring(
        self, source: Source, transfer: Transfer, control: TransferControl, *, near: bool
    ) -> TransferResult | None:
        """Bring a file, or as much as `control` allows; None if that is not worth it.

        It is not for a small one, nor where only reading it from afar would tell its digest.
        """
        if source.size < SMALLEST:
            return None
        digest = transfer.sha256 or source.digest(source.size)
        if digest is None:
            if not near:
                return None
            prefix = Prefix(None, source, replace(control, progress=lambda _done, _size: None))
            prefix.run(source.size)
            prefix.keep()
            if prefix.stopped:
                return _stopped(source)
            digest = prefix.digest()
        assert digest is not None  # noqa: S101 - it was read
        while (taken := self._take(digest, transfer, source.mode, source.size)) is None:
            if control.should_stop() or not self._move(digest, source, control):
                return _stopped(source)
        control.progress(source.size, source.size)
        return taken

    def _take(
        self, digest: str, transfer: Transfer, mode: int | None, size: int
    ) -> TransferResult | None:
        if not self._cache.take(digest, size, self._workdir, transfer.dest, mode):
            return None
        return TransferResult(complete=True, size=size, done=size, moved=0, sha256=digest)

    def _move(self, digest: str, source: Source, control: TransferControl) -> bool:
        """Bring it to the cache, or wait a moment if another does; False if told to stop."""
        try:
            with self._directory.target(self._cache.path(digest), source.mode) as target:
                control = replace(control, sha256=digest)
                complete = self._move_one(source, target, control).complete
        except StorageBusyError:
            time.sleep(_LOOK_S)
            return True
        if complete:
            self._cache.seal(digest)
        return complete


def _stopped(source: Source) -> TransferResult:
    return TransferResult(complete=False, size=source.size, done=0, moved=0)
