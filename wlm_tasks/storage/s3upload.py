"""Multipart uploads of S3: parts go out by several threads, and those that are there stay.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_plus

from wlm_tasks.errors import StepError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.model.ends import DigestOf
from wlm_tasks.storage.s3client import S3Object
from wlm_tasks.storage.s3present import md5_of
from wlm_tasks.storage.s3small import Digests, etag_of, require_same
from wlm_tasks.storage.s3source import head_if_any
from wlm_tasks.storage.stops import Stops

#: bytes of parts that are in memory at a time, so also of the largest part
MEMORY: Final = 64 * 1024 * 1024

#: most parts on their way at a time
_FLYING: Final = 4
#: parts listed by one request: as many as there can be
_PAGE: Final = 1000


@dataclass(frozen=True)
class Sent:
    """A part that the service has."""

    number: int  #: from 1 on
    size: int  #: bytes
    etag: str
    sha256: str | None  #: in base64, None if the service does not tell it


class S3Upload:
    """One upload: that of an earlier transfer to the key, if there is one, else a new one.

    Its parts are its blocks. Another process may go on with the same upload: then the parts of
    one of the two are not those that it completes with, and the service refuses that.
    """

    def __init__(self, at: S3Object, size: int, block: int) -> None:
        self.place = at.place
        self.block = block
        self.stops = Stops(at.name, at.place)
        self.written = 0
        self.gained = False  #: whether a part was sent
        self._object = at
        self._whole = size
        self._id = _newest(at)
        self._parts = {} if self._id is None else self._found(self._id)
        self._at = self.size
        self._buffer = bytearray()
        self._failed = False
        # what is filled needs room, too; the largest parts are sent before the next one is filled
        self._most: Final = min(_FLYING, MEMORY // block - 1)
        self._flying: deque[Future[Sent]] = deque()
        self._pool = ThreadPoolExecutor(max(1, self._most), "wlm-s3")

    @property
    def size(self) -> int:
        """Bytes of the parts that are there."""
        return sum(part.size for part in self._parts.values())

    def read_at(self, offset: int, length: int) -> bytes:  # noqa: ARG002
        """Read nothing: parts cannot be read back."""
        return b""

    def digest(self, length: int) -> str | None:  # noqa: ARG002
        """Tell nothing of more than one block."""
        return None

    def holds(self, offset: int, data: bytes) -> bool:
        """Compare a part by the SHA-256 that the service tells, or by its MD5."""
        part = self._parts.get(offset // self.block + 1)
        if part is None or part.size != len(data):
            return False
        return Digests.of(data).matches(part.sha256, part.etag) is True

    def identity(self) -> Hashable:
        """Return upload and parts, once those on their way are there."""
        self._land(0)
        if self._failed:
            return object()
        return self._object.name, self._id, tuple(part.etag for part in self._parts.values())

    def truncate(self, size: int) -> None:
        """Forget the parts behind: others of their numbers replace them, if they are needed."""
        count = -(-size // self.block)
        self._parts = {number: part for number, part in self._parts.items() if number <= count}
        self._at = size
        self._buffer = bytearray()

    def write_at(self, offset: int, data: bytes) -> None:
        """Take bytes; send them when they are a part."""
        if offset != self._at or len(self._buffer) + len(data) > self.block:
            raise StorageRefusedError(f"{self.place}: can only be written from begin to end")
        self._buffer += data
        self._at += len(data)
        self.written += len(data)
        if len(self._buffer) == self.block or self._at == self._whole:
            self._submit(self._buffer)
            self._buffer = bytearray()

    def commit(self, digest: DigestOf) -> None:  # noqa: ARG002
        """Let the service make the object of the parts, and look at what it has made."""
        self._land(0)
        with_sha256 = all(part.sha256 for part in self._parts.values())
        parts = [
            {"PartNumber": part.number, "ETag": f'"{part.etag}"'}
            | ({"ChecksumSHA256": part.sha256} if with_sha256 else {})
            for part in self._parts.values()
        ]
        trouble: StepError | None = None
        try:
            self._object.call(
                "complete_multipart_upload",
                UploadId=self._id,
                MultipartUpload={"Parts": parts},
            )
        except StorageUnavailableError as error:
            trouble = error  # it may be done all the same, and the answer lost
        self._verify(trouble)
        self.stops.ended = True

    def discard(self) -> None:
        """Remove the parts; if that fails they stay, and a later transfer replaces them."""
        self.stops.ended = True
        self.close()
        self._flying.clear()
        if self._id is not None:
            with suppress(StepError):
                self._object.call("abort_multipart_upload", UploadId=self._id)
            self._id, self._parts = None, {}

    def close(self) -> None:
        """Wait for what is on its way; what has not begun is not sent any more."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, data: bytearray) -> None:
        if self._id is None:
            answer = self._object.call("create_multipart_upload", ChecksumAlgorithm="SHA256")
            self._id = str(answer["UploadId"])
        number = (self._at - 1) // self.block + 1
        self._land(max(0, self._most - 1))
        self._flying.append(self._pool.submit(self._send, self._id, number, data))
        if self._most < 1:
            self._land(0)

    def _send(self, upload: str, number: int, data: bytearray) -> Sent:
        digests = Digests.of(data)
        answer = self._object.call(
            "upload_part", UploadId=upload, PartNumber=number, Body=data, **digests.headers
        )
        require_same(self._object, digests, answer, f"part {number}")
        return Sent(number, len(data), etag_of(answer), answer.get("ChecksumSHA256"))

    def _land(self, most: int) -> None:
        """Wait until at most so many parts are on their way."""
        while len(self._flying) > most:
            try:
                part = self._flying.popleft().result()
            except BaseException:
                self._failed = True
                raise
            self._parts[part.number] = part
            self.gained = True

    def _found(self, upload: str) -> dict[int, Sent]:
        """Return the parts that are there from the first on, as many as have the right size."""
        parts: dict[int, Sent] = {}
        left = self._whole
        for number, told in enumerate(_listed(self._object, upload), 1):
            wanted = min(self.block, left)
            if told["PartNumber"] != number or told["Size"] != wanted or not wanted:
                break
            parts[number] = Sent(number, wanted, etag_of(told), told.get("ChecksumSHA256"))
            left -= wanted
        return parts

    def _verify(self, trouble: StepError | None) -> None:
        """Look at the object: it must have our size, and after trouble our ETag, too.

        Where we may not look, the answer of the service has to do.
        """
        try:
            told = head_if_any(self._object)
        except StorageRefusedError:
            if trouble is None:
                return
            raise trouble from None
        etag = None if told is None else told.etag.strip('"')
        if trouble is not None and (etag is None or etag != self._etag()):
            raise trouble
        if told is None or told.size != self._whole:
            found = "is not there" if told is None else f"has {told.size} bytes"
            raise StorageUnavailableError(
                f"{self.place}: {found} after it was written, expected {self._whole} bytes"
            )

    def _etag(self) -> str:
        """Return the ETag that services give to an object of these parts, mostly."""
        try:
            whole = md5_of([part.etag for part in self._parts.values()])
        except ValueError:
            return ""
        return f"{whole}-{len(self._parts)}"


def _newest(at: S3Object) -> str | None:
    """Return the newest upload for the key that may be ours: ours have SHA-256 checksums.

    Who may not list uploads begins anew each time.
    """
    try:
        # sorted by key: those of this very key come first
        answer = at.list("list_multipart_uploads", Prefix=at.at["Key"], EncodingType="url")
    except StorageRefusedError:
        return None
    decode = unquote_plus if answer.get("EncodingType") == "url" else str
    mine = [
        upload
        for upload in answer.get("Uploads", [])
        if decode(upload["Key"]) == at.at["Key"]
        and upload.get("ChecksumAlgorithm", "SHA256") == "SHA256"
    ]
    return max(mine, key=lambda upload: upload["Initiated"])["UploadId"] if mine else None


def _listed(at: S3Object, upload: str) -> list[dict[str, Any]]:
    """Return what is told of the parts of an upload, sorted by number."""
    parts: list[dict[str, Any]] = []
    marker = 0
    while True:
        answer = at.call("list_parts", UploadId=upload, PartNumberMarker=marker, MaxParts=_PAGE)
        parts += answer.get("Parts", [])
        following = int(answer.get("NextPartNumberMarker") or 0)
        if not answer.get("IsTruncated") or following <= marker:
            return parts
        marker = following
