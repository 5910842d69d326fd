"""Small files as a tar archive in a stream, with their digests at its end."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, cast

from wlm_tasks.model import checksums
from wlm_tasks.model.ends import Entry

_PIECE: Final = 1024 * 1024


def packed(
    entries: Sequence[Entry], word: str, read: Callable[[Entry], tuple[bytes, str]]
) -> Iterator[bytes]:
    """Yield the archive that `Tree.pack` promises; `read` returns a file's bytes and SHA-256."""
    written = _Written()
    digests = {}
    with tarfile.open(
        mode="w|", fileobj=cast("Any", written), format=tarfile.GNU_FORMAT, bufsize=64 * 1024
    ) as archive:
        for entry in entries:
            data, digests[entry.path] = read(entry)
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
