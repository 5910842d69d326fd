"""The settings of an S3 service, those of ``[storages.NAME]``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from wlm_tasks.errors import ConfigError
from wlm_tasks.model.checks import has_password, problem
from wlm_tasks.storage.access import Access

_OPTIONS: Final = ("endpoint", "region", "credentials", "ca_file", "anonymous")
_REGION: Final = re.compile(r"[A-Za-z0-9-]{1,64}")


class S3Settings:
    """How to get in, as ``[storages.NAME]`` says; raises `ConfigError`."""

    def __init__(self, name: str, options: Mapping[str, object]) -> None:
        self._path = f"storages.{name}"
        self.access: Final = Access(name, options, _OPTIONS, "s3", "ACCESS_KEY:SECRET_KEY")
        self.endpoint: Final = self._endpoint(options)
        self.region: Final = self._region(options)
        anonymous = options.get("anonymous", 0)
        if anonymous not in {0, 1}:
            raise ConfigError(problem(f"{self._path}.anonymous", anonymous, "0 or 1"))
        self.anonymous: Final = bool(anonymous)
        if self.anonymous and self.access.has_secret:
            raise ConfigError(f"{self._path}.anonymous: got 1 beside credentials, expected one")

    def _endpoint(self, options: Mapping[str, object]) -> str | None:
        value = options.get("endpoint")
        if value is None:
            return None
        expected = "a URL such as 'https://s3.example.org', without a user, a path or a query"
        try:
            parts = urlsplit(str(value))
            good = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good or has_password(str(value)) or "@" in parts.netloc or " " in str(value):
            raise ConfigError(problem(f"{self._path}.endpoint", value, expected))
        if parts.path.strip("/") or parts.query or parts.fragment:
            raise ConfigError(problem(f"{self._path}.endpoint", value, expected))
        return str(value)

    def _region(self, options: Mapping[str, object]) -> str | None:
        value = options.get("region")
        if value is None:
            return None
        if not isinstance(value, str) or not _REGION.fullmatch(value):
            raise ConfigError(problem(f"{self._path}.region", value, "one such as 'eu-central-1'"))
        return value
