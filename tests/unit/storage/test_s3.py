"""What is particular to S3: uploads in parts, versions, and what a service may do wrong."""

from __future__ import annotations

import os
import random
import signal
import threading
from dataclasses import replace

import pytest
from unit.compute.sites import forked
from unit.storage.objectstores import S3Store
from unit.storage.stores import MiB, Put, sha256, stop_after
from unit.storage.webstores import bring, take

from services.processes import wait_for
from services.s3server import BUCKET, PrivateS3
from wlm_tasks.errors import InvalidPathError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.storage import s3client, s3present, s3small, s3source, s3target, s3upload
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.s3 import S3Storage

DATA = random.Random(4).randbytes(5 * MiB + 7)


def lines(server: PrivateS3, *words: str) -> list[str]:
    """What was asked since the faults were set, as far as it has these words."""
    return [
        asked["line"] for asked in server.asked() if all(word in asked["line"] for word in words)
    ]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each request be made once, and wait for an answer for a short time only."""
    monkeypatch.setattr(s3client, "_ATTEMPTS", 1)
    monkeypatch.setattr(s3client, "STALL_S", 1)
    monkeypatch.setattr(s3client, "_CLIENTS_HERE", s3client._Clients())


def test_a_small_file_goes_in_one_verified_request(s3: S3Store) -> None:
    data = DATA[:1000]
    assert take(s3, data).complete
    told = s3.client.head_object(Bucket=BUCKET, Key="far.dat", ChecksumMode="ENABLED")
    assert told["Metadata"] == {"wlm-sha256": sha256(data)}
    asked = [one for one in s3.server.asked() if one["line"].startswith("PUT")]
    assert len(asked) == 1
    assert "x_amz_checksum_sha256" in asked[0]
    assert "content_md5" in asked[0]


def test_parts_have_digests(s3: S3Store) -> None:
    assert take(s3, DATA).complete
    asked = [one for one in s3.server.asked() if one["line"].startswith("PUT")]
    assert len(asked) == 6
    assert all("x_amz_checksum_sha256" in one and "content_md5" in one for one in asked)
    assert s3.read("far.dat") == DATA


def test_a_small_file_that_is_there_is_not_read(s3: S3Store) -> None:
    take(s3, DATA[:1000])
    s3.server.faults()
    assert take(s3, DATA[:1000]).moved == 0
    assert lines(s3.server, "GET") == []
    assert take(s3, DATA[1:1001]).moved == 1000


@pytest.mark.parametrize("told", ["sha256", "md5"])
def test_a_large_file_that_is_there_is_not_read(
    s3: S3Store, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service tells a digest of the digests of its parts, in one way or another."""
    take(s3, DATA)
    if told == "md5":
        head = s3source.Head

        def silent(answer: dict[str, object]) -> s3source.Head:
            return head({**answer, "ChecksumSHA256": ""})

        monkeypatch.setattr(s3source, "Head", silent)
    s3.server.faults()
    assert take(s3, DATA) == TransferResult(
        complete=True, size=len(DATA), done=len(DATA), moved=0, sha256=sha256(DATA)
    )
    assert not take(s3, DATA, control=stop_after(2)).complete
    assert take(s3, DATA).moved == 0
    assert lines(s3.server, "GET") == []
    assert take(s3, DATA[:-1] + b"x").moved == len(DATA)
    assert s3.read("far.dat") == DATA[:-1] + b"x"


def test_a_comparison_that_was_forgotten_ends_in_writing(
    s3: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(s3, DATA)
    assert not take(s3, DATA, control=stop_after(2)).complete
    monkeypatch.setattr(s3present, "_UNDER_WAY", s3present._UnderWay())
    (s3.root / "near.dat").write_bytes(DATA)
    assert take(s3, DATA).complete
    assert s3.read("far.dat") == DATA


def test_a_file_of_other_parts_is_read(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3target, "PART", 2 * MiB)
    take(s3, DATA)
    monkeypatch.setattr(s3target, "PART", MiB)
    s3.server.faults()
    assert take(s3, DATA).moved == 0
    assert len(lines(s3.server, "GET")) == 1


def test_reading_is_one_request(s3: S3Store) -> None:
    s3.write("far.dat", DATA)
    s3.server.faults()
    assert bring(s3) == DATA
    asked = [one for one in s3.server.asked() if one["line"].startswith("GET")]
    assert len(asked) == 1
    assert asked[0]["range"] == "bytes=0-"
    assert asked[0]["if_match"]


def test_a_change_before_reading_goes_on(s3: S3Store) -> None:
    s3.write("far.dat", DATA)
    with s3.backend.source(s3.url("far.dat")) as source:
        assert source.read_at(0, 10) == DATA[:10]
        s3.write("far.dat", DATA[::-1])
        with pytest.raises(StorageUnavailableError, match="changed while it was read"):
            source.read_at(MiB, 10)
        assert source.changed()
        s3.client.delete_object(Bucket=BUCKET, Key="far.dat")
        assert source.changed()


def test_versions_are_told_apart(s3: S3Store) -> None:
    s3.client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    s3.write("far.dat", DATA)
    with s3.backend.source(s3.url("far.dat")) as source:
        s3.write("far.dat", DATA)
        assert source.changed()


def test_a_part_that_the_service_got_wrong(s3: S3Store, impatient: None) -> None:
    s3.server.faults({"on": "PUT uploadId", "status": 400, "code": "BadDigest"})
    with pytest.raises(StorageUnavailableError, match="BadDigest"):
        take(s3, DATA)
    assert s3.read("far.dat") is None


KMS = {"SSEKMSKeyId": "arn:aws:kms:..."}


@pytest.mark.parametrize(
    ("told", "good"),
    [
        ({"ETag": f'"{s3small.Digests.of(DATA).md5}"'}, True),
        ({"ETag": f'"{s3small.Digests.of(DATA[1:]).md5}"'}, False),
        ({"ETag": f'"{s3small.Digests.of(DATA[1:]).md5}"', **KMS}, True),
        ({"ETag": '"what-1"'}, True),
        ({}, True),
        ({"ETag": f'"{"0" * 32}"', "ChecksumSHA256": s3small.Digests.of(DATA).sha256}, True),
        ({"ChecksumSHA256": s3small.Digests.of(DATA[1:]).sha256}, False),
    ],
)
def test_what_a_service_says_it_has_got(told: dict[str, str], good: bool) -> None:
    def look() -> None:
        at = S3Storage()._object("s3://bucket/key")
        s3small.require_same(at, s3small.Digests.of(DATA), told, "it")

    if good:
        return look()
    with pytest.raises(StorageUnavailableError, match="it arrived with another digest"):
        look()
    return None


def test_an_upload_of_other_parts_is_replaced(s3: S3Store) -> None:
    s3.write_part("far.dat", b"x" * MiB * 8)
    assert take(s3, DATA).moved == len(DATA)
    assert s3.read("far.dat") == DATA
    assert s3.read_part("far.dat") is None


def test_an_upload_of_somebody_else_is_left_alone(s3: S3Store) -> None:
    at = {"Bucket": BUCKET, "Key": "far.dat"}
    other = s3.client.create_multipart_upload(**at, ChecksumAlgorithm="CRC32")["UploadId"]
    s3.client.upload_part(**at, UploadId=other, PartNumber=1, Body=DATA[:MiB])
    assert take(s3, DATA).moved == len(DATA)
    assert s3.server.uploads("far.dat") == [DATA[:MiB]]


def test_a_missing_part_and_those_behind_it_are_sent_again(s3: S3Store) -> None:
    at = {"Bucket": BUCKET, "Key": "far.dat"}
    upload = s3.client.create_multipart_upload(**at)["UploadId"]
    for number in (1, 2, 4):
        data = DATA[(number - 1) * MiB : number * MiB]
        s3.client.upload_part(**at, UploadId=upload, PartNumber=number, Body=data)
    assert take(s3, DATA).moved == len(DATA) - 2 * MiB
    assert s3.read("far.dat") == DATA


def test_who_may_not_list_uploads_begins_anew(s3: S3Store) -> None:
    take(s3, DATA, control=stop_after(3))
    s3.server.faults({"on": "GET uploads", "status": 403, "code": "AccessDenied", "times": 99})
    assert take(s3, DATA).moved == len(DATA)
    assert s3.read("far.dat") == DATA


def test_many_parts_are_listed_in_pages(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    take(s3, DATA, control=stop_after(5))
    monkeypatch.setattr(s3upload, "_PAGE", 2)
    assert take(s3, DATA).moved == len(DATA) - 5 * MiB


def test_a_completion_whose_answer_is_lost(s3: S3Store, impatient: None) -> None:
    s3.server.faults({"on": "POST uploadId", "status": 500, "lost": True})
    assert take(s3, DATA).complete
    assert s3.read("far.dat") == DATA


def test_a_completion_that_failed_is_made_again(s3: S3Store, impatient: None) -> None:
    s3.server.faults({"on": "POST uploadId", "status": 500})
    with pytest.raises(StorageUnavailableError, match="InternalError, HTTP 500"):
        take(s3, DATA)
    assert s3.read("far.dat") is None
    assert take(s3, DATA).moved == 0
    assert s3.read("far.dat") == DATA


def test_what_was_sent_before_a_fault_stays(s3: S3Store, impatient: None) -> None:
    s3.server.faults({"on": "PUT uploadId partNumber=4", "status": 503, "code": "SlowDown"})
    with pytest.raises(StorageUnavailableError, match="SlowDown"):
        take(s3, DATA)
    assert take(s3, DATA).moved <= len(DATA) - 3 * MiB
    assert s3.read("far.dat") == DATA


def test_throttling_is_waited_out(s3: S3Store) -> None:
    s3.server.faults({"on": "PUT uploadId", "status": 503, "code": "SlowDown", "from": 2})
    assert take(s3, DATA).complete
    assert s3.read("far.dat") == DATA


def test_a_stream_that_is_cut(s3: S3Store, impatient: None) -> None:
    s3.write("far.dat", DATA)
    s3.server.faults({"on": "GET", "cut": 2 * MiB + 5})
    with pytest.raises(StorageUnavailableError, match="after 20971"):
        bring(s3)
    assert bring(s3) == DATA


def test_a_service_that_does_not_answer(s3: S3Store, impatient: None) -> None:
    s3.write("far.dat", DATA)
    s3.server.faults({"on": "GET", "after_s": 3})
    with pytest.raises(StorageUnavailableError, match="no byte in time"):
        bring(s3)


def test_parts_go_out_at_the_same_time_in_bounded_memory(
    s3: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    flying, most, lock = [0], [0], threading.Lock()
    send = s3upload.S3Upload._send

    def counted(self: s3upload.S3Upload, *given: object) -> s3upload.Sent:
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        try:
            return send(self, *given)  # type: ignore[arg-type]
        finally:
            with lock:
                flying[0] -= 1

    monkeypatch.setattr(s3upload.S3Upload, "_send", counted)
    s3.server.faults({"on": "PUT uploadId", "after_s": 0.3, "times": 99})
    assert take(s3, DATA).complete
    assert 1 < most[0] <= 4
    monkeypatch.setattr(s3upload, "MEMORY", MiB)
    most[0] = 0
    s3.client.delete_object(Bucket=BUCKET, Key="far.dat")
    assert take(s3, DATA).complete
    assert most[0] == 1
    assert s3.read("far.dat") == DATA


def test_sizes_of_parts(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3target, "PART", 8 * MiB)
    at = S3Storage()._object("s3://bucket/key")
    assert s3target.block_of(at, 8 * MiB) == 8 * MiB
    assert s3target.block_of(at, 80_000 * MiB) == 8 * MiB
    assert s3target.block_of(at, 80_000 * MiB + 1) == 9 * MiB
    assert s3target.block_of(at, 640_000 * MiB) == 64 * MiB
    with pytest.raises(StorageRefusedError, match=r"more than the 625 GiB"):
        s3target.block_of(at, 640_000 * MiB + 1)


def test_slices_that_never_get_on_are_told(s3: S3Store) -> None:
    (s3.root / "near.dat").write_bytes(DATA)

    def go() -> bool:
        """Write for a quarter of a second less than a part."""
        return Put(s3).go(replace(stop_after(1), bytes_per_s=3_000_000.0)).complete

    assert not go()
    assert not go()
    with pytest.raises(StorageUnavailableError, match=r"stopped 3 times .*`steps\.slice_s`"):
        go()
    assert Put(s3).go().complete


def test_kills_at_any_point(s3: S3Store) -> None:
    way, chance, size = Put(s3), random.Random(20), 16 * MiB
    data = chance.randbytes(size)
    way.source(data)
    for point in sorted(chance.randrange(size) for _ in range(5)):

        def go(point: int = point) -> None:
            def progress(done: int, _total: int) -> None:
                if done >= point:
                    os.kill(os.getpid(), signal.SIGKILL)

            way.go(TransferControl(progress=progress))

        with forked(go) as pid:
            _pid, status = os.waitpid(pid, 0)
            assert os.WIFSIGNALED(status)
        assert way.target() is None
    kept = len(way.part() or b"")
    assert kept > 4 * MiB
    result = wait_for(way.go, what="the transfer")
    assert result.moved <= size - kept + 5 * MiB
    assert way.target() == data
    assert way.part() is None


@pytest.mark.parametrize(
    "url",
    [
        *(
            "s3://",
            "s3:",
            "s3://bucket",
            "s3://bucket/",
            "s3:///key",
            "s3://b/key",
            "s3://bucket/k?x",
        ),
        *(
            "s3://bucket/k?versionId=1",
            "s3://bucket/k#x",
            "s3://me@bucket/k",
            "s3://me:pw@bucket/k",
        ),
        *("s3://bucket:9000/k", "s3://bucket/a/", "s3://bucket/a/../b", "s3://bucket/./b"),
        *("s3://bucket/a%2Fb", "s3://bucket/%2e%2e/b", "s3://bucket/a b", "s3://bucket/%ff"),
        *("s3://bucket/%00", f"s3://bucket/{'x' * 1025}", "s3://bucket/%", "s3://[::1]/k"),
        *("s3://bu!cket/k", "https://bucket/k", "s3://.bucket/k"),
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(InvalidPathError, match="URL: got") as caught:
        S3Storage().check(url)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("s3://bucket/k", "s3://my.old_Bucket/a/b%20c", "S3://bucket/%3Fx", "s3://bucket/a//b"),
        *("s3://bucket/%C3%A9", f"s3://bucket/{'x' * 1024}", "s3://bucket/a/.x.wlm-part"),
    ],
)
def test_good_urls(url: str) -> None:
    S3Storage().check(url)
