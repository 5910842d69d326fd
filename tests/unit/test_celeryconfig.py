"""The celeryconfig module: known settings, our queues, and what is said of any other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery.app.defaults import SETTING_KEYS

import celeryconfig
from services.fixtures import Spawn
from wlm_tasks.celery import TASK_MODULES, app, check_celeryconfig, make_app
from wlm_tasks.config import load
from wlm_tasks.errors import ConfigError
from wlm_tasks.model.steps import ALL_QUEUES, QUEUES, StepName, task_name

CELERY = Path(sys.executable).parent / "celery"


def _settings(module: ModuleType = celeryconfig) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _with(**changes: Any) -> dict[str, Any]:
    return {**_settings(), **changes}


def test_every_setting_is_one_celery_knows() -> None:
    settings = {name for name in _settings() if name.islower()}
    assert settings <= set(SETTING_KEYS)
    assert {name for name in _settings() if not name.islower()} == {"Exchange", "Queue"}


def test_ours_passes() -> None:
    check_celeryconfig("celeryconfig", _settings())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task_acks_lat", True),
        ("worker_prefetch_multiplyer", 1),
        ("result_serialiser", "json"),
        ("TASK_ACKS_LATE", True),
        ("CELERY_ACKS_LATE", True),
        ("Task_Acks_Late", True),
        ("broker_heart_beat", None),
        ("accept_contents", ["json"]),
        ("task_routing", {"a": "b"}),
    ],
)
def test_a_misspelt_setting_is_an_error(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^celeryconfig: {name}: ") as caught:
        check_celeryconfig("celeryconfig", _with(**{name: value}))
    assert "\n" not in str(caught.value)


def test_what_a_module_imports_and_defines_is_no_setting() -> None:
    check_celeryconfig(
        "celeryconfig",
        _with(os=sys, queue=lambda name: name, Path=Path, _hidden=1, annotations=_Future),
    )


class _Future:
    pass


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"task_acks_late": True},
        {"task_queues": ()},
        {"task_queues": None},
        {"task_queues": celeryconfig.task_queues[:-1]},
        {"task_queues": {"jobsub": {"exchange": "x"}}},
    ],
)
def test_anothers_module_is_an_error_with_a_hint(conf: Mapping[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^theirs: task_queues lacks .*WLM_CELERYCONFIG"):
        check_celeryconfig("theirs", conf)


# -- what must hold of the settings themselves ---------------------------------------------


def test_the_queues_are_dedicated_durable_and_know_priorities() -> None:
    assert [queue.name for queue in celeryconfig.task_queues] == list(ALL_QUEUES)
    for queue in celeryconfig.task_queues:
        assert queue.durable
        assert queue.exchange.durable
        assert (queue.exchange.name, queue.routing_key) == ("wlm", queue.name)
        assert queue.queue_arguments == {
            "x-queue-type": "classic",
            "x-max-priority": 10,
            "x-dead-letter-exchange": "wlm.dead",
            "x-dead-letter-routing-key": "wlm.dead",
        }


def test_messages_carry_data_only() -> None:
    assert celeryconfig.accept_content == ["json"]
    for name in ("task_serializer", "result_serializer", "event_serializer"):
        assert getattr(celeryconfig, name) == "json"


def test_an_urgent_message_goes_first_and_a_dead_workers_comes_back() -> None:
    assert celeryconfig.task_acks_late
    assert celeryconfig.task_reject_on_worker_lost
    assert celeryconfig.worker_prefetch_multiplier == 1
    assert celeryconfig.task_create_missing_queues is False
    assert celeryconfig.broker_heartbeat == 10


def test_every_task_is_on_its_queue() -> None:
    for module in TASK_MODULES:
        import_module(module)
    ours = {name for name in app.tasks if name.startswith("wlm.")}
    assert ours == set(celeryconfig.task_routes)
    steps = {task_name(name): QUEUES[name] for name in StepName if name is not StepName.MONITOR}
    routes = {name: route["queue"] for name, route in celeryconfig.task_routes.items()}
    assert steps.items() <= routes.items()
    assert set(routes.values()) <= set(ALL_QUEUES)


def test_no_place_is_named() -> None:
    assert not {"broker_url", "result_backend", "include", "imports"} & set(_settings())
    assert TASK_MODULES


def test_the_app_has_these_settings_and_no_broker_of_anothers(tmp_path: Path) -> None:
    made = make_app(load(environ={"HOME": str(tmp_path)}))
    assert made.conf.task_acks_late is True
    assert made.conf.task_create_missing_queues is False
    assert made.conf.broker_url == "memory://wlm"
    assert made.main == "wlm_tasks"
    made.close()


# -- from the command line -----------------------------------------------------------------


def _run(
    *argv: str | Path, cwd: Path, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), **(environ or {})}
    return subprocess.run(
        argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=90, check=False
    )


def test_it_does_not_import_the_package(tmp_path: Path) -> None:
    code = "import celeryconfig, sys; sys.exit('wlm_tasks' in sys.modules)"
    assert _run(sys.executable, "-c", code, cwd=tmp_path).returncode == 0


def test_celery_finds_the_app_from_any_directory(tmp_path: Path) -> None:
    done = _run(CELERY, "-A", "wlm_tasks", "report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "task_acks_late: True" in done.stdout
    assert "jobsub" in done.stdout


_OURS = Path(celeryconfig.__file__).read_text()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_OURS + "\ntask_acks_lat = True\n", "theirs: task_acks_lat: "),
        ("task_acks_late = True\n", "theirs: task_queues lacks envsetup"),
        (None, "ConfigError: WLM_CELERYCONFIG: got 'theirs'"),
    ],
    ids=["misspelt", "foreign", "missing"],
)
def test_celery_says_what_is_wrong(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "theirs.py").write_text(text)
    environ = {"WLM_CELERYCONFIG": "theirs", "PYTHONPATH": str(tmp_path)}
    done = _run(CELERY, "-A", "wlm_tasks", "report", cwd=tmp_path, environ=environ)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def test_anothers_celeryconfig_in_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "celeryconfig.py").write_text("broker_url = 'amqp://theirs//'\n")
    environ = {"PYTHONPATH": str(tmp_path)}
    done = _run(CELERY, "-A", "wlm_tasks", "report", cwd=tmp_path, environ=environ)
    assert done.returncode != 0
    assert "WLM_CELERYCONFIG" in done.stdout + done.stderr


def test_a_misspelt_queue_ends_the_worker(spawn: Spawn, broker_url: str, tmp_path: Path) -> None:
    environ = {"WLM_BROKER_URL": "env:WLM_TEST_BROKER", "WLM_TEST_BROKER": broker_url}
    worker = spawn(
        [CELERY, "-A", "wlm_tasks", "worker", "-Q", "jobsbu", "-P", "solo"],
        env={**environ, "WLM_DATA_DIR": str(tmp_path)},
        cwd=tmp_path,
    )
    assert worker.wait(60) == 2
    assert "Traceback" not in worker.output
    assert "-Q: got 'jobsbu', expected some of envsetup," in worker.output
    assert "did you mean jobsub?" in worker.output
