"""What passes messages on to people: the interface of every notifier."""

from __future__ import annotations

from abc import ABC, abstractmethod

from wlm_tasks.config import AlertSettings
from wlm_tasks.notify.message import Message


class Notifier(ABC):
    """One way to tell people.

    Methods may raise only `NotifyUnavailableError` (the message can wait, and is sent again),
    `NotifyRefusedError` (this message is not taken, ever) and `ConfigError`. Their words are one
    line for a person, without secrets. What a person can mend without touching the message, such as
    a wrong password, is of the first kind.
    """

    @abstractmethod
    def __init__(self, settings: AlertSettings) -> None:
        """Take what is needed; raises `ConfigError` if the settings lack it. Connects nowhere."""

    @classmethod
    def configured(cls, settings: AlertSettings) -> bool:  # noqa: ARG003
        """Whether the settings ask for it without naming it in ``alerts.notifiers``."""
        return False

    @abstractmethod
    def send(self, message: Message) -> None:
        """Pass a message on; after return it is somebody else's to keep.

        May be called again with a message whose last try failed, by this or another process. It
        may have arrived nevertheless, so its id goes along for whoever receives it twice. Threads
        may call it at the same time. Takes about five times ``alerts.timeout_s`` at most.
        """

    @abstractmethod
    def check(self) -> str:
        """Return where messages go, after a look whether they could; nobody is told anything."""
