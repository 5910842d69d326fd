"""What a storage must be able to do: the interface of every storage backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, kw_only=True)
class TransferControl:
    """How the caller steers a running transfer."""

    #: called between chunks; True ends the transfer early with its progress saved
    should_stop: Callable[[], bool] = field(default=lambda: False)
    #: called between chunks with (bytes done, bytes in all)
    progress: Callable[[int, int], None] = field(default=lambda _done, _total: None)
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


class StorageBackend(ABC):
    """One kind of storage, chosen by the scheme of a URL.

    A file never has its final name before it is whole and verified: bytes go to
    ``.<name>.wlm-part`` beside the target, which is then renamed. An interrupted transfer
    resumes from that part file. Two transfers to one target never write at the same time: the
    later one raises `StorageUnavailableError`. May raise only `StorageUnavailableError`
    (transient), `StorageRefusedError` (permanent) and `InvalidPathError`.
    """

    schemes: ClassVar[frozenset[str]]

    def check(self, url: str) -> None:  # noqa: B027 - a storage that can tell nothing accepts
        """Raise `InvalidPathError` if the text of `url` cannot name a file here.

        Asked when an experiment is handed in, so that a slip is not found after the job has run.
        Looks at the text alone: a storage that cannot be reached refuses nothing.
        """

    @abstractmethod
    def get(self, url: str, root: str, path: str, control: TransferControl) -> TransferResult:
        """Fetch `url` to `path` below the local directory `root`; never leaves `root`."""

    @abstractmethod
    def put(self, root: str, path: str, url: str, control: TransferControl) -> TransferResult:
        """Send `path` below the local directory `root` to `url`; never reads outside `root`."""

    @abstractmethod
    def size(self, url: str) -> int:
        """Bytes at `url`; raises `StorageRefusedError` if there is no such file."""

    def close(self) -> None:
        """Give back connections."""
        return
