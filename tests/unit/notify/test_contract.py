"""What every notifier promises. A new one joins the fixture `way`."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from unit.notify.cases import CASES, DOWN, HEAD
from unit.notify.conftest import SECRET, Way

from wlm_tasks import plugins
from wlm_tasks.config import AlertSettings, Secret
from wlm_tasks.errors import ConfigError, NotifyUnavailableError
from wlm_tasks.model.notices import Notice
from wlm_tasks.notify.message import Message
from wlm_tasks.notify.words import compose, summary


def test_what_is_sent_arrives(way: Way, message: Message) -> None:
    way.notifier.send(message)
    ((name, text),) = way.arrived()
    assert name in {"", message.message_id}
    assert text in {message.text, f"notice down:17: {summary(DOWN)}"}


def test_all_of_a_digest_arrives(way: Way) -> None:
    way.notifier.send(compose(CASES, HEAD))
    told = " ".join(" ".join(text for _name, text in way.arrived()).split())
    missing = [case for case in CASES if case.subject not in told and case.key not in told]
    assert missing == []


def test_the_same_again_has_the_same_id(way: Way, message: Message) -> None:
    way.notifier.send(message)
    way.notifier.send(message)
    assert len(way.arrived()) == 2
    assert len({name for name, _text in way.arrived()}) == 1


def test_threads_may_send_at_the_same_time(way: Way) -> None:
    messages = [compose([case], HEAD) for case in CASES[:6]]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(way.notifier.send, messages))
    assert len(way.arrived()) == 6


def test_a_look_tells_nobody(way: Way) -> None:
    where = way.notifier.check()
    assert where.isprintable()
    assert SECRET not in where
    assert way.arrived() == []


def test_what_cannot_be_sent_can_be_sent_later(way: Way, message: Message) -> None:
    if way.breaks:
        way.cut()
        with pytest.raises(NotifyUnavailableError) as caught:
            way.notifier.send(message)
        assert str(caught.value).isprintable()
        assert SECRET not in str(caught.value)
        way.mend()
    way.notifier.send(message)
    assert len(way.arrived()) == 1


def test_names_of_strangers_arrive_as_text(way: Way) -> None:
    evil = "x\r\nBcc: evil@example.org\r\n\r\n\u202e\ud800 'ü'"
    notice = Notice(key=evil, kind=DOWN.kind, subject=evil, at=DOWN.at, detail={"reason": evil})
    message = compose([notice], HEAD)
    way.notifier.send(message)
    ((_name, text),) = way.arrived()
    assert "x Bcc: evil@example.org \\u202e\\ud800 'ü'" in " ".join(text.split())


# -- which there are ---------------------------------------------------------------------------

MAIL = AlertSettings(admin=("a@b",), smtp_url=Secret("smtp://h"))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (AlertSettings(), ["log"]),
        (MAIL, ["log", "smtp"]),
        (AlertSettings(admin=("a@b",)), ["log"]),
        (AlertSettings(webhook_url=Secret("http://h/x")), ["log", "webhook"]),
        (AlertSettings(notifiers=("log",), admin=MAIL.admin, smtp_url=MAIL.smtp_url), ["log"]),
    ],
)
def test_those_that_are_configured_or_named_are_used(
    settings: AlertSettings, names: list[str]
) -> None:
    assert list(plugins.notifiers(settings)) == names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("smtp", "alerts.smtp_url and alerts.admin, too"),
        ("webhook", "alerts.webhook_url, too"),
        ("pager", "one of: log, smtp, webhook"),
    ],
)
def test_one_that_cannot_be_is_told(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"alerts.notifiers: got '{name}', expected {expected}"):
        plugins.notifiers(AlertSettings(notifiers=(name,)))
