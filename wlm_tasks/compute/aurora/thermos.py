"""What runs on the agent: the data of Aurora's executor, Thermos.

Rules of Thermos that matter here: processes run all at once unless an ``order`` says otherwise;
``max_failures`` 0 means "for ever", so it is 1 everywhere; text in double braces is taken for a
variable and kills the task on the agent, so no text of ours or of a user stands there but as
base64; memory and disk are bytes here and MiB in the rest of the interface; final processes run
after success and failure, and have no place in an ``order``.
"""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from wlm_tasks.compute.base import JobRef

#: seconds that final processes may take
FINALIZATION_S: Final = 30
_MIB: Final = 1024 * 1024

# A sandbox is the current directory of its processes.
_CHECK: Final = """\
[ -r {script} ] && exit
echo "{token}: $(hostname) does not see the job's directory, or may not read it" >&2
exit 1
"""

# `exec`, so that the pid noted is the guard's, which is in its claim
_GUARD: Final = """\
read -r boot < /proc/sys/kernel/random/boot_id
read -r line < "/proc/$$/stat"
line=(${{line##*) }})
echo "$boot $$ ${{line[19]}}" > .wlm-guard
export WLM_JOB_TOKEN={token}
exec bash {script}
"""

# If the guard of this very task made the claim and was killed before it could tell the end: ends
# what it left, then tells. A record that is there, or comes meanwhile, stays.
_RECORD: Final = """\
attempt={attempt}
[ ! -e "$attempt/exit.json" ] && read -r boot pid start < .wlm-guard || exit 0
grep -q "\\"pid\\":$pid,\\"start\\":$start,\\"boot\\":\\"$boot\\"" "$attempt/started" || exit 0
ended() {{
  local dir stat
  for dir in /proc/[0-9]*; do
    [ "$dir" = "/proc/$$" ] && continue
    grep -qzFx "WLM_JOB_TOKEN="{token} "$dir/environ" || continue
    read -r -d '' stat < "$dir/stat"
    [[ ${{stat##*) }} =~ ^[ZX] ]] || return 1
  done 2> /dev/null
}}
unset WLM_JOB_TOKEN
until ended; do
  for dir in /proc/[0-9]*; do
    grep -qzFx "WLM_JOB_TOKEN="{token} "$dir/environ" && kill -KILL "${{dir#/proc/}}"
  done 2> /dev/null
  sleep 0.2
done
mine=$attempt/exit.final.$pid
printf '{{"code":null,"start":null,"end":%s,"reason":"%s"}}' "$(date +%s.%N)" \\
  'its guard was killed' > "$mine" && ln -T "$mine" "$attempt/exit.json"
rm -f "$mine"
exit 0
"""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of a task."""

    name: str
    script: str  #: bash
    final: bool = False  #: runs after the others, however they ended


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a task is given."""

    cpus: int
    memory_mb: int
    disk_mb: int
    gpus: int = 0


def guard_processes(ref: JobRef) -> tuple[Process, ...]:
    """Return the processes that run the guard in the attempt's directory."""
    names = {
        "attempt": shlex.quote(ref.attempt_dir),
        "script": shlex.quote(f"{ref.attempt_dir}/job.sh"),
        "token": shlex.quote(ref.token),
    }
    return (
        Process("check", _CHECK.format(**names)),
        Process("job", _GUARD.format(**names)),
        Process("record", _RECORD.format(**names), final=True),
    )


def executor_data(
    *,
    cluster: str,
    role: str,
    environment: str,
    name: str,
    amounts: Amounts,
    processes: Sequence[Process],
) -> str:
    """Return the executor's data as JSON: one task whose processes run in the order given."""
    ordinary = [process.name for process in processes if not process.final]
    task = {
        "name": name,
        "resources": {
            "cpu": float(amounts.cpus),
            "ram": amounts.memory_mb * _MIB,
            "disk": amounts.disk_mb * _MIB,
            "gpu": amounts.gpus,
        },
        "processes": [_process(process) for process in processes],
        "constraints": [{"order": ordinary}],
        "max_failures": 1,
        "max_concurrency": 0,
        "finalization_wait": FINALIZATION_S,
    }
    data = {
        "cluster": cluster,
        "role": role,
        "environment": environment,
        "name": name,
        "task": task,
    }
    return json.dumps(data)


def _process(process: Process) -> dict[str, Any]:
    return {
        "name": process.name,
        "cmdline": command_line(process.script),
        "max_failures": 1,
        "daemon": False,
        "ephemeral": False,
        "final": process.final,
        "min_duration": 5,
    }


def command_line(script: str) -> str:
    """Return a command that runs a bash script, whatever text is in it."""
    encoded = base64.b64encode(script.encode(errors="surrogateescape")).decode("ascii")
    return f'bash -c "$(echo {encoded} | base64 -d)"'
