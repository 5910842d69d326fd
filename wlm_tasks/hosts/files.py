"""Files of another host as ends of transfers: bytes by streams, all else by scripts there.

What has arrived of a file is in a part file; whoever writes it has it locked. Digests are computed
on the host. The scripts need bash, coreutils and util-linux, and take OpenSSL's ``dgst`` where
there is one: that is several times as fast as ``sha256sum`` on processors with SHA instructions.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import Final, TypeVar

from wlm_tasks.errors import (
    BackendUnavailableError,
    JobRejectedError,
    StepError,
    StorageRefusedError,
)
from wlm_tasks.hosts.places import Place
from wlm_tasks.hosts.scripts import OUTSIDE, failure
from wlm_tasks.hosts.ssh import SshShell
from wlm_tasks.hosts.streams import Dialogue, Pull, Stream
from wlm_tasks.hosts.transfers import SCRIPTS
from wlm_tasks.model.ends import DigestOf, Part, Readable, Source, Target

#: slowest rate at which a host is expected to read a file, bytes a second
_SLOW: Final = 5e6
_SLACK_S: Final = 120.0
#: smallest file whose digest is worth a thread, in bytes
_WORTHWHILE: Final = 4 * 1024 * 1024
_T = TypeVar("_T")
S = TypeVar("S", bound=Stream)
_OF_NOTHING: Final = hashlib.sha256().hexdigest()
#: a context in which errors of hosts become those of whoever uses them
Translation = Callable[[], AbstractContextManager[None]]


class HostFiles:
    """The files of one host."""

    def __init__(self, shell: SshShell, translation: Translation) -> None:
        self._shell = shell
        self._translation = translation

    @contextmanager
    def source(self, place: Place) -> Iterator[Source]:
        """Open a regular file for reading."""
        source = _Source(self, place)
        try:
            yield source
        finally:
            source.close()

    def target(self, place: Place, mode: int | None) -> Target:
        """Return the place as a target; `mode` are the permission bits of the new file."""
        return _Target(self, place, mode)

    def run(self, what: str, place: Place, *arguments: object, size: int = 0) -> list[str]:
        """Run a script of `SCRIPTS`; `size` are the bytes it reads. Returns its words."""
        words = map(str, arguments)
        return self.ask(SCRIPTS[what], place, *words, size=size).decode(errors="replace").split()

    def ask(self, script: str, place: Place, *arguments: str, size: int = 0) -> bytes:
        """Run a script behind the place's prologue and return its output."""
        with self.telling():
            ran = self._shell.run(
                place.prologue + script,
                [*place.arguments, *arguments],
                timeout_s=_SLACK_S + size / _SLOW,
            )
            if ran.code == OUTSIDE:
                raise JobRejectedError(f"{place.name}: is not below the site's scratch directory")
            if ran.code:
                raise failure(ran, place.name)
        return ran.out

    def begin(self, kind: type[S], script: str, place: Place, *arguments: str) -> S:
        """Begin a stream of some kind with a script."""
        words = [*place.arguments, *arguments]
        with self.telling():
            return kind(self._shell, place.prologue + script, words, about=place.name)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Let errors out as whoever uses the host expects them."""
        with self._translation():
            try:
                yield
            except JobRejectedError as error:
                raise StorageRefusedError(error.message) from error


class _Bytes:
    """A file on the host; which one the scripts know by the word."""

    def __init__(self, files: HostFiles, place: Place, which: str, status: Sequence[str]) -> None:
        self.place = place.name
        self._files = files
        self._at = place
        self._which = which
        self._status = tuple(status)  # size, mode, device, inode, times
        self._pull: Pull | None = None
        self._offset = 0

    @property
    def size(self) -> int:
        return int(self._status[0])

    def identity(self) -> Hashable:
        return self._status

    def digest(self, length: int) -> str | None:
        if not length:
            return _OF_NOTHING
        return self._files.run("digest", self._at, self._which, length, size=length)[0]

    def read_at(self, offset: int, length: int) -> bytes:
        if self._pull is None or self._offset != offset:
            self.close()
            self._pull = self._files.begin(
                Pull, SCRIPTS["read"], self._at, self._which, str(offset)
            )
            self._offset = offset
        with self._files.telling():
            data = self._pull.read(length)
        self._offset += len(data)
        return data

    def close(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None:
            pull.close()


class _Source(_Bytes):
    def __init__(self, files: HostFiles, place: Place) -> None:
        super().__init__(files, place, "source", files.run("stat", place))
        self.mode: int | None = int(self._status[1], 8)
        self._digest: Future[str | None] | None = None

    def read_at(self, offset: int, length: int) -> bytes:
        if not offset and length and self._digest is None and self.size >= _WORTHWHILE:
            # it will be asked for in the end; meanwhile the host has little to do
            self._digest = _begin(partial(super().digest, self.size))
        return super().read_at(offset, length)

    def digest(self, length: int) -> str | None:
        if length == self.size and self._digest is not None:
            return self._digest.result()
        return super().digest(length)

    def changed(self) -> bool:
        try:
            return tuple(self._files.run("stat", self._at)) != self._status
        except StorageRefusedError:
            return True


def _begin(work: Callable[[], _T]) -> Future[_T]:
    """Do something in a thread of its own; nobody has to wait for it."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - for whoever asks
            future.set_exception(error)

    threading.Thread(target=run, name="wlm-digest", daemon=True).start()
    return future


class _Target:
    def __init__(self, files: HostFiles, place: Place, mode: int | None) -> None:
        self._files = files
        self._place = place
        self._mode = "" if mode is None else f"{mode & 0o777 | 0o600:o}"
        self._seen = ""  #: the status of what has the final name

    @contextmanager
    def present(self) -> Iterator[Readable | None]:
        status = self._files.run("look", self._place)
        self._seen = " ".join(status)
        yield _Bytes(self._files, self._place, "present", status) if status else None

    @contextmanager
    def part(self, size: int) -> Iterator[Part]:
        part = _Part(self._files, self._place, size, self._seen, self._mode)
        try:
            yield part
        except BaseException:
            with suppress(StepError):  # the first error says what happened
                part.close()
            raise
        part.close()


class _Part(_Bytes):
    """What has arrived; one script on the host has it locked as long as this is open."""

    def __init__(self, files: HostFiles, place: Place, size: int, seen: str, mode: str) -> None:
        self._talk: Dialogue | None = files.begin(
            Dialogue, SCRIPTS["receive"], place, str(size), seen
        )
        try:
            with files.telling():
                status = self._talk.answer().split()
        except BaseException:
            self._talk.close()
            raise
        super().__init__(files, place, "part", status)
        self._wanted = size
        self._mode = mode
        self._missing = 0  # bytes that the script waits for

    def _ask(self, words: str, *, size: int = 0) -> str | None:
        """Return the script's answer; None if it has ended, since it waited for bytes in vain."""
        if self._missing:
            self._end()
        if self._talk is None:
            return None
        with self._files.telling():
            return self._talk.ask(words, timeout_s=_SLACK_S + size / _SLOW)

    def identity(self) -> Hashable:
        status = self._ask("status")
        return tuple(status.split() if status else self._files.run("stat-part", self._at))

    def digest(self, length: int) -> str | None:
        if not length:
            return _OF_NOTHING
        told = self._ask(f"digest {length}", size=length)
        return told or super().digest(length)

    def truncate(self, size: int) -> None:
        self._ask(f"truncate {size}")

    def write_at(self, offset: int, data: bytes) -> None:
        talk = self._talk
        if talk is None:
            raise ValueError(f"{self.place}: bytes after the last")
        with self._files.telling():
            if not self._missing:
                self._missing = self._wanted - offset
                talk.write(f"take {self._missing}\n".encode())
            talk.write(data)
            self._missing -= len(data)
            if not self._missing:
                talk.answer()

    def commit(self, digest: DigestOf) -> None:  # noqa: ARG002
        if self._ask(f"commit {self._mode}", size=self._wanted) is None:
            with self._files.telling():
                raise BackendUnavailableError(f"{self.place}: has not arrived whole")

    def discard(self) -> None:
        if self._ask("discard") is None:
            self._files.run("discard", self._at)

    def _end(self) -> None:
        talk, self._talk, self._missing = self._talk, None, 0
        if talk is not None:
            try:
                with self._files.telling():
                    talk.end()
            finally:
                talk.close()

    def close(self) -> None:
        """See to it that all that was written is there, and give back the lock."""
        super().close()
        self._end()
