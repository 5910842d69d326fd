"""``file://`` URLs: files of the host the worker runs on, shared file systems included."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import unquote_to_bytes

from wlm_tasks.errors import InvalidPathError
from wlm_tasks.model.checks import show
from wlm_tasks.model.ends import Source, Target, Tree, TreeTarget
from wlm_tasks.model.paths import part_name
from wlm_tasks.storage.base import StorageBackend
from wlm_tasks.storage.beneath import (
    COMPONENT_LIMIT,
    components,
    open_regular,
    target_directory,
    translated,
)
from wlm_tasks.storage.localfiles import FileTarget, file_source
from wlm_tasks.storage.localtrees import LocalTree, LocalTreeTarget

_URL: Final = re.compile(
    r"file:(?://(?P<host>[^/]*)|(?!//))(?P<path>/.*)", re.IGNORECASE | re.DOTALL
)


class FileStorage(StorageBackend):
    """Files by absolute path; the rights are those of the worker's user."""

    schemes: ClassVar[frozenset[str]] = frozenset({"file"})
    near: ClassVar[bool] = True

    def check(self, url: str) -> None:
        """Refuse what cannot be a file's path, and the name of a part file."""
        *parents, name = file_path(url).split("/")
        if any(len(os.fsencode(part)) > COMPONENT_LIMIT for part in parents):
            raise InvalidPathError(
                f"URL: got {show(url)}, expected components of at most {COMPONENT_LIMIT} bytes"
            )
        part_name(*components(name))

    def source(self, url: str) -> AbstractContextManager[Source]:
        """Open the file of the URL."""
        place = file_path(url)
        return file_source(_opener(place), place)

    @contextmanager
    def target(self, url: str, mode: int | None) -> Iterator[Target]:
        """Open the place of the file of the URL, directories made as needed."""
        place = Path(file_path(url))
        with translated(str(place.parent)):
            place.parent.mkdir(parents=True, exist_ok=True)
        # nothing of the URL is untrusted but its last name, which is never followed
        with target_directory(str(place.parent), place.name) as (dir_fd, name):
            yield FileTarget(dir_fd, name, str(place), mode=mode)

    def tree(self, url: str, pattern: str) -> Tree:
        """Return the files below the directory of the URL."""
        return LocalTree(file_path(url), "", pattern)

    def tree_target(self, url: str) -> TreeTarget:
        """Return the directory of the URL, made as needed."""
        place = file_path(url)
        with translated(place):
            Path(place).mkdir(parents=True, exist_ok=True)
        return LocalTreeTarget(place, "")


def file_path(url: str) -> str:
    """Return the absolute path of a ``file`` URL; raises `InvalidPathError`."""
    match = _URL.fullmatch(url)
    if match is None or (match["host"] or "").lower() not in {"", "localhost"}:
        raise InvalidPathError(
            f"URL: got {show(url)}, expected file:///path with no host or the host localhost"
        )
    if "?" in match["path"] or "#" in match["path"]:
        raise InvalidPathError(f"URL: got {show(url)}, expected '?' as %3F and '#' as %23")
    path = os.fsdecode(unquote_to_bytes(match["path"]))
    if "\0" in path or path.endswith("/"):
        raise InvalidPathError(f"URL: got {show(url)}, expected a file's path without NUL")
    return path


def _opener(place: str) -> Callable[[], int]:
    def opener() -> int:
        with translated(place):
            return open_regular(place, place)

    return opener
