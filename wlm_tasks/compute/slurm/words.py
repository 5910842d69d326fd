"""What Slurm's commands say when they fail, and what that means.

Only what certainly was refused is a refusal. Everything else leaves open whether a job exists:
an ``sbatch`` that timed out has as a rule submitted one.
"""

from __future__ import annotations

import re
from typing import Final

from wlm_tasks.errors import (
    BackendUnavailableError,
    JobRejectedError,
    JobUndecidedError,
    SiteMaintenanceError,
    SiteOverloadedError,
    SiteUnreachableError,
    StepError,
)

#: nothing more of a message than this is passed on, in characters
_LIMIT: Final = 500

#: the job does not exist and the same would be refused again; slurm_errno.h and sbatch's own
_REFUSED: Final = re.compile(
    r"Invalid (partition name|account|account or|qos|job array|node name|job credential|generic"
    r"|reservation|feature|cluster|wckey|trackable|dependency|nodes|numeric|--|time|directory)"
    r"|Requested (node configuration|partition configuration|time limit|operation not|reservation)"
    r"|Node count specification invalid|More processors requested than permitted"
    r"|Memory specification can not be satisfied|Memory required by task is not available"
    r"|Job violates accounting/QOS policy|Job size|Job dependency problem"
    r"|(Access/permission|User's group not permitted|Group not permitted|not permitted to use)"
    r"|Access denied|Access/permission denied|Permission denied|account.* not permitted"
    r"|Unrecognized|unrecognized option|invalid option|Batch script is empty|Pathname of a file"
    r"|Job script too large|script contains|Required (node not available|account)"
    r"|Job rejected|User id invalid|Invalid user"
    r"|CPU binding|Specified .* not (found|valid|available)",
    re.IGNORECASE,
)
#: the job does not exist, and later it may be taken; to be looked at before refusals
_LATER: Final[tuple[tuple[re.Pattern[str], type[StepError]], ...]] = (
    (
        re.compile(
            r"MaxSubmit|GrpSubmit|SubmitJobsLimit|temporarily unable to accept job"
            r"|Resource temporarily unavailable|job submit limit reached|Too many jobs"
            r"|Rate limit exceeded",
            re.IGNORECASE,
        ),
        SiteOverloadedError,
    ),
    (
        re.compile(r"Required partition not available|Reservation is in maintenance|drained"),
        SiteMaintenanceError,
    ),
)
#: nobody answered, or not to us
_SILENT: Final = re.compile(
    r"Unable to contact slurm controller|connect failure|Connection (refused|timed out|reset)"
    r"|Socket timed out|Zero Bytes were transmitted|Unexpected message received"
    r"|munge|authentication|standby mode|configuration source|fetch_config|slurm\.conf"
    r"|Unable to (resolve|establish)|Communication connection|Transport endpoint"
    r"|Incompatible versions|Insane message|accounting_storage|slurmdbd|persist",
    re.IGNORECASE,
)
#: the connection itself may have carried the job over
_UNDECIDED: Final = re.compile(
    r"timed out|Zero Bytes|Unexpected message|\breset\b|Transport endpoint|Insane message",
    re.IGNORECASE,
)


def said(text: str) -> str:
    """Return Slurm's own words on one line, without the names of its commands."""
    lines = [
        re.sub(r"^\w+: ((error|fatal|warning): )?", "", line.strip())
        for line in text.splitlines()
        if line.strip() and not re.match(r"\w+: (debug|verbose|info)", line)
    ]
    return "; ".join(dict.fromkeys(lines))[:_LIMIT] or "it did not say why"


def submitting(text: str) -> StepError:
    """Return what it means that ``sbatch`` failed with this text."""
    words = said(text)
    # first, whatever else it says: the last of several tries may have got through
    if _UNDECIDED.search(words):
        return JobUndecidedError(f"Slurm did not say whether it took the job: {words}")
    for pattern, kind in _LATER:
        if pattern.search(words):
            return kind(f"Slurm takes no job now: {words}")
    if _SILENT.search(words):
        return SiteUnreachableError(f"Slurm does not answer: {words}")
    if _REFUSED.search(words):
        return JobRejectedError(f"Slurm refused the job: {words}")
    return JobUndecidedError(f"whether Slurm took the job is not known: {words}")


def asking(command: str, text: str) -> BackendUnavailableError:
    """Return what it means that a command that only asks failed with this text."""
    words = said(text)
    if _SILENT.search(words):
        return SiteUnreachableError(f"Slurm does not answer: {words}")
    return BackendUnavailableError(f"{command}: {words}")


def is_certain(error: StepError) -> bool:
    """Whether this answer to ``sbatch`` leaves no doubt that there is no job of it."""
    return isinstance(error, JobRejectedError | SiteOverloadedError | SiteMaintenanceError)


def is_about_arrays(error: StepError) -> bool:
    """Whether Slurm takes no arrays, or not with so many tasks, and may take the jobs alone."""
    return isinstance(error, JobRejectedError) and "job array" in error.message
