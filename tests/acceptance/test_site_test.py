"""``wlm site test`` on real sites: what works, and what does not in the site's own words."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from services.fixtures import MakeSshd
from services.processes import script
from services.sshd import PrivateSshd


def run(
    tmp_path: Path, site: dict[str, Any], *words: str, storage: dict[str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command on a site `far` with these settings, where nothing else is set."""
    lines = ["[sites.far]", *(f"{name} = {json.dumps(value)}" for name, value in site.items())]
    if storage is not None:
        lines += ["[storages.lab]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in storage.items()]
    (tmp_path / "wlm.toml").write_text("\n".join([*lines, ""]))
    environ = {**os.environ, "WLM_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "200"}
    return subprocess.run(
        [script("wlm"), "site", "test", "far", *words],
        cwd=tmp_path, env=environ, text=True, capture_output=True, timeout=90, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["local", "ssh", "slurm"])
def test_a_site_that_works(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    host = {"ssh": "sshd", "slurm": "login_node"}.get(kind)
    options = request.getfixturevalue(host).options if host else {}
    site = {"kind": kind, "scratch": str(tmp_path / "scratch"), **options}
    told = run(tmp_path, site, "-o", "json")
    checks = {one["name"]: one for one in json.loads(told.stdout)}
    assert all(one["good"] for one in checks.values()), told.stdout
    assert list(checks) == [
        "open", "prepare", "look", "count", "stage in", "submit", "submit again", "watch",
        "read output", "stage out", "cancel", "clean up",
    ]  # fmt: skip
    assert checks["stage out"]["text"].endswith("the payload ran once")
    assert ("of them not ours" in checks["count"]["text"]) is (kind == "slurm")
    assert told.returncode == 0
    assert not list((tmp_path / "scratch").iterdir())
    assert not (tmp_path / "data" / "wlm.db").exists()  # needs no database


def test_logins_between_hosts(make_sshd: MakeSshd, tmp_path: Path) -> None:
    """Of the site's host to that of a storage, but not back; the site itself works all the same."""
    cluster, lab = make_sshd(), make_sshd()
    lab.lets_in(cluster)
    site = {"kind": "ssh", "scratch": str(tmp_path / "scratch"), "direct_to": ["lab"]}
    storage = {"url": f"scp://{lab.host}:{lab.port}", "direct_to": ["far"], **lab.options}
    del storage["host"]
    told = run(tmp_path, site | cluster.options, "-o", "json", storage=storage)
    *others, direct, cleaned = json.loads(told.stdout)
    assert all(one["good"] for one in [*others, cleaned]), told.stdout
    assert (direct["name"], direct["good"]) == ("direct", False)
    back = f"{lab.user}@{lab.host}:{lab.port} to {cluster.user}@{cluster.host}:{cluster.port}"
    assert direct["text"].startswith(f"{back}: ")
    assert "own key and known_hosts" in direct["mend"]


def test_a_key_that_is_refused(sshd: PrivateSshd, tmp_path: Path) -> None:
    options = {**sshd.options, "key_file": str(sshd.new_key("stranger"))}
    told = run(tmp_path, {"kind": "ssh", "scratch": str(tmp_path / "scratch"), **options})
    assert told.returncode == 1
    lines = told.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == ["[ok]", "[FAIL]"]
    assert "prepare: " in lines[1]
    assert "permission denied with the key" in lines[1]
    assert "mend: see that user, key and known_hosts are right" in lines[2]
    assert "site far does not work" in lines[-1]


def test_a_site_that_cannot_take_files(tmp_path: Path) -> None:
    (tmp_path / "scratch").write_text("a file")
    told = run(tmp_path, {"kind": "local", "scratch": str(tmp_path / "scratch" / "here")})
    assert told.returncode == 1
    assert "[FAIL]" in told.stdout
    assert "prepare: " in told.stdout
    assert "Not a directory" in told.stdout
