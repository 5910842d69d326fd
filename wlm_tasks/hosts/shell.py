"""Running a script on a site's host: the one thing that sites with a login node need of a network.

A `Shell` is where a backend's bash runs: on this host (`LocalShell`), or on another one over SSH
(`wlm_tasks.hosts.ssh`). What a backend sends is one script with arguments, in one go, so that
a site is asked once for whatever is to be known.

Script and arguments travel on the standard input of a small loader, in front of the script's own.
So they may be longer than a command line, stand in no list of processes, and need no more of the
user's login shell than a word in single quotes. The loader runs a script only if all of it has
come, and writes a mark on both outputs first, so that what the user's start-up files print is told
from what the script does.
"""

from __future__ import annotations

import contextlib
import hashlib
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

    code: int  #: exit status; minus the signal's number, or 128 plus it, after a signal
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

        Script and arguments arrive whole or nothing is run. What the script leaves running must
        not hold its outputs: they may be read on for the next script. `stdin` may end early if a
        connection breaks: a script that keeps it has to look whether it has all. Raises
        `ValueError` for NUL in script or arguments.

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

    script: bytes
    arguments: bytes  #: quoted
    stdin: bytes
    word: str  #: random; with it both ends of what the script writes are told

    @property
    def text(self) -> bytes:
        """What a bash of its own runs."""
        return b"set -- %s\nunset wlm_script\n%s\n%s" % (self.arguments, self.script, self._seal)

    def part(self, known: set[str]) -> bytes:
        """Return what a `READER` runs: the script as a function, unless it is among `known`."""
        name = f"wlm_{hashlib.sha256(self.script).hexdigest()[:32]}"
        function = b"" if name in known else b"%s() {\n%s\n}\n" % (name.encode(), self.script)
        known.add(name)
        call = b"unset wlm_script\n(%s %s) < /dev/null\n" % (name.encode(), self.arguments)
        return function + call + self._seal

    def head(self, text: bytes) -> bytes:
        """Return what a `READER` is to read before the text; it answers with `begun`."""
        return f"{len(text)} {self.word}\n".encode()

    @property
    def _seal(self) -> bytes:
        """At the end of a text, it tells that nothing is missing."""
        return f"#wlm-{self.word}-".encode()

    @property
    def loader(self) -> str:
        """For ``bash -c``: reads the text from standard input and runs it."""
        size = f"wlm_size={len(self.text)} wlm_word={self.word};"
        return f'{size} {_RECEIVE} eval "$wlm_script";; {_CUT_SHORT}'

    @property
    def command(self) -> str:
        """For a login shell, whichever it is: sh, csh, fish, ..."""
        return _BASH.format(self.loader)

    @property
    def begun(self) -> bytes:
        """What stands in front of all that the script writes."""
        return f"wlm-{self.word}-".encode()

    @property
    def ended(self) -> bytes:
        """What a `READER` writes behind it, in front of the exit code and a semicolon."""
        return f"wlm-{self.word}+".encode()

    def answer(self, code: int, out: bytes, err: bytes) -> Ran | None:
        """Return what the script itself wrote; None if the script was not begun."""
        _noise, begun, said = out.partition(self.begun)
        if not begun:
            return None
        return Ran(code, said, err.rpartition(self.begun)[2])


# Without backslash, single quote and exclamation mark: shells differ in what these mean in quotes.
# The text is read as bytes, and by no process of its own: submissions are many.
_BASH: Final = "exec bash --noprofile --norc -c '{}' wlm"
_RECEIVE: Final = (
    "printf %s wlm-$wlm_word-; printf %s wlm-$wlm_word- >&2;"
    ' LC_ALL=C read -r -N $wlm_size wlm_script; case $wlm_script in *"#wlm-$wlm_word-")'
)
_CUT_SHORT: Final = "*) echo it was cut short on its way >&2; exit 75;; esac"
#: for a login shell: a bash that runs the scripts of many letters, each in a process of its own
READER: Final = _BASH.format(
    "while read -r wlm_size wlm_word; do"
    f' {_RECEIVE} eval "$wlm_script"; wlm_code=$?; printf %s "wlm-$wlm_word+$wlm_code;";'
    f' printf %s "wlm-$wlm_word+$wlm_code;" >&2;; {_CUT_SHORT}; done'
)


def compose(script: str, arguments: Sequence[str] = (), stdin: bytes = b"") -> Letter:
    """Make the letter of a script; raises `ValueError` for NUL, which bash cannot hold."""
    words = os.fsencode(" ".join(map(shlex.quote, arguments)))
    text = os.fsencode(script)
    if b"\0" in text or b"\0" in words:
        raise ValueError("a script or its arguments with NUL")
    return Letter(text, words, stdin, secrets.token_hex(8))


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
                    out, err = process.communicate(letter.text + letter.stdin, timeout_s)
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
