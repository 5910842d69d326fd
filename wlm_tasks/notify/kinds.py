"""For each kind of notice: its subject line, its story, what to check. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from wlm_tasks.model.notices import NoticeKind as K
from wlm_tasks.notify import checks, services, workers
from wlm_tasks.notify.checks import Check
from wlm_tasks.notify.facts import Facts
from wlm_tasks.notify.layout import count, cut, span

#: longest name in a subject line
_NAME_LIMIT: Final = 60

_Text = Callable[[Facts], str]


class Words(NamedTuple):
    """How one kind of notice is put into words."""

    line: _Text  #: the matter in one line
    who: _Text  #: whose matter it is, in a list of several
    more: _Text  #: what else matters in that list
    one: str  #: how one of them is counted
    many: str  #: the same of several
    story: Callable[[Facts], list[str]]  #: paragraphs
    checks: Callable[[Facts], list[Check]]


def _nothing(_facts: Facts) -> str:
    return ""


def _who(facts: Facts) -> str:
    return facts.who


def _of(
    noun: str,
    verb: str,
    verbs: str,
    more: _Text,
    *,
    story: Callable[[Facts], list[str]],
    checks: Callable[[Facts], list[Check]],
) -> Words:
    """Return the words for what is said as "NOUN WHO VERB (MORE)"."""

    def line(facts: Facts) -> str:
        told = more(facts)
        who = f"{noun} {cut(facts.who, _NAME_LIMIT)}".rstrip()
        return f"{who} {verb}" + (f" ({told})" if told else "")

    noun_alone = noun.removeprefix("the ")
    one, many = f"{noun_alone} {verb}", f"{noun_alone}s {verbs}"
    return Words(line, _who, more, one, many, story, checks)


def _after(facts: Facts) -> str:
    away = facts.span("down_s")
    return f"after {away}" if away else ""


def _moved(facts: Facts) -> str:
    return facts.moved


def _overdue(facts: Facts) -> str:
    deadline = facts.number("deadline")
    late = facts.notice.at - deadline if deadline is not None else 0.0
    return f"due {span(late)} ago" if late > 0 else "drain overdue"


def _state(facts: Facts) -> str:
    return facts.state


def _stuck(facts: Facts) -> str:
    waiting = facts.whole("waiting")
    return f"{count(waiting, 'step waits', 'steps wait')}" if waiting else ""


def _fleet(facts: Facts) -> str:
    return f"{workers.how_many(facts)} are gone, or the monitor is cut off"


def _fleet_back(facts: Facts) -> str:
    away = _after(facts)
    return f"the workers are back ({away})" if away else "the workers are back"


def _experiment(what: _Text) -> tuple[_Text, _Text, _Text]:
    """Return line, who and more of an experiment of which `what` is told."""

    def more(facts: Facts) -> str:
        reason = facts.text("reason", 80)
        return f"{what(facts)}: {reason}" if reason else what(facts)

    return lambda facts: f"experiment {services.name(facts)} {more(facts)}", services.listed, more


_ENDED: Final = _experiment(services.ended)
_PAUSED: Final = _experiment(lambda _facts: "is paused")

WORDS: Final[Mapping[K, Words]] = {
    K.WORKER_DOWN: _of(
        "worker", "is down", "are down", _moved, story=workers.down, checks=checks.worker
    ),
    K.WORKER_BACK: _of(
        "worker", "is back", "are back", _after, story=workers.back, checks=checks.work
    ),
    K.WORKER_RESTARTED: _of(
        "worker",
        "crashed and restarted",
        "crashed and restarted",
        _moved,
        story=workers.restarted,
        checks=checks.worker,
    ),
    K.WORKER_LEFT: _of(
        "worker",
        "left unannounced",
        "left unannounced",
        _moved,
        story=workers.left,
        checks=checks.worker,
    ),
    K.DRAIN_OVERDUE: _of(
        "worker",
        "has not stopped",
        "have not stopped",
        _overdue,
        story=workers.overdue,
        checks=checks.drain,
    ),
    K.WORKER_FLAPPING: _of(
        "worker",
        "is flapping",
        "are flapping",
        workers.often,
        story=workers.flapping,
        checks=checks.worker,
    ),
    K.FLEET_DOWN: Words(
        _fleet,
        workers.how_many,
        _nothing,
        "mass outage or cut-off monitor",
        "mass outages or cut-offs of the monitor",
        workers.fleet_down,
        checks.fleet,
    ),
    K.FLEET_BACK: Words(
        _fleet_back,
        lambda _facts: "the workers",
        _after,
        "end of a mass outage",
        "ends of mass outages",
        workers.fleet_back,
        checks.work,
    ),
    K.BROKER_DOWN: _of(
        "the broker",
        "is out of reach",
        "are out of reach",
        _nothing,
        story=services.broker_down,
        checks=checks.broker,
    ),
    K.BROKER_BACK: _of(
        "the broker", "is back", "are back", _after, story=services.broker_back, checks=checks.work
    ),
    K.DATABASE_DOWN: _of(
        "the database",
        "is out of reach",
        "are out of reach",
        _nothing,
        story=services.database_down,
        checks=checks.database,
    ),
    K.SITE_DOWN: _of(
        "site", "is down", "are down", _state, story=services.site_down, checks=checks.site
    ),
    K.SITE_BACK: _of(
        "site", "is back", "are back", _after, story=services.site_back, checks=checks.none
    ),
    K.QUEUE_STUCK: _of(
        "queue", "is stuck", "are stuck", _stuck, story=services.queue_stuck, checks=checks.queue
    ),
    K.QUEUE_SERVED: _of(
        "queue",
        "is served again",
        "are served again",
        _after,
        story=services.queue_served,
        checks=checks.none,
    ),
    K.EXPERIMENT_ENDED: Words(
        *_ENDED,
        "experiment ended",
        "experiments ended",
        services.experiment_ended,
        checks.ended,
    ),
    K.EXPERIMENT_PAUSED: Words(
        *_PAUSED,
        "experiment is paused",
        "experiments are paused",
        services.experiment_paused,
        checks.paused,
    ),
    K.TEST: Words(
        lambda _facts: "this is a test",
        _who,
        _nothing,
        "test",
        "tests",
        services.test,
        checks.none,
    ),
}
