"""Events on a real broker, whatever their consumers' queues are like."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from wlm_tasks.celery import WlmCelery, make_app
from wlm_tasks.config import load
from wlm_tasks.control.outbox import publish
from wlm_tasks.control.queues import declare
from wlm_tasks.model.sites import Evidence, SiteState


@pytest.fixture
def app(tmp_path: Path, broker_url: str) -> Iterator[WlmCelery]:
    """An app with empty tables and its queues on the broker."""
    environ = {
        "WLM_DATA_DIR": str(tmp_path),
        "HOME": str(tmp_path),
        "WLM_BROKER_URL": "env:TEST_BROKER",
        "TEST_BROKER": broker_url,
    }
    made = make_app(load(environ=environ))
    made.runtime.store.database.upgrade()
    declare(made)
    yield made
    made.runtime.close()
    made.close()


def test_a_queue_that_is_full_keeps_the_events_from_nobody_else(
    app: WlmCelery, broker_url: str
) -> None:
    """Its owner wanted it to refuse; others get each event once, and control does not wait."""
    coordination = app.runtime.store.coordination
    for number in range(3):
        coordination.reject_submission(f"order-{number}", "no such site")
    with Connection(broker_url) as connection:
        channel: Any = connection.default_channel
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare("full", durable=True, auto_delete=False, arguments=full)
        channel.queue_declare("roomy", durable=True, auto_delete=False)
        for queue in ("full", "roomy"):
            channel.queue_bind(queue, "wlm.events", routing_key="#")
        begun = time.monotonic()
        assert publish(app) == 3
        assert publish(app) == 0
        assert time.monotonic() - begun < 8  # a time-out would take ten
        assert channel.queue_declare("roomy", passive=True)[1] == 3
    assert coordination.count_unpublished() == 0


def test_a_change_of_a_site_goes_out_once(app: WlmCelery, broker_url: str) -> None:
    sites = app.runtime.store.sites
    with Connection(broker_url) as connection:
        channel: Any = connection.default_channel
        channel.queue_declare("mine", durable=True, auto_delete=False)
        channel.queue_bind("mine", "wlm.events", routing_key="site.#")
        for _ in range(3):  # several workers run into the same wall
            gone = Evidence(state=SiteState.UNREACHABLE, by="setup", reason="no route")
            sites.report("cluster.a", gone, who="w1@host")
        assert publish(app) == 1
        message = channel.basic_get("mine", no_ack=True)
        assert channel.basic_get("mine") is None
    info, said = message.delivery_info, json.loads(message.body)
    assert (info["routing_key"], message.properties["type"]) == (
        "site.cluster_a.UNREACHABLE", "SITE",
    )  # fmt: skip
    assert said.pop("event") == int(message.properties["message_id"])
    assert said.pop("at") == pytest.approx(app.runtime.store.views.now(), abs=60)
    assert said == {
        "site": "cluster.a",
        "state": "UNREACHABLE",
        "was": "UP",
        "reason": "no route",
        "by": "w1@host",
    }
