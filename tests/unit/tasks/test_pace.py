"""How many steps a slot claims at once."""

from __future__ import annotations

from wlm_tasks.model.steps import StepName
from wlm_tasks.tasks.batch import Pace

SETUP, STAGE_IN = StepName.SETUP, StepName.STAGE_IN


def test_of_what_is_not_known_there_is_room_for_one() -> None:
    pace = Pace(16)
    pace.took("alpha", SETUP, 0.0001)
    assert pace.room("alpha", STAGE_IN) == 1
    assert pace.room("beta", SETUP) == 1


def test_there_is_room_for_what_fits_into_a_moment_and_no_more_than_may_be() -> None:
    pace = Pace(16)
    for took_s, room in ((0.0, 16), (0.001, 16), (0.002, 10), (0.01, 2), (0.02, 1), (3600.0, 1)):
        pace = Pace(16)
        pace.took("alpha", SETUP, took_s)
        assert pace.room("alpha", SETUP) == room, took_s
    only = Pace(1)
    only.took("alpha", SETUP, 0.0)
    assert only.room("alpha", SETUP) == 1


def test_slow_is_believed_at_once_and_quick_after_a_while() -> None:
    pace = Pace(16)
    for _ in range(10):
        pace.took("alpha", SETUP, 0.0001)
    pace.took("alpha", SETUP, 10.0)
    assert pace.room("alpha", SETUP) == 1
    quick = 0
    while pace.room("alpha", SETUP) < 16:
        pace.took("alpha", SETUP, 0.0001)
        quick += 1
    assert 20 < quick < 60
