"""The code that the Thrift compiler makes of the interface, made anew each time."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

IDL: Final = Path(__file__).with_name("aurora.thrift")


@dataclass(frozen=True)
class Generated:
    """Modules of the compiler's."""

    types: Any
    service: Any
    reading: Any  #: the service of the calls that change nothing

    def arguments(self, method: str) -> Any:
        """An empty structure of a method's arguments."""
        name = f"{method}_args"
        return getattr(self.service if hasattr(self.service, name) else self.reading, name)()


def generate(directory: Path) -> Generated:
    """Run the compiler and import what it made in `directory`."""
    code = directory / "gen-py"
    code.mkdir(parents=True, exist_ok=True)
    subprocess.run(["thrift", "--gen", "py", "-out", code, IDL], check=True)
    sys.path.insert(0, str(code))
    service = importlib.import_module("aurora.AuroraSchedulerManager")
    types = importlib.import_module("aurora.ttypes")
    for _name, found in inspect.getmembers(types, inspect.isclass):
        if hasattr(found, "thrift_spec"):
            # they define only __eq__, and sets of them are read
            setattr(found, "__hash__", lambda self: hash(repr(self)))  # noqa: B010 - for mypy
    return Generated(types, service, importlib.import_module("aurora.ReadOnlyScheduler"))


def set_fields(union: Any) -> list[str]:
    """The fields of a union that are set; one is what it must be."""
    return [name for name, value in vars(union).items() if value is not None]
