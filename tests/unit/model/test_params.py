"""Parameters go where they are named, and sweeps become members."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from wlm_tasks.errors import InvalidParametersError
from wlm_tasks.model.experiment import Experiment, Transfer
from wlm_tasks.model.params import MEMBERS_LIMIT, bind, bind_many, expand_sweep, parameters
from wlm_tasks.model.paths import resolve_paths


def experiment(*commands: str, **fields: Any) -> Experiment:
    return Experiment("melt", "local", commands or ("true",), **fields)


def test_values_go_everywhere() -> None:
    bound = bind(
        experiment(
            "run -T {T} --name {name}",
            environment=["export T={T}"],
            variables={"NAME": "<{name}>", "FIXED": "x"},
            inputs=[Transfer("sftp://lab/{name}.in", "in/{name}.in")],
            outputs=[Transfer("{T}.log", "out/{name}-{T}.log")],
            params={"T": 300, "name": "default"},
        ),
        {"name": "a b"},
    )
    assert bound.commands == ("run -T 300 --name 'a b'",)
    assert bound.environment == ("export T=300",)
    assert dict(bound.variables) == {"NAME": "<a b>", "FIXED": "x"}
    assert bound.inputs == (Transfer("sftp://lab/a%20b.in", "in/a b.in"),)
    assert bound.outputs == (Transfer("300.log", "out/a b-300.log"),)
    assert dict(bound.params) == {}
    assert Experiment.from_json(bound.to_json()) == bound


def test_values_in_the_names_of_programs() -> None:
    one = experiment(
        modules=["lammps/{v}", "{whole}", "gcc"], conda="sim-{v}", image="docker://lab/sim:{v}"
    )
    assert parameters(one) == {"v", "whole"}
    assert Experiment.from_json(one.to_json()) == one
    bound = bind(one, {"v": 2024, "whole": "openmpi/4.1"})
    assert bound.modules == ("lammps/2024", "openmpi/4.1", "gcc")
    assert (bound.conda, bound.venv, bound.image) == ("sim-2024", None, "docker://lab/sim:2024")
    assert Experiment.from_json(bound.to_json()) == bound
    for field, values in {
        "conda": ("sim", "/opt/conda/envs/sim"),
        "venv": ("envs/sim", "/opt/{{literal}}/sim"),
        "image": ("a b.sif", "docker://debian:bookworm-slim"),
    }.items():
        for value in values:
            assert getattr(bind(experiment(**{field: "{x}"}), {"x": value}), field) == value
    assert bind(experiment(venv="/v/{x} {{y}}"), {"x": "a b"}).venv == "/v/a b {y}"


@pytest.mark.parametrize(
    ("fields", "value", "expected"),
    [
        ({"modules": ["lammps/{v}"]}, "../evil/1", r"params\.v in modules\[0\]: got '\.\./evil/1'"),
        ({"modules": ["lammps/{v}"]}, "1 2", r"params in modules\[0\]: got 'lammps/1 2', .*module"),
        ({"modules": ["a", "{v}"]}, "-f", r"params in modules\[1\]: got '-f', .*module"),
        ({"modules": ["{v}"]}, "{v}", r"params in modules\[0\]: got '{v}', .*module"),
        ({"conda": "{v}"}, "envs/sim", "params in conda: got 'envs/sim', .*conda environment"),
        ({"venv": "{v}"}, "../sim", "params in venv: got '../sim', .*relative path inside"),
        ({"venv": "envs/{v}"}, "..", r"params\.v in venv: got '\.\.'"),
        ({"image": "{v}"}, "docker://u:pw@host/x", "params in image: .*without a password"),
        ({"image": "docker://lab/{v}"}, "x y", "params in image: got 'docker://lab/x y'"),
    ],
)
def test_values_that_make_no_names_of_programs(
    fields: dict[str, Any], value: str, expected: str
) -> None:
    with pytest.raises(InvalidParametersError, match=expected):
        bind(experiment(**fields), {"v": value})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (300, "300"),
        (-1, "-1"),
        (0.1, "0.1"),
        (1e-30, "1e-30"),
        (300.0, "300.0"),
        (True, "true"),
        (False, "false"),
        ("", "''"),
        ("a'b", "'a'\"'\"'b'"),
        ("50%", "50%"),
    ],
)
def test_how_values_are_written(value: Any, text: str) -> None:
    assert bind(experiment("{v}"), {"v": value}).commands == (text,)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("awk '{print $1}'", "awk '{print $1}'"),
        ("echo ${HOME} {T}", "echo ${HOME} 1"),
        ("echo ${T}{T}", "echo ${T}1"),
        ("echo {{T}} {T}", "echo {T} 1"),
        ("echo {{{T}}}", "echo {{T}}"),
        ('{"a": {T}}', '{"a": 1}'),
        ("echo ${{T}} {T}", "echo ${{T}} 1"),
        ("find . -exec ls {} \\;", "find . -exec ls {} \\;"),
        ("echo {a,b} {1..3} { T }", "echo {a,b} {1..3} { T }"),
        ("{T", "{T"),
    ],
)
def test_only_names_in_braces_count(text: str, bound: str) -> None:
    made = experiment(text, "{T}")
    assert bind(made, {"T": 1}).commands == (bound, "1")


def test_parameters_are_listed() -> None:
    assert parameters(experiment("{a} {{b}} ${c}", variables={"X": "{d}"})) == {"a", "d"}


def test_without_parameters_nothing_changes() -> None:
    made = experiment("echo 'it is' # {1}", inputs=[Transfer("a", "b")])
    assert bind(made, {}) == made


# commands, values, how the message begins, what it shows, a word of what it expects
BAD: list[tuple[Experiment, Any, str, str, str]] = [
    (experiment("{T}"), {}, "params.T", "nothing", "a value for {T} in commands[0]"),
    (experiment("awk '{print}'"), {}, "params.print", "nothing", "is written {{print}}"),
    (experiment("x"), {"T": 1}, "params.T", "1", "a parameter that is used (known: none)"),
    (experiment("{temp}"), {"temq": 1, "temp": 2}, "params.temq", "1", "did you mean 'temp'?"),
    (experiment("x", params={"T": 1}), {}, "params.T", "1", "a parameter that is used"),
    (experiment("{T}"), {"T": 1, "a b": 2}, "params['a b']", "2", "a parameter that is used"),
    (experiment("{T}"), {"T": 1, 5: 2}, "params[5]", "2", "a parameter that is used"),
    (experiment("{T}"), None, "params", "None", "a table such as"),
    (experiment("{T}"), {"T": None}, "params.T", "None", "a finite number"),
    (experiment("{T}"), {"T": math.inf}, "params.T", "inf", "a finite number"),
    (experiment("{T}"), {"T": [1, 2]}, "params.T", "[1, 2]", "a finite number"),
    (experiment("{T}"), {"T": "\0"}, "params.T", r"'\x00'", "without NUL"),
    (experiment("{T}"), {"T": "x" * 65_537}, "params.T", "'xxx", "at most 65536 characters"),
    (experiment("{T}{T}"), {"T": "x" * 40_000}, "params in commands[0]", "'xxx", "at most 65536"),
    (experiment("'{T}'"), {"T": "a b"}, "params.T in commands[0]", "'a b'", "outside of quotes"),
    (experiment(*["{T}"] * 20), {"T": "x" * 60_000}, "params", "12", "at most 1048576 bytes"),
]
PLACES = [
    experiment(inputs=[Transfer("{T}", "x")]),
    experiment(inputs=[Transfer("sftp://h/{T}", "x")]),
    experiment(inputs=[Transfer("x", "{T}")]),
    experiment(outputs=[Transfer("{T}", "x")]),
    experiment(outputs=[Transfer("x", "{T}")]),
]
BAD += [
    (made, {"T": value}, "params.T in ", "", "no '/'")
    for made in PLACES
    for value in ("a/b", "..", ".", "a\nb", "/etc", "\x7f")
]
BAD += [
    (experiment(inputs=[Transfer("x", ".{T}")]), {"T": "wlm"}, "params in inputs[0]", "'.wlm'", ""),
    (experiment(inputs=[Transfer("x", ".{T}")]), {"T": ""}, "params in inputs[0]", "'.'", ""),
    (experiment(inputs=[Transfer("x", "{T}/y")]), {"T": ""}, "params in inputs[0]", "'/y'", ""),
    (
        experiment(inputs=[Transfer("x", "{T}")]),
        {"T": "é" * 128},
        "params in inputs[0]",
        "'é",
        "255",
    ),
    (
        experiment(inputs=[Transfer("{T}//h/x", "x")]),
        {"T": "sftp:"},
        "params in inputs[0].src",
        "",
        "",
    ),
    (
        experiment(outputs=[Transfer("x", "o/{T}")]),
        {"T": ""},
        "params in outputs[0].dest",
        "'o/'",
        "",
    ),
    (
        experiment(inputs=[Transfer("a", "{T}"), Transfer("b", "c")]),
        {"T": "c"},
        "params in inputs[1].dest",
        "'c'",
        "inputs[0]",
    ),
    (
        experiment(outputs=[Transfer("a", "o/{T}"), Transfer("b", "o/c")]),
        {"T": "c"},
        "params in outputs[1].dest",
        "'o/c'",
        "outputs[0]",
    ),
]


@pytest.mark.parametrize(("made", "params", "start", "value", "expected"), BAD)
def test_bad_parameters(
    made: Experiment, params: Any, start: str, value: str, expected: str
) -> None:
    with pytest.raises(InvalidParametersError) as caught:
        bind(made, params)
    message = str(caught.value)
    got, wanted = message.split(", expected ", 1)
    assert got.startswith(start)
    assert value in got.split(": got ", 1)[1]
    assert expected in wanted
    assert message.isprintable()
    assert len(message) < 500


def test_values_stay_inside_their_part_of_a_url() -> None:
    made = experiment(inputs=[Transfer("sftp://{host}/x", "x")])
    bound = bind(made, {"host": "user:pw@evil.example#?"})
    assert bound.inputs[0].src == "sftp://user%3Apw%40evil.example%23%3F/x"


def test_resolving_before_and_after_binding_is_the_same(tmp_path: Path) -> None:
    base = tmp_path / "a {T} %"
    made = experiment(inputs=[Transfer("data/{T}#.in", "x")], outputs=[Transfer("o", "../{T}")])
    before = bind(resolve_paths(made, base), {"T": "50% {x}"})
    after = resolve_paths(bind(made, {"T": "50%"}), base)
    assert before.inputs[0].src == f"file://{tmp_path}/a%20%7BT%7D%20%25/data/50%25%20%7Bx%7D%23.in"
    assert after.inputs[0].src == f"file://{tmp_path}/a%20%7BT%7D%20%25/data/50%25%23.in"
    assert after.outputs[0].dest == f"file://{tmp_path}/50%25"


def test_product_and_zip() -> None:
    assert expand_sweep({"T": [1, 2], "p": ["a", "b"]}) == [
        {"T": 1, "p": "a"},
        {"T": 1, "p": "b"},
        {"T": 2, "p": "a"},
        {"T": 2, "p": "b"},
    ]
    assert expand_sweep({"T": range(2), "p": ("a", "b")}, "zip") == [
        {"T": 0, "p": "a"},
        {"T": 1, "p": "b"},
    ]
    numpy = pytest.importorskip("numpy")
    assert expand_sweep({"T": numpy.linspace(0, 1, 3)}) == [{"T": 0.0}, {"T": 0.5}, {"T": 1.0}]


@pytest.mark.parametrize(
    ("sweep", "mode", "start", "expected"),
    [
        ({}, "product", "sweep: got {}", "at least one parameter"),
        ([1], "product", "sweep: got [1]", "a table such as"),
        ({"T": []}, "product", "sweep.T: got []", "at least one value"),
        ({"T": "abc"}, "product", "sweep.T: got 'abc'", "a list of values"),
        ({"T": {1}}, "product", "sweep.T: got {1}", "a list of values"),
        ({"T": {"a": 1}}, "product", "sweep.T: got {'a': 1}", "a list of values"),
        ({"T": 5}, "product", "sweep.T: got 5", "a list of values"),
        ({"T": [1, math.nan]}, "product", "sweep.T[1]: got nan", "a finite number"),
        ({"T": [[1]]}, "product", "sweep.T[0]: got [1]", "a finite number"),
        ({"T-x": [1]}, "product", "sweep: got 'T-x'", "a name of letters"),
        ({5: [1]}, "product", "sweep: got 5", "a name of letters"),
        ({"T": [1]}, "sum", "mode: got 'sum'", "'product' or 'zip'"),
        ({"T": [1, 2], "p": [1]}, "zip", "sweep: got {'T': 2, 'p': 1}", "as many values of each"),
        ({"T": range(10_001)}, "product", "sweep: got 10001", "at most 10000 members"),
        ({"T": range(10_001)}, "zip", "sweep: got 10001", "at most 10000 members"),
        (
            {n: range(10_000) for n in "abcdef"},
            "product",
            "sweep: got 1000000000000000000000000",
            "at most 10000 members",
        ),
    ],
)
def test_bad_sweeps(sweep: Any, mode: str, start: str, expected: str) -> None:
    with pytest.raises(InvalidParametersError) as caught:
        expand_sweep(sweep, mode)
    got, wanted = str(caught.value).split(", expected ", 1)
    assert got == start
    assert expected in wanted


def test_members_are_named_and_must_write_different_places() -> None:
    made = experiment("{T}", outputs=[Transfer("log", "out/{T}.log")])
    bound = bind_many(made, [{"T": 1}, {"T": 2}])
    assert [one.outputs[0].dest for one in bound] == ["out/1.log", "out/2.log"]
    with pytest.raises(InvalidParametersError, match=r"^members\[1\]\.T: got nan, expected"):
        bind_many(made, [{"T": 1}, {"T": math.nan}])
    with pytest.raises(InvalidParametersError) as caught:
        bind_many(made, [{"T": 1}, {"T": 2}, {"T": "1"}])
    assert str(caught.value) == (
        "members[2].outputs[0].dest: got 'out/1.log', expected a place that members[0] does not"
        " use: put a parameter into it"
    )
    same = experiment("{T}", outputs=[Transfer("log", "out/log")])
    with pytest.raises(InvalidParametersError, match=r"^members\[1\]\.outputs\[0\]\.dest"):
        bind_many(same, [{"T": 1}, {"T": 2}])
    with pytest.raises(InvalidParametersError, match=r"^sweep: got 10001, expected at most"):
        bind_many(made, [{"T": 1}] * (MEMBERS_LIMIT + 1))


def test_largest_sweep() -> None:
    made = experiment("{a} {b}", outputs=[Transfer("log", "{a}-{b}.log")])
    members = expand_sweep({"a": range(100), "b": range(100)})
    bound = bind_many(made, members)
    assert len(bound) == MEMBERS_LIMIT
    assert bound[-1].commands == ("99 99",)
    assert bound[-1].outputs[0].dest == "99-99.log"
