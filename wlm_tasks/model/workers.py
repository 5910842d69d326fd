"""How a worker stands, and what follows from what its witnesses say. Pure.

A worker is one *incarnation* of a Celery node name: its state begins when it registers and ends
when it has left or another incarnation of its name has taken its place. Three families of
witnesses tell whether it lives:

- the *broker*: Celery's heartbeats, and the broker's own word that the worker's queue is gone;
- the *database*: the worker's own signs of life in its row;
- *Serf*: gossip between the hosts.

One witness makes a suspect. For a worker to be down, the broker and the database must both have
nothing of it, or one of them while the other cannot tell and Serf agrees. Serf alone never
decides, in either direction: an agent may die without its worker, and outlive it. What only one
of the other two misses for long is told in the end as well: such a worker lives and cannot work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class WorkerState(StrEnum):
    """How one incarnation of a worker stands."""

    UP = "UP"
    DRAINING = "DRAINING"  #: finishes what it has and takes nothing new
    SUSPECT = "SUSPECT"  #: some witness misses it
    DOWN = "DOWN"  #: it has disappeared
    RECOVERED = "RECOVERED"  #: seen again after that; UP if it stays
    LEFT = "LEFT"  #: it ended, or its name has a new incarnation


#: Those that are expected to work.
EXPECTED: Final = frozenset(WorkerState) - {WorkerState.LEFT}


class Witness(StrEnum):
    """Who tells whether a worker lives."""

    CELERY = "celery"  #: its heartbeats
    BROKER = "broker"  #: the queue that only its connection keeps alive
    DATABASE = "database"  #: its own signs of life
    SERF = "serf"


@dataclass(frozen=True, kw_only=True)
class Sight:
    """What a witness says of one worker; a witness that cannot tell says nothing."""

    alive: bool
    for_s: float  #: how long ago its last sign of the worker was
    words: str = ""  #: such as ``failed``
    goodbye: bool = False  #: it saw the worker take its leave


Sights = Mapping[Witness, Sight]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Patience, in seconds."""

    patience_s: float = 18.0  #: without a sign of a worker, after which a witness misses it
    grace_s: float = 20.0  #: how long a worker is suspect before it may be down
    alone_s: float = 300.0  #: how long one witness must miss what the others see
    probation_s: float = 60.0  #: how long one that is back must stay to be up


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a worker stands by what was decided so far, and what was announced."""

    state: WorkerState = WorkerState.UP
    for_s: float = 0.0  #: how long it stands so
    draining: bool = False  #: it was told to stop, or an operator drains it
    deadline_s: float | None = None  #: seconds left for that; None for no end
    planned: bool = False  #: its absence was announced
    replaced: bool = False  #: another incarnation of its name has registered since
    gone: bool = False  #: it said itself that it ends


class Outcome(StrEnum):
    """What a change is to people, beside the state."""

    QUIET = "quiet"
    DISAPPEARED = "disappeared"
    BACK = "back"
    RESTARTED = "restarted"  #: it died, and a new incarnation was there before it was missed
    LEFT_UNASKED = "left unasked"  #: it took its leave, and nobody had announced that


@dataclass(frozen=True, kw_only=True)
class Change:
    """The next state of a worker, and why."""

    state: WorkerState
    outcome: Outcome = Outcome.QUIET
    reason: str = ""


def judge(worker: Standing, sights: Sights, rules: Rules) -> Change | None:
    """Return what becomes of a worker now; None if it stays as it is."""
    return _Case(worker, sights, rules).change()


def is_dead(sights: Sights) -> bool:
    """Whether a worker cannot be alive, by what its witnesses say."""
    return _Case(Standing(), sights, Rules()).dead


def is_overdue(worker: Standing) -> bool:
    """Whether a worker that was to stop is still there when it should be gone."""
    late = worker.deadline_s is not None and worker.deadline_s <= 0
    return worker.state is WorkerState.DRAINING and late


#: Fewer workers than this that are gone at once are told one by one.
_CROWD: Final = 3


def is_mass_outage(*, gone: int, expected: int) -> bool:
    """Whether so many are gone at once that it is one matter: a network, or the monitor itself."""
    return gone >= _CROWD and 2 * gone >= expected


class _Case:
    """One worker before its judge."""

    def __init__(self, worker: Standing, sights: Sights, rules: Rules) -> None:
        self.worker = worker
        self.sights = sights
        self.rules = rules
        # True, False, or None for a family of witnesses that cannot tell
        self.broker = _broker_sees(sights)
        self.database = _sees(sights.get(Witness.DATABASE))
        self.serf = _sees(sights.get(Witness.SERF))

    def change(self) -> Change | None:
        """What becomes of it."""
        worker = self.worker
        if worker.state is WorkerState.LEFT:
            return self._left()
        if worker.gone:
            return self._ended()
        if worker.replaced:
            return self._replaced()
        return _DECIDE[worker.state](self)

    # -- by state --------------------------------------------------------------------------

    def up(self) -> Change | None:
        if self.worker.draining:
            return Change(state=WorkerState.DRAINING, reason="it was told to stop")
        if not self.missed_by_any:
            return None
        return self._gone_for_good() or Change(state=WorkerState.SUSPECT, reason=self.words)

    def suspect(self) -> Change | None:
        if self.worker.draining:
            return Change(state=WorkerState.DRAINING, reason="it was told to stop")
        if not self.missed_by_any:
            return Change(state=WorkerState.UP)
        if change := self._gone_for_good():
            return change
        if self.worker.planned or self.worker.for_s < self.rules.grace_s:
            return None
        if self.useless or (self.dead and self.waited):
            return Change(state=WorkerState.DOWN, outcome=Outcome.DISAPPEARED, reason=self.words)
        return None

    def _gone_for_good(self) -> Change | None:
        """An end that nobody need be alarmed by."""
        if (
            self.dead
            and not self.worker.planned
            and any(sight.goodbye for sight in self.sights.values())
        ):
            return Change(
                state=WorkerState.LEFT, outcome=Outcome.LEFT_UNASKED, reason="it took its leave"
            )
        return None

    def draining(self) -> Change | None:
        if self.dead:
            return Change(state=WorkerState.LEFT, reason=f"it was to stop: {self.words}")
        if not self.worker.draining:
            return Change(state=WorkerState.UP, reason="it is to go on")
        return None

    def down(self) -> Change | None:
        if self.lives:
            return Change(state=WorkerState.RECOVERED, reason="it was seen again")
        return None

    def recovered(self) -> Change | None:
        if self.dead or self.useless:
            return Change(state=WorkerState.DOWN, reason=self.words)  # of the same incident
        if self.worker.for_s >= self.rules.probation_s:
            return Change(state=WorkerState.UP, outcome=Outcome.BACK, reason="it is back")
        return None

    def _left(self) -> Change | None:
        """One that was taken for gone may be seen again, unless it said so itself."""
        if self.worker.replaced or self.worker.gone or not self.lives:
            return None
        return Change(state=WorkerState.UP, reason="it is there after all")

    def _ended(self) -> Change:
        """It said itself that it ends: if nobody had asked for that, people want to know."""
        worker = self.worker
        asked = worker.draining or worker.planned or worker.state is WorkerState.DRAINING
        return Change(
            state=WorkerState.LEFT,
            outcome=Outcome.QUIET if asked else Outcome.LEFT_UNASKED,
            reason="it has ended",
        )

    def _replaced(self) -> Change:
        known = self.worker.state in (WorkerState.DOWN, WorkerState.RECOVERED)
        quiet = known or self.worker.planned or self.worker.state is WorkerState.DRAINING
        return Change(
            state=WorkerState.LEFT,
            outcome=Outcome.QUIET if quiet else Outcome.RESTARTED,
            reason="another process has taken its name",
        )

    # -- evidence --------------------------------------------------------------------------

    @property
    def missed_by_any(self) -> bool:
        """Whether some witness misses it."""
        return False in (self.broker, self.database, self.serf)

    @property
    def dead(self) -> bool:
        """Whether it cannot be otherwise."""
        strong = (self.broker, self.database)
        if True in strong:
            return False
        return strong == (False, False) or (False in strong and self.serf is False)

    @property
    def waited(self) -> bool:
        """Whether those that count have missed it for long enough.

        It may have been a suspect for longer, because of Serf alone.
        """
        strong = (self.sights.get(Witness.CELERY), self.sights.get(Witness.DATABASE))
        silent_s = min((sight.for_s for sight in strong if sight and not sight.alive), default=0.0)
        enough_s = self.rules.patience_s + self.rules.grace_s / 2
        return silent_s >= enough_s

    @property
    def lives(self) -> bool:
        """Whether it works, as far as anybody can tell."""
        strong = (self.broker, self.database)
        return True in strong and False not in strong

    @property
    def useless(self) -> bool:
        """Whether one that it cannot work without has long had nothing of it."""
        needed = (self.sights.get(Witness.CELERY), self.sights.get(Witness.DATABASE))
        alone_s = self.rules.alone_s
        return any(sight and not sight.alive and sight.for_s >= alone_s for sight in needed)

    @property
    def words(self) -> str:
        """What those say that miss it."""
        return ", ".join(
            f"{witness}: {sight.words or 'silent'} for {sight.for_s:.0f} s"
            for witness, sight in self.sights.items()
            if not sight.alive
        )


_DECIDE: Final[Mapping[WorkerState, Callable[[_Case], Change | None]]] = {
    WorkerState.UP: _Case.up,
    WorkerState.SUSPECT: _Case.suspect,
    WorkerState.DRAINING: _Case.draining,
    WorkerState.DOWN: _Case.down,
    WorkerState.RECOVERED: _Case.recovered,
}


def _broker_sees(sights: Sights) -> bool | None:
    heard, queue = sights.get(Witness.CELERY), sights.get(Witness.BROKER)
    # nothing was heard since its queue went away
    if queue and not queue.alive and (heard is None or heard.for_s >= queue.for_s):
        return False
    return _sees(heard)


def _sees(sight: Sight | None) -> bool | None:
    return None if sight is None else sight.alive
