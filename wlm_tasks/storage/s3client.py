"""Calls of one S3 service: who makes them, and what their errors mean.

Codes of errors are those of
https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; other services that speak S3
(MinIO, Ceph, ...) use the same ones.
"""

from __future__ import annotations

import logging
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final

import urllib3

from wlm_tasks.errors import (
    ConfigError,
    StepError,
    StorageMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.storage.s3settings import S3Settings

try:
    import boto3
    import botocore
    from botocore import exceptions
    from botocore.config import Config
except ImportError as fault:
    raise ConfigError(
        f"s3:// URLs need the package boto3 ({fault}): pip install 'wlm_tasks[s3]'"
    ) from fault

# says at each start where it has found credentials
logging.getLogger("botocore").setLevel(logging.WARNING)

#: seconds for a connection, and without a byte until one counts as broken
CONNECT_S: Final = 20
STALL_S: Final = 60
#: how often one request is made before the step is to be tried again later
_ATTEMPTS: Final = 4
#: clients kept by a process; each has its connections
_CLIENTS: Final = 8

_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,60}")

_CLOSED_OUT: Final = frozenset(
    {
        *("AccessDenied", "AllAccessDisabled", "AccountProblem", "InvalidAccessKeyId"),
        *("SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired"),
        *("Forbidden", "Unauthorized", "InvalidSecurity", "NotSignedUp", "401", "403"),
    }
)
_ELSEWHERE: Final = frozenset(
    {
        *("PermanentRedirect", "AuthorizationHeaderMalformed", "301"),
        *("IllegalLocationConstraintException", "AuthorizationQueryParametersError"),
    }
)
_GONE: Final = frozenset({"NoSuchKey", "NoSuchVersion", "NotFound", "404"})
_CHANGED: Final = frozenset({"PreconditionFailed", "InvalidRange", "412", "416"})
#: answers of 400 to 499 that may be others after a pause
_PASSING: Final = frozenset(
    {
        *("SlowDown", "Throttling", "ThrottlingException", "RequestThrottled", "TooManyRequests"),
        *("RequestLimitExceeded", "BandwidthLimitExceeded", "RequestTimeout", "429", "408"),
        *("RequestTimeTooSkewed", "OperationAborted", "ConditionalRequestConflict", "BadDigest"),
        *("XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "IncompleteBody"),
        *("NoSuchUpload", "InvalidPart", "InvalidPartOrder"),
    }
)
_NO_CREDENTIALS: Final = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.ProfileNotFound,
    exceptions.TokenRetrievalError,
    exceptions.UnauthorizedSSOTokenError,
)
#: of what botocore raises itself, that which may go well after a pause
_BROKEN: Final = (
    exceptions.HTTPClientError,
    exceptions.ConnectionError,
    exceptions.IncompleteReadError,
    exceptions.CredentialRetrievalError,
    exceptions.MetadataRetrievalError,
    exceptions.ChecksumError,
    urllib3.exceptions.HTTPError,
    OSError,
)


class _Clients:
    """Clients of this process by settings: making one costs more than a small file."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._pid = 0
        self._session: Any = None
        self._kept: OrderedDict[object, Any] = OrderedDict()

    def get(self, settings: S3Settings) -> Any:
        """Return a client, which several threads may use.

        Raises `StorageUnavailableError` if the credentials cannot be read.
        """
        pair = settings.access.credentials()
        ca_file = settings.access.ca_file
        key = (settings.endpoint, settings.region, pair, ca_file, settings.anonymous)
        with self._lock:
            if self._pid != os.getpid():  # connections are not shared with a parent
                self._pid, self._session = os.getpid(), boto3.session.Session()
                self._kept.clear()
            if key not in self._kept:
                self._kept[key] = self._made(settings, pair)
            self._kept.move_to_end(key)
            while len(self._kept) > _CLIENTS:
                self._kept.popitem(last=False)
            return self._kept[key]

    def forget(self) -> None:
        """Let all be made anew: credentials that somebody has changed are seen then."""
        with self._lock:
            self._pid = 0

    def _made(self, settings: S3Settings, pair: tuple[str, str] | None) -> Any:
        config = Config(
            connect_timeout=CONNECT_S,
            read_timeout=STALL_S,
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            max_pool_connections=16,
            # other services may not know the host names that AWS makes of buckets
            s3={"addressing_style": "path" if settings.endpoint else "auto"},
            # checksums are ours to choose; services other than AWS refuse those by default
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            user_agent_extra="wlm_tasks",
            **({"signature_version": botocore.UNSIGNED} if settings.anonymous else {}),
        )
        region = settings.region
        if region is None and (settings.endpoint or settings.anonymous):
            region = self._session.region_name or "us-east-1"
        return self._session.client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=region,
            verify=settings.access.authorities,
            aws_access_key_id=pair[0] if pair else None,
            aws_secret_access_key=pair[1] if pair else None,
            config=config,
        )


_CLIENTS_HERE: Final = _Clients()


class S3Object:
    """What calls for one key have in common."""

    def __init__(self, settings: S3Settings, bucket: str, key: str, place: str) -> None:
        self.place: Final = place
        self.at: Final = {"Bucket": bucket, "Key": key}
        self.bucket: Final = bucket
        self.settings: Final = settings
        #: names the same object, whichever way it is written
        self.name: Final = f"{settings.endpoint or ''} {bucket}/{key}"
        with self.translated():
            self.client: Final = _CLIENTS_HERE.get(settings)

    def call(self, operation: str, **given: Any) -> dict[str, Any]:
        """Make a call of that name, such as ``head_object``, for the key.

        Raises `StorageUnavailableError` and `StorageRefusedError`.
        """
        with self.translated():
            answer: dict[str, Any] = getattr(self.client, operation)(**self.at, **given)
            return answer

    def list(self, operation: str, **given: Any) -> dict[str, Any]:
        """Make a call for the bucket; raises as `call` does."""
        with self.translated():
            answer: dict[str, Any] = getattr(self.client, operation)(Bucket=self.bucket, **given)
            return answer

    @contextmanager
    def translated(self, what: str = "") -> Iterator[None]:
        """Raise what botocore raises as errors of a storage.

        Nothing of the original's text is told: a service may say anything there.
        """
        try:
            yield
        except exceptions.ClientError as error:
            raise self._answered(error, what) from None
        except _NO_CREDENTIALS as error:
            raise StorageRefusedError(
                f"{self.place}: found no credentials ({type(error).__name__}): {self._hint()}"
            ) from None
        except _BROKEN as error:
            raise StorageUnavailableError(f"{self.place}: {what}{self._words(error)}") from None
        except (exceptions.BotoCoreError, ValueError) as error:
            raise StorageRefusedError(
                f"{self.place}: {what}cannot be asked for ({type(error).__name__})"
            ) from None

    def _words(self, error: BaseException) -> str:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            return _words(error)
        setting = self.settings.access.setting("ca_file")
        return f"the server's certificate is not trusted; name its authority's by {setting}"

    def _answered(self, error: exceptions.ClientError, what: str) -> StepError:
        code, status = error_code(error)
        told = f"{code}, HTTP {status}"
        if code in _CLOSED_OUT or status in {401, 403}:
            _CLIENTS_HERE.forget()
        if code in _CHANGED:
            return StorageUnavailableError(f"{self.place}: was changed while it was read")
        if code in _PASSING or (status >= 500 and status != 501):  # noqa: PLR2004 - of HTTP
            return StorageUnavailableError(f"{self.place}: {what}the service answered {told}")
        words = self._refused(code, status)
        kind = StorageMissingError if code in _GONE else StorageRefusedError
        return kind(f"{self.place}: {what}{words} ({told})")

    def _refused(self, code: str, status: int) -> str:
        """Return what a person can do about it."""
        setting = self.settings.access.setting
        words = {
            "NoSuchBucket": f"No such file: there is no bucket {self.bucket!r}",
            "InvalidObjectState": "is archived; have it restored first",
            # the answer to HEAD has no body to say more
            "400": f"the service refuses this; look at {setting('region')}, or {self._hint()}",
            **dict.fromkeys(_GONE, "No such file"),
            **dict.fromkeys(_CLOSED_OUT, f"permission denied: {self._hint()}"),
            **dict.fromkeys(
                _ELSEWHERE, f"the bucket is in another region: set {setting('region')}"
            ),
        }
        closed = words["403"] if status in {401, 403} else "the service refuses this"
        return words.get(code, closed)

    def _hint(self) -> str:
        setting = self.settings.access.setting
        if self.settings.access.has_secret:
            return f"what {setting('credentials')} leads to does not let us"
        if self.settings.anonymous:
            return f"{setting('anonymous')} is 1, it may need {setting('credentials')}"
        return f"it may need {setting('credentials')}, or those that boto3 finds by itself"


def error_code(error: exceptions.ClientError) -> tuple[str, int]:
    """Return code and HTTP status of a service's answer."""
    response: Mapping[str, Any] = error.response
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return (code if _CODE.fullmatch(code) else "an unknown code"), int(status)


def _words(error: BaseException) -> str:
    kind = type(error).__name__
    if isinstance(error, exceptions.ConnectTimeoutError):
        return f"cannot be reached in time ({kind})"
    if isinstance(error, exceptions.EndpointConnectionError):
        return f"cannot be reached ({kind})"
    if isinstance(error, exceptions.ReadTimeoutError | TimeoutError):
        return f"no byte in time ({kind})"
    return f"the connection broke ({kind})"
