"""What a scheduler, or what stands in its place, may answer: never taken for "there is none"."""

from __future__ import annotations

import base64
import gzip
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from integration.aurora.canned import THRIFT, Answer, Canned
from integration.aurora.test_wire import answer_with, full_task, write_answer

from services.aurora_peer.generated import Generated
from wlm_tasks.compute.aurora.client import AuroraClient
from wlm_tasks.compute.aurora.options import AuroraOptions
from wlm_tasks.compute.aurora.scheduler import Scheduler
from wlm_tasks.errors import (
    BackendUnavailableError,
    JobRejectedError,
    JobUndecidedError,
    SiteAuthError,
    SiteOverloadedError,
    SiteUnreachableError,
    StepError,
)

READ = "getTasksWithoutConfigs"


def options_of(server: Canned, **more: object) -> AuroraOptions:
    own = {"url": server.url, "cluster": "c", "role": "gateway", "environment": "devel"}
    return AuroraOptions.of("mesos", {**own, **more})


def ask(
    *answers: Answer, write: bool, read_s: float = 5.0, **more: object
) -> tuple[Any, list[tuple[str, Any]]]:
    """Return what a call gives or raises, and the requests that came."""
    with Canned(*answers) as server:
        options = options_of(server, **more)
        client = AuroraClient(options, connect_s=1.0, read_s=read_s)
        scheduler = Scheduler(options, client)
        got: Any
        try:
            got = client.call("killTasks") if write else scheduler.tasks({"t1"})
        except StepError as error:
            got = error
        finally:
            client.close()
        return got, server.requests


def code(generated: Generated, method: str, number: int, *said: str, **more: Any) -> bytes:
    details = [generated.types.ResponseDetail(message=words) for words in said]
    response = generated.types.Response(responseCode=number, details=details, **more)
    return write_answer(method, response.write)


@pytest.mark.parametrize(
    ("status", "reading", "writing"),
    [
        (400, SiteUnreachableError, JobUndecidedError),
        (401, SiteAuthError, SiteAuthError),
        (403, SiteAuthError, SiteAuthError),
        (404, SiteUnreachableError, SiteUnreachableError),
        (415, SiteUnreachableError, SiteUnreachableError),
        (429, SiteOverloadedError, SiteOverloadedError),
        (500, SiteUnreachableError, JobUndecidedError),
        (502, SiteUnreachableError, JobUndecidedError),
        (503, SiteUnreachableError, SiteUnreachableError),
        (504, SiteUnreachableError, JobUndecidedError),
    ],
)
def test_statuses(status: int, reading: type[StepError], writing: type[StepError]) -> None:
    page = Answer(b"<html>sorry</html>", status, {"Content-Type": "text/html"})
    assert type(ask(page, write=False)[0]) is reading
    got, requests = ask(page, write=True)
    assert type(got) is writing
    assert f"HTTP {status}" in got.message
    assert len(requests) == 1


@pytest.mark.parametrize(
    ("number", "reading", "writing"),
    [
        (0, SiteUnreachableError, JobRejectedError),
        (2, SiteUnreachableError, JobUndecidedError),
        (4, SiteAuthError, SiteAuthError),
        (5, BackendUnavailableError, BackendUnavailableError),
        (6, SiteUnreachableError, SiteUnreachableError),
        (77, SiteUnreachableError, JobUndecidedError),
    ],
)
def test_codes(
    generated: Generated, number: int, reading: type[StepError], writing: type[StepError]
) -> None:
    said = ("not", "like this")
    assert type(ask(Answer(code(generated, READ, number, *said)), write=False)[0]) is reading
    got, _requests = ask(Answer(code(generated, "killTasks", number, *said)), write=True)
    assert type(got) is writing
    assert "not; like this" in got.message


def test_a_limit_that_passes_is_no_refusal(generated: Generated) -> None:
    words = "Insufficient resource quota: CPU quota exceeded by 1.00 core(s)"
    got, _requests = ask(Answer(code(generated, "killTasks", 0, words)), write=True)
    assert type(got) is SiteOverloadedError
    assert words in got.message


def _nothing(generated: Generated) -> bytes:
    return code(generated, READ, 1)


def _no_list(generated: Generated) -> bytes:
    types = generated.types
    return code(
        generated, READ, 1, result=types.Result(scheduleStatusResult=types.ScheduleStatusResult())
    )


def _another_result(generated: Generated) -> bytes:
    types = generated.types
    reasons = types.GetPendingReasonResult(reasons=set())
    return code(generated, READ, 1, result=types.Result(getPendingReasonResult=reasons))


def _no_code(generated: Generated) -> bytes:
    whole = answer_with(generated.types, [])
    return whole.replace(b"\x08\x00\x01\x00\x00\x00\x01", b"", 1)


def _other_items(generated: Generated) -> bytes:
    return _patched(generated, b"\x0f\x00\x01\x0b\x00\x00\x00\x01\x00\x00\x00\x00")


def _negative_length(generated: Generated) -> bytes:
    return _patched(generated, b"\x0f\x00\x01\x0c\xff\xff\xff\xff")


def _endless(generated: Generated) -> bytes:
    return _patched(generated, b"\x0f\x00\x01\x7f\x7f\xff\xff\xff")


def _other_type(generated: Generated) -> bytes:
    return _patched(generated, b"\x08\x00\x01\x00\x00\x00\x00")


def _patched(generated: Generated, tasks: bytes) -> bytes:
    """An answer with something else in the place of an empty list of tasks."""
    whole, empty = answer_with(generated.types, []), b"\x0f\x00\x01\x0c\x00\x00\x00\x00"
    assert whole.count(empty) == 1
    return whole.replace(empty, tasks)


def _no_task_id(generated: Generated) -> bytes:
    task = full_task(generated.types, 1)
    task.assignedTask.taskId = None
    return answer_with(generated.types, [task])


def _no_status(generated: Generated) -> bytes:
    return answer_with(generated.types, [full_task(generated.types, 1, status=None)])


def _no_assignment(generated: Generated) -> bytes:
    task = full_task(generated.types, 1)
    task.assignedTask = None
    return answer_with(generated.types, [task])


def _half(generated: Generated) -> bytes:
    whole = answer_with(generated.types, [full_task(generated.types, 1)])
    return whole[: len(whole) // 2]


def _two(generated: Generated) -> bytes:
    return 2 * answer_with(generated.types, [])


def _page(_generated: Generated) -> bytes:
    return b"<html>please log in</html>"


def _empty(_generated: Generated) -> bytes:
    return b""


@pytest.mark.parametrize(
    "body",
    [
        *(_nothing, _no_list, _another_result, _no_code, _other_items, _negative_length, _endless),
        *(_other_type, _no_task_id, _no_status, _no_assignment, _half, _two, _page, _empty),
    ],
)
def test_an_answer_without_sense_is_trouble(
    generated: Generated, body: Callable[[Generated], bytes]
) -> None:
    got, _requests = ask(Answer(body(generated)), write=False)
    assert type(got) is SiteUnreachableError


def test_the_whole_answer_is_none(generated: Generated) -> None:
    """What the cases above are made from does say that there is none."""
    body = answer_with(generated.types, [])
    assert ask(Answer(body), write=False)[0] == {}
    packed = Answer(gzip.compress(body), headers={**THRIFT, "Content-Encoding": "gzip"})
    assert ask(packed, write=False)[0] == {}


def test_bodies_that_break(generated: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    body = answer_with(generated.types, [])
    packed = gzip.compress(b"\0" * (4 << 20))
    monkeypatch.setattr("wlm_tasks.compute.aurora.client._LONGEST", 1 << 20)
    for answer in (
        Answer(body, promised=len(body) + 1),
        Answer(b"\0" * (2 << 20)),
        Answer(packed, headers={**THRIFT, "Content-Encoding": "gzip"}),
        Answer(b"no gzip", headers={**THRIFT, "Content-Encoding": "gzip"}),
    ):
        assert type(ask(answer, write=False, read_s=0.5)[0]) is SiteUnreachableError
        assert type(ask(answer, write=True, read_s=0.5)[0]) is JobUndecidedError


def test_an_answer_that_takes_for_ever_has_an_end() -> None:
    slow = Answer(b"\0" * 200_000, pause_s=0.2)
    got, _requests = ask(slow, write=True, read_s=0.3)
    assert type(got) is JobUndecidedError
    assert "in time" in got.message


def test_sent_on_to_the_leader_with_credentials(generated: Generated, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("gate:way")
    secret.chmod(0o600)
    with Canned(Answer(answer_with(generated.types, []))) as leader:
        here = Answer(status=307, headers={"Location": f"{leader.url}/api"})
        got, requests = ask(here, write=False, hosts=leader.host, credentials=f"file:{secret}")
        assert got == {}
        expected = f"Basic {base64.b64encode(b'gate:way').decode()}"
        for path, headers in (*requests, *leader.requests):
            assert (path, headers["Authorization"]) == ("/api", expected)
        assert (len(requests), len(leader.requests)) == (1, 1)


@pytest.mark.parametrize("write", [False, True])
def test_sent_on_to_a_stranger(write: bool) -> None:
    with Canned(Answer()) as stranger:
        here = Answer(status=307, headers={"Location": f"{stranger.url}/api"})
        got, _requests = ask(here, write=write)
        assert type(got) is SiteAuthError
        assert f"{stranger.host}, which the site's setting `hosts` does not name" in got.message
        assert stranger.requests == []


@pytest.mark.parametrize("location", ["", "//", "ftp://127.0.0.1:1/", "http://[::1/", "/api"])
def test_sent_on_to_nowhere(location: str) -> None:
    got, requests = ask(Answer(status=307, headers={"Location": location}), write=True)
    assert isinstance(got, SiteUnreachableError | JobUndecidedError)
    assert len(requests) <= 4


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        own = {"url": url, "cluster": "c", "role": "r", "environment": "devel"}
        options = AuroraOptions.of("mesos", own)
        scheduler = Scheduler(options, AuroraClient(options))
        with pytest.raises(SiteUnreachableError, match="cannot be reached"):
            scheduler.kill("t1")
        with pytest.raises(SiteUnreachableError, match="cannot be reached"):
            scheduler.tasks({"t1"})
