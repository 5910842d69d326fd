"""Secrets are shown to nobody and read when they are needed."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from wlm_tasks.config import Secret, load
from wlm_tasks.errors import ConfigError

URL = "amqp://wlm:hunter2@mq/wlm"


def test_a_secret_does_not_show() -> None:
    secret = Secret(URL)
    assert secret.reveal() == URL
    for shown in (str(secret), repr(secret), f"{secret}", f"{secret!r}", "%s" % secret):  # noqa: UP031
        assert "hunter2" not in shown
        assert "amqp://wlm:***@mq/wlm" in shown
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(secret)
    assert copy.deepcopy(secret) is secret
    assert secret == Secret(URL) != Secret("amqp://mq")
    assert len({secret, Secret(URL)}) == 1


def test_from_the_environment(tmp_path: Path) -> None:
    environ = {"MQ": f" {URL}\n", "HOME": "/h"}
    file = tmp_path / "wlm.toml"
    file.write_text("broker_url = 'env:MQ'\n")
    settings = load(file, environ)
    assert settings.broker_url is not None
    assert str(settings.broker_url) == "env:MQ"
    assert settings.broker_url.reveal() == URL
    environ["MQ"] = "amqp://u:new@mq"
    assert settings.broker_url.reveal() == "amqp://u:new@mq"


def test_from_a_file_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "wlm.toml").write_text("database_url = 'file:secrets/db'\n")
    settings = load(tmp_path / "wlm.toml", {"HOME": "/h"})
    with pytest.raises(ConfigError, match=r"expected a readable file \(No such file"):
        _ = settings.database
    secret = tmp_path / "secrets" / "db"
    secret.parent.mkdir()
    secret.write_text("postgresql+psycopg://u:hunter2@db/wlm\n")
    secret.chmod(0o640)
    assert settings.database == "postgresql+psycopg://u:hunter2@db/wlm"
    assert "hunter2" not in repr(settings)


def _world_readable(file: Path) -> None:
    file.write_text(URL)
    file.chmod(0o644)


def _wrong(file: Path) -> None:
    file.write_text("http://u:hunter2@h")
    file.chmod(0o600)


def _binary(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    file.chmod(0o600)


def _empty(file: Path) -> None:
    file.write_text("\n")
    file.chmod(0o600)


@pytest.mark.parametrize(
    ("make", "value", "expected"),
    [
        (lambda _file: None, "'file:secret'", "expected a readable file (No such file"),
        (lambda file: file.mkdir(), "'file:secret'", "expected a regular file"),
        (_world_readable, "'file:secret'", "expected a file that others cannot read (chmod o-rwx)"),
        (_wrong, "'http://u:***@h'", "expected a URL such as 'amqp://"),
        (_binary, "'file:secret'", "expected a readable file (not UTF-8 text)"),
        (_empty, "'file:secret'", "expected a file that is not empty"),
    ],
)
def test_files_that_do_not_serve(
    make: Callable[[Path], None], value: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "wlm.toml").write_text("broker_url = 'file:secret'\n")
    make(tmp_path / "secret")
    settings = load(tmp_path / "wlm.toml", {"HOME": "/h"})
    assert settings.broker_url is not None
    with pytest.raises(ConfigError) as caught:
        settings.broker_url.reveal()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/wlm.toml: broker_url: got {value}")
    assert expected in message
    assert "hunter2" not in message
    assert message.isprintable()


def test_unset_variables(tmp_path: Path) -> None:
    (tmp_path / "wlm.toml").write_text("broker_url = 'env:MQ'\n")
    for environ in ({"HOME": "/h"}, {"HOME": "/h", "MQ": " "}):
        settings = load(tmp_path / "wlm.toml", environ)
        assert not settings.embedded
        assert settings.broker_url is not None
        with pytest.raises(ConfigError, match=r"got 'env:MQ', expected this environment variable"):
            settings.broker_url.reveal()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WLM_ALERTS_WEBHOOK_URL", "ftp://h/hunter2", "a URL such as 'https://host/path'"),
        ("WLM_ALERTS_WEBHOOK_URL", "https://u:hunter2@h/", "a URL such as 'https://host/path'"),
        ("WLM_ALERTS_WEBHOOK_SECRET", "hunter2", "8 to 1024 letters"),
    ],
)
def test_what_is_all_secret_is_not_shown_even_if_it_is_wrong(
    name: str, value: str, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"HOME": "/h", name: value})
    assert str(caught.value).startswith(f"{name}: got '***', expected {expected}")


def test_what_is_all_secret_is_not_shown() -> None:
    """The URL of a webhook lets in whoever knows it, wherever in it the token is."""
    environ = {
        "HOME": "/h",
        "WLM_ALERTS_WEBHOOK_URL": "https://h/hunter2",
        "WLM_ALERTS_WEBHOOK_SECRET": "hunter2hunter2",
    }
    alerts = load(environ=environ).alerts
    assert alerts.webhook_url is not None
    assert alerts.webhook_url.reveal() == "https://h/hunter2"
    assert "hunter2" not in f"{alerts!r} {alerts.webhook_url} {load(environ=environ).describe()}"
