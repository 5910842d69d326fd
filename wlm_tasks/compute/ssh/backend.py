"""The site behind SSH without a scheduler: jobs are processes of that host, as on a local site."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from wlm_tasks.compute.attempt import Where, check_token
from wlm_tasks.compute.base import (
    CANCEL_WAIT_S,
    ComputeBackend,
    JobRef,
    JobSpec,
    JobStatus,
    Submitted,
)
from wlm_tasks.compute.job_script import head, stop_signal
from wlm_tasks.compute.remote import SiteFiles, parse
from wlm_tasks.compute.ssh import scripts
from wlm_tasks.compute.ssh.judging import judge, out_of_sight
from wlm_tasks.compute.ssh.store import SshStore
from wlm_tasks.errors import BackendUnavailableError, JobCancelledError, JobRejectedError
from wlm_tasks.hosts.address import address_of
from wlm_tasks.hosts.ssh import SshShell

#: longest waits for another submitter, and for a started job to make its claim, in seconds
LOCK_WAIT_S: Final = 30
CLAIM_WAIT_S: Final = 30
#: what the scripts and the guard need there beside bash and coreutils
_TOOLS: Final = ("flock", "setsid", "timeout")


class SshBackend(ComputeBackend):
    """Runs jobs on the host that ``host`` names, below the directory `scratch` there.

    Jobs are started, judged and ended by the same files and the same guard as on a local site;
    each call is one command on the host, a cancel two. There are no bells: ends are seen by polls.
    """

    def __init__(
        self,
        *,
        name: str,
        scratch: str,
        options: Mapping[str, object],
        bells: str | None = None,  # noqa: ARG002 - they are on the worker's host
    ) -> None:
        self.name = name
        self._address = address_of(name, options)
        self._shell = SshShell(self._address)
        self._files = SiteFiles(self._shell, scratch)

    def prepare(
        self,
        workdir: str,
        token: str | None = None,
        *,
        disk_mb: int | None = None,
        mark: int | None = None,
    ) -> None:
        """Make both directories, check that that of the experiment takes files and hard links."""
        self._files.prepare(workdir, _TOOLS, token=token, disk_mb=disk_mb, mark=mark)

    def discard(self, workdir: str, mark: int | None = None) -> bool:
        """Remove the directory and what is in it."""
        return self._files.discard(workdir, mark)

    def submit(self, spec: JobSpec) -> Submitted:
        """Start the job unless its claim is there; return once its claim is there."""
        ref = spec.ref
        self._files.check(ref.workdir)
        check_token(ref.token)
        if spec.resources.nodes > 1:
            raise JobRejectedError(
                f"resources.nodes: got {spec.resources.nodes}, expected 1 on a site without"
                " a scheduler"
            )
        own = head(spec, bells=None)
        waits = [str(LOCK_WAIT_S), str(CLAIM_WAIT_S)]
        out = self._files.run(
            scripts.SUBMIT,
            [*self._of(ref), ref.token, *waits, f"{spec.script}\n", own],
            about=ref.attempt_dir,
            timeout_s=LOCK_WAIT_S + CLAIM_WAIT_S + 30.0,
        )
        seen = parse(out, [ref.token])
        markers = seen.of[ref.token]
        claim = markers.claim(seen.place)
        if markers.cancelled:
            raise JobCancelledError(f"job {ref.token} was cancelled before it started")
        if claim is None:
            raise BackendUnavailableError(f"{ref.attempt_dir}: {markers.trouble or 'no claim'}")
        return Submitted(native_id=claim.native_id)

    def status(self, refs: Sequence[JobRef]) -> dict[str, JobStatus]:
        """Judge by the files; look at all processes at most twice, and only if one seems lost."""
        if not refs:
            return {}
        hints = [_pid_and_start(ref.native_id) for ref in refs]
        return judge(refs, self._files.look(scripts.STATUS, refs, [str(len(refs)), *hints]))

    def find(self, ref: JobRef) -> str | None:
        """Return the native id from the claim."""
        seen = self._files.markers([ref])
        claim = seen.of[ref.token].claim(seen.place)
        if claim is None or claim.seen_from(seen.place) is Where.NOWHERE:
            return None
        return claim.native_id

    def cancel(self, ref: JobRef, *, wait_s: float = CANCEL_WAIT_S) -> bool:
        """Take the claim, or go on with ending the job's processes until none is left.

        False while something still lives, or if the job runs in another living container or on
        another host of a shared file system.
        """
        self._files.check(ref.workdir)
        check_token(ref.token)
        wait = max(1, math.ceil(wait_s))
        out = self._files.run(
            scripts.MARK, [*self._of(ref), str(wait)], about=ref.attempt_dir, timeout_s=wait + 30.0
        )
        seen = parse(out, [ref.token])
        markers, place = seen.of[ref.token], seen.place
        claim = markers.claim(place)
        leader = begun = None
        if claim is not None:
            where = claim.seen_from(place)
            if out_of_sight(claim, where, seen.more[ref.token]) is not False:
                return markers.exit is not None
            leader = (claim.pid, claim.start) if where is Where.HERE else None
            begun = claim.epoch if claim.pid else None
        return self._stop(ref, leader or (0, 0), begun, wait_s)

    def _stop(
        self, ref: JobRef, leader: tuple[int, int], begun: float | None, wait_s: float
    ) -> bool:
        try:
            number = stop_signal(ref.stop_signal)
        except JobRejectedError:
            number = stop_signal("TERM")
        hundredths = [round(100 * max(0.0, span)) for span in (ref.stop_grace_s, wait_s)]
        words = [ref.attempt_dir, ref.token, *leader, number.value, *hundredths, begun or "null"]
        out = self._files.run(
            scripts.STOP,
            [str(word) for word in words],
            about=ref.attempt_dir,
            timeout_s=2 * wait_s + 30.0,
        )
        return out.strip() == b"ended"

    def tail(self, ref: JobRef, stream: str, lines: int) -> str:
        """Return the last lines, of at most 256 KiB; bytes not UTF-8 become U+FFFD."""
        return self._files.tail(ref, stream, lines)

    def url(self, path: str) -> str:
        """Return the path as an ``sftp://`` URL."""
        return self._address.url(path)

    @property
    def files(self) -> SshStore:
        """Files go there and back over the same connection."""
        return SshStore(self._shell, self._files)

    def close(self) -> None:
        """End the connection. Using the backend afterwards opens one again."""
        self._shell.close()

    def _of(self, ref: JobRef) -> list[str]:
        return [self._files.scratch, ref.workdir, ref.attempt_dir]


def _pid_and_start(native_id: str | None) -> str:
    """Return what of a native id the host can look for, zeros if there is none."""
    numbers = (native_id or "").split(":")[2:]
    return " ".join(numbers) if len(numbers) == 2 and all(map(str.isdecimal, numbers)) else "0 0"  # noqa: PLR2004
