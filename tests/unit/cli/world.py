"""A data directory with real rows, and the command line called in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from wlm_tasks.api import Client
from wlm_tasks.cli.main import cli
from wlm_tasks.config import load
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.steps import ALL_QUEUES, StepName
from wlm_tasks.state.holders import Claim, Holder

HOLDER = Holder(worker="w@host", message_id="m", queues=ALL_QUEUES, lease_s=60.0)


def hello(**changes: Any) -> Experiment:
    """Return a small experiment."""
    fields: dict[str, Any] = {"name": "hello", "site": "local", "commands": ["echo hi"]}
    return Experiment.model_validate({**fields, **changes})


class World:
    """Settings from the environment, rows in SQLite, and ways to bring rows into a state."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.client = Client(load())
        self.store = self.client.store

    def wlm(self, *args: str, stdin: str | None = None, code: int | None = 0) -> Result:
        """Call the command line; `code` is the exit code it must have."""
        result = CliRunner().invoke(cli, args, input=stdin, prog_name="wlm")
        assert code is None or result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *args: str) -> Any:
        """Return what a command prints with ``-o json``."""
        return json.loads(self.wlm(*args, "-o", "json").stdout)

    def file(self, text: str, name: str = "experiment.toml") -> str:
        """Write a file; returns its path."""
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def add(self, **changes: Any) -> str:
        """Hand in an experiment; returns its id."""
        return self.client.schedule(hello(**changes)).id

    def sweep(self, values: dict[str, Sequence[Any]], **changes: Any) -> str:
        """Hand in a sweep of an experiment that echoes the swept parameters."""
        command = " ".join(["echo", *(f"{{{name}}}" for name in values)])
        return self.client.schedule_sweep(hello(commands=[command], **changes), values).id

    def claim(self, experiment_id: str, name: StepName = StepName.SETUP) -> Claim:
        """Claim a step as a worker does."""
        got = self.store.claims.claim(experiment_id, name, HOLDER)
        assert isinstance(got, Claim)
        return got

    def paused(self, **changes: Any) -> str:
        """Hand in an experiment whose first step has paused."""
        experiment_id = self.add(**changes)
        self.store.claims.pause(self.claim(experiment_id), "the disk is full")
        return experiment_id

    def failed(self, **changes: Any) -> str:
        """Hand in an experiment whose first step has failed."""
        experiment_id = self.add(**changes)
        self.store.claims.fail(self.claim(experiment_id), "no such directory")
        return experiment_id

    def state(self, experiment_id: str) -> str:
        """Return the state of an experiment."""
        return str(self.store.views.experiment(experiment_id).state)

    def count(self) -> int:
        """Return how many experiments there are."""
        return sum(self.store.views.counts().values())

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
