"""compose.yaml: well formed, complete, and nothing in it is open to other machines."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from services import require_service
from wlm_tasks.model.steps import ALL_QUEUES

DEPLOY = Path(__file__).parents[3] / "deploy"
OURS = {"migrate", "worker-jobs", "worker-data", "control", "flower"}
ENDING = {"migrate", "broker-setup"}
KNOWN_KEYS = {
    *("image", "build", "hostname", "init", "restart", "stop_grace_period", "healthcheck"),
    *("cap_drop", "security_opt", "read_only", "tmpfs", "volumes", "networks", "ports"),
    *("depends_on", "environment", "secrets", "entrypoint", "command"),
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


def _parser() -> list[str] | None:
    """The command that reads compose files, if there is one; none of them needs an engine."""
    docker = shutil.which("docker")
    if docker is not None:
        plugin = subprocess.run([docker, "compose", "version"], capture_output=True, check=False)
        if plugin.returncode == 0:
            return [docker, "compose"]
    alone = shutil.which("docker-compose")
    return [alone] if alone else None


def test_compose_itself_accepts_the_file() -> None:
    parser = _parser()
    require_service("docker compose or docker-compose", parser is not None)
    assert parser is not None
    argv = [*parser, "-f", str(DEPLOY / "compose.yaml"), "config"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == OURS | {
        "rabbitmq",
        "broker-setup",
        "postgresql",
    }


def test_only_known_keys_are_used(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    top = {key for key in compose if not key.startswith("x-")}
    assert top == {"services", "networks", "volumes", "secrets"}
    for name, service in services.items():
        assert set(service) <= KNOWN_KEYS, name


def test_what_a_service_refers_to_is_there(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    for name, service in services.items():
        assert set(service["networks"]) <= set(compose["networks"]), name
        assert set(service.get("secrets", ())) <= set(compose["secrets"]), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            there = (DEPLOY / source).exists() if source[0] == "." else source in compose["volumes"]
            assert there, f"{name}: {volume}"
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_every_secret_is_one_that_make_secrets_makes(
    compose: dict[str, Any], tmp_path: Path
) -> None:
    subprocess.run([DEPLOY / "make-secrets.sh", tmp_path, "rabbitmq", "postgresql"], check=True)
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
        assert (tmp_path / name).is_file()
    url = (tmp_path / "worker-broker-url").read_text()
    assert "@rabbitmq:5672/" in url


def test_a_secret_is_used_where_it_is_mounted(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        environment = service.get("environment", {})
        named = {
            value.rpartition("/run/secrets/")[2]
            for value in environment.values()
            if "/run/secrets/" in value
        }
        assert named == (set(service.get("secrets", ())) if environment else named), name


def test_no_password_is_written_down() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    assert not re.search(r"://[^\s/:@]+:[^\s/@]+@", text)
    assert not re.search(r"(?i)password:", text)


def test_ports_are_open_on_this_machine_only(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_keeps_running_is_checked_and_comes_back(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if name in ENDING:
            assert service["restart"] == "no"
            continue
        assert service["restart"] == "unless-stopped", name
        assert {"test", "interval", "timeout"} <= set(service["healthcheck"]), name


def test_dependencies_wait_for_the_right_thing(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for other, wait in service.get("depends_on", {}).items():
            healthy = "healthcheck" in services[other]
            expected = "service_completed_successfully" if other in ENDING else "service_healthy"
            assert wait == {"condition": expected}, f"{name} -> {other}"
            assert healthy is (other not in ENDING)


def test_the_workers_serve_every_queue_once_and_send_events(
    services: dict[str, dict[str, Any]],
) -> None:
    served: list[str] = []
    for name in ("worker-jobs", "worker-data"):
        command = services[name]["command"]
        served += command[command.index("-Q") + 1].split(",")
        assert "-E" in command
        node = command[command.index("-n") + 1]
        assert node == f"{services[name]['environment']['NODE']}@%n"
    assert sorted(served) == sorted(ALL_QUEUES)


def test_jobs_and_their_watcher_share_a_container(services: dict[str, dict[str, Any]]) -> None:
    """Processes of the local site cannot be seen from another container."""
    command = services["worker-jobs"]["command"]
    assert set(command[command.index("-Q") + 1].split(",")) == {"jobsub", "monitor"}


def test_our_containers_have_no_rights_they_do_not_need(
    services: dict[str, dict[str, Any]],
) -> None:
    for name in OURS:
        service = services[name]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert service["init"] is True


def test_the_image_does_not_run_as_root_and_is_built_from_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    words = [line.split()[0] for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
    assert words[0] == "FROM"
    assert words.count("USER") == 1
    assert "USER root" not in text
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*"
    root = DEPLOY.parent
    for kept in ("wlm_tasks", "examples", "celeryconfig.py", "setup.cfg", "pyproject.toml"):
        assert f"!{kept}" in ignored
        assert (root / kept).exists()
