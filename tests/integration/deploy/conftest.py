"""The broker that deploy/ sets up, once for all tests of this directory."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from integration.deploy.broker import DEPLOY, DeployedBroker, shipped_config
from kombu import Connection

from services import require_service
from services.rabbitmq import PrivateRabbitMQ
from wlm_tasks.model.steps import ALL_QUEUES


@pytest.fixture(scope="session")
def broker(session_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeployedBroker]:
    require_service("RabbitMQ", PrivateRabbitMQ.available())
    secrets = tmp_path_factory.mktemp("secrets")
    subprocess.run([DEPLOY / "make-secrets.sh", secrets], check=True)
    directory = session_dir / "rabbitmq-deploy"
    with PrivateRabbitMQ(directory, config=shipped_config()) as server:
        made = DeployedBroker(server, secrets)
        made.set_up()
        # for what tests themselves do to it
        server.ctl("set_permissions", "-p", "wlm", "guest", ".*", ".*", ".*")
        yield made


@pytest.fixture
def empty(broker: DeployedBroker) -> DeployedBroker:
    """The broker with nothing in its queues."""
    with Connection(broker.server.vhost_url("wlm")) as connection:
        channel: Any = connection.default_channel
        for name in (*ALL_QUEUES, "wlm.dead"):
            channel.queue_purge(name)
    return broker
