"""A notice as those who write about it read it: nothing in it can spoil a text. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

from wlm_tasks.model.notices import Notice
from wlm_tasks.notify.layout import clean, count, moment, span

#: what may stand in a command as it is
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*")
_NAME_LIMIT: Final = 120
_WORD_LIMIT: Final = 60
#: most entries of a list that are looked at
_MANY: Final = 1000


class Step(NamedTuple):
    """What was running on a worker, and what became of it."""

    experiment: str
    name: str
    step: str
    became: str

    @property
    def waits(self) -> bool:
        """Whether nobody has taken it over yet."""
        return self.became.startswith("wait")


class Facts:
    """What is known of a notice. What is missing, or is not what it should be, is None or empty."""

    def __init__(self, notice: Notice) -> None:
        self.notice = notice
        self.detail: Mapping[str, Any] = notice.detail

    @cached_property
    def who(self) -> str:
        """The subject."""
        return clean(self.notice.subject, _NAME_LIMIT)

    def text(self, key: str, limit: int = 300) -> str:
        """Return a text."""
        value = self.detail.get(key)
        return clean(value, limit) if isinstance(value, str | int | float) else ""

    def number(self, key: str) -> float | None:
        """Return a number."""
        return _number(self.detail.get(key))

    def whole(self, key: str) -> int:
        """Return how many, 0 if that is not known."""
        return int(self.number(key) or 0)

    def span(self, key: str) -> str:
        """Return how long."""
        seconds = self.number(key)
        return "" if seconds is None else span(seconds)

    def moment(self, key: str) -> str:
        """Return when."""
        at = self.number(key)
        return (moment(at) or "") if at is not None else ""

    def names(self, key: str) -> list[str]:
        """Return a list of names."""
        value = self.detail.get(key)
        found = value if isinstance(value, list | tuple) else []
        return [clean(name, _WORD_LIMIT) for name in found[:_MANY]]

    @property
    def at(self) -> str:
        """When it was noticed."""
        return moment(self.notice.at) or "a time unknown"

    @cached_property
    def witnesses(self) -> list[tuple[str, str]]:
        """Who says what."""
        value = self.detail.get("witnesses")
        found = value if isinstance(value, Mapping) else {}
        return [(clean(who, 20), clean(said)) for who, said in list(found.items())[:20]]

    @cached_property
    def steps(self) -> list[Step]:
        """What was running."""
        value = self.detail.get("steps")
        found = value if isinstance(value, list | tuple) else []
        entries = [one for one in found[:_MANY] if isinstance(one, Mapping)]
        return [Step(*(clean(e.get(f, ""), _WORD_LIMIT) for f in Step._fields)) for e in entries]

    @property
    def step_count(self) -> int | None:
        """How many steps were running, None if that is not known."""
        if "steps" not in self.detail and "more_steps" not in self.detail:
            return None
        return len(self.steps) + max(0, self.whole("more_steps"))

    @property
    def moved(self) -> str:
        """What became of the work, in a few words; empty if that is not known."""
        total = self.step_count
        if not total:
            return "" if total is None else "it was idle"
        waiting = sum(step.waits for step in self.steps)
        if not waiting:
            return f"{count(total, 'step')} moved on"
        if waiting == total:
            return f"{count(total, 'step waits', 'steps wait')}"
        return f"{waiting} of {count(total, 'step')} {'waits' if waiting == 1 else 'wait'}"

    @property
    def state(self) -> str:
        """The state's name as a word of a sentence."""
        return self.text("state", 40).lower().replace("_", " ")

    def plain(self, text: object) -> str:
        """Return a name that may stand in a command, else nothing."""
        return text if isinstance(text, str) and _PLAIN.fullmatch(text[:_NAME_LIMIT]) else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
