"""Where a person looks at a job in a browser. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

from wlm_tasks.compute.aurora.generations import Generation, newest
from wlm_tasks.compute.aurora.options import AuroraOptions


def links_of(
    options: AuroraOptions, token: str, generations: Sequence[Generation]
) -> dict[str, str]:
    """Return the job's page at Aurora and its agent's page at Mesos, by the name of the page."""
    key = "/".join(quote(part, safe="") for part in (options.role, options.environment, token))
    found = {"aurora": f"{options.url}/scheduler/{key}"}
    agents = [one.agent_id for one in newest(generations) if one.agent_id]
    if options.mesos_url and agents:
        found["mesos"] = f"{options.mesos_url}/#/agents/{quote(agents[-1], safe='')}"
    return found
