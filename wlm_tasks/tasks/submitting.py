"""Handing jobs to their sites: alone, or with those of a sweep that wait for the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from wlm_tasks.compute.base import JobSpec, Submitted
from wlm_tasks.errors import FencedError, InputError, JobRejectedError, ServiceError, WlmError
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.arrays import Company, Member
from wlm_tasks.state.intents import Held, Intent
from wlm_tasks.tasks.patience import patiently
from wlm_tasks.tasks.perform import PERFORM, job_spec, limits_of
from wlm_tasks.tasks.work import Outcome, Recorded, Work


@dataclass(frozen=True)
class Several:
    """What came of a step, and of others that were claimed along with it."""

    own: Outcome | WlmError
    others: Sequence[tuple[Work, Outcome | WlmError]]


def gathers(work: Work) -> bool:
    """Whether the next step is to wait for others of its sweep, so that they go in one call."""
    if work.following is not StepName.SUBMIT or work.site.backend.batch <= 1:
        return False
    return work.runtime.store.arrays.sweep_of(work.claim.experiment_id) is not None


def perform(work: Work) -> Outcome | Several:
    """Do the work of a step: one idempotent thing with one backend."""
    together = work.claim.name is StepName.SUBMIT and work.claim.intent is None
    if together and work.site.backend.batch > 1:
        return _submit(work)
    return PERFORM[work.claim.name](work)


def _submit(work: Work) -> Outcome | Several:
    """Hand the job to the site, with others of its sweep if any wait."""
    company = Company(
        site=work.experiment.site,
        workdir=work.site.workdir,
        limits=limits_of(work.site.settings),
        most=work.site.backend.batch,
        alike=_alike(work.experiment),
    )
    members = patiently(
        lambda: work.runtime.store.arrays.intend(work.claim, work.holder, company),
        work.runtime.settings.steps.slice_s,
    )
    if isinstance(members, Held):
        return Recorded(reached=False)
    if len(members) == 1:
        claim = replace(work.claim, intent=members[0].intent)
        return PERFORM[StepName.SUBMIT](replace(work, claim=claim))
    return _submit_all([work, *(_beside(work, member) for member in members[1:])], members)


def _alike(experiment: Experiment) -> Callable[[str], bool]:
    """Tell who asks for the same resources: such jobs have one ``sbatch`` in common."""

    def alike(spec: str) -> bool:
        try:
            return Experiment.from_stored(spec).resources == experiment.resources
        except InputError:  # stored by another version: its own message says so
            return False

    return alike


def _beside(work: Work, member: Member) -> Work:
    return replace(
        work,
        claim=member.claim,
        experiment=Experiment.from_stored(member.claim.spec),
        progress={},
        carry_on=None,
    )


def _submit_all(works: Sequence[Work], members: Sequence[Member]) -> Several:
    """Hand all of them to the site in one call; what came of each is written down for each."""
    own, intents = works[0], [member.intent for member in members]
    prologue = own.site.settings.prologue
    specs = [job_spec(one.experiment, it, prologue) for one, it in zip(works, intents, strict=True)]
    with ExitStack() as held:
        for other in works[1:]:
            held.enter_context(own.beside(other.claim))
        answers = _ask(own, specs)
        # for all of them, not for each: were the database away, they would be held for hours
        until = time.monotonic() + own.runtime.settings.steps.slice_s
        outcomes = [
            _outcome(one, intent, answers[intent.token], until)
            for one, intent in zip(works, intents, strict=True)
        ]
    return Several(outcomes[0], list(zip(works[1:], outcomes[1:], strict=True)))


def _ask(work: Work, specs: Sequence[JobSpec]) -> dict[str, Submitted | WlmError]:
    try:
        return work.site.backend.submit_many(specs)
    except WlmError as error:
        return dict.fromkeys((spec.ref.token for spec in specs), error)


def _outcome(
    work: Work, intent: Intent, answer: Submitted | WlmError, until: float
) -> Outcome | WlmError:
    """Write down what the site said of one job. How it stands by now the next poll tells."""
    books, claim = work.runtime.store.jobs, work.claim
    patience_s = until - time.monotonic()
    try:
        if isinstance(answer, Submitted):
            native_id = answer.native_id
            patiently(lambda: books.submitted(claim, intent.token, native_id), patience_s)
            return Recorded()
        if isinstance(answer, JobRejectedError):
            reason = answer.message
            patiently(lambda: books.rejected(claim, intent, reason), patience_s)
            return Recorded()
    except (FencedError, ServiceError) as error:
        return error
    return answer
