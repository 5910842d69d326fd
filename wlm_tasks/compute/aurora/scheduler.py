"""What is asked of a scheduler about our jobs, and said to it, by their tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from wlm_tasks.compute.aurora import generations
from wlm_tasks.compute.aurora.client import AuroraClient
from wlm_tasks.compute.aurora.generations import Generation
from wlm_tasks.compute.aurora.job import job_key, token_of
from wlm_tasks.compute.aurora.options import AuroraOptions
from wlm_tasks.compute.aurora.wire import idl, text


class Scheduler:
    """One site's scheduler. Its methods raise what `AuroraClient.call` does."""

    def __init__(self, options: AuroraOptions, client: AuroraClient) -> None:
        self._options = options
        self._client = client

    def tasks(self, tokens: Collection[str]) -> dict[str, list[Generation]]:
        """Ask for the tasks of all these jobs at once; only those that carry their token count.

        A token that has none is not among the keys: the scheduler said so, for what makes no
        sense is an error.
        """
        method = "getTasksWithoutConfigs"
        found: dict[str, list[Generation]] = defaultdict(list)
        if not tokens:
            return found
        result = getattr(self._ask(method, tokens), "scheduleStatusResult", None)
        if result is None or result.tasks is None:
            raise self._client.undecided(method, "answered without a list of tasks")
        for task in result.tasks:
            try:
                generation = generations.read(task)
            except ValueError as error:
                raise self._client.undecided(method, f"lists {error}") from error
            token = token_of(task)
            if token is not None and token in tokens:
                found[token].append(generation)
        return found

    def reasons(self, tokens: Collection[str]) -> dict[str, str]:
        """Ask why the tasks of these jobs wait, by the tasks' ids."""
        result = getattr(self._ask("getPendingReason", tokens), "getPendingReasonResult", None)
        told = (result.reasons if result is not None else None) or ()
        return {text(one.taskId): text(one.reason) for one in told}

    def create(self, job: Any) -> None:
        """Create a job."""
        self._client.call("createJob", description=job)

    def kill(self, token: str) -> None:
        """Have all tasks of a job killed; none there is as good."""
        key = job_key(self._options, token)
        self._client.call("killTasks", job=key, message="cancelled by its owner")

    def _ask(self, method: str, tokens: Collection[str]) -> Any:
        keys = [job_key(self._options, token) for token in tokens]
        return self._client.call(method, query=idl().TaskQuery(jobKeys=keys))
