"""Values that may hold a password: shown masked, read only when they are needed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NoReturn, Self

from wlm_tasks.errors import ConfigError
from wlm_tasks.model.checks import (
    has_password,
    mask,
    one_line,
    problem,
    show,
    sounds_secret,
)

#: largest file a secret is read from, in bytes
_FILE_LIMIT: Final = 65_536
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

#: takes a revealed value, raises `ValueError` saying what was expected
UrlCheck = Callable[[str], None]


def any_url(url: str) -> None:
    """Accept every URL with a scheme."""
    if "://" not in url:
        raise ValueError("a URL")


class Secret:
    """A URL, or a reference to where it is kept: ``env:NAME`` or ``file:PATH``.

    ``str``, ``repr`` and formatting hide a password; only `reveal` returns the value. A reference
    is followed each time, so that a changed password is seen without a restart.
    """

    __slots__ = ("_base", "_check", "_environ", "_text", "field")

    def __init__(
        self,
        text: str,
        *,
        field: str = "value",
        check: UrlCheck = any_url,
        environ: Mapping[str, str] | None = None,
        base: Path | None = None,
    ) -> None:
        """Keep `text`; `base` is where a relative ``file:`` path starts. Checks its form only."""
        self.field = field
        self._text = text
        self._check = check
        self._environ = environ
        self._base = base or Path()
        kind, _, rest = text.partition(":")
        if kind == "env" and not _ENV_NAME.fullmatch(rest):
            raise ConfigError(problem(field, text, "env: and the name of an environment variable"))
        if kind == "file" and (not rest or rest.startswith("//")):
            raise ConfigError(problem(field, text, "file: and the path of a file"))
        if not self.is_reference:
            self._checked(text)

    @property
    def is_reference(self) -> bool:
        """True if the value is kept elsewhere."""
        return self._text.startswith(("env:", "file:"))

    @property
    def has_password(self) -> bool:
        """True if the value itself, not a reference to it, holds a password, or is one."""
        return not self.is_reference and (self.all_secret or has_password(self._text))

    @property
    def all_secret(self) -> bool:
        """True if nothing of the value may be shown, by the name of its setting."""
        return sounds_secret(re.split(r"[.\s]", self.field)[-1])

    def reveal(self) -> str:
        """Return the value; raises `ConfigError` if it cannot be read or is not as expected."""
        kind, _, rest = self._text.partition(":")
        if kind == "env":
            return self._checked(self._from_environment(rest))
        if kind == "file":
            return self._checked(self._from_file(self._base / rest))
        return self._text

    def _checked(self, value: str) -> str:
        try:
            self._check(value)
        except ValueError as error:
            raise ConfigError(problem(self.field, value, str(error))) from None
        return value

    def _from_environment(self, name: str) -> str:
        value = (os.environ if self._environ is None else self._environ).get(name, "").strip()
        if not value:
            self._fail("expected this environment variable to be set")
        return value

    def _from_file(self, path: Path) -> str:
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                self._fail("expected a regular file")
            if status.st_mode & stat.S_IRWXO:
                self._fail("expected a file that others cannot read (chmod o-rwx)")
            with path.open("rb") as file:
                value = file.read(_FILE_LIMIT).decode().strip()
        except (OSError, ValueError) as fault:
            reason = fault.strerror if isinstance(fault, OSError) else "not UTF-8 text"
            self._fail(f"expected a readable file ({one_line(str(reason))})")
        if not value:
            self._fail("expected a file that is not empty")
        return value

    def _fail(self, expected: str) -> NoReturn:
        raise ConfigError(f"{self.field}: got {show(self._text)}, {expected}")

    def __str__(self) -> str:
        """Return the reference, or the URL with its password hidden."""
        return "***" if self.all_secret and not self.is_reference else mask(self._text)

    def __repr__(self) -> str:
        """Return the masked text in brackets."""
        return f"Secret({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        """Compare what is kept, not what a reference leads to."""
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        """Hash what is kept."""
        return hash(self._text)

    def __deepcopy__(self, memo: object) -> Self:
        """Return itself: it never changes."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be written anywhere."""
        raise TypeError("a secret is never pickled")
