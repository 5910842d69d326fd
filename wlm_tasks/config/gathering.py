"""Collecting what a file and the environment say, and what is wrong with their names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from wlm_tasks.config.schema import (
    NAMED,
    SECTION_RULES,
    SITES,
    STORAGES,
    TOP_RULES,
    Way,
    rule_of,
    variables,
)
from wlm_tasks.model import fields
from wlm_tasks.model.checks import one_line, problem, show, suggest

#: the site there is when none is configured
DEFAULT_SITE: Final = "local"
#: longest name a message shows in full
_SHOWN: Final = 80
#: variables that are no settings: where the files are, what jobs and tests are told
_OTHER_VARIABLES: Final = frozenset({"WLM_CONFIG", "WLM_CELERYCONFIG"})
_OTHER_PREFIXES: Final = ("WLM_JOB_", "WLM_TEST_")


def here() -> Path:
    """Return the current directory; the root where it was removed meanwhile."""
    try:
        return Path.cwd()
    except OSError:
        return Path("/")


class Given(NamedTuple):
    """A value and where it was given."""

    value: object
    origin: str  #: for messages: the file and key, or the variable
    shown: object  #: the value as it was written
    base: Path  #: where relative paths start
    in_file: bool = True  #: a file must not hold passwords


class Gathered:
    """Everything that was given, the latest word on each setting, and the problems so far."""

    def __init__(self) -> None:
        self.values: dict[Way, Given] = {}
        self.problems: list[str] = []
        self.named: dict[str, list[str]] = {section: [] for section in NAMED}
        self.overrides: list[str] = []  #: variables that were used
        self.file = ""  #: what was read, for messages


def gather_table(gathered: Gathered, table: Mapping[str, Any], file: Path) -> None:
    """Take in the table of a file."""
    _TableReader(gathered, file).read(table)


class _TableReader:
    def __init__(self, gathered: Gathered, file: Path) -> None:
        self._gathered = gathered
        self._file = file
        gathered.file = one_line(str(file))

    def read(self, table: Mapping[str, Any]) -> None:
        """Take in the whole table."""
        known = {*TOP_RULES, *SECTION_RULES, *NAMED}
        for key, value in table.items():
            if key in NAMED:
                self._tables(key, value)
            elif key in SECTION_RULES:
                self._keys((key,), value, SECTION_RULES[key])
            elif key in TOP_RULES:
                self._take((key,), value)
            else:
                self._refuse((key,), value, f"no such setting {suggest(key, known)}")

    def _tables(self, section: str, value: object) -> None:
        if not isinstance(value, Mapping):
            example = {SITES: "[sites.laptop]", STORAGES: "[storages.lab]"}[section]
            self._refuse((section,), value, f"a table of {section}, such as {example}")
            return
        for name, table in value.items():
            try:
                self._gathered.named[section].append(fields.site(name))
            except ValueError as error:
                self._refuse((section,), name, str(error))
                continue
            self._keys((section, name), table, NAMED[section])

    def _keys(self, way: Way, table: object, known: Mapping[str, object]) -> None:
        if not isinstance(table, Mapping):
            self._refuse(way, table, f"a table, such as [{'.'.join(way)}]")
            return
        for key, value in table.items():
            if key in known:
                self._take((*way, key), value)
            else:
                self._refuse((*way, key), value, f"no such setting {suggest(key, known)}")

    def _take(self, way: Way, value: object) -> None:
        given = Given(value, self._origin(way), value, self._file.parent)
        self._gathered.values[way] = given

    def _refuse(self, way: Way, value: object, expected: str) -> None:
        self._gathered.problems.append(problem(self._origin(way), value, expected))

    def _origin(self, way: Way) -> str:
        parts = (part if len(part) <= _SHOWN else f"{part[:_SHOWN]}..." for part in map(str, way))
        return f"{self._gathered.file}: {one_line('.'.join(parts))}"


def gather_environment(gathered: Gathered, environ: Mapping[str, str]) -> None:
    """Take in the variables that begin with ``WLM_``, each of which must be known."""
    known = variables({**gathered.named, SITES: gathered.named[SITES] or [DEFAULT_SITE]})
    for name, text in sorted(environ.items()):
        if not name.startswith("WLM_") or name in _OTHER_VARIABLES:
            continue
        if name.startswith(_OTHER_PREFIXES):
            continue
        ways = known.get(name, [])
        if len(ways) == 1:
            gathered.values[ways[0]] = _given(ways[0], name, text)
            gathered.overrides.append(name)
            continue
        expected = f"no variable of this name {suggest(name, known)}"
        if ways:
            both = " and ".join(".".join(way) for way in ways)
            expected = f"a name that means one setting: it means {both}, so set it in the file"
        gathered.problems.append(problem(_short(name), text, expected))


def _short(name: str) -> str:
    return name if name.isidentifier() and len(name) <= _SHOWN else f"variable {show(name)}"


def _given(way: Way, name: str, text: str) -> Given:
    rule = rule_of(way)
    value: object = rule.read(text)
    if not text.strip() and _allows_nothing(way):
        value = None
    return Given(value, name, text, here(), in_file=False)


def _allows_nothing(way: Way) -> bool:
    try:
        return rule_of(way).check(None) is None
    except ValueError:
        return False
