"""How a site's host is reached: it is this one, or one behind SSH."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wlm_tasks.compute.base import SiteStore
from wlm_tasks.compute.remote import SiteFiles
from wlm_tasks.errors import ConfigError
from wlm_tasks.hosts.shell import LocalShell, Shell

#: settings that say nothing without a host
_OF_A_HOST: Final = ("port", "key_file", "known_hosts", "proxy_jump")


@dataclass(frozen=True)
class Reached:
    """The host on which a site's commands are run."""

    shell: Shell
    files: SiteFiles
    store: SiteStore | None  #: how files get there; None if its directories are seen from here


def reach(site: str, scratch: str, options: Mapping[str, object]) -> Reached:
    """Return what a backend needs: this host unless the options name another.

    Raises `ConfigError` for options that say no address. Nothing is connected yet.
    """
    if not options.get("host"):
        if stray := [name for name in _OF_A_HOST if options.get(name)]:
            raise ConfigError(
                f"sites.{site}.{stray[0]}: got a value, expected it beside 'host' only: without"
                " that the site's commands are run on the worker's own host"
            )
        shell = LocalShell()
        return Reached(shell, SiteFiles(shell, scratch), None)
    # here, so that a site of this host needs no asyncssh
    from wlm_tasks.compute.ssh.store import SshStore  # noqa: PLC0415
    from wlm_tasks.hosts.address import address_of  # noqa: PLC0415
    from wlm_tasks.hosts.ssh import SshShell  # noqa: PLC0415

    far = SshShell(address_of(site, options))
    files = SiteFiles(far, scratch)
    return Reached(far, files, SshStore(far, files))
