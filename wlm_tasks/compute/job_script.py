"""Makes ``job.sh``, the guard around a payload, and refuses what bash could not run.

The guard's text and its duties are in `wlm_tasks.compute.guard`.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import signal
from collections.abc import Mapping
from typing import Final

from wlm_tasks.compute.base import JobSpec
from wlm_tasks.compute.guard import BODY, HEAD
from wlm_tasks.errors import JobRejectedError
from wlm_tasks.model.checks import show

#: longest value the kernel hands to a program, name and "=" included (MAX_ARG_STRLEN)
VARIABLE_LIMIT: Final = 131_071
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED: Final = "WLM_JOB_"
#: names that bash keeps or computes itself, so that the payload would not see the value given
_OWN_NAMES: Final = re.compile(
    "_|BASH|BASH(OPTS|PID|_ALIASES|_ARG[CV]|_ARGV0|_CMDS|_COMMAND|_LINENO|_MONOSECONDS|_SOURCE"
    "|_SUBSHELL|_TRAPSIG|_VERSINFO|_VERSION|_XTRACEFD)|COMP_WORDBREAKS|DIRSTACK"
    "|EPOCH(REALTIME|SECONDS)|E?UID|FUNCNAME|GROUPS|HISTCMD|IFS|LINENO|(OLD)?PWD|OPT(ERR|IND)"
    "|PIPESTATUS|PPID|PS[124]|S?RANDOM|SECONDS|SHELLOPTS|SHLVL"
)


def render(spec: JobSpec, *, bells: str | None) -> str:
    """Return the text of ``job.sh``; raises `JobRejectedError` for what bash could not run."""
    return head(spec, bells=bells) + BODY


def head(spec: JobSpec, *, bells: str | None) -> str:
    """Return what of the text is the job's own; behind it belongs the guard's `BODY`."""
    check(spec)
    ref = spec.ref
    walltime_s = max(0.01, spec.resources.walltime_s)
    grace_s = max(0.0, ref.stop_grace_s)
    values = {
        "TOKEN": shlex.quote(ref.token),
        "WORKDIR": shlex.quote(ref.workdir),
        "ATTEMPT": shlex.quote(ref.attempt_dir),
        "BELLS": shlex.quote(bells or ""),
        "WALLTIME": f"{walltime_s:.3f}",
        # a little less than the limit, since `timeout` measures with another clock
        "WALLTIME_CS": str(max(0, int(walltime_s * 100) - 5)),
        # 0 would mean to `timeout` that it must never send KILL
        "GRACE": f"{max(0.01, grace_s):.3f}",
        "GRACE_DS": str(round(grace_s * 10)),
        "LIMIT": f"{walltime_s + grace_s:.3f}",
        "VARIABLES": "\n".join(
            f"  export {name}={shlex.quote(value)}" for name, value in environment(spec).items()
        ),
    }
    # one pass: what a value holds is never taken for a name
    return re.sub(r"@([A-Z_]+)@", lambda match: values[match[1]], HEAD)


def environment(spec: JobSpec) -> dict[str, str]:
    """Return the payload's variables, those that tell it who it is included."""
    return {
        **spec.variables,
        "WLM_JOB_TOKEN": spec.ref.token,
        "WLM_JOB_NAME": spec.name,
        "WLM_JOB_CPUS": str(spec.resources.cpus),
    }


def check(spec: JobSpec) -> None:
    """Raise `JobRejectedError` naming the first thing that cannot be handed to bash."""
    stop_signal(spec.ref.stop_signal)
    _check_text("script", spec.script)
    _check_text("name", spec.name)
    _check_variables(spec.variables)


def stop_signal(name: str) -> signal.Signals:
    """Return the signal of a name with or without ``SIG``; raises `JobRejectedError`."""
    full = name.upper() if name.upper().startswith("SIG") else f"SIG{name.upper()}"
    try:
        return signal.Signals[full]
    except KeyError:
        raise JobRejectedError(
            f"stop.signal: got {show(name)}, expected a signal's name such as TERM or INT"
        ) from None


def _check_variables(variables: Mapping[str, str]) -> None:
    for name, value in variables.items():
        if not _NAME.fullmatch(name) or name.startswith(_RESERVED) or _OWN_NAMES.fullmatch(name):
            raise JobRejectedError(
                f"variables: got the name {show(name)}, expected letters, digits and _,"
                f" not a name bash keeps for itself and none that begins with {_RESERVED}"
            )
        _check_text(f"variables.{name}", value)
        if len(name) + 1 + len(value.encode(errors="surrogateescape")) > VARIABLE_LIMIT:
            raise JobRejectedError(
                f"variables.{name}: got {len(value)} characters, expected at most"
                f" {VARIABLE_LIMIT} bytes, its name included"
            )


def _check_text(field: str, text: str) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        if b"\0" not in text.encode(errors="surrogateescape"):
            return
    raise JobRejectedError(
        f"{field}: got {show(text, field)}, expected text without NUL that UTF-8 can hold"
    )
