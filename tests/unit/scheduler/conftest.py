"""An app with settings of the test's own and a broker in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wlm_tasks.celery import WlmCelery, make_app
from wlm_tasks.config import Settings, load
from wlm_tasks.model.steps import ALL_QUEUES
from wlm_tasks.scheduler.chain import hang_up


@pytest.fixture
def test_settings(tmp_path: Path) -> Settings:
    """Embedded, with two sites that do nothing."""
    file = tmp_path / "wlm.toml"
    file.write_text(
        f'data_dir = "{tmp_path}/data"\n'
        f'[sites.alpha]\nkind = "noop"\nscratch = "{tmp_path}/scratch"\n'
        f'[sites.beta]\nkind = "noop"\nscratch = "{tmp_path}/scratch"\n'
    )
    return load(file, environ={"HOME": str(tmp_path)})


@pytest.fixture
def app(test_settings: Settings) -> Iterator[WlmCelery]:
    """An app whose queues are empty."""
    made = make_app(test_settings)
    _purge(made)
    yield made
    _purge(made)
    made.runtime.close()
    hang_up(made)
    made.close()


def _purge(app: WlmCelery) -> None:
    with app.connection_for_write() as connection:
        for name in ALL_QUEUES:
            queue = app.amqp.queues[name](connection.default_channel)
            queue.declare()
            queue.purge()


class Queues:
    """Takes messages out of the broker's queues."""

    def __init__(self, app: WlmCelery) -> None:
        self._app = app

    def take(self, name: str) -> list[Any]:
        """All messages of a queue, as kombu gives them."""
        found = []
        with self._app.connection_for_read() as connection:
            queue = self._app.amqp.queues[name](connection.default_channel)
            while (message := queue.get(no_ack=True)) is not None:
                found.append(message)
        return found

    def take_all(self) -> dict[str, list[Any]]:
        """All messages of all queues, by queue; none for an empty one."""
        found = {name: self.take(name) for name in ALL_QUEUES}
        return {name: messages for name, messages in found.items() if messages}


@pytest.fixture
def queues(app: WlmCelery) -> Queues:
    return Queues(app)
