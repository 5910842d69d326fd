"""Live tables, progress and what they look at."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from unit.cli.world import World

from wlm_tasks.cli import output
from wlm_tasks.cli.board import follow, table_of
from wlm_tasks.cli.carrying import wait
from wlm_tasks.cli.looking import Watched, labels
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.progress import Progress, summary
from wlm_tasks.state.views import Filter


def _drawn(watched: Watched, width: int = 80) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(table_of(watched.look()))
    return stream.getvalue()


def test_what_is_under_way_is_shown_with_its_step(world: World) -> None:
    world.failed(name="over")
    paused = world.paused(name="stuck")
    queued = world.add(name="next")
    drawn = _drawn(Watched.of(world.store, []))
    assert "over" not in drawn
    lines = [line.split() for line in drawn.splitlines()]
    assert [queued, "next", "QUEUED", "setup", "ready"] in lines
    assert any(line[:5] == [paused, "stuck", "PAUSED", "setup", "paused"] for line in lines)


def test_a_sweep_shows_its_members_while_they_fit(world: World) -> None:
    sweep = world.sweep({"n": [1, 2, 3]})
    drawn = _drawn(Watched.of(world.store, [sweep], rows=3))
    assert "3 QUEUED" in drawn
    assert [f"n={n}" in drawn for n in (1, 2, 3)] == [True, True, True]


def test_of_a_large_sweep_those_under_way_and_how_many_more(world: World) -> None:
    sweep = world.sweep({"n": list(range(30))})
    drawn = _drawn(Watched.of(world.store, [sweep], rows=5))
    assert "... and 25 more" in drawn
    assert "30 QUEUED" in drawn


def test_a_narrow_terminal_cuts_the_name_only(world: World) -> None:
    experiment_id = world.add(name="n" * 90)
    lines = _drawn(Watched.of(world.store, [experiment_id]), width=60).splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.startswith(experiment_id) and "QUEUED" in line for line in lines)


def test_watching_ends_when_all_has_ended(world: World) -> None:
    done = world.failed()
    shown = world.wlm("watch", done).stdout
    assert shown.endswith("failed\n")
    assert len(shown.splitlines()) == 1


def test_watching_once(world: World) -> None:
    experiment_id = world.add()
    assert experiment_id in world.wlm("watch", "--once").stdout
    assert world.wlm("watch", "--once", "-o", "ids").stdout.split() == [experiment_id]
    plain = world.json("watch", "--once")
    assert plain["states"] == {"QUEUED": 1}
    assert plain["experiments"][0]["step"] == "setup"


def test_following_gives_up_after_its_time(world: World) -> None:
    watched = Watched.of(world.store, [world.add()])
    with pytest.raises(TimeoutError, match=r"^not ended after 0.01 s: queued$"):
        follow(watched, timeout_s=0.01)


def test_a_wait_gives_up_after_its_time(world: World) -> None:
    watched = Watched.of(world.store, [world.add()])
    with pytest.raises(TimeoutError, match=r"^melt: not ended after 0.01 s: queued$"):
        wait(watched, title="melt", shown=False, tick=lambda: None, timeout_s=0.01)


def test_a_wait_ends_with_what_it_waits_for(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment_id = world.add()

    def fail() -> None:
        world.store.claims.fail(world.claim(experiment_id), "broke")

    watched = Watched.of(world.store, [experiment_id])
    look = wait(watched, title="melt", shown=True, tick=fail)
    assert look.states == {ExperimentState.FAILED: 1}
    told = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert told == ["melt: queued", "melt: failed"]


def test_members_are_told_apart_by_what_differs(world: World) -> None:
    sweep = world.sweep({"T": [1, 2], "p": ["x"]})
    single = world.add(name="alone")
    views = world.store.views.list(Filter(limit=None))
    names = labels(views)
    assert names[single] == "alone"
    assert {name for one, name in names.items() if one != single} == {"hello T=1", "hello T=2"}
    [one] = world.store.views.list(Filter(sweep_id=sweep, limit=1))
    assert labels([one]) == {one.id: "hello T=2 p=x"}


def test_a_summary_is_in_the_order_of_an_experiments_life() -> None:
    states = {ExperimentState.DONE: 2, ExperimentState.QUEUED: 1, ExperimentState.FAILED: 0}
    assert summary(states, 3) == "1 queued, 2 done"
    assert summary({ExperimentState.DONE: 1}, 1) == "done"


def test_progress_that_is_not_shown_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(shown=False, total=1, title="x") as progress:
        states = {ExperimentState.DONE: 1}
        assert progress.update(states) == states
    assert capsys.readouterr() == ("", "")


def test_progress_into_a_pipe_is_a_line_for_each_change(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with Progress(shown=True, total=2, title="x") as progress:
        for count in (0, 0, 1, 2):
            progress.update({ExperimentState.QUEUED: 2 - count, ExperimentState.DONE: count})
    told = capsys.readouterr()
    assert told.out == ""
    assert [line.split("  ", 1)[1] for line in told.err.splitlines()] == [
        "x: 2 queued",
        "x: 1 queued, 1 done",
        "x: 2 done",
    ]


def test_progress_on_a_terminal_is_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with Progress(shown=True, total=2, title="[b]x") as progress:
        progress.update({ExperimentState.DONE: 2})
    told = capsys.readouterr().err
    assert "[b]x" in told
    assert "2/2" in told


def test_colours_are_left_out_where_they_are_not_wanted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    world.failed()
    assert "\x1b[1;31m" in world.wlm("ls").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[1;31m" not in world.wlm("ls").stdout
    assert output.console() is output.console()
