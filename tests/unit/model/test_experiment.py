"""A valid experiment keeps what it is given, in one form, for ever."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pydantic
import pytest

from wlm_tasks.errors import InvalidExperimentError
from wlm_tasks.model.experiment import (
    Experiment,
    Priority,
    Resources,
    Retry,
    Stop,
    Transfer,
    check_key,
    fingerprint,
    parse_priority,
)
from wlm_tasks.model.script import payload_script


def experiment(**fields: Any) -> Experiment:
    return Experiment(**{"name": "melt", "site": "local", "commands": ["true"], **fields})


def test_defaults() -> None:
    made = experiment()
    assert made.commands == ("true",)
    assert made.resources == Resources(cpus=1, memory_mb=None, walltime_s=3600, gpus=0, nodes=1)
    assert made.retry == Retry(tries=5, backoff_s=20, max_backoff_s=3600, jobs=1)
    assert made.stop == Stop(signal="TERM", grace_s=10, sweep_on_failure=False)
    assert made.priority == 4
    assert (made.inputs, made.outputs, made.environment) == ((), (), ())
    assert (made.owner, made.project) == (None, None)
    assert dict(made.params) == dict(made.labels) == dict(made.variables) == {}


def test_positional_construction() -> None:
    transfer = Transfer("sftp://lab/a", "a", sha256="AB" * 32)
    assert (transfer.src, transfer.dest) == ("sftp://lab/a", "a")
    assert transfer.sha256 == "ab" * 32
    assert Transfer(Path("data/a"), Path("b/a")) == Transfer("data/a", "b/a")
    assert Experiment("melt", "local", ["true"]) == experiment()
    with pytest.raises(TypeError, match="two values for 'src'"):
        Transfer("a", **{"src": "b"})
    with pytest.raises(TypeError, match="at most 3 values"):
        Transfer("a", "b", "c", "d")  # type: ignore[call-arg]


def test_parts_may_be_tables() -> None:
    made = experiment(
        inputs=[{"src": "a", "dest": "b"}], resources={"cpus": 2}, stop={"signal": "SIGINT"}
    )
    assert made.inputs == (Transfer("a", "b"),)
    assert made.resources.cpus == 2
    assert made.stop.signal == "INT"


@pytest.mark.parametrize(
    ("given", "number"),
    [("low", 1), ("Normal", 4), ("HIGH", 6), ("urgent", 9), (0, 0), (9, 9), (Priority.HIGH, 6)],
)
def test_priority_by_name_and_number(given: str | int, number: int) -> None:
    assert parse_priority(given) == number
    kept = experiment(priority=given).priority
    assert kept == number
    assert type(kept) is int


@pytest.mark.parametrize("given", ["4", "urgnt", 10, -1, True, 4.0, None, ""])
def test_other_priorities_are_refused(given: Any) -> None:
    with pytest.raises(InvalidExperimentError, match=r"^priority: got .*, expected low, normal"):
        parse_priority(given)


def test_key() -> None:
    assert check_key("melt-300/é") == "melt-300/é"
    for wrong in ("", "a b", "a\n", "x" * 201, "\x00", 5):
        with pytest.raises(InvalidExperimentError, match=r"^key: got .*, expected 1 to 200"):
            check_key(wrong)  # type: ignore[arg-type]


def test_nothing_can_be_changed() -> None:
    made = experiment(variables={"A": "1"}, labels={"series": "x"})
    with pytest.raises(pydantic.ValidationError):
        made.name = "other"
    for table in (made.variables, made.labels, made.params, experiment().variables):
        with pytest.raises(TypeError):
            table["B"] = "2"  # type: ignore[index]


def test_copies_and_pickles() -> None:
    made = experiment(variables={"A": "1"}, inputs=[Transfer("a", "b")])
    assert copy.deepcopy(made) is made
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - made two lines above
    assert len({made, experiment(variables={"A": "1"}, inputs=[Transfer("a", "b")])}) == 1


def test_json_is_canonical() -> None:
    one = experiment(variables={"A": "1", "B": "é"}, resources=Resources(walltime_s=60))
    other = experiment(resources={"walltime_s": 60.0}, variables={"B": "é", "A": "1"})
    assert one.to_json() == other.to_json()
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint(experiment())
    assert len(fingerprint(one)) == 64
    assert "\n" not in one.to_json()
    assert ": " not in one.to_json()
    assert Experiment.from_json(one.to_json()) == one


def test_json_is_stable_across_releases() -> None:
    """Rows hold this text: another form must still be read, and noticed here."""
    assert experiment().to_json() == (
        '{"commands":["true"],"environment":[],"inputs":[],"labels":{},"name":"melt",'
        '"outputs":[],"owner":null,"params":{},"priority":4,"project":null,'
        '"resources":{"cpus":1,"gpus":0,"memory_mb":null,"nodes":1,"walltime_s":3600.0},'
        '"retry":{"backoff_s":20.0,"jobs":1,"max_backoff_s":3600.0,"tries":5},"site":"local",'
        '"stop":{"grace_s":10.0,"signal":"TERM","sweep_on_failure":false},"variables":{}}'
    )


def test_script_runs_environment_then_commands() -> None:
    assert payload_script(experiment(commands=["a", "b\nc"])) == "set -e\na\nb\nc\n"
    script = payload_script(experiment(environment=["module load x"], commands=["a", "b\nc"]))
    assert script.startswith("set -e\n")
    assert "\nmodule load x\n" in script
    assert script.endswith("\na\nb\nc\n")


def test_from_file(tmp_path: Path) -> None:
    file = tmp_path / "a dir" / "melt.toml"
    file.parent.mkdir()
    file.write_text(
        """
        name = "melt"
        site = "cluster-a"
        commands = ["lmp -in melt.in -var T {T}"]
        priority = "urgent"
        [resources]
        cpus = 4
        walltime_s = 1800
        [params]
        T = 300
        [[inputs]]
        src = "../melt.in"
        dest = "melt.in"
        [[outputs]]
        src = "log.lammps"
        dest = "out/{T}.log"
        """
    )
    read = Experiment.from_file(file)
    assert read.priority == 9
    assert read.resources.walltime_s == 1800.0
    assert read.inputs[0].src == f"file://{tmp_path}/melt.in"
    assert read.outputs[0].dest == f"file://{tmp_path}/a%20dir/out/{{T}}.log"
    assert dict(read.params) == {"T": 300}


def test_from_json_and_yaml_files(tmp_path: Path) -> None:
    (tmp_path / "melt.json").write_text('{"name": "melt", "site": "local", "commands": ["true"]}')
    assert Experiment.from_file(tmp_path / "melt.json") == experiment()
    pytest.importorskip("yaml")
    (tmp_path / "melt.yaml").write_text("name: melt\nsite: local\ncommands:\n  - 'true'\n")
    assert Experiment.from_file(str(tmp_path / "melt.yaml")) == experiment()


def test_largest_lists_are_accepted() -> None:
    made = experiment(
        commands=["x"] * 1000, inputs=[{"src": f"s{i}", "dest": f"d{i}"} for i in range(10_000)]
    )
    assert len(made.commands) == 1000
    assert len(made.inputs) == 10_000


def test_numpy_like_numbers_become_plain() -> None:
    numpy = pytest.importorskip("numpy")
    made = experiment(
        resources={"cpus": numpy.int64(2), "walltime_s": numpy.float32(1.5)},
        params={"T": numpy.float64(0.1), "n": numpy.int32(3)},
    )
    assert type(made.resources.cpus) is int
    assert {name: type(value) for name, value in made.params.items()} == {"T": float, "n": int}
    assert Experiment.from_json(made.to_json()) == made
