"""Storages to run the storage tests on: one interface over files and over memory."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import quote

from unit.compute.sites import forked

from services.sshd import PrivateSshd
from wlm_tasks.model.paths import lock_name, part_name
from wlm_tasks.storage.base import StorageBackend, TransferControl, TransferResult
from wlm_tasks.storage.beneath import target_directory
from wlm_tasks.storage.fake import FakeStorage, MemStore
from wlm_tasks.storage.file import FileStorage
from wlm_tasks.storage.localfiles import FileTarget
from wlm_tasks.storage.localtrees import LocalDirectory
from wlm_tasks.storage.scp import ScpStorage
from wlm_tasks.storage.transfer import move

MiB = 1024 * 1024
CONTROL = TransferControl()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(
    backend: StorageBackend, url: str, root: str, path: str, control: TransferControl
) -> TransferResult:
    """Bring a file to `path` below `root`."""
    with (
        backend.source(url) as source,
        LocalDirectory(root).target(path, source.mode) as target,
    ):
        return move(source, target, control)


def deliver(
    backend: StorageBackend, root: str, path: str, url: str, control: TransferControl
) -> TransferResult:
    """Take `path` below `root` to where the URL says."""
    with (
        LocalDirectory(root).source(path) as source,
        backend.target(url, source.mode) as target,
    ):
        return move(source, target, control)


def stop_after(chunks: int) -> TransferControl:
    """Return a control that ends a transfer after so many chunks."""
    asked = iter(range(10**9))
    return TransferControl(should_stop=lambda: next(asked) >= chunks)


def wait_for_tick(directory: Path) -> None:
    """Wait until a file changed now has another time than one changed before."""
    probe = directory / "tick"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        probe.touch()
    probe.unlink()


class Store(ABC):
    """What a test needs beside the interface it tests: a far side, and a root on this one."""

    backend: StorageBackend
    #: whether what was moved to the far side is kept there when a transfer ends early
    resumes = True
    #: whether a file of the far side can be cut off
    cuts = True
    #: what is kept of a file that is not whole is a multiple of so many bytes
    block = 1
    #: characters that names of the far side cannot have
    no_names = ""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        self.root.mkdir()

    @abstractmethod
    def url(self, name: str) -> str:
        """Return the URL of a file of the far side."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Put a file on the far side."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return a file of the far side."""

    @abstractmethod
    def write_part(self, name: str, data: bytes) -> None:
        """Leave a part file of that file on the far side."""

    @abstractmethod
    def read_part(self, name: str) -> bytes | None:
        """Return the part file of that file on the far side."""

    @abstractmethod
    def locked(self, name: str) -> AbstractContextManager[object]:
        """Be another transfer to that file of the far side."""


class FileStore(Store):
    backend: StorageBackend

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.far = directory / "far side"
        self.far.mkdir()
        self.backend = FileStorage()

    def path(self, name: str) -> Path:
        return self.far / name

    def url(self, name: str) -> str:
        return f"file://{quote(str(self.path(name)))}"

    def write(self, name: str, data: bytes) -> None:
        self.path(name).write_bytes(data)

    def read(self, name: str) -> bytes | None:
        return self.path(name).read_bytes() if self.path(name).exists() else None

    def write_part(self, name: str, data: bytes) -> None:
        self.path(part_name(name)).write_bytes(data)

    def read_part(self, name: str) -> bytes | None:
        return self.read(part_name(name))

    def locked(self, name: str) -> AbstractContextManager[object]:
        return local_lock(self.far, name)


class MemTestStore(Store):
    tells = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.store = MemStore(tells=self.tells)
        self.backend = FakeStorage(self.store)

    def url(self, name: str) -> str:
        return f"mem:/{name}"

    def write(self, name: str, data: bytes) -> None:
        self.store.files[self.url(name)] = data

    def read(self, name: str) -> bytes | None:
        return self.store.files.get(self.url(name))

    def write_part(self, name: str, data: bytes) -> None:
        self.store.parts[self.url(name)] = bytearray(data)

    def read_part(self, name: str) -> bytes | None:
        part = self.store.parts.get(self.url(name))
        return None if part is None else bytes(part)

    def locked(self, name: str) -> AbstractContextManager[object]:
        return self.store.locked(self.url(name))


class ScpStore(FileStore):
    """Files of this host by way of an sshd."""

    def __init__(self, directory: Path, server: PrivateSshd) -> None:
        super().__init__(directory)
        self._server = server
        self.backend = ScpStorage(name="lab", options=server.options)

    def url(self, name: str) -> str:
        server = self._server
        return f"scp://{server.host}:{server.port}{quote(str(self.path(name)))}"

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        part = self.path(part_name(name))
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        part.unlink()


class SftpStore(FileStore):
    """Files of this host by way of an sshd that lets no shell in."""

    def __init__(self, directory: Path, server: PrivateSshd) -> None:
        super().__init__(directory)
        self.server = server
        self.backend = ScpStorage(name="lab", options=server.options)
        self._time = 1_000_000_000

    def url(self, name: str) -> str:
        server = self.server
        return f"sftp://{server.host}:{server.port}{quote(str(self.path(name)))}"

    def write(self, name: str, data: bytes) -> None:
        super().write(name, data)
        self._touch(self.path(name))

    def write_part(self, name: str, data: bytes) -> None:
        super().write_part(name, data)
        self._touch(self.path(part_name(name)))

    def _touch(self, path: Path) -> None:
        """Give it an old time, and each another one: SFTP tells whole seconds."""
        self._time += 2
        os.utime(path, (self._time, self._time))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """The lock of a process of another host."""
        lock = self.path(lock_name(name))
        lock.write_bytes(b"elsewhere 1 1 1")
        yield
        lock.unlink()


class FarMemStore(MemTestStore):
    """As a host behind a shell: it computes digests itself."""

    tells = True


@contextmanager
def local_lock(root: Path, path: str) -> Iterator[None]:
    """Be another transfer to `path` below `root`."""
    with (
        target_directory(str(root), path) as (dir_fd, name),
        FileTarget(dir_fd, name, path, mode=0o600).part(0),
    ):
        yield


class Way(ABC):
    """A direction of transfer, so that both are tested alike."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def resumes(self) -> bool:
        """Whether an early end keeps what was moved."""
        return True

    @property
    def cuts(self) -> bool:
        """Whether a part can be cut off."""
        return True

    @property
    def block(self) -> int:
        """What is kept of a file that is not whole is a multiple of so many bytes."""
        return 1

    @abstractmethod
    def go(self, control: TransferControl | None = None) -> TransferResult:
        """Make the transfer."""

    @abstractmethod
    def source(self, data: bytes) -> None:
        """Put the source there."""

    @abstractmethod
    def target(self) -> bytes | None:
        """Return what is at the target."""

    @abstractmethod
    def write_target(self, data: bytes) -> None:
        """Put something at the target."""

    @abstractmethod
    def part(self) -> bytes | None:
        """Return what is in the part file."""

    @abstractmethod
    def write_part(self, data: bytes) -> None:
        """Leave a part file."""

    @abstractmethod
    def locked(self) -> AbstractContextManager[object]:
        """Be another transfer to the same target."""


class Get(Way):
    def go(self, control: TransferControl | None = None) -> TransferResult:
        url = self.store.url("far.dat")
        return fetch(
            self.store.backend,
            url,
            str(self.store.root),
            "sub/near.dat",
            control or TransferControl(),
        )

    def source(self, data: bytes) -> None:
        self.store.write("far.dat", data)

    @property
    def _target(self) -> Path:
        return self.store.root / "sub" / "near.dat"

    @property
    def _part(self) -> Path:
        return self._target.with_name(".near.dat.wlm-part")

    def target(self) -> bytes | None:
        return self._target.read_bytes() if self._target.exists() else None

    def write_target(self, data: bytes) -> None:
        self._target.parent.mkdir(exist_ok=True)
        self._target.write_bytes(data)

    def part(self) -> bytes | None:
        return self._part.read_bytes() if self._part.exists() else None

    def write_part(self, data: bytes) -> None:
        self._part.parent.mkdir(exist_ok=True)
        self._part.write_bytes(data)

    def locked(self) -> AbstractContextManager[object]:
        return local_lock(self.store.root, "sub/near.dat")


class Put(Way):
    @property
    def resumes(self) -> bool:
        return self.store.resumes

    @property
    def cuts(self) -> bool:
        return self.store.cuts

    @property
    def block(self) -> int:
        return self.store.block

    def go(self, control: TransferControl | None = None) -> TransferResult:
        url = self.store.url("far.dat")
        return deliver(
            self.store.backend, str(self.store.root), "near.dat", url, control or TransferControl()
        )

    def source(self, data: bytes) -> None:
        (self.store.root / "near.dat").write_bytes(data)

    def target(self) -> bytes | None:
        return self.store.read("far.dat")

    def write_target(self, data: bytes) -> None:
        self.store.write("far.dat", data)

    def part(self) -> bytes | None:
        return self.store.read_part("far.dat")

    def write_part(self, data: bytes) -> None:
        self.store.write_part("far.dat", data)

    def locked(self) -> AbstractContextManager[object]:
        return self.store.locked("far.dat")


def get(files: FileStore, path: str = "x") -> None:
    """Bring the far file to this path below root."""
    fetch(files.backend, files.url("far.dat"), str(files.root), path, CONTROL)


def put(files: FileStore, path: str = "x") -> None:
    """Take this path below root to the far file."""
    deliver(files.backend, str(files.root), path, files.url("far.dat"), CONTROL)


def killed_at(
    way: Way,
    point: int,
    note: Callable[[int, int], None] = lambda _done, _size: None,
    *,
    pause_s: float = 0.0,
) -> None:
    """Kill a process that makes the transfer once so many bytes are done, a moment later."""

    def go() -> None:
        def progress(done: int, size: int) -> None:
            note(done, size)
            if done >= point:
                time.sleep(pause_s)
                os.kill(os.getpid(), signal.SIGKILL)

        way.go(TransferControl(progress=progress))

    with forked(go) as pid:
        _pid, status = os.waitpid(pid, 0)
        assert os.WIFSIGNALED(status)
    assert way.target() is None
