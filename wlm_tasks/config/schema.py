"""Which settings there are, and under which names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from wlm_tasks.config.checks import OPTIONS
from wlm_tasks.config.fields import Rule, declared, read_text
from wlm_tasks.config.settings import (
    AlertSettings,
    ControlSettings,
    PlacementSettings,
    Settings,
    SiteSettings,
    StagingSettings,
    StepSettings,
)

#: the way to one setting, such as ("steps", "lease_s") or ("sites", "cluster-a", "kind")
Way: TypeAlias = tuple[str, ...]

SECTIONS: Final[dict[str, type[Any]]] = {
    "steps": StepSettings,
    "control": ControlSettings,
    "staging": StagingSettings,
    "alerts": AlertSettings,
    "placement": PlacementSettings,
}
SITES: Final = "sites"
TOP_RULES: Final = declared(Settings)
SECTION_RULES: Final = {name: declared(section) for name, section in SECTIONS.items()}
SITE_RULES: Final = {
    **declared(SiteSettings),
    **{name: Rule(check, read_text) for name, check in OPTIONS.items()},
}


def rule_of(way: Way) -> Rule:
    """Return the rule of a known setting."""
    if len(way) == 1:
        return TOP_RULES[way[0]]
    return SITE_RULES[way[2]] if way[0] == SITES else SECTION_RULES[way[0]][way[1]]


def variables(sites: Iterable[str]) -> dict[str, list[Way]]:
    """Return the environment variable of every setting; two sites' can have one name."""
    ways: list[Way] = [(name,) for name in TOP_RULES]
    ways += [(section, name) for section, rules in SECTION_RULES.items() for name in rules]
    ways += [(SITES, site, name) for site in sites for name in SITE_RULES]
    named: dict[str, list[Way]] = {}
    for way in ways:
        variable = "_".join(("WLM", *way)).upper().replace("-", "_").replace(".", "_")
        named.setdefault(variable, []).append(way)
    return named
