"""What is asked of a scheduler about our jobs, and said to it, by their tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Iterator
from typing import Any

from wlm_tasks.compute.aurora import generations
from wlm_tasks.compute.aurora.client import AuroraClient
from wlm_tasks.compute.aurora.generations import Generation
from wlm_tasks.compute.aurora.job import job_key, token_of
from wlm_tasks.compute.aurora.options import AuroraOptions
from wlm_tasks.compute.aurora.wire import idl, text
from wlm_tasks.compute.base import SiteLoad


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
        found: dict[str, list[Generation]] = defaultdict(list)
        if not tokens:
            return found
        for task, generation in self._list(idl().TaskQuery(jobKeys=self._keys(tokens))):
            token = token_of(task)
            if token is not None and token in tokens:
                found[token].append(generation)
        return found

    def load(self, ours: Container[str] | None) -> SiteLoad:
        """Count the live tasks of our role, in all its environments: its quota is over them all.

        Foreign are those that carry none of the tokens in `ours`; with None those that carry no
        token, or are of another environment.
        """
        query = idl().TaskQuery(role=self._options.role, statuses=set(generations.COUNTED))
        queued = running = foreign = 0
        for task, one in self._list(query):
            if one.ended:
                continue
            if one.status in generations.WAITING:
                queued += 1
            else:
                running += 1
            foreign += not self._is_ours(task, ours)
        return SiteLoad(queued=queued, running=running, foreign=foreign)

    def _is_ours(self, task: Any, ours: Container[str] | None) -> bool:
        token = token_of(task)
        if token is None:
            return False
        if ours is not None:
            return token in ours
        key = task.assignedTask.task.job
        return key is not None and text(key.environment) == self._options.environment

    def _list(self, query: Any) -> Iterator[tuple[Any, Generation]]:
        method = "getTasksWithoutConfigs"
        result = getattr(self._client.call(method, query=query), "scheduleStatusResult", None)
        if result is None or result.tasks is None:
            raise self._client.undecided(method, "answered without a list of tasks")
        for task in result.tasks:
            try:
                generation = generations.read(task)
            except ValueError as error:
                raise self._client.undecided(method, f"lists {error}") from error
            yield task, generation

    def reasons(self, tokens: Collection[str]) -> dict[str, str]:
        """Ask why the tasks of these jobs wait, by the tasks' ids."""
        query = idl().TaskQuery(jobKeys=self._keys(tokens))
        answer = self._client.call("getPendingReason", query=query)
        result = getattr(answer, "getPendingReasonResult", None)
        told = (result.reasons if result is not None else None) or ()
        return {text(one.taskId): text(one.reason) for one in told}

    def create(self, job: Any) -> None:
        """Create a job."""
        self._client.call("createJob", description=job)

    def kill(self, token: str) -> None:
        """Have all tasks of a job killed; none there is as good."""
        key = job_key(self._options, token)
        self._client.call("killTasks", job=key, message="cancelled by its owner")

    def _keys(self, tokens: Collection[str]) -> list[Any]:
        return [job_key(self._options, token) for token in tokens]
