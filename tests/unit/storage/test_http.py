"""HTTP servers of all kinds: what they do wrong, and what is told of it."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from unit.storage.stores import CONTROL, MiB, deliver, fetch, stop_after
from unit.storage.webstores import HttpStore

from services.ports import free_port, release_port
from services.webserver import Faults, WebServer
from wlm_tasks.errors import (
    InvalidPathError,
    StepError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.storage import webclient, webput, websource
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.http import HttpStorage

DATA = os.urandom(2 * MiB + 5)


@pytest.fixture
def faults(webserver: WebServer) -> Faults:
    return webserver.faults


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webclient, "STALL_S", 0.5)
    monkeypatch.setattr(webput, "STALL_S", 0.5)


def bring(store: HttpStore, url: str = "", control: TransferControl = CONTROL) -> bytes:
    """Get the far file and return what has arrived."""
    fetch(store.backend, url or store.url("far.dat"), str(store.root), "x", control)
    return (store.root / "x").read_bytes()


def take(
    store: HttpStore, data: bytes = DATA, url: str = "", control: TransferControl = CONTROL
) -> TransferResult:
    """Put the near file."""
    (store.root / "x").write_bytes(data)
    return deliver(store.backend, str(store.root), "x", url or store.url("far.dat"), control)


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


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (404, StorageRefusedError, "No such file"),
        (410, StorageRefusedError, "No such file"),
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
    assert take(http).complete
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
    assert take(http).complete
    assert http.read("far.dat") == DATA


def test_a_file_that_arrived_short_is_removed(http: HttpStore, faults: Faults) -> None:
    faults.keeps = 7
    with pytest.raises(StorageUnavailableError, match="arrived with 7 bytes, expected"):
        take(http)
    assert http.read("far.dat") is None


@pytest.mark.parametrize("wrong", [{"head": False}, {"chunked": True}], ids=str)
def test_what_was_put_is_verified_by_get(
    http: HttpStore, faults: Faults, wrong: dict[str, Any]
) -> None:
    for name, value in wrong.items():
        setattr(faults, name, value)
    assert take(http).complete
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
            part.commit()
        else:
            with pytest.raises(StorageUnavailableError, match="directories were missing"):
                part.commit()
    assert webserver.directories == {"a", "a/b c"}
    assert take(http, url=url).complete


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_servers_without_directories(http: HttpStore, faults: Faults, status: int) -> None:
    faults.status["MKCOL"] = status
    assert take(http, url=http.url("a/b/far.dat")).complete
    faults.parents = True
    with pytest.raises(StorageRefusedError, match="has no such directory and makes none"):
        take(http, url=http.url("c/far.dat"))


def test_directories_are_made_before_bytes_are_sent(
    http: HttpStore, webserver: WebServer, faults: Faults
) -> None:
    faults.parents, faults.expect = True, False
    assert take(http, url=http.url("a/b/c/far.dat")).complete
    webserver.asked.clear()
    assert take(http, url=http.url("a/b/c/other.dat")).complete
    assert [asked.path for asked in webserver.asked if asked.method == "MKCOL"] == ["/a/b/c/"]


def test_uploads_that_never_end_are_told(http: HttpStore) -> None:
    """Each slice begins anew: without an error it would go on for ever."""
    for _ in range(2):
        assert not take(http, control=stop_after(2)).complete
    with pytest.raises(StorageUnavailableError, match=r"stopped 3 times.*steps\.slice_s"):
        take(http, control=stop_after(2))
    assert http.read("far.dat") is None
    assert take(http).complete


@pytest.fixture
def other(tmp_path: Path) -> Iterator[WebServer]:
    """Another server: another host for whoever looks at names."""
    with WebServer(host="127.0.0.2") as server:
        yield server


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LAB", "me:hunter2")
    return "Basic bWU6aHVudGVyMg=="


def get_in(http: HttpStore, **options: str) -> None:
    http.backend = HttpStorage(name="lab", options=options)


def test_credentials(http: HttpStore, faults: Faults, secret: str) -> None:
    http.write("far.dat", DATA)
    faults.authorization = secret
    with pytest.raises(StorageRefusedError, match=r"may need `credentials` in a table"):
        bring(http)
    get_in(http, credentials="env:LAB")
    assert bring(http) == DATA
    assert take(http, DATA[::-1]).complete
    assert "hunter2" not in repr(vars(http.backend))


def test_a_token(http: HttpStore, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_TOKEN", "abc.def")
    faults.authorization = "Bearer abc.def"
    http.write("far.dat", DATA)
    get_in(http, token="env:LAB_TOKEN")
    assert bring(http) == DATA
    monkeypatch.setenv("LAB_TOKEN", "hunter2")
    with pytest.raises(StorageRefusedError, match=r"storages\.lab\.token leads to") as caught:
        bring(http, http.url("other"))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", ["", "hunter2", "a:b\nc: d"])
def test_bad_credentials(http: HttpStore, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LAB", value)
    get_in(http, credentials="env:LAB")
    with pytest.raises(StorageUnavailableError, match=r"storages\.lab\.credentials: got") as caught:
        bring(http)
    assert "hunter2" not in str(caught.value)


@pytest.mark.usefixtures("secret")
def test_a_netrc_does_not_count(
    http: HttpStore, webserver: WebServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    http.write("far.dat", DATA)
    bring(http)
    take(http, DATA[::-1])
    assert not [asked for asked in webserver.asked if "Authorization" in asked.headers]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_goes_without_credentials(
    http: HttpStore, faults: Faults, other: WebServer, secret: str, status: int
) -> None:
    get_in(http, credentials="env:LAB")
    other.write("moved.dat", DATA)
    faults.status["*"] = status
    faults.location = other.url("moved.dat")
    assert bring(http) == DATA
    assert not [asked for asked in other.asked if "Authorization" in asked.headers]
    assert all(a.headers["Authorization"] == secret for a in http.server.asked)


@pytest.mark.usefixtures("secret")
def test_a_redirect_on_the_same_host_goes_with_them(http: HttpStore, faults: Faults) -> None:
    get_in(http, credentials="env:LAB")
    faults.status["*"] = 302
    faults.location = "/elsewhere"
    with pytest.raises(StorageRefusedError, match="sent us on more than 5 times"):
        bring(http)
    asked = http.server.asked
    assert [a.path for a in asked] == ["/far.dat", *["/elsewhere"] * 5]
    assert all("Authorization" in a.headers for a in asked)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://h/x", "http://h:x/"])
def test_redirects_to_nowhere(http: HttpStore, faults: Faults, location: str) -> None:
    faults.status["*"] = 302
    faults.location = location
    with pytest.raises(StorageRefusedError, match="sent us on, but not to a server of files"):
        bring(http)


def test_a_directory_is_no_file(http: HttpStore, faults: Faults) -> None:
    """Its list would be taken for one."""
    faults.status["*"], faults.location = 301, "/a/"
    with pytest.raises(StorageRefusedError, match="is a directory there"):
        bring(http, http.url("a"))


@pytest.mark.usefixtures("secret")
def test_a_put_that_is_sent_on(http: HttpStore, faults: Faults, other: WebServer) -> None:
    get_in(http, credentials="env:LAB")
    faults.status["*"] = 307
    faults.location = other.url("moved.dat")
    assert take(http).complete
    assert other.read("moved.dat") == DATA
    assert not [asked for asked in other.asked if "Authorization" in asked.headers]


def test_nobody_listens(http: HttpStore) -> None:
    port = free_port()
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        bring(http, f"http://127.0.0.1:{port}/x")
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        take(http, url=f"http://127.0.0.1:{port}/x")
    release_port(port)


def test_no_such_host(http: HttpStore) -> None:
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        bring(http, "http://no-such-host.invalid/x")


def test_a_query_is_sent_and_not_shown(http: HttpStore, webserver: WebServer) -> None:
    http.write("far.dat", DATA)
    assert bring(http, http.url("far.dat") + "?Signature=hunter2") == DATA
    assert webserver.asked[0].path == "/far.dat?Signature=hunter2"
    with pytest.raises(StorageRefusedError, match=r"/no\?\.\.\.: No such file") as caught:
        bring(http, http.url("no") + "?Signature=hunter2")
    assert "hunter2" not in str(caught.value)


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


def test_a_proxy_of_the_environment(
    http: HttpStore, webserver: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = webserver.base.rpartition("/")[2].split(":")
    monkeypatch.setenv("http_proxy", f"http://me:hunter2@{host}:{port}")
    assert take(http, url="http://lab.invalid/a/far.dat").complete
    assert http.read("a/far.dat") == DATA
    assert bring(http, "http://lab.invalid/a/far.dat") == DATA
    for asked in webserver.asked:
        assert asked.path.startswith("http://lab.invalid/a/")
        assert asked.headers["Host"] == "lab.invalid"
        assert asked.headers["Proxy-Authorization"] == "Basic bWU6aHVudGVyMg=="


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
