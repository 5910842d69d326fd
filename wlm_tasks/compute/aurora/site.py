"""Which backend serves an Aurora site: it depends on whether a scratch directory is shared."""

from __future__ import annotations

from collections.abc import Mapping

from wlm_tasks.compute.aurora.backend import AuroraBackend
from wlm_tasks.compute.aurora.options import AuroraOptions
from wlm_tasks.compute.aurora.sandboxed import SandboxedBackend


def open_site(
    *, name: str, scratch: str, options: Mapping[str, object], bells: str | None = None
) -> AuroraBackend:
    """Make the backend of the site `name`; raises `ConfigError` for a wrong setting."""
    shared = AuroraOptions.of(name, options).shared_scratch
    kind = AuroraBackend if shared else SandboxedBackend
    return kind(name=name, scratch=scratch, options=options, bells=bells)
