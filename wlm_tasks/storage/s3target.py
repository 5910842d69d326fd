"""Objects of S3 as targets of transfers: one request for a small one, else a multipart upload.

Limits are those of https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html: at most
10,000 parts, each but the last of at least 5 MiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from wlm_tasks.errors import StorageRefusedError
from wlm_tasks.model.ends import Part, Readable
from wlm_tasks.storage.locks import Locks
from wlm_tasks.storage.s3client import S3Object
from wlm_tasks.storage.s3present import present_file
from wlm_tasks.storage.s3small import S3Small
from wlm_tasks.storage.s3source import head_if_told, opened
from wlm_tasks.storage.s3upload import MEMORY, S3Upload

MiB: Final = 1024 * 1024
#: smallest part but the last one, in bytes; a file that is smaller goes in one request
PART: int = 8 * MiB
_MOST_PARTS: Final = 10_000

_LOCKS: Final = Locks()


class S3Target:
    """A key to write to."""

    def __init__(self, at: S3Object) -> None:
        self._object = at

    @contextmanager
    def present(self) -> Iterator[Readable | None]:
        """Open the object that is there, as far as we may know of it."""
        told = head_if_told(self._object)
        if told is None:
            yield None
            return
        with opened(present_file(self._object, told, _block(told.size))) as file:
            yield file

    @contextmanager
    def part(self, size: int) -> Iterator[Part]:
        """Lock the key within this process, and find the upload to go on with."""
        with _LOCKS.held(self._object.name, self._object.place):
            if size < PART:
                small = S3Small(self._object)
                yield small
                small.stops.note(gained=False, tried=small.written > 0)
                return
            upload = S3Upload(self._object, size, block_of(self._object, size))
            try:
                yield upload
            finally:
                upload.close()
            upload.stops.note(gained=upload.gained, tried=upload.written > 0)


def block_of(at: S3Object, size: int) -> int:
    """Return how large the parts of a file are: the same for every transfer of that size."""
    block = _block(size)
    if block > MEMORY:
        most = _MOST_PARTS * MEMORY >> 30
        raise StorageRefusedError(f"{at.place}: has {size} bytes, more than the {most} GiB that go")
    return block


def _block(size: int) -> int:
    return max(PART, -(-size // (_MOST_PARTS * MiB)) * MiB)
