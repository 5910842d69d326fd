"""The Serf agent of a process: started with it, watched, restarted, told what changes.

Nothing here ever stops the process: whatever is wrong is told by `SerfAgent.trouble`, and tried
again.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
import time
from pathlib import Path
from typing import Final

from wlm_tasks.cluster.gossip import Gossip
from wlm_tasks.cluster.launch import (
    AgentDirectory,
    Launch,
    find_binary,
    free_ports,
    free_rpc_port,
    new_rpc_key,
    node_name,
)
from wlm_tasks.cluster.neighbours import Neighbours
from wlm_tasks.cluster.rpc import RpcClient
from wlm_tasks.cluster.tags import WorkerAttributes
from wlm_tasks.config import SerfSettings
from wlm_tasks.errors import ServiceError, WlmError
from wlm_tasks.model.checks import one_line

_log = logging.getLogger(__name__)

_READY_S: Final = 15.0  #: for an agent to answer after its start
_READY_EVERY_S: Final = 0.05
_TICK_S: Final = 1.0  #: between looks whether the agent lives
_LEAVE_S: Final = 5.0  #: for an agent to leave; it takes some 1.5 s
#: setting tags takes as long as the news needs to get away, which the agent waits 5 s for
_REPLY_S: Final = 10.0
_HANGS_S: Final = 10.0  #: an agent that answers nothing for so long hangs
_BACK_OFF_S: Final = 0.5
_BACK_OFF_MAX_S: Final = 60.0
_PORT_TAKEN: Final = "address already in use"


class SerfAgent:
    """Runs one ``serf agent`` as a child of this process, whose end ends the agent, too.

    A thread of its own starts the agent each time and lives until `leave` or `stop`: the kernel
    ends the agent with the *thread* that has started it. So it may be started from any thread,
    but only in the process that is meant: a fork has no such thread.
    """

    def __init__(
        self, settings: SerfSettings, directory: Path, attributes: WorkerAttributes
    ) -> None:
        """`directory` is shared by the agents of this host; what is below is private."""
        self._settings = settings
        self._base = directory
        self._node = node_name(attributes.name, attributes.incarnation)
        self._launch: Launch | None = None
        self._directory: AgentDirectory | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = attributes.tags
        self._told: dict[str, str] = {}
        self._ready = False
        self._trouble: str | None = None
        self._neighbours = Neighbours(settings)
        self._wake = threading.Event()
        self._decided = threading.Event()  #: whether the first start has worked is known
        self._leaving = False
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="serf-agent", daemon=True)

    @property
    def node(self) -> str:
        """The agent's name among all agents."""
        return self._launch.node if self._launch else self._node

    @property
    def trouble(self) -> str | None:
        """What is wrong, for people; None if all is well or nothing is known yet."""
        return self._trouble

    @property
    def pid(self) -> int | None:
        """The agent's process id; None while there is none."""
        process = self._process  # another thread may take it away
        return process.pid if process is not None and process.poll() is None else None

    def start(self, wait_s: float = 0.0) -> bool:
        """Have it started, and again whenever it ends; never raises.

        Waits at most `wait_s` until it is known how that went, and returns whether it runs.
        """
        self._thread.start()
        self._decided.wait(wait_s)
        return self.alive()

    def alive(self) -> bool:
        """Whether the agent runs and answers."""
        return self._ready and self.pid is not None

    def connect(self, reply_s: float = _REPLY_S) -> Gossip:
        """Return a connection with the agent, which gets so long for each answer.

        Raises `ServiceError`.
        """
        launch = self._launch
        if launch is None or not self.alive():
            raise ServiceError(self._trouble or "Serf: the agent does not run yet")
        return RpcClient(launch.rpc_port, launch.rpc_key, reply_s=reply_s)

    def set_tags(self, attributes: WorkerAttributes) -> None:
        """Have new attributes told soon; returns at once, the last ones count."""
        self._wanted = attributes.tags
        self._wake.set()

    def leave(self, timeout_s: float = 2 * _LEAVE_S) -> None:
        """Tell the others that this is planned, and end; nothing happens the second time."""
        self._leaving = True
        self._end(timeout_s)

    def stop(self, timeout_s: float = _LEAVE_S) -> None:
        """End the agent at once; the others take it for a crash."""
        self._end(timeout_s)

    def _end(self, timeout_s: float) -> None:
        self._ending = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        """Start the agent again and again; the thread's whole life."""
        back_off_s = _BACK_OFF_S
        while not self._ending:
            began = time.monotonic()
            try:
                self._live()
            except WlmError as error:
                self._found(one_line(error.message))
            except OSError as error:
                self._found(one_line(f"Serf: {error.filename}: {error.strerror or error}"))
            except Exception:  # noqa: BLE001 - the process goes on without
                _log.exception("the Serf agent's keeper")
                self._found("Serf: a fault of our own, see the log")
            finally:
                self._kill()
            self._decided.set()
            if time.monotonic() - began > _BACK_OFF_MAX_S:
                back_off_s = _BACK_OFF_S
            self._pause(back_off_s)
            back_off_s = min(2 * back_off_s, _BACK_OFF_MAX_S)
        if self._directory is not None:
            self._directory.release()

    def _found(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self._trouble:
            _log.warning("%s", trouble)
        elif trouble is None and self._trouble is not None:
            _log.info("Serf: all is well again")
        self._trouble = trouble

    def _pause(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._ending and (left := deadline - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()

    def _live(self) -> None:
        """One life of the agent, from its start to its end or ours; raises why it ended."""
        binary = find_binary(self._settings)
        if self._directory is None:
            self._directory = AgentDirectory(self._base, self._node)
        self._start_on_free_port(self._directory, binary)
        self._ready = True
        self._found(None)
        self._neighbours.begin()
        self._decided.set()
        while not self._ending:
            self._check(self._directory)
            self._wake.wait(_TICK_S)
            self._wake.clear()
        if self._leaving:
            self._leave()

    def _start_on_free_port(self, directory: AgentDirectory, binary: str) -> None:
        """Start it where others of this host leave room; raises `ServiceError`."""
        settings = self._settings
        last = settings.port + settings.ports - 1
        words = f"Serf: none of the ports {settings.port} to {last} is free on {settings.bind}"
        for port in free_ports(settings, self._launch.port if self._launch else None):
            launch, self._told = self._next_launch(port), self._wanted
            directory.write_config(settings, launch, self._told)
            self._process = directory.spawn(binary)
            if self._answers(self._process, launch) or self._ending:
                self._launch = launch
                return
            words = f"Serf: the agent does not start: {directory.last_words() or 'no words'}"
            if _PORT_TAKEN not in words:
                break
            self._kill()  # another process was faster
        raise ServiceError(words)

    def _next_launch(self, port: int) -> Launch:
        """Return how to start on a port: under the last name only where others know that."""
        node = self.node
        if self._launch is not None and self._launch.port != port:
            node = f"{self._node}.{port}"
        return Launch(node=node, port=port, rpc_port=free_rpc_port(), rpc_key=new_rpc_key())

    def _answers(self, process: subprocess.Popen[bytes], launch: Launch) -> bool:
        """Wait until the agent answers; False if it has ended or takes too long."""
        deadline = time.monotonic() + _READY_S
        while process.poll() is None and time.monotonic() < deadline and not self._ending:
            try:
                RpcClient(launch.rpc_port, launch.rpc_key).close()
            except ServiceError:
                time.sleep(_READY_EVERY_S)
            else:
                return True
        return False

    def _check(self, directory: AgentDirectory) -> None:
        """Look after the living agent; raises `ServiceError` if it has ended or hangs."""
        if self._process is None or (code := self._process.poll()) is not None:
            raise ServiceError(
                f"Serf: the agent has ended ({_cause(code)}): {directory.last_words()}"
            )
        if self._wanted != self._told:
            self._tell()
        if self._neighbours.due():
            directory.bound_log()
            # raises for an agent that hangs, which then is ended
            with self.connect(_HANGS_S) as gossip:
                self._found(self._neighbours.look(gossip, self.node))

    def _tell(self) -> None:
        """Hand new tags to the agent; where that fails the next look tries again."""
        wanted = self._wanted
        try:
            with self.connect() as gossip:
                gossip.set_tags(wanted, self._told.keys() - wanted.keys())
            self._told = wanted
        except ServiceError as error:
            _log.info("%s", error.message)

    def _leave(self) -> None:
        if self._wanted != self._told:
            self._tell()
        process = self._process
        # where that fails the signal means the same
        with contextlib.suppress(ServiceError), self.connect() as gossip:
            gossip.leave()
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LEAVE_S)

    def _kill(self) -> None:
        self._ready = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _cause(code: int | None) -> str:
    if code is None:
        return "not started"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
