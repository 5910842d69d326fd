"""What happens at the boundaries between steps on the usual way, as moves for `swift`.

Each is the same compare-and-set as in `advance`, of the same statements and the same transition
table. Whoever finds that a boundary was not passed (its first row is not as expected) goes the
general way, which says why.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Insert,
    Select,
    Update,
    bindparam,
    exists,
    false,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    update,
)

from wlm_tasks.model.states import FINAL, ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import PlannedStep
from wlm_tasks.state.advance import END_EXPERIMENT, RETURNED, SET_EXPERIMENT, move_statement
from wlm_tasks.state.moves import Boundary, Event, Move
from wlm_tasks.state.schema import RIVAL_READY, db_now, experiments, jobs, steps

Queues = list[BindParameter[Any]]

#: Parameters of an end without more words: the claim's lease and message go.
_ENDED: Final = {"v_lease_until": None, "v_message_id": None}
_INTAKE_COLUMNS: Final = (
    "id", "key", "fingerprint", "name", "owner", "project", "site", "priority", "state",
    "spec", "params", "labels", "cleanup", "cleanup_after_s",
)  # fmt: skip
_SPEC = (
    select(experiments.c.spec)
    .where(experiments.c.id == steps.c.experiment_id)
    .correlate(steps)
    .scalar_subquery()
    .label("spec")
)
#: Of a step that is found by its key. Said as elsewhere, the index of ready steps would offer
#: itself: PostgreSQL takes it for short and reads it to its end.
_READY_ITSELF: Final[ColumnElement[bool]] = literal_column("steps.state || '' = 'READY'")
_touched = steps.alias("touched")
_UNTOUCHED: Final = (
    select(_touched.c.seq)
    .where(
        _touched.c.experiment_id == bindparam("b_experiment"),
        _touched.c.name == bindparam("b_name"),
    )
    .with_for_update(skip_locked=True)
    .scalar_subquery()
)
_CLAIM_VALUES: Final[dict[str, Any]] = {
    "state": StepState.RUNNING.value,
    "epoch": steps.c.epoch + 1,
    "attempt": steps.c.attempt + 1,
    "worker": bindparam("b_worker"),
    "message_id": bindparam("b_message"),
    "lease_until": db_now() + bindparam("b_lease"),
    "started_at": db_now(),
    "ended_at": None,
    "reason": None,
}


def claiming(*conditions: ColumnElement[bool]) -> Update:
    """Claim the step of a name."""
    return (
        update(steps)
        .where(
            steps.c.experiment_id == bindparam("b_experiment"),
            steps.c.name == bindparam("b_name"),
            _READY_ITSELF,
            *conditions,
        )
        .values(_CLAIM_VALUES)
        .returning(*RETURNED, _SPEC)
    )


def carrying_on(queues: Queues, *conditions: ColumnElement[bool]) -> Update:
    """From the step just done straight into the next one."""
    return (
        update(steps)
        .where(
            steps.c.experiment_id == bindparam("b_experiment"),
            steps.c.seq == bindparam("b_next"),
            steps.c.state == literal_column("'WAITING'"),
            steps.c.queue.in_(queues),
            ~outranked(queues),
            *conditions,
        )
        .values({**_CLAIM_VALUES, "ready_at": db_now()})
        .returning(*RETURNED)
    )


def outranked(queues: Queues) -> ColumnElement[bool]:
    """True while a more urgent step is ready in one of the queues.

    Each queue's most urgent one is asked for, which is one look at the index of ready steps. Asked
    whether there is any such step PostgreSQL would sooner read the whole table.
    """
    rivals = steps.alias("rivals")
    urgent = [
        select(func.coalesce(func.max(rivals.c.priority), -1))
        .where(RIVAL_READY, rivals.c.queue == queue)
        .scalar_subquery()
        for queue in queues
    ]
    return or_(false(), *(steps.c.priority < most for most in urgent))


def queue_parameters(count: int) -> list[BindParameter[Any]]:
    """``b_queue_0`` and so on: as many as a worker serves."""
    return [bindparam(f"b_queue_{number}") for number in range(count)]


@cache
def claim_boundary(state: ExperimentState, queues: int, *, at_hand: bool = False) -> Boundary:
    """Claim a ready step unless a more urgent one is; its experiment gets this state.

    With `at_hand` a step that somebody else is just changing is left alone, not waited for.
    """
    conditions = [~outranked(queue_parameters(queues))]
    if at_hand:
        conditions.append(steps.c.seq == _UNTOUCHED)
    return Boundary(
        (
            Move(
                name="claimed",
                make=partial(claiming, *conditions),
                events=(Event(state="RUNNING", worker="b_worker"),),
            ),
            _experiment(state, after="claimed"),
        ),
        {"b_state": state.value, "b_reason": None},
    )


@cache
def finish_boundary(
    *, last: bool, queues: int | None, intent: bool = False, sent: bool = True
) -> Boundary:
    """Record a step as done and open the next one, or claim it for who serves these queues.

    Unless it is `sent` by whoever asks, control sends the next step's message.

    With `intent` the step that is claimed is to submit the experiment's first job: then its
    intent is made with the claim, unless there was a job before.

    The experiment's state stays as it is, but at its end: the next step is one that prepares
    the job, as is the step just done.
    """
    done = _step("done", StepState.DONE, events=(Event(state="DONE"),))
    if last:
        ended = ExperimentState.DONE
        return Boundary(
            (done, _experiment(ended, after="done")),
            {**_ENDED, "b_state": ended.value, "b_reason": None},
            flushed=True,  # whoever reads DONE may clean up
        )
    moves = [done, *_next_moves("done", queues, sent=sent)]
    if intent:
        moves.append(Move(name="intent", make=_intent, after="carried"))
    return Boundary(tuple(moves), _ENDED if sent else {**_ENDED, "v_sent_at": None}, flushed=intent)


@cache
def submitted_boundary() -> Boundary:
    """The site has the job: submit is done, the monitor step watches."""
    return Boundary(
        (
            _step("done", StepState.DONE, events=(Event(state="DONE"),)),
            Move(
                name="watching",
                make=partial(_watching, StepState.WATCHING),
                after="done",
                events=(Event(state="WATCHING", detail="b_native"),),
            ),
            Move(name="job", make=partial(_job, {"state": JobRecord.PENDING.value}), after="done"),
            _experiment(ExperimentState.SUBMITTED, after="done"),
        ),
        {**_ENDED, "b_state": ExperimentState.SUBMITTED.value, "b_reason": None},
    )


@cache
def ended_boundary(*, queues: int | None) -> Boundary:
    """The job was over, and well, as soon as the site had it: on to the step that follows it."""
    state = ExperimentState.FINISHING
    ended: dict[str, Any] = {
        "state": JobRecord.SUCCEEDED.value,
        "exit_code": bindparam("b_exit_code"),
        "started_at": bindparam("b_started"),
        "ended_at": func.coalesce(bindparam("b_ended", type_=jobs.c.ended_at.type), db_now()),
    }
    watched = Move(
        name="watched",
        make=partial(_watching, StepState.DONE),
        after="done",
        events=(
            Event(state="WATCHING", detail="b_native"),
            Event(state="DONE", detail="b_exit"),
        ),
    )
    following = steps.alias("following")
    follows = exists().where(
        following.c.experiment_id == bindparam("b_experiment"),
        following.c.seq == bindparam("b_next"),
    )
    return Boundary(
        (
            _step("done", StepState.DONE, follows, events=(Event(state="DONE"),)),
            watched,
            *_next_moves("watched", queues),
            Move(name="job", make=partial(_job, ended), after="done"),
            _experiment(state, after="done", before=ExperimentState.SUBMITTED),
        ),
        {**_ENDED, "b_state": state.value, "b_reason": None},
    )


@cache
def intake_boundary(planned: tuple[PlannedStep, ...], *, sent: bool) -> Boundary:
    """Store one experiment with these steps; the first is ready, and said to be sent or not."""
    now, last = db_now(), len(planned) - 1
    experiment = insert(experiments).values(
        {column: bindparam(f"b_{column}") for column in _INTAKE_COLUMNS},
    )
    rows: list[dict[str, Any]] = [
        {
            "experiment_id": bindparam("b_id"),
            "seq": step.seq,
            "name": step.name.value,
            "queue": step.queue,
            "last": step.seq == last,
            "priority": bindparam("b_priority"),
            "state": (StepState.WAITING if step.seq else StepState.READY).value,
            "ready_at": now,
            "sent_at": now if sent and not step.seq else null(),
        }
        for step in planned
    ]
    stored = experiment.values(created_at=now, updated_at=now).returning(
        experiments.c.id.label("experiment_id")
    )
    return Boundary(
        (
            Move(
                name="stored",
                make=lambda: stored,
                events=(Event(state="QUEUED", of_step=False, detail="b_detail"),),
            ),
            Move(
                name="planned",
                make=lambda: insert(steps).values(rows).returning(steps.c.experiment_id),
            ),
        ),
        flushed=True,
    )


def _step(
    name: str, to: StepState, *conditions: ColumnElement[bool], events: tuple[Event, ...] = ()
) -> Move:
    """A move by the holder of the claim."""
    assigned = (("ended_at", True), *((key.removeprefix("v_"), False) for key in sorted(_ENDED)))
    statement = move_statement(to, assigned, fenced=True).where(*conditions)
    return Move(name=name, make=statement.where, events=events)


def _next_moves(after: str, queues: int | None, *, sent: bool = True) -> list[Move]:
    ready = move_statement(
        StepState.READY, (("ready_at", True), ("sent_at", sent)), fenced=False, seq="b_next"
    )
    if queues is None:
        return [Move(name="readied", make=ready.where, after=after)]
    return [
        Move(
            name="carried",
            make=partial(carrying_on, queue_parameters(queues)),
            after=after,
            events=(Event(state="RUNNING", worker="b_worker"),),
        ),
        Move(name="readied", make=ready.where, after=after, unless="carried"),
    ]


def _experiment(
    state: ExperimentState, *, after: str, before: ExperimentState | None = None
) -> Move:
    statement = END_EXPERIMENT if state in FINAL else SET_EXPERIMENT
    states = [state] if before is None else [before, state]
    return Move(
        name="experiment",
        make=statement.returning(experiments.c.id.label("experiment_id")).where,
        after=after,
        events=tuple(Event(state=one.value, of_step=False) for one in states),
    )


def _watching(to: StepState, *conditions: ColumnElement[bool]) -> Update:
    """The monitor step, which nobody claims, goes where the job is."""
    times = ("started_at", "ready_at", "ended_at")[: 2 if to is StepState.WATCHING else 3]
    statement = move_statement(
        to, tuple((name, True) for name in times), fenced=False, seq="b_monitor"
    )
    return statement.where(*conditions)


def _job(values: dict[str, Any], *conditions: ColumnElement[bool]) -> Update:
    return (
        update(jobs)
        .where(
            jobs.c.token == bindparam("b_token"),
            jobs.c.state == literal_column("'INTENT'"),
            *conditions,
        )
        .values({**values, "native_id": bindparam("b_native_id")})
        .returning(jobs.c.experiment_id)
    )


def _held() -> Select[Any]:
    """The claim, locked until the intent is committed: a cancel sees the one or the other.

    Claims are not flushed: after a power cut another one may get the same epoch. The time when
    it was made tells the two apart, before anything is submitted.
    """
    return (
        select(steps.c.experiment_id)
        .where(
            steps.c.experiment_id == bindparam("b_experiment"),
            steps.c.seq == bindparam("b_seq"),
            steps.c.epoch == bindparam("b_epoch"),
            steps.c.started_at == bindparam("b_since"),
            steps.c.state == literal_column("'RUNNING'"),
        )
        .with_for_update()
    )


def _intent(*conditions: ColumnElement[bool]) -> Insert:
    values: dict[str, Any] = {
        "token": bindparam("b_token", type_=jobs.c.token.type),
        "experiment_id": bindparam("b_experiment", type_=jobs.c.experiment_id.type),
        "number": literal_column("1"),
        "site": bindparam("b_site", type_=jobs.c.site.type),
        "state": literal_column("'INTENT'"),
        "workdir": bindparam("b_workdir", type_=jobs.c.workdir.type),
        "created_at": db_now(),
    }
    earlier = jobs.alias("earlier")
    none_yet = ~exists().where(earlier.c.experiment_id == bindparam("b_experiment"))
    return (
        insert(jobs)
        .from_select(list(values), select(*values.values()).where(none_yet, *conditions))
        .returning(jobs.c.experiment_id)
    )


#: The first job of an experiment, on a site without a limit.
INTENT: Final = Boundary(
    (
        Move(name="held", make=_held),
        Move(name="intent", make=_intent, after="held"),
    ),
    flushed=True,
)
