"""Settings of our own: `load` reads them, `Settings` holds them, an unknown key is an error."""

from wlm_tasks.config.alerts import AlertSettings
from wlm_tasks.config.fleet import WatchSettings, WorkerSettings
from wlm_tasks.config.loading import load
from wlm_tasks.config.secret import Secret
from wlm_tasks.config.serf import SerfSettings
from wlm_tasks.config.settings import (
    ControlSettings,
    PlacementSettings,
    Settings,
    SiteSettings,
    StagingSettings,
    StepSettings,
    StorageSettings,
)

__all__ = [
    "AlertSettings",
    "ControlSettings",
    "PlacementSettings",
    "Secret",
    "SerfSettings",
    "Settings",
    "SiteSettings",
    "StagingSettings",
    "StepSettings",
    "StorageSettings",
    "WatchSettings",
    "WorkerSettings",
    "load",
]
