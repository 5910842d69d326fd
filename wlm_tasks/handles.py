"""Handles: an experiment, a job or a sweep to ask, wait for, cancel, retry and clone.

A handle keeps an id and nothing else; every answer comes from the database, so it can be made
again from its id in any process.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import fsdecode
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from wlm_tasks.compute.base import ComputeBackend, JobRef
from wlm_tasks.errors import ExperimentFailedError, NotFoundError, WlmError
from wlm_tasks.explain import Situation, current_step, why
from wlm_tasks.model import checksums
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.paths import is_directory, split_tree
from wlm_tasks.model.sites import SILENT
from wlm_tasks.model.states import FINAL, ExperimentState, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.model.surroundings import SCRIPT_SAYS
from wlm_tasks.progress import Progress
from wlm_tasks.state.views import (
    ExperimentView,
    Filter,
    JobView,
    StepView,
    SweepView,
    TransferView,
)
from wlm_tasks.tasks.perform import job_ref

if TYPE_CHECKING:
    from wlm_tasks.api import Client

#: Seconds between looks at the database while waiting: short at first, then longer.
_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 0.5
#: How a step stands whose job has failed
_JOB_FAILED = (StepName.MONITOR, StepState.FAILED)


@dataclass(frozen=True)
class Output:
    """One output of an experiment."""

    path: str  #: inside the experiment's directory
    url: str  #: where staging put it
    size: int | None = None  #: bytes that were brought there, None as long as nothing was
    sha256: str | None = None  #: what a `TransferView` says of it

    @property
    def file(self) -> Path | None:
        """The local file, if the output went to one."""
        parts = urlsplit(self.url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None

    def download(self, directory: str | Path) -> Path:
        """Copy it into a local directory; returns the copy. Raises `NotFoundError`."""
        if self.file is not None and self.file.is_dir():
            target = Path(directory) / self.file.name
            return Path(shutil.copytree(self.file, target, dirs_exist_ok=True))
        if self.file is None or not self.file.is_file():
            raise NotFoundError(f"output {self.path}: nothing at {self.url}")
        Path(directory).mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy2(self.file, directory))


@dataclass(frozen=True)
class Manifest:
    """Which files were staged for an experiment."""

    #: SHA-256 and path of each, in the format of sha256sum(1): ``sha256sum -c`` checks them in the
    #: experiment's directory
    text: str
    #: fields and paths of transfers whose files are not listed: neither end told a digest, or a
    #: directory's list was too long or had names that are no UTF-8
    unlisted: tuple[str, ...]


class JobHandle:
    """The newest job of an experiment on its site."""

    def __init__(self, client: Client, experiment: Experiment, view: JobView) -> None:
        self._client = client
        self._experiment = experiment
        self.view = view

    @property
    def native_id(self) -> str | None:
        """The site's own id."""
        return self.view.native_id

    def stdout(self, tail: int = 50) -> str:
        """The last lines of its standard output."""
        return self._tail("stdout", tail)

    def stderr(self, tail: int = 50) -> str:
        """The last lines of its standard error."""
        return self._tail("stderr", tail)

    def links(self) -> dict[str, str]:
        """Pages of its site on which a person finds it, by name; empty where there are none."""
        return self._backend.links(self._ref)

    def _tail(self, stream: str, lines: int) -> str:
        return self._backend.tail(self._ref, stream, lines)

    @property
    def _backend(self) -> ComputeBackend:
        return self._client.runtime.site(self.view.site).backend

    @property
    def _ref(self) -> JobRef:
        view = self.view
        return job_ref(view.token, view.workdir, self._experiment, view.native_id, view.array)


class ExperimentHandle:
    """One experiment."""

    def __init__(self, client: Client, experiment_id: str) -> None:
        self._client = client
        self.id = experiment_id

    def __repr__(self) -> str:
        return f"<experiment {self.id}>"

    @property
    def view(self) -> ExperimentView:
        """Everything about it in one row."""
        return self._client.store.views.experiment(self.id)

    @property
    def status(self) -> ExperimentState:
        """How it stands."""
        return self.view.state

    @property
    def steps(self) -> list[StepView]:
        """Its steps in order."""
        return self._client.store.views.steps(self.id)

    @property
    def experiment(self) -> Experiment:
        """What was asked for, parameters filled in."""
        return Experiment.from_json(self._client.store.views.spec(self.id))

    @property
    def job(self) -> JobHandle | None:
        """Its newest job, None before there is one."""
        jobs = self._client.store.views.jobs(self.id)
        return JobHandle(self._client, self.experiment, jobs[-1]) if jobs else None

    @property
    def outputs(self) -> dict[str, Output]:
        """Its outputs by their path in the experiment's directory."""
        brought = {one.number: one for one in self.staged if one.step is StepName.STAGE_OUT}
        outputs = {}
        for number, one in enumerate(self.experiment.outputs):
            known = brought.get(number)
            size, digest = (known.bytes, known.sha256) if known else (None, None)
            outputs[one.src] = Output(one.src, one.dest, size, digest)
        return outputs

    @property
    def staged(self) -> list[TransferView]:
        """What its transfers have brought, in order."""
        return self._client.store.views.transfers(self.id)

    def manifest(self) -> Manifest:
        """The SHA-256 of all files that were staged, by their path in its directory."""
        experiment, digests, unlisted = self.experiment, dict[str, str](), list[str]()
        for one in self.staged:
            if one.step is StepName.STAGE_IN:
                field, transfer = f"inputs[{one.number}]", experiment.inputs[one.number]
                path = transfer.dest
            else:
                field, transfer = f"outputs[{one.number}]", experiment.outputs[one.number]
                path = transfer.src
            if is_directory(transfer.dest) and one.digests is not None:
                directory = split_tree(f"./{path}")[0]
                for below, digest in one.digests.items():
                    digests[normpath(f"{directory}/{below}")] = digest
            elif not is_directory(transfer.dest) and one.sha256 is not None:
                digests[normpath(path)] = one.sha256
            else:
                unlisted.append(f"{field}: {path!r}")
        return Manifest(fsdecode(checksums.write(digests)), tuple(unlisted))

    def why(self) -> str:
        """One line: what it waits for, or how it ended."""
        store, views = self._client.store, self._client.store.views
        view, steps = self.view, self.steps
        step, jobs = current_step(steps), views.jobs(self.id)
        ahead = 0
        if step is not None and step.ready_at is not None:
            ahead = views.ahead(step.queue, step.priority, step.ready_at)
        site = store.sites.get(view.site)
        failed = step is not None and (step.name, step.state) == _JOB_FAILED
        return why(
            Situation(
                experiment=view,
                steps=steps,
                job=jobs[-1] if jobs else None,
                ahead=ahead,
                now=views.now(),
                controls=sorted(set(store.coordination.holders().values())),
                poll_error=store.polls.errors().get(view.site),
                site=site,
                last_words=self._last_words() if failed and site.state not in SILENT else "",
            )
        )

    def _last_words(self) -> str:
        """What the job's script said of a failure before the commands; empty if it did not."""
        try:
            said = self.job.stderr(1).strip() if self.job is not None else ""
        except WlmError:  # its site is away: the rest is told all the same
            return ""
        return said if said.startswith(SCRIPT_SAYS) else ""

    def logs(self, step: str | StepName | None = None, tail: int = 50) -> str:
        """What happened, line by line; for the steps of the job its output, too."""
        names = {view.seq: view.name for view in self.steps}
        wanted = None if step is None else _step_name(step)
        lines = [
            _event_line(
                event.at, names.get(event.step, "") if event.step is not None else "", event
            )
            for event in self._client.store.views.events(self.id, limit=10_000)
            if wanted is None or (event.step is not None and names[event.step] == wanted)
        ]
        text = "\n".join(lines[-tail:])
        if wanted in (None, StepName.SUBMIT, StepName.MONITOR) and self.job is not None:
            for stream in ("stdout", "stderr"):
                output = getattr(self.job, stream)(tail)
                if output:
                    text += f"\n--- {stream} ---\n{output.rstrip()}"
        return text

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> ExperimentHandle:
        """Wait for the end; returns itself if it ended DONE.

        Raises `ExperimentFailedError` if it ended otherwise and `TimeoutError` after `timeout`
        seconds. A paused experiment is waited for: a person may resume it.
        """
        with Progress(shown=progress, total=1, title=self.view.name) as bar:
            _wait(lambda: bar.update({self.status: 1}), timeout, self.id)
        if self.status is not ExperimentState.DONE:
            raise ExperimentFailedError(f"{self.id}: {self.why()}", self.id, str(self.status))
        return self

    def cancel(self) -> ExperimentState:
        """Stop it; CANCELLED, or CANCELLING until its site confirms that the job is gone."""
        state = self._client.store.intake.cancel(self.id)
        self._client.wake()
        return state

    def retry(self, from_step: str | StepName | None = None) -> ExperimentHandle:
        """Run it again from a step, after it ended or while it is paused; resumes it in place."""
        name = None if from_step is None else _step_name(from_step)
        self._client.store.intake.retry(self.id, name)
        self._client.wake()
        return self

    def clone(self, **changes: Any) -> ExperimentHandle:
        """Hand in the same experiment once more, as a new one, with fields changed."""
        fields = {**self.experiment.model_dump(), **changes}
        return self._client.schedule(
            Experiment.model_validate(fields), params=self.view.params, bound=True
        )


class SweepHandle:
    """A sweep and its members."""

    def __init__(self, client: Client, sweep_id: str) -> None:
        self._client = client
        self.id = sweep_id

    def __repr__(self) -> str:
        return f"<sweep {self.id}>"

    def __iter__(self) -> Iterator[ExperimentHandle]:
        return iter(self.members)

    def __len__(self) -> int:
        return self.view.size

    @property
    def view(self) -> SweepView:
        """Everything about it."""
        return self._client.store.views.sweep(self.id)

    @property
    def status(self) -> Mapping[ExperimentState, int]:
        """How many members are in which state."""
        return self.view.states

    @property
    def members(self) -> list[ExperimentHandle]:
        """All members in order."""
        return [ExperimentHandle(self._client, view.id) for view in self._views()]

    @property
    def failed(self) -> list[ExperimentHandle]:
        """Members that failed."""
        return [
            ExperimentHandle(self._client, view.id)
            for view in self._views()
            if view.state is ExperimentState.FAILED
        ]

    def _views(self) -> list[ExperimentView]:
        found = self._client.store.views.list(Filter(sweep_id=self.id, limit=None))
        return sorted(found, key=lambda view: view.member or 0)

    def to_records(self) -> list[dict[str, Any]]:
        """One flat dictionary a member: id, state, reason, times, parameters.

        A parameter with the name of one of these, such as ``state``, is under ``param.state``.
        """
        return [_record(view) for view in self._views()]

    def wait(self, timeout: float | None = None, *, progress: bool = False) -> SweepHandle:
        """Wait until every member has ended; errors as for one experiment."""
        view = self.view
        with Progress(shown=progress, total=view.size, title=view.name) as bar:
            _wait(lambda: bar.update(self.status), timeout, self.id)
        bad = {state: n for state, n in self.status.items() if state is not ExperimentState.DONE}
        if bad:
            text = ", ".join(f"{count} {state}" for state, count in sorted(bad.items()))
            raise ExperimentFailedError(f"{self.id}: {text} of {view.size}", self.id, text)
        return self

    def cancel(self) -> None:
        """Stop every member that has not ended."""
        for view in self._views():
            if not view.final:
                self._client.store.intake.cancel(view.id)
        self._client.wake()

    def retry(self) -> int:
        """Run the failed members again; returns how many."""
        failed = self.failed
        for member in failed:
            member.retry()
        return len(failed)


def _wait(
    look: Callable[[], Mapping[ExperimentState, int]], timeout: float | None, what: str
) -> None:
    end = None if timeout is None else time.monotonic() + timeout
    pause_s = _FIRST_LOOK_S
    while not FINAL.issuperset(states := look()):
        if end is not None and time.monotonic() >= end:
            now = ", ".join(f"{count} {state}" for state, count in states.items())
            raise TimeoutError(f"{what}: not ended after {timeout} s: {now}")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.2, _LAST_LOOK_S)


def _step_name(name: str | StepName) -> StepName:
    try:
        return StepName(name)
    except ValueError as error:
        known = ", ".join(StepName)
        raise NotFoundError(f"step: got {name!r}, expected one of {known}") from error


def _event_line(at: float, name: str, event: Any) -> str:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    words = [stamp, f"{name or 'experiment'} {event.state}"]
    if event.worker:
        words.append(f"by {event.worker}")
    words += [f"{key}={value}" for key, value in event.detail.items() if value is not None]
    return "  ".join(words)


def _record(view: ExperimentView) -> dict[str, Any]:
    record: dict[str, Any] = {
        "id": view.id,
        "member": view.member,
        "state": str(view.state),
        "reason": view.reason,
        "created_at": view.created_at,
        "ended_at": view.ended_at,
    }
    params = {f"param.{k}" if k in record else k: value for k, value in view.params.items()}
    return {**record, **params}
