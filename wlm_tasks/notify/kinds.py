"""For each kind of notice: its subject line, its story, what to check. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from wlm_tasks.model.notices import NoticeKind as K
from wlm_tasks.notify import services, workers
from wlm_tasks.notify.facts import Facts
from wlm_tasks.notify.layout import count, cut, span

#: a command and what it tells
Check = tuple[str, str]

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


def _worker_checks(facts: Facts) -> list[Check]:
    """Return what tells whether the host is up and the worker's process ran into something."""
    checks: list[Check] = [("wlm workers", "the roster and its witnesses")]
    node, _at, of_name = facts.who.partition("@")
    host = facts.plain(facts.detail.get("host")) or facts.plain(of_name)
    if host:
        checks.append((f"ssh {host}", "does the host answer?"))
    if node := facts.plain(node):
        checks.append((f"systemctl status wlm-worker@{node}", "there: does it run?"))
        checks.append((f"journalctl -u wlm-worker@{node} -n 50", "there: its last words"))
    return checks


def _drain_checks(facts: Facts) -> list[Check]:
    stop = [
        (command.replace("status", "stop"), "there: kills it at its time limit")
        for command, _why in _worker_checks(facts)
        if command.startswith("systemctl")
    ]
    return [*_worker_checks(facts)[:2], *stop]


def _work_checks(_facts: Facts) -> list[Check]:
    return [
        ("wlm workers", "who is there"),
        ("wlm queues", "does work move on?"),
    ]


def _fleet_checks(_facts: Facts) -> list[Check]:
    return [
        ("wlm doctor", "is the broker reached from here?"),
        ("wlm workers", "who is there, by which witness"),
        ("serf members", "on control and worker hosts: the same?"),
        ("systemctl status wlm-control", "on a control host: who watches"),
    ]


def _broker_checks(_facts: Facts) -> list[Check]:
    return [
        ("wlm doctor", "what exactly does not work"),
        ("systemctl status rabbitmq-server", "on the broker's host"),
        ("rabbitmqctl cluster_status", "there: alarms, partitions"),
    ]


def _database_checks(_facts: Facts) -> list[Check]:
    return [
        ("wlm doctor", "what exactly does not work"),
        ("systemctl status postgresql", "on the database's host"),
    ]


def _site_checks(facts: Facts) -> list[Check]:
    site = facts.plain(facts.who)
    checks: list[Check] = [("wlm sites", "how it stands, when it is tried next")]
    if site:
        checks.append((f"wlm site test {site}", "does all of it work?"))
        checks.append((f"wlm site resume {site}", "try it at once"))
    return checks


def _queue_checks(facts: Facts) -> list[Check]:
    queue = facts.plain(facts.who)
    checks: list[Check] = [
        ("wlm queues", "what waits, who serves"),
        ("wlm workers", "who should serve it"),
    ]
    if queue:
        checks.append((f"celery -A wlm_tasks worker -Q {queue}", "starts one"))
    return checks


def _experiment_checks(facts: Facts, *more: tuple[str, str]) -> list[Check]:
    one = facts.plain(facts.who)
    looks = (("why", "how it came to this"), ("logs", "what happened, what the job wrote"), *more)
    return [(f"wlm {command} {one}", why) for command, why in looks] if one else []


def _ended_checks(facts: Facts) -> list[Check]:
    if facts.state == "done":
        one = facts.plain(facts.who)
        return [(f"wlm show {one}", "its outputs")] if one else []
    return _experiment_checks(facts, ("retry", "runs it again"))


def _paused_checks(facts: Facts) -> list[Check]:
    return _experiment_checks(facts, ("resume", "lets it go on"), ("cancel", "ends it for good"))


def _no_checks(_facts: Facts) -> list[Check]:
    return []


_ENDED: Final = _experiment(services.ended)
_PAUSED: Final = _experiment(lambda _facts: "is paused")

WORDS: Final[Mapping[K, Words]] = {
    K.WORKER_DOWN: _of(
        "worker", "is down", "are down", _moved, story=workers.down, checks=_worker_checks
    ),
    K.WORKER_BACK: _of(
        "worker", "is back", "are back", _after, story=workers.back, checks=_work_checks
    ),
    K.WORKER_RESTARTED: _of(
        "worker",
        "crashed and restarted",
        "crashed and restarted",
        _moved,
        story=workers.restarted,
        checks=_worker_checks,
    ),
    K.WORKER_LEFT: _of(
        "worker",
        "left unannounced",
        "left unannounced",
        _moved,
        story=workers.left,
        checks=_worker_checks,
    ),
    K.DRAIN_OVERDUE: _of(
        "worker",
        "has not stopped",
        "have not stopped",
        _overdue,
        story=workers.overdue,
        checks=_drain_checks,
    ),
    K.WORKER_FLAPPING: _of(
        "worker",
        "is flapping",
        "are flapping",
        workers.often,
        story=workers.flapping,
        checks=_worker_checks,
    ),
    K.FLEET_DOWN: Words(
        _fleet,
        workers.how_many,
        _nothing,
        "mass outage or cut-off monitor",
        "mass outages or cut-offs of the monitor",
        workers.fleet_down,
        _fleet_checks,
    ),
    K.FLEET_BACK: Words(
        _fleet_back,
        lambda _facts: "the workers",
        _after,
        "end of a mass outage",
        "ends of mass outages",
        workers.fleet_back,
        _work_checks,
    ),
    K.BROKER_DOWN: _of(
        "the broker",
        "is out of reach",
        "are out of reach",
        _nothing,
        story=services.broker_down,
        checks=_broker_checks,
    ),
    K.BROKER_BACK: _of(
        "the broker", "is back", "are back", _after, story=services.broker_back, checks=_work_checks
    ),
    K.DATABASE_DOWN: _of(
        "the database",
        "is out of reach",
        "are out of reach",
        _nothing,
        story=services.database_down,
        checks=_database_checks,
    ),
    K.SITE_DOWN: _of(
        "site", "is down", "are down", _state, story=services.site_down, checks=_site_checks
    ),
    K.SITE_BACK: _of(
        "site", "is back", "are back", _after, story=services.site_back, checks=_no_checks
    ),
    K.QUEUE_STUCK: _of(
        "queue", "is stuck", "are stuck", _stuck, story=services.queue_stuck, checks=_queue_checks
    ),
    K.QUEUE_SERVED: _of(
        "queue",
        "is served again",
        "are served again",
        _after,
        story=services.queue_served,
        checks=_no_checks,
    ),
    K.EXPERIMENT_ENDED: Words(
        *_ENDED,
        "experiment ended",
        "experiments ended",
        services.experiment_ended,
        _ended_checks,
    ),
    K.EXPERIMENT_PAUSED: Words(
        *_PAUSED,
        "experiment is paused",
        "experiments are paused",
        services.experiment_paused,
        _paused_checks,
    ),
    K.TEST: Words(
        lambda _facts: "this is a test",
        _who,
        _nothing,
        "test",
        "tests",
        services.test,
        _no_checks,
    ),
}
