"""Workers killed while they move files over HTTP and FTP: nothing half, and little twice."""

from __future__ import annotations

import random

import pytest
from unit.storage.stores import Get, MiB, Put, Store, Way, killed_at

from services.processes import wait_for

KILLS = 8
SIZE = 32 * MiB


@pytest.fixture(params=[Get, Put], ids=["get", "put"])
def way(request: pytest.FixtureRequest, web: Store) -> Way:
    made = request.param(web)
    assert isinstance(made, Way)
    return made


@pytest.fixture(params=["nginx", "vsftpd"])
def web(request: pytest.FixtureRequest) -> Store:
    made = request.getfixturevalue(request.param)
    assert isinstance(made, Store)
    return made


def test_kills_at_any_point(way: Way) -> None:
    chance = random.Random(20)
    data = chance.randbytes(SIZE)
    way.source(data)
    kept = 0
    for point in sorted(chance.randrange(SIZE) for _ in range(KILLS)):
        killed_at(way, point)
        kept = max(kept, len(way.part() or b""))
    result = wait_for(way.go, what="the transfer")
    assert result.complete
    assert way.target() == data
    assert way.part() is None
    if way.resumes:
        assert kept > 0
        assert result.moved <= SIZE - kept + MiB
