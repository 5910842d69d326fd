"""Directories that are removed after the end: when, by whom, and what a retry makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import pytest
from sqlalchemy import Connection, event
from state.world import MONITOR, SETUP, STAGE_IN, STAGE_OUT, World, experiment, in_threads, new

from wlm_tasks.errors import (
    IllegalTransitionError,
)
from wlm_tasks.model.cleanup import Cleanup
from wlm_tasks.model.states import ExperimentState, JobRecord
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.cleaning import AT_ONCE, Removal
from wlm_tasks.state.connections import ConnectionLeases
from wlm_tasks.state.intake import NewExperiment, NewSweep, new_id


def asked(
    policy: str = "delete", after_days: float = 0.0, *, staging: bool = True
) -> NewExperiment:
    made = new(experiment(staging=staging))
    return NewExperiment(**{**made.__dict__, "cleanup": Cleanup(policy, after_days)})


def add(world: World, policy: str = "delete", after_days: float = 0.0) -> str:
    return world.store.intake.add(asked(policy, after_days), sent=True)


def done(world: World, policy: str = "delete", after_days: float = 0.0) -> str:
    """An experiment that is DONE."""
    experiment_id = add(world, policy, after_days)
    world.until(experiment_id, STAGE_OUT)
    world.store.claims.finish(world.claim(experiment_id, STAGE_OUT), carry_on=None)
    assert world.state(experiment_id) is ExperimentState.DONE
    return experiment_id


def failed(world: World, policy: str = "delete") -> str:
    """One whose job has failed."""
    experiment_id = add(world, policy)
    world.until(experiment_id, MONITOR)
    world.end_job(experiment_id, JobRecord.FAILED, reason="exit code 1")
    assert world.state(experiment_id) is ExperimentState.FAILED
    return experiment_id


def begun(world: World, experiment_id: str) -> Removal:
    """Begin a removal."""
    removal = world.store.cleaning.begin(experiment_id)
    assert removal is not None
    return removal


def test_only_what_has_ended_and_wants_it(world: World) -> None:
    cleaning = world.store.cleaning
    kept, under_way = done(world, "keep"), add(world)
    gone, bad = done(world), failed(world)
    done_well, bad_kept = done(world, "keep-on-failure"), failed(world, "keep-on-failure")
    assert set(cleaning.due(10)) == {gone, bad, done_well}
    assert [cleaning.begin(one) for one in (kept, under_way, bad_kept)] == [None] * 3
    world.until(under_way, STAGE_OUT)
    assert under_way not in cleaning.due(10)
    assert cleaning.due(10, silent=["alpha"]) == []


def test_not_before_its_time(world: World) -> None:
    experiment_id = done(world, "delete", after_days=2)
    assert world.store.cleaning.due(10) == []
    world.sql("UPDATE experiments SET ended_at = ended_at - 172700")
    assert world.store.cleaning.due(10) == []
    world.sql("UPDATE experiments SET ended_at = ended_at - 200")
    assert world.store.cleaning.due(10) == [experiment_id]


def test_outputs_that_were_not_taken_out_keep_their_directory(world: World) -> None:
    cleaning, store = world.store.cleaning, world.store
    unsaved, cancelled = add(world), add(world)
    for one in (unsaved, cancelled):
        world.until(one, STAGE_OUT)
    store.claims.fail(world.claim(unsaved, STAGE_OUT), "refused")
    store.intake.cancel(cancelled)
    assert world.state(unsaved) is ExperimentState.FAILED
    assert world.state(cancelled) is ExperimentState.CANCELLED
    assert cleaning.due(10) == []
    store.intake.retry(unsaved)
    store.claims.finish(world.claim(unsaved, STAGE_OUT), carry_on=None)
    assert cleaning.due(10) == [unsaved]


def test_not_while_a_job_may_live_and_not_what_never_began(world: World) -> None:
    early, late = add(world), add(world)
    world.store.intake.cancel(early)
    world.until(late, MONITOR)
    world.store.intake.cancel(late)
    assert world.state(early) is ExperimentState.CANCELLED
    assert world.state(late) is ExperimentState.CANCELLING
    assert world.store.cleaning.due(10, slice_s=0) == []
    token = world.store.views.jobs(late)[-1].token
    world.store.jobs.cancelled(late, [token])
    assert world.state(late) is ExperimentState.CANCELLED
    assert world.store.cleaning.due(10, slice_s=0) == [late]


def test_it_is_told_once_and_shown(world: World) -> None:
    cleaning, experiment_id = world.store.cleaning, done(world)
    early, removal = begun(world, experiment_id), begun(world, experiment_id)
    assert (early.number, removal.number) == (1, 2)
    assert removal.workdirs == (f"/scratch/{experiment_id}",)
    assert cleaning.due(10) == []  # for a minute
    cleaning.removed(early, ["/scratch/x"])
    assert world.store.views.experiment(experiment_id).removed_at is None
    for _ in range(2):
        cleaning.removed(removal, ["/scratch/x"])
    assert world.log(experiment_id).count((0, "REMOVED")) == 1
    last = world.store.views.events(experiment_id)[-1]
    assert (last.state, last.detail) == ("REMOVED", {"directory": "/scratch/x"})
    view = world.store.views.experiment(experiment_id)
    assert view.removed_at is not None
    assert view.state is ExperimentState.DONE
    assert cleaning.begin(experiment_id) is None
    assert [a.outcome for a in world.store.views.attempts(experiment_id)] == ["DONE"] * 4


def test_what_failed_is_tried_again_later_each_time(world: World) -> None:
    cleaning, experiment_id = world.store.cleaning, done(world)
    waits = []
    for _ in range(3):
        removal = begun(world, experiment_id)
        cleaning.failed(removal, "no way")
        row = world.store.database
        with row.read() as connection:
            waits.append(
                connection.exec_driver_sql("SELECT cleanup_at FROM experiments").scalar_one()
                - world.store.views.now()
            )
    assert waits == pytest.approx([60, 120, 240], abs=5)
    assert world.store.views.experiment(experiment_id).cleanup_reason == "no way"
    cleaning.removed(removal, ["/x"])
    assert world.store.views.experiment(experiment_id).cleanup_reason is None


def test_a_retry_after_it_or_while_it_goes_on_begins_anew(world: World) -> None:
    cleaning, retry = world.store.cleaning, world.store.intake.retry
    experiment_id = failed(world)
    removal = begun(world, experiment_id)
    with pytest.raises(IllegalTransitionError, match="may have been removed: retry it from setup"):
        retry(experiment_id, StepName.SUBMIT)
    other = failed(world)
    under_way = begun(world, other)
    assert retry(other) is SETUP
    cleaning.removed(under_way, ["/x"])  # which is not this one's directory any more
    assert world.store.views.experiment(other).removed_at is None
    cleaning.removed(removal, ["/x"])
    with pytest.raises(IllegalTransitionError, match="retry it from setup, not from submit"):
        retry(experiment_id, StepName.SUBMIT)
    assert retry(experiment_id) is SETUP
    assert world.steps(experiment_id) == ["READY", *["WAITING"] * 4]
    view = world.store.views.experiment(experiment_id)
    assert (view.removed_at, view.cleanup) == (None, "delete")
    world.until(experiment_id, STAGE_OUT)
    world.store.claims.finish(world.claim(experiment_id, STAGE_OUT), carry_on=None)
    assert cleaning.due(10) == [experiment_id]


def test_a_removal_that_was_held_up_says_nothing_of_what_came_after(world: World) -> None:
    cleaning, experiment_id = world.store.cleaning, failed(world)
    late, removal = begun(world, experiment_id), begun(world, experiment_id)
    cleaning.removed(removal, ["/x"])
    world.store.intake.retry(experiment_id)
    world.until(experiment_id, MONITOR)
    world.end_job(experiment_id, JobRecord.FAILED, reason="exit code 1")
    again = begun(world, experiment_id)
    assert again.number == late.number
    assert again.mark > late.mark
    cleaning.failed(late, "no way")
    cleaning.kept(late, "no way", whole=True)
    cleaning.removed(late, ["/x"])
    view = world.store.views.experiment(experiment_id)
    assert (view.cleanup, view.cleanup_reason, view.removed_at) == ("delete", None, None)


def test_asking_leaves_the_pause_of_a_removal_that_has_begun(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaning, experiment_id = world.store.cleaning, done(world)
    take = ConnectionLeases.take

    def begun_meanwhile(*arguments: Any) -> bool:
        for _ in range(6):
            begun(world, experiment_id)
        return take(*arguments)

    monkeypatch.setattr(ConnectionLeases, "take", begun_meanwhile)
    assert cleaning.ask() == [experiment_id]
    with world.store.database.read() as connection:
        due_at = connection.exec_driver_sql("SELECT cleanup_at FROM experiments").scalar_one()
    assert due_at - world.store.views.now() > 1800


def several(world: World, **counts: int) -> dict[str, list[str]]:
    """So many of each site that are to be removed, one site after the other."""
    made: dict[str, list[str]] = {site: [] for site in counts}
    for site, count in counts.items():
        for _ in range(count):
            made[site].append(done(world))
            world.sql("UPDATE experiments SET site = :s WHERE id = :e", s=site, e=made[site][-1])
    for at, experiment_id in enumerate(chain.from_iterable(made.values()), 1):
        world.sql("UPDATE experiments SET ended_at = :t WHERE id = :e", t=at, e=experiment_id)
    return made


def test_a_site_has_a_few_removals_at_a_time_and_the_sites_take_turns(world: World) -> None:
    cleaning, made = world.store.cleaning, several(world, slow=AT_ONCE + 2, other=2, away=1)
    slow, other = made["slow"], made["other"]
    first = cleaning.ask(["away"])
    assert first == [slow[0], other[0], slow[1], other[1], *slow[2:AT_ONCE]]
    assert cleaning.ask() == made["away"]
    assert cleaning.ask() == []
    cleaning.over(slow[1], "slow")
    assert cleaning.ask() == [slow[AT_ONCE]]
    world.sql("UPDATE connections SET expires_at = 0")  # its worker is gone
    assert cleaning.ask() == [slow[AT_ONCE + 1]]
    world.sql("UPDATE experiments SET cleanup_at = 0")
    assert set(cleaning.ask()) == {*slow[: AT_ONCE - 1], *other, *made["away"]}


def test_those_behind_many_of_a_slow_site_are_found(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.state.cleaning._LOOKED_AT", 2)
    made = several(world, slow=AT_ONCE + 3, other=1)
    asked = world.store.cleaning.ask()
    assert set(asked) == {*made["slow"][:AT_ONCE], *made["other"]}
    assert asked[1] == made["other"][0]


def test_one_that_is_under_way_is_not_asked_for_again(world: World) -> None:
    """Though it takes longer than the pause before the next try."""
    cleaning, experiment_id = world.store.cleaning, done(world)
    assert cleaning.ask() == [experiment_id]
    removal = begun(world, experiment_id)
    cleaning.goes_on(experiment_id, "alpha", 1000)
    world.sql("UPDATE experiments SET cleanup_at = 0")
    assert cleaning.ask() == []
    cleaning.failed(removal, "busy")
    cleaning.over(experiment_id, "alpha")
    assert cleaning.ask() == [experiment_id]


def test_every_directory_it_ever_had(world: World) -> None:
    experiment_id = failed(world)
    world.store.intake.retry(experiment_id, StepName.SUBMIT)
    world.submit(experiment_id)
    world.sql("UPDATE jobs SET workdir = '/old/x' WHERE number = 1")
    world.end_job(experiment_id, JobRecord.FAILED, reason="exit code 1")
    assert begun(world, experiment_id).workdirs == ("/old/x", f"/scratch/{experiment_id}")


def test_a_step_that_was_taken_away_may_still_be_at_work(world: World) -> None:
    """Its worker is told at the latest when its slice is over."""
    cleaning = world.store.cleaning
    cancelled, taken_over = add(world), done(world)
    world.until(cancelled, STAGE_IN)
    world.claim(cancelled, STAGE_IN)
    world.store.intake.cancel(cancelled)
    world.sql("UPDATE steps SET crashes = 1 WHERE seq = 1 AND experiment_id = :e", e=taken_over)
    assert cleaning.due(10, slice_s=100) == []
    assert cleaning.begin(cancelled, slice_s=100) is None
    world.sql("UPDATE experiments SET ended_at = ended_at - 90")
    assert cleaning.due(10, slice_s=100) == []
    world.sql("UPDATE experiments SET ended_at = ended_at - 20")
    assert set(cleaning.due(10, slice_s=100)) == {cancelled, taken_over}
    assert cleaning.begin(cancelled, slice_s=100) is not None


def test_what_is_kept_after_more_than_one_removal_is_set_up_anew(world: World) -> None:
    """An earlier one may still be held up somewhere; only a new set-up writes a new mark."""
    cleaning, retry, experiment_id = world.store.cleaning, world.store.intake.retry, failed(world)
    begun(world, experiment_id)
    cleaning.kept(begun(world, experiment_id), "no way", whole=True)
    with pytest.raises(IllegalTransitionError, match="retry it from setup, not from submit"):
        retry(experiment_id, StepName.SUBMIT)
    assert retry(experiment_id) is SETUP


def test_what_is_kept_after_one_removal_can_go_on_from_any_step(world: World) -> None:
    experiment_id = failed(world)
    world.store.cleaning.kept(begun(world, experiment_id), "no way", whole=True)
    assert world.store.intake.retry(experiment_id) is StepName.SUBMIT


def _act(acts: Sequence[Callable[[str], object]], experiment_id: str, number: int) -> object:
    return acts[number](experiment_id)


def test_a_retry_and_a_removal_at_once(world: World) -> None:
    """Whoever is first: what a removal was begun of is set up anew, under a mark of its own."""
    ids = [failed(world) for _ in range(6)]
    for experiment_id in ids:
        acts: list[Callable[[str], object]] = [
            world.store.cleaning.begin,
            world.store.intake.retry,
        ]
        removal, retried = in_threads(2, partial(_act, acts, experiment_id))
        assert retried is (StepName.SUBMIT if removal is None else SETUP), (removal, retried)
        if isinstance(removal, Removal):
            assert world.claim(experiment_id, SETUP).epoch > removal.mark


@pytest.mark.postgresql
@pytest.mark.parametrize("dialect", ["postgresql"])
def test_postgresql_finds_what_is_due_by_the_partial_index(world: World) -> None:
    """`test_plans` sees the same of SQLite."""
    kept = NewSweep(id=new_id("swp"), name="s", fingerprint="f" * 64, size=500)
    world.store.intake.add_sweep(kept, [asked("keep") for _ in range(500)])
    world.sql("UPDATE experiments SET state = 'DONE', ended_at = 0")
    experiment_id = done(world)
    database, plans = world.store.database, list[str]()

    def explain(connection: Connection, *asked: Any) -> None:
        _cursor, statement, parameters, *_ = asked
        if "cleanup" in statement:
            cursor = connection.connection.cursor()
            cursor.execute(f"EXPLAIN {statement}", parameters)
            plans.extend(line for (line,) in cursor.fetchall())

    with database.write() as connection:
        connection.exec_driver_sql("ANALYZE experiments")
    for engine in database.engines:
        event.listen(engine, "before_cursor_execute", explain)
    assert world.store.cleaning.due(10) == [experiment_id]
    assert [line for line in plans if "ix_experiments_to_clean on experiments" in line], plans


def test_members_of_a_sweep_have_it_too(world: World) -> None:
    members = [asked(staging=False), asked("keep", staging=False)]
    sweep = NewSweep(id=new_id("swp"), name="s", fingerprint="f" * 64, size=2)
    world.store.intake.add_sweep(sweep, members)
    views = [world.store.views.experiment(one.id) for one in members]
    assert [(view.cleanup, view.cleanup_after_s) for view in views] == [
        ("delete", 0.0),
        (None, None),
    ]
