"""From what is handed in to rows: all checked first, then all stored."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from unit.scheduler.conftest import Queues

from wlm_tasks.api import Client, schedule_experiment
from wlm_tasks.celery import WlmCelery
from wlm_tasks.config import Settings
from wlm_tasks.errors import InputError, InvalidParametersError, KeyConflictError
from wlm_tasks.model.experiment import Experiment, Stop, Transfer
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.model.steps import StepName
from wlm_tasks.runtime import Runtime
from wlm_tasks.scheduler.plan import Plan
from wlm_tasks.scheduler.submission import Submission, plans, store_one, store_sweep
from wlm_tasks.state.views import Filter

MELT = Experiment(
    name="melt", site="alpha", commands=["echo {T}"], params={"T": 300}, priority="high",
    inputs=[Transfer("melt.in", "melt.in")], owner="ann", labels={"series": "a"},
    outputs=[Transfer("log", "out/{T}.log")],
)  # fmt: skip


@pytest.fixture
def runtime(app: WlmCelery) -> Runtime:
    app.runtime.store.database.upgrade()
    return app.runtime


def _count(runtime: Runtime) -> int:
    return sum(runtime.store.views.counts().values())


def _submission(tmp_path: Path, **fields: Any) -> Submission:
    return Submission(**{"experiment": MELT, "base": tmp_path, **fields})


def test_one_experiment_with_its_parameters(runtime: Runtime, tmp_path: Path) -> None:
    stored, new, planned = store_one(
        runtime, _submission(tmp_path, params={"T": 310}, key="k"), sent=False
    )
    assert new
    view = runtime.store.views.experiment(stored)
    assert (view.name, view.owner, view.key, view.priority) == ("melt", "ann", "k", 6)
    assert (view.params, view.labels) == ({"T": 310}, {"series": "a"})
    bound = Experiment.from_json(runtime.store.views.spec(stored))
    assert bound == planned.experiment
    assert bound.commands == ("echo 310",)
    assert bound.inputs[0].src == f"file://{tmp_path}/melt.in"
    assert bound.outputs[0].dest == f"file://{tmp_path}/out/310.log"
    assert [s.name for s in runtime.store.views.steps(stored)] == list(StepName)


def test_the_same_key_is_the_same_experiment(runtime: Runtime, tmp_path: Path) -> None:
    first, new, _plan = store_one(runtime, _submission(tmp_path, key="k"), sent=False)
    assert new
    again, new, _plan = store_one(runtime, _submission(tmp_path, key="k"), sent=True)
    assert (again, new) == (first, False)
    assert runtime.store.upkeep.unsent(9)  # nobody takes it for sent
    with pytest.raises(KeyConflictError):
        store_one(runtime, _submission(tmp_path, key="k", params={"T": 1}), sent=False)
    assert _count(runtime) == 1


def test_a_sweep_with_each_members_parameters(runtime: Runtime, tmp_path: Path) -> None:
    sweep, new = store_sweep(
        runtime, _submission(tmp_path, sweep={"T": [300, 350, 400]}, max_active=2, key="s")
    )
    assert new
    view = runtime.store.views.sweep(sweep)
    assert (view.size, view.max_active, view.key, view.name) == (3, 2, "s", "melt")
    members = runtime.store.views.list(Filter(sweep_id=sweep))
    assert [(m.member, m.params) for m in reversed(members)] == [
        (0, {"T": 300}), (1, {"T": 350}), (2, {"T": 400}),
    ]  # fmt: skip
    again = store_sweep(runtime, _submission(tmp_path, sweep={"T": [300, 350, 400]}, key="s"))
    assert again == (sweep, False)
    with pytest.raises(KeyConflictError):
        store_sweep(runtime, _submission(tmp_path, sweep={"T": [300]}, key="s"))
    assert _count(runtime) == 3


def test_a_sweep_that_stops_at_a_failure_says_so(runtime: Runtime, tmp_path: Path) -> None:
    stopping = MELT.model_copy(update={"stop": Stop(sweep_on_failure=True)})
    for experiment in (MELT, stopping):
        submission = _submission(tmp_path, experiment=experiment, sweep={"T": [1, 2]})
        sweep, _new = store_sweep(runtime, submission)
        first, _second = reversed(runtime.store.views.list(Filter(sweep_id=sweep)))
        with runtime.store.database.write() as connection:
            connection.exec_driver_sql(
                f"UPDATE experiments SET state = 'FAILED' WHERE id = '{first.id}'"  # noqa: S608
            )
        found = runtime.store.upkeep.cancel_rest_of_failed_sweeps()
        assert len(found) == (experiment is stopping)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"params": {"X": 1}}, "params.X"),
    ({"params": {"T": None}}, "params.T"),
    ({"params": [1]}, "params"),
    ({"sweep": {"X": [1]}}, "X"),
    ({"sweep": {}}, "sweep"),
    ({"sweep": {"T": []}}, "sweep.T"),
    ({"sweep": {"T": 5}}, "sweep.T"),
    ({"sweep": "T=1"}, "sweep"),
    ({"sweep": {"T": [1]}, "params": {"T": 2}}, "params.T"),
    ({"sweep": {"T": [1, 1]}}, "outputs"),
    ({"sweep": {"T": list(range(10_001))}}, "10001"),
    ({"sweep": {"T": [1]}, "sweep_mode": "both"}, "both"),
    ({"max_active": 0}, "max_active"),
    ({"max_active": True}, "max_active"),
    ({"max_active": "3"}, "max_active"),
    ({"max_active": 1.5}, "max_active"),
    ({"key": ""}, "key"),
    ({"key": "a b"}, "key"),
    ({"key": "k" * 201}, "key"),
    ({"key": 7}, "key"),
    ({"experiment": MELT.model_copy(update={"site": "gamma"})}, "gamma"),
    (
        {"experiment": MELT.model_copy(update={"inputs": (Transfer("gopher://x/y", "y"),)})},
        "gopher",
    ),
    ({"max_active": 1_000_001}, "max_active: .* from 1 to 1000000"),
    ({"max_active": 2**70}, "max_active"),
    ({"sweep": {"T": range(2**70)}}, "sweep.T: .* at most 10000 values"),
]


def _outputs(*places: str) -> dict[str, Any]:
    outputs = tuple(Transfer(f"log{i}", place) for i, place in enumerate(places))
    changes = {"outputs": outputs, "commands": ("echo {T}",)}
    return {"experiment": MELT.model_copy(update=changes)}


# what only staging refused, that of outputs after the job had run
BAD += [
    (_outputs("file://otherhost/x"), r"outputs\[0\].dest: URL: .* no host or the host localhost"),
    (_outputs("file:///x/y?z"), r"outputs\[0\].dest: .*%3F"),
    (_outputs("file:///tmp/%00"), r"outputs\[0\].dest: .* without NUL"),
    (_outputs("a", "file:///tmp/dir%2F"), r"outputs\[1\].dest: .* a file's path"),
    (_outputs("/a/.x.wlm-part"), r"outputs\[0\].dest: .* a part file"),
    (_outputs("/a/" + "n" * 256), r"outputs\[0\].dest: .* at most 255 bytes"),
    (_outputs("a", "file:///x/../a", "file:///x/../a"), r"outputs\[2\].dest"),
    (_outputs("https://h/a/?sig=b/"), r"outputs\[0\].dest: .*/a/\?\.\.\.'.* without a query"),
    (_outputs("/a/b", "file:///a/b"), r"outputs\[1\].dest: .* outputs\[0\] does not have"),
    (_outputs("/a/b", "file://LOCALHOST/a/%62"), r"outputs\[1\].dest: .* outputs\[0\]"),
    (_outputs("/a/b", "file:///a/c/..//./b"), r"outputs\[1\].dest: .* outputs\[0\]"),
    ({**_outputs("file:///{T}/x?"), "sweep": {"T": [1, 2]}}, "%3F"),
    (
        {"experiment": MELT.model_copy(update={"inputs": (Transfer("file://h/y", "y"),)})},
        r"inputs\[0\].src: URL: .* no host",
    ),
    *(
        (
            {"experiment": MELT.model_copy(update={"inputs": (Transfer(src, "mesh/"),)})},
            rf"inputs\[0\].src: .*got '{shown}', expected a single file, .* no directory can be",
        )
        for src, shown in [
            ("https://h/mesh/", "https://h/mesh/"),
            ("https://h/*.dat", r"https://h/\*.dat"),
            ("https://h/x?sig=hunter2", r"https://h/x\?\.\.\."),
            ("s3://bucket/mesh/", "s3://bucket/mesh/"),
        ]
    ),
]


@pytest.mark.parametrize(("fields", "said"), BAD)
def test_what_is_wrong_is_said_and_nothing_stored(
    runtime: Runtime, tmp_path: Path, queues: Queues, fields: dict[str, Any], said: str
) -> None:
    submission = _submission(tmp_path, **fields)
    store = store_one if submission.sweep is None else store_sweep
    with pytest.raises(InputError, match=said) as caught:
        store(runtime, submission, **({"sent": False} if store is store_one else {}))
    assert "\n" not in str(caught.value)
    assert _count(runtime) == 0
    assert runtime.store.coordination.count_unpublished() == 0
    assert queues.take_all() == {}


def test_a_relative_place_and_the_same_in_full(runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"outputs\[1\]\.dest"):
        plans(runtime, _submission(tmp_path, **_outputs("out", f"{tmp_path}/out")))
    _members, [planned] = plans(runtime, _submission(tmp_path, **_outputs("out", "out2")))
    assert len(planned.experiment.outputs) == 2


def test_planning_stores_nothing(runtime: Runtime, tmp_path: Path) -> None:
    members, planned = plans(runtime, _submission(tmp_path, sweep={"T": [1, 2]}))
    assert members == [{"T": 1}, {"T": 2}]
    assert [one.experiment.commands for one in planned] == [("echo 1",), ("echo 2",)]
    assert _count(runtime) == 0


# -- the Python interface ------------------------------------------------------------------


@pytest.fixture
def client(test_settings: Settings, app: WlmCelery) -> Any:
    made = Client(test_settings)
    yield made
    made.close()


@pytest.mark.parametrize("sweep", [None, {"T": [1, 2, 3]}])
def test_a_dry_run_writes_and_sends_nothing(
    client: Client, queues: Queues, sweep: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    woken: list[int] = []
    monkeypatch.setattr(client, "wake", lambda: woken.append(1))
    made = schedule_experiment(MELT, sweep=sweep, key="k", dry_run=True, client=client)
    assert [type(one) for one in made] == [Plan] * (3 if sweep else 1)
    assert client.store.views.counts() == {}
    assert client.store.coordination.count_unpublished() == 0
    assert queues.take_all() == {}
    assert not woken
    with pytest.raises(InvalidParametersError):
        schedule_experiment(MELT, params={"X": 1}, dry_run=True, client=client)


def test_a_sweep_of_ten_thousand(client: Client, tmp_path: Path) -> None:
    wide = MELT.model_copy(update={"commands": ("echo {T} {N}",), "outputs": ()})
    handle = client.schedule_sweep(
        wide, {"T": list(range(100)), "N": list(range(100))}, max_active=50, base=tmp_path
    )
    assert client.store.views.sweep(handle.id).states == {ExperimentState.QUEUED: 10_000}
    with client.store.database.read() as connection:
        rows = connection.exec_driver_sql("SELECT state, count(*) FROM steps GROUP BY state")
        counts = Counter(dict(tuple(row) for row in rows))
    assert counts == {"READY": 50, "HELD": 9950, "WAITING": 30_000}
    assert client.store.coordination.count_unpublished() == 10_000


def test_the_records_of_a_sweep(client: Client, tmp_path: Path) -> None:
    odd = MELT.model_copy(update={"commands": ("echo {T} {state}",), "outputs": ()})
    handle = client.schedule_sweep(odd, {"T": [1, 2], "state": ["solid"]}, base=tmp_path)
    records = handle.to_records()
    assert [record["member"] for record in records] == [0, 1]
    assert [record["T"] for record in records] == [1, 2]
    assert {record["state"] for record in records} == {"QUEUED"}
    assert {record["param.state"] for record in records} == {"solid"}
