"""How a whole site stands, and what follows from evidence about it. Pure.

A site's *condition* is found out by what works on it: polls and steps. That an operator has
*paused* it is another matter, kept beside: the one may change while the other stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from wlm_tasks.errors import (
    SiteAuthError,
    SiteMaintenanceError,
    SiteOverloadedError,
    SiteTroubleError,
    SiteUnreachableError,
)
from wlm_tasks.model.steps import StepName


class SiteState(StrEnum):
    """How a site stands, as an operator sees it."""

    UP = "UP"
    ACCOUNTING_DOWN = "ACCOUNTING_DOWN"  #: serves us, but cannot tell about jobs long ended
    OVERLOADED = "OVERLOADED"  #: asks for fewer requests, or a limit of the account is reached
    MAINTENANCE = "MAINTENANCE"  #: taken out of service by its operators
    UNREACHABLE = "UNREACHABLE"  #: its host or scheduler does not answer
    AUTH_NEEDED = "AUTH_NEEDED"  #: refuses our credentials; a person mends it
    PAUSED = "PAUSED"  #: by an operator of ours


#: From the lightest to the worst; what is worse hides what is lighter.
_WEIGHT: Final[dict[SiteState, int]] = {state: weight for weight, state in enumerate(SiteState)}
_OF_ERROR: Final[dict[type[SiteTroubleError], SiteState]] = {
    SiteUnreachableError: SiteState.UNREACHABLE,
    SiteAuthError: SiteState.AUTH_NEEDED,
    SiteOverloadedError: SiteState.OVERLOADED,
    SiteMaintenanceError: SiteState.MAINTENANCE,
}
_NEW_WORK: Final = frozenset({StepName.SETUP, StepName.STAGE_IN, StepName.SUBMIT})
_ALL_WORK: Final = frozenset({*_NEW_WORK, StepName.STAGE_OUT})
#: The steps that are not begun while a site stands like this.
BLOCKED: Final[dict[SiteState, frozenset[StepName]]] = {
    SiteState.UP: frozenset(),
    SiteState.ACCOUNTING_DOWN: frozenset(),
    SiteState.OVERLOADED: _NEW_WORK,
    SiteState.MAINTENANCE: _NEW_WORK,
    SiteState.UNREACHABLE: _ALL_WORK,
    SiteState.AUTH_NEEDED: _ALL_WORK,
    SiteState.PAUSED: _NEW_WORK,
}
#: Conditions in which a site takes work.
OPEN: Final = frozenset({SiteState.UP, SiteState.ACCOUNTING_DOWN})
#: Conditions in which asking the site about jobs, or to end one, is in vain.
SILENT: Final = frozenset({SiteState.UNREACHABLE, SiteState.AUTH_NEEDED})

#: Who finds out, beside steps by their names.
POLL: Final = "poll"
PERSON: Final = "person"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """How a site stands, by the evidence so far."""

    state: SiteState = SiteState.UP
    found_by: str | None = None  #: a poll, or the step of this name


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one look at a site has shown."""

    state: SiteState
    by: str
    reason: str | None = None  #: in the site's own words


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from evidence."""

    condition: Condition
    tell: bool  #: it is a change that people want to know


def judge(now: Condition, seen: Evidence) -> Verdict:
    """Decide how a site stands after a look at it.

    Trouble is over when whoever found it gets through: that a poll is answered says nothing of
    submissions that are refused. A worse trouble takes the place of a lighter one.
    """
    told = Condition(state=seen.state, found_by=None if seen.state is SiteState.UP else seen.by)
    if seen.state is now.state:
        # a poll can be repeated without a step, so it is the better one to find out the end
        by_poll = seen.by == POLL and seen.state is not SiteState.UP
        return Verdict(condition=told if by_poll else now, tell=False)
    same_finder = seen.by in (now.found_by, PERSON)
    if same_finder or _WEIGHT[seen.state] > _WEIGHT[now.state]:
        return Verdict(condition=told, tell=True)
    return Verdict(condition=now, tell=False)


def trouble_of(error: SiteTroubleError) -> SiteState:
    """The condition that an error of the whole site stands for."""
    for kind, state in _OF_ERROR.items():
        if isinstance(error, kind):
            return state
    return SiteState.UNREACHABLE


#: How much longer than usual the first pause before a new try is: people are slow, and an
#: account is soon locked by wrong credentials.
_PATIENCE: Final[Mapping[SiteState, float]] = {
    SiteState.AUTH_NEEDED: 30.0,
    SiteState.MAINTENANCE: 6.0,
}


def probe_pause_s(
    state: SiteState, probes: int, *, first_s: float, most_s: float, chance: float
) -> float:
    """Seconds until a site in trouble is tried again, after so many tries in vain.

    `chance`, from 0 to 1, spreads the tries of many sites by a fifth to either side.
    """
    first = first_s * _PATIENCE.get(state, 1.0)
    pause = min(first * 2.0 ** min(probes, 30), max(most_s, first))
    return pause * (0.8 + 0.4 * chance)


@dataclass(frozen=True, kw_only=True)
class Polled:
    """What one poll of a site was like. Times are seconds."""

    changed: bool  #: a job's state did
    took_s: float
    #: until the first job reaches its time limit; None if that is not known of any
    soonest_end_s: float | None = None


#: An interval grows by this factor, so that it is about a tenth of the time nothing changed.
_GROWTH: Final = 1.1
#: Most of the time that polls of a site may take up, in parts.
_SHARE: Final = 0.1
#: Longest interval because of slow polls.
_SLOWEST_S: Final = 300.0


def poll_pause_s(
    polled: Polled, before_s: float | None, *, least_s: float, most_s: float, chance: float
) -> float:
    """Seconds from this poll of a site to the next; `before_s` were from the last to this.

    At `least_s` while jobs change, then longer each time up to `most_s`; soon enough before a
    job's time limit; and never so soon that slow answers take up the site. `chance`, from 0 to
    1, spreads polls by a tenth to either side.
    """
    most = max(most_s, least_s)
    if polled.changed or before_s is None:
        pause = least_s
    else:
        pause = min(max(before_s, least_s) * _GROWTH, most)
    if polled.soonest_end_s is not None:
        pause = min(pause, max(polled.soonest_end_s / 2, least_s))
    pause = max(pause, min(polled.took_s / _SHARE, _SLOWEST_S))
    return max(pause * (0.9 + 0.2 * chance), least_s)
