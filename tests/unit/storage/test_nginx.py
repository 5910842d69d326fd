"""The HTTP storage against nginx: ranges, uploads, redirects, logins, TLS, interruptions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.storage.stores import CONTROL, Get, MiB, Put, fetch, killed_at, stop_after
from unit.storage.webstores import NginxStore, bring, take

from services.certificates import certificate
from services.nginx import PrivateNginx
from services.processes import wait_for
from wlm_tasks.errors import StorageRefusedError, StorageUnavailableError
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.storage.http import HttpStorage

DATA = os.urandom(3 * MiB + 5)


def at(nginx: NginxStore, path: str) -> str:
    """Return the URL of a path with slashes."""
    return f"{nginx.server.base}/{path}"


@pytest.fixture
def locked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NginxStore]:
    """One with TLS, and with the password at hand."""
    (tmp_path / "tls").mkdir()
    cert_file = certificate(tmp_path / "certificates")
    monkeypatch.setenv("LAB", f"{PrivateNginx.user}:{PrivateNginx.password}")
    with PrivateNginx(
        tmp_path / "tls", tmp_path / "nginx", cert_file=cert_file, full_paths=True
    ) as server:
        store = NginxStore(tmp_path, server)
        options = {"credentials": "env:LAB", "ca_file": str(cert_file)}
        store.backend = HttpStorage(name="lab", options=options)
        yield store


def test_directories_are_made_and_the_file_is_sent_once(nginx: NginxStore) -> None:
    sent: list[int] = []
    control = TransferControl(progress=lambda done, _size: sent.append(done))
    assert take(nginx, DATA, at(nginx, "a/b%20c/%C3%BC/far.dat"), control).complete
    assert nginx.read("a/b c/ü/far.dat") == DATA
    assert sent == sorted(sent)
    assert take(nginx, b"", at(nginx, "a/new/empty")).complete
    assert nginx.read("a/new/empty") == b""


def test_a_login_and_tls(locked_up: NginxStore, monkeypatch: pytest.MonkeyPatch) -> None:
    url = at(locked_up, "locked/sub/far.dat")
    assert take(locked_up, DATA, url).complete
    assert take(locked_up, DATA, url).moved == 0
    (locked_up.root / "x").unlink()
    assert bring(locked_up, url) == DATA
    (locked_up.root / "x").unlink()
    monkeypatch.setenv("LAB", "me:swordfish")
    told = r"permission denied \(HTTP 401\): what .*storages\.lab\.credentials or .* leads to"
    with pytest.raises(StorageRefusedError, match=told):
        bring(locked_up, url)
    with pytest.raises(StorageRefusedError, match=told):
        take(locked_up, b"other", url)
    assert locked_up.read("locked/sub/far.dat") == DATA
    locked_up.backend = HttpStorage()
    with pytest.raises(StorageUnavailableError, match="certificate is not trusted"):
        bring(locked_up, url)


def test_sent_on(nginx: NginxStore) -> None:
    url = at(nginx, "moved/far.dat")
    assert take(nginx, DATA, url).complete  # though it says so when it has all bytes
    assert nginx.read("far.dat") == DATA
    with pytest.raises(StorageUnavailableError, match="its server wants what was sent elsewhere"):
        take(nginx, DATA, at(nginx, "moved/moved/other.dat"))
    assert take(nginx, b"", at(nginx, "moved/empty")).complete
    assert nginx.read("empty") == b""
    (nginx.root / "x").unlink()
    assert fetch(nginx.backend, url, str(nginx.root), "x", stop_after(1)).moved == MiB
    assert fetch(nginx.backend, url, str(nginx.root), "x", CONTROL).moved == len(DATA) - MiB
    assert (nginx.root / "x").read_bytes() == DATA


def test_what_the_server_refuses(nginx: NginxStore) -> None:
    (nginx.far / "far.dat").mkdir()
    with pytest.raises(StorageRefusedError, match=r"far\.dat: is a directory there, expected a fi"):
        bring(nginx)
    with pytest.raises(StorageRefusedError, match=r"far\.dat: is a directory there, expected a fi"):
        take(nginx, DATA)


def test_a_disk_that_is_too_small(nginx: NginxStore, small_disk: Path) -> None:
    (nginx.far / "small").symlink_to(small_disk)
    with pytest.raises(StorageUnavailableError, match=r"far\.dat: writing: the server answered 5"):
        take(nginx, DATA, at(nginx, "small/far.dat"))
    assert not (small_disk / "far.dat").exists()


@pytest.mark.parametrize("kind", [Get, Put])
def test_a_kill(nginx: NginxStore, kind: type[Get | Put]) -> None:
    way = kind(nginx)
    way.source(DATA)
    killed_at(way, 2 * MiB)
    assert way.target() is None
    assert way.go().moved == (len(DATA) - 2 * MiB if kind is Get else len(DATA))
    assert way.target() == DATA
    body = nginx.far.parent / "nginx" / "client_body"
    wait_for(lambda: list(body.iterdir()) == [], what="nothing is left of the broken upload")


@pytest.mark.parametrize("kind", [Get, Put])
def test_a_server_that_goes_away(nginx: NginxStore, kind: type[Get | Put]) -> None:
    way = kind(nginx)
    data = os.urandom(16 * MiB)
    way.source(data)

    def progress(done: int, _size: int) -> None:
        if done == 4 * MiB:
            nginx.server.process.stop()

    with pytest.raises(StorageUnavailableError, match=r"far\.dat: .*the connection broke"):
        way.go(TransferControl(progress=progress))
    assert way.target() is None
    nginx.server.start()
    assert way.go().complete
    assert way.target() == data


def test_another_content_of_the_same_size_and_second(nginx: NginxStore) -> None:
    """What nginx tells of a file is made of these, so a young one is compared from its begin."""
    nginx.path("far.dat").write_bytes(DATA)
    url, root = nginx.url("far.dat"), str(nginx.root)
    assert fetch(nginx.backend, url, root, "x", stop_after(2)).moved == 2 * MiB
    before = nginx.path("far.dat").stat()
    nginx.path("far.dat").write_bytes(other := b"y" + DATA[1:])
    os.utime(nginx.path("far.dat"), ns=(before.st_mtime_ns, before.st_mtime_ns))
    assert fetch(nginx.backend, url, root, "x", CONTROL).complete
    assert (nginx.root / "x").read_bytes() == other


def test_names_are_told_without_what_lets_one_in(nginx: NginxStore) -> None:
    with pytest.raises(StorageRefusedError, match=re.escape("none?...: No such file")) as caught:
        bring(nginx, at(nginx, "none?token=hunter2"))
    assert "hunter2" not in str(caught.value)
