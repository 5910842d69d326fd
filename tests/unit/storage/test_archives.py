"""Archives from the other end: what they hold is checked, whoever made them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator

import pytest
from unit.storage.places import Places, go
from unit.storage.stores import MiB

from wlm_tasks.errors import StorageRefusedError, StorageUnavailableError, TransientError
from wlm_tasks.model import checksums
from wlm_tasks.model.ends import Entry


def archive(members: dict[str, tuple[bytes, int]]) -> list[bytes]:
    """Return a tar archive of files with these contents and modes."""
    text = io.BytesIO()
    with tarfile.open(mode="w", fileobj=text, format=tarfile.GNU_FORMAT) as made:
        for name, (data, mode) in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            made.addfile(info, io.BytesIO(data))
    return [text.getvalue()]


WORD = ".wlm-word"
A = Entry("a", 1, 0o644)
TOLD = checksums.write({"a": hashlib.sha256(b"a").hexdigest()})


@pytest.mark.parametrize(
    "members",
    [
        {"./a": (b"a", 0o644), "./.wlm/1/payload.sh": (b"evil", 0o755), WORD: (TOLD, 0o600)},
        {"./a": (b"a", 0o644), "./b": (b"b", 0o644), WORD: (TOLD * 2, 0o600)},
        {"./a": (b"a", 0o644), "../b": (b"b", 0o644), WORD: (TOLD, 0o600)},
        {"./b": (b"a", 0o644), WORD: (TOLD.replace(b"./a", b"./b"), 0o600)},
        {"./a": (b"b", 0o644), WORD: (TOLD, 0o600)},
        {"./a": (b"a", 0o644)},
        {WORD: (TOLD, 0o600)},
    ],
    ids=["ours", "another", "above", "renamed", "damaged", "untold", "nothing"],
)
def test_an_archive_that_holds_something_else(
    places: Places, there: str, members: dict[str, tuple[bytes, int]]
) -> None:
    named = {f"./{n}" if n == WORD else n: member for n, member in members.items()}
    with pytest.raises((TransientError, StorageRefusedError)):
        places.tree_target(there).unpack([A], WORD, iter(archive(named)))
    assert places.arrived().keys() - {".wlm-parts/a"} <= {
        path for path in places.arrived() if path.startswith(".wlm-parts/")
    }
    assert not (places.target / ".wlm").exists()
    assert not (places.target.parent / "b").exists()
    go_on = archive({"./a": (b"a", 0o644), f"./{WORD}": (TOLD, 0o600)})
    places.tree_target(there).unpack([A], WORD, iter(go_on))
    assert places.arrived() == {"a": b"a"}


@pytest.mark.parametrize("there", ["local", "file"])
def test_an_archive_with_too_much_of_a_file(places: Places, there: str) -> None:
    """It is refused by what its header says, before it is read."""

    def endless() -> Iterator[bytes]:
        info = tarfile.TarInfo("./a")
        info.size = 1 << 40
        yield info.tobuf(tarfile.GNU_FORMAT)
        yield bytes(MiB)  # as far as is read ahead
        raise AssertionError("it was read")

    with pytest.raises(StorageUnavailableError, match="held 1099511627776 bytes"):
        places.tree_target(there).unpack([A], WORD, endless())


def test_no_special_bits(places: Places, here: str, there: str) -> None:
    places.fill({"x": b"1"})
    (places.source / "x").chmod(0o6755)
    go(places, here, there)
    assert (places.target / "x").stat().st_mode & 0o7700 == 0o700


@pytest.mark.parametrize("there", ["scp", "site"])
def test_no_special_bits_of_an_archive(places: Places, there: str) -> None:
    made = archive({"./a": (b"a", 0o6755), f"./{WORD}": (TOLD, 0o600)})
    places.tree_target(there).unpack([A], WORD, iter(made))
    assert (places.target / "a").stat().st_mode & 0o7700 == 0o700
