"""Many jobs on a Slurm whose submissions are broken, and what has become of them in the end."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Final

from campaign.slurm_faults import Fault, MakeShell
from unit.compute.sites import forked
from unit.compute.slurm_site import SlurmSite

from services.processes import wait_for
from wlm_tasks.compute.base import ENDED, ComputeBackend, JobSpec, JobState, JobStatus
from wlm_tasks.errors import BackendUnavailableError
from wlm_tasks.model.arrays import InArray, array_name

#: so many submissions at a time
AT_ONCE: Final = 6
#: members of an array
ARRAY_SIZE: Final = 5
#: seconds between two rounds of submissions that are not decided yet
_PAUSE_S: Final = 0.5
#: exit code of a victim that nothing has befallen
_UNHARMED: Final = 3


@dataclass
class Struck:
    """The jobs that one kind of fault has befallen."""

    kind: str
    faults: int = 0
    jobs: list[JobSpec] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """What became of them."""

    kind: str
    faults: int
    jobs: int
    duplicates: int  #: payloads that ran again, and jobs that Slurm has beside the first
    lost: int  #: jobs that did not end well, or that ended so and did not run
    stuck: int

    def line(self) -> str:
        """A row of the table in the pages."""
        cells = (self.kind, self.faults, self.jobs, self.duplicates, self.lost, self.stuck)
        return f"| {' | '.join(map(str, cells))} |"


class SlurmWorld:
    """Submits as workers do and keeps the books. `backend` submits anew, and asks."""

    def __init__(self, site: SlurmSite, seed: int, backend: ComputeBackend | None = None) -> None:
        self.site = site
        self.chance = random.Random(seed)
        self.backend = backend or site.backend
        self.failed: dict[str, str] = {}  #: by token, why a submission was given up
        for _ in range(2):  # the second one: the first has to load and to connect
            begun = time.monotonic()
            self.backend.submit(self.site.spec("true"))
            self.whole_s = time.monotonic() - begun  #: how long a submission takes

    @contextmanager
    def holding(self, hold: bool = True) -> Iterator[None]:
        """Let no job start during the block: who looks finds it waiting, and no claim."""
        if hold:
            self._set_partition("DOWN")
        try:
            yield
        finally:
            self._set_partition("UP")

    def _set_partition(self, state: str) -> None:
        self.site.slurm.command("scontrol", "update", "PartitionName=debug", f"State={state}")

    def strike(self, fault: Fault, struck: Struck, count: int) -> list[JobSpec]:
        """Have so many submissions meet a fault, each in a process of its own; return them."""
        hit, everything = 0, list[JobSpec]()
        while hit < count:
            specs = [self.site.spec("true") for _ in range(min(AT_ONCE, count - hit))]
            for make in fault.shells:
                met = self._victims(make, specs)
                assert met == len(specs) or not fault.certain, fault.name
                struck.faults += met
            hit += met
            everything += specs
            assert len(everything) <= 50 * count, f"{fault.name}: strikes nobody"
        struck.jobs += everything
        return everything

    def strike_arrays(self, fault: Fault, struck: Struck, count: int) -> list[JobSpec]:
        """The same with arrays, each submitted by a process of its own; `count` are to be met."""
        met, everything = 0, list[JobSpec]()
        while met < count:
            [make] = fault.shells
            arrays = [self._array() for _ in range(2)]
            met_now = self._met([self._victim_of_many(make, array) for array in arrays])
            assert met_now == len(arrays) or not fault.certain, fault.name
            met += met_now
            everything += [spec for array in arrays for spec in array]
            assert len(everything) <= 50 * ARRAY_SIZE * count, f"{fault.name}: strikes nobody"
        struck.faults += met
        struck.jobs += everything
        return everything

    def _array(self) -> list[JobSpec]:
        name = array_name()
        specs = [self.site.spec("true") for _ in range(ARRAY_SIZE)]
        return [
            replace(spec, ref=replace(spec.ref, array=InArray(name, index)))
            for index, spec in enumerate(specs)
        ]

    def _victim_of_many(self, make: MakeShell, specs: Sequence[JobSpec]) -> Callable[[], None]:
        shell = make(self.chance, self.whole_s)

        def work() -> None:
            with suppress(BackendUnavailableError):
                self.site.another(shell=shell).submit_many(specs)
                os._exit(_UNHARMED)

        return work

    def _victims(self, make: MakeShell, specs: Sequence[JobSpec]) -> int:
        """Submit all at once; return how many did not get through."""
        return self._met([self._victim(make, spec) for spec in specs])

    def _met(self, victims: Sequence[Callable[[], None]]) -> int:
        with ExitStack() as stack:
            pids = [stack.enter_context(forked(victim)) for victim in victims]
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        assert set(codes) <= {0, _UNHARMED, -signal.SIGKILL}, codes
        return len(victims) - codes.count(_UNHARMED)

    def _victim(self, make: MakeShell, spec: JobSpec) -> Callable[[], None]:
        shell = make(self.chance, self.whole_s)

        def work() -> None:
            try:
                self.site.another(shell=shell).submit(spec)
            except BackendUnavailableError:
                return
            os._exit(_UNHARMED)

        return work

    def settle(self, specs: Sequence[JobSpec], timeout_s: float = 120.0) -> int:
        """Submit all again and again until each is decided; return how often one was not."""
        refused = 0
        deadline = time.monotonic() + timeout_s
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while specs and time.monotonic() < deadline:
                decided = list(pool.map(self._decided, specs))
                specs = [spec for spec, done in zip(specs, decided, strict=True) if not done]
                refused += len(specs)
                if specs:
                    time.sleep(_PAUSE_S)
        return refused

    def _decided(self, spec: JobSpec) -> bool:
        try:
            self.backend.submit(spec)
        except BackendUnavailableError as error:
            self.failed[spec.ref.token] = str(error)
            return False
        self.failed.pop(spec.ref.token, None)
        return True

    def finish(self, struck: Sequence[Struck], timeout_s: float = 300.0) -> list[Result]:
        """Wait until all have ended, count, and print the table."""
        refs = [spec.ref for one in struck for spec in one.jobs]
        states: dict[str, JobStatus] = {}

        def ended() -> bool:
            try:
                states.update(self.backend.status(refs))
            except BackendUnavailableError:
                return False
            return all(states[ref.token].state in ENDED for ref in refs)

        with suppress(TimeoutError):  # they are counted as stuck
            wait_for(ended, timeout_s, "the end of all jobs", 0.3)
        results = self._count(struck, states)
        for result in results:
            print(result.line())  # noqa: T201 - the campaign's result
        return results

    def _count(self, struck: Sequence[Struck], states: dict[str, JobStatus]) -> list[Result]:
        runs = Counter(self.site.ledger.read_text().split())
        listed = self.site.slurm.command("squeue", "-h", "-r", "-t", "all", "-o", "%j:%K")
        jobs = Counter(listed.replace(":N/A", "").split())
        results = []
        for one in struck:
            tokens = [spec.ref.token for spec in one.jobs]
            stuck = [token for token in tokens if not _is(states.get(token), ENDED)]
            good = [t for t in tokens if _is(states.get(t), {JobState.SUCCEEDED}) and runs[t]]
            for token in set(tokens).difference(good):
                told = f"{states.get(token)}, {self.failed.get(token, 'submitted')}"
                print(f"{token}: {told}, ran {runs[token]} times")  # noqa: T201 - to find out why
            counts = [max(runs[spec.ref.token], _jobs_of(spec, jobs)) for spec in one.jobs]
            twice = sum(max(0, count - 1) for count in counts)
            lost = len(tokens) - len(good) - len(stuck)
            results.append(Result(one.kind, one.faults, len(tokens), twice, lost, len(stuck)))
        return results


def _jobs_of(spec: JobSpec, jobs: Counter[str]) -> int:
    """Return how many jobs Slurm has of a submission, by its name and in its array."""
    array = spec.ref.array
    return jobs[spec.ref.token] + (jobs[f"{array.name}:{array.index}"] if array else 0)


def _is(status: JobStatus | None, states: Collection[JobState]) -> bool:
    return status is not None and status.state in states
