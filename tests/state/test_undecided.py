"""Submissions of which it is not known whether the site took them."""

from __future__ import annotations

from state.rig import Rig
from state.world import SUBMIT

from wlm_tasks.errors import JobUndecidedError, SiteUnreachableError
from wlm_tasks.model.experiment import Retry
from wlm_tasks.model.states import StepState

UNDECIDED = JobUndecidedError("no answer to sbatch")


def test_the_time_its_site_was_away_is_no_time_to_look(rig: Rig) -> None:
    one = rig.add()
    rig.fake.fail("submit", SiteUnreachableError("no route"), UNDECIDED)
    rig.work()
    rig.world.sql("UPDATE jobs SET created_at = created_at - 7200")
    rig.time_for_a_probe()
    rig.tick()
    assert rig.world.step(one, SUBMIT).state is StepState.BACKOFF
    rig.world.sql("UPDATE steps SET due_at = 0 WHERE due_at IS NOT NULL")
    rig.duties.wake()
    rig.work()
    assert rig.world.step(one, SUBMIT).state is StepState.DONE
    assert rig.world.job_states(one) == ["PENDING"]


def test_an_undecided_submission_is_looked_for_and_then_paused(rig: Rig) -> None:
    """For as long as the settings say, whatever tries the experiment has."""
    one = rig.add(retry=Retry(tries=1))
    rig.fake.fail("submit", *[UNDECIDED] * 9)
    rig.work()
    for _ in range(3):
        assert rig.world.step(one, SUBMIT).state is StepState.BACKOFF
        rig.world.sql("UPDATE steps SET due_at = 0 WHERE due_at IS NOT NULL")
        rig.duties.wake()
        rig.work()
    rig.world.sql("UPDATE jobs SET created_at = created_at - 901")
    rig.world.sql("UPDATE steps SET due_at = 0 WHERE due_at IS NOT NULL")
    rig.duties.wake()
    rig.work()
    step = rig.world.step(one, SUBMIT)
    assert step.state is StepState.PAUSED
    assert step.reason is not None
    assert step.reason.startswith("undecided: whether there is job wlm-")
    assert step.reason.endswith("no answer to sbatch; see: wlm repair")
    assert rig.world.job_states(one) == ["INTENT"]
