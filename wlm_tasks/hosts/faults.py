"""What went wrong with a connection, in one line that names the host and what to do.

Every error of asyncssh and of sockets becomes one of ours here, and nowhere else. No message holds
more than host, user and the names of files.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import asyncssh

from wlm_tasks.errors import (
    BackendUnavailableError,
    SiteAuthError,
    SiteNoShellError,
    SiteOverloadedError,
    SiteTroubleError,
    SiteUnreachableError,
    WlmError,
)
from wlm_tasks.hosts.address import Address

LOGGING_IN: Final = "logging in"
#: errors that `translate` knows; others are faults of ours
FOREIGN: Final = (OSError, asyncssh.Error, TimeoutError, EOFError, ValueError)


@contextmanager
def translated(address: Address, doing: str) -> Iterator[None]:
    """Let only errors of ours out; `doing` is for those that say little themselves."""
    try:
        yield
    except WlmError:
        raise
    except FOREIGN as error:
        raise translate(error, address, doing) from error


def translate(error: Exception, address: Address, doing: str) -> BackendUnavailableError:
    """Return our error for one of asyncssh's or of a socket's."""
    for kind, make in _KINDS:
        if isinstance(error, kind):
            return make(error, address, doing)
    return SiteUnreachableError(f"{address}: {doing}: {_words(error)}")


def _words(error: Exception) -> str:
    text = error.reason if isinstance(error, asyncssh.Error) else ""
    text = text or (isinstance(error, OSError) and error.strerror) or str(error)
    return " ".join(str(text).split())[:300] or type(error).__name__


def _host_key(_error: Exception, address: Address, _doing: str) -> SiteTroubleError:
    file, host = address.known_hosts_file, address.host
    scan = f"ssh-keyscan -p {address.port} {host}"
    if _is_known(address):
        return SiteAuthError(
            f"{address}: its host key is not the one in {file}: somebody may be in between, or the"
            f" host was installed anew; compare with its operators before you change the file"
        )
    return SiteAuthError(
        f"{address}: its host key is not in {file}: get it with '{scan}', compare it with what its"
        " operators say and add it"
    )


def _is_known(address: Address) -> bool:
    with suppress(*FOREIGN):
        known = asyncssh.read_known_hosts(str(address.known_hosts_file))
        return any(known.match(address.host, address.host, address.port)[:2])
    return False


def _denied(_error: Exception, address: Address, _doing: str) -> SiteTroubleError:
    key = f"key {address.key_file}" if address.key_file else "keys of the agent and of ~/.ssh"
    return SiteAuthError(
        f"{address}: permission denied with the {key}: is it in authorized_keys there, is the"
        " account open, has a certificate expired?"
    )


def _no_agreement(error: Exception, address: Address, _doing: str) -> SiteTroubleError:
    return SiteAuthError(f"{address}: no common way to speak SSH: {_words(error)}")


def _channel(error: Exception, address: Address, doing: str) -> SiteTroubleError:
    if doing == LOGGING_IN:  # through a jump host
        return SiteUnreachableError(f"{address}: {doing}: {_words(error)}")
    if getattr(error, "code", None) == asyncssh.OPEN_REQUEST_SESSION_FAILED:
        return SiteNoShellError(f"{address}: {doing}: the host refuses that ({_words(error)})")
    return SiteOverloadedError(
        f"{address}: refuses another session on the connection ({_words(error)}): sshd's"
        " MaxSessions is below 8, or the host has no room"
    )


def _unresolved(error: Exception, address: Address, _doing: str) -> SiteTroubleError:
    return SiteUnreachableError(
        f"{address}: the host's name cannot be resolved ({_words(error)}): is it right?"
    )


def _refused(_error: Exception, address: Address, _doing: str) -> SiteTroubleError:
    return SiteUnreachableError(
        f"{address}: connection refused: is sshd running there, and is port {address.port} right?"
    )


def _timed_out(_error: Exception, address: Address, doing: str) -> SiteTroubleError:
    return SiteUnreachableError(
        f"{address}: {doing}: no answer in time: is the host up, and no firewall in between?"
    )


def _lost(error: Exception, address: Address, doing: str) -> SiteTroubleError:
    return SiteUnreachableError(f"{address}: {doing}: connection lost ({_words(error)})")


#: the way through a jump host failed, not the session
_NO_WAY: Final = frozenset(
    {asyncssh.OPEN_CONNECT_FAILED, asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED}
)
#: the first that fits counts
_KINDS: Final[
    tuple[tuple[type[Exception], Callable[[Exception, Address, str], BackendUnavailableError]], ...]
] = (
    (asyncssh.HostKeyNotVerifiable, _host_key),
    (asyncssh.PermissionDenied, _denied),
    (asyncssh.KeyExchangeFailed, _no_agreement),
    (asyncssh.ChannelOpenError, _channel),
    (asyncssh.DisconnectError, _lost),
    (socket.gaierror, _unresolved),
    (ConnectionRefusedError, _refused),
    (TimeoutError, _timed_out),
    (ConnectionError, _lost),
)
