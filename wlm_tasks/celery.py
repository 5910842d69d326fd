"""The Celery app. ``celery -A wlm_tasks worker -Q jobsub`` finds it here."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from typing import Any, Final

from celery import Celery
from celery.app.defaults import SETTING_KEYS
from celery.loaders.app import AppLoader

from wlm_tasks.config import Settings, load
from wlm_tasks.errors import ConfigError
from wlm_tasks.model.steps import ALL_QUEUES
from wlm_tasks.runtime import Runtime

#: Modules with tasks, by name: they import this module, so it cannot import them.
TASK_MODULES: Final = (
    "wlm_tasks.tasks.steps",
    "wlm_tasks.tasks.watching",
    "wlm_tasks.tasks.cleaning",
    "wlm_tasks.tasks.schedule",
)

#: Seconds between looks at the in-memory broker, which cannot wake its reader.
MEMORY_POLL_S: Final = 0.02


class CheckingLoader(AppLoader):
    """Refuses a celeryconfig module that is not ours, or that has a setting Celery ignores."""

    def config_from_object(self, obj: Any, silent: bool = False) -> None:
        """Load the module; raises `ConfigError` for a foreign or misspelt one."""
        try:
            super().config_from_object(obj, silent)
        except ImportError as error:
            raise ConfigError(
                f"WLM_CELERYCONFIG: got {str(obj)!r}, expected a module with Celery's settings: "
                f"{error}"
            ) from error
        check_celeryconfig(str(obj), self.conf)


def check_celeryconfig(source: str, conf: Any) -> None:
    """Raise `ConfigError` unless the module declares our queues and only known settings."""
    settings = {name: value for name, value in dict(conf).items() if not name.startswith("_")}
    queues = {getattr(queue, "name", None) for queue in settings.get("task_queues") or ()}
    missing = sorted(set(ALL_QUEUES) - queues)
    if missing:
        raise ConfigError(
            f"{source}: task_queues lacks {', '.join(missing)}; is it another project's "
            "celeryconfig.py? Set WLM_CELERYCONFIG to the name of the right module"
        )
    unknown = sorted(
        name
        for name, value in settings.items()
        if name not in SETTING_KEYS and not _is_machinery(value)
    )
    if unknown:
        raise ConfigError(f"{source}: {unknown[0]}: not a setting Celery knows")


def _is_machinery(value: Any) -> bool:
    return callable(value) or type(value).__name__ in {"module", "_Feature"}


class WlmCelery(Celery):
    """Celery with this package's settings and, per process, its runtime."""

    _settings: Settings | None = None
    _runtime: Runtime | None = None
    _runtime_lock = threading.Lock()

    @property
    def settings(self) -> Settings:
        """The settings: those given to `use`, or else as `wlm_tasks.config.load` finds them."""
        if self._settings is None:
            self._settings = load()
        return self._settings

    def use(self, settings: Settings) -> None:
        """Take these settings instead of looking for a file; before anything else is done."""
        self._settings = settings
        self._runtime = None
        self.conf.update(broker_url=broker_url(settings))
        if settings.embedded:
            self.conf.update(broker_transport_options={"polling_interval": MEMORY_POLL_S})

    def connection_for_read(self, url: str | None = None, **kwargs: Any) -> Any:
        """Connect to the broker of our settings, whatever CELERY_BROKER_URL says.

        That variable may be meant for another app of the same process or shell.
        """
        return super().connection_for_read(url or broker_url(self.settings), **kwargs)

    def connection_for_write(self, url: str | None = None, **kwargs: Any) -> Any:
        """Connect to the broker as `connection_for_read` does."""
        return super().connection_for_write(url or broker_url(self.settings), **kwargs)

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        """The class of this app's workers."""
        name: Any = "wlm_tasks.tasks.worker:Worker"  # imported only where a worker is started
        return self.subclass_with_self(name)

    @property
    def runtime(self) -> Runtime:
        """Store and sites of this process; a forked child gets its own."""
        with self._runtime_lock:
            if self._runtime is None or self._runtime.pid != os.getpid():
                self._runtime = Runtime(self.settings)
            return self._runtime


def broker_url(settings: Settings) -> str:
    """The broker, or the in-process one when none is configured."""
    return "memory://wlm" if settings.broker_url is None else settings.broker_url.reveal()


def make_app(settings: Settings | None = None) -> WlmCelery:
    """A new app; with `settings` it does not look for a file."""
    made = WlmCelery("wlm_tasks", loader=CheckingLoader, include=TASK_MODULES, set_as_current=False)
    made.config_from_object(os.environ.get("WLM_CELERYCONFIG") or "celeryconfig")
    if settings is not None:
        made.use(settings)
    else:
        made.add_defaults(lambda: {"broker_url": broker_url(made.settings)})  # when first needed
    return made


app: Final = make_app()

# `celery -A wlm_tasks flower` would listen on every address; its options and file win over this.
os.environ.setdefault("FLOWER_ADDRESS", "127.0.0.1")
