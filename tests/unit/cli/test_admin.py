"""The commands about the system: their shapes, and when they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.cli.world import World

from wlm_tasks import __version__
from wlm_tasks.cli.demo import TEMPERATURES, _fresh
from wlm_tasks.control.lock import UpLock
from wlm_tasks.errors import InputError

ISING = Path(__file__).parents[3] / "examples" / "ising" / "ising.toml"


def test_upgrading_a_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "already" in world.wlm("db", "upgrade").stdout
    monkeypatch.setenv("WLM_DATA_DIR", str(world.directory / "new"))
    before = world.wlm("db", "revision", code=1)
    assert before.stdout.startswith("none at sqlite:///")
    assert "run: wlm db upgrade" in before.stderr
    assert world.wlm("db", "upgrade").stdout.startswith("upgraded from nothing to revision ")
    world.wlm("db", "revision")


def test_without_tables_a_fleet_is_told_to_make_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WLM_DATA_DIR", str(world.directory / "new"))
    monkeypatch.setenv("WLM_BROKER_URL", "amqp://wlm@127.0.0.1:1/wlm")
    assert "has no tables yet; run: wlm db upgrade" in world.wlm("ls", code=2).stderr


def test_settings_are_shown_without_passwords(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WLM_BROKER_URL", "amqp://wlm:geheim@mq/wlm")
    shown = world.wlm("config").stdout
    assert "broker_url = amqp://wlm:***@mq/wlm" in shown
    assert "WLM_BROKER_URL" in shown.splitlines()[0]
    assert world.json("config")["steps"]["lease_s"] == 60.0
    assert "geheim" not in shown


def test_versions(world: World) -> None:
    assert world.json("version")["wlm-tasks"] == __version__
    assert world.wlm("--version").stdout == f"wlm {__version__}\n"


def test_sites(world: World) -> None:
    world.file('[sites.a]\nkind = "local"\nscratch = "/scratch/a"\nmax_running = 3\n', "wlm.toml")
    [one] = world.json("sites")
    assert (one["name"], one["jobs"], one["max_running"]) == ("a", 0, 3)
    header, line = world.wlm("sites").stdout.splitlines()
    assert header.split()[:6] == ["SITE", "KIND", "STATE", "SINCE", "RUNNING", "QUEUED"]
    assert line.split() == ["a", "local", "UP", "0", "0", "0", "never", "3", "at", "a", "time"]
    assert world.wlm("sites", "-o", "ids").stdout == "a\n"


def test_queues_tell_what_is_ready(world: World) -> None:
    world.add()
    found = {one["name"]: one for one in world.json("queues")}
    assert found["envsetup"]["ready"] == 1
    assert found["staging"]["steps"] == ["stage_in", "stage_out"]
    assert "MESSAGES" not in world.wlm("queues").stdout


def test_queues_without_their_broker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add()
    monkeypatch.setenv("WLM_BROKER_URL", "amqp://wlm:geheim@127.0.0.1:1/wlm")
    told = world.wlm("queues", code=2)
    lines = [line.split() for line in told.stdout.splitlines()]
    assert ["envsetup", "1", "?", "?", "setup"] in lines
    assert told.stderr.startswith("wlm: error: broker amqp://wlm:**@127.0.0.1:1")
    assert "geheim" not in told.output


def test_up_is_refused_with_a_broker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WLM_BROKER_URL", "amqp://wlm:geheim@mq/wlm")
    told = world.wlm("up", code=2)
    assert "`wlm control` and `celery -A wlm_tasks worker -Q" in told.stderr
    assert "geheim" not in told.stderr


def test_up_is_refused_while_another_is_up(world: World) -> None:
    lock = UpLock(world.directory / "data")
    assert lock.take()
    told = world.wlm("up", code=2)
    lock.release()
    assert "does the work of" in told.stderr


def test_the_demo_runs_the_sweep_that_the_example_names() -> None:
    values = ",".join(map(str, TEMPERATURES))
    assert f"--sweep T={values}" in ISING.read_text()


def test_a_demo_replaces_what_a_demo_made_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "wlm-demo"
    assert _fresh(place, keep=False) == place
    (place / "old").touch()
    assert _fresh(place, keep=True) == tmp_path / "wlm-demo-2"
    assert (place / "old").exists()
    _fresh(place, keep=False)
    assert not (place / "old").exists()
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"^--out: got .*mine"):
        _fresh(other, keep=False)
    assert (other / "thesis.tex").exists()


def test_a_demo_does_not_remove_a_directory_at_work(tmp_path: Path) -> None:
    place = _fresh(tmp_path / "wlm-demo", keep=False)
    lock = UpLock(place / "data")
    assert lock.take()
    with pytest.raises(InputError, match="is at work in"):
        _fresh(place, keep=False)
    lock.release()
