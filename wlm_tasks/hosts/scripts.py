"""What scripts on hosts have in common: their first lines, and what their failures mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from wlm_tasks.errors import (
    BackendUnavailableError,
    JobRejectedError,
    NoDirectWayError,
    StepError,
    StorageBusyError,
    StorageMissingError,
)
from wlm_tasks.hosts.shell import Ran

#: exit codes of scripts: a directory outside of that allowed, a missing tool, refused for good,
#: not known yet
OUTSIDE: Final = 65
_MISSING: Final = 66
_REFUSED: Final = 67
_UNDECIDED: Final = 75
#: and of those that move files: another transfer is at it, there is no such file
_BUSY: Final = 73
_ABSENT: Final = 68
#: another host could not be reached from there
UNREACHED: Final = 69
_KINDS: Final[dict[int, type[StepError]]] = {
    _BUSY: StorageBusyError,
    _ABSENT: StorageMissingError,
    UNREACHED: NoDirectWayError,
}
#: what C libraries say of faults that a file system or an operator mends
_PASSING: Final = re.compile(
    "No space left on device|Disk quota exceeded|Input/output error|Stale (NFS )?file handle"
    "|Too many open files|Cannot allocate memory|Resource temporarily unavailable"
    "|Interrupted system call|Connection timed out|Transport endpoint is not connected"
    "|Host is down|No route to host|fork: "
)
#: and of those that trying again does not mend
_LASTING: Final = re.compile(
    "Permission denied|Operation not permitted|Read-only file system|No such file or directory"
    "|Not a directory|Is a directory|File exists|File name too long|File too large"
    "|Too many levels of symbolic links|Invalid cross-device link|Too many links"
    "|Operation not supported|No such device or address|Numerical result out of range"
    "|cannot overwrite"
)

#: in front of a script; messages are English, whatever the user's locale is
PREAMBLE: Final = r"""
export LC_ALL=C
umask 077
need_inside() {  # WORKDIR SCRATCH: by where links lead
  local work root
  work=$(realpath -m -- "$1") && root=$(realpath -m -- "$2") || exit 1
  [[ $work == "${root%/}"/?* ]] || exit 65
}
"""


def failure(ran: Ran, place: str) -> StepError:
    """Return the error of a script that failed: a lasting fault is `JobRejectedError`.

    What is not known for lasting may pass: `BackendUnavailableError`. A script that exits with 66
    or 75 says that it does (something is not there, is not known yet), with 67 that it does not.
    The words are the site's own, the last line of them; `place` is put in front unless they name
    it.
    """
    said = ran.said.splitlines()
    kind: type[StepError] = JobRejectedError if ran.code == _REFUSED else BackendUnavailableError
    told: str | None = None
    if ran.code not in {_MISSING, _REFUSED, _UNDECIDED}:
        told = _last(said, _PASSING)
        if told is None and (told := _last(said, _LASTING)):
            kind = JobRejectedError
    silent = "no word" if ran.code == UNREACHED else f"a script ended with code {ran.code}"
    told = told or (said[-1] if said else silent)
    # what the shell and the tools put in front of a path helps nobody; a kept shell calls what it
    # has of us its environment
    told = re.sub(r"^(wlm|bash|environment): (line \d+: )?", "", told)[:500]
    kind = _KINDS.get(ran.code, kind)
    return kind(told if place in told else f"{place}: {told}")


def _last(lines: Sequence[str], words: re.Pattern[str]) -> str | None:
    return next((line for line in reversed(lines) if words.search(line)), None)
