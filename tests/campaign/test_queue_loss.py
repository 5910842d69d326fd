"""Promise 2: nothing lives only in a queue."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from kombu import Connection

from services.fleet import ALL_QUEUES, Fleet, Layout
from services.processes import wait_for
from wlm_tasks.model.states import FINAL, ExperimentState

#: A fast pace, so that a short run sees many sweeps and lease ends.
FAST = """
[steps]
lease_s = 10
heartbeat_s = 1
[control]
tick_s = 0.5
sweep_s = 1
grace_s = 2
lease_s = 5
"""


def delete_queues(url: str) -> None:
    """Purge and delete every queue of ours, with whatever is in them."""
    with Connection(url) as connection:
        for queue in ALL_QUEUES.split(","):
            with closing(cast(Any, connection.channel())) as channel:
                try:
                    channel.queue_purge(queue)
                    channel.queue_delete(queue)
                except connection.channel_errors:
                    continue  # not declared again yet


@pytest.mark.campaign
@pytest.mark.timeout(400)
@pytest.mark.parametrize("carry_on", ["true", "false"])
def test_all_queues_deleted_three_times(
    tmp_path: Path, broker_url: str, long_campaign: bool, carry_on: str
) -> None:
    """Experiments in flight survive it, and every payload runs exactly once."""
    count = 1000 if long_campaign else 200
    layout = Layout(
        workers=("envsetup,staging", "jobsub,monitor", ALL_QUEUES),
        settings=FAST.replace("[steps]", f"[steps]\ncarry_on = {carry_on}"),
    )
    with Fleet(tmp_path, broker_url, layout) as fleet:
        sweep = fleet.sweep(count)
        for share in (0.05, 0.3, 0.6):

            def reached(share: float = share) -> bool:
                return sweep.status.get(ExperimentState.DONE, 0) >= share * count

            wait_for(reached, 120, f"{share:.0%} of the experiments", interval=0.1)
            delete_queues(broker_url)
            threading.Event().wait(0.1)
        wait_for(lambda: FINAL.issuperset(sweep.status), 240, "all experiments", interval=0.2)
        assert sweep.status == {ExperimentState.DONE: count}, fleet.logs()
        fleet.check_once(count)
        print(  # noqa: T201 - the campaign's result
            f"queue loss: {count} experiments, 0 lost, 0 twice, {fleet.steps_rerun()} steps re-run"
        )
