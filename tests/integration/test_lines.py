"""Sending on connections that are kept open, on a real broker that does not stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.fixtures import MakeRabbitMQ
from wlm_tasks.celery import WlmCelery, make_app
from wlm_tasks.config import load
from wlm_tasks.control import broker
from wlm_tasks.control.queues import declare
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.steps import StepName
from wlm_tasks.scheduler.chain import hang_up, send
from wlm_tasks.state.advance import NextStep

STEP = NextStep("exp-abcdefghij", (StepName.SETUP, StepName.SUBMIT), 4)


@contextmanager
def app_of(url: str, directory: Path) -> Iterator[WlmCelery]:
    """An app whose queues are on this broker."""
    environ = {
        "WLM_DATA_DIR": str(directory),
        "HOME": str(directory),
        "WLM_BROKER_URL": "env:TEST_BROKER",
        "TEST_BROKER": url,
    }
    made = make_app(load(environ=environ))
    declare(made)
    try:
        yield made
    finally:
        hang_up(made)
        made.runtime.close()
        made.close()


def waiting(app: WlmCelery) -> int | None:
    """Messages in the queue of the step."""
    with broker.connected(app) as connection:
        return broker.look_at(connection, "envsetup").messages


def test_a_line_is_used_again_and_replaced_once_the_broker_has_closed_it(
    make_rabbitmq: MakeRabbitMQ, tmp_path: Path
) -> None:
    server = make_rabbitmq()
    with app_of(server.new_vhost(), tmp_path) as app:
        send(app, [STEP])
        send(app, [STEP, STEP])
        assert waiting(app) == 3
        server.stop()
        with pytest.raises(ServiceError, match="broker"):
            send(app, [STEP])
        server.start()
        send(app, [STEP])  # the first write on the old connection would have gone nowhere
        assert waiting(app) == 4


def test_a_channel_closed_by_an_error_is_replaced(broker_url: str, tmp_path: Path) -> None:
    with app_of(broker_url, tmp_path) as app:
        send(app, [STEP])
        with broker.connected(app) as connection:
            channel: Any = connection.default_channel
            channel.exchange_delete("wlm")
        send(app, [STEP])  # goes nowhere, and the broker closes the channel
        declare(app)
        send(app, [STEP])
        assert waiting(app) == 2


def test_the_lines_of_many_apps_are_all_closed(broker_url: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        apps = [stack.enter_context(app_of(broker_url, tmp_path)) for _ in range(10)]
        for app in apps:
            send(app, [STEP])
        assert waiting(apps[0]) == len(apps)
    apps.clear()
    gc.collect()  # a socket that was left open would now be told as a warning, which is an error
