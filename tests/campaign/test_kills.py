"""Promises 1 and 3: kill anything, any time; every payload runs once."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from campaign.test_queue_loss import FAST

from services.fixtures import MakePostgreSQL, MakeRabbitMQ
from services.fleet import ALL_QUEUES, Chaos, Fleet, Layout
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.states import FINAL, ExperimentState


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_kill_9_at_random_times(
    tmp_path: Path,
    make_rabbitmq: MakeRabbitMQ,
    make_postgresql: MakePostgreSQL,
    long_campaign: bool,
    database: str,
) -> None:
    """Worker mains, pool children, control, broker and database, which loses what it had not
    flushed: 0 experiments lost, 0 payloads twice, no hand on it.
    """
    count, faults = (1000, 150) if long_campaign else (200, 20)
    broker = make_rabbitmq()
    server = make_postgresql() if database == "postgresql" else None
    layout = Layout(
        workers=("envsetup,staging", "jobsub,monitor", ALL_QUEUES),
        controls=2,
        database_url=None if server is None else server.new_database(),
        settings=FAST,
    )
    with Fleet(tmp_path, broker.url, layout) as fleet:
        begun = time.monotonic()
        sweep = fleet.sweep(count)
        chaos = Chaos(fleet, broker, seed=2026, postgresql=server)

        def ended() -> bool:
            with suppress(ServiceError):  # the database may just be down
                return FINAL.issuperset(sweep.status)
            return False

        chaos.run_until(ended, faults=faults, timeout_s=400)
        assert sweep.status == {ExperimentState.DONE: count}, fleet.logs()
        fleet.check_once(count)
        kills = ", ".join(f"{number} {target}" for target, number in sorted(chaos.done.items()))
        print(  # noqa: T201 - the campaign's result
            f"kills on {database}: {count} experiments, {kills}: 0 lost, 0 twice, "
            f"{fleet.steps_rerun()} steps re-run, {time.monotonic() - begun:.0f} s in all"
        )
