"""The command line of the benchmarks, and what they refuse to call a result."""

from __future__ import annotations

import pytest

from benchmarks.__main__ import NAMES, main, make_parser
from benchmarks.latency import Latencies, table
from benchmarks.listing import PAGE, check
from benchmarks.submit import Round, Side
from benchmarks.submit import table as submissions

LISTED = "".join(f"exp-{'a' * 9}{letter}  RUNNING\n" for letter in "abcdefghijklmnopqrst")


@pytest.mark.parametrize("words", [[], ["all"]])
def test_without_a_name_all_run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    for module in NAMES.values():
        monkeypatch.setattr(module, "run", lambda given: ran.append(given.name))
    main(words)
    assert ran == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_has_defaults(name: str) -> None:
    given = vars(make_parser().parse_args([name]))
    assert given.pop("name") == name
    assert all(given.values())


def test_chains_take_their_size() -> None:
    given = make_parser().parse_args(["chains", "-n", "400", "--rounds", "1"])
    assert (given.n, given.rounds) == (400, 1)


def test_a_whole_page_is_a_listing() -> None:
    check(("ls", "--state", "running"), LISTED)
    check(("ls", "-n", "20", "-o", "json"), str([0] * PAGE))


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (("ls",), LISTED[: len(LISTED) // 2]),
        (("ls", "--state", "running"), LISTED.replace("RUNNING", "DONE", 1)),
        (("ls", "-n", "20", "-o", "json"), "[]"),
    ],
)
def test_anything_else_is_none(command: tuple[str, ...], written: str) -> None:
    with pytest.raises(RuntimeError, match="listed"):
        check(command, written)


def test_latency_is_asked_for_in_terms_of_the_bare_chain() -> None:
    made = table([Latencies("bare", [10.0] * 3, [11.0] * 3), Latencies("ours", [1.0, 2.0], [3.0])])
    assert list(made.columns[-1].cells) == ["", "70"]


def test_submissions_are_compared_within_a_round() -> None:
    rounds = [Round(1, Side(10, 5), Side(9, 5)), Round(1, Side(20, 5), Side(10, 5))]
    made = submissions([*rounds, Round(8, Side(40, 5), Side(30, 5))])
    assert list(made.columns[3].cells) == ["0.70", "0.75"]
