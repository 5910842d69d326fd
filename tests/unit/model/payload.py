"""Payloads run by a real bash, beside small stand-ins of what clusters have."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.script import payload_script

#: a small `module`: knows the modules that are files below $MODULES, and tells the order
MODULE = r"""
module() {
  if [ ! -r "$MODULES/$2" ]; then
    echo "Loading $2" >&2
    echo "  ERROR: no modulefile '$2'" >&2
    return 1
  fi
  . "$MODULES/$2"
  LOADED=${LOADED:+$LOADED,}$2
}
"""
#: a small conda: `activate` knows the environments below its base
CONDA = r"""
conda() {
  local env=$2
  [[ $env = /* ]] || env=${BASH_SOURCE[0]%/etc/*}/envs/$env
  if [ ! -d "$env" ]; then
    echo "EnvironmentNameNotFound: Could not find conda environment: $2" >&2
    return 1
  fi
  export CONDA_PREFIX=$env PATH=$env/bin:$PATH
}
"""
#: a small apptainer: keeps its arguments, knows images that are files, passes the environment on
APPTAINER = r"""#!/bin/bash
printf '%s\n' "$@" > "$APPTAINER_LOG"
[ "$1 $2 $4" = "exec --bind --pwd" ] && cd -- "$5" || exit 255
[ -r "$6" ] || [[ $6 == docker://* ]] || { echo "FATAL: could not open image $6" >&2; exit 255; }
shift 6
IN_IMAGE=yes exec "$@"
"""


class Place:
    """An experiment's directory in which scripts are run as the guard runs them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "work"
        self.home = directory / "home"
        self.tools = directory / "tools"
        for made in (self.directory, self.home, self.tools):
            made.mkdir()

    def run(
        self,
        *commands: str,
        prologue: str | None = None,
        variables: Mapping[str, str] | None = None,
        hide: bool = False,
        **fields: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run the script; `hide` lets it find nothing of the machine's own installations."""
        script = payload_script(Experiment("x", "local", commands, **fields), prologue)
        if hide:
            script = script.replace(" /etc/profile.d/", " /nosuch/").replace(
                "/usr/share/", "/nosuch/"
            )
            script = script.replace("/opt/conda", "/nosuch")
        payload = self.directory / ".wlm" / "payload.sh"
        payload.parent.mkdir(exist_ok=True)
        payload.write_text(f"{script}\n")
        return subprocess.run(
            ["/bin/bash", payload],
            cwd=self.directory,
            env={
                "PATH": f"{self.tools}:/usr/bin:/bin",
                "HOME": str(self.home),
                **(variables or {}),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def modules(self, **files: str) -> Mapping[str, str]:
        """Modules with their texts, and the variables by which they are found."""
        init = self.tools / "init" / "bash"
        init.parent.mkdir(exist_ok=True)
        init.write_text(MODULE)
        for name, text in files.items():
            (self.tools / name).write_text(text)
        return {"MODULESHOME": str(self.tools), "MODULES": str(self.tools)}

    def conda(self, base: Path, *names: str) -> None:
        """An installation of conda with environments of these names."""
        for part in ("etc/profile.d", "bin", *(f"envs/{name}/bin" for name in names)):
            (base / part).mkdir(parents=True, exist_ok=True)
        (base / "etc/profile.d/conda.sh").write_text(CONDA)
        (base / "bin/activate").write_text("")


def last(text: str) -> str:
    return text.splitlines()[-1]
