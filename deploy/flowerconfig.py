"""Settings of Flower for wlm_tasks.

    celery -A wlm_tasks flower --conf=deploy/flowerconfig.py

Flower executes this file and takes every name that is one of its options. The command line wins
over it, and it wins over FLOWER_* variables. Two variables of its own name files with secrets:

FLOWER_BROKER_API_FILE  URL of RabbitMQ's management interface, for the page "Broker":
                        http://wlm-flower:PASSWORD@HOST:15672/api/
FLOWER_LOGIN_FILE       who may log in, one NAME:PASSWORD a line; without it nobody is asked

A file that is named must be readable and not empty, or Flower does not start.
"""

import os
from pathlib import Path
from typing import Any

TEXT_WIDTH = 120  #: characters of a task's arguments or result that a page shows


def _secret(variable: str) -> list[str]:
    """Return the words in the file that an environment variable names; none if it is not set."""
    name = os.environ.get(variable)
    if not name:
        return []
    try:
        words = Path(name).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        # Flower takes a missing file for this one where it is the default one, and starts bare
        raise SystemExit(f"{variable}: {error}") from None
    if not words:
        raise SystemExit(f"{variable}: {name} is empty")
    return words


def format_task(task: Any) -> Any:
    """Shorten what a task carries; called with a copy of each task that is shown."""
    for field in ("args", "kwargs", "result"):
        text = str(getattr(task, field) or "")
        if len(text) > TEXT_WIDTH:
            setattr(task, field, f"{text[: TEXT_WIDTH - 1]}…")
    return task


# Reachable from this machine only; put a proxy with TLS in front to let others in. It also has
# to keep /metrics and /healthcheck away from strangers: Flower answers those without a login.
address = "127.0.0.1"
port = 5555

# Which tasks are under way and how they went. The dashboard and "wlm show" know experiments.
tasks_columns = "name,uuid,args,state,received,started,runtime,worker,retries"
natural_time = False
max_tasks = 20000

# Seconds until a worker that went away is no longer listed.
purge_offline_workers = 3600

# Nothing can be changed from the pages: no shutdown, no revoke. Whoever needs that has the
# command line, and a cancelled task would come back anyway, for its row still asks for it.
read_only = True

if _api := _secret("FLOWER_BROKER_API_FILE"):
    broker_api = _api[0]
if _logins := _secret("FLOWER_LOGIN_FILE"):
    basic_auth = _logins
