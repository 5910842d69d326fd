"""The table of moves, and what an experiment's state says of its steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.errors import IllegalTransitionError
from wlm_tasks.model.states import (
    FINAL,
    LIVE_JOBS,
    STEP_MOVES,
    ExperimentState,
    JobRecord,
    StepState,
    check_move,
    experiment_state,
    sources,
)
from wlm_tasks.model.steps import StepName

S, E = StepState, ExperimentState
STATES, NAMES = st.sampled_from(StepState), st.sampled_from(StepName)
ENDED = {S.DONE, S.FAILED, S.CANCELLED}


def _reachable(start: StepState) -> set[StepState]:
    found, todo = {start}, [start]
    while todo:
        for new in STEP_MOVES[todo.pop()] - found:
            found.add(new)
            todo.append(new)
    return found


@given(STATES, STATES)
def test_what_is_checked_is_the_table(old: StepState, new: StepState) -> None:
    if new in STEP_MOVES[old]:
        check_move(old, new)
        assert old in sources(new)
    else:
        assert old not in sources(new)
        with pytest.raises(IllegalTransitionError, match=f"from {old} to {new}"):
            check_move(old, new)


def test_every_state_is_in_the_table() -> None:
    assert set(STEP_MOVES) == set(StepState)


@given(STATES)
def test_everything_can_be_reached_and_can_end(state: StepState) -> None:
    assert state in _reachable(S.WAITING) | {S.HELD}
    assert S.DONE in _reachable(state)
    assert S.CANCELLED in _reachable(state)


@given(STATES)
def test_all_that_is_open_can_be_cancelled_and_nothing_else(state: StepState) -> None:
    assert (S.CANCELLED in STEP_MOVES[state]) == (state not in ENDED)


@given(STATES.filter(lambda state: state in ENDED))
def test_what_has_ended_begins_again_by_a_rewind_only(state: StepState) -> None:
    assert STEP_MOVES[state] == {S.READY, S.WAITING}


@given(STATES)
def test_work_begins_by_a_claim_of_what_is_open(state: StepState) -> None:
    assert (S.RUNNING in STEP_MOVES[state]) == (state in {S.WAITING, S.READY, S.RUNNING})


@given(STATES)
def test_a_job_is_watched_only_when_its_step_waited(state: StepState) -> None:
    assert (S.WATCHING in STEP_MOVES[state]) == (state is S.WAITING)


def test_what_waits_for_a_person_or_a_limit_starts_by_itself_never() -> None:
    for state in (S.HELD, S.PAUSED, S.BACKOFF):
        assert S.RUNNING not in STEP_MOVES[state]
        assert S.DONE not in STEP_MOVES[state]


def test_what_leads_where() -> None:
    # from WAITING: a job that was over as soon as its site had it was never watched
    assert set(sources(S.DONE)) == {S.RUNNING, S.WATCHING, S.WAITING}
    assert set(sources(S.BACKOFF)) == set(sources(S.PAUSED)) == set(sources(S.HELD)) == {S.RUNNING}


# -- the experiment's state ----------------------------------------------------------------


@given(NAMES, STATES, st.booleans())
def test_a_verdict_on_a_step_is_one_on_its_experiment(
    name: StepName, state: StepState, last: bool
) -> None:
    found = experiment_state(name, state, last=last)
    if state in {S.FAILED, S.PAUSED, S.CANCELLED}:
        assert found == E(state.value)
    assert (found is E.DONE) == (state is S.DONE and last)
    assert found not in {E.QUEUED, E.CANCELLING}
    assert (found in FINAL) == (state in {S.FAILED, S.CANCELLED} or (state is S.DONE and last))


@pytest.mark.parametrize(
    ("name", "state", "expected"),
    [
        (StepName.SETUP, S.RUNNING, E.PREPARING),
        (StepName.STAGE_IN, S.RUNNING, E.PREPARING),
        (StepName.SUBMIT, S.RUNNING, E.PREPARING),
        (StepName.MONITOR, S.WATCHING, E.SUBMITTED),
        (StepName.STAGE_OUT, S.READY, E.FINISHING),
        (StepName.STAGE_OUT, S.RUNNING, E.FINISHING),
        (StepName.SETUP, S.READY, None),
        (StepName.SUBMIT, S.HELD, None),
        (StepName.SUBMIT, S.DONE, None),
        (StepName.STAGE_IN, S.BACKOFF, None),
        (StepName.STAGE_OUT, S.BACKOFF, None),
        (StepName.STAGE_OUT, S.WAITING, None),
    ],
)
def test_what_an_owner_sees(
    name: StepName, state: StepState, expected: ExperimentState | None
) -> None:
    assert experiment_state(name, state, last=False) is expected


def test_names_are_what_is_stored() -> None:
    for kind in (StepState, ExperimentState, JobRecord):
        assert all(str(state) == state.value == state.name for state in kind)
        assert max(len(state.value) for state in kind) <= 12  # the columns' width
    assert set(ExperimentState) > FINAL
    assert set(JobRecord) > LIVE_JOBS
