"""The error tree: drawn as it is, and each class gets through Celery's JSON whole."""

from __future__ import annotations

import inspect
import pickle
import re
from collections.abc import Iterator

import pytest
from celery import Celery
from kombu.serialization import dumps, loads

from wlm_tasks import errors
from wlm_tasks.errors import (
    ExperimentFailedError,
    PermanentError,
    StepError,
    TransientError,
    WlmError,
)


def _tree(root: type[WlmError] = WlmError) -> Iterator[type[WlmError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _tree(kind)


ALL = list(_tree())


@pytest.fixture(scope="module")
def app() -> Iterator[Celery]:
    made = Celery("errors", set_as_current=False, backend="cache+memory://")
    made.conf.update(result_serializer="json", accept_content=["json"])
    yield made
    made.close()


def _through_celery(app: Celery, error: WlmError) -> BaseException:
    """What a caller gets of an error raised in a task."""
    said = app.backend.prepare_exception(error, serializer="json")
    content_type, encoding, data = dumps(said, serializer="json")
    received = loads(data, content_type, encoding, accept={content_type})
    found = app.backend.exception_to_python(received)
    assert isinstance(found, BaseException)
    return found


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize(
    "args",
    [
        ("site alpha: no route to host",),
        ("one\ntwo 'ü' \x00", "exp-abcdefghij", "FAILED"),
        (),
    ],
)
def test_every_error_gets_through_celery_as_itself(
    app: Celery, kind: type[WlmError], args: tuple[str, ...]
) -> None:
    error = kind(*args)
    found = _through_celery(app, error)
    assert type(found) is kind
    assert found.args == args
    assert str(found) == str(error)
    assert pickle.loads(pickle.dumps(error)).args == args  # noqa: S301 - our own


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_error_can_be_made_of_a_message_alone(kind: type[WlmError]) -> None:
    error = kind("what happened")
    assert error.message == str(error) == "what happened"
    assert kind.__name__.endswith("Error")
    assert kind.__doc__
    assert kind().message == kind.__doc__  # never an empty line for a person
    assert "__init__" not in vars(kind), "positional arguments only, all kept in args"


def test_a_kind_is_a_class_and_no_flag() -> None:
    for kind in ALL:
        own = {name for name in vars(kind) if not name.startswith("__")}
        assert own <= {"message"}, kind


def test_the_docstring_draws_the_tree() -> None:
    lines = re.findall(r"^    ([│├└─ ]*)(\w+Error)\b", str(errors.__doc__), re.MULTILINE)
    parents: dict[int, str] = {}
    drawn: dict[str, str | None] = {}
    for branches, name in lines:
        depth = len(branches) // 4
        drawn[name] = parents.get(depth - 1)
        parents[depth] = name
    assert drawn == {
        kind.__name__: None if kind is WlmError else kind.__mro__[1].__name__ for kind in ALL
    }


def test_the_tree_is_in_one_file() -> None:
    assert {kind.__module__ for kind in ALL} == {"wlm_tasks.errors"}
    here = {name for name, kind in inspect.getmembers(errors, inspect.isclass)}
    assert here == {kind.__name__ for kind in ALL}


def test_what_may_be_tried_again_is_told_from_what_may_not() -> None:
    assert not issubclass(TransientError, PermanentError)
    assert not issubclass(PermanentError, TransientError)
    for kind in _tree(StepError):
        assert kind is StepError or issubclass(kind, TransientError | PermanentError)


def test_a_failed_experiment_tells_which() -> None:
    error = ExperimentFailedError("exp-x: failed: exit code 1", "exp-x", "FAILED")
    assert error.args[1:] == ("exp-x", "FAILED")
    assert str(error) == "exp-x: failed: exit code 1"
