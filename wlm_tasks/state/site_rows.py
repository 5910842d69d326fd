"""What is read about sites."""

from __future__ import annotations

from dataclasses import dataclass

from wlm_tasks.model.sites import OPEN, POLL, SILENT, SiteState


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """What is known of a site. Times are seconds since the epoch."""

    name: str
    state: SiteState = SiteState.UP  #: by the evidence, paused or not
    since: float | None = None  #: None: as long as anybody knows
    reason: str | None = None  #: in the site's own words
    found_by: str | None = None
    told_by: str | None = None  #: the worker, or the person
    probes: int = 0  #: tries in vain since
    probe_at: float | None = None  #: when it is tried again
    probing: str | None = None  #: the experiment whose step tries now
    paused_at: float | None = None
    paused_reason: str | None = None
    paused_by: str | None = None
    queued: int | None = None  #: jobs of the account, others' included
    running: int | None = None
    foreign_jobs: int | None = None  #: those of both that are not ours
    load_at: float | None = None

    @property
    def shown(self) -> SiteState:
        """How it stands for an operator: what was paused on purpose is PAUSED."""
        return self.state if self.paused_at is None else SiteState.PAUSED

    @property
    def takes_work(self) -> bool:
        """Whether new work may go there."""
        return self.shown in OPEN

    @property
    def can_be_polled(self) -> bool:
        """Whether the usual polls go on: not while they are in vain."""
        return self.state in OPEN or not (self.state in SILENT or self.found_by == POLL)


@dataclass(frozen=True, kw_only=True)
class Busy:
    """How much of ours is at a site, or waits for it."""

    queued: int = 0  #: jobs handed in, or about to be, that have not started
    running: int = 0
    held: int = 0  #: steps that wait for a limit or for the end of trouble


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a site's condition that people want to know."""

    site: str
    was: SiteState
    state: SiteState
    lasted_s: float | None  #: how long it was as before
    reason: str | None
