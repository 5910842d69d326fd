"""wlm.toml.example and flowerconfig.py say what the programs that read them understand."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from wlm_tasks.config import Settings, StepSettings, load

DEPLOY = Path(__file__).parents[3] / "deploy"


def _uncommented() -> str:
    """The example with every line that is a setting switched on."""
    text = (DEPLOY / "wlm.toml.example").read_text(encoding="utf-8")
    return re.sub(r"^#(?=[a-z_\[])", "", text, flags=re.MULTILINE)


def _keys(table: dict[str, Any], above: str = "") -> set[str]:
    found = set()
    for key, value in table.items():
        path = f"{above}{key}"
        found |= _keys(value, f"{path}.") if isinstance(value, dict) else {path}
    return found


def test_the_example_as_it_stands_sets_nothing() -> None:
    text = (DEPLOY / "wlm.toml.example").read_text(encoding="utf-8")
    assert tomllib.loads(text) == {}


def test_all_of_the_example_is_valid(tmp_path: Path) -> None:
    (tmp_path / "wlm.toml").write_text(_uncommented(), encoding="utf-8")
    settings = load(tmp_path / "wlm.toml", environ={"HOME": str(tmp_path)})
    assert set(settings.sites) == {"local", "fermi", "cluster-a", "mesos"}
    assert not settings.embedded
    assert settings.alerts.admin == ("ops@example.org",)


def test_the_example_has_every_key() -> None:
    described = Settings(data_dir=Path("/d")).describe()
    for derived in ("source", "embedded"):
        described.pop(derived)
    described.pop("sites")
    described.pop("storages")
    keys = _keys(tomllib.loads(_uncommented()))
    assert _keys(described) == {key for key in keys if not key.startswith(("sites.", "storages."))}
    common = {"kind", "scratch", "max_running", "poll_s"}
    assert {key.removeprefix("sites.local.") for key in keys if ".local." in key} == common


def test_values_that_are_called_defaults_are_the_defaults(tmp_path: Path) -> None:
    table = tomllib.loads(_uncommented())
    assert table["steps"] == Settings(data_dir=tmp_path, steps=StepSettings()).describe()["steps"]
    described = Settings(data_dir=tmp_path).describe()
    assert table["control"] == described["control"]
    assert table["placement"] == described["placement"]


def test_no_password_stands_in_the_example() -> None:
    assert not re.search(r"://[^\s/:@]+:[^\s/@]+@", _uncommented())


# ---- Flower


@pytest.fixture
def flowerconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "api").write_text("http://wlm-flower:pw@mq:15672/api/\n")
    (tmp_path / "login").write_text("one:pw1\ntwo:pw2\n")
    monkeypatch.setenv("FLOWER_BROKER_API_FILE", str(tmp_path / "api"))
    monkeypatch.setenv("FLOWER_LOGIN_FILE", str(tmp_path / "login"))
    return runpy.run_path(str(DEPLOY / "flowerconfig.py"))


def test_secrets_of_flower_come_from_files(flowerconfig: dict[str, Any]) -> None:
    assert flowerconfig["broker_api"] == "http://wlm-flower:pw@mq:15672/api/"
    assert flowerconfig["basic_auth"] == ["one:pw1", "two:pw2"]


def test_without_secrets_flower_keeps_to_its_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLOWER_BROKER_API_FILE", raising=False)
    monkeypatch.delenv("FLOWER_LOGIN_FILE", raising=False)
    config = runpy.run_path(str(DEPLOY / "flowerconfig.py"))
    assert "broker_api" not in config
    assert "basic_auth" not in config


@pytest.mark.parametrize("variable", ["FLOWER_LOGIN_FILE", "FLOWER_BROKER_API_FILE"])
@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"], ids=repr)
def test_flower_does_not_start_without_a_secret_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, content: bytes | None
) -> None:
    """With an empty file nobody would be asked for a login."""
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    monkeypatch.setenv(variable, str(tmp_path / "secret"))
    with pytest.raises(SystemExit, match=f"^{variable}: "):
        runpy.run_path(str(DEPLOY / "flowerconfig.py"))


def test_flower_listens_on_this_machine_only_and_changes_nothing(
    flowerconfig: dict[str, Any],
) -> None:
    assert flowerconfig["address"] == "127.0.0.1"
    assert flowerconfig["read_only"] is True


def test_flower_knows_every_option(flowerconfig: dict[str, Any]) -> None:
    options = pytest.importorskip("flower.options").default_options
    columns = pytest.importorskip("flower.views.tasks").TASK_COLUMNS
    wanted = {
        "address",
        "port",
        "tasks_columns",
        "natural_time",
        "max_tasks",
        "purge_offline_workers",
        "read_only",
        "broker_api",
        "basic_auth",
        "format_task",
    }
    ours = {
        name
        for name, value in flowerconfig.items()
        if name.islower() and not name.startswith("_") and not isinstance(value, type(sys))
    }
    assert ours == wanted
    assert wanted <= set(options)
    assert set(flowerconfig["tasks_columns"].split(",")) <= set(columns)


@dataclass
class _Task:
    args: str | None
    kwargs: str | None = "{}"
    result: str | None = None


def test_what_a_task_carries_is_shortened(flowerconfig: dict[str, Any]) -> None:
    task = flowerconfig["format_task"](_Task(args="x" * 500))
    assert len(task.args) == flowerconfig["TEXT_WIDTH"]
    assert task.args.endswith("…")
    assert (task.kwargs, task.result) == ("{}", None)
