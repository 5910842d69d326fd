"""Settings and definitions: the broker takes them, and Celery finds what it expects."""

from __future__ import annotations

import pytest
from amqp.exceptions import AccessRefused
from integration.deploy.broker import DEPLOY, USERS, DeployedBroker
from kombu import Connection

import celeryconfig
from services.processes import wait_for
from wlm_tasks.control.queues import DEAD, DEAD_QUEUE, EVENTS
from wlm_tasks.model.steps import ALL_QUEUES

pytestmark = pytest.mark.rabbitmq


def test_the_broker_has_taken_the_shipped_settings(broker: DeployedBroker) -> None:
    keys = ("heartbeat", "consumer_timeout", "max_message_size", "loopback_users")
    asked = ", ".join(f"element(2, application:get_env(rabbit, {key}))" for key in keys)
    answer = broker.server.ctl("eval", f"{{{asked}}}.")
    assert answer.strip() == '{10,1800000,4194304,[<<"guest">>]}'


def test_celery_finds_the_queues_as_it_would_declare_them(broker: DeployedBroker) -> None:
    """A queue with other arguments is refused with 406 PRECONDITION_FAILED."""
    for user in ("wlm-worker", "wlm-control"):
        with broker.connect(user) as connection:
            for queue in celeryconfig.task_queues:
                queue(connection.default_channel).declare()
    with broker.connect("wlm-control") as connection:
        for entity in (EVENTS, DEAD, DEAD_QUEUE):
            entity(connection.default_channel).declare()
    asked = ("list_queues", "-p", "wlm", "name", "--no-table-headers")
    expected = sorted([*ALL_QUEUES, "wlm.dead"])
    # those of workers that have just ended go away by themselves
    wait_for(lambda: sorted(broker.server.ctl(*asked).split()) == expected, 70, "our queues")


def test_an_import_takes_passwords_away_and_setup_gives_them_back(broker: DeployedBroker) -> None:
    broker.server.ctl("import_definitions", str(DEPLOY / "rabbitmq" / "definitions.json"))
    for user in USERS:
        for password in ((broker.secrets / user).read_text().strip(), "", user, "guest"):
            with pytest.raises(AccessRefused), broker.connect(user, password) as connection:
                connection.connect()
    assert "vhost wlm is ready" in broker.set_up()
    for user in USERS:
        with broker.connect(user) as connection:
            connection.connect()


def test_no_user_gets_into_another_virtual_host(broker: DeployedBroker) -> None:
    for user in USERS:
        with (
            pytest.raises(AccessRefused),
            Connection(broker.url(user).replace("/wlm", "/%2F")) as connection,
        ):
            connection.connect()
