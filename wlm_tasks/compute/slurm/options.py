"""From what a job asks for and what a site prescribes to the options of ``sbatch``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from wlm_tasks.compute.base import JobSpec
from wlm_tasks.errors import JobRejectedError
from wlm_tasks.model.experiment import Resources

#: settings of a site that are options of the same name
_SETTINGS: Final = ("partition", "account", "qos")


def options(spec: JobSpec, settings: Mapping[str, object]) -> list[str]:
    """Return the options that the job is submitted with.

    They are words of a command, never lines of a script: what a setting holds cannot become
    another option. Raises `JobRejectedError` for more nodes than processor cores.
    """
    token = spec.ref.token
    return [
        *_named(token),
        f"--chdir={spec.ref.workdir}",
        # what the guard cannot write itself; the token has no character that stands for another
        f"--output=.wlm/{token}/slurm.log",
        "--open-mode=append",
        *asked_for(spec.resources, settings),
    ]


def array_options(
    name: str, directory: str, resources: Resources, settings: Mapping[str, object]
) -> list[str]:
    """Return the options of an array but for its indexes; `directory` is its own on the site."""
    return [
        *_named(name),
        f"--chdir={directory}",
        # links to the logs of the members
        "--output=%a.log",
        "--open-mode=append",
        *asked_for(resources, settings),
    ]


def _named(name: str) -> list[str]:
    return [
        # by the name a job is found whose id was lost
        f"--job-name={name}",
        f"--comment={name}",
        # a job runs once: what is put back is another attempt, and that is for us to decide
        "--no-requeue",
    ]


def asked_for(resources: Resources, settings: Mapping[str, object]) -> list[str]:
    """Return the options that jobs of one array have in common."""
    prescribed = (f"--{name}={settings[name]}" for name in _SETTINGS if settings.get(name))
    return [*_resources(resources), *prescribed]


def _resources(asked: Resources) -> list[str]:
    if asked.nodes > 1 and asked.cpus < asked.nodes:
        raise JobRejectedError(
            f"resources.cpus: got {asked.cpus}, expected at least {asked.nodes},"
            " one for each of resources.nodes"
        )
    words = [
        f"--nodes={asked.nodes}",
        f"--ntasks={asked.cpus}",
        # Slurm counts whole minutes; to the second the guard keeps the limit
        f"--time={max(1, math.ceil(asked.walltime_s / 60))}",
    ]
    if asked.memory_mb is not None:
        # of all nodes together here, of each of them there
        words.append(f"--mem={math.ceil(asked.memory_mb / asked.nodes)}M")
    if asked.gpus:
        words.append(f"--gpus={asked.gpus}")
    return words
