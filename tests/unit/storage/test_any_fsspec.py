"""Storages by way of fsspec: which schemes, which URLs, and what packages may do wrong."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry, known_implementations
from unit.storage.objectstores import AnyStore
from unit.storage.stores import MiB, stop_after
from unit.storage.webstores import bring, take

from wlm_tasks import plugins
from wlm_tasks.errors import (
    ConfigError,
    InvalidPathError,
    StepError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.storage import any_fsspec
from wlm_tasks.storage.any_file import translated
from wlm_tasks.storage.any_fsspec import REMOTE, FsspecStorage

DATA = bytes(range(256)) * 4096 * 3


class Renaming(MemoryFileSystem):  # type: ignore[misc]
    """A store with a rename of its own, which replaces nothing, and may not even say so."""

    protocol = "renaming"
    moved: ClassVar[list[str]] = []

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        found: str = super()._strip_protocol(path.replace("renaming://", "memory://"))
        return found

    silent: ClassVar[bool] = False

    def mv(self, path1: str, path2: str, **_more: Any) -> None:
        if path2 in self.store:
            if self.silent:
                return
            raise ValueError(path2)  # as a package that has errors of its own
        self.moved.append(path2)
        self.store[path2] = self.store.pop(path1)


class Unmoving(MemoryFileSystem):  # type: ignore[misc]
    protocol = "unmoving"
    cp_file = fsspec.AbstractFileSystem.cp_file


class Here(LocalFileSystem):  # type: ignore[misc]
    protocol = "here"


@pytest.fixture
def registered(memory: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be other schemes that are taken for places elsewhere."""
    monkeypatch.setattr(Renaming, "moved", [])
    for name, made in {"renaming": Renaming, "unmoving": Unmoving, "here": Here}.items():
        monkeypatch.setitem(_registry, name, made)
        monkeypatch.setattr(any_fsspec, "REMOTE", any_fsspec.REMOTE | {name})


@pytest.mark.parametrize("silent", [False, True])
def test_a_scheme_of_another_package(
    memory: AnyStore, registered: None, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(Renaming, "silent", silent)
    memory.backend = plugins.storage_backend("renaming://far/x")
    assert isinstance(memory.backend, FsspecStorage)
    assert take(memory, DATA, "renaming://far/new/far.dat").complete
    assert memory.read("new/far.dat") == DATA
    memory.files.store["/far/new/.far.dat.wlm-old"] = memory.files.store["/far/new/far.dat"]
    other = DATA[::-1]  # of the same size
    assert take(memory, other, "renaming://far/new/far.dat").complete
    assert memory.read("new/far.dat") == other
    old = "/far/new/.far.dat.wlm-old"
    assert Renaming.moved == ["/far/new/far.dat", old, "/far/new/far.dat"]
    assert [*memory.files.store] == ["/far/new/far.dat"]
    assert bring(memory, "renaming://far/new/far.dat") == other


def test_the_old_file_comes_back_where_the_new_cannot(
    memory: AnyStore, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.backend = plugins.storage_backend("renaming://far/x")
    take(memory, DATA, "renaming://far/far.dat")
    moved = Renaming.mv

    def closed(files: Renaming, path1: str, path2: str, **more: Any) -> None:
        if path1.endswith("part") and not files.exists(path2):
            raise PermissionError(path2)
        moved(files, path1, path2, **more)

    monkeypatch.setattr(Renaming, "mv", closed)
    with pytest.raises(StorageRefusedError, match="permission denied"):
        take(memory, DATA[1:], "renaming://far/far.dat")
    assert memory.read("far.dat") == DATA
    assert [*memory.files.store] == ["/far/far.dat"]


def test_a_transfer_that_ended_between_two_renames(
    memory: AnyStore, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.backend = plugins.storage_backend("renaming://far/x")
    take(memory, DATA, "renaming://far/far.dat")
    moved = Renaming.mv

    def killed(files: Renaming, path1: str, path2: str, **more: Any) -> None:
        if "/far/far.dat" not in files.store:
            raise KeyboardInterrupt
        moved(files, path1, path2, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Renaming, "mv", killed)
        with pytest.raises(KeyboardInterrupt):
            take(memory, DATA[1:], "renaming://far/far.dat")
    assert "/far/.far.dat.wlm-old" in memory.files.store
    assert take(memory, DATA, "renaming://far/far.dat").moved == 0  # it came back, and is the same
    assert take(memory, DATA[1:], "renaming://far/far.dat").complete
    assert [*memory.files.store] == ["/far/far.dat"]


def test_a_fault_while_it_is_looked_for_is_no_absence(
    memory: AnyStore, registered: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that says nothing of a rename it refused, and does not tell what there is."""
    memory.backend = plugins.storage_backend("renaming://far/x")
    take(memory, DATA, "renaming://far/far.dat")
    monkeypatch.setattr(Renaming, "silent", True)
    info, renamed = Renaming.info, list[str]()
    moved = Renaming.mv

    def mv(files: Renaming, path1: str, path2: str, **more: Any) -> None:
        renamed.append(path2)
        moved(files, path1, path2, **more)

    def away(files: Renaming, path: str, **more: Any) -> Any:
        if renamed:
            raise ConnectionResetError("the name node")
        return info(files, path, **more)

    monkeypatch.setattr(Renaming, "mv", mv)
    monkeypatch.setattr(Renaming, "info", away)
    with pytest.raises(StorageUnavailableError):
        take(memory, DATA[::-1], "renaming://far/far.dat")
    monkeypatch.undo()
    assert memory.read("far.dat") == DATA


def test_a_store_without_rename_and_copy(memory: AnyStore, registered: None) -> None:
    memory.backend = plugins.storage_backend("unmoving://far/x")
    with pytest.raises(StorageRefusedError, match="neither renamed nor copied"):
        take(memory, DATA, "unmoving://far/far.dat")
    assert memory.files.store == {}


def test_files_of_this_host_in_disguise(memory: AnyStore, registered: None) -> None:
    memory.backend = plugins.storage_backend("here://x/y")
    with pytest.raises(StorageRefusedError, match="is a file of this host"):
        bring(memory, "here://x/y")
    with pytest.raises(StorageRefusedError, match="is a file of this host"):
        take(memory, DATA, "here://x/y")


REFUSED = sorted({*known_implementations} - REMOTE - {*plugins.known(plugins.STORAGE)})


@pytest.mark.parametrize("scheme", REFUSED)
def test_schemes_that_are_no_place_elsewhere(scheme: str) -> None:
    with pytest.raises(ConfigError, match=r"URL's scheme: got.* not known as a place"):
        plugins.storage_backend(f"{scheme}://host/path")


def test_dangerous_schemes_are_among_them() -> None:
    assert {"local", "reference", "simplecache", "zip", "generic", "git", "dask", "dir"} <= {
        *REFUSED
    }


@pytest.mark.parametrize("scheme", ["file", "http", "https", "ftp", "sftp", "s3"])
def test_ours_come_first(scheme: str) -> None:
    assert not isinstance(plugins.storage_backend(f"{scheme}://host/path"), FsspecStorage)


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_scheme: str) -> None:
        raise ImportError("Install adlfs\nto access Azure")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(ConfigError, match=r"'abfs' needs a package \(Install adlfs"):
        plugins.storage_backend("abfs://box/x")


def test_a_scheme_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"got 'gopher', .* file, .* or a remote one of fsspec"):
        plugins.storage_backend("gopher://x/y")
    real = importlib.util.find_spec

    def without(name: str) -> ModuleSpec | None:
        return None if name == "fsspec" else real(name)

    monkeypatch.setattr(plugins, "find_spec", without)
    for scheme in ("gopher", "gs"):
        with pytest.raises(ConfigError, match=r"file, .*pip install 'wlm_tasks\[fsspec\]'"):
            plugins.storage_backend(f"{scheme}://x/y")


@pytest.mark.parametrize(
    "url",
    [
        *("gs://", "gs://box", "gs://box/", "gs://box/a/", "gs://box/../x", "gs://box/%2e%2e/x"),
        *("gs://me:pw@box/x", "gs://box/x?y", "gs://box/x#y", "gs://box/a%2Fb", "gs://box/%ff"),
        *("gs://box/x::file:///etc/passwd", "gs://box/x%3A%3Azip", "simplecache::gs://box/x"),
        *("gs://box/.x.wlm-part", "gs://box/a b", "file:///etc/passwd", "gs:///x", "gs://box/%00"),
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(InvalidPathError, match="got") as caught:
        FsspecStorage("gs").check(url)
    assert "pw" not in str(caught.value)


def test_chained_urls_have_no_scheme_of_ours() -> None:
    for url in ("simplecache::memory://x/y", "zip://x::file:///y", "filecache::s3://x/y"):
        with pytest.raises(ConfigError):
            plugins.storage_backend(url)


def test_settings(memory: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def seen(_url: str, **options: Any) -> Any:
        given.append(options)
        raise PermissionError("me:hunter2")

    monkeypatch.setattr(fsspec, "url_to_fs", seen)
    monkeypatch.setenv("LAB", "me:hunter2")
    monkeypatch.setenv("TOKEN", "abc")
    for options in ({}, {"credentials": "env:LAB"}, {"token": "env:TOKEN"}):
        memory.backend = FsspecStorage("memory", name="lab", options=options)
        with pytest.raises(StorageRefusedError, match="permission denied") as caught:
            bring(memory)
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in repr(vars(memory.backend))
    base = {"skip_instance_cache": True}
    assert given == [
        base,
        base | {"username": "me", "password": "hunter2"},
        base | {"token": "abc"},
    ]
    with pytest.raises(ConfigError, match=r"storages\.lab\.region: .*no such setting"):
        FsspecStorage("memory", name="lab", options={"region": "x"})


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("hunter2"), StorageRefusedError),
        (PermissionError("hunter2"), StorageRefusedError),
        (IsADirectoryError("hunter2"), StorageRefusedError),
        (NotImplementedError("hunter2"), StorageRefusedError),
        (TypeError("hunter2"), StorageRefusedError),
        (OSError("hunter2"), StorageUnavailableError),
        (TimeoutError("hunter2"), StorageUnavailableError),
        (RuntimeError("hunter2"), StorageUnavailableError),
        (StorageRefusedError("as it is"), StorageRefusedError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_packages_raise(error: Exception, kind: type[StepError]) -> None:
    with pytest.raises(kind) as caught, translated("gs://box/x"):
        raise error
    assert "hunter2" not in str(caught.value)


def failing(method: str, after: int = 0) -> Callable[[pytest.MonkeyPatch], None]:
    """Let a method of the store fail, after so many calls."""

    def use(monkeypatch: pytest.MonkeyPatch) -> None:
        real, calls = getattr(MemoryFileSystem, method), iter(range(100))

        def fail(self: Any, *given: Any, **more: Any) -> Any:
            if next(calls) >= after:
                raise OSError("gone")
            return real(self, *given, **more)

        monkeypatch.setattr(MemoryFileSystem, method, fail)

    return use


@pytest.mark.parametrize("fault", [failing("_open"), failing("cp_file"), failing("info", 1)])
def test_a_fault_leaves_nothing(
    memory: AnyStore, fault: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault(monkeypatch)
        with pytest.raises(StorageUnavailableError, match="cannot be used"):
            take(memory, DATA)
    assert memory.files.store == {}
    assert take(memory, DATA).complete


def test_a_store_that_keeps_less(memory: AnyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MemoryFileSystem.info

    def less(self: Any, path: str, **more: Any) -> Any:
        return {**real(self, path, **more), "size": 5}

    monkeypatch.setattr(MemoryFileSystem, "info", less)
    with pytest.raises(StorageUnavailableError, match=f"with 5 bytes, expected {len(DATA)}"):
        take(memory, DATA)
    assert memory.files.store == {}


def test_a_directory_is_no_file(memory: AnyStore) -> None:
    memory.write("there/x", DATA)
    with pytest.raises(StorageRefusedError, match="is no regular file"):
        bring(memory, memory.url("there"))
    with pytest.raises(StorageRefusedError, match="is no regular file"):
        take(memory, DATA, memory.url("there"))


def test_slices_that_never_get_on_are_told(memory: AnyStore) -> None:
    for _ in range(2):
        assert not take(memory, DATA, control=stop_after(1)).complete
        assert memory.files.store == {}
    with pytest.raises(StorageUnavailableError, match=r"stopped 3 times .*`steps\.slice_s`"):
        take(memory, DATA, control=stop_after(1))
    assert take(memory, DATA).moved == 3 * MiB
