"""What became of steps, into the rows: those of one kind in one transaction."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

from wlm_tasks.errors import (
    FencedError,
    JobUndecidedError,
    ServiceError,
    TransientError,
    WlmError,
)
from wlm_tasks.model.steps import StepName
from wlm_tasks.runtime import Runtime
from wlm_tasks.state.accepted import Accepted, Way
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.claims import Ending
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intents import FirstJob
from wlm_tasks.tasks.gate import Blocked, Gate
from wlm_tasks.tasks.patience import patiently
from wlm_tasks.tasks.perform import limits_of
from wlm_tasks.tasks.submitting import gathers
from wlm_tasks.tasks.undecided import verdict
from wlm_tasks.tasks.work import Crowded, Done, Handed, Outcome, Sliced, Work

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Found = TypeVar("_Found")
Result = Outcome | Blocked | WlmError
#: what comes next: a step to be sent, the claim on one that is carried on with, or nothing now
Following = NextStep | Claim | None


class Recorder:
    """Writes down the results of steps for one process."""

    def __init__(self, runtime: Runtime, gate: Gate) -> None:
        self._runtime = runtime
        self._settings = runtime.settings.steps
        self._claims = runtime.store.claims
        self._jobs = runtime.store.jobs
        self._gate = gate

    def record(self, results: Sequence[tuple[Work, Result]]) -> list[Following]:
        """Write down results, and say for each what comes next.

        Raises `ServiceError` if the database stays out of reach.
        """
        following: dict[int, Following] = {}
        done = [work for work, result in results if isinstance(result, Done)]
        following |= self._finish(done)
        handed = [(work, result) for work, result in results if isinstance(result, Handed)]
        following |= self._hand_over(handed)
        for work, result in results:
            if not isinstance(result, Done | Handed):
                following[id(work)] = self._one(work, result)
        return [following[id(work)] for work, _ in results]

    def patiently(self, action: Callable[[], _T]) -> _T:
        """As long as a claim may be held: giving it up would look as if its worker had died."""
        return patiently(action, self._settings.slice_s)

    def fenced(self, claim: Claim) -> None:
        """Somebody else has the step now; we have not crashed, though."""
        _log.warning("%s: step %s was taken over", claim.experiment_id, claim.name)
        try:
            self._claims.not_crashed(claim)
        except ServiceError as error:
            _log.warning("%s: %s", claim.experiment_id, error)

    def _together(
        self, record: Callable[[Sequence[_T]], list[_Found]], several: Sequence[_T]
    ) -> list[_Found | None]:
        """Record several in one transaction; if one of them spoils it, each by itself."""
        try:
            return [*self.patiently(partial(record, several))]
        except ServiceError:
            raise
        except Exception:
            if len(several) == 1:
                raise
            _log.exception("%d results were not recorded together", len(several))
        found: list[_Found | None] = []
        for one in several:
            try:
                found += self.patiently(partial(record, [one]))
            except ServiceError:
                raise
            except Exception:  # noqa: BLE001 - a step that cannot be recorded must not hold up others
                _log.exception("not recorded; when its lease has run out it is tried again")
                found.append(None)
        return found

    # -- done ------------------------------------------------------------------------------

    def _finish(self, works: Sequence[Work]) -> dict[int, Following]:
        endings = [(work, self.patiently(partial(self._ending, work))) for work in works]
        following: dict[int, Following] = {}
        for alike in _by(endings, lambda pair: pair[1].kind):
            recorded = self._together(self._claims.finish_all, [ending for _, ending in alike])
            for (work, ending), found in zip(alike, recorded, strict=True):
                if isinstance(found, FencedError):
                    self.fenced(work.claim)
                    following[id(work)] = None
                else:
                    after = _after(work) if ending.sent else None
                    following[id(work)] = found or after
        return following

    def _ending(self, work: Work) -> Ending:
        if gathers(work):
            return Ending(claim=work.claim, carry_on=None, sent=False)
        job = self._first_job(work)
        return Ending(claim=work.claim, carry_on=work.carry_on, job=job)

    def _first_job(self, work: Work) -> FirstJob | None:
        """The job the next step submits, if nothing is to be counted or waited for before."""
        site = work.experiment.site
        if work.following is not StepName.SUBMIT or limits_of(work.site.settings):
            return None
        if not self._gate.is_open(site, StepName.SUBMIT, work.claim.experiment_id):
            return None
        return FirstJob(site=site, workdir=work.workdir)

    # -- handed over -----------------------------------------------------------------------

    def _hand_over(self, handed: Sequence[tuple[Work, Handed]]) -> dict[int, Following]:
        accepted = [(work, _accepted(work, result)) for work, result in handed]
        following: dict[int, Following] = {}
        for alike in _by(accepted, lambda pair: pair[1].kind):
            recorded = self._together(self._jobs.submitted_all, [one for _, one in alike])
            for (work, one), found in zip(alike, recorded, strict=True):
                if isinstance(found, Way):
                    following[id(work)] = self._elsehow(work, one)
                else:
                    following[id(work)] = found
        return following

    def _elsehow(self, work: Work, one: Accepted) -> Following:
        try:
            return self.patiently(lambda: self._jobs.submitted_else(one))
        except FencedError:
            self.fenced(work.claim)
            return None

    # -- all else --------------------------------------------------------------------------

    def _one(self, work: Work, result: Result) -> Following:
        try:
            return self.patiently(lambda: self._write(work, result))
        except FencedError:
            self.fenced(work.claim)
            return None

    def _write(self, work: Work, result: Result) -> Following:
        claim = work.claim
        if isinstance(result, Sliced):
            self._claims.give_back(claim, result.progress)
            return NextStep(claim.experiment_id, work.segment, claim.priority)
        if isinstance(result, WlmError):
            self._fault(work, result)
        elif isinstance(result, Blocked):
            self._claims.hold(claim, result.reason)
        elif isinstance(result, Crowded):
            self._claims.back_off(claim, result.reason, result.pause_s, tried=False)
        return None

    def _fault(self, work: Work, error: WlmError) -> None:
        claim, retry = work.claim, work.experiment.retry
        _log.warning("%s: step %s: %s", claim.experiment_id, claim.name, error.message)
        if not isinstance(error, TransientError):
            self._claims.fail(claim, error.message)
        elif reason := self._hopeless(work, error):
            self._claims.pause(claim, reason)
        else:
            due_s = min(retry.backoff_s * 2**claim.tries, retry.max_backoff_s)
            self._claims.back_off(claim, error.message, due_s)

    def _hopeless(self, work: Work, error: TransientError) -> str | None:
        """Why a person is to look now, if trying again by ourselves makes no sense."""
        claim = work.claim
        if isinstance(error, JobUndecidedError):
            return verdict(self._runtime.store, claim, error, self._settings.undecided_s)
        if claim.tries + 1 < work.experiment.retry.tries:
            return None
        return f"gave up after {claim.tries + 1} tries: {error.message}"


def _after(work: Work) -> NextStep | None:
    rest = work.segment[1:]
    return NextStep(work.claim.experiment_id, rest, work.claim.priority) if rest else None


def _accepted(work: Work, result: Handed) -> Accepted:
    return Accepted(
        claim=work.claim,
        token=result.token,
        native_id=result.native_id,
        report=result.report,
        carry_on=work.carry_on,
    )


def _by(pairs: Iterable[_T], kind: Callable[[_T], Hashable]) -> list[list[_T]]:
    groups: defaultdict[Any, list[_T]] = defaultdict(list)
    for pair in pairs:
        groups[kind(pair)].append(pair)
    return list(groups.values())
