"""``wlm run``: handing in; waiting is tried with the embedded system in the integration tests."""

from __future__ import annotations

import pytest
from unit.cli.world import World

FILE = """
name = "melt"
site = "local"
commands = ["echo {T} {p}"]
outputs = [{src = "out", dest = "out-{T}-{p}"}]
params = {T = 300, p = 1}
"""


@pytest.fixture
def file(world: World) -> str:
    return world.file(FILE)


def test_one_experiment_is_handed_in(world: World, file: str) -> None:
    told = world.wlm("run", file, "-p", "T=2.50", "--priority", "urgent")
    [view] = world.json("ls")
    assert told.stdout == f"{view['id']}  accepted: melt at site local, priority urgent\n"
    assert "Nobody works on it yet" in told.stderr
    assert view["params"] == {"T": "2.50"}
    [output] = world.json("show", view["id"])["outputs"]
    assert output["url"].endswith("/out-2.50-1")


def test_a_number_as_priority(world: World, file: str) -> None:
    assert world.json("run", file, "--priority", "7")["priority"] == 7


def test_the_id_alone(world: World, file: str) -> None:
    assert world.wlm("run", file, "-o", "ids").stdout.strip() == world.json("ls")[0]["id"]


def test_a_key_runs_nothing_twice(world: World, file: str) -> None:
    first = world.json("run", file, "--key", "melt-300")["id"]
    again = world.wlm("run", file, "--key", "melt-300")
    assert again.stdout.startswith(f"{first}  was handed in before under this key")
    assert "melt-300" in world.wlm("run", file, "-p", "p=2", "--key", "melt-300", code=2).stderr
    assert world.count() == 1


def test_a_sweep_crosses_or_pairs_its_values(world: World, file: str) -> None:
    crossed = world.json("run", file, "--sweep", "T=1,2", "--sweep", "p=3,4")
    assert crossed["size"] == 4
    paired = world.json("run", file, "--sweep", "T=5,6", "--sweep", "p=3,4", "--zip", "--key", "k")
    assert paired["size"] == 2
    members = world.json("show", paired["id"])["members"]
    assert [member["params"] for member in members] == [{"T": 5, "p": 3}, {"T": 6, "p": 4}]
    again = world.wlm("run", file, "--sweep", "T=5,6", "--sweep", "p=3,4", "--zip", "--key", "k")
    assert "was handed in before" in again.stdout


def test_members_beyond_the_limit_are_held(world: World, file: str) -> None:
    sweep = world.json("run", file, "--sweep", "T=1,2,3", "--max-active", "1")
    assert sweep["max_active"] == 1
    members = world.json("show", sweep["id"])["members"]
    states = [world.store.views.steps(member["id"])[0].state for member in members]
    assert states == ["READY", "HELD", "HELD"]


def test_a_dry_run_shows_the_plan_and_leaves_no_trace(world: World, file: str) -> None:
    before = sorted(path.name for path in (world.directory / "data").iterdir())
    shown = world.wlm("run", file, "--sweep", "T=1,2", "--dry-run")
    for words in ("melt  2 members", "site local, priority normal", "stage_out", "echo 1 1"):
        assert words in shown.stdout
    assert "nothing was written or sent" in shown.stderr
    first, second = world.json("run", file, "--sweep", "T=1,2", "--dry-run")
    assert [step["queue"] for step in first["steps"]] == [
        "envsetup",
        "jobsub",
        "monitor",
        "staging",
    ]
    assert second["params"] == {"T": 2}
    assert "echo 2 1" in second["script"]
    assert world.count() == 0
    assert sorted(path.name for path in (world.directory / "data").iterdir()) == before


def test_a_dry_run_shows_the_whole_script_and_the_variables(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.directory / "prepared.toml"
    path.write_text(
        'name = "prepared"\nsite = "local"\ncommands = ["echo it"]\nmodules = ["gcc/12"]\n'
        'venv = "v"\nenvironment = ["export A=1"]\nvariables = { SEED = "forty two" }\n'
        "resources = { disk_mb = 300 }\n"
    )
    monkeypatch.setenv("WLM_SITES_LOCAL_PROLOGUE", "export FIRST=1")
    shown = world.wlm("run", str(path), "--dry-run").stdout
    lines = ["export FIRST=1", "module load gcc/12", ". ./v/bin/activate", "export A=1", "echo it"]
    places = [shown.index(f"\n  {line}") for line in lines]
    assert places == sorted(places)
    assert "300 MiB of disk" in shown
    assert "SEED" in shown
    assert "forty two" in shown
    (planned,) = world.json("run", str(path), "--dry-run")
    assert planned["experiment"]["variables"] == {"SEED": "forty two"}
    assert "export FIRST=1" in planned["script"]


def test_a_long_dry_run_shows_ten_members(world: World, file: str) -> None:
    values = ",".join(map(str, range(200)))
    shown = world.wlm("run", file, "--sweep", f"T={values}", "--dry-run").stdout
    assert "and 190 more" in shown
    assert "200 members" in shown


def test_yaml_and_json_files_will_do(world: World) -> None:
    text = '{"name": "j", "site": "local", "commands": ["true"]}'
    assert world.json("run", world.file(text, "x.json"))["name"] == "j"
