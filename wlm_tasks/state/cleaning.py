"""The books on directories that are removed after the end of their experiments.

A removal is begun in the rows before anything is done at the site. From then on a retry begins
with the set-up, so nothing starts in a directory that is on its way out; and whoever finds a
removal begun may begin it again, since removing what is gone is no error. One that is still under
way when the experiment is set up again does no harm: the new directory has a higher mark, the epoch
of that set-up, and nobody listens to what the removal says of its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Update, and_, exists, func, or_, select, update

from wlm_tasks.errors import IllegalTransitionError
from wlm_tasks.model.states import FINAL, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.advance import literal_states, log
from wlm_tasks.state.connections import ConnectionLeases
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import (
    IS_LIVE,
    TO_CLEAN,
    connections,
    db_now,
    experiments,
    jobs,
    steps,
)

#: seconds until a removal that was asked for and shows no effect is asked for again
ASKED_S: Final = 300.0
#: most removals of one site that are asked for or under way
AT_ONCE: Final = 4
#: those looked at in one go
_LOOKED_AT: Final = 50
#: how long a worker may go on with a step that is not its own any more, unless told
SLICE_S: Final = 600.0
#: the same as `ASKED_S` once one was begun: at first, and at last; twice as long each time
_FIRST_S: Final = 60.0
_LAST_S: Final = 6 * 3600.0
#: begins the name under which places of a site are counted
_LINE: Final = "removals "
#: what a retry has to set back
FORGOTTEN: Final[dict[str, Any]] = {
    "cleanup_at": None,
    "cleanup_tries": 0,
    "cleanup_reason": None,
    "removed_at": None,
}


@dataclass(frozen=True, kw_only=True)
class Removal:
    """A removal that has been begun."""

    experiment_id: str
    number: int  #: of this removal, from 1 on since the last retry
    mark: int  #: the highest that directories of it have
    workdirs: tuple[str, ...]  #: where its jobs were


class Cleaning:
    """What control and workers ask and note about directories to be removed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places = ConnectionLeases(database)

    def due(self, limit: int, silent: Sequence[str] = (), *, slice_s: float = SLICE_S) -> list[str]:
        """Ids of experiments whose directory is to be removed now; none of the sites `silent`.

        `slice_s` is the longest that a worker works on a step before it looks whether it may.
        """
        return [row.id for row in self._due(limit, silent, slice_s)]

    def _due(self, limit: int, silent: Sequence[str], slice_s: float) -> Sequence[Any]:
        under_way = exists().where(
            connections.c.line == _LINE + experiments.c.site,
            connections.c.holder == experiments.c.id,
            connections.c.expires_at > db_now(),
        )
        statement = (
            select(experiments.c.id, experiments.c.site)
            .where(
                _wanted(slice_s),
                func.coalesce(experiments.c.cleanup_at, 0.0) <= db_now(),
                experiments.c.site.not_in(silent),
                ~under_way,
            )
            .order_by(experiments.c.ended_at)
            .limit(limit)
        )
        with self._database.read() as connection:
            return connection.execute(statement).all()

    def ask(self, silent: Sequence[str] = (), *, slice_s: float = SLICE_S) -> list[str]:
        """Ids of those to be asked for now, and not again for a while; the sites take turns.

        Of each site at most `AT_ONCE` are on their way. Arguments are those of `due`.
        """
        full, asked = set(silent), dict[str, list[str]]()
        while rows := self._due(_LOOKED_AT, sorted(full), slice_s):
            for row in rows:
                if row.site in full:
                    continue
                if self._places.take(_LINE + row.site, AT_ONCE, row.id, ASKED_S):
                    self._pause(row.id)
                    asked.setdefault(row.site, []).append(row.id)
                else:
                    full.add(row.site)
        return [id_ for turn in zip_longest(*asked.values()) for id_ in turn if id_ is not None]

    def _pause(self, experiment_id: str) -> None:
        with self._database.write() as connection:
            connection.execute(
                update(experiments)
                .where(
                    experiments.c.id == experiment_id,
                    experiments.c.removed_at.is_(None),
                    # a removal that has begun meanwhile has set a pause of its own
                    func.coalesce(experiments.c.cleanup_at, 0.0) <= db_now(),
                )
                .values(cleanup_at=db_now() + ASKED_S)
            )

    def goes_on(self, experiment_id: str, site: str, ttl_s: float) -> None:
        """The removal is under way, for so many seconds at most: its place stays taken."""
        self._places.renew(_LINE + site, experiment_id, ttl_s)

    def over(self, experiment_id: str, site: str) -> None:
        """Nobody works on the removal now, however that came."""
        self._places.give_back(_LINE + site, experiment_id)

    def begin(self, experiment_id: str, *, slice_s: float = SLICE_S) -> Removal | None:
        """Note that the removal begins; None if it is not (or no longer) to be removed.

        `slice_s` is that of `due`.
        """
        wanted = select(experiments.c.cleanup_tries).where(
            experiments.c.id == experiment_id, _wanted(slice_s)
        )
        with self._database.write() as connection:
            tries = connection.execute(wanted.with_for_update()).scalar_one_or_none()
            if tries is None:
                return None
            pause_s = min(_FIRST_S * 2.0 ** min(tries, 30), _LAST_S)
            connection.execute(
                update(experiments)
                .where(experiments.c.id == experiment_id)
                .values(cleanup_tries=tries + 1, cleanup_at=db_now() + pause_s)
            )
            mark = connection.execute(
                select(steps.c.epoch).where(
                    steps.c.experiment_id == experiment_id, steps.c.seq == 0
                )
            ).scalar_one()
            workdirs = connection.execute(
                select(jobs.c.workdir).where(jobs.c.experiment_id == experiment_id).distinct()
            ).scalars()
            return Removal(
                experiment_id=experiment_id,
                number=tries + 1,
                mark=mark,
                workdirs=tuple(sorted(workdirs)),
            )

    def removed(self, removal: Removal, workdirs: Sequence[str]) -> None:
        """The directories are gone."""
        detail = {"directory": ", ".join(workdirs)}
        self._end(removal, "REMOVED", detail, removed_at=db_now())

    def kept(self, removal: Removal, reason: str, *, whole: bool) -> None:
        """Nobody can remove the directory from here; it is not tried again.

        Unless it is certainly `whole`, and no other removal can be under way, a retry begins from
        the start.
        """
        tries = 0 if whole and removal.number == 1 else removal.number
        values = {"cleanup": None, "cleanup_tries": tries, "cleanup_reason": reason}
        self._end(removal, "KEPT", {"reason": reason}, **values)

    def _end(self, removal: Removal, word: str, detail: dict[str, str], **values: Any) -> None:
        with self._database.write() as connection:
            statement = _still(removal).values({"cleanup_reason": None, **values})
            if connection.execute(statement).rowcount:
                # of the first step, which made it: it is no state of the experiment to publish
                log(connection, removal.experiment_id, word, seq=0, detail=detail)

    def failed(self, removal: Removal, reason: str) -> None:
        """The removal went wrong; it is tried again later."""
        with self._database.write() as connection:
            connection.execute(_still(removal).values(cleanup_reason=reason))


def _still(removal: Removal) -> Update:
    """Update the experiment if no other removal and no retry has begun since."""
    setup = (steps.c.experiment_id == experiments.c.id, steps.c.seq == 0)
    return update(experiments).where(
        experiments.c.id == removal.experiment_id,
        experiments.c.removed_at.is_(None),
        experiments.c.cleanup_tries == removal.number,
        exists().where(*setup, steps.c.epoch == removal.mark),
    )


def _wanted(slice_s: float) -> ColumnElement[bool]:
    """Ended for good and long enough ago, nothing of it lives, and nothing of worth is in there."""
    mine = steps.c.experiment_id == experiments.c.id
    done = steps.c.state == StepState.DONE.value
    succeeded = exists().where(mine, steps.c.name == StepName.MONITOR.value, done)
    # whoever worked on it may not know yet that it was taken away
    lost = or_(
        steps.c.crashes > 0,
        and_(steps.c.state == StepState.CANCELLED.value, steps.c.attempt > 0),
    )
    unsaved = exists().where(mine, steps.c.name == StepName.STAGE_OUT.value, ~done)
    return and_(
        TO_CLEAN,
        # not the column itself: SQLite would look by state, at all that has ever ended
        func.coalesce(experiments.c.state, "").in_(literal_states(*sorted(FINAL))),
        experiments.c.ended_at + func.coalesce(experiments.c.cleanup_after_s, 0.0) <= db_now(),
        or_(experiments.c.ended_at + slice_s <= db_now(), ~exists().where(mine, lost)),
        exists().where(mine, steps.c.seq == 0, steps.c.attempt > 0),  # else there is none
        ~exists().where(jobs.c.experiment_id == experiments.c.id, IS_LIVE),
        # the outputs of a job that ended well are there only, until they are taken out
        or_(~succeeded, ~unsaved),
    )


def refuse_removed(experiment: Row[Any], name: StepName | None) -> bool:
    """Whether its directory is gone or may be, so that it can begin from the start only.

    Raises `IllegalTransitionError` for another step than the first.
    """
    if experiment.removed_at is None and experiment.cleanup_tries == 0:
        return False
    if name not in {None, StepName.SETUP}:
        removed = "may have been removed" if experiment.removed_at is None else "was removed"
        raise IllegalTransitionError(
            f"{experiment.id}: its directory {removed}: retry it from setup, not from {name}"
        )
    return True
