"""A line in the log for each notice."""

from __future__ import annotations

import logging

from wlm_tasks.config import AlertSettings
from wlm_tasks.model.notices import Severity
from wlm_tasks.notify.base import Notifier
from wlm_tasks.notify.message import Message

log = logging.getLogger(__name__)


class LogNotifier(Notifier):
    """Writes to the log of the process: INFO, and WARNING for what is not merely told."""

    def __init__(self, settings: AlertSettings) -> None:
        """Need nothing."""

    @classmethod
    def configured(cls, settings: AlertSettings) -> bool:  # noqa: ARG003
        """Always."""
        return True

    def send(self, message: Message) -> None:
        """Write a line for each notice."""
        for one in message.notices:
            level = logging.INFO if one["severity"] == Severity.INFO else logging.WARNING
            log.log(level, "notice %s: %s", one["key"], one["summary"])

    def check(self) -> str:
        """Return where that is."""
        return "the log of the control process"
