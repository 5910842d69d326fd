"""Celery's worker, with an error that helps for a queue that is not there."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import click
from celery.apps.worker import Worker as CeleryWorker

from wlm_tasks.model.steps import ALL_QUEUES
from wlm_tasks.tasks import presence as _presence  # noqa: F401 - it listens to Celery's signals


class Worker(CeleryWorker):
    """What ``celery -A wlm_tasks worker`` starts."""

    def setup_queues(self, include: Any, exclude: Any = None) -> None:
        """Choose the queues; raises `click.BadParameter` for one that does not exist."""
        for option, names in (("-Q", include), ("-X", exclude)):
            for name in _names(names):
                if name not in self.app.amqp.queues:
                    raise click.BadParameter(_unknown(name), param_hint=option)
        super().setup_queues(include, exclude)


def _names(given: Any) -> list[str]:
    return given.split(",") if isinstance(given, str) else list(given or ())


def _unknown(name: str) -> str:
    close = get_close_matches(name, ALL_QUEUES, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"got {name!r}, expected some of {', '.join(ALL_QUEUES)}{hint}"
