"""``wlm up`` and ``wlm control``: the processes that do the work."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

import click

from wlm_tasks.celery import app
from wlm_tasks.cli import output
from wlm_tasks.cli.looking import labels
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.config import Settings
from wlm_tasks.control.embedded import running, slots
from wlm_tasks.control.loop import Control
from wlm_tasks.errors import ConfigError, ServiceError
from wlm_tasks.model.states import FINAL, ExperimentState
from wlm_tasks.state.store import Store
from wlm_tasks.state.views import EventView

_log = logging.getLogger("wlm_tasks")
#: Seconds between two looks for ended experiments, and between two tries to reach the database.
_LOOK_EVERY_S, _RETRY_EVERY_S = 0.5, 2.0
#: ended experiments that are told one by one; more at once are counted
_TOLD: Final = 10
_LEVELS: Final = ("debug", "info", "warning", "error")
_NEWS: Final = frozenset({*FINAL, ExperimentState.PAUSED})

log_option = click.option(
    "--log-level", type=click.Choice(_LEVELS), default=None, help="How much is told."
)


@click.command()
@click.option("--concurrency", type=click.IntRange(1, 1000), metavar="N", help="Steps at a time.")
@log_option
@pass_session
def up(session: Session, concurrency: int | None, log_level: str | None) -> None:
    """Run everything in this process until Ctrl-C: workers, control, database.

    This needs no broker. Jobs outlive it: start it again and it goes on where it was, also after
    a kill -9.
    """
    settings = session.settings
    _refuse_broker(settings)
    _log_to_stderr(log_level or "warning")
    stop = _stop_on_signals()
    with running(settings, concurrency):
        _banner(settings, concurrency or slots())
        _tell_news(session.store, stop)
        output.say("Stopping: steps in hand are finished, jobs go on.")


def _refuse_broker(settings: Settings) -> None:
    if settings.embedded:
        return
    raise ConfigError(
        f"broker_url is set ({settings.broker_url}), so there is a process for each part:"
        " start `wlm control` and `celery -A wlm_tasks worker -Q"
        " envsetup,staging,jobsub,monitor,scheduler`"
    )


def _banner(settings: Settings, concurrency: int) -> None:
    sites = ", ".join(sorted(settings.sites))
    output.say(f"wlm is up: {concurrency} slots, sites {sites}, data in {settings.data_dir}")
    output.say("Hand in work with `wlm run FILE` from another terminal. Ctrl-C stops.")


def _tell_news(store: Store, stop: threading.Event) -> None:
    """Say which experiments have ended or paused, until told to stop."""
    seen = store.views.newest_event()
    while not stop.wait(_LOOK_EVERY_S):
        try:
            events = store.views.events(after=seen)
        except ServiceError as error:
            _log.warning("%s", error.message)
            continue
        if events:
            seen = events[-1].id
            _tell(store, [event for event in events if event.step is None])


def _tell(store: Store, events: Sequence[EventView]) -> None:
    news = [event for event in events if event.experiment_id and event.state in _NEWS]
    for event in news[:_TOLD]:
        view = store.views.experiment(event.experiment_id or "")
        name = labels([view])[view.id]
        reason = f"  {event.detail['reason']}" if event.detail.get("reason") else ""
        output.say(f"{_clock()}  {view.id}  {event.state:<9}  {name}{reason}")
    if len(news) > _TOLD:
        output.say(f"{_clock()}  ... and {len(news) - _TOLD:,} more ended or paused")


def _clock() -> str:
    return time.strftime("%H:%M:%S")


@click.command()
@log_option
@pass_session
def control(session: Session, log_level: str | None) -> None:
    """Run a control process until SIGTERM or Ctrl-C: it sends, sweeps, polls and cancels.

    Any number may run, on any hosts. It waits for a database or a broker that is out of reach.
    """
    if session.settings.embedded:
        raise ConfigError("broker_url: is not set, so `wlm up` does the work of control, too")
    _log_to_stderr(log_level or "info")
    stop = _stop_on_signals()
    app.use(session.settings)
    _wait_for_database(app.runtime.store, stop)
    if stop.is_set():
        return
    worker = Control(app)
    _when(stop, worker.stop)
    worker.run()


def _wait_for_database(store: Store, stop: threading.Event) -> None:
    """Return once the database answers; raises `ServiceError` if its tables are not ours."""
    while not stop.is_set():
        try:
            store.database.revision()
        except ServiceError as error:
            _log.warning("%s; trying again", error.message)
            stop.wait(_RETRY_EVERY_S)
        else:
            store.database.check()
            return


def _stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set; a second SIGINT ends the process at once."""
    stop = threading.Event()

    def stopping(_number: int, _frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stopping)
    return stop


def _when(stop: threading.Event, action: Callable[[], None]) -> None:
    """Do something once the event is set; outside of the signal handler, which must be short."""

    def waiting() -> None:
        stop.wait()
        action()

    threading.Thread(target=waiting, name="stop", daemon=True).start()


def _log_to_stderr(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", force=True
    )
    for noisy in ("alembic", "celery", "kombu", "amqp"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
