"""The command ``wlm``, also reached as ``celery -A wlm_tasks wlm``.

Each command lives in a module of its own that is imported when the command is used, so that
``wlm --help`` costs no more than click.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NamedTuple

import click

from wlm_tasks.cli.problems import INTERRUPTED, code_of, is_ours, report


class Entry(NamedTuple):
    """One command: where its code is and the line that help shows."""

    home: str  #: module below wlm_tasks.cli and the name in it
    summary: str


SECTIONS: Final[dict[str, dict[str, Entry]]] = {
    "First steps": {
        "demo": Entry("demo:demo", "Run a small real sweep here and draw its result."),
        "doctor": Entry("doctor:doctor", "Check that all is set up; say how to mend what is not."),
    },
    "Experiments": {
        "run": Entry("run:run", "Hand in an experiment, or a sweep of it, from a file."),
        "ls": Entry("ls:ls", "List experiments, the newest first."),
        "show": Entry("show:show", "Show all about experiments and sweeps."),
        "why": Entry("why:why", "Say what experiments wait for, or how they ended."),
        "logs": Entry("logs:logs", "Show what happened and what the job wrote."),
        "manifest": Entry("manifest:manifest", "Write the SHA-256 of the files that were staged."),
        "watch": Entry("watch:watch", "Watch experiments while they run."),
        "cancel": Entry("actions:cancel", "Stop experiments for good."),
        "retry": Entry("actions:retry", "Run ended or paused experiments again from a step."),
        "resume": Entry("actions:resume", "Let paused experiments go on."),
        "clone": Entry("actions:clone", "Hand in an experiment once more, as a new one."),
    },
    "The system": {
        "up": Entry("serving:up", "Run everything in this process (without a broker)."),
        "control": Entry("serving:control", "Run a control process (with a broker)."),
        "agent": Entry("agent:agent", "Run a Serf agent (a host without workers or control)."),
        "workers": Entry("workers:workers", "List the workers, drain one or say it is away."),
        "alerts": Entry("alerts:alerts", "List incidents and notices, or send a test."),
        "sites": Entry("sites:sites", "List the sites, how they stand and how busy they are."),
        "site": Entry("sites:site", "Pause, resume or test a site."),
        "repair": Entry("repair:repair", "List what needs a person, and settle it."),
        "queues": Entry("places:queues", "List the queues and what waits in them."),
        "db": Entry("admin:db", "Look after the database."),
        "config": Entry("admin:config", "Show the settings in force."),
        "version": Entry("admin:version", "Show the versions of this package and what it uses."),
    },
}
COMMANDS: Final = {name: entry for part in SECTIONS.values() for name, entry in part.items()}


class WlmGroup(click.Group):
    """Commands imported when used; every error ends as one line and an exit code."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, _, name = entry.home.partition(":")
        command: click.Command = getattr(import_module(f"wlm_tasks.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is told with the name that was probably meant."""
        name = args[0] if args else ""
        if name not in COMMANDS and not name.startswith("-"):
            from wlm_tasks.model.checks import show, suggest  # noqa: PLC0415 - only for a mistake

            ctx.fail(f"no such command {show(name)} {suggest(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in sections, without importing them."""
        for title, entries in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in entries.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors are told here, so that it is the same below ``celery``."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            _abandon_stdout()
            raise click.exceptions.Exit(0) from None
        except Exception as error:
            if is_ours(error):
                report(error)
                raise click.exceptions.Exit(code_of(error)) from error
            raise


@click.group(
    cls=WlmGroup,
    name="wlm",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 fine; 1 an experiment failed, or what was asked for is not so;"
    " 2 wrong usage or input, or a service is out of reach.",
)
@click.version_option(package_name="wlm-tasks", prog_name="wlm", message="%(prog)s %(version)s")
def cli() -> None:
    """Run experiments on the sites of a science gateway, and look after them.

    Ids of experiments may be shortened as long as they are unique; "-" reads ids from standard
    input.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="wlm",
            standalone_mode=False,
        )
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon_stdout()
        return 0
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        report(error)
        return error.exit_code
    return code if isinstance(code, int) else 0


def _abandon_stdout() -> None:
    """Whoever read our output is gone; let nothing complain about it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
