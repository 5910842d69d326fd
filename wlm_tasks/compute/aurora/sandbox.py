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

_LIBRARY: Final = r"""
set -u
umask 077
LC_ALL=C
fault() {  # TEXT: the first one counts
  [ -e .wlm/fault ] || printf '%s' "$1" > .wlm/fault
  printf '%s\n' "$1" >&2
  exit 1
}
curl=(curl -q -g -s --proto '=http,https,ftp' --connect-timeout 30)
slow=(--speed-limit 1 --speed-time 120)
ask() {  # URL OPTION...: curl, which reads the URL and is not given it as an argument
  printf 'url = "%s"\n' "$1" | "${curl[@]}" "${@:2}" -K -
}
put() {  # FILE URL [OPTION...]: false unless the server says that it took the file
  local rc
  code=$(ask "$2" --retry 2 --ftp-create-dirs "${slow[@]}" \
    -o /dev/null -w '%{http_code}' "${@:3}" -T "$1")
  rc=$?
  said="status $code"
  [ $rc = 0 ] || said+=", curl's exit code $rc"
  [ $rc = 0 ] && [[ $code = 2?? ]]
}
digest() { set -- $(sha256sum < "$1"); printf '%s' "$1"; }
guard_lives() {  # the one that made the claim
  local line stat=
  read -r line < .wlm/job/started || return
  [[ $line =~ \"pid\":([0-9]+),\"start\":([0-9]+), ]] || return
  IFS= read -r -d '' stat < "/proc/${BASH_REMATCH[1]}/stat"
  stat=(${stat##*) })
  [[ ${stat[0]-Z} != [ZX] ]] && [ "${stat[19]-}" = "${BASH_REMATCH[2]}" ]
} 2> /dev/null
read_told() {  # sets `told` to the guard's exit record, or `reason` to why there is none
  told=
  reason='ended before its payload was started'
  [ -e .wlm/job/started ] && reason='its guard was killed'
  guard_lives && reason='ended while its guard was still at work'
  [ -s .wlm/job/exit.json ] && read -r told < .wlm/job/exit.json && reason=
}
ended_well() { [[ $told = '{"code":0,'*'"reason":"exit"}'* ]]; }
"""

_PLACE: Final = r"""
. .wlm/library.sh
place() {  # NAME DEST SHA256 HOW MESSAGE
  local from found
  for from in "../$1" "./$1"; do [ -f "$from" ] && break; done
  [ -f "$from" ] || fault "$5 is not in the sandbox, though it was to be fetched"
  if [ -n "$3" ]; then
    found=$(digest "$from")
    [ "$found" = "$3" ] || fault "$5 has the SHA-256 $found, expected $3"
  fi
  mkdir -p "$(dirname "work/$2")" && "$4" "work/$2" < "$from" || fault "$5 cannot be put in place"
}
# no argument is the file's name, which is part of a URL
copy() { cat > "$1"; }
link() { ln -L -T /dev/fd/0 "$1" 2> /dev/null || copy "$1"; }
trap 'fault "the inputs were not all put in place, for which there are @SECONDS@ s"' TERM
mkdir -p work
"""

# A task that Aurora starts again long after the first finds the mark; of two that start at once a
# server that heeds If-None-Match lets one through.
_START: Final = r"""
. .wlm/library.sh
again() {
  : > .wlm/again
  fault 'the attempt was started before by another task, and is not run a second time'
}
mark=@MARK@
code=$(ask "$mark" --max-time 20 -o /dev/null -w '%{http_code}')
case $code in
  404 | 410) ;;
  2??) again ;;
  *) fault "upload_url does not tell whether the attempt was started before: status $code" ;;
esac
echo "$(hostname) $$" > .wlm/mark
put .wlm/mark "$mark" --retry 0 --max-time 20 -H 'If-None-Match: *' && exit
[ "$code" = 412 ] && again
fault "upload_url did not take the mark of the attempt's start: $said"
"""

_JOB: Final = """\
mkdir -p work .wlm/job
export WLM_JOB_TOKEN=@TOKEN@
exec bash .wlm/job.sh
"""

# A guard that did not run the payload may end well; one that Thermos starts a second time, since it
# lost sight of the first, finds the claim taken and leaves while the first goes on.
_CHECK: Final = r"""
. .wlm/library.sh
while guard_lives; do sleep 0.5; done
read_told
[ -n "$told" ] || fault "$reason"
ended_well
"""

_LIMITED: Final = "exec timeout -k 10 @SECONDS@ bash @SCRIPT@\n"

_SEND: Final = r"""
. .wlm/library.sh
root=$(realpath -e work) || fault 'the directory of the job is gone'
gone() { [[ $1 = 404 || $1 = 410 || ${2-} = 78 ]]; }  # STATUS [CURL'S-EXIT-CODE]
look() {  # URL MESSAGE: sets `found` to the size there, if the server tells it
  local answer code name value rc
  found=
  answer=$(ask "$1" --max-time 60 -I -w '\n%{http_code}')
  rc=$?
  code=${answer##*$'\n'}
  ! gone "$code" $rc || fault "$2 is not there after the upload: status $code"
  [ $rc = 0 ] && [[ $code = 2?? || $1 = ftp:* ]] || return
  while IFS=': ' read -r name value; do
    value=${value%$'\r'}
    [[ ${name,,} = content-length && $value =~ ^[0-9]+$ ]] && found=$value
  done < <(printf '%s' "$answer")
}
read_back() {  # URL SHA256 MESSAGE: who gave a digest wants it verified, if we may read there
  local found rc code
  found=$(set -o pipefail; ask "$1" -f "${slow[@]}" | sha256sum)
  rc=$?
  found=${found%% *}
  if [ $rc = 22 ]; then  # the server says no
    code=$(ask "$1" --max-time 60 -r 0-0 -o /dev/null -w '%{http_code}')
    ! gone "$code" || fault "$3 is not there after the upload: status $code"
    return
  fi
  [ $rc = 0 ] || fault "$3 cannot be read back after the upload: curl's exit code $rc"
  [ "$found" = "$2" ] || fault "$3 has the SHA-256 $found after the upload, expected $2"
}
send() {  # PATH URL SHA256 MESSAGE-OF-SRC MESSAGE-OF-DEST
  local real found size
  real=$(realpath -e -- "work/$1") && [ -f "$real" ] || fault "$4 was not made by the job"
  [[ $real = "$root"/* ]] || fault "$4 leads out of the directory of the job"
  if [ -n "$3" ]; then
    found=$(digest "$real")
    [ "$found" = "$3" ] || fault "$4 has the SHA-256 $found, expected $3"
  fi
  put "$real" "$2" || fault "$5 was not taken by its server: $said"
  size=$(stat -c %s -- "$real")
  look "$2" "$5"
  [ "${found:-$size}" = "$size" ] || fault "$5 has $found bytes after the upload, expected $size"
  [ -z "$3" ] || read_back "$2" "$3" "$5"
}
trap 'fault "the outputs were not all sent, for which there are @SECONDS@ s"' TERM
"""

_SENT: Final = """\
: > .wlm/sent || fault 'that the outputs were sent cannot be noted: is the disk full?'
"""

_RECORD: Final = r"""
. .wlm/library.sh
[ -e .wlm/again ] && exit
place=@PLACE@
read_told
if [ -e .wlm/fault ]; then
  reason=$(< .wlm/fault)
  reason=${reason:-'a fault that could not be noted: is the disk full?'}
elif ended_well && [ @OUTPUTS@ != 0 ] && [ ! -e .wlm/sent ]; then
  reason='its outputs were not all sent'
fi
if [ -n "$reason" ]; then
  begun=null
  [[ $told =~ \"start\":([0-9.]+) ]] && begun=${BASH_REMATCH[1]}
  told="{\"code\":null,\"start\":$begun,\"end\":$(date +%s.%N),\"reason\":\"$reason\"}"
fi
printf '%s\n' "$told" > .wlm/record
put .wlm/record "$place.exit.json" --max-time 10 --retry-max-time 10
for stream in stderr stdout; do
  [ -f ".wlm/job/$stream" ] || continue
  tail -c @BYTES@ ".wlm/job/$stream" > ".wlm/$stream"
  put ".wlm/$stream" "$place.$stream" --max-time @SECONDS@ --retry-max-time @SECONDS@
done
exit 0
"""


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
        script = _filled(_LIMITED, SECONDS=str(transfer_s), SCRIPT=f".wlm/{name}.sh")
        found.append(Process(name, script))

    if spec.inputs:
        add_limited("place")
    if upload_url:
        add("start")
    found.append(Process("job", _filled(_JOB, TOKEN=shlex.quote(spec.ref.token))))
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
        ".wlm/library.sh": _LIBRARY,
        ".wlm/job.sh": head(spec, bells=None) + where + BODY,
        ".wlm/check.sh": _CHECK,
        ".wlm/job/payload.sh": f"{spec.script}\n",
    }
    seconds = str(transfer_s)
    if spec.inputs:
        lines = "".join(_place_lines(spec))
        scripts[".wlm/place.sh"] = _filled(_PLACE, SECONDS=seconds) + lines
    if spec.outputs:
        lines = "".join(_send_lines(spec))
        scripts[".wlm/send.sh"] = _filled(_SEND, SECONDS=seconds) + lines + _SENT
    if upload_url:
        place = upload_place(upload_url, spec.ref.token)
        scripts[".wlm/start.sh"] = _filled(_START, MARK=shlex.quote(f"{place}.started"))
        scripts[".wlm/record.sh"] = _filled(
            _RECORD,
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
