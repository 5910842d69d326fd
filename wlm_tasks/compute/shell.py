"""Running a script on a site's host: the one thing that sites with a login node need of a network.

A `Shell` is where a backend's bash runs: on this host (`LocalShell`), or on another one over SSH
(`wlm_tasks.compute.ssh`). What a backend sends is one script with arguments, in one go, so that
a site is asked once for whatever is to be known.
"""

from __future__ import annotations

import os
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

        Raises `BackendUnavailableError` or a subclass if it is not known that the script ran to
        its end: the host was not reached, the connection broke, the time was over. Then it may
        have run, or may still run.
        """

    def close(self) -> None:
        """Give back connections. Running something afterwards opens them again."""
        return


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
        words = ["bash", "-c", script, "wlm", *arguments]
        try:
            done = subprocess.run(
                [os.fsencode(word) for word in words],
                input=stdin,
                capture_output=True,
                timeout=timeout_s,
                start_new_session=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise BackendUnavailableError(
                f"a command on this host did not end within {timeout_s:g} s"
            ) from error
        except OSError as error:
            raise BackendUnavailableError(f"bash: {error.strerror or error}") from error
        return Ran(done.returncode, done.stdout, done.stderr)
