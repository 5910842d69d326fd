"""Commands in an image: by Apptainer, or what stands in for it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from unit.model.payload import APPTAINER, Place, last


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
        "wlm: image a.sif: exit code 255, of apptainer exec or of the commands",
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


def test_the_shells_options_hold_for_lines_behind_them(place: Place) -> None:
    variables = container(place)
    (place.directory / "a.sif").touch()
    done = place.run(
        "shopt -s extglob expand_aliases",
        "alias hey='echo hello'",
        "hey",
        "case ab in +([a-z])) echo letters ;; esac",
        "cat <<END",
        "it's $SET",
        "END",
        "exit 4",
        prologue="shopt -s extglob expand_aliases\nalias there=export\nthere SET=outside",
        environment=["[[ ab = +([a-z]) ]] && case ab in +([a-z])) : ;; esac"],
        image="a.sif",
        variables=variables,
    )
    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout == "hello\nletters\nit's outside\n"


def test_no_program_for_images(place: Place) -> None:
    """Whether this machine has one or not: here nothing but the shell's own tools is found."""
    for name in ("bash", "cat", "sed"):
        (place.tools / name).symlink_to(f"/bin/{name}")
    done = place.run("echo never", image="a.sif", variables={"PATH": str(place.tools)})
    assert (done.returncode, done.stdout) == (127, "")
    assert last(done.stderr).startswith("wlm: image a.sif: neither apptainer nor singularity on ")


@pytest.mark.parametrize("name", ["a:b", "a,b"])
def test_a_directory_that_cannot_be_bound(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    place = Place(tmp_path / name)
    place.tools = tmp_path / "tools"
    place.tools.mkdir()
    (place.directory / "a.sif").touch()
    done = place.run("echo never", image="a.sif", variables=container(place))
    assert (done.returncode, done.stdout) == (1, "")
    assert last(done.stderr).startswith("wlm: image a.sif: no ':' and ',' can be in what it is to")
