"""What a dry run shows: the plan of an experiment or of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import click
from rich.table import Table
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.scheduler.plan import Plan

#: members of a sweep that a table shows
_SHOWN: Final = 10


def show_plans(members: Sequence[Mapping[str, Any]], planned: Sequence[Plan], form: str) -> None:
    """Show what would be done; `members` are the parameters of each plan."""
    if form == output.JSON:
        pairs = zip(members, planned, strict=True)
        output.show_json([_plain(params, plan) for params, plan in pairs])
    elif form == output.TABLE:
        first = planned[0]
        output.show(*_head(first.experiment, len(planned)))
        if len(planned) > 1:
            output.show("", _sweep(members))
            click.echo("\nThe first of them:")
        output.show("", _steps(first), "", Text("script", style="bold"))
        click.echo("\n".join(f"  {line}" for line in _script(first)))
        output.show("", *_variables(first.experiment))
        output.show("", *_transfers(first.experiment))
        output.say("A dry run: nothing was written or sent.")


def _plain(params: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    return {
        "params": dict(params),
        "steps": [{"name": str(step.name), "queue": step.queue} for step in plan.steps],
        "script": plan.script,
        "experiment": plan.experiment.model_dump(),
    }


def _head(experiment: Experiment, count: int) -> list[Text]:
    resources = experiment.resources
    cpus = "1 cpu" if resources.cpus == 1 else f"{resources.cpus} cpus"
    parts = [cpus, f"{output.duration(resources.walltime_s)} at most"]
    if resources.memory_mb is not None:
        parts.insert(1, f"{resources.memory_mb} MiB")
    if resources.gpus:
        parts.insert(1, f"{resources.gpus} gpus")
    if resources.disk_mb is not None:
        parts.append(f"{resources.disk_mb} MiB of disk")
    members = f"  {count:,} members" if count > 1 else ""
    return [
        Text.assemble((output.clean(experiment.name), "bold"), members),
        Text(f"site {experiment.site}, priority {output.priority(experiment.priority)}"),
        Text(", ".join(parts) + (", each" if count > 1 else "")),
    ]


def _sweep(members: Sequence[Mapping[str, Any]]) -> Table:
    names = list(members[0])
    params = [output.clean(name) for name in names]
    table = output.new_table("MEMBER", *params, right=("MEMBER",), cut=params)
    for number, member in enumerate(members[:_SHOWN]):
        table.add_row(str(number), *(output.cell(member[name]) for name in names))
    if len(members) > _SHOWN:
        table.add_row("...", f"and {len(members) - _SHOWN:,} more")
    return table


def _steps(plan: Plan) -> Table:
    table = output.new_table("STEP", "QUEUE", "WHAT")
    experiment = plan.experiment
    what = {
        "setup": "make the experiment's directory",
        "stage_in": f"bring {_counted(len(experiment.inputs), 'input')}",
        "submit": f"hand the job to site {experiment.site}",
        "monitor": "the job runs",
        "stage_out": f"take out {_counted(len(experiment.outputs), 'output')}",
    }
    for step in plan.steps:
        table.add_row(str(step.name), step.queue, what[step.name])
    return table


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _script(plan: Plan) -> list[str]:
    return output.clean_lines(plan.script).rstrip("\n").split("\n")


def _variables(experiment: Experiment) -> list[Text | Table]:
    """What the job finds in its environment beside what its site gives every job."""
    table = output.new_table("VARIABLE", "VALUE", cut=("VALUE",))
    for name, value in experiment.variables.items():
        table.add_row(output.cell(name), output.cell(value))
    return [table] if table.row_count else [Text("no environment variables", style="dim")]


def _transfers(experiment: Experiment) -> list[Text | Table]:
    table = output.new_table("", "FROM", "TO", cut=("FROM", "TO"))
    for one in experiment.inputs[:_SHOWN]:
        table.add_row("in", output.cell(one.src), output.cell(one.dest))
    for one in experiment.outputs[:_SHOWN]:
        table.add_row("out", output.cell(one.src), output.cell(one.dest))
    return [table] if table.row_count else [Text("no files to stage", style="dim")]
