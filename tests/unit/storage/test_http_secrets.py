"""Who is let in, where credentials go, and that they never show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.storage.stores import MiB
from unit.storage.webstores import HttpStore, bring, take

from services.webserver import Faults, WebServer
from wlm_tasks.errors import (
    StepError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.storage.http import HttpStorage

DATA = os.urandom(2 * MiB + 5)


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


@pytest.mark.parametrize("data", [DATA, b""], ids=["much", "nothing"])
@pytest.mark.usefixtures("secret")
def test_a_put_that_is_sent_on(
    http: HttpStore, faults: Faults, other: WebServer, data: bytes
) -> None:
    get_in(http, credentials="env:LAB")
    faults.status["*"] = 307
    faults.location = other.url("moved.dat")
    assert take(http, data).complete
    assert other.read("moved.dat") == data
    assert not [asked for asked in other.asked if "Authorization" in asked.headers]


def test_nothing_is_made_where_an_answer_is(
    http: HttpStore, faults: Faults, other: WebServer
) -> None:
    """303 leads to an answer to read (RFC 9110, section 15.4.4), not to a place to ask again."""
    faults.status["MKCOL"] = 303
    faults.location = other.url("answer")
    assert take(http, DATA, url=http.url("a/far.dat")).complete
    assert other.asked == []


def test_a_query_is_sent_and_not_shown(http: HttpStore, webserver: WebServer) -> None:
    http.write("far.dat", DATA)
    assert bring(http, http.url("far.dat") + "?Signature=hunter2") == DATA
    assert webserver.asked[0].path == "/far.dat?Signature=hunter2"
    with pytest.raises(StorageRefusedError, match=r"/no\?\.\.\.: No such file") as caught:
        bring(http, http.url("no") + "?Signature=hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_proxy_that_cannot_be(http: HttpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:hunter2@h:x")
    with pytest.raises(StepError) as caught:
        take(http, DATA, url="http://lab.invalid/far.dat")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("before", ["http://me:hunter2@", "http://", ""])
def test_a_proxy_of_the_environment(
    http: HttpStore, webserver: WebServer, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    host, port = webserver.base.rpartition("/")[2].split(":")
    monkeypatch.setenv("http_proxy", f"{before}{host}:{port}")
    assert take(http, DATA, url="http://lab.invalid/a/far.dat").complete
    assert http.read("a/far.dat") == DATA
    assert bring(http, "http://lab.invalid/a/far.dat") == DATA
    for asked in webserver.asked:
        assert asked.path.startswith("http://lab.invalid/a/")
        assert asked.headers["Host"] == "lab.invalid"
        wanted = "Basic bWU6aHVudGVyMg==" if "@" in before else None
        assert asked.headers.get("Proxy-Authorization") == wanted
