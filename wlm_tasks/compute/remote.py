"""A site's directories seen through any `Shell`: made, read and judged with one script a call.

What is here knows nothing of networks or schedulers. The scripts need bash 4.4, coreutils and
util-linux, and write one line for each fact; what follows from the facts is decided by whoever
asked. See `wlm_tasks.compute.attempt` for the files of an attempt.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from wlm_tasks.compute.attempt import Claim, ExitRecord, check_token
from wlm_tasks.compute.base import JobRef
from wlm_tasks.compute.processes import Place
from wlm_tasks.errors import BackendUnavailableError, JobRejectedError
from wlm_tasks.hosts.scripts import OUTSIDE, PREAMBLE, failure
from wlm_tasks.hosts.shell import Shell

#: most that `SiteFiles.tail` reads of a file, in bytes
TAIL_BYTES: Final = 256 * 1024
#: longest that the removal of a directory may take, in seconds; the next try goes on with the rest
DISCARD_S: Final = 300.0
#: what the scripts need on the site's host beside bash and coreutils
TOOLS: Final = ("flock", "setsid")
#: functions in front of every script; messages are English, whatever the user's locale is
LIBRARY: Final = (
    PREAMBLE
    + r"""
need() {  # TOOL...
  local tool
  if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
    echo "bash $BASH_VERSION, expected 4.4 or later" >&2
    exit 66
  fi
  for tool; do
    hash "$tool" 2> /dev/null || { echo "$tool: not found" >&2; exit 66; }
  done
}
place() {  # one line that says where pids mean something: host, boot, machine, pid namespace
  local host boot machine=
  read -r host < /proc/sys/kernel/hostname
  read -r boot < /proc/sys/kernel/random/boot_id
  [ -r /etc/machine-id ] && read -r machine < /etc/machine-id
  machine=${machine//[^0-9A-Za-z_-]/}
  namespace=$(readlink "/proc/$$/ns/pid")
  namespace=${namespace//[^0-9]/}  # not local: scripts use it
  printf 'place %s %s %s %s\n' "${host//[^A-Za-z0-9._-]/}" "$boot" "$namespace" "$machine"
}
read_mark() {  # WORKDIR: the mark of its set-up in `made`, 0 if it has none
  made=
  [ ! -f "$1/.wlm/setup" ] || read -r -n 20 made < "$1/.wlm/setup"
  if [[ $made =~ ^[0-9]{1,18}$ ]]; then made=$((10#$made)); else made=0; fi
}
lock_names() {  # SCRATCH: until file 9 is closed; NFS locks no directories
  local lock=$1/.wlm-lock-$UID
  # others may write to scratch: neither a link nor a FIFO nor a file of theirs is opened
  if [ -L "$lock" ] || { [ -e "$lock" ] && { [ ! -f "$lock" ] || [ ! -O "$lock" ]; }; }; then
    printf '%s: is no file of ours\n' "$lock" >&2
    exit 75
  fi
  exec 9>> "$lock" || exit 75
  flock -w 60 9 || { printf '%s: a removal or a set-up is at work\n' "$1" >&2; exit 75; }
}
marker() {  # INDEX WORD FILE: its first line in `line`, and on a line of the output
  line=
  if [ ! -e "$3" ]; then
    [ ! -L "$3" ] || printf '%s trouble %s: is a symbolic link\n' "$1" "$2"
    return
  fi
  if [ ! -f "$3" ]; then
    printf '%s trouble %s: is no regular file\n' "$1" "$2"
  elif IFS= read -r -n 4096 line < "$3"; [ -n "$line" ] || [ ! -s "$3" ]; then
    printf '%s %s %s\n' "$1" "$2" "$line"
  else
    printf '%s trouble %s: %s\n' "$1" "$2" "$( { : < "$3"; } 2>&1 | tr '\n' ' ')"
  fi
} 2> /dev/null
markers() {  # INDEX ATTEMPT: `claimed` is the claim's text, `over` that of the exit record
  claimed= over=
  if [ -d "$2" ] && [ -x "$2" ]; then
    printf '%s directory\n' "$1"
  elif [ -e "$2" ] || [ -L "$2" ]; then
    printf '%s trouble %s\n' "$1" "$( { cd -- "$2"; } 2>&1 | tr '\n' ' ')"
    return
  else
    return
  fi
  if [ -e "$2/cancelled" ] || [ -L "$2/cancelled" ]; then printf '%s cancelled\n' "$1"; fi
  marker "$1" started "$2/started"
  claimed=$line
  marker "$1" exit "$2/exit.json"  # last: it is there before anything of the job is gone
  over=$line
}
"""
)
_PREPARE: Final = r"""
workdir=$1 scratch=$2 probe=$3 attempt=$4 needed=$5 mark=$6
shift 6
need realpath ln "$@"
need_inside "$workdir" "$scratch"
# before the first set-up there is no removal
[ "${mark:-1}" -le 1 ] || { mkdir -p -- "$scratch" && lock_names "$scratch"; } || exit
mkdir -p -- "$workdir" && chmod 700 -- "$workdir" || exit
if [ -n "$mark" ]; then
  mkdir -p -- "$workdir/.wlm" || exit
  if ((mark <= 1)); then  # unless it was set up since: this is not locked
    (set -C && printf '%s\n' "$mark" > "$workdir/.wlm/setup") 2> /dev/null ||
      [ -e "$workdir/.wlm/setup" ] || exit
  elif read_mark "$workdir" && ((made < mark)); then  # else somebody has set it up since
    # by a renaming: a job may have made a link of it
    new=$workdir/.wlm/setup.$$.new
    printf '%s\n' "$mark" > "$new" && mv -fT -- "$new" "$workdir/.wlm/setup" || exit
  fi
fi
exec 9>&-
mkdir -p -- "$attempt" || exit
if [ "$needed" != 0 ]; then
  room=$(df -k --output=avail -- "$workdir") || exit
  room=${room##*[!0-9]}  # nothing where the file system does not tell
  room=$((${room:-needed * 1024} / 1024))
  if [ "$room" -lt "$needed" ]; then
    printf '%s: No space left for it: %s MiB are free, %s needed\n' "$workdir" "$room" "$needed" >&2
    exit 75
  fi
fi
trap 'rm -f -- "$probe" "$probe-link"' EXIT
printf '%4096s' '' > "$probe" && ln -T -- "$probe" "$probe-link" || exit
"""
_DISCARD: Final = r"""
workdir=$1 scratch=$2 mark=$3
need flock
need_inside "$workdir" "$scratch"
# where the whole of it is away nothing is known of the directory
[ -d "$scratch" ] || { printf '%s: is not there\n' "$scratch" >&2; exit 66; }
old=${workdir%/*}/.wlm-removed-${workdir##*/}
# nobody sets it up again between the look at whose it is and the loss of its name: what was held
# up before finds the new mark
[ -z "$mark" ] || lock_names "$scratch"
if [ -e "$workdir" ] || [ -L "$workdir" ]; then
  read_mark "$workdir"
  if [ -n "$mark" ] && ((made > mark)); then
    printf '%s: was set up again meanwhile, or says so\n' "$workdir" >&2
    exit 67
  fi
  mv -T -- "$workdir" "$(mktemp -u -- "$old-XXXXXXXX")" || exit
fi
exec 9>&-
rm -rf -- "$old"-* 2> /dev/null && exit
# a job may have closed directories of its own
find "$old"-* -type d ! -perm -u+rwx -exec chmod u+rwx {} \;
rm -rf -- "$old"-* && exit
exit 75  # whatever it says: what has lost its name is gone on with
"""
_MARKERS: Final = r"""
scratch=$1
shift
cd -- "$scratch" || exit 66
place
index=0
for attempt; do
  markers "$index" "$attempt"
  index=$((index + 1))
done
exit 0
"""
# the payload can put anything there: no link is followed, no FIFO waited for
_TAIL: Final = r"""
file=$1 most=$2
if [ -L "$file" ] || [ ! -f "$file" ]; then
  [ ! -e "$file" ] || [ -r "${file%/*}" ] || cd -- "${file%/*}"
  exit
fi
size=$(stat -c %s -- "$file") || exit
from=$((size > most ? size - most : 0))
exec dd if="$file" iflag=nofollow,nonblock,skip_bytes,count_bytes,fullblock bs=64K \
  skip="$from" count="$most" status=none
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Markers:
    """What the directory of one attempt tells, at one moment."""

    directory: bool = False  #: whether it is there
    cancelled: bool = False
    started: Mapping[str, Any] | None = None  #: the claim as it was written, empty if senseless
    exit: ExitRecord | None = None
    trouble: str = ""  #: what could not be read; then what is missing here proves nothing

    def claim(self, place: Place) -> Claim | None:
        """The claim, None if there is none; `place` is where it was read."""
        return None if self.started is None else Claim.of_json(self.started, place)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """One look at many attempts."""

    place: Place  #: the host that was asked
    of: Mapping[str, Markers]  #: by token
    more: Mapping[str, Sequence[str]]  #: by token, lines that other scripts add


class SiteFiles:
    """The directories of one site, below `scratch` on the host of a shell."""

    def __init__(self, shell: Shell, scratch: str) -> None:
        self.scratch = os.path.normpath(scratch)
        self._shell = shell

    def check(self, workdir: str) -> None:
        """Raise `JobRejectedError` unless the text names a directory below scratch.

        Where links lead is for the script to see: `need_inside` of the `LIBRARY`.
        """
        inside = PurePosixPath(self.scratch) in PurePosixPath(workdir).parents
        if "\0" in workdir or os.path.normpath(workdir) != workdir or not inside:
            raise self._outside(workdir)

    def run(self, script: str, arguments: Sequence[str], *, about: str, **how: Any) -> bytes:
        """Run a script behind the `LIBRARY` and return its output.

        Raises what `failure` makes of it if it does not exit with 0; `about` is the directory.
        """
        ran = self._shell.run(LIBRARY + script, arguments, **how)
        if ran.code == OUTSIDE:
            raise self._outside(about)
        if ran.code:
            raise failure(ran, about)
        return ran.out

    def prepare(
        self,
        workdir: str,
        tools: Sequence[str] = TOOLS,
        *,
        token: str | None = None,
        disk_mb: int | None = None,
        mark: int | None = None,
    ) -> None:
        """Make the directory (mode 0700), check that it takes files and hard links.

        With `token` there is a directory of that job's attempt in it, too.

        Raises `JobRejectedError` if it is not below scratch, by its text or by where links lead,
        or cannot be written, `BackendUnavailableError` for what passes: a missing tool, a full
        disk, less room than `disk_mb` MiB.
        """
        self.check(workdir)
        probe = f"{workdir}/.wlm-probe-{secrets.token_hex(8)}"
        attempt = workdir
        if token is not None:
            check_token(token)
            attempt = JobRef(token=token, workdir=workdir).attempt_dir
        needed, written = str(disk_mb or 0), "" if mark is None else str(mark)
        words = [workdir, self.scratch, probe, attempt, needed, written, *tools]
        self.run(_PREPARE, words, about=workdir)

    def discard(self, workdir: str, mark: int | None = None) -> bool:
        """Remove the directory and what is in it; always True."""
        self.check(workdir)
        words = [workdir, self.scratch, "" if mark is None else str(mark)]
        self.run(_DISCARD, words, about=workdir, timeout_s=DISCARD_S)
        return True

    def markers(self, refs: Sequence[JobRef]) -> Seen:
        """Read the markers of many attempts in one script.

        Raises `BackendUnavailableError` if scratch is away: then nothing is known of any.
        """
        return self.look(_MARKERS, refs)

    def look(self, script: str, refs: Sequence[JobRef], arguments: Sequence[str] = ()) -> Seen:
        """Run a script that prints `place` and `markers` of all attempts, and parse that.

        Its arguments are scratch, `arguments`, and the attempts' directories.
        """
        for ref in refs:
            check_token(ref.token)
        places = [ref.attempt_dir for ref in refs]
        out = self.run(script, [self.scratch, *arguments, *places], about=self.scratch)
        return parse(out, [ref.token for ref in refs])

    def tail(self, ref: JobRef, stream: str, lines: int) -> str:
        """Return the last lines, of at most `TAIL_BYTES` bytes; bytes not UTF-8 become U+FFFD.

        Empty if there is no such file, or no regular one.
        """
        if stream not in {"stdout", "stderr"}:
            raise ValueError(f"stream: got {stream!r}, expected stdout or stderr")
        check_token(ref.token)
        file = f"{ref.attempt_dir}/{stream}"
        text = self.run(_TAIL, [file, str(TAIL_BYTES)], about=file).decode(errors="replace")
        return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    def _outside(self, workdir: str) -> JobRejectedError:
        return JobRejectedError(
            f"workdir: got {workdir!r}, expected a directory below {self.scratch}"
        )


def parse(out: bytes, tokens: Sequence[str]) -> Seen:
    """Return what a script wrote that printed `place` and `markers`.

    Raises `BackendUnavailableError` for what it cannot have written.
    """
    place: Place | None = None
    found: dict[str, dict[str, Any]] = {token: {} for token in tokens}
    more: dict[str, list[str]] = {token: [] for token in tokens}
    for line in out.decode(errors="replace").split("\n"):
        first, _, rest = line.partition(" ")
        word, _, value = rest.partition(" ")
        if first == "place":
            place = _place(rest)
        elif first.isdecimal() and int(first) < len(tokens):
            token = tokens[int(first)]
            if word in _FACTS:
                _FACTS[word](found[token], value)
            else:
                more[token].append(rest)
    if place is None:
        raise BackendUnavailableError("the site's answer has no beginning; was it cut off?")
    of = {token: Markers(**facts) for token, facts in found.items()}
    return Seen(place=place, of=of, more=more)


def _place(text: str) -> Place:
    try:
        host, boot, namespace, machine = text.split(" ")
    except ValueError:
        raise BackendUnavailableError(
            f"the site does not say where it is: {text[:200]!r}"
        ) from None
    return Place(host=host, boot=boot, machine=machine, namespace=namespace)


def _json(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, dict):
            return value
    return {}


def _exit(facts: dict[str, Any], text: str) -> None:
    if data := _json(text):
        facts["exit"] = ExitRecord.of_json(data)


_FACTS: Final[dict[str, Callable[[dict[str, Any], str], None]]] = {
    "directory": lambda facts, _text: facts.update(directory=True),
    "cancelled": lambda facts, _text: facts.update(cancelled=True),
    "started": lambda facts, text: facts.update(started=_json(text)),
    "exit": _exit,
    "trouble": lambda facts, text: facts.update(trouble=text.strip()),
}
