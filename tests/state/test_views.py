"""Reading: lists, ids by their beginning, attempts, events, sums."""

from __future__ import annotations

import hashlib

import pytest
from state.world import MONITOR, SETUP, STAGE_IN, SUBMIT, World, holder, new

from services.postgresql import PrivatePostgreSQL
from wlm_tasks.errors import AmbiguousIdError, NotFoundError
from wlm_tasks.model.states import ExperimentState, JobRecord, StepState
from wlm_tasks.state import transfers
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intake import NewSweep
from wlm_tasks.state.politeness import SiteLimits
from wlm_tasks.state.store import Store
from wlm_tasks.state.views import AttemptView, Filter

QUEUED, CANCELLED = ExperimentState.QUEUED, ExperimentState.CANCELLED


def _ids(world: World, **wanted: object) -> list[str]:
    return [view.id for view in world.store.views.list(Filter(**wanted))]  # type: ignore[arg-type]


def test_the_newest_comes_first(world: World) -> None:
    ids = [world.add() for _ in range(3)]
    for age, one in enumerate(reversed(ids)):
        world.sql("UPDATE experiments SET created_at = :t WHERE id = :e", t=1000 - age, e=one)
    assert _ids(world) == ids[::-1]
    assert _ids(world, limit=2) == [ids[2], ids[1]]
    assert _ids(world, limit=None) == ids[::-1]
    assert _ids(world, limit=0) == []


def test_members_in_their_order(world: World) -> None:
    sweep, ids = world.add_sweep(4)
    world.add()
    world.sql("UPDATE experiments SET created_at = 1")
    assert _ids(world, sweep_id=sweep) == ids[::-1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("owner", "ann"), ("project", "ice"), ("site", "beta"), ("name", "reez"),
        ("labels", {"series": "a"}), ("states", (CANCELLED,)),
    ],
)  # fmt: skip
def test_each_filter(world: World, field: str, value: object) -> None:
    world.add(owner="bob", project="sea", labels={"series": "b"})
    wanted = world.add(
        owner="ann", project="ice", site="beta", name="freeze", labels={"series": "a", "n": "1"}
    )
    world.store.intake.cancel(wanted)
    assert _ids(world, **{field: value}) == [wanted]
    assert len(_ids(world)) == 2


def test_filters_add_up(world: World) -> None:
    world.add(owner="ann")
    both = world.add(owner="ann", project="ice")
    world.add(owner="bob", project="ice")
    assert _ids(world, owner="ann", project="ice") == [both]
    assert _ids(world, owner="carl") == []
    assert len(_ids(world, states=(QUEUED, CANCELLED))) == 3


def test_labels_are_looked_for_beyond_the_limit(world: World) -> None:
    labelled = world.add(labels={"a": "b"})
    for _ in range(3):
        world.add()
    assert _ids(world, labels={"a": "b"}, limit=1) == [labelled]
    assert _ids(world, labels={"a": "other"}, limit=1) == []


@pytest.mark.parametrize("text", ["%", "_", "100%"])
def test_a_name_is_no_pattern(world: World, text: str) -> None:
    world.add(name="melt")
    assert _ids(world, name=text) == []


def _with_ids(world: World, *ids: str) -> None:
    for one in ids:
        if one.startswith("swp-"):
            sweep = NewSweep(id=one, name="s", fingerprint="f", size=1)
            world.store.intake.add_sweep(sweep, [new()])
        else:
            made = new()
            object.__setattr__(made, "id", one)
            world.store.intake.add(made, sent=False)


@pytest.mark.parametrize(
    ("prefix", "found"),
    [
        ("exp-ab2", "exp-ab2aaaaaaa"),
        ("ab2", "exp-ab2aaaaaaa"),
        ("exp-ab2aaaaaaa", "exp-ab2aaaaaaa"),
        ("abz", "exp-abzzzzzzzz"),
        ("exp-z", "exp-zzzzzzzzzz"),
        ("swp-", "swp-ab3aaaaaaa"),
        ("ab3", "swp-ab3aaaaaaa"),
    ],
)
def test_an_id_is_found_by_how_it_begins(world: World, prefix: str, found: str) -> None:
    _with_ids(world, "exp-ab2aaaaaaa", "exp-abzzzzzzzz", "swp-ab3aaaaaaa", "exp-zzzzzzzzzz")
    # members have ids of their own, which begin as they like
    world.sql("DELETE FROM steps WHERE experiment_id IN"
              " (SELECT id FROM experiments WHERE sweep_id IS NOT NULL)")  # fmt: skip
    world.sql("DELETE FROM experiments WHERE sweep_id IS NOT NULL")
    assert world.store.views.find(prefix) == found


@pytest.mark.parametrize("prefix", ["a", "ab", "exp-", "exp", "", "exp-ab"])
def test_an_id_that_could_be_several(world: World, prefix: str) -> None:
    _with_ids(world, "exp-abaaaaaaaa", "exp-abbbbbbbbb")
    expected: type[Exception] = NotFoundError if prefix == "exp" else AmbiguousIdError
    with pytest.raises(expected, match=f"'{prefix}'"):
        world.store.views.find(prefix)


@pytest.mark.parametrize("prefix", ["b", "swp-a", "exp-A", "AB", "%", "_", "exp-ab%", "x\0", "ü"])
def test_an_id_that_is_not_there(world: World, prefix: str) -> None:
    _with_ids(world, "exp-abaaaaaaaa")
    with pytest.raises(NotFoundError):
        world.store.views.find(prefix)


def test_an_id_in_a_database_that_orders_as_a_dictionary_does(
    postgresql: PrivatePostgreSQL,
) -> None:
    url = postgresql.url("dictionary")
    with postgresql._connect() as connection:
        connection.execute(
            "CREATE DATABASE dictionary TEMPLATE template0 ENCODING 'UTF8'"
            " LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
        )
    store = Store(url)
    store.database.upgrade()
    ids = ("exp-a2aaaaaaaa", "exp-aaaaaaaaaa", "exp-azzzzzzzzz")
    _with_ids(World(store), *ids)
    for one in ids:
        assert store.views.find(one[:6]) == one
    store.close()
    postgresql.drop_database(url)


def test_nothing_is_not_found(world: World) -> None:
    views = world.store.views
    for ask in (views.experiment, views.spec, views.sweep):
        with pytest.raises(NotFoundError, match="'exp-none'"):
            ask("exp-none")
    assert not views.steps("exp-none")
    assert not views.jobs("exp-none")
    assert not views.attempts("exp-none")


def test_the_sums(world: World) -> None:
    world.add()
    moved, other = world.add(), world.add()
    world.until(moved, STAGE_IN)
    world.store.intake.cancel(other)
    views = world.store.views
    assert views.waiting() == {"envsetup": 1, "staging": 1}
    assert views.counts() == {QUEUED: 1, ExperimentState.PREPARING: 1, CANCELLED: 1}
    assert views.states([moved, other]) == {
        moved: ExperimentState.PREPARING, other: CANCELLED,
    }  # fmt: skip


def test_how_many_are_ahead(world: World) -> None:
    world.until(world.add(), STAGE_IN)
    first, second, urgent = world.add(), world.add(), world.add(priority="urgent")
    world.past("ready_at", 5, first)

    def ahead(experiment_id: str) -> int:
        step = world.step(experiment_id, SETUP)
        assert step.ready_at is not None
        return world.store.views.ahead(step.queue, step.priority, step.ready_at)

    assert [ahead(one) for one in (urgent, first, second)] == [0, 1, 2]


def test_events_from_where_one_left_off(world: World) -> None:
    experiment_id, other = world.add(), world.add()
    world.claim(experiment_id)
    events = world.store.views.events(experiment_id)
    assert [(one.step, one.state) for one in events] == [
        (None, "QUEUED"), (0, "RUNNING"), (None, "PREPARING"),
    ]  # fmt: skip
    assert world.store.views.events(experiment_id, after=events[1].id) == events[2:]
    assert world.store.views.events(experiment_id, limit=1) == events[:1]
    assert {one.experiment_id for one in world.store.views.events()} == {experiment_id, other}


# -- attempts ------------------------------------------------------------------------------


def _attempts(world: World, experiment_id: str) -> list[tuple[int, str | None, str | None]]:
    return [(a.seq, a.outcome, a.reason) for a in world.store.views.attempts(experiment_id)]


def test_an_attempt_that_goes_on(world: World) -> None:
    claim = world.running(SETUP)
    [attempt] = world.store.views.attempts(claim.experiment_id)
    step = world.step(claim.experiment_id, SETUP)
    assert attempt == AttemptView(
        seq=0, epoch=claim.epoch, worker="w1@host", started_at=attempt.started_at,
        ended_at=None, outcome=None, reason=None,
    )  # fmt: skip
    assert attempt.started_at == pytest.approx(step.started_at, abs=0.1)


def test_each_way_an_attempt_may_end(world: World) -> None:
    store = world.store
    experiment_id = world.add()
    first = world.claim(experiment_id)
    store.claims.back_off(first, "no route", 0.0)
    world.past("due_at", 1, experiment_id)
    store.upkeep.wake_due()
    world.claim(experiment_id)
    world.past("lease_until", 100, experiment_id)
    store.upkeep.expire_leases(9)
    world.claim(experiment_id, message="m")
    taken = store.claims.claim(
        experiment_id, SETUP, holder("m", worker="w2@host", redelivered=True)
    )
    assert isinstance(taken, Claim)
    store.claims.give_back(taken)
    store.claims.pause(world.claim(experiment_id), "gave up")
    store.intake.retry(experiment_id)
    store.claims.fail(world.claim(experiment_id), "broken")
    store.intake.retry(experiment_id)
    store.claims.finish(world.claim(experiment_id), carry_on=None)
    world.claim(experiment_id, STAGE_IN)
    store.intake.cancel(experiment_id)
    assert _attempts(world, experiment_id) == [
        (0, "BACKOFF", "no route"),
        (0, "READY", "its worker went silent"),
        (0, "TAKEN_OVER", None),
        (0, "READY", None),
        (0, "PAUSED", "gave up"),
        (0, "FAILED", "broken"),
        (0, "DONE", None),
        (1, "CANCELLED", None),
    ]
    attempts = store.views.attempts(experiment_id)
    assert [one.worker for one in attempts][2:4] == ["w1@host", "w2@host"]
    assert [one.epoch for one in attempts[:7]] == sorted({one.epoch for one in attempts[:7]})
    for one in attempts:
        assert one.ended_at is not None
        assert one.started_at <= one.ended_at


def test_submits_of_several_jobs_are_attempts(world: World) -> None:
    experiment_id, _token = world.submitted(staging=False)
    world.end_job(experiment_id, JobRecord.FAILED, max_jobs=2)
    world.submit(experiment_id)
    assert _attempts(world, experiment_id) == [
        (0, "DONE", None), (1, "DONE", None), (1, "DONE", None),
    ]  # fmt: skip
    assert world.step(experiment_id, MONITOR).attempts == 0  # no worker held it


def test_a_held_submit_was_an_attempt(world: World) -> None:
    claim = world.running(SUBMIT, staging=False)
    world.store.jobs.intend(claim, site="alpha", workdir="/w", limits=SiteLimits(max_running=0))
    [_setup, submit] = world.store.views.attempts(claim.experiment_id)
    assert submit.outcome == StepState.HELD
    assert submit.reason == "site alpha: runs as many jobs as it may (0)"


A, B = "a" * 64, "b" * 64


def test_what_transfers_brought(world: World) -> None:
    claim = world.running(STAGE_IN)
    note, read = world.store.transfers, world.store.views.transfers
    note.note_file(claim, 1, 7, A, 60.0)
    note.note_directory(claim, 0, 12, {"y": B, "x\n\\": A}, 60.0)
    first, second = read(claim.experiment_id)
    assert (first.step, first.number, first.files, first.bytes) == (STAGE_IN, 0, 2, 12)
    assert first.digests == {"x\n\\": A, "y": B}
    listed = f"\\{A}  ./x\\n\\\\\n{B}  ./y\n".encode()
    assert first.sha256 == hashlib.sha256(listed).hexdigest()
    assert (second.files, second.bytes, second.sha256, second.digests) == (1, 7, A, None)
    note.note_file(claim, 1, 8, None, 60.0)
    assert [one.bytes for one in read(claim.experiment_id)] == [12, 8]


def test_a_list_of_digests_that_is_too_long_is_not_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = world.running(STAGE_IN)
    monkeypatch.setattr(transfers, "MOST_CHECKSUMS", 100)
    world.store.transfers.note_directory(claim, 0, 12, {"x": A, "y": B}, 60.0)
    [view] = world.store.views.transfers(claim.experiment_id)
    assert (view.files, view.digests) == (2, None)
    assert view.sha256 is not None


def test_names_that_are_no_text_are_not_kept_but_count(world: World) -> None:
    claim = world.running(STAGE_IN)
    world.store.transfers.note_directory(claim, 0, 12, {"x\udcff": A}, 60.0)
    [view] = world.store.views.transfers(claim.experiment_id)
    assert (view.files, view.digests) == (1, None)
    assert view.sha256 == hashlib.sha256(f"{A}  ./x".encode() + b"\xff\n").hexdigest()


def test_a_retry_forgets_what_is_brought_again(world: World) -> None:
    """What is resumed in place goes on behind what it has brought: nothing brings that again."""
    for end, left in (("fail", []), ("pause", [7])):
        claim = world.running(STAGE_IN)
        world.store.transfers.note_file(claim, 0, 7, A, 60.0)
        getattr(world.store.claims, end)(claim, "no way")
        world.store.intake.retry(claim.experiment_id)
        found = world.store.views.transfers(claim.experiment_id)
        assert [view.bytes for view in found] == left, end


def test_who_lost_the_claim_notes_no_transfer(world: World) -> None:
    claim = world.running(STAGE_IN)
    world.sql("UPDATE steps SET epoch = epoch + 1")
    world.store.transfers.note_file(claim, 0, 7, A, 60.0)
    assert world.store.views.transfers(claim.experiment_id) == []
