"""Many notices as one text: how many of what, then each in a line, the worst first. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Final

from wlm_tasks.model.notices import NoticeKind, Severity
from wlm_tasks.notify.checks import Check
from wlm_tasks.notify.facts import Facts
from wlm_tasks.notify.kinds import WORDS
from wlm_tasks.notify.layout import (
    clock,
    columns,
    commands,
    count,
    listing,
    moment,
    paragraph,
    span,
)

#: most notices that get a line of their own
_LINES: Final = 100
#: most kinds that a subject line counts
_KINDS: Final = 3
#: as many of each kind get one in any case
_LEAST: Final = 5
_HOSTS: Final = 10
_ORDER: Final = list(Severity)
_KIND_ORDER: Final = list(NoticeKind)
_DAY: Final = 86_400
#: where to look, by what the names of kinds begin with
_CHECKS: Final[dict[str, Check]] = {
    "WORKER": ("wlm workers", "the roster and its witnesses"),
    "DRAIN": ("wlm workers", "the roster and its witnesses"),
    "FLEET": ("wlm workers", "the roster and its witnesses"),
    "BROKER": ("wlm doctor", "is all reached from here?"),
    "DATABASE": ("wlm doctor", "is all reached from here?"),
    "SITE": ("wlm sites", "how they stand, when they are tried next"),
    "QUEUE": ("wlm queues", "what waits, who serves"),
    "EXPERIMENT": ("wlm ls", "the experiments, the newest first"),
}


def rank(facts: Facts) -> tuple[int, int, float, str]:
    """Return what to sort by: the worst first, each kind by itself, the oldest first."""
    notice = facts.notice
    return (
        _ORDER.index(notice.severity),
        _KIND_ORDER.index(notice.kind),
        notice.at if math.isfinite(notice.at) else 0.0,
        notice.key,
    )


def subject(found: Sequence[Facts]) -> str:
    """Return a subject line; `found` are sorted by `rank`."""
    parts = [_counted(kind, list(group)) for kind, group in groupby(found, _kind)]
    more = f" and {len(parts) - _KINDS} more" if len(parts) > _KINDS else ""
    line = ", ".join(parts[:_KINDS]) + more
    moved = _moved(found) if len(parts) == 1 else ""
    return f"{line} ({moved})" if moved else line


def paragraphs(found: Sequence[Facts]) -> list[str]:
    """Return the text; `found` are sorted by `rank`."""
    left = _LINES
    told = [_opening(found)]
    over = {facts.notice.ends for facts in found}
    for kind, group in groupby(found, _kind):
        members = list(group)
        told.append(_group(kind, members, max(left, _LEAST), over))
        left = max(0, left - len(members))
    checks = dict.fromkeys(_CHECKS[name] for f in found if (name := _family(f)) in _CHECKS)
    listed: Check = ("wlm alerts ls", "all notices, one by one")
    return [*told, f"What to check:\n{commands([*checks, listed])}"]


def _kind(facts: Facts) -> NoticeKind:
    return facts.notice.kind


def _family(facts: Facts) -> str:
    return facts.notice.kind.partition("_")[0]


def _counted(kind: NoticeKind, members: Sequence[Facts]) -> str:
    return count(len(members), WORDS[kind].one, WORDS[kind].many)


def _opening(found: Sequence[Facts]) -> str:
    times = sorted(facts.notice.at for facts in found)
    first, last = moment(times[0]), moment(times[-1])
    if not first or not last or first == last:
        return paragraph(f"{count(len(found), 'notice')}, of {first or 'a time unknown'}.")
    took = span(times[-1] - times[0])
    until = last if first[:10] != last[:10] else last[11:]
    return paragraph(f"{len(found)} notices of {took}, from {first[:19]} to {until}.")


def _group(
    kind: NoticeKind, members: Sequence[Facts], room: int, over: Collection[str | None]
) -> str:
    lines = [f"{_counted(kind, members)}:"]
    if by_host := _hosts(members):
        lines.append(paragraph(f"By host: {by_host}", "  ", "    "))
    if (moved := _moved(members)) and len(members) > 1:
        lines.append(f"  In all: {moved}")
    shown = members[:room]
    lines.append(columns(_rows(kind, shown, over), (14, 32)))
    if len(members) > len(shown):
        lines.append(f"  and {len(members) - len(shown)} more")
    return "\n".join(lines)


def _rows(
    kind: NoticeKind, members: Sequence[Facts], over: Collection[str | None]
) -> list[tuple[str, str, str]]:
    """Return time, who and more of each; `over` are the keys of what has ended meanwhile."""
    words = WORDS[kind]

    def more(facts: Facts) -> str:
        ended = "over by now" if facts.notice.key in over else ""
        return "; ".join(filter(None, (words.more(facts), ended)))

    times = [facts.notice.at for facts in members]
    dated = any(t // _DAY != times[0] // _DAY for t in times)
    return [(_when(f.notice.at, dated=dated), words.who(f), more(f)) for f in members]


def _when(at: float, *, dated: bool) -> str:
    told = moment(at)
    return told[5:19] if dated and told else clock(at)


def _hosts(members: Sequence[Facts]) -> str:
    """Return how many there are of each host; empty if none has several."""
    hosts = Counter(host for facts in members if (host := facts.text("host", 60)))
    if not hosts or max(hosts.values()) == 1:
        return ""
    return listing([f"{host} ({number})" for host, number in hosts.most_common()], _HOSTS)


def _moved(members: Sequence[Facts]) -> str:
    """Return what became of the work of all of them."""
    total = sum(facts.step_count or 0 for facts in members)
    waiting = sum(step.waits for facts in members for step in facts.steps)
    if not total:
        return ""
    if not waiting:
        return f"{count(total, 'step')} moved on"
    return f"{waiting} of {count(total, 'step')} {'waits' if waiting == 1 else 'wait'}"
