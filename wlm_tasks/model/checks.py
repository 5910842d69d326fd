"""Checks of single values, shared by experiments, parameters and settings.

A check takes any value and returns it in its stored form, or raises `ValueError` whose only
argument says what was expected, in words that complete "got VALUE, expected ...".
"""

from __future__ import annotations

import itertools
import math
import re
import reprlib
import unicodedata
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Final, NamedTuple, TypeAlias
from urllib.parse import urlsplit

#: longest text a message shows of a wrong value, in characters
SHOWN: Final = 60
#: how much of a long value is looked at for showing it
_LOOKED_AT: Final = 4096
_KNOWN_SHOWN: Final = 12
_BITS_SHOWN: Final = 200
#: largest text of one value, in characters
TEXT_LIMIT: Final = 65_536
#: largest whole number that every database and JSON reader keeps exactly
_INT_LIMIT: Final = 2**63 - 1

IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: a password in a URL: greedy, so that one with "@", "/" or a blank in it is hidden too
_PASSWORD: Final = re.compile(r"(://[^\s/:@]*):.*@")
#: the same given as a URL's query
_PASSWORD_QUERY: Final = re.compile(
    r"([?&][^=&\s]*(?:passw|secret|token)[^=&\s]*=)[^&\s]*", re.IGNORECASE
)
#: the same where somebody forgot the scheme
_PASSWORD_ALONE: Final = re.compile(r"([^\s:/@'\"]+):[^\s:]+@(?=\S)")
_SECRET_NAME: Final = re.compile(
    # the URL of a webhook lets in whoever knows it
    r"passw|secret|token|cred|api_?key|encrypt|private|webhook_url|(?<![a-z0-9])(?:pass|pwd?)(?![a-z0-9])",
    re.IGNORECASE,
)

#: what a parameter's value can be
Scalar: TypeAlias = str | int | float | bool
Check: TypeAlias = Callable[[object], object]


class Problem(NamedTuple):
    """One thing that is wrong with a part of a value."""

    below: str  #: path from the whole value to the part
    value: object
    expected: str

    def line(self, path: str) -> str:
        """Return it for a person; `path` leads to the whole value."""
        return problem(f"{path}{self.below}", self.value, self.expected)


class SeveralProblemsError(ValueError):
    """What a check of a value with many parts raises in place of a plain `ValueError`."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems


class _Show(reprlib.Repr):
    """Short representations that never show a password in a URL and never fail."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = self.maxlong = SHOWN

    def repr_str(self, x: str, level: int) -> str:
        """Return the quoted text, passwords hidden before it is shortened."""
        return super().repr_str(mask(x[:_LOOKED_AT]), level)

    def repr_int(self, x: int, level: int) -> str:
        """Return the digits, or the size of a number too long to print."""
        if x.bit_length() > _BITS_SHOWN:
            return f"a number of {x.bit_length()} bits"
        return super().repr_int(x, level)

    def repr_dict(self, x: dict[object, object], level: int) -> str:
        """Return the first entries, without the values of names that sound secret."""
        first = itertools.islice(x.items(), self.maxdict + 1)
        return super().repr_dict({k: "***" if sounds_secret(k) else v for k, v in first}, level)


def sounds_secret(name: object) -> bool:
    """Tell whether what goes by this name is better not shown."""
    return isinstance(name, str) and _SECRET_NAME.search(name) is not None


_SHOW: Final = _Show()


def mask(text: str) -> str:
    """Return `text` with the passwords of its URLs replaced by ``***``."""
    if "://" not in text:
        return _PASSWORD_ALONE.sub(r"\1:***@", text)
    return _PASSWORD_QUERY.sub(r"\1***", _PASSWORD.sub(r"\1:***@", text))


def has_password(url: str) -> bool:
    """Tell whether a URL holds a password; raises `ValueError` if it cannot be read."""
    return urlsplit(url).password is not None or _PASSWORD_QUERY.search(url) is not None


def one_line(text: str) -> str:
    """Return `text` with everything that is not printable escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def show(value: object, name: str = "") -> str:
    """Return `value` for a message: one line, about `SHOWN` characters, without secrets.

    `name` is the field's own name; the value of a field that sounds like a secret is not shown.
    """
    if sounds_secret(name):
        return "'***'"
    shown = mask(one_line(_SHOW.repr(value)))
    if len(shown) > SHOWN + 2:  # the quotes
        shown = f"{shown[: SHOWN - 3]}..."
    if isinstance(value, str) and len(value) > _LOOKED_AT:
        shown += f" ({len(value)} characters)"
    return shown


def problem(path: str, value: object, expected: str) -> str:
    """Return the line that tells a person what is wrong with the field at `path`."""
    return f"{path}: got {show(value, path.rpartition('.')[2])}, expected {expected}"


def suggest(word: object, known: Iterable[str]) -> str:
    """Return how an unknown name might have been meant, in brackets."""
    names = sorted(known)
    near = get_close_matches(str(word)[:100], names, n=1)
    if near:
        return f"(did you mean {near[0]!r}?)"
    more = ", ..." if len(names) > _KNOWN_SHOWN else ""
    return f"(known: {', '.join(names[:_KNOWN_SHOWN]) or 'none'}{more})"


def is_text(value: object) -> bool:
    """Tell whether `value` is text that can be stored: no NUL, no half characters."""
    if not isinstance(value, str) or "\0" in value:
        return False
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def has_control(text: str) -> bool:
    """Tell whether `text` has control characters, line ends included."""
    return not text.isprintable() and any(unicodedata.category(c) == "Cc" for c in text)


def plain(value: str) -> str:
    """Return a `str` itself where a subclass (an enum, a numpy string) was given."""
    return value if type(value) is str else str.__str__(value)


def text(expected: str, *, low: int = 0, high: int = TEXT_LIMIT) -> Callable[[object], str]:
    """Return a check for text of `low` to `high` characters without NUL."""

    def check(value: object) -> str:
        if not is_text(value) or not isinstance(value, str) or not low <= len(value) <= high:
            raise ValueError(expected)
        return plain(value)

    return check


def matching(pattern: str, expected: str) -> Callable[[object], str]:
    """Return a check for text that `pattern` matches from end to end."""
    regex = re.compile(pattern)

    def check(value: object) -> str:
        if not isinstance(value, str) or not regex.fullmatch(value):
            raise ValueError(expected)
        return plain(value)

    return check


def printable(high: int, *, blanks: bool = True) -> Callable[[object], str]:
    """Return a check for 1 to `high` printable characters, with or without blanks."""
    expected = f"1 to {high} printable characters{'' if blanks else ' without blanks'}"

    def check(value: object) -> str:
        if not isinstance(value, str) or not value.isprintable():
            raise ValueError(expected)
        if not value.strip() or len(value) > high or (" " in value and not blanks):
            raise ValueError(expected)
        return plain(value)

    return check


def whole(low: int, high: int) -> Callable[[object], int]:
    """Return a check for a whole number from `low` to `high`; no bool, no text, no 4.0."""
    expected = f"a whole number from {low} to {high}"

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(expected)  # noqa: TRY004 - see the module's docstring
        if not low <= int(value) <= high:
            raise ValueError(expected)
        return int(value)

    return check


def number(expected: str, test: Callable[[float], bool]) -> Callable[[object], float]:
    """Return a check for a finite number for which `test` holds; no bool, no text."""

    def check(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise ValueError(expected)  # noqa: TRY004 - see the module's docstring
        try:
            converted = float(value)
        except OverflowError:
            raise ValueError(expected) from None
        if not math.isfinite(converted) or not test(converted):
            raise ValueError(expected)
        return converted

    return check


def seconds(high: float, *, zero: bool = False) -> Callable[[object], float]:
    """Return a check for a time of at most `high` seconds, above 0 or (`zero`) from 0 on."""
    start = "from 0" if zero else "above 0 and"
    return number(
        f"a number of seconds {start} up to {high:g}", lambda x: (x > 0 or zero) and 0 <= x <= high
    )


def flag(value: object) -> bool:
    """Check for true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - see the module's docstring
    return value


def scalar(value: object) -> Scalar:
    """Check for a parameter's value: text without NUL, a finite number, true or false."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        if abs(int(value)) <= _INT_LIMIT:
            return int(value)
    elif isinstance(value, Real) and math.isfinite(value):
        return float(value)
    if is_text(value) and isinstance(value, str) and len(value) <= TEXT_LIMIT:
        return plain(value)
    raise ValueError(
        f"text of at most {TEXT_LIMIT} characters without NUL, a finite number, true or false"
    )


def optional(check: Check) -> Check:
    """Return `check` with None allowed."""
    return lambda value: None if value is None else check(value)
