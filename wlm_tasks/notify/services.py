"""What is said about broker, database, sites, queues and experiments. Pure."""

from __future__ import annotations

from typing import Final

from wlm_tasks.notify.facts import Facts
from wlm_tasks.notify.layout import count, pairs, paragraph

_FOLLOWS: Final = "You will be told when it is back."


def broker_down(facts: Facts) -> list[str]:
    """Tell that no message can be sent."""
    return [
        paragraph(f"The broker{_named(facts)} has been out of reach since {_since(facts)}."),
        *_known(facts),
        paragraph(
            "No step starts until it is back. Jobs on the sites go on, and nothing is lost: what is"
            " due stands in the database and is sent again."
        ),
        _FOLLOWS,
    ]


def broker_back(facts: Facts) -> list[str]:
    """Tell that messages go out again."""
    return [
        paragraph(f"The broker{_named(facts)} has been back {_again(facts)}."),
        *_known(facts),
    ]


def database_down(facts: Facts) -> list[str]:
    """Tell that nothing can be decided."""
    return [
        paragraph(f"The database{_named(facts)} has been out of reach since {_since(facts)}."),
        *_known(facts),
        paragraph(
            "No step starts or ends until it is back, and nobody can hand anything in. Jobs on the"
            " sites go on. Notices are kept in files on the control hosts meanwhile."
        ),
    ]


def site_down(facts: Facts) -> list[str]:
    """Tell that a site serves no experiments."""
    state = f" ({facts.state})" if facts.state else ""
    return [
        paragraph(f"Site {facts.who} has not been usable since {_since(facts)}{state}."),
        *_known(facts),
        paragraph(
            "Its experiments wait and are not to blame: this does not count as a try of theirs. The"
            " site is tried again by and by."
        ),
        _FOLLOWS,
    ]


def site_back(facts: Facts) -> list[str]:
    """Tell that a site serves experiments again."""
    return [paragraph(f"Site {facts.who} has been usable again {_again(facts)}."), *_known(facts)]


def queue_stuck(facts: Facts) -> list[str]:
    """Tell that work waits for nobody."""
    consumers = facts.number("consumers")
    nobody = "nobody serves it" if not consumers else "it does not move"
    return [
        paragraph(f"Work waits in queue {facts.who}, and {nobody}. This began at {_since(facts)}."),
        pairs(
            [
                ("Steps that wait", facts.text("waiting", 20)),
                ("Workers that serve it", facts.text("consumers", 20)),
            ]
        ),
        *_known(facts),
        "You will be told when it is served again.",
    ]


def queue_served(facts: Facts) -> list[str]:
    """Tell that work moves on."""
    waiting = facts.number("waiting")
    still = f" {count(int(waiting), 'step still waits', 'steps still wait')}." if waiting else ""
    return [
        paragraph(f"Queue {facts.who} has been served again {_again(facts)}.{still}"),
        *_known(facts),
    ]


def experiment_ended(facts: Facts) -> list[str]:
    """Tell how an experiment ended."""
    return [
        paragraph(f"Experiment {full_name(facts)} {ended(facts)}, at {facts.at}."),
        *_experiment(facts),
    ]


def experiment_paused(facts: Facts) -> list[str]:
    """Tell that somebody has to look."""
    return [
        paragraph(
            f"Experiment {full_name(facts)} was paused at {facts.at}. It waits for a person and"
            " does not go on by itself."
        ),
        *_experiment(facts),
    ]


def test(facts: Facts) -> list[str]:
    """Tell that it works."""
    return [
        paragraph(
            f"This is a test, asked for at {facts.at}. If you can read it, alerts reach you this"
            " way; there is nothing to do."
        ),
        *_known(facts),
    ]


def name(facts: Facts) -> str:
    """Return what to call an experiment."""
    return facts.text("name", 60) or facts.who


def full_name(facts: Facts) -> str:
    """Return an experiment's name and id."""
    given = facts.text("name", 60)
    return f"{given} ({facts.who})" if given and given != facts.who else facts.who


def listed(facts: Facts) -> str:
    """Return an experiment's id and name."""
    return f"{facts.who} {facts.text('name', 60)}".strip()


def ended(facts: Facts) -> str:
    """Return how an experiment ended as what it did."""
    words = {"done": "is done", "failed": "failed", "cancelled": "was cancelled"}
    return words.get(facts.state, "has ended")


def _named(facts: Facts) -> str:
    return f" {facts.who}" if facts.who else ""


def _since(facts: Facts) -> str:
    return facts.moment("since") or facts.at


def _again(facts: Facts) -> str:
    away = facts.span("down_s")
    return f"since {facts.at}" + (f", after {away}" if away else "")


def _known(facts: Facts) -> list[str]:
    reason = facts.text("reason")
    return [paragraph(f"Reason: {reason}", hang="  ")] if reason else []


def _experiment(facts: Facts) -> list[str]:
    known = pairs(
        [
            ("Reason", facts.text("reason")),
            ("Took", facts.span("took_s")),
            ("Owner", facts.text("owner", 60)),
            ("Project", facts.text("project", 60)),
        ]
    )
    return [known] if known else []
