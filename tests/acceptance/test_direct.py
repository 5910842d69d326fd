"""Files between a site and a storage that its host logs in to by itself."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from services.fixtures import MakeSshd
from wlm_tasks import Client, Experiment, Settings, Transfer
from wlm_tasks.config.settings import SiteSettings, StorageSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.handles import ExperimentHandle
from wlm_tasks.hosts.detours import Detours
from wlm_tasks.hosts.direct import SMALLEST
from wlm_tasks.hosts.files import HostPart
from wlm_tasks.hosts.streams import Pull
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.tasks import routes


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> bytearray:
    """Bytes that went through the worker."""
    monkeypatch.setattr(routes, "_DETOURS", Detours())
    found = bytearray()
    read, write = Pull.read, HostPart.write_at

    def reads(pull: Pull, length: int) -> bytes:
        data = read(pull, length)
        found.extend(data)
        return data

    def writes(part: HostPart, offset: int, data: bytes) -> None:
        found.extend(data)
        write(part, offset, data)

    monkeypatch.setattr(Pull, "read", reads)
    monkeypatch.setattr(HostPart, "write_at", writes)
    return found


def test_there_and_back(
    make_sshd: MakeSshd, tmp_path: Path, streamed: bytearray, caplog: pytest.LogCaptureFixture
) -> None:
    """Directly; and through the worker, which says so once, when the hosts do not get through."""
    cluster, lab = make_sshd(), make_sshd()
    lab.lets_in(cluster)
    keys = {"user", "key_file", "known_hosts"}
    settings = Settings(
        data_dir=tmp_path / "data",
        sites={
            "far": SiteSettings(
                name="far",
                kind="ssh",
                scratch=str(tmp_path / "scratch"),
                poll_s=0.2,
                direct_to=("lab",),
                options=cluster.options,
            )
        },
        storages={
            "lab": StorageSettings(
                name="lab",
                url=f"scp://{lab.host}:{lab.port}/",
                options={key: value for key, value in lab.options.items() if key in keys},
            )
        },
    )
    (tmp_path / "scratch").mkdir()
    data = os.urandom(SMALLEST)
    (tmp_path / "in").write_bytes(data)

    def run(name: str) -> ExperimentHandle:
        url = f"scp://{lab.host}:{lab.port}{tmp_path}"
        one = Experiment(
            name=name,
            site="far",
            commands=["cp a b"],
            inputs=[Transfer(f"{url}/in", "a")],
            outputs=[Transfer("b", f"{url}/{name}")],
        )
        ended = Client(settings).schedule(one).wait(60)
        assert ended.status is ExperimentState.DONE
        assert (tmp_path / name).read_bytes() == data
        return ended

    with running(settings, concurrency=1), caplog.at_level(logging.WARNING):
        assert noted(run("directly")) == []
        assert not streamed
        cluster.own_known_hosts.write_text("")
        roundabout = run("roundabout")
    assert len(streamed) == 4 * len(data)
    (warning,) = [one for one in caplog.records if "no direct way" in one.message]
    assert "Host key verification failed" in warning.message
    inward, outward = noted(roundabout)
    assert inward["reason"].startswith("through the worker: ")
    assert inward["reason"].endswith("Host key verification failed.")
    assert outward == inward


def noted(run: ExperimentHandle) -> list[dict[str, Any]]:
    events = run._client.store.views.events(run.id, limit=1000)
    return [event.detail or {} for event in events if event.state == "STREAMED"]
