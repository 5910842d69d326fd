"""An installation over a network: each process on a host of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from services.network import PrivateNetwork
from services.postgresql import PrivatePostgreSQL
from services.processes import Process, children, script, wait_for
from services.rabbitmq import PrivateRabbitMQ
from services.serf import new_key
from services.smtpserver import Mail, PrivateSmtp
from wlm_tasks.api import Client
from wlm_tasks.config import load
from wlm_tasks.control.queues import declare
from wlm_tasks.errors import ServiceError
from wlm_tasks.handles import ExperimentHandle
from wlm_tasks.model.experiment import Experiment, Transfer
from wlm_tasks.model.workers import WorkerState
from wlm_tasks.state.disappearances import WORKER_EVENT

WORKERS: Final = ("w1", "w2", "w3", "w4", "w5", "w6")
_PORT: Final = 7946
#: A quick pace: with the usual one a fault takes more than a minute.
QUICK: Final = """
[watch]
beat_s = 1
grace_s = 4
probation_s = 4
[steps]
lease_s = 30
heartbeat_s = 2
[control]
tick_s = 0.5
lease_s = 4
"""
USUAL: Final = "[watch]\nprobation_s = 20\n"


@dataclass(frozen=True)
class Told:
    """What a person read."""

    subject: str
    id: str
    at: float


class FleetWorld:
    """Six workers, two control processes, PostgreSQL, RabbitMQ and a mail server."""

    def __init__(self, directory: Path, *, pace: str) -> None:
        self.directory = directory
        self.pace = pace
        self.network = PrivateNetwork()
        self.processes: dict[str, Process] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.network)
            for name in (*WORKERS, "spare", "c1", "c2", "mq", "mail"):
                self.network.add(name)
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.processes.values():
            process.kill_group()
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        network, directory = self.network, self.directory
        self.database = stack.enter_context(
            PrivatePostgreSQL(directory / "postgresql", also=network.own_address)
        )
        self.broker = stack.enter_context(
            PrivateRabbitMQ(
                directory / "rabbitmq",
                host=network.address("mq"),
                inside=network.inside("mq"),
                plugins=["rabbitmq_event_exchange"],
            )
        )
        self.mail = stack.enter_context(
            PrivateSmtp(
                directory / "mail", host=network.address("mail"), inside=network.inside("mail")
            )
        )
        own = network.own_address.partition("/")[0]
        self._database_url = self.database.new_database().replace("127.0.0.1", own)
        (directory / "key").write_text(new_key())
        (directory / "key").chmod(0o600)
        self.client = Client(load(self._config("own"), self._environ("own")))
        stack.callback(self.client.close)
        self.client.store.database.upgrade()
        declare(self.client.app)
        for name in ("c1", "c2"):
            self.start_control(name)
        for name in WORKERS:
            self.start_worker(name)
        self.wait_until_all_up()

    def _config(self, host: str) -> Path:
        """The settings of a host: all have the same, but a data directory of their own."""
        file = self.directory / f"{host}.toml"
        seeds = [f"{self.network.address(name)}:{_PORT}" for name in ("c1", "c2")]
        # these addresses are no private ones, of which agents would take the first
        advertise = "" if host == "own" else f'advertise = "{self.network.address(host)}"'
        file.write_text(f"""
broker_url = "env:NET_MQ"
database_url = "env:NET_DB"
data_dir = "{self.directory / host}"
[alerts]
admin = ["ops@example.org"]
smtp_url = "{self.mail.url}"
digest_s = 3
timeout_s = 10
retry_s = 2
retry_max_s = 5
notifiers = ["smtp"]
[serf]
enabled = {"false" if host == "own" else "true"}
join = {seeds}
{advertise}
encrypt_key = "file:{self.directory / "key"}"
[staging]
bytes_per_s = 100_000
[sites.local]
kind = "local"
scratch = "{self.directory / "scratch"}"
{self.pace}""")
        return file

    def _environ(self, host: str) -> dict[str, str]:
        return {
            **os.environ,
            "WLM_CONFIG": str(self.directory / f"{host}.toml"),
            "NET_MQ": self.broker.url,
            "NET_DB": self._database_url,
            "WLM_WATCH_BROKER_EVENTS_URL": self.broker.url,
        }

    # -- processes -------------------------------------------------------------------------

    def start_control(self, host: str) -> None:
        self._spawn(host, host, [script("wlm"), "control"])

    def start_worker(self, name: str, host: str | None = None) -> None:
        """Start a worker on the host of its name, or on another."""
        argv = [script("celery"), "-A", "wlm_tasks", "worker", "-n", f"{name}@net"]
        argv += ["-Q", "envsetup,staging,jobsub,monitor", "-c", "2", "-l", "INFO"]
        self._spawn(name, host or name, [*argv, "--without-gossip", "--without-mingle"])

    def _spawn(self, name: str, host: str, argv: Sequence[str | Path]) -> None:
        self._config(host)
        self.processes[name] = Process(
            [*self.network.inside(host), *argv],
            log=self.directory / f"{name}.log",
            env=self._environ(host),
            cwd=self.directory,
        )

    def kill(self, name: str) -> float:
        """KILL a process with all that it has started; returns when."""
        at = time.time()
        self.processes[name].kill_group()
        return at

    def kill_agent(self, name: str) -> None:
        """KILL the agent of Serf that belongs to a process, and nothing else."""
        agents = [pid for pid in children(self.processes[name].pid) if _is_agent(pid)]
        assert agents, self.processes[name].tail()
        for pid in agents:
            os.kill(pid, signal.SIGKILL)

    def freeze(self, name: str) -> None:
        os.killpg(self.processes[name].pid, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        os.killpg(self.processes[name].pid, signal.SIGCONT)

    def watching(self) -> str:
        """The control process that decides now."""
        holder = self.client.store.coordination.holders().get("watch", "")
        pid = int(holder.split(":")[1]) if holder else 0
        return next((n for n in ("c1", "c2") if self.processes[n].pid == pid), "c1")

    # -- looking ---------------------------------------------------------------------------

    def states(self) -> dict[str, WorkerState]:
        """The states of the workers, by their names without the host."""
        try:
            views = self.client.store.roster.views()
        except ServiceError:  # the database is being restarted
            return {}
        return {view.name.partition("@")[0]: view.state for view in views}

    def up(self) -> set[str]:
        return {name for name, state in self.states().items() if state is WorkerState.UP}

    def wait_until(self, name: str, *states: WorkerState, timeout: float = 90.0) -> None:
        wait_for(lambda: self.states().get(name) in states, timeout, f"{name} is {states}")

    def wait_until_all_up(self, timeout: float = 150.0) -> None:
        """Wait until nobody misses anybody."""
        try:
            wait_for(lambda: len(self.up()) == len(WORKERS), timeout, "all workers are up")
        except TimeoutError as error:
            views = self.client.store.roster.views()
            said = [(view.name, str(view.state), view.witnesses) for view in views]
            tails = [f"{name}: {process.tail(6)}" for name, process in self.processes.items()]
            raise TimeoutError("\n".join([f"{error}: {said}", *tails])) from None

    def wait_until_settled(self, timeout: float = 120.0) -> None:
        """Wait until every incident is over."""
        incidents = self.client.store.incidents
        wait_for(lambda: not incidents.now_open(), timeout, "every incident is over")

    def mails(self) -> list[Mail]:
        return self.mail.received()

    # -- work ------------------------------------------------------------------------------

    def busy(self, worker: str, size: int = 600_000) -> ExperimentHandle:
        """Hand in experiments until one's long transfer is in the hands of this worker."""
        source = self.directory / "input"
        if not source.exists():
            source.write_bytes(os.urandom(size))
        asked = Experiment(
            name="busy",
            site="local",
            commands=["true"],
            inputs=[Transfer(f"file://{source}", "input")],
        )
        handles = [self.client.schedule(asked) for _ in range(10)]

        def on_it() -> ExperimentHandle | None:
            for view in self.client.store.views.running():
                if view.worker == f"{worker}@net" and view.step == "stage_in":
                    return next((h for h in handles if h.id == view.experiment_id), None)
            return None

        found: ExperimentHandle | None = wait_for(on_it, 60, f"{worker} moves a file")
        assert found is not None
        return found

    def taken_over_s(self, handle: ExperimentHandle, since: float) -> float:
        """Seconds until a step that was on a killed worker ran elsewhere."""

        def again() -> float | None:
            events = self.client.store.views.events(handle.id)
            starts = [e.at for e in events if e.state == "RUNNING" and e.at > since]
            return starts[0] if starts else None

        at = wait_for(again, 60, "the step runs again")
        assert at is not None
        return at - since

    def knows(self, handle: ExperimentHandle) -> bool:
        """Whether the experiment's log says that a worker of it disappeared."""
        events = self.client.store.views.events(handle.id)
        return any(event.state == WORKER_EVENT for event in events)


def _is_agent(pid: int) -> bool:
    try:
        return b"agent" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
