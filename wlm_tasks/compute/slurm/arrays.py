"""Many jobs by one ``sbatch``: the members of an array, what is asked for them and answered.

The script runs as those of `wlm_tasks.compute.slurm.scripts` do. It takes only attempts of which
nothing is known yet; for the others, and whenever it was cut short, each member goes the way of a
single job, whose look finds the array by its name.

Below ``.wlm-arrays/NAME`` in the site's scratch directory there are, for each array:

========= ===============================================================================
array.sh  what Slurm got: each task becomes the job of its number
N.log     a link to ``slurm.log`` of the attempt number N, where Slurm writes of its faults
========= ===============================================================================
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from wlm_tasks.compute.guard import BODY
from wlm_tasks.compute.slurm.scripts import COMMON

#: where the directories of arrays are, below a site's scratch directory
DIRECTORY: Final = ".wlm-arrays"
#: most tasks of one array: the script holds a lock of each, of 1024 files it may open as a rule
MOST: Final = 500
#: how many characters of scripts one call takes at most
TEXT_LIMIT: Final = 4_000_000

#: arguments: SCRATCH ARRAY WORD OPTIONS OPTION... and for each member INDEX WORKDIR TOKEN PAYLOAD
#: HEAD; OPTIONS is the number of options
SUBMIT_ARRAY: Final = (
    COMMON
    + f"guard={shlex.quote(BODY)}\ndirectory={DIRECTORY}"
    + r"""
cd -P -- "$1" && root=$PWD || exit 1
array=$2 word=$3 options=("${@:5:$4}")
shift $((4 + $4))
directory=${root%/}/$directory/$array
mkdir -p -- "$directory" && [ -w "$directory" ] || exit 1
tasks= places= attempts=()
enter() {  # WORKDIR TOKEN: the attempt's directory, with its lock; false unless nothing is known
  cd -P -- "$1" 2> /dev/null && [[ $PWD == "${root%/}"/?* ]] || return
  [ -d ".wlm/$2" ] || mkdir -p -- ".wlm/$2" || return
  cd -- ".wlm/$2" || return
  exec {held}>> lock && flock -n "$held" || return
  : point locked
  [ ! -e cancelled ] && [ ! -e jobid ] && [ ! -e started ] && [ ! -e intent ]
}
write() {  # PAYLOAD HEAD
  printf '%s\n' "$1" > payload.sh && printf '%s' "$2$guard" > job.sh &&
    ln -sfT -- "$PWD/slurm.log" "$directory/$index.log"
}
while (($#)); do
  index=$1 held=
  if enter "$2" "$3" && write "$4" "$5"; then
    tasks+=${tasks:+,}$index
    printf -v place '[%s]=%q ' "$index" "$PWD"
    places+=$place
    attempts+=("$PWD")
  else
    [ -z "$held" ] || exec {held}>&-
    printf 'alone %s\n' "$index"
  fi
  shift 5
done
[ -n "$tasks" ] || answer done
cd -- "$directory" || exit
cat > array.sh << END || exit 1
#!/bin/bash
# Jobs of one array, made by wlm_tasks: a task becomes the job of its number.
wlm_attempts=($places)
exec /bin/bash "\${wlm_attempts[SLURM_ARRAY_TASK_ID]}/job.sh"
END
: point written
IFS=, read -r -a numbers <<< "$tasks"
for member in "${!attempts[@]}"; do
  printf '%s %s %s\n' "$word" "$array" "${numbers[member]}" > "${attempts[member]}/intent" || exit 1
  : point intending
done
: point intended
# the locks go to sbatch
id=$(exec env -i "${kept[@]}" sbatch --parsable "${options[@]}" --array="$tasks" array.sh \
  < /dev/null) || answer failed sbatch
: point submitted
id=${id%%;*}  # "ID;CLUSTER" on federations
[[ $id =~ ^[0-9]+$ ]] || { printf 'no id: %s\n' "$id" >&2; answer failed sbatch; }
for member in "${!attempts[@]}"; do
  printf '%s\n' "${id}_${numbers[member]}" > "${attempts[member]}/jobid"
  : point recording
done
: point recorded
answer known "$id"
"""
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the script has answered."""

    alone: frozenset[int]  #: members that it has not taken into the array
    end: str  #: the last line

    @classmethod
    def of(cls, out: str) -> Answer:
        """Return what an output tells."""
        lines = out.splitlines()
        alone = (line.removeprefix("alone ") for line in lines if line.startswith("alone "))
        return cls(frozenset(int(index) for index in alone), lines[-1] if lines else "")


def shorten(sizes: Iterable[int]) -> int:
    """Return how many of the first texts of these sizes one call takes: one at least."""
    total = 0
    count = 0
    for size in sizes:
        total += size
        if count and total > TEXT_LIMIT:
            break
        count += 1
    return count
