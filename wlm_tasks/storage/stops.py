"""Transfers that are stopped again and again with nothing kept: told rather than gone on with."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from wlm_tasks.errors import StorageUnavailableError

#: how often writing may be stopped without getting on before that is an error
_STOPS: Final = 3


class Stops:
    """How often writing to a place was stopped without anything to keep, in this process."""

    _counted: Final[defaultdict[str, int]] = defaultdict(int)

    def __init__(self, name: str, place: str) -> None:
        """Count for `name`; `place` is shown."""
        self._name = name
        self._place = place
        self.ended = False  #: whether it came to its end

    def note(self, *, gained: bool, tried: bool) -> None:
        """Count a transfer; raises `StorageUnavailableError` when it seems to come to no end."""
        if self.ended or gained:
            self._counted.pop(self._name, None)
        elif tried:
            self._counted[self._name] += 1
            if self._counted[self._name] >= _STOPS:
                del self._counted[self._name]
                raise StorageUnavailableError(
                    f"{self._place}: was stopped {_STOPS} times before there was anything to"
                    " keep; make `steps.slice_s` longer"
                )
