"""What to check: commands to copy, each with what it tells. Pure.

A name stands in a command only if it is a plain one: it comes from strangers.
"""

from __future__ import annotations

from wlm_tasks.notify.facts import Facts

#: a command and what it tells
Check = tuple[str, str]


def worker(facts: Facts) -> list[Check]:
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


def drain(facts: Facts) -> list[Check]:
    """Return what tells why a worker has not stopped, and stops it."""
    stop = [
        (command.replace("status", "stop"), "there: kills it at its time limit")
        for command, _why in worker(facts)
        if command.startswith("systemctl")
    ]
    return [*worker(facts)[:2], *stop]


def work(_facts: Facts) -> list[Check]:
    """Return what tells whether work moves on."""
    return [
        ("wlm workers", "who is there"),
        ("wlm queues", "does work move on?"),
    ]


def fleet(_facts: Facts) -> list[Check]:
    """Return what tells an outage from a monitor that is cut off."""
    return [
        ("wlm doctor", "is the broker reached from here?"),
        ("wlm workers", "who is there, by which witness"),
        ("serf members", "on control and worker hosts: the same?"),
        ("systemctl status wlm-control", "on a control host: who watches"),
    ]


def broker(_facts: Facts) -> list[Check]:
    """Return what tells what the broker lacks."""
    return [
        ("wlm doctor", "what exactly does not work"),
        ("systemctl status rabbitmq-server", "on the broker's host"),
        ("rabbitmqctl cluster_status", "there: alarms, partitions"),
    ]


def database(_facts: Facts) -> list[Check]:
    """Return what tells what the database lacks."""
    return [
        ("wlm doctor", "what exactly does not work"),
        ("systemctl status postgresql", "on the database's host"),
    ]


def site(facts: Facts) -> list[Check]:
    """Return what tells what a site lacks, and has it tried again."""
    site = facts.plain(facts.who)
    checks: list[Check] = [("wlm sites", "how it stands, when it is tried next")]
    if site:
        checks.append((f"wlm site test {site}", "does all of it work?"))
        checks.append((f"wlm site resume {site}", "try it at once"))
    return checks


def queue(facts: Facts) -> list[Check]:
    """Return what tells why nobody serves a queue, and serves it."""
    queue = facts.plain(facts.who)
    checks: list[Check] = [
        ("wlm queues", "what waits, who serves"),
        ("wlm workers", "who should serve it"),
    ]
    if queue:
        checks.append((f"celery -A wlm_tasks worker -Q {queue}", "starts one"))
    return checks


def _experiment(facts: Facts, *more: tuple[str, str]) -> list[Check]:
    one = facts.plain(facts.who)
    looks = (("why", "how it came to this"), ("logs", "what happened, what the job wrote"), *more)
    return [(f"wlm {command} {one}", why) for command, why in looks] if one else []


def ended(facts: Facts) -> list[Check]:
    """Return what tells how an experiment ended."""
    if facts.state == "done":
        one = facts.plain(facts.who)
        return [(f"wlm show {one}", "its outputs")] if one else []
    return _experiment(facts, ("retry", "runs it again"))


def paused(facts: Facts) -> list[Check]:
    """Return what tells why an experiment is paused, and what can become of it."""
    return _experiment(facts, ("resume", "lets it go on"), ("cancel", "ends it for good"))


def none(_facts: Facts) -> list[Check]:
    """Return nothing: there is nothing to do."""
    return []
