"""What comes before the commands: its fields, and the bash that they become, run by a real bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from unit.model.payload import Place, last

from services import LMOD, require_service
from wlm_tasks.errors import InvalidExperimentError
from wlm_tasks.model.experiment import Experiment, Resources, fingerprint

# -- fields ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"modules": "lammps"}, "modules: got 'lammps', expected a list of at most 100 modules"),
        ({"modules": ["a b"]}, r"modules\[0\]: got 'a b', expected the name of a module"),
        ({"modules": ["ok", "$(x)"]}, r"modules\[1\]: got '\$\(x\)', expected the name"),
        ({"modules": ["{{a}}"]}, r"modules\[0\]: got '{{a}}', expected the name"),
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
        ({"image": "docker://u:pw@host"}, "image: got .*, expected a URL without a password"),
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


@pytest.mark.parametrize(
    "image",
    ["docker://debian:bookworm-slim", f"docker://debian@sha256:{'0a' * 32}", "docker://h:5/x:a.b"],
)
def test_images_by_tag_and_by_digest(image: str) -> None:
    assert Experiment("x", "local", ["true"], image=image).image == image


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


def test_a_virtual_environment_that_is_not_there_or_was_copied(place: Place) -> None:
    done = place.run("echo never", venv="v")
    assert (done.returncode, done.stdout) == (1, "")
    assert last(done.stderr).startswith("wlm: venv v: ")
    assert "./v/bin/activate: No such file or directory" in last(done.stderr)
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", place.directory / "old"], check=True
    )
    shutil.copytree(place.directory / "old", place.directory / "v", symlinks=True)
    done = place.run("echo never", venv="v")
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"wlm: venv v: it was made for {place.directory}/old"
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


def test_real_environment_modules(place: Place) -> None:
    require_service("environment-modules", Path("/etc/profile.d/modules.sh").exists())
    sim = place.tools / "sim"
    sim.mkdir()
    (sim / "1.0").write_text("#%Module1.0\nsetenv SIM there\n")
    (sim / "2.0").write_text("#%Module1.0\nconflict sim\n")
    (sim / "broken").write_text("#%Module1.0\nnonsense\n")
    found = {"MODULEPATH": str(place.tools)}
    done = place.run('echo "$SIM"', modules=["sim/1.0"], variables=found)
    assert (done.returncode, done.stdout) == (0, "there\n"), done.stderr
    for name, told in [
        ("sim/3.0", "ERROR: Unable to locate"),
        ("sim/2.0", "ERROR: Module cannot be loaded due to a conflict"),
        ("sim/broken", "Module ERROR: invalid command name"),
    ]:
        done = place.run("echo never", modules=["sim/1.0", name], variables=found)
        assert (done.returncode, done.stdout) == (1, "")
        assert last(done.stderr).startswith(f"wlm: module load {name}: {told}"), done.stderr


def test_real_lmod(place: Place) -> None:
    require_service("Lmod", LMOD.exists())
    sim = place.tools / "sim"
    sim.mkdir()
    (sim / "1.0.lua").write_text('setenv("SIM", "there")\n')
    (sim / "2.0.lua").write_text('prereq("nosuch")\n')
    (sim / "broken.lua").write_text("nonsense(\n")
    (sim / "talks.lua").write_text('LmodMessage("be careful")\nsetenv("SIM", "talks")\n')
    found = {"MODULEPATH": str(place.tools), "LMOD_PKG": str(LMOD)}
    done = place.run('echo "$SIM"', modules=["sim/1.0"], variables=found, hide=True)
    assert (done.returncode, done.stdout) == (0, "there\n"), done.stderr
    done = place.run('echo "$SIM"', modules=["sim/talks"], variables=found, hide=True)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (0, "talks\n", "be careful")
    for name, told in [
        ("sim/3.0", "Lmod has detected the following error: The following module"),
        ("sim/2.0", "Lmod has detected the following error: Cannot load module"),
        ("sim/broken", "Lmod has detected the following error: Unable to load module"),
    ]:
        done = place.run("echo never", modules=["sim/1.0", name], variables=found, hide=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert last(done.stderr).startswith(f"wlm: module load {name}: {told}"), done.stderr


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
