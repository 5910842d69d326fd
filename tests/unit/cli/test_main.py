"""The command itself: help, unknown commands, what is imported when."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from wlm_tasks.cli.main import COMMANDS, cli, main

HEAVY = ("celery", "kombu", "sqlalchemy", "alembic", "pydantic", "rich")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_can_be_loaded_and_explains_itself(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert f"Usage: wlm {name}" in shown.output
    assert command.help


def test_help_names_every_command_in_lines_of_80_columns() -> None:
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=80)
    assert shown.exit_code == 0
    lines = shown.output.splitlines()
    assert all(len(line) <= 80 for line in lines)
    listed = {line.split()[0] for line in lines if line.startswith("  ") and line.split()}
    assert set(COMMANDS) <= listed


@pytest.mark.parametrize("args", [["--help"], ["--version"], [], ["nonsense"]])
def test_nothing_heavy_is_imported_before_a_command_needs_it(args: list[str]) -> None:
    code = (
        "import sys; from wlm_tasks.cli.main import main; main(sys.argv[1:]);"
        f"sys.exit(10 + len(set({HEAVY!r}) & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, check=False)
    assert ran.returncode == 10


def test_listing_does_without_celery() -> None:
    code = (
        "import sys; from wlm_tasks.cli.main import main; main(['ls']);"
        "sys.exit('celery is imported' if 'celery' in sys.modules else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "No experiments.\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["shwo"], "no such command 'shwo' (did you mean 'show'?)"),
        (["frobnicate"], "no such command 'frobnicate' (known: "),
        (["--frobnicate"], "no such option '--frobnicate'"),
        (["ls", "--sweeep", "x"], "no such option '--sweeep'"),
        (["show"], "missing argument 'ID...' (see: wlm show --help)"),
        (["run"], "missing argument 'FILE' (see: wlm run --help)"),
        (["ls", "-o", "xml"], "invalid value for '-o'"),
        (["db", "downgrade"], "no such command 'downgrade'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("wlm: error: ")
    assert words.lower() in told.err.lower()
    assert told.err.count("\n") == 1


def test_without_a_command_it_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "Usage: wlm" in capsys.readouterr().err
