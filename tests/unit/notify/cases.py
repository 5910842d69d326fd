"""Notices as they are in life, at least one of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.notify.words import Letterhead

K = NoticeKind
AT: Final = 1795927957.0  # 2026-11-29 04:52:37 UTC
HEAD: Final = Letterhead(
    domain="example.org", installation="a", dashboard_url="https://wlm.example.org"
)
STEPS: Final = [
    {
        "experiment": "exp-7k2q9abcde",
        "name": "lj-melt-T300",
        "step": "jobsub",
        "became": "taken over by jobsub2@node8",
    },
    {
        "experiment": "exp-8d2q9abcdf",
        "name": "ising-300",
        "step": "staging",
        "became": "released",
    },
    {
        "experiment": "exp-9k2q9abcdg",
        "name": "a-long-name-of-an-experiment",
        "step": "envsetup",
        "became": "waiting for a worker of envsetup",
    },
]
WITNESSES: Final = {
    "serf": "failed for 24 s",
    "celery": "no heartbeat for 30 s",
    "broker": "its queue was deleted 29 s ago",
}
WORKER: Final[Mapping[str, Any]] = {
    "host": "node7",
    "incarnation": "7f3a91c2",
    "queues": ["jobsub", "staging"],
    "zone": "rack-2",
    "since": AT - 30.4,
    "started_at": AT - 190_080,
    "witnesses": WITNESSES,
    "steps": STEPS,
}


def notice(
    kind: NoticeKind,
    subject: str = "jobsub1@node7",
    *,
    key: str = "",
    at: float = AT,
    ends: str | None = None,
    **detail: Any,
) -> Notice:
    return Notice(
        key=key or f"{kind.lower()}:17",
        kind=kind,
        subject=subject,
        at=at,
        detail=detail,
        ends=ends,
    )


DOWN: Final = notice(K.WORKER_DOWN, key="down:17", **WORKER)
EXPERIMENT: Final[Mapping[str, Any]] = {
    "name": "lj-melt-T300",
    "owner": "ann",
    "project": "melts",
    "took_s": 3723,
}
CASES: Final = [
    DOWN,
    notice(K.WORKER_BACK, key="up:17", ends="down:17", host="node7", down_s=252),
    notice(K.WORKER_RESTARTED, **WORKER, reason="another incarnation came without a leave"),
    notice(K.WORKER_LEFT, host="node7", steps=[], reason="Serf says so, and it was not draining"),
    notice(
        K.DRAIN_OVERDUE,
        deadline=AT - 600,
        steps=[{**STEPS[1], "became": "still running"}],
        reason="drained by ann: kernel update",
    ),
    notice(K.WORKER_FLAPPING, times=5, within_s=3600, witnesses=WITNESSES),
    notice(
        K.FLEET_DOWN,
        "",
        gone=[f"jobsub{i}@node{i}" for i in range(12)],
        expected=20,
        reason="the broker does not answer",
    ),
    notice(K.FLEET_BACK, "", ends="fleet:1", down_s=362, gone=["jobsub3@node3"]),
    notice(K.BROKER_DOWN, "mq.example.org", since=AT - 31, reason="connection refused"),
    notice(K.BROKER_BACK, "mq.example.org", ends="broker:1", down_s=95),
    notice(K.DATABASE_DOWN, "db.example.org", since=AT - 31, reason="connection refused"),
    notice(
        K.SITE_DOWN,
        "cluster-a",
        state="AUTH_NEEDED",
        since=AT - 3,
        reason="login.a.example.org refuses the key of gateway",
    ),
    notice(K.SITE_BACK, "cluster-a", ends="site:1", down_s=7200),
    notice(K.QUEUE_STUCK, "staging", waiting=17, consumers=0, since=AT - 300),
    notice(K.QUEUE_SERVED, "staging", ends="queue:1", waiting=3, down_s=640),
    notice(
        K.EXPERIMENT_ENDED,
        "exp-7k2q9abcde",
        **EXPERIMENT,
        state="FAILED",
        reason="exit code 1: ERROR: Lost atoms: original 4000 current 3998",
    ),
    notice(
        K.EXPERIMENT_PAUSED,
        "exp-7k2q9abcde",
        **EXPERIMENT,
        state="PAUSED",
        reason="5 tries to stage in: sftp://lab.example.org/melt.in: connection refused",
    ),
    notice(K.TEST, "ops@example.org"),
]


def storm(number: int = 300) -> list[Notice]:
    """Workers of racks that die within a minute."""
    return [
        notice(
            K.WORKER_DOWN,
            f"jobsub{i % 10}@node{i // 10}",
            key=f"down:{i}",
            at=AT + i * 60 / number,
            **{**WORKER, "host": f"node{i // 10}"},
        )
        for i in range(number)
    ]
