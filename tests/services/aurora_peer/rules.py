"""What a scheduler refuses, in words like its own."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Final

from services.aurora_peer.generated import set_fields

_PART: Final = re.compile(r"[\w\-.]+")
_ENVIRONMENT: Final = re.compile(r"(prod|devel|test|staging\d*)")
_INSTANCES: Final = 4000
_ID_LIMIT: Final = 165
TIERS: Final = ("preferred", "preemptible", "revocable")


class RefusedError(Exception):
    """An INVALID_REQUEST; the argument is its message."""


def check_key(key: Any) -> None:
    """Refuse a key that is not whole."""
    parts = {} if key is None else {"role": key.role, "env": key.environment, "name": key.name}
    for name in ("role", "env", "name"):
        part = parts.get(name)
        if not part or len(part) > 255 or not _PART.fullmatch(part):
            raise RefusedError(f"Job {name} contains illegal characters: {part}")


def check_job(job: Any, *, fetcher: bool = True) -> None:
    """Refuse a job that cannot be."""
    check_key(job.key)
    task = job.taskConfig
    if job.cronSchedule is not None:
        raise RefusedError("Cron jobs may only be created/updated by calling scheduleCronJob.")
    if task is None or task.job != job.key:
        raise RefusedError("Job key does not match task config")
    if not _ENVIRONMENT.fullmatch(job.key.environment):
        raise RefusedError(f"Job environment {job.key.environment} doesn't match: {_ENVIRONMENT}")
    if len(job.key.role) + len(job.key.name) > _ID_LIMIT:
        raise RefusedError("Task ID is too long, please shorten your role or job name.")
    if not 1 <= (job.instanceCount or 0) <= _INSTANCES:
        raise RefusedError("Instance count must be positive.")
    _check_task(task)
    if task.mesosFetcherUris and not fetcher:
        raise RefusedError("Mesos Fetcher for individual jobs is disabled in this cluster.")


def _check_task(task: Any) -> None:
    for union in (task.container, *(task.resources or ())):
        if union is None or len(set_fields(union)) != 1:
            raise ValueError(f"a union without exactly one field: {union}")  # not a refusal
    if task.tier is not None and task.tier not in TIERS:
        raise RefusedError(f"Invalid tier '{task.tier}' in TaskConfig.")
    if task.executorConfig is None or task.executorConfig.name != "AuroraExecutor":
        raise RefusedError("Configuration may not be null / unknown executor")
    _check_amounts(task)


def _check_amounts(task: Any) -> None:
    if any(value is not None for value in (task.numCpus, task.ramMb, task.diskMb)):
        raise RefusedError("numCpus, ramMb and diskMb are no longer known")
    amounts = Counter(set_fields(one)[0] for one in task.resources)
    for name in ("numCpus", "ramMb", "diskMb"):
        if amounts[name] != 1:
            raise RefusedError(f"Exactly one {name} resource must be given.")
    for one in task.resources:
        name = set_fields(one)[0]
        if name != "namedPort" and getattr(one, name) <= 0:
            raise RefusedError(f"A task must have positive {name} values.")
