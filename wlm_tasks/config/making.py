"""Making the settings out of what was gathered."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wlm_tasks.config.checks import (
    KIND,
    OPTIONS,
    STORAGE_OPTIONS,
    options_of,
    storage_options_of,
    unknown_option,
    unknown_storage_option,
)
from wlm_tasks.config.gathering import DEFAULT_SITE, Gathered, Given
from wlm_tasks.config.schema import (
    SECTION_RULES,
    SECTIONS,
    SITE_RULES,
    SITES,
    STORAGE_RULES,
    STORAGES,
    TOP_RULES,
    Way,
    rule_of,
)
from wlm_tasks.config.secret import Secret, UrlCheck
from wlm_tasks.config.settings import Settings, SiteSettings, StorageSettings
from wlm_tasks.errors import ConfigError
from wlm_tasks.model.checks import problem


def user_directory(env: Mapping[str, str], variable: str, below: str) -> Path | None:
    """Return a directory of the user by the XDG rules, None if the environment names none."""
    if env.get(variable, "").startswith("/"):
        return Path(env[variable])
    home = env.get("HOME", "")
    return Path(home) / below if home.startswith("/") else None


def make_settings(gathered: Gathered, env: Mapping[str, str], source: str) -> Settings | None:
    """Return the settings; what goes wrong joins the problems gathered so far."""
    return _Maker(gathered, env).make(source)


class _Maker:
    def __init__(self, gathered: Gathered, env: Mapping[str, str]) -> None:
        self._given = gathered.values
        self._problems = gathered.problems
        self._configured = bool(gathered.named[SITES])
        self._sites = gathered.named[SITES] or [DEFAULT_SITE]
        self._storages = gathered.named[STORAGES]
        self._file = gathered.file
        self._env = env

    def make(self, source: str) -> Settings | None:
        top = self._values((), [name for name in TOP_RULES if name != "data_dir"])
        data_dir = self._data_dir()
        sections = {
            name: self._made(section, self._values((name,), list(SECTION_RULES[name])))
            for name, section in SECTIONS.items()
        }
        sites = {name: self._site(name, data_dir) for name in self._sites}
        storages = {name: self._storage(name) for name in self._storages}
        if self._problems:
            return None
        named = {"sites": sites, "storages": storages}
        made = self._made(
            Settings, {**top, **sections, **named, "data_dir": data_dir, "source": source}
        )
        return made if isinstance(made, Settings) else None

    def _made(self, cls: type[Any], values: dict[str, Any]) -> Any:
        """Return a section made of its values; None if they do not go together."""
        if self._problems:
            return None
        try:
            return cls(**values)
        except ConfigError as error:
            self._problems.append(str(error))
            return None

    def _values(self, way: Way, names: list[str]) -> dict[str, Any]:
        """Return the values that were given for `names` below `way`."""
        return {n: self._value((*way, n)) for n in names if (*way, n) in self._given}

    def _value(self, way: Way) -> Any:
        """Return the checked value of a setting that was given; None if it is wrong."""
        given, rule = self._given[way], rule_of(way)
        try:
            return rule.check(given.value) if rule.url is None else self._secret(given, rule.url)
        except ValueError as error:
            self._problems.append(problem(given.origin, given.shown, str(error)))
        except ConfigError as error:
            self._problems.append(str(error))
        return None

    def _secret(self, given: Given, check: UrlCheck) -> Secret | None:
        if given.value is None and not given.in_file:
            return None
        if not isinstance(given.value, str):
            raise ValueError("a URL, env:NAME or file:PATH")  # noqa: TRY004 - told with the others
        secret = Secret(
            given.value,
            field=given.origin,
            check=check,
            environ=self._env,
            base=given.base,
        )
        if given.in_file and secret.has_password and secret.all_secret:
            raise ValueError("env:NAME or file:PATH, never the secret itself")
        if given.in_file and secret.has_password:
            raise ValueError("a URL without a password: write env:NAME or file:PATH instead")
        return secret

    def _data_dir(self) -> Path:
        """Return the data directory, absolute, with ``~`` replaced."""
        way = ("data_dir",)
        default = user_directory(self._env, "XDG_DATA_HOME", ".local/share")
        if way not in self._given and default is None:
            self._problems.append("data_dir: got nothing, expected a directory, or HOME to be set")
        if way not in self._given:
            return (default or Path("/")) / "wlm"
        path = self._value(way)
        if path is None:
            return Path("/")
        home = self._env.get("HOME", "")
        if path.parts[:1] == ("~",) and home:
            path = Path(home, *path.parts[1:])
        return Path(os.path.normpath(self._given[way].base / path))

    def _site(self, name: str, data_dir: Path) -> SiteSettings | None:
        """Return a site; only the one there is without configuration need not name its kind."""
        way = (SITES, name)
        values = self._values(way, [rule for rule in SITE_RULES if rule not in OPTIONS])
        if not self._configured:
            values.setdefault("kind", "local")
        if (kind := values.get("kind")) is None:
            if (*way, "kind") not in self._given:
                self._problems.append(
                    f"{self._file}: sites.{name}.kind: got nothing, expected {KIND}"
                )
            return None
        values.setdefault("scratch", str(data_dir / "scratch"))
        if kind == "local":
            values.setdefault("max_running", os.cpu_count())
        options = self._values(way, list(OPTIONS))
        for option in options.keys() - set(options_of(kind)):
            given = self._given[(*way, option)]
            self._problems.append(problem(given.origin, given.shown, unknown_option(kind, option)))
        made = self._made(SiteSettings, {**values, "name": name, "options": options})
        return made if isinstance(made, SiteSettings) else None

    def _storage(self, name: str) -> StorageSettings | None:
        way = (STORAGES, name)
        values = self._values(way, [rule for rule in STORAGE_RULES if rule not in STORAGE_OPTIONS])
        if (url := values.get("url")) is None:
            if (*way, "url") not in self._given:
                self._problems.append(
                    f"{self._file}: storages.{name}.url: got nothing, expected what its URLs begin"
                    " with, such as 'sftp://lab.example.org/data/'"
                )
            return None
        scheme = url.partition(":")[0].lower()
        options = self._values(way, list(STORAGE_OPTIONS))
        for option in options.keys() - set(storage_options_of(scheme)):
            given = self._given[(*way, option)]
            expected = unknown_storage_option(scheme, option)
            self._problems.append(problem(given.origin, given.shown, expected))
        made = self._made(StorageSettings, {**values, "name": name, "options": options})
        return made if isinstance(made, StorageSettings) else None
