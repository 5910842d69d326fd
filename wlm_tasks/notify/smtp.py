"""Mail by SMTP: RFC 5321, with STARTTLS (3207), TLS from the first byte (8314) and AUTH (4954)."""

from __future__ import annotations

import logging
import smtplib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple, Self
from urllib.parse import unquote, urlsplit

from wlm_tasks.config import AlertSettings
from wlm_tasks.errors import (
    ConfigError,
    NotifyError,
    NotifyRefusedError,
    NotifyUnavailableError,
)
from wlm_tasks.notify.base import Notifier
from wlm_tasks.notify.faults import trust, words
from wlm_tasks.notify.layout import clean
from wlm_tasks.notify.mail import mail
from wlm_tasks.notify.message import Message

log = logging.getLogger(__name__)

#: a mail takes no longer than so many times ``alerts.timeout_s``, once there is a connection
PATIENCE: Final = 4
_FAREWELL_S: Final = 2.0
_PORTS: Final = {"smtp": 25, "smtps": 465}
_OK: Final = 250
_TAKEN: Final = frozenset({250, 251})
#: answers from here on are final
_FINAL: Final = 500

#: for each recipient the code and the words of the answer
_Refused = Mapping[str, tuple[int, bytes]]


class SmtpNotifier(Notifier):
    """Mails to all of ``alerts.admin`` through the server of ``alerts.smtp_url``.

    A message is one mail to all. Once the server has one recipient's yes and the mail, it is sent:
    recipients it refused are told in the log. Refused by all for good, or refused for what it says,
    is `NotifyRefusedError`; everything else can pass.
    """

    def __init__(self, settings: AlertSettings) -> None:
        """Need ``smtp_url`` and ``admin``."""
        if settings.smtp_url is None or not settings.admin:
            raise ConfigError(
                "alerts.notifiers: got 'smtp', expected alerts.smtp_url and alerts.admin, too"
            )
        self._settings = settings
        self._url = settings.smtp_url

    @classmethod
    def configured(cls, settings: AlertSettings) -> bool:
        """Whether there is a server, and somebody to write to."""
        return settings.smtp_url is not None and bool(settings.admin)

    def send(self, message: Message) -> None:
        """Hand the mail in."""
        sender, recipients = self._settings.sender_address, self._settings.admin
        data = mail(message, sender, recipients, time.time())
        with self._session() as (smtp, _server):
            refused = smtp.sendmail(sender, recipients, data)
        for recipient, told in refused.items():
            log.warning("mail %s: %s", message.message_id, _refusal(recipient, told))

    def check(self) -> str:
        """Do all that comes before a mail itself: connect, encrypt, log in, name who gets it.

        A recipient that is refused is an error here, as nobody waits for anything.
        """
        sender, recipients = self._settings.sender_address, self._settings.admin
        with self._session() as (smtp, server):
            code, told = smtp.mail(sender)
            if code != _OK:
                raise smtplib.SMTPSenderRefused(code, told, sender)
            answers = {recipient: smtp.rcpt(recipient) for recipient in recipients}
            if refused := {one: told for one, told in answers.items() if told[0] not in _TAKEN}:
                raise smtplib.SMTPRecipientsRefused(refused)
            smtp.rset()
            encrypted = "encrypted" if hasattr(smtp.sock, "cipher") else "not encrypted"
            login = f", logged in as {clean(server.user)}" if server.user else ""
            return f"{server.where}: {encrypted}{login}; to {', '.join(recipients)}"

    @contextmanager
    def _session(self) -> Iterator[tuple[smtplib.SMTP, _Server]]:
        """Connect, encrypt, log in; errors of the block and of this are those of a notifier."""
        try:
            server = _server(self._url.reveal())
        except ConfigError as error:  # a secret that is not there can come yet
            raise NotifyUnavailableError(error.message) from None
        timeout_s = self._settings.timeout_s
        patience = _Patience(timeout_s * PATIENCE)
        try:
            with patience:
                smtp = patience.with_(self._connect(server))
                self._encrypt(smtp, server)
                self._log_in(smtp, server)
                yield smtp, server
        except NotifyError:
            raise
        except (OSError, smtplib.SMTPException, UnicodeError) as error:
            if patience.lost:
                told = f"{server.where}: not done within {timeout_s * PATIENCE:g} s"
                raise NotifyUnavailableError(told) from None
            raise _translated(error, server, timeout_s) from None

    def _connect(self, server: _Server) -> smtplib.SMTP:
        settings = self._settings
        # not the library's way: asking for the host's full name can take a minute without DNS
        own = socket.gethostname()
        name = own if "." in own and own.isascii() else settings.sender_domain
        if server.scheme == "smtps":
            return smtplib.SMTP_SSL(
                server.host,
                server.port,
                name,
                timeout=settings.timeout_s,
                context=trust(settings),
            )
        return smtplib.SMTP(server.host, server.port, name, timeout=settings.timeout_s)

    def _encrypt(self, smtp: smtplib.SMTP, server: _Server) -> None:
        wish = self._settings.starttls
        smtp.ehlo_or_helo_if_needed()
        if wish == "never" or server.scheme == "smtps":
            return
        if smtp.has_extn("starttls"):
            smtp.starttls(context=trust(self._settings))
            smtp.ehlo_or_helo_if_needed()
        elif wish == "required" or server.password:
            why = "alerts.starttls requires it" if wish == "required" else "there is a password"
            raise NotifyUnavailableError(
                f"{server.where}: offers no STARTTLS, and {why}; 'smtps://' encrypts from the"
                " first byte"
            )

    def _log_in(self, smtp: smtplib.SMTP, server: _Server) -> None:
        if not server.user:
            return
        if not (server.user.isascii() and server.password.isascii()):
            raise NotifyUnavailableError(f"{server.where}: user and password must be ASCII")
        smtp.login(server.user, server.password)


class _Patience:
    """Leaves a session when the block ends, and cuts it off after so many seconds.

    A server may take long for each of many answers; who sends must know how long that can last.
    """

    def __init__(self, seconds: float) -> None:
        self.lost = False
        self._smtp: smtplib.SMTP | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def with_(self, smtp: smtplib.SMTP) -> smtplib.SMTP:
        """Begin to wait."""
        self._smtp = smtp
        self._timer.start()
        return smtp

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        self._timer.cancel()
        if self._smtp is not None:
            _leave(self._smtp)

    def _cut(self) -> None:
        self.lost = True
        sock = self._smtp.sock if self._smtp is not None else None
        if sock is not None:
            with suppress(OSError):
                # that of the plain socket: TLS would first say goodbye
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Server(NamedTuple):
    """What the URL says."""

    scheme: str
    host: str
    port: int
    user: str
    password: str

    @property
    def where(self) -> str:
        return f"{clean(self.host)}:{self.port}"


def _server(url: str) -> _Server:
    parts = urlsplit(url)
    return _Server(
        parts.scheme,
        parts.hostname or "",
        parts.port or _PORTS[parts.scheme],
        unquote(parts.username or ""),
        unquote(parts.password or ""),
    )


def _leave(smtp: smtplib.SMTP) -> None:
    """End the session; what happens now changes nothing about a mail that was taken."""
    with suppress(OSError, smtplib.SMTPException):
        if smtp.sock is not None:
            smtp.sock.settimeout(_FAREWELL_S)
            smtp.quit()
    smtp.close()


def _translated(error: Exception, server: _Server, timeout_s: float) -> NotifyError:
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return _all_refused(error.recipients, server)
    if isinstance(error, smtplib.SMTPAuthenticationError):
        told = _words(error.smtp_code, error.smtp_error, server)
        return NotifyUnavailableError(f"{server.where}: refuses the login of {server.user}: {told}")
    if isinstance(error, smtplib.SMTPResponseException):
        told = _words(error.smtp_code, error.smtp_error, server)
        final = isinstance(error, smtplib.SMTPDataError) and error.smtp_code >= _FINAL
        kind = NotifyRefusedError if final else NotifyUnavailableError
        return kind(f"{server.where}: refuses {_refused_what(error)}: {told}")
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return NotifyUnavailableError(f"{server.where}: {_disconnected(error, timeout_s)}")
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return NotifyUnavailableError(f"{server.where}: takes no login, and there is a password")
    return NotifyUnavailableError(f"{server.where}: {words(error, timeout_s)}")


def _refused_what(error: smtplib.SMTPResponseException) -> str:
    if isinstance(error, smtplib.SMTPSenderRefused):
        return f"mail from {clean(error.sender)}"
    if isinstance(error, smtplib.SMTPDataError):
        return "the mail"
    return "us" if isinstance(error, smtplib.SMTPConnectError) else "what we say"


def _disconnected(error: Exception, timeout_s: float) -> str:
    """Return why there was no answer: the library makes one error of all reasons."""
    told = words(error, timeout_s)
    return "it closed the connection" if told == "the connection broke" else told


def _all_refused(refused: _Refused, server: _Server) -> NotifyError:
    told = "; ".join(_refusal(recipient, answer) for recipient, answer in refused.items())
    final = all(code >= _FINAL for code, _words in refused.values())
    kind = NotifyRefusedError if final else NotifyUnavailableError
    return kind(f"{server.where}: {clean(told, 600)}")


def _refusal(recipient: str, answer: tuple[int, bytes]) -> str:
    code, told = answer
    return f"{recipient} is refused: {code} {clean(told.decode(errors='replace'))}"


def _words(code: int, told: bytes | str, server: _Server) -> str:
    """Return an answer of the server, which may repeat what we said."""
    text = told.decode(errors="replace") if isinstance(told, bytes) else told
    if server.password:
        text = text.replace(server.password, "***")
    return f"{code} {clean(text)}".removeprefix("-1 ")
