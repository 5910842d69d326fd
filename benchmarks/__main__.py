"""Run the benchmarks: ``python -m benchmarks [NAME] [options]``, all of them by default."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from types import ModuleType
from typing import Final

import rich

from benchmarks import (
    chains,
    direct,
    fleet,
    idle,
    intake,
    latency,
    listing,
    serf,
    staging,
    submit,
    web,
)

NAMES: Final[dict[str, ModuleType]] = {
    "chains": chains,
    "latency": latency,
    "intake": intake,
    "listing": listing,
    "idle": idle,
    "submit": submit,
    "staging": staging,
    "direct": direct,
    "web": web,
    "serf": serf,
    "fleet": fleet,
}


def make_parser() -> ArgumentParser:
    """One command for each benchmark, with options of its own, and one for all of them."""
    parser = ArgumentParser(prog="python -m benchmarks", description="Run the benchmarks.")
    commands = parser.add_subparsers(dest="name", metavar="[NAME]")
    for name, module in NAMES.items():
        said = str(module.__doc__)
        command = commands.add_parser(name, help=said.partition("\n")[0], description=said)
        module.add_options(command)
    commands.add_parser("all", help="All of these as they are by default (the default).")
    return parser


def main(words: list[str] | None = None) -> None:
    """Run what the command line says."""
    parser = make_parser()
    given = parser.parse_args(words)
    if given.name in NAMES:
        NAMES[given.name].run(given)
        return
    for name in NAMES:
        run_with_defaults(parser, name)


def run_with_defaults(parser: ArgumentParser, name: str) -> None:
    """Run one benchmark as it is by default."""
    rich.print(f"[bold]{name}[/bold]")
    given: Namespace = parser.parse_args([name])
    NAMES[name].run(given)


if __name__ == "__main__":
    main()
