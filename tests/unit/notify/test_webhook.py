"""What a webhook's receiver gets, and what becomes of its answers."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.certificates import certificate
from services.ports import free_port, release_port
from services.webserver import WebServer
from wlm_tasks.config import AlertSettings, Secret
from wlm_tasks.config.checks import shared_secret
from wlm_tasks.errors import NotifyError, NotifyRefusedError, NotifyUnavailableError
from wlm_tasks.notify.message import Message
from wlm_tasks.notify.webhook import WebhookNotifier

TOKEN = "T0KEN-in-the-path"
KEY = "shared-secret"


def notifier(server: WebServer, **changes: Any) -> WebhookNotifier:
    given: dict[str, Any] = {"webhook_url": Secret(server.url(TOKEN)), "timeout_s": 5.0}
    return WebhookNotifier(AlertSettings(**{**given, **changes}))


def refused(by: WebhookNotifier, message: Message, kind: type[NotifyError]) -> str:
    with pytest.raises(kind) as caught:
        by.send(message)
    assert type(caught.value) is kind
    assert str(caught.value).isprintable()
    assert not any(secret in str(caught.value) for secret in (TOKEN, KEY))
    return str(caught.value)


def test_the_receiver_gets_all_of_it_as_json(web_server: WebServer, message: Message) -> None:
    notifier(web_server).send(message)
    (asked,) = web_server.asked
    assert (asked.method, asked.path) == ("POST", f"/{TOKEN}")
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["Idempotency-Key"] == message.message_id
    assert not {"Authorization", "X-Wlm-Signature"} & asked.headers.keys()
    told = json.loads(asked.body)
    (one,) = told.pop("notices")
    assert told == {
        "version": 1,
        "message_id": message.message_id,
        "subject": message.subject,
        "severity": "CRITICAL",
        "text": message.text,
        "references": [],
    }
    detail = one.pop("detail")
    assert one == {
        "key": "down:17",
        "kind": "WORKER_DOWN",
        "severity": "CRITICAL",
        "subject": "jobsub1@node7",
        "at": "2026-11-29T04:52:37.000+00:00",
        "summary": "worker jobsub1@node7 is down (1 of 3 steps waits)",
        "ends": None,
    }
    assert detail["steps"][1]["became"] == "released"


def test_it_is_signed(web_server: WebServer, message: Message) -> None:
    notifier(web_server, webhook_secret=Secret(KEY, check=shared_secret)).send(message)
    (asked,) = web_server.asked
    digest = hmac.new(KEY.encode(), asked.body, hashlib.sha256).hexdigest()
    assert asked.headers["X-Wlm-Signature"] == f"sha256={digest}"
    assert KEY not in str(asked)


def test_or_has_a_bearer_token(web_server: WebServer, message: Message) -> None:
    secret = Secret(KEY, check=shared_secret)
    notifier(web_server, webhook_secret=secret, webhook_auth="bearer").send(message)
    assert web_server.asked[0].headers["Authorization"] == f"Bearer {KEY}"


def test_passwords_of_the_user_stay_at_home(web_server: WebServer, message: Message) -> None:
    netrc = Path.home() / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password geheim\n")
    netrc.chmod(0o600)
    notifier(web_server).send(message)
    assert "Authorization" not in web_server.asked[0].headers


STATUSES: list[tuple[int, type[NotifyError], str]] = [
    (301, NotifyUnavailableError, "301 Moved Permanently; redirects are not followed"),
    (307, NotifyUnavailableError, "307 Temporary Redirect; redirects are not followed"),
    (400, NotifyRefusedError, "400 Bad Request"),
    (401, NotifyUnavailableError, "401 Unauthorized"),
    (404, NotifyUnavailableError, "404 Not Found"),
    (413, NotifyRefusedError, "413 Request Entity Too Large"),
    (429, NotifyUnavailableError, "429 Too Many Requests"),
    (500, NotifyUnavailableError, "500 Internal Server Error"),
    (599, NotifyUnavailableError, "599"),
]


@pytest.mark.parametrize(("status", "kind", "words"), STATUSES)
def test_each_answer_but_2xx_is_told(
    web_server: WebServer, message: Message, status: int, kind: type[NotifyError], words: str
) -> None:
    web_server.faults.status["POST"] = status
    web_server.faults.location = f"{web_server.base}/elsewhere"
    told = refused(notifier(web_server), message, kind)
    assert told.startswith(f"{web_server.base}: answers {words}")
    assert len(web_server.asked) == 1


def test_a_receiver_that_stalls_holds_nobody(web_server: WebServer, message: Message) -> None:
    web_server.faults.stall_after = 0
    told = refused(notifier(web_server, timeout_s=0.2), message, NotifyUnavailableError)
    assert told == f"{web_server.base}: no answer within 0.2 s"


def test_nobody_there(message: Message) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    by = WebhookNotifier(AlertSettings(webhook_url=Secret(f"{url}/{TOKEN}")))
    assert refused(by, message, NotifyUnavailableError) == f"{url}: connection refused"
    release_port(port)


def test_no_such_host(message: Message) -> None:
    by = WebhookNotifier(AlertSettings(webhook_url=Secret(f"https://nowhere.invalid/{TOKEN}")))
    told = refused(by, message, NotifyUnavailableError)
    assert told == "https://nowhere.invalid: the host cannot be found"
    with pytest.raises(NotifyUnavailableError, match=r"^https://nowhere\.invalid: the host"):
        by.check()


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[WebServer, str]]:
    """A server with TLS and its certificate."""
    file = certificate(tmp_path / "certificates")
    with WebServer(file) as server:
        yield server, str(file)


def test_certificates_are_verified(secure: tuple[WebServer, str], message: Message) -> None:
    server, file = secure
    notifier(server, ca_file=file).send(message)
    assert len(server.asked) == 1
    told = refused(notifier(server), message, NotifyUnavailableError)
    assert told.startswith(f"{server.base}: its certificate is not trusted: self-signed")
    told = refused(notifier(server, ca_file="/none"), message, NotifyUnavailableError)
    assert told.startswith("alerts.ca_file: got '/none'")


def test_a_secret_that_is_not_there_can_come_yet(
    web_server: WebServer, message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = Secret("env:HOOK", field="alerts.webhook_url")
    by = notifier(web_server, webhook_url=url)
    assert "environment variable to be set" in refused(by, message, NotifyUnavailableError)
    monkeypatch.setenv("HOOK", web_server.url(TOKEN))
    by.send(message)
    assert len(web_server.asked) == 1
