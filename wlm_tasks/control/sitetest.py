"""A tiny job through every step on one site, straight on its backend: whether the site works.

Nothing of it is in the database. What is left out there is one directory, which is removed where
the site can do that from here.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wlm_tasks.compute.base import ENDED, ComputeBackend, JobSpec, JobState, JobStatus, Submitted
from wlm_tasks.config import StorageSettings
from wlm_tasks.errors import (
    ConfigError,
    JobRejectedError,
    NoDirectWayError,
    SiteAuthError,
    SiteMaintenanceError,
    SiteNoShellError,
    SiteOverloadedError,
    SiteUnreachableError,
    WlmError,
)
from wlm_tasks.hosts.address import address_of
from wlm_tasks.hosts.direct import check_login
from wlm_tasks.hosts.ssh import SshShell
from wlm_tasks.model.experiment import Experiment, Resources, Transfer
from wlm_tasks.runtime import Runtime, Site
from wlm_tasks.state.intake import new_id
from wlm_tasks.state.intents import Intent, job_token
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.storage.scp import ScpStorage
from wlm_tasks.tasks.moving import Mover
from wlm_tasks.tasks.perform import job_spec

#: Seconds between two looks at a job.
_LOOK_S: Final = 0.5
_INPUT, _OUTPUT, _RUNS = "wlm-test-in.txt", "wlm-test-out.txt", "wlm-test-runs.txt"
_TWICE: Final = "do not use this site: a crash may run a payload twice"
#: What to do about an error, by its class; the first that fits counts.
_MEND: Final[dict[type[WlmError], str]] = {
    SiteUnreachableError: "see that its host and port are right and can be reached from here",
    SiteAuthError: "see that user, key and known_hosts are right, with ssh on the same host",
    SiteNoShellError: "give the account a shell: a site is served by commands on its host",
    SiteMaintenanceError: "wait until its operators give it back",
    SiteOverloadedError: "wait, or lower max_running and submit_per_s",
    JobRejectedError: "the words are the site's own: see its directory, limits and options",
    NoDirectWayError: "see that ssh on that host gets there by its own key and known_hosts",
    ConfigError: "correct wlm.toml; the line says what was expected",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one step of the test showed."""

    name: str
    good: bool
    text: str
    took_s: float
    mend: str | None = None  #: what to do about it


class SiteTestFault(Exception):  # noqa: N818 - ends the test, not a fault of the program
    """What a step found wrong that raised no error: the text, and how to mend it."""

    def __init__(self, text: str, mend: str | None = None) -> None:
        super().__init__(text, mend)
        self.text, self.mend = text, mend


@dataclass
class SiteTest:
    """One run of the test. `wait_s` is how long a job may take to start, run and end."""

    runtime: Runtime
    name: str
    wait_s: float = 300.0
    _id: str = field(default_factory=lambda: new_id("exp"))
    _word: str = field(default_factory=lambda: secrets.token_hex(8))
    _submitted: list[JobSpec] = field(default_factory=list)
    _prepared: bool = False

    def run(self) -> Iterator[Check]:
        """Do one step after the other, up to the first that fails; then clean up."""
        try:
            for name, step in self._steps():
                check = _checked(name, step)
                yield check
                if not check.good:
                    break
        finally:
            self._end_jobs()
        if self._prepared:
            yield _checked("clean up", self._clean_up)

    def _steps(self) -> list[tuple[str, Callable[[], str]]]:
        return [
            ("open", self._open),
            ("prepare", self._prepare),
            ("look", self._look),
            ("count", self._count),
            ("stage in", self._stage_in),
            ("submit", self._submit),
            ("submit again", self._submit_again),
            ("watch", self._watch),
            ("read output", self._read),
            ("stage out", self._stage_out),
            ("cancel", self._cancel),
            *([("direct", self._direct)] if self._logins else []),
        ]

    @property
    def _site(self) -> Site:
        return self.runtime.site(self.name)

    @property
    def _backend(self) -> ComputeBackend:
        return self._site.backend

    @property
    def _workdir(self) -> str:
        return self._site.workdir(self._id)

    def _spec(self, number: int, commands: list[str]) -> JobSpec:
        experiment = Experiment(
            name="wlm-site-test",
            site=self.name,
            commands=commands,
            resources=Resources(walltime_s=600),
        )
        token = job_token(self._id, number)
        intent = Intent(token=token, workdir=self._workdir, first=True)
        return job_spec(experiment, intent, self._site.settings.prologue)

    # -- the steps: each returns what it found ---------------------------------------------------

    def _open(self) -> str:
        caveats = "".join(f"; note: {one}" for one in self._backend.caveats())
        return f"kind {self._site.settings.kind}, {self._site.settings.directory}{caveats}"

    def _prepare(self) -> str:
        self._backend.prepare(self._workdir)
        self._prepared = True
        return self._workdir

    def _look(self) -> str:
        found = self._backend.find(self._spec(1, ["true"]).ref)
        if found is not None:
            raise SiteTestFault(f"it claims to have a job that never was: {found}")
        return "the site knows no job of this test yet"

    def _count(self) -> str:
        load = self._backend.load()
        if load is None:
            return "does not tell how many jobs the account has there; ours are counted"
        return f"{load.queued} queued, {load.running} running, {load.foreign} of them not ours"

    def _stage_in(self) -> str:
        if self._backend.carries_files:
            return "by the job itself, from URLs; this test has none"
        with tempfile.TemporaryDirectory() as directory:
            here = Path(directory)
            (here / _INPUT).write_text(f"{self._word}\n")
            self._mover.bring(Transfer((here / _INPUT).as_uri(), _INPUT), TransferControl())
        return f"to {self._backend.url(f'{self._workdir}/{_INPUT}')}"

    @property
    def _mover(self) -> Mover:
        """What moves files as the staging steps do."""
        return Mover(self.runtime.settings, self._backend.files, self._workdir)

    def _submit(self) -> str:
        if self._backend.carries_files:
            return f"job {self._start(1, [f'echo {self._word}']).native_id}"
        commands = [f"cat {_INPUT}", f"cp {_INPUT} {_OUTPUT}", f"echo run >> {_RUNS}"]
        return f"job {self._start(1, commands).native_id}"

    def _start(self, number: int, commands: list[str]) -> Submitted:
        spec = self._spec(number, commands)
        self._submitted.append(spec)
        return self._backend.submit(spec)

    def _submit_again(self) -> str:
        first = self._backend.find(self._submitted[0].ref)
        again = self._backend.submit(self._submitted[0])
        if first is not None and again.native_id != first:
            raise SiteTestFault(
                f"the same job handed in twice is two: {first} and {again.native_id}",
                _TWICE,
            )
        return "the same job handed in twice is one"

    def _watch(self) -> str:
        status = self._until(self._submitted[0], ENDED)
        if status.state is not JobState.SUCCEEDED:
            raise SiteTestFault(
                f"ended {status.state} with exit code {status.exit_code}: {status.reason}",
                f"see {self._submitted[0].ref.attempt_dir} on the site",
            )
        return "ended well, by its own record"

    def _read(self) -> str:
        said = self._backend.tail(self._submitted[0].ref, "stdout", 5)
        if not said and self._backend.carries_files:
            return "nothing of it can be read: jobs of this site leave their output nowhere we see"
        if self._word not in said:
            raise SiteTestFault(f"its output was not found there: got {said[:100]!r}")
        return "what the job wrote can be read"

    def _stage_out(self) -> str:
        if self._backend.carries_files:
            return "by the job itself, to URLs that take uploads; this test has none"
        with tempfile.TemporaryDirectory() as directory:
            here = Path(directory)
            for name in (_OUTPUT, _RUNS):
                self._mover.take(Transfer(name, (here / name).as_uri()), TransferControl())
            text, runs = (here / _OUTPUT).read_text(), (here / _RUNS).read_text().splitlines()
        if text != f"{self._word}\n":
            raise SiteTestFault(f"{_OUTPUT} is not what the job was given")
        if len(runs) != 1:
            raise SiteTestFault(f"the payload ran {len(runs)} times", _TWICE)
        return f"{len(text)} bytes came back; the payload ran once"

    def _cancel(self) -> str:
        self._start(2, ["sleep 500"])
        spec, end = self._submitted[-1], time.monotonic() + self.wait_s
        while not self._backend.cancel(spec.ref):
            if time.monotonic() > end:
                raise SiteTestFault(f"not confirmed within {self.wait_s:g} s")
            time.sleep(_LOOK_S)
        return "a second job was ended, and the site confirms it"

    @property
    def _logins(self) -> list[tuple[StorageSettings, bool, bool]]:
        """Storages with a direct way: whether the site logs in there, and the storage here."""
        site = self._site.settings
        found = [
            (storage, storage.name in site.direct_to, site.name in storage.direct_to)
            for storage in self.runtime.settings.storages.values()
        ]
        return [one for one in found if any(one[1:])]

    def _direct(self) -> str:
        told = []
        site = SshShell(address_of(self.name, self._site.settings.options))
        for storage, there, here in self._logins:
            other = ScpStorage(name=storage.name, options=storage.options).shell(
                f"{storage.url.rstrip('/')}/x"
            )
            for by, to in [(site, other)] * there + [(other, site)] * here:
                check_login(by, to.address)
                told.append(f"{by.address} logs in to {to.address}")
        return "; ".join(told)

    def _clean_up(self) -> str:
        if self._backend.discard(self._workdir):
            return f"{self._workdir} is removed"
        return f"{self._workdir} stays: this kind of site cannot remove it from here"

    def _until(self, spec: JobSpec, wanted: frozenset[JobState]) -> JobStatus:
        end = time.monotonic() + self.wait_s
        while True:
            status = self._backend.status([spec.ref])[spec.ref.token]
            if status.state in wanted:
                return status
            if time.monotonic() > end:
                said = f" ({status.reason})" if status.reason else ""
                raise SiteTestFault(
                    f"is {status.state}{said} after {self.wait_s:g} s",
                    "a busy site takes longer: try again with a larger --wait",
                )
            time.sleep(_LOOK_S)

    def _end_jobs(self) -> None:
        """Whatever happened, nothing of the test goes on there."""
        for spec in self._submitted:
            with suppress(WlmError):
                self._backend.cancel(spec.ref)


def _checked(name: str, step: Callable[[], str]) -> Check:
    begun = time.monotonic()
    mend: str | None = None
    try:
        text, good = step(), True
    except SiteTestFault as fault:
        text, good, mend = fault.text, False, fault.mend
    except WlmError as error:
        text, good = error.message, False
        mend = next((hint for kind, hint in _MEND.items() if isinstance(error, kind)), None)
    except OSError as error:
        text, good = f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), False
    return Check(name=name, good=good, text=text, took_s=time.monotonic() - begun, mend=mend)
