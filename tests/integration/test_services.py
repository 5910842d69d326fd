"""The private services do what the other tests rely on."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
from kombu import Connection, Queue

from services import require, require_service
from services.fixtures import MakeRabbitMQ, Spawn
from services.guardian import MARKER
from services.network import PrivateNetwork
from services.ports import free_port, listening, release_port
from services.postgresql import PrivatePostgreSQL
from services.processes import Process, alive, children, wait_for
from services.rabbitmq import PrivateRabbitMQ

TESTS = Path(__file__).resolve().parents[1]

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def publish(url: str, queue: str, body: str) -> None:
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        target = Queue(queue, durable=True)
        producer = connection.Producer()
        producer.publish(
            body, routing_key=queue, declare=[target], delivery_mode=2, serializer="json"
        )


def fetch(url: str, queue: str) -> str | None:
    with Connection(url) as connection:
        message = Queue(queue, durable=True)(connection.default_channel).get(no_ack=True)
        return None if message is None else str(message.payload)


def connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    return psycopg.connect(url.replace("+psycopg", ""), autocommit=True)


class TestRabbitMQ:
    def test_virtual_hosts_of_two_tests_share_nothing(self, rabbitmq: PrivateRabbitMQ) -> None:
        one, two = rabbitmq.new_vhost(), rabbitmq.new_vhost()
        publish(one, "letters", "for one")
        publish(two, "letters", "for two")
        assert fetch(one, "letters") == "for one"
        assert fetch(one, "letters") is None
        assert fetch(two, "letters") == "for two"

    def test_listens_on_loopback_only(self, rabbitmq: PrivateRabbitMQ) -> None:
        links = []
        for entry in Path(f"/proc/{rabbitmq.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it closes files meanwhile
                links.append(str(entry.readlink()))
        inodes = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
        places = {row[1] for row in rows if row[9] in inodes and row[3] == "0A"}
        assert f"0100007F:{rabbitmq.port:04X}" in places
        assert all(place.startswith("0100007F:") for place in places), places

    def test_two_live_side_by_side_and_kill_9_keeps_what_was_confirmed(
        self, rabbitmq: PrivateRabbitMQ, make_rabbitmq: MakeRabbitMQ
    ) -> None:
        other = make_rabbitmq(consumer_timeout_s=20, channel_tick_s=5)
        assert (other.port, other.node) != (rabbitmq.port, rabbitmq.node)
        publish(other.url, "letters", "keep me")
        publish(rabbitmq.url, "letters", "not yours")
        other.sync_declarations()

        other.kill9()
        assert not other.running
        assert not listening(other.port)
        assert rabbitmq.running
        other.restart()

        assert fetch(other.url, "letters") == "keep me"
        assert fetch(rabbitmq.url, "letters") == "not yours"
        settings = "[element(2, application:get_env(rabbit, K)) || K <- [consumer_timeout, "
        assert other.ctl("eval", settings + "channel_tick_interval]].").strip() == "[20000,5000]"

    def test_a_wrong_setting_is_reported_with_the_brokers_words(
        self, make_rabbitmq: MakeRabbitMQ
    ) -> None:
        with pytest.raises(RuntimeError, match="unknown variable: no_such_setting"):
            make_rabbitmq(config={"no_such_setting": "1"})

    def test_a_failing_command_is_reported(self, rabbitmq: PrivateRabbitMQ) -> None:
        with pytest.raises(RuntimeError, match="no_such_vhost"):
            rabbitmq.ctl("set_permissions", "-p", "no_such_vhost", "guest", "", "", "")


class TestPostgreSQL:
    def test_databases_of_two_tests_share_nothing(self, postgresql: PrivatePostgreSQL) -> None:
        one, two = postgresql.new_database(), postgresql.new_database()
        with connect(one) as connection:
            connection.execute("CREATE TABLE t (n integer)")
        with connect(two) as connection, pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM t")

    def test_commits_are_durable(self, postgresql_url: str) -> None:
        with connect(postgresql_url) as connection:
            rows = connection.execute(
                "SELECT setting FROM pg_settings"
                " WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes')"
            ).fetchall()
        assert rows == [("on",)] * 3

    def test_a_taken_port_is_given_up_for_another(
        self,
        make_postgresql: Callable[[], PrivatePostgreSQL],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as somebody:
            taken = somebody.getsockname()[1]
            ports = iter([taken])
            monkeypatch.setattr(
                "services.postgresql.free_port", lambda: next(ports, None) or free_port()
            )
            server = make_postgresql()
        assert server.port != taken
        with connect(server.url()) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)

    def test_a_database_in_use_can_be_dropped(self, postgresql: PrivatePostgreSQL) -> None:
        url = postgresql.new_database()
        with connect(url):
            postgresql.drop_database(url)
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            connect(url)

    def test_kill_9_keeps_what_was_committed(
        self, make_postgresql: Callable[[], PrivatePostgreSQL]
    ) -> None:
        server = make_postgresql()
        url = server.new_database()
        with connect(url) as connection:
            connection.execute("CREATE TABLE t AS SELECT 7 AS n")
        server.kill9()
        assert not listening(server.port)
        server.restart()
        with connect(url) as connection:
            assert connection.execute("SELECT n FROM t").fetchall() == [(7,)]


class TestProcess:
    def test_output_and_exit_code(self, spawn: Spawn) -> None:
        process = spawn([sys.executable, "-c", "print('hello'); raise SystemExit(3)"])
        assert process.wait() == 3
        assert process.output == "hello\n"

    def test_output_is_that_of_this_process_only(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        log.write_text("of an earlier one\n")
        with Process([sys.executable, "-c", "print('mine')"], log=log) as process:
            process.wait()
        assert process.output == "mine\n"

    def test_waiting_for_output_of_an_ended_process_fails_at_once(self, spawn: Spawn) -> None:
        process = spawn([sys.executable, "-c", "print('last words')"])
        with pytest.raises(RuntimeError, match=r"ended with 0 before 'ready'[^$]*last words"):
            process.wait_for_output("ready", timeout=60)

    def test_waiting_too_long_shows_the_log(self, spawn: Spawn) -> None:
        process = spawn([sys.executable, "-uc", "print('hi'); import time; time.sleep(600)"])
        process.wait_for_output("hi")
        with pytest.raises(TimeoutError, match=r"'ready': not within 0.1 s[^$]*hi"):
            process.wait_for_output("ready", timeout=0.1)

    def test_a_missing_program_is_an_error(self, spawn: Spawn) -> None:
        with pytest.raises(FileNotFoundError, match="no-such-program"):
            spawn(["no-such-program"])

    def test_stop_ends_the_children_too(self, spawn: Spawn) -> None:
        shell = spawn(["bash", "-c", "trap '' TERM; sleep 600 & sleep 600 & wait; wait"])
        shell.wait_for(lambda: len(children(shell.pid)) == 2, what="two children")
        family = children(shell.pid)
        shell.stop(timeout=0.1)
        assert not shell.running
        wait_for(lambda: not any(alive(pid) for pid in family), what="the children end")

    def test_kill9_leaves_the_children_alone(self, spawn: Spawn) -> None:
        shell = spawn(["bash", "-c", "sleep 600 & wait"])
        shell.wait_for(lambda: len(children(shell.pid)) == 1, what="one child")
        (child,) = children(shell.pid)
        shell.kill9()
        assert shell.returncode == -signal.SIGKILL
        assert alive(child)

    def test_a_child_started_in_a_thread_outlives_the_thread(
        self, spawn: Spawn, tmp_path: Path
    ) -> None:
        started: list[Process] = []
        thread = threading.Thread(target=lambda: started.append(spawn(SLEEP)))
        thread.start()
        thread.join()
        # A child under the kernel's death signal would be gone by the time another one ended.
        assert spawn([sys.executable, "-c", ""]).wait() == 0
        assert started[0].running


class TestPorts:
    def test_a_reserved_port_is_not_given_twice(self) -> None:
        ports = [free_port() for _ in range(50)]
        try:
            assert len(set(ports)) == 50
        finally:
            for port in ports:
                release_port(port)


INNER = """
import os, subprocess, sys
from services.processes import Process
{service}
def test_dies(session_dir, spawn, tmp_path{fixture}):
    child = spawn([sys.executable, "-c", "import time; time.sleep(600)"])
    words = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:], " \
        "start_new_session=True).pid, flush=True); time.sleep(600)"
    parent = spawn([sys.executable, "-c", words, "sleep", "600"], name="parent")
    parent.wait_for_output("\\n")
    pids = [child.pid, parent.pid, int(parent.output){pid}]
    print("READY", session_dir, *pids, flush=True)
    os.kill(os.getpid(), 9)
"""


class TestGuardian:
    def test_nothing_survives_a_killed_test_run(
        self, tmp_path: Path, postgresql: PrivatePostgreSQL
    ) -> None:
        inner = tmp_path / "test_inner.py"
        inner.write_text(
            INNER.format(service="", fixture=", postgresql", pid=", postgresql.process.pid")
        )
        done = run_pytest(inner, tmp_path)
        assert done.returncode == -signal.SIGKILL
        line = next(line for line in done.stdout.splitlines() if "READY" in line)
        directory, *pids = line.split("READY ")[1].split()
        assert len(pids) == 4
        wait_for(lambda: not any(alive(int(pid)) for pid in pids), what="all processes end")
        wait_for(lambda: not Path(directory).exists(), what="the directory goes")

    def test_a_process_left_behind_by_a_test_is_ended_and_named(self, tmp_path: Path) -> None:
        inner = tmp_path / "test_inner.py"
        inner.write_text(
            "import subprocess\n"
            "def test_leaves_one():\n"
            "    done = subprocess.run('sleep 654 >/dev/null 2>&1 & echo PID $!', shell=True,"
            " capture_output=True, text=True)\n"
            "    print(done.stdout)\n"
        )
        done = run_pytest(inner, tmp_path)
        assert done.returncode == 0, done.stdout
        assert "a test left this process behind, killed: sleep 654" in done.stdout
        (pid,) = re.findall(r"PID (\d+)", done.stdout)
        assert not alive(int(pid))


NETWORK = """
import os
from services.network import PrivateNetwork
def test_dies():
    network = PrivateNetwork()
    network.start()
    print("READY", network.host("a").namespace, flush=True)
    os.kill(os.getpid(), 9)
"""


class TestNetwork:
    @pytest.fixture(autouse=True)
    def _root(self) -> None:
        require(PrivateNetwork.available(), "network namespaces need root and iproute2")

    def test_hosts_reach_each_other_by_their_cables(self, spawn: Spawn) -> None:
        with PrivateNetwork() as network:
            one, two = network.host("one"), network.host("two")
            server = spawn([*one.inside(), sys.executable, "-c", ECHO, one.address])
            server.wait_for_output("one\n")  # its own host name
            ask = [*two.inside(), sys.executable, "-c", ASK, one.address]
            assert spawn(ask).wait() == 0
            network.pull(one)
            assert spawn(ask).wait() == 1
            network.plug(one)
            assert spawn(ask).wait() == 0

    def test_nothing_of_it_survives_a_killed_test_run(self, tmp_path: Path) -> None:
        inner = tmp_path / "test_inner.py"
        inner.write_text(NETWORK)
        done = run_pytest(inner, tmp_path)
        line = next(line for line in done.stdout.splitlines() if "READY" in line)
        namespace = line.split("READY ")[1]
        places = [Path("/run/netns", namespace), Path("/sys/class/net", namespace.split("-")[0])]
        wait_for(lambda: not any(place.exists() for place in places), what="the network goes")


ECHO = """
import socket, sys
server = socket.create_server((sys.argv[1], 7))
print(socket.gethostname(), flush=True)
while True:
    server.accept()[0].close()
"""
ASK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 7), 1.0)
except OSError:
    sys.exit(1)
"""


def run_pytest(path: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    config = tmp_path / "pytest.ini"
    config.write_text(f"[pytest]\npythonpath = {TESTS}\naddopts = --import-mode=importlib\n")
    options = ["-s", "-p", "conftest", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'in'}"]
    clean = {name: text for name, text in os.environ.items() if name != MARKER}
    places = [str(TESTS), clean.get("PYTHONPATH")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", str(config), str(path)],
        env=clean | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


class TestMissingService:
    def test_skips_on_a_laptop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CI", raising=False)
        with pytest.raises(pytest.skip.Exception, match="Serf is not installed"):
            require_service("Serf", available=False)

    def test_fails_in_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception, match="Serf is not installed"):
            require_service("Serf", available=False)

    def test_an_installed_service_is_no_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CI", "true")
        require_service("Serf", available=True)


class TestEnvironment:
    def test_nothing_of_the_developer_reaches_a_test(self, tmp_path: Path) -> None:
        inner = tmp_path / "test_inner.py"
        inner.write_text(
            "import os\n"
            "from pathlib import Path\n"
            "def test_clean():\n"
            "    assert 'WLM_BROKER_URL' not in os.environ\n"
            "    assert 'PGPASSWORD' not in os.environ\n"
            "    assert 'WLM_TEST_KEPT' in os.environ\n"
            "    assert not list(Path.home().iterdir())\n"
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WLM_BROKER_URL", "amqp://elsewhere")
            patch.setenv("PGPASSWORD", "x")
            patch.setenv("WLM_TEST_KEPT", "1")
            done = run_pytest(inner, tmp_path)
        assert done.returncode == 0, done.stdout
