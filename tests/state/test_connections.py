"""Places on lines to hosts that allow a few connections: leases, and one process's use of them."""

from __future__ import annotations

import pytest
from state.world import World, in_threads

from wlm_tasks import connecting
from wlm_tasks.config.settings import SiteSettings
from wlm_tasks.connecting import Connections

LINE = "ada@host:22"


def site(name: str, most: int | None, host: str = "host") -> SiteSettings:
    options = {"host": host, "user": "ada"}
    return SiteSettings(
        name=name, kind="ssh", scratch="/scratch", max_connections=most, options=options
    )


def later(world: World, seconds: float) -> None:
    world.sql("UPDATE connections SET expires_at = expires_at - :s", s=seconds)


# -- leases ------------------------------------------------------------------------------------


def test_as_many_places_as_there_are(world: World) -> None:
    leases = world.store.connections
    assert leases.take(LINE, 2, "a", 60)
    assert leases.take(LINE, 2, "b", 60)
    assert not leases.take(LINE, 2, "c", 60)
    assert leases.take("other", 1, "c", 60)
    assert leases.holders(LINE) == ["a", "b"]
    leases.give_back(LINE, "a")
    assert leases.take(LINE, 2, "c", 60)
    assert leases.holders(LINE) == ["c", "b"]


def test_a_place_of_a_dead_process_falls_free(world: World) -> None:
    leases = world.store.connections
    leases.take(LINE, 1, "a", 60)
    later(world, 59)
    assert not leases.take(LINE, 1, "b", 60)
    assert leases.renew(LINE, "a", 60)
    later(world, 61)
    assert leases.take(LINE, 1, "b", 60)
    assert not leases.renew(LINE, "a", 60)


def test_many_at_once_get_what_there_is(world: World) -> None:
    leases = world.store.connections
    leases.take(LINE, 3, "dead", 60)
    later(world, 61)
    got = in_threads(8, lambda number: leases.take(LINE, 3, f"p{number}", 60))
    assert sorted(got) == [False] * 5 + [True] * 3
    assert len(leases.holders(LINE)) == 3


# -- one process -------------------------------------------------------------------------------


class Process:
    """One process's connections, and what it closed; nobody looks but the test."""

    def __init__(self, world: World, *sites: SiteSettings) -> None:
        self.closed: list[str] = []
        self.connections = Connections(
            {one.name: one for one in sites}, lambda: world.store.connections, self.closed.append
        )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is idle for long."""
    monkeypatch.setattr(connecting, "_LOOK_S", 3600.0)
    monkeypatch.setattr(connecting, "IDLE_S", 0.0)


def test_sites_without_a_limit_take_no_place(world: World) -> None:
    process = Process(world, site("far", None))
    for name in ("far", "nowhere"):
        with process.connections.using(name) as reason:
            assert reason is None
    assert world.store.connections.holders(LINE) == []


def test_one_place_serves_a_process_until_it_is_idle(world: World) -> None:
    first, second = Process(world, site("far", 1)), Process(world, site("far", 1))
    with first.connections.using("far") as reason, first.connections.using("far") as again:
        assert (reason, again) == (None, None)
        first.connections.look()  # in use
        with second.connections.using("far") as refused:
            assert refused == "site far: has as many connections as it may (1)"
    assert first.closed == []
    first.connections.look()
    assert first.closed == ["far"]
    with second.connections.using("far") as reason:
        assert reason is None
    second.connections.close()
    assert world.store.connections.holders(LINE) == []


def test_a_place_in_use_does_not_run_out(world: World) -> None:
    process = Process(world, site("far", 1))
    with process.connections.using("far"):
        later(world, 59)
        process.connections._places[LINE].renewed_at -= 59
        process.connections.look()
        later(world, 59)
        assert len(world.store.connections.holders(LINE)) == 1


def test_the_last_place_is_for_those_who_watch(world: World) -> None:
    first, second, third = (Process(world, site("far", 2)) for _ in range(3))
    full = "site far: has as many connections as it may (2)"
    with first.connections.using("far") as works:
        with second.connections.using("far") as refused:
            assert (works, refused) == (None, full)
        with (
            second.connections.using("far", watching=True) as watches,
            second.connections.using("far") as too,  # it is connected anyway
            third.connections.using("far", watching=True) as none_left,
        ):
            assert (watches, too, none_left) == (None, None, full)


def test_a_crowd_asks_less_often(world: World) -> None:
    process = Process(world, site("far", 1))
    world.store.connections.take(LINE, 1, "other", 60)
    assert 1.0 <= process.connections.pause_s("far") <= 3.0
    for _ in range(100):
        with process.connections.using("far") as reason:
            assert reason is not None
    assert 11.0 <= process.connections.pause_s("far") <= 33.0
    world.store.connections.give_back(LINE, "other")
    with process.connections.using("far") as reason:
        assert reason is None
    assert process.connections.pause_s("far") <= 3.0


def test_sites_of_one_host_share_the_smaller_number(world: World) -> None:
    sites = [site("a", 3), site("b", 1), site("c", None), site("d", 1, "elsewhere")]
    first, second = Process(world, *sites), Process(world, *sites)
    with first.connections.using("a"):
        for name in ("a", "b", "c"):
            with second.connections.using(name) as reason:
                assert reason == f"site {name}: has as many connections as it may (1)"
        with second.connections.using("d") as reason:
            assert reason is None
    assert connecting.line_of(site("c", None)) == LINE
