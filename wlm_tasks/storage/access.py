"""How to get in where files are kept: the settings that the storages of the web have in common."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from wlm_tasks.config.secret import Secret, UrlCheck
from wlm_tasks.errors import ConfigError, StorageUnavailableError
from wlm_tasks.model.checks import problem, suggest

_REFERENCE: Final = re.compile(r"env:.+|file:.+")
#: RFC 6750, section 2.1
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Access:
    """The settings of one storage, those of ``[storages.NAME]``.

    Secrets are references, followed when they are needed. Raises `ConfigError` for a setting that
    is not known or cannot be.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, object],
        known: tuple[str, ...],
        kind: str,
        pair: str = "USER:PASSWORD",
    ) -> None:
        """Check `options`; `pair` is what to call what ``credentials`` lead to."""
        self._name = name
        for key, value in options.items():
            if key not in known:
                expected = f"no such setting for {kind} {suggest(key, known)}"
                raise ConfigError(problem(f"storages.{name}.{key}", value, expected))
        self._credentials = self._secret(options, "credentials", pair, _credentials)
        self._token = self._secret(options, "token", "a bearer token", _bearer)
        if self._credentials is not None and self._token is not None:
            raise ConfigError(
                f"storages.{name}.token: got a token beside credentials, expected one of them"
            )
        self.ca_file = self._file(options, "ca_file")

    def __repr__(self) -> str:
        return f"Access({self._name!r})"

    def credentials(self) -> tuple[str, str] | None:
        """Return user and password, None if there are none.

        Raises `StorageUnavailableError` if they cannot be read: until a person has mended that
        no transfer is to blame.
        """
        found = _revealed(self._credentials)
        if found is None:
            return None
        user, _colon, password = found.partition(":")
        return user, password

    def token(self) -> str | None:
        """Return the bearer token, None if there is none; raises as `credentials` does."""
        return _revealed(self._token)

    @property
    def authorities(self) -> str:
        """The file or the directory of the certificates to trust.

        Those of the system, as OpenSSL finds them, unless ``ca_file`` names others; those that
        come with `requests` where the system has none.
        """
        if self.ca_file is not None:
            return self.ca_file
        usual = ssl.get_default_verify_paths()
        if usual.cafile:
            return usual.cafile
        if usual.capath and any(Path(usual.capath).iterdir()):
            return usual.capath
        return str(DEFAULT_CA_BUNDLE_PATH)

    def context(self) -> ssl.SSLContext:
        """Return what TLS needs to verify a server by.

        Raises `StorageUnavailableError` if the certificates cannot be read.
        """
        place = self.authorities
        directory = Path(place).is_dir()
        try:
            return ssl.create_default_context(
                cafile=None if directory else place, capath=place if directory else None
            )
        except OSError as error:  # ssl.SSLError is one
            raise StorageUnavailableError(
                f"{self.setting('ca_file')}: got {place!r}, expected a readable file of"
                f" certificates in PEM form ({error.strerror or error})"
            ) from None

    def setting(self, key: str) -> str:
        """Return what to call a setting in a message."""
        if self._name:
            return f"storages.{self._name}.{key}"
        return f"`{key}` in a table [storages.NAME] for its URL"

    @property
    def has_secret(self) -> bool:
        """Whether there is anything to get in by."""
        return self._credentials is not None or self._token is not None

    def _secret(
        self, options: Mapping[str, object], key: str, leads_to: str, check: UrlCheck
    ) -> Secret | None:
        value = options.get(key)
        if value is None:
            return None
        field = f"storages.{self._name}.{key}"
        if not isinstance(value, str) or not _REFERENCE.fullmatch(value):
            # never the value: somebody may have written the password itself
            raise ConfigError(f"{field}: expected env:NAME or file:/PATH that leads to {leads_to}")
        return Secret(value, field=field, check=check)

    def _file(self, options: Mapping[str, object], key: str) -> str | None:
        value = options.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value:
            raise ConfigError(problem(f"storages.{self._name}.{key}", value, "the path of a file"))
        return str(Path(value).expanduser())


def scrubbed(words: str, secrets: tuple[str, ...]) -> str:
    """Return what a server says without the secrets it was told."""
    for secret in secrets:
        if secret:
            words = words.replace(secret, "***")
    return words


def _revealed(secret: Secret | None) -> str | None:
    try:
        return None if secret is None else secret.reveal()
    except ConfigError as error:
        raise StorageUnavailableError(error.message) from None


# a `ValueError` here is shown with the value unless that sounds like a secret, as both names do


def _credentials(value: str) -> None:
    user, colon, _password = value.partition(":")
    if not user or not colon or not value.isprintable():
        raise ValueError("USER:PASSWORD")


def _bearer(value: str) -> None:
    if not _TOKEN.fullmatch(value):
        raise ValueError("a bearer token")
