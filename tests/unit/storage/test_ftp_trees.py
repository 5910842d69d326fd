"""Directories of FTP servers: of ProFTPD (MLSD), vsftpd (LIST), and of ones that lie."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.storage.places import Places
from unit.storage.stores import CONTROL, MiB, stop_after
from unit.storage.webstores import FtpStore

from services.ftpdaemons import PrivateVsftpd
from wlm_tasks.errors import InvalidPathError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.model.ends import Tree
from wlm_tasks.storage import ftpclient, ftptrees
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.ftp import FtpStorage
from wlm_tasks.storage.ftplists import items
from wlm_tasks.storage.localtrees import LocalDirectory
from wlm_tasks.storage.trees import move_tree

FILES = {
    "a": b"a",
    "empty": b"",
    "-dash": b"dash",
    " lead and trail ": b"blanks",
    "[x]*?": b"glob",
    "a -> b": b"arrow",
    "~": b"tilde",
    "sub dir/b c": b"b",
    "sub dir/deeper/é\\'\"%41": b"c",
    ".hidden/x": b"d",
    "sub dir/big": os.urandom(3 * MiB),
}


@pytest.fixture(params=["proftpd", "vsftpd"])
def store(request: pytest.FixtureRequest) -> FtpStore:
    made = request.getfixturevalue(request.param)
    assert isinstance(made, FtpStore)
    return made


def fill(store: FtpStore, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        store.path(f"top/{path}").parent.mkdir(parents=True, exist_ok=True)
        store.write(f"top/{path}", data)


def tree(store: FtpStore, pattern: str = "", place: str = "top") -> Tree:
    return store.backend.tree(store.url(place), pattern)


def go(store: FtpStore, pattern: str = "", control: TransferControl = CONTROL) -> TransferResult:
    target = LocalDirectory(str(store.root)).tree_target("")
    return move_tree(tree(store, pattern), target, control)


def arrived(store: FtpStore) -> dict[str, bytes]:
    files = [path for path in store.root.rglob("*") if path.is_file()]
    return {str(path.relative_to(store.root)): path.read_bytes() for path in files}


def test_a_directory_arrives_whole(store: FtpStore) -> None:
    fill(store, FILES)
    size = sum(map(len, FILES.values()))
    result = go(store)
    assert (result.complete, result.size, result.moved) == (True, size, size)
    assert arrived(store) == FILES
    (store.root / "a").write_bytes(b"x")
    (store.root / "sub dir/b c").unlink()
    again = go(store)
    assert (again.complete, again.moved) == (True, 2)
    assert arrived(store) == FILES


def test_patterns(store: FtpStore) -> None:
    names = ["a.dat", ".c.dat", "d.txt", "x.dat/deep", "[1].dat", "y/z.dat", ".wlm/x"]
    fill(store, dict.fromkeys(names, b"1"))

    def found(pattern: str) -> list[str]:
        return [entry.path for entry in tree(store, pattern).entries()]

    assert found("*.dat") == sorted(["a.dat", "x.dat/deep", "[1].dat"])
    assert found(".*") == [".c.dat"]
    assert found("") == sorted(set(names) - {".wlm/x"})
    with pytest.raises(StorageRefusedError, match="has no file that is meant"):
        go(store, "*.none")


def test_the_directory_of_the_login_and_an_absolute_one(store: FtpStore) -> None:
    store.write("far.dat", b"1")
    base = store.url("x").removesuffix("/x")
    assert [entry.path for entry in store.backend.tree(base, "*.dat").entries()] == ["far.dat"]
    absolute = f"{base}/%2F{quote(str(store.far).lstrip('/'))}"
    found = store.backend.tree(absolute, "*.dat")
    assert [entry.path for entry in found.entries()] == ["far.dat"]
    with found.source("far.dat") as source:
        assert source.read_at(0, 9) == b"1"


@pytest.mark.parametrize("leads", ["a", "/etc/passwd"])
def test_links(store: FtpStore, leads: str) -> None:
    fill(store, {"a": b"1", "sub/b": b"2"})
    store.path("top/link").symlink_to(leads)
    with pytest.raises(StorageRefusedError, match=r"top/link: is a symbolic link, and FTP does"):
        tree(store).entries()
    assert [entry.path for entry in tree(store, "[a-k]*").entries()] == ["a"]


def test_a_server_that_takes_links_for_what_they_lead_to(ftp: FtpStore) -> None:
    fill(ftp, {"a": b"1", "sub/b": b"2"})
    ftp.path("top/link").symlink_to("sub")
    assert [entry.path for entry in tree(ftp).entries()] == ["a", "link/b", "sub/b"]
    ftp.path("top/sub/up").symlink_to("..")
    with pytest.raises(
        StorageRefusedError, match="top/link/up/link: is a directory that it is itself"
    ):
        tree(ftp).entries()


def test_no_such_directory(store: FtpStore) -> None:
    with pytest.raises(StorageRefusedError, match=r"/top/: listing: the server refuses: 550 "):
        tree(store).entries()
    store.write("top", b"a file")
    with pytest.raises(StorageRefusedError, match=r"/top/: listing: the server refuses: 550 "):
        tree(store).entries()


@pytest.mark.parametrize("name", [b"two\nlines", b"two\rlines", b"latin \xe9"])
def test_names_that_ftp_cannot_carry(store: FtpStore, name: bytes) -> None:
    fill(store, {"sub/a": b"1"})
    store.path(os.fsdecode(b"top/sub/" + name)).touch()
    with pytest.raises(
        StorageRefusedError, match=r"/top/sub/: (its server lists .* FTP can carry|.* in UTF-8)"
    ):
        tree(store).entries()


def test_a_file_that_goes_or_grows_meanwhile(store: FtpStore) -> None:
    fill(store, {"x": b"1", "y": b"2"})
    found = tree(store)
    entries = found.entries()
    found.entries = lambda: entries  # type: ignore[method-assign]
    target = LocalDirectory(str(store.root)).tree_target("")
    store.write("top/y", b"22")
    with pytest.raises(StorageUnavailableError, match=r"/top/y: was changed meanwhile"):
        move_tree(found, target, CONTROL)
    store.path("top/x").unlink()
    with pytest.raises(StorageUnavailableError, match=r"/top/x: .* was there before"):
        move_tree(found, target, CONTROL)


def test_slices(store: FtpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one has read the next need not, as long as it lies still."""
    monkeypatch.setattr("wlm_tasks.storage.trees.BUNCH_FILES", 2)
    fill(store, {f"f{number}": os.urandom(10) for number in range(6)})
    results = [go(store, control=stop_after(1))]
    while not results[-1].complete and len(results) < 9:
        results.append(go(store, control=stop_after(1)))
    assert [result.moved for result in results] == [20, 20, 20]
    opened: list[str] = []
    open_ = ftpclient.FtpClient.open

    def noted(self: ftpclient.FtpClient, command: str, **words: Any) -> bool:
        opened.append(command)
        return open_(self, command, **words)

    monkeypatch.setattr(ftpclient.FtpClient, "open", noted)
    assert go(store).moved == 0
    by_list = isinstance(store.server, PrivateVsftpd)  # LIST tells no seconds
    assert opened == ([f"RETR top/f{number}" for number in range(6)] if by_list else [])
    store.write("top/f0", b"0" * 10)
    assert go(store).moved == 10
    assert (store.root / "f0").read_bytes() == b"0" * 10


def test_what_is_remembered_has_an_end(store: FtpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ftptrees, "_REMEMBERED", 1)
    fill(store, {"x": b"1", "y": b"2"})
    go(store)
    assert len(ftptrees._DIGESTS._kept) <= 1
    assert go(store).moved == 0


@pytest.mark.parametrize(
    "lists",
    [
        {"MLSD": "450 Not now."},
        {"MLSD": "502 No.", "LIST": "425 Later."},
        {"CWD": "421 Bye."},
    ],
    ids=str,
)
def test_a_server_that_does_not_list_now(ftp: FtpStore, lists: dict[str, str]) -> None:
    fill(ftp, {"x": b"1"})
    ftp.server.restart(answers=lists)
    with pytest.raises(StorageUnavailableError, match="/top/: listing: the server says: 4"):
        tree(ftp).entries()


def test_a_server_that_lists_nothing(ftp: FtpStore) -> None:
    fill(ftp, {"x": b"1"})
    ftp.server.restart(answers={"MLSD": "502 No.", "LIST": "502 No."})
    with pytest.raises(StorageRefusedError, match="/top/: listing: the server refuses: 502 No"):
        tree(ftp).entries()


def test_a_list_that_is_too_long(ftp: FtpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(ftp, {"x": b"1"})
    monkeypatch.setattr(ftpclient, "_LONGEST_LIST", 10)
    with pytest.raises(StorageRefusedError, match="/top/: has more files than can be listed"):
        tree(ftp).entries()


ODD = [
    b"",
    b"type=file;size=1; ",
    b"type=file; x",
    b"size=1; x",
    b"type=file;size=-1; x",
    b"type=file;size=" + b"9" * 5000 + b"; x",
    b"type=file;size=1; a/b",
    b"type=file;size=1; \xf0\x9f\x98\x80\xff",
    b"lrwxrwxrwx 1 a b 1 Nov 29 04:54  -> x",
    b"-rw-r--r-- 1 a b " + b"9" * 5000 + b" Nov 29 04:54 x",
    b"01-29-26  04:54PM  1 x",
]


@given(told=st.binary() | st.sampled_from(ODD), facts=st.booleans())
def test_whatever_is_listed_is_understood_or_refused(told: bytes, facts: bool) -> None:
    with suppress(StorageRefusedError):
        assert all(item.name.encode() for item in items("ftp://h/top/", told, facts=facts))


@pytest.mark.parametrize("line", ODD[1:])
def test_odd_lines_are_refused(line: bytes) -> None:
    for facts in (True, False):
        with pytest.raises(StorageRefusedError, match=r"ftp://h/top/: (its server lists|has) '"):
            list(items("ftp://h/top/", line, facts=facts))


def test_to_a_host_behind_ssh(vsftpd: FtpStore, places: Places) -> None:
    fill(vsftpd, FILES)
    assert move_tree(tree(vsftpd), places.tree_target("site"), CONTROL).complete
    assert places.arrived() == FILES


@pytest.mark.parametrize("url", ["ftp://h/a/../b", "ftp://h/a%0Ab", "http://h/a", "ftp://u@h/a"])
def test_bad_urls(url: str) -> None:
    with pytest.raises(InvalidPathError, match=r"got .*, expected "):
        FtpStorage().tree(url, "")
