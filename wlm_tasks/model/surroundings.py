"""What comes before a job's commands: the fields for it, and the bash that they become.

A parameter may stand in the names of modules, environments and images. Such a text is checked with
a name in its place when it is written, and for good when it is filled (`NAMED`).

Each piece runs in the payload's own shell, so that what it sets lasts. The first that fails ends
the job, with a last line on standard error that begins with ``wlm:`` and names it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from wlm_tasks.model import checks
from wlm_tasks.model.checks import has_control, is_text, plain
from wlm_tasks.model.paths import PATH_LIMIT, inside, is_url, place
from wlm_tasks.model.template import Where, split

if TYPE_CHECKING:
    from wlm_tasks.model.experiment import Experiment

#: begins the line that names what failed; the texts below have it, too
SCRIPT_SAYS: Final = "wlm: "
#: most modules of an experiment
MODULES_LIMIT: Final = 100
_WORD: Final = r"[A-Za-z0-9_][A-Za-z0-9_.+@%=:,~/-]{0,254}"
_EXCLUSIVE: Final = "nothing beside conda: one environment can be active"

#: a tag or a digest of an image without a registry is no port
_TAGGED: Final = re.compile(r"([a-z][a-z0-9+.-]*://[^/@:]+)(@sha256)?:[A-Za-z0-9_][A-Za-z0-9_.-]*")

_one_module = checks.matching(
    _WORD, "the name of a module, such as 'lammps/2024', without blanks and shell characters"
)
_conda_name = checks.matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}",
    "the name of a conda environment, such as 'sim', or its absolute path",
)


def modules(value: object) -> list[object]:
    """Check for a list of names, whatever each of them is; a single text is not a list."""
    if not isinstance(value, list | tuple) or len(value) > MODULES_LIMIT:
        raise ValueError(f"a list of at most {MODULES_LIMIT} modules, such as ['lammps/2024']")
    return list(value)


def module(value: object) -> str:
    """Check for the name of a module, in which parameters may stand."""
    return _with_names(_one_module, value)


def conda(value: object) -> str:
    """Check for a conda environment, in whose name or path parameters may stand."""
    return _with_names(_one_conda, value)


def _with_names(check: Callable[[object], str], value: object) -> str:
    """Check a text as if there were names where its parameters are."""
    if not isinstance(value, str):
        return check(value)
    pieces = split(value, Where.TEXT)
    check("".join(piece if isinstance(piece, str) else "x" for piece in pieces))
    return plain(value)


def _one_conda(value: object) -> str:
    """Check for the name or the absolute path of a conda environment."""
    absolute = _absolute(value)
    return _conda_name(value) if absolute is None else absolute


def venv(value: object) -> str:
    """Check for a path of a virtual environment: absolute, or in the experiment's directory."""
    absolute = _absolute(value)
    return inside(value) if absolute is None else absolute


def beside_conda(value: str | None, other: object) -> str | None:
    """Check that there is at most one of `value`, a venv, and `other`, a conda environment."""
    if value is not None and other is not None:
        raise ValueError(_EXCLUSIVE)
    return value


def image(value: object) -> str:
    """Check for the image of a container: an absolute path, one in the directory, or a URL."""
    if isinstance(value, str) and is_url(value):
        tagged = _TAGGED.fullmatch(value)
        place(tagged[1] if tagged else value)
        return _plain_url(plain(value))
    absolute = _absolute(value)
    return inside(value) if absolute is None else absolute


def _plain_url(value: str) -> str:
    if " " in value:
        raise ValueError("a URL such as 'docker://debian:12'")
    return value


def _absolute(value: object) -> str | None:
    """Return an absolute path; None for what does not begin as one; `ValueError` for a bad one."""
    if not isinstance(value, str) or not value.startswith("/"):
        return None
    if not is_text(value) or has_control(value) or len(value) > PATH_LIMIT:
        raise ValueError(f"a path of at most {PATH_LIMIT} characters, none of them a control one")
    return plain(value)


#: fields whose names parameters may stand in, and the check of one without any
NAMED: Final[Mapping[str, Callable[[object], str]]] = {
    "modules": _one_module,
    "conda": _one_conda,
    "venv": venv,
    "image": image,
}

#: in front: whatever ends the shell before the commands is named. Of what fails in a function or
#: a sourced file the line that called it is told, which is the user's.
_HEAD: Final = r"""wlm_dir=$PWD wlm_at= wlm_code=0
wlm_ended() {  # CODE COMMAND
  [ "$1" != 0 ] || return 0
  local line=$2 depth=${#FUNCNAME[@]}
  if [ "$depth" -gt 2 ] && [ -f "$0" ]; then
    line=$(sed -n "${BASH_LINENO[depth - 2]}{s/^[[:space:]]*//p}" "$0")
  fi
  printf 'wlm: %s: %.500s: exit code %s\n' "$wlm_at" "$line" "$1" >&2
}
wlm_fail() {  # CODE WHY
  trap - EXIT
  printf 'wlm: %s: %.500s\n' "$wlm_at" "$2" >&2
  exit "$1"
}
trap 'wlm_ended "$?" "$BASH_COMMAND"' EXIT"""

#: what a command said on standard error goes there after it, and into the message if it failed
_TOLD: Final = r"""wlm_told() {
  local line first= error=
  while IFS= read -r line || [ -n "$line" ]; do
    printf '%s\n' "$line" >&2
    [[ $line != *[![:space:]]* ]] || first=${first:-$line}
    [[ ! $line =~ [Ee]rror|ERROR|not\ found ]] || error=${error:-$line}
  done < "$wlm_said"
  [ "$wlm_said" = /dev/null ] || rm -f -- "$wlm_said"
  # old versions of `module` fail with exit code 0
  [[ $wlm_code != 0 || ! $error =~ ERROR:[0-9]+: ]] || wlm_code=1
  line=${error:-$first}
  line=${line#"${line%%[![:space:]]*}"}
  [ "$wlm_code" = 0 ] || wlm_fail "$wlm_code" "${line:-exit code $wlm_code}"
}
wlm_listen() { wlm_code=0; wlm_said=$(mktemp) || wlm_said=/dev/null; }"""

#: shells that are no login shells often lack the function
_FIND_MODULE: Final = r"""wlm_at=modules
if ! type module > /dev/null 2>&1; then
  for wlm_file in "${LMOD_PKG:+$LMOD_PKG/init/bash}" "${MODULESHOME:+$MODULESHOME/init/bash}" \
    /etc/profile.d/modules.sh /etc/profile.d/z00_lmod.sh /etc/profile.d/lmod.sh \
    /usr/share/lmod/lmod/init/bash /usr/share/modules/init/bash; do
    if [ -r "$wlm_file" ]; then . "$wlm_file" || :; fi
    ! type module > /dev/null 2>&1 || break
  done
  type module > /dev/null 2>&1 || wlm_fail 127 "no command 'module' on $HOSTNAME: none of \
/etc/profile.d/modules.sh, z00_lmod.sh, \$MODULESHOME/init/bash and \$LMOD_PKG/init/bash has it"
fi"""

_FIND_CONDA: Final = r"""wlm_base=
if [ -n "${CONDA_EXE-}" ]; then
  wlm_base=${CONDA_EXE%/*/*}
elif type conda > /dev/null 2>&1; then
  wlm_base=$(conda info --base 2> /dev/null) || wlm_base=
fi
for wlm_base in "$wlm_base" ~/miniconda3 ~/miniforge3 ~/anaconda3 /opt/conda ''; do
  [ -z "$wlm_base" ] || [ ! -r "$wlm_base/bin/activate" ] || break
done
[ -n "$wlm_base" ] || wlm_fail 127 "no conda on $HOSTNAME: not by CONDA_EXE, not in PATH, \
~/miniconda3, ~/miniforge3, ~/anaconda3 or /opt/conda"
"""

#: what is behind this line is for the image
_MARK: Final = "# wlm: in the image"
#: The image's bash reads this very file, in a directory that it sees. No compound command is around
#: the lines: what they say of aliases and patterns holds for lines that are read after that.
_IN_IMAGE: Final = rf"""if [ "${{1-}}" = in-image ]; then
  shift
  wlm_text=$(< "$0")
  eval "${{wlm_text#*$'\n'{shlex.quote(_MARK)}$'\n'}}"
  exit
fi"""

_TAKE_BACK: Final = r"""# what fails from here on tells itself; a trap of the lines above stays
case $(trap -p EXIT) in *wlm_ended*) trap - EXIT ;; esac"""


def before(experiment: Experiment, prologue: str | None, site: str) -> list[str]:
    """Return what comes between ``set -e`` and the commands, as texts of whole lines."""
    parts = [
        *_named("prologue of site " + site, [prologue] if prologue else []),
        *_modules(experiment.modules),
        *([] if experiment.conda is None else [_conda(experiment.conda)]),
        *([] if experiment.venv is None else [_venv(experiment.venv)]),
        *_named("environment", experiment.environment),
    ]
    if not parts and experiment.image is None:
        return []
    needs_told = experiment.modules or experiment.conda or experiment.venv
    return [_HEAD, *([_TOLD] if needs_told else []), *parts]


def around(lines: Sequence[str], commands: Sequence[str], image: str | None) -> list[str]:
    """Return both parts of a script one after the other, the commands in the image if any."""
    if image is None:
        return [*lines, *([_TAKE_BACK] if lines else []), *commands]
    return [_IN_IMAGE, *lines, _in_image(image), _MARK, *commands]


def _named(what: str, lines: Sequence[str]) -> list[str]:
    return [f"wlm_at={shlex.quote(what)}", *lines] if lines else []


def _listened(what: str, command: str) -> str:
    """Run a command in this shell; what it says on standard error joins the message."""
    return (
        f'wlm_at={shlex.quote(what)}\nwlm_listen\n{command} 2> "$wlm_said" || wlm_code=$?\nwlm_told'
    )


def _modules(names: Sequence[str]) -> list[str]:
    loads = [f"module load {shlex.quote(name)}" for name in names]
    return [_FIND_MODULE, *(_listened(load, load) for load in loads)] if loads else []


def _conda(name: str) -> str:
    word = shlex.quote(name)
    command = (
        'if [ -r "$wlm_base/etc/profile.d/conda.sh" ]; then\n'
        f'  . "$wlm_base/etc/profile.d/conda.sh" && conda activate {word}\n'
        f'else\n  . "$wlm_base/bin/activate" {word}\nfi'
    )
    what = f"conda activate {name}"
    return f"wlm_at={shlex.quote(what)}\n{_FIND_CONDA}{_listened(what, command)}"


def _venv(path: str) -> str:
    directory = path if path.startswith("/") else f"./{path}"
    what, file = f"venv {path}", shlex.quote(f"{directory}/bin/activate")
    return (
        f"{_listened(what, f'. {file}')}\n"
        f'[ "${{VIRTUAL_ENV-}}" -ef {shlex.quote(directory)} ] || wlm_fail 1 '
        '"it was made for ${VIRTUAL_ENV:-elsewhere}"\n'
        '[ -x "$VIRTUAL_ENV/bin/python" ] || wlm_fail 1 "there is no python in it"'
    )


def _in_image(path: str) -> str:
    place = path if path.startswith("/") or is_url(path) else f"./{path}"
    return (
        f"wlm_at={shlex.quote(f'image {path}')}\n"
        "wlm_runner=$(type -P apptainer || type -P singularity) ||\n"
        '  wlm_fail 127 "neither apptainer nor singularity on $HOSTNAME"\n'
        'cd -- "$wlm_dir"\n'
        'wlm_bound=(--bind "$wlm_dir")\n'
        "# on some sites this file is elsewhere\n"
        '[[ $0 = "$wlm_dir"/* ]] || wlm_bound+=(--bind "${0%/*}")\n'
        "[[ ${wlm_bound[*]} != *[:,]* ]] ||\n"
        "  wlm_fail 1 \"no ':' and ',' can be in what it is to see: ${wlm_bound[*]:1}\"\n"
        '"$wlm_runner" exec "${wlm_bound[@]}" --pwd "$wlm_dir" '
        f'{shlex.quote(place)} bash "$0" in-image || wlm_code=$?\n'
        "# other codes are those of the commands\n"
        '[ "$wlm_code" != 255 ] || '
        'wlm_fail 255 "exit code 255, of ${wlm_runner##*/} exec or of the commands"\n'
        "trap - EXIT\n"
        'exit "$wlm_code"'
    )
