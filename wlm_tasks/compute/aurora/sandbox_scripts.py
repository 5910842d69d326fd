"""The bash scripts that run in the sandbox of a job, see `wlm_tasks.compute.aurora.sandbox`.

``@NAMES@`` are filled in there; all but the job's begin by reading the library.
"""

from __future__ import annotations

from typing import Final

LIBRARY: Final = r"""
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

PLACE: Final = r"""
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
START: Final = r"""
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

JOB: Final = """\
mkdir -p work .wlm/job
export WLM_JOB_TOKEN=@TOKEN@
exec bash .wlm/job.sh
"""

# A guard that did not run the payload may end well; one that Thermos starts a second time, since it
# lost sight of the first, finds the claim taken and leaves while the first goes on.
CHECK: Final = r"""
. .wlm/library.sh
while guard_lives; do sleep 0.5; done
read_told
[ -n "$told" ] || fault "$reason"
ended_well
"""

LIMITED: Final = "exec timeout -k 10 @SECONDS@ bash @SCRIPT@\n"

SEND: Final = r"""
. .wlm/library.sh
root=$(realpath -e work) || fault 'the directory of the job is gone'
gone() { [[ $1 = 404 || $1 = 410 ]]; }  # STATUS; an FTP server's may mean that we may not look
look() {  # URL MESSAGE: sets `found` to the size there, if the server tells it
  local answer code name value rc
  found=
  answer=$(ask "$1" --max-time 60 -I -w '\n%{http_code}')
  rc=$?
  code=${answer##*$'\n'}
  ! gone "$code" || fault "$2 is not there after the upload: status $code"
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

SENT: Final = """\
: > .wlm/sent || fault 'that the outputs were sent cannot be noted: is the disk full?'
"""

RECORD: Final = r"""
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
