"""Decisions about the workers: from evidence to the roster, incidents and notices."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from wlm_tasks.config import WatchSettings
from wlm_tasks.control.sights import Evidence, sights, traits_of
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.notices import NoticeKind
from wlm_tasks.model.workers import (
    EXPECTED,
    Change,
    Outcome,
    Rules,
    Sight,
    Standing,
    Witness,
    WorkerState,
    is_dead,
    is_mass_outage,
    is_overdue,
    judge,
)
from wlm_tasks.state.disappearances import Decided
from wlm_tasks.state.incidents import DRAIN, FLEET, WORKER, Incident
from wlm_tasks.state.roster import Present
from wlm_tasks.state.store import Store

_log = logging.getLogger(__name__)
#: Seconds for which one that is down counts as part of what goes on now.
_RECENT_S: Final = 600.0
#: Seconds between the first and the last of those that go down together.
_TOGETHER_S: Final = 60.0
#: Workers that a notice of the whole fleet names.
_NAMED: Final = 100


@dataclass(frozen=True, kw_only=True)
class _Judged:
    worker: Present
    standing: Standing
    sights: Mapping[Witness, Sight]
    change: Change | None

    @property
    def is_gone(self) -> bool:
        """Whether it is missing now, whatever is made of that."""
        state = self.standing.state
        if state is WorkerState.DOWN:
            return self.standing.for_s < _RECENT_S and self.change is None
        if self.standing.planned or state in (WorkerState.LEFT, WorkerState.DRAINING):
            return False
        return (self.change is None and is_dead(self.sights)) or self.goes_down

    @property
    def goes_down(self) -> bool:
        return self.change is not None and self.change.outcome is Outcome.DISAPPEARED


class Fleet:
    """Judges all workers at once; `notifiers` are the ways that people are told."""

    def __init__(
        self, store: Store, settings: WatchSettings, notifiers: Sequence[str], *, poison_after: int
    ) -> None:
        self._store = store
        self._notifiers = notifiers
        self._poison_after = poison_after
        self._rules = Rules(
            patience_s=settings.patience_s,
            grace_s=settings.grace_s,
            alone_s=settings.alone_s,
            probation_s=settings.probation_s,
        )

    def look(self, evidence: Evidence) -> int:
        """Judge every worker by the evidence and carry out what follows; returns the changes."""
        judged = self._judge(self._store.roster.present(), evidence)
        changed = [one for one in judged if one.change is not None]
        incidents = self._store.incidents.now_open()
        mass = self._mass(judged, incidents)
        for one in changed:
            self._attempt(one, told=not mass)
        for one in judged:
            self._note(one)
        self._overdue(judged, incidents)
        self._settle(judged, incidents)
        return len(changed)

    def _judge(self, workers: Sequence[Present], evidence: Evidence) -> list[_Judged]:
        newest: dict[str, float] = {}
        for worker in workers:
            newest[worker.name] = max(worker.registered_at, newest.get(worker.name, 0.0))
        absences = self._store.roster.absences()
        judged = []
        for worker in workers:
            standing = Standing(
                state=worker.state,
                for_s=worker.for_s,
                draining=worker.draining,
                deadline_s=worker.deadline_s,
                planned=worker.name in absences or worker.host in absences,
                replaced=newest[worker.name] > worker.registered_at,
                gone=worker.gone,
            )
            seen = sights(worker, evidence)
            change = judge(standing, seen, self._rules)
            judged.append(_Judged(worker=worker, standing=standing, sights=seen, change=change))
        return judged

    def _mass(self, judged: Sequence[_Judged], incidents: Sequence[Incident]) -> bool:
        """Whether so many are gone that it is one matter; opens and closes the incident of it."""
        expected = sum(one.standing.state in EXPECTED for one in judged)
        gone = [one.worker.name for one in judged if one.is_gone]
        outage = _outage(incidents)
        going = any(one.goes_down for one in judged)
        if outage is not None:
            missing = [one.worker.name for one in judged if one.standing.state is WorkerState.DOWN]
            if not is_mass_outage(gone=len({*gone, *missing}), expected=expected):
                detail = {"gone": missing[:_NAMED], "expected": expected}
                self._store.incidents.close(
                    FLEET, "", NoticeKind.FLEET_BACK, detail, self._notifiers
                )
                return False
            # whoever disappears later is a matter of its own
            return _now(judged) - outage.opened_at < _RECENT_S
        if not going or not is_mass_outage(gone=len(gone), expected=expected):
            return False
        reason = f"{len(gone)} of {expected} workers are gone at once"
        detail = {"gone": gone[:_NAMED], "expected": expected, "reason": reason}
        _log.warning("%s", reason)
        self._store.incidents.open(FLEET, "", NoticeKind.FLEET_DOWN, detail, self._notifiers)
        return True

    def _attempt(self, one: _Judged, *, told: bool) -> None:
        """Carry out one change; what goes wrong with it keeps no other from being looked after."""
        try:
            self._apply(one, told=told)
        except ServiceError:
            raise
        except Exception:  # noqa: BLE001 - see above
            _log.exception("%s: %s", one.worker.name, one.change)

    def _apply(self, one: _Judged, *, told: bool) -> None:
        assert one.change is not None  # noqa: S101 - for the type checker
        decided = Decided(worker=one.worker, change=one.change, detail=_detail(one), told=told)
        done = self._store.disappearances.apply(
            decided, self._notifiers, poison_after=self._poison_after
        )
        if not done:
            return
        change = one.change
        level = logging.WARNING if change.state is WorkerState.DOWN else logging.INFO
        _log.log(level, "%s is %s: %s", one.worker.name, change.state, change.reason or "all well")
        if change.outcome is Outcome.BACK:
            self._back(one)

    def _back(self, one: _Judged) -> None:
        self._store.incidents.close(
            WORKER, one.worker.name, NoticeKind.WORKER_BACK, _detail(one), self._notifiers
        )

    def _note(self, one: _Judged) -> None:
        """Keep what the witnesses say for people, when that has changed."""
        words = _words(tuple((witness, _says(sight)) for witness, sight in one.sights.items()))
        if words != one.worker.witnesses and one.standing.state in EXPECTED:
            self._store.roster.note(one.worker.name, one.worker.incarnation, words)

    def _overdue(self, judged: Sequence[_Judged], incidents: Sequence[Incident]) -> None:
        overdue = {one.worker.name: one for one in judged if is_overdue(one.standing)}
        known = {incident.subject for incident in incidents if incident.kind == DRAIN}
        for name, one in overdue.items():
            if name not in known:
                self._store.incidents.open(
                    DRAIN, name, NoticeKind.DRAIN_OVERDUE, _detail(one), self._notifiers
                )
        for name in known - overdue.keys():
            self._store.incidents.close(DRAIN, name, None, {}, self._notifiers)

    def _settle(self, judged: Sequence[_Judged], incidents: Sequence[Incident]) -> None:
        """End incidents whose worker has a successor, or is expected no more; tell late ones."""
        outage = _outage(incidents)
        latest: dict[str, _Judged] = {}
        for one in sorted(judged, key=lambda one: one.worker.registered_at):
            latest[one.worker.name] = one
        for incident in incidents:
            if incident.kind != WORKER:
                continue
            newest = latest.get(incident.subject)
            if newest is None or newest.standing.state is WorkerState.LEFT:
                self._store.incidents.close(WORKER, incident.subject, None, {}, self._notifiers)
            elif self._works(newest):
                self._back(newest)
            elif self._stays_down(newest) and not incident.told and not _covers(outage, incident):
                self._store.incidents.tell_late(
                    incident, NoticeKind.WORKER_DOWN, _detail(newest), self._notifiers
                )

    def _works(self, one: _Judged) -> bool:
        """Whether a worker of this name is up, for long enough to believe it."""
        stays = one.worker.age_s >= self._rules.probation_s
        return stays and one.standing.state is WorkerState.UP and one.change is None

    @staticmethod
    def _stays_down(one: _Judged) -> bool:
        """Whether one that was told with others, or that flapped, is a matter of its own by now."""
        return one.standing.state is WorkerState.DOWN and one.standing.for_s >= _RECENT_S


def _outage(incidents: Sequence[Incident]) -> Incident | None:
    """The outage of the fleet that is under way, if there is one."""
    return next((incident for incident in incidents if incident.kind == FLEET), None)


def _covers(outage: Incident | None, incident: Incident) -> bool:
    """Whether what was told of the fleet tells of this worker, too."""
    return outage is not None and incident.opened_at < outage.opened_at + _TOGETHER_S


def _now(judged: Sequence[_Judged]) -> float:
    """The database's time."""
    return max((one.worker.registered_at + one.worker.age_s for one in judged), default=0.0)


@lru_cache(maxsize=1000)
def _words(said: tuple[tuple[Witness, str], ...]) -> str:
    return json.dumps({str(witness): words for witness, words in said})


def _says(sight: Sight) -> str:
    return "alive" if sight.alive else sight.words or "silent"


def _detail(one: _Judged) -> dict[str, Any]:
    """What a notice tells of a worker, beside the work it had."""
    worker, traits = one.worker, traits_of(one.worker.attributes)
    reason = one.change.reason if one.change else None
    detail = {
        "host": worker.host,
        "incarnation": worker.incarnation,
        "queues": json.loads(worker.queues),
        "zone": traits.get("zone"),
        "started_at": worker.registered_at,
        "since": worker.registered_at + worker.age_s - worker.heard_s,
        "witnesses": {
            str(witness): f"{_says(sight)} for {sight.for_s:.0f} s"
            if not sight.alive
            else f"alive, heard {sight.for_s:.0f} s ago"
            for witness, sight in one.sights.items()
        },
        "reason": reason,
    }
    if worker.deadline_s is not None:
        detail["deadline"] = worker.registered_at + worker.age_s + worker.deadline_s
    return {key: value for key, value in detail.items() if value not in (None, "", [])}
