"""``wlm doctor``: is all set up, and how to mend what is not."""

from __future__ import annotations

from collections.abc import Iterable

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.problems import NOT_SO
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.control.doctor import examine
from wlm_tasks.control.findings import Finding, Level, fail
from wlm_tasks.errors import ConfigError

_STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


@click.command()
@output.output_option(output.TABLE, output.JSON)
@pass_session
def doctor(session: Session, form: str) -> None:
    """Check that all is set up, and say how to mend what is not.

    Nothing is changed. Exit code 1 if a check fails.
    """
    findings: Iterable[Finding]
    try:
        findings = examine(session.settings)
    except ConfigError as error:
        findings = [fail("settings", error.message, "correct it; the line says what was expected")]
    seen: list[Finding] = []
    for finding in findings:
        seen.append(finding)
        if form == output.TABLE:
            _show(finding)
    if form == output.JSON:
        output.show_json(seen)
    else:
        _sum_up(seen)
    if any(finding.level is Level.FAIL for finding in seen):
        raise click.exceptions.Exit(NOT_SO)


def _show(finding: Finding) -> None:
    mark = Text(f"[{finding.level}]".ljust(6), style=_STYLES[finding.level])
    name, text = output.clean(finding.name), output.clean(finding.text)
    output.show(Text.assemble(mark, " ", (name, "bold"), ": ", text))
    if finding.mend is not None:
        output.show(Text.assemble(("       mend: ", "dim"), output.clean(finding.mend)))


def _sum_up(seen: list[Finding]) -> None:
    bad = sum(finding.level is Level.FAIL for finding in seen)
    odd = sum(finding.level is Level.WARN for finding in seen)
    if bad or odd:
        click.echo(f"\n{bad} failed, {odd} warning{'' if odd == 1 else 's'}")
    else:
        click.echo("\nall is well")
