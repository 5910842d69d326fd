"""The Python interface: `schedule_experiment` and the client behind it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from wlm_tasks.celery import WlmCelery, make_app
from wlm_tasks.config import Settings
from wlm_tasks.errors import ServiceError
from wlm_tasks.handles import ExperimentHandle, SweepHandle
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.runtime import Runtime
from wlm_tasks.scheduler.chain import hang_up, send
from wlm_tasks.scheduler.plan import Plan
from wlm_tasks.scheduler.submission import Submission, SweepMode, plans, store_one, store_sweep
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.store import Store
from wlm_tasks.state.views import ExperimentView, Filter

_log = logging.getLogger(__name__)


class Client:
    """A connection to one workload manager: its database and its broker.

    Without settings they are found as `wlm_tasks.config.load` says. Without a broker the
    experiments are carried out by `wlm up`, which may be started before or after.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._app: WlmCelery = make_app(settings)
        self._has_tables = not self._app.settings.embedded

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._app.settings

    @property
    def app(self) -> WlmCelery:
        """The Celery app that sends."""
        return self._app

    @property
    def runtime(self) -> Runtime:
        """Store and sites."""
        return self._app.runtime

    @property
    def store(self) -> Store:
        """The rows; the tables of an embedded system are made when they are first needed."""
        return self._prepared().store

    def schedule(
        self,
        experiment: Experiment,
        *,
        params: Mapping[str, Any] | None = None,
        key: str | None = None,
        base: Path | None = None,
        bound: bool = False,
    ) -> ExperimentHandle:
        """Hand in one experiment; returns its handle once it is stored.

        `bound` is for an experiment whose parameters are filled in already. The same `key`
        again returns the experiment stored before. Raises `InputError` subclasses for bad input
        and `ServiceError` if the database is out of reach; a broker out of reach delays the
        experiment and loses nothing.
        """
        submission = Submission(
            experiment=experiment, params=params, key=key, base=base, bound=bound
        )
        direct = not self.settings.embedded
        experiment_id, new, planned = store_one(self._prepared(), submission, sent=direct)
        if new and direct:
            self._send(NextStep(experiment_id, planned.segments[0], planned.experiment.priority))
        self.wake()
        return ExperimentHandle(self, experiment_id)

    def schedule_sweep(
        self,
        experiment: Experiment,
        sweep: Mapping[str, Sequence[Any]],
        *,
        mode: SweepMode = "product",
        params: Mapping[str, Any] | None = None,
        max_active: int | None = None,
        key: str | None = None,
        base: Path | None = None,
    ) -> SweepHandle:
        """Hand in one experiment per combination of the swept parameters, all or none.

        `mode` "zip" pairs the values instead of crossing them; at most `max_active` members
        are under way at a time. Errors as for `schedule`.
        """
        submission = Submission(
            experiment=experiment,
            params=params,
            sweep=sweep,
            sweep_mode=mode,
            max_active=max_active,
            key=key,
            base=base,
        )
        sweep_id, _new = store_sweep(self._prepared(), submission)
        self.wake()
        return SweepHandle(self, sweep_id)

    def plan(self, submission: Submission) -> list[Plan]:
        """What would be done; checks everything, writes and sends nothing."""
        return plans(self.runtime, submission)[1]

    def get(self, prefix: str) -> ExperimentHandle | SweepHandle:
        """The handle of the experiment or sweep whose id begins so; `NotFoundError` if none."""
        found = self.store.views.find(prefix)
        kind = SweepHandle if found.startswith("swp-") else ExperimentHandle
        return kind(self, found)

    def list(self, wanted: Filter | None = None) -> list[ExperimentView]:
        """Experiments, the newest first."""
        return self.store.views.list(wanted or Filter())

    def wake(self) -> None:
        """Tell control processes on this host that there is something to do."""
        self.runtime.wake()

    def _prepared(self) -> Runtime:
        """The runtime, once its tables are there."""
        if not self._has_tables:
            database = self.runtime.store.database
            if database.revision() is None:
                database.upgrade()
            self._has_tables = True
        return self.runtime

    def _send(self, step: NextStep) -> None:
        try:
            send(self._app, [step])
        except ServiceError as error:
            # It is stored, so it is accepted; control sends it once the broker is back.
            _log.warning("%s: accepted, sent later: %s", step.experiment_id, error)

    def close(self) -> None:
        """Close the connections."""
        self.runtime.close()
        hang_up(self._app)
        self._app.close()


@cache
def default_client() -> Client:
    """The client of this process, made from the settings found at its first use."""
    return Client()


def schedule_experiment(
    experiment: Experiment,
    *,
    params: Mapping[str, Any] | None = None,
    sweep: Mapping[str, Sequence[Any]] | None = None,
    sweep_mode: SweepMode = "product",
    max_active: int | None = None,
    key: str | None = None,
    dry_run: bool = False,
    client: Client | None = None,
) -> Any:
    """Hand in an experiment, or with `sweep` one per combination of the swept parameters.

    Returns an `ExperimentHandle`, a `SweepHandle` with `sweep`, and with `dry_run` the plans
    (a list of `Plan`; nothing is written or sent). The same `key` again returns what was
    handed in before. Raises `InputError` subclasses for bad input, before anything is written,
    and `ServiceError` if the database is out of reach.
    """
    client = client or default_client()
    if dry_run:
        return client.plan(
            Submission(
                experiment=experiment,
                params=params,
                sweep=sweep,
                sweep_mode=sweep_mode,
                max_active=max_active,
                key=key,
            )
        )
    if sweep is None:
        return client.schedule(experiment, params=params, key=key)
    return client.schedule_sweep(
        experiment, sweep, mode=sweep_mode, params=params, max_active=max_active, key=key
    )
