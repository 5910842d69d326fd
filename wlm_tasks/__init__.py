"""wlm_tasks: a distributed workload manager for science gateways on Celery and RabbitMQ."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wlm_tasks.api import Client, schedule_experiment
    from wlm_tasks.config import Settings, load
    from wlm_tasks.errors import (
        ExperimentFailedError,
        InputError,
        ServiceError,
        StateError,
        WlmError,
    )
    from wlm_tasks.handles import ExperimentHandle, JobHandle, Output, SweepHandle
    from wlm_tasks.model.experiment import (
        Cleanup,
        Experiment,
        Priority,
        Resources,
        Retry,
        Stop,
        Transfer,
    )
    from wlm_tasks.model.states import ExperimentState, StepState
    from wlm_tasks.scheduler.plan import Plan

__version__ = "0.1.0.dev0"

#: Public names and where they live; loaded when first used, so that importing the package for
#: its error classes or its model does not import Celery and SQLAlchemy.
_HOMES = {
    "wlm_tasks.api": ("Client", "schedule_experiment"),
    "wlm_tasks.config": ("Settings", "load"),
    "wlm_tasks.errors": (
        "ExperimentFailedError",
        "InputError",
        "ServiceError",
        "StateError",
        "WlmError",
    ),
    "wlm_tasks.handles": ("ExperimentHandle", "JobHandle", "Output", "SweepHandle"),
    "wlm_tasks.model.experiment": (
        "Cleanup",
        "Experiment",
        "Priority",
        "Resources",
        "Retry",
        "Stop",
        "Transfer",
    ),
    "wlm_tasks.model.states": ("ExperimentState", "StepState"),
    "wlm_tasks.scheduler.plan": ("Plan",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Cleanup",
    "Client",
    "Experiment",
    "ExperimentFailedError",
    "ExperimentHandle",
    "ExperimentState",
    "InputError",
    "JobHandle",
    "Output",
    "Plan",
    "Priority",
    "Resources",
    "Retry",
    "ServiceError",
    "Settings",
    "StateError",
    "StepState",
    "Stop",
    "SweepHandle",
    "Transfer",
    "WlmError",
    "load",
    "schedule_experiment",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
