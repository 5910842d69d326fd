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
from wlm_tasks.hosts.address import Address
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
P = TypeVar("P", bound="HostPart")
_OF_NOTHING: Final = hashlib.sha256().hexdigest()
#: a context in which errors of hosts become those of whoever uses them
Translation = Callable[[], AbstractContextManager[None]]


class HostFiles:
    """The files of one host."""

    def __init__(self, shell: SshShell, translation: Translation) -> None:
        self._shell = shell
        self._translation = translation

    @property
    def address(self) -> Address:
        """Who is logged in on which host."""
        return self._shell.address

    @contextmanager
    def source(self, place: Place) -> Iterator[Source]:
        """Open a regular file for reading."""
        source = HostSource(self, place)
        try:
            yield source
        finally:
            source.close()

    def target(self, place: Place, mode: int | None) -> Target:
        """Return the place as a target; `mode` are the permission bits of the new file."""
        return HostTarget(self, place, mode)

    def run(self, what: str, place: Place, *arguments: object, size: int = 0) -> list[str]:
        """Run a script of `SCRIPTS`; `size` are the bytes it reads. Returns its words."""
        words = map(str, arguments)
        return self.ask(SCRIPTS[what], place, *words, size=size).decode(errors="replace").split()

    def ask(self, script: str, place: Place, *arguments: str, size: int = 0) -> bytes:
        """Run a script behind the place's prologue and return its output."""
        words = [*place.arguments, *arguments]
        return self.call(place.prologue + script, words, about=place.name, size=size)

    def call(self, script: str, words: Sequence[str], *, about: str, size: int) -> bytes:
        """Run one that goes to no place of its own; `about` is for messages."""
        with self.telling():
            ran = self._shell.run(script, words, timeout_s=_SLACK_S + size / _SLOW)
            if ran.code == OUTSIDE:
                raise JobRejectedError(f"{about}: is not below the site's scratch directory")
            if ran.code:
                raise failure(ran, about)
        return ran.out

    def begin(self, kind: type[S], script: str, place: Place, *arguments: str) -> S:
        """Begin a stream of some kind with a script."""
        words = [*place.arguments, *arguments]
        return self.start(kind, place.prologue + script, words, about=place.name)

    def start(self, kind: type[S], script: str, words: Sequence[str], *, about: str) -> S:
        """Begin one with a script that goes to no place of its own."""
        with self.telling():
            return kind(self._shell, script, words, about=about)

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
        self.files = files
        self.at = place
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
        return self.files.run("digest", self.at, self._which, length, size=length)[0]

    def read_at(self, offset: int, length: int) -> bytes:
        if self._pull is None or self._offset != offset:
            self.close()
            self._pull = self.files.begin(Pull, SCRIPTS["read"], self.at, self._which, str(offset))
            self._offset = offset
        with self.files.telling():
            data = self._pull.read(length)
        self._offset += len(data)
        return data

    def close(self) -> None:
        pull, self._pull = self._pull, None
        if pull is not None:
            pull.close()


class HostSource(_Bytes):
    """A file to move from the host."""

    def __init__(self, files: HostFiles, place: Place) -> None:
        super().__init__(files, place, "source", files.run("stat", place))
        self.mode: int | None = int(self._status[1], 8)
        self._digest: Future[str | None] | None = None

    def read_at(self, offset: int, length: int) -> bytes:
        """Return bytes of it."""
        if not offset and length:
            self.foretell()
        return super().read_at(offset, length)

    def foretell(self) -> None:
        """Begin with the digest: it will be asked for in the end, and the host has little to do."""
        if self._digest is None and self.size >= _WORTHWHILE:
            self._digest = _begin(partial(super().digest, self.size))

    def digest(self, length: int) -> str | None:
        """Have it computed there."""
        if length == self.size and self._digest is not None:
            return self._digest.result()
        return super().digest(length)

    def changed(self) -> bool:
        """Return whether it is another by now."""
        try:
            return tuple(self.files.run("stat", self.at)) != self._status
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


class HostTarget:
    """Where a file is to go on the host; `mode` are its permission bits."""

    def __init__(self, files: HostFiles, place: Place, mode: int | None) -> None:
        self.files = files
        self.place = place
        self.mode = "" if mode is None else f"{mode & 0o777 | 0o600:o}"
        self._seen = ""  #: the status of what has the final name

    @contextmanager
    def present(self) -> Iterator[Readable | None]:
        """Open what has the name."""
        status = self.files.run("look", self.place)
        self._seen = " ".join(status)
        yield _Bytes(self.files, self.place, "present", status) if status else None

    @contextmanager
    def part(self, size: int) -> Iterator[Part]:
        """Open and lock what has arrived."""
        talk = self.files.begin(Dialogue, SCRIPTS["receive"], self.place, *self.words(size))
        with closed(HostPart(self, size, talk, self.files)) as part:
            yield part

    def words(self, size: int) -> list[str]:
        """Return what `receive` is to know."""
        return [str(size), self._seen]


@contextmanager
def closed(part: P) -> Iterator[P]:
    """Close a part at the end; an error of that counts only if there was none before."""
    try:
        yield part
    except BaseException:
        with suppress(StepError):  # the first error says what happened
            part.close()
        raise
    part.close()


class HostPart(_Bytes):
    """What has arrived; one script on the host has it locked as long as this is open."""

    def __init__(self, target: HostTarget, size: int, talk: Dialogue, by: HostFiles) -> None:
        """`talk` is with that script, by way of the host of `by`."""
        self._talk: Dialogue | None = talk
        self._by = by
        try:
            with by.telling():
                status = self._first(talk).split()
        except BaseException:
            talk.close()
            raise
        super().__init__(target.files, target.place, "part", status)
        self._wanted = size
        self._mode = target.mode
        self._missing = 0  # bytes that the script waits for

    def _first(self, talk: Dialogue) -> str:
        """Return the script's first answer."""
        return talk.answer()

    def _ask(self, words: str, *, size: int = 0) -> str | None:
        """Return the script's answer; None if it has ended, since it waited for bytes in vain."""
        if self._missing:
            self._end()
        if self._talk is None:
            return None
        with self._by.telling():
            return self._talk.ask(words, timeout_s=_SLACK_S + size / _SLOW)

    def identity(self) -> Hashable:
        """Return what tells it from another."""
        status = self._ask("status")
        return tuple(status.split() if status else self.files.run("stat-part", self.at))

    def digest(self, length: int) -> str | None:
        """Have it computed there."""
        if not length:
            return _OF_NOTHING
        told = self._ask(f"digest {length}", size=length)
        return told or super().digest(length)

    def truncate(self, size: int) -> None:
        """Cut off what follows."""
        self._ask(f"truncate {size}")

    def write_at(self, offset: int, data: bytes) -> None:
        """Send bytes behind what is there."""
        talk = self._talk
        if talk is None:
            raise ValueError(f"{self.place}: bytes after the last")
        with self._by.telling():
            if not self._missing:
                self._missing = self._wanted - offset
                talk.write(f"take {self._missing}\n".encode())
            talk.write(data)
            self._missing -= len(data)
            if not self._missing:
                talk.answer()

    def commit(self, digest: DigestOf) -> None:  # noqa: ARG002
        """Have it brought to the disk and named."""
        if self._ask(f"commit {self._mode}", size=self._wanted) is None:
            with self._by.telling():
                raise BackendUnavailableError(f"{self.place}: has not arrived whole")

    def discard(self) -> None:
        """Have it removed."""
        if self._ask("discard") is None:
            self.files.run("discard", self.at)

    def _end(self) -> None:
        talk, self._talk, self._missing = self._talk, None, 0
        if talk is not None:
            try:
                with self._by.telling():
                    talk.end()
            finally:
                talk.close()

    def close(self) -> None:
        """See to it that all that was written is there, and give back the lock."""
        super().close()
        self._end()
