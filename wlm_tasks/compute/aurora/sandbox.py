"""What runs on an agent that shares no directory with the workers: all of it in its sandbox.

Below the directory in which Thermos starts processes:

========== ==============================================================================
work       the experiment's directory, where the payload runs
.wlm       scripts of ours; ``fault``, what went wrong outside the payload, as JSON's text;
           ``again``, made by a task that found the attempt started before; ``sent``, made when
           all outputs were sent and looked at
.wlm/job   the attempt's directory as the guard knows it, see `wlm_tasks.compute.attempt`
========== ==============================================================================

Mesos's fetcher puts files into the directory above. The scripts come as a compressed archive in
pieces, since Linux hands no argument of more than 128 KiB to a program. URLs and paths stand in
them quoted, and messages as JSON's text, so that what they hold is nowhere taken for code. What
follows the question mark of a URL may let its bearer in: no message shows it, and no argument of a
program, which everybody on the agent may read.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shlex
import tarfile
from collections.abc import Iterable, Mapping
from typing import Final

from wlm_tasks.compute.aurora import sandbox_scripts as scripts_of
from wlm_tasks.compute.aurora.carrying import file_name, shown
from wlm_tasks.compute.aurora.thermos import FINALIZATION_S, Process
from wlm_tasks.compute.base import JobSpec
from wlm_tasks.compute.guard import BODY
from wlm_tasks.compute.job_script import head
from wlm_tasks.errors import JobRejectedError
from wlm_tasks.model.checks import show

#: characters of a piece of the archive, which is encoded once more
_PIECE: Final = 60_000
#: most characters of the whole archive: Mesos's messages are not made for more
ARCHIVE_LIMIT: Final = 512 * 1024
#: most of an output stream that is kept, its end, in bytes
_STREAM_BYTES: Final = 16 << 20


def processes(spec: JobSpec, *, upload_url: str, transfer_s: int) -> tuple[Process, ...]:
    """Return the processes of a job that carries its files, in their order.

    Putting inputs in place and sending outputs may take `transfer_s` each. Raises
    `JobRejectedError` for what bash could not run, and for too long a job.
    """
    scripts = _scripts(spec, upload_url, transfer_s)
    found = list(_unpacking(_archive(scripts)))

    def add(name: str, *, final: bool = False) -> None:
        found.append(Process(name, f"exec bash .wlm/{name}.sh\n", final=final))

    def add_limited(name: str) -> None:
        script = _filled(scripts_of.LIMITED, SECONDS=str(transfer_s), SCRIPT=f".wlm/{name}.sh")
        found.append(Process(name, script))

    if spec.inputs:
        add_limited("place")
    if upload_url:
        add("start")
    found.append(Process("job", _filled(scripts_of.JOB, TOKEN=shlex.quote(spec.ref.token))))
    add("check")
    if spec.outputs:
        add_limited("send")
    if upload_url:
        add("record", final=True)
    return tuple(found)


def upload_place(upload_url: str, token: str) -> str:
    """Return how the URLs of an attempt's own files begin: its mark, record and output."""
    return f"{upload_url}/{token}"


def _scripts(spec: JobSpec, upload_url: str, transfer_s: int) -> dict[str, str]:
    # the guard's last word about where it is comes from the sandbox
    where = "wlm_workdir=$PWD/work\nwlm_attempt=$PWD/.wlm/job\n"
    scripts = {
        ".wlm/library.sh": scripts_of.LIBRARY,
        ".wlm/job.sh": head(spec, bells=None) + where + BODY,
        ".wlm/check.sh": scripts_of.CHECK,
        ".wlm/job/payload.sh": f"{spec.script}\n",
    }
    seconds = str(transfer_s)
    if spec.inputs:
        lines = "".join(_place_lines(spec))
        scripts[".wlm/place.sh"] = _filled(scripts_of.PLACE, SECONDS=seconds) + lines
    if spec.outputs:
        lines = "".join(_send_lines(spec))
        scripts[".wlm/send.sh"] = (
            _filled(scripts_of.SEND, SECONDS=seconds) + lines + scripts_of.SENT
        )
    if upload_url:
        place = upload_place(upload_url, spec.ref.token)
        scripts[".wlm/start.sh"] = _filled(scripts_of.START, MARK=shlex.quote(f"{place}.started"))
        scripts[".wlm/record.sh"] = _filled(
            scripts_of.RECORD,
            PLACE=shlex.quote(place),
            OUTPUTS=str(len(spec.outputs)),
            BYTES=str(_STREAM_BYTES),
            SECONDS=str(FINALIZATION_S // 3),
        )
    return scripts


def _place_lines(spec: JobSpec) -> Iterable[str]:
    last = {transfer.src: index for index, transfer in enumerate(spec.inputs)}
    for index, one in enumerate(spec.inputs):
        how = "link" if last[one.src] == index else "copy"  # fetched once, wanted in several places
        message = _json_text(f"inputs[{index}].src: {show(shown(one.src))}")
        yield _line("place", file_name(one.src), one.dest, one.sha256 or "", how, message)


def _send_lines(spec: JobSpec) -> Iterable[str]:
    for index, one in enumerate(spec.outputs):
        messages = (
            _json_text(f"outputs[{index}].src: {show(one.src)}"),
            _json_text(f"outputs[{index}].dest: {show(shown(one.dest))}"),
        )
        yield _line("send", one.src, one.dest, one.sha256 or "", *messages)


def _filled(text: str, **values: str) -> str:
    """Return a script with the values of its ``@NAMES@``; in one pass, so no value is searched."""
    return re.sub(r"@([A-Z]+)@", lambda match: values[match[1]], text)


def _json_text(text: str) -> str:
    """Return a text as it stands between quotes in JSON, ASCII alone."""
    return json.dumps(text)[1:-1]


def _line(*words: str) -> str:
    return f"{shlex.join(words)}\n"


def _archive(scripts: Mapping[str, str]) -> str:
    """Return the files as base64 of a compressed tar archive, the same for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in scripts.items():
            data = text.encode(errors="surrogateescape")
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            archive.addfile(entry, io.BytesIO(data))
    encoded = base64.b64encode(gzip.compress(buffer.getvalue(), mtime=0)).decode("ascii")
    if len(encoded) > ARCHIVE_LIMIT:
        raise JobRejectedError(
            f"script: got {len(encoded)} characters with variables and transfers, compressed,"
            f" expected at most {ARCHIVE_LIMIT} on an Aurora site without a shared scratch"
        )
    return encoded


def _unpacking(archive: str) -> Iterable[Process]:
    pieces = [archive[start : start + _PIECE] for start in range(0, len(archive), _PIECE)]
    for number, piece in enumerate(pieces[:-1], start=1):
        yield Process(f"unpack-{number}", f"printf %s {piece} >> .wlm-archive\n")
    yield Process(
        "unpack",
        f"umask 077\nprintf %s {pieces[-1]} >> .wlm-archive\n"
        "base64 -d .wlm-archive | tar -xzf - && rm .wlm-archive\n",
    )
