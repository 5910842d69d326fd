"""How things are shown."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.cli import output
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.model.units import size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (95, "1 min 35 s"),
        (3600, "1 h"),
        (3660, "1 h 1 min"),
        (86_399, "23 h 59 min"),
        (90_000, "1 d 1 h"),
        (30 * 86_400, "30 d"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "now"),
        (0.5, "now"),
        (3, "3 s ago"),
        (119, "119 s ago"),
        (180, "3 min ago"),
        (7200, "2 h ago"),
        (200_000, "2 d ago"),
    ],
)
def test_a_time_is_told_by_how_long_ago_it_was(seconds: float, text: str) -> None:
    assert output.ago(1000.0, 1000.0 + seconds) == text


def test_a_time_that_is_not_has_no_text() -> None:
    assert output.ago(None, 5.0) == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB"), (10**15, "1000.0 TB")],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@given(st.text())
def test_a_line_of_anything_is_printable(text: str) -> None:
    assert output.clean(text).isprintable()


@given(st.text())
def test_the_output_of_a_program_keeps_lines_and_tabs_and_no_other_control(text: str) -> None:
    shown = output.clean_lines(text)
    assert shown.replace("\n", "").replace("\t", "").isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc\n", "a\tb\nc\n"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("10 %\r50 %\r100 %\ndone", "100 %\ndone"),
        ("100 %\r", "100 %"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("[red]x[/red]", "[red]x[/red]"),
    ],
)
def test_the_output_of_a_program_as_it_is_shown(text: str, shown: str) -> None:
    assert output.clean_lines(text) == shown


@dataclass
class _Thing:
    made_at: float
    at: float | None
    size: float
    state: ExperimentState
    place: Path


def test_plain_data_has_times_in_utc_and_words_for_the_rest() -> None:
    thing = _Thing(made_at=0.5, at=None, size=0.5, state=ExperimentState.DONE, place=Path("/a"))
    assert json.loads(json.dumps(output.plain({"things": [thing]}))) == {
        "things": [
            {
                "made_at": "1970-01-01T00:00:00.500Z",
                "at": None,
                "size": 0.5,
                "state": "DONE",
                "place": "/a",
            }
        ]
    }


def test_json_is_ascii_so_that_nothing_in_it_moves_a_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output.show_json({"name": "\x1b[31m\x9b1m\u202e"})
    assert capsys.readouterr().out.isascii()
