"""Settings of an Aurora site: each mistake is one line, and no secret is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from wlm_tasks.compute.aurora.backend import AuroraBackend
from wlm_tasks.compute.aurora.generations import RUNNING, Generation
from wlm_tasks.compute.aurora.links import links_of
from wlm_tasks.compute.aurora.options import AuroraOptions, address
from wlm_tasks.config import SiteSettings
from wlm_tasks.errors import ConfigError

GOOD: dict[str, object] = {
    "url": "http://scheduler:8081/",
    "cluster": "example",
    "role": "gateway",
    "environment": "devel",
}


def test_defaults_and_all() -> None:
    options = AuroraOptions.of("mesos", GOOD)
    assert options.url == "http://scheduler:8081"
    assert options.hosts == {"scheduler:8081"}
    assert (options.tier, options.credentials, options.memory_mb) == ("", None, 1024)
    more = {"hosts": "A:1, [::1]:2", "tier": "preferred", "credentials": "env:NAME", "disk_mb": 5}
    options = AuroraOptions.of("mesos", GOOD | more)
    assert options.hosts == {"scheduler:8081", "a:1", "[::1]:2"}
    assert "NAME" in repr(options.credentials)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("url", None, "got nothing"),
        ("role", "", "got nothing"),
        ("url", "scheduler:8081", "a URL such as"),
        ("url", "ssh://scheduler", "a URL such as"),
        ("url", "http://gateway@scheduler:8081", "without a user"),
        ("url", "http://scheduler:99999", "a URL such as"),
        ("url", "http://scheduler/?a=b", "a query"),
        ("role", "two words", "letters, digits"),
        ("role", "r" * 66, "at most 65 characters"),
        ("role", 7, "text"),
        ("environment", "dev/el", "letters, digits"),
        ("cluster", "{{x}}", "letters, digits"),
        ("tier", "a b", "letters, digits"),
        ("hosts", "scheduler", "HOST:PORT"),
        ("hosts", "http://scheduler:8081", "HOST:PORT"),
        ("mesos_url", "master:5050", "a URL such as"),
        ("memory_mb", 0, "a whole number of MiB above 0"),
        ("disk_mb", True, "a whole number of MiB above 0"),
        ("partition", "x", "no such setting"),
    ],
)
def test_a_wrong_setting_is_named(key: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"^sites\.mesos\.{key}: ") as error:
        AuroraOptions.of("mesos", GOOD | {key: value})
    assert expected in error.value.message
    assert "\n" not in error.value.message


@pytest.mark.parametrize("value", ["gateway:hunter2", "hunter2", "file:relative", "env:"])
def test_a_password_in_place_of_a_reference_is_refused_unseen(value: str) -> None:
    with pytest.raises(ConfigError, match=r"sites\.mesos\.credentials: ") as error:
        AuroraOptions.of("mesos", GOOD | {"credentials": value})
    assert "hunter2" not in error.value.message
    with pytest.raises(ConfigError, match=r"sites\.mesos\.credentials: ") as error:
        SiteSettings(
            name="mesos",
            kind="aurora",
            scratch="/s",
            options=GOOD | {"credentials": value},  # type: ignore[arg-type]
        )
    assert "hunter2" not in error.value.message


def test_settings_of_the_site_and_of_the_backend_agree(tmp_path: Path) -> None:
    options = GOOD | {
        "hosts": "a:1, b:2",
        "tier": "preferred",
        "credentials": "file:/etc/wlm/aurora",
        "mesos_url": "http://master:5050",
        "memory_mb": 2048,
        "disk_mb": 10,
    }
    site = SiteSettings(name="mesos", kind="aurora", scratch="/s", options=options)  # type: ignore[arg-type]
    AuroraBackend(name="mesos", scratch=str(tmp_path), options=site.options).close()


def test_addresses() -> None:
    assert address("http://HOST/api") == "host:80"
    assert address("https://host") == "host:443"
    assert address("http://[::1]:5/x") == "[::1]:5"
    for url in ("/api", "ftp://host", "http://"):
        with pytest.raises(ValueError, match="a URL with a host"):
            address(url)


def test_links() -> None:
    options = AuroraOptions.of("mesos", GOOD | {"mesos_url": "http://master:5050/"})
    aurora = "http://scheduler:8081/scheduler/gateway/devel/t-1"
    assert links_of(options, "t-1", []) == {"aurora": aurora}
    task = Generation(task_id="a", status=RUNNING, agent_id="S/1")
    assert links_of(options, "t-1", [task]) == {
        "aurora": aurora,
        "mesos": "http://master:5050/#/agents/S%2F1",
    }
