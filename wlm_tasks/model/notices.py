"""What people are told: kinds of notices and what each of them carries. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class NoticeKind(StrEnum):
    """What happened."""

    WORKER_DOWN = "WORKER_DOWN"  #: a worker has disappeared
    WORKER_BACK = "WORKER_BACK"  #: one that had disappeared is at work again
    WORKER_RESTARTED = "WORKER_RESTARTED"  #: it died and was there again before it was missed
    WORKER_LEFT = "WORKER_LEFT"  #: it left without having announced that
    DRAIN_OVERDUE = "DRAIN_OVERDUE"  #: it was to stop and has not, long after it should have
    WORKER_FLAPPING = "WORKER_FLAPPING"  #: it disappears again and again; told once in a while
    FLEET_DOWN = "FLEET_DOWN"  #: at least half of the workers are gone, or the monitor is isolated
    FLEET_BACK = "FLEET_BACK"
    BROKER_DOWN = "BROKER_DOWN"
    BROKER_BACK = "BROKER_BACK"
    DATABASE_DOWN = "DATABASE_DOWN"  #: the one kind that is told without the database
    SITE_DOWN = "SITE_DOWN"
    SITE_BACK = "SITE_BACK"
    QUEUE_STUCK = "QUEUE_STUCK"  #: work waits in a queue that nobody serves
    QUEUE_SERVED = "QUEUE_SERVED"
    EXPERIMENT_ENDED = "EXPERIMENT_ENDED"
    EXPERIMENT_PAUSED = "EXPERIMENT_PAUSED"  #: a person has to look
    TEST = "TEST"


class Severity(StrEnum):
    """How much it matters: what is CRITICAL goes out at once, INFO may wait for others."""

    CRITICAL = "CRITICAL"
    WARNING = "WARNING"
    INFO = "INFO"


SEVERITY: Final[Mapping[NoticeKind, Severity]] = {
    NoticeKind.WORKER_DOWN: Severity.CRITICAL,
    NoticeKind.WORKER_BACK: Severity.INFO,
    NoticeKind.WORKER_RESTARTED: Severity.WARNING,
    NoticeKind.WORKER_LEFT: Severity.WARNING,
    NoticeKind.DRAIN_OVERDUE: Severity.WARNING,
    NoticeKind.WORKER_FLAPPING: Severity.WARNING,
    NoticeKind.FLEET_DOWN: Severity.CRITICAL,
    NoticeKind.FLEET_BACK: Severity.INFO,
    NoticeKind.BROKER_DOWN: Severity.CRITICAL,
    NoticeKind.BROKER_BACK: Severity.INFO,
    NoticeKind.DATABASE_DOWN: Severity.CRITICAL,
    NoticeKind.SITE_DOWN: Severity.WARNING,
    NoticeKind.SITE_BACK: Severity.INFO,
    NoticeKind.QUEUE_STUCK: Severity.WARNING,
    NoticeKind.QUEUE_SERVED: Severity.INFO,
    NoticeKind.EXPERIMENT_ENDED: Severity.INFO,
    NoticeKind.EXPERIMENT_PAUSED: Severity.WARNING,
    NoticeKind.TEST: Severity.INFO,
}


#: what people may choose to be told (``alerts.on``); kinds that are in none are always told
CHOICES: Final[Mapping[str, frozenset[NoticeKind]]] = {
    "experiment-ended": frozenset({NoticeKind.EXPERIMENT_ENDED}),
    "experiment-failed": frozenset({NoticeKind.EXPERIMENT_ENDED}),
    "experiment-paused": frozenset({NoticeKind.EXPERIMENT_PAUSED}),
    "queue-stuck": frozenset({NoticeKind.QUEUE_STUCK, NoticeKind.QUEUE_SERVED}),
    "site-down": frozenset({NoticeKind.SITE_DOWN, NoticeKind.SITE_BACK}),
}
_OPTIONAL: Final = frozenset().union(*CHOICES.values())
#: how experiments end that nobody need look after
_FINE: Final = frozenset({"DONE", "CANCELLED"})


@dataclass(frozen=True, kw_only=True)
class Notice:
    """One thing to tell. Times are seconds since the epoch by the database's clock.

    What `detail` holds, all of it optional; whoever shows it does without what is missing:

    - of workers: ``host``, ``incarnation``, ``queues`` (list), ``zone``; ``since`` (last sign of
      life), ``started_at``; ``witnesses`` (``{"serf": "failed for 12 s", ...}``); ``steps``, a list
      of ``{"experiment", "name", "step", "became"}`` with what was running on it and what became of
      it: ``taken over by NAME``, ``released`` or, of what nobody has taken yet, ``waiting`` with or
      without more words; ``more_steps`` (how many beyond that list); ``reason``; ``down_s`` (of one
      that is back); ``times`` and ``within_s`` (of one that flaps); ``deadline`` (of a drain)
    - of the fleet: ``gone`` (names), ``expected`` (how many there should be), ``reason``
    - of the broker, the database, a site: ``reason``, ``since``, ``down_s``, ``state``
    - of a queue: ``waiting`` (ready steps), ``consumers``, ``since``
    - of an experiment: ``name``, ``state``, ``owner``, ``project``, ``reason``, ``took_s``
    """

    key: str  #: what makes it one and the same, such as ``down:17``; unique for ever
    kind: NoticeKind
    subject: str  #: the worker, site, queue or experiment; empty for the whole fleet
    at: float
    detail: Mapping[str, Any] = field(default_factory=dict)
    #: the key of the notice it ends, such as that of the WORKER_DOWN of a WORKER_BACK
    ends: str | None = None

    def is_wanted(self, chosen: Collection[str]) -> bool:
        """Whether people want to be told; `chosen` are some of `CHOICES`."""
        if self.kind not in _OPTIONAL:
            return True
        names = {name for name, kinds in CHOICES.items() if self.kind in kinds} & set(chosen)
        if names == {"experiment-failed"}:
            return self.detail.get("state") not in _FINE
        return bool(names)

    @property
    def severity(self) -> Severity:
        """How much it matters."""
        return SEVERITY[self.kind]
