"""``wlm ls``."""

from __future__ import annotations

import pytest
from unit.cli.world import World

from wlm_tasks.cli.ls import read_states
from wlm_tasks.model.states import FINAL, ExperimentState


def _ids(world: World, *args: str) -> list[str]:
    return world.wlm("ls", *args, "-o", "ids").stdout.split()


def test_an_empty_list_says_so_beside_the_output(world: World) -> None:
    shown = world.wlm("ls")
    assert (shown.stdout, shown.stderr) == ("", "No experiments.\n")
    assert world.json("ls") == []
    assert _ids(world) == []


def test_the_newest_comes_first(world: World) -> None:
    first, second = world.add(name="one"), world.add(name="two")
    assert _ids(world) == [second, first]
    lines = world.wlm("ls").stdout.splitlines()
    assert lines[0].split() == ["ID", "NAME", "STATE", "STEP", "SITE", "CREATED"]
    assert lines[1].split()[:4] == [second, "two", "QUEUED", "setup"]
    assert all(len(line) <= 80 for line in lines)


def test_each_filter_leaves_what_fits(world: World) -> None:
    ada = world.add(name="melt-1", owner="ada", project="p", labels={"series": "a"})
    bob = world.add(name="boil-1", owner="bob", labels={"series": "b"})
    bad = world.failed(name="melt-2", owner="bob", project="p")
    assert _ids(world, "--owner", "ada") == [ada]
    assert _ids(world, "--project", "p") == [bad, ada]
    assert _ids(world, "--name", "MELT") == [bad, ada]
    assert _ids(world, "--name", "%") == []
    assert _ids(world, "--label", "series=b") == [bob]
    assert _ids(world, "--state", "failed") == [bad]
    assert _ids(world, "-s", "active", "--owner", "bob") == [bob]
    assert _ids(world, "-s", "ended", "-s", "queued") == [bad, bob, ada]
    assert _ids(world, "--site", "elsewhere") == []


def test_members_of_a_sweep(world: World) -> None:
    other = world.add()
    sweep = world.sweep({"T": [300, 350], "p": [1]})
    members = _ids(world, "--sweep", sweep)
    assert len(members) == 2
    assert other not in members
    shown = world.wlm("ls", "--sweep", sweep[:8]).stdout
    assert "hello T=300" in shown
    assert "p=1" not in shown  # the same in all members


def test_no_more_than_asked_for_and_a_word_about_the_rest(world: World) -> None:
    world.sweep({"n": list(range(25))})
    shown = world.wlm("ls")
    assert len(shown.stdout.splitlines()) == 21
    assert "more" in shown.stderr
    assert len(_ids(world, "-n", "3")) == 3
    everything = world.wlm("ls", "--all")
    assert len(everything.stdout.splitlines()) == 26
    assert everything.stderr == ""


def test_json_has_every_field(world: World) -> None:
    experiment_id = world.add(name="x", owner="ada", labels={"a": "b"})
    [one] = world.json("ls")
    assert (one["id"], one["owner"], one["labels"]) == (experiment_id, "ada", {"a": "b"})
    assert one["state"] == "QUEUED"
    assert one["created_at"].endswith("Z")


def test_a_wide_terminal_has_more_columns(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.failed(owner="ada")
    monkeypatch.setenv("COLUMNS", "160")
    header, line = world.wlm("ls").stdout.splitlines()
    assert header.split()[-4:] == ["PRIORITY", "OWNER", "PROJECT", "REASON"]
    assert "ada" in line
    assert "no such directory" in line


def test_a_long_name_is_cut_and_an_id_is_not(world: World) -> None:
    experiment_id = world.add(name="n" * 100)
    line = world.wlm("ls").stdout.splitlines()[1]
    assert line.startswith(f"{experiment_id}  nnnn")
    assert "…" in line
    assert len(line) <= 80


@pytest.mark.parametrize(
    ("texts", "states"),
    [
        ([], ()),
        (["Done", "DONE"], (ExperimentState.DONE,)),
        (["failed,paused"], (ExperimentState.FAILED, ExperimentState.PAUSED)),
    ],
)
def test_states_in_any_case(texts: list[str], states: tuple[ExperimentState, ...]) -> None:
    assert read_states(texts) == states


def test_groups_of_states() -> None:
    assert set(read_states(["ended"])) == FINAL
    assert set(read_states(["active", "ended"])) == set(ExperimentState)


def test_a_label_is_compared_as_a_whole(world: World) -> None:
    plain = world.add(labels={"a": "b", "c": 'x"a": "z"'})
    odd = world.add(labels={"a": 'q\\"% _é\n', "d": "b"})
    assert _ids(world, "--label", "a=b") == [plain]
    assert _ids(world, "--label", "a=z") == []
    assert _ids(world, "--label", "d=b", "--label", 'a=q\\"% _é\n') == [odd]
    assert _ids(world, "--label", 'a=q\\"%') == []
    assert _ids(world, "--label", "a=B") == []
    assert _ids(world, "--label", "a=b", "--label", "d=b") == []
