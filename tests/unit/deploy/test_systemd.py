"""The units: accepted by systemd's own parser, hardened, and safe for running jobs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from services import require_service
from wlm_tasks.config import load

DEPLOY = Path(__file__).parents[3] / "deploy"
UNITS = DEPLOY / "systemd"
SERVICES = (
    "wlm-worker@.service",
    "wlm-control.service",
    "wlm-flower.service",
    "wlm-agent.service",
)
BIN = "/srv/wlm/venv/bin"


def _settings(name: str) -> dict[str, list[str]]:
    """Every setting of a unit with all its values."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and re.fullmatch("[A-Za-z]+", key):
            found[key].append(value)
    return found


def _environment(name: str) -> dict[str, str]:
    words = " ".join(_settings(name)["Environment"]).split()
    return dict(word.split("=", 1) for word in words)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units with an instance of the worker, and programs where they look for them."""
    require_service("systemd-analyze", shutil.which("systemd-analyze") is not None)
    programs = tmp_path / "bin"
    programs.mkdir()
    for program in ("celery", "wlm"):
        (programs / program).write_text("#!/bin/sh\n")
        (programs / program).chmod(0o755)
    for unit in UNITS.iterdir():
        text = unit.read_text(encoding="utf-8").replace(BIN, str(programs))
        (tmp_path / unit.name.replace("@", "@jobsub")).write_text(text, encoding="utf-8")
    return tmp_path


def _verify(*units: Path) -> str:
    argv = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr + (f"exit {done.returncode}" if done.returncode else "")


def test_systemd_accepts_every_unit(installed: Path) -> None:
    units = sorted([*installed.glob("*.service"), *installed.glob("*.target")])
    assert len(units) == 5
    assert _verify(*units) == ""


def test_the_verification_would_find_a_misspelt_setting(installed: Path) -> None:
    unit = installed / "wlm-control.service"
    unit.write_text(unit.read_text().replace("Restart=always", "Restrat=always"))
    assert "Restrat" in _verify(unit)


@pytest.mark.parametrize(
    ("unit", "exposure"),
    [("wlm-worker@jobsub", 4.5), ("wlm-control", 2.0), ("wlm-flower", 2.0), ("wlm-agent", 2.0)],
)
def test_exposure_stays_low(installed: Path, unit: str, exposure: float) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"{unit}.service"]
    done = subprocess.run(argv, cwd=installed, capture_output=True, text=True, check=False)
    level = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert level is not None, done.stderr
    assert float(level[1]) <= exposure


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_comes_back_however_often_it_dies(name: str) -> None:
    settings = _settings(name)
    assert settings["Restart"] == ["always"]
    assert settings["StartLimitIntervalSec"] == ["0"]
    assert settings["User"] == ["wlm"]


def test_a_workers_end_does_not_reach_its_jobs() -> None:
    settings = _settings("wlm-worker@.service")
    assert settings["KillMode"] == ["process"]
    assert settings["OOMPolicy"] == ["continue"]
    # what systemd removes when the service stops would be removed under running jobs
    assert settings["PrivateTmp"] == ["no"]
    assert settings["RemoveIPC"] == ["no"]
    assert "RuntimeDirectory" not in settings


def test_a_worker_serves_the_queue_it_is_named_after_and_sends_events() -> None:
    name = "wlm-worker@.service"
    (command,) = _settings(name)["ExecStart"]
    assert command.startswith(f"{BIN}/celery -A wlm_tasks worker ")
    assert " -E " in command
    assert " -Q ${QUEUES} " in command
    environment = _environment(name)
    assert environment["QUEUES"] == "%i"
    used = set(re.findall(r"\$\{(\w+)\}", command))
    assert used <= set(environment)
    example = (UNITS / "worker.env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^#(\w+)=", example, re.MULTILINE)) == used
    assert _settings(name)["EnvironmentFile"] == ["-/etc/wlm/worker-%i.env"]


@pytest.mark.parametrize("name", SERVICES)
def test_credentials_are_those_that_make_secrets_makes(name: str, tmp_path: Path) -> None:
    subprocess.run([DEPLOY / "make-secrets.sh", tmp_path], check=True)
    credentials = {}
    for value in _settings(name)["LoadCredential"]:
        credential, _, source = value.partition(":")
        assert Path(source).parent == Path("/etc/wlm/secrets")
        assert (tmp_path / Path(source).name).is_file()
        credentials[credential] = source
    used = re.findall(r"%d/([\w-]+)", " ".join(_settings(name)["Environment"]))
    assert sorted(used) == sorted(credentials)


@pytest.mark.parametrize("name", SERVICES)
def test_our_settings_accept_what_a_unit_puts_into_the_environment(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "wlm.toml").write_text("")
    environ = {"HOME": str(tmp_path), **_environment(name)}
    environ["WLM_CONFIG"] = str(tmp_path / "wlm.toml")
    settings = load(environ={key: value.replace("%d", "/run/c") for key, value in environ.items()})
    if name == "wlm-agent.service":
        assert str(settings.serf.encrypt_key) == "file:/run/c/serf-key"
    else:
        assert str(settings.broker_url) == "file:/run/c/broker-url"


def test_all_services_start_and_stop_with_the_target() -> None:
    for name in SERVICES:
        assert _settings(name)["PartOf"] == ["wlm.target"]
        assert _settings(name)["WantedBy"] == ["wlm.target"]
