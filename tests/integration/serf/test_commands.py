"""``wlm agent`` and what ``wlm doctor`` says of Serf."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from services.fixtures import Spawn
from services.processes import script, wait_for
from services.serf import PrivateSerf, members_of, new_key, wait_until_joined
from wlm_tasks.cluster.gossip import MemberStatus
from wlm_tasks.cluster.launch import agents_directory
from wlm_tasks.cluster.tags import Role
from wlm_tasks.config import Settings
from wlm_tasks.control.doctor_serf import examine_serf
from wlm_tasks.control.findings import Finding, Level


def settings_of(serf: PrivateSerf, **changes: object) -> Settings:
    return Settings(data_dir=serf.directory, serf=serf.settings(**changes))


def serf_lines(settings: Settings) -> list[Finding]:
    return list(examine_serf(settings))


@pytest.fixture(autouse=True)
def _where_agents_are(serf: PrivateSerf) -> None:
    """The agents of these tests are where those of a data directory are."""
    serf.base = agents_directory(Settings(data_dir=serf.directory))


def test_a_seed_in_the_foreground_leaves_at_sigterm(serf: PrivateSerf, spawn: Spawn) -> None:
    control = serf.started("control@host", role=Role.CONTROL)
    environ = {
        "WLM_SERF_ENABLED": "true",
        "WLM_SERF_BIND": "127.0.0.1",
        "WLM_SERF_PORT": str(serf.port()),
        "WLM_SERF_JOIN": serf.seed,
        "WLM_SERF_ENCRYPT_KEY": f"file:{serf.key_file}",
        "WLM_DATA_DIR": str(serf.directory / "other"),
    }
    seed = spawn([script("wlm"), "agent"], name="seed", env=environ)
    seed.wait_for(lambda: len(members_of(control)) == 2, 20.0, "it has joined")
    (found,) = [one for one in members_of(control).values() if one.tags["role"] == "seed"]
    assert found.tags["cel"].startswith("seed@")
    assert seed.stop(10.0) == 0
    wait_for(
        lambda: members_of(control)[found.name].status is MemberStatus.LEFT, 10.0, "it has left"
    )
    assert serf.key_file.read_text() not in seed.output


def test_a_new_key_is_one(serf: PrivateSerf) -> None:
    made = subprocess.check_output([script("wlm"), "agent", "--keygen"], text=True).strip()
    assert len(base64.b64decode(made, validate=True)) == 32
    assert serf.started(settings=serf.settings(key_file=serf.write_key(made, "made"))).alive()


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "serf.enabled: is false"),
        ({"WLM_SERF_ENABLED": "1"}, "serf.encrypt_key: got nothing, expected env:NAME or file:"),
        (
            {"WLM_SERF_ENABLED": "1", "WLM_SERF_ENCRYPT_KEY": "env:KEY", "KEY": "hunter2"},
            "expected 32 bytes in base64",
        ),
        (
            {"WLM_SERF_ENABLED": "1", "WLM_SERF_BIND": "127.0.0.1", "WLM_SERF_BINARY": "/no/serf"},
            "there is no program /no/serf",
        ),
    ],
    ids=["off", "no key", "bad key", "no program"],
)
def test_what_keeps_a_seed_from_running_is_told(environ: dict[str, str], words: str) -> None:
    done = subprocess.run(
        [script("wlm"), "agent"],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert "hunter2" not in done.stderr


# ---- doctor


def test_serf_that_is_off_is_no_matter_for_the_doctor(tmp_path: Path) -> None:
    assert serf_lines(Settings(data_dir=tmp_path)) == []


def test_all_well_with_how_many_members(serf: PrivateSerf) -> None:
    control = serf.started("control@host", role=Role.CONTROL)
    worker = serf.started()
    wait_until_joined(control, 2)
    wait_until_joined(worker, 2)
    lines = serf_lines(settings_of(serf))
    assert [one.name for one in lines] == sorted([f"serf {control.node}", f"serf {worker.node}"])
    assert {(one.level, one.text) for one in lines} == {
        (Level.OK, "2 members alive, 1 of them workers; 0 failed")
    }
    with worker.connect() as gossip:
        gossip.set_tags({"role": "king"})
    (line, _) = serf_lines(settings_of(serf))
    assert (line.level, line.text[-22:]) == (Level.WARN, "; 1 alive are not ours")


def test_a_missing_program_and_a_key_that_is_none(serf: PrivateSerf) -> None:
    (line,) = serf_lines(settings_of(serf, binary="/no/serf"))
    assert (line.level, line.text) == (
        Level.FAIL,
        "Serf: there is no program /no/serf here; correct serf.binary",
    )
    (line,) = serf_lines(settings_of(serf, key_file=serf.write_key("hunter2", "bad")))
    assert line.level is Level.FAIL
    assert "expected 32 bytes in base64" in line.text
    assert "hunter2" not in line.text


def test_no_agent_here_and_seeds_that_answer_or_not(serf: PrivateSerf) -> None:
    away = f"127.0.0.1:{serf.port()}"
    (line,) = serf_lines(settings_of(serf, join=(away,)))
    assert (line.level, line.text) == (Level.FAIL, f"no seed answers: {away}")
    (line,) = serf_lines(settings_of(serf, join=()))
    assert line.level is Level.WARN
    assert "no agent of this user runs on this host" in line.text


def test_a_wrong_encryption_key_and_a_wrong_rpc_key(serf: PrivateSerf) -> None:
    elsewhere = PrivateSerf(serf.directory / "elsewhere")
    try:
        elsewhere.started("seed@host", role=Role.SEED)
        worker = serf.started(
            settings=serf.settings(
                key_file=serf.write_key(new_key(), "other"), join=(elsewhere.seed,)
            )
        )
        (line,) = serf_lines(settings_of(serf, join=(elsewhere.seed,)))
        assert line.level is Level.FAIL
        assert line.text == (
            f"Serf: serf.encrypt_key is not the key of the agents at {elsewhere.seed}"
        )
        config = serf.base / worker.node / "agent.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"rpc_auth": "hunter2"}))
        (line,) = serf_lines(settings_of(serf))
        assert (line.level, line.text[-13:]) == (Level.FAIL, "wrong RPC key")
    finally:
        elsewhere.close()


def test_an_agent_that_is_down_for_the_moment(serf: PrivateSerf) -> None:
    program = serf.directory / "program"
    program.symlink_to(shutil.which("serf") or "")
    worker = serf.started(settings=serf.settings(binary=str(program)))
    program.unlink()  # it cannot be started again
    assert worker.pid
    os.kill(worker.pid, signal.SIGKILL)
    wait_for(lambda: "port closed" in serf_lines(settings_of(serf))[0].text, 10.0, "port closed")
    (line,) = serf_lines(settings_of(serf))
    assert (line.name, line.level) == (f"serf {worker.node}", Level.FAIL)
