"""The orchestrators' door: experiments that come in as messages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, cast

from celery import Task
from celery.exceptions import Reject

from wlm_tasks.celery import WlmCelery, app
from wlm_tasks.errors import InputError, InvalidExperimentError, ServiceError
from wlm_tasks.model.checks import problem, show
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.paths import is_url
from wlm_tasks.runtime import Runtime
from wlm_tasks.scheduler.submission import Submission, store_one, store_sweep
from wlm_tasks.tasks.patience import patiently

_log = logging.getLogger(__name__)


@app.task(bind=True, shared=False, name="wlm.schedule")
def schedule(  # noqa: PLR0917 - the message's arguments, sent by name
    self: Task[Any, Any],
    /,
    experiment: Mapping[str, Any] | None = None,
    key: str | None = None,
    params: Mapping[str, Any] | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    sweep_mode: str = "product",
    max_active: int | None = None,
    **unknown: Any,
) -> str:
    """Take in an experiment as JSON; control sends its first chain.

    A valid one is answered by the event ``experiment.<id>.QUEUED``, which carries the key; an
    invalid one by ``submission.<key>.REJECTED`` with the reason. The same key again is the same
    experiment: nothing is taken in twice, and its present state is told again, marked ``again``.
    The message goes back into the queue while the database is out of reach.
    """
    runtime = cast(WlmCelery, self.app).runtime

    def take_in() -> str:
        if unknown:
            expected = "experiment, key, params, sweep, sweep_mode or max_active"
            raise InputError(problem("argument", sorted(unknown)[0], expected))
        parsed = Experiment.model_validate(experiment)
        _refuse_relative(parsed)
        submission = Submission(
            experiment=parsed,
            params=params,
            sweep=sweep,
            sweep_mode=sweep_mode,  # type: ignore[arg-type]  # checked with the rest
            max_active=max_active,
            # Without a key of the sender's the message itself is the key.
            key=key if key is not None else f"message-{self.request.id}",
        )
        return _take_in(runtime, submission)

    patience_s = runtime.settings.steps.lease_s
    try:
        try:
            return patiently(take_in, patience_s)
        except InputError as error:
            reason = error.message
        except ServiceError:
            raise
        except Exception as error:  # noqa: BLE001 - its sender waits for an answer
            _log.exception("submission %s broke", show(key))
            reason = f"unexpected {type(error).__name__}: {error}"
        _log.warning("submission %s rejected: %s", show(key), reason)
        patiently(lambda: _reject(runtime, key, reason), patience_s)
    except ServiceError as error:
        _log.warning("submission %s given back: %s", show(key), error.message)
        raise Reject(error.message, requeue=True) from error
    return f"rejected: {reason}"


def _reject(runtime: Runtime, key: object, reason: str) -> None:
    text = key if isinstance(key, str) else None
    runtime.store.coordination.reject_submission(text, reason)
    runtime.wake()


def _take_in(runtime: Runtime, submission: Submission) -> str:
    """Store it and wake control, if it is on this host, to send the first chains."""
    if submission.sweep is not None:
        taken_in, _new = store_sweep(runtime, submission)
    else:
        taken_in, new, _planned = store_one(runtime, submission, sent=False)
        if not new:
            runtime.store.coordination.announce(taken_in)
    runtime.wake()
    return taken_in


def _refuse_relative(experiment: Experiment) -> None:
    """A message has no current directory."""
    places = [(f"inputs[{n}].src", one.src) for n, one in enumerate(experiment.inputs)]
    places += [(f"outputs[{n}].dest", one.dest) for n, one in enumerate(experiment.outputs)]
    for field, place in places:
        if not is_url(place) and not place.startswith("/"):
            raise InvalidExperimentError(
                problem(field, place, "a URL or an absolute path, since a message has no directory")
            )
