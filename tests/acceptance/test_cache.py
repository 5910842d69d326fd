"""Inputs that a site keeps: a sweep moves a common one once, and everybody gets the right bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from services.sshd import PrivateSshd
from wlm_tasks import Client, Experiment, Settings, Transfer
from wlm_tasks.config.settings import SiteSettings, StorageSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.storage import transfer
from wlm_tasks.storage.base import TransferResult
from wlm_tasks.tasks import routes

MiB = 1024 * 1024


class Counted:
    """Counts the bytes that transfers move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moved = 0
        self._move = transfer.move
        monkeypatch.setattr(routes, "move", self)

    def __call__(self, *arguments: Any) -> TransferResult:
        result = self._move(*arguments)
        self.moved += result.moved
        return result


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def settings_of(sshd: PrivateSshd, tmp_path: Path, **more: Any) -> Settings:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    kind: dict[str, Any] = {"scratch": str(tmp_path / "scratch"), "poll_s": 0.2, **more}
    far = SiteSettings(name="far", kind="ssh", options=sshd.options, **kind)
    near = SiteSettings(name="near", kind="local", **kind)
    keys = {"user", "key_file", "known_hosts"}
    lab = StorageSettings(
        name="lab",
        url=f"scp://{sshd.host}:{sshd.port}/",
        options={key: value for key, value in sshd.options.items() if key in keys},
    )
    return Settings(
        data_dir=tmp_path / "data", sites={"far": far, "near": near}, storages={"lab": lab}
    )


def experiment(site: str, src: str, **more: Any) -> Experiment:
    inputs = [Transfer(src, "in/common", **more)]
    return Experiment(
        name="cached", site=site, commands=["sha256sum < in/common", "echo {n}"], inputs=inputs
    )


@pytest.mark.parametrize("link", [False, True], ids=["copies", "links"])
@pytest.mark.parametrize("site", ["far", "near"])
def test_a_sweep_moves_a_common_input_once(
    sshd: PrivateSshd, tmp_path: Path, counted: Counted, site: str, link: bool
) -> None:
    data = os.urandom(3 * MiB)
    (tmp_path / "common").write_bytes(data)
    near = f"file://{tmp_path}/common"
    src = near if site == "far" else f"scp://{sshd.host}:{sshd.port}{tmp_path}/common"
    settings = settings_of(sshd, tmp_path, cache_mb=100, cache_link=link)
    with running(settings, concurrency=4):
        sweep = Client(settings).schedule_sweep(experiment(site, src), {"n": list(range(12))})
        sweep.wait(100)
    assert counted.moved == len(data)
    copies = list((tmp_path / "scratch").glob("exp-*/in/common"))
    assert len(copies) == 12
    assert all(copy.read_bytes() == data for copy in copies)
    kept = tmp_path / "scratch" / ".wlm-cache" / digest(data)[:2] / digest(data)
    assert len({copy.stat().st_ino for copy in [*copies, kept]}) == (1 if link else 13)
    assert not list((tmp_path / "scratch").glob("*/.wlm/staging/*"))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def run_one(settings: Settings, one: Experiment) -> bytes:
    with running(settings, concurrency=1):
        run = Client(settings).schedule(one, params={"n": 1}).wait(60)
        assert run.status is ExperimentState.DONE
    found: bytes = (Path(settings.sites[one.site].directory) / run.id / "in/common").read_bytes()
    return found


def test_what_somebody_wrote_to_is_not_used(
    sshd: PrivateSshd, tmp_path: Path, counted: Counted
) -> None:
    data = os.urandom(MiB)
    (tmp_path / "common").write_bytes(data)
    settings = settings_of(sshd, tmp_path, cache_mb=100)
    one = experiment("far", f"file://{tmp_path}/common")
    assert run_one(settings, one) == data
    kept = tmp_path / "scratch" / ".wlm-cache" / digest(data)[:2] / digest(data)
    kept.chmod(0o600)
    kept.write_bytes(b"x" + data[1:])
    assert run_one(settings, one) == data
    assert kept.read_bytes() == data
    assert counted.moved == 2 * len(data)


def test_a_source_with_a_known_digest_is_not_asked(
    sshd: PrivateSshd, tmp_path: Path, counted: Counted
) -> None:
    data = os.urandom(MiB)
    (tmp_path / "common").write_bytes(data)
    settings = settings_of(sshd, tmp_path, cache_mb=100)
    one = experiment("far", f"file://{tmp_path}/common", sha256=digest(data))
    assert run_one(settings, one) == data
    (tmp_path / "common").unlink()
    assert run_one(settings, one) == data
    assert counted.moved == len(data)


@pytest.mark.parametrize("link", [False, True], ids=["copies", "links"])
def test_a_program_stays_one(sshd: PrivateSshd, tmp_path: Path, link: bool) -> None:
    """For who brings it as for who finds it, with the source asked and without."""
    data = b"#!/bin/sh\necho it runs > out\n" + b"#" * MiB
    (tmp_path / "common").write_bytes(data)
    (tmp_path / "common").chmod(0o750)
    settings = settings_of(sshd, tmp_path, cache_mb=100, cache_link=link)
    outs: list[Path] = []
    with running(settings, concurrency=1):
        for known in (None, None, digest(data)):
            src = Transfer(f"file://{tmp_path}/common", "in/common", sha256=known)
            outs.append(tmp_path / f"out{len(outs)}")
            out = Transfer("out", outs[-1].as_uri())
            one = Experiment("program", "far", ["./in/common"], inputs=[src], outputs=[out])
            Client(settings).schedule(one).wait(60)
    assert [out.read_text() for out in outs] == ["it runs\n"] * 3


def test_another_file_of_the_same_name(sshd: PrivateSshd, tmp_path: Path) -> None:
    settings = settings_of(sshd, tmp_path, cache_mb=100)
    for _ in range(2):
        data = os.urandom(MiB)
        (tmp_path / "common").write_bytes(data)
        assert run_one(settings, experiment("far", f"file://{tmp_path}/common")) == data


def test_room_is_made(sshd: PrivateSshd, tmp_path: Path) -> None:
    """What was used least lately goes."""
    settings = settings_of(sshd, tmp_path, cache_mb=3)
    one = experiment("far", f"file://{tmp_path}/common")
    cache = tmp_path / "scratch" / ".wlm-cache"
    known = []
    for number in range(5):
        data = os.urandom(MiB + number)
        known.append(digest(data))
        (tmp_path / "common").write_bytes(data)
        assert run_one(settings, one) == data
    kept = {path.name for path in cache.glob("??/*") if not path.name.endswith(".seal")}
    assert kept == set(known[-2:])
    assert {path.stem for path in cache.glob("??/*.seal")} == kept


def test_small_files_go_directly(sshd: PrivateSshd, tmp_path: Path) -> None:
    (tmp_path / "common").write_bytes(b"small")
    settings = settings_of(sshd, tmp_path, cache_mb=3)
    assert run_one(settings, experiment("far", f"file://{tmp_path}/common")) == b"small"
    assert not (tmp_path / "scratch" / ".wlm-cache").exists()
