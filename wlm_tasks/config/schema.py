"""Which settings there are, and under which names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from wlm_tasks.config.alerts import AlertSettings
from wlm_tasks.config.checks import OPTIONS, STORAGE_OPTIONS
from wlm_tasks.config.fields import Rule, declared, read_flag, read_number, read_text
from wlm_tasks.config.fleet import WatchSettings, WorkerSettings
from wlm_tasks.config.serf import SerfSettings
from wlm_tasks.config.settings import (
    ControlSettings,
    PlacementSettings,
    Settings,
    SiteSettings,
    StagingSettings,
    StepSettings,
    StorageSettings,
)
from wlm_tasks.model.checks import flag

#: the way to one setting, such as ("steps", "lease_s") or ("sites", "cluster-a", "kind")
Way: TypeAlias = tuple[str, ...]

#: options that are numbers
_NUMBERS: Final = frozenset(
    {"port", "memory_mb", "disk_mb", "transfer_s", "array_size", "anonymous"}
)


def _reader(option: str, check: object) -> Callable[[str], object]:
    """Return how an option is read from the environment."""
    if check is flag:
        return read_flag
    return read_number if option in _NUMBERS else read_text


SECTIONS: Final[dict[str, type[Any]]] = {
    "steps": StepSettings,
    "control": ControlSettings,
    "staging": StagingSettings,
    "worker": WorkerSettings,
    "watch": WatchSettings,
    "alerts": AlertSettings,
    "placement": PlacementSettings,
    "serf": SerfSettings,
}
SITES: Final = "sites"
STORAGES: Final = "storages"
TOP_RULES: Final = declared(Settings)
SECTION_RULES: Final = {name: declared(section) for name, section in SECTIONS.items()}
SITE_RULES: Final = {
    **declared(SiteSettings),
    **{name: Rule(check, _reader(name, check)) for name, check in OPTIONS.items()},
}
STORAGE_RULES: Final = {
    **declared(StorageSettings),
    **{name: Rule(check, _reader(name, check)) for name, check in STORAGE_OPTIONS.items()},
}
#: sections of tables with names of the user's choice
NAMED: Final = {SITES: SITE_RULES, STORAGES: STORAGE_RULES}


def rule_of(way: Way) -> Rule:
    """Return the rule of a known setting."""
    if len(way) == 1:
        return TOP_RULES[way[0]]
    return NAMED[way[0]][way[2]] if way[0] in NAMED else SECTION_RULES[way[0]][way[1]]


def variables(named: Mapping[str, Iterable[str]]) -> dict[str, list[Way]]:
    """Return the environment variable of every setting; those of two sites can have one name.

    `named` are the names of sites and storages, by section.
    """
    ways: list[Way] = [(name,) for name in TOP_RULES]
    ways += [(section, name) for section, rules in SECTION_RULES.items() for name in rules]
    ways += [(part, name, key) for part in NAMED for name in named[part] for key in NAMED[part]]
    variables: dict[str, list[Way]] = {}
    for way in ways:
        variable = "_".join(("WLM", *way)).upper().replace("-", "_").replace(".", "_")
        variables.setdefault(variable, []).append(way)
    return variables
