"""Mistakes of users: one clear line, the right exit code, nothing written."""

from __future__ import annotations

import pytest
from unit.cli.world import World

GOOD = 'name = "hello"\nsite = "local"\ncommands = ["echo {T}"]\nparams = {T = 1}\n'
FILES = {
    "good.toml": GOOD,
    "broken.toml": "name = ",
    "typo.toml": GOOD + 'comands = ["x"]\n',
    "site.toml": GOOD.replace('"local"', '"mars"'),
    "scheme.toml": GOOD + '[[inputs]]\nsrc = "gopher://x/y"\ndest = "y"\n',
    "escape.toml": GOOD + '[[outputs]]\nsrc = "../secret"\ndest = "x"\n',
    "list.json": "[1]",
    "notes.txt": "hello",
    "binary.toml": "\x00\x01",
}

MISTAKES: dict[str, tuple[list[str], str]] = {
    "no file": (["run", "nothing.toml"], "nothing.toml: got 'No such file or directory'"),
    "a directory": (["run", "."], "expected"),
    "wrong suffix": (["run", "notes.txt"], "got suffix '.txt', expected one of .toml"),
    "broken file": (["run", "broken.toml"], "expected valid TOML"),
    "not TOML": (["run", "binary.toml"], "expected valid TOML"),
    "no table": (["run", "list.json"], "expected a table"),
    "misspelt field": (["run", "typo.toml"], "did you mean 'commands'?"),
    "unknown site": (["run", "site.toml"], "site: got 'mars', expected a configured site (local)"),
    "unknown scheme": (["run", "scheme.toml"], "inputs[0].src: URL's scheme: got"),
    "path outside": (["run", "escape.toml"], "outputs[0].src: got '../secret'"),
    "param without value": (["run", "good.toml", "-p", "T"], "--param: got 'T', expected NAME=VAL"),
    "param twice": (["run", "good.toml", "-p", "T=1", "-p", "T=2"], "expected each name once"),
    "unknown param": (["run", "good.toml", "-p", "U=1"], "U"),
    "swept and given": (
        ["run", "good.toml", "-p", "T=1", "--sweep", "T=1,2"],
        "expected a parameter that is not swept",
    ),
    "empty sweep": (["run", "good.toml", "--sweep", "T="], "expected at least one value"),
    "sweep of nothing": (["run", "good.toml", "--sweep", "U=1,2"], "U"),
    "zip without sweep": (["run", "good.toml", "--zip"], "--zip: expected --sweep"),
    "max-active alone": (
        ["run", "good.toml", "--max-active", "2"],
        "--max-active: expected --sweep",
    ),
    "max-active of none": (["run", "good.toml", "--sweep", "T=1,2", "--max-active", "0"], "from 1"),
    "timeout alone": (["run", "good.toml", "--timeout", "5"], "--timeout: expected --wait"),
    "timeout of nothing": (["run", "good.toml", "--wait", "--timeout", "0"], "above 0"),
    "wrong priority": (
        ["run", "good.toml", "--priority", "soon"],
        "priority: got 'soon', expected",
    ),
    "priority too high": (["run", "good.toml", "--priority", "11"], "priority: got 11, expected"),
    "wrong site": (["run", "good.toml", "--site", "Mars!"], "site: got 'Mars!', expected"),
    "wrong key": (["run", "good.toml", "--key", "a b"], "key: got 'a b', expected"),
    "empty key": (["run", "good.toml", "--key", ""], "key: got '', expected"),
    "unknown id": (["show", "exp-zzz"], "id: got 'exp-zzz', and nothing begins like that"),
    "what is no id": (["why", "../x"], "id: got '../x', expected the id"),
    "ids from nowhere": (["cancel", "exp-zzz", "exp-yyy"], "id: got 'exp-zzz'"),
    "unknown state": (["ls", "--state", "finished"], "--state: got 'finished', expected: active"),
    "label without value": (["ls", "--label", "a"], "--label: got 'a', expected NAME=VALUE"),
    "unknown sweep": (["ls", "--sweep", "swp-zzz"], "id: got 'swp-zzz'"),
    "all and some": (["ls", "--all", "-n", "3"], "--all and -n: expected one of them"),
    "none at all": (["ls", "-n", "0"], "'-n'"),
    "unknown step": (["retry", "exp-a", "--from", "middle"], "'--from'"),
    "follow as json": (["logs", "exp-a", "-f", "-o", "json"], "--follow: expected"),
    "watch as json": (["watch", "-o", "json"], "expected --once"),
    "control without broker": (["control"], "broker_url: is not set"),
    "demo in a used place": (["demo", "--out", "."], "--out: got "),
    "clone of nothing": (["clone", "exp-zzz"], "id: got 'exp-zzz'"),
}


@pytest.fixture
def files(world: World) -> World:
    for name, text in FILES.items():
        world.file(text, name)
    return world


@pytest.mark.parametrize("what", sorted(MISTAKES))
def test_a_mistake_is_told_in_one_line_and_changes_nothing(files: World, what: str) -> None:
    args, words = MISTAKES[what]
    before = sorted(files.directory.rglob("*.toml"))
    told = files.wlm(*args, code=2)
    assert told.stdout == ""
    lines = told.stderr.splitlines()
    assert words in lines[0]
    assert all(line.startswith("wlm: error: ") and line.isprintable() for line in lines)
    assert len(lines) == (2 if what == "ids from nowhere" else 1)
    assert files.count() == 0
    assert sorted(files.directory.rglob("*.toml")) == before


SETTINGS: dict[str, tuple[str, str, str]] = {
    "unknown variable": ("WLM_BROKER", "amqp://x", "did you mean 'WLM_BROKER_URL'?"),
    "wrong number": ("WLM_STEPS_LEASE_S", "-1", "WLM_STEPS_LEASE_S: got '-1', expected"),
    "wrong broker": ("WLM_BROKER_URL", "http://x", "WLM_BROKER_URL: got"),
    "no such file": ("WLM_CONFIG", "/nowhere/wlm.toml", "WLM_CONFIG: got '/nowhere/wlm.toml'"),
    "unset secret": ("WLM_DATABASE_URL", "env:NOT_SET", "expected this environment variable"),
}


@pytest.mark.parametrize("what", sorted(SETTINGS))
@pytest.mark.parametrize("command", [["ls"], ["config"], ["run", "good.toml"], ["up"]])
def test_a_wrong_setting_is_told_in_one_line(
    files: World, monkeypatch: pytest.MonkeyPatch, what: str, command: list[str]
) -> None:
    name, value, words = SETTINGS[what]
    monkeypatch.setenv(name, value)
    if what == "unset secret" and command == ["config"]:
        assert "env:NOT_SET" in files.wlm("config").stdout
        return
    told = files.wlm(*command, code=2)
    assert words in told.stderr
    assert told.stderr.count("\n") == 1
    assert told.stderr.startswith("wlm: error: ")


def test_a_database_that_is_none_is_told_in_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.file("this is no database, whatever its name says" * 50, "x.db")
    monkeypatch.setenv("WLM_DATABASE_URL", f"sqlite:///{path}")
    told = world.wlm("ls", code=2)
    assert told.stderr.startswith("wlm: error: database")
    assert told.stderr.count("\n") == 1


def test_a_database_out_of_reach_is_told_in_one_line_without_its_password(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    url = "postgresql+psycopg://wlm:geheim@127.0.0.1:1/wlm"
    monkeypatch.setenv("WLM_DATABASE_URL", url)
    told = world.wlm("ls", code=2)
    assert "wlm: error: database postgresql+psycopg://wlm:***@127.0.0.1:1/wlm" in told.stderr
    assert "geheim" not in told.output
    assert told.stderr.count("\n") == 1


def test_a_directory_that_cannot_be_made_is_told_in_one_line(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WLM_DATA_DIR", "/proc/wlm")
    told = world.wlm("ls", code=2)
    assert "/proc/wlm" in told.stderr
    assert told.stderr.startswith("wlm: error: ")
    assert told.stderr.count("\n") == 1


def test_a_file_in_the_place_of_the_data_directory_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WLM_DATA_DIR", world.file("x", "file"))
    told = world.wlm("ls", code=2)
    assert told.stderr.startswith("wlm: error: ")
    assert told.stderr.count("\n") == 1


def test_where_an_error_comes_from_can_be_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WLM_TEST_TRACEBACK", "1")
    told = world.wlm("show", "exp-zzz", code=2)
    assert "NotFoundError" in told.stderr
