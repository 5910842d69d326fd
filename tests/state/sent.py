"""A broker that is a list."""

from __future__ import annotations

from collections.abc import Callable

from wlm_tasks.state.advance import NextStep


class Sent:
    """What was sent to the broker that is not asked."""

    def __init__(self) -> None:
        self.chains: list[NextStep] = []
        self.system: list[tuple[str, list[object]]] = []
        self.on_system: Callable[[str], None] = lambda _task: None  #: called by each of them

    def take_chains(self) -> list[NextStep]:
        """The chains so far; they are gone then."""
        taken = list(self.chains)
        self.chains.clear()
        return taken
