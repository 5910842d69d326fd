"""The settings as frozen dataclasses; each section checks itself, however it is made."""

from __future__ import annotations

import dataclasses
import os
import pwd
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from wlm_tasks.config import checks as own
from wlm_tasks.config.alerts import AlertSettings
from wlm_tasks.config.fields import (
    check_section,
    read_flag,
    read_list,
    read_number,
    rule,
)
from wlm_tasks.config.fleet import WatchSettings, WorkerSettings
from wlm_tasks.config.secret import Secret
from wlm_tasks.config.serf import SerfSettings
from wlm_tasks.errors import ConfigError
from wlm_tasks.model import checks
from wlm_tasks.model.checks import problem
from wlm_tasks.model.cleanup import Cleanup, CleanupPolicy, check_days, check_policy

_DAY: Final = 86_400.0
_SECONDS: Final = rule(checks.seconds(_DAY), read_number)
_SECONDS_FROM_0: Final = rule(checks.seconds(_DAY, zero=True), read_number)


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How steps are claimed and worked on. Times are seconds."""

    #: how long a claim holds without a sign of life
    lease_s: float = field(default=60.0, metadata=_SECONDS)
    #: the longest one task may run before it saves its progress and is sent again
    slice_s: float = field(default=600.0, metadata=_SECONDS)
    #: attempts after which a step that kills its worker is given up
    poison_after: int = field(default=3, metadata=rule(checks.whole(1, 100), read_number))
    #: whether a worker that serves the next queue too goes on with the same experiment
    carry_on: bool = field(default=True, metadata=rule(checks.flag, read_flag))
    #: most steps that a slot claims together if they take a moment only; 1: each by itself
    batch: int = field(default=32, metadata=rule(checks.whole(1, 100), read_number))
    #: how often a claim is renewed while its holder works
    heartbeat_s: float = field(default=5.0, metadata=_SECONDS)
    #: how long a submission is looked for of which it is not known whether the site took it
    undecided_s: float = field(default=900.0, metadata=_SECONDS)

    def __post_init__(self) -> None:
        """Check each field and that a claim outlives two signs of life."""
        check_section(self, "steps")
        if self.heartbeat_s >= self.lease_s / 2:
            _refuse("steps.heartbeat_s", self.heartbeat_s, "steps.lease_s", self.lease_s / 2)


@dataclass(frozen=True, kw_only=True)
class ControlSettings:
    """The pace of the control process. Times are seconds."""

    #: between looks at the rows
    tick_s: float = field(default=1.0, metadata=_SECONDS)
    #: between sweeps
    sweep_s: float = field(default=2.0, metadata=_SECONDS)
    #: how long a duty is held
    lease_s: float = field(default=15.0, metadata=_SECONDS)
    #: how long ago a message must have been sent before the sweeper may find it missing
    grace_s: float = field(default=5.0, metadata=_SECONDS_FROM_0)

    def __post_init__(self) -> None:
        """Check each field and that a duty outlives two ticks."""
        check_section(self, "control")
        if self.tick_s >= self.lease_s / 2:
            _refuse("control.tick_s", self.tick_s, "control.lease_s", self.lease_s / 2)


@dataclass(frozen=True, kw_only=True)
class StagingSettings:
    """How files are moved."""

    #: upper bound of the rate of one transfer, bytes a second; None for as fast as it goes
    bytes_per_s: float | None = field(
        default=None, metadata=rule(checks.optional(own.rate), read_number)
    )

    def __post_init__(self) -> None:
        """Check each field."""
        check_section(self, "staging")


@dataclass(frozen=True, kw_only=True)
class PlacementSettings:
    """How work finds its worker."""

    mode: str = field(default="pull", metadata=rule(own.one_of("pull")))

    def __post_init__(self) -> None:
        """Check each field."""
        check_section(self, "placement")


@dataclass(frozen=True, kw_only=True)
class SiteSettings:
    """One place that runs jobs."""

    name: str
    #: which backend serves it
    kind: str = field(metadata=rule(own.kind))
    #: absolute directory for the experiments' directories; may contain ``{user}``
    scratch: str = field(metadata=rule(own.scratch))
    #: most jobs at a time; None for no limit of ours
    max_running: int | None = field(
        default=None, metadata=rule(checks.optional(checks.whole(1, 1_000_000)), read_number)
    )
    #: most jobs of the account that wait in its queue; None for no limit of ours
    max_queued: int | None = field(
        default=None, metadata=rule(checks.optional(checks.whole(1, 1_000_000)), read_number)
    )
    #: most submits a second, of all workers together; None for no limit of ours
    submit_per_s: float | None = field(
        default=None, metadata=rule(checks.optional(own.per_second), read_number)
    )
    #: most processes that are connected with it at a time; None for no limit of ours
    max_connections: int | None = field(
        default=None, metadata=rule(checks.optional(checks.whole(1, 1_000_000)), read_number)
    )
    #: inputs kept on the site for the next experiments that need them, in MiB; None for none
    cache_mb: int | None = field(
        default=None, metadata=rule(checks.optional(checks.whole(1, 1_000_000_000)), read_number)
    )
    #: whether experiments get hard links to them, which nobody may write to, and no copies
    cache_link: bool = field(default=False, metadata=rule(checks.flag, read_flag))
    #: between looks at its jobs while they change
    poll_s: float = field(default=1.0, metadata=_SECONDS)
    #: the same while nothing changes, at last
    poll_max_s: float = field(default=30.0, metadata=_SECONDS)
    #: before it is tried again when it is in trouble, at first; people get longer to mend it
    probe_s: float = field(default=10.0, metadata=_SECONDS)
    #: the same at last
    probe_max_s: float = field(default=600.0, metadata=_SECONDS)
    #: lines of bash, run before everything else of every job
    prologue: str | None = field(default=None, metadata=rule(checks.optional(own.prologue)))
    #: what becomes of directories of experiments that do not say
    cleanup: CleanupPolicy = field(default=CleanupPolicy.KEEP, metadata=rule(check_policy))
    #: days between the end of such an experiment and the removal of its directory
    cleanup_after_days: float = field(default=0.0, metadata=rule(check_days, read_number))
    #: storages on hosts that the site's host logs in to by itself: files go there directly
    direct_to: tuple[str, ...] = field(default=(), metadata=rule(own.names, read_list))
    #: what only this kind of site needs, such as host and user
    options: Mapping[str, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check each field."""
        check_section(self, f"sites.{self.name}")
        for key, value in self.options.items():
            own.check_option(f"sites.{self.name}.{key}", self.kind, key, value)
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @property
    def default_cleanup(self) -> Cleanup:
        """What becomes of directories of experiments that do not say."""
        return Cleanup(str(self.cleanup), self.cleanup_after_days)

    @property
    def directory(self) -> str:
        """The scratch directory with ``{user}`` filled in: the site's user, or ours."""
        if "{user}" not in self.scratch:
            return self.scratch
        user = self.options.get("user")
        return self.scratch.replace("{user}", str(user) if user else own_user())


@dataclass(frozen=True, kw_only=True)
class StorageSettings:
    """How to get in where files are kept: what holds for all URLs that begin with `url`."""

    name: str
    #: scheme, host and as much of the path as is meant, such as ``sftp://lab.example.org/data/``
    url: str = field(metadata=rule(own.storage_url))
    #: most transfers to and from it at a time, of all workers together; None for no limit
    max_transfers: int | None = field(
        default=None, metadata=rule(checks.optional(checks.whole(1, 1_000_000)), read_number)
    )
    #: upper bound of the rate of all of them together, bytes a second; None for no limit
    bytes_per_s: float | None = field(
        default=None, metadata=rule(checks.optional(own.rate), read_number)
    )
    #: sites on hosts that the storage's host logs in to by itself: files go there directly
    direct_to: tuple[str, ...] = field(default=(), metadata=rule(own.names, read_list))
    #: what only storages of this scheme need, such as user and credentials
    options: Mapping[str, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check each field."""
        check_section(self, f"storages.{self.name}")
        if self.bytes_per_s is not None and self.max_transfers is None:
            expected = f"storages.{self.name}.max_transfers beside it: each transfer gets its part"
            raise ConfigError(
                problem(f"storages.{self.name}.bytes_per_s", self.bytes_per_s, expected)
            )
        scheme = self.url.partition(":")[0].lower()
        for key, value in self.options.items():
            own.check_storage_option(f"storages.{self.name}.{key}", scheme, key, value)
        if scheme in {"http", "https"} and {"credentials", "token"} <= self.options.keys():
            raise ConfigError(
                f"storages.{self.name}.token: got a token beside credentials, expected one of them"
            )
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @property
    def share_bytes_per_s(self) -> float | None:
        """The rate of one transfer; None for no limit."""
        if self.bytes_per_s is None or self.max_transfers is None:
            return None
        return self.bytes_per_s / self.max_transfers

    @property
    def is_ssh(self) -> bool:
        """Whether its files are on a host behind SSH."""
        return self.url.partition(":")[0].lower() in {"scp", "sftp"}

    def covers(self, url: str) -> bool:
        """Whether a URL is meant; without a port that of any port is."""
        own, other = urlsplit(self.url), urlsplit(url)
        same = (own.scheme, own.hostname) == (other.scheme, other.hostname)
        below = f"{other.path}/".startswith(f"{own.path.rstrip('/')}/")
        return same and own.port in {None, other.port} and below


def own_user() -> str:
    """Return the name of the user this process runs as; its number if it has no name.

    What the environment says does not count: sudo and services leave another's name there.
    """
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a uid without a name
        return str(os.getuid())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings. Without a broker URL everything runs embedded in one process."""

    #: where the default database and the default scratch directory are
    data_dir: Path = field(metadata=rule(own.data_dir))
    broker_url: Secret | None = field(default=None, metadata=rule(own.secret, url=own.broker_url))
    database_url: Secret | None = field(
        default=None, metadata=rule(own.secret, url=own.database_url)
    )
    sites: Mapping[str, SiteSettings] = field(default_factory=dict)
    storages: Mapping[str, StorageSettings] = field(default_factory=dict)
    steps: StepSettings = StepSettings()
    control: ControlSettings = ControlSettings()
    staging: StagingSettings = StagingSettings()
    worker: WorkerSettings = field(default_factory=WorkerSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    placement: PlacementSettings = PlacementSettings()
    serf: SerfSettings = field(default_factory=SerfSettings)
    source: str = "defaults"  #: where they come from, for people

    def __post_init__(self) -> None:
        """Check each field; without sites there is one, ``local``."""
        check_section(self, "")
        sites = dict(self.sites) or {"local": default_site(self.data_dir)}
        object.__setattr__(self, "sites", MappingProxyType(sites))
        object.__setattr__(self, "storages", MappingProxyType(dict(self.storages)))
        self._check_direct()

    def _check_direct(self) -> None:
        """Check that both ends of each direct way are hosts behind SSH."""
        sites = {name for name, site in self.sites.items() if site.options.get("host")}
        storages = {name for name, one in self.storages.items() if one.is_ssh}
        for name, site in self.sites.items():
            _check_logins(f"sites.{name}", site.direct_to, name in sites, "storage", storages)
        for name, one in self.storages.items():
            _check_logins(f"storages.{name}", one.direct_to, name in storages, "site", sites)

    def storage(self, url: str) -> StorageSettings | None:
        """Return the settings for a URL, the most special ones; None if there are none."""
        found = [storage for storage in self.storages.values() if storage.covers(url)]
        return max(found, key=lambda storage: len(storage.url), default=None)

    @property
    def embedded(self) -> bool:
        """True if no broker is configured."""
        return self.broker_url is None

    @property
    def database(self) -> str:
        """The database's URL, with its password: for the engine only, never to be shown."""
        if self.database_url is None:
            return f"sqlite:///{self.data_dir / 'wlm.db'}"
        return self.database_url.reveal()

    def describe(self) -> dict[str, Any]:
        """Return all settings as plain data for people, secrets masked."""
        described: dict[str, Any] = _plain(self)
        described["embedded"] = self.embedded
        if self.database_url is None:
            described["database_url"] = self.database
        return described


def default_site(data_dir: Path) -> SiteSettings:
    """Return the site there is when none is configured: this machine."""
    return SiteSettings(
        name="local",
        kind="local",
        scratch=str(data_dir.absolute() / "scratch"),
        max_running=os.cpu_count(),
    )


def _check_logins(
    table: str, names: Sequence[str], is_ssh: bool, kind: str, known: Set[str]
) -> None:
    for name in names:
        if not is_ssh or name not in known:
            expected = f"the name of a {kind} behind SSH {checks.suggest(name, known)}"
            if not is_ssh:
                expected = "nothing: files go there directly from a host behind SSH only"
            raise ConfigError(problem(f"{table}.direct_to", name, expected))


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Secret | Path) else value


def _refuse(path: str, value: float, other: str, bound: float) -> None:
    expected = f"a number of seconds below {bound:g}, half of {other}"
    raise ConfigError(problem(path, value, expected))
