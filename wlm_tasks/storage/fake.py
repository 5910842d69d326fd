"""A storage in memory to write tests with (``mem:`` URLs), and one that does nothing."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any, ClassVar, Final

from wlm_tasks.errors import StorageRefusedError
from wlm_tasks.model.ends import DigestOf, Part, Readable, Source, Target
from wlm_tasks.storage.base import StorageBackend
from wlm_tasks.storage.locks import busy


class MemStore:
    """The memory of a fake storage. Give one to several backends: they see the same files.

    `fail` makes calls go wrong, `break_after` interrupts a transfer under way. One that `tells`
    computes digests itself, as a host behind a shell does.
    """

    def __init__(self, *, tells: bool = False) -> None:
        self.tells: Final = tells
        self.files: Final[dict[str, bytes]] = {}
        self.parts: Final[dict[str, bytearray]] = {}
        self.calls: Final[list[tuple[str, str]]] = []
        self._faults: Final[defaultdict[str, deque[Exception]]] = defaultdict(deque)
        self._breaks: Final[deque[tuple[int, Exception]]] = deque()
        self._locks: Final[defaultdict[str, Lock]] = defaultdict(Lock)

    def fail(self, method: str, *errors: Exception) -> None:
        """Let the next calls of `method` raise these instead of doing anything."""
        self._faults[method].extend(errors)

    def break_after(self, moved: int, error: Exception) -> None:
        """Raise `error` in the next transfer once this side has given or taken so many bytes."""
        self._breaks.append((moved, error))

    def call(self, method: str, url: str) -> None:
        """Note a call; raise the fault planned for it."""
        self.calls.append((method, url))
        if self._faults[method]:
            raise self._faults[method].popleft()

    def moved(self, count: int) -> None:
        """Raise the error planned for a transfer of which this side has moved `count` bytes."""
        if self._breaks and count >= self._breaks[0][0]:
            raise self._breaks.popleft()[1]

    @contextmanager
    def locked(self, url: str) -> Iterator[None]:
        """Hold the lock of a part file."""
        lock = self._locks[url]
        if not lock.acquire(blocking=False):
            raise busy(url)
        try:
            yield
        finally:
            lock.release()


class FakeStorage(StorageBackend):
    """Files in a `MemStore`."""

    schemes: ClassVar[frozenset[str]] = frozenset({"mem"})

    def __init__(self, store: MemStore | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.store = store or MemStore()

    def source(self, url: str) -> AbstractContextManager[Source]:
        """Read the bytes of the URL."""
        self.store.call("source", url)
        return nullcontext(_MemSource(self.store, url))

    def target(self, url: str, mode: int | None) -> AbstractContextManager[Target]:  # noqa: ARG002
        """Keep bytes under the URL."""
        self.store.call("target", url)
        return nullcontext(_MemTarget(self.store, url))

    def size(self, url: str) -> int:
        """Return how many bytes there are."""
        self.store.call("size", url)
        return _MemSource(self.store, url).size


class NoopStorage(StorageBackend):
    """Every file is there and nothing is moved: for benchmarks, ``noop://`` URLs."""

    schemes: ClassVar[frozenset[str]] = frozenset({"noop"})
    moves_nothing: ClassVar[bool] = True

    def source(self, url: str) -> AbstractContextManager[Source]:
        """Tell that there is nothing to read."""
        raise StorageRefusedError(f"{url}: holds no bytes")

    def size(self, url: str) -> int:  # noqa: ARG002
        """Return 0."""
        return 0


class _MemBytes:
    def __init__(self, store: MemStore, place: str, data: bytes | bytearray) -> None:
        self.place = place
        self.mode: int | None = None
        self._store = store
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(self._data[offset : offset + length])

    def digest(self, length: int) -> str | None:
        if not self._store.tells:
            return None
        return hashlib.sha256(self._data[:length]).hexdigest()

    def identity(self) -> Hashable:
        return _Same(self._data), len(self._data)


class _Same:
    """Equal to what stands for the very same object."""

    def __init__(self, what: object) -> None:
        self._what = what

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other._what is self._what

    def __hash__(self) -> int:
        return id(self._what)


class _MemSource(_MemBytes):
    def __init__(self, store: MemStore, url: str) -> None:
        if url not in store.files:
            raise StorageRefusedError(f"{url}: no such file")
        super().__init__(store, url, store.files[url])
        self._moved = 0

    def read_at(self, offset: int, length: int) -> bytes:
        self._store.moved(self._moved)
        data = super().read_at(offset, length)
        self._moved += len(data)
        return data

    def changed(self) -> bool:
        return self._store.files.get(self.place) is not self._data


class _MemTarget:
    def __init__(self, store: MemStore, url: str) -> None:
        self._store = store
        self._url = url

    @contextmanager
    def present(self) -> Iterator[Readable | None]:
        data = self._store.files.get(self._url)
        yield None if data is None else _MemBytes(self._store, self._url, data)

    @contextmanager
    def part(self, size: int) -> Iterator[Part]:  # noqa: ARG002
        with self._store.locked(self._url):
            yield _MemPart(self._store, self._url)


class _MemPart(_MemBytes):
    def __init__(self, store: MemStore, url: str) -> None:
        self._part = store.parts.setdefault(url, bytearray())
        super().__init__(store, url, self._part)
        self._moved = 0

    def write_at(self, offset: int, data: bytes) -> None:
        self._store.moved(self._moved)
        self._part[offset : offset + len(data)] = data
        self._moved += len(data)

    def truncate(self, size: int) -> None:
        del self._part[size:]

    def commit(self, digest: DigestOf) -> None:  # noqa: ARG002
        self._store.files[self.place] = bytes(self._store.parts.pop(self.place))

    def discard(self) -> None:
        del self._store.parts[self.place]
