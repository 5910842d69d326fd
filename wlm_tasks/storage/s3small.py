"""Small objects of S3 by one request, and what all that is sent to S3 has in common."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final, Self

from wlm_tasks.errors import StorageUnavailableError
from wlm_tasks.model.ends import DigestOf
from wlm_tasks.storage.oneway import OneWay
from wlm_tasks.storage.s3client import S3Object
from wlm_tasks.storage.s3source import METADATA

_MD5: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Digests:
    """What verifies bytes on their way."""

    sha256: str  #: in base64
    md5: str  #: in hex

    @classmethod
    def of(cls, data: bytes | bytearray) -> Self:
        """Compute them."""
        sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")
        return cls(sha256, hashlib.md5(data, usedforsecurity=False).hexdigest())

    @property
    def headers(self) -> dict[str, str]:
        """What lets the service refuse other bytes; old ones know only the last of these."""
        return {
            "ChecksumAlgorithm": "SHA256",
            "ChecksumSHA256": self.sha256,
            "ContentMD5": base64.b64encode(bytes.fromhex(self.md5)).decode("ascii"),
        }

    def matches(self, sha256: str | None, etag: str) -> bool | None:
        """Compare with what the service tells; None if it tells nothing that can be compared.

        An ETag is the MD5, mostly; with some kinds of encryption it is something else.
        """
        if sha256:
            return sha256 == self.sha256
        return etag == self.md5 if _MD5.fullmatch(etag) else None


class S3Small(OneWay):
    """A file in memory, sent as a whole when it is verified."""

    def __init__(self, at: S3Object) -> None:
        super().__init__(at.name, at.place)
        self._object = at
        self._data = bytearray()

    def write_at(self, offset: int, data: bytes) -> None:
        """Keep bytes."""
        self.follow(offset, len(data))
        self._data += data

    def commit(self, digest: DigestOf) -> None:  # noqa: ARG002
        """Send all of it; the service compares the digests."""
        digests = Digests.of(self._data)
        answer = self._object.call(
            "put_object",
            Body=self._data,
            Metadata={METADATA: base64.b64decode(digests.sha256).hex()},
            **digests.headers,
        )
        require_same(self._object, digests, answer, "it")
        self.stops.ended = True

    def discard(self) -> None:
        """Forget it."""
        self._data.clear()
        self.stops.ended = True


def require_same(at: S3Object, digests: Digests, answer: dict[str, Any], what: str) -> None:
    """Raise `StorageUnavailableError` if the service says that it has got other bytes."""
    encrypted = answer.get("SSECustomerAlgorithm") or answer.get("SSEKMSKeyId")
    etag = "" if encrypted else etag_of(answer)
    if digests.matches(answer.get("ChecksumSHA256"), etag) is False:
        raise StorageUnavailableError(
            f"{at.place}: {what} arrived with another digest than that of what was sent"
        )


def etag_of(answer: dict[str, Any]) -> str:
    """Return an ETag without its quotes."""
    return str(answer.get("ETag", "")).strip('"')
