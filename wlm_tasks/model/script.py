"""The text a job runs."""

from __future__ import annotations

from wlm_tasks.model.experiment import Experiment


def payload_script(experiment: Experiment) -> str:
    """Return the bash text of a bound experiment: it ends at the first command that fails."""
    return "\n".join(["set -e", *experiment.environment, *experiment.commands, ""])
