"""Where an SSH site is and how to get in: what its settings say, and nothing else.

The user's ``~/.ssh/config`` is not read: a site means the same for every worker, whoever runs it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from wlm_tasks.config.settings import own_user
from wlm_tasks.errors import ConfigError
from wlm_tasks.model.checks import problem

#: settings that say where a site is; the backends of all kinds with a login host take them
OPTIONS: Final = ("host", "port", "user", "key_file", "known_hosts", "proxy_jump")
_HOP: Final = re.compile(
    r"((?P<user>[^@:,\s\[\]]+)@)?(?P<host>[^@:,\s\[\]]+|\[[0-9A-Fa-f:.%]+\])(:(?P<port>[0-9]{1,5}))?"
)
_PORT: Final = 22


@dataclass(frozen=True, kw_only=True)
class Address:
    """One host to log in to."""

    host: str
    port: int = _PORT
    user: str
    key_file: str | None = None  #: private key; None for the agent and the usual files
    known_hosts: str | None = None  #: file of host keys; None for ``~/.ssh/known_hosts``
    via: Address | None = None  #: the host to go through

    def __str__(self) -> str:
        """Return what messages call it: ``user@host``, with the port unless it is the usual."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORT else f":{self.port}"
        return f"{self.user}@{host}{port}"

    @property
    def place(self) -> tuple[str, str, int, tuple[object, ...] | None]:
        """Who is logged in where, by which way: what two addresses of one login have in common."""
        return self.user, self.host, self.port, None if self.via is None else self.via.place

    def url(self, path: str) -> str:
        """Return an absolute path on the host as an ``sftp://`` URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"sftp://{quote(self.user, safe='')}@{host}:{self.port}{quote(path, safe='/')}"

    @property
    def known_hosts_file(self) -> Path:
        """The file of host keys."""
        return Path(self.known_hosts or "~/.ssh/known_hosts").expanduser()


def address_of(name: str, options: Mapping[str, object], *, section: str = "sites") -> Address:
    """Return the address in the settings of a site; raises `ConfigError` without ``host``."""
    if not options.get("host"):
        raise ConfigError(f"{section}.{name}.host: got nothing, expected the name of a host")
    given = {name: str(options[name]) for name in OPTIONS if options.get(name)}
    address = Address(
        host=given["host"],
        port=int(given.get("port", _PORT)),
        user=given.get("user") or own_user(),
        key_file=given.get("key_file"),
        known_hosts=given.get("known_hosts"),
    )
    if "proxy_jump" not in given:
        return address
    return replace(
        address, via=_jumps(address, given["proxy_jump"], f"{section}.{name}.proxy_jump")
    )


def _jumps(address: Address, text: str, field: str) -> Address | None:
    """Return the last of the hosts to go through; each is reached through the one before."""
    via: Address | None = None
    for hop in text.split(","):
        match = _HOP.fullmatch(hop)
        if match is None or not 0 < int(match["port"] or _PORT) < 65_536:  # noqa: PLR2004
            raise ConfigError(
                problem(field, text, "hosts such as 'user@gate.example.org:22', commas in between")
            )
        via = replace(
            address,
            host=match["host"].strip("[]"),
            port=int(match["port"] or _PORT),
            user=match["user"] or address.user,
            via=via,
        )
    return via
