"""A word beside the output when nobody is there to do the work."""

from __future__ import annotations

from wlm_tasks.cli import output
from wlm_tasks.cli.session import Session
from wlm_tasks.control.lock import UpLock


def hint_if_nobody_works(session: Session, besides: str = "") -> None:
    """Say what to start if nothing carries experiments out; `besides` is another way out."""
    if not session.settings.embedded:
        if not session.store.coordination.holders():
            output.say("No control process is alive: start `wlm control`.")
    elif UpLock(session.settings.data_dir).holder() is None:
        output.say(f"Nobody works on it yet: start `wlm up`{besides}.")
