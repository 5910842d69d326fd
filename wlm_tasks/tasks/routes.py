"""Which way bytes go: from host to host by themselves where they can, else through this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final, TypeVar

from wlm_tasks.errors import NoDirectWayError
from wlm_tasks.hosts.detours import BetweenHosts, Detours, Logins
from wlm_tasks.model.ends import Entry, Source, Target, Tree, TreeTarget
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.transfer import Pace, move
from wlm_tasks.storage.trees import archive_word, move_bunch, move_tree

if TYPE_CHECKING:
    from wlm_tasks.hosts.direct import Way
    from wlm_tasks.hosts.directtrees import TreeWay

_log = logging.getLogger(__name__)
_DETOURS: Final = Detours()
_T = TypeVar("_T")
_Way = TypeVar("_Way", bound=BetweenHosts)


class Route:
    """Moves files between two places, whose hosts may log in to each other as `logins` say."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins

    def move(self, source: Source, target: Target, control: TransferControl) -> TransferResult:
        """Move one file."""
        result = self._without_us(
            _ways(source, target, self._logins), lambda way: move(source, way, control), control
        )
        return move(source, target, control) if result is None else result

    def move_tree(self, tree: Tree, target: TreeTarget, control: TransferControl) -> TransferResult:
        """Move those of a directory."""
        return move_tree(tree, target, control, self.move, self._move_bunch)

    def _move_bunch(
        self, tree: Tree, target: TreeTarget, entries: Sequence[Entry], control: TransferControl
    ) -> dict[str, str]:
        pace = Pace(control)
        digests = self._without_us(
            _tree_ways(tree, target, entries, self._logins),
            lambda way: way.carry(entries, archive_word()),
            control,
        )
        if digests is None:
            return move_bunch(tree, target, entries, control)
        pace.after(sum(entry.size for entry in entries))
        return digests

    def _without_us(
        self, found: Sequence[_Way], go: Callable[[_Way], _T], control: TransferControl
    ) -> _T | None:
        """Go the first way that is not left alone for now; None if there is none."""
        reason = None
        for way in found:
            if (known := _DETOURS.reason(way)) is not None:
                reason = reason or known
                continue
            try:
                return go(way)
            except NoDirectWayError as error:
                reason = error.message
                _log.warning("no direct way, files go through workers for now: %s", reason)
                _DETOURS.note(way, reason)
                break
        if reason is not None:
            control.tell(f"through the worker: {reason}")
        return None


@cache
def _are_there_hosts() -> bool:
    """Whether an end of a transfer can be on another host: without asyncssh none is."""
    return find_spec("asyncssh") is not None


def _ways(source: Source, target: Target, logins: Logins) -> list[Way]:
    if not _are_there_hosts():
        return []
    from wlm_tasks.hosts.direct import ways  # noqa: PLC0415 - needs asyncssh

    return ways(source, target, logins)


def _tree_ways(
    tree: Tree, target: TreeTarget, entries: Sequence[Entry], logins: Logins
) -> list[TreeWay]:
    if not _are_there_hosts():
        return []
    from wlm_tasks.hosts.directtrees import tree_ways  # noqa: PLC0415 - needs asyncssh

    return tree_ways(tree, target, entries, logins)
