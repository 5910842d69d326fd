"""``wlm sites`` and ``wlm site``: what they show, what they change, and bad input."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from unit.cli.world import World

from wlm_tasks.model.sites import POLL, Evidence, SiteState

TWO = """
[sites.a]
kind = "local"
scratch = "/scratch/a"
max_running = 3
max_queued = 7
submit_per_s = 0.5
[sites.b]
kind = "local"
scratch = "/scratch/b"
max_running = 2
"""


@pytest.fixture
def two(world: World) -> Iterator[World]:
    """An installation with two sites."""
    world.file(TWO, "wlm.toml")
    made = World(world.directory)
    yield made
    made.close()


def trouble(world: World, name: str, state: SiteState, reason: str = "no route") -> None:
    seen = Evidence(state=state, by=POLL, reason=reason)
    world.store.sites.report(name, seen, who="w@host", pause_s=60)


def lines(world: World) -> dict[str, list[str]]:
    _header, *rows = world.wlm("sites").stdout.splitlines()
    return {row.split()[0]: row.split() for row in rows}


def test_how_sites_stand(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    trouble(two, "b", SiteState.UNREACHABLE)
    two.store.sites.counted("b", queued=2, running=5, foreign=4)
    assert lines(two)["a"][2:] == [
        "UP", "0", "0", "0", "never",
        "3", "at", "a", "time,", "7", "queued,", "0.5", "a", "second",
    ]  # fmt: skip
    shown = " ".join(lines(two)["b"])
    assert shown.startswith("b local UNREACHABLE")
    assert " 0 +4 0 0 never " in shown
    assert shown.endswith("no route")
    found = {one["name"]: one for one in two.json("sites")}
    assert found["b"]["state"] == "UNREACHABLE"
    assert found["b"]["by"] == "w@host"
    assert found["b"]["account_foreign"] == 4
    assert found["b"]["probe_at"] - found["b"]["since_at"] == pytest.approx(60, abs=1)


def test_words_of_a_site_do_no_harm_to_a_terminal(two: World) -> None:
    trouble(two, "a", SiteState.MAINTENANCE, "shut\x1b[2Jtoday")
    assert "\x1b[2J" not in two.wlm("sites").stdout


def test_a_poll_that_failed_is_a_reason(two: World) -> None:
    two.store.polls.sent("a")
    two.store.polls.done("a", "squeue: strange answer")
    [one] = [one for one in two.json("sites") if one["name"] == "a"]
    assert (one["state"], one["reason"]) == ("UP", "squeue: strange answer")


def test_pause_and_resume(two: World) -> None:
    assert two.wlm("site", "pause", "a", "--reason", "cooling").stdout == "a  paused\n"
    assert two.wlm("site", "pause", "a", code=1).stdout == "a  was paused before\n"
    found = {one["name"]: one for one in two.json("sites")}
    assert (found["a"]["state"], found["a"]["reason"]) == ("PAUSED", "cooling")
    assert found["b"]["state"] == "UP"
    trouble(two, "a", SiteState.AUTH_NEEDED, "Permission denied (publickey)")
    [one] = [one for one in two.json("sites") if one["name"] == "a"]
    assert one["reason"] == "cooling, and AUTH_NEEDED: Permission denied (publickey)"
    assert two.wlm("site", "resume", "a").stdout == "a  takes work again\n"
    assert two.wlm("site", "resume", "a", code=1).stdout == "a  takes work already\n"
    assert two.json("sites")[0]["state"] == "UP"


def test_a_resume_tells_how_many_go_on(two: World) -> None:
    trouble(two, "a", SiteState.AUTH_NEEDED)
    for _ in range(2):
        claim = two.claim(two.add(site="a"))
        two.store.claims.hold(claim, "site a: Permission denied")
    assert two.json("sites")[0]["held"] == 2
    told = two.wlm("site", "resume", "a").stdout
    assert told == "a  takes work again, 2 held steps may go on\n"


def test_the_doctor_sees_it(two: World) -> None:
    trouble(two, "a", SiteState.AUTH_NEEDED, "Permission denied")
    two.wlm("site", "pause", "b", "--reason", "cooling")
    texts = [one["text"] for one in two.json("doctor") if one["level"] == "warn"]
    assert "is AUTH_NEEDED: Permission denied" in texts
    assert "is paused: cooling" in texts


@pytest.mark.parametrize("command", ["pause", "resume", "test"])
def test_an_unknown_site(two: World, command: str) -> None:
    told = two.wlm("site", command, "aa", code=2).stderr
    assert told == ("wlm: error: site: got 'aa', expected a configured site (did you mean 'a'?)\n")


@pytest.mark.parametrize(
    "words",
    [
        ("site",),
        ("site", "pause"),
        ("site", "stop", "a"),
        ("site", "test", "a", "--wait", "0"),
        ("site", "test", "a", "--wait", "soon"),
        ("site", "test", "a", "-o", "ids"),
        ("site", "pause", "a", "b"),
    ],
)
def test_wrong_usage(two: World, words: tuple[str, ...]) -> None:
    two.wlm(*words, code=2)
    assert [one["state"] for one in two.json("sites")] == ["UP", "UP"]


def test_without_a_database_nothing_is_paused(two: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WLM_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    for words in (["sites"], ["site", "pause", "a"], ["repair"]):
        told = two.wlm(*words, code=2).stderr
        assert told.startswith("wlm: error: database postgresql+psycopg://nobody@127.0.0.1:1/none")
        assert len(told.splitlines()) == 1
