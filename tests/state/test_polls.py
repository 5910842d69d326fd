"""When sites are polled: one poll at a time for the whole fleet, and not too soon."""

from __future__ import annotations

import pytest
from state.world import SUBMIT, World, caps, in_threads


def _due(world: World, interval_s: float = 5.0) -> list[str]:
    return world.store.polls.due({"alpha": interval_s, "beta": 5.0}, 30.0)


def _later(world: World, seconds: float) -> None:
    world.sql("UPDATE polls SET sent_at = sent_at - :s, done_at = done_at - :s", s=seconds)


def test_only_sites_with_jobs_are_polled(world: World) -> None:
    assert _due(world) == []
    world.intend(world.running(SUBMIT))
    assert _due(world) == ["alpha"]  # also to find out what became of an intent
    experiment_id, token = world.submitted(site="beta")
    claim_site = world.store.views.jobs(experiment_id)[0].site
    assert claim_site == "alpha"
    world.sql("UPDATE jobs SET site = 'beta' WHERE token = :t", t=token)
    assert sorted(_due(world)) == ["alpha", "beta"]
    world.sql("UPDATE jobs SET state = 'LOST'")
    assert _due(world) == []


def test_a_poll_under_way_is_not_asked_for_again(world: World) -> None:
    world.submitted()
    polls = world.store.polls
    assert _due(world) == ["alpha"]
    polls.sent("alpha")
    assert _due(world) == []
    _later(world, 29)
    assert _due(world) == []
    _later(world, 2)
    assert _due(world) == ["alpha"]  # its message was lost


def test_a_poll_is_due_again_after_the_interval(world: World) -> None:
    world.submitted()
    polls = world.store.polls
    polls.sent("alpha")
    polls.done("alpha", None)
    assert _due(world) == []
    _later(world, 6)
    assert _due(world) == ["alpha"]
    assert _due(world, interval_s=10.0) == []
    polls.sent("alpha")
    assert _due(world, interval_s=0.0) == []  # the end that is noted is that of the one before


def test_a_site_that_cannot_be_asked(world: World) -> None:
    polls = world.store.polls
    polls.sent("alpha")
    polls.done("alpha", "no route")
    assert polls.errors() == {"alpha": "no route"}
    polls.sent("alpha")
    assert polls.errors() == {"alpha": "no route"}
    polls.done("alpha", None)
    assert polls.errors() == {}


def test_a_new_job_makes_a_slow_pace_quick_again(world: World) -> None:
    world.submitted()
    polls = world.store.polls
    polls.sent("alpha")
    polls.done("alpha", None, 60.0)
    _later(world, 30)
    world.sql("UPDATE jobs SET created_at = created_at - 100")
    assert _due(world) == []
    world.submitted()
    assert _due(world) == ["alpha"]


def test_two_controls_ask_for_one_poll(world: World) -> None:
    world.store.polls.sent("alpha")
    world.sql("UPDATE polls SET sent_at = sent_at - 10")
    asked = in_threads(6, lambda _number: world.store.polls.sent("alpha", 5.0))
    assert sorted(asked) == [False] * 5 + [True]


def begin(world: World, poller: str, spacing_s: float = 0.0) -> bool:
    return world.store.polls.begin("alpha", poller, spacing_s=spacing_s, lease_s=60.0)


@pytest.mark.parametrize("before", [True, False], ids=["again", "for the first time"])
def test_many_workers_make_one_poll(world: World, *, before: bool) -> None:
    if before:
        assert begin(world, "m")
        world.store.polls.done("alpha", None)
    begun = in_threads(6, lambda number: begin(world, f"m{number}"))
    assert sorted(begun) == [False] * 5 + [True]


def test_a_poll_that_is_done_makes_way_for_the_next_after_a_while(world: World) -> None:
    assert begin(world, "m1")
    assert not begin(world, "m2")
    world.store.polls.done("alpha", None)
    assert not begin(world, "m2", spacing_s=5.0)
    assert not begin(world, "m1", spacing_s=5.0)  # the same message once more
    world.sql("UPDATE polls SET begun_at = begun_at - 6, done_at = done_at - 6")
    assert begin(world, "m2", spacing_s=5.0)


def test_a_message_that_comes_again_takes_its_poll_over(world: World) -> None:
    """Its first holder has lost its channel."""
    assert begin(world, "m1")
    assert begin(world, "m1", spacing_s=5.0)
    assert not begin(world, "m2", spacing_s=5.0)


def test_a_poll_whose_message_is_lost_too_ends_with_its_lease(world: World) -> None:
    assert begin(world, "m1")
    world.sql("UPDATE polls SET begun_at = begun_at - 59")
    assert not begin(world, "m2")
    world.sql("UPDATE polls SET begun_at = begun_at - 2")
    assert begin(world, "m2")


def test_whoever_is_skipped_does_not_end_the_poll_of_another(world: World) -> None:
    polls = world.store.polls
    begin(world, "m1")
    polls.skipped("alpha")
    assert not begin(world, "m2")
    assert polls.times() == {}


def test_a_process_that_is_alone_forgets_the_polls_of_the_one_before(world: World) -> None:
    world.submitted()
    world.store.polls.sent("alpha")
    begin(world, "m1")
    world.store.polls.forget()
    assert _due(world) == ["alpha"]
    assert begin(world, "m2", spacing_s=5.0)


def test_a_site_that_counts_is_asked_while_submits_wait_for_it(world: World) -> None:
    """Without jobs of ours only jobs of others can end there."""
    claim = world.running(SUBMIT)
    world.store.jobs.intend(claim, site="alpha", workdir="/w", limits=caps(alpha=0)["alpha"])
    assert _due(world) == []
    world.store.sites.counted("alpha", queued=0, running=9, foreign=9)
    assert _due(world) == ["alpha"]
