"""Looking at many experiments at once: what a live table and a wait show of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wlm_tasks.model.states import FINAL, ExperimentState, StepState
from wlm_tasks.model.units import size
from wlm_tasks.state.store import Store
from wlm_tasks.state.views import ExperimentView, Filter, StepView

ACTIVE = tuple(state for state in ExperimentState if state not in FINAL)
#: states of a step that are worth a word beside its name
_HELD_UP = frozenset({StepState.HELD, StepState.READY, StepState.BACKOFF, StepState.PAUSED})


@dataclass(frozen=True, kw_only=True)
class Row:
    """One experiment as a table shows it. Times are seconds since the epoch."""

    view: ExperimentView
    label: str  #: its name, and within a sweep what sets it apart
    step: StepView | None  #: the step that everything waits for; None once all are done
    began_at: float | None  #: start of its first step

    @property
    def doing(self) -> str:
        """The current step of one that has not ended, and what holds it up."""
        if self.step is None or self.view.final:
            return ""
        if self.step.state in _HELD_UP:
            return f"{self.step.name} {self.step.state.lower()}"
        return f"{self.step.name} {_moved(self.step)}".rstrip()

    def elapsed(self, now: float) -> float | None:
        """Seconds from its first step's start to its end, or until now."""
        if self.began_at is None:
            return None
        return max(0.0, (self.view.ended_at or now) - self.began_at)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What there was to see at one moment."""

    now: float
    states: Mapping[ExperimentState, int]
    total: int
    rows: Sequence[Row] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing is under way."""
        return all(state in FINAL for state, count in self.states.items() if count)


@dataclass(kw_only=True)
class Watched:
    """The experiments and sweeps to look at; with none of either all that are active."""

    store: Store
    experiments: Sequence[str] = ()
    sweeps: Sequence[str] = ()
    rows: int = 20  #: most experiments that are looked at one by one

    @classmethod
    def of(cls, store: Store, ids: Sequence[str], rows: int = 20) -> Watched:
        """Watch what these whole ids name."""
        return cls(
            store=store,
            experiments=[one for one in ids if not one.startswith("swp-")],
            sweeps=[one for one in ids if one.startswith("swp-")],
            rows=rows,
        )

    def states(self) -> dict[ExperimentState, int]:
        """Count all of them by state."""
        if not self.experiments and not self.sweeps:
            return {s: n for s, n in self.store.views.counts().items() if s not in FINAL}
        found: dict[ExperimentState, int] = {}
        for state in self._states_of_experiments():
            found[state] = found.get(state, 0) + 1
        for sweep in self.sweeps:
            for state, count in self.store.views.sweep(sweep).states.items():
                found[state] = found.get(state, 0) + count
        return found

    def _states_of_experiments(self) -> list[ExperimentState]:
        if not self.experiments:
            return []
        return list(self.store.views.states(list(self.experiments)).values())

    def look(self, *, detailed: bool = True) -> Look:
        """Look once; `detailed` also at the rows, those under way before those that ended."""
        views = self.store.views
        states = self.states()
        rows = self._rows() if detailed else []
        return Look(now=views.now(), states=states, total=sum(states.values()), rows=rows)

    def _rows(self) -> list[Row]:
        found = self._shown()
        return rows_of(found, self.store.views.steps_of([view.id for view in found]))

    def _shown(self) -> list[ExperimentView]:
        views = self.store.views
        if not self.experiments and not self.sweeps:
            return views.list(Filter(states=ACTIVE, limit=self.rows))
        found = [views.experiment(one) for one in self.experiments[: self.rows]]
        for sweep in self.sweeps:
            found += self._members(sweep)
        return found[: self.rows]

    def _members(self, sweep: str) -> list[ExperimentView]:
        """Return the members of a sweep if they all fit, else those under way."""
        views = self.store.views
        members = views.list(Filter(sweep_id=sweep, limit=self.rows + 1))
        if len(members) > self.rows:
            members = views.list(Filter(sweep_id=sweep, states=ACTIVE, limit=self.rows))
        return sorted(members, key=lambda view: view.member or 0)


def rows_of(views: Sequence[ExperimentView], steps: Mapping[str, Sequence[StepView]]) -> list[Row]:
    """Make the rows of experiments from their steps, by id; those of ended ones may be missing."""
    names = labels(views)
    return [_row(view, names[view.id], steps.get(view.id, ())) for view in views]


def _row(view: ExperimentView, name: str, steps: Sequence[StepView]) -> Row:
    began = [step.started_at for step in steps if step.started_at is not None]
    return Row(
        view=view,
        label=name,
        step=next((step for step in steps if step.state is not StepState.DONE), None),
        began_at=min(began) if began else None,
    )


def _moved(step: StepView) -> str:
    """How far a transfer is and how fast; empty if it moves nothing now."""
    progress = step.progress or {}
    if step.state is not StepState.RUNNING or not progress.get("total"):
        return ""
    rate = progress.get("rate", 0)
    speed = f" {size(rate)}/s" if rate else ""
    return f"{100 * progress.get('bytes', 0) // progress['total']} %{speed}"


def labels(views: Sequence[ExperimentView]) -> dict[str, str]:
    """Return the names of experiments by id; members of a sweep also say what sets them apart."""
    families: dict[str, list[ExperimentView]] = {}
    for view in views:
        families.setdefault(view.sweep_id or "", []).append(view)
    apart = {sweep: varying(family) for sweep, family in families.items() if sweep}
    return {view.id: _label(view, apart.get(view.sweep_id or "", [])) for view in views}


def _label(view: ExperimentView, names: Sequence[str]) -> str:
    return " ".join([view.name, *(f"{name}={view.params.get(name)}" for name in names)])


def varying(members: Sequence[ExperimentView]) -> list[str]:
    """Return the parameters that differ between members of a sweep; of a single one all."""
    first = members[0].params if members else {}
    if len(members) == 1:
        return list(first)
    return [
        name for name in first if any(member.params.get(name) != first[name] for member in members)
    ]
