"""Objects of S3 as sources of transfers: one stream, begun where it is wanted."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from botocore.exceptions import ClientError

from wlm_tasks.errors import StorageRefusedError, StorageUnavailableError
from wlm_tasks.storage.s3client import S3Object, error_code

#: bytes read from a connection at once
_PIECE: Final = 64 * 1024
#: seconds after which a slow reader gives what it has, so that it can be asked to stop
_PATIENCE_S: Final = 1.0
#: our metadata of objects that were written by one request: their SHA-256, lower-case hex
METADATA: Final = "wlm-sha256"
_OF_PARTS: Final = re.compile(r'"?([0-9a-f]{32})-([0-9]{1,5})"?')


class Head:
    """What the service tells of an object without sending it (HeadObject)."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.size: Final = int(answer["ContentLength"])
        self.etag: Final = str(answer.get("ETag", ""))
        self.version: Final = (
            self.etag,
            answer.get("VersionId"),
            answer.get("LastModified"),
            self.size,
        )
        self.sha256: Final = _sha256(answer)

        #: of one written in parts: their number, the digest of their digests in base64 if it is
        #: told, and the ETag as far as it is made of MD5s
        self.parts: Final = int(match[2]) if (match := _OF_PARTS.fullmatch(self.etag)) else 0
        self.sha256_of_parts: Final = (
            str(answer.get("ChecksumSHA256", "")).partition("-")[0] if self.parts else ""
        )
        encrypted = answer.get("SSECustomerAlgorithm") or answer.get("SSEKMSKeyId")
        self.md5_of_parts: Final = match[1] if match and not encrypted else ""


def _sha256(answer: dict[str, Any]) -> str | None:
    """Return the digest of the whole object if the service or our metadata tell it.

    With parts the service tells a digest of digests.
    """
    if "-" in str(answer.get("ETag", "")):
        return None
    told = str(answer.get("ChecksumSHA256", ""))
    try:
        digest = base64.b64decode(told, validate=True).hex()
    except binascii.Error:
        digest = ""
    digest = digest or str(answer.get("Metadata", {}).get(METADATA, ""))
    return digest if len(digest) == hashlib.sha256().digest_size * 2 else None


def head(at: S3Object) -> Head:
    """Ask for what is told of an object; `StorageRefusedError` if there is none."""
    found = head_if_any(at)
    if found is not None:
        return found
    # a missing bucket and a missing key are one answer to HEAD, which has no body
    if error_of(at, "head_bucket", Bucket=at.bucket) == "404":
        raise StorageRefusedError(f"{at.place}: No such file: there is no bucket {at.bucket!r}")
    raise StorageRefusedError(f"{at.place}: No such file")


def head_if_told(at: S3Object) -> Head | None:
    """Do the same; None if there is none, or if this is not for us to know.

    Who may not list a bucket is told 403 of a key that is not there, and so is who may only write.
    """
    try:
        return head_if_any(at)
    except StorageRefusedError:
        return None


def head_if_any(at: S3Object) -> Head | None:
    """Do the same; None if there is none."""
    with at.translated():
        try:
            return Head(at.client.head_object(**at.at, ChecksumMode="ENABLED"))
        except ClientError as error:
            if error_code(error)[1] != 404:  # noqa: PLR2004 - of HTTP
                raise
    return None


def error_of(at: S3Object, operation: str, **given: Any) -> str:
    """Return the code of the error that a call ends with, empty if with none."""
    with at.translated():
        try:
            getattr(at.client, operation)(**given)
        except ClientError as error:
            return error_code(error)[0]
    return ""


class S3File:
    """An object, opened for reading from its first byte to its last."""

    def __init__(self, at: S3Object, told: Head) -> None:
        self.place = at.place
        self.mode: int | None = None
        self._object = at
        self._head = told
        self._stream: Any = None
        self._at = 0  #: where the stream is

    @property
    def size(self) -> int:
        """Bytes in all when it was opened."""
        return self._head.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there; going on where the last read ended costs no request."""
        if offset >= self.size:
            return b""
        if self._stream is None or self._at != offset:
            self._open(offset)
        return self._read(min(length, self.size - offset))

    def digest(self, length: int) -> str | None:  # noqa: ARG002
        """Tell nothing: at best that of all bytes is known, but that of a part is asked for."""
        return None

    def identity(self) -> Hashable:
        """Return the version of the object."""
        return self._object.name, self._head.version

    def changed(self) -> bool:
        """Ask for the version again."""
        found = head_if_any(self._object)
        return found is None or found.version != self._head.version

    def close(self) -> None:
        """End the stream."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self, offset: int) -> None:
        self.close()
        condition = {"IfMatch": self._head.etag} if self._head.etag else {}
        answer = self._object.call("get_object", Range=f"bytes={offset}-", **condition)
        self._stream, self._at = answer["Body"], offset
        expected = f"bytes {offset}-{self.size - 1}/{self.size}"
        told = answer.get("ContentRange", "")
        if told != expected and not (offset == 0 and answer["ContentLength"] == self.size):
            self.close()
            raise StorageUnavailableError(
                f"{self.place}: sent other bytes than those from {offset} on"
            )

    def _read(self, length: int) -> bytes:
        """Read on in the stream; an end before the end of the object is an error."""
        data = bytearray()
        until = time.monotonic() + _PATIENCE_S
        with self._object.translated(f"after {self._at} bytes: "):
            while len(data) < length and time.monotonic() < until:
                piece = self._stream.read(min(_PIECE, length - len(data)))
                if not piece:
                    break
                data += piece
                self._at += len(piece)
        if not data:
            raise StorageUnavailableError(
                f"{self.place}: the connection ended after {self._at} of {self.size} bytes"
            )
        return bytes(data)


@contextmanager
def opened(file: S3File) -> Iterator[S3File]:
    """Close it at the end of a ``with``."""
    try:
        yield file
    finally:
        file.close()
