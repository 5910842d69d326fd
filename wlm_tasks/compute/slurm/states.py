"""Slurm's words for how a job stands, and what they mean here.

Names and meanings: the sections "JOB STATE CODES" and "JOB REASON CODES" of squeue(1), up to
Slurm 24. Words that are not in these tables are shown as Slurm has them.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Final

from wlm_tasks.compute.base import JobState

_log = logging.getLogger(__name__)

#: what is still on its way
_LIVE: Final = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "POWER_UP_NODE": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
}
#: what has ended; that a job ended well Slurm alone cannot tell, see `judging`
ENDED: Final = {
    "COMPLETED": JobState.SUCCEEDED,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
    "BOOT_FAIL": JobState.FAILED,
    "DEADLINE": JobState.FAILED,
    "FAILED": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "NODE_FAIL": JobState.FAILED,
    "OUT_OF_MEMORY": JobState.FAILED,
    "PREEMPTED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
    "TIMEOUT": JobState.FAILED,
}
STATES: Final = {**_LIVE, **ENDED}

#: how jobs end that did not end by themselves
_ENDS: Final = {
    "BOOT_FAIL": "its node could not be booted",
    # it says so, too, of jobs that a node could not launch
    "CANCELLED": "cancelled on the site: by scancel, or by Slurm that could not start it",
    "DEADLINE": "deadline: it could not end before its deadline",
    "LAUNCH_FAILED": "it could not be launched on its node",
    "NODE_FAIL": "node failure: a node of the job failed or did not answer",
    "OUT_OF_MEMORY": "out of memory: it used more memory than it had asked for",
    "PREEMPTED": "preempted by a job of higher priority",
    "REVOKED": "revoked: another cluster of the federation took it",
    "TIMEOUT": "walltime: it was stopped at its time limit",
}
#: what a live job is doing besides waiting or running
_MEANWHILE: Final = {
    "COMPLETING": "is ending",
    "CONFIGURING": "its nodes are being made ready",
    "POWER_UP_NODE": "its nodes are being powered up",
    "REQUEUED": "was put back into the queue",
    "REQUEUE_HOLD": "was put back into the queue and is held",
    "RESV_DEL_HOLD": "held: its reservation was deleted",
    "SPECIAL_EXIT": "held after a special exit",
    "STOPPED": "is stopped and keeps its processors",
    "SUSPENDED": "is suspended",
}
#: why a job waits; most limits follow the patterns below
_WAITS: Final = {
    "Resources": "waits for free nodes",
    "Priority": "jobs of higher priority go first",
    "Dependency": "waits for another job",
    "DependencyNeverSatisfied": "can never start: the job it depends on ended otherwise",
    "BeginTime": "its start time has not come",
    "JobHeldUser": "held by its user; scontrol release lets it go",
    "JobHeldAdmin": "held by an administrator",
    "Licenses": "waits for a licence",
    "NodeDown": "a node it needs is down",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes no jobs now",
    "PartitionNodeLimit": "can never start: it asks for more nodes than its partition gives",
    "PartitionTimeLimit": "can never start: its walltime is above its partition's limit",
    "ReqNodeNotAvail": "a node it needs is not available",
    "Reservation": "waits for its reservation",
    "ReservationDeleted": "can never start: its reservation was deleted",
    "Prolog": "its nodes are being made ready",
    "Cleaning": "is being cleaned up to be started again",
    "BadConstraints": "can never start: no node is as it asks for",
    "AccountNotAllowed": "can never start: its partition does not take its account",
    "AccountingPolicy": "a limit of its account is reached",
    "InvalidAccount": "can never start: Slurm does not know its account",
    "InvalidQOS": "can never start: Slurm does not know its qos",
    "QOSNotAllowed": "can never start: its account may not use its qos",
    "JobArrayTaskLimit": "as many tasks of its array run as may",
    "MaxRequeue": "was put back too often",
    "launch failed requeued held": "held: it could not be launched on its node",
    "user env retrieval failed requeued held": "held: the user's environment could not be read",
    "SystemFailure": "a fault of Slurm, its file system or network",
    "FrontEndDown": "no front end is available",
}


@cache
def state_of(native: str) -> JobState:
    """Return what a state of Slurm means; UNKNOWN, with a warning once, if it is not known."""
    found = STATES.get(native)
    if found is None:
        _log.warning("Slurm says a job is %r, which is not known here", native)
    return found or JobState.UNKNOWN


def end_of(native: str, reason: str = "") -> str:
    """Return how a job ended that Slurm says is in this state, for people."""
    told = "" if reason in _SILENT else f" ({reason})"
    return _ENDS.get(native, f"Slurm says {native}") + told


def meanwhile(native: str, reason: str = "") -> str:
    """Return why a job waits or what it does, for people; empty if it plainly runs."""
    if native == "PENDING":
        return _waits(reason)
    return _MEANWHILE.get(native, "")


#: what squeue has where there is no reason
_SILENT: Final = frozenset({"", "None", "(null)", "NonZeroExitCode", "TimeLimit"})


def _waits(reason: str) -> str:
    if reason in _SILENT:
        return "waits for Slurm to look at it"
    # details follow: "ReqNodeNotAvail, UnavailableNodes:wn2"
    word = reason.partition(",")[0].strip()
    said = _WAITS.get(reason) or _WAITS.get(word)
    if said is None and word.startswith(("Assoc", "QOS", "MaxCpu", "MaxMem")):
        said = "a limit of its account or qos is reached"
    return f"{said} ({reason})" if said else reason
