"""Digests of many files as text, in the format of sha256sum(1).

A name with a backslash or a line break is escaped, and its line begins with a backslash.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_PLAIN = {"\\": "\\\\", "\n": "\\n", "\r": "\\r"}


def write(digests: Mapping[str, str]) -> bytes:
    """Return the text for digests by path."""
    lines = []
    for path, digest in digests.items():
        name = "".join(_PLAIN.get(letter, letter) for letter in path)
        mark = "" if name == path else "\\"
        lines.append(f"{mark}{digest}  ./{name}\n")
    return os.fsencode("".join(lines))


def read(text: bytes) -> dict[str, str]:
    """Return digests by path; raises `ValueError` for what is no such text."""
    found = {}
    for line in os.fsdecode(text).split("\n")[:-1]:
        digest, _, name = line.removeprefix("\\").partition(" ")
        if not name.startswith((" ./", "*./")):
            raise ValueError(line)
        path = name[3:]
        found[_unescaped(path) if line.startswith("\\") else path] = digest
    return found


def _unescaped(name: str) -> str:
    letters = iter(name)
    kept = []
    for letter in letters:
        if letter != "\\":
            kept.append(letter)
            continue
        after = next(letters, "")
        kept.append({"n": "\n", "r": "\r"}.get(after, after))
    return "".join(kept)
