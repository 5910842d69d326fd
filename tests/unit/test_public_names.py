"""What the package promises by name."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import wlm_tasks
from wlm_tasks.model import experiment

#: A change here is a change of the interface: say so in CHANGELOG.md.
PUBLIC = [
    "Cleanup", "Client", "Experiment", "ExperimentFailedError", "ExperimentHandle",
    "ExperimentState", "InputError", "JobHandle", "Output", "Plan", "Priority", "Resources",
    "Retry", "ServiceError", "Settings", "StateError", "StepState", "Stop", "SweepHandle",
    "Transfer", "WlmError", "load", "schedule_experiment",
]  # fmt: skip
#: What takes long to import.
HEAVY = ["celery", "kombu", "sqlalchemy", "alembic", "pydantic", "click", "rich", "requests"]


def _python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=True,
        timeout=60,
    )


def _loaded_by(code: str, cwd: Path) -> list[str]:
    """Which heavy packages a piece of code imports in a fresh interpreter."""
    done = _python(f"{code}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))", cwd)
    return [name for name in HEAVY if name in json.loads(done.stdout)]


def test_the_names_are_these() -> None:
    assert sorted(wlm_tasks.__all__) == PUBLIC
    assert wlm_tasks.__all__ == sorted(wlm_tasks.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_is_there_and_documented(name: str) -> None:
    found = getattr(wlm_tasks, name)
    assert found.__doc__
    assert found.__name__ == name
    assert name in dir(wlm_tasks)


def test_a_name_is_the_same_wherever_it_is_taken_from() -> None:
    assert wlm_tasks.Experiment is experiment.Experiment


def test_all_of_them_at_once(tmp_path: Path) -> None:
    _python("from wlm_tasks import *\nschedule_experiment, Experiment, WlmError", tmp_path)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'wlm_tasks' has no attribute 'Experimnt'"):
        _ = wlm_tasks.Experimnt
    assert not hasattr(wlm_tasks, "app")


def test_the_version_is_the_installed_one() -> None:
    assert wlm_tasks.__version__ == version("wlm-tasks")


def test_the_package_is_typed() -> None:
    assert (Path(wlm_tasks.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import wlm_tasks", []),
        ("import wlm_tasks\nwlm_tasks.__version__, dir(wlm_tasks)", []),
        ("from wlm_tasks import WlmError, InputError, ServiceError", []),
        ("from wlm_tasks import ExperimentState, StepState", []),
        ("from wlm_tasks import Experiment, Transfer, Plan", ["pydantic"]),
        ("import wlm_tasks.errors, wlm_tasks.model.states, wlm_tasks.model.steps", []),
        ("import wlm_tasks.scheduler.plan", ["pydantic"]),
    ],
)
def test_who_imports_a_little_pays_a_little(tmp_path: Path, code: str, expected: list[str]) -> None:
    assert _loaded_by(code, tmp_path) == expected
