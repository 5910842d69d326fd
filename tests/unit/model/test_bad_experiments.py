"""Every wrong experiment gives one line that names field, value and expectation."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from wlm_tasks.errors import InvalidExperimentError
from wlm_tasks.model.experiment import Experiment, Resources, Transfer

GOOD: dict[str, Any] = {"name": "melt", "site": "local", "commands": ["true"]}
LARGE = {f"n{i}": "x" * 60_000 for i in range(20)}
BAD_SHA = {"src": "a", "dest": "b", "sha256": "x"}
MANY = {f"n{i}": "" for i in range(1001)}


def need(**resources: Any) -> dict[str, Any]:
    return {"resources": resources}


def ins(*places: tuple[str, str]) -> dict[str, Any]:
    return {"inputs": [{"src": src, "dest": dest} for src, dest in places]}


def outs(*places: tuple[str, str]) -> dict[str, Any]:
    return {"outputs": ins(*places)["inputs"]}


# fmt: off
# what is changed, the field the message names, the value it shows, a word of what it expects
CASES: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("no name", {"name": ...}, "name", "nothing", "a name"),
    ("no commands", {"commands": ...}, "commands", "nothing", "a list of commands"),
    ("empty name", {"name": ""}, "name", "''", "1 to 128 letters"),
    ("name is a number", {"name": 5}, "name", "5", "1 to 128 letters"),
    ("name is null", {"name": None}, "name", "None", "1 to 128 letters"),
    ("name of 1 MB", {"name": "x" * 2**20}, "name", "'xxx", "1 to 128 letters"),
    ("name with a line end", {"name": "a\nb"}, "name", r"'a\nb'", "1 to 128 letters"),
    ("name with NUL", {"name": "a\0b"}, "name", r"'a\x00b'", "1 to 128 letters"),
    ("name with escape codes", {"name": "\x1b[31mred"}, "name", r"'\x1b[31mred'", "letters"),
    ("name like an option", {"name": "-rf"}, "name", "'-rf'", "not beginning with '-'"),
    ("name with a path", {"name": "../melt"}, "name", "'../melt'", "1 to 128 letters"),
    ("name with shell", {"name": "a;rm"}, "name", "'a;rm'", "1 to 128 letters"),
    ("name of blanks", {"name": "  "}, "name", "'  '", "1 to 128 letters"),
    ("site in capitals", {"site": "Cluster"}, "site", "'Cluster'", "a-z"),
    ("site with a path", {"site": "a/b"}, "site", "'a/b'", "a-z"),
    ("site too long", {"site": "s" * 64}, "site", "'sss", "1 to 63"),
    ("commands is text", {"commands": "echo hi"}, "commands", "'echo hi'", "write ['echo hi']"),
    ("commands is empty", {"commands": []}, "commands", "[]", "a list of 1 to 1000"),
    ("commands is a table", {"commands": {"a": 1}}, "commands", "{'a': 1}", "a list of 1 to"),
    ("commands is a set", {"commands": {"a"}}, "commands", "{'a'}", "a list of 1 to 1000"),
    ("1001 commands", {"commands": ["x"] * 1001}, "commands", "['x', 'x'", "a list of 1 to 1000"),
    ("empty command", {"commands": ["a", ""]}, "commands[1]", "''", "a command of 1 to 65536"),
    ("number as command", {"commands": [1]}, "commands[0]", "1", "a command"),
    ("NUL in a command", {"commands": ["a\0"]}, "commands[0]", r"'a\x00'", "without NUL"),
    ("half a character", {"commands": ["\ud800"]}, "commands[0]", r"'\ud800'", "a command"),
    ("long command", {"commands": ["x" * 65_537]}, "commands[0]", "'xxx", "1 to 65536"),
    ("environment is text", {"environment": "a"}, "environment", "'a'", "write ['a']"),
    ("variables is a list", {"variables": ["A=1"]}, "variables", "['A=1']", "a table"),
    ("variable's name", {"variables": {"A-B": "1"}}, "variables['A-B']", "'A-B'", "letters"),
    ("our variable", {"variables": {"WLM_X": "1"}}, "variables.WLM_X", "'WLM_X'", "WLM_"),
    ("variable is a number", {"variables": {"A": 1}}, "variables.A", "1", "text of at most"),
    ("NUL in a variable", {"variables": {"A": "\0"}}, "variables.A", r"'\x00'", "without NUL"),
    ("long variable", {"variables": {"A": "x" * 65_537}}, "variables.A", "'xxx", "65536"),
    ("1001 variables", {"variables": MANY}, "variables", "{'n0'", "at most 1000"),
    ("cpus is true", need(cpus=True), "resources.cpus", "True", "a whole number"),
    ("cpus is text", need(cpus="4"), "resources.cpus", "'4'", "a whole number"),
    ("cpus is 4.0", need(cpus=4.0), "resources.cpus", "4.0", "a whole number"),
    ("no cpus", need(cpus=0), "resources.cpus", "0", "from 1 to"),
    ("huge cpus", need(cpus=10**4000), "resources.cpus", "a number of", "from 1"),
    ("memory below 0", need(memory_mb=-1), "resources.memory_mb", "-1", "whole"),
    ("NaN memory", need(memory_mb=math.nan), "resources.memory_mb", "nan", "whole"),
    ("NaN walltime", need(walltime_s=math.nan), "resources.walltime_s", "nan", "sec"),
    ("endless walltime", need(walltime_s=math.inf), "resources.walltime_s", "inf", ""),
    ("negative walltime", need(walltime_s=-5), "resources.walltime_s", "-5", "above 0"),
    ("no walltime", need(walltime_s=0), "resources.walltime_s", "0", "above 0"),
    ("31 days", need(walltime_s=2_678_400), "resources.walltime_s", "2678400", "up to"),
    ("walltime 10**400", need(walltime_s=10**400), "resources.walltime_s", "", "sec"),
    ("misspelt", need(cpu=4), "resources.cpu", "4", "did you mean 'cpus'?"),
    ("resources is a number", {"resources": 4}, "resources", "4", "a table of cpus, memory_mb"),
    ("unknown field", {"comands": ["x"]}, "comands", "['x']", "did you mean 'commands'?"),
    ("field of 1 MB", {"x" * 2**20: 1}, "['xxx", "1", "no such field"),
    ("secret field", {"password": "hunter2"}, "password", "'***'", "no such field"),
    ("priority by text", {"priority": "4"}, "priority", "'4'", "low, normal, high, urgent"),
    ("priority 10", {"priority": 10}, "priority", "10", "from 0 to 9"),
    ("tries", {"retry": {"tries": 0}}, "retry.tries", "0", "from 1 to 100"),
    ("back-off", {"retry": {"backoff_s": -1}}, "retry.backoff_s", "-1", "from 0 up to"),
    ("back-offs", {"retry": {"backoff_s": 7200}}, "retry.max_backoff_s", "3600.0", "not below"),
    ("signal", {"stop": {"signal": "STOP"}}, "stop.signal", "'STOP'", "one of the signals TERM"),
    ("flag", {"stop": {"sweep_on_failure": 1}}, "stop.sweep_on_failure", "1", "true or false"),
    ("owner", {"owner": "a\tb"}, "owner", r"'a\tb'", "1 to 128 printable"),
    ("project", {"project": "p" * 129}, "project", "'ppp", "1 to 128 printable"),
    ("label", {"labels": {"a b": "x"}}, "labels['a b']", "'a b'", "a name of letters"),
    ("parameter's name", {"params": {"1T": 1}}, "params['1T']", "'1T'", "a name of letters"),
    ("NaN parameter", {"params": {"T": math.nan}}, "params.T", "nan", "a finite number"),
    ("list parameter", {"params": {"T": [1]}}, "params.T", "[1]", "a finite number"),
    ("huge parameter", {"params": {"T": 2**63}}, "params.T", "9223372036854775808", "a finite"),
    ("inputs is a table", {"inputs": {"src": "a"}}, "inputs", "{'src': 'a'}", "a list of at most"),
    ("10001 inputs", {"inputs": [{}] * 10_001}, "inputs", "[{}, {}", "at most 10000"),
    ("input is text", {"inputs": ["a"]}, "inputs[0]", "'a'", "a table of src, dest, sha256"),
    ("input without dest", {"inputs": [{"src": "a"}]}, "inputs[0].dest", "nothing", "where"),
    ("input without src", ins(("", "a")), "inputs[0].src", "''", "a local path or"),
    ("sha256", {"inputs": [BAD_SHA]}, "inputs[0].sha256", "'x'", "64"),
    ("input goes up", ins(("a", "../b")), "inputs[0].dest", "'../b'", "inside"),
    ("input is hidden up", ins(("a", "b/../../c")), "inputs[0].dest", "", "without '..'"),
    ("absolute input", ins(("a", "/etc/passwd")), "inputs[0].dest", "'/etc", "relative"),
    ("double slash", ins(("a", "b//c")), "inputs[0].dest", "'b//c'", "'//'"),
    ("input is a dot", ins(("a", ".")), "inputs[0].dest", "'.'", "a relative path"),
    ("dot inside", ins(("a", "b/./c")), "inputs[0].dest", "'b/./c'", "relative path"),
    ("a directory to a file", ins(("a/", "b")), "inputs[0].dest", "'b'", "'/' at its end"),
    ("directory goes up", ins(("a", "b/../")), "inputs[0].dest", "'b/../'", "inside"),
    ("directory is absolute", ins(("a/", "/b/")), "inputs[0].dest", "'/b/'", "inside"),
    ("our own as a directory", ins(("a/", ".wlm/")), "inputs[0].dest", "'.wlm/'", "'.wlm'"),
    ("file and directory", ins(("a", "x"), ("b/", "x/")), "inputs[1].dest", "'x/'", "below"),
    (
        "digest of a directory",
        {"inputs": [{"src": "a/", "dest": "b/", "sha256": "0" * 64}]},
        "inputs[0].sha256",
        "'000",
        "no digest",
    ),
    ("our directory", ins(("a", ".wlm/x")), "inputs[0].dest", "'.wlm/x'", "'.wlm'"),
    ("control character", ins(("a", "b\rc")), "inputs[0].dest", r"'b\rc'", "control"),
    ("NUL in a path", ins(("a", "b\0")), "inputs[0].dest", r"'b\x00'", "control"),
    ("NUL in a URL", ins(("file:///a\0", "b")), "inputs[0].src", r"'file:///a\x00'", ""),
    ("long component", ins(("a", "é" * 128)), "inputs[0].dest", "'ééé", "255 bytes"),
    ("long path", ins(("a", "a/" * 2049 + "a")), "inputs[0].dest", "'a/a/", "4096"),
    ("two inputs", ins(("a", "x"), ("b", "x")), "inputs[1].dest", "'x'", "inputs[0]"),
    ("file below file", ins(("a", "x"), ("b", "x/y")), "inputs[1].dest", "'x/y'", "below"),
    ("URL password", ins(("sftp://u:pw@h/a", "a")), "inputs[0].src", "u:***@h", "without"),
    ("URL token", ins(("s3://h/a?token=pw", "a")), "inputs[0].src", "token=***", "without"),
    ("URL without end", ins(("sftp://[::1/a", "a")), "inputs[0].src", "'sftp", "read"),
    ("URL without place", ins(("sftp://", "a")), "inputs[0].src", "'sftp://'", "host"),
    ("URL's scheme", ins(("1x://h/a", "a")), "inputs[0].src", "'1x://h/a'", "neither"),
    ("output from above", outs(("../x", "b")), "outputs[0].src", "'../x'", "inside"),
    ("absolute output", outs(("/x", "b")), "outputs[0].src", "'/x'", "a relative path"),
    ("two outputs", outs(("a", "o"), ("b", "./o")), "outputs[1].dest", "'./o'", "outputs[0]"),
    ("a directory out to a file", outs(("a/", "out")), "outputs[0].dest", "'out'", "'/' at its"),
    ("a directory's output goes up", outs(("../", "out/")), "outputs[0].src", "'../'", "inside"),
    ("over 1 MiB", {"labels": LARGE}, "experiment", "12", "JSON"),
]
# fmt: on


@pytest.mark.parametrize(
    ("change", "field", "value", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_one_line_says_what_is_wrong(
    change: dict[str, Any], field: str, value: str, expected: str
) -> None:
    fields = {k: v for k, v in {**GOOD, **change}.items() if v is not ...}
    with pytest.raises(InvalidExperimentError) as caught:
        Experiment(**fields)
    message = str(caught.value)
    with pytest.raises(InvalidExperimentError) as caught:
        Experiment.model_validate(fields)
    assert str(caught.value) == message
    assert message.isprintable(), "one line without control characters"
    assert len(message) < 500
    got, wanted = message.split(", expected ", 1)
    assert got.startswith(f"{field}: got " if not field.endswith("xxx") else field)
    assert value in got.split(": got ", 1)[1]
    assert expected in wanted
    for secret in ("pw", "hunter2"):
        assert secret not in message


def test_all_problems_come_together() -> None:
    table = {
        "name": "",
        "site": "local",
        "commands": ["true", 5],
        "inputs": [Transfer("a", "../x"), Transfer("a", "y"), Transfer("b", "y")],
        "outputs": [{"src": "a"}],
        "resources": {"cpus": 0, "walltime_s": -1},
        "foo": 1,
    }
    with pytest.raises(InvalidExperimentError) as caught:
        Experiment.model_validate(table)
    fields = [part.split(":")[0] for part in str(caught.value).split("; ")]
    assert fields == [
        "name",
        "commands[1]",
        "inputs[0].dest",
        "inputs[2].dest",
        "outputs[0].dest",
        "resources.cpus",
        "resources.walltime_s",
        "foo",
    ]


def test_parts_speak_for_themselves() -> None:
    with pytest.raises(InvalidExperimentError, match=r"^cpus: got -1, expected a whole number"):
        Resources(cpus=-1)
    with pytest.raises(InvalidExperimentError, match=r"^dest: got nothing, expected where"):
        Transfer("a")  # type: ignore[call-arg]


def test_many_problems_are_counted() -> None:
    with pytest.raises(InvalidExperimentError, match=r"; and 980 more$") as caught:
        Experiment("a", "local", [""] * 1000)
    assert len(str(caught.value)) < 4000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "expected valid JSON"),
        ("[1]", "experiment: got [1], expected a table of name, site, commands"),
        ("null", "experiment: got None, expected a table"),
        ("[" * 100_000, "expected valid JSON"),
        ('{"name": ' + "1" * 5000 + "}", "expected valid JSON"),
        ('{"name": "a", "name": NaN}', "name: got nan, expected 1 to 128 letters"),
        (" " * (4 * 2**20 + 1), "expected at most 4194304"),
    ],
)
def test_broken_json(text: str, expected: str) -> None:
    with pytest.raises(InvalidExperimentError) as caught:
        Experiment.from_json(text)
    assert expected in str(caught.value)
    assert str(caught.value).isprintable()


def test_json_validation_of_pydantic_speaks_our_words() -> None:
    with pytest.raises(
        InvalidExperimentError, match=r"^site: got 'A', expected the name of a site"
    ):
        Experiment.model_validate_json(json.dumps({**GOOD, "site": "A"}))
    assert Experiment.model_validate_json(json.dumps(GOOD)) == Experiment(**GOOD)


def test_keys_that_are_no_text() -> None:
    with pytest.raises(InvalidExperimentError, match=r"\[5\]: got .*, expected keys should be str"):
        Experiment.model_validate({**GOOD, 5: 1})
