"""No secret shows anywhere: planted ones are looked for in everything that a person could read."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest
from celery.events.event import event_exchange as EVENT_EXCHANGE  # noqa: N812
from kombu import Consumer, Queue

from services import require_service
from services.fleet import Fleet, Layout
from services.ftpserver import PrivateFtp
from services.processes import script, wait_for
from services.s3server import BUCKET, PrivateS3
from services.webserver import WebServer
from wlm_tasks import Experiment, Transfer
from wlm_tasks.control.queues import EVENTS
from wlm_tasks.model.experiment import Retry

#: what leads in, by the variable that holds it
PLANTED = {
    "WEB": "web:planted-web-pass",
    "API": "planted.api.token",
    "FTP": "me:planted-ftp-pass",
    "OLD_FTP": "me:planted-old-pass",
    "S3": "planted-s3-key:planted-s3-secret",
}
#: and what stands in a URL, as in those that are signed
SIGNED = "planted-signature"


@pytest.fixture
def fleet(
    tmp_path: Path, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Fleet, WebServer, PrivateFtp]]:
    require_service("pyftpdlib", PrivateFtp.available())
    require_service("moto", PrivateS3.available())
    for name, value in PLANTED.items():
        monkeypatch.setenv(f"LAB_{name}", value)
    (tmp_path / "ftp").mkdir()
    password = PLANTED["FTP"].partition(":")[2]
    with ExitStack() as stack:
        web = stack.enter_context(WebServer())
        ftp = stack.enter_context(
            PrivateFtp(tmp_path / "ftp", tmp_path / "elsewhere.log", password=password)
        )
        s3 = stack.enter_context(PrivateS3(tmp_path / "s3.log"))
        settings = f"""
[storages.web]
url = "{web.base}/"
credentials = "env:LAB_WEB"
[storages.api]
url = "http://127.0.0.2:{web.port}/"
token = "env:LAB_API"
[storages.ftp]
url = "{ftp.base}/"
credentials = "env:LAB_FTP"
[storages.closed]
url = "{ftp.base}/closed/"
credentials = "env:LAB_OLD_FTP"
[storages.s3]
url = "s3://{BUCKET}/"
endpoint = "{s3.endpoint}"
credentials = "env:LAB_S3"
"""
        layout = Layout(settings=settings, options=("-E", "-l", "DEBUG"))
        yield stack.enter_context(Fleet(tmp_path / "fleet", broker_url, layout)), web, ftp


class Watch:
    """What goes by: events of both kinds, and the arguments of every process."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._over = threading.Event()

    @contextmanager
    def on(self, fleet: Fleet) -> Iterator[None]:
        with fleet.client.app.connection_for_read() as connection:
            channel = connection.default_channel
            celerys = Queue("celerys", EVENT_EXCHANGE, routing_key="#", exclusive=True)
            ours = Queue("ours", EVENTS, routing_key="#", exclusive=True)
            consumer = Consumer(
                channel, [celerys(channel), ours(channel)], callbacks=[self._take], no_ack=True
            )
            with consumer:
                thread = threading.Thread(target=self._look, args=(connection,))
                thread.start()
                try:
                    yield
                finally:
                    self._over.set()
                    thread.join(30)

    def _take(self, body: Any, message: Any) -> None:
        self.seen.append(f"message: {body!r} {message.headers!r} {message.delivery_info!r}")

    def _look(self, connection: Any) -> None:
        lines = set()
        while not self._over.is_set():
            lines |= {
                f"process: {' '.join(one.info['cmdline'] or [])}"
                for one in psutil.process_iter(["cmdline"])
                # the server is told its password so
                if "ftp_main.py" not in " ".join(one.info["cmdline"] or [])
            }
            with suppress(TimeoutError):
                connection.drain_events(timeout=0.05)
        self.seen += lines


def _said(fleet: Fleet, ids: list[str]) -> Iterator[tuple[str, str]]:
    """Yield whatever a person could read afterwards, with where it is."""
    for log in fleet.directory.glob("*.log"):
        yield log.name, log.read_text(errors="replace")
    for words in (
        *(("show", *ids), ("show", *ids, "-o", "json"), ("why", *ids), ("logs", *ids)),
        *(("manifest", *ids), ("ls",), ("config",), ("doctor",), ("queues",), ("sites",)),
    ):
        ran = subprocess.run(
            [script("wlm"), *words],
            env=fleet.environ,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        yield f"wlm {words[0]}", ran.stdout + ran.stderr
    handles = [fleet.client.get(one) for one in ids]
    yield "repr", repr([fleet.client, fleet.client.settings, fleet.client.app, *handles])


def _rows(fleet: Fleet, *, spec: bool) -> str:
    """Return all that is in the database, with what was asked for or without."""
    with closing(sqlite3.connect(fleet.directory / "data" / "wlm.db")) as database:
        database.execute("PRAGMA query_only = 1")
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        rows = []
        for (table,) in tables:
            cursor = database.execute(f'SELECT * FROM "{table}"')  # noqa: S608 - its own name
            names = [column[0] for column in cursor.description]
            rows += [
                repr({n: v for n, v in zip(names, row, strict=True) if spec or n != "spec"})
                for row in cursor
            ]
    return "\n".join(rows)


@pytest.mark.timeout(180)
def test_no_secret_shows(fleet: tuple[Fleet, WebServer, PrivateFtp], tmp_path: Path) -> None:
    system, web, ftp = fleet
    key, _colon, secret = PLANTED["S3"].partition(":")
    endpoint = system.client.settings.storages["s3"].options["endpoint"]
    bucket = boto3.client(
        "s3",
        endpoint_url=str(endpoint),
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )
    bucket.create_bucket(Bucket=BUCKET)
    bucket.put_object(Bucket=BUCKET, Key="in.dat", Body=b"s3")
    bucket.close()
    web.write("in.dat", b"web")
    (ftp.directory / "in.dat").write_bytes(b"ftp")
    good = [f"{web.base}/in.dat?Signature={SIGNED}", f"{ftp.base}/in.dat", f"s3://{BUCKET}/in.dat"]
    bad = [
        f"{web.base}/none?Signature={SIGNED}",
        f"http://127.0.0.2:{web.port}/in.dat",
        f"{ftp.base}/closed/in.dat",
        f"s3://{BUCKET}/none",
        f"s3://no-such-{BUCKET}/none",
    ]

    def asked(name: str, urls: list[str], outputs: list[str]) -> Experiment:
        return Experiment(
            name=name,
            site="local",
            commands=["cat in* > out"],
            inputs=[Transfer(url, f"in{number}") for number, url in enumerate(urls)],
            outputs=[Transfer("out", url) for url in outputs],
            retry=Retry(tries=1),
        )

    watch = Watch()
    with watch.on(system):
        outputs = [f"{web.base}/out", f"{ftp.base}/out", f"s3://{BUCKET}/out"]
        whole = system.client.schedule(asked("good", good, outputs))
        broken = [system.client.schedule(asked("bad", [url], [])) for url in bad]
        whole.wait(60)
        wait_for(lambda: {one.status for one in broken} <= {"FAILED", "PAUSED"}, 60, "their ends")
    # all of it was used, and so could have been told
    assert web.read("out") == b"webftps3"
    assert {one.headers.get("Authorization", "")[:5] for one in web.asked} == {"Basic"}
    ids = [whole.id, *(one.id for one in broken)]
    said = {"events and processes": "\n".join(watch.seen), **dict(_said(system, ids))}
    assert whole.id in said["events and processes"]
    assert "celery -A wlm_tasks" in said["events and processes"]
    assert "No such file" in said["wlm why"]
    assert "worker0.log" in said
    said["rows"] = _rows(system, spec=False)
    secrets = {part for value in PLANTED.values() for part in value.split(":") if "planted" in part}
    for where, text in said.items():
        shown = [one for one in (*secrets, SIGNED) if one in text]
        assert not shown, (where, shown)
    # a URL is kept as it was handed in, what its storage's settings lead to is not
    assert SIGNED in _rows(system, spec=True)
    assert not [one for one in secrets if one in _rows(system, spec=True)]
