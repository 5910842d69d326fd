"""Paths stay inside; places outside become absolute."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.errors import InvalidExperimentError, InvalidPathError
from wlm_tasks.model.experiment import Experiment, Transfer
from wlm_tasks.model.paths import check_inside, is_url, place_key, resolve_paths, resolve_place


@pytest.mark.parametrize(
    "path", ["a", "a/b.txt", "..a", "a..", "...", ".hidden", ".wlmx/a", "a/.wlm/b", "é b", "-rf"]
)
def test_inside(path: str) -> None:
    assert check_inside(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *[
            "",
            "/",
            "/a",
            "..",
            "../a",
            "a/../b",
            "a/..",
            ".",
            "./a",
            "a//b",
            "a/",
            ".wlm",
            ".wlm/a",
        ],
        *["a\0b", "a\nb", "a\x7fb", "x" * 256, "a/" * 2048 + "a"],
    ],
)
def test_outside(path: str) -> None:
    with pytest.raises(InvalidPathError, match=r"^path: got '.*, expected a (relative )?path"):
        check_inside(path)


@pytest.mark.parametrize("dest", [".x.wlm-part", "a/.x.wlm-part"])
def test_an_input_with_the_name_of_a_file_under_way(dest: str) -> None:
    with pytest.raises(InvalidExperimentError, match=r"inputs\[0\].dest: .*'.wlm-part'"):
        Experiment("n", "local", ["true"], inputs=[{"src": "/a", "dest": dest}])


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("a/../b", "b"),
        ("file:///a/b", "file:///a/b"),
        ("FILE://LocalHost//a/./c/../%62", "file:///a/b"),
        ("file://host/a/./b", "file://host/a/./b"),
        ("sftp://host/a%62", "sftp://host/a%62"),
        ("file:///{x}/%7Bx%7D", "file:///{x}/%7Bx%7D"),
    ],
)
def test_spellings_of_a_place(place: str, key: str) -> None:
    assert place_key(place) == key


@given(st.text())
def test_what_is_inside_stays_below(path: str) -> None:
    try:
        check_inside(path)
    except InvalidPathError:
        return
    base = Path("/base")
    joined = base / path
    assert joined.is_relative_to(base)
    assert ".." not in joined.parts
    assert joined.parts[2] != ".wlm"


def test_urls() -> None:
    assert is_url("sftp://host/a")
    assert is_url("FILE:///a")
    assert not is_url("a/b")
    assert not is_url("/a:b")
    assert not is_url("C:/a")


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("a/b", "file:///base/a/b"),
        ("./a", "file:///base/a"),
        ("../a", "file:///a"),
        ("../../../a", "file:///a"),
        ("/x/y", "file:///x/y"),
        ("//x/y", "file:///x/y"),
        ("a b#%?é", "file:///base/a%20b%23%25%3F%C3%A9"),
        ("{T}.log", "file:///base/{T}.log"),
        ("sftp://lab/a b", "sftp://lab/a b"),
    ],
)
def test_local_places_become_urls(place: str, url: str) -> None:
    assert resolve_place(place, Path("/base")) == url


@given(st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1))
def test_urls_lead_back_to_the_file(name: str) -> None:
    if name not in {".", ".."}:
        assert unquote(resolve_place(name, Path("/base"))) == f"file:///base/{name}"


def test_only_places_outside_are_resolved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    made = Experiment(
        "x",
        "local",
        ["true"],
        inputs=[Transfer("a", "b"), Transfer("http://h/c", "c")],
        outputs=[Transfer("d", "e")],
    )
    resolved = resolve_paths(made, Path())
    assert resolved.inputs == (
        Transfer(f"file://{tmp_path}/a", "b"),
        Transfer("http://h/c", "c"),
    )
    assert resolved.outputs == (Transfer("d", f"file://{tmp_path}/e"),)
    assert resolve_paths(resolved, Path("/other")) == resolved
