"""What people read: each matter in its own words, within the lines, and never a trap."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.notify.cases import AT, CASES, DOWN, HEAD, STEPS, WORKER, K, notice, storm

from wlm_tasks.errors import InputError
from wlm_tasks.model.notices import CHOICES, Notice, NoticeKind, Severity
from wlm_tasks.notify.message import Message
from wlm_tasks.notify.words import Letterhead, compose, summary

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind.lower())


def moved(*became: str, more: int = 0) -> str:
    """The subject line of a worker that was at these steps."""
    steps = [{**STEPS[0], "became": words} for words in became]
    down = notice(K.WORKER_DOWN, steps=steps, more_steps=more)
    return compose([down], HEAD).subject


def test_every_kind_has_a_case() -> None:
    assert {case.kind for case in CASES} == set(NoticeKind)


def test_a_worker_that_is_down_as_it_is_read() -> None:
    message = compose([DOWN], HEAD)
    assert message.subject == "[wlm] worker jobsub1@node7 is down (1 of 3 steps waits)"
    assert message.severity is Severity.CRITICAL
    assert message.references == ()
    assert (
        message.text.replace("\n-- \n", "\n--\n")
        == """\
Worker jobsub1@node7 has disappeared. It was counted as down at
2026-11-29 04:52:37 UTC, after 30 s without a sign of life.

  Host               node7
  Queues             jobsub, staging
  Zone               rack-2
  Last sign of life  2026-11-29 04:52:06 UTC
  Started            2026-11-27 00:04:37 UTC
  Incarnation        7f3a91c2

What the witnesses say:
  serf    failed for 24 s
  celery  no heartbeat for 30 s
  broker  its queue was deleted 29 s ago

What was running on it, and what became of that:
  exp-7k2q9abcde  lj-melt-T300          jobsub    taken over by
                                                  jobsub2@node8
  exp-8d2q9abcdf  ising-300             staging   released
  exp-9k2q9abcdg  a-long-name-of-an-..  envsetup  waiting for a worker of
                                                  envsetup

What waits goes on as soon as a worker of its queue is free.

You will be told when it is back.

What to check:
  wlm workers                             # the roster and its witnesses
  ssh node7                               # does the host answer?
  systemctl status wlm-worker@jobsub1     # there: does it run?
  journalctl -u wlm-worker@jobsub1 -n 50  # there: its last words

--
wlm_tasks. Times are UTC. Notice down:17.
Dashboard: https://wlm.example.org
"""
    )


def test_the_examples_of_the_documentation_are_what_is_sent() -> None:
    page = (Path(__file__).parents[3] / "docs" / "alerts.md").read_text()
    for found in ([DOWN], [CASES[1]], storm(12)):
        message = compose(found, HEAD)
        text = message.text.replace("\n-- \n", "\n--\n")
        assert f"```text\nSubject: {message.subject}\n\n{text}```\n" in page


@pytest.mark.parametrize(
    ("subject", "line"),
    [
        (moved("released"), "(1 step moved on)"),
        (moved("released", "taken over by x", more=5), "(7 steps moved on)"),
        (moved("waiting"), "(1 step waits)"),
        (moved("waiting", "waiting for a worker of jobsub"), "(2 steps wait)"),
        (moved("waiting", "released"), "(1 of 2 steps waits)"),
        (moved("waiting", "waiting", "released"), "(2 of 3 steps wait)"),
        (moved(), "(it was idle)"),
        (compose([notice(K.WORKER_DOWN)], HEAD).subject, "worker jobsub1@node7 is down"),
    ],
)
def test_the_subject_tells_what_became_of_the_work(subject: str, line: str) -> None:
    assert subject.endswith(line)


@each_case
def test_each_kind_is_readable(case: Notice) -> None:
    message = compose([case], HEAD)
    lines = message.text.splitlines()
    assert max(map(len, lines)) <= 78
    assert not any(line != line.rstrip() for line in lines if line != "-- ")
    assert len(message.subject) <= 120
    assert message.subject.startswith("[wlm] ")
    assert message.severity is case.severity
    assert case.subject in message.text or case.kind is K.TEST
    assert case.detail.get("reason", "") in " ".join(message.text.split())
    assert "2026-11-29 04:" in message.text
    assert not any(word in message.text for word in ("None", "{", " nan", "_DOWN"))


@each_case
def test_each_kind_can_be_told_without_details(case: Notice) -> None:
    bare = notice(case.kind, "")
    assert "  " not in compose([bare], HEAD).subject
    assert summary(bare)


@each_case
def test_an_end_answers_its_beginning(case: Notice) -> None:
    message = compose([case], HEAD)
    if case.ends is None:
        assert message.references == ()
        return
    begun = compose([notice(K.WORKER_DOWN, key=case.ends)], HEAD)
    assert message.references == (begun.message_id,)


def test_ids_tell_notices_and_installations_apart_and_nothing_else() -> None:
    one = compose([DOWN], HEAD)
    assert one.message_id.startswith("<down-17.")
    assert one.message_id.endswith("@example.org>")
    assert compose([notice(K.TEST, key="down:17", at=1.0)], HEAD).message_id == one.message_id
    others = [
        compose([notice(K.WORKER_DOWN, key="down:18")], HEAD),
        compose([notice(K.WORKER_DOWN, key="down-17")], HEAD),
        compose([DOWN], Letterhead(domain="example.org", installation="b")),
        compose([DOWN, CASES[1]], HEAD),
    ]
    assert len({one.message_id, *(other.message_id for other in others)}) == 5


def test_the_same_notices_are_the_same_message_in_any_order() -> None:
    shuffled = [*CASES, DOWN]
    random.Random(1).shuffle(shuffled)
    assert compose(shuffled, HEAD) == compose(CASES, HEAD)


def test_nothing_is_no_message() -> None:
    with pytest.raises(InputError, match="notices: got none"):
        compose([], HEAD)


# -- digests -----------------------------------------------------------------------------------


def test_a_digest_counts_and_lists_the_worst_first() -> None:
    message = compose(CASES, HEAD)
    assert message.severity is Severity.CRITICAL
    assert message.subject.startswith("[wlm] 1 worker is down, 1 mass outage or cut-off monitor, ")
    assert len(message.subject) <= 120
    assert max(map(len, message.text.splitlines())) <= 78
    assert message.text.index("1 worker is down:") < message.text.index("1 site is down:")
    assert message.text.index("1 site is down:") < message.text.index("1 worker is back:")
    assert "jobsub1@node7  1 of 3 steps waits; over by now" in message.text
    assert message.notices[0]["key"] == "down:17"
    assert len(message.notices) == len(CASES)


def test_a_rack_that_dies_is_a_short_digest() -> None:
    message = compose(storm(), HEAD)
    assert message.subject == "[wlm] 300 workers are down (300 of 900 steps wait)"
    assert message.message_id.startswith("<digest-300.")
    assert "300 notices of 1 min, from 2026-11-29 04:52:37 to 04:53:36 UTC." in message.text
    assert "node0 (10), node1 (10)" in message.text
    assert "  and 200 more\n" in message.text
    assert len(message.text.splitlines()) < 130
    assert len(message.notices) == 300


def test_what_is_less_bad_gets_some_lines_too() -> None:
    back = [notice(K.WORKER_BACK, f"w{i}@n", key=f"up:{i}") for i in range(9)]
    text = compose([*storm(), *back], HEAD).text
    assert "9 workers are back:\n  04:52:37  w0@n\n" in text
    assert "w4@n\n  and 4 more\n" in text


def test_a_digest_refers_to_what_its_notices_would_have_been() -> None:
    """So that what answers one of them stands beside it in a mail reader."""
    message = compose(storm(20), HEAD)
    back = compose([notice(K.WORKER_BACK, key="up:3", ends="down:3")], HEAD)
    assert back.references[0] in message.references
    assert len(compose(storm(), HEAD).references) == 50


def test_a_digest_of_two_days_has_dates() -> None:
    message = compose([DOWN, notice(K.WORKER_DOWN, key="down:18", at=AT + 86_400)], HEAD)
    assert "  11-29 04:52:37  jobsub1@node7" in message.text
    assert "from 2026-11-29 04:52:37 to 2026-11-30 04:52:37 UTC." in message.text


# -- strangers ---------------------------------------------------------------------------------

EVIL = "x\r\nBcc: evil@example.org\r\n\r\n<script> \u202e\x1b[31m \ud800 'ü' =?utf-8?q?x?= "


def check_harmless(message: Message) -> None:
    assert message.subject.isprintable()
    assert all(line.isprintable() for line in message.text.split("\n"))
    assert max(map(len, message.text.splitlines())) <= 78
    message.text.encode()
    json.dumps([dict(one) for one in message.notices], allow_nan=False).encode()


@each_case
def test_names_of_strangers_stay_in_their_line(case: Notice) -> None:
    detail = {**case.detail, "host": EVIL, "reason": EVIL, "name": EVIL, "witnesses": {EVIL: EVIL}}
    evil = Notice(key=EVIL, kind=case.kind, subject=EVIL * 20, at=AT, detail=detail, ends=EVIL)
    for message in (compose([evil], HEAD), compose([evil, DOWN], HEAD)):
        check_harmless(message)


@each_case
@pytest.mark.parametrize("name", ["a; rm -rf ~", "$(reboot)@n", "-oProxyCommand=x", "a b@c d"])
def test_no_command_of_a_stranger_is_offered_to_be_copied(case: Notice, name: str) -> None:
    evil = Notice(key="k", kind=case.kind, subject=name, at=AT, detail={"host": name})
    _, _, offered = compose([evil], HEAD).text.partition("What to check:\n")
    assert name.partition("@")[0] not in offered


@each_case
def test_passwords_are_not_passed_on(case: Notice) -> None:
    detail = {**case.detail, "reason": "amqp://wlm:geheim@mq/ is down", "token": "geheim"}
    message = compose([Notice(**{**vars(case), "detail": detail})], HEAD)
    assert "geheim" not in f"{message.subject}{message.text}{message.notices}"


SCALARS: Any = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(sorted({key for case in CASES for key in case.detail} | {"more_steps"}))
NOTICES = st.builds(
    Notice,
    key=st.text(max_size=40),
    kind=st.sampled_from(list(NoticeKind)),
    subject=st.text(max_size=300),
    at=st.floats() | st.just(AT),
    detail=st.dictionaries(KEYS, VALUES, max_size=6),
    ends=st.none() | st.text(max_size=40),
)


@settings(deadline=None)
@given(st.lists(NOTICES, min_size=1, max_size=6))
def test_whatever_stands_in_a_notice_a_message_comes_of_it(found: list[Notice]) -> None:
    check_harmless(compose(found, HEAD))


@pytest.mark.parametrize(
    "wrong",
    [
        {"subject": "a\r\nBcc: x@y"},
        {"subject": ""},
        {"subject": "x" * 201},
        {"message_id": "<a@b>\r\nBcc: x@y"},
        {"message_id": "a@b"},
        {"references": ("<a@b>", "<a b@c>")},
    ],
)
def test_a_message_that_would_break_a_header_cannot_be(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "message_id": "<a@b>",
        "subject": "s",
        "text": "t",
        "severity": Severity.INFO,
        "notices": (),
    }
    Message(**good)
    (name,) = wrong
    with pytest.raises(InputError, match=f"^{name}: got "):
        Message(**{**good, **wrong})


# -- what is told ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "state", "chosen", "told"),
    [
        (K.WORKER_DOWN, "", (), True),
        (K.SITE_DOWN, "", (), False),
        (K.SITE_BACK, "", ("site-down",), True),
        (K.QUEUE_STUCK, "", ("site-down",), False),
        (K.EXPERIMENT_ENDED, "DONE", ("experiment-failed",), False),
        (K.EXPERIMENT_ENDED, "FAILED", ("experiment-failed",), True),
        (K.EXPERIMENT_ENDED, "DONE", ("experiment-failed", "experiment-ended"), True),
        (K.EXPERIMENT_PAUSED, "PAUSED", tuple(CHOICES), True),
    ],
)
def test_people_are_told_what_they_chose(
    kind: NoticeKind, state: str, chosen: tuple[str, ...], told: bool
) -> None:
    assert notice(kind, state=state).is_wanted(chosen) is told


def test_times_that_cannot_be_do_no_harm() -> None:
    for at in (math.inf, -math.inf, math.nan, 1e300):
        check_harmless(compose([notice(K.WORKER_DOWN, at=at, **WORKER)], HEAD))
        check_harmless(compose([notice(K.WORKER_DOWN, at=at), DOWN], HEAD))
