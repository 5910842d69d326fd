"""What comes before the commands: its fields, and the bash that they become, run by a real bash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from wlm_tasks.errors import InvalidExperimentError
from wlm_tasks.model.experiment import Experiment, Resources, fingerprint
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


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def last(text: str) -> str:
    return text.splitlines()[-1]


# -- fields ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"modules": "lammps"}, "modules: got 'lammps', expected a list of at most 100 modules"),
        ({"modules": ["a b"]}, r"modules\[0\]: got 'a b', expected the name of a module"),
        ({"modules": ["ok", "$(x)"]}, r"modules\[1\]: got '\$\(x\)', expected the name"),
        ({"modules": ["-f"]}, r"modules\[0\]: got '-f'"),
        ({"modules": ["a\n"]}, r"modules\[0\]"),
        ({"modules": ["a"] * 101}, "modules: got"),
        ({"conda": "a b"}, "conda: got 'a b', expected the name of a conda environment"),
        ({"conda": "envs/sim"}, "conda: got 'envs/sim', expected the name"),
        ({"conda": "/a\nb"}, "conda: got .*, expected a path"),
        ({"conda": ""}, "conda: got ''"),
        ({"venv": "../v"}, r"venv: got '../v', expected a relative path inside"),
        ({"venv": ".wlm/v"}, "venv: got '.wlm/v'"),
        ({"venv": 3}, "venv: got 3"),
        ({"venv": "v", "conda": "sim"}, "venv: got 'v', expected nothing beside conda"),
        ({"image": "docker://u:pw@host/x"}, "image: got .*, expected a URL without a password"),
        ({"image": "docker://a b"}, "image: got 'docker://a b', expected a URL such as"),
        ({"image": "../a.sif"}, "image: got '../a.sif', expected a relative path inside"),
        ({"resources": {"disk_mb": 0}}, "resources.disk_mb: got 0, expected a whole number"),
        ({"resources": {"disk_mb": "1G"}}, "resources.disk_mb: got '1G'"),
    ],
)
def test_bad_fields_are_told(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidExperimentError, match=expected):
        Experiment("x", "local", ["true"], **fields)


def test_good_fields_come_back() -> None:
    one = Experiment(
        "x",
        "local",
        ["true"],
        modules=["gcc/12.2+mpi", "lammps"],
        conda="/opt/conda/envs/a b",
        image="docker://debian:12",
        resources=Resources(disk_mb=500),
    )
    assert one.modules == ("gcc/12.2+mpi", "lammps")
    for read in (Experiment.from_json, Experiment.from_stored):
        again = read(one.to_json())
        assert again == one
        assert (again.modules, again.conda, again.venv) == (one.modules, one.conda, None)
        assert again.resources.disk_mb == 500


def test_without_them_the_json_is_that_of_earlier_releases() -> None:
    """A key handed in before an upgrade must still be known after it."""
    plain = Experiment("x", "local", ["true"])
    same = Experiment("x", "local", ["true"], modules=[], conda=None, resources={"disk_mb": None})
    assert fingerprint(plain) == fingerprint(same)
    assert "modules" not in plain.to_json()
    assert Experiment.from_stored(plain.to_json()) == plain
    assert Experiment.from_stored(plain.to_json()).modules == ()


# -- the script --------------------------------------------------------------------------------


def test_what_comes_first(place: Place) -> None:
    prefix = place.directory / "v"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", prefix], check=True)
    known = place.modules(one="SEEN+=:one", two="SEEN+=:two")
    done = place.run(
        'echo "$SEEN $LOADED"; command -v python',
        prologue="SEEN=prologue  # a comment at its end",
        modules=["one", "two"],
        venv="v",
        environment=['SEEN+=":${VIRTUAL_ENV##*/}:environment"'],
        variables=known,
        hide=True,
    )
    assert done.stderr == ""
    assert done.stdout.split() == [
        "prologue:one:two:v:environment",
        "one,two",
        f"{prefix}/bin/python",
    ]


@pytest.mark.parametrize("path", ["a/v", "/{tools}/a v"])
def test_a_virtual_environment(place: Place, path: str) -> None:
    path = path.replace("/{tools}", str(place.tools))
    made = place.directory / path
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", made], check=True)
    done = place.run("python -c 'import sys; print(sys.prefix)'", venv=path)
    assert done.stdout.strip() == str(made), done.stderr


def test_a_virtual_environment_that_is_not_there_or_was_moved(place: Place) -> None:
    done = place.run("echo never", venv="v")
    assert (done.returncode, done.stdout) == (1, "")
    assert last(done.stderr).startswith("wlm: venv v: ")
    assert "./v/bin/activate: No such file or directory" in last(done.stderr)
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", place.directory / "old"], check=True
    )
    (place.directory / "old").rename(place.directory / "v")
    done = place.run("echo never", venv="v")
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"wlm: venv v: it was made for {place.directory}/old, where there is no python"
    assert last(done.stderr) == expected


def test_a_module_that_fails_is_named_with_its_own_words(place: Place) -> None:
    known = place.modules(one="echo a warning >&2")
    done = place.run("echo never", modules=["one", "two"], variables=known, hide=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "a warning",
        "Loading two",
        "  ERROR: no modulefile 'two'",
        "wlm: module load two: ERROR: no modulefile 'two'",
    ]


def test_an_old_module_command_that_fails_with_exit_code_0(place: Place) -> None:
    old = "module() { echo 'ModuleCmd_Load.c(213):ERROR:105: Unable to locate x' >&2; }"
    done = place.run("echo never", prologue=old, modules=["x"])
    assert (done.returncode, done.stdout) == (1, "")
    assert last(done.stderr).startswith("wlm: module load x: ModuleCmd_Load.c(213):ERROR:105")


def test_no_module_command(place: Place) -> None:
    done = place.run("echo never", modules=["x"], hide=True)
    assert (done.returncode, done.stdout) == (127, "")
    assert last(done.stderr).startswith("wlm: modules: no command 'module' on ")


@pytest.mark.skipif(not Path("/etc/profile.d/modules.sh").exists(), reason="no Environment Modules")
def test_real_environment_modules(place: Place) -> None:
    (place.tools / "sim").mkdir()
    (place.tools / "sim" / "1.0").write_text("#%Module1.0\nsetenv SIM there\n")
    found = {"MODULEPATH": str(place.tools)}
    done = place.run('echo "$SIM"', modules=["sim/1.0"], variables=found)
    assert (done.returncode, done.stdout) == (0, "there\n"), done.stderr
    done = place.run("echo never", modules=["sim/2.0"], variables=found)
    assert (done.returncode, done.stdout) == (1, "")
    assert last(done.stderr).startswith("wlm: module load sim/2.0: ERROR: Unable to locate")


@pytest.mark.parametrize("how", ["CONDA_EXE", "PATH", "miniconda3", "miniforge3"])
def test_conda_is_found(place: Place, how: str) -> None:
    base = place.home / (how if how.startswith("mini") else "elsewhere")
    place.conda(base, "sim")
    variables = {}
    if how == "CONDA_EXE":
        variables = {"CONDA_EXE": f"{base}/bin/conda"}
    elif how == "PATH":
        tool = place.tools / "conda"
        tool.write_text(f'#!/bin/sh\n[ "$*" = "info --base" ] && echo "{base}"\n')
        tool.chmod(0o755)
    done = place.run('echo "$CONDA_PREFIX"', conda="sim", variables=variables, hide=True)
    assert (done.returncode, done.stdout) == (0, f"{base}/envs/sim\n"), done.stderr
    done = place.run(
        'echo "$CONDA_PREFIX"', conda=f"{base}/envs/sim", variables=variables, hide=True
    )
    assert (done.returncode, done.stdout) == (0, f"{base}/envs/sim\n"), done.stderr


def test_conda_without_its_function_is_activated_by_its_script(place: Place) -> None:
    activate = place.home / "miniconda3/bin/activate"
    activate.parent.mkdir(parents=True)
    activate.write_text("export CONDA_PREFIX=$1\n")
    done = place.run('echo "$CONDA_PREFIX"', conda="sim", hide=True)
    assert (done.returncode, done.stdout) == (0, "sim\n"), done.stderr


def test_no_conda_and_no_such_environment(place: Place) -> None:
    done = place.run("echo never", conda="sim", hide=True)
    assert (done.returncode, done.stdout) == (127, "")
    assert last(done.stderr).startswith("wlm: conda activate sim: no conda on ")
    place.conda(place.home / "miniforge3")
    done = place.run("echo never", conda="sim", hide=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert last(done.stderr) == (
        "wlm: conda activate sim: EnvironmentNameNotFound: Could not find conda environment: sim"
    )


@pytest.mark.parametrize("prologue", ["ls /nosuch", "f() {\n  ls /nosuch\n}\n  f", "exit 2"])
def test_a_failing_prologue_is_named(place: Place, prologue: str) -> None:
    done = place.run("echo never", prologue=prologue)
    assert (done.returncode, done.stdout) == (2, "")
    line = prologue.splitlines()[-1].strip()
    assert last(done.stderr) == f"wlm: prologue of site local: {line}: exit code 2"


def test_a_failing_line_of_the_environment_is_named_and_a_failing_command_is_not(
    place: Place,
) -> None:
    done = place.run("echo never", environment=["f() { false; }", "f with words  # mine"])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "wlm: environment: f with words  # mine: exit code 1\n"
    done = place.run("echo one", "exit 3", environment=["true"])
    assert (done.returncode, done.stdout, done.stderr) == (3, "one\n", "")


def test_a_trap_of_the_environment_stays(place: Place) -> None:
    done = place.run("echo one", environment=["trap 'echo tidied up' EXIT"])
    assert (done.returncode, done.stdout) == (0, "one\ntidied up\n")


def test_nowhere_to_keep_what_a_command_says(place: Place) -> None:
    known = {**place.modules(one="X=3"), "TMPDIR": "/nosuch"}
    done = place.run('echo "$X"', modules=["one"], variables=known, hide=True)
    assert (done.returncode, done.stdout) == (0, "3\n")
    done = place.run("echo never", modules=["two"], variables=known, hide=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert last(done.stderr) == "wlm: module load two: exit code 1"


# -- images ------------------------------------------------------------------------------------


def container(place: Place, name: str = "apptainer") -> Mapping[str, str]:
    tool = place.tools / name
    tool.write_text(APPTAINER)
    tool.chmod(0o755)
    return {"APPTAINER_LOG": str(place.tools / "log"), "SEED": "42"}


@pytest.mark.parametrize("name", ["apptainer", "singularity"])
@pytest.mark.parametrize("image", ["a b.sif", "docker://debian:12", "/{tools}/x.sif"])
def test_commands_run_in_the_image(place: Place, name: str, image: str) -> None:
    image = image.replace("/{tools}", str(place.tools))
    variables = container(place, name)
    if "://" not in image:
        (place.directory / image).touch()
    done = place.run(
        'echo "$IN_IMAGE $SEED $SET $# $PWD"',
        "echo 'it is'",
        environment=['[ -z "$IN_IMAGE" ]', "export SET=outside", "cd /"],
        image=image,
        variables=variables,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"yes 42 outside 0 {place.directory}\nit is\n"
    words = (place.tools / "log").read_text().splitlines()
    seen = image if "://" in image or image.startswith("/") else f"./{image}"
    assert words == [
        *("exec", "--bind", str(place.directory), "--pwd", str(place.directory), seen, "bash"),
        *(str(place.directory / ".wlm/payload.sh"), "in-image"),
    ]


def test_an_image_that_fails_and_commands_that_fail_in_one(place: Place) -> None:
    done = place.run("echo never", image="a.sif", variables=container(place))
    assert (done.returncode, done.stdout) == (255, "")
    assert done.stderr.splitlines() == [
        "FATAL: could not open image ./a.sif",
        "wlm: image a.sif: apptainer exec: exit code 255",
    ]
    (place.directory / "a.sif").touch()
    done = place.run("exit 3", "echo never", image="a.sif", variables=container(place))
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


def test_a_script_outside_of_the_directory_is_seen_in_the_image(place: Place) -> None:
    variables = container(place)
    (place.directory / "a.sif").touch()
    place.run("echo hello", image="a.sif", variables=variables)
    script = place.directory / ".wlm/payload.sh"
    elsewhere = script.rename(place.home / "payload.sh")
    subprocess.run(
        ["/bin/bash", elsewhere],
        cwd=place.directory,
        env={"PATH": f"{place.tools}:/usr/bin:/bin", **variables},
        capture_output=True,
        check=False,
    )
    words = (place.tools / "log").read_text().splitlines()
    assert words[1:5] == ["--bind", str(place.directory), "--bind", str(place.home)]


def test_no_program_for_images(place: Place) -> None:
    done = place.run("echo never", image="a.sif")
    if done.returncode == 127:  # this machine has neither
        assert last(done.stderr).startswith(
            "wlm: image a.sif: neither apptainer nor singularity on "
        )
    assert done.stdout == ""
