"""Files to and from a host behind SSH: bytes over SFTP, all else by scripts on the host.

A file on its way there is a part of its own below ``.wlm/staging``, so two workers never write the
same. Only once size and SHA-256 are those wanted it is made durable and renamed to its place.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import asyncssh

from wlm_tasks.compute.base import SiteStore
from wlm_tasks.compute.remote import SiteFiles
from wlm_tasks.hosts.faults import translated
from wlm_tasks.hosts.ssh import SshShell, open_channel
from wlm_tasks.errors import BackendUnavailableError, JobRejectedError, StorageRefusedError

#: slowest rate at which a host is expected to read a file, bytes a second
_SLOW: Final = 5e6
_SLACK_S: Final = 120.0
#: faults of files of the worker's own host
_OF_THIS_HOST: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS})

# what is left in `staging` was left by a kill or a broken connection
_BEGIN: Final = r"""
scratch=$1 workdir=$2 path=$3 size=$4 sha256=$5
need_inside "$workdir" "$scratch"
cd -- "$workdir" || exit 1
[ ! -L .wlm ] && [ ! -L .wlm/staging ] || { echo ".wlm: is a symbolic link" >&2; exit 67; }
mkdir -p .wlm/staging || exit 1
find .wlm/staging -maxdepth 1 -type f -mmin +1440 -delete
to_parent "$path"
if [ -f "$name" ] && [ ! -L "$name" ] && [ "$(stat -c %s -- "./$name")" = "$size" ] &&
  [ "$(sha256_of "./$name")" = "$sha256" ]; then
  echo there
  exit
fi
if [ -d "$name" ] && [ ! -L "$name" ]; then
  echo "$workdir/$path: Is a directory" >&2
  exit 1
fi
room=$(df --output=avail -B1 . | tail -n 1)
if ((size > room)); then
  echo "$workdir/$path: No space left on device: $room bytes are free, $size needed" >&2
  exit 1
fi
"""
_FINISH: Final = r"""
scratch=$1 workdir=$2 path=$3 size=$4 sha256=$5 part=$6 mode=$7
need_inside "$workdir" "$scratch"
trap 'rm -f -- "$part"' EXIT
found="$(stat -c %s -- "$part") $(sha256_of "$part")"
if [ "$found" != "$size $sha256" ]; then
  echo "$workdir/$path: arrived as $found, expected $size $sha256" >&2
  exit 75
fi
chmod "$mode" -- "$part" && sync -- "$part" || exit 1
cd -- "$workdir" || exit 1
to_parent "$path"
mv -fT -- "$part" "./$name" && sync -- . || exit 1
"""
_LOCATE: Final = r"""
scratch=$1 workdir=$2 path=$3
need_inside "$workdir" "$scratch"
root=$(realpath -e -- "$workdir") && file=$(realpath -e -- "$workdir/$path") || exit 1
if [[ $file != "${root%/}"/?* ]]; then
  echo "$workdir/$path: a symbolic link leads out of the experiment's directory" >&2
  exit 67
fi
if [ ! -f "$file" ]; then
  echo "$workdir/$path: is no regular file" >&2
  exit 67
fi
"""
_SIZE: Final = r"""
stat -c %s -- "$file" || exit
"""
_DIGEST: Final = r"""
printf '%s %s ' "$(stat -c %s -- "$file")" "$(sha256_of "$file")"
printf %s "$file"
"""
_FUNCTIONS: Final = r"""
sha256_of() {
  local sum
  sum=$(sha256sum < "$1") && printf %s "${sum%% *}"
}
to_parent() {  # PATH: goes to its directory, made if need be and never through a link; sets `name`
  local rest=$1 part
  while [[ $rest == */* ]]; do
    part=${rest%%/*} rest=${rest#*/}
    if [ -L "./$part" ]; then
      echo "$1: $part is a symbolic link, expected a directory" >&2
      exit 67
    fi
    [ -d "./$part" ] || mkdir -- "./$part" || exit 1
    cd -P -- "./$part" || exit 1
  done
  name=$rest
}
"""


class SshStore(SiteStore):
    """The files of one site behind SSH."""

    def __init__(self, shell: SshShell, files: SiteFiles) -> None:
        self._shell = shell
        self._files = files

    def put(self, source: Path, workdir: str, path: str) -> None:
        """Send a file of this host unless the same is there."""
        size, sha256, mode = _identity(source)
        words = [self._files.scratch, workdir, _checked(path), str(size), sha256]
        if self._run(_BEGIN, words, workdir, size).strip() == b"there":
            return
        part = f"{workdir}/.wlm/staging/{secrets.token_hex(8)}"
        self._copy(lambda sftp: sftp.put(os.fsencode(source), os.fsencode(part)), path)
        self._run(_FINISH, [*words, part, f"{mode:o}"], workdir, size)

    def get(self, workdir: str, path: str, target: Path) -> None:
        """Fetch a file unless the same is there; compare it with what the host says it is."""
        words = [self._files.scratch, workdir, _checked(path)]
        size = int(self._run(_LOCATE + _SIZE, words, workdir, 0))
        told = self._run(_LOCATE + _DIGEST, words, workdir, size)
        expected, sha256, file = told.split(b" ", 2)
        wanted = int(expected), sha256.decode()
        if target.exists() and _identity(target)[:2] == wanted:
            return
        self._copy(lambda sftp: sftp.get(file, os.fsencode(target)), path)
        if _identity(target)[:2] != wanted:
            raise BackendUnavailableError(f"{workdir}/{path}: was changed while it was read")

    def _run(self, script: str, words: list[str], workdir: str, size: int) -> bytes:
        self._files.check(workdir)
        timeout_s = _SLACK_S + size / _SLOW
        try:
            return self._files.run(_FUNCTIONS + script, words, about=workdir, timeout_s=timeout_s)
        except JobRejectedError as error:
            raise StorageRefusedError(error.message) from error

    def _copy(self, work: Callable[[asyncssh.SFTPClient], Awaitable[None]], path: str) -> None:
        address = self._shell.address

        async def copy(connection: asyncssh.SSHClientConnection) -> None:
            sftp = await open_channel(connection, connection.start_sftp_client)
            async with sftp:
                with translated(address, f"copying {path}"):
                    try:
                        await work(sftp)
                    except OSError as error:
                        if error.errno not in _OF_THIS_HOST:
                            raise
                        raise BackendUnavailableError(
                            f"copying {path}: on this host: {error.strerror}"
                        ) from error

        self._shell.use(copy)


def _checked(path: str) -> str:
    """Return the path; raises `StorageRefusedError` unless its text stays where it starts."""
    if "\0" in path or any(part in {"", ".", ".."} for part in path.split("/")):
        raise StorageRefusedError(
            f"path: got {path!r}, expected a relative path without '..', '.', '//' or NUL"
        )
    return path


def _identity(file: Path) -> tuple[int, str, int]:
    """Return size, SHA-256 and mode of a file of this host."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise BackendUnavailableError(f"{file}: on this host: {error.strerror}") from error
    return status.st_size, sha256, stat.S_IMODE(status.st_mode) & 0o777 | 0o600
