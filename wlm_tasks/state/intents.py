"""What is written down before a job is submitted, and how the job is called."""

from __future__ import annotations

from dataclasses import dataclass

from wlm_tasks.model.arrays import InArray


@dataclass(frozen=True, kw_only=True)
class Intent:
    """The leave to submit one job."""

    token: str
    workdir: str  #: as written down with the token; the site's settings may have changed since
    first: bool  #: nobody can have submitted it before this claim
    array: InArray | None = None  #: as written down; whether it was submitted so is open


@dataclass(frozen=True)
class Held:
    """The site takes no more jobs for now."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class FirstJob:
    """Where an experiment's first job goes: to a site without limits, so that no one is counted."""

    site: str
    workdir: str


def job_token(experiment_id: str, number: int) -> str:
    """The name of an experiment's job of this number, on every site and in every listing."""
    return f"wlm-{experiment_id.partition('-')[2]}-{number}"


def first_intent(experiment_id: str, job: FirstJob) -> Intent:
    """The intent of an experiment's first job."""
    return Intent(token=job_token(experiment_id, 1), workdir=job.workdir, first=True)


def parameters(experiment_id: str, job: FirstJob) -> dict[str, str]:
    """As parameters of statements."""
    return {
        "b_token": job_token(experiment_id, 1),
        "b_site": job.site,
        "b_workdir": job.workdir,
    }
