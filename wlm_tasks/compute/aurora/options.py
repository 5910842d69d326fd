"""The settings of an Aurora site, checked before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import urlsplit

from wlm_tasks.config.secret import Secret
from wlm_tasks.errors import ConfigError
from wlm_tasks.model.checks import problem, suggest

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
#: what the scheduler takes as a part of a job key (its ConfigurationManager)
_WORD: Final = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+:[0-9]{1,5}|\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}")
#: what no URL has and a file of curl's settings would misread
_ODD: Final = frozenset(' "\\')
#: schedulers before 0.19 refuse a role and a name that are longer together
_ROLE_LIMIT: Final = 65
_REQUIRED: Final = ("url", "cluster", "role", "environment")
_DEFAULTS: Final[dict[str, object]] = {
    "tier": "",
    "hosts": "",
    "credentials": "",
    "mesos_url": "",
    "memory_mb": 1024,
    "disk_mb": 1024,
    "shared_scratch": True,
    "upload_url": "",
    "transfer_s": 3600,
}


@dataclass(frozen=True, kw_only=True)
class AuroraOptions:
    """One site's settings."""

    url: str  #: of the scheduler, without a slash at its end
    cluster: str
    role: str  #: also the user as which Mesos runs jobs
    environment: str
    tier: str  #: empty for the scheduler's default
    hosts: frozenset[str]  #: ``HOST:PORT`` of every scheduler that may be called and sent to
    credentials: Secret | None  #: leads to ``USER:PASSWORD``
    mesos_url: str  #: of the Mesos master's page, empty if there is none to show
    memory_mb: int  #: of a job that does not say
    disk_mb: int  #: of every job's sandbox
    shared_scratch: bool  #: whether workers and agents share a directory
    upload_url: str  #: where jobs without one leave output and exit record; empty for nowhere
    transfer_s: int  #: longest that such a job may send outputs, and put inputs in place

    @classmethod
    def of(cls, name: str, options: Mapping[str, object]) -> AuroraOptions:
        """Return the settings of the site `name`; raises `ConfigError`."""
        return _Reader(name, options).read()


class _Reader:
    def __init__(self, name: str, options: Mapping[str, object]) -> None:
        self._path = f"sites.{name}"
        self._options = {**_DEFAULTS, **options}

    def read(self) -> AuroraOptions:
        known = {*_REQUIRED, *_DEFAULTS}
        for key in self._options:
            if key not in known:
                self._refuse(key, f"no such setting for an Aurora site {suggest(key, known)}")
        for key in _REQUIRED:
            if not self._options.get(key):
                raise ConfigError(f"{self._path}.{key}: got nothing, an Aurora site needs it")
        url = self._url("url")
        role = self._word("role")
        if len(role) > _ROLE_LIMIT:
            self._refuse("role", f"at most {_ROLE_LIMIT} characters")
        return AuroraOptions(
            url=url,
            cluster=self._word("cluster"),
            role=role,
            environment=self._word("environment"),
            tier=self._word("tier") if self._options["tier"] else "",
            hosts=frozenset({address(url), *self._hosts()}),
            credentials=self._credentials(),
            mesos_url=self._url("mesos_url") if self._options["mesos_url"] else "",
            memory_mb=self._amount("memory_mb", "MiB"),
            disk_mb=self._amount("disk_mb", "MiB"),
            shared_scratch=self._flag("shared_scratch"),
            upload_url=self._upload_url(),
            transfer_s=self._amount("transfer_s", "seconds"),
        )

    def _text(self, key: str) -> str:
        value = self._options[key]
        return value if isinstance(value, str) else self._refuse(key, "text")

    def _word(self, key: str) -> str:
        value = self._text(key)
        if not _WORD.fullmatch(value):
            self._refuse(key, "1 to 255 letters, digits, . _ -")
        return value

    def _url(self, key: str) -> str:
        value = self._text(key)
        expected = "a URL such as 'http://host:8081', without a user, a password or a query"
        try:
            parts = urlsplit(value)
            good = parts.scheme in _DEFAULT_PORTS and parts.hostname and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good or "@" in parts.netloc or parts.query or parts.fragment or set(value) & _ODD:
            self._refuse(key, expected)
        return value.rstrip("/")

    def _upload_url(self) -> str:
        if not self._options["upload_url"]:
            return ""
        if self._options["shared_scratch"] is not False:
            self._refuse(
                "upload_url", "nothing unless shared_scratch = false: output is in scratch"
            )
        return self._url("upload_url")

    def _flag(self, key: str) -> bool:
        value = self._options[key]
        return value if isinstance(value, bool) else self._refuse(key, "true or false")

    def _hosts(self) -> list[str]:
        words = [word.strip() for word in self._text("hosts").split(",") if word.strip()]
        if not all(map(_HOST.fullmatch, words)):
            self._refuse("hosts", "HOST:PORT of schedulers, with commas between them")
        return [word.lower() for word in words]

    def _credentials(self) -> Secret | None:
        text = self._text("credentials")
        if not text:
            return None
        if not re.fullmatch(r"env:.+|file:/.+", text):
            # never the value: somebody may have written the password itself
            raise ConfigError(
                f"{self._path}.credentials: expected env:NAME or file:/PATH that leads to"
                " USER:PASSWORD"
            )
        return Secret(text, field=f"{self._path}.credentials", check=_user_and_password)

    def _amount(self, key: str, unit: str) -> int:
        value = self._options[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self._refuse(key, f"a whole number of {unit} above 0")
        return value

    def _refuse(self, key: str, expected: str) -> NoReturn:
        raise ConfigError(problem(f"{self._path}.{key}", self._options[key], expected))


def _user_and_password(value: str) -> None:
    user, colon, _password = value.partition(":")
    if not user or not colon or not value.isprintable():
        raise ValueError("USER:PASSWORD")


def address(url: str) -> str:
    """Return ``host:port`` of a URL in small letters; raises `ValueError` if it has none."""
    parts = urlsplit(url)
    host = parts.hostname
    if not host or parts.scheme not in _DEFAULT_PORTS:
        raise ValueError("a URL with a host")
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
