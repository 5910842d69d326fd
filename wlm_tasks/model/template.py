"""Texts with `{name}` in them, and where in a shell script each `{name}` stands.

A value is put into a script quoted, so that the shell takes it as one literal word. That only
works where the shell is not inside quotes already: there, quotes of ours would end the user's.
So the reader follows bash's quoting through the script. Inside quotes and comments, and after
any construct it does not follow (here-documents, backticks, arithmetic, ``[[``, nested expansions),
only values are let in that mean the same to the shell everywhere.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final, NamedTuple, TypeAlias


class Where(Enum):
    """What a value must be written for."""

    WORD = "word"  #: shell, outside quotes
    QUOTED = "quoted"  #: shell, inside quotes or where the reader cannot tell
    PATH = "path"  #: a local path
    URL = "url"
    TEXT = "text"  #: nothing reads it


class Slot(NamedTuple):
    """The place of one parameter in a text."""

    name: str
    where: Where


Piece: TypeAlias = str | Slot

_NAME: Final = "[A-Za-z_][A-Za-z0-9_]*"
#: "${" and what follows is the shell's; "{{name}}" stands for "{name}"
_MARK: Final = rf"(?P<shell>\$\{{+)|\{{\{{(?P<literal>{_NAME})\}}\}}|\{{(?P<slot>{_NAME})\}}"
_PLAIN: Final = re.compile(_MARK)

# In the patterns below the first group that matches decides: "skip" changes nothing, "lost" is
# where the reader gives up following, the others change the state.
_VARIABLE: Final = rf"\$\{{{_NAME}\}}"
_OUTSIDE: Final = re.compile(
    rf"(?P<lost>\\\n(?=\#)|\\\n\Z|\\(?=\{{)|[`]|\$['\"\[]|\$?\(\(|\$(?!\{{{_NAME}\}})\{{+|<<(?!<)"
    r"|(?<=[()<>])\#|\[\[|(?<=\w)\[(?=[^\]\n]{0,200}\{))"
    rf"|(?P<skip>\\.\#*|{_VARIABLE}|<<<)"
    r"|(?P<single>')|(?P<double>\")"
    r"|(?P<comment>(?:(?<=[ \t\n;&|])|\A)\#)"
    rf"|{_MARK}",
    re.DOTALL,
)
_SINGLE: Final = re.compile(rf"(?P<outside>')|{_MARK}")
_DOUBLE: Final = re.compile(
    rf"(?P<skip>\\[^{{]|{_VARIABLE}|\$\([A-Za-z0-9_ ./-]*\))"
    rf"|(?P<lost>\\|[`]|\$[(\[]|\$\{{+)|(?P<outside>\")|{_MARK}",
    re.DOTALL,
)
_COMMENT: Final = re.compile(rf"(?P<outside>\n)|{_MARK}")
_STATES: Final = {
    "outside": _OUTSIDE,
    "single": _SINGLE,
    "double": _DOUBLE,
    "comment": _COMMENT,
    "lost": _PLAIN,
}


def split(text: str, where: Where) -> list[Piece]:
    """Return the pieces of a text that no shell reads."""
    pieces: list[Piece] = []
    end = 0
    for match in _PLAIN.finditer(text):
        pieces += [text[end : match.start()], _piece(match, where)]
        end = match.end()
    return _joined([*pieces, text[end:]])


def _piece(match: re.Match[str], where: Where) -> Piece:
    if match["slot"]:
        return Slot(match["slot"], where)
    return f"{{{match['literal']}}}" if match["literal"] else match[0]


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Return the pieces with the texts between two slots as one."""
    joined: list[Piece] = [""]
    for piece in pieces:
        last = joined[-1]
        if isinstance(piece, str) and isinstance(last, str):
            joined[-1] = last + piece
        else:
            joined.append(piece)
    return joined


class ShellReader:
    """Splits the lines of one script in their order, remembering open quotes."""

    def __init__(self) -> None:
        self._state = "outside"

    def split(self, line: str) -> list[Piece]:
        """Return the pieces of the next line (which may hold line ends itself)."""
        text = line + "\n"  # what follows it in the script: it ends comments
        pieces: list[Piece] = []
        end = 0
        while match := _STATES[self._state].search(text, end):
            pieces.append(text[end : match.start()])
            end = match.end()
            kind = match.lastgroup or ""
            if kind in {"shell", "literal", "slot"}:
                known = self._state == "outside"
                pieces.append(_piece(match, Where.WORD if known else Where.QUOTED))
                continue
            pieces.append(match[0])
            if kind != "skip":
                self._state = kind
        *others, last = _joined([*pieces, text[end:]])
        return [*others, str(last)[:-1]]
