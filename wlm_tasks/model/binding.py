"""The texts of an experiment, split once, to be filled with many sets of values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from wlm_tasks.model.checks import (
    TEXT_LIMIT,
    Problem,
    Scalar,
    SeveralProblemsError,
    has_control,
)
from wlm_tasks.model.experiment import JSON_LIMIT, NOTHING, Experiment, Transfer
from wlm_tasks.model.paths import (
    PATH_LIMIT,
    check_inputs,
    check_outputs,
    is_directory,
    is_url,
    place,
)
from wlm_tasks.model.surroundings import NAMED
from wlm_tasks.model.template import Piece, ShellReader, Slot, Where, split

#: characters that mean themselves to a shell wherever they stand
_HARMLESS: Final = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")
_CHECKS: Final = {"inputs": check_inputs, "outputs": check_outputs}


def written(value: Scalar) -> str:
    """Return a value as it is put into a text: true, false, and numbers that lose nothing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else repr(value)


def _in_quotes(text: str) -> str:
    if not _HARMLESS.fullmatch(text):
        raise ValueError(
            "only letters, digits and _ @ % + = : , . / - where it stands inside quotes or other"
            " shell syntax, while outside of quotes it can be any text"
        )
    return text


def _in_path(text: str) -> str:
    if "/" in text or text in {".", ".."} or has_control(text):
        raise ValueError("no '/', no control characters and not '.' or '..' in a path")
    return text


_WRITERS: Final[dict[Where, Callable[[str], str]]] = {
    Where.WORD: shlex.quote,
    Where.QUOTED: _in_quotes,
    Where.PATH: _in_path,
    Where.URL: lambda text: quote(_in_path(text), safe=""),
    Where.TEXT: str,
}


class _Text(NamedTuple):
    """One text of the experiment: where it is, its pieces, its longest length when filled."""

    path: str
    pieces: Sequence[Piece]
    fixed: bool  #: every set of values leaves it as it is
    limit: int = TEXT_LIMIT


class _TransferTexts(NamedTuple):
    transfer: Transfer
    src: _Text
    dest: _Text


class _Filler:
    """Fills texts with one set of values and gathers what does not fit."""

    def __init__(self, values: Mapping[str, Scalar]) -> None:
        self._values = values
        self._written: dict[Slot, str] = {}
        self.problems: list[Problem] = []
        self.size = 0  #: characters written so far

    def fill(self, text: _Text) -> str:
        """Return the text with the values in it."""
        filled = "".join(
            piece if isinstance(piece, str) else self._write(piece, text.path)
            for piece in text.pieces
        )
        self.size += len(filled)
        if len(filled) > text.limit:
            expected = f"at most {text.limit} characters once the values are in"
            self.problems.append(Problem(f" in {text.path}", filled, expected))
        return filled

    def transfer(self, texts: _TransferTexts) -> Transfer:
        """Return the transfer with the values in both its places."""
        if texts.src.fixed and texts.dest.fixed:
            return texts.transfer
        places = {"src": self.fill(texts.src), "dest": self.fill(texts.dest)}
        for field, filled in places.items():
            self._check_place(getattr(texts, field).path, getattr(texts.transfer, field), filled)
        return texts.transfer.model_copy(update=places)

    def name(self, text: _Text, check: Callable[[object], str]) -> str:
        """Return a name with the values in it; nobody else looks at it again."""
        filled = self.fill(text)
        try:
            return check(filled)
        except ValueError as error:
            self.problems.append(Problem(f" in {text.path}", filled, str(error)))
            return filled

    def _check_place(self, path: str, before: str, filled: str) -> None:
        try:
            place(filled)
        except ValueError as error:
            self.problems.append(Problem(f" in {path}", filled, str(error)))
        if is_directory(before) != is_directory(filled):
            expected = "values that do not make a directory of a file"
            self.problems.append(Problem(f" in {path}", filled, expected))
        if is_url(before) != is_url(filled):
            self.problems.append(Problem(f" in {path}", filled, "values that do not make it a URL"))

    def _write(self, slot: Slot, path: str) -> str:
        known = self._written.get(slot)
        if known is None:
            value = self._values[slot.name]
            try:
                known = _WRITERS[slot.where](written(value))
            except ValueError as error:
                self.problems.append(Problem(f".{slot.name} in {path}", value, str(error)))
                known = "_"  # stands in for it, so that one mistake is not told twice
            self._written[slot] = known
        return known


class Template:
    """An experiment whose texts are split at their parameters."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        shell = ShellReader()  # environment first, as in the script
        self._lines = {
            field: [
                _text(f"{field}[{i}]", line, shell.split(line))
                for i, line in enumerate(getattr(experiment, field))
            ]
            for field in ("environment", "commands")
        }
        self._variables = {
            name: _text(f"variables.{name}", text, split(text, Where.TEXT))
            for name, text in experiment.variables.items()
        }
        self._names = {field: _split_names(experiment, field) for field in NAMED}
        self._transfers = {
            field: [
                _split_transfer(f"{field}[{i}]", transfer)
                for i, transfer in enumerate(getattr(experiment, field))
            ]
            for field in _CHECKS
        }
        self._uses: dict[str, str] = {}
        for text in self._texts():
            for piece in text.pieces:
                if isinstance(piece, Slot):
                    self._uses.setdefault(piece.name, text.path)
        #: the parameters the texts use
        self.names = frozenset(self._uses)
        self._fixed_size = len(experiment.to_json().encode())

    def use(self, name: str) -> str:
        """Return the path of a text that uses the parameter."""
        return self._uses[name]

    def _texts(self) -> Iterator[_Text]:
        for lines in self._lines.values():
            yield from lines
        yield from self._variables.values()
        for names in self._names.values():
            yield from names
        for transfers in self._transfers.values():
            for texts in transfers:
                yield texts.src
                yield texts.dest

    def fill(self, values: Mapping[str, Scalar]) -> Experiment:
        """Return the experiment with `values` in its texts; raises `SeveralProblemsError`.

        Only what values can make wrong is checked again.
        """
        filler = _Filler(values)
        update: dict[str, Any] = {"params": NOTHING}
        update |= self._filled_texts(filler)
        for field, transfers in self._transfers.items():
            if not all(texts.src.fixed and texts.dest.fixed for texts in transfers):
                update[field] = tuple(map(filler.transfer, transfers))
                _check_transfers(field, update[field], filler.problems)
        if filler.problems:
            raise SeveralProblemsError(filler.problems)
        return self._bounded(self._experiment.model_copy(update=update), filler.size)

    def _filled_texts(self, filler: _Filler) -> dict[str, Any]:
        """Return the fields that are no transfers and in which values stand, filled."""
        update: dict[str, Any] = {}
        for field, lines in self._lines.items():
            if not all(line.fixed for line in lines):
                update[field] = tuple(map(filler.fill, lines))
        if not all(text.fixed for text in self._variables.values()):
            filled = {name: filler.fill(text) for name, text in self._variables.items()}
            update["variables"] = MappingProxyType(filled)
        for field, names in self._names.items():
            if not all(text.fixed for text in names):
                found = tuple(filler.name(text, NAMED[field]) for text in names)
                update[field] = found if field == "modules" else found[0]
        return update

    def _bounded(self, experiment: Experiment, size: int) -> Experiment:
        # a character takes at most 6 bytes of JSON: mostly there is no need to write it all
        if self._fixed_size + 6 * size > JSON_LIMIT:
            exact = len(experiment.to_json().encode())
            if exact > JSON_LIMIT:
                expected = f"values with which the experiment has at most {JSON_LIMIT} bytes"
                raise SeveralProblemsError([Problem("", exact, expected)])
        return experiment


def _check_transfers(field: str, transfers: tuple[Transfer, ...], problems: list[Problem]) -> None:
    try:
        _CHECKS[field](transfers)
    except SeveralProblemsError as error:
        problems += [p._replace(below=f" in {field}{p.below}") for p in error.problems]


def _split_names(experiment: Experiment, field: str) -> list[_Text]:
    """Return the texts of a field of `NAMED`."""
    value: tuple[str, ...] | str | None = getattr(experiment, field)
    if isinstance(value, tuple):
        return [_split_name(f"{field}[{i}]", text) for i, text in enumerate(value)]
    return [] if value is None else [_split_name(field, value)]


def _split_name(path: str, text: str) -> _Text:
    """Split it; a value that is the whole of it may be all that could be written there."""
    pieces = split(text, Where.PATH)
    if [piece for piece in pieces if piece] == pieces[1:2]:
        pieces = split(text, Where.TEXT)
    return _text(path, text, pieces)


def _split_transfer(path: str, transfer: Transfer) -> _TransferTexts:
    return _TransferTexts(
        transfer,
        _split_place(f"{path}.src", transfer.src),
        _split_place(f"{path}.dest", transfer.dest),
    )


def _split_place(path: str, text: str) -> _Text:
    where = Where.URL if is_url(text) else Where.PATH
    return _text(path, text, split(text, where))._replace(limit=PATH_LIMIT)


def _text(path: str, text: str, pieces: list[Piece]) -> _Text:
    return _Text(path, pieces, fixed=pieces == [text])
