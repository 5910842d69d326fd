"""Checks of the fields of an experiment that need more than a range."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, Final, TypeVar

from wlm_tasks.errors import InvalidExperimentError
from wlm_tasks.model import checks
from wlm_tasks.model.checks import IDENTIFIER, plain, problem

#: most entries of variables, params and labels
ENTRIES_LIMIT: Final = 1_000
#: most inputs, and most outputs
TRANSFERS_LIMIT: Final = 10_000
#: longest name of an experiment, variable, parameter or label, in characters
NAME_LIMIT: Final = 128

_SIGNALS: Final = ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "KILL")

T = TypeVar("T")


class Priority(IntEnum):
    """Names for some of the priorities 0 to 9; a higher number goes first."""

    LOW = 1
    NORMAL = 4
    HIGH = 6
    URGENT = 9


def priority(value: object) -> int:
    """Check for a priority, by name in any case or by number."""
    if isinstance(value, str) and value.upper() in Priority.__members__:
        return int(Priority[value.upper()])
    try:
        return checks.whole(0, 9)(value)
    except ValueError:
        raise ValueError("low, normal, high, urgent or a whole number from 0 to 9") from None


def parse_priority(value: str | int) -> int:
    """Return the priority 0 to 9 of a name or number; raises `InvalidExperimentError`."""
    return _checked(priority, "priority", value)


def check_key(key: str) -> str:
    """Return the key if it can name a submission; raises `InvalidExperimentError`."""
    return _checked(checks.printable(200, blanks=False), "key", key)


def _checked(check: Callable[[object], T], field: str, value: object) -> T:
    try:
        return check(value)
    except ValueError as error:
        raise InvalidExperimentError(problem(field, value, str(error))) from None


_NAME: Final = "1 to 128 letters, digits, blanks and . _ - + = , @ ( ), not beginning with '-'"


def name(value: object) -> str:
    """Check for the name of an experiment."""
    if not isinstance(value, str) or not 1 <= len(value) <= NAME_LIMIT:
        raise ValueError(_NAME)
    if value.startswith("-") or value != value.strip():
        raise ValueError(_NAME)
    if not all(c.isalnum() or c in " ._-+=,@()" for c in value):
        raise ValueError(_NAME)
    return plain(value)


site = checks.matching(
    r"[a-z0-9][a-z0-9._-]{0,62}",
    "the name of a site: 1 to 63 of a-z, 0-9, '.', '_' and '-', such as 'cluster-a'",
)
command = checks.text("a command of 1 to 65536 characters without NUL", low=1)
value_text = checks.text("text of at most 65536 characters without NUL")


def sha256(value: object) -> str:
    """Check for a SHA-256 in hex; kept in lower case."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ValueError("a SHA-256 of 64 hexadecimal digits")
    return value.lower()


def signal_name(value: object) -> str:
    """Check for the name of a signal that can end a job; kept without SIG."""
    short = value.removeprefix("SIG") if isinstance(value, str) else None
    if short not in _SIGNALS:
        raise ValueError(f"one of the signals {', '.join(_SIGNALS)}")
    return plain(short)


def identifier(value: object) -> str:
    """Check for the name of a parameter or label."""
    if not isinstance(value, str) or len(value) > NAME_LIMIT or not IDENTIFIER.fullmatch(value):
        raise ValueError("a name of letters, digits and '_' that does not begin with a digit")
    return plain(value)


def variable(value: object) -> str:
    """Check for the name of an environment variable of the job."""
    known = identifier(value)
    if known.startswith("WLM_"):
        raise ValueError("a name that does not begin with WLM_, which is kept for this package")
    return known


def entries(example: str) -> Callable[[object], dict[Any, Any]]:
    """Return a check for a table of a bounded number of entries."""
    expected = f"a table of at most {ENTRIES_LIMIT} entries, such as {example}"

    def check(value: object) -> dict[Any, Any]:
        if not isinstance(value, Mapping) or len(value) > ENTRIES_LIMIT:
            raise ValueError(expected)
        return dict(value)

    return check


def lines(low: int, high: int) -> Callable[[object], list[object]]:
    """Return a check for a list of `low` to `high` lines; a single text is not a list."""
    expected = f"a list of {low} to {high} lines, such as ['echo hello']"

    def check(value: object) -> list[object]:
        if isinstance(value, str):
            hint = f"a list of lines: write [{checks.show(value)}]"
            raise ValueError(hint)  # noqa: TRY004 - what a check raises
        if not isinstance(value, list | tuple) or not low <= len(value) <= high:
            raise ValueError(expected)
        return list(value)

    return check


def transfers(value: object) -> list[object]:
    """Check for a list of transfers, whatever each of them is."""
    if not isinstance(value, list | tuple) or len(value) > TRANSFERS_LIMIT:
        raise ValueError(
            f"a list of at most {TRANSFERS_LIMIT} transfers, such as [{{src = 'a', dest = 'b'}}]"
        )
    return list(value)
