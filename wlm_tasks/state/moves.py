"""What the transactions of a step are made of; `swift` runs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Event:
    """What the log says of a move; `worker` and `detail` name parameters."""

    state: str
    of_step: bool = True  #: otherwise of the experiment, and to be published
    worker: str | None = None
    detail: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Move:
    """One guarded update of one row, made only `after` another of the boundary was made."""

    name: str
    #: the statement under these conditions and its own; the first column it returns is never NULL
    make: Callable[..., Any]
    after: str | None = None
    unless: str | None = None  #: not made if that one was made
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, eq=False)
class Boundary:
    """Moves that are made together or, if the first finds its row changed, not at all.

    They touch different rows, and the rows are locked in the order of the moves.
    """

    moves: tuple[Move, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)  #: of parameters
    flushed: bool = False  #: on the disk when `Swift.run` returns
