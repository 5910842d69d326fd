"""Files of fsspec's file systems as ends of transfers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Self

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem

from wlm_tasks.errors import (
    InvalidPathError,
    StepError,
    StorageMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.model.ends import DigestOf, Part, Readable
from wlm_tasks.model.paths import old_name, part_name
from wlm_tasks.storage.locks import Locks
from wlm_tasks.storage.oneway import OneWay

_LOCKS: Final = Locks()
_REFUSALS: Final = (
    *(PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError),
    *(TypeError, ImportError),
)
#: what packages call that which another content has another of, beside the size
_VALIDATORS: Final = (
    *(
        "ETag",
        "etag",
        "Etag",
        "version_id",
        "versionId",
        "generation",
        "sha",
        "oid",
        "content_hash",
    ),
    *("md5Hash", "md5", "checksum", "LastModified", "last_modified", "updated", "mtime"),
    *("modified", "modificationTime", "modification_time", "modify_time", "created"),
)


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise whatever a package raises as errors of a storage.

    Of the original only the kind is told: its text may say how it got in.
    """
    try:
        yield
    except (StepError, InvalidPathError):
        raise
    except FileNotFoundError:
        raise StorageMissingError(f"{place}: No such file") from None
    except _REFUSALS as error:
        raise StorageRefusedError(f"{place}: {_words(error)}") from None
    except Exception as error:  # noqa: BLE001 - each package has errors of its own
        raise StorageUnavailableError(f"{place}: {_words(error)}") from None


def _words(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, PermissionError):
        return f"permission denied ({kind})"
    if isinstance(error, NotImplementedError):
        return f"this cannot be done there ({kind})"
    if isinstance(error, OSError):
        return f"the store cannot be used ({kind})"
    return f"went wrong in the package behind it ({type(error).__module__}.{kind})"


def _told(files: Any, path: str, place: str) -> dict[str, Any]:
    """Return what is told of a file; `StorageRefusedError` if it is none."""
    with translated(place):
        files.invalidate_cache()
        told: dict[str, Any] = files.info(path)
    if told.get("type") != "file":
        raise StorageRefusedError(f"{place}: is no regular file there")
    if not isinstance(told.get("size"), int):
        raise StorageRefusedError(f"{place}: its size is not told")
    return told


def _version(told: dict[str, Any]) -> tuple[Hashable, ...]:
    return told["size"], *(str(told[key]) for key in _VALIDATORS if told.get(key))


class AnyFile:
    """A file, opened for reading from its first byte to its last."""

    def __init__(self, files: Any, path: str, place: str) -> None:
        self.place = place
        self.mode: int | None = None
        self._files = files
        self._path = path
        told = _told(files, path, place)
        self._size: int = told["size"]
        self._version = _version(told)
        self._open: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_raised: object) -> None:
        if self._open is not None:
            with suppress(StepError), translated(self.place):
                self._open.close()

    @property
    def size(self) -> int:
        """Bytes in all when it was opened."""
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there."""
        wanted = min(length, self._size - offset)
        if wanted <= 0:
            return b""
        with translated(f"{self.place}: after {offset} bytes"):
            if self._open is None:
                self._open = self._files.open(self._path, "rb")
            if self._open.tell() != offset:
                self._open.seek(offset)
            data = bytes(self._open.read(wanted))
        if not data:
            raise StorageUnavailableError(
                f"{self.place}: ended after {offset} of {self._size} bytes"
            )
        return data

    def digest(self, length: int) -> str | None:  # noqa: ARG002
        """Tell nothing: what packages call checksums are of many kinds."""
        return None

    def identity(self) -> Hashable:
        """Return what is told of it; nothing equals that of which only the size is known."""
        known = len(self._version) > 1
        return (self.place, self._version) if known else object()

    def changed(self) -> bool:
        """Ask again."""
        try:
            return _version(_told(self._files, self._path, self.place)) != self._version
        except StorageRefusedError:
            return True


class AnyTarget:
    """A file to write."""

    def __init__(self, files: Any, path: str, place: str) -> None:
        self._files = files
        self._path = path
        self._place = place

    @contextmanager
    def present(self) -> Iterator[Readable | None]:
        """Open the file that is there, to be read back."""
        with translated(self._place):
            if _moves(self._files) and _exists(self._files, _beside(self._path, old_name)):
                with _LOCKS.held(self._place, self._place):
                    self._repair()
            there = _exists(self._files, self._path)
        if not there:
            yield None
            return
        with AnyFile(self._files, self._path, self._place) as file:
            yield file

    def _repair(self) -> None:
        """End what was begun when a transfer ended between two renames, or right behind them."""
        files, old = self._files, _beside(self._path, old_name)
        if not _exists(files, old):
            return  # by whoever had the lock before
        if _exists(files, self._path):
            files.rm_file(old)
        else:
            files.mv(old, self._path)

    @contextmanager
    def part(self, size: int) -> Iterator[Part]:
        """Lock the file within this process; nothing is ever there of an earlier transfer."""
        with _LOCKS.held(self._place, self._place):
            part = _AnyPart(self._files, self._path, self._place, size)
            try:
                yield part
            finally:
                part.close()
            part.stops.note(gained=False, tried=part.written > 0)


class _AnyPart(OneWay):
    """The part file, of which nothing is left when a transfer ends early."""

    def __init__(self, files: Any, path: str, place: str, size: int) -> None:
        super().__init__(place, place)
        self._files = files
        self._path = path
        self._whole = size
        self._directory = path.rpartition("/")[0]
        self._part = _beside(path, part_name)
        self._old = _beside(path, old_name)
        if not _moves(files) and not _copies(files):
            raise StorageRefusedError(
                f"{place}: files can be neither renamed nor copied there, so none is written"
            )
        self._open: Any = None
        self._there = False

    def write_at(self, offset: int, data: bytes) -> None:
        self.follow(offset, len(data))
        with translated(self.place):
            self._begin()
            self._open.write(data)

    def commit(self, digest: DigestOf) -> None:  # noqa: ARG002
        with translated(self.place):
            self._begin()
            self._open.close()
            self._open = None
            self._require(self._part)
            if _moves(self._files):
                self._rename()
            else:
                self._files.cp_file(self._part, self._path)
                self._files.rm_file(self._part)
            self._there = False
            self._require(self._path)
        self.stops.ended = True

    def discard(self) -> None:
        self.close()
        self.stops.ended = True

    def close(self) -> None:
        """Remove what has arrived, as far as the store lets us."""
        with suppress(StepError), translated(self.place):
            if self._open is not None:
                self._open.close()
        self._open = None
        with suppress(StepError), translated(self.place):
            if self._there:
                self._there = False
                self._files.rm_file(self._part)

    def _begin(self) -> None:
        if self._open is not None:
            return
        try:
            self._open = self._files.open(self._part, "wb")
        except FileNotFoundError:
            # not before: some stores would make a bucket of it
            self._files.makedirs(self._directory, exist_ok=True)
            self._open = self._files.open(self._part, "wb")
        self._there = True

    def _rename(self) -> None:
        """Give the final name; where that does not replace a file, it steps aside before.

        What a store says of a rename counts for little: some replace nothing without a word, each
        package has another error for that. Whether the part is still there counts.
        """
        files = self._files
        try:
            self._move()
        except Exception:
            if not _exists(files, self._path) or not _exists(files, self._part):
                raise
            if _exists(files, self._old):  # of a transfer that ended before it was removed
                files.rm_file(self._old)
            files.mv(self._path, self._old)
            try:
                self._move()
            except BaseException:
                files.mv(self._old, self._path)
                raise
            files.rm_file(self._old)

    def _move(self) -> None:
        self._files.mv(self._part, self._path)
        if _exists(self._files, self._part):
            raise StorageUnavailableError(f"{self.place}: the store did not rename it")

    def _require(self, path: str) -> None:
        size = _told(self._files, path, self.place)["size"]
        if size != self._whole:
            raise StorageUnavailableError(
                f"{self.place}: arrived with {size} bytes, expected {self._whole}"
            )


def _exists(files: Any, path: str) -> bool:
    """Tell whether there is a file; fsspec's own `exists` takes every fault for a no."""
    files.invalidate_cache()
    try:
        files.info(path)
    except FileNotFoundError:
        return False
    return True


def _beside(path: str, name: Callable[[str], str]) -> str:
    """Return the path of another file in the same directory."""
    directory, slash, own = path.rpartition("/")
    return f"{directory}{slash}{name(own)}"


def _moves(files: Any) -> bool:
    """Whether the package has a rename of its own; the usual one takes names for patterns."""
    return type(files).mv is not AbstractFileSystem.mv


def _copies(files: Any) -> bool:
    if isinstance(files, AsyncFileSystem):
        return type(files)._cp_file is not AsyncFileSystem._cp_file  # noqa: SLF001 - its hook
    return type(files).cp_file is not AbstractFileSystem.cp_file
