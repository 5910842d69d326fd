"""How a worker stands, by what its witnesses say."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.model.workers import (
    Change,
    Outcome,
    Rules,
    Sight,
    Sights,
    Standing,
    Witness,
    WorkerState,
    is_dead,
    is_mass_outage,
    is_overdue,
    judge,
)

UP, SUSPECT, DOWN, RECOVERED, DRAINING, LEFT = (
    WorkerState.UP,
    WorkerState.SUSPECT,
    WorkerState.DOWN,
    WorkerState.RECOVERED,
    WorkerState.DRAINING,
    WorkerState.LEFT,
)
RULES = Rules(grace_s=20.0, alone_s=300.0, probation_s=60.0)
SEEN = Sight(alive=True, for_s=1.0)


def missed(for_s: float = 30.0, **more: bool) -> Sight:
    return Sight(alive=False, for_s=for_s, words="silent", **more)


def sights(**said: Sight) -> Sights:
    return {Witness(name): sight for name, sight in said.items()}


ALIVE = sights(celery=SEEN, database=SEEN, serf=SEEN)
DEAD = sights(celery=missed(), database=missed(), serf=missed())


def state_after(standing: Standing, said: Sights) -> WorkerState:
    change = judge(standing, said, RULES)
    return standing.state if change is None else change.state


@pytest.mark.parametrize(
    ("standing", "said", "state", "outcome"),
    [
        (Standing(), ALIVE, None, None),
        (Standing(), {}, None, None),
        (Standing(), sights(celery=SEEN, serf=missed()), SUSPECT, Outcome.QUIET),
        (Standing(), DEAD, SUSPECT, Outcome.QUIET),
        (Standing(state=SUSPECT, for_s=19.0), DEAD, None, None),
        (Standing(state=SUSPECT, for_s=20.0), DEAD, DOWN, Outcome.DISAPPEARED),
        (Standing(state=SUSPECT, for_s=99.0), ALIVE, UP, Outcome.QUIET),
        # a suspect for long because of Serf alone gets time, too
        (
            Standing(state=SUSPECT, for_s=9999.0),
            sights(celery=missed(27.0), database=missed(40.0), serf=missed(9999.0)),
            None,
            None,
        ),
        (
            Standing(state=SUSPECT, for_s=9999.0),
            sights(celery=missed(28.0), database=missed(40.0), serf=missed(9999.0)),
            DOWN,
            Outcome.DISAPPEARED,
        ),
        # what only one misses
        (Standing(state=SUSPECT, for_s=99.0), sights(celery=SEEN, serf=missed()), None, None),
        (Standing(state=SUSPECT, for_s=1e9), sights(serf=missed(1e9)), None, None),
        (
            Standing(state=SUSPECT, for_s=299.0),
            sights(celery=missed(299.0), database=SEEN, serf=SEEN),
            None,
            None,
        ),
        (
            Standing(state=SUSPECT, for_s=300.0),
            sights(celery=missed(300.0), database=SEEN, serf=SEEN),
            DOWN,
            Outcome.DISAPPEARED,
        ),
        (
            Standing(state=SUSPECT, for_s=300.0),
            sights(celery=SEEN, database=missed(300.0)),
            DOWN,
            Outcome.DISAPPEARED,
        ),
        # an agent outlives a frozen worker; one that cannot tell leaves it to the others
        (
            Standing(state=SUSPECT, for_s=30.0),
            sights(celery=missed(), database=missed(), serf=SEEN),
            DOWN,
            Outcome.DISAPPEARED,
        ),
        (
            Standing(state=SUSPECT, for_s=30.0),
            sights(database=missed(), serf=missed()),
            DOWN,
            Outcome.DISAPPEARED,
        ),
        (Standing(state=SUSPECT, for_s=30.0), sights(database=missed()), None, None),
        # the broker's word counts until something is heard again
        (
            Standing(state=SUSPECT, for_s=30.0),
            sights(broker=missed(25.0), celery=Sight(alive=True, for_s=26.0), database=missed()),
            DOWN,
            Outcome.DISAPPEARED,
        ),
        (
            Standing(state=SUSPECT, for_s=30.0),
            sights(broker=missed(25.0), celery=Sight(alive=True, for_s=2.0), database=SEEN),
            UP,
            Outcome.QUIET,
        ),
        # planned ends
        (Standing(draining=True), ALIVE, DRAINING, Outcome.QUIET),
        (Standing(state=SUSPECT, draining=True), DEAD, DRAINING, Outcome.QUIET),
        (Standing(state=DRAINING, draining=True), ALIVE, None, None),
        (Standing(state=DRAINING, draining=True), DEAD, LEFT, Outcome.QUIET),
        (Standing(state=DRAINING), ALIVE, UP, Outcome.QUIET),
        # one whose absence was announced is waited for until that is over
        (Standing(state=SUSPECT, for_s=9999.0, planned=True), DEAD, None, None),
        (Standing(gone=True), ALIVE, LEFT, Outcome.LEFT_UNASKED),
        (Standing(gone=True, draining=True), ALIVE, LEFT, Outcome.QUIET),
        (Standing(gone=True, planned=True), ALIVE, LEFT, Outcome.QUIET),
        (Standing(state=DOWN, gone=True), DEAD, LEFT, Outcome.LEFT_UNASKED),
        # it took its leave, and nobody knows why
        (
            Standing(),
            sights(celery=missed(goodbye=True), database=missed()),
            LEFT,
            Outcome.LEFT_UNASKED,
        ),
        # another process of its name
        (Standing(replaced=True), ALIVE, LEFT, Outcome.RESTARTED),
        (Standing(state=SUSPECT, replaced=True), DEAD, LEFT, Outcome.RESTARTED),
        (Standing(state=DRAINING, replaced=True), DEAD, LEFT, Outcome.QUIET),
        (Standing(planned=True, replaced=True), DEAD, LEFT, Outcome.QUIET),
        (Standing(state=DOWN, replaced=True), DEAD, LEFT, Outcome.QUIET),
        # back again
        (Standing(state=DOWN), DEAD, None, None),
        (Standing(state=DOWN), ALIVE, RECOVERED, Outcome.QUIET),
        (Standing(state=DOWN), sights(serf=SEEN), None, None),
        (Standing(state=DOWN), sights(celery=SEEN, database=missed()), None, None),
        (Standing(state=RECOVERED, for_s=59.0), ALIVE, None, None),
        (Standing(state=RECOVERED, for_s=60.0), ALIVE, UP, Outcome.BACK),
        (Standing(state=RECOVERED, for_s=5.0), DEAD, DOWN, Outcome.QUIET),
        # taken for gone
        (Standing(state=LEFT), ALIVE, UP, Outcome.QUIET),
        (Standing(state=LEFT), DEAD, None, None),
        (Standing(state=LEFT, gone=True), ALIVE, None, None),
        (Standing(state=LEFT, replaced=True), ALIVE, None, None),
    ],
)
def test_what_becomes_of_it(
    standing: Standing, said: Sights, state: WorkerState | None, outcome: Outcome | None
) -> None:
    change = judge(standing, said, RULES)
    assert (change and change.state, change and change.outcome) == (state, outcome)


def test_the_reason_names_who_misses_it_and_for_how_long() -> None:
    said = sights(celery=missed(31.0), database=SEEN, serf=Sight(alive=False, for_s=9.0))
    change = judge(Standing(), said, RULES)
    assert change is not None
    assert change.reason == "celery: silent for 31 s, serf: silent for 9 s"


def test_a_drain_is_overdue_only_while_it_lasts() -> None:
    late = Standing(state=DRAINING, draining=True, deadline_s=-1.0)
    assert is_overdue(late)
    assert not is_overdue(replace(late, deadline_s=1.0))
    assert not is_overdue(replace(late, deadline_s=None))
    assert not is_overdue(replace(late, state=LEFT))


@pytest.mark.parametrize(
    ("gone", "expected", "mass"),
    [(1, 1, False), (2, 2, False), (3, 3, True), (3, 6, True), (3, 7, False), (300, 1000, False)],
)
def test_a_mass_outage_is_at_least_three_and_half_of_them(
    gone: int, expected: int, mass: bool
) -> None:
    assert is_mass_outage(gone=gone, expected=expected) is mass


# -- whatever is said -----------------------------------------------------------------------

_sight = st.builds(
    Sight,
    alive=st.booleans(),
    for_s=st.floats(0.0, 1000.0),
    words=st.just("silent"),
    goodbye=st.just(value=False),
)
_said = st.dictionaries(st.sampled_from(Witness), _sight)
_standings = st.builds(
    Standing,
    state=st.sampled_from(WorkerState),
    for_s=st.floats(0.0, 1000.0),
    draining=st.booleans(),
    deadline_s=st.none() | st.floats(-100.0, 100.0),
    planned=st.booleans(),
    replaced=st.booleans(),
    gone=st.booleans(),
)


@given(_standings, _said)
def test_it_moves_only_when_something_changes(standing: Standing, said: Sights) -> None:
    change = judge(standing, said, RULES)
    assert change is None or change.state is not standing.state


@given(_standings, _said)
def test_nobody_alarms_for_one_that_is_seen_or_announced(standing: Standing, said: Sights) -> None:
    change = judge(standing, said, RULES)
    if change is None or change.outcome is not Outcome.DISAPPEARED:
        return
    assert standing.state is SUSPECT
    assert not any((standing.draining, standing.planned, standing.gone, standing.replaced))
    long = [s for w, s in said.items() if w in (Witness.CELERY, Witness.DATABASE)]
    alone = any(not sight.alive and sight.for_s >= RULES.alone_s for sight in long)
    assert alone or (is_dead(said) and standing.for_s >= RULES.grace_s)


@given(_standings, _said, _sight)
def test_serf_alone_takes_no_worker_down(standing: Standing, said: Sights, serf: Sight) -> None:
    heard = {**said, Witness.SERF: serf}
    if any(not sight.alive for witness, sight in said.items() if witness is not Witness.SERF):
        return
    assert state_after(standing, heard) is not DOWN or standing.state is DOWN


@given(st.lists(st.tuples(st.floats(0.1, 120.0), _said), max_size=30))
def test_one_disappearance_for_each_return(story: list[tuple[float, Sights]]) -> None:
    standing, told = Standing(), []
    for passed_s, said in story:
        standing = replace(standing, for_s=standing.for_s + passed_s)
        change = judge(standing, said, RULES)
        if change is not None:
            standing = Standing(state=change.state)
            told.append(change.outcome)
    loud = [outcome for outcome in told if outcome in (Outcome.DISAPPEARED, Outcome.BACK)]
    assert all(a is not b for a, b in itertools.pairwise(loud))
    assert loud[:1] in ([], [Outcome.DISAPPEARED])


@given(st.sampled_from([UP, SUSPECT]), st.booleans())
def test_one_that_stays_dead_is_down_within_the_grace(state: WorkerState, serf: bool) -> None:
    said = dict(DEAD)
    if not serf:
        del said[Witness.SERF]
    standing, passed_s = Standing(state=state), 0.0
    while standing.state is not DOWN:
        assert passed_s <= RULES.grace_s + 2.0
        change: Change | None = judge(standing, said, RULES)
        passed_s += 1.0
        for_s = standing.for_s + 1.0
        standing = (
            replace(standing, for_s=for_s) if change is None else Standing(state=change.state)
        )
