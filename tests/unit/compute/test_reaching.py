"""Which host a site's commands are run on."""

from __future__ import annotations

import pytest

from wlm_tasks.compute.reaching import reach
from wlm_tasks.errors import ConfigError
from wlm_tasks.hosts.shell import LocalShell
from wlm_tasks.hosts.ssh import SshShell


def test_this_host_unless_another_is_named() -> None:
    here = reach("s", "/scratch", {"user": "ada", "partition": "long"})
    assert isinstance(here.shell, LocalShell)
    assert here.store is None


def test_another_host() -> None:
    far = reach("s", "/scratch", {"host": "far.example.org", "user": "ada", "port": 2222})
    assert isinstance(far.shell, SshShell)
    assert str(far.shell.address) == "ada@far.example.org:2222"
    assert far.store is not None


@pytest.mark.parametrize("name", ["port", "key_file", "known_hosts", "proxy_jump"])
def test_settings_of_no_host(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"sites\.s\.{name}: .* beside 'host'"):
        reach("s", "/scratch", {name: "x"})
