"""What Slurm's commands say: lists, states, reasons, refusals. Pure."""

from __future__ import annotations

import pytest

from wlm_tasks.compute.base import JobRef, JobSpec, JobState
from wlm_tasks.compute.slurm import words
from wlm_tasks.compute.slurm.listing import (
    Row,
    Rows,
    choose,
    choose_listed,
    names_of,
    parse_sacct,
    parse_squeue,
    squeue_format,
)
from wlm_tasks.compute.slurm.options import options
from wlm_tasks.compute.slurm.states import ENDED, STATES, end_of, meanwhile, state_of
from wlm_tasks.errors import (
    JobRejectedError,
    JobUndecidedError,
    SiteMaintenanceError,
    SiteOverloadedError,
    SiteUnreachableError,
    StepError,
)
from wlm_tasks.model.arrays import InArray
from wlm_tasks.model.experiment import Resources

M = "0f1e2d3c4b5a6978"


def ref(array: InArray | None = None) -> JobRef:
    return JobRef(token="wlm-a", workdir="/scratch/work", array=array)


def row(
    number: int | str, state: str = "RUNNING", name: str = "wlm-a", submitted: float | None = 100.0
) -> Row:
    return Row(str(number), state, submitted, None, None, "None", name)


# -- lists ---------------------------------------------------------------------------------------


def listed(*fields: str) -> str:
    return M + "".join(f"{field}{M}" for field in fields) + "\n"


def test_a_list() -> None:
    text = listed("17", "PENDING", "1795578550", "N/A", "N/A", "Resources", "wlm-a") + listed(
        "18", "RUNNING", "1795578551", "1795578552", "NONE", "None", "wlm-b"
    )
    assert parse_squeue(text, M) == [
        Row("17", "PENDING", 1795578550.0, None, None, "Resources", "wlm-a"),
        Row("18", "RUNNING", 1795578551.0, 1795578552.0, None, "None", "wlm-b"),
    ]


@pytest.mark.parametrize("name", ["a b", "a|b", "a\nb", "\n", "", "x" * 1000, "|", "\\n%A"])
@pytest.mark.parametrize("reason", ["(ReqNodeNotAvail, UnavailableNodes:wn2)", "a\n|b", ""])
def test_names_and_reasons_of_foreign_jobs_break_nothing(name: str, reason: str) -> None:
    text = listed("1", "PENDING", "5", "N/A", "N/A", reason, name) + listed(
        "2", "RUNNING", "6", "7", "NONE", "None", "wlm-b"
    )
    found = parse_squeue(text, M)
    assert [one.name for one in found] == [name, "wlm-b"]
    assert found[0].reason == reason.strip()


def test_a_name_cannot_make_a_row() -> None:
    forged = "x\n" + listed("9", "COMPLETED", "1", "1", "1", "None", "wlm-b").replace(M, "guess")
    found = parse_squeue(listed("1", "RUNNING", "1", "1", "1", "None", forged), M)
    assert [one.id for one in found] == ["1"]


def test_rows_without_an_id_are_passed_over() -> None:
    assert parse_squeue(listed("17+1", "PENDING", "1", "1", "1", "None", "a"), M) == []
    assert parse_squeue("", M) == []
    assert parse_squeue("squeue: warning\n", M) == []


def test_the_format_has_a_mark_around_every_field() -> None:
    assert squeue_format(M).count(M) == 8


def test_a_list_of_accounting() -> None:
    lines = [
        M.join(["3", "FAILED", "1795578550", "1795578551", "1795578552", "None", "wlm-a"]),
        M.join(["4", "CANCELLED by 1000", "1795578550", "Unknown", "1795578552", "None", "wlm-b"]),
        "torn",
        M.join(["5", "COMPLETED", "1795578550"]),
    ]
    found = parse_sacct(lines, M)
    assert [(one.id, one.state, one.starts_at) for one in found] == [
        ("3", "FAILED", 1795578551.0),
        ("4", "CANCELLED", None),
    ]


def test_the_id_that_is_known_is_meant() -> None:
    listed = [row(7), row(9), row(3, submitted=200.0), row(9, name="wlm-b")]
    rows = Rows(listed).of(ref())
    assert choose(rows, "7") == row(7)
    assert choose(rows, None, "9") == row(9)
    # the newest by its submission: ids begin anew
    assert choose(rows, "1") == row(3, submitted=200.0)
    assert choose((), "1") is None


def test_an_id_of_another_name_is_another_job() -> None:
    assert choose(Rows([row(7, name="foreign")]).of(ref()), "7") is None


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("17_4", ["17_4"]),
        ("17_[2]", ["17_2"]),
        ("17_[0-2,7]", ["17_0", "17_1", "17_2", "17_7"]),
        ("17_[0-6:3%2]", ["17_0", "17_3", "17_6"]),
        ("17_[0,2,...]", ["17_0", "17_2", "17_-1"]),  # a list too long to be written out
        ("17_[]", ["17_-1"]),
    ],
)
def test_tasks_of_an_array_have_a_row_each(text: str, ids: list[str]) -> None:
    found = parse_squeue(listed(text, "PENDING", "1", "1", "1", "None", "wlm-array-1"), M)
    assert [one.id for one in found] == ids
    assert {one.number for one in found} == {17}


def test_a_job_in_an_array_is_known_by_its_place() -> None:
    asked = ref(array=InArray("wlm-array-1", 2))
    tasks = [row(f"17_{index}", name="wlm-array-1") for index in (1, 2, 3)]
    rows = Rows([*tasks, row("18_2", name="wlm-array-2"), row(19, name="foreign")])
    assert [one.id for one in rows.of(asked)] == ["17_2"]
    assert Rows([row("17_-1", name="wlm-array-1")]).of(asked) != []  # may be one of those
    # submitted alone in the end: what lives goes first, whose id is written down or not
    both = Rows([row("17_2", "CANCELLED", "wlm-array-1"), row(20)])
    assert choose_listed(both.of(asked), "17_2") == row(20)
    # a task of an array that has a job's own name is not this job
    assert Rows([row("17_2")]).of(asked) == []
    assert [*names_of([asked, asked, ref()])] == ["wlm-a", "wlm-array-1"]


# -- states --------------------------------------------------------------------------------------


def test_every_end_is_an_end() -> None:
    assert {STATES[word] for word in ENDED} == {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }
    live = set(STATES) - set(ENDED)
    assert {STATES[word] for word in live} == {JobState.PENDING, JobState.RUNNING}


def test_a_state_of_tomorrow_is_unknown_and_told(caplog: pytest.LogCaptureFixture) -> None:
    assert state_of("BEAMED") is JobState.UNKNOWN
    assert "BEAMED" in caplog.text


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("PENDING", "Resources", "waits for free nodes (Resources)"),
        ("PENDING", "None", "waits for Slurm to look at it"),
        (
            "PENDING",
            "ReqNodeNotAvail, UnavailableNodes:wn2",
            "a node it needs is not available (ReqNodeNotAvail, UnavailableNodes:wn2)",
        ),
        (
            "PENDING",
            "QOSMaxJobsPerUserLimit",
            "a limit of its account or qos is reached (QOSMaxJobsPerUserLimit)",
        ),
        ("PENDING", "Something New", "Something New"),
        ("SUSPENDED", "None", "is suspended"),
        ("RUNNING", "None", ""),
    ],
)
def test_why_a_job_waits(state: str, reason: str, expected: str) -> None:
    assert meanwhile(state, reason) == expected


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("OUT_OF_MEMORY", "OutOfMemory", "out of memory"),
        ("TIMEOUT", "TimeLimit", "walltime"),
        ("NODE_FAIL", "None", "node failure"),
        ("CANCELLED", "None", "cancelled on the site"),
        ("FAILED", "JobLaunchFailure", "Slurm says FAILED (JobLaunchFailure)"),
        ("FAILED", "NonZeroExitCode", "Slurm says FAILED"),
    ],
)
def test_how_a_job_ended(state: str, reason: str, expected: str) -> None:
    assert end_of(state, reason).startswith(expected)


# -- refusals: texts of Slurm 22.05 unless a later version says it otherwise ----------------------

FAILED = "sbatch: error: Batch job submission failed: "


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"sbatch: error: invalid partition specified: nope\n{FAILED}Invalid partition name "
         "specified", JobRejectedError),
        (f"sbatch: error: Memory specification can not be satisfied\n{FAILED}Requested node "
         "configuration is not available", JobRejectedError),
        (f"{FAILED}Invalid account or account/partition combination specified", JobRejectedError),
        (f"{FAILED}Invalid qos specification", JobRejectedError),
        (f"{FAILED}Requested time limit is invalid (missing or exceeds some limit)",
         JobRejectedError),
        (f"{FAILED}User's group not permitted to use this partition", JobRejectedError),
        (f"{FAILED}Access/permission denied", JobRejectedError),
        (f"{FAILED}Node count specification invalid", JobRejectedError),
        (f"{FAILED}More processors requested than permitted", JobRejectedError),
        ("sbatch: error: Invalid generic resource (gres) specification", JobRejectedError),
        ("sbatch: error: Invalid --time specification", JobRejectedError),
        ("sbatch: unrecognized option '--bogus'\nTry \"sbatch --help\" for more information",
         JobRejectedError),
        (f"{FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time "
         "limits)", JobRejectedError),
        (f"sbatch: error: AssocMaxSubmitJobLimit\n{FAILED}Job violates accounting/QOS policy (job "
         "submit limit, user's size and/or time limits)", SiteOverloadedError),
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit\n{FAILED}Job violates accounting/QOS policy "
         "(job submit limit, user's size and/or time limits)", SiteOverloadedError),
        (f"sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n{FAILED}"
         "Resource temporarily unavailable", SiteOverloadedError),
        # the last of these tries may have submitted it
        (f"sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying\n{FAILED}"
         "Socket timed out on send/recv operation", JobUndecidedError),
        (f"{FAILED}Rate limit exceeded, job rejected", SiteOverloadedError),
        (f"{FAILED}Required partition not available (inactive or drain)", SiteMaintenanceError),
        (f"{FAILED}Unable to contact slurm controller (connect failure)", SiteUnreachableError),
        ("sbatch: error: If munged is up, restart with --num-threads=10\nsbatch: error: Munge "
         "encode failed: Failed to access \"/run/munge/munge.socket.2\": No such file or directory"
         f"\n{FAILED}Protocol authentication error", SiteUnreachableError),
        ("sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Unknown host\nsbatch: error:"
         " fetch_config: DNS SRV lookup failed\nsbatch: error: _establish_config_source: failed to "
         "fetch config\nsbatch: fatal: Could not establish a configuration source",
         SiteUnreachableError),
        (f"{FAILED}Socket timed out on send/recv operation", JobUndecidedError),
        (f"{FAILED}Zero Bytes were transmitted or received", JobUndecidedError),
        (f"{FAILED}Unexpected message received", JobUndecidedError),
        (f"{FAILED}Unspecified error", JobUndecidedError),
        ("", JobUndecidedError),
    ],
)  # fmt: skip
def test_what_it_means_that_sbatch_failed(text: str, kind: type[StepError]) -> None:
    error = words.submitting(text)
    assert type(error) is kind
    assert words.is_certain(error) == (
        kind in {JobRejectedError, SiteOverloadedError, SiteMaintenanceError}
    )


def test_a_refusal_is_in_slurms_own_words_on_one_line() -> None:
    text = f"sbatch: error: invalid partition specified: nope\n{FAILED}Invalid partition name"
    assert str(words.submitting(text)) == (
        "Slurm refused the job: invalid partition specified: nope;"
        " Batch job submission failed: Invalid partition name"
    )


def test_a_silent_controller_is_no_fault_of_the_job() -> None:
    text = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)"
    assert type(words.asking("squeue", text)) is SiteUnreachableError
    assert "squeue: Invalid user" in str(words.asking("squeue", "squeue: error: Invalid user: x"))


# -- options -------------------------------------------------------------------------------------


def spec(**asked: object) -> JobSpec:
    ref = JobRef(token="wlm-a", workdir="/scratch/w x%j")
    return JobSpec(ref=ref, script="", resources=Resources(**asked))  # type: ignore[arg-type]


def test_options_of_a_job() -> None:
    asked = spec(cpus=4, nodes=2, memory_mb=4001, gpus=2, walltime_s=61.0)
    assert options(asked, {"partition": "long", "account": "a1", "qos": None, "host": "h"}) == [
        "--job-name=wlm-a",
        "--comment=wlm-a",
        "--no-requeue",
        "--chdir=/scratch/w x%j",
        "--output=.wlm/wlm-a/slurm.log",
        "--open-mode=append",
        "--nodes=2",
        "--ntasks=4",
        "--time=2",
        "--mem=2001M",
        "--gpus=2",
        "--partition=long",
        "--account=a1",
    ]


def test_less_than_a_minute_is_a_minute() -> None:
    assert "--time=1" in options(spec(walltime_s=0.5), {})
    assert "--time=1" in options(spec(walltime_s=60.0), {})


def test_each_node_has_a_processor() -> None:
    with pytest.raises(JobRejectedError, match=r"resources.cpus: got 1, expected at least 3"):
        options(spec(nodes=3), {})
