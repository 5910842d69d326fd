"""A Slurm of one's own: munged, slurmctld and some slurmd on loopback, without cgroups."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from services.accounting import PrivateAccounting
from services.ports import free_port, release_port
from services.processes import Process, output_of, wait_for
from services.service import Service

_SBIN: Final = Path("/usr/sbin")
_PROGRAMS: Final = tuple(_SBIN / name for name in ("munged", "slurmctld", "slurmd"))
_CLUSTER: Final = "wlmtest"
#: where accounting is on
ACCOUNT: Final = "science"
#: longest path of a unix socket
_SOCKET_LIMIT: Final = 107


class PrivateSlurm(Service):
    """One Slurm, of whoever runs the tests; `start` before use, `close` at the end.

    `settings` go into slurm.conf beside the usual ones or in place of them. Clients find it by
    `environ`. What was measured of its ways: the controller saves its state up to 5 s late.
    With `accounting` it has a slurmdbd, which knows the user in the account `ACCOUNT` only.
    """

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 2,
        settings: Mapping[str, object] | None = None,
        accounting: bool = False,
    ) -> None:
        self.directory = directory
        self.conf = directory / "slurm.conf"
        self._nodes = [f"wn{number + 1}" for number in range(nodes)]
        self._settings = dict(settings or {})
        self._ports = [free_port() for _ in range(nodes + 1)]
        self._accounting = (
            PrivateAccounting(directory / "accounting", self._munge_socket) if accounting else None
        )
        self._munged: Process | None = None
        self._controller: Process | None = None
        self._slurmds: dict[str, Process] = {}

    @staticmethod
    def available() -> bool:
        """True if Slurm and munge are installed."""
        return all(program.exists() for program in _PROGRAMS)

    @property
    def environ(self) -> dict[str, str]:
        """What makes Slurm's commands speak to this one."""
        return {"SLURM_CONF": str(self.conf)}

    @property
    def controller(self) -> Process:
        """The running slurmctld."""
        if self._controller is None:
            raise RuntimeError("this Slurm was not started")
        return self._controller

    @property
    def accounting(self) -> PrivateAccounting:
        """Its slurmdbd."""
        if self._accounting is None:
            raise RuntimeError("this Slurm has no accounting")
        return self._accounting

    def start(self, timeout: float = 60.0) -> None:
        """Start it and wait until all nodes take jobs."""
        for name in ("state", "spool", "log", "munge"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o755)
        self._start_munged()
        if self._accounting is not None:
            self._accounting.start()
            self._settings = self._accounting.settings | self._settings
        self.conf.write_text(self._configuration())
        if self._accounting is not None:
            self._enrol()
        self.start_controller()
        for name in self._nodes:
            self.start_node(name)
        self.controller.wait_for(self._ready, timeout, "Slurm's nodes are up")

    def close(self) -> None:
        """End it for good with all its jobs and remove its data."""
        if self._controller is not None and self._controller.running:
            self._controller.send(signal.SIGCONT)
        for process in (*self._slurmds.values(), self._controller, self._munged):
            if process is not None:
                process.send(signal.SIGCONT)
                process.stop(0.0)
        if self._accounting is not None:
            self._accounting.close()
        for port in self._ports:
            release_port(port)
        shutil.rmtree(self.directory, ignore_errors=True)

    def start_controller(self) -> None:
        """Start slurmctld; it goes on from what was saved."""
        self._controller = Process(
            [_SBIN / "slurmctld", "-D", "-f", self.conf],
            log=self.directory / "log" / "slurmctld.out",
            cwd=self.directory,
        )

    def kill_controller(self) -> None:
        """KILL slurmctld: what it had not saved is lost."""
        self.controller.kill9()

    def pause_controller(self) -> None:
        """Stop slurmctld as it stands; it accepts connections and answers none."""
        self.controller.send(signal.SIGSTOP)

    def resume_controller(self) -> None:
        """Let a paused slurmctld go on."""
        self.controller.send(signal.SIGCONT)

    def restart_controller(self) -> None:
        """Start slurmctld anew and wait until it answers."""
        if self.controller.running:
            self.controller.stop()
        self.start_controller()
        self.controller.wait_for(self.answers, 30.0, "slurmctld answers")

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        self._slurmds[name] = Process(
            [_SBIN / "slurmd", "-D", "-f", self.conf, "-N", name],
            log=self.directory / "log" / f"{name}.out",
            cwd=self.directory,
        )

    def resume_nodes(self) -> None:
        """Do an operator's part: Slurm drains nodes on which it finds a job twice by its id."""
        drained = self.command("sinfo", "-h", "-N", "-t", "drain", "-o", "%n").split()
        for name in set(drained):
            self.command("scontrol", "update", f"NodeName={name}", "State=RESUME")

    def recount_jobs(self) -> None:
        """Do another part of an operator's: have the nodes tell at once which jobs they have.

        A controller that was killed gives ids once more that it had not saved. slurmd launches no
        second job of an id, and Slurm takes such a job for running until the node tells again,
        which by itself may take minutes.
        """
        self.command("scontrol", "reconfigure")

    def kill_node(self, name: str) -> None:
        """KILL the slurmd of a node; jobs on it go on, as when a network is cut."""
        self._slurmds[name].kill9()

    def command(self, *words: str) -> str:
        """Run one of Slurm's commands and return what it wrote; raises if it fails."""
        return output_of(*words, env=self.environ)

    def answers(self) -> bool:
        """True if the controller does."""
        try:
            self.command("squeue", "-h")
        except RuntimeError:
            return False
        return True

    def jobs(self, name: str, states: str = "all") -> list[str]:
        """The ids of jobs of this name, ended ones too as long as Slurm knows them.

        What it refused Slurm may list as well, as FAILED.
        """
        return self.command("squeue", "-h", "-t", states, f"--name={name}", "-o", "%A").split()

    def drop_jobs(self) -> None:
        """Cancel whatever is in the queue and wait until nothing is."""
        self.command("scancel", f"--user={getpass.getuser()}")
        wait_for(lambda: not self.command("squeue", "-h").strip(), 30.0, "jobs to leave the queue")

    def _enrol(self) -> None:
        for words in (
            ["cluster", _CLUSTER],
            ["account", ACCOUNT, f"cluster={_CLUSTER}"],
            ["user", getpass.getuser(), f"account={ACCOUNT}"],
        ):
            self.command("sacctmgr", "--immediate", "add", *words)

    def _ready(self) -> bool:
        try:
            states = self.command("sinfo", "-h", "-N", "-p", "debug", "-o", "%T").split()
        except RuntimeError:
            return False
        return states == ["idle"] * len(self._nodes)

    def _start_munged(self) -> None:
        socket_path = self._munge_socket
        if len(str(socket_path)) > _SOCKET_LIMIT:
            raise RuntimeError(f"{socket_path}: longer than a socket's path may be")
        key = self.directory / "munge" / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        (self.directory / "munge").chmod(0o755)
        munge = self.directory / "munge"
        files = {"key": key, "pid": munge / "pid", "log": munge / "log", "seed": munge / "seed"}
        self._munged = Process(
            [
                _SBIN / "munged",
                "--foreground",
                "--force",
                f"--socket={socket_path}",
                *(f"--{name}-file={path}" for name, path in files.items()),
            ],
            log=self.directory / "log" / "munged.out",
            cwd=self.directory,
        )
        self._munged.wait_for(socket_path.exists, 10.0, "munged listens")

    @property
    def _munge_socket(self) -> Path:
        return self.directory / "munge" / "socket"

    def _configuration(self) -> str:
        user, host, base = getpass.getuser(), socket.gethostname().partition(".")[0], self.directory
        settings: dict[str, object] = {
            "ClusterName": _CLUSTER,
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmUser": user,
            "SlurmdUser": user,
            "SlurmctldPort": self._ports[0],
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._munge_socket}",
            "CredType": "cred/munge",
            "StateSaveLocation": base / "state",
            "SlurmctldPidFile": base / "slurmctld.pid",
            "SlurmctldLogFile": base / "log" / "slurmctld.log",
            "SlurmdPidFile": base / "slurmd.%n.pid",
            "SlurmdLogFile": base / "log" / "%n.log",
            "SlurmdSpoolDir": base / "spool" / "%n",
            # neither cgroups nor anything that listens beyond loopback
            # with that of process groups the end of a job by scancel takes 3 s
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "MpiDefault": "none",
            "SwitchType": "switch/none",
            "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
            # from submission to start in a second and not in three
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "batch_sched_delay=0,sched_min_interval=0,bf_interval=1",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "DefMemPerCPU": 10,
            "AccountingStorageType": "accounting_storage/none",
            # refuse at once what no node and no partition can give
            "EnforcePartLimits": "ALL",
            "ReturnToService": 2,
            # nodes have as many processors as is said here
            "SlurmdParameters": "config_overrides",
            "MinJobAge": 300,
            "MessageTimeout": 2,
            "MaxJobCount": 20_000,
            "KillWait": 5,
            "SlurmdTimeout": 60,
            "SlurmctldTimeout": 30,
            "InactiveLimit": 0,
            "PropagateResourceLimits": "NONE",
        }
        lines = [f"{name}={value}" for name, value in (settings | self._settings).items()]
        for name, port in zip(self._nodes, self._ports[1:], strict=True):
            lines.append(
                f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
                " CPUs=64 RealMemory=20000 State=UNKNOWN"
            )
        lines += [
            "PartitionName=debug Nodes=ALL Default=YES MaxTime=1-00:00:00 State=UP",
            "PartitionName=down Nodes=ALL MaxTime=INFINITE State=DRAIN",
        ]
        return "\n".join([*lines, ""])
