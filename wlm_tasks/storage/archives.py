"""Archives in which small files of a directory travel: made here, and taken apart with care."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from wlm_tasks.errors import StorageUnavailableError
from wlm_tasks.model import checksums
from wlm_tasks.model.ends import Entry

_PIECE: Final = 1024 * 1024
#: largest list of digests of a bunch, in bytes
_MANIFEST: Final = 16 * 1024 * 1024


def packed(entries: Sequence[Entry], word: str, read: Callable[[Entry], bytes]) -> Iterator[bytes]:
    """Yield an archive as `Tree.pack` wants it; files are read one after the other."""
    written = _Written()
    digests = {}
    with tarfile.open(
        mode="w|", fileobj=cast("Any", written), format=tarfile.GNU_FORMAT, bufsize=64 * 1024
    ) as archive:
        for entry in entries:
            data = read(entry)
            digests[entry.path] = hashlib.sha256(data).hexdigest()
            _add(archive, f"./{entry.path}", data, entry.mode)
            if written.size >= _PIECE:
                yield written.take()
        _add(archive, f"./{word}", checksums.write(digests), 0o600)
    yield written.take()


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    archive.addfile(info, io.BytesIO(data))


class _Written:
    """What an archive has written and nobody has taken yet."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0

    def write(self, data: bytes) -> int:
        self._pieces.append(data)
        self.size += len(data)
        return len(data)

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces, self.size = [], 0
        return data


def take(
    wanted: Mapping[str, int],
    word: str,
    stream: Iterator[bytes],
    write: Callable[[int, str, bytes], None],
) -> dict[str, tuple[int, str]]:
    """Have an archive's files written; returns number and digest by path, all verified.

    `wanted` are the most bytes of each member; `write` is given number, path and content. Raises
    `StorageUnavailableError` for an archive that holds something else.
    """
    arrived: dict[str, tuple[int, str]] = {}
    told = None
    try:
        with tarfile.open(mode="r|", fileobj=_Reading(stream), bufsize=64 * 1024) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                most = _MANIFEST if member.name == f"./{word}" else wanted.get(member.name, -1)
                if file is None or member.size > most:
                    raise StorageUnavailableError(
                        f"an archive held {member.size} bytes as {member.name[:200]!r}"
                    )
                data = file.read()
                if member.name == f"./{word}":
                    told = checksums.read(data)
                    continue
                path = member.name[2:]
                number = len(arrived)
                arrived[path] = number, hashlib.sha256(data).hexdigest()
                write(number, path, data)
    except (tarfile.TarError, ValueError) as error:
        raise StorageUnavailableError(f"an archive cannot be read: {error}") from error
    for path, (_number, digest) in arrived.items():
        if told is None or told.get(path) != digest:
            raise StorageUnavailableError(f"{path}: arrived with SHA-256 {digest}, not as told")
    return arrived


class _Reading(io.RawIOBase):
    """A stream as a file to read."""

    def __init__(self, stream: Iterator[bytes]) -> None:
        self._stream = stream
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        pieces = [self._left]
        have = len(self._left)
        while have < size and (data := next(self._stream, b"")):
            pieces.append(data)
            have += len(data)
        data = b"".join(pieces)
        self._left = data[size:]
        return data[:size]
