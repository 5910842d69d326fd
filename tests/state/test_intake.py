"""Taking in: experiments, sweeps, keys."""

from __future__ import annotations

import subprocess
import sys

import pytest
from state.world import World, experiment, in_threads, new

from wlm_tasks.errors import KeyConflictError, NotFoundError, ServiceError
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.state.intake import NewSweep, new_id
from wlm_tasks.state.store import Store


def test_a_new_experiment_waits_with_its_first_step_ready(world: World) -> None:
    experiment_id = world.add(experiment(priority="urgent", owner="ann", labels={"a": "b"}))
    view = world.store.views.experiment(experiment_id)
    assert view.state is ExperimentState.QUEUED
    assert (view.priority, view.owner, view.labels, view.params) == (9, "ann", {"a": "b"}, {})
    assert view.ended_at is None
    assert world.steps(experiment_id) == ["READY", "WAITING", "WAITING", "WAITING", "WAITING"]
    assert [step.seq for step in world.store.views.steps(experiment_id)] == [0, 1, 2, 3, 4]
    assert all(step.priority == 9 for step in world.store.views.steps(experiment_id))
    assert world.log(experiment_id) == [(None, "QUEUED")]


def test_only_the_first_step_counts_as_sent_and_only_if_it_is(world: World) -> None:
    sent, unsent = world.add(sent=True), world.add(sent=False)
    assert [step.sent_at is not None for step in world.store.views.steps(sent)] == [
        True, False, False, False, False,
    ]  # fmt: skip
    assert not any(step.sent_at for step in world.store.views.steps(unsent))


def test_only_the_last_step_is_the_last(world: World) -> None:
    claim = world.claim(world.add(staging=False))
    assert not claim.last
    experiment_id, _token = world.submitted(staging=False)
    world.end_job(experiment_id)
    assert world.state(experiment_id) is ExperimentState.DONE


def test_times_are_the_databases(world: World) -> None:
    before = world.store.coordination.clock()
    view = world.store.views.experiment(world.add())
    assert before - 0.002 <= view.created_at <= world.store.coordination.clock() + 0.002
    assert view.updated_at == pytest.approx(view.created_at, abs=0.1)


def test_a_sweep_with_all_its_members(world: World) -> None:
    sweep_id, members = world.add_sweep(5)
    view = world.store.views.sweep(sweep_id)
    assert (view.size, view.states) == (5, {ExperimentState.QUEUED: 5})
    views = [world.store.views.experiment(member) for member in members]
    assert [one.member for one in views] == [0, 1, 2, 3, 4]
    assert {one.sweep_id for one in views} == {sweep_id}
    assert all(world.steps(member)[0] == "READY" for member in members)


def test_a_sweep_starts_no_more_than_max_active(world: World) -> None:
    _sweep, members = world.add_sweep(5, max_active=2)
    assert [world.steps(member)[0] for member in members] == ["READY"] * 2 + ["HELD"] * 3


def test_a_sweep_of_more_than_one_chunk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wlm_tasks.state.intake._CHUNK", 3)
    _sweep, members = world.add_sweep(8, max_active=4)
    assert [world.store.views.experiment(one).member for one in members] == list(range(8))
    assert [world.steps(one)[0] for one in members] == ["READY"] * 4 + ["HELD"] * 4


def test_a_sweep_is_stored_whole_or_not_at_all(world: World) -> None:
    twice = new()
    sweep = NewSweep(id=new_id("swp"), name="s", fingerprint="f", size=2)
    with pytest.raises(ServiceError):
        world.store.intake.add_sweep(sweep, [twice, twice])
    with pytest.raises(NotFoundError):
        world.store.views.sweep(sweep.id)
    with pytest.raises(NotFoundError):
        world.store.views.experiment(twice.id)


def test_the_same_key_for_the_same_is_the_same(world: World) -> None:
    first = world.add(key="k")
    assert world.add(key="k") == first
    assert world.add(key="other") != first
    assert world.add() != world.add()
    assert sum(world.store.views.counts().values()) == 4


def test_the_same_key_for_something_else_is_refused(world: World) -> None:
    first = world.add(key="k")
    with pytest.raises(KeyConflictError, match=f"'k'.*{first}"):
        world.add(name="freeze", key="k")
    assert sum(world.store.views.counts().values()) == 1


def test_the_key_of_a_sweep(world: World) -> None:
    first, _members = world.add_sweep(2, key="k")
    again, _others = world.add_sweep(2, key="k")
    assert again == first
    assert sum(world.store.views.counts().values()) == 2
    other = NewSweep(id=new_id("swp"), name="s", fingerprint="0" * 64, size=1, key="k")
    with pytest.raises(KeyConflictError, match=first):
        world.store.intake.add_sweep(other, [new()])
    assert sum(world.store.views.counts().values()) == 2


def test_an_id_that_is_taken_is_no_matter_of_keys(world: World) -> None:
    world.add()  # has no key either
    taken = new()
    world.store.intake.add(taken, sent=False)
    with pytest.raises(ServiceError):
        world.store.intake.add(taken, sent=False)


def test_ids_differ() -> None:
    ids = {new_id("exp") for _ in range(2000)}
    assert len(ids) == 2000
    assert all(len(one) == 14 and one.startswith("exp-") for one in ids)


def test_eight_threads_with_one_key(world: World) -> None:
    ids = in_threads(8, lambda _n: world.add(key="k"))
    assert len(set(ids)) == 1, ids
    assert world.store.views.counts() == {ExperimentState.QUEUED: 1}
    assert world.log(ids[0]) == [(None, "QUEUED")]


_ADD = """
import sys
from state.world import World, new
from wlm_tasks.state.store import Store
store = Store(sys.argv[1])
store.views.counts()
print("go", flush=True)
sys.stdin.readline()
print(store.intake.add(new(key="k"), sent=False))
store.close()
"""


def test_four_processes_with_one_key(url: str, pytestconfig: pytest.Config) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ADD, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(pytestconfig.rootpath / "tests")},
            cwd=pytestconfig.rootpath,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
    for process in processes:  # all are ready; let them go together
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ids = {process.communicate(timeout=30)[0].strip() for process in processes}
    assert len(ids) == 1
    assert ids.pop().startswith("exp-")
    store = Store(url)
    assert store.views.counts() == {ExperimentState.QUEUED: 1}
    store.close()
