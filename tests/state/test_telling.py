"""From what happened to who is told: mailers, the spool without a database, what people chose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from state.test_roster import registration
from state.world import SETUP, World

from services.processes import wait_for
from wlm_tasks.celery import WlmCelery
from wlm_tasks.config import AlertSettings, WatchSettings
from wlm_tasks.control import mailing, news
from wlm_tasks.control.mailing import Away, Mailer
from wlm_tasks.control.surroundings import Surroundings
from wlm_tasks.errors import NotifyUnavailableError
from wlm_tasks.model.notices import NoticeKind
from wlm_tasks.model.sites import POLL, Evidence, SiteState
from wlm_tasks.notify.fake import FakeNotifier
from wlm_tasks.notify.pacing import Pace
from wlm_tasks.state.incidents import WORKER
from wlm_tasks.state.store import Store

DOWN = NoticeKind.WORKER_DOWN


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailing, "_EVERY_S", 0.02)
    at_once = Pace(digest_s=0.0, first_s=0.0, soon_s=0.0, quiet_s=0.0, storm_s=0.0)
    monkeypatch.setattr(mailing, "Pace", lambda **_how: at_once)


@pytest.fixture
def store(app: WlmCelery) -> Store:
    return app.runtime.store


def choose(app: WlmCelery, **alerts: Any) -> None:
    """Set what people want."""
    settings = replace(app.settings, alerts=AlertSettings(**alerts))
    app.use(settings)


@contextmanager
def mailing_by(app: WlmCelery, notifier: FakeNotifier, holder: str = "me") -> Iterator[None]:
    mailer = Mailer(app, holder, "fake", notifier)
    mailer.start()
    yield
    mailer.stop()


def happen(store: Store, name: str = "w1@h") -> None:
    assert store.incidents.open(WORKER, name, DOWN, {"reason": "silent"}, ["fake"])


def test_what_happens_is_sent_once(app: WlmCelery, store: Store) -> None:
    notifier = FakeNotifier()
    happen(store)
    with mailing_by(app, notifier), mailing_by(app, notifier, "another"):
        wait_for(lambda: not store.deliveries.any_open("fake"), 10, "it is sent")
        happen(store, "w2@h")
        wait_for(lambda: not store.deliveries.any_open("fake"), 10, "it is sent")
    assert [m.notices[0]["subject"] for m in notifier.sent] == ["w1@h", "w2@h"]


def test_what_cannot_be_sent_waits_and_goes_then(app: WlmCelery, store: Store) -> None:
    choose(app, retry_s=0.1, retry_max_s=0.1)
    notifier = FakeNotifier()
    notifier.fault = NotifyUnavailableError("connection refused")
    happen(store := app.runtime.store)
    with mailing_by(app, notifier):
        wait_for(lambda: notifier.tries >= 3, 10, "it is tried again")
        assert store.deliveries.views(1)[0].error == "connection refused"
        notifier.fault = None
        wait_for(lambda: not store.deliveries.any_open("fake"), 10, "it is sent")
    assert len(notifier.sent) == 1


class Odd(FakeNotifier):
    """One of somebody else's making."""

    def send(self, message: Any) -> None:
        if self.tries < 2:
            self.tries += 1
            raise ZeroDivisionError("oops")
        super().send(message)


def test_a_notifier_that_breaks_is_tried_again(app: WlmCelery) -> None:
    choose(app, retry_s=0.1, retry_max_s=0.1)
    happen(store := app.runtime.store)
    notifier = Odd()
    with mailing_by(app, notifier):
        wait_for(lambda: not store.deliveries.any_open("fake"), 10, "it is sent")
    assert len(notifier.sent) == 1


# -- without a database ---------------------------------------------------------------------


def away_after(app: WlmCelery, grace_s: float) -> tuple[Away, FakeNotifier]:
    notifier = FakeNotifier()
    settings = replace(app.settings, watch=WatchSettings(grace_s=grace_s))
    return Away(settings, {"fake": notifier}), notifier


def test_a_database_that_is_away_is_told_once_and_without_it(app: WlmCelery, store: Store) -> None:
    told, notifier = away_after(app, 0.0)
    for _ in range(6):
        told.database_fails("connection refused")
    (message,) = notifier.sent
    assert message.notices[0]["kind"] == "DATABASE_DOWN"
    told.database_answers()
    told.hand_over(store)
    assert not store.deliveries.any_open("fake")  # it was told already


def test_a_short_absence_is_told_to_nobody(app: WlmCelery, store: Store) -> None:
    told, notifier = away_after(app, 60.0)
    told.database_fails("connection refused")
    told.database_answers()
    told.database_fails("connection refused")
    told.hand_over(store)
    assert notifier.sent == []


def test_who_could_not_be_told_is_told_when_it_is_back(
    app: WlmCelery, store: Store, tmp_path: Path
) -> None:
    told, notifier = away_after(app, 0.0)
    notifier.fault = NotifyUnavailableError("no route")
    told.database_fails("connection refused")
    assert list((tmp_path / "notices").glob("*.json"))
    told.database_answers()
    told.hand_over(store)
    (waiting,) = store.deliveries.waiting("fake", 10)
    assert waiting.notice.kind is NoticeKind.DATABASE_DOWN
    assert not list((tmp_path / "notices").glob("*.json"))


# -- what people chose ----------------------------------------------------------------------


def kinds(store: Store) -> list[NoticeKind]:
    return [one.notice.kind for one in store.deliveries.waiting("fake", 100)]


def test_ends_of_experiments_for_those_who_want_that(app: WlmCelery) -> None:
    choose(app, on=("experiment-failed", "experiment-paused"))
    store = app.runtime.store
    world = World(store)
    failed, paused = world.add(), world.add()
    store.claims.fail(world.claim(failed), "no such module")
    store.claims.pause(world.claim(paused, SETUP, message="m2"), "gave up")
    events = store.coordination.unpublished(100)
    for _ in range(2):  # published twice after a crash
        news.tell(app, events, ["fake"])
    assert sorted(kinds(store)) == [NoticeKind.EXPERIMENT_ENDED, NoticeKind.EXPERIMENT_PAUSED]
    details = {one.notice.kind: one.notice.detail for one in store.deliveries.waiting("fake", 9)}
    assert details[NoticeKind.EXPERIMENT_ENDED]["reason"] == "no such module"


def test_nobody_asked(app: WlmCelery) -> None:
    choose(app, on=())
    store = app.runtime.store
    world = World(store)
    store.claims.fail(world.claim(world.add()), "no such module")
    news.tell(app, store.coordination.unpublished(100), ["fake"])
    Surroundings(app, ["fake"]).look()
    assert kinds(store) == []


def test_a_site_in_trouble_and_its_end(app: WlmCelery) -> None:
    store = app.runtime.store
    world = World(store)
    trouble = Evidence(state=SiteState.UNREACHABLE, by=POLL, reason="no route")
    store.sites.report("local", trouble, who="w@h", pause_s=60)
    Surroundings(app, ["fake"]).look()
    assert kinds(store) == []  # it may pass
    world.sql("UPDATE sites SET since = since - 100")
    Surroundings(app, ["fake"]).look()
    Surroundings(app, ["fake"]).look()
    store.sites.report("local", Evidence(state=SiteState.UP, by=POLL), who="w@h")
    Surroundings(app, ["fake"]).look()
    assert kinds(store) == [NoticeKind.SITE_DOWN, NoticeKind.SITE_BACK]


def test_a_queue_that_nobody_serves(app: WlmCelery) -> None:
    store = app.runtime.store
    world = World(store)
    id_ = world.add()
    Surroundings(app, ["fake"]).look()
    assert kinds(store) == []
    world.past("ready_at", 200.0, id_)
    Surroundings(app, ["fake"]).look()
    Surroundings(app, ["fake"]).look()
    assert kinds(store) == [NoticeKind.QUEUE_STUCK]
    store.roster.register(registration())
    Surroundings(app, ["fake"]).look()
    assert kinds(store) == [NoticeKind.QUEUE_STUCK, NoticeKind.QUEUE_SERVED]
