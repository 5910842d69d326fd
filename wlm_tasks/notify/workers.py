"""What is said about workers and the fleet of them. Pure."""

from __future__ import annotations

from typing import Final

from wlm_tasks.notify.facts import Facts
from wlm_tasks.notify.layout import columns, count, listing, pairs, paragraph, span

#: most steps of one worker, and most workers of a fleet, that are listed
_STEPS: Final = 30
_GONE: Final = 40
_WAITS: Final = "What waits goes on as soon as a worker of its queue is free."
_FOLLOWS: Final = "You will be told when it is back."


def down(facts: Facts) -> list[str]:
    """Tell of a worker that has disappeared."""
    silent = _silence(facts)
    after = f", after {silent} without a sign of life" if silent else ""
    told = f"Worker {facts.who} has disappeared. It was counted as down at {facts.at}{after}."
    return [
        paragraph(told),
        *_who(facts),
        *_witnesses(facts),
        *_reason(facts),
        *_work(facts, "What was running on it, and what became of that"),
        _FOLLOWS,
    ]


def back(facts: Facts) -> list[str]:
    """Tell of a worker that is at work again."""
    away = facts.span("down_s")
    told = f"Worker {facts.who} has been at work again since {facts.at}"
    told += f"; it was away for {away}." if away else "."
    return [
        paragraph(told),
        *_who(facts),
        *_work(facts, "What was running on it when it disappeared, and what became of that"),
        *_reason(facts),
    ]


def restarted(facts: Facts) -> list[str]:
    """Tell of a worker that died and was there again before it was missed."""
    told = (
        f"Worker {facts.who} ended without a word and was started again at once: noticed at"
        f" {facts.at}, when another process came under its name. It takes work as before."
    )
    return [
        paragraph(told),
        *_who(facts),
        *_reason(facts),
        *_work(facts, "What was running on it, and what became of that"),
    ]


def left(facts: Facts) -> list[str]:
    """Tell of a worker that left without having announced it."""
    told = (
        f"Worker {facts.who} left at {facts.at}. It took its leave, so it did not crash, but nobody"
        " had announced that: there was no drain and no maintenance."
    )
    return [
        paragraph(told),
        *_who(facts),
        *_reason(facts),
        *_work(facts, "What was running on it, and what became of that"),
    ]


def overdue(facts: Facts) -> list[str]:
    """Tell of a worker that should have stopped and has not."""
    deadline = facts.moment("deadline")
    told = f"Worker {facts.who} is being drained and still runs at {facts.at}"
    told += f"; it should have stopped by {deadline}." if deadline else ", later than it should."
    return [
        paragraph(told),
        *_who(facts),
        *_reason(facts),
        *_work(facts, "What still runs on it"),
        paragraph(
            "It takes no new work. Stopping it for good hands its steps to others, which repeat"
            " what it has not finished."
        ),
    ]


def flapping(facts: Facts) -> list[str]:
    """Tell of a worker that disappears again and again."""
    told = f"Worker {facts.who} disappears and comes back again and again"
    told += f": {often(facts)}" if often(facts) else ""
    told += f", the last time noticed at {facts.at}. Until it stays up, you"
    told += " are told once in a while and not each time."
    return [paragraph(told), *_who(facts), *_witnesses(facts), *_reason(facts)]


def fleet_down(facts: Facts) -> list[str]:
    """Tell that so many workers are gone that the monitor itself may be what is cut off."""
    gone = facts.names("gone")
    told = (
        f"At {facts.at}, {how_many(facts)} were out of sight at the same time. Either many have"
        " really stopped, or the control process that watches them is cut off from the network or"
        " the broker."
    )
    return [
        paragraph(told),
        *_reason(facts),
        *_witnesses(facts),
        *([paragraph(f"Out of sight: {listing(gone, _GONE)}", hang="  ")] if gone else []),
        paragraph("Until this is over, you will not be told of single workers."),
    ]


def fleet_back(facts: Facts) -> list[str]:
    """Tell that the fleet is there again."""
    away = facts.span("down_s")
    told = f"Most of the workers have been in sight again since {facts.at}"
    told += f", after {away}." if away else "."
    gone = facts.names("gone")
    still = [paragraph(f"Still out of sight: {listing(gone, _GONE)}", hang="  ")] if gone else []
    return [paragraph(told), *still, *_reason(facts)]


def often(facts: Facts) -> str:
    """Return how often it has flapped, empty if that is not known."""
    times, within = facts.whole("times"), facts.span("within_s")
    if not times:
        return ""
    return count(times, "time") + (f" within {within}" if within else "")


def how_many(facts: Facts) -> str:
    """Return how many of the fleet are gone."""
    gone, expected = len(facts.names("gone")), facts.whole("expected")
    if gone and expected >= gone:
        return f"{gone} of {count(expected, 'worker')}"
    return count(gone, "worker") if gone else "at least half of the workers"


def _silence(facts: Facts) -> str:
    since = facts.number("since")
    silent = facts.notice.at - since if since is not None else 0.0
    return span(silent) if silent > 0 else ""


def _who(facts: Facts) -> list[str]:
    started = facts.moment("started_at")
    known = pairs(
        [
            ("Host", facts.text("host", 120)),
            ("Queues", listing(facts.names("queues"))),
            ("Zone", facts.text("zone", 60)),
            ("Last sign of life", facts.moment("since")),
            ("Started", started),
            ("Incarnation", facts.text("incarnation", 60)),
        ]
    )
    return [known] if known else []


def _witnesses(facts: Facts) -> list[str]:
    told = pairs(facts.witnesses)
    return [f"What the witnesses say:\n{told}"] if told else []


def _reason(facts: Facts) -> list[str]:
    reason = facts.text("reason")
    return [paragraph(f"Reason: {reason}", hang="  ")] if reason else []


def _work(facts: Facts, title: str) -> list[str]:
    total = facts.step_count
    if total is None:
        return []
    if not total:
        return ["Nothing was running on it."]
    shown = facts.steps[:_STEPS]
    lines = [f"{title}:"]
    if shown:
        lines.append(columns(shown, (16, 20, 9)))
    if total > len(shown):
        left = total - len(shown)
        more = f"and {count(left, 'more step')}" if shown else count(left, "step")
        lines.append(f"  {more}")
    waits = any(step.waits for step in facts.steps)
    return ["\n".join(lines), *([_WAITS] if waits else [])]
