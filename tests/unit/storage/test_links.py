"""Links: none leads out of the directory that a transfer is bound to."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from unit.storage.stores import CONTROL, FileStore, deliver, get, put

from wlm_tasks.errors import InvalidPathError, StorageRefusedError
from wlm_tasks.model.paths import part_name

# ways out of the directory `root` to the file `secret` in the directory `outside` beside it:
# links to be made below root, by name
ATTACKS: dict[str, dict[str, str]] = {
    "a link to a file outside": {"x": "{base}/outside/secret"},
    "a relative link": {"x": "../outside/secret"},
    "a link below a link": {"x": "y/secret", "y": "{base}/outside"},
    "a link back in and out": {"x": "{base}/root/../outside/secret"},
    "a link from the root of all": {"x": f"{'../' * 50}{{base}}/outside/secret"},
    "a link with a prefix alike": {"x": "{base}/root2/secret"},
    "a link by way of a process": {"x": "/proc/self/root{base}/outside/secret"},
    "a link by another name of the root": {"x": "{base}/alias/../outside/secret"},
    "a link back in and out, spelt oddly": {"x": "//.{base}/root/./../outside/secret"},
    "a link in, and one out there": {"x": "/.//{base}/root/y", "y": "../outside/secret"},
}


@pytest.mark.parametrize("links", ATTACKS.values(), ids=ATTACKS)
def test_no_reading_outside(files: FileStore, tmp_path: Path, links: dict[str, str]) -> None:
    for directory in ("outside", "root2"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "secret").write_text("secret")
    (tmp_path / "alias").symlink_to("root")
    for name, target in links.items():
        (files.root / name).symlink_to(target.format(base=tmp_path))
    assert (files.root / "x").read_text() == "secret"
    with pytest.raises(InvalidPathError, match="a symbolic link leads out of it"):
        put(files)
    assert files.read("far.dat") is None


def test_links_that_stay_inside_are_followed(files: FileStore) -> None:
    (files.root / "real").mkdir()
    (files.root / "real" / "data").write_text("data")
    (files.root / "dir").symlink_to(files.root / "real")
    (files.root / "up").symlink_to("dir/../real/./data")
    (files.root / "x").symlink_to("up")
    put(files)
    assert files.read("far.dat") == b"data"
    put(files, "dir/data")


@pytest.mark.parametrize("spelling", ["{root}", "/{root}", "//{root}", "/.{root}", "{root}/./"])
@pytest.mark.parametrize(
    ("given", "named"), [("root", "root"), ("way/root", "root"), ("way/root", "way/root")]
)
def test_links_that_name_the_root_by_its_path(
    files: FileStore, tmp_path: Path, spelling: str, given: str, named: str
) -> None:
    """What ``ln -s "$PWD/data" x`` makes, also where scratch is reached through a link."""
    (tmp_path / "way").symlink_to(".")
    (files.root / "data").write_text("data")
    (files.root / "x").symlink_to(spelling.format(root=tmp_path / named) + "/data")
    deliver(files.backend, str(tmp_path / given), "x", files.url("far.dat"), CONTROL)
    assert files.read("far.dat") == b"data"


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_links_use_up_no_descriptors(files: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    (files.root / "d").mkdir()
    (files.root / "data").write_text("data")
    (files.root / "x").symlink_to("d/../" * 400 + "data")
    before, most = open_descriptors(), 0
    real = os.open

    def count(*args: Any, **options: Any) -> int:
        nonlocal most
        most = max(most, open_descriptors())
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", count)
        put(files)
    assert files.read("far.dat") == b"data"
    assert most - before < 20
    assert open_descriptors() == before


def test_a_way_that_is_too_deep(files: FileStore) -> None:
    """Each directory on the way is held open, so there must be a bound."""
    before = open_descriptors()
    deep = files.root.joinpath(*["d"] * 300)
    deep.mkdir(parents=True)
    (deep / "data").write_text("data")
    (files.root / "x").symlink_to("d/" * 300 + "data")
    with pytest.raises(StorageRefusedError, match="x: File name too long"):
        put(files)
    files.write("far.dat", b"data")
    get(files, "d/" * 300 + "new")
    assert (deep / "new").read_text() == "data"
    assert open_descriptors() == before


@pytest.mark.parametrize("target", [".", "sub", "sub/..", "sub/"])
def test_a_link_to_a_directory(files: FileStore, target: str) -> None:
    (files.root / "sub").mkdir()
    (files.root / "x").symlink_to(target)
    with pytest.raises(StorageRefusedError, match="x: is a directory, expected a regular file"):
        put(files)


def test_a_circle_of_links(files: FileStore) -> None:
    (files.root / "x").symlink_to("y")
    (files.root / "y").symlink_to("x")
    with pytest.raises(StorageRefusedError, match="x: Too many levels of symbolic links"):
        put(files)


@pytest.mark.parametrize("place", ["link/x", "sub/link/x", "link/new/x"])
def test_no_writing_through_links(files: FileStore, tmp_path: Path, place: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (files.root / "sub").mkdir()
    (files.root / place.partition("link")[0] / "link").symlink_to(outside)
    files.write("far.dat", b"data")
    with pytest.raises(InvalidPathError, match="without symbolic links: 'link' is one"):
        get(files, place)
    assert list(outside.iterdir()) == []


def test_a_link_at_the_target_gives_way(files: FileStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (files.root / "x").symlink_to(precious)
    files.write("far.dat", b"data")
    get(files)
    assert precious.read_text() == "precious"
    assert not (files.root / "x").is_symlink()
    assert (files.root / "x").read_text() == "data"


def test_a_link_as_part_file_is_refused(files: FileStore, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (files.root / part_name("x")).symlink_to(precious)
    files.write("far.dat", b"data")
    with pytest.raises(StorageRefusedError, match=r"part file.*symbolic links"):
        get(files)
    assert precious.read_text() == "precious"
