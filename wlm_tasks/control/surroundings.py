"""What people want to be told beyond the workers: sites, and queues that nobody serves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wlm_tasks.celery import WlmCelery
from wlm_tasks.model.notices import CHOICES, NoticeKind
from wlm_tasks.model.sites import OPEN
from wlm_tasks.model.workers import WorkerState
from wlm_tasks.state.incidents import QUEUE, SITE

#: Seconds of trouble after which it is told.
_SITE_S: Final = 60.0
_QUEUE_S: Final = 120.0
_AT_WORK: Final = (WorkerState.UP, WorkerState.SUSPECT, WorkerState.RECOVERED)


class Surroundings:
    """Opens and closes incidents of sites and queues, of those kinds that people chose."""

    def __init__(self, app: WlmCelery, notifiers: Sequence[str]) -> None:
        self._app = app
        self._store = app.runtime.store
        self._incidents = self._store.incidents
        self._notifiers = notifiers
        self._chosen = app.settings.alerts.on

    def look(self) -> None:
        """Look once."""
        now_open = self._incidents.now_open()
        if self._chooses(NoticeKind.SITE_DOWN):
            self._sites({one.subject for one in now_open if one.kind == SITE})
        if self._chooses(NoticeKind.QUEUE_STUCK):
            self._queues({one.subject for one in now_open if one.kind == QUEUE})

    def _chooses(self, kind: NoticeKind) -> bool:
        return any(kind in CHOICES[name] for name in self._chosen)

    def _sites(self, known: set[str]) -> None:
        now = self._store.coordination.clock()
        for name, row in self._store.sites.all().items():
            down = row.state not in OPEN
            if down and name not in known and now - (row.since or now) >= _SITE_S:
                detail = {"reason": row.reason, "since": row.since, "state": str(row.state)}
                self._incidents.open(SITE, name, NoticeKind.SITE_DOWN, detail, self._notifiers)
            elif not down and name in known:
                self._incidents.close(SITE, name, NoticeKind.SITE_BACK, {}, self._notifiers)

    def _queues(self, known: set[str]) -> None:
        roster = self._store.roster.views()
        at_work = [one for one in roster if one.state in _AT_WORK]
        served = {queue for one in at_work for queue in one.queues}
        stuck = self._store.upkeep.stuck(_QUEUE_S)
        for queue, (count, since) in stuck.items():
            if queue not in served and queue not in known:
                detail = {"waiting": count, "consumers": 0, "since": since}
                self._incidents.open(QUEUE, queue, NoticeKind.QUEUE_STUCK, detail, self._notifiers)
        for queue in known & (served | (known - stuck.keys())):
            self._incidents.close(QUEUE, queue, NoticeKind.QUEUE_SERVED, {}, self._notifiers)
