"""A POST of JSON for each message, signed or with a bearer token."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
import ssl
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from wlm_tasks.config import AlertSettings
from wlm_tasks.errors import ConfigError, NotifyRefusedError, NotifyUnavailableError
from wlm_tasks.notify.base import Notifier
from wlm_tasks.notify.faults import authorities, trust, words
from wlm_tasks.notify.layout import clean
from wlm_tasks.notify.message import Message

#: what bodies look like; raised when a key changes its meaning, not when one is added
VERSION: Final = 1
#: statuses that blame the message itself; all others can be mended at either end
_REFUSALS: Final = frozenset({400, 406, 409, 411, 413, 415, 422})
_PORTS: Final = {"http": 80, "https": 443}


class WebhookNotifier(Notifier):
    """Posts to ``alerts.webhook_url``; any 2xx is a yes.

    With ``alerts.webhook_secret`` the header ``X-Wlm-Signature`` has ``sha256=`` and the HMAC of
    the body in hex (as GitHub's webhooks do), or ``Authorization`` has the secret as a bearer
    token. ``Idempotency-Key`` is the message's id. Redirects are not followed: the secret would go
    to another host.
    """

    def __init__(self, settings: AlertSettings) -> None:
        """Need ``webhook_url``."""
        if settings.webhook_url is None:
            raise ConfigError("alerts.notifiers: got 'webhook', expected alerts.webhook_url, too")
        self._settings = settings
        self._url = settings.webhook_url

    @classmethod
    def configured(cls, settings: AlertSettings) -> bool:
        """Whether there is where to post."""
        return settings.webhook_url is not None

    def send(self, message: Message) -> None:
        """Post it and look at the status."""
        url, secret = self._revealed()
        body = json.dumps(payload(message), ensure_ascii=False).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "wlm_tasks",
            "Idempotency-Key": message.message_id,
            **_authentic(body, secret, self._settings.webhook_auth),
        }
        self._judge(self._post(url, body, headers), _where(url))

    def check(self) -> str:
        """Look the host up; that takes no request, which a receiver might take for a notice."""
        url, _secret = self._revealed()
        parts = urlsplit(url)
        try:
            socket.getaddrinfo(parts.hostname, parts.port or _PORTS[parts.scheme])
        except (OSError, UnicodeError) as error:
            told = words(error, self._settings.timeout_s)
            raise NotifyUnavailableError(f"{_where(url)}: {told}") from None
        return _where(url)

    def _post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        timeout = self._settings.timeout_s
        try:
            with requests.Session() as session:
                session.auth = _Nobody()
                with session.post(
                    url,
                    data=body,
                    headers=headers,
                    timeout=timeout,
                    allow_redirects=False,
                    verify=self._trusted(),
                    stream=True,  # nobody reads the answer's body
                ) as answer:
                    return answer.status_code
        except (requests.RequestException, OSError, UnicodeError) as error:
            # its own words have the whole URL in them
            raise NotifyUnavailableError(f"{_where(url)}: {words(error, timeout)}") from None

    def _trusted(self) -> str:
        """Return the certificates to trust: the system's where it has some, unlike `requests`."""
        if (file := authorities(self._settings)) is not None:
            trust(self._settings)
            return file
        usual = ssl.get_default_verify_paths()
        if usual.cafile:
            return usual.cafile
        if usual.capath and any(Path(usual.capath).iterdir()):
            return usual.capath
        return str(DEFAULT_CA_BUNDLE_PATH)

    def _judge(self, status: int, where: str) -> None:
        if requests.codes.ok <= status < requests.codes.multiple_choices:
            return
        known = status in HTTPStatus._value2member_map_
        told = f"{where}: answers {status} {HTTPStatus(status).phrase if known else ''}".rstrip()
        if status in _REFUSALS:
            raise NotifyRefusedError(told)
        if requests.codes.multiple_choices <= status < requests.codes.bad_request:
            told += "; redirects are not followed, set alerts.webhook_url to where it leads"
        raise NotifyUnavailableError(told)

    def _revealed(self) -> tuple[str, str]:
        secret = self._settings.webhook_secret
        try:
            return self._url.reveal(), secret.reveal() if secret is not None else ""
        except ConfigError as error:  # a secret that is not there can come yet
            raise NotifyUnavailableError(error.message) from None


class _Nobody(requests.auth.AuthBase):
    """Keeps `requests` from looking for a password in ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def payload(message: Message) -> dict[str, Any]:
    """Return what is posted."""
    return {
        "version": VERSION,
        "message_id": message.message_id,
        "subject": message.subject,
        "severity": str(message.severity),
        "text": message.text,
        "references": list(message.references),
        "notices": [dict(one) for one in message.notices],
    }


def _authentic(body: bytes, secret: str, way: str) -> dict[str, str]:
    """Return the headers that show who we are."""
    if not secret:
        return {}
    if way == "bearer":
        return {"Authorization": f"Bearer {secret}"}
    return {"X-Wlm-Signature": f"sha256={hmac.digest(secret.encode(), body, hashlib.sha256).hex()}"}


def _where(url: str) -> str:
    """Return the URL without its path, which may hold a token."""
    parts = urlsplit(url)
    return clean(f"{parts.scheme}://{parts.netloc}")
