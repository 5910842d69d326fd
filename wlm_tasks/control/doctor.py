"""Whether all is set up as it should be, and how to mend what is not.

Looking changes nothing: no table, no queue and no directory is made. What can be decided from
plain values is a function of them (`judge_...`); the rest asks and hands the answers on.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from kombu import Connection

from wlm_tasks import plugins
from wlm_tasks.celery import WlmCelery, make_app
from wlm_tasks.config import Settings
from wlm_tasks.control import broker
from wlm_tasks.control.doctor_serf import examine_serf
from wlm_tasks.control.findings import Finding, Level, fail, ok, warn
from wlm_tasks.control.queues import DEAD_QUEUE
from wlm_tasks.errors import WlmError
from wlm_tasks.model.sites import SiteState
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.model.steps import ALL_QUEUES
from wlm_tasks.notify.base import Notifier
from wlm_tasks.runtime import Runtime
from wlm_tasks.state.database import Database
from wlm_tasks.state.site_rows import SiteRow

#: RabbitMQ closes the channel of a consumer that holds a message longer; its default, seconds.
CONSUMER_TIMEOUT_S: Final = 1800.0
_CLOCK_TOLERANCE_S: Final = 2.0
_OUTBOX_MANY: Final = 1000
_DISK_LOW_BYTES: Final = 500 * 1000 * 1000


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, the foundations first; what rests on a failed one is left out."""
    yield ok("settings", f"from {settings.source}")
    yield judge_plugins(plugins.known(plugins.COMPUTE), plugins.known(plugins.STORAGE))
    yield _directory("data_dir", settings.data_dir)
    found, usable = _database(settings)
    yield found
    yield from _broker(settings)
    yield from _alerts(settings)
    yield from examine_serf(settings)
    runtime = Runtime(settings)
    try:
        for name in sorted(settings.sites):
            yield _guarded(f"site {name}", lambda name=name: _site(runtime, name))  # type: ignore[misc]
        if usable:
            yield from _rows(runtime)
    finally:
        runtime.close()


def _guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except WlmError as error:
        return fail(name, error.message)
    except OSError as error:
        return fail(name, f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))


def judge_plugins(compute: list[str], storage: list[str]) -> Finding:
    """Judge which backends were found."""
    if "local" not in compute or "file" not in storage:
        return fail(
            "backends",
            "the package's own are not registered",
            "install the package with pip, also to run it from its sources",
        )
    return ok("backends", f"sites: {', '.join(compute)}; transfers: {', '.join(storage)}")


def _directory(name: str, path: Path) -> Finding:
    """Look at a directory that must take files, or that can be made where it is to be."""
    there = next(one for one in (path, *path.parents) if one.exists())
    if not there.is_dir():
        return fail(name, f"{there} is not a directory", f"set another {name}")
    if not os.access(there, os.W_OK | os.X_OK):
        return fail(name, f"{there} cannot be written", f"give this user the right, or set {name}")
    free = shutil.disk_usage(there).free
    if free < _DISK_LOW_BYTES:
        return warn(name, f"{path}: {free / 1e6:.0f} MB are free", "make room")
    return ok(name, f"{path}" if there == path else f"{path}, made at first use")


def _database(settings: Settings) -> tuple[Finding, bool]:
    """Look at the database; also tells whether there are rows to look at."""
    name = "database"
    file = settings.data_dir / "wlm.db"
    if settings.database_url is None and not file.exists():
        if settings.embedded:
            return ok(name, f"{file}, made at first use"), False
        return warn(name, f"{file} is not there yet", "wlm db upgrade"), False
    try:
        database = Database(settings.database)
    except WlmError as error:
        return fail(name, error.message), False
    try:
        url = database.url.render_as_string()
        found = judge_database(url, database.revision(), database.head())
    except WlmError as error:
        found = fail(name, error.message, "start it, or correct database_url")
    finally:
        database.close()
    return found, found.level is not Level.FAIL


def judge_database(url: str, revision: str | None, head: str) -> Finding:
    """Judge the revision of the tables."""
    if revision != head:
        text = f"{url}: is at revision {revision or 'none'}, this version needs {head}"
        return fail("database", text, "wlm db upgrade")
    return ok("database", f"{url}, revision {revision}")


def judge_clock(ahead_s: float) -> Finding:
    """Judge how far the database's clock is ahead of this host's."""
    if abs(ahead_s) > _CLOCK_TOLERANCE_S:
        side = "ahead of" if ahead_s > 0 else "behind"
        text = f"the database's is {abs(ahead_s):.1f} s {side} this host's"
        return warn("clock", text, "keep both by NTP; times of jobs are told by their hosts")
    return ok("clock", "this host's and the database's agree")


def _broker(settings: Settings) -> Iterator[Finding]:
    if settings.embedded:
        yield ok("broker", "none is set: embedded, `wlm up` does all the work")
        return
    try:
        app = make_app(settings)
    except WlmError as error:
        yield fail("broker", error.message, "correct broker_url")
        return
    try:
        with broker.connected(app) as connection:
            said = broker.server(connection)
            where = f", cluster {said.cluster}" if said.cluster else ""
            yield ok("broker", f"{settings.broker_url}: {said.product} {said.version}{where}")
            yield judge_slice(settings.steps.slice_s)
            yield from _queues(app, connection)
    except WlmError as error:
        yield fail("broker", error.message, "start it, or correct broker_url")
    finally:
        app.close()


def _alerts(settings: Settings) -> Iterator[Finding]:
    """Look at how people would be told, without telling them."""
    try:
        found = plugins.notifiers(settings.alerts)
    except WlmError as error:
        yield fail("alerts", error.message, "correct [alerts]")
        return
    yield judge_alerts(settings, found)
    for name, notifier in found.items():
        if name != "log":
            yield _notifier(f"alerts {name}", notifier)


def _notifier(name: str, notifier: Notifier) -> Finding:
    try:
        return ok(name, notifier.check())
    except WlmError as error:
        return fail(name, error.message, "start it, or correct [alerts]; notices wait meanwhile")


def judge_alerts(settings: Settings, names: Collection[str]) -> Finding:
    """Judge whether anybody is told of a worker that disappears."""
    alerts = settings.alerts
    if set(names) - {"log"}:
        return ok("alerts", f"people are told by {', '.join(names)}")
    if alerts.admin and alerts.smtp_url is None:
        text = "alerts.admin is set and alerts.smtp_url is not: no mail is sent"
        return warn("alerts", text, "set alerts.smtp_url")
    if alerts.smtp_url is not None and not alerts.admin:
        text = "alerts.smtp_url is set and alerts.admin is not: nobody gets mail"
        return warn("alerts", text, "set alerts.admin")
    if settings.embedded:
        return ok("alerts", "nobody is told but by the log; embedded, there are no workers to lose")
    text = "no notifier is configured: nobody is told of a worker that disappears, but by the log"
    return warn("alerts", text, "set alerts.admin and alerts.smtp_url, or alerts.webhook_url")


def judge_slice(slice_s: float) -> Finding:
    """Judge the longest a message is held against RabbitMQ's limit, which AMQP does not tell."""
    look = "rabbitmqctl environment | grep consumer_timeout"
    if slice_s >= CONSUMER_TIMEOUT_S:
        text = f"steps.slice_s is {slice_s:g} s, RabbitMQ's default limit {CONSUMER_TIMEOUT_S:g} s"
        mend = f"lower steps.slice_s, or raise the limit; see: {look}"
        return warn("consumer_timeout", text, mend)
    text = f"messages are held {slice_s:g} s at most; the broker's limit is not told over AMQP"
    return ok("consumer_timeout", f"{text}, by default {CONSUMER_TIMEOUT_S:g} s; see: {look}")


def _queues(app: WlmCelery, connection: Connection) -> Iterator[Finding]:
    found = broker.mismatches(app, connection)
    yield judge_missing([one.name for one in found if one.missing])
    yield from map(judge_mismatch, [one for one in found if not one.missing])
    yield judge_workers([broker.look_at(connection, name) for name in ALL_QUEUES])
    dead = broker.look_at(connection, DEAD_QUEUE.name)
    if dead.messages:
        mend = f"see `wlm ls --state failed`, then: rabbitmqctl purge_queue -p VHOST {dead.name}"
        yield warn(f"queue {dead.name}", f"{dead.messages} messages nobody could handle", mend)


def judge_missing(names: Sequence[str]) -> Finding:
    """Judge the queues and exchanges that are not at the broker."""
    if names:
        return warn("queues", f"not there: {', '.join(names)}", "wlm control  # makes them")
    return ok("queues", "all queues and exchanges are there")


def judge_mismatch(wrong: broker.Mismatch) -> Finding:
    """Judge a queue or exchange that is not as it should be."""
    kind, _, name = wrong.name.partition(" ")
    if "ACCESS_REFUSED" in wrong.words:
        return warn(wrong.name, "cannot be checked", f"give this user the right: {wrong.words}")
    delete = (
        f"rabbitmqctl delete_queue -p VHOST {name}"
        if kind == "queue"
        else f"delete exchange {name}"
    )
    mend = f"stop the workers, {delete}, start `wlm control`: the rows bring all back"
    return fail(wrong.name, wrong.words, mend)


def judge_workers(found: Sequence[broker.QueueLook]) -> Finding:
    """Judge which queues workers serve."""
    served = [f"{one.name} {one.consumers}" for one in found if one.consumers]
    idle = [one for one in found if not one.consumers]
    if idle:
        waiting = sum(one.messages or 0 for one in idle)
        names = [one.name for one in idle]
        text = f"none serves {', '.join(names)}, where {waiting} messages wait"
        return warn("workers", text, f"celery -A wlm_tasks worker -Q {','.join(names)}")
    return ok("workers", f"by queue: {', '.join(served)}")


def judge_control(holders: Mapping[str, str], *, embedded: bool) -> Finding:
    """Judge who holds the leases of control's duties."""
    start = "wlm up" if embedded else "wlm control"
    if not holders:
        return warn("control", "no control process is alive", start)
    return ok("control", f"alive: {', '.join(sorted(set(holders.values())))}")


def _site(runtime: Runtime, name: str) -> Finding:
    site = runtime.site(name)
    if site.settings.kind != "local":
        return ok(f"site {name}", f"{site.settings.kind}, opens")
    scratch = Path(site.settings.directory)
    if not scratch.exists():
        return _directory(f"site {name}", scratch)
    probe = scratch / f"doctor-{secrets.token_hex(4)}"
    site.backend.prepare(str(probe))
    probe.rmdir()
    return ok(f"site {name}", f"{site.settings.kind}, {scratch} takes files")


def _rows(runtime: Runtime) -> Iterator[Finding]:
    """Look at what the rows tell: clock, control, and what waits for somebody."""
    store, embedded = runtime.store, runtime.settings.embedded
    try:
        before = time.time()
        ahead_s = store.views.now() - (before + time.time()) / 2
        holders = store.coordination.holders()
        waiting = store.coordination.count_unpublished()
        paused = store.views.counts().get(ExperimentState.PAUSED, 0)
        errors, sites = store.polls.errors(), store.sites.all()
    except WlmError as error:
        yield fail("rows", error.message)
        return
    yield judge_clock(ahead_s)
    yield judge_control(holders, embedded=embedded)
    yield judge_outbox(waiting)
    if paused:
        mend = "wlm ls --state paused, then: wlm resume ID"
        yield warn("paused", f"{paused} experiments wait for a person", mend)
    for name in sorted(errors.keys() | sites.keys()):
        yield from judge_site(sites.get(name, SiteRow(name=name)), errors.get(name))


def judge_site(site: SiteRow, error: str | None) -> Iterator[Finding]:
    """Judge how a site stands, and why its last poll failed if it did."""
    name, resume = f"site {site.name}", f"wlm site resume {site.name}"
    if site.paused_at is not None:
        yield warn(name, f"is paused: {site.paused_reason or site.paused_by}", resume)
    if site.state is not SiteState.UP:
        mend = f"mend it, then: {resume}" if site.state is SiteState.AUTH_NEEDED else "wlm sites"
        yield warn(name, f"is {site.state}: {site.reason}", mend)
    elif error is not None:
        yield warn(name, f"cannot be asked about its jobs: {error}", "wlm sites")


def judge_outbox(waiting: int) -> Finding:
    """Judge how many events have not gone out."""
    if waiting > _OUTBOX_MANY:
        return warn("events", f"{waiting} wait to go out", "see whether broker and control are up")
    return ok("events", f"{waiting} wait to go out")
