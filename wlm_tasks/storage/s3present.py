"""Objects that are at a target already, compared without reading them where that is possible."""

from __future__ import annotations

import base64
import hashlib
from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Final

from wlm_tasks.storage.s3client import S3Object
from wlm_tasks.storage.s3small import Digests
from wlm_tasks.storage.s3source import Head, S3File

#: comparisons under way that are remembered from one slice to the next
_LIMIT: Final = 8


class PresentFile(S3File):
    """An object of one piece, mostly: if its digest is known it need not be read."""

    def digest(self, length: int) -> str | None:
        """Return the digest of all bytes or of none."""
        if self._head.sha256 is None:
            return None
        if length == 0:
            return hashlib.sha256().hexdigest()
        return self._head.sha256 if length == self.size else None


class PresentParts(PresentFile):
    """An object of parts as ours are: the service knows a digest of their digests.

    Whether it is another shows with the last part only; those before count as equal until then.
    """

    def __init__(self, at: S3Object, told: Head, block: int) -> None:
        super().__init__(at, told)
        self.block = block
        self._parts = _UNDER_WAY.of(self.identity())

    def holds(self, offset: int, data: bytes) -> bool:
        """Take in a part; compare all with the last one."""
        self._parts[offset // self.block] = Digests.of(data)
        if offset + len(data) < self.size:
            return True
        parts = [self._parts.get(number) for number in range(self._head.parts)]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return False  # forgotten meanwhile: then it is written again
        if self._head.sha256_of_parts:
            return self._head.sha256_of_parts == _sha256_of(known)
        return self._head.md5_of_parts == md5_of([part.md5 for part in known])


def present_file(at: S3Object, told: Head, block: int) -> PresentFile:
    """Return the object that is there, to be compared with a file whose parts have that size."""
    alike = told.parts == -(-told.size // block) and told.parts > 0
    if alike and (told.sha256_of_parts or told.md5_of_parts):
        return PresentParts(at, told, block)
    return PresentFile(at, told)


class _UnderWay:
    """Digests of parts by the object that they are compared with."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[Hashable, dict[int, Digests]] = OrderedDict()

    def of(self, identity: Hashable) -> dict[int, Digests]:
        with self._lock:
            found = self._kept.setdefault(identity, {})
            self._kept.move_to_end(identity)
            while len(self._kept) > _LIMIT:
                self._kept.popitem(last=False)
            return found


_UNDER_WAY: Final = _UnderWay()


def _sha256_of(parts: list[Digests]) -> str:
    digests = b"".join(base64.b64decode(part.sha256) for part in parts)
    return base64.b64encode(hashlib.sha256(digests).digest()).decode("ascii")


def md5_of(parts: list[str]) -> str:
    """Return the MD5 of the MD5s of parts, which their ETag begins with, mostly."""
    joined = b"".join(bytes.fromhex(part) for part in parts)
    return hashlib.md5(joined, usedforsecurity=False).hexdigest()
