"""What people chose to be told of experiments, from the events that go out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from wlm_tasks.celery import WlmCelery
from wlm_tasks.errors import NotFoundError
from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.model.states import FINAL, ExperimentState
from wlm_tasks.state.coordination import OutboxEvent

_ENDED: Final = frozenset(state.value for state in FINAL)


def tell(app: WlmCelery, events: Sequence[OutboxEvent], notifiers: Sequence[str]) -> None:
    """Write notices of ends and pauses; an event that comes again is told once."""
    chosen = app.settings.alerts.on
    if not notifiers or not any(name.startswith("experiment") for name in chosen):
        return
    for event in events:
        kind = _kind(event)
        if kind is None or event.experiment_id is None:
            continue
        notice = Notice(
            key=f"experiment:{event.experiment_id}:{event.id}",
            kind=kind,
            subject=event.experiment_id,
            at=event.at,
            detail={"state": event.state, "reason": event.detail.get("reason")},
        )
        if notice.is_wanted(chosen):  # most are not, and need not be looked up
            detailed = replace(notice, detail=_detail(app, event, notice.detail))
            app.runtime.store.incidents.tell(detailed, notifiers)


def _kind(event: OutboxEvent) -> NoticeKind | None:
    if event.detail.get("again"):
        return None
    if event.state in _ENDED:
        return NoticeKind.EXPERIMENT_ENDED
    return NoticeKind.EXPERIMENT_PAUSED if event.state == ExperimentState.PAUSED else None


def _detail(app: WlmCelery, event: OutboxEvent, detail: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        view = app.runtime.store.views.experiment(event.experiment_id or "")
    except NotFoundError:
        return detail
    took_s = event.at - view.created_at
    return {
        **detail,
        "name": view.name,
        "owner": view.owner,
        "project": view.project,
        "took_s": took_s,
    }
