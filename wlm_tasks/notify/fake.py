"""A notifier that tells nobody, for tests of those who use one."""

from __future__ import annotations

from wlm_tasks.config import AlertSettings
from wlm_tasks.errors import NotifyError
from wlm_tasks.notify.base import Notifier
from wlm_tasks.notify.message import Message


class FakeNotifier(Notifier):
    """Keeps the messages; `fault` is raised instead as long as there is one."""

    def __init__(self, settings: AlertSettings | None = None) -> None:  # noqa: ARG002
        """Start with none sent."""
        self.sent: list[Message] = []
        self.tries = 0
        self.fault: NotifyError | None = None

    def send(self, message: Message) -> None:
        """Keep it, or fail."""
        self.tries += 1
        if self.fault is not None:
            raise self.fault
        self.sent.append(message)

    def check(self) -> str:
        """Return that all is well, or fail."""
        if self.fault is not None:
            raise self.fault
        return "nowhere"
