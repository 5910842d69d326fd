"""The scripts by which jobs of a plain host are started, looked at and ended, behind the `LIBRARY`.

They do there what `wlm_tasks.compute.local`, ``evidence`` and ``stopping`` do on the worker's own
host, with the same files: see `wlm_tasks.compute.attempt`. What is decided of the facts they print
is in `wlm_tasks.compute.ssh.judging`.
"""

from __future__ import annotations

import shlex
from typing import Final

from wlm_tasks.compute.guard import BODY

_FUNCTIONS: Final = r"""
locked() {  # ATTEMPT SECONDS: makes the directory and holds its lock as descriptor 63
  mkdir -p -- "$1" && exec 63<> "$1/lock" || exit 1
  flock -w "$2" 63 && return
  echo "$1/lock: held by another submit or cancel for $2 s" >&2
  exit 75
}
unlocked() {
  exec 63>&-
}
process() {  # PID: its fields after the name, from state to start time, in `fields`
  stat=  # up to its end, not its first line: a name may hold anything
  IFS= read -r -d '' stat < "/proc/$1/stat"
  fields=(${stat##*) })
  [ -n "${fields[19]}" ] && [[ ${fields[0]} != [ZX] ]]
} 2> /dev/null
lives() {  # PID START
  [ "$1" -gt 0 ] && process "$1" && [ "${fields[19]}" = "$2" ]
} 2> /dev/null
uptime_cs() {  # hundredths of a second on a clock that nobody sets
  read -r now _ < /proc/uptime
  now=${now/./}
}
scan() {  # all processes that live: parent_of, start_of, session_of, token_of by pid
  local dir pid entries IFS=$'\x1f'
  parent_of=() start_of=() session_of=() token_of=()
  for dir in /proc/[0-9]*; do
    pid=${dir#/proc/}
    IFS=$' \t\n' process "$pid" || continue
    parent_of[pid]=${fields[1]} session_of[pid]=${fields[3]} start_of[pid]=${fields[19]}
    [ -O "$dir" ] || continue
    entries=()
    mapfile -d '' entries < "$dir/environ"
    [[ "$IFS${entries[*]}$IFS" =~ ${IFS}WLM_JOB_TOKEN=([^$IFS]*)$IFS ]] &&
      token_of[pid]=${BASH_REMATCH[1]}
  done
} 2> /dev/null
lock_of() {  # INDEX ATTEMPT: whether anything of the job holds its lock, and which file that is
  local file state=free
  [ -f "$2/alive" ] && [ ! -L "$2/alive" ] && exec 62<> "$2/alive" || return
  file=$(stat -L -c %d:%i /proc/self/fd/62)
  flock -n -x 62
  case $? in
    0) ;;
    1) state=held ;;
    *) state=none ;;
  esac
  exec 62>&-
  printf '%s lock %s %s\n' "$1" "$state" "$file"
} 2> /dev/null
"""

_SUBMIT: Final = (
    f"guard={shlex.quote(BODY)}"
    + r"""
scratch=$1 workdir=$2 attempt=$3 token=$4 lock_wait=$5 claim_wait=$6 payload=$7 head=$8
need flock setsid timeout realpath ln
need_inside "$workdir" "$scratch"
cd -- "$workdir" || exit 1
place
locked "$attempt" "$lock_wait"
if [ -e "$attempt/cancelled" ] || [ -L "$attempt/cancelled" ]; then
  echo 0 cancelled
  exit 0
fi
put() {  # NAME TEXT: by a renaming, since a copy of the job may be reading the old one
  printf '%s' "$2" > "$attempt/$1.$$.new" && mv -fT -- "$attempt/$1.$$.new" "$attempt/$1" || exit 1
}
start() {
  local name file= environ=(WLM_JOB_TOKEN="$token") fresh=()
  for name in PATH HOME USER LANG TMPDIR SHELL; do
    [ -z "${!name}" ] || environ+=("$name=${!name}")
  done
  env --default-signal true 2> /dev/null && fresh=(--default-signal)  # coreutils 8.31
  # locked before the claim is made: there never is a claim of a living job without it
  exec 64<> "$attempt/alive" && flock -s -n 64 && file=$(stat -L -c %d:%i /proc/self/fd/64)
  setsid --fork env -i "${fresh[@]}" "${environ[@]}" bash "$attempt/job.sh" \
    "$namespace" "$file" < /dev/null > /dev/null 2>&1 63>&- || exit 1
  exec 64>&-
}
if [ ! -e "$attempt/started" ] && [ ! -L "$attempt/started" ]; then
  put payload.sh "$payload"
  put job.sh "$head$guard"
  start
  SECONDS=0
  until [ -e "$attempt/started" ]; do
    sleep 0.005
    ((SECONDS > claim_wait)) || continue
    printf 'job %s: not started within %s s; its guard says: %s\n' "$token" "$claim_wait" \
      "$(tail -c 500 -- "$attempt/job.log" 2> /dev/null | tr '\n' ' ')" >&2
    exit 75
  done
fi
marker 0 started "$attempt/started"
exit 0
"""
)

# a guard that is gone without an exit record is looked for twice, since a process in the middle of
# exec(2) has no environment for a moment; the record is looked for again after that
_STATUS: Final = r"""
scratch=$1 count=$2
shift 2
hints=("${@:1:count}")
shift "$count"
cd -- "$scratch" || exit 66
place
seek() {  # POSITIONS: says who lives; sets `left` to the others
  local at pid sessions=() token leader
  declare -A live
  left=()
  scan
  for pid in "${!token_of[@]}"; do live[${token_of[pid]:-none}]=1; done
  for pid in "${!session_of[@]}"; do sessions[session_of[pid]]=1; done
  for at; do
    token=${attempts[at]##*/} leader=${guards[at]% *}
    if [ -n "${live[$token]}" ] || { [ "$leader" -gt 1 ] && [ -n "${sessions[leader]}" ] &&
      [[ ${start_of[leader]:-${guards[at]#* }} = "${guards[at]#* }" ]]; }; then
      printf '%s lives\n' "$at"
    else
      left+=("$at")
    fi
  done
}
attempts=("$@") guards=() left=()
claim_form='"pid": ?([0-9]+), ?"start": ?([0-9]+)' place_form='"namespace": ?"([0-9]*)"'
for at in "${!attempts[@]}"; do
  markers "$at" "${attempts[at]}"
  [ -z "$over" ] || continue
  guards[at]=${hints[at]}
  [[ $claimed =~ $claim_form ]] && guards[at]="${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
  [ "${guards[at]}" = '0 0' ] && [ -z "$claimed" ] && continue
  # where pids are counted apart, only the lock tells
  if [[ ! $claimed =~ $place_form || ${BASH_REMATCH[1]} = "$namespace" ]] &&
    lives ${guards[at]}; then
    printf '%s guard\n' "$at"
  else
    lock_of "$at" "${attempts[at]}"
    left+=("$at")
  fi
done
if [ ${#left[@]} -gt 0 ]; then
  seek "${left[@]}"
  [ ${#left[@]} -eq 0 ] || sleep 0.02
  seek "${left[@]}"
  for at in "${left[@]}"; do
    printf '%s gone\n' "$at"
    marker "$at" exit "${attempts[at]}/exit.json"
  done
fi
exit 0
"""

_MARK: Final = r"""
scratch=$1 workdir=$2 attempt=$3 lock_wait=$4
need flock realpath ln
need_inside "$workdir" "$scratch"
facts=$(place) && echo "$facts" && read -r _ host boot namespace machine <<< "$facts"
locked "$attempt" "$lock_wait"
mark() {  # the claim is the last word: a copy of the job that is on its way finds it taken
  local mine=$attempt/started.mine.$$ now=${EPOCHREALTIME:-$(date +%s.%N)}
  [ -e "$attempt/cancelled" ] || [ -L "$attempt/cancelled" ] || : > "$attempt/cancelled" || exit 1
  [ ! -e "$attempt/started" ] && [ ! -L "$attempt/started" ] || return
  printf '{"pid":0,"start":0,"host":"%s","boot":"%s","machine":"%s","namespace":"%s",%s' \
    "$host" "$boot" "$machine" "$namespace" "\"epoch\":${now/,/.},\"limit\":0}"$'\n' \
    > "$mine" || exit 1
  ln -T -- "$mine" "$attempt/started"
  rm -f -- "$mine"
  [ -e "$attempt/started" ] || exit 1
}
[ -e "$attempt/exit.json" ] || mark
markers 0 "$attempt"
[ -n "$over" ] || lock_of 0 "$attempt"
exit 0
"""

# see `wlm_tasks.compute.stopping`: a call does what is due and leaves soon, the notes in the file
# `asked` say who was told and since when; only a call near the end of the grace stays for it
_STOP: Final = r"""
attempt=$1 token=$2 leader=$3 leader_start=$4 signal=$5 grace=$6 wait=$7 begun=$8
asked=$attempt/asked
declare -A told=() told_pids=()
since=
of_leader() {  # PID: session 0, of init and the kernel, is nobody's
  [ "$leader" -gt 1 ] && [ "${session_of[$1]}" = "$leader" ] &&
    [ "${start_of[leader]:-$leader_start}" = "$leader_start" ]
}
members() {  # `found`: start time by pid; empty only after two looks
  local look pid more
  for look in 1 2; do
    scan
    found=()
    for pid in "${!start_of[@]}"; do
      if [ "${token_of[pid]}" = "$token" ] || of_leader "$pid"; then
        found[pid]=${start_of[pid]}
      fi
    done
    more=${#found[@]}
    while ((more > 0)); do
      more=0
      for pid in "${!parent_of[@]}"; do
        [ -z "${found[pid]}" ] && [ -n "${found[parent_of[pid]]}" ] || continue
        found[pid]=${start_of[pid]} more=1
      done
    done
    # what holds init or this very command is no job: better nobody is signalled
    [ -z "${found[1]}${found[$$]}${found[PPID]}" ] || { echo "$token: not a job" >&2; exit 75; }
    [ ${#found[@]} -eq 0 ] || return
    [ $look = 2 ] || sleep 0.02
  done
}
read_asked() {
  local word one two
  [ -f "$asked" ] && [ ! -L "$asked" ] || return
  while read -r word one two; do
    if [[ $word = since && -z $since && $one =~ ^(-?)([0-9]+)(\.([0-9]+))?$ ]]; then
      two=${BASH_REMATCH[4]}00
      since=$((${BASH_REMATCH[1]}(10#${BASH_REMATCH[2]} * 100 + 10#${two:0:2})))
      uptime_cs
      ((since <= now)) || since=  # noted before the host was restarted, if it is yet to come
    elif [[ $word = told && $one =~ ^[0-9]+$ && $two =~ ^[0-9]+$ ]]; then
      told[$one $two]=1 told_pids[$one]=1
    fi
  done < "$asked"
}
note() {  # a line of its own, also behind one that was left unfinished
  [ ! -L "$asked" ] && { [ ! -e "$asked" ] || [ -f "$asked" ]; } && printf '\n%s\n' "$1" >> "$asked"
}
stays() {  # the guard and its `timeout` end by themselves and leave the evidence
  local words=()
  [ "$1" = "$leader" ] && [ "${found[$1]}" = "$leader_start" ] && return
  mapfile -d '' words < "/proc/$1/cmdline"
  [ ${#words[@]} -gt 0 ] && [ "${words[-1]}" = "$attempt/payload.sh" ] &&
    [ "${words[0]##*/}" = timeout ]
} 2> /dev/null
untold() {  # not what a process starts on its way out
  local pid
  new=()
  for pid in "${!found[@]}"; do
    [ -n "${told[$pid ${found[pid]}]}" ] || [ -n "${told_pids[${parent_of[pid]:-0}]}" ] ||
      stays "$pid" || new+=("$pid")
  done
}
send() {  # SIGNAL PID...: to those that are still what they were
  local number=$1 pid
  shift
  for pid; do
    lives "$pid" "${found[pid]}" && kill "-$number" "$pid"
  done
} 2> /dev/null
ask() {
  local pid
  untold
  [ -z "$since" ] || [ ${#new[@]} -gt 0 ] || return
  locked "$attempt" "$((wait / 100 + 1))"  # another may be at it
  read_asked
  if [ -z "$since" ]; then
    uptime_cs
    since=$now
    # on a full disk, the mark's own time begins the grace
    note "since $((now / 100)).$(printf %02d $((now % 100)))" ||
      since=$((now - 100 * ($(date +%s) - $(stat -c %Y -- "$attempt/cancelled"))))
  fi
  untold
  for pid in "${new[@]}"; do
    note "told $pid ${found[pid]}"
    told[$pid ${found[pid]}]=1 told_pids[$pid]=1
  done
  unlocked
  send "$signal" "${new[@]}"
  send CONT "${new[@]}"  # stopped processes act on a signal only when they go on
  spoke=1
}
go_on() {  # what is due; sets `left`, the rest of the grace, and `spoke`
  local pid doomed=()
  spoke=0 left=$grace
  uptime_cs
  [ -z "$since" ] || left=$((since + grace - now))
  if ((left > 0)); then
    ask
    return
  fi
  for pid in "${!found[@]}"; do
    ((-left > 150)) || [ "$pid" != "$leader" ] || continue
    doomed+=("$pid")
  done
  send KILL "${doomed[@]}"
  spoke=1
}
worth() {  # how long a call stays when so much of the grace is left
  if ((left > 400)); then
    stay=$((spoke * 100))
  else
    stay=$((left + 200 > 100 ? left + 200 : 100))
  fi
  ((stay <= wait)) || stay=$wait
}
end_it() {
  local entered end= pause=5 rest nap
  uptime_cs
  entered=$now
  read_asked
  while members; [ ${#found[@]} -gt 0 ]; do
    go_on
    [ -n "$end" ] || { worth; end=$((entered + stay)); }
    uptime_cs
    rest=$((end - now))
    ((rest > 0)) || return 1
    ((left <= 0 || rest <= left)) || rest=$left
    nap=$((pause < rest ? pause : rest))
    sleep "$((nap / 100)).$(printf %02d $((nap % 100)))"
    ((left > pause)) && pause=$((pause * 3 / 2 < 50 ? pause * 3 / 2 : 50)) || pause=5
  done
}
record() {  # the evidence that the job's own guard could not write, unless it did
  local mine=$attempt/exit.json.mine.$$ now=${EPOCHREALTIME:-$(date +%s.%N)}
  [ -e "$attempt/exit.json" ] && return
  printf '{"code":null,"start":%s,"end":%s,"reason":"cancelled"}\n' "$begun" "${now/,/.}" \
    > "$mine" || exit 1
  ln -T -- "$mine" "$attempt/exit.json" || [ -e "$attempt/exit.json" ] || exit 1
  rm -f -- "$mine"
}
end_it || exit 0
locked "$attempt" "$((wait / 100 + 1))"
record
echo ended
"""

SUBMIT: Final = _FUNCTIONS + _SUBMIT
STATUS: Final = _FUNCTIONS + _STATUS
MARK: Final = _FUNCTIONS + _MARK
STOP: Final = _FUNCTIONS + _STOP
