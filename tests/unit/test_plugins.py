"""Backends by entry point."""

from __future__ import annotations

import configparser
import importlib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from wlm_tasks import plugins
from wlm_tasks.compute.fake import NoopBackend
from wlm_tasks.compute.local import LocalBackend
from wlm_tasks.errors import ConfigError
from wlm_tasks.storage.file import FileStorage

ROOT = Path(__file__).parents[2]


def declared() -> list[EntryPoint]:
    """Return the entry points of setup.cfg, installed or not."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return [
        EntryPoint(line.partition("=")[0].strip(), line.partition("=")[2].strip(), group)
        for group, lines in config["options.entry_points"].items()
        for line in lines.strip().splitlines()
    ]


@pytest.fixture(autouse=True)
def _found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the tests see what setup.cfg declares, whatever is installed."""

    def entry_points(*, group: str) -> list[EntryPoint]:
        return [point for point in declared() if point.group == group]

    monkeypatch.setattr(plugins, "entry_points", entry_points)
    plugins._found.cache_clear()
    yield
    plugins._found.cache_clear()


@pytest.mark.parametrize("point", declared(), ids=str)
def test_every_entry_point_loads(point: EntryPoint) -> None:
    assert callable(point.load())
    importlib.import_module(point.module)


def test_a_site_by_its_kind(tmp_path: Path) -> None:
    local = plugins.compute_backend("local", name="here", scratch=str(tmp_path), options={})
    assert isinstance(local, LocalBackend)
    noop = plugins.compute_backend("noop", name="n", scratch="/x", options={})
    assert isinstance(noop, NoopBackend)


@pytest.mark.parametrize("url", ["file:///a", "FILE:///a"])
def test_a_storage_by_its_scheme(url: str) -> None:
    assert isinstance(plugins.storage_backend(url), FileStorage)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"sites\.a\.kind: got 'lcoal', expected one of: .*local.*noop"
    ):
        plugins.compute_backend("lcoal", name="a", scratch="/x", options={})


@pytest.mark.parametrize("url", ["gopher://me:secret@host/x", "path", "", "://x"])
def test_an_unknown_scheme_names_the_known_ones_and_no_secret(url: str) -> None:
    with pytest.raises(ConfigError, match=r"scheme: got '.*', expected one of: .*file") as caught:
        plugins.storage_backend(url)
    assert "secret" not in str(caught.value)


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    with pytest.raises(ConfigError, match="none: is wlm_tasks installed"):
        plugins.storage_backend("file:///a")


def test_a_broken_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("bad", "wlm_tasks.nothing:X", plugins.COMPUTE)]
    points.append(EntryPoint("worse", "wlm_tasks.plugins:Nothing", plugins.COMPUTE))
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    for name in ("bad", "worse"):
        with pytest.raises(ConfigError, match=f"'{name}' cannot be loaded from wlm_tasks"):
            plugins.compute_backend(name, name="a", scratch="/x", options={})
    assert plugins.known(plugins.COMPUTE) == ["bad", "worse"]
