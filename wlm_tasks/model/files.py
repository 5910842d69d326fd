"""Reading a table of settings from a TOML, YAML or JSON file."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from wlm_tasks.errors import ConfigError, InputError
from wlm_tasks.model.checks import one_line

#: largest file that is read, in bytes
FILE_LIMIT: Final = 4 * 1024 * 1024


def read_table(path: Path, error: type[InputError]) -> dict[str, Any]:
    """Return the table in the file at `path`, read by its suffix.

    Raises `error` naming the file if it is missing, no regular file, unreadable, too large, not
    UTF-8, broken or not a table, and `ConfigError` if YAML is asked for and not installed.
    """
    name = one_line(str(path))
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise error(f"{name}: got suffix {path.suffix!r}, expected one of {', '.join(_PARSERS)}")
    try:
        table = parse(_read_text(path, name, error))
    except RecursionError:
        raise error(f"{name}: got endless nesting, expected a few levels") from None
    except ValueError as broken:
        kind = path.suffix[1:].upper()
        raise error(f"{name}: got {one_line(str(broken))}, expected valid {kind}") from None
    if not isinstance(table, dict):
        raise error(f"{name}: got a {type(table).__name__}, expected a table of fields")
    return table


def _read_text(path: Path, name: str, error: type[InputError]) -> str:
    try:
        content = _read_bytes(path)
    except (OSError, ValueError) as fault:
        reason = os.strerror(fault.errno) if isinstance(fault, OSError) and fault.errno else fault
        raise error(f"{name}: got {one_line(str(reason))!r}, expected a readable file") from None
    if content is None:
        raise error(f"{name}: got no regular file, expected a file")
    if len(content) > FILE_LIMIT:
        raise error(f"{name}: got more than {FILE_LIMIT} bytes, expected at most {FILE_LIMIT}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content.count(b"\n", 0, fault.start) + 1
        raise error(
            f"{name}: got byte 0x{content[fault.start]:02x} at line {line}, expected UTF-8 text"
        ) from None


def _read_bytes(path: Path) -> bytes | None:
    """Return at most one byte more than the limit; None if it is not a regular file."""
    # a look before opening: opening a pipe would wait for its writer
    if not stat.S_ISREG(path.stat().st_mode):
        return None
    with path.open("rb") as file:
        return file.read(FILE_LIMIT + 1)


def _parse_yaml(text: str) -> Any:
    try:
        import yaml  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise ConfigError(
            "YAML: got no PyYAML, expected it installed: pip install 'wlm_tasks[yaml]'"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        where = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        reason = getattr(fault, "problem", None) or re.sub(r"\s+", " ", str(fault))
        raise ValueError(f"{reason}{where}") from None


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    ".toml": tomllib.loads,
    ".json": json.loads,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
