"""The section ``[alerts]``: who is told of what, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from wlm_tasks.config import checks as own
from wlm_tasks.config.fields import check_section, read_list, read_number, rule
from wlm_tasks.config.secret import Secret
from wlm_tasks.errors import ConfigError
from wlm_tasks.model import checks
from wlm_tasks.model.checks import Check, problem
from wlm_tasks.model.notices import CHOICES

_DAY: Final = 86_400.0
_SECONDS: Final = rule(checks.seconds(_DAY), read_number)
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_MANY: Final = 100


def _words(expected: str, known: re.Pattern[str] | frozenset[str]) -> Check:
    """Return a check for a list of words, each once."""

    def fits(word: object) -> bool:
        if not isinstance(word, str):
            return False
        return word in known if isinstance(known, frozenset) else bool(known.fullmatch(word))

    def check(value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or len(value) > _MANY or not all(map(fits, value)):
            raise ValueError(expected)
        return tuple(dict.fromkeys(value))

    return check


_KINDS: Final = _words(f"a list of some of: {', '.join(CHOICES)}", frozenset(CHOICES))
_NOTIFIERS: Final = _words("a list of names of notifiers, such as ['smtp', 'log']", _NAME)


@dataclass(frozen=True, kw_only=True)
class AlertSettings:
    """Who is told of what, and how. Times are seconds."""

    #: mail addresses
    admin: tuple[str, ...] = field(default=(), metadata=rule(own.addresses, read_list))
    #: where mail is sent
    smtp_url: Secret | None = field(default=None, metadata=rule(own.secret, url=own.smtp_url))
    #: who mails are from; None for ``wlm`` at the domain of the first in `admin`
    sender: str | None = field(default=None, metadata=rule(checks.optional(own.address)))
    #: whether ``smtp://`` goes on encrypted; a password never goes unencrypted but with ``never``
    starttls: str = field(
        default="if-offered", metadata=rule(own.one_of("if-offered", "required", "never"))
    )
    #: certificates to trust in place of the system's, for mail and webhook
    ca_file: str | None = field(default=None, metadata=rule(checks.optional(own.file)))
    #: where notices are posted as JSON; whoever knows it may post there, so it is a secret
    webhook_url: Secret | None = field(default=None, metadata=rule(own.secret, url=own.webhook_url))
    #: what shows the receiver that it is us
    webhook_secret: Secret | None = field(
        default=None, metadata=rule(own.secret, url=own.shared_secret)
    )
    #: how it is shown: signing with it, or sending it
    webhook_auth: str = field(default="hmac", metadata=rule(own.one_of("hmac", "bearer")))
    #: by whom people are told; none named: by those that are configured, and the log
    notifiers: tuple[str, ...] = field(default=(), metadata=rule(_NOTIFIERS, read_list))
    #: what is told beyond workers, broker and database
    on: tuple[str, ...] = field(
        default=("experiment-paused", "queue-stuck", "site-down"), metadata=rule(_KINDS, read_list)
    )
    #: where people look further; None for no links
    dashboard_url: str | None = field(
        default=None, metadata=rule(checks.optional(own.dashboard_url))
    )
    #: how long what is not urgent is collected
    digest_s: float = field(default=600.0, metadata=_SECONDS)
    #: how long a server may take for each of its answers
    timeout_s: float = field(default=30.0, metadata=rule(checks.seconds(600.0), read_number))
    #: before a message is sent again that could not be sent, at first
    retry_s: float = field(default=30.0, metadata=_SECONDS)
    #: the same at last
    retry_max_s: float = field(default=300.0, metadata=_SECONDS)

    def __post_init__(self) -> None:
        """Check each field and that the back-off grows."""
        check_section(self, "alerts")
        if self.retry_max_s < self.retry_s:
            expected = f"a number of seconds from {self.retry_s:g} on, that of alerts.retry_s"
            raise ConfigError(problem("alerts.retry_max_s", self.retry_max_s, expected))

    @property
    def sender_address(self) -> str:
        """Who mails are from. The same on every host, as ids of messages are made of it."""
        return (
            self.sender or f"wlm@{self.admin[0].partition('@')[2] if self.admin else 'wlm.invalid'}"
        )

    @property
    def sender_domain(self) -> str:
        """What comes behind the ``@`` of `sender_address`."""
        return self.sender_address.partition("@")[2]
