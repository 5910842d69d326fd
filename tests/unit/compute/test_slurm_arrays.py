"""What goes to Slurm together, what its answer says, and when nothing does."""

from __future__ import annotations

import fcntl
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from wlm_tasks.compute.base import JobRef, JobSpec, JobState, Submitted
from wlm_tasks.compute.remote import LIBRARY
from wlm_tasks.compute.slurm import arrays, scripts, words
from wlm_tasks.compute.slurm.arrays import Answer, shorten
from wlm_tasks.compute.slurm.backend import SlurmBackend
from wlm_tasks.compute.slurm.options import array_options
from wlm_tasks.config.checks import check_option
from wlm_tasks.errors import (
    BackendUnavailableError,
    ConfigError,
    JobRejectedError,
    JobUndecidedError,
    SiteOverloadedError,
    SiteUnreachableError,
)
from wlm_tasks.hosts.shell import RUN_TIMEOUT_S, LocalShell, Ran, Shell
from wlm_tasks.model.arrays import InArray, array_name, in_array
from wlm_tasks.model.experiment import Resources


class Scripted(Shell):
    """Gives these answers in turn and keeps what it was asked."""

    def __init__(self, *answers: Ran | BackendUnavailableError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, Sequence[str]]] = []

    def run(
        self,
        script: str,
        arguments: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> Ran:
        self.asked.append((script, arguments))
        answer = self.answers.pop(0)
        if isinstance(answer, BackendUnavailableError):
            raise answer
        return answer


def said(out: str, err: str = "") -> Ran:
    return Ran(0, out.encode(), err.encode())


def backend(shell: Shell, **options: object) -> SlurmBackend:
    return SlurmBackend(name="s", scratch="/scratch", options=options, shell=shell)


def specs(count: int) -> list[JobSpec]:
    return [
        JobSpec(
            ref=JobRef(
                token=f"t{index}", workdir="/scratch/w", array=InArray("wlm-array-1", index)
            ),
            script="true",
            resources=Resources(),
        )
        for index in range(count)
    ]


def test_names_are_never_given_twice() -> None:
    names = {array_name() for _ in range(100)}
    assert len(names) == 100
    assert all(len(name) <= 40 for name in names)  # as wide as the column
    assert in_array("a", 0) == InArray("a", 0)
    assert in_array(None, 1) is None
    assert in_array("a", None) is None


@pytest.mark.parametrize(
    ("options", "batch"),
    [({}, 100), ({"array_size": 0}, 0), ({"array_size": 1}, 1), ({"array_size": 500}, 500)],
)
def test_a_setting_says_how_many(options: dict[str, object], batch: int) -> None:
    assert backend(Scripted(), **options).batch == batch


@pytest.mark.parametrize("value", [-1, 501, "many", True])
def test_a_setting_without_sense_is_refused(value: object) -> None:
    check_option("sites.s.array_size", "slurm", "array_size", 7)
    with pytest.raises(ConfigError, match="array_size"):
        check_option("sites.s.array_size", "slurm", "array_size", value)
    with pytest.raises(ConfigError, match="no such setting for kind 'ssh'"):
        check_option("sites.s.array_size", "ssh", "array_size", 7)


def test_options_of_an_array() -> None:
    settings = {"partition": "long", "array_size": 7}
    assert array_options("wlm-array-1", "/scratch/%a", Resources(walltime_s=60.0), settings) == [
        "--job-name=wlm-array-1",
        "--comment=wlm-array-1",
        "--no-requeue",
        "--chdir=/scratch/%a",
        "--output=%a.log",
        "--open-mode=append",
        "--nodes=1",
        "--ntasks=1",
        "--time=1",
        "--partition=long",
    ]


def test_an_answer_names_those_that_go_alone() -> None:
    assert Answer.of("alone 3\nalone 12\nknown 77\n") == Answer(frozenset({3, 12}), "known 77")
    assert Answer.of("") == Answer(frozenset(), "")


def test_one_call_takes_so_much_text() -> None:
    assert shorten([]) == 0
    assert shorten([10 * arrays.TEXT_LIMIT, 1]) == 1
    assert shorten([arrays.TEXT_LIMIT // 2] * 3) == 2


def test_one_by_one_what_was_left_out() -> None:
    shell = Scripted(said("alone 1\nknown 7\n"), said("known 5\n"))
    made = backend(shell).submit_many(specs(3))
    assert made == {
        "t0": Submitted(native_id="7_0"),
        "t1": Submitted(native_id="5"),
        "t2": Submitted(native_id="7_2"),
    }
    script, arguments = shell.asked[1]
    assert "SUBMIT" not in script
    assert list(arguments[7:9]) == ["wlm-array-1", "1"]


def test_a_refusal_withdraws_every_intent() -> None:
    refused = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    shell = Scripted(said("failed sbatch\n", refused), said("withdrawn\n"))
    made = backend(shell).submit_many(specs(2))
    assert {type(answer) for answer in made.values()} == {JobRejectedError}
    assert list(shell.asked[1][1][1:]) == ["/scratch/w/.wlm/t0", "/scratch/w/.wlm/t1"]
    assert shell.asked[1][1][0] == shell.asked[0][1][2]  # of this very call


def test_doubt_withdraws_nothing() -> None:
    lost = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    shell = Scripted(said("failed sbatch\n", lost))
    made = backend(shell).submit_many(specs(2))
    assert {type(answer) for answer in made.values()} == {JobUndecidedError}


def test_without_arrays_one_by_one_from_then_on() -> None:
    refused = "sbatch: error: Batch job submission failed: Invalid job array specification"
    shell = Scripted(
        said("failed sbatch\n", refused), said("withdrawn\n"), said("known 5\n"), said("known 6\n")
    )
    site = backend(shell)
    made = site.submit_many(specs(2))
    assert made == {"t0": Submitted(native_id="5"), "t1": Submitted(native_id="6")}
    assert site.batch == 1


def test_where_there_is_no_room_for_all_some_go() -> None:
    refused = "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed"
    shell = Scripted(
        said("failed sbatch\n", refused),
        said("withdrawn\n"),
        said("known 5\n"),
        said("failed sbatch\n", refused),
        said("withdrawn\n"),
    )
    site = backend(shell)
    made = site.submit_many(specs(3))
    assert made["t0"] == Submitted(native_id="5")
    assert {type(made[token]) for token in ("t1", "t2")} == {SiteOverloadedError}
    assert site.batch == 100


def test_a_site_that_does_not_answer_is_not_asked_for_each() -> None:
    shell = Scripted(said("alone 0\nalone 1\nalone 2\ndone\n"), SiteUnreachableError("no route"))
    made = backend(shell).submit_many(specs(3))
    assert {type(answer) for answer in made.values()} == {SiteUnreachableError}
    shell = Scripted(said("alone 0\nalone 1\ndone\n"), said("undecided 3\n"), said("known 5\n"))
    made = backend(shell).submit_many(specs(2))
    assert isinstance(made["t0"], JobUndecidedError)
    assert made["t1"] == Submitted(native_id="5")


def test_an_answer_without_an_end_leaves_all_open() -> None:
    with pytest.raises(BackendUnavailableError, match="the site's answer has no end"):
        backend(Scripted(said(""))).submit_many(specs(2))


def test_what_bash_cannot_run_is_refused_for_itself() -> None:
    bad, good, other = specs(3)
    bad = JobSpec(ref=bad.ref, script="\0", resources=Resources())
    shell = Scripted(said("known 7\n"))
    made = backend(shell).submit_many([bad, good, other])
    assert isinstance(made["t0"], JobRejectedError)
    assert made["t2"] == Submitted(native_id="7_2")


def test_a_forgotten_array_is_ended_in_one_go() -> None:
    missing = "place h b 1 m\n" + "".join(f"{n} directory\n{n} missing 30\n" for n in range(3))
    nobody = '{"pid":0,"start":0,"boot":"b","host":"h","machine":"m","namespace":"1","epoch":5}'
    ended = missing + "".join(f"{n} started {nobody}\n" for n in range(3))
    shell = Scripted(
        said(""), said(f"{missing}settle 3\n"), said("buried\n"), said(f"{ended}settle 3\n")
    )
    refs = [replace(spec.ref, native_id=f"7_{n}") for n, spec in enumerate(specs(3))]
    found = backend(shell).status(refs)
    assert {status.state for status in found.values()} == {JobState.LOST}
    assert list(shell.asked[2][1]) == [ref.attempt_dir for ref in refs]


def test_what_cannot_be_ended_holds_up_nothing_else(tmp_path: Path) -> None:
    good, busy = tmp_path / "good", tmp_path / "busy"
    for attempt in (good, busy):
        attempt.mkdir()
    with (busy / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        places = [str(tmp_path / "gone"), str(busy), str(good)]
        ran = LocalShell().run(LIBRARY + scripts.BURY, places)
    assert (ran.code, ran.out) == (0, b"buried\n")
    assert '"pid":0' in (good / "started").read_text()
    assert not (busy / "started").exists()


def test_words_about_arrays() -> None:
    assert words.is_about_arrays(words.submitting("Invalid job array specification"))
    assert not words.is_about_arrays(words.submitting("Invalid partition name specified"))
    assert not words.is_about_arrays(words.submitting("job array: Socket timed out"))
