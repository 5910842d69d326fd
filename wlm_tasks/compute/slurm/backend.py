"""A Slurm site: jobs that exist once, whatever crashes between ``sbatch`` and our books."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote

from wlm_tasks.compute.attempt import check_token
from wlm_tasks.compute.base import (
    CANCEL_WAIT_S,
    ComputeBackend,
    JobRef,
    JobSpec,
    JobStatus,
    SiteLoad,
    SiteStore,
    Submitted,
)
from wlm_tasks.compute.job_script import head, stop_signal
from wlm_tasks.compute.reaching import reach
from wlm_tasks.compute.remote import LIBRARY, SiteFiles
from wlm_tasks.compute.slurm import arrays, scripts, words
from wlm_tasks.compute.slurm.judging import Traces, count, is_forgotten, judge, live
from wlm_tasks.compute.slurm.listing import (
    Row,
    Rows,
    choose_listed,
    names_of,
    parse_squeue,
    squeue_format,
)
from wlm_tasks.compute.slurm.options import array_options, options
from wlm_tasks.compute.slurm.second_look import Listed, SecondLook
from wlm_tasks.compute.slurm.states import ENDED
from wlm_tasks.errors import (
    BackendUnavailableError,
    JobCancelledError,
    JobRejectedError,
    JobUndecidedError,
    SiteOverloadedError,
    StepError,
    WlmError,
)
from wlm_tasks.hosts.address import address_of
from wlm_tasks.hosts.scripts import failure
from wlm_tasks.hosts.shell import Ran, Shell

#: what is needed on the host beside bash and coreutils
_TOOLS: Final = ("flock", "sbatch", "squeue", "scancel", "scontrol")
#: for the scripts
_ENDED: Final = f"|{'|'.join(ENDED)}|"
#: jobs in one second look: their names are one argument of sacct, and that is bounded (128 KiB)
_AT_ONCE: Final = 1000
#: of so few jobs the files are read too, and not only Slurm's list: somebody waits for their end
_FEW: Final = 16
#: seconds for a script beyond what it is told to wait: a silent controller takes 18 s a command
_PATIENCE_S: Final = 120.0
#: the same for each member of an array; on a slow file system a lock and a few files take this
_EACH_S: Final = 1.0
#: jobs in one array, unless the setting ``array_size`` says otherwise
_ARRAY_SIZE: Final = 100


class SlurmBackend(ComputeBackend):
    """Runs jobs by the Slurm whose commands are on the host of a shell.

    See `wlm_tasks.compute.slurm.scripts` for what is done there, and `docs/reliability.md` for
    what a kill at each point of it leaves behind.
    """

    def __init__(
        self,
        *,
        name: str,
        scratch: str,
        options: Mapping[str, object],
        bells: str | None = None,
        shell: Shell | None = None,
    ) -> None:
        """With the setting ``host`` Slurm's commands are there, else here; tests give a shell."""
        self.name = name
        self._settings = options
        reached = reach(name, scratch, options)
        self._shell = shell or reached.shell
        self._files = SiteFiles(self._shell, scratch)
        self._store = reached.store
        self._load: SiteLoad | None = None
        self._silent: str | None = None
        self._no_arrays = False
        self._address = address_of(name, options) if options.get("host") else None
        # of another host nobody here would hear them
        self._bells = None if self._address else bells

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

    def submit(self, spec: JobSpec) -> Submitted:
        """Hand the job to Slurm unless that was done before, or may have been.

        Raises `JobUndecidedError` as long as it is open whether an earlier call submitted it,
        `JobRejectedError` in Slurm's words only if Slurm certainly refused it.
        """
        ref = spec.ref
        self._files.check(ref.workdir)
        check_token(ref.token)
        own = head(spec, bells=self._bells)
        word = secrets.token_hex(8)
        arguments = [ref.workdir, self._files.scratch, ref.token, word, spec.script, own, _ENDED]
        arguments += [*_array(ref), *options(spec, self._settings)]
        ran = self._run(scripts.SUBMIT, arguments, about=ref.workdir)
        answer, _, detail = _last_line(ran).partition(" ")
        if answer == "known":
            return Submitted(native_id=detail)
        if answer == "cancelled":
            raise JobCancelledError(f"job {ref.token} was cancelled before it started")
        if answer == "over":
            raise JobCancelledError(f"job {ref.token} was given up before it started")
        if answer == "undecided":
            raise JobUndecidedError(
                f"job {ref.token}: Slurm may have taken it, though it does not list it;"
                f" known for certain in {detail} s"
            )
        if answer == "failed" and detail == "sbatch":
            raise self._refused(ran, word, [ref])
        raise self._problem(ran, ref)

    @property
    def batch(self) -> int:
        """As the setting says; 1 once Slurm has shown that it takes no arrays, or none so large."""
        size = self._settings.get("array_size", _ARRAY_SIZE)
        return 1 if self._no_arrays or not isinstance(size, int) else min(size, arrays.MOST)

    def submit_many(self, specs: Sequence[JobSpec]) -> dict[str, Submitted | WlmError]:
        """Hand the jobs to Slurm as one array, and alone those that cannot be in it."""
        result: dict[str, Submitted | WlmError] = {}
        members: list[JobSpec] = []
        texts: list[list[str]] = []
        for spec in specs:
            try:
                texts.append(self._member(spec))
                members.append(spec)
            except JobRejectedError as error:
                result[spec.ref.token] = error
        count = arrays.shorten(sum(map(len, text)) for text in texts)
        if len(members) > 1:
            result |= self._submit_array(members[:count], texts[:count])
        return result | self._submit_each(
            [spec for spec in members if spec.ref.token not in result]
        )

    def _submit_each(self, specs: Sequence[JobSpec]) -> dict[str, Submitted | WlmError]:
        """Submit one after the other, until one shows that the site is not to be had now."""
        result: dict[str, Submitted | WlmError] = {}
        trouble: WlmError | None = None
        for spec in specs:
            try:
                result[spec.ref.token] = trouble or self.submit(spec)
            except WlmError as error:
                result[spec.ref.token] = error
                # that one is looked for says nothing about the others
                undecided = isinstance(error, JobUndecidedError)
                if isinstance(error, BackendUnavailableError) and not undecided:
                    trouble = error
        return result

    def _member(self, spec: JobSpec) -> list[str]:
        """Return what an array's script is to know of one job; raises `JobRejectedError`."""
        ref = spec.ref
        self._files.check(ref.workdir)
        check_token(ref.token)
        text = head(spec, bells=self._bells)
        return [_array(ref)[1], ref.workdir, ref.token, spec.script, text]

    def _submit_array(
        self, specs: Sequence[JobSpec], texts: Sequence[Sequence[str]]
    ) -> dict[str, Submitted | WlmError]:
        """Submit one array; left out of the answer are those to be submitted alone."""
        name, scratch, word = _array(specs[0].ref)[0], self._files.scratch, secrets.token_hex(8)
        check_token(name)
        chosen = array_options(
            name, f"{scratch}/{arrays.DIRECTORY}/{name}", specs[0].resources, self._settings
        )
        arguments = [scratch, name, word, str(len(chosen)), *chosen]
        for text in texts:
            arguments += text
        ran = self._run(arrays.SUBMIT_ARRAY, arguments, about=scratch, wait_s=_EACH_S * len(specs))
        answer = arrays.Answer.of(ran.out.decode(errors="replace"))
        taken = [spec.ref for spec in specs if int(_array(spec.ref)[1]) not in answer.alone]
        end, _, detail = answer.end.partition(" ")
        if end == "known":
            return {ref.token: Submitted(native_id=f"{detail}_{_array(ref)[1]}") for ref in taken}
        if end == "done":
            return {}
        if end != "failed":
            raise self._problem(ran, specs[0].ref)
        error = self._refused(ran, word, taken)
        self._no_arrays = self._no_arrays or words.is_about_arrays(error)
        if self._no_arrays or isinstance(error, SiteOverloadedError):
            return {}  # alone they may be taken, or some of them
        return {ref.token: error for ref in taken}

    def _refused(self, ran: Ran, word: str, refs: Sequence[JobRef]) -> StepError:
        """Return why ``sbatch`` failed; what it certainly did not take is as never intended."""
        error = words.submitting(_said(ran))
        if words.is_certain(error):
            places = [ref.attempt_dir for ref in refs]
            self._run(scripts.WITHDRAW, [word, *places], about=refs[0].attempt_dir)
        return error

    def status(self, refs: Sequence[JobRef]) -> dict[str, JobStatus]:
        """One list of all jobs of the account; the files only of those that it does not settle."""
        if not refs:
            return {}
        listed = self._list()
        self._load, self._silent = count(listed, names_of(refs)), None
        rows = Rows(listed)
        result: dict[str, JobStatus] = {}
        unsettled: list[Listed] = []
        for ref in refs:
            row = choose_listed(rows.of(ref), ref.native_id)
            status = live(row) if row is not None else None
            if status is None or len(refs) <= _FEW:
                unsettled.append((ref, row))
            if status is not None:
                result[ref.token] = status
        for start in range(0, len(unsettled), _AT_ONCE):
            result |= self._look_closer(unsettled[start : start + _AT_ONCE])
        return result

    def load(self) -> SiteLoad:
        """Count the account's jobs in the list of the last poll, or in a new one if it is used up.

        Of an array each task counts. In a new list ours are told by the form of their names.
        """
        load, self._load = self._load, None
        if load is None:
            listed = self._list()
            load = count(listed, {row.name for row in listed if row.name.startswith("wlm-")})
        return load

    def accounting_trouble(self) -> str | None:
        """Return what the last poll found, if it had to ask the accounting."""
        return self._silent

    def discard(self, workdir: str, mark: int | None = None) -> bool:
        """Remove the directory and what is in it."""
        return self._files.discard(workdir, mark)

    def find(self, ref: JobRef) -> str | None:
        """Return the id from the files, else by the name from Slurm."""
        check_token(ref.token)
        arguments = [ref.attempt_dir, ref.token, _ENDED, *_array(ref)]
        ran = self._run(scripts.FIND, arguments, about=ref.attempt_dir)
        answer, _, detail = _last_line(ran).partition(" ")
        if answer == "failed":
            raise words.asking(detail, _said(ran))
        return detail if answer == "known" else None

    def cancel(self, ref: JobRef, *, wait_s: float = CANCEL_WAIT_S) -> bool:
        """Take the claim; if it is taken, signal the job by its name until Slurm lists it no more.

        The job's own signal goes to its guard, which passes it on; after the grace Slurm ends it.
        """
        self._files.check(ref.workdir)
        check_token(ref.token)
        signal = stop_signal(ref.stop_signal).name.removeprefix("SIG")
        grace, wait = math.ceil(ref.stop_grace_s), max(1, math.floor(wait_s))
        arguments = [ref.workdir, self._files.scratch, ref.token, signal, str(grace), str(wait)]
        arguments += [_ENDED, *_array(ref)]
        ran = self._run(scripts.CANCEL, arguments, about=ref.attempt_dir, wait_s=wait_s)
        answer = _last_line(ran)
        if answer in {"over", "lives"}:
            return answer == "over"
        raise self._problem(ran, ref)

    def tail(self, ref: JobRef, stream: str, lines: int) -> str:
        """Return the last lines; bytes that are not UTF-8 become U+FFFD."""
        return self._files.tail(ref, stream, lines)

    def url(self, path: str) -> str:
        """Return the path as a ``file://`` URL, or ``sftp://`` to the site's host."""
        if self._address is None:
            return f"file://{quote(os.fsencode(path))}"
        return self._address.url(path)

    @property
    def files(self) -> SiteStore | None:
        """Files go to the site's host over its connection, if it has one."""
        return self._store

    def close(self) -> None:
        """Give back the connection."""
        self._shell.close()

    def _list(self) -> list[Row]:
        mark = secrets.token_hex(8)
        ran = self._shell.run(
            LIBRARY + scripts.LIST, [mark, squeue_format(mark)], timeout_s=_PATIENCE_S
        )
        if ran.code:
            raise words.asking("squeue", _said(ran))
        return parse_squeue(ran.out.decode(errors="replace"), mark)

    def _look_closer(self, unsettled: Sequence[Listed]) -> dict[str, JobStatus]:
        """Judge by files and accounting, in one script for all."""
        found = self._traces(unsettled)
        buried = [ref for ref, row in unsettled if is_forgotten(ref, row, found[ref.token])]
        if buried:
            # of an array that waited many at once
            places = [ref.attempt_dir for ref in buried]
            self._run(scripts.BURY, places, about=self._files.scratch)
            found |= self._traces([(ref, None) for ref in buried])
        return {ref.token: judge(ref, row, found[ref.token]) for ref, row in unsettled}

    def _traces(self, jobs: Sequence[Listed]) -> dict[str, Traces]:
        look = SecondLook.at(jobs)
        ran = self._run(
            scripts.TRACES, look.arguments(self._files.scratch), about=self._files.scratch
        )
        found = look.parse(ran.out)
        if any(traces.accounts is None for traces in found.values()):
            self._silent = "sacct does not answer: jobs that Slurm no longer lists are not settled"
        return found

    def _run(
        self, script: str, arguments: Sequence[str], *, about: str, wait_s: float = 0.0
    ) -> Ran:
        ran = self._shell.run(LIBRARY + script, arguments, timeout_s=_PATIENCE_S + wait_s)
        if ran.code:
            raise failure(ran, about)
        return ran

    def _problem(self, ran: Ran, ref: JobRef) -> BackendUnavailableError:
        """Return what it means that a script could not do its work."""
        answer, _, detail = _last_line(ran).partition(" ")
        if answer == "failed":
            return words.asking(detail, _said(ran))
        if answer == "busy":
            return BackendUnavailableError(
                f"{ref.attempt_dir}/lock: held by another submit or cancel for 30 s"
            )
        return BackendUnavailableError(f"the site's answer has no end: {answer[:100]!r}")


def _array(ref: JobRef) -> tuple[str, str]:
    """Return name and index of a job's array, as the scripts take them."""
    return ("", "") if ref.array is None else (ref.array.name, str(ref.array.index))


def _said(ran: Ran) -> str:
    return ran.err.decode(errors="replace")


def _last_line(ran: Ran) -> str:
    lines = ran.out.decode(errors="replace").splitlines()
    return lines[-1] if lines else ""
