"""Nothing holds a message long: jobs and transfers outlast the broker's consumer_timeout."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.fixtures import MakeRabbitMQ
from services.fleet import Fleet, Layout
from wlm_tasks import Experiment, Transfer

SETTINGS = "[steps]\nslice_s = 8\nlease_s = 20\nheartbeat_s = 2\n[staging]\nbytes_per_s = 1000000\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_job_and_a_transfer_of_a_minute(tmp_path: Path, make_rabbitmq: MakeRabbitMQ) -> None:
    """With a consumer_timeout of 20 s both finish, once, and no worker dies."""
    broker = make_rabbitmq(consumer_timeout_s=20, channel_tick_s=5)
    big = tmp_path / "big.dat"
    big.write_bytes(bytes(range(256)) * 234_375)  # 60 MB: a minute at that rate
    with Fleet(tmp_path / "fleet", broker.url, Layout(settings=SETTINGS)) as fleet:
        job = fleet.sweep(1, seconds=60)
        transfer = fleet.client.schedule(
            Experiment(
                name="transfer",
                site="local",
                commands=["cmp big.dat copy.dat 2>/dev/null || wc -c < big.dat"],
                inputs=[Transfer(str(big), "big.dat")],
            )
        )
        transfer.wait(200)
        job.wait(100)
        assert transfer.job is not None
        assert transfer.job.stdout().strip() == "60000000"
        fleet.check_once(1)
        assert fleet.restarts == 0
        for name, process in fleet.processes.items():
            assert process.running
            assert "PRECONDITION_FAILED" not in process.output, name
        stage_in = next(step for step in transfer.steps if step.name == "stage_in")
        assert stage_in.attempts >= 5, "a minute in slices of 8 s"
