"""Steps that one holder works on together: claimed along with another, let go before their time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import Select, bindparam, select

from wlm_tasks.errors import FencedError
from wlm_tasks.model.states import StepState, experiment_state
from wlm_tasks.model.steps import QUEUES
from wlm_tasks.state.advance import advance
from wlm_tasks.state.boundaries import claim_boundary, outranked, queue_parameters
from wlm_tasks.state.database import Database
from wlm_tasks.state.holders import Claim, Holder, claim_of
from wlm_tasks.state.schema import IS_READY, experiments, steps

#: How many of a queue's oldest are looked through: others of another site may be in front.
_WINDOW: Final = 200
#: Steps that have never been begun. One that was may have progress to go on with, or may be what
#: killed its worker: it is claimed alone, so that it takes no other with it.
_OLDEST: Final = (
    select(steps.c.experiment_id, steps.c.name, steps.c.attempt, steps.c.crashes)
    .where(
        IS_READY,
        steps.c.queue == bindparam("b_queue"),
        steps.c.priority == bindparam("b_priority"),
        steps.c.sent_at.is_not(None),  # what is still to be sent control may be sending now
    )
    .order_by(steps.c.sent_at)
    .limit(_WINDOW)
    .subquery()
)
_LIKE: Final = (
    select(_OLDEST.c.experiment_id)
    .join_from(_OLDEST, experiments, experiments.c.id == _OLDEST.c.experiment_id)
    .where(
        _OLDEST.c.name == bindparam("b_name"),
        _OLDEST.c.attempt == 0,
        _OLDEST.c.crashes == 0,
        _OLDEST.c.experiment_id != bindparam("b_experiment"),
        experiments.c.site == bindparam("b_site"),
    )
    .limit(bindparam("b_most"))
)


@cache
def _is_outranked(queues: int) -> Select[Any]:
    """The question that each claim asks, of a step that is claimed."""
    return select(outranked(queue_parameters(queues))).where(
        steps.c.experiment_id == bindparam("b_experiment"), steps.c.seq == bindparam("b_seq")
    )


class Batches:
    """What the holder of several claims asks and writes, beside what each is written for itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim_like(self, claim: Claim, holder: Holder, site: str, most: int) -> list[Claim]:
        """Claim up to so many other steps that wait for the same as a claimed one, in one go.

        They have its name and its priority, are of the same site and have never been begun. None
        is claimed while something more urgent waits, as always.
        """
        state = experiment_state(claim.name, StepState.RUNNING, last=False)
        if state is None or most < 1:
            return []
        like = {
            "b_queue": QUEUES[claim.name],
            "b_priority": claim.priority,
            "b_name": claim.name.value,
            "b_experiment": claim.experiment_id,
            "b_site": site,
            "b_most": most,
        }
        with self._database.read() as connection:
            waiting = sorted(connection.execute(_LIKE, like).scalars())
        if not waiting:
            return []
        made = self._database.swift.run_all(
            claim_boundary(state, len(holder.queues), at_hand=True),
            [
                {"b_experiment": one, "b_name": claim.name.value, **holder.parameters}
                for one in waiting
            ],
        )
        return [claim_of(rows["claimed"], rows["claimed"].spec) for rows in made if rows]

    def is_outranked(self, claim: Claim, holder: Holder) -> bool:
        """Whether something more urgent is ready for the holder of a claim."""
        statement = _is_outranked(len(holder.queues))
        with self._database.read() as connection:
            found = connection.execute(statement, {**claim.key, **holder.parameters})
            return bool(found.scalar_one())

    def let_go(self, claims: Sequence[Claim], reason: str) -> list[Claim]:
        """Give back steps that were not begun: they are ready as before, and control sends them.

        Returns the claims that were no longer held: their steps were cancelled or taken over.
        """
        lost: list[Claim] = []
        with self._database.write() as connection:
            for claim in sorted(claims, key=lambda claim: claim.experiment_id):
                try:
                    advance(
                        connection,
                        claim.experiment_id,
                        claim.seq,
                        StepState.READY,
                        epoch=claim.epoch,
                        detail={"reason": reason},
                        attempt_add=-1,
                        lease_until=None,
                        message_id=None,
                        sent_at=None,
                    )
                except FencedError:
                    lost.append(claim)
        return lost
