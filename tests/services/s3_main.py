"""moto's S3 behind faults; run as a program with its settings as JSON.

``/_wlm/faults`` takes rules (PUT, JSON) and tells what was asked since (GET), ``/_wlm/parts``
returns the parts of the uploads for a key, which S3 itself never does.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from threading import Lock
from typing import Any
from urllib.parse import parse_qs

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.s3 import models
from werkzeug.serving import run_simple


class Faulty:
    """The application, with rules such as ``{"on": "PUT uploadId", "from": 2, "code": "SlowDown",
    "status": 503}``.

    A rule is for requests whose line has every word of ``on``, from the one of number ``from``
    (1) on, ``times`` (1) of them. ``lost``: it is done, and the answer is an error all the same.
    ``after_s``: first it waits. ``cut``: the body ends after so many bytes.
    """

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = Lock()
        self._rules: list[dict[str, Any]] = []
        self._asked: list[dict[str, str]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/_wlm/"):
            body = self._own(path, environ)
            start_response("200 OK", [("Content-Length", str(len(body)))])
            return [body]
        line = f"{environ['REQUEST_METHOD']} {environ.get('RAW_URI') or path}"
        rule = self._rule(environ, f"{line} ?{environ['QUERY_STRING']}")
        time.sleep(rule.get("after_s", 0))
        if "status" in rule and not rule.get("lost"):
            _read(environ)
            return _error(rule, start_response)
        answer: Iterable[bytes] = self._application(environ, start_response)
        if "cut" in rule:
            return [b"".join(answer)[: rule["cut"]]]
        if rule.get("lost"):
            list(answer)
            return _error(rule, start_response)
        return answer

    def _rule(self, environ: dict[str, Any], line: str) -> dict[str, Any]:
        with self._lock:
            headers = {
                name[5:].lower(): str(value)
                for name, value in environ.items()
                if name.startswith("HTTP_")
            }
            self._asked.append({"line": line, **headers})
            for rule in self._rules:
                if not all(word in line for word in rule["on"].split()):
                    continue
                rule["met"] = rule.get("met", 0) + 1
                first = rule.get("from", 1)
                if first <= rule["met"] < first + rule.get("times", 1):
                    return rule
        return {}

    def _own(self, path: str, environ: dict[str, Any]) -> bytes:
        if path == "/_wlm/parts":
            asked = parse_qs(environ["QUERY_STRING"])
            return json.dumps(_uploads(asked["bucket"][0], asked["key"][0])).encode()
        with self._lock:
            if environ["REQUEST_METHOD"] == "PUT":
                self._rules, self._asked = json.loads(_read(environ)), []
            return json.dumps(self._asked).encode()


def _uploads(bucket: str, key: str) -> list[str]:
    """Return in hex what each upload for a key has."""
    uploads = models.s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[bucket].multiparts.values()
    return [
        b"".join(upload.parts[number].value for number in sorted(upload.parts)).hex()
        for upload in uploads
        if upload.key_name == key
    ]


def _read(environ: dict[str, Any]) -> bytes:
    data: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return data


def _error(rule: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    code, said = rule.get("code", "InternalError"), rule.get("message", "no")
    body = f"<Error><Code>{code}</Code><Message>{said}</Message></Error>".encode()
    headers = [("Content-Length", str(len(body))), ("Content-Type", "application/xml")]
    start_response(f"{rule['status']} no", headers)
    return [body]


def main() -> None:
    given = json.loads(sys.argv[1])
    vars(models)["S3_UPLOAD_PART_MIN_SIZE"] = 1  # tests write smaller parts than S3 takes
    cert_file = given["cert_file"]
    application = Faulty(DomainDispatcherApplication(create_backend_app))
    run_simple(
        given["host"],
        given["port"],
        application,
        threaded=True,
        request_handler=MotoRequestHandler,
        ssl_context=(cert_file, cert_file) if cert_file else None,
    )


if __name__ == "__main__":
    main()
