"""The step engine when its database, its broker or its heartbeat has a bad moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from state.world import SETUP, World, experiment, holder, new

from wlm_tasks.celery import WlmCelery, make_app
from wlm_tasks.compute.base import JobSpec, JobState, JobStatus, Submitted
from wlm_tasks.config import load
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.experiment import Transfer
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.model.steps import STEP_QUEUES
from wlm_tasks.state.holders import Claim, Holder
from wlm_tasks.state.store import Store
from wlm_tasks.tasks.engine import Engine, HandOn
from wlm_tasks.tasks.heartbeat import Heartbeat
from wlm_tasks.tasks.shown import Shown
from wlm_tasks.tasks.watching import cancel_jobs, poll_site

IDLE = experiment(
    staging=False,
    inputs=[Transfer("noop://lab/in", "in")],
    outputs=[Transfer("out", "noop://lab/out")],
)


@pytest.fixture
def app(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WlmCelery]:
    """Celery with a database of the test's own, and the site alpha, which does nothing."""
    file = tmp_path / "wlm.toml"
    file.write_text(f'[sites.alpha]\nkind = "noop"\nscratch = "{tmp_path}/scratch"\n')
    monkeypatch.setenv("TEST_DATABASE", url)
    environ = {
        "WLM_DATA_DIR": str(tmp_path),
        "HOME": str(tmp_path),
        "WLM_DATABASE_URL": "env:TEST_DATABASE",
        "TEST_DATABASE": url,
    }
    made = make_app(load(file, environ))
    yield made
    made.runtime.close()
    made.close()


def _mine() -> Holder:
    return holder("exp-x.setup.1f3a", queues=list(STEP_QUEUES))


@pytest.mark.postgresql
@pytest.mark.parametrize("dialect", ["postgresql"])
def test_lost_connections_are_no_death_of_the_worker(
    app: WlmCelery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL is restarted at the worst moments: every pooled connection is stale at once."""
    store, url = app.runtime.store, str(app.settings.database)
    backend = app.runtime.site("alpha").backend
    prepare, submit = backend.prepare, backend.submit

    def cut() -> None:
        admin = create_engine(url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            )
        admin.dispose()

    def cut_and_prepare(*args: Any, **more: Any) -> None:
        cut()
        prepare(*args, **more)

    def cut_and_submit(spec: JobSpec) -> Submitted:
        cut()
        return submit(spec)

    monkeypatch.setattr(backend, "prepare", cut_and_prepare)
    monkeypatch.setattr(backend, "submit", cut_and_submit)
    stored = store.intake.add(new(IDLE), sent=True)
    engine = Engine(app.runtime, Shown(app, enabled=False), lambda _steps: None)
    got = engine.work(stored, SETUP, _mine())
    engine.close()
    assert got == HandOn(None, own=True)
    steps = store.views.steps(stored)
    assert [step.state for step in steps] == ["DONE"] * 5
    assert {step.crashes for step in steps} == {0}


def test_a_broker_away_does_not_keep_a_carried_step_from_its_work(
    app: WlmCelery, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        def default_dispatcher(self, **_how: Any) -> Any:
            raise ConnectionRefusedError("gone")

    monkeypatch.setattr(app, "events", Away())
    stored = app.runtime.store.intake.add(new(IDLE), sent=True)
    engine = Engine(app.runtime, Shown(app, enabled=True), lambda _steps: None)
    engine.work(stored, SETUP, _mine())
    engine.close()
    assert app.runtime.store.views.experiment(stored).state == "DONE"


def test_a_broker_away_holds_up_no_transfer_again_and_again(
    app: WlmCelery, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Away:
        def default_dispatcher(self, **_how: Any) -> Any:
            asked.append("again")
            raise ConnectionRefusedError("gone")

    monkeypatch.setattr(app, "events", Away())
    stored = app.runtime.store.intake.add(new(), sent=True)
    claim = app.runtime.store.claims.claim(stored, SETUP, _mine())
    assert isinstance(claim, Claim)
    shown = Shown(app, enabled=True)
    for done in range(3):
        shown.progress(claim, _mine(), {"bytes": done}, carried=False)
    assert len(asked) == 1
    monkeypatch.setattr("wlm_tasks.tasks.shown._QUIET_S", 0.0)
    other = Shown(app, enabled=True)
    for done in range(3):
        other.progress(claim, _mine(), {"bytes": done}, carried=False)
    assert len(asked) == 4


def test_the_heartbeat_outlives_any_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, again = [], threading.Event()

    def renew(_claims: Any, _lease_s: float) -> None:
        asked.append(1)
        if len(asked) > 1:
            again.set()
        raise RuntimeError("odd")

    monkeypatch.setattr(store.claims, "renew", renew)
    heartbeat = Heartbeat(store.claims, every_s=0.01, lease_s=1)
    stored = store.intake.add(new(), sent=True)
    claim = store.claims.claim(stored, SETUP, holder())
    assert isinstance(claim, Claim)
    with heartbeat.holding(claim):
        assert again.wait(10)
    heartbeat.stop()


@pytest.mark.postgresql
@pytest.mark.parametrize("dialect", ["postgresql"])
def test_a_server_that_became_a_standby_is_out_of_reach(url: str) -> None:
    store = Store(url)

    def demote(connection: Any, _record: Any) -> None:
        connection.execute("SET default_transaction_read_only TO on")

    for engine in store.database.engines:
        event.listen(engine, "connect", demote)
    with pytest.raises(ServiceError, match="read-only"):
        store.intake.add(new(), sent=False)
    store.close()


def test_one_unreadable_experiment_does_not_stop_the_others(
    app: WlmCelery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll and a cancel go on past what another version has written."""
    world = World(app.runtime.store)
    bad, bad_token = world.submitted()
    good, good_token = world.submitted()
    world.sql("UPDATE experiments SET spec = '{}' WHERE id = :id", id=bad)
    backend = app.runtime.site("alpha").backend
    ended = JobStatus(state=JobState.SUCCEEDED, exit_code=0)
    monkeypatch.setattr(backend, "status", lambda refs: {ref.token: ended for ref in refs})
    assert [step.experiment_id for step in poll_site(app.runtime, "alpha", None)] == [good]
    assert good_token != bad_token
    world.store.intake.cancel(bad)
    asked: list[str] = []
    monkeypatch.setattr(backend, "cancel", lambda ref, wait_s: not asked.append(ref.token))  # type: ignore[func-returns-value]
    assert cancel_jobs(app.runtime, bad)
    assert asked == [bad_token]
    assert world.state(bad) is ExperimentState.CANCELLED
