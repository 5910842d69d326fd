"""How one setting is declared: its default, its check and how its text is read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from wlm_tasks.config.secret import UrlCheck
from wlm_tasks.errors import ConfigError
from wlm_tasks.model.checks import Check, problem

#: reads the text of an environment variable; text it cannot read is handed on for the check
Reader = Callable[[str], object]


class Rule(NamedTuple):
    """How one setting is checked and read."""

    check: Check
    read: Reader
    url: UrlCheck | None = None  #: what the revealed value of a secret must be


_BOOLEANS: Final = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


def read_text(text: str) -> object:
    """Return the text as it is."""
    return text


def read_number(text: str) -> object:
    """Return the number the text stands for."""
    if re.fullmatch(r"[+-]?[0-9]{1,30}", text.strip(), re.ASCII):
        return int(text)
    try:
        return float(text)
    except ValueError:
        return text


def read_flag(text: str) -> object:
    """Return True or False."""
    return _BOOLEANS.get(text.strip().lower(), text)


def read_list(text: str) -> object:
    """Return the values between the commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def rule(
    check: Check, read: Reader = read_text, *, url: UrlCheck | None = None
) -> Mapping[str, Rule]:
    """Return the metadata of a dataclass field that is a setting; `url` makes it a `Secret`."""
    return {"rule": Rule(check, read, url)}


def declared(cls: type[Any]) -> dict[str, Rule]:
    """Return the rules of a section's settings by their names."""
    fields = dataclasses.fields(cls)
    return {field.name: field.metadata["rule"] for field in fields if "rule" in field.metadata}


def check_section(section: object, path: str) -> None:
    """Put every setting of a section through its check; raises `ConfigError` for the first."""
    for name, rule in declared(type(section)).items():
        value = getattr(section, name)
        try:
            checked = rule.check(value)
        except ValueError as error:
            where = f"{path}.{name}" if path else name
            raise ConfigError(problem(where, value, str(error))) from None
        object.__setattr__(section, name, checked)
