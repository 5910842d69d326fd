"""``wlm repair``: what needs a person, and how the person settles it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.options import find
from wlm_tasks.cli.problems import NOT_SO, report
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.config.settings import own_user
from wlm_tasks.control import repair as work
from wlm_tasks.control.broker import look as look_at_queues
from wlm_tasks.errors import IllegalTransitionError, InputError, NotFoundError, ServiceError
from wlm_tasks.model.checks import problem
from wlm_tasks.model.sites import SiteState
from wlm_tasks.model.steps import STEP_QUEUES
from wlm_tasks.scheduler.chain import send
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.repair import Case, Kind
from wlm_tasks.state.site_rows import Busy

#: Seconds for which a site may not know about a job, or confirm its end, before a person looks.
_LONG_S: Final = 600.0
_ADVICE: Final = {
    Kind.UNDECIDED: "wlm repair {id} --look, or --adopt NATIVE_ID, or --absent",
    Kind.UNKNOWN: "wlm repair {id} --look, or --adopt NATIVE_ID, or --absent",
    Kind.ORPHAN: "wlm repair {id} --look, or --absent",
}
_STANDS: Final = {
    Kind.UNDECIDED: "undecided",
    Kind.UNKNOWN: "unknown there",
    Kind.ORPHAN: "not confirmed as gone",
}
_GIVE_UP: Final = {
    Kind.UNDECIDED: "hand in a new job instead of",
    Kind.UNKNOWN: "take for lost",
    Kind.ORPHAN: "take for gone",
}

_NATIVE_ID: Final = re.compile(r"[^\s\x00-\x1f\x7f]{1,255}")
_EXAMPLES: Final = """\b
Examples:
  wlm repair
  wlm repair exp-i4kdymljph --look
  wlm repair exp-i4kdymljph --adopt 4711
"""


@click.command(epilog=_EXAMPLES)
@click.argument("experiment_id", metavar="[ID]", required=False)
@click.option("--look", is_flag=True, help="Ask the site again, and write down what it says.")
@click.option("--adopt", metavar="NATIVE_ID", help="The job is there under this id: watch it.")
@click.option("--absent", is_flag=True, help="There is no such job: a new one may be handed in.")
@click.option("--yes", is_flag=True, help="With --absent: do not ask.")
@output.output_option()
@pass_session
def repair(
    session: Session,
    experiment_id: str | None,
    *,
    look: bool,
    adopt: str | None,
    absent: bool,
    yes: bool,
    form: str,
) -> None:
    """List what needs a person; with an ID, settle it.

    Listed are submissions of which it is not known whether the site took them, jobs that their
    site has not known about for long, or has not confirmed as gone, sites that need new
    credentials, and messages that are missing in queues. Exit code 1 if there is any.
    """
    ways = [look, adopt is not None, absent]
    if experiment_id is None:
        if any(ways):
            raise click.UsageError("--look, --adopt and --absent: expected an ID")
        _list(session, form)
        return
    if sum(ways) != 1:
        raise click.UsageError("expected one of --look, --adopt and --absent")
    [whole] = find([experiment_id], session)
    if not whole.startswith("exp-"):
        raise NotFoundError(f"{whole}: is a sweep, expected an experiment")
    case = session.store.repair.case(whole)
    if look:
        _look(session, case)
    elif adopt is not None:
        _check_native_id(adopt)
        work.adopt(session.client.runtime, case, adopt, own_user())
        click.echo(f"{whole}  job {case.token} is watched as {output.clean(adopt)}")
    else:
        _absent(session, case, sure=yes)
    session.client.wake()


def _check_native_id(text: str) -> None:
    if not _NATIVE_ID.fullmatch(text):
        raise InputError(problem("--adopt", text, "1 to 255 characters without blanks"))


def _look(session: Session, case: Case) -> None:
    answer, ready = work.look(session.client.runtime, case, own_user())
    _send(session, ready)
    click.echo(f"{case.experiment_id}  site {case.site} {output.clean(answer.text)}")
    if not answer.knows_it and not answer.gone:
        output.say(
            "one empty answer proves nothing: ask again in a minute, and look at the site itself"
            " before you say --absent"
        )
        raise click.exceptions.Exit(NOT_SO)


def _absent(session: Session, case: Case, *, sure: bool) -> None:
    """Bar the job at its site first: what came late would run beside its successor."""
    answer = work.ask(session.client.runtime, case)
    if answer.knows_it:
        raise IllegalTransitionError(
            f"{case.experiment_id}: job {case.token} is not absent, site {case.site} {answer.text};"
            f" settle it by: wlm repair {case.experiment_id} --look"
        )
    if not sure:
        click.confirm(f"{case.experiment_id}: {_GIVE_UP[case.kind]} {case.token}?", abort=True)
    doubt = work.bar(session.client.runtime, case)
    if doubt is None:
        output.say(f"site {case.site} confirms that nothing of job {case.token} will run")
    else:
        output.say(
            f"site {case.site} does not confirm that nothing of job {case.token} will run: {doubt};"
            " if it exists after all, its payload may run twice"
        )
        if not sure:
            click.confirm("Go on all the same?", abort=True)
    _send(session, work.absent(session.client.runtime, case, own_user()))
    click.echo(f"{case.experiment_id}  job {case.token} is taken for absent")


def _send(session: Session, ready: Sequence[NextStep]) -> None:
    """Send what may go on; the sweeper does if this cannot."""
    if ready and not session.settings.embedded:
        try:
            send(session.client.app, ready)
        except ServiceError as error:
            report(error)


def _list(session: Session, form: str) -> None:
    runtime = session.client.runtime
    cases = session.store.repair.cases(_LONG_S)
    found = [_described(case, work.ask(runtime, case).text) for case in cases]
    sites, queues = _sites(session), _queues(session)
    if form == output.JSON:
        output.show_json({"jobs": found, "sites": sites, "queues": queues})
    elif form == output.IDS:
        output.show_ids(dict.fromkeys(case.experiment_id for case in cases))
    else:
        _show(found, sites, queues, session.store.views.now())
    if found or sites or queues:
        raise click.exceptions.Exit(NOT_SO)


def _described(case: Case, answer: str) -> dict[str, Any]:
    return {
        "id": case.experiment_id,
        "kind": case.kind,
        "job": case.token,
        "site": case.site,
        "native_id": case.native_id,
        "since_at": case.since,
        "reason": case.reason,
        "site_says": answer,
        "mend": _ADVICE[case.kind].format(id=case.experiment_id),
    }


def _sites(session: Session) -> list[dict[str, Any]]:
    busy = session.store.sites.busy()
    return [
        {
            "site": name,
            "state": str(row.state),
            "since_at": row.since,
            "reason": row.reason,
            "held": busy.get(name, Busy()).held,
            "mend": f"mend it, then: wlm site resume {name}",
        }
        for name, row in sorted(session.store.sites.all().items())
        if row.state is SiteState.AUTH_NEEDED
    ]


def _queues(session: Session) -> list[dict[str, Any]]:
    if session.settings.embedded:
        return []
    try:
        looks = look_at_queues(session.client.app, STEP_QUEUES)
    except ServiceError as error:
        report(error)
        return []
    missing = work.compare_queues(session.client.runtime, {one.name: one.messages for one in looks})
    return [
        {"queue": name, "missing": count, "mend": "control sends them again; is it alive?"}
        for name, count in missing.items()
    ]


def _show(
    jobs: list[dict[str, Any]],
    sites: list[dict[str, Any]],
    queues: list[dict[str, Any]],
    now: float,
) -> None:
    for one in jobs:
        text = f"job {one['job']} at site {one['site']} is {_STANDS[one['kind']]}"
        _show_one(one["id"], f"{text}, {output.ago(one['since_at'], now)}", one)
    for one in sites:
        since = output.ago(one["since_at"], now)
        text = f"is {one['state']}, {since}; {one['held']} steps wait for it"
        _show_one(f"site {one['site']}", text, one)
    for one in queues:
        _show_one(f"queue {one['queue']}", f"{one['missing']} messages are missing", one)
    if not jobs and not sites and not queues:
        click.echo("nothing needs a person")


def _show_one(name: str, text: str, one: dict[str, Any]) -> None:
    output.show(Text.assemble((name, "bold"), "  ", output.clean(text)))
    if one.get("reason"):
        output.show(Text(f"  {output.clean(one['reason'])}"))
    if one.get("site_says"):
        output.show(Text(f"  the site {output.clean(one['site_says'])}"))
    output.show(Text.assemble(("  mend: ", "dim"), one["mend"]))
