"""Reading from HTTP servers of all kinds: what they do wrong, and what is told of it."""

from __future__ import annotations

import os
import time
import tracemalloc
from typing import Any

import pytest
from unit.storage.stores import CONTROL, MiB, fetch, stop_after
from unit.storage.webstores import HttpStore, bring, take

from services.ports import free_port, release_port
from services.webserver import Faults, WebServer
from wlm_tasks.errors import (
    InvalidPathError,
    StepError,
    StorageMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.storage import websource

DATA = os.urandom(2 * MiB + 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ranges": False},
        {"chunked": True},
        {"chunked": True, "ranges": False},
        {"head": False},
        {"validators": False},
        {"weak": True},
        {"if_range": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("data", [b"", DATA], ids=["empty", "big"])
def test_odd_servers_are_read_all_the_same(
    http: HttpStore, faults: Faults, wrong: dict[str, Any], data: bytes
) -> None:
    for name, value in wrong.items():
        setattr(faults, name, value)
    http.write("far.dat", data)
    assert bring(http) == data
    assert http.backend.size(http.url("far.dat")) == len(data)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_slice_goes_on_where_the_last_one_ended(
    http: HttpStore, webserver: WebServer, faults: Faults, ranges: bool
) -> None:
    faults.ranges = ranges
    http.write("far.dat", DATA)
    fetch(http.backend, http.url("far.dat"), str(http.root), "x", stop_after(1))
    webserver.asked.clear()
    assert bring(http) == DATA
    found = [asked.headers.get("Range") for asked in webserver.asked]
    assert f"bytes={MiB}-" in found
    assert None not in found
    assert any(asked.headers.get("If-Range") for asked in webserver.asked)


def test_bytes_are_asked_for_as_they_are(http: HttpStore, webserver: WebServer) -> None:
    http.write("far.dat", DATA)
    bring(http)
    assert {asked.headers["Accept-Encoding"] for asked in webserver.asked} == {"identity"}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_that_breaks(http: HttpStore, faults: Faults, chunked: bool) -> None:
    http.write("far.dat", DATA)
    faults.cut_after = MiB + 5
    with http.backend.source(http.url("far.dat")) as source:
        faults.chunked = chunked
        source.read_at(0, MiB)
        with pytest.raises(StorageUnavailableError, match=r"far\.dat: .*connection broke"):
            source.read_at(MiB, MiB)
    faults.chunked = False
    with pytest.raises(StorageUnavailableError):
        bring(http)
    assert not (http.root / "x").exists()
    assert (http.root / ".x.wlm-part").stat().st_size == MiB
    faults.cut_after = None
    assert bring(http) == DATA


@pytest.mark.usefixtures("_impatient")
def test_a_server_that_stalls(http: HttpStore, faults: Faults) -> None:
    http.write("far.dat", DATA)
    faults.stall_after = MiB
    begin = time.monotonic()
    with pytest.raises(StorageUnavailableError, match="no byte in time"):
        bring(http)
    assert time.monotonic() - begin < 5


@pytest.mark.usefixtures("_impatient")
def test_a_body_shorter_than_its_size(http: HttpStore, faults: Faults) -> None:
    http.write("far.dat", DATA)
    faults.ranges, faults.lies = False, 5
    with pytest.raises(StorageUnavailableError, match=r"no byte in time|connection"):
        bring(http)
    assert not (http.root / "x").exists()


def test_a_file_that_cannot_be_counted(
    http: HttpStore, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websource, "COUNT_LIMIT", MiB)
    http.write("far.dat", DATA)
    faults.chunked = faults.ranges = True
    faults.ranges = False
    with pytest.raises(StorageRefusedError, match=r"does not tell its size, .*Content-Length"):
        bring(http)


def test_bytes_that_cannot_be_passed_over_in_time(
    http: HttpStore, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.write("far.dat", DATA)
    url, root = http.url("far.dat"), str(http.root)
    assert fetch(http.backend, url, root, "x", stop_after(1)).moved == MiB
    monkeypatch.setattr(websource, "PASS_S", -1.0)
    faults.ranges = False
    with pytest.raises(StorageUnavailableError, match=r"the 1048576 bytes .* passed over"):
        fetch(http.backend, url, root, "x", CONTROL)


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (404, StorageMissingError, "No such file"),
        (410, StorageMissingError, "No such file"),
        (401, StorageRefusedError, "permission denied .*credentials"),
        (403, StorageRefusedError, "permission denied .*credentials"),
        (400, StorageRefusedError, "400 Bad Request"),
        (204, StorageRefusedError, "204 No Content"),
        (599, StorageUnavailableError, "599"),
        (429, StorageUnavailableError, "429 Too Many Requests"),
        (500, StorageUnavailableError, "500 Internal Server Error"),
        (503, StorageUnavailableError, "503"),
        (501, StorageRefusedError, "501"),
    ],
)
def test_answers_to_get(
    http: HttpStore, faults: Faults, status: int, kind: type[StepError], told: str
) -> None:
    http.write("far.dat", DATA)
    faults.status["*"] = status
    faults.phrase = "says the server, hunter2"
    with pytest.raises(kind, match=rf"/far\.dat: .*{told}") as caught:
        bring(http)
    assert "hunter2" not in str(caught.value)


def test_nobody_listens(http: HttpStore) -> None:
    port = free_port()
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        bring(http, f"http://127.0.0.1:{port}/x")
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        take(http, DATA, url=f"http://127.0.0.1:{port}/x")
    release_port(port)


def test_no_such_host(http: HttpStore) -> None:
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        bring(http, "http://no-such-host.invalid/x")


def test_reading_takes_little_memory(http: HttpStore) -> None:
    http.write("far.dat", os.urandom(64 * MiB))
    tracemalloc.start()
    try:
        fetch(http.backend, http.url("far.dat"), str(http.root), "x", CONTROL)
        assert tracemalloc.get_traced_memory()[1] < 8 * MiB
    finally:
        tracemalloc.stop()


def test_a_file_changed_just_now_is_read_again(http: HttpStore, faults: Faults) -> None:
    """Once more within that second, and nothing that a server tells would be another."""
    faults.modified_now = True
    http.write("far.dat", DATA)
    with http.backend.source(http.url("far.dat")) as one:
        first = one.identity()
        assert not one.changed()
    with http.backend.source(http.url("far.dat")) as other:
        assert other.identity() != first


def test_few_connections(http: HttpStore, webserver: WebServer) -> None:
    http.write("far.dat", DATA)
    bring(http)
    assert len(webserver.asked) == 3
    assert webserver.connections == 1


BAD = [
    *("http:", "http://", "http:///x", "http:x", "/x", "ftp://h/x", "http//h/x"),
    *("http://h", "http://h/", "http://h/a/", "http://h/a/../b", "http://h/..", "http://h/a/."),
    *("http://h/%2e%2e/x", "http://h/%2E./x", "http://h/a%00b", "http://h/a#b", "http://h/a b"),
    *("http://h/a\nb", "http://h/a\r\nX: y", "http://h/%", "http://h/%zz", "http://h/a\\b"),
    *("http://h:0/x", "http://h:65536/x", "http://h:x/x", "http://h:/x", "http://u@h/x"),
    *("http://u:hunter2@h/x", "http://[::1/x", "http://[x]/x", "http://h@/x", "http://@h/x"),
    *("http://a..b/x", f"http://{'h' * 64}/x"),
    *("http://h\\@evil/x", "http://h /x", "https://h/\t", "http://h/a\x7f"),
]


@pytest.mark.parametrize("url", BAD)
def test_bad_urls(http: HttpStore, url: str) -> None:
    with pytest.raises(InvalidPathError, match=r"URL: got .*, expected ") as caught:
        http.backend.check(url)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidPathError), http.backend.source(url):
        pass
    with pytest.raises(InvalidPathError), http.backend.target(url, None):
        pass


GOOD = ["http://h/x", "HTTPS://H:8443/a/b", "http://[::1]:80/x", "http://h/a//b", "http://h/?f=1"]


@pytest.mark.parametrize(
    "url", [*GOOD, "http://h/a%20b?x=1&y=/..", "http://h/ä/...", "http://h/%2F"]
)
def test_good_urls(http: HttpStore, url: str) -> None:
    http.backend.check(url)
