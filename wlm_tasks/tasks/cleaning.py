"""Removing the directories of experiments that have ended."""

from __future__ import annotations

import logging
from typing import Any, cast

from celery import Task

from wlm_tasks.celery import WlmCelery, app
from wlm_tasks.errors import TransientError, WlmError
from wlm_tasks.model.sites import SILENT
from wlm_tasks.runtime import Runtime
from wlm_tasks.state.cleaning import Removal

_log = logging.getLogger(__name__)
#: The removal after which nothing is tried again, about a day after the first.
LAST_REMOVAL = 12


@app.task(bind=True, shared=False, name="wlm.remove")
def remove(self: Task[Any, Any], experiment_id: str) -> str:
    """Remove an experiment's directory at its site, if the rows still say so."""
    return remove_directory(cast(WlmCelery, self.app).runtime, experiment_id)


def remove_directory(runtime: Runtime, experiment_id: str) -> str:
    """Remove it and note that; what goes wrong is noted, too, and control asks again.

    Returns in a word what was done. Safe to call twice, at the same time, too.
    """
    name = runtime.store.views.experiment(experiment_id).site
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
    workdirs, gone, errors = list(removal.workdirs), [], []
    try:
        site = runtime.site(name)
        # the settings may have named another scratch directory before
        workdirs = sorted({*workdirs, site.workdir(experiment_id)})
    except WlmError as error:
        errors.append(error)
    else:
        for workdir in workdirs:
            try:
                if site.backend.discard(workdir, removal.mark):
                    gone.append(workdir)
            except WlmError as error:
                errors.append(error)
    if gone and gone == workdirs:
        books.removed(removal, workdirs)
        return "removed"
    reason = "; ".join(error.message for error in errors)
    reason = reason or f"site {name} cannot remove directories from here"
    _log.warning("%s: its directory is not removed: %s", experiment_id, reason)
    passing = any(isinstance(error, TransientError) for error in errors)
    if passing and removal.number < LAST_REMOVAL:
        books.failed(removal, reason)
        return "failed"
    books.kept(removal, reason, whole=not gone)
    return "kept"
