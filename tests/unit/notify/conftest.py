"""Ways to tell people, each with a far end that can be looked at and broken."""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator

import pytest
from unit.notify.cases import DOWN, HEAD

from services.smtpserver import PrivateSmtp
from services.webserver import WebServer
from wlm_tasks.config import AlertSettings, Secret
from wlm_tasks.config.checks import shared_secret
from wlm_tasks.errors import NotifyUnavailableError
from wlm_tasks.notify.base import Notifier
from wlm_tasks.notify.fake import FakeNotifier
from wlm_tasks.notify.log import LogNotifier
from wlm_tasks.notify.message import Message
from wlm_tasks.notify.smtp import SmtpNotifier
from wlm_tasks.notify.webhook import WebhookNotifier
from wlm_tasks.notify.words import compose

SECRET = "geheim-geheim"


@pytest.fixture
def message() -> Message:
    """What is to be told."""
    return compose([DOWN], HEAD)


@pytest.fixture
def web_server() -> Iterator[WebServer]:
    """A server that takes what is posted."""
    with WebServer() as server:
        yield server


class Way(ABC):
    """One notifier and its far end."""

    notifier: Notifier
    breaks = True  #: whether its far end can be out of reach

    @abstractmethod
    def arrived(self) -> list[tuple[str, str]]:
        """Ids, empty where none is told, and texts of what has arrived."""

    def cut(self) -> None:
        """Put the far end out of reach."""
        raise NotImplementedError

    def mend(self) -> None:
        """Let it be reached again."""
        raise NotImplementedError


class ByMail(Way):
    def __init__(self, smtp: PrivateSmtp) -> None:
        self._smtp = smtp
        settings = AlertSettings(
            admin=("ops@example.org",), smtp_url=Secret(smtp.url), timeout_s=5.0
        )
        self.notifier = SmtpNotifier(settings)

    def arrived(self) -> list[tuple[str, str]]:
        return [(mail.id, mail.text) for mail in self._smtp.received()]

    def cut(self) -> None:
        self._smtp.stop()

    def mend(self) -> None:
        self._smtp.start()


class ByWebhook(Way):
    def __init__(self, web: WebServer) -> None:
        self._web = web
        secret = Secret(SECRET, check=shared_secret)
        settings = AlertSettings(webhook_url=Secret(web.url(SECRET)), webhook_secret=secret)
        self.notifier = WebhookNotifier(settings)

    def arrived(self) -> list[tuple[str, str]]:
        found = [json.loads(one.body) for one in self._web.asked if one.method == "POST"]
        return [(one["message_id"], one["text"]) for one in found]

    def cut(self) -> None:
        self._web.faults.status["POST"] = 503

    def mend(self) -> None:
        self._web.faults.status.clear()
        self._web.asked.clear()


class ByLog(Way):
    breaks = False

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.notifier = LogNotifier(AlertSettings())

    def arrived(self) -> list[tuple[str, str]]:
        return [("", line) for line in self._caplog.messages if line.startswith("notice ")]


class ByFake(Way):
    def __init__(self) -> None:
        self.notifier: FakeNotifier = FakeNotifier()

    def arrived(self) -> list[tuple[str, str]]:
        return [(one.message_id, one.text) for one in self.notifier.sent]

    def cut(self) -> None:
        self.notifier.fault = NotifyUnavailableError("cut off")

    def mend(self) -> None:
        self.notifier.fault = None


@pytest.fixture(params=["smtp", "webhook", "log", "fake"])
def way(request: pytest.FixtureRequest) -> Way:
    """Each way in turn."""
    if request.param == "smtp":
        return ByMail(request.getfixturevalue("smtp"))
    if request.param == "webhook":
        return ByWebhook(request.getfixturevalue("web_server"))
    if request.param == "log":
        return ByLog(request.getfixturevalue("caplog"))
    return ByFake()
