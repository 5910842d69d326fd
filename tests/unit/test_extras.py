"""What is installed with an extra only is not needed by whoever does without it."""

from __future__ import annotations

import subprocess
import sys

import pytest

EXTRAS = ("asyncssh", "boto3", "flower", "fsspec", "msgpack", "psycopg", "yaml")
_IMPORT = """
import sys
sys.modules.update(dict.fromkeys({missing!r}))
import {module}
"""


@pytest.mark.parametrize(
    "module",
    [
        "wlm_tasks.api",
        "wlm_tasks.cli.main",
        "wlm_tasks.cli.demo",
        "wlm_tasks.control.embedded",
        "wlm_tasks.control.doctor",
        "wlm_tasks.tasks.worker",
        "wlm_tasks.tasks.steps",
        "wlm_tasks.tasks.watching",
        "wlm_tasks.tasks.cleaning",
        "wlm_tasks.tasks.schedule",
    ],
)
def test_what_every_process_imports_needs_no_extra(module: str) -> None:
    code = _IMPORT.format(missing=EXTRAS, module=module)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_check_itself_sees_an_extra_that_is_needed() -> None:
    code = _IMPORT.format(missing=EXTRAS, module="wlm_tasks.hosts.ssh")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "asyncssh" in done.stderr
