"""What a person is told when something goes wrong, and the exit code that goes with it."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Final

import click

from wlm_tasks.errors import (
    ExperimentFailedError,
    PermanentError,
    StateError,
    WlmError,
)

FINE: Final = 0
NOT_SO: Final = 1  #: an experiment failed, or what was asked for is not so
WRONG: Final = 2  #: wrong usage or input, or a service is out of reach
INTERRUPTED: Final = 130

#: set by who wants to see where an error comes from
TRACEBACK_VARIABLE: Final = "WLM_TEST_TRACEBACK"
_NOT_SO_ERRORS: Final = (ExperimentFailedError, StateError, PermanentError, TimeoutError)


def is_ours(error: BaseException) -> bool:
    """Whether the error is told here; click's own signals to itself are not."""
    return not isinstance(error, click.exceptions.Exit | click.Abort)


def code_of(error: BaseException) -> int:
    """Return the exit code of an error."""
    if isinstance(error, click.ClickException):
        return error.exit_code
    return NOT_SO if isinstance(error, _NOT_SO_ERRORS) else WRONG


def report(error: BaseException) -> None:
    """Tell an error on standard error, in one line."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show(sys.stderr)
        return
    complain(_text(error))


def complain(text: str) -> None:
    """Write one line of complaint on standard error."""
    from wlm_tasks.model.checks import one_line  # noqa: PLC0415 - `wlm --help` does without

    click.echo(f"wlm: error: {one_line(text)}", err=True)


def _text(error: BaseException) -> str:
    if isinstance(error, click.UsageError):
        return _usage(error)
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, WlmError):
        return error.message
    if isinstance(error, OSError):  # a time-out is one, too, but has no number
        what = f"{error.filename}: " if error.filename else ""
        return f"{what}{error.strerror or error}"
    return _unexpected(error)


def _unexpected(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    if type(error).__module__.startswith("sqlalchemy"):
        return f"database: {first}"
    return (
        f"unexpected {type(error).__name__}: {first}; this is a fault of wlm, "
        f"{TRACEBACK_VARIABLE}=1 shows where"
    )


def _usage(error: click.UsageError) -> str:
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    if error.ctx is None or message.endswith(")"):
        return message
    return f"{message} (see: {error.ctx.command_path} --help)"
