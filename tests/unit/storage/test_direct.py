"""Transfers that hosts do by themselves: on one host, and from one to another by its own login."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from unit.compute.sites import forked
from unit.storage.places import Places
from unit.storage.stores import CONTROL, MiB, sha256, stop_after

from services import require_service
from services.processes import wait_for
from services.sshd import PrivateSshd
from wlm_tasks.errors import (
    NoDirectWayError,
    StorageBusyError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.hosts import direct, directtrees
from wlm_tasks.hosts.address import address_of
from wlm_tasks.hosts.detours import Detours, Logins
from wlm_tasks.hosts.direct import check_login, ways
from wlm_tasks.hosts.directtrees import TreeWay
from wlm_tasks.hosts.ssh import SshShell
from wlm_tasks.hosts.streams import Dialogue, Pull, Push
from wlm_tasks.hosts.transfers import SCRIPTS
from wlm_tasks.model.paths import part_name
from wlm_tasks.storage import trees
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.scp import ScpStorage
from wlm_tasks.storage.transfer import move
from wlm_tasks.tasks import routes
from wlm_tasks.tasks.routes import Route

Servers = tuple[PrivateSshd, PrivateSshd]
WAYS = {"one": Logins(), "pulled": Logins(target=True), "pushed": Logins(source=True)}


class Pair:
    """Two hosts with a file to move between them, or one; `by` is the one that is talked with."""

    def __init__(self, directory: Path, servers: Servers, way: str) -> None:
        first, second = servers
        self.source, self.target = first, first if way == "one" else second
        self.by = self.source if way == "pushed" else self.target
        self.other = self.target if way == "pushed" else self.source
        self.logins = WAYS[way]
        self.here, self.there = directory / "it's the source", directory / "the target"
        self.part = self.there.with_name(part_name(self.there.name))

    def storages(self) -> tuple[ScpStorage, ScpStorage]:
        return (
            ScpStorage(name="here", options=self.source.options),
            ScpStorage(name="there", options=self.target.options),
        )

    def url(self, server: PrivateSshd, path: Path) -> str:
        return f"scp://{server.host}:{server.port}{quote(str(path))}"

    def go(
        self, control: TransferControl = CONTROL, *, there: Path | None = None
    ) -> TransferResult:
        """Move it without this process."""
        source_at, target_at = self.storages()
        url = self.url(self.target, there or self.there)
        with (
            source_at.source(self.url(self.source, self.here)) as source,
            target_at.target(url, 0o640) as target,
        ):
            (way,) = ways(source, target, self.logins)
            return move(source, way, control)

    def until_done(self) -> TransferResult:
        """Go on as a step would: what is left of another may hold the part for a moment."""
        results: list[TransferResult] = []

        def done() -> bool:
            with suppress(StorageBusyError):
                results.append(self.go())
            return bool(results)

        wait_for(done, 20.0, "that the part is free", 0.1)
        return results[0]


@pytest.fixture(scope="module")
def servers(session_dir: Path) -> Iterator[Servers]:
    """Two that log in to each other."""
    require_service("sshd", PrivateSshd.available())
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(PrivateSshd(session_dir / f"direct-{n}")) for n in range(2)
        )
        first.lets_in(second)
        second.lets_in(first)
        yield first, second


@pytest.fixture
def make_pair(
    tmp_path: Path, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Pair]]:
    monkeypatch.setattr(direct, "SMALLEST", 0)
    monkeypatch.setattr(directtrees, "SMALLEST", 0)
    files = [
        path
        for server in servers
        for path in (
            server.client_config,
            server.own_known_hosts,
            server.home / ".bashrc",
            server.directory / "authorized_keys",
        )
    ]
    before = [path.read_text() for path in files]
    yield lambda way: Pair(tmp_path, servers, way)
    for path, text in zip(files, before, strict=True):
        path.write_text(text)
    for server in servers:
        (server.home / "bin" / "dd").unlink(missing_ok=True)


@pytest.fixture(params=WAYS)
def pair(request: pytest.FixtureRequest, make_pair: Callable[[str], Pair]) -> Pair:
    return make_pair(request.param)


@pytest.fixture
def one(make_pair: Callable[[str], Pair]) -> Pair:
    return make_pair("one")


@pytest.fixture
def pulled(make_pair: Callable[[str], Pair]) -> Pair:
    return make_pair("pulled")


@pytest.fixture
def pushed(make_pair: Callable[[str], Pair]) -> Pair:
    return make_pair("pushed")


@pytest.fixture(params=["pulled", "pushed"])
def apart(request: pytest.FixtureRequest, make_pair: Callable[[str], Pair]) -> Pair:
    return make_pair(request.param)


def test_no_byte_comes_here(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(9 * MiB + 5)
    pair.here.write_bytes(data)
    read, points = bytearray(), list[int]()
    seen = Pull.read

    def noted(pull: Pull, length: int) -> bytes:
        found = seen(pull, length)
        read.extend(found)
        return found

    monkeypatch.setattr(Pull, "read", noted)
    result = pair.go(TransferControl(progress=lambda done, _size: points.append(done)))
    assert (result.complete, result.moved, result.sha256) == (True, len(data), sha256(data))
    assert pair.there.read_bytes() == data
    assert pair.there.stat().st_mode & 0o777 == 0o640
    assert not pair.part.exists()
    assert not read
    assert len(points) > 2
    assert points[-1] == len(data)
    assert pair.go().moved == 0


def test_an_empty_file(pulled: Pair) -> None:
    pulled.here.touch()
    assert pulled.go().complete
    assert pulled.there.read_bytes() == b""


def test_the_rest_after_a_stop(pair: Pair) -> None:
    data = os.urandom(6 * MiB + 1)
    pair.here.write_bytes(data)
    first = pair.go(stop_after(2))
    assert not first.complete
    assert pair.part.read_bytes() == data[: first.moved]
    assert 0 < first.moved < len(data)
    assert not pair.there.exists()
    second = pair.go()
    assert second.complete
    assert second.moved == len(data) - first.moved
    assert pair.there.read_bytes() == data


def test_a_part_that_is_not_of_this_file(pushed: Pair) -> None:
    """The bytes from the first wrong one on are sent again."""
    data = os.urandom(6 * MiB)
    pushed.here.write_bytes(data)
    wrong = bytes([data[3 * MiB] ^ 1])
    pushed.part.write_bytes(data[: 3 * MiB] + wrong + data[3 * MiB + 1 : 5 * MiB])
    result = pushed.go()
    assert result.moved == 3 * MiB
    assert pushed.there.read_bytes() == data


def test_a_byte_that_turns_over_on_the_target(pushed: Pair) -> None:
    data = os.urandom(4 * MiB)
    pushed.here.write_bytes(data)

    def damage(done: int, size: int) -> None:
        if done == size:
            with pushed.part.open("r+b") as file:
                file.seek(1000)
                file.write(bytes([data[1000] ^ 1]))

    with pytest.raises(StorageUnavailableError, match=f"arrived with .*, expected {sha256(data)}"):
        pushed.go(TransferControl(progress=damage))
    assert not pushed.there.exists()
    assert not pushed.part.exists()
    assert pushed.go().complete


def test_a_source_that_becomes_shorter(pulled: Pair) -> None:
    pulled.here.write_bytes(os.urandom(6 * MiB))

    def shorten(done: int, _size: int) -> None:
        if done < 4 * MiB:
            os.truncate(pulled.here, 4 * MiB + 1)

    with pytest.raises(StorageUnavailableError, match="was changed while it was read"):
        pulled.go(TransferControl(progress=shorten))
    assert pulled.go().complete
    assert pulled.there.read_bytes() == pulled.here.read_bytes()


def test_a_bound_on_the_rate(one: Pair) -> None:
    """A quarter of a second's bytes at a time."""
    one.here.write_bytes(os.urandom(MiB))
    points = [0]
    control = TransferControl(
        progress=lambda done, _size: points.append(done), bytes_per_s=2.0 * MiB
    )
    assert one.go(control).complete
    assert max(b - a for a, b in pairwise(points)) == MiB // 2


def test_a_disk_that_is_too_small(pushed: Pair, small_disk: Path) -> None:
    pushed.here.write_bytes(os.urandom(MiB))
    with pytest.raises(StorageUnavailableError, match=r"No space left") as caught:
        pushed.go(there=small_disk / "x")
    assert not isinstance(caught.value, NoDirectWayError)
    assert list(small_disk.iterdir()) == []


def held_up(pair: Pair) -> Path:
    """Have all pieces but the first copied only once the file that is returned is gone."""
    wait, first, begun = (pair.by.home / name for name in ("wait", "first", "begun"))
    wait.touch()
    first.unlink(missing_ok=True)
    begun.unlink(missing_ok=True)
    program = pair.by.home / "bin" / "dd"
    program.write_text(
        f"#!/bin/sh\nif [ -e {first} ]; then touch {begun}; else touch {first}; fi\n"
        f"while [ -e {begun} ] && [ -e {wait} ]; do sleep 0.02; done\n"
        f'exec {shutil.which("dd")} "$@"\n'
    )
    program.chmod(0o755)
    return wait


def test_a_worker_that_is_killed_leaves_a_writer_that_has_the_lock(pair: Pair) -> None:
    data = os.urandom(3 * MiB + 1)
    pair.here.write_bytes(data)
    wait = held_up(pair)

    def child() -> None:
        pair.go()

    with forked(child) as pid:
        wait_for((pair.by.home / "begun").exists, 20.0, "the second piece's begin", 0.02)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with pair.part.open("rb") as part, pytest.raises(BlockingIOError):
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
    wait.unlink()
    result = pair.until_done()
    assert result.complete
    assert result.moved < len(data)
    assert pair.there.read_bytes() == data
    wait_for(lambda: not users(pair.here), 10.0, "the end of all that was left")


def users(path: Path) -> list[psutil.Process]:
    """Processes that have a file open."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if any(Path(file.path) == path for file in process.open_files()):
                found.append(process)
    return found


FAULTS = {
    "unreachable": "Connection refused",
    "another key": "Host key verification failed",
    "unknown": "Host key verification failed",
    "not let in": "Permission denied",
    "no program": "not found",
    "runs nothing": "closed for today",
}


@pytest.mark.parametrize(
    ("way", "fault"),
    [
        *(("pulled", fault) for fault in FAULTS),
        ("pushed", "unreachable"),
        ("pushed", "runs nothing"),
    ],
)
def test_hosts_that_do_not_reach_each_other(
    make_pair: Callable[[str], Pair], way: str, fault: str, tmp_path: Path
) -> None:
    """Told in the words of ``ssh``, before a byte has moved."""
    apart = make_pair(way)
    apart.here.write_bytes(os.urandom(MiB))
    by, other = apart.by, apart.other
    config = by.client_config
    if fault == "unreachable":
        config.write_text(f"{config.read_text()}HostName 127.0.0.99\n")
    elif fault == "another key":
        kind, key = by.new_key("wrong").with_suffix(".pub").read_text().split()[:2]
        by.own_known_hosts.write_text(f"[{other.host}]:{other.port} {kind} {key}\n")
    elif fault == "unknown":
        by.own_known_hosts.write_text("")
    elif fault == "not let in":
        wrong = by.new_key("stranger")
        config.write_text(config.read_text().replace(str(by.directory / "own_key"), str(wrong)))
    elif fault == "no program":
        (by.home / ".bashrc").write_text(f"hash -r; PATH={without_ssh(tmp_path)}\n")
    else:
        keys = other.directory / "authorized_keys"
        *others, own = keys.read_text().splitlines()
        closed = 'command="echo closed for today >&2; exit 1"'
        keys.write_text("\n".join([*others, f"{closed} {own}\n"]))
    shell = SshShell(address_of("by", by.options))
    shell.close()  # what it has kept has read its start-up files before
    with pytest.raises(NoDirectWayError, match=FAULTS[fault]):
        check_login(shell, address_of("other", other.options))
    with pytest.raises(NoDirectWayError, match=FAULTS[fault]) as caught:
        apart.go()
    assert f"{by.host}:{by.port} to {by.user}@{other.host}:{other.port}" in str(caught.value)
    assert not apart.there.exists()
    assert not apart.part.exists() or not apart.part.stat().st_size


def without_ssh(directory: Path) -> Path:
    """A directory of all programs but that."""
    programs = directory / "bin"
    programs.mkdir()
    for place in ("/usr/local/bin", "/usr/bin", "/bin"):
        for program in Path(place).iterdir():
            link = programs / program.name
            if program.name != "ssh" and not link.is_symlink():
                link.symlink_to(program)
    return programs


def test_a_connection_between_them_that_breaks(apart: Pair) -> None:
    data = os.urandom(8 * MiB)
    apart.here.write_bytes(data)
    before = set(apart.other.connections())

    def cut(done: int, _size: int) -> None:
        if done < 4 * MiB:
            for pid in set(apart.other.connections()) - before - ours:
                os.kill(pid, signal.SIGKILL)

    apart.there.write_bytes(b"so that the worker's own connections are there")
    ours = set(apart.other.connections()) - before
    with pytest.raises(NoDirectWayError):
        apart.go(TransferControl(progress=cut))
    assert apart.until_done().complete
    assert apart.there.read_bytes() == data


def test_a_login_can_be_tried(apart: Pair) -> None:
    by, other = (address_of("x", server.options) for server in (apart.by, apart.other))
    check_login(SshShell(by), other)


def test_a_host_that_sends_nothing(pulled: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "_JOIN", direct._JOIN.replace("timeout 45", "timeout 0.3"))
    pulled.here.write_bytes(os.urandom(3 * MiB))
    wait = held_up(pulled)
    with pytest.raises(NoDirectWayError, match=r"a piece of \d+ bytes took more than"):
        pulled.go()
    wait.unlink()
    assert pulled.until_done().complete


def test_noise_of_start_up_files(apart: Pair) -> None:
    apart.here.write_bytes(os.urandom(2 * MiB))
    for server in (apart.source, apart.target):
        with (server.home / ".bashrc").open("a") as file:
            file.write("echo welcome\necho noise >&2\nprintf 'and wlm-'\n")
    assert apart.go().complete
    assert apart.there.read_bytes() == apart.here.read_bytes()


def test_small_files_are_not_worth_a_login(pulled: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct, "SMALLEST", MiB)
    pulled.here.write_bytes(bytes(MiB - 1))
    source_at, target_at = pulled.storages()
    with (
        source_at.source(pulled.url(pulled.source, pulled.here)) as source,
        target_at.target(pulled.url(pulled.target, pulled.there), None) as target,
    ):
        assert ways(source, target, pulled.logins) == []


def test_nobody_logs_in_unless_told_to(pushed: Pair) -> None:
    pushed.here.write_bytes(bytes(MiB))
    source_at, target_at = pushed.storages()
    with (
        source_at.source(pushed.url(pushed.source, pushed.here)) as source,
        target_at.target(pushed.url(pushed.target, pushed.there), None) as target,
    ):
        assert ways(source, target, Logins()) == []


ODD = ["plain", "a b/-c/-r f", "é 😀/$(id)", "it's", "*", "back\\slash", "line\nbreak"]


def fill(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Make a directory with small files, of all sorts of names, and large ones."""
    monkeypatch.setattr(trees, "SMALL", MiB)
    files = {name: os.urandom(100) for name in ODD}
    files |= {"large": os.urandom(3 * MiB), "d/large": os.urandom(2 * MiB)}
    for name, data in files.items():
        (pair.here / name).parent.mkdir(parents=True, exist_ok=True)
        (pair.here / name).write_bytes(data)
    return files


def move_all(pair: Pair) -> TransferResult:
    source_at, target_at = pair.storages()
    tree = source_at.tree(pair.url(pair.source, pair.here), "")
    there = target_at.tree_target(pair.url(pair.target, pair.there))
    return Route(pair.logins).move_tree(tree, there, CONTROL)


def test_directories(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    files = fill(pair, monkeypatch)
    for kind in (Pull, Push):
        monkeypatch.setattr(kind, "__init__", no_stream(kind.__init__))
    result = move_all(pair)
    assert result.complete
    assert result.digests == {name: sha256(data) for name, data in files.items()}
    assert arrived(pair) == files
    assert move_all(pair).moved == 0


@pytest.mark.parametrize(("from_", "to"), [("site", "scp"), ("scp", "site"), ("site", "site")])
def test_directories_of_experiments(
    places: Places, from_: str, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the host of their site."""
    monkeypatch.setattr(trees, "SMALL", MiB)
    files = {name: name.encode() for name in ODD} | {"d/large": os.urandom(2 * MiB)}
    places.fill(files)
    for kind in (Pull, Push):
        monkeypatch.setattr(kind, "__init__", no_stream(kind.__init__))
    route = Route(Logins())
    assert route.move_tree(places.tree(from_), places.tree_target(to), CONTROL).complete
    assert places.arrived() == files


def no_stream(begin: Callable[..., None]) -> Callable[..., None]:
    """Let nothing but dialogues and looks behind the end of a file begin."""

    def begins(stream: object, *arguments: Any, **named: Any) -> None:
        assert isinstance(stream, Dialogue) or arguments[1].rstrip().endswith(
            SCRIPTS["read"].rstrip()
        )
        begin(stream, *arguments, **named)

    return begins


def arrived(pair: Pair) -> dict[str, bytes]:
    return {
        str(path.relative_to(pair.there)): path.read_bytes()
        for path in pair.there.rglob("*")
        if path.is_file()
    }


def test_a_directory_through_us_when_there_is_no_way(
    pulled: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small files first: what they meet the large ones need not meet again."""
    monkeypatch.setattr(routes, "_DETOURS", Detours())
    files = fill(pulled, monkeypatch)
    pulled.by.own_known_hosts.write_text("")
    tried: list[str] = []
    monkeypatch.setattr(TreeWay, "carry", noted(TreeWay.carry, tried))
    assert move_all(pulled).complete
    assert arrived(pulled) == files
    assert tried == ["NoDirectWayError"]


def noted(carry: Callable[..., Any], tried: list[str]) -> Callable[..., Any]:
    def carries(*arguments: Any) -> Any:
        try:
            return carry(*arguments)
        except Exception as error:
            tried.append(type(error).__name__)
            raise

    return carries


def test_what_a_host_refuses_is_told(pushed: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its words, and not as if it had not been reached."""
    fill(pushed, monkeypatch)
    pushed.there.mkdir()
    (pushed.there / "a b").symlink_to(pushed.here)
    with pytest.raises(StorageRefusedError, match="a b: is a symbolic link, expected a directory"):
        move_all(pushed)
