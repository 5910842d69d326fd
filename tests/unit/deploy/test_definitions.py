"""The broker's definitions agree with celeryconfig.py and give nobody more than is needed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

import celeryconfig
from wlm_tasks.model.steps import ALL_QUEUES

DEPLOY = Path(__file__).parents[3] / "deploy"
RIGHTS = ("configure", "write", "read")


@pytest.fixture(scope="module")
def definitions() -> dict[str, Any]:
    text = (DEPLOY / "rabbitmq" / "definitions.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _named(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in rows}


def test_the_queues_are_those_of_celeryconfig(definitions: dict[str, Any]) -> None:
    queues = _named(definitions["queues"])
    assert set(queues) == {*ALL_QUEUES, "wlm.dead"}
    for queue in celeryconfig.task_queues:
        ours = queues[queue.name]
        assert ours["arguments"] == queue.queue_arguments
        assert ours["durable"] is queue.durable is True
        assert ours["auto_delete"] is False
    assert queues["wlm.dead"]["arguments"] == {"x-queue-type": "classic"}


def test_the_exchanges_are_those_of_celeryconfig(definitions: dict[str, Any]) -> None:
    exchanges = _named(definitions["exchanges"])
    kinds = {name: row["type"] for name, row in exchanges.items()}
    assert kinds == {
        "wlm": "direct",
        "wlm.schedule": "direct",
        "wlm.events": "topic",
        "wlm.dead": "direct",
    }
    assert all(row["durable"] and not row["internal"] for row in exchanges.values())
    for queue in celeryconfig.task_queues:
        assert (queue.exchange.name, queue.exchange.type) == ("wlm", kinds["wlm"])


def test_every_queue_is_bound_where_its_messages_go(definitions: dict[str, Any]) -> None:
    bindings = {
        (row["source"], row["routing_key"], row["destination"]) for row in definitions["bindings"]
    }
    expected = {("wlm", queue.routing_key, queue.name) for queue in celeryconfig.task_queues}
    expected |= {("wlm.schedule", "scheduler", "scheduler"), ("wlm.dead", "wlm.dead", "wlm.dead")}
    assert bindings == expected


def test_tasks_are_sent_through_the_exchange_that_users_may_write_to() -> None:
    """Without an exchange in its route Celery publishes to the default one.

    Whoever may write to that one may write into every queue of the virtual host.
    """
    for name, route in celeryconfig.task_routes.items():
        assert route.get("exchange") == "wlm", name
        assert route.get("routing_key") == route["queue"], name


def test_no_password_and_no_administrator_is_in_the_file(definitions: dict[str, Any]) -> None:
    for user in definitions["users"]:
        assert set(user) == {"name", "tags"}
        assert set(user["tags"]) <= {"management"}


def test_rights_are_whole_names_in_one_virtual_host(definitions: dict[str, Any]) -> None:
    users = set(_named(definitions["users"]))
    assert {row["user"] for row in definitions["permissions"]} == users
    for row in definitions["permissions"]:
        assert row["vhost"] == "wlm"
        for right in RIGHTS:
            pattern = row[right]
            assert pattern.startswith("^(")
            assert pattern.endswith(")$")
            assert not re.search(pattern, "")
            assert not re.search(pattern, "amq.default")
            assert not re.search(pattern, "payroll")
            assert not re.search(pattern, "jobsub.other")


@pytest.mark.parametrize(
    ("user", "right", "name", "allowed"),
    [
        ("wlm-worker", "read", "jobsub", True),
        ("wlm-worker", "write", "wlm", True),
        ("wlm-worker", "read", "w1@host.example.org.celery.pidbox", True),
        ("wlm-worker", "configure", "celeryev.0f2a", True),
        ("wlm-worker", "write", "wlm.events", False),
        ("wlm-worker", "read", "wlm.dead", False),
        ("wlm-worker", "read", "orchestrator.portal", False),
        ("wlm-control", "write", "wlm.events", True),
        ("wlm-control", "read", "wlm.dead", True),
        ("wlm-control", "read", "wlm.events", False),
        ("wlm-orchestrator", "write", "wlm.schedule", True),
        ("wlm-orchestrator", "write", "wlm", False),
        ("wlm-orchestrator", "read", "scheduler", False),
        ("wlm-orchestrator", "configure", "scheduler", False),
        ("wlm-orchestrator", "write", "wlm.events", False),
        ("wlm-orchestrator", "write", "celery.pidbox", False),
        ("wlm-flower", "read", "celeryev.0f2a", True),
        ("wlm-flower", "write", "wlm", False),
        ("wlm-flower", "read", "jobsub", False),
    ],
)
def test_rights_by_name(
    definitions: dict[str, Any], user: str, right: str, name: str, allowed: bool
) -> None:
    row = next(row for row in definitions["permissions"] if row["user"] == user)
    assert bool(re.search(row[right], name)) is allowed


def test_setup_sets_a_password_for_every_user(definitions: dict[str, Any]) -> None:
    script = (DEPLOY / "rabbitmq" / "setup.sh").read_text(encoding="utf-8")
    users = re.search(r'^users="(.*)"$', script, re.MULTILINE)
    assert users is not None
    assert set(users[1].split()) == set(_named(definitions["users"]))


# ---- the scripts


def _make_secrets(*words: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [str(DEPLOY / "make-secrets.sh"), *map(str, words)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_secrets_are_private_random_and_kept(tmp_path: Path) -> None:
    directory = tmp_path / "secrets"
    assert _make_secrets(directory, "mq", "db").returncode == 0
    first = {path.name: path.read_text() for path in directory.iterdir()}
    assert all(path.stat().st_mode & 0o077 == 0 for path in [directory, *directory.iterdir()])
    password = first["wlm-worker"].strip()
    assert re.fullmatch("[0-9a-f]{48}", password)
    assert first["worker-broker-url"] == f"amqp://wlm-worker:{password}@mq:5672/wlm\n"
    database = first["wlm-database"].strip()
    assert first["database-url"] == f"postgresql+psycopg://wlm:{database}@db:5432/wlm\n"
    assert len({text for name, text in first.items() if name.startswith("wlm-")}) == 5
    (directory / "worker-broker-url").unlink()
    assert _make_secrets(directory, "mq", "db").returncode == 0
    assert {path.name: path.read_text() for path in directory.iterdir()} == first


def test_settings_take_the_secrets_as_they_are_made(tmp_path: Path) -> None:
    from wlm_tasks.config import load  # noqa: PLC0415 - only this test needs it

    assert _make_secrets(tmp_path / "s", "mq", "db").returncode == 0
    environ = {
        "HOME": str(tmp_path),
        "WLM_BROKER_URL": f"file:{tmp_path}/s/worker-broker-url",
        "WLM_DATABASE_URL": f"file:{tmp_path}/s/database-url",
    }
    settings = load(environ=environ)
    assert settings.broker_url is not None
    assert settings.broker_url.reveal().startswith("amqp://wlm-worker:")
    assert settings.database.startswith("postgresql+psycopg://wlm:")


@pytest.mark.parametrize("script", ["make-secrets.sh", "rabbitmq/setup.sh"])
def test_a_script_without_arguments_says_how_to_call_it(script: str) -> None:
    done = subprocess.run([DEPLOY / script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_setup_names_the_password_that_is_missing_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "wlm-control").write_text("x")
    called = tmp_path / "called"
    fake = tmp_path / "rabbitmqctl"
    fake.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(called))}\n")
    fake.chmod(0o755)
    done = subprocess.run(
        [DEPLOY / "rabbitmq" / "setup.sh", tmp_path],
        env={"PATH": "/usr/bin:/bin", "RABBITMQCTL": str(fake)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "wlm-worker: expected a file with the password" in done.stderr
    assert not called.exists()
