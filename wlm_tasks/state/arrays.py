"""Members of a sweep that are handed to their site together: one transaction claims them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, select, update

from wlm_tasks.model.arrays import InArray, array_name
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.claims import try_claim
from wlm_tasks.state.database import Database
from wlm_tasks.state.holders import Claim, Holder
from wlm_tasks.state.intents import Held, Intent
from wlm_tasks.state.jobs import intend
from wlm_tasks.state.politeness import HAS_JOB, SUBMIT_QUEUE, SiteLimits
from wlm_tasks.state.schema import IS_READY, OF_SWEEP, experiments, jobs, steps
from wlm_tasks.state.sites import closed_sites


@dataclass(frozen=True, kw_only=True)
class Company:
    """Who may be submitted together with a claimed step."""

    site: str
    workdir: Callable[[str], str]  #: of an experiment
    limits: SiteLimits
    most: int  #: in all, the claimed one included
    alike: Callable[[str], bool]  #: whether this experiment, as JSON, asks for the same resources


@dataclass(frozen=True, kw_only=True)
class Member:
    """One step with the leave to submit its job."""

    claim: Claim
    intent: Intent


class Arrays:
    """Intents of many jobs at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def sweep_of(self, experiment_id: str) -> str | None:
        """The sweep that an experiment is a member of."""
        with self._database.read() as connection:
            return _sweep_of(connection, experiment_id)

    def intend(self, claim: Claim, holder: Holder, company: Company) -> list[Member] | Held:
        """Commit the intent of a claimed submit and of others that wait with it.

        Others are members of the same sweep whose submit is ready at the same site and that have
        no job; each is claimed by `holder` as by a message of its own, with the same limits. With
        any of them all get a place in one array. The first member is the claim's own. Raises
        `FencedError` if the claim is no longer held; if the limits leave no room for it, its step
        is held.
        """
        with self._database.write() as connection:
            own = _intend(connection, claim, company)
            if isinstance(own, Held):
                return own
            members = [Member(claim=claim, intent=own)]
            if own.first and not claim.crashes:
                name = array_name()
                members += _others(connection, claim, holder, company, name)
            if len(members) > 1:
                place = InArray(name, 0)
                connection.execute(
                    update(jobs)
                    .where(jobs.c.token == own.token)
                    .values(array_name=place.name, array_index=place.index)
                )
                members[0] = Member(claim=claim, intent=replace(own, array=place))
            return members


def _others(
    connection: Connection, claim: Claim, holder: Holder, company: Company, name: str
) -> list[Member]:
    sweep_id = _sweep_of(connection, claim.experiment_id)
    # who tries out whether a trouble is over does so alone
    if sweep_id is None or company.site in closed_sites(connection):
        return []
    members: list[Member] = []
    waiting = connection.execute(_waiting(claim, sweep_id, company)).all()
    for row in [row for row in waiting if company.alike(row.spec)]:
        taken = try_claim(connection, row.experiment_id, StepName.SUBMIT, holder)
        if taken is None:
            break  # something more urgent waits
        place = InArray(name, len(members) + 1)
        intent = _intend(connection, taken, company, place)
        if isinstance(intent, Held):
            break
        members.append(Member(claim=taken, intent=intent))
    return members


def _waiting(claim: Claim, sweep_id: str, company: Company) -> Any:
    """The other members that wait, in the order in which they would be sent."""
    return (
        select(steps.c.experiment_id, experiments.c.spec)
        .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
        .where(
            IS_READY,
            steps.c.queue == SUBMIT_QUEUE,
            steps.c.crashes == 0,
            steps.c.experiment_id != claim.experiment_id,
            OF_SWEEP,
            experiments.c.sweep_id == sweep_id,
            experiments.c.site == company.site,
            ~HAS_JOB,
        )
        .order_by(steps.c.priority.desc(), experiments.c.member)
        .limit(company.most - 1)
        .with_for_update(of=steps, skip_locked=True)
    )


def _intend(
    connection: Connection, claim: Claim, company: Company, place: InArray | None = None
) -> Intent | Held:
    return intend(
        connection,
        claim,
        site=company.site,
        workdir=company.workdir(claim.experiment_id),
        limits=company.limits,
        array=place,
    )


def _sweep_of(connection: Connection, experiment_id: str) -> str | None:
    return connection.execute(
        select(experiments.c.sweep_id).where(experiments.c.id == experiment_id)
    ).scalar_one_or_none()
