"""Arguments that several commands share, and how their values are read."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from wlm_tasks.cli.problems import FINE, code_of, report
from wlm_tasks.cli.session import Session
from wlm_tasks.errors import InvalidParametersError, NotFoundError, WlmError
from wlm_tasks.model.checks import Scalar, problem

if TYPE_CHECKING:
    from wlm_tasks.handles import ExperimentHandle, SweepHandle

_ID: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_WHOLE: Final = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_WORDS: Final = {"true": True, "false": False}


def ids_argument(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the argument for ids of experiments and sweeps."""
    return click.argument("ids", nargs=-1, required=required, metavar="ID...")


def read_ids(ids: Sequence[str]) -> list[str]:
    """Return the ids, each once, with those of standard input in place of ``-``.

    Of a line of standard input the first word counts, so that a table will do.
    """
    found: list[str] = []
    for one in ids:
        if one != "-":
            found.append(one)
            continue
        found += [line.split()[0] for line in sys.stdin if line.split()]
    for one in found:
        if not _ID.fullmatch(one):
            raise NotFoundError(
                problem("id", one, "the id of an experiment or sweep, or its begin")
            )
    return list(dict.fromkeys(found))


def each(
    ids: Sequence[str],
    session: Session,
    action: Callable[[ExperimentHandle | SweepHandle], int | None],
) -> None:
    """Do something for each id; what goes wrong with one is told and the others go on.

    Ends the command with the highest exit code; `action` may return one.
    """
    codes = [FINE]
    for one in read_ids(ids):
        try:
            codes.append(action(session.client.get(one)) or FINE)
        except WlmError as error:
            report(error)
            codes.append(code_of(error))
    if max(codes):
        raise click.exceptions.Exit(max(codes))


def find(ids: Sequence[str], session: Session) -> list[str]:
    """Return the whole ids for prefixes; raises `NotFoundError` if there is none at all."""
    found = [session.store.views.find(one) for one in read_ids(ids)]
    if ids and not found:
        raise NotFoundError("ids: got none on standard input, expected at least one")
    return found


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """Return a table of ``NAME=VALUE`` texts; raises `InvalidParametersError`."""
    table: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InvalidParametersError(problem(option, text, "NAME=VALUE"))
        if name.strip() in table:
            raise InvalidParametersError(problem(option, text, "each name once"))
        table[name.strip()] = value
    return table


def value_of(text: str) -> Scalar:
    """Return the value a text stands for.

    ``true`` and ``false``, whole numbers and decimal numbers that would be written just like
    this become what they say; everything else stays text, as does what stands in double quotes.
    So nothing that is put into a command looks other than it was typed: ``007`` and ``2.50``
    stay as they are.
    """
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1]
    if text in _WORDS:
        return _WORDS[text]
    if _WHOLE.fullmatch(text) and text != "-0":
        return int(text)
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) and repr(number) == text else text


def values_of(text: str) -> list[Scalar]:
    """Return the values between the commas; blanks around them do not count."""
    return [value_of(part.strip()) for part in text.split(",")] if text.strip() else []
