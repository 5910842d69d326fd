"""Progress of a wait: a live line on a terminal, a line for each change anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self

from wlm_tasks.model.states import FINAL, ExperimentState

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress:
    """Shows on standard error how many of `total` experiments have ended, and how the rest stand.

    Nothing is drawn unless `shown`. A `transient` line is gone from the terminal at the end.
    """

    def __init__(self, *, shown: bool, total: int, title: str, transient: bool = False) -> None:
        self._shown, self._total, self._title = shown, total, title
        self._transient = transient
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None
        self._told = ""

    def __enter__(self) -> Self:
        if self._shown:
            self._start()
        return self

    def _start(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - only who shows a bar pays for rich

        console = Console(stderr=True)
        if console.is_dumb_terminal or not (console.is_terminal or console.is_jupyter):
            return
        self._bar = _bar(console, several=self._total > 1, transient=self._transient)
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=self._total, states="")

    def update(
        self, states: Mapping[ExperimentState, int], note: str = ""
    ) -> Mapping[ExperimentState, int]:
        """Show these counts and a note on what is being done; returns the counts."""
        if not self._shown:
            return states
        text = summary(states, self._total)
        if self._bar is not None and self._task is not None:
            ended = sum(count for state, count in states.items() if state in FINAL)
            shown = f"{text}  {note}" if note else text
            self._bar.update(self._task, completed=ended, states=shown)
        elif text != self._told:
            stamp = time.strftime("%H:%M:%S")
            sys.stderr.write(f"{stamp}  {self._title}: {text}\n")
            sys.stderr.flush()
        self._told = text
        return states

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()


def summary(states: Mapping[ExperimentState, int], total: int) -> str:
    """Return how many are in which state; of a single experiment its state alone."""
    present = [(state, count) for state, count in states.items() if count]
    if total == 1 and len(present) == 1:
        return str(present[0][0]).lower()
    order = list(ExperimentState)
    present.sort(key=lambda item: order.index(item[0]))
    return ", ".join(f"{count} {str(state).lower()}" for state, count in present)


def _bar(console: object, *, several: bool, transient: bool) -> RichProgress:
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, style="bold"),
    ]
    if several:
        columns += [BarColumn(bar_width=20), MofNCompleteColumn()]
    columns += [TimeElapsedColumn(), TextColumn("{task.fields[states]}", markup=False)]
    return Progress(
        *columns,
        console=console if isinstance(console, Console) else None,
        transient=transient,
    )
