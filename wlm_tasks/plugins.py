"""Backends by name: the entry points of this package and of whoever extends it.

Groups: ``wlm_tasks.compute`` (names are the kinds of sites), ``wlm_tasks.storage`` (names are
the schemes of URLs), ``wlm_tasks.notify``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from wlm_tasks.errors import ConfigError

if TYPE_CHECKING:
    from wlm_tasks.compute.base import ComputeBackend
    from wlm_tasks.config import AlertSettings, StorageSettings
    from wlm_tasks.notify.base import Notifier
    from wlm_tasks.storage.base import StorageBackend

COMPUTE: Final = "wlm_tasks.compute"
STORAGE: Final = "wlm_tasks.storage"
NOTIFY: Final = "wlm_tasks.notify"
#: has what opens URLs of schemes that none of the entry points has
_ANY_STORAGE: Final = "wlm_tasks.storage.any_fsspec"


def compute_backend(
    kind: str, *, name: str, scratch: str, options: Mapping[str, object], bells: str | None = None
) -> ComputeBackend:
    """Make the backend of the site `name`; raises `ConfigError` for an unknown kind."""
    backend: ComputeBackend = _load(COMPUTE, kind, f"sites.{name}.kind")(
        name=name, scratch=scratch, options=options, bells=bells
    )
    return backend


def storage_backend(url: str, settings: StorageSettings | None = None) -> StorageBackend:
    """Make the backend for the URL's scheme; raises `ConfigError` for an unknown one.

    Schemes that no entry point has are those of fsspec, if that is installed. `settings` are those
    that hold for the URL, if there are any.
    """
    # nothing but the scheme is shown: a URL may hold a password
    scheme, colon, _rest = url.partition(":")
    scheme = scheme.lower() if colon else ""
    make = _any_storage(scheme) or _load(STORAGE, scheme, "URL's scheme", _more_storages)
    backend: StorageBackend = make(
        name=settings.name if settings else "", options=settings.options if settings else {}
    )
    return backend


def notifiers(settings: AlertSettings) -> dict[str, Notifier]:
    """Make the notifiers people are told by, each by its name.

    They are those that are named, else those whose settings are there. Raises `ConfigError` for an
    unknown one and for one that lacks a setting.
    """
    names = settings.notifiers or known(NOTIFY)
    found = {name: _load(NOTIFY, name, "alerts.notifiers") for name in names}
    return {
        name: kind(settings)
        for name, kind in found.items()
        if settings.notifiers or kind.configured(settings)
    }


def known(group: str) -> list[str]:
    """Return the names that can be used, sorted."""
    return sorted(_found(group))


def _any_storage(scheme: str) -> Any:
    """Return the backend for a scheme of fsspec's, None for one of ours and for others."""
    ours = _found(STORAGE)
    if not ours or scheme in ours or find_spec("fsspec") is None:
        return None
    return import_module(_ANY_STORAGE).storage_of(scheme)


def _more_storages() -> str:
    if find_spec("fsspec") is None:
        return "; for others: pip install 'wlm_tasks[fsspec]'"
    return ", or a remote one of fsspec"


def _load(group: str, name: str, field: str, more: Callable[[], str] = str) -> Any:
    found = _found(group)
    if name not in found:
        names = ", ".join(sorted(found)) or "none: is wlm_tasks installed?"
        raise ConfigError(f"{field}: got {name[:60]!r}, expected one of: {names}{more()}")
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{field}: {name!r} cannot be loaded from {found[name].value}: {error}"
        ) from error


@cache
def _found(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}
