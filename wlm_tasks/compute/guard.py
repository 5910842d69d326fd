"""The text of the guard, the bash script around every payload.

It needs bash 4.4, coreutils and ``/proc``, so that it can serve any Linux host. What it does, in
order: claims the attempt by link(2), or leaves; runs the payload under ``timeout``, which keeps
the time limit even when the guard is killed; ends what the payload left behind; renames
``exit.json`` into place; rings the bells. `wlm_tasks.compute.job_script` fills in the ``@NAMES@``.
It inherits the open file that `wlm_tasks.compute.alive` is about, and so does all that it starts.
"""

from __future__ import annotations

from typing import Final

#: what differs from job to job
HEAD: Final = r"""#!/bin/bash
# The guard of one job, made by wlm_tasks. Arguments, if the caller knows them: the pid namespace;
# the file that is locked as long as an inherited descriptor of it is open, as DEVICE:INODE.
# The names of variables begin with wlm_, since some may be exported where this is started.
wlm_token=@TOKEN@
wlm_workdir=@WORKDIR@
wlm_attempt=@ATTEMPT@
wlm_bells=@BELLS@
wlm_walltime=@WALLTIME@
wlm_walltime_cs=@WALLTIME_CS@
wlm_grace=@GRACE@
wlm_grace_ds=@GRACE_DS@
wlm_limit=@LIMIT@

variables() {
  :
@VARIABLES@
}
"""

#: what does not; sites that are far get it once for many jobs
BODY: Final = r"""
now() {
  wlm_stamp=${EPOCHREALTIME:-$(date +%s.%N)}
  wlm_stamp=${wlm_stamp/,/.}
}

uptime_cs() {  # hundredths of a second on a clock that nobody sets
  local rest
  read -r wlm_uptime rest < /proc/uptime
  wlm_uptime=${wlm_uptime/./}
}

identify() {
  local line
  read -r line < "/proc/$$/stat"
  line=(${line##*) })
  wlm_start=${line[19]}
  read -r wlm_boot < /proc/sys/kernel/random/boot_id
  read -r wlm_host < /proc/sys/kernel/hostname
  wlm_host=${wlm_host//[^A-Za-z0-9._-]/}
  wlm_machine=
  [ -r /etc/machine-id ] && read -r wlm_machine < /etc/machine-id
  wlm_namespace=${1:-$(readlink "/proc/$$/ns/pid")}
  wlm_namespace=${wlm_namespace//[^0-9]/}
  wlm_alive=${2-}
  wlm_alive=${wlm_alive//[^0-9:]/}
  wlm_job=${SLURM_JOB_ID-}
  # what people, squeue and scancel call it, and not the number of its own it has, too
  [ -z "${SLURM_ARRAY_TASK_ID-}" ] || wlm_job=${SLURM_ARRAY_JOB_ID-}_$SLURM_ARRAY_TASK_ID
  wlm_job=${wlm_job//[^0-9_]/}
}

claim() {  # a hard link appears whole and only once; whether it is ours tells the inode
  now
  wlm_begun=$wlm_stamp
  wlm_mine=$wlm_attempt/claim.${wlm_boot:0:8}.$$.$wlm_start
  wlm_record=$wlm_attempt/exit.${wlm_boot:0:8}.$$.$wlm_start
  printf '{"pid":%s,"start":%s,"boot":"%s","host":"%s","machine":"%s",' \
    "$$" "$wlm_start" "$wlm_boot" "$wlm_host" "$wlm_machine" > "$wlm_mine" || exit
  printf '"namespace":"%s","epoch":%s,"limit":%s,"alive":"%s","job":"%s"}\n' \
    "$wlm_namespace" "$wlm_begun" "$wlm_limit" "$wlm_alive" "$wlm_job" >> "$wlm_mine" || exit
  # room for the evidence while there is any: the payload may fill the disk
  printf '%255s\n' '' > "$wlm_record" || exit
  ln -T "$wlm_mine" "$wlm_attempt/started" 2> /dev/null
  [ "$wlm_mine" -ef "$wlm_attempt/started" ] && return
  if [ -e "$wlm_attempt/started" ]; then
    printf '%s %s %s\n' "$wlm_host" "$$" "$wlm_begun" >> "$wlm_attempt/duplicates"
  else
    ln -T "$wlm_mine" "$wlm_attempt/started"  # once more, for the message
    [ "$wlm_mine" -ef "$wlm_attempt/started" ] && return
  fi
  stay
  rm -f "$wlm_mine" "$wlm_record"
  exit
}

stay() {  # as long as the first copy of this very job lives on this host, then judge it
  local line pattern='"pid":([0-9]+),"start":([0-9]+),"boot":"([^"]*)".*"namespace":"([0-9]*)"'
  pattern+=',"epoch":([0-9.]+),.*"job":"([0-9_]+)"'
  # Slurm launches a job again, under the same id, when its controller lost its memory. Were this
  # copy to leave at once, the job would be over for Slurm, and it would end the first one.
  read -r line < "$wlm_attempt/started"
  [[ $line =~ $pattern ]] && [ "${BASH_REMATCH[6]}" = "$wlm_job" ] || return
  [ "${BASH_REMATCH[3]}:${BASH_REMATCH[4]}" = "$wlm_boot:$wlm_namespace" ] || return
  while lives "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"; do sleep 0.5; done
  [ ! -e "$wlm_attempt/exit.json" ] || return
  wlm_begun=${BASH_REMATCH[5]}
  wlm_code=null
  wlm_reason='ended by Slurm, which then launched it again; it was not run a second time'
  sweep
  finish
}

lives() {  # PID START
  local stat=
  IFS= read -r -d '' stat < "/proc/$1/stat"
  stat=(${stat##*) })
  [ "${stat[19]-}" = "$2" ]
} 2> /dev/null

leftovers() {  # sets `wlm_left` to what has the token or is of this session, this shell excepted
  local dir pid stat entries IFS=$'\x1f'
  wlm_left=()
  for dir in /proc/[0-9]*; do
    pid=${dir#/proc/}
    [ "$pid" = $$ ] && continue
    stat=  # up to its end, not its first line: a name may hold anything
    IFS= read -r -d '' stat < "$dir/stat"
    if [[ ${stat##*) } =~ ^[^ZX]\ [0-9]+\ [0-9]+\ $$\  ]]; then
      wlm_left+=("$pid")
      continue
    fi
    entries=()
    mapfile -d '' entries < "$dir/environ"
    [[ "$IFS${entries[*]}$IFS" == *"${IFS}WLM_JOB_TOKEN=$wlm_token$IFS"* ]] && wlm_left+=("$pid")
  done 2> /dev/null
}

sweep() {  # ends what outlived the payload; a cancel has sent its own signal before
  local tenths=0 pause=1
  leftovers
  [ ${#wlm_left[@]} -eq 0 ] && return
  [ -e "$wlm_attempt/cancelled" ] || kill -TERM "${wlm_left[@]}" 2> /dev/null
  while [ ${#wlm_left[@]} -gt 0 ] && [ $tenths -lt "$wlm_grace_ds" ]; do
    sleep "0.$pause"
    tenths=$((tenths + pause))
    [ $pause -lt 5 ] && pause=$((pause + 1))  # a look costs, and the grace may be long
    leftovers
  done
  tenths=0
  while [ ${#wlm_left[@]} -gt 0 ] && [ $tenths -lt 20 ]; do
    kill -KILL "${wlm_left[@]}" 2> /dev/null
    sleep 0.1
    tenths=$((tenths + 1))
    leftovers
  done
}

ring() {  # dd neither waits for a listener nor makes a file where a bell was
  local bell
  [ -n "$wlm_bells" ] || return
  for bell in "$wlm_bells"/*.bell; do
    [ -p "$bell" ] && dd of="$bell" oflag=nonblock conv=notrunc,nocreat status=none <<< "$wlm_token"
  done 2> /dev/null
}

finish() {
  local line
  trap - EXIT
  trap '' TERM HUP INT
  now
  printf -v line '{"code":%s,"start":%s,"end":%s,"reason":"%s"}' \
    "$wlm_code" "$wlm_begun" "$wlm_stamp" "$wlm_reason"
  printf '%-255s\n' "$line" 1<> "$wlm_record" && mv -fT "$wlm_record" "$wlm_attempt/exit.json"
  ring
  rm -f "$wlm_mine"
}

judge() {
  if [ -e "$wlm_attempt/cancelled" ]; then
    wlm_reason=cancelled
  elif [[ $wlm_code = 124 || $wlm_code = 137 ]] && \
    [ $((wlm_uptime - wlm_begin_cs)) -ge "$wlm_walltime_cs" ]; then
    wlm_reason=walltime
  elif [ "$wlm_code" -gt 128 ]; then
    wlm_reason=signal
  else
    wlm_reason=exit
  fi
}

others() {  # sets `wlm_group` to the payload's group, its `timeout` excepted
  local dir stat
  wlm_group=()
  for dir in /proc/[0-9]*; do
    [ "${dir#/proc/}" != "$wlm_payload" ] || continue
    stat=
    IFS= read -r -d '' stat < "$dir/stat"
    [[ ${stat##*) } =~ ^[^ZX]\ [0-9]+\ $wlm_payload\  ]] && wlm_group+=("${dir#/proc/}")
  done 2> /dev/null
}

pass_on() {  # once to each: from `timeout` all would get it again, and a second one may abort
  wlm_stopped_by=$1
  [ -n "$wlm_payload" ] || return
  others
  kill "-$1" "${wlm_group[@]:-$wlm_payload}" 2> /dev/null
  # stopped processes act on a signal only when they go on
  kill -CONT "${wlm_group[@]:-$wlm_payload}" 2> /dev/null
  [ -z "$wlm_patience" ] || return
  (read -r -t "$wlm_grace" <> <(:) || kill -KILL -- "-$wlm_payload") &
  wlm_patience=$!
}

run() {
  wlm_payload=
  wlm_patience=
  wlm_stopped_by=
  trap 'pass_on TERM' TERM
  trap 'pass_on HUP' HUP
  trap 'pass_on INT' INT
  uptime_cs
  wlm_begin_cs=$wlm_uptime
  set -m  # a process group of its own from the start, for pass_on
  (
    exec >> "$wlm_attempt/stdout" 2>> "$wlm_attempt/stderr"
    set -- "$wlm_timeout" -k "$wlm_grace" "$wlm_walltime" "$BASH" "$wlm_attempt/payload.sh"
    variables  # from here on no name of ours means what it did
    exec "$@"
  ) &
  wlm_payload=$!
  set +m
  [ -z "$wlm_stopped_by" ] || [ -n "$wlm_patience" ] || pass_on "$wlm_stopped_by"
  local again
  while wait "$wlm_payload"; wlm_code=$?; kill -0 "$wlm_payload" 2> /dev/null; do :; done
  wait "$wlm_payload"  # again: the first may have been cut short by a signal to this shell
  again=$?
  [ "$again" -lt 0 ] || wlm_code=$again  # -1: bash has forgotten it, as it may after a signal
  wlm_payload=  # from now on nothing is passed on: its number may be another's
  uptime_cs
  [ -z "$wlm_patience" ] || kill -KILL "$wlm_patience" 2> /dev/null
}

main() {
  exec < /dev/null >> "$wlm_attempt/job.log" 2>&1 || exit
  hash timeout mv rm ln
  wlm_timeout=${BASH_CMDS[timeout]-timeout}
  identify "$@"
  claim
  wlm_code=null
  wlm_reason='ended before its payload was started'
  trap finish EXIT
  if [ -e "$wlm_attempt/cancelled" ]; then
    wlm_reason=cancelled
    exit
  fi
  cd "$wlm_workdir" || exit
  run
  sweep
  judge
  exit "$wlm_code"
}
main "$@"
exit
"""
