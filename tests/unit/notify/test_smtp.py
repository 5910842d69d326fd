"""Mail by a real server, which refuses, stalls and breaks in all the ways servers do."""

from __future__ import annotations

import logging
from dataclasses import replace
from email import policy
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest
from unit.notify.cases import CASES, DOWN, HEAD, K, notice, storm

from services.fixtures import MakeSmtp
from services.ports import free_port, release_port
from services.smtpserver import PrivateSmtp
from wlm_tasks.config import AlertSettings, Secret
from wlm_tasks.errors import NotifyError, NotifyRefusedError, NotifyUnavailableError
from wlm_tasks.notify.mail import mail
from wlm_tasks.notify.message import Message
from wlm_tasks.notify.smtp import SmtpNotifier
from wlm_tasks.notify.words import Letterhead, compose

ADMINS = ("ops@example.org", "ann@example.net")
PASSWORD = "p@ss/w%rd:"


def notifier(server: PrivateSmtp, **changes: Any) -> SmtpNotifier:
    """A notifier that knows the server's certificate."""
    given: dict[str, Any] = {
        "admin": ADMINS,
        "smtp_url": Secret(server.url),
        "ca_file": str(server.cert_file) if server.cert_file else None,
        "timeout_s": 5.0,
    }
    return SmtpNotifier(AlertSettings(**{**given, **changes}))


def refused(by: SmtpNotifier, message: Message, kind: type[NotifyError]) -> str:
    """What a try says that is refused."""
    with pytest.raises(kind) as caught:
        by.send(message)
    assert type(caught.value) is kind
    assert str(caught.value).isprintable()
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


# -- what a mail looks like --------------------------------------------------------------------


def test_a_mail_has_what_people_and_their_programs_need(
    smtp: PrivateSmtp, message: Message
) -> None:
    notifier(smtp).send(message)
    (got,) = smtp.received()
    assert (got.subject, got.text, got.id) == (message.subject, message.text, message.message_id)
    assert got.recipients == list(ADMINS)
    assert got["To"] == "ops@example.org, ann@example.net"
    assert got["From"] == "wlm_tasks <wlm@example.org>"
    assert got["X-Envelope-From"] == "wlm@example.org"
    assert got["Auto-Submitted"] == "auto-generated"  # nobody's "out of office" answers
    assert got["Importance"] == "high"
    assert got["X-Wlm-Kinds"] == "WORKER_DOWN"
    assert abs(got.message["Date"].datetime.timestamp() - got.at) < 5
    assert got.message.defects == []


def test_an_answer_stands_beside_what_it_answers(smtp: PrivateSmtp) -> None:
    by = notifier(smtp)
    by.send(compose([DOWN], HEAD))
    by.send(compose([CASES[1]], HEAD))
    down, up = smtp.received()
    assert (up["In-Reply-To"], up["References"]) == (down.id, down.id)
    assert up.message["Importance"] is None


def test_a_big_digest_with_many_references_arrives_whole(smtp: PrivateSmtp) -> None:
    head = Letterhead(domain=f"{'long-' * 30}name.example.org", installation="a")
    message = compose(storm(), head)
    notifier(smtp).send(message)
    (got,) = smtp.received()
    assert got["References"].split() == list(message.references)
    assert got["In-Reply-To"] == message.references[-1]
    assert got.id == message.message_id
    assert got.text == message.text
    assert max(map(len, got.raw.split(b"\r\n"))) <= 998


@pytest.mark.parametrize("name", ["jöb-ü@nöde", "名前@ノード", "=?utf-8?q?=41?=", ".", "x" * 300])
def test_any_name_is_shown_as_it_is(name: str) -> None:
    message = compose([notice(K.WORKER_DOWN, name, reason=name)], HEAD)
    raw = mail(message, "a@b", ["c@d"], 0.0)
    assert raw.isascii()
    head, _, _body = raw.partition(b"\r\n\r\n")
    assert max(map(len, head.split(b"\r\n"))) <= 78
    read = BytesParser(policy=policy.default).parsebytes(raw)
    assert read["Subject"] == message.subject
    assert read.get_content().replace("\r\n", "\n") == message.text


def test_a_line_of_a_dot_does_not_end_the_mail(smtp: PrivateSmtp, message: Message) -> None:
    dotted = replace(message, text="one\n.\n..\nFrom here\n")
    notifier(smtp).send(dotted)
    (got,) = smtp.received()
    assert got.text == dotted.text


# -- who gets it -------------------------------------------------------------------------------


def test_who_is_refused_is_told_and_the_others_get_it_once(
    smtp: PrivateSmtp, message: Message, caplog: pytest.LogCaptureFixture
) -> None:
    smtp.fail(answers={"RCPT": {"ann@example.net": "550 no such user"}})
    notifier(smtp).send(message)
    (got,) = smtp.received()
    assert got.recipients == ["ops@example.org"]
    ((_, level, told),) = caplog.record_tuples
    assert level == logging.WARNING
    assert told == f"mail {message.message_id}: ann@example.net is refused: 550 no such user"


def test_a_look_finds_who_would_be_refused(smtp: PrivateSmtp) -> None:
    smtp.fail(answers={"RCPT": {"ann@example.net": "550 no such user"}})
    with pytest.raises(NotifyRefusedError, match=r"ann@example\.net is refused: 550"):
        notifier(smtp).check()
    smtp.fail(answers={"MAIL": "553 not yours"})
    with pytest.raises(NotifyUnavailableError, match=r"refuses mail from wlm@example\.org: 553"):
        notifier(smtp).check()
    assert smtp.received() == []


RCPT: list[tuple[str, type[NotifyError]]] = [
    ("550 no such user", NotifyRefusedError),
    ("450 greylisted", NotifyUnavailableError),
    ("421 shutting down", NotifyUnavailableError),
]


@pytest.mark.parametrize(("answer", "kind"), RCPT)
def test_all_refused_is_final_if_the_server_says_so(
    smtp: PrivateSmtp, message: Message, answer: str, kind: type[NotifyError]
) -> None:
    smtp.fail(answers={"RCPT": answer})
    told = refused(notifier(smtp), message, kind)
    assert told.startswith(f"127.0.0.1:{smtp.port}: ops@example.org is refused: {answer}")
    assert smtp.received() == []


def test_it_is_not_final_while_one_of_them_may_be_taken_later(
    smtp: PrivateSmtp, message: Message
) -> None:
    smtp.fail(answers={"RCPT": {ADMINS[0]: "550 no such user", ADMINS[1]: "450 greylisted"}})
    refused(notifier(smtp), message, NotifyUnavailableError)


# -- what goes wrong ---------------------------------------------------------------------------

#: verb, answer, kind of the error, its words
ANSWERS: list[tuple[str, str, type[NotifyError], str]] = [
    ("CONNECT", "421 too busy", NotifyUnavailableError, "refuses us: 421 too busy"),
    ("CONNECT", "554 go away", NotifyUnavailableError, "refuses us: 554 go away"),
    ("CONNECT", "", NotifyUnavailableError, "it closed the connection"),
    ("MAIL", "553 unknown domain", NotifyUnavailableError, "refuses mail from wlm@example.org: 55"),
    ("MAIL", "530 log in first", NotifyUnavailableError, "refuses mail from wlm@example.org: 530"),
    ("DATA", "451 later", NotifyUnavailableError, "refuses the mail: 451 later"),
    ("END", "452 disk full", NotifyUnavailableError, "refuses the mail: 452 disk full"),
    ("END", "554 spam", NotifyRefusedError, "refuses the mail: 554 spam"),
    ("END", "", NotifyUnavailableError, "it closed the connection"),
]


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: f"{case[0]} {case[1]}")
def test_each_refusal_is_one_line(
    smtp: PrivateSmtp, message: Message, case: tuple[str, str, type[NotifyError], str]
) -> None:
    verb, answer, kind, words = case
    smtp.fail(answers={verb: answer})
    told = refused(notifier(smtp), message, kind)
    assert told.startswith(f"127.0.0.1:{smtp.port}: {words}")
    smtp.fail()
    notifier(smtp).send(message)
    assert len(smtp.received()) == 1


@pytest.mark.parametrize("verb", ["CONNECT", "MAIL", "END"])
def test_a_server_that_stalls_holds_nobody(smtp: PrivateSmtp, message: Message, verb: str) -> None:
    smtp.fail(delay_s={verb: 30.0})
    told = refused(notifier(smtp, timeout_s=0.2), message, NotifyUnavailableError)
    assert told == f"127.0.0.1:{smtp.port}: no answer within 0.2 s"


def test_a_server_that_is_slow_each_time_holds_nobody_for_long(
    smtp: PrivateSmtp, message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.notify.smtp.PATIENCE", 1)
    smtp.fail(delay_s=dict.fromkeys(["EHLO", "MAIL", "RCPT", "DATA", "END"], 0.3))
    told = refused(notifier(smtp, timeout_s=1.0), message, NotifyUnavailableError)
    assert told == f"127.0.0.1:{smtp.port}: not done within 1 s"


def test_what_happens_after_the_yes_changes_nothing(smtp: PrivateSmtp, message: Message) -> None:
    """A mail that was taken must not be sent again because the farewell failed."""
    smtp.fail(answers={"QUIT": ""})
    notifier(smtp).send(message)
    assert len(smtp.received()) == 1


def test_a_crash_before_the_yes_makes_a_copy_of_the_same_id(
    smtp: PrivateSmtp, message: Message
) -> None:
    """SMTP is at least once: nobody can know whether the server had kept it."""
    smtp.fail(crash="END")
    refused(notifier(smtp), message, NotifyUnavailableError)
    smtp.process.wait()
    smtp.fail()
    smtp.start()
    notifier(smtp).send(message)
    first, second = smtp.received()
    assert first.id == second.id == message.message_id


def test_nobody_there(message: Message) -> None:
    port = free_port()
    settings = AlertSettings(admin=ADMINS, smtp_url=Secret(f"smtp://127.0.0.1:{port}"))
    told = refused(SmtpNotifier(settings), message, NotifyUnavailableError)
    assert told == f"127.0.0.1:{port}: connection refused"
    release_port(port)


@pytest.mark.parametrize("host", ["nowhere.invalid", f"{'x' * 70}.invalid"])
def test_no_such_host(message: Message, host: str) -> None:
    settings = AlertSettings(admin=ADMINS, smtp_url=Secret(f"smtp://{host}"))
    told = refused(SmtpNotifier(settings), message, NotifyUnavailableError)
    assert told == f"{host}:25: the host cannot be found"


def test_a_secret_that_is_not_there_can_come_yet(
    smtp: PrivateSmtp, message: Message, tmp_path: Path
) -> None:
    file = tmp_path / "url"
    by = notifier(smtp, smtp_url=Secret(f"file:{file}", field="alerts.smtp_url"))
    assert "expected a readable file" in refused(by, message, NotifyUnavailableError)
    file.write_text(smtp.url)
    file.chmod(0o600)
    by.send(message)
    assert len(smtp.received()) == 1


# -- encryption and logins ---------------------------------------------------------------------


def test_it_encrypts_where_that_is_offered(make_smtp: MakeSmtp, message: Message) -> None:
    server = make_smtp(certified=True)
    notifier(server).send(message)
    notifier(server, starttls="never").send(message)
    server.fail(starttls=False)
    notifier(server).send(message)
    assert [got["X-Envelope-Tls"] for got in server.received()] == ["yes", "no", "no"]
    told = refused(notifier(server, starttls="required"), message, NotifyUnavailableError)
    assert "offers no STARTTLS, and alerts.starttls requires it" in told
    server.fail()
    told = refused(notifier(server, ca_file=None), message, NotifyUnavailableError)
    assert "its certificate is not trusted: self-signed certificate (alerts.ca_file" in told
    told = refused(notifier(server, ca_file="/none"), message, NotifyUnavailableError)
    assert told.startswith("alerts.ca_file: got '/none', expected a readable file")


def test_a_password_is_not_sent_in_the_clear(make_smtp: MakeSmtp, message: Message) -> None:
    server = make_smtp(certified=True, password=PASSWORD)
    notifier(server).send(message)
    (got,) = server.received()
    assert (got["X-Envelope-Tls"], got["X-Envelope-Login"]) == ("yes", "gateway")
    assert notifier(server).check() == (
        f"127.0.0.1:{server.port}: encrypted, logged in as gateway;"
        " to ops@example.org, ann@example.net"
    )
    server.fail(starttls=False)
    told = refused(notifier(server), message, NotifyUnavailableError)
    assert "offers no STARTTLS, and there is a password" in told
    assert len(server.received()) == 1


def test_tls_from_the_first_byte_and_wrong_logins(make_smtp: MakeSmtp, message: Message) -> None:
    server = make_smtp(smtps=True, password=PASSWORD)
    notifier(server).send(message)
    (got,) = server.received()
    assert (got["X-Envelope-Tls"], got["X-Envelope-Login"]) == ("yes", "gateway")
    where = f"127.0.0.1:{server.port}"
    for login, words in (
        ("gateway:wrong", "refuses the login of gateway: 535"),
        ("gateway:%C3%A4", "user and password must be ASCII"),
    ):
        url = Secret(f"smtps://{login}@{where}")
        told = refused(notifier(server, smtp_url=url), message, NotifyUnavailableError)
        assert told.startswith(f"{where}: {words}")
    server.fail(answers={"AUTH": f"535 not {PASSWORD}"})  # some servers repeat what was said
    assert "535 not ***" in refused(notifier(server), message, NotifyUnavailableError)
    plain = Secret(server.url.replace("smtps", "smtp"))
    refused(notifier(server, smtp_url=plain, timeout_s=0.2), message, NotifyUnavailableError)


def test_a_server_that_takes_no_login(smtp: PrivateSmtp, message: Message) -> None:
    url = Secret(f"smtp://u:{'x' * 8}@127.0.0.1:{smtp.port}")
    smtp.fail(answers={"EHLO": "502 what?"})
    by = notifier(smtp, smtp_url=url, starttls="never")
    told = refused(by, message, NotifyUnavailableError)
    assert told == f"127.0.0.1:{smtp.port}: takes no login, and there is a password"


def test_tls_where_there_is_none(smtp: PrivateSmtp, message: Message) -> None:
    url = Secret(smtp.url.replace("smtp:", "smtps:"))
    told = refused(notifier(smtp, smtp_url=url), message, NotifyUnavailableError)
    assert "TLS failed: " in told
