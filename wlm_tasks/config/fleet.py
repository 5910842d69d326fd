"""Settings of what workers say of themselves and how it is found out who is alive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from wlm_tasks.config import checks as own
from wlm_tasks.config.fields import check_section, read_list, read_number, rule
from wlm_tasks.config.secret import Secret
from wlm_tasks.model import checks

_DAY: Final = 86_400.0
_SECONDS: Final = rule(checks.seconds(_DAY), read_number)
_SECONDS_FROM_0: Final = rule(checks.seconds(_DAY, zero=True), read_number)


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What the workers of this host can do, beside what is found out."""

    #: what some work needs and not every host has, such as ``lammps``
    capabilities: tuple[str, ...] = field(default=(), metadata=rule(own.labels, read_list))
    #: where it stands, such as a room or a data centre
    zone: str | None = field(default=None, metadata=rule(checks.optional(own.zone)))
    #: graphics cards; None for as many as there are devices of NVIDIA's
    gpus: int | None = field(
        default=None, metadata=rule(checks.optional(checks.whole(0, 1000)), read_number)
    )

    def __post_init__(self) -> None:
        """Check each field."""
        check_section(self, "worker")


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """How it is found out which workers are alive. Times are seconds."""

    #: between two signs of life of a worker, in the broker and in the database
    beat_s: float = field(default=5.0, metadata=_SECONDS)
    #: how long a worker is suspect before it may be down
    grace_s: float = field(default=20.0, metadata=_SECONDS_FROM_0)
    #: how long one that is back must stay to be up
    probation_s: float = field(default=60.0, metadata=_SECONDS_FROM_0)
    #: how long the broker or the database alone must miss one that is else alive
    alone_s: float = field(default=300.0, metadata=_SECONDS)
    #: how long a worker that was told to stop may take for what it has in hand
    drain_s: float = field(default=1800.0, metadata=_SECONDS)
    #: where the broker tells its own events; None for not at all
    broker_events_url: Secret | None = field(
        default=None, metadata=rule(own.secret, url=own.broker_url)
    )

    def __post_init__(self) -> None:
        """Check each field."""
        check_section(self, "watch")

    @property
    def patience_s(self) -> float:
        """Seconds without a sign after which a witness misses a worker: three beats and more."""
        return 3.0 * self.beat_s + 3.0
