"""Directories of hosts that are read and written by SFTP alone, as trees of files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Final, TypeVar, cast

import asyncssh

from wlm_tasks.errors import StepError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.hosts.sftp import Sftp, sftp
from wlm_tasks.model.ends import Entry, Source, Target, Tree, TreeTarget
from wlm_tasks.model.paths import PARTS, is_meant, old_name
from wlm_tasks.storage.archives import packed, take
from wlm_tasks.storage.sftpfiles import SftpFiles
from wlm_tasks.storage.sftpsource import Attrs, found
from wlm_tasks.storage.sftptarget import give_name, locked, make_directories
from wlm_tasks.storage.trees import SMALL

#: files that are asked about, or are on their way, at a time
_AT_ONCE: Final = 64
#: most bytes of those on their way, each of which is in memory as a whole
_BYTES: Final = 16 * 1024 * 1024
#: seconds that a server may take to list a directory, or to remove one
_LONG_S: Final = 600.0
#: most links followed on one way, as the kernel has it
_LINKS_LIMIT: Final = 40
#: in front of a link's text that begins at the tree
_ROOT: Final = "\0/"
_T = TypeVar("_T")


class SftpHost(SftpFiles):
    """The files of one host, and its directories."""

    def tree(self, path: str, pattern: str) -> Tree:
        """Return the files below a directory."""
        return SftpTree(self, path, pattern)

    def tree_target(self, path: str) -> TreeTarget:
        """Return a directory to move files to, made as needed."""
        return SftpTreeTarget(self, path)


class SftpTree:
    """Files below a directory."""

    def __init__(self, files: SftpFiles, directory: str, pattern: str) -> None:
        self.place = directory
        self._files = files
        self._address = files.address
        self._root = os.fsencode(directory)
        self._pattern = pattern
        self._real: dict[str, str] = {}  #: where the links that were listed lead, below the tree

    def entries(self) -> list[Entry]:
        """List them; links only count after a look at the whole tree."""
        with sftp(self._address) as session:
            listing = self._listed(session, self._pattern)
            if listing.others:
                raise StorageRefusedError(f"{self.place}/{listing.others[0]}: is no regular file")
            if listing.links:
                whole = self._listed(session, "")
                whole.texts = self._read_links(session, sorted(whole.links))
                self._real = {path: whole.follow(path) for path in listing.links}
                listing.files |= {path: whole.files[real] for path, real in self._real.items()}
        entries = [
            Entry(path, attrs.size or 0, (attrs.permissions or 0o600) & 0o777)
            for path, attrs in listing.files.items()
        ]
        return sorted(entries, key=lambda entry: entry.path)

    def _listed(self, session: Sftp, pattern: str) -> _Listing:
        async def read(client: asyncssh.SFTPClient, way: str) -> Sequence[asyncssh.SFTPName]:
            return await client.readdir(os.fsencode(f"{self.place}/{way}"))

        listing = _Listing(self.place)
        waiting = [""]
        while waiting:
            level, waiting = waiting, []
            found = session.each(self.place, level, read, most=_AT_ONCE, patience_s=_LONG_S)
            for way, names in zip(level, found, strict=True):
                for item in names:
                    name = os.fsdecode(item.filename)
                    path = f"{way}/{name}" if way else name
                    if name in {".", ".."} or not is_meant(path, pattern):
                        continue
                    if not name or "/" in name:
                        raise StorageUnavailableError(f"{self.place}: its host lists {name!r}")
                    if listing.add(path, item.attrs):
                        waiting.append(path)
        return listing

    def _read_links(self, session: Sftp, paths: Sequence[str]) -> dict[str, str]:
        """Return what the links say; what begins with the tree's own path becomes relative."""

        async def read(client: asyncssh.SFTPClient, path: str) -> bytes:
            return await client.readlink(os.fsencode(f"{self.place}/{path}"))

        async def resolve(client: asyncssh.SFTPClient) -> bytes:
            return await client.realpath(self._root)

        texts = session.each(self.place, paths, read, most=_AT_ONCE)
        roots = [self.place, os.fsdecode(session.do(self.place, resolve))]
        return {
            path: _from_root(os.fsdecode(text), roots)
            for path, text in zip(paths, texts, strict=True)
        }

    def _at(self, path: str) -> str:
        return f"{self.place}/{self._real.get(path, path)}"

    def source(self, path: str) -> AbstractContextManager[Source]:
        """Open one."""
        return self._files.source(self._at(path))

    def digests(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Read the small ones; large ones are compared when their turn comes, in slices."""
        small = [entry for entry in entries if entry.size <= SMALL]
        with sftp(self._address) as session:
            return _digests(_read_all(session, self.place, small, self._at), small)

    @contextmanager
    def pack(self, entries: Sequence[Entry], word: str) -> Iterator[Iterator[bytes]]:
        """Archive them."""
        with sftp(self._address) as session:
            pieces = _read_all(session, self.place, entries, self._at)

            def read(entry: Entry) -> bytes:
                data = next(pieces)
                if len(data) != entry.size:
                    raise StorageUnavailableError(
                        f"{self.place}/{entry.path}: was changed meanwhile"
                    )
                return data

            yield packed(entries, word, read)


class _Listing:
    """What is below a directory, by path."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.files: dict[str, Attrs] = {}
        self.links: set[str] = set()
        self.others: list[str] = []  #: what is neither file nor directory
        self.texts: dict[str, str] = {}  #: of the links; one with a slash in front leads out
        self._directories = {""}

    def add(self, path: str, attrs: Attrs) -> bool:
        """Take one in; return whether it is a directory to look into."""
        kind = stat.S_IFMT(attrs.permissions or 0)
        if kind == stat.S_IFDIR:
            self._directories.add(path)
            return True
        if kind == stat.S_IFLNK:
            self.links.add(path)
        elif kind in {0, stat.S_IFREG}:  # a server may tell no kinds
            self.files[path] = attrs
        else:
            self.others.append(path)
        return False

    def follow(self, link: str) -> str:
        """Return the file of the tree that a link leads to, step by step."""
        way, rest, left = "", deque(link.split("/")), _LINKS_LIMIT
        while rest:
            path = _step(way, rest.popleft())
            if path in self.links and left:
                left -= 1
                text = self.texts[path]
                if text.startswith("/"):
                    break
                way = "" if text.startswith(_ROOT) else way
                rest.extendleft(reversed(text.removeprefix(_ROOT).split("/")))
            elif path in self._directories:
                way = path
            elif path in self.files and not rest:
                return path
            else:
                break
        raise self._refused(link)

    def _refused(self, link: str) -> StorageRefusedError:
        return StorageRefusedError(
            f"{self._place}/{link}: is a symbolic link, expected one to a file of the same tree"
        )


def _step(way: str, name: str) -> str:
    """Return where a name leads from a directory of a tree; what is nothing's path if out of it."""
    if name in {"", "."}:
        return way
    if name == "..":
        return way.rpartition("/")[0] if way else ".."
    return f"{way}/{name}" if way else name


def _from_root(text: str, roots: Sequence[str]) -> str:
    for root in roots:
        if text.startswith(f"{root.rstrip('/')}/"):
            return _ROOT + text[len(root.rstrip("/")) + 1 :]
    return text


class SftpTreeTarget:
    """A directory to move files to."""

    unpacks = True

    def __init__(self, files: SftpFiles, directory: str) -> None:
        self._files = files
        self._address = files.address
        self._place = directory

    def target(self, path: str, mode: int | None) -> AbstractContextManager[Target]:
        """Open the place of one file."""
        return self._files.target(f"{self._place}/{path}", mode, below=self._place)

    def digests(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Read the small ones that are there; large ones are compared when their turn comes."""
        small = [entry for entry in entries if entry.size <= SMALL]

        with sftp(self._address) as session:
            paths = [entry.path for entry in small]
            there = [
                entry
                for entry, attrs in zip(
                    small, session.each(self._place, paths, self._look, most=_AT_ONCE), strict=True
                )
                if attrs and stat.S_ISREG(attrs.permissions or 0) and attrs.size == entry.size
            ]
            at = f"{self._place}/{{}}".format
            return _digests(_read_all(session, self._place, there, at), there)

    def unpack(
        self, entries: Sequence[Entry], word: str, stream: Iterator[bytes]
    ) -> dict[str, str]:
        """Take them from an archive; each is read back before it gets its name."""
        root = os.fsencode(self._place)
        parts = self._path(PARTS)
        with sftp(self._address) as session:
            session.do(self._place, lambda client: make_directories(client, root, b""))
            with locked(session, parts, self._place) as lock:
                session.do(self._place, lambda client: _emptied(client, parts), patience_s=_LONG_S)
                with _Unpacking(session, self._place, entries, parts) as unpacking:
                    sizes = {f"./{entry.path}": entry.size for entry in entries}
                    arrived = take(sizes, word, stream, unpacking.write)
                missing = [entry.path for entry in entries if entry.path not in arrived]
                if missing:
                    raise StorageUnavailableError(f"{self._place}/{missing[0]}: did not arrive")
                lock.require()
                numbers = {path: number for path, (number, _digest) in arrived.items()}
                self._name(session, numbers, parts)
        return {path: digest for path, (_number, digest) in arrived.items()}

    def _path(self, path: str) -> bytes:
        return os.fsencode(f"{self._place}/{path}")

    async def _look(self, client: asyncssh.SFTPClient, path: str) -> Attrs | None:
        return await found(client, self._path(path))

    def _name(self, session: Sftp, numbers: Mapping[str, int], parts: bytes) -> None:
        """Give the files that are there by number their names."""
        root = os.fsencode(self._place)
        ways = {path.rpartition("/")[0] for path in numbers} - {""}

        async def make(client: asyncssh.SFTPClient, way: str) -> None:
            await make_directories(client, self._path(way), root)

        async def name(client: asyncssh.SFTPClient, path: str) -> None:
            way, slash, last = path.rpartition("/")
            old = self._path(f"{way}{slash}{old_name(last)}")
            try:
                await give_name(client, b"%s/%d" % (parts, numbers[path]), self._path(path), old)
            except asyncssh.SFTPFailure:
                attrs = await found(client, self._path(path))
                if attrs is None or not stat.S_ISDIR(attrs.permissions or 0):
                    raise
                raise StorageRefusedError(f"{self._place}/{path}: Is a directory") from None

        for paths, work in ((ways, make), (numbers, name)):
            for _done in session.each(self._place, paths, work, most=_AT_ONCE):
                pass
        session.do(self._place, lambda client: client.rmdir(parts))


class _Unpacking:
    """Writes small files by number, several at a time, and reads each of them back."""

    def __init__(self, session: Sftp, place: str, entries: Sequence[Entry], parts: bytes) -> None:
        self._session = session
        self._place = place
        self._modes = {entry.path: entry.mode for entry in entries}
        self._parts = parts
        self._pending: deque[tuple[str, int, Future[None]]] = deque()
        self._bytes = 0  #: of those

    def __enter__(self) -> _Unpacking:
        return self

    def __exit__(self, kind: object, *_rest: object) -> None:
        while self._pending:
            with suppress(*([StepError] if kind else [])):
                self._wait()

    def write(self, number: int, path: str, data: bytes) -> None:
        while len(self._pending) >= _AT_ONCE or (self._bytes and self._bytes + len(data) > _BYTES):
            self._wait()
        future = self._session.begin(lambda client: self._written(client, number, path, data))
        self._pending.append((path, len(data), future))
        self._bytes += len(data)

    def _wait(self) -> None:
        path, size, future = self._pending.popleft()
        self._bytes -= size
        self._session.end(f"{self._place}/{path}", future)

    async def _written(
        self, client: asyncssh.SFTPClient, number: int, path: str, data: bytes
    ) -> None:
        name = b"%s/%d" % (self._parts, number)
        mode = Attrs(permissions=self._modes[path] & 0o777 | 0o600)
        async with client.open(name, "x+b", mode) as file:
            await file.write(data, 0)
            with suppress(asyncssh.SFTPOpUnsupported):
                await file.fsync()
            back = cast("bytes", await file.read(len(data) + 1, 0))
        if back != data:
            raise StorageUnavailableError(
                f"{self._place}/{path}: arrived with other bytes than were sent"
            )


async def _emptied(client: asyncssh.SFTPClient, path: bytes) -> None:
    """Make a directory that is empty."""
    if await found(client, path) is not None:
        await client.rmtree(path)
    await client.mkdir(path, Attrs(permissions=0o700))


def _read_all(
    session: Sftp, place: str, entries: Sequence[Entry], at: Callable[[str], str]
) -> Iterator[bytes]:
    """Yield what small files hold, one byte more than their sizes at most."""
    sizes = {entry.path: entry.size for entry in entries}

    async def read(client: asyncssh.SFTPClient, path: str) -> bytes:
        async with client.open(os.fsencode(at(path)), "rb") as file:
            return cast("bytes", await file.read(sizes[path] + 1, 0))

    most = _BYTES // max(1, *sizes.values()) if sizes else 1
    return session.each(place, sizes, read, most=max(1, min(most, _AT_ONCE)))


def _digests(pieces: Iterator[bytes], entries: Sequence[Entry]) -> dict[str, str]:
    return {
        entry.path: hashlib.sha256(data).hexdigest()
        for entry, data in zip(entries, pieces, strict=True)
    }
