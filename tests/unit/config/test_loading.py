"""Settings come from a file and the environment, and the last word counts."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
from pathlib import Path

import pytest

from wlm_tasks.config import AlertSettings, Settings, SiteSettings, StepSettings, load
from wlm_tasks.config.settings import default_site
from wlm_tasks.errors import ConfigError

DESIGN = """
broker_url = "amqp://wlm@mq/wlm"
database_url = "postgresql+psycopg://wlm@db/wlm"
data_dir = "/var/lib/wlm"
[sites.laptop]
kind = "local"
scratch = "/scratch/wlm"
[sites.cluster-a]
kind = "slurm"
host = "login.a.edu"
user = "gateway"
scratch = "/scratch/{user}/wlm"
[sites.mesos]
kind = "aurora"
url = "http://scheduler:8081"
cluster = "example"
role = "gateway"
environment = "devel"
[alerts]
admin = ["ops@example.org"]
smtp_url = "smtp://mail:25"
[placement]
mode = "pull"
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "wlm.toml"


@pytest.mark.usefixtures("file")
def test_without_anything() -> None:
    settings = load(environ={"HOME": "/home/ada"})
    assert settings.embedded
    assert settings.source == "defaults"
    assert settings.data_dir == Path("/home/ada/.local/share/wlm")
    assert settings.database == "sqlite:////home/ada/.local/share/wlm/wlm.db"
    assert dict(settings.sites) == {"local": default_site(settings.data_dir)}
    local = settings.sites["local"]
    assert (local.kind, local.max_running) == ("local", os.cpu_count())
    assert local.scratch == "/home/ada/.local/share/wlm/scratch"
    assert settings.steps == StepSettings(
        lease_s=60, slice_s=600, poison_after=3, carry_on=True, heartbeat_s=5
    )
    assert settings.placement.mode == "pull"
    assert settings == Settings(data_dir=settings.data_dir)


def test_the_file_of_the_design(file: Path) -> None:
    file.write_text(DESIGN)
    settings = load(file, {})
    assert not settings.embedded
    assert settings.broker_url is not None
    assert settings.broker_url.reveal() == "amqp://wlm@mq/wlm"
    assert settings.database == "postgresql+psycopg://wlm@db/wlm"
    assert settings.source == str(file)
    assert list(settings.sites) == ["laptop", "cluster-a", "mesos"]
    assert settings.sites["laptop"].max_running == os.cpu_count()
    cluster = settings.sites["cluster-a"]
    assert cluster.directory == "/scratch/gateway/wlm"
    assert dict(cluster.options) == {"host": "login.a.edu", "user": "gateway"}
    assert cluster.max_running is None
    mesos = settings.sites["mesos"]
    assert mesos.options["url"] == "http://scheduler:8081"
    assert mesos.scratch == "/var/lib/wlm/scratch"
    assert settings.alerts.admin == ("ops@example.org",)


def test_where_the_file_is_found(file: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    user_file = home / ".config" / "wlm" / "wlm.toml"
    xdg_file = tmp_path / "xdg" / "wlm" / "wlm.toml"
    for number, place in enumerate([user_file, xdg_file, file, tmp_path / "b.toml"], start=1):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"[steps]\npoison_after = {number}\n")
    environ = {"HOME": str(home)}
    named = {**environ, "WLM_CONFIG": "b.toml"}
    xdg = {**environ, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}

    def poison_after(path: Path | None, env: dict[str, str]) -> int:
        return load(path, env).steps.poison_after

    assert poison_after(user_file, named) == 1
    assert poison_after(None, named) == 4
    assert poison_after(None, environ) == 3
    file.unlink()
    assert poison_after(None, xdg) == 2
    assert poison_after(None, {**xdg, "XDG_CONFIG_HOME": "relative"}) == 1
    assert poison_after(None, environ) == 1
    user_file.unlink()
    assert load(None, {**environ, "WLM_CONFIG": ""}).source == "defaults"


def test_the_processs_environment_is_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[steps]\nlease_s = 30\n")
    monkeypatch.setenv("WLM_STEPS_SLICE_S", "7")
    settings = load()
    assert (settings.steps.lease_s, settings.steps.slice_s) == (30.0, 7.0)
    assert settings.source == f"{file}, WLM_STEPS_SLICE_S"


def test_every_setting_has_a_variable(file: Path) -> None:
    file.write_text(DESIGN)
    settings = load(
        file,
        {
            "WLM_BROKER_URL": "amqps://u:secret@other:5671/v",
            "WLM_DATABASE_URL": "sqlite:////db",
            "WLM_DATA_DIR": "/data",
            "WLM_SITES_CLUSTER_A_MAX_RUNNING": "50",
            "WLM_SITES_CLUSTER_A_POLL_S": "2.5",
            "WLM_SITES_CLUSTER_A_USER": "ada",
            "WLM_SITES_LAPTOP_MAX_RUNNING": "",
            "WLM_STEPS_LEASE_S": "30",
            "WLM_STEPS_CARRY_ON": "no",
            "WLM_CONTROL_TICK_S": "0.05",
            "WLM_STAGING_BYTES_PER_S": "1e6",
            "WLM_ALERTS_ADMIN": "a@example.org, b@example.org",
            "WLM_ALERTS_SMTP_URL": "",
            "WLM_PLACEMENT_MODE": "pull",
            "WLM_CONFIG": "/ignored/when/a/path/is/given",
            "WLM_CELERYCONFIG": "mine",
            "WLM_JOB_TOKEN": "t",
            "WLM_TEST_ANYTHING": "x",
            "OTHER": "x",
        },
    )
    assert settings.broker_url is not None
    assert settings.broker_url.reveal() == "amqps://u:secret@other:5671/v"
    assert settings.database == "sqlite:////db"
    assert settings.data_dir == Path("/data")
    cluster = settings.sites["cluster-a"]
    assert (cluster.max_running, cluster.poll_s) == (50, 2.5)
    assert cluster.directory == "/scratch/ada/wlm"
    assert settings.sites["laptop"].max_running is None
    assert (settings.steps.lease_s, settings.steps.carry_on) == (30.0, False)
    assert settings.control.tick_s == 0.05
    assert settings.staging.bytes_per_s == 1_000_000.0
    assert settings.alerts.admin == ("a@example.org", "b@example.org")
    assert settings.alerts.smtp_url is None
    assert settings.placement.mode == "pull"


@pytest.mark.usefixtures("file")
def test_variables_of_the_site_there_is_without_configuration() -> None:
    settings = load(environ={"HOME": "/h", "WLM_SITES_LOCAL_SCRATCH": "/tmp/{user}"})  # noqa: S108
    name = pwd.getpwuid(os.getuid()).pw_name
    assert settings.sites["local"].directory == f"/tmp/{name}"  # noqa: S108
    assert settings.sites["local"].kind == "local"


@pytest.mark.parametrize("variable", ["LOGNAME", "USER", "LNAME", "USERNAME"])
def test_the_user_is_who_runs_us_and_not_who_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "somebody-else")
    site = SiteSettings(name="local", kind="local", scratch="/scratch/{user}")
    assert site.directory == f"/scratch/{pwd.getpwuid(os.getuid()).pw_name}"


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOGNAME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 3_999_999_999)
    site = SiteSettings(name="local", kind="local", scratch="/scratch/{user}")
    assert site.directory == "/scratch/3999999999"


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("ON", True), ("1", True), ("off", False), ("No", False)]
)
@pytest.mark.usefixtures("file")
def test_words_for_true_and_false(text: str, value: bool) -> None:
    assert load(environ={"HOME": "/h", "WLM_STEPS_CARRY_ON": text}).steps.carry_on is value


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("/data", "/data"),
        ("data", "{here}/data"),
        ("../data", "{above}/data"),
        ("~/data", "/home/ada/data"),
        ("~", "/home/ada"),
    ],
)
def test_data_dir_is_absolute(given: str, path: str, file: Path) -> None:
    file.write_text(f'data_dir = "{given}"\n')
    expected = Path(path.format(here=file.parent, above=file.parent.parent))
    assert load(file, {"HOME": "/home/ada"}).data_dir == expected
    file.unlink()
    assert load(environ={"HOME": "/home/ada", "WLM_DATA_DIR": given}).data_dir == expected


@pytest.mark.usefixtures("file")
def test_data_dir_follows_xdg() -> None:
    environ = {"HOME": "/home/ada", "XDG_DATA_HOME": "/xdg"}
    assert load(environ=environ).data_dir == Path("/xdg/wlm")
    with pytest.raises(ConfigError, match=r"^data_dir: got nothing, expected a directory"):
        load(environ={})


def test_describe_is_plain_and_masked(file: Path) -> None:
    file.write_text(DESIGN)
    settings = load(file, {"WLM_BROKER_URL": "amqp://wlm:hunter2@mq/wlm", "SMTP": "x"})
    described = settings.describe()
    text = json.dumps(described)
    assert "hunter2" not in text
    assert "hunter2" not in repr(settings)
    assert described["broker_url"] == "amqp://wlm:***@mq/wlm"
    assert described["embedded"] is False
    assert described["sites"]["cluster-a"]["options"]["host"] == "login.a.edu"
    assert described["steps"]["lease_s"] == 60.0
    assert described["source"] == f"{file}, WLM_BROKER_URL"
    assert load(environ={"HOME": "/h", "WLM_CONFIG": ""}, path=file).describe()["data_dir"]


def test_settings_are_frozen() -> None:
    settings = Settings(data_dir=Path("/data"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.steps.lease_s = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        settings.sites["x"] = settings.sites["local"]  # type: ignore[index]
    with pytest.raises(TypeError):
        settings.sites["local"].options["x"] = 1  # type: ignore[index]


def test_settings_made_in_code_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"^steps\.lease_s: got -1, expected a number of sec"):
        StepSettings(lease_s=-1)
    with pytest.raises(ConfigError, match=r"^sites\.x\.host: got 'h', expected no such setting"):
        SiteSettings(name="x", kind="local", scratch="/s", options={"host": "h"})
    with pytest.raises(ConfigError, match=r"^sites\.x\.host: got 5, expected 1 to 255 charac"):
        SiteSettings(name="x", kind="ssh", scratch="/s", options={"host": 5})
    with pytest.raises(ConfigError, match=r"^broker_url: got 'amqp://h', expected a Secret"):
        Settings(data_dir=Path("/d"), broker_url="amqp://h")  # type: ignore[arg-type]


def test_in_a_directory_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load(environ={"HOME": "/h", "WLM_STEPS_LEASE_S": "30"}).steps.lease_s == 30.0


def test_settings_out_of_reach_are_no_settings(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    environ = {"HOME": "/h", "XDG_CONFIG_HOME": str(tmp_path / ("x" * 300))}
    assert load(environ=environ).source == "defaults"


def test_mails_are_from_the_same_address_on_every_host() -> None:
    """Ids of messages are made of it: two control hosts must give a message the same."""
    assert AlertSettings().sender_domain == "wlm.invalid"
    alerts = AlertSettings(admin=("ops@example.org", "a@b"))
    assert (alerts.sender_address, alerts.sender_domain) == ("wlm@example.org", "example.org")
    assert AlertSettings(admin=("a@b",), sender="x@y").sender_address == "x@y"


def test_a_back_off_does_not_shrink() -> None:
    expected = r"alerts\.retry_max_s: got 30\.0, expected .* from 60 on"
    with pytest.raises(ConfigError, match=expected):
        AlertSettings(retry_s=60, retry_max_s=30)
