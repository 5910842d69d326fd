"""Settings of Serf that have to go together, and its key, which is shown nowhere."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path

import pytest

from wlm_tasks.config import SerfSettings, Settings, load
from wlm_tasks.errors import ConfigError

KEY = base64.b64encode(bytes(range(32))).decode()


def loaded(tmp_path: Path, text: str, **environ: str) -> Settings:
    (tmp_path / "wlm.toml").write_text(f"[serf]\n{text}\n")
    return load(tmp_path / "wlm.toml", {"HOME": "/h", **environ})


def test_the_key_by_reference(tmp_path: Path) -> None:
    key = loaded(tmp_path, "encrypt_key = 'env:K'", K=KEY).serf.encrypt_key
    assert key is not None
    assert (key.reveal(), str(key)) == (KEY, "env:K")


def test_a_key_in_the_environment_is_shown_nowhere(tmp_path: Path) -> None:
    settings = loaded(tmp_path, "", WLM_SERF_ENCRYPT_KEY=KEY)
    assert settings.serf.encrypt_key is not None
    assert settings.serf.encrypt_key.reveal() == KEY
    assert settings.describe()["serf"]["encrypt_key"] == "***"
    for shown in (repr(settings), str(settings.describe()), repr(settings.serf.encrypt_key)):
        assert KEY not in shown


@pytest.mark.parametrize(
    "wrong", ["hunter2", KEY[:-4], base64.b64encode(b"16 bytes of a key").decode()]
)
def test_what_is_no_key_is_told_without_it(tmp_path: Path, wrong: str) -> None:
    key = loaded(tmp_path, "encrypt_key = 'env:K'", K=wrong).serf.encrypt_key
    assert key is not None
    with pytest.raises(ConfigError, match="32 bytes in base64") as told:
        key.reveal()
    assert wrong not in str(told.value)
    with pytest.raises(ConfigError, match="32 bytes in base64") as told:
        loaded(tmp_path, "", WLM_SERF_ENCRYPT_KEY=wrong)
    assert wrong not in str(told.value)


def test_agents_that_others_can_reach_need_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"serf\.encrypt_key: got nothing, expected env:NAME"):
        loaded(tmp_path, "enabled = true")
    for address in ("127.0.0.1", "127.3.2.1", "::1"):
        assert loaded(tmp_path, f"enabled = true\nbind = '{address}'").serf.local


def test_ports_end_somewhere() -> None:
    assert SerfSettings(port=65_530, ports=6).ports == 6
    with pytest.raises(ConfigError, match=r"serf\.ports: got 7, expected at most 6: ports end at"):
        SerfSettings(port=65_530, ports=7)


def test_seeds_by_name_and_address(tmp_path: Path) -> None:
    given = "control-1.a.example.org:7946,[2001:db8::7]:7946,192.0.2.7:1"
    seeds = loaded(tmp_path, "", WLM_SERF_JOIN=given).serf.join
    assert seeds == tuple(given.split(","))
    assert replace(SerfSettings(), join=seeds).join == seeds
