"""Writing to HTTP servers of all kinds: nothing half, nothing unseen."""

from __future__ import annotations

import hashlib
import os
import time
from typing import Any

import pytest
from unit.storage.stores import MiB, stop_after
from unit.storage.webstores import HttpStore, take

from services.webserver import Faults, WebServer
from wlm_tasks.errors import (
    StepError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.storage import webput

DATA = os.urandom(2 * MiB + 5)


@pytest.mark.usefixtures("_impatient")
def test_a_server_that_takes_no_more(http: HttpStore, faults: Faults) -> None:
    faults.stall_after = MiB
    begin = time.monotonic()
    with pytest.raises(StorageUnavailableError, match=r"far\.dat: the connection broke"):
        take(http, os.urandom(32 * MiB))
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (403, StorageRefusedError, "permission denied .*credentials"),
        (405, StorageRefusedError, "takes no files there"),
        (409, StorageRefusedError, "no such directory"),
        (413, StorageRefusedError, "larger than the server takes"),
        (507, StorageUnavailableError, "no room left"),
        (503, StorageUnavailableError, "503"),
    ],
)
@pytest.mark.parametrize("expect", [True, False])
@pytest.mark.parametrize("data", [b"", DATA], ids=["empty", "big"])
def test_answers_to_put(  # noqa: PLR0917
    http: HttpStore,
    faults: Faults,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    kind: type[StepError],
    told: str,
    expect: bool,
    data: bytes,
) -> None:
    monkeypatch.setattr(webput, "_EXPECT_S", 0.05)
    faults.status["PUT"] = status
    faults.expect = expect
    with pytest.raises(kind, match=told):
        take(http, data)
    assert http.read("far.dat") is None


def test_a_server_that_has_enough_under_way(http: HttpStore, faults: Faults) -> None:
    faults.refuse_after = MiB
    data = os.urandom(16 * MiB)
    with pytest.raises(StorageUnavailableError, match=r"no room left|the connection broke"):
        take(http, data)
    assert http.read("far.dat") is None


@pytest.mark.parametrize("header", ["Repr-Digest", "Digest", "Content-MD5", ""])
def test_what_was_put_is_verified(http: HttpStore, faults: Faults, header: str) -> None:
    faults.digest = header
    assert take(http, DATA).complete
    assert http.read("far.dat") == DATA
    other = DATA[::-1]
    faults.spoils = True
    if not header:  # what no server tells cannot be seen
        assert take(http, other).complete
        return
    with pytest.raises(StorageUnavailableError, match=r"arrived with another .* digest"):
        take(http, other)
    assert http.read("far.dat") is None


def test_a_file_that_is_not_there_in_the_end(http: HttpStore, faults: Faults) -> None:
    faults.expect, faults.status["PUT"] = False, 202
    with pytest.raises(StorageUnavailableError, match="is not there after it was written"):
        take(http, b"data")


def test_a_server_that_wants_no_expectation(http: HttpStore, faults: Faults) -> None:
    faults.no_expect = True
    assert take(http, DATA).complete
    assert http.read("far.dat") == DATA


def test_a_file_that_arrived_short_is_removed(http: HttpStore, faults: Faults) -> None:
    faults.keeps = 7
    with pytest.raises(StorageUnavailableError, match="arrived with 7 bytes, expected"):
        take(http, DATA)
    assert http.read("far.dat") is None


@pytest.mark.parametrize(
    "wrong", [{"then": b"another's"}, {"keeps": 7, "tells_etag": False}], ids=["theirs", "unknown"]
)
def test_what_may_be_another_writers_is_left(
    http: HttpStore, faults: Faults, wrong: dict[str, Any]
) -> None:
    for name, value in wrong.items():
        setattr(faults, name, value)
    with pytest.raises(StorageUnavailableError, match=r"arrived with \d bytes, expected"):
        take(http, DATA)
    assert http.read("far.dat") == wrong.get("then", DATA[:7])


@pytest.mark.parametrize("wrong", [{"head": False}, {"chunked": True}], ids=str)
def test_what_was_put_is_verified_by_get(
    http: HttpStore, faults: Faults, wrong: dict[str, Any]
) -> None:
    for name, value in wrong.items():
        setattr(faults, name, value)
    assert take(http, DATA).complete
    faults.keeps = 7
    with pytest.raises(StorageUnavailableError, match="arrived with 7 bytes"):
        take(http, DATA[::-1])


@pytest.mark.parametrize("expect", [True, False])
def test_directories_that_vanish(
    http: HttpStore, webserver: WebServer, faults: Faults, expect: bool
) -> None:
    faults.parents, faults.expect = True, expect
    url = http.url("a/b c/far.dat")
    (http.root / "x").write_bytes(DATA)
    with http.backend.target(url, None) as target, target.part(4) as part:
        part.write_at(0, b"data")
        if expect:
            part.commit(lambda name: hashlib.new(name, b"data").hexdigest())
        else:
            with pytest.raises(StorageUnavailableError, match="directories were missing"):
                part.commit(lambda name: hashlib.new(name, b"data").hexdigest())
    assert webserver.directories == {"a", "a/b c"}
    assert take(http, DATA, url=url).complete


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_servers_without_directories(http: HttpStore, faults: Faults, status: int) -> None:
    faults.status["MKCOL"] = status
    assert take(http, DATA, url=http.url("a/b/far.dat")).complete
    faults.parents = True
    with pytest.raises(StorageRefusedError, match="has no such directory and makes none"):
        take(http, DATA, url=http.url("c/far.dat"))


def test_directories_are_made_before_bytes_are_sent(
    http: HttpStore, webserver: WebServer, faults: Faults
) -> None:
    faults.parents, faults.expect = True, False
    assert take(http, DATA, url=http.url("a/b/c/far.dat")).complete
    webserver.asked.clear()
    assert take(http, DATA, url=http.url("a/b/c/other.dat")).complete
    assert [asked.path for asked in webserver.asked if asked.method == "MKCOL"] == ["/a/b/c/"]


def test_uploads_that_never_end_are_told(http: HttpStore) -> None:
    """Each slice begins anew: without an error it would go on for ever."""
    for _ in range(2):
        assert not take(http, DATA, control=stop_after(2)).complete
    with pytest.raises(StorageUnavailableError, match=r"stopped 3 times.*steps\.slice_s"):
        take(http, DATA, control=stop_after(2))
    assert http.read("far.dat") is None
    assert take(http, DATA).complete
