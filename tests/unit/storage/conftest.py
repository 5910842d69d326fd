"""Storages as fixtures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.storage.objectstores import AnyStore, S3Store
from unit.storage.places import KINDS as PLACES
from unit.storage.places import Places
from unit.storage.stores import (
    FarMemStore,
    FileStore,
    Get,
    MemTestStore,
    MiB,
    Put,
    ScpStore,
    SftpStore,
    Store,
    Way,
)
from unit.storage.webstores import FtpStore, HttpStore, NginxStore

from services import require_service
from services.ftpdaemons import FtpDaemon, PrivateProftpd, PrivateVsftpd
from services.ftpserver import PrivateFtp
from services.nginx import PrivateNginx
from services.s3server import PrivateS3
from services.sshd import PrivateSshd
from services.webserver import Faults, WebServer
from wlm_tasks.storage import any_fsspec, ftpclient, s3target, webclient, webput


@pytest.fixture
def files(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


@pytest.fixture
def scp(tmp_path: Path, sshd: PrivateSshd) -> ScpStore:
    return ScpStore(tmp_path, sshd)


@pytest.fixture
def sftp(tmp_path: Path, sftp_only: PrivateSshd) -> SftpStore:
    return SftpStore(tmp_path, sftp_only)


def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def webserver(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    _no_proxies(monkeypatch)
    with WebServer() as server:
        yield server


@pytest.fixture
def faults(webserver: WebServer) -> Faults:
    return webserver.faults


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (webclient, webput, ftpclient):
        monkeypatch.setattr(module, "STALL_S", 0.5)


@pytest.fixture
def http(tmp_path: Path, webserver: WebServer) -> HttpStore:
    return HttpStore(tmp_path, webserver)


@pytest.fixture
def nginx_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateNginx]:
    _no_proxies(monkeypatch)
    require_service("nginx", PrivateNginx.program() is not None)
    directory = tmp_path / "web"
    directory.mkdir()
    with PrivateNginx(directory, tmp_path / "nginx") as server:
        yield server


@pytest.fixture
def nginx(tmp_path: Path, nginx_server: PrivateNginx) -> NginxStore:
    return NginxStore(tmp_path, nginx_server)


@pytest.fixture
def ftpserver(tmp_path: Path) -> Iterator[PrivateFtp]:
    require_service("pyftpdlib", PrivateFtp.available())
    directory = tmp_path / "ftp"
    directory.mkdir()
    with PrivateFtp(directory, tmp_path / "ftp.log") as server:
        yield server


@pytest.fixture
def ftp(tmp_path: Path, ftpserver: PrivateFtp) -> FtpStore:
    return FtpStore(tmp_path, ftpserver)


def _ftp_daemon(kind: type[FtpDaemon], tmp_path: Path) -> Iterator[FtpDaemon]:
    require_service(kind.__name__, kind.program() is not None)
    directory = tmp_path / "ftp"
    directory.mkdir()
    with kind(directory, tmp_path / "ftp server") as server:
        yield server


@pytest.fixture
def proftpd_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FtpDaemon]:
    monkeypatch.setenv("FTP_TESTS", f"{PrivateProftpd.user}:{PrivateProftpd.password}")
    yield from _ftp_daemon(PrivateProftpd, tmp_path)


@pytest.fixture
def proftpd(tmp_path: Path, proftpd_server: FtpDaemon) -> FtpStore:
    return FtpStore(tmp_path, proftpd_server, {"credentials": "env:FTP_TESTS"})


@pytest.fixture
def vsftpd_server(tmp_path: Path) -> Iterator[FtpDaemon]:
    yield from _ftp_daemon(PrivateVsftpd, tmp_path)


@pytest.fixture
def vsftpd(tmp_path: Path, vsftpd_server: FtpDaemon) -> FtpStore:
    return FtpStore(tmp_path, vsftpd_server)


@pytest.fixture(scope="session")
def s3server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateS3]:
    require_service("moto", PrivateS3.available())
    with PrivateS3(tmp_path_factory.mktemp("s3") / "log") as server:
        yield server


@pytest.fixture
def s3(tmp_path: Path, s3server: PrivateS3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """A store whose bucket is new, in parts of 1 MiB."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("S3_TESTS", "me:hunter2")
    monkeypatch.setattr(s3target, "PART", MiB)
    store = S3Store(
        tmp_path, s3server, {"endpoint": s3server.endpoint, "credentials": "env:S3_TESTS"}
    )
    store.reset()
    s3server.faults()
    yield store
    s3server.faults()


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnyStore:
    """A store of fsspec's, of a scheme that is refused outside tests."""
    monkeypatch.setattr(any_fsspec, "REMOTE", any_fsspec.REMOTE | {"memory"})
    monkeypatch.setattr(any_fsspec.FsspecStorage, "schemes", any_fsspec.REMOTE)
    return AnyStore(tmp_path)


KINDS = ["files", "mem", "far", "scp", "sftp", "nginx", "vsftpd", "s3", "memory"]
WAYS = {"get": Get, "put": Put}


@pytest.fixture
def mem(tmp_path: Path) -> MemTestStore:
    return MemTestStore(tmp_path)


@pytest.fixture
def far(tmp_path: Path) -> FarMemStore:
    return FarMemStore(tmp_path)


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> Store:
    """Each kind of storage in turn."""
    made = request.getfixturevalue(request.param)
    assert isinstance(made, Store)
    return made


@pytest.fixture(
    params=[
        (way, kind)
        for way in WAYS
        for kind in KINDS
        if way == "get" or kind not in {"nginx", "memory"}
    ],
    ids="-".join,
)
def resuming(request: pytest.FixtureRequest) -> Way:
    """Those where an early end keeps what was moved: what is PUT to a server begins anew,
    so does what goes by way of fsspec."""
    way, kind = request.param
    made = WAYS[way](request.getfixturevalue(kind))
    assert made.resumes
    return made


@pytest.fixture(params=[Get, Put], ids=["get", "put"])
def way(request: pytest.FixtureRequest, store: Store) -> Way:
    """Both directions with each kind of storage."""
    made = request.param(store)
    assert isinstance(made, Way)
    return made


@pytest.fixture
def places(tmp_path: Path, sshd: PrivateSshd, sftp_only: PrivateSshd) -> Places:
    return Places(tmp_path, sshd, sftp_only)


@pytest.fixture(params=PLACES)
def here(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=PLACES)
def there(request: pytest.FixtureRequest) -> str:
    return str(request.param)
