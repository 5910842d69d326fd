"""Storages of objects, and those of fsspec, to run the storage tests on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import requests
from fsspec.implementations.memory import MemoryFileSystem
from unit.storage.stores import MiB, Store

from services.s3server import BUCKET, PrivateS3
from wlm_tasks.model.paths import part_name
from wlm_tasks.storage.any_fsspec import FsspecStorage
from wlm_tasks.storage.s3 import S3Storage


@cache
def _client(endpoint: str, cert_file: str) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        verify=cert_file or None,
        aws_access_key_id="tests",
        aws_secret_access_key="tests",
    )


class S3Store(Store):
    """Objects of a service in another process. Parts are of 1 MiB there."""

    block = MiB
    no_names = "\n"  # moto finds no such key

    def __init__(self, directory: Path, server: PrivateS3, options: dict[str, object]) -> None:
        super().__init__(directory)
        self.server = server
        self.backend = S3Storage(name="lab", options=options)
        self.client = _client(server.endpoint, str(server.cert_file or ""))

    def reset(self) -> None:
        """Empty the bucket, or make it."""
        verify = str(self.server.cert_file) if self.server.cert_file else True
        url = f"{self.server.endpoint}/moto-api/reset"
        requests.post(url, timeout=20, verify=verify).raise_for_status()
        self.client.create_bucket(Bucket=BUCKET)

    def url(self, name: str) -> str:
        return f"s3://{BUCKET}/{quote(name)}"

    def write(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=name, Body=data)

    def read(self, name: str) -> bytes | None:
        try:
            body = self.client.get_object(Bucket=BUCKET, Key=name)["Body"]
        except self.client.exceptions.NoSuchKey:
            return None
        with body:
            data: bytes = body.read()
            return data

    def write_part(self, name: str, data: bytes) -> None:
        at = {"Bucket": BUCKET, "Key": name}
        uploads = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        upload = next(
            (found["UploadId"] for found in uploads if found["Key"] == name), None
        ) or self.client.create_multipart_upload(**at).pop("UploadId")
        for start in range(0, len(data), MiB):
            self.client.upload_part(
                **at,
                UploadId=upload,
                PartNumber=start // MiB + 1,
                Body=data[start : start + MiB],
            )

    def read_part(self, name: str) -> bytes | None:
        uploads = self.server.uploads(name)
        assert len(uploads) <= 1
        return uploads[0] if uploads else None

    @contextmanager
    def locked(self, name: str) -> Iterator[Any]:
        with self.backend.target(self.url(name), None) as target, target.part(0) as part:
            yield part


class AnyStore(Store):
    """Files of fsspec's own storage in memory. What is put there begins anew each time."""

    resumes = False
    no_names = ":"  # no name has two of them

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.files = MemoryFileSystem()
        self.files.store.clear()
        self.files.pseudo_dirs[:] = [""]
        self.backend = FsspecStorage("memory")

    def url(self, name: str) -> str:
        return f"memory://far/{quote(name)}"

    def write(self, name: str, data: bytes) -> None:
        self.files.pipe_file(f"/far/{name}", data)

    def read(self, name: str) -> bytes | None:
        found = self.files.store.get(f"/far/{name}")
        return None if found is None else bytes(found.getvalue())

    def write_part(self, name: str, data: bytes) -> None:
        self.write(part_name(name), data)

    def read_part(self, name: str) -> bytes | None:
        return self.read(part_name(name))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        with self.backend.target(self.url(name), None) as target, target.part(0):
            yield
