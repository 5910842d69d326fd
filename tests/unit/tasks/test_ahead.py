"""Messages of steps that were done before they came."""

from __future__ import annotations

from typing import Any

import pytest

from wlm_tasks.model.steps import StepName
from wlm_tasks.tasks import ahead, consumer
from wlm_tasks.tasks.ahead import Ahead


def test_one_message_is_told_for_each_time_it_was_done() -> None:
    done = Ahead()
    assert not done.take("exp-1", "setup")
    done.add("exp-1", StepName.SETUP)
    assert not done.take("exp-1", "submit")
    assert not done.take("exp-2", "setup")
    assert done.take("exp-1", "setup")
    assert not done.take("exp-1", "setup")


def test_a_message_that_comes_late_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_EXPECTED_S", 0.0)
    done = Ahead()
    done.add("exp-1", StepName.SETUP)
    assert not done.take("exp-1", "setup")


def test_no_more_is_remembered_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_MOST", 3)
    done = Ahead()
    for number in range(5):
        done.add(f"exp-{number}", StepName.SETUP)
    told = [number for number in range(5) if done.take(f"exp-{number}", "setup")]
    assert told == [2, 3, 4]


class Message:
    def __init__(self, task: str, args: list[Any], *, redelivered: bool = False) -> None:
        self.headers = {"task": task, "id": "x"}
        self.payload = [args, {}, {}]
        self.delivery_info = {"redelivered": redelivered}


def test_what_is_dropped_is_the_message_of_such_a_step_alone() -> None:
    done = ahead.DONE_AHEAD
    for message in (
        Message("wlm.setup", ["exp-other"]),
        Message("wlm.submit", ["exp-1"]),
        Message("wlm.poll", ["exp-1"]),
        Message("wlm.setup", ["exp-1"], redelivered=True),
        Message("wlm.setup", ["exp-1", "more"]),
        Message("wlm.setup", []),
        Message("wlm.setup", [["exp-1"]]),
    ):
        done.add("exp-1", StepName.SETUP)
        assert not consumer._is_done(message), message.headers
    assert consumer._is_done(Message("wlm.setup", ["exp-1"]))
    assert not consumer._is_done(Message("wlm.setup", ["exp-1"]))
