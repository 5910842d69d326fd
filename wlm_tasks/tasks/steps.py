"""The tasks that carry out steps, one per step and queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from celery import Task
from celery.exceptions import Reject
from celery.signals import celeryd_after_setup

from wlm_tasks.celery import WlmCelery, app
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.steps import ALL_QUEUES, StepName, task_name
from wlm_tasks.scheduler.chain import Parent, send
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.claims import GoOn
from wlm_tasks.state.holders import Holder
from wlm_tasks.tasks.engine import Engine, HandOn, Left, without_redelivery
from wlm_tasks.tasks.shown import Shown

_log = logging.getLogger(__name__)


class StepTask(Task[Any, Any]):
    """A task that works on one kind of step."""

    abstract = True
    app: WlmCelery
    _engine: Engine | None = None  # shared by the step tasks of a process
    _engine_lock = threading.Lock()

    @property
    def engine(self) -> Engine:
        """The engine on this process's runtime; a forked child makes its own."""
        runtime = self.app.runtime
        with self._engine_lock:
            if StepTask._engine is None or StepTask._engine.runtime is not runtime:
                shown = Shown(self.app, enabled=bool(self.app.conf.worker_send_task_events))
                StepTask._engine = Engine(runtime, shown, partial(_send, self.app))
            return StepTask._engine

    @classmethod
    def end_engine(cls) -> None:
        """End what this process's engine has running; the next step makes another."""
        with cls._engine_lock:
            engine, StepTask._engine = StepTask._engine, None
        if engine is not None:
            engine.close()

    def carry_out(self, experiment_id: str, name: StepName) -> str:
        """Work on the step and whatever comes first; say in a word what was done."""
        holder = self._holder()
        end = time.monotonic() + self.app.settings.steps.slice_s
        while True:
            try:
                done = self.engine.work(experiment_id, name, holder)
            except ServiceError as error:
                _log.warning("%s: message given back: %s", experiment_id, error)
                time.sleep(1)
                raise Reject(str(error), requeue=True) from error
            if isinstance(done, Left):
                self._cut_chain()
                return f"left: {done.reason}"
            if isinstance(done, GoOn):
                self._link(done.name)
                return f"went on to {done.name}"
            if done.own:
                return self._hand_on(done)
            self._hand_over(done.following)
            if time.monotonic() > end:
                raise Reject("a more urgent step used up the slice", requeue=True)
            holder = without_redelivery(holder)

    def _holder(self) -> Holder:
        request = self.request
        return Holder(
            worker=request.hostname or "unknown",
            message_id=request.id or "unknown",
            queues=served_queues(self.app),
            lease_s=self.app.settings.steps.lease_s,
            redelivered=bool((request.delivery_info or {}).get("redelivered")),
        )

    def _hand_on(self, done: HandOn) -> str:
        if done.poisoned:
            raise Reject("its workers die on it", requeue=False)
        self._cut_chain()  # the rest of it goes out here, at a tenth of what it costs Celery
        self._hand_over(done.following, self._parent())
        return "done"

    def _hand_over(self, following: NextStep | None, parent: Parent | None = None) -> None:
        if following is not None:
            _send(self.app, [following], parent)

    def _parent(self) -> Parent:
        message_id = self.request.id or "unknown"
        return Parent(message_id, self.request.root_id or message_id)

    def _link(self, name: StepName) -> bool:
        """Shorten this message's chain so that it goes on with the step; False if it cannot."""
        links = self._links  # the next one is the last item
        while links and links[-1]["task"] != task_name(name):
            links.pop()
        return bool(links)

    @property
    def _links(self) -> list[Any]:
        """What follows in this message's chain, to be changed in place."""
        links: Any = self.request.chain
        return links if isinstance(links, list) else []

    def _cut_chain(self) -> None:
        self._links.clear()


def _send(
    celery_app: WlmCelery, following: Sequence[NextStep], parent: Parent | None = None
) -> None:
    try:
        send(celery_app, following, parent)
    except ServiceError as error:
        # The rows say they were sent; the sweeper finds out that they were not.
        _log.warning("%d messages not sent: %s", len(following), error)


def served_queues(celery_app: WlmCelery) -> tuple[str, ...]:
    """The queues this worker consumes from."""
    names = tuple(str(name) for name in celery_app.amqp.queues.consume_from)
    return names or ALL_QUEUES


@celeryd_after_setup.connect
def _remember_events(_sender: Any = None, instance: Any = None, **_kwargs: Any) -> None:
    """Let pool children know whether the worker was started with -E."""
    instance.app.conf.worker_send_task_events = bool(instance.task_events)
    instance.app.conf.task_send_sent_event = bool(instance.task_events)


@app.task(base=StepTask, bind=True, shared=False, name=task_name(StepName.SETUP))
def setup(self: StepTask, experiment_id: str) -> str:
    """Make and check the experiment's directory."""
    return self.carry_out(experiment_id, StepName.SETUP)


@app.task(base=StepTask, bind=True, shared=False, name=task_name(StepName.STAGE_IN))
def stage_in(self: StepTask, experiment_id: str) -> str:
    """Bring the inputs to the site."""
    return self.carry_out(experiment_id, StepName.STAGE_IN)


@app.task(base=StepTask, bind=True, shared=False, name=task_name(StepName.SUBMIT))
def submit(self: StepTask, experiment_id: str) -> str:
    """Hand the job to the site."""
    return self.carry_out(experiment_id, StepName.SUBMIT)


@app.task(base=StepTask, bind=True, shared=False, name=task_name(StepName.STAGE_OUT))
def stage_out(self: StepTask, experiment_id: str) -> str:
    """Bring the outputs back."""
    return self.carry_out(experiment_id, StepName.STAGE_OUT)
