"""Settings of the storages of the web."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from unit.storage.stores import CONTROL, deliver, fetch
from unit.storage.webstores import HttpStore

from services.certificates import certificate
from services.proxy import TunnelProxy
from services.webserver import WebServer
from wlm_tasks.config import load
from wlm_tasks.errors import ConfigError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.plugins import storage_backend
from wlm_tasks.storage.ftp import FtpStorage
from wlm_tasks.storage.http import HttpStorage


@pytest.mark.parametrize("kind", [HttpStorage, FtpStorage])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"key_file": "/x"}, r"storages\.lab\.key_file: got '/x', expected no such setting for"),
        ({"credential": "hunter2"}, r"storages\.lab\.credential: .*did you mean 'credentials'"),
        ({"credentials": "me:hunter2"}, r"storages\.lab\.credentials: expected env:NAME or file:"),
        ({"credentials": 7}, r"storages\.lab\.credentials: expected env:NAME or file:"),
        ({"credentials": "env:"}, r"storages\.lab\.credentials: expected env:NAME or file:"),
        ({"credentials": "env:a b"}, r"storages\.lab\.credentials: got"),
        ({"ca_file": 7}, r"storages\.lab\.ca_file: got 7, expected the path of a file"),
        ({"ca_file": ""}, r"storages\.lab\.ca_file: got '', expected the path of a file"),
    ],
)
def test_bad_settings(
    kind: type[HttpStorage | FtpStorage], options: Mapping[str, object], told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        kind(name="lab", options=options)
    assert "hunter2" not in str(caught.value)


def test_a_token_beside_credentials() -> None:
    with pytest.raises(ConfigError, match=r"storages\.lab\.token: .*expected one of them"):
        HttpStorage(name="lab", options={"credentials": "env:A", "token": "env:B"})


def test_credentials_from_a_file(http: HttpStore, tmp_path: Path) -> None:
    http.server.faults.authorization = "Basic bWU6YTpi"
    http.write("far.dat", b"data")
    file = tmp_path / "password"
    file.write_text("me:a:b\n")
    file.chmod(0o600)
    http.backend = HttpStorage(name="lab", options={"credentials": f"file:{file}"})
    assert http.backend.size(http.url("far.dat")) == 4
    file.chmod(0o644)
    with pytest.raises(StorageUnavailableError, match=r"chmod o-rwx"):
        http.backend.size(http.url("far.dat"))


@pytest.fixture
def tls(tmp_path: Path) -> HttpStore:
    return HttpStore(tmp_path, WebServer(certificate(tmp_path / "certificates")))


def test_https(tls: HttpStore, tmp_path: Path) -> None:
    tls.backend = HttpStorage(
        name="lab", options={"ca_file": str(tmp_path / "certificates/cert.pem")}
    )
    with tls.server:
        (tls.root / "x").write_bytes(b"data")
        with (
            tls.backend.target(tls.url("far.dat"), None) as target,
            target.part(4) as part,
        ):
            part.write_at(0, b"data")
            part.commit(lambda name: hashlib.new(name, b"data").hexdigest())
        assert tls.read("far.dat") == b"data"
        assert fetch(tls.backend, tls.url("far.dat"), str(tls.root), "y", CONTROL).complete


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_cannot_be_read(
    tls: HttpStore, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "authorities.pem"
    if content is not None:
        file.write_text(content)
    backend = HttpStorage(name="lab", options={"ca_file": str(file)})
    told = rf"storages\.lab\.ca_file: got '{file}', expected a readable file of certificates"
    with tls.server, pytest.raises(StorageUnavailableError, match=told):
        backend.size(tls.url("far.dat"))


def test_a_certificate_that_is_not_trusted(tls: HttpStore) -> None:
    told = r"certificate is not trusted; .*`ca_file` in a table \[storages\.NAME\]"
    with tls.server:
        with pytest.raises(StorageUnavailableError, match=told):
            tls.backend.size(tls.url("far.dat"))
        with (
            tls.backend.target(tls.url("far.dat"), None) as target,
            target.part(4) as part,
            pytest.raises(StorageUnavailableError, match=told),
        ):
            part.commit(lambda name: hashlib.new(name, b"data").hexdigest())


def test_a_proxy_with_tls(tls: HttpStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = {"ca_file": str(tmp_path / "certificates/cert.pem")}
    tls.backend = HttpStorage(name="lab", options=options)
    (tls.root / "x").write_bytes(b"data")
    with TunnelProxy() as proxy, tls.server:
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("https_proxy", proxy.url)
        url = tls.url("far.dat")
        assert deliver(tls.backend, str(tls.root), "x", url, CONTROL).complete
        assert fetch(tls.backend, url, str(tls.root), "y", CONTROL).complete
        assert tls.read("far.dat") == b"data"
        assert len(proxy.asked) >= 2
        assert {line.split()[1] for line in proxy.asked} == {f"127.0.0.1:{tls.server.port}"}


@pytest.mark.parametrize(
    ("url", "kind"), [("https://lab.example.org/data/x", HttpStorage), ("ftp://h/x", FtpStorage)]
)
def test_settings_as_they_are_written(
    tmp_path: Path, url: str, kind: type[HttpStorage | FtpStorage]
) -> None:
    file = tmp_path / "wlm.toml"
    file.write_text(
        "[storages.lab]\nurl = 'https://lab.example.org/data/'\ntoken = 'env:LAB'\n"
        f"[storages.ftp]\nurl = 'ftp://h'\ncredentials = 'file:{tmp_path}/p'\nca_file = '/x'\n"
    )
    settings = load(file)
    backend = storage_backend(url, settings.storage(url))
    assert isinstance(backend, kind)
    assert backend._access.has_secret


def test_a_redirect_away_from_tls(tls: HttpStore, webserver: WebServer, tmp_path: Path) -> None:
    webserver.write("far.dat", b"data")
    tls.backend = HttpStorage(options={"ca_file": str(tmp_path / "certificates/cert.pem")})
    with tls.server:
        tls.server.faults.status["*"] = 302
        tls.server.faults.location = webserver.url("far.dat")
        with pytest.raises(StorageRefusedError, match=r"sent us on to .* without TLS"):
            tls.backend.size(tls.url("far.dat"))
