"""Removing the directories of experiments that have ended."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final, cast

from celery import Task

from wlm_tasks.celery import WlmCelery, app
from wlm_tasks.compute.remote import DISCARD_S
from wlm_tasks.errors import JobRejectedError, PermanentError, WlmError
from wlm_tasks.model.sites import SILENT
from wlm_tasks.runtime import Runtime
from wlm_tasks.state.cleaning import Cleaning, Removal

#: seconds that a removal may take beside what it does at the site
_SLACK_S: Final = 60.0
_log = logging.getLogger(__name__)


@app.task(bind=True, shared=False, name="wlm.remove")
def remove(self: Task[Any, Any], experiment_id: str) -> str:
    """Remove an experiment's directory at its site, if the rows still say so."""
    return remove_directory(cast(WlmCelery, self.app).runtime, experiment_id)


def remove_directory(runtime: Runtime, experiment_id: str) -> str:
    """Remove it and note that; what goes wrong is noted, too, and control asks again.

    Returns in a word what was done. Safe to call twice, at the same time, too.
    """
    name = runtime.store.views.experiment(experiment_id).site
    try:
        return _try(runtime, experiment_id, name)
    finally:
        runtime.store.cleaning.over(experiment_id, name)


def _try(runtime: Runtime, experiment_id: str, name: str) -> str:
    if runtime.store.sites.get(name).state in SILENT:
        return "its site is away"
    with runtime.connections.using(name) as crowded:
        if crowded:
            return "its site serves as many of us as it may"
        removal = runtime.store.cleaning.begin(
            experiment_id, slice_s=runtime.settings.steps.slice_s
        )
        return "not to be removed" if removal is None else _remove(runtime, name, removal)


def _remove(runtime: Runtime, name: str, removal: Removal) -> str:
    books, experiment_id = runtime.store.cleaning, removal.experiment_id
    gone: list[str] = []
    errors: list[WlmError] = []
    try:
        site = runtime.site(name)
    except WlmError as error:  # of this worker's settings; another's may be better
        return _not_removed(books, removal, [error], gone)
    # the settings may have named another scratch directory before
    workdirs = sorted({*removal.workdirs, site.workdir(experiment_id)})
    books.goes_on(experiment_id, name, len(workdirs) * DISCARD_S + _SLACK_S)
    for workdir in workdirs:
        try:
            if site.backend.discard(workdir, removal.mark):
                gone.append(workdir)
        except WlmError as error:
            errors.append(error)
    if gone == workdirs:
        books.removed(removal, workdirs)
        return "removed"
    errors = errors or [JobRejectedError(f"site {name} cannot remove directories from here")]
    return _not_removed(books, removal, errors, gone)


def _not_removed(
    books: Cleaning, removal: Removal, errors: Sequence[WlmError], gone: Sequence[str]
) -> str:
    """Note why; it is tried again, for ever if need be, unless all of it is refused for good."""
    reason = "; ".join(error.message for error in errors)
    _log.warning("%s: its directory is not removed: %s", removal.experiment_id, reason)
    if all(isinstance(error, PermanentError) for error in errors):
        # who refuses does so before a directory loses its name
        books.kept(removal, reason, whole=not gone)
        return "kept"
    books.failed(removal, reason)
    return "failed"
