"""Why an experiment stands where it stands, in one line for a person. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from wlm_tasks.model.sites import SiteState
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.model.units import size
from wlm_tasks.state.site_rows import SiteRow
from wlm_tasks.state.views import ExperimentView, JobView, StepView


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that an explanation looks at. Times are seconds since the epoch."""

    experiment: ExperimentView
    steps: Sequence[StepView]
    job: JobView | None  #: the newest
    ahead: int  #: ready steps before the current one in its queue
    now: float
    controls: Sequence[str]  #: control processes with a live lease
    poll_error: str | None = None  #: why the site's last poll found nothing out
    site: SiteRow | None = None  #: how the site stands, if anything was ever to be said of it
    last_words: str = ""  #: of a failed job's script, if it names what failed


def current_step(steps: Sequence[StepView]) -> StepView | None:
    """The step that everything waits for; None once all are done."""
    return next((step for step in steps if step.state is not StepState.DONE), None)


def why(situation: Situation) -> str:
    """One line: what the experiment waits for, or how it ended."""
    text = _text(situation)
    if not situation.controls and not situation.experiment.final:
        text += "; no control process is alive (start `wlm control`, or `wlm up` without a broker)"
    if situation.experiment.cleanup_reason:
        text += f"; its directory is still there: {situation.experiment.cleanup_reason}"
    return " ".join(text.split())  # a reason may be in a site's own words, on several lines


def _text(situation: Situation) -> str:
    experiment = situation.experiment
    if experiment.state is ExperimentState.DONE:
        return "done"
    if experiment.state is ExperimentState.CANCELLED:
        return f"cancelled: {experiment.reason}" if experiment.reason else "cancelled"
    if experiment.state is ExperimentState.CANCELLING:
        return "cancelling: waits for its site to confirm that the job is gone"
    step = current_step(situation.steps)
    if step is None:
        return str(experiment.state).lower()
    return f"{step.name}: {_EXPLAIN[step.state](situation, step)}"


def _ready(situation: Situation, step: StepView) -> str:
    place = "next in line" if situation.ahead == 0 else f"{situation.ahead} ahead"
    sent = "" if step.sent_at is not None else ", not sent yet"
    waited = _ago(situation.now, step.ready_at)
    return f"waits in queue {step.queue!r} for a worker, {place}{sent}{waited}{_before(step)}"


def _running(situation: Situation, step: StepView) -> str:
    moved = transfer_text(step)
    progress = f", {moved}" if moved else ""
    since = _ago(situation.now, step.started_at)
    where = step.worker or "a worker"
    return f"runs on {where}, attempt {step.attempts}{progress}{since}{_before(step)}"


def _before(step: StepView) -> str:
    """Why it is tried once more, if somebody said so."""
    return f"; before: {step.reason}" if step.reason else ""


def transfer_text(step: StepView) -> str:
    """How far the transfer of a staging step is; empty if it moves nothing now."""
    progress = step.progress or {}
    total = progress.get("total")
    if step.state is not StepState.RUNNING or not total:
        return ""
    done, rate = progress.get("bytes", 0), progress.get("rate", 0)
    which = f"transfer {progress.get('file', 0) + 1} of {progress.get('files', 1)}"
    text = f"{which}: {100 * done // total} % of {size(total)}"
    words = f", {progress['words']}" if progress.get("words") else ""
    if not rate or done >= total:
        return text + words
    return f"{text} at {size(rate)}/s, {(total - done) / rate:.0f} s left{words}"


def _watching(situation: Situation, step: StepView) -> str:
    job = situation.job
    if job is None:
        return "the job is on its site"
    error, site = situation.poll_error, situation.site
    trouble = f"; the site cannot be asked: {error}" if error else ""
    if site is not None and site.state is not SiteState.UP:
        when = _ago(situation.now, site.since)
        trouble = f"; the site is {site.state}{when}: {site.reason}{_remedy(situation, site)}"
    native = f" as {job.native_id}" if job.native_id else ""
    state = str(job.state).lower()
    when = _ago(situation.now, job.started_at or step.started_at)
    reason = f": {job.reason}" if job.reason else ""
    return f"job {job.token} is {state} at site {job.site}{native}{when}{reason}{trouble}"


def _backoff(situation: Situation, step: StepView) -> str:
    wait_s = max(0.0, (step.due_at or situation.now) - situation.now)
    times = {0: "waits", 1: "tried once"}.get(step.tries, f"tried {step.tries} times")
    return f"{times}, again in {wait_s:.0f} s: {_reason(situation, step)}"


def _paused(_situation: Situation, step: StepView) -> str:
    return f"paused: {_reason(_situation, step)}; go on with `wlm resume`"


def _reason(_situation: Situation, step: StepView) -> str:
    return step.reason or str(step.state).lower()


def _failed(situation: Situation, step: StepView) -> str:
    words = f": {situation.last_words}" if situation.last_words else ""
    return f"failed: {_reason(situation, step)}{words}"


def _held(situation: Situation, step: StepView) -> str:
    text = f"held: {step.reason or 'the sweep has as many active members as it may'}"
    site = situation.site
    if site is None or site.takes_work or step.reason is None:
        return text
    return f"{text}; the site is {site.shown}{_remedy(situation, site)}"


def _remedy(situation: Situation, site: SiteRow) -> str:
    """What ends a site's trouble."""
    if site.shown in (SiteState.PAUSED, SiteState.AUTH_NEEDED):
        first = "" if site.shown is SiteState.PAUSED else "mend it, then "
        return f"; {first}go on with `wlm site resume {site.name}`"
    if site.probe_at is None:
        return ""
    return f"; tried again in {max(0.0, site.probe_at - situation.now):.0f} s"


_EXPLAIN: Final[dict[StepState, Callable[[Situation, StepView], str]]] = {
    StepState.WAITING: lambda _situation, _step: "waits for the step before it",
    StepState.HELD: _held,
    StepState.READY: _ready,
    StepState.RUNNING: _running,
    StepState.WATCHING: _watching,
    StepState.BACKOFF: _backoff,
    StepState.PAUSED: _paused,
    StepState.FAILED: _failed,
    StepState.CANCELLED: _reason,
}


def _ago(now: float, since: float | None) -> str:
    return "" if since is None else f", for {max(0.0, now - since):.0f} s"
