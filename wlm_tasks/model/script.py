"""The text a job runs."""

from __future__ import annotations

from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.surroundings import around, before


def payload_script(experiment: Experiment, prologue: str | None = None) -> str:
    """Return the bash text of a bound experiment: it ends at the first command that fails.

    `prologue` is its site's, run before everything else.
    """
    lines = before(experiment, prologue, experiment.site)
    return "\n".join(["set -e", *around(lines, experiment.commands, experiment.image), ""])
