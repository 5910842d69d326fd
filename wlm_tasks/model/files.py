"""Reading a table of settings from a TOML, YAML or JSON file."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from wlm_tasks.errors import ConfigError, InputError
from wlm_tasks.model.checks import one_line, show

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
        return yaml.load(text, _strict(yaml))  # noqa: S506 - the loader is a safe one
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        where = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        reason = getattr(fault, "problem", None) or re.sub(r"\s+", " ", str(fault))
        raise ValueError(f"{reason}{where}") from None


def _strict(yaml: ModuleType) -> Any:
    """Return a safe loader that refuses what PyYAML's own lets pass or stumbles over."""

    class Strict(yaml.SafeLoader):  # type: ignore[misc, name-defined]  # imported only now
        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            # here and not when it is constructed: merge keys have put in keys of others by then
            seen = set()
            for key, _value in node.value:
                name = key.tag, key.value
                if not isinstance(key.value, str):
                    continue  # no field has such a key
                if name in seen:
                    text = f"the key {show(key.value)} again"
                    raise yaml.composer.ComposerError(None, None, text, key.start_mark)
                seen.add(name)
            return node

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep=deep)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                # what its constructors do not expect, such as !!bool maybe
                value = show(node.value) if isinstance(node.value, str) else "a value"
                text = f"{value}, no {node.tag.rpartition(':')[2]}"
                raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from None

    return Strict


def _parse_json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _value in pairs]
        again = next(name for position, name in enumerate(names) if name in names[:position])
        raise ValueError(f"the key {show(again)} again")
    return table


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    ".toml": tomllib.loads,
    ".json": _parse_json,
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
}
