"""A lock that one transfer holds on a file of a server that has no locks: a file of its own.

``.NAME.wlm-lock`` is made so that it cannot have been there (O_EXCL). It says who holds it and is
written again every few seconds, as long as its process lives. One that was left behind is taken
away at once if its process was of this host, else when its server has not seen it written for a
while. Whoever could not write to its lock for nearly so long looks whose it is before it goes on.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Final, cast

import asyncssh

from wlm_tasks.errors import StepError
from wlm_tasks.hosts.sftp import Sftp
from wlm_tasks.model.paths import lock_name
from wlm_tasks.storage.locks import busy
from wlm_tasks.storage.sftpsource import Attrs, File, require_regular

#: seconds between two writes, after which a holder has doubts, and after which others take it
RENEW_S: Final = 15.0
DOUBT_S: Final = 90.0
LEASE_S: Final = 120.0
#: most bytes that are read of a lock
_MOST: Final = 200
_WORDS: Final = 4
#: the field of proc(5) behind the name
_BEGUN: Final = 19
#: words of the locks that this process holds
_HELD: Final[set[bytes]] = set()


class SftpLock:
    """One that is held."""

    def __init__(self, sftp: Sftp, path: bytes, place: str) -> None:
        """Take it; raises `StorageBusyError` if another holds it."""
        self._sftp = sftp
        self._path = path
        self._place = place
        self._words = b" ".join([*_own(), secrets.token_hex(8).encode()])
        self._renewed_at = time.monotonic()
        _HELD.add(self._words)
        try:
            self._file = self._made() or self._taken()
        except BaseException:
            _HELD.discard(self._words)
            raise
        self._renewing: Future[None] = sftp.repeat(self._renew, RENEW_S)

    def require(self) -> None:
        """Raise `StorageBusyError` if another has it by now."""
        if time.monotonic() - self._renewed_at <= DOUBT_S:
            return
        words, _age = self._sftp.do(self._place, self._look)
        if words != self._words:
            raise busy(self._place)
        self._sftp.do(self._place, self._renew)

    def close(self) -> None:
        """Give it back, unless another may have it."""
        self._renewing.cancel()
        _HELD.discard(self._words)
        with suppress(StepError):  # then the next one finds that we do not hold it
            self.require()
            self._sftp.do(self._place, self._remove)
        self._let_go(self._file)

    def _made(self) -> File | None:
        """Make the file; None if it is there."""

        async def make(client: asyncssh.SFTPClient) -> File | None:
            try:
                file = await client.open(self._path, "xb", Attrs(permissions=0o600))
            except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
                try:
                    await client.lstat(self._path)
                except asyncssh.SFTPNoSuchFile:  # it was something else
                    pass
                else:
                    return None
                raise
            try:
                await file.write(self._words, 0)
            except asyncssh.SFTPError:
                await self._remove(client)
                raise
            return file

        return self._sftp.do(self._place, make)

    def _taken(self) -> File:
        """Take over a lock that nobody holds; raises `StorageBusyError` if that is not so."""
        words, age_s = self._sftp.do(self._place, self._look)
        if not _is_left(words) and age_s < LEASE_S:
            raise busy(self._place)
        taken = self._sftp.do(self._place, lambda client: self._take_away(client, words))
        file = self._made() if taken else None
        if file is None:
            raise busy(self._place)
        return file

    def _let_go(self, file: File) -> None:
        """Have the server close it; nobody has to wait for that."""
        self._sftp.begin(lambda _client: file.close())

    async def _look(self, client: asyncssh.SFTPClient) -> tuple[bytes, float]:
        """Return what a lock says, and for how many seconds it was not written, by its server."""
        probe = self._beside()
        try:
            attrs = await client.lstat(self._path)
            require_regular(attrs, f"{self._place}: its lock")
            async with client.open(self._path, "rb") as file:
                words = cast("bytes", await file.read(_MOST, 0))
            async with client.open(probe, "xb") as file:
                now = (await file.stat()).mtime or 0
            await client.remove(probe)
        except asyncssh.SFTPNoSuchFile:  # it was given back meanwhile
            return b"", 0.0
        return words, float(now - (attrs.mtime or 0))

    def _beside(self) -> bytes:
        """Return a name that nothing has."""
        directory = self._path.rpartition(b"/")[0]
        return directory + b"/" + os.fsencode(lock_name(f"wlm-{secrets.token_hex(8)}"))

    async def _take_away(self, client: asyncssh.SFTPClient, words: bytes) -> bool:
        """Remove a lock that says this; False if another was faster."""
        aside = self._beside()
        try:
            await client.rename(self._path, aside)
        except asyncssh.SFTPNoSuchFile:
            return True
        async with client.open(aside, "rb") as file:
            is_it = cast("bytes", await file.read(_MOST, 0)) == words
        if not is_it:  # but the lock of whoever has just done the same
            with suppress(asyncssh.SFTPError):
                await client.rename(aside, self._path)
            return False
        await client.remove(aside)
        return True

    async def _remove(self, client: asyncssh.SFTPClient) -> None:
        with suppress(asyncssh.SFTPNoSuchFile):
            await client.remove(self._path)

    async def _renew(self, client: asyncssh.SFTPClient) -> None:  # noqa: ARG002
        begun = time.monotonic()
        await self._file.write(self._words, 0)
        self._renewed_at = begun


def _is_left(words: bytes) -> bool:
    """Tell whether a process of this host has left it behind."""
    if len(found := words.split()) != _WORDS:
        return False
    host, pid, begun, _random = found
    if host != _own()[0] or not pid.isdigit():
        return False
    return begun != _begun(int(pid)) if int(pid) != os.getpid() else words not in _HELD


def _own() -> tuple[bytes, bytes, bytes]:
    """Return what tells this process from all others: host and its processes, pid, its begin."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    host = hashlib.sha256(boot + bytes(Path("/proc/self/ns/pid").readlink())).hexdigest()[:32]
    pid = os.getpid()
    return host.encode(), str(pid).encode(), _begun(pid)


def _begun(pid: int) -> bytes:
    """Return when a process began, in ticks since the boot; nothing if it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return b""
    return b"" if stat[0] in b"ZX" else stat[_BEGUN]
