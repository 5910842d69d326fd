"""How to get in to S3, what is told of refusals, and that secrets never show."""

from __future__ import annotations

import builtins
import importlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions
from unit.storage.objectstores import S3Store
from unit.storage.stores import MiB
from unit.storage.webstores import bring, take

from services.certificates import certificate
from services.s3server import BUCKET, PrivateS3
from wlm_tasks import plugins
from wlm_tasks.config.loading import load
from wlm_tasks.errors import (
    ConfigError,
    StepError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.storage import s3client
from wlm_tasks.storage.s3 import S3Storage
from wlm_tasks.storage.s3client import S3Object
from wlm_tasks.storage.s3settings import S3Settings

SECRET = "hunter2"


def use(s3: S3Store, **options: object) -> None:
    s3.backend = S3Storage(name="lab", options={"endpoint": s3.server.endpoint, **options})


def signed_by(s3: S3Store) -> str:
    return s3.server.asked()[-1].get("authorization", "")


def test_credentials_by_reference(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert take(s3, b"data").complete
    assert "Credential=me/" in signed_by(s3)
    monkeypatch.setenv("S3_TESTS", "you:other")
    assert bring(s3) == b"data"
    assert "Credential=you/" in signed_by(s3)


def test_the_chain_of_boto3(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "them")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    s3client._CLIENTS_HERE.forget()
    use(s3, region="eu-central-1")
    assert take(s3, b"data").complete
    assert "Credential=them/" in signed_by(s3)
    assert "/eu-central-1/s3/" in signed_by(s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "others")
    s3.server.faults({"on": "HEAD", "status": 403})
    with pytest.raises(StorageRefusedError, match="permission denied"):
        bring(s3)
    assert bring(s3) == b"data"
    assert "Credential=others/" in signed_by(s3)


def test_nobody_in_particular(s3: S3Store) -> None:
    use(s3, anonymous=1)
    s3.write("far.dat", b"data")
    with pytest.raises(StorageRefusedError, match=r"anonymous is 1, it may need storages\.lab\.cr"):
        bring(s3)
    s3.client.put_object(Bucket=BUCKET, Key="far.dat", Body=b"data", ACL="public-read")
    assert bring(s3) == b"data"
    assert signed_by(s3) == ""


def test_no_credentials_at_all(s3: S3Store) -> None:
    s3client._CLIENTS_HERE.forget()
    use(s3)
    with pytest.raises(StorageRefusedError, match=r"no credentials .* storages\.lab\.credentials"):
        bring(s3)


def test_credentials_that_are_not_there(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S3_TESTS")
    with pytest.raises(StorageUnavailableError, match=r"storages\.lab\.credentials: got 'env:S3"):
        bring(s3)


CLOSED = [
    ("AccessDenied", 403, StorageRefusedError, r"storages\.lab\.credentials leads to does not let"),
    ("InvalidAccessKeyId", 403, StorageRefusedError, r"permission denied"),
    ("SignatureDoesNotMatch", 403, StorageRefusedError, r"permission denied"),
    ("ExpiredToken", 400, StorageRefusedError, r"permission denied"),
    ("InvalidObjectState", 403, StorageRefusedError, r"is archived"),
    ("PermanentRedirect", 301, StorageRefusedError, r"set storages\.lab\.region"),
    ("AuthorizationHeaderMalformed", 400, StorageRefusedError, r"set storages\.lab\.region"),
    ("NoSuchBucket", 404, StorageRefusedError, r"there is no bucket 'tests'"),
    ("InvalidArgument", 400, StorageRefusedError, r"the service refuses this \(InvalidArgument"),
    ("NotImplemented", 501, StorageRefusedError, r"refuses this"),
    ("RequestTimeTooSkewed", 403, StorageUnavailableError, r"RequestTimeTooSkewed"),
    ("RequestTimeout", 400, StorageUnavailableError, r"RequestTimeout"),
    ("TooManyRequests", 429, StorageUnavailableError, r"TooManyRequests"),
    ("OperationAborted", 409, StorageUnavailableError, r"OperationAborted"),
    ("SlowDown", 503, StorageUnavailableError, r"SlowDown, HTTP 503"),
    ("InternalError", 500, StorageUnavailableError, r"HTTP 500"),
    ("me:hunter2 !", 418, StorageRefusedError, r"an unknown code, HTTP 418"),
]


@pytest.mark.parametrize(("code", "status", "kind", "words"), CLOSED)
def test_what_a_service_answers(
    code: str, status: int, kind: type[StepError], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: Any = {
        "Error": {"Code": code, "Message": f"you are me:{SECRET}"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    with pytest.raises(kind, match=words) as caught, _object().translated():
        raise exceptions.ClientError(told, "PutObject")
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("s3://tests/far.dat: ")
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.NoCredentialsError(), StorageRefusedError),
        (exceptions.ParamValidationError(report=SECRET), StorageRefusedError),
        (exceptions.EndpointConnectionError(endpoint_url=SECRET), StorageUnavailableError),
        (exceptions.ConnectTimeoutError(endpoint_url=SECRET), StorageUnavailableError),
        (exceptions.ReadTimeoutError(endpoint_url=SECRET), StorageUnavailableError),
        (exceptions.ConnectionClosedError(endpoint_url=SECRET), StorageUnavailableError),
        (exceptions.SSLError(endpoint_url=SECRET, error="x"), StorageUnavailableError),
        (exceptions.ResponseStreamingError(error=SECRET), StorageUnavailableError),
        (exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2), StorageUnavailableError),
        (ConnectionResetError(SECRET), StorageUnavailableError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_goes_wrong_on_the_way(error: Exception, kind: type[StepError]) -> None:
    with pytest.raises(kind) as caught, _object().translated():
        raise error
    assert SECRET not in str(caught.value)


def _object() -> S3Object:
    settings = S3Settings("lab", {"credentials": "env:HOME", "region": "eu-west-1"})
    object.__setattr__(settings.access, "credentials", lambda: ("me", SECRET))
    return S3Object(settings, "tests", "far.dat", "s3://tests/far.dat")


def test_refused_by_the_service(s3: S3Store) -> None:
    s3.write("far.dat", b"data")
    s3.server.faults({"on": "HEAD", "status": 403, "times": 9})
    with pytest.raises(StorageRefusedError, match=r"permission denied: .*storages\.lab\."):
        bring(s3)
    s3.server.faults({"on": "PUT", "status": 403, "code": "AccessDenied", "times": 9})
    with pytest.raises(StorageRefusedError, match=r"permission denied: .*storages\.lab\."):
        take(s3, b"other")
    assert s3.read("far.dat") == b"data"


def test_a_bucket_that_is_not_there(s3: S3Store) -> None:
    for go in (lambda: bring(s3, "s3://none/x"), lambda: take(s3, b"data", "s3://none/x")):
        with pytest.raises(StorageRefusedError, match=r"No such file: there is no bucket 'none'"):
            go()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://nowhere.invalid"])
def test_a_service_that_is_not_there(
    s3: S3Store, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.storage.s3client._ATTEMPTS", 1)
    s3.backend = S3Storage(
        name="lab", options={"endpoint": endpoint, "credentials": "env:S3_TESTS"}
    )
    with pytest.raises(StorageUnavailableError, match="cannot be reached"):
        bring(s3)


def test_tls(s3: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3client, "_ATTEMPTS", 1)
    server = PrivateS3(tmp_path / "log", cert_file=certificate(tmp_path / "certificates"))
    (tmp_path / "tls").mkdir()
    options: dict[str, object] = {"endpoint": server.endpoint, "credentials": "env:S3_TESTS"}
    with server:
        tls = S3Store(tmp_path / "tls", server, options)
        tls.reset()
        with pytest.raises(StorageUnavailableError, match=r"not trusted; .*storages\.lab\.ca_file"):
            take(tls, b"data")
        use(tls, credentials="env:S3_TESTS", ca_file=str(tmp_path / "certificates/cert.pem"))
        data = bytes(3 * MiB)
        assert take(tls, data).complete
        assert take(tls, b"data", tls.url("small")).complete
        assert bring(tls) == data


def test_who_may_only_write(s3: S3Store) -> None:
    s3.server.faults({"on": "HEAD", "status": 403, "times": 99})
    for data in (b"data", bytes(3 * MiB)):
        assert take(s3, data).complete
        assert s3.read("far.dat") == data


def test_secrets_never_show(s3: S3Store, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        take(s3, b"data")
        bring(s3)
    settings = s3.backend.__dict__["_settings"]
    shown = f"{vars(s3.backend)!r} {vars(settings)!r} {settings!r} {vars(settings.access)!r}"
    assert SECRET not in shown
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"endpiont": "x"}, r"storages\.lab\.endpiont: .*did you mean 'endpoint'"),
        ({"endpoint": "ftp://x"}, r"storages\.lab\.endpoint: .*a URL"),
        ({"endpoint": f"https://me:{SECRET}@x"}, r"storages\.lab\.endpoint: .*a URL"),
        ({"endpoint": "https://x/path"}, r"storages\.lab\.endpoint: "),
        ({"endpoint": "https://x:y"}, r"storages\.lab\.endpoint: "),
        ({"endpoint": 5}, r"storages\.lab\.endpoint: "),
        ({"region": "here & there"}, r"storages\.lab\.region: "),
        ({"region": 1}, r"storages\.lab\.region: "),
        ({"anonymous": 2}, r"storages\.lab\.anonymous: .*0 or 1"),
        ({"anonymous": 1, "credentials": "env:X"}, r"storages\.lab\.anonymous: "),
        ({"credentials": f"me:{SECRET}"}, r"storages\.lab\.credentials: .*ACCESS_KEY:SECRET_KEY"),
        ({"ca_file": 1}, r"storages\.lab\.ca_file: "),
        ({"token": "env:X"}, r"storages\.lab\.token: .*no such setting"),
    ],
)
def test_bad_settings(options: Mapping[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        S3Storage(name="lab", options=options)
    assert SECRET not in str(caught.value)


def test_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any, **more: Any) -> Any:
        if name.partition(".")[0] in {"boto3", "botocore"}:
            raise ImportError(f"No module named {name!r}")
        return real(name, *given, **more)

    for name in [name for name in sys.modules if name.startswith("wlm_tasks.storage.s3")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'wlm_tasks\[s3\]'"):
        plugins.storage_backend("s3://bucket/key")
    monkeypatch.undo()
    importlib.import_module("wlm_tasks.storage.s3")


def test_settings_of_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "wlm.toml"
    file.write_text(
        '[storages.lab]\nurl = "s3://results/"\nendpoint = "https://s3.example.org"\n'
        'region = "here-1"\ncredentials = "env:LAB"\nca_file = "/etc/ssl/lab.pem"\n'
        '[storages.open]\nurl = "s3://open"\nanonymous = 1\n'
    )
    settings = load(file, environ={"HOME": str(tmp_path)})
    for url in ("s3://results/x", "s3://open/x"):
        assert isinstance(plugins.storage_backend(url, settings.storage(url)), S3Storage)
