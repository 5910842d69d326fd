"""``wlm show``, ``why`` and ``logs``."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import update
from unit.cli.world import World, hello

from wlm_tasks.cli import logs
from wlm_tasks.cli.logs import added
from wlm_tasks.model.experiment import Cleanup, Transfer
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.schema import experiments


def test_an_experiment_with_all_that_is_known_of_it(world: World, tmp_path: Path) -> None:
    (tmp_path / "out.txt").write_text("12345")
    experiment_id = world.failed(
        owner="ada",
        labels={"series": "a"},
        outputs=[Transfer("a.txt", str(tmp_path / "out.txt")), Transfer("b.txt", "b.txt")],
    )
    shown = world.wlm("show", experiment_id).stdout
    for words in (
        f"{experiment_id}  hello  FAILED",
        "site     local, priority normal",
        "owner    ada",
        "labels   series=a",
        "why      setup: failed: no such directory",
        "w@host",
        f"a.txt       5 B  -             {tmp_path}/out.txt",
        f"b.txt         -  -             {tmp_path}/b.txt",
    ):
        assert words in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if str(tmp_path) not in line)
    plain = world.json("show", experiment_id)
    assert plain["steps"][0]["state"] == "FAILED"
    assert plain["why"] == "setup: failed: no such directory"
    assert [one["path"] for one in plain["outputs"]] == ["a.txt", "b.txt"]


def test_what_was_staged(world: World, tmp_path: Path) -> None:
    digest = "0123456789abcdef" * 4
    experiment_id = world.add(
        inputs=[Transfer("file:///data/", "mesh/")],
        outputs=[Transfer("a.txt", "s3://bucket/a.txt")],
    )
    world.store.claims.finish(world.claim(experiment_id), carry_on=None)
    claim = world.claim(experiment_id, StepName.STAGE_IN)
    world.store.transfers.note_directory(claim, 0, 3, {"x\x1b[31m": digest}, 60.0)
    written = world.wlm("manifest", experiment_id).stdout
    assert written == f"{digest}  ./mesh/x\x1b[31m\n"
    world.store.transfers.note_directory(claim, 0, 3, {"x\udcff": digest}, 60.0)
    ended = world.wlm("manifest", experiment_id, code=1)
    assert ended.stdout == ""
    assert "inputs[0]: 'mesh/' is not listed" in ended.stderr
    told = world.json("manifest", experiment_id)["staged"]
    assert told == world.json("show", experiment_id)["staged"]
    assert (told[0]["files"], told[0]["bytes"]) == (1, 3)
    assert (
        "a.txt         -  -             s3://bucket/a.txt"
        in world.wlm("show", experiment_id).stdout
    )
    sweep = world.sweep({"n": [1, 2]})
    assert "is a sweep" in world.wlm("manifest", sweep, code=2).stderr


def test_what_becomes_of_the_directory(world: World) -> None:
    plan = Cleanup("keep-on-failure", after_days=2)
    experiment_id = world.failed(cleanup=plan)

    def line(**values: object) -> str:
        with world.store.database.write() as connection:
            connection.execute(update(experiments).values(values))
        shown = world.wlm("show", experiment_id).stdout.splitlines()
        return next((one for one in shown if one.startswith("  cleanup")), "").split("  ")[-1]

    words = line(cleanup="keep-on-failure", cleanup_after_s=172800.0)
    assert words == "directory is removed 2 d after the end unless it fails"
    assert line(cleanup="delete", cleanup_after_s=0.0) == "directory is removed at the end"
    assert line(cleanup_reason="no way") == "directory not removed yet, is tried again: no way"
    assert line(cleanup=None) == "directory kept: no way"
    assert line(removed_at=world.store.views.now() - 65).startswith("directory removed 6")
    assert line(removed_at=None, cleanup_reason=None) == ""
    assert "removed_at" in world.json("show", experiment_id)


def test_attempts_are_shown_once_there_is_more_than_one(world: World) -> None:
    experiment_id = world.paused()
    assert "ATTEMPT " not in world.wlm("show", experiment_id).stdout
    world.wlm("resume", experiment_id)
    world.store.claims.fail(world.claim(experiment_id), "still full")
    shown = world.wlm("show", experiment_id).stdout
    assert "ATTEMPT " in shown
    assert "PAUSED   the disk is full" in shown
    assert "FAILED   still full" in shown
    plain = world.json("show", experiment_id)["attempts"]
    assert [one["outcome"] for one in plain] == ["PAUSED", "FAILED"]


def test_two_swept_parameters_make_a_grid(world: World) -> None:
    sweep = world.sweep({"T": [300, 350], "p": [1, 2, 3]})
    lines = world.wlm("show", sweep).stdout.splitlines()
    assert lines[-3].split() == ["T", "\\", "p", "1", "2", "3"]
    assert lines[-2].split() == ["300", "queued", "queued", "queued"]
    assert "6 members" in lines[0]
    assert "6 QUEUED" in lines[2]


def test_one_swept_parameter_makes_a_list(world: World) -> None:
    sweep = world.sweep({"T": [300, 350], "p": [1]})
    lines = world.wlm("show", sweep).stdout.splitlines()
    assert lines[-3].split() == ["ID", "T", "STATE", "TOOK"]
    assert lines[-2].split()[1:] == ["300", "QUEUED"]
    members = world.wlm("show", sweep, "-o", "ids").stdout.split()
    assert [line.split()[0] for line in lines[-2:]] == members
    assert [one["id"] for one in world.json("show", sweep)["members"]] == members


def test_a_large_sweep_is_cut(world: World) -> None:
    sweep = world.sweep({"n": list(range(60))})
    assert "... and 20 more" in world.wlm("show", sweep).stdout


def test_several_ids_give_a_stream_of_json(world: World) -> None:
    first, second = world.add(), world.add()
    text = world.wlm("show", first, second, "-o", "json").stdout
    one, end = json.JSONDecoder().raw_decode(text)
    two, _ = json.JSONDecoder().raw_decode(text[end:].lstrip())
    assert [one["id"], two["id"]] == [first, second]


def test_what_users_wrote_is_no_markup_and_moves_no_cursor(world: World) -> None:
    odd = {"text": "[bold]\x1b[2J\n"}
    experiment_id = world.client.schedule(hello(commands=["echo {text}"]), params=odd).id
    shown = world.wlm("show", experiment_id).output
    assert "[bold]\\x1b[2J\\n" in shown
    assert "\x1b" not in shown


def test_why_of_an_experiment_and_of_a_sweep(world: World) -> None:
    paused = world.paused()
    sweep = world.sweep({"n": [1, 2]})
    lines = world.wlm("why", paused, sweep).stdout
    assert f"{paused}  setup: paused: the disk is full" in " ".join(lines.split("\n"))
    assert f"{sweep}  2 QUEUED" in lines
    assert "hello n=2" in lines
    assert world.json("why", paused)["state"] == "PAUSED"
    assert len(world.json("why", sweep)["members"]) == 2


def test_logs_tell_the_events(world: World) -> None:
    experiment_id = world.failed()
    lines = world.wlm("logs", experiment_id).stdout.splitlines()
    assert "experiment  QUEUED" in lines[0]
    assert "reason=no such directory" in lines[-1]
    assert len(world.wlm("logs", experiment_id, "-n", "1").stdout.splitlines()) == 1
    only = world.wlm("logs", experiment_id, "--step", "setup").stdout
    assert "experiment" not in only
    assert "setup" in only


def test_logs_as_json(world: World) -> None:
    plain = world.json("logs", world.failed())
    assert (plain["stdout"], plain["stderr"]) == ("", "")
    assert plain["events"][0]["state"] == "QUEUED"
    assert plain["events"][-1]["at"].endswith("Z")


def test_following_ends_with_the_experiment(world: World) -> None:
    assert "FAILED" in world.wlm("logs", world.failed(), "-f").stdout


def test_logs_of_a_sweep_are_those_of_its_members(world: World) -> None:
    told = world.wlm("logs", world.sweep({"n": [1]}), code=2)
    assert "is a sweep" in told.stderr


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("", "", ""),
        ("", "a\n", "a\n"),
        ("a\n", "a\nb\n", "b\n"),
        ("a", "ab", "b"),
        ("a\nb\nc\n", "b\nc\nd\n", "d\n"),
        ("a\nb\nc\n", "c\nd\n", "d\n"),
        ("a\nb\nc\n", "c\nd", "d"),
        ("a\n", "", ""),
        ("head\n" + "ok\n" * 9, "ok\n" * 8 + "x\n", "x\n"),
        ("head 1\nhead 2\n" + "ok\n" * 9, "head 2\n" + "ok\n" * 12, "ok\n" * 3),
        ("x\nx\ny\nx\nx\ny\n", "x\ny\nx\nx\ny\nx\n", "x\n"),
        ("x\na 1\nb\n", "1\nb\nc\n", "c\n"),
        ("x\né 1\nb\n", "\ufffd 1\nb\nc\n", "c\n"),
        ("a\nb\n", "z\nb\nc\n", "z\nb\nc\n"),
        ("x" * 5000 + "tail\n", "x" * 4500 + "tail\nnew\n", "new\n"),
        ("gone\n", "other\n", "other\n"),
    ],
)
def test_what_was_added_to_the_end_of_a_growing_text(old: str, new: str, text: str) -> None:
    assert added(old, new) == text


class _Grows:
    """A job whose output has some more lines at each look, and whose site gives its last bytes."""

    def __init__(self, lines: list[str], step: int, most: int) -> None:
        self._lines = lines
        self._step = step
        self._most = most
        self._there = 0
        self.view = SimpleNamespace(token="t")

    def stdout(self, tail: int) -> str:
        self._there += self._step
        text = "".join(self._lines[: self._there]).encode()[-self._most :].decode(errors="replace")
        return "".join(text.splitlines(keepends=True)[-tail:])


@pytest.mark.parametrize(
    ("lines", "most"),
    [
        (["step ok\n"] * 9000, 256 * 1024),
        ([f"step {n}\n" for n in range(9000)], 256 * 1024),
        ([f"é {n // 3}\n" for n in range(9000)], 9001),
        ([*["a\n"] * 3000, *["b\n"] * 3000, *["a\n"] * 3000], 9001),
    ],
    ids=["one line again and again", "all different", "more than is given", "runs"],
)
def test_following_a_long_output_loses_and_repeats_nothing(lines: list[str], most: int) -> None:
    handle = SimpleNamespace(job=_Grows(lines, 700, most), steps=[])
    reader = logs._Reader(SimpleNamespace(), handle, None)  # type: ignore[arg-type]  # all it needs
    shown = "".join(reader.grown("stdout", whole=False) for _ in range(13))
    assert shown == "".join(lines)
