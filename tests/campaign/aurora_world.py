"""An installation with an Aurora site, and processes of it that die where they are told to."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from unit.compute.sites import forked
from urllib3.connection import HTTPConnection

from services.aurora import PrivateAurora
from services.processes import wait_for
from services.webfiles import WebFiles
from wlm_tasks.api import Client
from wlm_tasks.celery import make_app
from wlm_tasks.compute.aurora.backend import AuroraBackend
from wlm_tasks.compute.aurora.notes import Notes, Patience
from wlm_tasks.compute.aurora.sandboxed import SandboxedBackend
from wlm_tasks.compute.aurora.scheduler import Scheduler
from wlm_tasks.config import Settings
from wlm_tasks.config.settings import ControlSettings, SiteSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.handles import ExperimentHandle
from wlm_tasks.model.experiment import Experiment, Resources, Retry, Stop
from wlm_tasks.model.states import FINAL, ExperimentState, JobRecord
from wlm_tasks.model.steps import STEP_QUEUES, StepName
from wlm_tasks.state.holders import Holder
from wlm_tasks.state.jobs import Jobs
from wlm_tasks.tasks.engine import Engine
from wlm_tasks.tasks.shown import Shown

#: seconds: so short that uncertain submissions are decided soon
_CONNECT_S: Final = 0.5
READ_S: Final = 1.0
_PATIENCE: Final = Patience(deadline_s=_CONNECT_S + READ_S, spacing_s=0.5)
#: of a payload; what is lost with its agent is told to be gone when this is over
_WALLTIME_S: Final = 3.0


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: type, name: str) -> None:
    """Die when a method is called."""
    setattr(owner, name, lambda *_args, **_kwargs: _die())


def _after(owner: type, name: str) -> None:
    """Die when a method has returned."""
    method = getattr(owner, name)

    def deadly(*args: Any, **kwargs: Any) -> None:
        method(*args, **kwargs)
        _die()

    setattr(owner, name, deadly)


def _without_an_answer() -> None:
    """Die when createJob was sent, before anything of the answer is read."""
    create = Scheduler.create

    def armed(scheduler: Scheduler, job: Any) -> None:
        _before(HTTPConnection, "getresponse")
        create(scheduler, job)

    setattr(Scheduler, "create", armed)  # noqa: B010 - as the others do


#: the points of a submission, in their order, and how a process is made to die at one
POINTS: Final[Mapping[str, Callable[[], None]]] = {
    "1 the intent is committed": lambda: _before(AuroraBackend, "submit"),
    "2 the lock is held": lambda: _before(Notes, "claim"),
    "2 the same, without a shared scratch": lambda: _before(SandboxedBackend, "_exists"),
    "3 looked, nothing found": lambda: _after(Scheduler, "tasks"),
    "4 noted that it will be sent": lambda: _after(Notes, "begin_sending"),
    "5 sent, no answer read": _without_an_answer,
    "6 answered, not noted": lambda: _after(Scheduler, "create"),
    "6 the same, without a shared scratch": lambda: _after(Notes, "note_made"),
    "7 noted, not recorded": lambda: _after(AuroraBackend, "submit"),
    "8 recorded, not handed on": lambda: _after(Jobs, "submitted_all"),
}
#: and of what the next submitter does after point 5
AGAIN: Final[Mapping[str, Callable[[], None]]] = {
    "9 looking for what was sent": lambda: _after(Scheduler, "tasks"),
    "10 proving that it is absent": lambda: _before(Notes, "is_absent"),
}


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every Aurora site of this process, and of those it forks, wait only shortly."""

    def make(_kind: str, **settings: Any) -> AuroraBackend:
        alone = settings["options"].get("shared_scratch") is False
        kind = SandboxedBackend if alone else AuroraBackend
        return kind(**settings, connect_s=_CONNECT_S, read_s=READ_S, patience=_PATIENCE)

    monkeypatch.setattr("wlm_tasks.runtime.compute_backend", make)
    monkeypatch.setattr("wlm_tasks.compute.aurora.notes._SILENCE_S", 0.5)


@dataclass
class Result:
    """What became of experiments whose faults were of one kind."""

    kind: str
    faults: int
    experiments: int
    duplicates: int
    lost: int
    stuck: int
    seconds: float

    def line(self) -> str:
        """A row of the table in the pages."""
        return (
            f"| {self.kind} | {self.faults} | {self.experiments} | {self.duplicates} | {self.lost}"
            f" | {self.stuck} | {self.seconds:.0f} s |"
        )


class AuroraWorld:
    """Settings, a client and the ledger. `standby` is a scheduler that sends on to `scheduler`.

    With `web`, which takes uploads, agents share no directory with the workers.
    """

    def __init__(
        self,
        directory: Path,
        scheduler: PrivateAurora,
        standby: PrivateAurora | None = None,
        *,
        web: WebFiles | None = None,
    ) -> None:
        self.ledger = directory / "ledger"
        self.ledger.touch()
        self.scheduler = scheduler
        scheduler.set(execute=True)
        own = {"cluster": "c", "role": "gateway", "environment": "devel"}
        self.alone = web is not None
        mesos: dict[str, str | int] = {
            **own,
            "url": (standby or scheduler).url,
            "hosts": scheduler.host,
        }
        if web is not None:
            mesos |= {"shared_scratch": False, "upload_url": f"{web.url}/runs"}
        # a site in trouble is asked again soon: the trouble made here does not last
        site = SiteSettings(
            name="mesos",
            kind="aurora",
            scratch=str(directory / "s"),
            poll_s=0.2,
            poll_max_s=0.2,
            probe_s=0.2,
            probe_max_s=0.5,
            options=mesos,
        )
        self.settings = Settings(
            data_dir=directory / "data",
            sites={"mesos": site},
            control=ControlSettings(tick_s=0.2, sweep_s=1, lease_s=5),
        )
        self.client = Client(self.settings)
        self._begun = time.monotonic()

    @property
    def points(self) -> dict[str, Callable[[], None]]:
        """Where a submission passes on this site."""
        mine = "without a shared scratch"
        left_out = {"2 the lock is held"} if self.alone else {p for p in POINTS if mine in p}
        return {point: arm for point, arm in POINTS.items() if point not in left_out}

    def add(self, count: int, *, jobs: int = 1, pause_s: float = 0.0) -> list[ExperimentHandle]:
        """Hand in experiments that note their jobs in the ledger."""
        experiment = Experiment(
            name="ledger",
            site="mesos",
            commands=[f"echo $WLM_JOB_TOKEN >> {self.ledger}", f"sleep {pause_s}"],
            resources=Resources(walltime_s=_WALLTIME_S),
            stop=Stop(grace_s=0.5),
            retry=Retry(tries=100, backoff_s=0.2, max_backoff_s=0.5, jobs=jobs),
        )
        return [self.client.schedule(experiment) for _ in range(count)]

    def kill(self, one: ExperimentHandle, arm: Callable[[], None], *, again: bool = False) -> None:
        """Have a worker submit the experiment's job and die where `arm` says."""

        def work() -> None:
            arm()
            self._work(one.id, again=again)

        with forked(work) as pid:
            status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status), "it did not get there"
        assert os.WTERMSIG(status) == signal.SIGKILL

    def kill_after(self, one: ExperimentHandle, delay_s: float) -> bool:
        """Have a worker submit the job and kill it then; False if it was done already."""
        mark = self.ledger.with_name(f"{one.id}.begun")

        def work() -> None:
            mark.touch()
            self._work(one.id)

        with forked(work) as pid:
            wait_for(mark.exists, what="its begin", interval=0.002)
            time.sleep(delay_s)
            os.kill(pid, signal.SIGKILL)
            return os.WIFSIGNALED(os.waitpid(pid, 0)[1])

    def _work(self, experiment_id: str, *, again: bool = False) -> None:
        app = make_app(self.settings)
        holder = Holder(
            worker="victim@host",
            message_id=f"{experiment_id}.victim",
            queues=STEP_QUEUES,
            lease_s=60,
            redelivered=again,
        )
        engine = Engine(app.runtime, Shown(app, enabled=False), lambda _steps: None)
        engine.work(experiment_id, StepName.SETUP, holder)

    def finish(
        self,
        kind: str,
        faults: int,
        handles: Sequence[ExperimentHandle],
        disturb: Callable[[], int] | None = None,
        timeout_s: float = 300.0,
    ) -> Result:
        """Let the whole system work until all have ended.

        Meanwhile `disturb` makes further faults, and tells how many; it may add experiments.
        """
        with running(self.settings, concurrency=3):
            if disturb is not None:
                faults += disturb()
            try:
                wait_for(lambda: _all_ended(handles), timeout_s, "the end of all", interval=0.1)
            except TimeoutError:
                for one in handles:
                    if one.status not in FINAL:
                        print(one.id, one.why())  # noqa: T201 - for whoever mends it
        return self._count(kind, faults, handles)

    def _count(self, kind: str, faults: int, handles: Sequence[ExperimentHandle]) -> Result:
        runs = Counter(self.ledger.read_text().split())
        lost = stuck = duplicates = 0
        for one in handles:
            found = self.client.store.views.jobs(one.id)
            duplicates += sum(max(0, runs[job.token] - 1) for job in found)
            good = [job for job in found if job.state is JobRecord.SUCCEEDED]
            stuck += one.status not in FINAL
            done = one.status is ExperimentState.DONE and len(good) == 1
            lost += one.status in FINAL and not (done and runs[good[0].token] == 1)
        seconds = time.monotonic() - self._begun
        result = Result(kind, faults, len(handles), duplicates, lost, stuck, seconds)
        print(result.line())  # noqa: T201 - the campaign's result
        return result

    def close(self) -> None:
        """Close the client."""
        self.client.close()


def _all_ended(handles: Sequence[ExperimentHandle]) -> bool:
    return all(one.status in FINAL for one in handles)
