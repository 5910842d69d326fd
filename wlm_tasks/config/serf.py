"""Settings of Serf, whose agents tell who is alive."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final

from wlm_tasks.config import checks as own
from wlm_tasks.config.fields import check_section, read_flag, read_list, read_number, rule
from wlm_tasks.config.secret import Secret
from wlm_tasks.errors import ConfigError
from wlm_tasks.model import checks
from wlm_tasks.model.checks import has_control, is_text, problem

_PORT_LIMIT: Final = 65_535
_KEY_BYTES: Final = 32
_SEEDS_LIMIT: Final = 100
#: HOST:PORT, an IPv6 address in brackets
_SEED: Final = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")
_PATH_LIMIT: Final = 1024


def _address(value: object) -> str:
    """Check for an IP address."""
    try:
        return str(ipaddress.ip_address(value if isinstance(value, str) else ""))
    except ValueError:
        raise ValueError("an IP address, such as '0.0.0.0'") from None


def _seeds(value: object) -> tuple[str, ...]:
    """Check for a list of HOST:PORT."""
    expected = f"a list of at most {_SEEDS_LIMIT} HOST:PORT, such as ['control.example.org:7946']"
    if not isinstance(value, list | tuple) or len(value) > _SEEDS_LIMIT:
        raise ValueError(expected)
    for seed in value:
        found = _SEED.fullmatch(seed) if isinstance(seed, str) else None
        if found is None or not 0 < int(found[2]) <= _PORT_LIMIT:
            raise ValueError(expected)
    return tuple(value)


def _file(value: object) -> str:
    """Check for the path of a program."""
    if not isinstance(value, str) or not is_text(value) or has_control(value):
        raise ValueError("the absolute path of a program")
    if not value.startswith("/") or len(value) > _PATH_LIMIT:
        raise ValueError("the absolute path of a program")
    return value


def encryption_key(value: str) -> None:
    """Accept what `wlm agent --keygen` makes."""
    expected = f"{_KEY_BYTES} bytes in base64, such as `wlm agent --keygen` makes"
    try:
        good = len(base64.b64decode(value, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        good = False
    if not good:
        raise ValueError(expected)


@dataclass(frozen=True, kw_only=True)
class SerfSettings:
    """The agents of Serf that tell who is alive."""

    #: whether workers and control run one
    enabled: bool = field(default=False, metadata=rule(checks.flag, read_flag))
    #: the program; None for the one on PATH
    binary: str | None = field(default=None, metadata=rule(checks.optional(_file)))
    #: address it listens on
    bind: str = field(default="0.0.0.0", metadata=rule(_address))  # noqa: S104 - for other hosts
    #: address it tells others, where that is another one
    advertise: str | None = field(default=None, metadata=rule(checks.optional(_address)))
    #: first port, TCP and UDP; agents of one host take the first that is free
    port: int = field(default=7946, metadata=rule(checks.whole(1, _PORT_LIMIT), read_number))
    #: how many ports from there on may be taken
    ports: int = field(default=32, metadata=rule(checks.whole(1, 10_000), read_number))
    #: agents to join at first, HOST:PORT
    join: tuple[str, ...] = field(default=(), metadata=rule(_seeds, read_list))
    #: what all agents share; without it nobody else gets in or reads along
    encrypt_key: Secret | None = field(default=None, metadata=rule(own.secret, url=encryption_key))
    #: a program that agents of control and seeds run for events, such as deploy/serf/spool-events
    handler: str | None = field(default=None, metadata=rule(checks.optional(_file)))

    def __post_init__(self) -> None:
        """Check each field, and that strangers are kept out."""
        check_section(self, "serf")
        if self.port + self.ports - 1 > _PORT_LIMIT:
            expected = f"at most {_PORT_LIMIT + 1 - self.port}: ports end at {_PORT_LIMIT}"
            raise ConfigError(problem("serf.ports", self.ports, expected))
        if self.enabled and self.encrypt_key is None and not self.local:
            expected = "env:NAME or file:PATH, unless serf.bind is an address of loopback"
            raise ConfigError(f"serf.encrypt_key: got nothing, expected {expected}")

    @property
    def local(self) -> bool:
        """True if only this host can reach the agents."""
        return ipaddress.ip_address(self.bind).is_loopback
