"""Whatever a parameter's value is, the shell takes it as one word and runs nothing of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wlm_tasks.errors import InvalidParametersError
from wlm_tasks.model.experiment import Experiment, Transfer
from wlm_tasks.model.params import bind
from wlm_tasks.model.script import payload_script

# each would make the file `pwned` if the shell looked into it
HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned;",
    "' ; touch pwned; '",
    '"; touch pwned; "',
    "\ntouch pwned\n",
    "' \"$(touch pwned)\" '",
    "a[$(touch pwned)]",
    "x || touch pwned",
    "EOF\ntouch pwned\n",
    ")\ntouch pwned\n(",
    "#\ntouch pwned\n",
    "\\",
    "'",
    '"',
]


def run(commands: list[str], value: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    bound = bind(Experiment("x", "local", commands), {"T": value})
    return subprocess.run(
        ["/bin/bash", "-c", payload_script(bound)],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize(
    "value", [*HOSTILE, "a b", "", "*", "~", "$HOME", "-n", "é\t", "!x", "{T}"]
)
@pytest.mark.parametrize(
    "before", ["", "# don't\n", "echo 'it' \"is\" \\' >&2\n", 'echo "${HOME} $(pwd)" >&2\n']
)
def test_values_arrive_whole(value: str, before: str, tmp_path: Path) -> None:
    done = run([before + "printf '<%s>' {T} x{T} A={T}"], value, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == f"<{value}><x{value}><A={value}>"
    assert list(tmp_path.iterdir()) == []


# places where quotes of ours would not protect: only harmless values may go there
INSIDE = [
    "echo '{T}'",
    'echo "{T}"',
    "bash -c 'echo {T}'",
    "# it's {T}",
    "echo a # {T}",
    "echo `echo {T}`",
    "cat <<EOF\n{T}\nEOF",
    "cat <<'EOF'\n{T}\nEOF",
    "echo $'a\\'{T}'",
    'echo $"{T}"',
    "echo $((1 + {T}))",
    "((x={T}))",
    "[[ {T} -eq 1 ]]",
    "a[{T}]=1",
    "echo ${X:-{T}}",
    'echo "$(echo {T})"',
    "echo \\{T}",
    "echo a \\\n# it's\n{T}",
    "(# don't\necho {T})",
    "echo 'open\n{T}'",
    'echo "a\\"{T}"',
    "echo '\\'{T}\\''{T}'",
]


@pytest.mark.parametrize("command", INSIDE)
def test_inside_quotes_only_harmless_values(command: str, tmp_path: Path) -> None:
    for value in HOSTILE:
        with pytest.raises(InvalidParametersError, match=r"^params\.T in commands\[0\]: got"):
            run([command], value, tmp_path)
    for value in ("300", "0.5e-3", "C3H8_a-b", "user@host:x/y", "10%,20%"):
        script = payload_script(bind(Experiment("x", "local", [command]), {"T": value}))
        assert script == "set -e\n" + command.replace("{T}", value) + "\n"


@pytest.mark.parametrize(
    "commands",
    [
        ["echo 'open", "{T}'"],
        ['echo "open', '{T}"'],
        ["cat <<EOF", "{T}", "EOF"],
        ["echo a \\", "# don't", "echo '{T}'"],
    ],
)
def test_quotes_reach_over_commands(commands: list[str], tmp_path: Path) -> None:
    with pytest.raises(InvalidParametersError, match=r"expected only letters, digits"):
        run(commands, "$(touch pwned)", tmp_path)


def test_quotes_reach_from_environment_to_commands() -> None:
    made = Experiment("x", "local", ["{T}'"], environment=["echo 'open"])
    with pytest.raises(InvalidParametersError, match=r"^params\.T in commands\[0\]"):
        bind(made, {"T": "a b"})


def test_the_shell_sees_a_closed_quote(tmp_path: Path) -> None:
    done = run(["echo 'a", "b' {T}"], "$(touch pwned)", tmp_path)
    assert done.stdout == b"a\nb $(touch pwned)\n"


@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_is_one_argument(value: str, tmp_path: Path) -> None:
    done = run(["printf %s. {T}"], value, tmp_path)
    assert done.stdout.decode() == f"{value}."


_MARKS = "'\"\\#`$(){}[]<>;|&= \t\na"
_WORDS = ["[[ ", " ]]", "<<", "<<<", "{T}", "{T}", "{{T}}", "${A}", "${", "$(", "$((", "$'", "it's"]
_PARTS = st.sampled_from([*_MARKS, *_WORDS, "echo "])


@given(parts=st.lists(_PARTS, min_size=1, max_size=14), value=st.sampled_from(HOSTILE))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_script_lets_a_value_run(parts: list[str], value: str, tmp_path: Path) -> None:
    """Either the value is refused, or whatever the script is, nothing of the value runs."""
    try:
        run(["true || true " + "".join(parts)], value, tmp_path)
    except InvalidParametersError:
        return
    assert not (tmp_path / "pwned").exists()


@given(value=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@settings(max_examples=100, deadline=None)
def test_any_text_in_a_path_stays_inside(value: str) -> None:
    made = Experiment("x", "local", ["true"], inputs=[Transfer("sftp://lab/{T}.in", "in/{T}")])
    try:
        bound = bind(made, {"T": value})
    except InvalidParametersError:
        return
    assert bound.inputs[0].dest == f"in/{value}"
    assert value not in {"", ".", ".."}
    assert "/" not in value
    assert bound.inputs[0].src.isascii()
    assert bound.inputs[0].src.count("/") == 3
    assert Experiment.from_json(bound.to_json()) == bound
