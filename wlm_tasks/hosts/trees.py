"""Directories of another host as trees of files: listed, digested, packed and unpacked there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Final

from wlm_tasks.errors import StorageRefusedError, StorageUnavailableError
from wlm_tasks.hosts.files import HostFiles
from wlm_tasks.hosts.places import Place
from wlm_tasks.hosts.streams import Pull, Push
from wlm_tasks.hosts.treescripts import TREE_SCRIPTS
from wlm_tasks.model import checksums
from wlm_tasks.model.ends import Entry, Source, Target
from wlm_tasks.model.paths import is_meant

PlaceOf = Callable[[str], Place]
_PIECE: Final = 1024 * 1024
#: fields of a line of the list
_FIELDS: Final = 4


class HostTree:
    """Files below a directory of a host; `at` gives the place of a path below it."""

    def __init__(self, files: HostFiles, directory: Place, at: PlaceOf, pattern: str) -> None:
        self.place = directory.name
        self.files = files
        self.directory = directory
        self._at = at
        self._pattern = pattern

    def entries(self) -> list[Entry]:
        """List them, links in a second look."""
        entries, links = [], []
        for kind, mode, size, path in self._listed("list"):
            if not is_meant(path, self._pattern):
                continue
            if kind == "l":
                links.append(path)
            elif kind == "f":
                entries.append(_entry(path, size, mode))
            else:
                raise StorageRefusedError(f"{self.place}/{path}: is no regular file")
        if links:
            for _kind, mode, size, path in self._listed("follow", *links):
                entries.append(_entry(path, size, mode))
        return sorted(entries, key=lambda entry: entry.path)

    def _listed(self, script: str, *paths: str) -> Iterator[list[str]]:
        out = self.files.ask(TREE_SCRIPTS[script], self.directory, *paths)
        for line in os.fsdecode(out).split("\0")[:-1]:
            kind, mode, size, path = (line.split(" ", _FIELDS - 1) + [""] * _FIELDS)[:_FIELDS]
            odd = {"", ".", ".."}.intersection(path.split("/"))
            if odd or not size.isdecimal() or not re.fullmatch("[0-7]{1,5}", mode):
                raise StorageUnavailableError(f"{self.place}: its host lists {line[:200]!r}")
            yield [kind, mode, size, path]

    def source(self, path: str) -> AbstractContextManager[Source]:
        """Open one."""
        return self.files.source(self._at(path))

    def digests(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Have them computed there."""
        return _digests(self.files, self.directory, entries, "source")

    @contextmanager
    def pack(self, entries: Sequence[Entry], word: str) -> Iterator[Iterator[bytes]]:
        """Have them archived there."""
        words = pack_words(entries, word)
        pull = self.files.begin(Pull, TREE_SCRIPTS["pack"], self.directory, *words)
        try:
            yield self._pieces(pull)
        finally:
            pull.close()

    def _pieces(self, pull: Pull) -> Iterator[bytes]:
        while True:
            with self.files.telling():
                data = pull.read(_PIECE)
            if not data:
                return
            yield data


class HostTreeTarget:
    """A directory of a host to move files to; `at` gives the place of a path below it."""

    unpacks = True

    def __init__(self, files: HostFiles, directory: Place, at: PlaceOf) -> None:
        self.files = files
        self.directory = directory
        self._at = at

    def target(self, path: str, mode: int | None) -> AbstractContextManager[Target]:
        """Open the place of one file."""
        return nullcontext(self.files.target(self._at(path), mode))

    def digests(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Have those that are there computed."""
        return _digests(self.files, self.directory, entries, "target")

    def unpack(
        self, entries: Sequence[Entry], word: str, stream: Iterator[bytes]
    ) -> dict[str, str]:
        """Have them unpacked, verified and named there."""
        words = unpack_words(entries, word)
        push = self.files.begin(Push, TREE_SCRIPTS["unpack"], self.directory, *words)
        try:
            return checksums.read(self._send(push, stream))
        finally:
            push.close()

    def _send(self, push: Push, stream: Iterator[bytes]) -> bytes:
        for data in stream:
            with self.files.telling():
                push.write(data)
        with self.files.telling():
            return push.end()


def pack_words(entries: Sequence[Entry], word: str) -> list[str]:
    """Return what the script ``pack`` is to know."""
    return [word, *(f"./{entry.path}" for entry in entries)]


def unpack_words(entries: Sequence[Entry], word: str) -> list[str]:
    """Return what the script ``unpack`` is to know."""
    return [word, *(entry.path for entry in entries)]


def _entry(path: str, size: str, mode: str) -> Entry:
    return Entry(path, int(size), int(mode, 8) & 0o777)


def _digests(
    files: HostFiles, directory: Place, entries: Sequence[Entry], which: str
) -> dict[str, str]:
    if not entries:
        return {}
    size = sum(entry.size for entry in entries)
    paths = [entry.path for entry in entries]
    out = files.ask(TREE_SCRIPTS["digests"], directory, which, *paths, size=size)
    lines = (line.partition(" ") for line in os.fsdecode(out).split("\0")[:-1])
    return {name[3:]: digest for digest, _blank, name in lines}
