"""Free TCP ports on loopback that two test runs on one machine never share."""

from __future__ import annotations

import random
import socket
from typing import Final

# Below the range from which the kernel takes the ports of outgoing connections (32768 upwards):
# such a connection can then never sit on a port between its reservation and its use.
_FIRST: Final = 20_000
_LAST: Final = 31_999
_TRIES: Final = 200

# One bound abstract Unix socket per port. The name is machine-wide, cannot be taken twice, leaves
# no file behind and is given back by the kernel when this process ends, however it ends.
_reserved: Final[dict[int, socket.socket]] = {}


def _reserve(port: int) -> bool:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind(f"\0wlm-tests-port-{port}")
    except OSError:
        lock.close()
        return False
    _reserved[port] = lock
    return True


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Without this a port in TIME_WAIT looks taken, although a server could have it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A TCP port nobody listens on, reserved for this process until `release_port`.

    Raises `RuntimeError` if none is found.
    """
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)
        if port in _reserved or not _reserve(port):
            continue
        if _free(port):
            return port
        release_port(port)
    raise RuntimeError(f"no free TCP port between {_FIRST} and {_LAST} after {_TRIES} tries")


def release_port(port: int) -> None:
    """Give back a port; unknown ports are ignored."""
    lock = _reserved.pop(port, None)
    if lock is not None:
        lock.close()


def listening(port: int, host: str = "127.0.0.1") -> bool:
    """True if something accepts connections on this port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0
