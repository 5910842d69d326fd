"""What every test gets: a clean environment, and private services on demand.

Fixtures to ask for:

``web``, ``ftp``
    An HTTP or FTP server of the test's own that gives and takes files.
``smtp``, ``make_smtp(certified=..., smtps=..., password=...)``
    The run's private mail server, which may be stopped, and those of a test's own.
``rabbitmq``, ``postgresql``, ``sshd``, ``aurora``
    One private server each for the whole run; do not stop them.
``broker_url``, ``postgresql_url``
    A fresh virtual host, a fresh database in them, for one test.
``make_rabbitmq(**settings)``, ``make_postgresql()``, ``make_sshd(**settings)``,
``make_aurora()``
    Servers of the test's own, to kill, to restart or to set up differently.
``slurm``, ``make_slurm(nodes=..., settings=...)``
    The run's private Slurm, and those of a test's own.
``serf``
    Serf agents of the test's own.
``spawn(argv, name=...)``
    A child process with a log file that certainly ends with the test.
``long_campaign``
    True under ``--long`` (``make campaign``): run the campaign at full length.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from services import GUARDIAN, SERVICE_FIXTURES
from services.guardian import Guardian

_LEFT_OVER: Final = pytest.StashKey[list[str]]()

# Variables that change what the code under test, or a client library below it, does.
_SCRUBBED: Final = ("WLM_", "CELERY_", "KOMBU_", "RABBITMQ_", "PG", "SQLALCHEMY_")
_KEPT: Final = "WLM_TEST_"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run campaigns at full length")


def pytest_configure(config: pytest.Config) -> None:
    stray = config.rootpath / "wlm.toml"
    if stray.exists():
        raise pytest.UsageError(f"{stray}: move it away, tests would read it as their settings")
    config.stash[GUARDIAN] = Guardian()
    # here rather than in `pytest_plugins`, which not every conftest may set
    config.pluginmanager.import_plugin("services.fixtures")


def pytest_unconfigure(config: pytest.Config) -> None:
    guardian = config.stash.get(GUARDIAN, None)
    if guardian is not None:
        guardian.close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what tests left behind; fixtures of the run have ended their own before this."""
    guardian = session.config.stash[GUARDIAN]
    session.config.stash[_LEFT_OVER] = guardian.sweep()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for command in config.stash.get(_LEFT_OVER, []):
        terminalreporter.write_line(f"a test left this process behind, killed: {command[:150]}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for a service's fixture carries the service's marker."""
    for item in items:
        wanted = set(getattr(item, "fixturenames", ()))
        for marker, fixtures in SERVICE_FIXTURES.items():
            if wanted & fixtures:
                item.add_marker(marker)


@pytest.fixture(autouse=True)
def _clean_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, session_dir: Path
) -> None:
    """No setting and no file of the person who runs the tests reaches a test."""
    for name in list(os.environ):
        if name.startswith(_SCRUBBED) and not name.startswith(_KEPT):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("CONFIG", "DATA", "CACHE", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
    # killed children leave temporary files behind: these go away with the run
    temporary = session_dir / "tmp"
    temporary.mkdir(exist_ok=True)
    temporary.chmod(0o711)
    monkeypatch.setenv("TMPDIR", str(temporary))
    # shared by the run: building matplotlib's list of fonts takes seconds
    monkeypatch.setenv("MPLCONFIGDIR", str(session_dir / "matplotlib"))


@pytest.fixture
def long_campaign(pytestconfig: pytest.Config) -> bool:
    """True if campaigns are to run at full length."""
    return bool(pytestconfig.getoption("long"))
