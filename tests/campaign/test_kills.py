"""Promises 1 and 3: kill anything, any time; every payload runs once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from campaign.test_queue_loss import FAST

from services.fixtures import MakeRabbitMQ
from services.fleet import ALL_QUEUES, Chaos, Fleet, Layout
from wlm_tasks.model.states import FINAL, ExperimentState


@pytest.mark.campaign
@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_kill_9_at_random_times(
    tmp_path: Path,
    make_rabbitmq: MakeRabbitMQ,
    request: pytest.FixtureRequest,
    long_campaign: bool,
    database: str,
) -> None:
    """Worker mains, pool children, control and broker: 0 lost, 0 payloads twice, no hand on it."""
    count, faults = (1000, 150) if long_campaign else (200, 20)
    url = request.getfixturevalue("postgresql_url") if database == "postgresql" else None
    broker = make_rabbitmq()
    layout = Layout(
        workers=("envsetup,staging", "jobsub,monitor", ALL_QUEUES),
        controls=2,
        database_url=url,
        settings=FAST,
    )
    with Fleet(tmp_path, broker.url, layout) as fleet:
        begun = time.monotonic()
        sweep = fleet.sweep(count)
        chaos = Chaos(fleet, broker, seed=2026)
        chaos.run_until(lambda: FINAL.issuperset(sweep.status), faults=faults, timeout_s=400)
        assert sweep.status == {ExperimentState.DONE: count}, fleet.logs()
        fleet.check_once(count)
        kills = ", ".join(f"{number} {target}" for target, number in sorted(chaos.done.items()))
        print(  # noqa: T201 - the campaign's result
            f"kills on {database}: {count} experiments, {kills}: 0 lost, 0 twice, "
            f"{fleet.steps_rerun()} steps re-run, {time.monotonic() - begun:.0f} s in all"
        )
