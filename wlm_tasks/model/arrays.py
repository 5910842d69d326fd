"""Jobs that are handed to a site in one call."""

from __future__ import annotations

import secrets
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InArray:
    """The place of a job among those that are handed to a site in one call."""

    name: str  #: of the array, made before anything is sent and never given twice
    index: int


def array_name() -> str:
    """Return a name that no array has had."""
    return f"wlm-array-{secrets.token_hex(8)}"


def in_array(name: str | None, index: int | None) -> InArray | None:
    """Return the place that two columns name, if they name one."""
    return None if name is None or index is None else InArray(name, index)
