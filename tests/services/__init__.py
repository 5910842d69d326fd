"""Private services for tests: each with its own directory, ports and certain end.

Nothing here talks to a service that it did not start, and nothing listens on anything but
loopback or a network that is the run's own (`services.network`).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from services.guardian import Guardian

#: Where the run's configuration keeps its guardian.
GUARDIAN: Final = pytest.StashKey[Guardian]()

#: Where scripts/setup has unpacked the packages that cannot be installed beside others.
APART: Final = Path(__file__).parents[2] / ".venv/apart"

#: What `LMOD_PKG` is where Lmod is installed.
LMOD: Final = APART / "lmod/usr/share/lmod/lmod"

#: Marker of a service, and the fixtures whose use means that a test needs it.
SERVICE_FIXTURES: Final = {
    "rabbitmq": {"rabbitmq", "broker_url", "make_rabbitmq"},
    "aurora": {"aurora", "make_aurora"},
    "postgresql": {"postgresql", "postgresql_url", "make_postgresql"},
    "slurm": {"slurm", "make_slurm", "login_node"},
    "serf": {"serf"},
    "sshd": {"sshd", "make_sshd", "login_node", "sftp_only"},
}


def in_ci() -> bool:
    """True where a missing service must fail the run instead of skipping a test."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false", "no")


def require_service(name: str, available: bool) -> None:
    """Skip the test if the service is not installed; in CI (``CI`` is set) fail it instead."""
    require(available, f"{name} is not installed: run scripts/setup")


def require(condition: bool, otherwise: str) -> None:
    """Go on only where this holds: a laptop may lack it, a run in CI (``CI`` is set) may not."""
    if condition:
        return
    if in_ci():
        pytest.fail(otherwise, pytrace=False)
    pytest.skip(otherwise)
