"""The example experiments and programs are valid as they are shipped."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

from wlm_tasks import Experiment
from wlm_tasks.model.params import bind, bind_many, expand_sweep

EXAMPLES = Path(__file__).parents[3] / "examples"
TEMPERATURES = [1.5, 1.8, 2.0, 2.1, 2.2, 2.25, 2.3, 2.4, 2.5, 2.7, 3.0, 3.5]


def _load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _path(url: str) -> Path:
    assert urlsplit(url).scheme == "file"
    return Path(unquote(urlsplit(url).path))


@pytest.mark.parametrize("name", ["hello.toml", "ising/ising.toml"])
def test_an_example_can_be_read_and_run_with_its_defaults(name: str) -> None:
    experiment = Experiment.from_file(EXAMPLES / name)
    bound = bind(experiment, {})
    assert bound.site == "local"
    assert "{" not in " ".join(bound.commands)


def test_a_copy_of_the_ising_example_keeps_to_its_own_directory(tmp_path: Path) -> None:
    copy = shutil.copytree(EXAMPLES / "ising", tmp_path / "ising")
    experiment = Experiment.from_file(copy / "ising.toml")
    for transfer in experiment.inputs:
        assert _path(transfer.src).is_file()
    sweep = bind_many(experiment, expand_sweep({"T": TEMPERATURES}, "product"))
    dests = [_path(transfer.dest) for member in sweep for transfer in member.outputs]
    assert len(set(dests)) == 2 * len(TEMPERATURES)
    assert {dest.parent for dest in dests} == {copy / "results"}
    assert copy / "results" / "T2.25.json" in dests


def test_the_sweep_that_the_ising_example_names_is_the_one_tested() -> None:
    text = (EXAMPLES / "ising" / "ising.toml").read_text(encoding="utf-8")
    assert f"T={','.join(map(str, TEMPERATURES))}\n" in text


def test_another_python_can_be_named_with_blanks_in_its_path() -> None:
    experiment = Experiment.from_file(EXAMPLES / "ising" / "ising.toml")
    bound = bind(experiment, {"T": 3.0, "python": "/my programs/python"})
    assert bound.commands == ("'/my programs/python' ising.py --temperature 3.0",)


def test_the_python_example_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    square = _load("schedule", monkeypatch).square
    first, second = bind_many(square, [{"n": 2}, {"n": 3}])
    assert first.commands == ("echo 2 squared is $((2 * 2)) > answer.txt",)
    assert second.outputs[0].dest == "answers/3.txt"


def test_the_orchestrator_sends_a_celery_message_of_plain_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    orchestrator = _load("orchestrator", monkeypatch)
    table = tomllib.loads((EXAMPLES / "hello.toml").read_text(encoding="utf-8"))
    body, headers = orchestrator.task_message(table, key="k", params={"who": "you"})
    args, kwargs, embedded = json.loads(json.dumps(body))
    assert args == [table]
    assert Experiment.model_validate(args[0]).name == "hello"
    assert kwargs == {"key": "k", "params": {"who": "you"}}
    assert set(embedded) == {"callbacks", "errbacks", "chain"}
    assert headers["task"] == "wlm.schedule"
    assert headers["id"] == headers["root_id"]


def test_the_orchestrator_needs_nothing_of_ours() -> None:
    text = (EXAMPLES / "orchestrator.py").read_text(encoding="utf-8")
    imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert imports
    assert not [line for line in imports if "wlm" in line or "celery" in line]
