"""``wlm doctor``: what it finds without a broker, and that it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from unit.cli.world import World

from services.fixtures import MakeSmtp
from services.smtpserver import PrivateSmtp
from wlm_tasks.config import AlertSettings, Secret, Settings
from wlm_tasks.control import doctor
from wlm_tasks.control.broker import Mismatch, QueueLook
from wlm_tasks.control.findings import Finding, Level


def _found(world: World, code: int = 0) -> dict[str, dict[str, str]]:
    shown = world.wlm("doctor", "-o", "json", code=code)
    return {one["name"]: one for one in json.loads(shown.stdout)}


def test_all_is_well_but_nobody_works(world: World) -> None:
    found = _found(world)
    levels = {name: one["level"] for name, one in found.items()}
    assert levels.pop("control") == "warn"
    assert set(levels.values()) == {"ok"}
    assert found["control"]["mend"] == "wlm up"
    shown = world.wlm("doctor").stdout
    assert "[warn] control: no control process is alive\n       mend: wlm up" in shown
    assert "0 failed, 1 warning\n" in shown


def test_a_living_control_is_found(world: World) -> None:
    world.store.coordination.acquire("dispatch", "host:1:abc", 60.0)
    assert _found(world)["control"]["text"] == "alive: host:1:abc"
    assert "all is well" in world.wlm("doctor").stdout


def test_looking_makes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World
) -> None:
    monkeypatch.setenv("WLM_DATA_DIR", str(tmp_path / "new" / "data"))
    found = _found(world)
    assert found["data_dir"]["text"].endswith("made at first use")
    assert found["database"]["text"].endswith("made at first use")
    assert not (tmp_path / "new").exists()


def test_a_wrong_setting_is_a_finding(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WLM_STEPS_LEASE_S", "soon")
    found = _found(world, code=1)
    assert found["settings"]["level"] == "FAIL"
    assert "WLM_STEPS_LEASE_S: got 'soon'" in found["settings"]["text"]


def test_a_directory_that_is_a_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WLM_DATA_DIR", world.file("x", "file"))
    found = _found(world, code=1)
    assert found["data_dir"]["level"] == "FAIL"


def test_a_database_out_of_reach(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("WLM_DATABASE_URL", "postgresql+psycopg://wlm@127.0.0.1:1/wlm")
    found = _found(world, code=1)
    assert found["database"]["level"] == "FAIL"
    assert "start it" in found["database"]["mend"]
    assert "events" not in found


def test_a_broker_out_of_reach(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WLM_BROKER_URL", "amqp://wlm:geheim@127.0.0.1:1/wlm")
    found = _found(world, code=1)
    assert found["broker"]["level"] == "FAIL"
    assert "127.0.0.1:1" in found["broker"]["text"]
    assert "geheim" not in str(found)
    assert "events" in found


def test_alerts_that_would_arrive(
    world: World, monkeypatch: pytest.MonkeyPatch, smtp: PrivateSmtp
) -> None:
    monkeypatch.setenv("WLM_ALERTS_ADMIN", "ops@example.org")
    monkeypatch.setenv("WLM_ALERTS_SMTP_URL", smtp.url)
    monkeypatch.setenv("WLM_ALERTS_WEBHOOK_URL", "http://localhost:9/token")
    found = _found(world)
    assert found["alerts"]["text"] == "people are told by log, smtp, webhook"
    assert found["alerts smtp"]["text"].endswith(f"{smtp.port}: not encrypted; to ops@example.org")
    assert found["alerts webhook"]["text"] == "http://localhost:9"
    assert smtp.received() == []


def test_alerts_that_would_not_arrive(
    world: World, monkeypatch: pytest.MonkeyPatch, make_smtp: MakeSmtp
) -> None:
    smtp = make_smtp(smtps=True, password="geheim")
    monkeypatch.setenv("WLM_ALERTS_ADMIN", "ops@example.org")
    monkeypatch.setenv("WLM_ALERTS_CA_FILE", str(smtp.cert_file))
    monkeypatch.setenv("WLM_ALERTS_SMTP_URL", smtp.url.replace("geheim", "falsch"))
    monkeypatch.setenv("WLM_ALERTS_WEBHOOK_URL", "https://nowhere.invalid/token")
    found = _found(world, code=1)
    assert "refuses the login of gateway: 535" in found["alerts smtp"]["text"]
    assert found["alerts webhook"]["text"] == "https://nowhere.invalid: the host cannot be found"
    smtp.stop()
    found = _found(world, code=1)
    assert found["alerts smtp"]["text"] == f"127.0.0.1:{smtp.port}: connection refused"
    assert not any(word in str(found) for word in ("falsch", "token"))


def test_an_unknown_notifier_is_a_finding(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WLM_ALERTS_NOTIFIERS", "smpt")
    found = _found(world, code=1)
    assert "got 'smpt', expected one of: log, smtp, webhook" in found["alerts"]["text"]


@pytest.mark.parametrize(
    ("settings", "level", "text"),
    [
        ({}, Level.WARN, "no notifier is configured"),
        ({"admin": ("a@b",)}, Level.WARN, "alerts.smtp_url is not: no mail is sent"),
        ({"smtp_url": Secret("smtp://h")}, Level.WARN, "alerts.admin is not: nobody gets mail"),
    ],
)
def test_alerts_for_nobody(settings: dict[str, Any], level: Level, text: str) -> None:
    fleet = Settings(
        data_dir=Path("/d"),
        broker_url=Secret("amqp://mq"),
        alerts=AlertSettings(**settings),
    )
    found = doctor.judge_alerts(fleet, ["log"])
    assert found.level is level
    assert text in found.text
    assert found.mend is not None


def test_a_site_that_takes_no_files(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WLM_SITES_LOCAL_SCRATCH", world.file("x", "scratch"))
    assert _found(world, code=1)["site local"]["level"] == "FAIL"


def test_a_site_of_an_unknown_kind(world: World) -> None:
    world.file('[sites.moon]\nkind = "lander"\nscratch = "/moon"\n', "wlm.toml")
    found = _found(world, code=1)
    assert "expected one of: aurora, local" in found["site moon"]["text"]


def test_what_waits_for_a_person(world: World) -> None:
    world.paused()
    world.store.polls.sent("local")
    world.store.polls.done("local", "ssh: no route")
    found = _found(world)
    assert found["paused"]["level"] == "warn"
    assert "1 experiments" in found["paused"]["text"]
    assert "ssh: no route" in found["site local"]["text"]


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (doctor.judge_clock(0.5), Level.OK, "agree"),
        (doctor.judge_clock(-2.5), Level.WARN, "2.5 s behind"),
        (doctor.judge_clock(3.0), Level.WARN, "3.0 s ahead of"),
        (doctor.judge_database("db", "1", "1"), Level.OK, "revision 1"),
        (doctor.judge_database("db", None, "1"), Level.FAIL, "at revision none"),
        (doctor.judge_slice(600.0), Level.OK, "600 s at most"),
        (doctor.judge_slice(1800.0), Level.WARN, "is 1800 s"),
        (doctor.judge_outbox(5), Level.OK, "5 wait"),
        (doctor.judge_outbox(5000), Level.WARN, "5000 wait"),
        (doctor.judge_control({}, embedded=False), Level.WARN, "no control"),
        (doctor.judge_control({"a": "h:1", "b": "h:1"}, embedded=False), Level.OK, "alive: h:1"),
        (doctor.judge_plugins(["local"], ["file"]), Level.OK, "sites: local"),
        (doctor.judge_plugins([], []), Level.FAIL, "not registered"),
    ],
)
def test_judgements(finding: Finding, level: Level, words: str) -> None:
    assert finding.level is level
    assert words in finding.text
    assert (finding.mend is None) == (level is Level.OK)


def test_queues_without_worker_make_one_command_that_starts_one() -> None:
    looks = [
        QueueLook(name="envsetup", messages=0, consumers=2),
        QueueLook(name="jobsub", messages=3, consumers=0),
        QueueLook(name="monitor", messages=None, consumers=None),
    ]
    found = doctor.judge_workers(looks)
    assert found.level is Level.WARN
    assert found.text == "none serves jobsub, monitor, where 3 messages wait"
    assert found.mend == "celery -A wlm_tasks worker -Q jobsub,monitor"
    served = doctor.judge_workers(looks[:1])
    assert (served.level, served.text) == (Level.OK, "by queue: envsetup 2")


def test_what_is_missing_at_the_broker_is_one_finding() -> None:
    found = doctor.judge_missing(["exchange wlm", "queue jobsub"])
    assert (found.level, found.text) == (Level.WARN, "not there: exchange wlm, queue jobsub")
    assert doctor.judge_missing([]).level is Level.OK


@pytest.mark.parametrize(
    ("name", "words", "level", "mend"),
    [
        (
            "queue jobsub",
            "PRECONDITION_FAILED - x",
            Level.FAIL,
            "rabbitmqctl delete_queue -p VHOST jobsub",
        ),
        ("exchange wlm", "PRECONDITION_FAILED - type", Level.FAIL, "delete exchange wlm"),
        ("queue jobsub", "ACCESS_REFUSED - no", Level.WARN, "give this user the right"),
    ],
)
def test_what_is_not_as_it_should_be_at_the_broker(
    name: str, words: str, level: Level, mend: str
) -> None:
    found = doctor.judge_mismatch(Mismatch(name=name, missing=False, words=words))
    assert found.level is level
    assert mend in (found.mend or "")
