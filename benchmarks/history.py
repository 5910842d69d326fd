"""A database with a long history: sweeps taken in by the store and ended by SQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from sqlalchemy import text

from benchmarks import ours
from benchmarks.work import SWEPT
from wlm_tasks.model.experiment import fingerprint
from wlm_tasks.scheduler.submission import Submission, plans
from wlm_tasks.state.intake import NewExperiment, NewSweep, new_id

SWEEPS: Final = 10
#: experiments that run, all of the newest sweep
RUNNING: Final = 50
#: fewest experiments: some of the newest sweep wait
LEAST: Final = 3000
#: the part of the newest sweep that has ended; of the older ones everything has
_ENDED: Final = 0.8
_STATEMENTS: Final = (
    "UPDATE experiments SET ended_at = created_at + 60, updated_at = created_at + 60,"
    " state = CASE member % 100 WHEN 0 THEN 'FAILED' WHEN 1 THEN 'CANCELLED' ELSE 'DONE' END"
    " WHERE sweep_id <> :newest OR member < :ended",
    "UPDATE experiments SET state = 'RUNNING', updated_at = created_at + 60"
    " WHERE sweep_id = :newest AND member >= :ended AND member < :ended + :running",
    "UPDATE steps SET state = 'DONE', message_id = 'm', started_at = one.created_at,"
    " ended_at = one.created_at + 60 FROM experiments AS one"
    " WHERE one.id = steps.experiment_id AND one.state <> 'QUEUED'",
    "UPDATE steps SET state = CASE seq WHEN 3 THEN 'WATCHING' ELSE 'WAITING' END, ended_at = NULL"
    " FROM experiments AS one"
    " WHERE one.id = steps.experiment_id AND one.state = 'RUNNING' AND seq > 2",
    "INSERT INTO jobs (token, experiment_id, number, site, state, workdir, created_at)"
    " SELECT 'wlm-' || id, id, 1, site,"
    " CASE state WHEN 'RUNNING' THEN 'RUNNING' ELSE 'SUCCEEDED' END, '/w', created_at"
    " FROM experiments WHERE state <> 'QUEUED'",
    "UPDATE events SET published = 1",
)


def fill(system: ours.System, count: int) -> None:
    """Store `count` experiments in ten sweeps; most have ended, 50 run and some wait.

    PostgreSQL then gets the statistics that its autovacuum would have made meanwhile.
    """
    if count < LEAST:
        raise ValueError(f"experiments: got {count}, expected {LEAST} or more")
    size = count // SWEEPS
    members = list(_members(system, size))
    for _ in range(SWEEPS):
        newest = _store(system, [replace(one, id=new_id("exp")) for one in members])
    values = {"newest": newest, "ended": int(size * _ENDED), "running": RUNNING}
    with system.store.database.write() as connection:
        for statement in _STATEMENTS:
            connection.execute(text(statement), values)
    if not system.store.database.is_sqlite:
        with system.store.database.read() as connection:
            connection.execute(text("VACUUM ANALYZE"))
    _check(system, size)


def _members(system: ours.System, size: int) -> Iterator[NewExperiment]:
    sweep = {"n": list(range(size))}
    submission = Submission(experiment=SWEPT, sweep=sweep)
    params, planned = plans(system.client.runtime, submission)
    for values, plan in zip(params, planned, strict=True):
        one = plan.experiment
        yield NewExperiment(
            id="",
            name=one.name,
            site=one.site,
            priority=one.priority,
            spec=one.to_json(),
            fingerprint=fingerprint(one),
            steps=plan.steps,
            params=values,
        )


def _store(system: ours.System, members: list[NewExperiment]) -> str:
    """Take in one sweep; returns its id."""
    sweep = NewSweep(id=new_id("swp"), name=SWEPT.name, fingerprint="f" * 64, size=len(members))
    return system.store.intake.add_sweep(sweep, members)


def _check(system: ours.System, size: int) -> None:
    """Raise unless the database holds what it should."""
    found, waiting = system.count("experiments"), size - int(size * _ENDED) - RUNNING
    right = sum(found.values()) == SWEEPS * size and found.get("RUNNING") == RUNNING
    if not right or found.get("QUEUED") != waiting or system.count("jobs")["RUNNING"] != RUNNING:
        raise RuntimeError(f"expected {SWEEPS * size} experiments, {RUNNING} running: {found}")
