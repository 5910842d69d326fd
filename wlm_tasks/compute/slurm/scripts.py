"""The bash that runs on the host where Slurm's commands are.

Each of these texts runs in one go, behind `wlm_tasks.compute.remote.LIBRARY`, and answers on its
standard output; what Slurm's commands have to say of faults is on the standard error. ``: point``
lines do nothing: they number the places between which a kill must do no harm, and campaigns kill
there.

Files it adds to those of an attempt (`wlm_tasks.compute.attempt`):

========== ==============================================================================
intent     there before ``sbatch`` is called: from then on a job may exist; a word of the call
           and, if the call was for an array, its name and the job's index in it
jobid      the id that ``sbatch`` gave; in an array ``BASE_INDEX``
absent     since when answers of Slurm have not listed the job, in seconds of the file system
slurm.log  what Slurm itself has to say about the job
========== ==============================================================================
"""

from __future__ import annotations

import shlex
from typing import Final

from wlm_tasks.compute.guard import BODY

#: functions of all of them; of a job that may be in an array the variables `array` and `index` tell
#: its name and the job's place there, else they are empty
COMMON: Final = r"""
kept=()
for name in PATH HOME USER LOGNAME SHELL LANG SLURM_CONF KRB5CCNAME \
  SBATCH_ACCOUNT SBATCH_PARTITION SBATCH_QOS SBATCH_RESERVATION SBATCH_CONSTRAINT; do
  [ -z "${!name-}" ] || kept+=("$name=${!name}")
done
# Without the caller's variables: they would go on into the job, and those that begin with SBATCH_
# or SQUEUE_ would make an array of it or hide it. Descriptor 9 is the lock: it goes to sbatch.
slurm() { env -i "${kept[@]}" "$@"; }
asked() { slurm SLURM_TIME_FORMAT=%s "$@" 9>&-; }
answer() { printf '%s\n' "$*"; exit 0; }
lock() { exec 9>> lock && flock -w 30 9 || answer busy; }
job_of_claim() {  # `claimed` is the claim's text
  job=
  [[ $claimed =~ \"job\":\"([0-9]+(_[0-9]+)?)\" ]] && job=${BASH_REMATCH[1]}
}
is_id() { [[ $1 =~ ^[0-9]+(_[0-9]+)?$ ]]; }
is_ours() {  # ID NAME: whether a job of a list is the one; `base` is the number of its array
  [[ -z $array || $2 != "$array" ]] || base=${1%%_*}
  [[ $2 == "$token" && $1 =~ ^[0-9]+$ || -n $array && $2 == "$array" && $1 == *_"$index" ]]
}
read_line() { line=; [ ! -f "$1" ] || IFS= read -r line < "$1" || :; }
listing() {  # what Slurm lists of the job and of its array: id, state, name
  # one line for each task of an array, whether it was begun or not
  asked squeue -h -a -r -t all -u "$EUID" --name="$token${array:+,$array}" -o '%i %T %j'
}
known_id() {  # the job of this name that lives, else the newest: what Slurm refused it lists, too
  local number state name
  found=$(listing) || answer failed squeue
  id= base=
  while read -r number state name; do
    is_ours "$number" "$name" || continue
    if [[ $ended != *"|$state|"* ]]; then
      id=$number
      return
    fi
    [[ -n $id ]] && ((${number%%_*} < ${id%%_*})) || id=$number
  done <<< "$found"
}
settle() {  # seconds in which what was sent before an answer is sure to have been dealt with
  local text
  text=$(asked scontrol show config) || return
  [[ $text =~ MessageTimeout\ +=\ ([0-9]+) ]] || return
  settle=$((BASH_REMATCH[1] * 3 / 2))
  ((settle >= 3)) || settle=3
}
missing() {  # DIRECTORY: seconds for which answers have not listed its job
  # by the file system's clock: login nodes may differ, and so may one that is set anew
  local now last since=
  : > "$1/look" && now=$(stat -c %Y -- "$1/look") || return
  if last=$(stat -c %Y -- "$1/absent" 2> /dev/null) && ((now - last <= 900)); then
    read -r since < "$1/absent"
  fi
  [[ $since =~ ^[0-9]+$ ]] && ((since <= now)) || since=$now
  printf '%s\n' "$since" > "$1/absent"
  missing=$((now - since))
}
take_claim() {  # so that nothing ever runs: as the guard does it, with a pid that nobody has
  local host boot machine namespace
  [ ! -e started ] || return 0
  read -r _ host boot namespace machine < <(place)
  printf '{"pid":0,"start":0,"boot":"%s","host":"%s","machine":"%s","namespace":"%s",' \
    "$boot" "$host" "$machine" "$namespace" > "nobody.$$" &&
    printf '"epoch":%(%s)T,"limit":0,"alive":""}\n' -1 >> "nobody.$$" || exit 1
  ln -T "nobody.$$" started 2> /dev/null
  rm -f "nobody.$$"
  [ -e started ] || { : < started; exit 1; }
}
"""

#: arguments: WORKDIR SCRATCH TOKEN WORD PAYLOAD HEAD ENDED ARRAY INDEX OPTION...; HEAD is that of
#: the job's script, ENDED is "|A|B|"
SUBMIT: Final = (
    COMMON
    + f"guard={shlex.quote(BODY)}"
    + r"""
token=$3 word=$4 payload=$5 head=$6 ended=$7 array=$8 index=$9
cd -P -- "$2" && root=$PWD && cd -P -- "$1" || exit 1
[[ $PWD == "${root%/}"/?* ]] || exit 65
[ -d ".wlm/$token" ] || mkdir -- ".wlm/$token" 2> /dev/null || mkdir -p -- ".wlm/$token" || exit
cd -- ".wlm/$token" || exit
shift 9
lock
: point locked
[ ! -e cancelled ] || answer cancelled
read_line jobid
! is_id "$line" || answer known "$line"
read_line started
claimed=$line
job_of_claim
[ -z "$job" ] || answer known "$job"
[[ ! $claimed =~ \"pid\":\ ?0, ]] || answer over
if [ -e intent ]; then
  # an earlier call died, or lost its answer, after this: look, and do nothing else
  read_line intent
  [[ $line == *" $array $index" ]] || array= index=  # it was not sent in its array
  known_id
  : point looked
  read_line started  # after the list: who has left the list has claimed
  claimed=$line
  job_of_claim
  # who finds anything of the array finds all of it: it was taken in one piece
  id=${job:-${id:-${base:+${base}_$index}}}
  if [ -z "$id" ]; then
    if found=$(asked sacct -nXP -S now-30days -u "$EUID" --name="$token${array:+,$array}" \
      -o JobID,JobName 2>&1); then
      while IFS='|' read -r number name; do
        is_ours "$number" "$name" || continue
        [[ -n $id ]] && ((${number%%_*} < ${id%%_*})) || id=$number
      done <<< "$found"
      id=${id:-${base:+${base}_$index}}
    elif [[ $found != *"accounting storage is disabled"* ]]; then
      printf '%s\n' "$found" >&2
      answer failed sacct
    fi
  fi
  if is_id "$id"; then
    printf '%s\n' "$id" > jobid
    answer known "$id"
  fi
  settle || answer failed scontrol
  missing . || exit 1
  ((missing > settle)) || answer undecided "$settle"
  rm -f absent
fi
new=
[ ! -e intent ] || new=.new  # the first job may come after all, and be reading the old ones
printf '%s\n' "$payload" > "payload.sh$new" && printf '%s' "$head$guard" > "job.sh$new" || exit 1
[ -z "$new" ] || { mv -fT payload.sh.new payload.sh && mv -fT job.sh.new job.sh; } || exit 1
: point written
printf '%s\n' "$word" > intent || exit 1
: point intended
id=$(exec env -i "${kept[@]}" sbatch --parsable "$@" job.sh < /dev/null) || answer failed sbatch
: point submitted
id=${id%%;*}  # "ID;CLUSTER" on federations
[[ $id =~ ^[0-9]+$ ]] || { printf 'no id: %s\n' "$id" >&2; answer failed sbatch; }
printf '%s\n' "$id" > jobid
: point recorded
answer known "$id"
"""
)

#: takes intents back whose sbatch was certainly refused; arguments: WORD ATTEMPT...
WITHDRAW: Final = (
    COMMON
    + r"""
word=$1
shift
for attempt; do
  cd -- "$attempt" || exit
  lock
  read_line intent
  [ "${line%% *}" != "$word" ] || rm -f intent
done
answer withdrawn
"""
)

#: arguments: MARK FORMAT
LIST: Final = (
    COMMON
    + r"""
asked squeue -h -a -r -t all -u "$EUID" -o "$2"
"""
)

#: arguments: SCRATCH MARK MISSING FIELDS NAMES ATTEMPT...; of the first MISSING no job is listed
TRACES: Final = (
    COMMON
    + r"""
scratch=$1 mark=$2 count=$3 fields=$4 names=$5
shift 5
[ -d "$scratch" ] || { cd -- "$scratch" || exit 1; }
place
used_up_memory() {  # FILE: whether Slurm says so there, with cgroups or without
  local text=
  [ -f "$1" ] && [ -s "$1" ] && IFS= read -r -d '' -n 65536 text < "$1"
  [[ $text == *"xceeded "*"memory limit"* || $text == *oom[_-]kill* ]]
}
index=0 searched=
for attempt; do
  markers "$index" "$attempt"
  job_of_claim
  [ -z "$job" ] || printf '%s job %s\n' "$index" "$job"
  ! used_up_memory "$attempt/slurm.log" || printf '%s memory\n' "$index"
  if [ -z "$over" ] && [ -d "$attempt" ] && ((index < count)); then
    missing "$attempt" && printf '%s missing %s\n' "$index" "$missing"
    searched=1
  fi
  index=$((index + 1))
done
[ -n "$searched" ] || exit 0
settle || settle=15
printf 'settle %s\n' "$settle"
if found=$(asked sacct -nXP --delimiter="$mark" -S now-30days -u "$EUID" --name="$names" \
  -o "$fields" 2>&1); then
  while IFS= read -r line; do printf 'account %s\n' "$line"; done <<< "$found"
elif [[ $found != *"accounting storage is disabled"* ]]; then
  printf 'silent\n'
fi
exit 0
"""
)

#: ends for certain what never began; arguments: ATTEMPT...
BURY: Final = (
    COMMON
    + r"""
for attempt; do
  # whoever has the lock is at work on it; and what is wrong with one is left to it
  (cd -- "$attempt" && exec 9>> lock && flock -n 9 && take_claim)
done
answer buried
"""
)

#: arguments: ATTEMPT TOKEN ENDED ARRAY INDEX
FIND: Final = (
    COMMON
    + r"""
token=$2 ended=$3 array=$4 index=$5
cd -- "$1" 2> /dev/null || answer none
read_line started
claimed=$line
job_of_claim
[ -z "$job" ] || answer known "$job"
[[ ! $claimed =~ \"pid\":\ ?0, ]] || answer none
read_line jobid
! is_id "$line" || answer known "$line"
known_id
[ -z "$id" ] || answer known "$id"
answer none
"""
)

#: arguments: WORKDIR SCRATCH TOKEN SIGNAL GRACE WAIT ENDED ARRAY INDEX
CANCEL: Final = (
    COMMON
    + r"""
token=$3 signal=$4 grace=$5 until=$((SECONDS + $6)) ended=$7 array=$8 index=$9
need_inside "$1" "$2"
mkdir -p -m 700 -- "$1/.wlm/$token" && cd -- "$1/.wlm/$token" || exit
lock
if [ ! -s exit.json ]; then
  : >> cancelled || exit 1
  take_claim
fi
exec 9>&-
read_line started
claimed=$line
began=1
[[ ! $claimed =~ \"pid\":\ ?0, ]] || began=

listed() {  # whether Slurm still has something of it; sets `seen` if it knows the job at all
  local number state name
  seen='' ids=()
  found=$(listing) || answer failed squeue
  while read -r number state name; do
    is_ours "$number" "$name" || continue
    seen=1
    [[ $ended == *"|$state|"* ]] || ids+=("$number")
  done <<< "$found"
  ((${#ids[@]}))
}
signalled() {  # OPTION...: what was listed, else by the name; without either all would be meant
  # never with an option that chooses: scancel then takes an array that waits as a whole
  if ((${#ids[@]})); then
    asked scancel --quiet "$@" "${ids[@]}"
  else
    asked scancel --quiet "$@" -u "$EUID" --name="$token"
  fi
}
stop() {  # the job's own signal first, once, and after the grace whatever ends it
  local since now
  if [ -s exit.json ]; then
    # it ends by itself, and sooner than if Slurm were to end it now
    : > look && now=$(stat -c %Y look) && since=$(stat -c %Y exit.json) || exit 1
    ((now < since || now - since > 5)) || return 0
  fi
  if [ -n "$began" ] && [ ! -e exit.json ] && [ "$signal" != KILL ]; then
    : > look && now=$(stat -c %Y look) || exit 1
    read_line asked
    since=$line
    if [[ ! $since =~ ^[0-9]+$ ]]; then
      printf '%s\n' "$now" > asked
      signalled --batch --signal="$signal"
      return
    fi
    ((now - since > grace)) || return
  fi
  signalled
}
gone() {
  listed && return 1
  [ -n "$began" ] && [ ! -s exit.json ] && [ -z "$seen" ] || return 0
  # it began, and an answer that does not list it proves nothing
  settle || answer failed scontrol
  missing . && ((missing > settle))
}
while ! gone; do
  ((SECONDS < until)) || answer lives
  stop >&2
  sleep 0.3
done
lock
if [ ! -s exit.json ]; then
  began=null
  [[ ! $claimed =~ \"epoch\":\ ?([0-9.]+), ]] || began=${BASH_REMATCH[1]}
  [[ ! $claimed =~ \"pid\":\ ?0, ]] || began=null
  printf '{"code":null,"start":%s,"end":%(%s)T,"reason":"cancelled"}\n' "$began" -1 > ended.new &&
    mv -f ended.new exit.json
fi
answer over
"""
)
