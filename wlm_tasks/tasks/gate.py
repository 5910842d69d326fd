"""The gate before each site: what is in trouble or paused is not touched, and that is told.

Every process keeps what it knows of a site for a moment, so that work on sites that are up costs
nothing; before it refuses a step it looks again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass
from typing import Final

from wlm_tasks.config import SiteSettings
from wlm_tasks.errors import SiteTroubleError
from wlm_tasks.model.sites import (
    BLOCKED,
    POLL,
    Evidence,
    SiteState,
    probe_pause_s,
    trouble_of,
)
from wlm_tasks.model.steps import StepName
from wlm_tasks.runtime import Runtime
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.site_rows import Change, SiteRow

_log = logging.getLogger(__name__)
#: Seconds for which it is not asked again how a site stands.
_KNOWN_S: Final = 1.0


@dataclass(frozen=True)
class Blocked:
    """The step was not begun, since its site takes no work now."""

    reason: str


class Gate:
    """Lets steps through to their sites, and hears how it went. Safe between threads."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: dict[str, tuple[float, SiteRow]] = {}
        self._lock = threading.Lock()

    def blocked(self, site: str, claim: Claim) -> Blocked | None:
        """Why the step is not to be begun, if so."""
        if not _refuses(self._look(site), claim.name, claim.experiment_id):
            return None
        row = self._look(site, fresh=True)
        refused = _refuses(row, claim.name, claim.experiment_id)
        return Blocked(words(row)) if refused else None

    def is_open(self, site: str, name: StepName, experiment_id: str) -> bool:
        """Whether the experiment's step of this name could be begun now."""
        return not _refuses(self._look(site), name, experiment_id)

    def passed(self, site: str, claim: Claim) -> None:
        """The step got through to its site, which may be the end of a trouble."""
        row = self._look(site)
        if row.state is SiteState.UP or row.found_by != claim.name:
            return
        report(self._runtime, site, Evidence(state=SiteState.UP, by=claim.name), claim)
        self._forget(site)

    def met(self, site: str, claim: Claim, error: SiteTroubleError) -> Blocked:
        """The step met trouble of its site: tell it; the step is to be held."""
        state = trouble_of(error)
        report(
            self._runtime, site, Evidence(state=state, by=claim.name, reason=error.message), claim
        )
        self._forget(site)
        return Blocked(f"site {site}: {error.message}")

    def _look(self, site: str, *, fresh: bool = False) -> SiteRow:
        with self._lock:
            at, row = self._known.get(site, (0.0, None))
        if fresh or row is None or time.monotonic() - at > _KNOWN_S:
            row = self._runtime.store.sites.get(site)
            with self._lock:
                self._known[site] = time.monotonic(), row
        return row

    def _forget(self, site: str) -> None:
        with self._lock:
            self._known.pop(site, None)


def _refuses(row: SiteRow, name: StepName, experiment_id: str) -> bool:
    """Whether a step is to wait; one that is to find out the end of trouble is not."""
    paused = row.shown is SiteState.PAUSED and name in BLOCKED[SiteState.PAUSED]
    return paused or (name in BLOCKED[row.state] and row.probing != experiment_id)


def words(row: SiteRow) -> str:
    """Why nothing goes to a site, for people."""
    if row.paused_at is not None:
        by = f" by {row.paused_by}" if row.paused_by else ""
        why = f": {row.paused_reason}" if row.paused_reason else ""
        return f"site {row.name}: paused{by}{why}"
    return f"site {row.name}: {row.reason or row.state}"


def report(runtime: Runtime, site: str, seen: Evidence, claim: Claim | None = None) -> None:
    """Write down what a look at a site has shown; a change goes into the log once.

    Raises `ServiceError` if the database is out of reach.
    """
    settings = runtime.settings.sites.get(site)
    pause_s = 0.0 if settings is None else pause_before_probe(settings, seen.state, 0)
    who = POLL if claim is None else f"step {claim.name} of {claim.experiment_id}"
    change = runtime.store.sites.report(site, seen, who=who, pause_s=pause_s)
    if change is not None:
        tell(change)
        runtime.wake()


def pause_before_probe(settings: SiteSettings, state: SiteState, probes: int) -> float:
    """Seconds until a site in trouble is tried again."""
    return probe_pause_s(
        state,
        probes,
        first_s=settings.probe_s,
        most_s=settings.probe_max_s,
        chance=random.random(),  # noqa: S311 - no secret
    )


def tell(change: Change) -> None:
    """Put a change of a site into the log of this process."""
    if change.state is SiteState.UP:
        lasted = "" if change.lasted_s is None else f" for {change.lasted_s:.0f} s"
        _log.warning("site %s: is UP again, was %s%s", change.site, change.was, lasted)
    else:
        said = f": {change.reason}" if change.reason else ""
        _log.warning("site %s: is %s, was %s%s", change.site, change.state, change.was, said)
