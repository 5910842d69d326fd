"""Where files may be: paths inside an experiment's directory, and places outside the site."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import quote, unquote_to_bytes, urlsplit

from wlm_tasks.errors import InvalidPathError
from wlm_tasks.model.checks import (
    Problem,
    SeveralProblemsError,
    has_control,
    has_password,
    is_text,
    plain,
    problem,
    show,
)

if TYPE_CHECKING:
    from wlm_tasks.model.experiment import Experiment, Transfer

E = TypeVar("E", bound="Experiment")

#: longest path, in characters, and longest component, in bytes
PATH_LIMIT: Final = 4096
COMPONENT_LIMIT: Final = 255
#: our own directory inside every experiment's directory
RESERVED: Final = ".wlm"
#: begin and end of the name of a file that is still being written
PART_PREFIX: Final = "."
PART_SUFFIX: Final = ".wlm-part"
#: end of the name of a file that is out of the way while a new one gets its name
OLD_SUFFIX: Final = ".wlm-old"
#: end of the name of a file that says who writes another one
LOCK_SUFFIX: Final = ".wlm-lock"
#: directory of files of a tree that are on their way, in the tree's own
PARTS: Final = ".wlm-parts"

_FILE_URL: Final = re.compile(r"file://(localhost)?(?P<path>/.*)", re.IGNORECASE | re.DOTALL)
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_INSIDE: Final = (
    "a relative path inside the experiment's directory, such as 'data/in.dat', without '..',"
    f" '.', '//', control characters, not below {RESERVED!r}, of at most {PATH_LIMIT} characters"
)
_PLACE: Final = f"a local path or a URL such as 'sftp://host/path', of 1 to {PATH_LIMIT} characters"


def inside(value: object) -> str:
    """Check for a path that stays inside the experiment's directory."""
    if not is_text(value) or not isinstance(value, str) or has_control(value):
        raise ValueError(_INSIDE)
    parts = value.split("/")
    if len(value) > PATH_LIMIT or parts[0] == RESERVED or {"", ".", ".."}.intersection(parts):
        raise ValueError(_INSIDE)
    if any(len(part.encode()) > COMPONENT_LIMIT for part in parts):
        raise ValueError(f"a path whose parts have at most {COMPONENT_LIMIT} bytes each")
    return plain(value)


def check_inside(path: str) -> str:
    """Return `path` if it stays inside the experiment's directory, else `InvalidPathError`."""
    try:
        return inside(path)
    except ValueError as error:
        raise InvalidPathError(problem("path", path, str(error))) from None


def is_url(place: str) -> bool:
    """Tell whether `place` is a URL rather than a local path."""
    return _URL.match(place) is not None


def place(value: object) -> str:
    """Check for a place outside the site, or a path of any form: no password, no oddities."""
    if isinstance(value, PurePath):
        value = str(value)
    if not is_text(value) or not isinstance(value, str) or has_control(value):
        raise ValueError(f"{_PLACE}, without control characters")
    if not 0 < len(value) <= PATH_LIMIT:
        raise ValueError(_PLACE)
    if "://" in value:
        _check_url(value)
    return plain(value)


def _check_url(url: str) -> None:
    if not is_url(url):
        raise ValueError(f"{_PLACE}, and this is neither")
    try:
        parts = urlsplit(url)
        password = has_password(url)
        if "{" not in parts.netloc:
            _ = parts.port  # raises if it is no number
    except ValueError:
        raise ValueError("a URL such as 'sftp://host/path', and this one cannot be read") from None
    if password:
        raise ValueError("a URL without a password: secrets only by reference")
    if not parts.netloc and not parts.path.strip("/"):
        raise ValueError("a URL with a host or a path")


def check_inputs(transfers: tuple[Transfer, ...]) -> tuple[Transfer, ...]:
    """Check that inputs stay inside, and that none overwrites another or needs its directory."""
    problems = _refused(transfers, "dest", _a_new_place) + _unclear(transfers)
    files: dict[str, int] = {}
    for index, transfer in enumerate(transfers):
        first = files.setdefault(transfer.dest, index)
        if first != index:
            problems.append(_again(index, "dest", transfer.dest, f"inputs[{first}]"))
    for index, transfer in enumerate(transfers):
        path = PurePath(transfer.dest)
        for parent in (*path.parents, *([path] if is_directory(transfer.dest) else [])):
            if str(parent) in files:
                expected = f"a path not below the file of inputs[{files[str(parent)]}]"
                problems.append(Problem(f"[{index}].dest", transfer.dest, expected))
    return _unless(problems, transfers)


def check_outputs(transfers: tuple[Transfer, ...]) -> tuple[Transfer, ...]:
    """Check that outputs come from inside, and that no two go to one place."""
    problems = _refused(transfers, "src", _old_place) + _unclear(transfers)
    problems += _refused(transfers, "dest", _a_place)
    for first, index in repeated(t.dest for t in transfers):
        problems.append(_again(index, "dest", transfers[index].dest, f"outputs[{first}]"))
    return _unless(problems, transfers)


def _refused(
    transfers: tuple[Transfer, ...], field: str, check: Callable[[object], str]
) -> list[Problem]:
    problems: list[Problem] = []
    for index, transfer in enumerate(transfers):
        try:
            check(getattr(transfer, field))
        except ValueError as error:
            problems.append(Problem(f"[{index}].{field}", getattr(transfer, field), str(error)))
    return problems


def _again(index: int, field: str, path: str, first: str) -> Problem:
    return Problem(f"[{index}].{field}", path, f"a path that {first} does not have already")


def _unclear(transfers: tuple[Transfer, ...]) -> list[Problem]:
    """Return what is wrong with transfers of directories: both ends must be written as one."""
    problems = []
    for index, transfer in enumerate(transfers):
        if is_directory(transfer.src) and not is_directory(transfer.dest):
            expected = "a directory, with '/' at its end as that of src"
            problems.append(Problem(f"[{index}].dest", transfer.dest, expected))
        if is_directory(transfer.dest) and transfer.sha256 is not None:
            expected = "no digest: a directory has none"
            problems.append(Problem(f"[{index}].sha256", transfer.sha256, expected))
    return problems


def _a_place(value: object) -> str:
    if not isinstance(value, str) or value.rpartition("/")[2] in {".", ".."}:
        raise ValueError("the place of a file, or of a directory with '/' at its end")
    return value


def _old_place(value: object) -> str:
    return inside(_undirected(value))


def _undirected(value: object) -> object:
    """Return a directory's path as that of a file would be; ``./`` is the experiment's own."""
    if not isinstance(value, str) or not is_directory(value):
        return value
    return "directory" if value == "./" else value[:-1]


def _a_new_place(value: object) -> str:
    path = inside(_undirected(value))
    if is_part(path.rpartition("/")[2]):
        raise ValueError(
            f"a name that does not end in {PART_SUFFIX!r}, {OLD_SUFFIX!r} or {LOCK_SUFFIX!r}: those"
            " of files under way do"
        )
    return path


def is_part(name: str) -> bool:
    """Tell whether a file of this name is one of those beside a file that is being written."""
    return name.startswith(PART_PREFIX) and name.endswith((PART_SUFFIX, OLD_SUFFIX, LOCK_SUFFIX))


def part_name(name: str) -> str:
    """Return the name of the part file of `name`: ``.<name>.wlm-part``.

    A name too long for that is shortened. Raises `InvalidPathError` for a part file's name.
    """
    if is_part(name):
        raise InvalidPathError(
            f"path: got {show(name)}, expected a name other than that of a part file"
        )
    return _beside(name, PART_SUFFIX)


def old_name(name: str) -> str:
    """Return what a file is called while another gets its name: ``.<name>.wlm-old``."""
    return _beside(name, OLD_SUFFIX)


def lock_name(name: str) -> str:
    """Return the name of the file that says who writes `name`: ``.<name>.wlm-lock``."""
    return _beside(name, LOCK_SUFFIX)


def _beside(name: str, suffix: str) -> str:
    full = f"{PART_PREFIX}{name}{suffix}"
    if len(os.fsencode(full)) <= COMPONENT_LIMIT:
        return full
    return f"{PART_PREFIX}{hashlib.sha256(os.fsencode(name)).hexdigest()}{suffix}"


def is_meant(path: str, pattern: str) -> bool:
    """Tell whether a file of a tree is one to move: by its first name, if there is a pattern.

    As in a shell a pattern that does not begin with a dot means no name that does. What is ours
    never is: files that are on their way, attempts' directories.
    """
    first, last = path.partition("/")[0], path.rpartition("/")[2]
    if first in {PARTS, RESERVED} or is_part(last):
        return False
    hidden = first.startswith(".") and not pattern.startswith(".")
    return not pattern or (fnmatchcase(first, pattern) and not hidden)


def is_directory(place: str) -> bool:
    """Tell whether a place is written as that of a directory: with a slash at its end."""
    return place.endswith("/")


def split_tree(place: str) -> tuple[str, str]:
    """Return directory and pattern of a place that means several files.

    ``data/`` is the directory with all below it, ``data/*.dat`` some of its files. In a URL the
    pattern is decoded as the rest is.
    """
    directory, _slash, pattern = place.rpartition("/")
    pattern = os.fsdecode(unquote_to_bytes(pattern)) if is_url(place) else pattern
    return directory.removesuffix("/."), pattern


def _unless(problems: list[Problem], transfers: tuple[Transfer, ...]) -> tuple[Transfer, ...]:
    if problems:
        raise SeveralProblemsError(problems)
    return transfers


def place_key(place: str) -> str:
    """Return the same text for different spellings of one place, as far as the text tells."""
    if not is_url(place):
        return os.path.normpath(place)
    file = _FILE_URL.fullmatch(place)
    # with a parameter in it the text is not final, so its escapes are left alone
    if file is None or "{" in place:
        return place
    path = os.fsdecode(unquote_to_bytes(file["path"]))
    return f"file:///{os.path.normpath(path).lstrip('/')}"


def repeated(places: Iterable[str]) -> Iterable[tuple[int, int]]:
    """Yield (first position, later position) of each place that occurs again."""
    seen: dict[str, int] = {}
    for position, path in enumerate(places):
        first = seen.setdefault(place_key(path), position)
        if first != position:
            yield first, position


def resolve_place(place: str, base: Path) -> str:
    """Return a local path as an absolute ``file://`` URL; a URL stays as it is."""
    if is_url(place):
        return place
    # braces of the place stay, so that values can still be put in; those of the base do not. So
    # does the star of a pattern, which a path may have as it is and people look for
    path = quote(place, safe="/{}*")
    if not place.startswith("/"):
        path = f"{quote(str(base.absolute()), safe='/')}/{path}"
    slash = "/" if is_directory(path) else ""
    path = os.path.normpath(path)
    return f"file:///{path.lstrip('/')}{slash}"


def resolve_paths(experiment: E, base: Path) -> E:
    """Return `experiment` with local places outside the site as ``file://`` URLs below `base`."""

    def moved(transfer: Transfer, field: str) -> Transfer:
        old = getattr(transfer, field)
        new = resolve_place(old, base)
        return transfer if new == old else transfer.model_copy(update={field: new})

    return experiment.model_copy(
        update={
            "inputs": tuple(moved(t, "src") for t in experiment.inputs),
            "outputs": tuple(moved(t, "dest") for t in experiment.outputs),
        }
    )
