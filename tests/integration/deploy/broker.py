"""A private broker set up by deploy/, as an operator would."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from kombu import Connection

from services.rabbitmq import PrivateRabbitMQ

ROOT: Final = Path(__file__).parents[3]
DEPLOY: Final = ROOT / "deploy"
USERS: Final = ("wlm-control", "wlm-worker", "wlm-orchestrator", "wlm-flower")


def shipped_config() -> dict[str, str]:
    """rabbitmq.conf without the port, and without asking a small disk for a gigabyte."""
    lines = (DEPLOY / "rabbitmq" / "rabbitmq.conf").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition(" = ") for line in lines if line and not line.startswith("#")]
    config = {key: value for key, _, value in pairs if not key.startswith("listeners.")}
    if shutil.disk_usage("/tmp").free < 3e9:  # noqa: S108 - only asked for its size
        config.pop("disk_free_limit.absolute")
    return config


class DeployedBroker:
    """A broker that was set up by deploy/."""

    def __init__(self, server: PrivateRabbitMQ, secrets: Path) -> None:
        self.server = server
        self.secrets = secrets

    def url(self, user: str, password: str | None = None) -> str:
        """AMQP URL of one of the users."""
        if password is None:
            password = (self.secrets / user).read_text().strip()
        return f"amqp://{user}:{password}@127.0.0.1:{self.server.port}/wlm"

    def connect(self, user: str, password: str | None = None) -> Connection:
        """A connection that notices refused messages."""
        return Connection(self.url(user, password), transport_options={"confirm_publish": True})

    def set_up(self) -> str:
        """Run setup.sh as an operator would."""
        done = subprocess.run(
            [DEPLOY / "rabbitmq" / "setup.sh", self.secrets],
            env=self.server._environment()
            | {"RABBITMQCTL": str(PrivateRabbitMQ._script("rabbitmqctl"))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
