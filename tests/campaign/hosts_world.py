"""An installation spread over hosts: each worker, each control and each service on its own."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.network import Host, PrivateNetwork
from services.postgresql import PrivatePostgreSQL
from services.processes import Process, children, script, wait_for
from services.rabbitmq import PrivateRabbitMQ
from services.serf import new_key
from services.service import Service
from services.smtpserver import Mail, PrivateSmtp
from wlm_tasks.api import Client
from wlm_tasks.config import load
from wlm_tasks.control.queues import declare
from wlm_tasks.errors import ServiceError
from wlm_tasks.handles import ExperimentHandle
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.notices import NoticeKind
from wlm_tasks.model.workers import WorkerState
from wlm_tasks.notify.kinds import WORDS
from wlm_tasks.state.roster import WorkerView

WORKERS: Final = 6
#: A site of its own for work that takes as long as it takes to stage this much.
_SLOW_BYTES: Final = 36_000
_SETTINGS: Final = """
broker_url = "env:CAMPAIGN_MQ"
database_url = "env:CAMPAIGN_DB"
[alerts]
admin = ["ops@example.org"]
smtp_url = "env:CAMPAIGN_SMTP"
notifiers = ["smtp"]
timeout_s = 10
{alerts}
[watch]
{watch}
[steps]
heartbeat_s = 2
lease_s = 30
[control]
tick_s = 0.5
{control}
[staging]
bytes_per_s = 2000
[serf]
enabled = true
join = [{seeds}]
encrypt_key = "file:{key}"
[sites.local]
kind = "local"
scratch = "{scratch}"
max_running = 8
"""


@dataclass
class World(Service):
    """The installation; `tight` makes its settings so that a short run sees much."""

    directory: Path
    tight: bool
    network: PrivateNetwork = field(default_factory=PrivateNetwork)

    def __post_init__(self) -> None:
        self.processes: dict[str, Process] = {}
        self.hosts: dict[str, Host] = {}
        self.services: list[Service] = [self.network]
        self.ledger = self.directory / "ledger"
        self.handed_in: list[ExperimentHandle] = []

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all of it; returns once every worker is on the roster."""
        self.network.start()
        names = ["mq", "db", "mail", "control0", "control1", "spare"]
        for name in [*names, *(f"h{number}" for number in range(WORKERS))]:
            self.hosts[name] = self.network.host(name)
        self._start_services()
        self._write_settings()
        self.client = Client(load(self.config, self.environ))
        self.client.store.database.upgrade()
        declare(self.client.app)
        for number in range(2):
            self.start_control(number)
        for number in range(WORKERS):
            self.start_worker(number)
        self.wait_for_up(range(WORKERS))

    def _start_services(self) -> None:
        mq, db, mail = (self.hosts[name] for name in ("mq", "db", "mail"))
        self.broker = PrivateRabbitMQ(
            self.directory / "mq", host=mq.address, inside=mq.inside(), config=_FOR_OTHERS
        )
        self.database = PrivatePostgreSQL(
            self.directory / "db", host=db.address, inside=db.inside("postgres")
        )
        self.smtp = PrivateSmtp(
            self.directory / "smtp", host=mail.address, inside=mail.inside(), port=2525
        )
        for service in (self.broker, self.database, self.smtp):
            self.services.append(service)
            service.start()

    def _write_settings(self) -> None:
        self.ledger.touch()
        key = self.directory / "key"
        key.write_text(new_key())
        key.chmod(0o600)
        seeds = ", ".join(f'"{self.hosts[name].address}:7946"' for name in ("control0", "control1"))
        alerts = "digest_s = 5\nretry_s = 2\nretry_max_s = 5" if self.tight else "digest_s = 60"
        watch = "beat_s = 1\ngrace_s = 4\nprobation_s = 5" if self.tight else ""
        self.config = self.directory / "wlm.toml"
        self.config.write_text(
            _SETTINGS.format(
                alerts=alerts,
                watch=watch,
                control="lease_s = 5" if self.tight else "",
                seeds=seeds,
                key=key,
                scratch=self.directory / "scratch",
            )
        )
        self.environ = {
            **os.environ,
            "WLM_CONFIG": str(self.config),
            "WLM_DATA_DIR": str(self.directory / "data"),
            "CAMPAIGN_MQ": self.broker.new_vhost(),
            "CAMPAIGN_DB": self.database.new_database(),
            "CAMPAIGN_SMTP": self.smtp.url,
        }

    def close(self) -> None:
        """End all of it at once."""
        for process in self.processes.values():
            process.kill_group()
        with suppress(AttributeError):
            self.client.close()
        for service in reversed(self.services):
            service.close()

    def logs(self, lines: int = 25) -> str:
        """The last lines of every process, for a failing test."""
        return "\n".join(f"===== {n}\n{p.tail(lines)}" for n, p in self.processes.items())

    # -- processes -------------------------------------------------------------------------

    def start_worker(self, number: int, *, on: str = "", options: Sequence[str] = ()) -> Process:
        """Start worker `number`, on its own host unless another one is named."""
        argv = [script("celery"), "-A", "wlm_tasks", "worker", "-n", name_of(number)]
        argv += ["-Q", "envsetup,staging,jobsub,monitor,scheduler", "-c", "2", "-l", "INFO"]
        argv += ["--without-gossip", "--without-mingle", *options]
        return self._spawn(f"w{number}", argv, on or f"h{number}")

    def start_control(self, number: int) -> Process:
        """Start control `number` on its host."""
        return self._spawn(f"control{number}", [script("wlm"), "control"], f"control{number}")

    def _spawn(self, name: str, argv: Sequence[str], host: str) -> Process:
        if name in self.processes:
            self.processes[name].kill_group()  # what is left of it, and reaped
        environ = {**self.environ, "WLM_DATA_DIR": str(self.directory / f"data-{host}")}
        process = Process(
            [*self.hosts[host].inside(), *argv],
            log=self.directory / f"{name}.log",
            env=environ,
            cwd=self.directory,
        )
        self.processes[name] = process
        return process

    def agent_of(self, name: str) -> int:
        """The pid of the Serf agent of a worker or control."""

        def found() -> int:
            for pid in children(self.processes[name].pid):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"serf"):
                    return pid
            return 0

        return wait_for(found, 20, f"an agent of {name}")

    def freeze(self, name: str) -> None:
        """Stop a process, its children and its agent as they stand."""
        self._send(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let them go on."""
        self._send(name, signal.SIGCONT)

    def _send(self, name: str, number: signal.Signals) -> None:
        process = self.processes[name]
        agent = self.agent_of(name)
        os.killpg(process.pid, number)
        os.kill(agent, number)

    @property
    def patience_s(self) -> float:
        """After how long without a sign a worker is missed."""
        return self.client.settings.watch.patience_s

    # -- the roster ------------------------------------------------------------------------

    def standing(self, number: int) -> WorkerView | None:
        """The newest incarnation of a worker."""
        views = [v for v in self.client.store.roster.views(left_s=600) if v.name == name_of(number)]
        return max(views, key=lambda view: view.registered_at, default=None)

    def wait_for_state(self, number: int, state: WorkerState, timeout: float = 90.0) -> WorkerView:
        """Wait until a worker stands so."""

        def found() -> WorkerView | None:
            view = self.standing(number)
            return view if view is not None and view.state is state else None

        view = wait_for(found, timeout, f"{name_of(number)} {state}", interval=0.2)
        assert view is not None
        return view

    def wait_for_up(self, numbers: Iterable[int], timeout: float = 120.0) -> None:
        """Wait until the processes that run now are on the roster, and UP."""
        for number in numbers:
            pid = self.processes[f"w{number}"].pid

            def found(number: int = number, pid: int = pid) -> bool:
                view = self.standing(number)
                return view is not None and view.pid == pid and view.state is WorkerState.UP

            wait_for(found, timeout, f"{name_of(number)} UP", interval=0.2)

    # -- work ------------------------------------------------------------------------------

    def hand_in(self, *, slow: bool = False) -> ExperimentHandle:
        """Hand in an experiment that writes its number down; a slow one stages for long."""
        number = len(self.handed_in)
        inputs = []
        if slow:
            file = self.directory / "input"
            if not file.exists():
                file.write_bytes(bytes(_SLOW_BYTES))
            inputs = [{"src": str(file), "dest": "input"}]
        experiment = Experiment.model_validate(
            {
                "name": f"payload-{number}",
                "site": "local",
                "commands": [f"echo {number} >> {self.ledger}"],
                "inputs": inputs,
            }
        )

        def taken() -> ExperimentHandle | None:
            with suppress(ServiceError):  # the database may just have been restarted
                return self.client.schedule(experiment, key=experiment.name)
            return None

        handle = wait_for(taken, 30, "the database")
        assert handle is not None
        self.handed_in.append(handle)
        return handle

    def holder_of(self, one: ExperimentHandle) -> tuple[str, float] | None:
        """Who claimed the staging of an experiment last, and when."""
        with self.client.store.database.read() as connection:
            row = connection.exec_driver_sql(
                "SELECT worker, at FROM events WHERE experiment_id = %s AND state = 'RUNNING'"
                " AND seq = 1 ORDER BY id DESC LIMIT 1",
                (one.id,),
            ).one_or_none()
        return None if row is None else (row.worker, row.at)

    def payloads(self) -> Counter[str]:
        """How often each payload ran."""
        return Counter(self.ledger.read_text().split())


_FOR_OTHERS: Final = {"loopback_users": "none"}


def name_of(number: int) -> str:
    """The node name of a worker."""
    return f"w{number}@farm"


# -- mails -------------------------------------------------------------------------------------

Told = tuple[NoticeKind, str]
_ROW: Final = re.compile(r"\s+(?:\S+ )?\d\d:\d\d:\d\d\s*(\S*)")


def told_by(mail: Mail) -> list[Told]:
    """What a mail tells, by its words alone: kinds and whom they are about."""
    line = mail.subject.removeprefix("[wlm] ").replace("\n", "")
    for kind, words in WORDS.items():
        if kind is NoticeKind.FLEET_DOWN and "monitor is cut off" in line:
            return [(kind, "")]
        if kind is NoticeKind.FLEET_BACK and line.startswith("the workers are back"):
            return [(kind, "")]
        noun = words.one.partition(" ")[0]
        verb = words.one.partition(" ")[2]
        found = re.fullmatch(rf"(?:the )?{noun} ?(\S*) {re.escape(verb)}( \(.*\))?", line)
        if found and not line[0].isdigit():
            return [(kind, found[1])]
    return list(_in_digest(mail.text))


def _in_digest(text: str) -> Iterator[Told]:
    kind = None
    for line in text.splitlines():
        if line.endswith(":"):
            counted = line[:-1].partition(" ")[2]
            kind = next((k for k, w in WORDS.items() if counted in (w.one, w.many)), kind)
        elif kind is not None and (row := _ROW.match(line)):
            yield kind, row[1] if kind.startswith("WORKER") else ""
