"""Fixtures that hand private services and processes to tests; `conftest` lists them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from services import GUARDIAN, require, require_service
from services.accounting import PrivateAccounting
from services.aurora import PrivateAurora
from services.ftpfiles import FtpFiles
from services.postgresql import PrivatePostgreSQL
from services.processes import Process
from services.rabbitmq import PrivateRabbitMQ
from services.serf import PrivateSerf
from services.slurm import PrivateSlurm
from services.smtpserver import PrivateSmtp
from services.sshd import PrivateSshd
from services.webfiles import WebFiles


@pytest.fixture(scope="session")
def session_dir(pytestconfig: pytest.Config) -> Path:
    """A directory of the run's own which other users can pass through; removed at its end."""
    return pytestconfig.stash[GUARDIAN].directory


def _another(session_dir: Path, name: str) -> Path:
    """A directory for one more server of a kind."""
    return session_dir / f"{name}-{os.urandom(4).hex()}"


@pytest.fixture(scope="session")
def rabbitmq(session_dir: Path) -> Iterator[PrivateRabbitMQ]:
    """The run's private RabbitMQ; one test's own part of it is `broker_url`."""
    require_service("RabbitMQ", PrivateRabbitMQ.available())
    with PrivateRabbitMQ(session_dir / "rabbitmq") as server:
        yield server


@pytest.fixture
def broker_url(rabbitmq: PrivateRabbitMQ) -> str:
    """AMQP URL of a virtual host that no other test uses."""
    return rabbitmq.new_vhost()


@pytest.fixture(scope="session")
def postgresql(session_dir: Path) -> Iterator[PrivatePostgreSQL]:
    """The run's private PostgreSQL; one test's own part of it is `postgresql_url`."""
    require_service("PostgreSQL", PrivatePostgreSQL.available())
    with PrivatePostgreSQL(session_dir / "postgresql") as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql: PrivatePostgreSQL) -> Iterator[str]:
    """SQLAlchemy URL of an empty database that no other test uses."""
    url = postgresql.new_database()
    yield url
    postgresql.drop_database(url)


class MakeRabbitMQ(Protocol):
    """Type of the fixture `make_rabbitmq`."""

    def __call__(
        self,
        *,
        consumer_timeout_s: float | None = None,
        channel_tick_s: float | None = None,
        management: bool = False,
        config: Mapping[str, str] | None = None,
    ) -> PrivateRabbitMQ: ...


@pytest.fixture
def make_rabbitmq(
    session_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MakeRabbitMQ]:
    """Start brokers of the test's own; the settings are those of `PrivateRabbitMQ`."""
    require_service("RabbitMQ", PrivateRabbitMQ.available())
    with ExitStack() as stack:

        def make(
            *,
            consumer_timeout_s: float | None = None,
            channel_tick_s: float | None = None,
            management: bool = False,
            config: Mapping[str, str] | None = None,
        ) -> PrivateRabbitMQ:
            server = PrivateRabbitMQ(
                tmp_path_factory.mktemp("rabbitmq"),
                consumer_timeout_s=consumer_timeout_s,
                channel_tick_s=channel_tick_s,
                management=management,
                config=config,
            )
            return stack.enter_context(server)

        yield make


MakePostgreSQL = Callable[[], PrivatePostgreSQL]


@pytest.fixture
def make_postgresql(session_dir: Path) -> Iterator[MakePostgreSQL]:
    """Start PostgreSQL servers of the test's own."""
    require_service("PostgreSQL", PrivatePostgreSQL.available())
    with ExitStack() as stack:
        yield lambda: stack.enter_context(PrivatePostgreSQL(_another(session_dir, "postgresql")))


@pytest.fixture(scope="session")
def aurora_server(session_dir: Path) -> Iterator[PrivateAurora]:
    """The run's private Aurora; tests take it by `aurora`."""
    require_service("the Thrift compiler", PrivateAurora.available())
    with PrivateAurora(session_dir / "aurora") as server:
        yield server


@pytest.fixture
def aurora(aurora_server: PrivateAurora) -> PrivateAurora:
    """The run's private Aurora with every fault switched off."""
    aurora_server.reset()
    return aurora_server


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebFiles]:
    """An HTTP server of the test's own that gives and takes files."""
    with WebFiles(tmp_path / "web") as server:
        yield server


@pytest.fixture
def ftp(tmp_path: Path) -> Iterator[FtpFiles]:
    """An FTP server of the test's own that gives and takes files."""
    with FtpFiles(tmp_path / "ftp") as server:
        yield server


@pytest.fixture(scope="session")
def smtp_server(session_dir: Path) -> Iterator[PrivateSmtp]:
    """The run's private mail server; tests take it by `smtp`."""
    with PrivateSmtp(_another(session_dir, "smtp")) as server:
        yield server


@pytest.fixture
def smtp(smtp_server: PrivateSmtp) -> PrivateSmtp:
    """The run's private mail server, running, without mails and with every fault switched off."""
    smtp_server.reset()
    return smtp_server


class MakeSmtp(Protocol):
    """Type of the fixture `make_smtp`."""

    def __call__(
        self, *, certified: bool = False, smtps: bool = False, password: str = ""
    ) -> PrivateSmtp: ...


@pytest.fixture
def make_smtp(session_dir: Path) -> Iterator[MakeSmtp]:
    """Start mail servers of the test's own; the settings are those of `PrivateSmtp`."""
    with ExitStack() as stack:

        def make(
            *, certified: bool = False, smtps: bool = False, password: str = ""
        ) -> PrivateSmtp:
            server = PrivateSmtp(
                _another(session_dir, "smtp"), certified=certified, smtps=smtps, password=password
            )
            return stack.enter_context(server)

        yield make


MakeAurora = Callable[[], PrivateAurora]


@pytest.fixture
def make_aurora(session_dir: Path) -> Iterator[MakeAurora]:
    """Start schedulers of the test's own."""
    require_service("the Thrift compiler", PrivateAurora.available())
    with ExitStack() as stack:
        yield lambda: stack.enter_context(PrivateAurora(_another(session_dir, "aurora")))


@pytest.fixture(scope="session")
def sshd(session_dir: Path) -> Iterator[PrivateSshd]:
    """The run's private SSH server; its `options` are the settings of a site behind it."""
    require_service("sshd", PrivateSshd.available())
    with PrivateSshd(session_dir / "sshd") as server:
        yield server


@pytest.fixture(scope="session")
def sftp_only(session_dir: Path) -> Iterator[PrivateSshd]:
    """An SSH server that offers SFTP and no shell."""
    require_service("sshd", PrivateSshd.available())
    with PrivateSshd(session_dir / "sftp", force="internal-sftp") as server:
        yield server


class MakeSshd(Protocol):
    """Type of the fixture `make_sshd`."""

    def __call__(
        self,
        *,
        max_sessions: int = 10,
        force: str = "",
        chroot: Path | None = None,
    ) -> PrivateSshd: ...


@pytest.fixture
def make_sshd(session_dir: Path) -> Iterator[MakeSshd]:
    """Start SSH servers of the test's own."""
    require_service("sshd", PrivateSshd.available())
    with ExitStack() as stack:

        def make(**how: Any) -> PrivateSshd:
            return stack.enter_context(PrivateSshd(_another(session_dir, "sshd"), **how))

        yield make


@pytest.fixture(scope="session")
def slurm(session_dir: Path) -> Iterator[PrivateSlurm]:
    """The run's private Slurm with two nodes; a test finds it by `slurm.environ`."""
    require_service("Slurm", PrivateSlurm.available())
    with PrivateSlurm(session_dir / "slurm") as server:
        yield server


@pytest.fixture(scope="session")
def login_node(session_dir: Path, slurm: PrivateSlurm) -> Iterator[PrivateSshd]:
    """An SSH server whose users reach the private Slurm by their start-up file."""
    require_service("sshd", PrivateSshd.available())
    with PrivateSshd(session_dir / "login") as server:
        lines = [f"export {name}={value}\n" for name, value in slurm.environ.items()]
        (server.home / ".bashrc").write_text("".join(lines))
        yield server


class MakeSlurm(Protocol):
    """Type of the fixture `make_slurm`."""

    def __call__(
        self,
        *,
        nodes: int = 1,
        settings: Mapping[str, object] | None = None,
        accounting: bool = False,
    ) -> PrivateSlurm: ...


@pytest.fixture
def make_slurm(session_dir: Path) -> Iterator[MakeSlurm]:
    """Start Slurms of the test's own; the settings are lines of slurm.conf."""
    require_service("Slurm", PrivateSlurm.available())
    with ExitStack() as stack:

        def make(
            *,
            nodes: int = 1,
            settings: Mapping[str, object] | None = None,
            accounting: bool = False,
        ) -> PrivateSlurm:
            if accounting:
                require_service("slurmdbd and MariaDB", PrivateAccounting.available())
            directory = _another(session_dir, "slurm")
            return stack.enter_context(
                PrivateSlurm(directory, nodes=nodes, settings=settings, accounting=accounting)
            )

        yield make


class Spawn(Protocol):
    """Type of the fixture `spawn`."""

    def __call__(
        self,
        argv: Sequence[str | Path],
        *,
        name: str = "process",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process: ...


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Start child processes that end with the test; `env` is added to the environment.

    stdout and stderr go to ``<name>.log`` (``<name>-2.log``, ...) in the test's directory.
    """
    started: list[Process] = []

    def start(
        argv: Sequence[str | Path],
        *,
        name: str = "process",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Process:
        log = tmp_path / f"{name}.log"
        number = 1
        while log.exists():
            number += 1
            log = tmp_path / f"{name}-{number}.log"
        process = Process(argv, log=log, env=os.environ | dict(env or {}), cwd=cwd)
        started.append(process)
        return process

    yield start
    for process in reversed(started):
        process.stop(timeout=5.0)


@pytest.fixture
def serf(session_dir: Path) -> Iterator[PrivateSerf]:
    """Serf agents of the test's own, on loopback."""
    require_service("Serf", PrivateSerf.available())
    private = PrivateSerf(_another(session_dir, "serf"))
    yield private
    private.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; needs root and the right to mount."""
    place = tmp_path / "small"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    require(mounted, "cannot mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
