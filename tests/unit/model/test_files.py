"""Files that cannot be read say so in one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from wlm_tasks.errors import ConfigError, InputError, InvalidExperimentError
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.files import FILE_LIMIT, read_table

NOBODY = 65_534


def refusal(path: Path, error: type[InputError] = InvalidExperimentError) -> str:
    """The message, without the directory of the test."""
    with pytest.raises(error) as caught:
        Experiment.from_file(path) if error is InvalidExperimentError else read_table(path, error)
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"name = ", "got Invalid value (at end of document), expected valid TOML"),
        (
            "a.toml",
            b"name = 'a'\n[resources\ncpus = 1\n",
            "got Expected ']' at the end of a table declaration (at line 2, column 11),"
            " expected valid TOML",
        ),
        ("a.toml", b"a = 1\na = 2\n", "got Cannot overwrite a value (at line 2, column 6), exp"),
        ("a.toml", b"name = '\xff'\n", "got byte 0xff at line 1, expected UTF-8 text"),
        ("a.toml", b"a = 1\nb = '\xe9'\n", "got byte 0xe9 at line 2, expected UTF-8 text"),
        ("a.toml", b"\x00", "got Invalid statement (at line 1, column 1), expected valid TOML"),
        ("a.toml", b"", "name: got nothing, expected a name"),
        ("a.toml", b"name = 5\nsite='a'\ncommands=['x']", "name: got 5, expected 1 to 128"),
        ("a.toml", b"name = 1979-05-27", "name: got datetime.date(1979, 5, 27), expected 1"),
        ("a.toml", b"#" * (FILE_LIMIT + 1), f"got more than {FILE_LIMIT} bytes, expected at most"),
        ("a.toml", b"a = " + b"[" * 100_000, "got endless nesting, expected a few levels"),
        ("a.json", b"{", "got Expecting property name enclosed in double quotes: line 1 column 2"),
        ("a.json", b"[]", "got a list, expected a table of fields"),
        ("a.json", b"null", "got a NoneType, expected a table of fields"),
        ("a.json", b"[" * 100_000, "got endless nesting, expected a few levels"),
        (
            "a.json",
            b'{"name": "a", "resources": {"cpus": 1, "cpus": 2}}',
            "got the key 'cpus' again, expected valid JSON",
        ),
        ("a.txt", b"name: a", "got suffix '.txt', expected one of .toml, .json, .yaml, .yml"),
        ("toml", b"", "got suffix '', expected one of .toml"),
        ("a.tar.gz", b"", "got suffix '.gz', expected one of .toml"),
    ],
)
def test_broken_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "(at line 1, column 6), expected valid YAML"),
        (b"a: 1\n b: 2", "(at line 2, column 3), expected valid YAML"),
        (b"a: !!python/object:os.system {}", "expected valid YAML"),
        (b"\x07", "expected valid YAML"),
        (b"- a", "got a list, expected a table of fields"),
        (b"", "got a NoneType, expected a table of fields"),
        (b"name: no", "name: got False, expected 1 to 128 letters"),
        (b"a: !!timestamp x", "got 'x', no timestamp (at line 1, column 4), expected valid YAML"),
        (b"a: !!int ''", "got '', no int (at line 1, column 4), expected valid YAML"),
        (b"a: !!float '_'", "got '_', no float (at line 1, column 4), expected valid YAML"),
        (b"a: !!bool maybe", "got 'maybe', no bool (at line 1, column 4), expected valid YAML"),
        (b"a: 2024-13-45", "got '2024-13-45', no timestamp (at line 1, column 4), expected val"),
        (b"a: 1\nb: {c: 1, 'c': 2}", "got the key 'c' again (at line 2, column 11), expected"),
        (b"a: 1\na: 1", "got the key 'a' again (at line 2, column 1), expected valid YAML"),
        (b"? [*a, *a]\n: 1", "expected valid YAML"),
    ],
)
def test_broken_yaml(content: bytes, message: str, tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InvalidExperimentError) as caught:
        Experiment.from_file(tmp_path / "a.yaml")
    assert message in str(caught.value)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(f"{tmp_path}/a.yaml: ")


def test_merged_keys_are_no_repeated_ones(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / "a.yaml"
    file.write_text(
        "a: &a {x: 1, y: 1}\nb: {c: [{d: &d {<<: *a, y: 2}}]}\ne: {<<: *d, x: 3}\nf: *d\n"
    )
    table = read_table(file, ConfigError)
    assert table["b"]["c"][0]["d"] == {"x": 1, "y": 2}
    assert table["e"] == {"x": 3, "y": 2}


def test_of_merged_tables_the_first_wins(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    file = tmp_path / "a.yaml"
    file.write_text("a: &a {cpus: 1}\nb: &b {cpus: 2}\nc: {<<: [*a, *b]}\n")
    assert read_table(file, ConfigError)["c"] == {"cpus": 1}


def test_yaml_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text("name: a")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ConfigError, match=r"pip install 'wlm_tasks\[yaml\]'"):
        Experiment.from_file(tmp_path / "a.yml")


def test_missing_directory_pipe_and_forbidden(tmp_path: Path) -> None:
    missing = refusal(tmp_path / "none.toml")
    assert missing == "got 'No such file or directory', expected a readable file"
    (tmp_path / "dir.toml").mkdir()
    assert refusal(tmp_path / "dir.toml") == "got no regular file, expected a file"
    os.mkfifo(tmp_path / "pipe.toml")
    assert refusal(tmp_path / "pipe.toml") == "got no regular file, expected a file"
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    assert "Too many levels of symbolic links" in refusal(tmp_path / "loop.toml")
    long = tmp_path / f"{'x' * 300}.toml"
    assert "File name too long" in refusal(long, ConfigError)


def test_forbidden(session_dir: Path) -> None:
    file = session_dir / "forbidden.toml"
    file.write_text("")
    file.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)  # the superuser may read everything
    try:
        assert refusal(file) == "got 'Permission denied', expected a readable file"
    finally:
        os.seteuid(user)
        file.unlink()


def test_names_with_control_characters_are_escaped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_table(tmp_path / "a\nb\x1b[31m.toml", ConfigError)
    assert str(caught.value).isprintable()
    with pytest.raises(ConfigError, match="expected a readable file"):
        read_table(tmp_path / "a\0.toml", ConfigError)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_table(tmp_path / "a.toml", ConfigError) == {"a": 1}
