"""``wlm agent``: a Serf agent for a host that has neither workers nor control."""

from __future__ import annotations

import base64
import logging
import os
import secrets
import signal
import socket
import threading
from typing import Final

import click

from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.cluster.agent import SerfAgent
from wlm_tasks.cluster.launch import agents_directory, find_binary
from wlm_tasks.cluster.tags import Role, WorkerAttributes
from wlm_tasks.config import SerfSettings
from wlm_tasks.errors import ConfigError

_KEY_BYTES: Final = 32


@click.command()
@click.option("--keygen", is_flag=True, help="Print a new encryption key, and nothing else.")
@pass_session
def agent(session: Session, *, keygen: bool) -> None:
    """Run a Serf agent until SIGTERM or Ctrl-C: a seed that others can join.

    Workers and control run agents of their own; this is for hosts that have neither.
    """
    if keygen:
        click.echo(base64.b64encode(os.urandom(_KEY_BYTES)).decode())
        return
    settings = _checked(session.settings.serf)
    find_binary(settings)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)-7s %(message)s", force=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    running = SerfAgent(settings, agents_directory(session.settings), _attributes())
    running.start()
    stop.wait()
    running.leave()


def _checked(settings: SerfSettings) -> SerfSettings:
    """Return the settings of an agent that may run; raises `ConfigError`."""
    if not settings.enabled:
        raise ConfigError("serf.enabled: is false, so there is no agent to run")
    if settings.encrypt_key is not None:
        settings.encrypt_key.reveal()
    return settings


def _attributes() -> WorkerAttributes:
    return WorkerAttributes(
        role=Role.SEED,
        name=f"seed@{socket.gethostname()}",
        incarnation=secrets.token_hex(4),
    )
