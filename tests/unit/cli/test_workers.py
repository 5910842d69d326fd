"""``wlm workers`` and ``wlm alerts``: what they show, what they change, and bad input."""

from __future__ import annotations

import pytest
from sqlalchemy import update
from unit.cli.world import World

from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.state.alerts_schema import workers
from wlm_tasks.state.incidents import WORKER
from wlm_tasks.state.roster import Registration

NAME = "stage1@node7"


@pytest.fixture
def fleet(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("COLUMNS", "200")
    for number in (1, 2):
        world.store.roster.register(
            Registration(
                name=f"stage{number}@node7",
                incarnation="a1",
                host="node7",
                pid=4711,
                queues=("envsetup", "staging"),
                attributes={"slots": 4, "pool": "prefork", "cpus": 8, "zone": "room-1"},
            )
        )
    return world


def row(world: World, name: str = NAME, *more: str) -> str:
    lines = world.wlm("workers", *more).stdout.splitlines()
    return next(" ".join(line.split()) for line in lines if line.startswith(name))


def test_the_roster(fleet: World) -> None:
    assert row(fleet).startswith(f"{NAME} UP now now envsetup, staging 4 0/9 0 none yet")
    fleet.store.roster.note(NAME, "a1", '{"celery": "no heartbeat", "database": "alive"}')
    assert row(fleet).endswith("celery: no heartbeat")
    assert fleet.wlm("workers", "-o", "ids").stdout.split() == [NAME, "stage2@node7"]
    (first, _second) = fleet.json("workers")
    assert first["attributes"]["slots"] == 4
    assert first["witnesses"]["celery"] == "no heartbeat"
    assert first["running"] == []


def test_nobody(world: World) -> None:
    assert "Embedded" in world.wlm("workers").stderr


def test_one_worker(fleet: World) -> None:
    shown = fleet.wlm("workers", "show", NAME).stdout
    assert "zone          room-1" in shown
    assert "8 CPUs" in shown


def test_words_of_a_worker_do_no_harm_to_a_terminal(fleet: World) -> None:
    fleet.store.roster.note(NAME, "a1", '{"serf": "\\u001b[2J"}')
    assert "\x1b[2J" not in fleet.wlm("workers").stdout
    assert "\x1b[2J" not in fleet.wlm("workers", "show", NAME).stdout


def test_drain_and_resume(fleet: World) -> None:
    fleet.wlm("workers", "drain", NAME, "--for", "2h", code=0)
    fleet.wlm("workers", "drain", NAME, code=1)
    assert fleet.store.roster.refresh(NAME, "a1", load=0) is True
    fleet.wlm("workers", "resume", NAME, code=0)
    fleet.wlm("workers", "resume", NAME, code=1)


def test_maintenance_of_a_host(fleet: World) -> None:
    fleet.wlm("workers", "maintenance", "node7", "--for", "90m", "--reason", "new disks")
    assert "min more, says" in row(fleet)
    assert "new disks" in row(fleet, "stage2@node7")
    fleet.wlm("workers", "resume", "node7", code=0)
    assert "away" not in row(fleet)


def test_forgetting_one_that_is_missing(fleet: World) -> None:
    fleet.wlm("workers", "forget", NAME, code=1)
    with fleet.store.database.write() as connection:
        connection.execute(update(workers).where(workers.c.name == NAME).values(state="DOWN"))
    fleet.wlm("workers", "forget", NAME, code=0)
    assert fleet.wlm("workers", "-o", "ids").stdout.split() == ["stage2@node7"]
    assert row(fleet, NAME, "--all").startswith(f"{NAME} LEFT")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("drain", "stage9@node7"), "name: got 'stage9@node7', expected a worker of the roster"),
        (("show", "x"), "name: got 'x', expected a worker of the roster"),
        (("forget", "x"), "name: got 'x', expected a worker of the roster"),
        (("maintenance", "x", "--for", "2h"), "name: got 'x', expected a worker or a host"),
        (("maintenance", "node7"), "--for"),
        (("maintenance", "node7", "--for", "2"), "got '2', expected a length of time"),
        (("drain", NAME, "--for", "0s"), "got '0s', expected a length of time"),
        (("drain", NAME, "--for", "9999d"), "got '9999d', expected a length of time"),
    ],
)
def test_bad_input(fleet: World, arguments: tuple[str, ...], words: str) -> None:
    done = fleet.wlm("workers", *arguments, code=2)
    assert words in " ".join(done.stderr.split())


# -- alerts ---------------------------------------------------------------------------------


def test_no_alerts(world: World) -> None:
    shown = world.wlm("alerts", "ls").stdout
    assert "No incidents." in shown
    assert "No notices." in shown


def test_incidents_and_how_they_were_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    world.store.incidents.open(
        WORKER, NAME, NoticeKind.WORKER_DOWN, {"reason": "silent\x1b[2J"}, ("smtp",)
    )
    done = world.wlm("alerts", "ls")
    assert "\x1b[2J" not in done.stdout
    assert "worker    stage1@node7" in done.stdout
    assert "worker down" in done.stdout
    assert "waits" in done.stdout
    assert "The oldest notice" in done.stderr
    found = world.json("alerts", "ls")
    assert found["incidents"][0]["subject"] == NAME
    assert found["notices"][0]["notifier"] == "smtp"
    world.wlm("alerts", "ack", "1", code=0)
    world.wlm("alerts", "ack", "1", code=1)
    world.wlm("alerts", "ack", "x", code=2)


def test_a_test_goes_by_every_notifier(world: World) -> None:
    done = world.wlm("alerts", "test")
    assert done.stdout.split()[:2] == ["log", "sent"]
    world.file(
        """
[alerts]
admin = ["ops@example.org"]
smtp_url = "smtp://127.0.0.1:1"
""",
        "wlm.toml",
    )
    failed = World(world.directory).wlm("alerts", "test", code=2)
    assert "127.0.0.1:1" in failed.stderr


def test_a_notice_that_is_no_incident(world: World) -> None:
    notice = Notice(key="e:1", kind=NoticeKind.EXPERIMENT_ENDED, subject="exp-1", at=1.0)
    world.store.incidents.tell(notice, ("log",))
    assert "experiment ended" in world.wlm("alerts", "ls").stdout
