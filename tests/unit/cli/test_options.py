"""How values on the command line are read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.cli.options import pairs, read_ids, value_of, values_of
from wlm_tasks.errors import InvalidParametersError, NotFoundError
from wlm_tasks.model.binding import written


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("300", 300),
        ("-5", -5),
        ("0", 0),
        ("2.5", 2.5),
        ("-0.25", -0.25),
        ("1e20", "1e20"),
        ("1e+20", 1e20),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("007", "007"),
        ("2.50", "2.50"),
        ("+3", "+3"),
        ("-0", "-0"),
        ("1_000", "1_000"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("99999999999999999999", "99999999999999999999"),
        ("", ""),
        ('"300"', "300"),
        ('"', '"'),
        ("melt.in", "melt.in"),
        (" x ", " x "),
        ("٣", "٣"),
    ],
)
def test_a_text_is_read_as_what_it_would_be_written_as(text: str, value: object) -> None:
    read = value_of(text)
    assert (type(read), read) == (type(value), value)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters='"')))
def test_what_was_typed_is_what_a_command_gets(text: str) -> None:
    assert written(value_of(text)) == text


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2.5,x", [1, 2.5, "x"]),
        ("300, 350", [300, 350]),
        ("a", ["a"]),
        ("", []),
        ("a,", ["a", ""]),
    ],
)
def test_values_are_between_commas(text: str, values: list[object]) -> None:
    assert values_of(text) == values


def test_pairs_keep_all_but_the_first_equals_sign() -> None:
    assert pairs(["a=1", "b=x=y", "c="], "--param") == {"a": "1", "b": "x=y", "c": ""}


@pytest.mark.parametrize("texts", [["a"], ["=1"], [" =1"], ["a=1", "a=2"], [""]])
def test_pairs_that_are_none_are_refused(texts: list[str]) -> None:
    with pytest.raises(InvalidParametersError, match=r"^--param: got "):
        pairs(texts, "--param")


def test_ids_are_taken_once_and_in_order() -> None:
    assert read_ids(["exp-b", "exp-a", "exp-b"]) == ["exp-b", "exp-a"]


@pytest.mark.parametrize("text", ["", "a b", "exp_%", "é", "\udcff", "x" * 65, "../etc"])
def test_what_cannot_be_an_id_is_refused(text: str) -> None:
    with pytest.raises(NotFoundError, match=r"^id: got "):
        read_ids([text])
