"""What went wrong on the way to a server, in one line without secrets."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from wlm_tasks.config import AlertSettings
from wlm_tasks.errors import NotifyUnavailableError
from wlm_tasks.model.checks import show
from wlm_tasks.notify.layout import clean


def words(error: BaseException, timeout_s: float) -> str:
    """Return what the network or TLS has to say; only the system's words are shown."""
    chain = list(_chain(error))
    for one in chain:
        if told := _known(one, timeout_s):
            return told
    for one in chain:
        if type(one).__module__ == "builtins" and isinstance(one, OSError) and one.errno:
            return os.strerror(one.errno)
    return "the connection broke"


def trust(settings: AlertSettings) -> ssl.SSLContext:
    """Return what certificates are verified by; `NotifyUnavailableError` if it cannot be read."""
    file = authorities(settings)
    try:
        return ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        told = error.strerror or "no certificate in it"
        raise NotifyUnavailableError(
            f"alerts.ca_file: got {show(file)}, expected a readable file of certificates in PEM"
            f" form ({clean(told)})"
        ) from None


def authorities(settings: AlertSettings) -> str | None:
    """Return the file of certificates to trust, None for the system's."""
    return None if settings.ca_file is None else str(Path(settings.ca_file).expanduser())


def _known(error: BaseException, timeout_s: float) -> str:
    for kind, told in _WORDS.items():
        # requests has errors of its own of these kinds, made of those that are looked for
        if isinstance(error, kind) and not type(error).__module__.startswith("requests"):
            return told(error, timeout_s)
    return ""


def _untrusted(error: Any, _timeout_s: float) -> str:
    why = clean(error.verify_message)
    return f"its certificate is not trusted: {why} (alerts.ca_file names whom to trust)"


def _broken_tls(error: Any, _timeout_s: float) -> str:
    reason = clean(error.reason or "it broke off").replace("_", " ").lower()
    return f"TLS failed: {reason}"


#: the first kind that fits counts
_WORDS: Final[Mapping[type[BaseException], Callable[[Any, float], str]]] = {
    socket.gaierror: lambda _error, _s: "the host cannot be found",
    UnicodeError: lambda _error, _s: "the host cannot be found",
    ssl.SSLCertVerificationError: _untrusted,
    ssl.SSLError: _broken_tls,
    TimeoutError: lambda _error, timeout_s: f"no answer within {timeout_s:g} s",
    ConnectionRefusedError: lambda _error, _s: "connection refused",
    ConnectionError: lambda _error, _s: "it closed the connection",
}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Return the error and all that led to it; libraries hide that in different places."""
    waiting, seen = [error], set[int]()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        waiting += [found for found in inner if isinstance(found, BaseException)]
