"""Real Celery chains, on a broker in memory."""

from __future__ import annotations

from typing import Any

import pytest
from celery.canvas import maybe_signature
from celery.signals import before_task_publish
from kombu.exceptions import OperationalError
from unit.scheduler.conftest import Queues

from wlm_tasks.celery import WlmCelery
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.steps import StepName
from wlm_tasks.scheduler.chain import (
    Parent,
    build_chain,
    nonce_of,
    send,
    send_system,
    task_id,
)
from wlm_tasks.state.advance import NextStep

SETUP, STAGE_IN, SUBMIT = StepName.SETUP, StepName.STAGE_IN, StepName.SUBMIT
STAGE_OUT = StepName.STAGE_OUT
WHOLE = NextStep("exp-abcdefghij", (SETUP, STAGE_IN, SUBMIT), 9)


def _rest(message: Any) -> list[dict[str, Any]]:
    """The tasks that a message says come after its own, in their order."""
    _args, _kwargs, embed = message.payload
    return list(reversed(embed["chain"] or []))


def test_a_chain_is_one_message_on_the_queue_of_its_first_step(
    app: WlmCelery, queues: Queues
) -> None:
    send(app, [WHOLE])
    found = queues.take_all()
    assert list(found) == ["envsetup"]
    [message] = found["envsetup"]
    assert message.headers["task"] == "wlm.setup"
    assert message.payload[:2] == [["exp-abcdefghij"], {}]
    assert message.content_type == "application/json"
    assert [task["task"] for task in _rest(message)] == ["wlm.stage_in", "wlm.submit"]


def test_every_task_has_its_queue_priority_and_arguments(app: WlmCelery, queues: Queues) -> None:
    send(app, [WHOLE])
    [message] = queues.take("envsetup")
    assert message.properties["priority"] == 9
    for task, queue in zip(_rest(message), ("staging", "jobsub"), strict=True):
        assert task["options"]["queue"] == queue
        assert task["options"]["priority"] == 9
        assert tuple(task["args"]) == ("exp-abcdefghij",)
        assert task["kwargs"] == {}
        assert task["immutable"] is True


def test_every_task_has_an_id_that_says_what_it_is(app: WlmCelery, queues: Queues) -> None:
    send(app, [WHOLE, WHOLE])
    for message in queues.take("envsetup"):
        ids = [message.headers["id"], *(task["options"]["task_id"] for task in _rest(message))]
        nonces = {one.rpartition(".")[2] for one in ids}
        assert len(nonces) == 1
        nonce = nonces.pop()
        assert ids == [task_id("exp-abcdefghij", name, nonce) for name in WHOLE.segment]
        assert nonce_of(ids[0]) == nonce
        assert max(map(len, ids)) <= 64  # the column's width


def test_two_chains_of_one_experiment_have_different_ids(app: WlmCelery, queues: Queues) -> None:
    send(app, [WHOLE, WHOLE])
    first, second = queues.take("envsetup")
    assert first.headers["id"] != second.headers["id"]


def test_every_task_is_stamped(app: WlmCelery, queues: Queues) -> None:
    send(app, [WHOLE, NextStep("exp-other", (STAGE_OUT,), 1)])
    [message] = queues.take("envsetup")
    for stamped in (message.headers, *(task["options"] for task in _rest(message))):
        assert stamped["stamped_headers"] == ["experiment_id"]
        stamps = stamped.get("stamps", stamped)["experiment_id"]
        assert stamps in ("exp-abcdefghij", ["exp-abcdefghij"])
    [message] = queues.take("staging")
    assert message.headers["stamps"]["experiment_id"] in ("exp-other", ["exp-other"])


@pytest.mark.parametrize(
    ("segment", "queue", "rest"),
    [
        ((STAGE_IN, SUBMIT), "staging", ["wlm.submit"]),
        ((SUBMIT,), "jobsub", []),
        ((STAGE_OUT,), "staging", []),
        ((SETUP, SUBMIT), "envsetup", ["wlm.submit"]),
    ],
)
def test_a_chain_from_any_step(
    app: WlmCelery, queues: Queues, segment: tuple[StepName, ...], queue: str, rest: list[str]
) -> None:
    send(app, [NextStep("exp-x", segment, 4)])
    [(found, [message])] = queues.take_all().items()
    assert found == queue
    assert message.headers["task"] == f"wlm.{segment[0]}"
    assert [task["task"] for task in _rest(message)] == rest
    assert message.properties["priority"] == 4


def test_nothing_is_delayed(app: WlmCelery, queues: Queues) -> None:
    send(app, [WHOLE])
    [message] = queues.take("envsetup")
    assert message.headers["eta"] is message.headers["expires"] is None
    assert all(not {"eta", "countdown"} & set(task["options"]) for task in _rest(message))


def test_a_message_is_small_and_holds_no_code(app: WlmCelery, queues: Queues) -> None:
    send(app, [WHOLE])
    [message] = queues.take("envsetup")
    assert len(message.body) < 2000
    assert app.conf.accept_content == ["json"]


def test_built_chains_can_be_looked_at_without_sending(app: WlmCelery, queues: Queues) -> None:
    made = build_chain(app, WHOLE, nonce="1f3a")
    assert [task.task for task in made.tasks] == ["wlm.setup", "wlm.stage_in", "wlm.submit"]
    assert [task.options["task_id"] for task in made.tasks][-1] == "exp-abcdefghij.submit.1f3a"
    assert queues.take_all() == {}


def test_many_are_sent_in_their_order(app: WlmCelery, queues: Queues) -> None:
    steps = [NextStep(f"exp-{n}", (SETUP, SUBMIT), 4) for n in range(50)]
    send(app, steps)
    found = [message.payload[0][0] for message in queues.take("envsetup")]
    assert found == [step.experiment_id for step in steps]


def test_polls_and_cancels_go_ahead_of_all(app: WlmCelery, queues: Queues) -> None:
    send_system(app, "wlm.poll", ["alpha"], "monitor")
    [message] = queues.take("monitor")
    assert message.headers["task"] == "wlm.poll"
    assert message.payload[0] == ["alpha"]
    assert message.properties["priority"] == 10


@pytest.mark.parametrize(
    "error", [OperationalError("gone"), ConnectionRefusedError("gone"), TimeoutError("gone")]
)
def test_a_broker_out_of_reach(
    app: WlmCelery, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr("kombu.Producer.publish", refuse)
    monkeypatch.setattr("wlm_tasks.scheduler.lines.Line.publish", refuse)
    with pytest.raises(ServiceError, match="broker: gone"):
        send(app, [WHOLE])
    with pytest.raises(ServiceError, match="broker: gone"):
        send_system(app, "wlm.poll", ["alpha"], "monitor")


def test_the_next_task_of_a_chain_keeps_its_priority(app: WlmCelery, queues: Queues) -> None:
    """What a worker sends on for a chain is as urgent as what it got."""
    send(app, [WHOLE])
    [message] = queues.take("envsetup")
    rest = message.payload[2]["chain"]
    following = maybe_signature(rest.pop(), app=app)
    assert following is not None
    following.apply_async((None,), chain=rest, priority=None)  # as Celery's tracer does
    [message] = queues.take("staging")
    assert message.properties["priority"] == 9
    assert message.headers["id"].startswith("exp-abcdefghij.stage_in.")
    assert message.payload[0] == ["exp-abcdefghij"]


def _seen(message: Any) -> dict[str, Any]:
    """All that a worker sees of a message, but for addresses that are made anew each time."""
    properties = {
        name: value
        for name, value in message.properties.items()
        if name not in ("delivery_tag", "reply_to")
    }
    args, kwargs, embed = message.payload
    rest = [
        {**task, "options": {k: v for k, v in task["options"].items() if k != "reply_to"}}
        for task in embed["chain"] or []
    ]
    return {
        "headers": message.headers,
        "properties": properties,
        "type": (message.content_type, message.content_encoding),
        "payload": (args, kwargs, {**embed, "chain": rest}),
        "delivery_info": message.delivery_info,
    }


@pytest.mark.parametrize("segment", [WHOLE.segment, (STAGE_IN, SUBMIT), (STAGE_OUT,)])
def test_what_is_sent_is_what_celery_sends_for_the_chain(
    app: WlmCelery,
    queues: Queues,
    segment: tuple[StepName, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _size: "1f3a")
    step = NextStep("exp-abcdefghij", segment, 9)
    build_chain(app, step).apply_async()
    send(app, [step])
    [found] = queues.take_all().values()
    celerys, ours = map(_seen, found)
    assert ours == celerys


def test_the_rest_of_a_chain_goes_on_with_its_ids(app: WlmCelery, queues: Queues) -> None:
    send(app, [WHOLE])
    [first] = queues.take("envsetup")
    parent = Parent(first.headers["id"], first.headers["root_id"])
    send(app, [NextStep(WHOLE.experiment_id, (STAGE_IN, SUBMIT), 9)], parent)
    [second] = queues.take("staging")
    assert [second.headers["id"]] == [
        task["options"]["task_id"] for task in _rest(first) if task["task"] == "wlm.stage_in"
    ]
    assert second.headers["parent_id"] == second.headers["root_id"] == first.headers["id"]


def test_a_strange_id_stays_inside_its_message(app: WlmCelery, queues: Queues) -> None:
    strange = Parent('"}\\ @nonce@ @experiment@', "root")
    send(app, [WHOLE], strange)
    [message] = queues.take("envsetup")
    assert message.headers["parent_id"] == strange.message_id
    assert message.headers["root_id"] == "root"


def test_who_listens_for_celerys_signals_hears_them(app: WlmCelery, queues: Queues) -> None:
    heard: list[str] = []

    def listen(sender: str, headers: dict[str, Any], **_more: Any) -> None:
        heard.append(sender)
        headers["traced"] = "yes"

    before_task_publish.connect(listen)
    try:
        send(app, [WHOLE], Parent("exp-abcdefghij.setup.1f3a", "exp-abcdefghij.setup.1f3a"))
    finally:
        before_task_publish.disconnect(listen)
    assert heard == ["wlm.setup"]
    [message] = queues.take("envsetup")
    assert message.headers["traced"] == "yes"
    assert message.headers["parent_id"] == "exp-abcdefghij.setup.1f3a"
    assert [task["task"] for task in _rest(message)] == ["wlm.stage_in", "wlm.submit"]
