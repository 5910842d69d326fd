"""Files to and from a site behind SSH."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from unit.compute.sites import SshSite

from services.sshd import PrivateSshd
from wlm_tasks.compute.base import SiteStore
from wlm_tasks.compute.ssh.backend import SshBackend
from wlm_tasks.errors import BackendUnavailableError, StorageRefusedError
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.localtrees import LocalDirectory
from wlm_tasks.storage.transfer import move

ODD = ["plain", "a b/-c/-r f", "é 😀/$(id)", "it's", "*", "deep/er/and/deeper", "\\n"]


@pytest.fixture
def store(ssh: SshSite) -> SiteStore:
    assert isinstance(ssh.backend.files, SiteStore)
    return ssh.backend.files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "-source"
    path.write_bytes(bytes(range(256)) * 5_000)
    path.chmod(0o750)
    return path


def put(store: SiteStore, source: Path, workdir: str, path: str) -> TransferResult:
    with (
        LocalDirectory(str(source.parent)).source(source.name) as here,
        store.directory(workdir).target(path, here.mode) as there,
    ):
        return move(here, there, TransferControl())


def get(store: SiteStore, workdir: str, path: str, target: Path) -> TransferResult:
    with (
        store.directory(workdir).source(path) as there,
        LocalDirectory(str(target.parent)).target(target.name, there.mode) as here,
    ):
        return move(there, here, TransferControl())


def left(ssh: SshSite) -> list[Path]:
    staging = Path(ssh.workdir, ".wlm/staging")
    return list(staging.iterdir())


@pytest.mark.parametrize("path", ODD)
def test_there_and_back(ssh: SshSite, store: SiteStore, source: Path, path: str) -> None:
    put(store, source, ssh.workdir, path)
    there = Path(ssh.workdir, path)
    assert there.read_bytes() == source.read_bytes()
    assert there.stat().st_mode & 0o777 == 0o750
    assert not left(ssh)
    back = source.with_name("back")
    get(store, ssh.workdir, path, back)
    assert back.read_bytes() == source.read_bytes()


def test_what_is_there_is_not_sent_again(ssh: SshSite, store: SiteStore, source: Path) -> None:
    put(store, source, ssh.workdir, "x")
    before = Path(ssh.workdir, "x").stat()
    assert put(store, source, ssh.workdir, "x").moved == 0
    assert Path(ssh.workdir, "x").stat().st_ino == before.st_ino


def test_another_file_is_replaced(ssh: SshSite, store: SiteStore, source: Path) -> None:
    Path(ssh.workdir, "x").write_text("old")
    Path(ssh.workdir, "y").symlink_to("/etc/passwd")
    for name in ("x", "y"):
        put(store, source, ssh.workdir, name)
        assert Path(ssh.workdir, name).read_bytes() == source.read_bytes()
        assert not Path(ssh.workdir, name).is_symlink()
    assert Path("/etc/passwd").read_bytes() != source.read_bytes()


def test_no_way_through_a_link(
    ssh: SshSite, store: SiteStore, source: Path, tmp_path: Path
) -> None:
    Path(ssh.workdir, "out").symlink_to(tmp_path)
    with pytest.raises(StorageRefusedError, match="out is a symbolic link"):
        put(store, source, ssh.workdir, "out/x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "."])
def test_a_path_that_leaves_the_directory(
    ssh: SshSite, store: SiteStore, source: Path, path: str
) -> None:
    with pytest.raises(StorageRefusedError, match="expected a relative path"):
        put(store, source, ssh.workdir, path)
    with pytest.raises(StorageRefusedError, match="expected a relative path"):
        get(store, ssh.workdir, path, source)


def test_links_of_outputs(ssh: SshSite, store: SiteStore, source: Path) -> None:
    Path(ssh.workdir, "real").write_text("inside")
    Path(ssh.workdir, "good").symlink_to(f"{ssh.workdir}/real")
    Path(ssh.workdir, "bad").symlink_to("/etc/passwd")
    get(store, ssh.workdir, "good", source)
    assert source.read_text() == "inside"
    with pytest.raises(StorageRefusedError, match="leads out of the experiment's directory"):
        get(store, ssh.workdir, "bad", source)


def test_outputs_that_are_no_files(ssh: SshSite, store: SiteStore, source: Path) -> None:
    Path(ssh.workdir, "dir").mkdir()
    os.mkfifo(Path(ssh.workdir, "fifo"))
    for name in ("dir", "fifo"):
        with pytest.raises(StorageRefusedError, match="no regular file"):
            get(store, ssh.workdir, name, source)
    with pytest.raises(StorageRefusedError, match="missing: No such file"):
        get(store, ssh.workdir, "missing", source)
    with pytest.raises(StorageRefusedError, match="Is a directory"):
        put(store, source, ssh.workdir, "dir")


def test_no_room(sshd: PrivateSshd, small_disk: Path, source: Path) -> None:
    backend = SshBackend(name="full", scratch=str(small_disk), options=sshd.options)
    workdir = f"{small_disk}/work"
    backend.prepare(workdir)
    with pytest.raises(BackendUnavailableError, match="work/x: No space left on device"):
        put(backend.files, source, workdir, "x")
    assert not Path(workdir, "x").exists()
    backend.close()
