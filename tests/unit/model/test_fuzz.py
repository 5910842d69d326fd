"""Anything at all goes in; only a valid experiment or one clear refusal comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wlm_tasks.errors import InvalidExperimentError, InvalidParametersError
from wlm_tasks.model.experiment import Experiment, fingerprint
from wlm_tasks.model.params import bind, expand_sweep, parameters

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted(Experiment.model_fields)
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
PATH = st.from_regex(r"[a-z]{1,4}(/[a-z{}]{1,4}){0,2}", fullmatch=True)
SECONDS = st.floats(0.001, 86_400)


def nearly(valid: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what is right, sometimes anything."""
    return st.integers(0, 11).flatmap(lambda n: JSON if n == 0 else valid)


TRANSFERS = st.lists(
    nearly(st.fixed_dictionaries({"src": PATH, "dest": PATH}, optional={"sha256": st.none()})),
    max_size=3,
)
LIKELY = st.fixed_dictionaries(
    {
        "name": nearly(st.from_regex(r"[a-z][a-z .@()=-]{0,8}[a-z]", fullmatch=True)),
        "site": nearly(st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)),
        "commands": nearly(st.lists(nearly(TEXT), min_size=1, max_size=4)),
    },
    optional={
        "environment": nearly(st.lists(TEXT, max_size=3)),
        "variables": nearly(st.dictionaries(NAME, TEXT, max_size=3)),
        "inputs": nearly(TRANSFERS),
        "outputs": nearly(TRANSFERS),
        "resources": nearly(
            st.fixed_dictionaries(
                {}, optional={"cpus": nearly(st.integers(1, 9)), "walltime_s": nearly(SECONDS)}
            )
        ),
        "priority": nearly(st.sampled_from(["low", "urgent", 0, 9])),
        "params": nearly(st.dictionaries(NAME, st.booleans() | st.floats() | TEXT, max_size=3)),
        "retry": nearly(st.fixed_dictionaries({}, optional={"backoff_s": nearly(SECONDS)})),
        "labels": nearly(st.dictionaries(NAME, TEXT, max_size=3)),
        "owner": nearly(st.none() | TEXT),
    },
)


def refusal(error: type[Exception], call: Callable[[], object]) -> str | None:
    """Return the message of the refusal, if that is what happens; any other error is raised."""
    try:
        call()
    except error as refused:
        return str(refused)
    return None


def assert_clear(message: str | None) -> None:
    if message is not None:
        assert message.isprintable()
        assert ": got " in message
        assert ", expected " in message


def assert_kept(made: Experiment) -> None:
    again = Experiment.from_json(made.to_json())
    assert again == made
    assert again.to_json() == made.to_json()
    assert fingerprint(again) == fingerprint(made)


def assert_as_promised(table: Any) -> None:
    message = refusal(InvalidExperimentError, lambda: Experiment.model_validate(table))
    assert_clear(message)
    if message is None:
        assert_kept(Experiment.model_validate(table))


@given(JSON)
def test_any_value(value: Any) -> None:
    assert_as_promised(value)


@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(), JSON))
def test_any_table(table: dict[str, Any]) -> None:
    assert_as_promised(table)
    assert_clear(refusal(InvalidExperimentError, lambda: Experiment(**table)))


@given(table=LIKELY, values=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
def test_likely_tables(table: dict[str, Any], values: st.DataObject) -> None:
    assert_as_promised(table)
    if refusal(InvalidExperimentError, lambda: Experiment(**table)) is not None:
        return
    made = Experiment(**table)
    params = {n: values.draw(TEXT) for n in sorted(parameters(made) - made.params.keys())}
    message = refusal(InvalidParametersError, lambda: bind(made, params))
    assert_clear(message)
    if message is None:
        assert_kept(bind(made, params))


@given(st.dictionaries(st.text(), JSON, max_size=3) | JSON, st.sampled_from(["product", "zip"]))
def test_any_sweep(sweep: Any, mode: str) -> None:
    message = refusal(InvalidParametersError, lambda: expand_sweep(sweep, mode))
    assert_clear(message)
    if message is None:
        assert all(member.keys() == sweep.keys() for member in expand_sweep(sweep, mode))
