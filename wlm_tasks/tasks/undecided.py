"""Submissions of which it is not known whether the site took them: looked for, then paused."""

from __future__ import annotations

from typing import Final

from wlm_tasks.errors import JobUndecidedError
from wlm_tasks.model.states import LIVE_JOBS
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.store import Store

#: How the reason of a step begins that is paused because of it.
UNDECIDED: Final = "undecided"
#: Tries before a person is asked, however long ago the intent is: the site may have been away.
LOOKS: Final = 4


def verdict(store: Store, claim: Claim, error: JobUndecidedError, patience_s: float) -> str | None:
    """Why the step is to be paused now; None while it is to be tried again.

    Each try looks for the job first, so a new one can do no harm; but after `LOOKS` of them, and
    `patience_s` seconds after the intent, a person is to look.
    """
    jobs = [job for job in store.views.jobs(claim.experiment_id) if job.state in LIVE_JOBS]
    if not jobs:
        return f"{UNDECIDED}: {error.message}"
    waited_s = store.views.now() - jobs[-1].created_at
    if claim.tries + 1 < LOOKS or waited_s < patience_s:
        return None
    return (
        f"{UNDECIDED}: whether there is job {jobs[-1].token} at site {jobs[-1].site} is not known"
        f" after {claim.tries + 1} looks in {waited_s:.0f} s: {error.message}; see: wlm repair"
    )
