"""Claims: who may work on a step, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, Update, bindparam, select, update

from wlm_tasks.errors import FencedError
from wlm_tasks.model.states import StepState, experiment_state
from wlm_tasks.model.steps import QUEUES, StepName
from wlm_tasks.state.advance import NextStep, advance, record
from wlm_tasks.state.boundaries import (
    claim_boundary,
    claiming,
    finish_boundary,
    outranked,
    queue_parameters,
)
from wlm_tasks.state.database import Database
from wlm_tasks.state.holders import Claim, Holder, claim_of
from wlm_tasks.state.intents import FirstJob, first_intent, parameters
from wlm_tasks.state.schema import IS_READY, db_now, is_open, steps


@dataclass(frozen=True)
class GoOn:
    """The message's step is done already; the chain should go on to this step."""

    name: StepName


@dataclass(frozen=True)
class Leave:
    """Nothing to do for this message."""

    reason: str


#: Of a step whose worker's message came again, though the worker was not at work on it alone.
_DIED: Final = "its worker died"
_MOST_URGENT = (
    select(steps.c.experiment_id, steps.c.name)
    .where(IS_READY, steps.c.queue.in_(bindparam("b_queues", expanding=True)))
    .order_by(steps.c.priority.desc(), steps.c.sent_at, steps.c.experiment_id)
    .limit(1)
    .with_for_update(skip_locked=True)  # what another worker is just claiming is as good as gone
)
_HELD_BY_MESSAGE = (
    select(steps.c.experiment_id, steps.c.seq, steps.c.epoch)
    .where(is_open("RUNNING"), steps.c.message_id == bindparam("b_message"))
    .order_by(steps.c.experiment_id)
    .with_for_update()  # its old holder may be writing its end in this moment
)
_OF_EXPERIMENT = (
    select(steps.c.seq, steps.c.name, steps.c.state)
    .where(steps.c.experiment_id == bindparam("b_experiment"))
    .order_by(steps.c.seq)
)
#: prolongs the lease of a claim that is still held
RENEW: Final = (
    update(steps)
    .where(
        steps.c.experiment_id == bindparam("b_experiment"),
        steps.c.seq == bindparam("b_seq"),
        steps.c.epoch == bindparam("b_epoch"),
        steps.c.state == StepState.RUNNING.value,
    )
    .values(lease_until=db_now() + bindparam("b_lease"))
)


class EndingKind(NamedTuple):
    """What the transaction of an ending depends on."""

    last: bool
    queues: int | None
    intent: bool
    sent: bool


@dataclass(frozen=True, kw_only=True)
class Ending:
    """A step that is done, and how its experiment goes on.

    With `carry_on` the next step is claimed for that holder in the same transaction, if it
    serves the step's queue and nothing more urgent is ready there. If that step is to submit
    `job`, the same transaction holds the intent, too. Unless it is `sent` by the caller, a step
    that nobody has claimed is sent by control.
    """

    claim: Claim
    carry_on: Holder | None
    job: FirstJob | None = None
    sent: bool = True

    @property
    def kind(self) -> EndingKind:
        """Endings of one kind can be recorded together."""
        queues = None if self.carry_on is None or self.claim.last else len(self.carry_on.queues)
        intent = self.job is not None and queues is not None
        return EndingKind(self.claim.last, queues, intent, self.sent)

    @property
    def parameters(self) -> dict[str, Any]:
        """As parameters of statements."""
        values: dict[str, Any] = {**self.claim.key, "b_next": self.claim.seq + 1}
        if self.carry_on is not None:
            values |= self.carry_on.parameters
            if self.job is not None:
                values |= parameters(self.claim.experiment_id, self.job)
        return values


class Claims:
    """Everything the holder of a step writes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, experiment_id: str, name: StepName, holder: Holder) -> Claim | GoOn | Leave:
        """Claim the step a message hints at, or what ought to come first.

        A redelivered message proves that its former holder lost its channel: whatever was
        claimed under it is taken over at once. A more urgent step ready in a queue of this
        worker is claimed instead of the message's own.
        """
        if not holder.redelivered:
            state = experiment_state(name, StepState.RUNNING, last=False)
            if state is not None:
                made = self._database.swift.run(
                    claim_boundary(state, len(holder.queues)),
                    {"b_experiment": experiment_id, "b_name": name.value, **holder.parameters},
                )
                if made:
                    return claim_of(made["claimed"], made["claimed"].spec)
        with self._database.write() as connection:
            if holder.redelivered:
                taken = self._take_over(connection, holder)
                if taken is not None:
                    return taken
            claim = try_claim(connection, experiment_id, name, holder)
            if claim is not None:
                return claim
            rows = connection.execute(_OF_EXPERIMENT, {"b_experiment": experiment_id}).all()
            if any(row.name == name and row.state == StepState.READY for row in rows):
                return self._claim_most_urgent(connection, holder)
        return after_missed_claim(rows, name, redelivered=holder.redelivered)

    def _claim_most_urgent(self, connection: Connection, holder: Holder) -> Claim | Leave:
        best = connection.execute(_MOST_URGENT, {"b_queues": holder.queues}).first()
        if best is not None:
            claim = try_claim(connection, best.experiment_id, best.name, holder, anyhow=True)
            if claim is not None:
                return claim
        return Leave("taken by another worker in the same moment")

    def _take_over(self, connection: Connection, holder: Holder) -> Claim | None:
        found = connection.execute(_HELD_BY_MESSAGE, {"b_message": holder.message_id}).all()
        for other in found[1:]:  # members of an array: each goes on by itself
            advance(
                connection,
                other.experiment_id,
                other.seq,
                StepState.READY,
                detail={"reason": _DIED},
                reason=_DIED,
                crashes_add=1,
                lease_until=None,
                message_id=None,
                ready_at=True,
                sent_at=None,
            )
        for held in found[:1]:
            row = advance(
                connection,
                held.experiment_id,
                held.seq,
                StepState.RUNNING,
                epoch=held.epoch,
                detail={"taken_over": True},
                worker=holder.worker,
                message_id=holder.message_id,
                lease_s=holder.lease_s,
                attempt_add=1,
                crashes_add=1,
                started_at=True,
            )
            return claim_of(row)
        return None

    def finish(
        self,
        claim: Claim,
        *,
        carry_on: Holder | None,
        job: FirstJob | None = None,
        sent: bool = True,
    ) -> Claim | None:
        """Record one step as done, as `finish_all` does; raises `FencedError` if it cannot be."""
        ending = Ending(claim=claim, carry_on=carry_on, job=job, sent=sent)
        [following] = self.finish_all([ending])
        if isinstance(following, FencedError):
            raise following
        return following

    def finish_all(self, endings: Sequence[Ending]) -> list[Claim | FencedError | None]:
        """Record steps as done and make the next ones ready, all of one kind in one transaction.

        Returns for each the claim on the next step if it is carried on with, and a `FencedError`
        if its own is no longer held.
        """
        if len({ending.kind for ending in endings}) > 1:
            raise ValueError("endings of different kinds: each kind has a transaction of its own")
        ordered = sorted(
            endings, key=lambda ending: ending.claim.experiment_id
        )  # as others lock them
        made = self._database.swift.run_all(
            finish_boundary(**endings[0].kind._asdict()), [ending.parameters for ending in ordered]
        )
        found = {id(one): _following(one, rows) for one, rows in zip(ordered, made, strict=True)}
        return [found[id(ending)] for ending in endings]

    def give_back(self, claim: Claim, progress: str | None = None) -> None:
        """End a slice: the step is ready again and its message is about to be sent again."""
        with self._database.write() as connection:
            values: dict[str, Any] = {} if progress is None else {"progress": progress}
            # A slice that ended well shows that the step does not kill its workers.
            _end(
                connection, claim, StepState.READY, ready_at=True, sent_at=True, crashes=0, **values
            )

    def back_off(self, claim: Claim, reason: str, due_s: float, *, tried: bool = True) -> None:
        """After a passing fault, or before a try: begin again in `due_s` seconds."""
        with self._database.write() as connection:
            tries = int(tried)
            _end(connection, claim, StepState.BACKOFF, reason=reason, due_s=due_s, tries_add=tries)

    def hold(self, claim: Claim, reason: str) -> None:
        """Wait until the site takes work again; no try is used up by that."""
        with self._database.write() as connection:
            _end(connection, claim, StepState.HELD, reason=reason, sent_at=None)

    def pause(self, claim: Claim, reason: str) -> None:
        """Stop and wait for a person."""
        with self._database.write() as connection:
            _end(connection, claim, StepState.PAUSED, reason=reason, tries_add=1)

    def fail(self, claim: Claim, reason: str) -> None:
        """End the step, and with it the experiment, without success."""
        with self._database.write() as connection:
            _end(connection, claim, StepState.FAILED, reason=reason)

    def renew(self, claims: Sequence[Claim], lease_s: float) -> None:
        """Prolong leases. A claim that is no longer held gets its `lost` flag set."""
        with self._database.write() as connection:
            for claim in sorted(
                claims, key=lambda claim: claim.experiment_id
            ):  # as others lock them
                renewed = connection.execute(RENEW, {**claim.key, "b_lease": lease_s}).rowcount
                if not renewed:
                    claim.lost.set()

    def progress(self, claim: Claim, progress: str, lease_s: float) -> None:
        """Save how far a step is, as JSON, and prolong its lease; nothing if the claim is lost."""
        with self._database.write() as connection:
            connection.execute(RENEW.values(progress=progress), {**claim.key, "b_lease": lease_s})

    def not_crashed(self, claim: Claim) -> None:
        """Take back one count of a crash: the former holder is alive, it only lost its channel."""
        with self._database.write() as connection:
            connection.execute(
                update(steps)
                .where(
                    steps.c.experiment_id == claim.experiment_id,
                    steps.c.seq == claim.seq,
                    steps.c.epoch > claim.epoch,
                    steps.c.crashes > 0,
                )
                .values(crashes=steps.c.crashes - 1)
            )


def _following(ending: Ending, made: Mapping[str, Any]) -> Claim | FencedError | None:
    claim, job = ending.claim, ending.job
    if not made:
        return FencedError(f"{claim.experiment_id}: the claim on step {claim.seq} is lost")
    if "carried" not in made:
        return None
    intent = first_intent(claim.experiment_id, job) if job and "intent" in made else None
    return claim_of(made["carried"], intent=intent)


def claim_ready(connection: Connection, ready: NextStep, holder: Holder) -> Claim | None:
    """Claim a step that has just become ready, if its holder serves it and nothing comes first."""
    name = ready.segment[0]
    if QUEUES[name] not in holder.queues:
        return None
    return try_claim(connection, ready.experiment_id, name, holder)


def try_claim(
    connection: Connection, experiment_id: str, name: str, holder: Holder, *, anyhow: bool = False
) -> Claim | None:
    """Claim a ready step, unless a more urgent one is ready for its holder; `anyhow` even so."""
    row = connection.execute(
        _claim_statement(len(holder.queues), anyhow=anyhow),
        {"b_experiment": experiment_id, "b_name": name, **holder.parameters},
    ).one_or_none()
    return None if row is None else _claimed(connection, row, holder)


@cache
def _claim_statement(queues: int, *, anyhow: bool) -> Update:
    served = queue_parameters(queues)
    return claiming(steps.c.queue.in_(served) if anyhow else ~outranked(served))


def _claimed(connection: Connection, row: Row[Any], holder: Holder) -> Claim:
    record(connection, row, StepState.RUNNING, worker=holder.worker)
    return claim_of(row, row.spec)


def after_missed_claim(rows: Sequence[Any], name: str, *, redelivered: bool) -> GoOn | Leave:
    """What to do with a message whose step was not there to be claimed.

    Only a redelivered message of a finished step goes on: its former holder may have died
    between recording the step and sending the next message. Any other is a duplicate.
    """
    states = {row.name: row.state for row in rows}
    if name not in states:
        return Leave("no such step")
    if redelivered and states[name] == StepState.DONE:
        following = next((row.name for row in rows if row.state == StepState.READY), None)
        if following is not None:
            return GoOn(StepName(following))
    return Leave(f"the step is {states[name]}")


def _end(
    connection: Connection,
    claim: Claim,
    to: StepState,
    *,
    detail: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    if "reason" in values:
        detail = {**(detail or {}), "reason": values["reason"]}
    if to is not StepState.READY:
        values["ended_at"] = True
    advance(
        connection,
        claim.experiment_id,
        claim.seq,
        to,
        epoch=claim.epoch,
        detail=detail,
        lease_until=None,
        message_id=None,
        **values,
    )
