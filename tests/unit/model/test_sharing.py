"""Fair shares: an equal number of places for each owner, the urgent before all."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.model.sharing import Waiting, share

OWNERS = st.sampled_from(["ada", "ben", None])


def one(
    number: int, owner: str | None, priority: int = 4, ready_at: float | None = None
) -> Waiting:
    at = float(number) if ready_at is None else ready_at
    return Waiting(
        experiment_id=f"exp-{number:03}", seq=2, owner=owner, priority=priority, ready_at=at
    )


def owners(chosen: list[Waiting]) -> list[str | None]:
    return [waiting.owner for waiting in chosen]


def test_a_crowd_of_one_owner_does_not_keep_the_other_waiting() -> None:
    crowd = [one(number, "ada") for number in range(100)]
    late = [one(number, "ben") for number in range(100, 103)]
    assert owners(share([*crowd, *late], {}, 6)) == ["ada", "ben"] * 3
    assert owners(share([*crowd, *late], {}, 9)) == ["ada", "ben"] * 3 + ["ada"] * 3


def test_what_they_use_already_counts() -> None:
    waiting = [one(number, "ada" if number % 2 else "ben") for number in range(10)]
    assert owners(share(waiting, {"ada": 3}, 4)) == ["ben", "ben", "ben", "ada"]
    assert owners(share(waiting, {"ada": 1, "eve": 50}, 3)) == ["ben", "ada", "ben"]


def test_the_urgent_go_first_whoever_owns_them() -> None:
    waiting = [one(1, "ben"), one(2, "ada", 9), one(3, "ada", 9), one(4, "eve")]
    chosen = share(waiting, {"ada": 10}, 3)
    assert [waiting.experiment_id for waiting in chosen] == ["exp-002", "exp-003", "exp-001"]


def test_within_an_owner_the_oldest_goes_first() -> None:
    waiting = [one(1, None, ready_at=9.0), one(2, None, ready_at=1.0), one(3, None, ready_at=1.0)]
    assert [one.experiment_id for one in share(waiting, {}, 3)] == ["exp-002", "exp-003", "exp-001"]


def test_no_places() -> None:
    assert share([one(1, "ada")], {}, 0) == []
    assert share([], {}, 5) == []


@given(
    st.lists(st.tuples(OWNERS, st.integers(0, 2), st.floats(0, 10)), max_size=40),
    st.dictionaries(OWNERS, st.integers(0, 5)),
    st.integers(0, 50),
)
def test_whatever_waits_the_shares_are_fair(
    lines: list[tuple[str | None, int, float]], using: dict[str | None, int], free: int
) -> None:
    waiting = [one(n, owner, priority, at) for n, (owner, priority, at) in enumerate(lines)]
    chosen = share(waiting, using, free)
    assert len(chosen) == min(free, len(waiting))
    assert len({one.experiment_id for one in chosen}) == len(chosen)
    left = [one for one in waiting if one not in chosen]
    if left and chosen:
        lowest, highest = min(o.priority for o in chosen), max(o.priority for o in left)
        assert lowest >= highest
    # who still waits at the last priority served has no fewer than one who got a place there
    has = Counter(using) + Counter(one.owner for one in chosen)
    last = chosen[-1].priority if chosen else None
    for got in {one.owner for one in chosen if one.priority == last}:
        for waits in {one.owner for one in left if one.priority == last}:
            assert has[got] <= has[waits] + 1 or has[got] == using.get(got, 0)
