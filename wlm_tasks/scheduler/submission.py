"""From what a user hands in to rows: check, bind, plan, store. Used by the API and by messages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from wlm_tasks.compute.base import ComputeBackend
from wlm_tasks.config import SiteSettings
from wlm_tasks.errors import (
    ConfigError,
    InvalidExperimentError,
    InvalidParametersError,
    InvalidPathError,
)
from wlm_tasks.model import checks
from wlm_tasks.model.checks import problem, show
from wlm_tasks.model.experiment import Experiment, check_key, fingerprint
from wlm_tasks.model.params import bind, bind_many, expand_sweep
from wlm_tasks.model.paths import is_directory, repeated, resolve_paths
from wlm_tasks.plugins import storage_backend
from wlm_tasks.runtime import Runtime
from wlm_tasks.scheduler.plan import Plan, plan
from wlm_tasks.state.intake import NewExperiment, NewSweep, new_id
from wlm_tasks.storage.base import StorageBackend

#: a sweep has far fewer members; beyond it the database has no such number
_MAX_ACTIVE: Final = checks.optional(checks.whole(1, 1_000_000))

SweepMode = Literal["product", "zip"]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What is handed in: an experiment and how to run it."""

    experiment: Experiment
    params: Mapping[str, Any] | None = None
    sweep: Mapping[str, Sequence[Any]] | None = None
    sweep_mode: SweepMode = "product"
    max_active: int | None = None
    key: str | None = None
    base: Path | None = None  #: local paths start at this directory; default: the current one
    bound: bool = False  #: the experiment comes from the database, its parameters filled in


def plans(runtime: Runtime, submission: Submission) -> tuple[list[dict[str, Any]], list[Plan]]:
    """Check everything and return the parameters and the plan of each member.

    Raises `InputError` subclasses; nothing has been written or sent then.
    """
    _check_options(submission)
    experiment = resolve_paths(
        submission.experiment, Path.cwd() if submission.base is None else submission.base
    )
    site = runtime.site(experiment.site)
    params = dict(submission.params or {})
    if submission.bound:
        members, bound = [params], [experiment]
    elif submission.sweep is None:
        members, bound = [params], [bind(experiment, params)]
    else:
        swept = expand_sweep(submission.sweep, submission.sweep_mode)
        both = sorted(params.keys() & submission.sweep.keys())
        if both:
            raise InvalidParametersError(
                problem(f"params.{both[0]}", params[both[0]], "a parameter that is not swept, too")
            )
        members = [{**params, **member} for member in swept]
        bound = bind_many(experiment, members)
    _check_places(bound, site.backend)
    return members, [plan(one, site.settings.prologue) for one in bound]


def _check_options(submission: Submission) -> None:
    """What stands beside the experiment; from a message it may be anything."""
    if submission.key is not None:
        check_key(submission.key)
    for name in ("params", "sweep"):
        value = getattr(submission, name)
        if value is not None and not isinstance(value, Mapping):
            raise InvalidParametersError(problem(name, value, "a table of parameters"))
    try:
        _MAX_ACTIVE(submission.max_active)
    except ValueError as error:
        text = problem("max_active", submission.max_active, str(error))
        raise InvalidParametersError(text) from None
    if submission.sweep_mode not in get_args(SweepMode):
        raise InvalidParametersError(
            problem("sweep_mode", submission.sweep_mode, "'product' or 'zip'")
        )


def _check_places(bound: Sequence[Experiment], backend: ComputeBackend) -> None:
    """Every URL must be one that its storage or the site can serve, no two outputs in one place.

    Staging would refuse the same, but that of outputs after the job has run.
    """
    storages: dict[str, StorageBackend] = {}
    checked: set[tuple[str, bool]] = set()
    for one in bound:
        if backend.carries_files:
            backend.check_transfers(one.inputs, one.outputs)
        else:
            _check_urls(one, storages, checked)
        _check_outputs_differ(one)


def _check_urls(
    experiment: Experiment, storages: dict[str, StorageBackend], checked: set[tuple[str, bool]]
) -> None:
    for field, url, is_tree in _places(experiment):
        if (url, is_tree) in checked:
            continue
        checked.add((url, is_tree))
        scheme = url.partition(":")[0]
        try:
            if scheme not in storages:
                storages[scheme] = storage_backend(url)
            storages[scheme].check(_of_a_file(url, scheme))
            if is_tree:
                storages[scheme].check_tree(url)
        except InvalidPathError as error:
            raise InvalidPathError(f"{field}: {error.message}") from None
        except ConfigError as error:
            raise ConfigError(f"{field}: {error.message}") from None


def _of_a_file(url: str, scheme: str) -> str:
    """Return the URL, or for a directory that of a file in it."""
    if not is_directory(url):
        return url
    path, query, _rest = url.partition("?")
    if query and scheme in {"http", "https"}:
        got = show(f"{path}?...")
        raise InvalidPathError(f"URL: got {got}, expected one without a query for a directory")
    return f"{url}x"


def _places(experiment: Experiment) -> Iterator[tuple[str, str, bool]]:
    """The fields that name a place outside the site, what they name, and whether to list it."""
    for index, transfer in enumerate(experiment.inputs):
        yield f"inputs[{index}].src", transfer.src, is_directory(transfer.dest)
    for index, transfer in enumerate(experiment.outputs):
        yield f"outputs[{index}].dest", transfer.dest, False


def _check_outputs_differ(experiment: Experiment) -> None:
    """Two spellings of one place are told apart only while local paths are not absolute."""
    for first, later in repeated(output.dest for output in experiment.outputs):
        expected = f"a place that outputs[{first}] does not have already"
        raise InvalidExperimentError(
            problem(f"outputs[{later}].dest", experiment.outputs[later].dest, expected)
        )


def store_one(runtime: Runtime, submission: Submission, *, sent: bool) -> tuple[str, bool, Plan]:
    """Store an experiment; returns its id, whether it is new, and its plan."""
    [params], [planned] = plans(runtime, submission)
    site = runtime.site(planned.experiment.site).settings
    new = _new(planned, params, site, key=submission.key)
    stored = runtime.store.intake.add(new, sent=sent)
    return stored, stored == new.id, planned


def store_sweep(runtime: Runtime, submission: Submission) -> tuple[str, bool]:
    """Store a sweep and its members; returns its id and whether it is new."""
    members, planned = plans(runtime, submission)
    site = runtime.site(submission.experiment.site).settings
    news = [_new(one, params, site) for one, params in zip(planned, members, strict=True)]
    digest = hashlib.sha256("".join(new.fingerprint for new in news).encode()).hexdigest()
    sweep = NewSweep(
        id=new_id("swp"),
        name=submission.experiment.name,
        fingerprint=digest,
        size=len(news),
        key=submission.key,
        max_active=submission.max_active,
        stop_on_failure=submission.experiment.stop.sweep_on_failure,
    )
    stored = runtime.store.intake.add_sweep(sweep, news)
    return stored, stored == sweep.id


def _new(
    planned: Plan, params: Mapping[str, Any], site: SiteSettings, key: str | None = None
) -> NewExperiment:
    experiment = planned.experiment
    return NewExperiment(
        id=new_id("exp"),
        name=experiment.name,
        site=experiment.site,
        priority=experiment.priority,
        spec=experiment.to_json(),
        fingerprint=fingerprint(experiment),
        steps=planned.steps,
        key=key,
        owner=experiment.owner,
        project=experiment.project,
        params=dict(params),
        labels=dict(experiment.labels),
        cleanup=experiment.cleanup or site.default_cleanup,
    )
