"""How a site stands after evidence, and when it is looked at again: tables of cases."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.errors import (
    SiteAuthError,
    SiteMaintenanceError,
    SiteOverloadedError,
    SiteTroubleError,
    SiteUnreachableError,
)
from wlm_tasks.model.sites import (
    BLOCKED,
    OPEN,
    PERSON,
    POLL,
    Condition,
    Evidence,
    Polled,
    SiteState,
    judge,
    poll_pause_s,
    probe_pause_s,
    trouble_of,
)
from wlm_tasks.model.steps import StepName

S = SiteState
CONDITIONS = [state for state in S if state is not S.PAUSED]


def _judge(before: tuple[S, str | None], look: tuple[S, str]) -> tuple[S, str | None, bool]:
    now = Condition(state=before[0], found_by=before[1])
    verdict = judge(now, Evidence(state=look[0], by=look[1]))
    return verdict.condition.state, verdict.condition.found_by, verdict.tell


@pytest.mark.parametrize(
    ("before", "look", "after"),
    [
        # all is well
        ((S.UP, None), (S.UP, POLL), (S.UP, None, False)),
        ((S.UP, None), (S.UP, "submit"), (S.UP, None, False)),
        # trouble begins: told once
        ((S.UP, None), (S.UNREACHABLE, POLL), (S.UNREACHABLE, POLL, True)),
        ((S.UP, None), (S.OVERLOADED, "submit"), (S.OVERLOADED, "submit", True)),
        ((S.UP, None), (S.ACCOUNTING_DOWN, POLL), (S.ACCOUNTING_DOWN, POLL, True)),
        ((S.UNREACHABLE, POLL), (S.UNREACHABLE, POLL), (S.UNREACHABLE, POLL, False)),
        ((S.UNREACHABLE, POLL), (S.UNREACHABLE, "setup"), (S.UNREACHABLE, POLL, False)),
        # a poll takes over from a step: it can be repeated without one
        ((S.UNREACHABLE, "setup"), (S.UNREACHABLE, POLL), (S.UNREACHABLE, POLL, False)),
        # worse hides lighter, lighter does not hide worse
        ((S.OVERLOADED, "submit"), (S.UNREACHABLE, POLL), (S.UNREACHABLE, POLL, True)),
        ((S.UNREACHABLE, "setup"), (S.AUTH_NEEDED, POLL), (S.AUTH_NEEDED, POLL, True)),
        ((S.AUTH_NEEDED, POLL), (S.OVERLOADED, "submit"), (S.AUTH_NEEDED, POLL, False)),
        ((S.UNREACHABLE, "setup"), (S.ACCOUNTING_DOWN, POLL), (S.UNREACHABLE, "setup", False)),
        # who found it sees how it changes
        ((S.UNREACHABLE, POLL), (S.MAINTENANCE, POLL), (S.MAINTENANCE, POLL, True)),
        ((S.UNREACHABLE, POLL), (S.ACCOUNTING_DOWN, POLL), (S.ACCOUNTING_DOWN, POLL, True)),
        # and when it is over; others do not
        ((S.UNREACHABLE, POLL), (S.UP, POLL), (S.UP, None, True)),
        ((S.OVERLOADED, "submit"), (S.UP, "submit"), (S.UP, None, True)),
        ((S.OVERLOADED, "submit"), (S.UP, POLL), (S.OVERLOADED, "submit", False)),
        ((S.OVERLOADED, "submit"), (S.UP, "setup"), (S.OVERLOADED, "submit", False)),
        ((S.ACCOUNTING_DOWN, POLL), (S.UP, "submit"), (S.ACCOUNTING_DOWN, POLL, False)),
        # a person always may
        ((S.AUTH_NEEDED, POLL), (S.UP, PERSON), (S.UP, None, True)),
        ((S.UP, None), (S.UP, PERSON), (S.UP, None, False)),
    ],
)  # fmt: skip
def test_what_evidence_makes_of_a_site(
    before: tuple[S, str | None], look: tuple[S, str], after: tuple[S, str | None, bool]
) -> None:
    assert _judge(before, look) == after


_LOOKS = st.tuples(st.sampled_from(CONDITIONS), st.sampled_from([POLL, "setup", "submit"]))


@given(st.lists(_LOOKS, max_size=30))
def test_a_notice_is_a_change_and_a_change_is_a_notice(looks: list[tuple[S, str]]) -> None:
    now = Condition()
    for state, by in looks:
        verdict = judge(now, Evidence(state=state, by=by))
        assert verdict.tell is (verdict.condition.state is not now.state)
        assert (verdict.condition.found_by is None) is (verdict.condition.state is S.UP)
        now = verdict.condition


def test_each_error_of_a_site_is_a_state() -> None:
    kinds = [SiteUnreachableError, SiteAuthError, SiteOverloadedError, SiteMaintenanceError]
    found = [trouble_of(kind("words")) for kind in kinds]
    assert found == [S.UNREACHABLE, S.AUTH_NEEDED, S.OVERLOADED, S.MAINTENANCE]
    assert trouble_of(SiteTroubleError("odd")) is S.UNREACHABLE


def test_every_state_says_what_it_blocks() -> None:
    assert set(BLOCKED) == set(S)
    assert all(not BLOCKED[state] for state in OPEN)
    assert all(StepName.SUBMIT in BLOCKED[state] for state in set(S) - OPEN)
    assert all(StepName.MONITOR not in blocked for blocked in BLOCKED.values())


@pytest.mark.parametrize(
    ("state", "probes", "pause"),
    [
        (S.UNREACHABLE, 0, 10.0),
        (S.UNREACHABLE, 1, 20.0),
        (S.UNREACHABLE, 5, 320.0),
        (S.UNREACHABLE, 6, 600.0),
        (S.UNREACHABLE, 10_000, 600.0),
        (S.OVERLOADED, 0, 10.0),
        (S.MAINTENANCE, 0, 60.0),
        (S.AUTH_NEEDED, 0, 300.0),
        (S.AUTH_NEEDED, 3, 600.0),
    ],
)
def test_pauses_before_probes(state: S, probes: int, pause: float) -> None:
    def at(chance: float) -> float:
        return probe_pause_s(state, probes, first_s=10.0, most_s=600.0, chance=chance)

    assert at(0.5) == pytest.approx(pause)
    assert (at(0.0), at(1.0)) == pytest.approx((0.8 * pause, 1.2 * pause))


def _pause(before_s: float | None, chance: float = 0.5, **polled: Any) -> float:
    made = Polled(**{"changed": False, "took_s": 0.05, **polled})
    return poll_pause_s(made, before_s, least_s=2.0, most_s=30.0, chance=chance)


@pytest.mark.parametrize(
    ("before_s", "polled", "pause"),
    [
        (None, {}, 2.0),
        (2.0, {"changed": True}, 2.0),
        (20.0, {"changed": True}, 2.0),  # fast again
        (2.0, {}, 2.2),  # slower each time
        (20.0, {}, 22.0),
        (29.0, {}, 30.0),
        (300.0, {}, 30.0),  # the settings were changed
        (0.1, {}, 2.2),
        (30.0, {"soonest_end_s": 10.0}, 5.0),  # in time for what is about to end
        (30.0, {"soonest_end_s": 0.0}, 2.0),
        (30.0, {"soonest_end_s": 5000.0}, 30.0),
        (2.0, {"changed": True, "took_s": 4.0}, 40.0),  # a slow site is asked less, whatever it is
        (2.0, {"took_s": 100.0}, 300.0),
    ],
)
def test_pauses_between_polls(before_s: float | None, polled: dict[str, Any], pause: float) -> None:
    assert _pause(before_s, **polled) == pytest.approx(pause)


@given(
    st.none() | st.floats(0, 1000),
    st.floats(0, 1),
    st.booleans(),
    st.floats(0, 1000),
    st.none() | st.floats(0, 1e6),
)
def test_a_poll_is_never_too_soon_and_always_comes(
    before_s: float | None, chance: float, changed: bool, took_s: float, end_s: float | None
) -> None:
    pause = _pause(before_s, chance, changed=changed, took_s=took_s, soonest_end_s=end_s)
    assert 2.0 <= pause <= 1.1 * 300.0


def test_polls_are_spread() -> None:
    assert _pause(20.0, chance=0.0) < _pause(20.0, chance=1.0)
