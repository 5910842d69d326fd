"""What a storage must be able to do: the interface of every storage backend."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar
from urllib.parse import quote

from wlm_tasks.errors import ConfigError, InvalidPathError, StorageRefusedError
from wlm_tasks.model.checks import problem, show
from wlm_tasks.model.ends import Entry, Source, Target, Tree, TreeTarget
from wlm_tasks.storage.weburls import shown_url


@dataclass(frozen=True, kw_only=True)
class TransferControl:
    """How the caller steers a running transfer."""

    #: called between chunks; True ends the transfer early with its progress saved
    should_stop: Callable[[], bool] = field(default=lambda: False)
    #: called between chunks with (bytes done, bytes in all)
    progress: Callable[[int, int], None] = field(default=lambda _done, _total: None)
    #: called with what a person should know of how it goes
    tell: Callable[[str], None] = field(default=lambda _words: None)
    sha256: str | None = None  #: the digest the file must have, lower-case hex
    bytes_per_s: float | None = None  #: upper bound of the rate; None for as fast as it goes


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """How a transfer ended. `complete` is False when `should_stop` ended it early."""

    complete: bool
    size: int  #: bytes in all
    done: int  #: bytes at the target, verified or in the part file
    moved: int  #: bytes this call moved
    sha256: str | None = None  #: digest of the whole file once complete
    #: of a directory once complete: the digests of its files by their path below it
    digests: Mapping[str, str] | None = None


class StorageBackend(ABC):
    """One kind of storage, chosen by the scheme of a URL.

    It gives the ends of transfers; `wlm_tasks.storage.transfer.move` moves the bytes. A file never
    has its final name before it is whole and verified: bytes go to a part file beside the target,
    ``.<name>.wlm-part`` where there are names, which is then renamed. An interrupted transfer
    resumes from that part file where the protocol permits it. Two transfers to one target never
    write at the same time: the later one raises `StorageUnavailableError`.

    Methods, and those of the ends, may raise only `StorageUnavailableError` (transient),
    `StorageRefusedError` (permanent) and `InvalidPathError`.
    """

    schemes: ClassVar[frozenset[str]]
    #: True if reading a whole file to know its digest costs no network
    near: ClassVar[bool] = False
    #: True if its hosts compute digests themselves, or some of them
    tells_digests: ClassVar[bool] = False
    #: True if there is nothing to move: neither end is opened then
    moves_nothing: ClassVar[bool] = False

    def __init__(
        self, *, name: str = "", options: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        """Take the settings of the storage the URL is of; raises `ConfigError` for unknown ones.

        `name` and `options` are those of the table ``[storages.NAME]`` that holds for the URL.
        """
        for key, value in options.items():
            raise ConfigError(problem(f"storages.{name}.{key}", value, "no such setting"))

    def check(self, url: str) -> None:  # noqa: B027 - a storage that can tell nothing accepts
        """Raise `InvalidPathError` if the text of `url` cannot name a file here.

        Asked when an experiment is handed in, so that a slip is not found after the job has run.
        Looks at the text alone: a storage that cannot be reached refuses nothing.
        """

    def check_tree(self, url: str) -> None:
        """Raise `InvalidPathError` if no directory can be read here; asked as `check` is."""
        if type(self).tree is StorageBackend.tree and not self.moves_nothing:
            raise InvalidPathError(_no_tree(url))

    @abstractmethod
    def source(self, url: str) -> AbstractContextManager[Source]:
        """Open the file at `url` for reading; `StorageRefusedError` if there is no such file."""

    def target(self, url: str, mode: int | None) -> AbstractContextManager[Target]:
        """Open the place of a file to write, directories made as needed.

        `mode` are the permission bits wanted, None for the usual ones.
        """
        raise StorageRefusedError(f"{url}: files cannot be written there (mode {mode})")

    def tree(self, url: str, pattern: str) -> Tree:
        """Return the files below the directory at `url`, those like `pattern` if it says any."""
        raise StorageRefusedError(_no_tree(f"{url}/{pattern}"))

    def tree_target(self, url: str) -> TreeTarget:
        """Return the directory at `url` to move files to: each by itself, if not overridden."""
        return SingleFiles(self, url)

    def size(self, url: str) -> int:
        """Bytes at `url`; raises `StorageRefusedError` if there is no such file."""
        with self.source(url) as source:
            return source.size


def _no_tree(url: str) -> str:
    return (
        f"URL: got {show(shown_url(url))}, expected a single file, and as dest the path of one:"
        " no directory can be listed there; name each file in a transfer of its own, or move an"
        " archive of them"
    )


class SingleFiles:
    """A directory to move files to, one by one."""

    unpacks = False

    def __init__(self, storage: StorageBackend, url: str) -> None:
        self._storage = storage
        self._url = url

    def target(self, path: str, mode: int | None) -> AbstractContextManager[Target]:
        """Open the place of one file."""
        return self._storage.target(f"{self._url}/{quote(os.fsencode(path))}", mode)

    def digests(self, entries: Sequence[Entry]) -> dict[str, str]:  # noqa: ARG002
        """Tell nothing: each file is compared when its turn comes."""
        return {}

    def unpack(
        self,
        entries: Sequence[Entry],  # noqa: ARG002
        word: str,  # noqa: ARG002
        stream: Iterator[bytes],  # noqa: ARG002
    ) -> dict[str, str]:
        """Refuse: nobody asks for that."""
        raise StorageRefusedError(f"{self._url}: takes no archives")
