"""Notices in files while the database is away, on each control host its own.

What is there is there after a crash and a power cut, too. A notice is taken from the spool when its
file is gone, so it may be handed on twice if whoever takes it is killed in between: its key is the
same then.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from wlm_tasks.errors import NotifyUnavailableError
from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.notify.layout import clean

_SUFFIX: Final = ".json"
_BAD: Final = ".bad"
_DRAFT: Final = ".draft"
_LOCK: Final = ".lock"
#: largest file that can be a notice
_SIZE_LIMIT: Final = 1024 * 1024
#: most notices that are taken at once
_MANY: Final = 1000


@dataclass(frozen=True)
class Spooled:
    """What is in the spool."""

    notices: list[Notice]  #: the oldest first
    set_aside: int  #: files that are no notices; they stay, as ``*.bad``, for a person to look at


class Spool:
    """A directory of notices, one file each. Several processes may use it at the same time.

    Methods raise `NotifyUnavailableError` if the directory cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        """Name the directory; it is made when it is first needed."""
        self._directory = directory

    def put(self, notice: Notice) -> None:
        """Keep a notice; after return it is on the disk. One of the same key is replaced."""
        name = _name(notice.key)
        draft = self._directory / f"{name}.{secrets.token_hex(8)}{_DRAFT}"
        with self._told():
            self._make()
            try:
                _write(draft, json.dumps(_data(notice), default=str).encode())
                draft.replace(self._directory / f"{name}{_SUFFIX}")
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
            _flush(self._directory)

    def look(self) -> Spooled:
        """Return what is there; files that are no notices are set aside."""
        with self._told():
            found = [notice for file in self._files() if (notice := self._read(file))]
            bad = sum(file.suffix == _BAD for file in self._all())
        return Spooled(sorted(found, key=lambda one: (one.at, one.key)), bad)

    @contextmanager
    def take(self) -> Iterator[list[Notice]]:
        """Hand notices over, the oldest first: when the block ends well, they are gone.

        Without any while another process takes them.
        """
        with self._told():
            lock = self._locked()
        if lock is None:
            yield []
            return
        try:
            notices = self.look().notices[:_MANY]
            yield notices
            with self._told():
                self._remove(notices)
        finally:
            os.close(lock)

    def _remove(self, notices: list[Notice]) -> None:
        for notice in notices:
            file = self._directory / f"{_name(notice.key)}{_SUFFIX}"
            # another may have been put in its place meanwhile
            if self._read(file) == notice:
                file.unlink(missing_ok=True)
        if notices:
            _flush(self._directory)

    def _locked(self) -> int | None:
        """Return the lock's descriptor; None if there is nothing to take, or somebody takes it."""
        if not self._files():
            return None
        lock = os.open(self._directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    def _read(self, file: Path) -> Notice | None:
        """Return the notice of a file; None if it is gone, or is none and set aside."""
        try:
            if file.stat().st_size > _SIZE_LIMIT:
                raise ValueError("too large")  # noqa: TRY301 - one way for all that is no notice
            return _notice(json.loads(file.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError):
            with suppress(FileNotFoundError):  # another process was faster
                file.replace(file.with_suffix(_BAD))
            return None

    def _files(self) -> list[Path]:
        return [file for file in self._all() if file.suffix == _SUFFIX]

    def _all(self) -> list[Path]:
        try:
            return [Path(entry.path) for entry in os.scandir(self._directory) if entry.is_file()]
        except FileNotFoundError:
            return []

    def _make(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._directory.stat().st_mode & 0o077:
            self._directory.chmod(0o700)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            told = error.strerror or type(error).__name__
            raise NotifyUnavailableError(f"spool {clean(self._directory)}: {told}") from error


def _name(key: str) -> str:
    """Return a file name for a key, whatever stands in it; no two keys have the same."""
    mark = sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', key)[:60]}-{mark}"


def _write(file: Path, data: bytes) -> None:
    made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(made, "wb") as out:  # noqa: PTH123 - of a descriptor
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _flush(directory: Path) -> None:
    made = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(made)
    finally:
        os.close(made)


def _data(notice: Notice) -> dict[str, Any]:
    return {
        "key": notice.key,
        "kind": str(notice.kind),
        "subject": notice.subject,
        "at": notice.at,
        "detail": dict(notice.detail),
        "ends": notice.ends,
    }


def _notice(data: Any) -> Notice:
    """Return the notice; `ValueError`, `TypeError` or `KeyError` if the data are of none."""
    notice = Notice(
        key=data["key"],
        kind=NoticeKind(data["kind"]),
        subject=data["subject"],
        at=float(data["at"]),
        detail=dict(data["detail"]),
        ends=data["ends"],
    )
    texts = (notice.key, notice.subject, notice.ends or "")
    if not all(isinstance(text, str) for text in texts) or notice.at != notice.at:
        raise TypeError("not the types of a notice")
    return notice
