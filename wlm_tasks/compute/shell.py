"""Running a script on a site's host: the one thing that sites with a login node need of a network.

A `Shell` is where a backend's bash runs: on this host (`LocalShell`), or on another one over SSH
(`wlm_tasks.compute.ssh`). What a backend sends is one script with arguments, in one go, so that
a site is asked once for whatever is to be known.

Script and arguments travel on the standard input of a small loader, in front of the script's own.
So they may be longer than a command line, stand in no list of processes, and need no more of the
user's login shell than a word in single quotes. The loader runs a script only if all of it has
come, and writes a mark on both outputs first, so that what the user's start-up files print is told
from what the script does.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wlm_tasks.errors import BackendUnavailableError

#: seconds after which a script that has not ended is given up
RUN_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Ran:
    """How a script ended. Its output is bytes, since files and names may hold any."""

    code: int  #: exit status; minus the signal's number after a signal
    out: bytes
    err: bytes

    @property
    def said(self) -> str:
        """What it wrote on stderr, else on stdout: the site's own words."""
        return (self.err.strip() or self.out.strip()).decode(errors="replace")


class Shell(ABC):
    """Where the scripts of a site run."""

    @abstractmethod
    def run(
        self,
        script: str,
        arguments: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> Ran:
        """Run a bash script with ``$1``, ``$2``, ... and return how it ended, whatever its code.

        Script and arguments arrive whole or nothing is run. `stdin` may end early if a connection
        breaks: a script that keeps it has to look whether it has all. Raises `ValueError` for NUL
        in script or arguments.

        Raises `BackendUnavailableError` or a subclass if it is not known that the script ran to
        its end: the host was not reached, the connection broke, the time was over. Then it may
        have run, or may still run.
        """

    def close(self) -> None:
        """Give back connections. Running something afterwards opens them again."""
        return


@dataclass(frozen=True, slots=True)
class Letter:
    """A script on its way to a bash."""

    command: str  #: for the login shell, whichever it is: sh, csh, fish, ...
    loader: str  #: for ``bash -c``
    stdin: bytes
    mark: bytes

    def answer(self, code: int, out: bytes, err: bytes) -> Ran | None:
        """Return what the script itself wrote; None if the script was not begun."""
        _noise, begun, said = out.partition(self.mark)
        if not begun:
            return None
        return Ran(code, said, err.rpartition(self.mark)[2])


def compose(script: str, arguments: Sequence[str] = (), stdin: bytes = b"") -> Letter:
    """Make the letter of a script; raises `ValueError` for NUL, which bash cannot hold."""
    mark = f"wlm-{secrets.token_hex(8)}-"
    words = " ".join(map(shlex.quote, arguments))
    # the mark at its end tells that nothing is missing
    text = os.fsencode(f"set -- {words}\nunset wlm_script\n{script}\n#{mark}")
    if b"\0" in text:
        raise ValueError("a script or its arguments with NUL")
    # no backslash, single quote or exclamation mark: shells differ in what these mean in quotes
    loader = (
        # bytes, and no process of its own for them: submissions are many
        f"printf %s {mark}; printf %s {mark} >&2; LC_ALL=C read -r -N {len(text)} wlm_script;"
        f' case $wlm_script in *"#{mark}") eval "$wlm_script";;'
        " *) echo it was cut short on its way >&2; exit 75;; esac"
    )
    command = f"exec bash --noprofile --norc -c '{loader}' wlm"
    return Letter(command, loader, text + stdin, mark.encode())


class LocalShell(Shell):
    """Runs scripts on this host."""

    def run(
        self,
        script: str,
        arguments: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> Ran:
        """Run the script in a bash of its own session."""
        letter = compose(script, arguments, stdin)
        words = ["bash", "-c", letter.loader, "wlm"]
        pipe = subprocess.PIPE
        try:
            with subprocess.Popen(
                words, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
            ) as process:
                try:
                    out, err = process.communicate(letter.stdin, timeout_s)
                except BaseException:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    raise
        except subprocess.TimeoutExpired as error:
            raise BackendUnavailableError(
                f"a command on this host did not end within {timeout_s:g} s"
            ) from error
        except OSError as error:
            raise BackendUnavailableError(f"bash: {error.strerror or error}") from error
        ran = letter.answer(process.returncode, out, err)
        if ran is None:
            raise BackendUnavailableError("bash: ended before it began with a command")
        return ran
