"""Whole sites in trouble, and short of places, with real hosts and processes."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from services.aurora import PrivateAurora
from services.fixtures import MakeSshd
from services.processes import wait_for
from services.slurm import PrivateSlurm
from services.sshd import PrivateSshd
from wlm_tasks import Client, Experiment, Settings, connecting
from wlm_tasks.config.settings import SiteSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.model.states import FINAL, ExperimentState
from wlm_tasks.state.views import EventView


def changes(client: Client) -> list[EventView]:
    """What was told of sites."""
    return [one for one in client.store.views.events() if one.state == "SITE"]


def test_a_site_that_goes_away_and_comes_back(make_sshd: MakeSshd, tmp_path: Path) -> None:
    """One notice each way; jobs are kept, nothing uses up a try, and each payload runs once."""
    sshd, ledger, go = make_sshd(), tmp_path / "ledger", tmp_path / "go"
    site = SiteSettings(
        name="far", kind="ssh", scratch=str(tmp_path / "scratch"), options=sshd.options,
        poll_s=0.2, poll_max_s=0.5, probe_s=0.3, probe_max_s=1.0,
    )  # fmt: skip
    settings = Settings(data_dir=tmp_path / "data", sites={"far": site})
    commands = [f"echo {{n}} >> {ledger}", f"until [ -e {go} ]; do sleep 0.1; done"]
    experiment = Experiment(name="far", site="far", commands=commands)
    with running(settings, concurrency=4):
        client = Client(settings)
        runs = [client.schedule(experiment, params={"n": n}) for n in range(3)]
        wait_for(lambda: all(r.status is ExperimentState.RUNNING for r in runs), 60, "the jobs")
        sshd.stop()
        runs += [client.schedule(experiment, params={"n": n}) for n in range(3, 8)]
        row = client.store.sites.get
        wait_for(lambda: row("far").state == "UNREACHABLE", 60, "that it is noticed")
        wait_for(lambda: client.store.sites.busy()["far"].held == 5, 60, "that steps wait")
        go.touch()  # jobs end meanwhile, unseen
        wait_for(lambda: row("far").probes >= 2, 60, "tries in vain")
        assert [run.status for run in runs[:3]] == [ExperimentState.RUNNING] * 3
        assert "the site is UNREACHABLE" in runs[0].why()
        assert "held: site far: " in runs[5].why()
        assert [one.detail["state"] for one in changes(client)] == ["UNREACHABLE"]
        sshd.start()
        wait_for(lambda: all(run.status in FINAL for run in runs), 90, "the end")
        assert {run.status for run in runs} == {ExperimentState.DONE}
        assert [one.detail["state"] for one in changes(client)] == ["UNREACHABLE", "UP"]
        assert {step.tries for run in runs for step in run.steps} == {0}
        client.close()
    assert Counter(ledger.read_text().split()) == Counter(map(str, range(8)))


def test_connections_are_counted_over_all_processes(
    sshd: PrivateSshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "IDLE_S", 0.5)
    site = SiteSettings(
        name="far", kind="ssh", scratch=str(tmp_path / "scratch"), options=sshd.options,
        poll_s=0.2, max_connections=1,
    )  # fmt: skip
    settings = Settings(data_dir=tmp_path / "data", sites={"far": site})
    client = Client(settings)
    client.store.database.upgrade()
    leases, line = client.store.connections, connecting.line_of(site)
    logins = sshd.logins()
    assert leases.take(line, 1, "another process", 60.0)
    with running(settings, concurrency=2):
        run = client.schedule(Experiment(name="far", site="far", commands=["true"]))
        reason = "site far: has as many connections as it may (1)"
        wait_for(lambda: reason in run.why(), 30, "that it waits")
        assert sshd.logins() == logins
        leases.give_back(line, "another process")
        wait_for(lambda: run.status is ExperimentState.DONE, 60, "the end")
        assert {step.tries for step in run.steps} == {0}
        wait_for(lambda: not sshd.connections(), 30, "the end of the connection")
        wait_for(lambda: leases.holders(line) == [], 30, "that the place is free")
    client.close()


def test_jobs_of_the_account_that_are_not_ours_take_places(
    login_node: PrivateSshd, slurm: PrivateSlurm, tmp_path: Path
) -> None:
    site = SiteSettings(
        name="cluster", kind="slurm", scratch=str(tmp_path / "scratch"), max_running=2,
        options=login_node.options, poll_s=0.2, poll_max_s=0.5,
    )  # fmt: skip
    settings = Settings(data_dir=tmp_path / "data", sites={"cluster": site})
    foreign = slurm.command(
        "sbatch", "--parsable", "-J", "other", "-o", "/dev/null", "--wrap", "sleep 300"
    ).strip()
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    commands = [f"echo {{n}} >> {ledger}", f"until [ -e {go} ]; do sleep 0.1; done"]
    experiment = Experiment(name="ours", site="cluster", commands=commands)
    with running(settings, concurrency=2):
        client = Client(settings)
        runs = [client.schedule(experiment, params={"n": 0})]
        load = client.store.sites.get
        wait_for(lambda: load("cluster").foreign_jobs == 1, 60, "that it is counted")
        runs += [client.schedule(experiment, params={"n": 1})]
        reason = "site cluster: runs as many jobs as it may (2, 1 of them not ours)"
        wait_for(lambda: reason in runs[1].why(), 60, "that ours waits")
        slurm.command("scancel", foreign)
        wait_for(lambda: runs[1].status is ExperimentState.RUNNING, 60, "the begin of ours")
        go.touch()
        wait_for(lambda: all(run.status in FINAL for run in runs), 60, "the end")
        assert {run.status for run in runs} == {ExperimentState.DONE}
        client.close()
    assert Counter(ledger.read_text().split()) == Counter("01")


def test_jobs_of_the_role_that_are_not_ours_take_places(
    aurora: PrivateAurora, tmp_path: Path
) -> None:
    aurora.set(execute=True)
    own = {"url": aurora.url, "cluster": "c", "role": "crowded", "environment": "devel"}
    site = SiteSettings(
        name="mesos", kind="aurora", scratch=str(tmp_path / "scratch"), max_queued=2,
        options=own, poll_s=0.2, poll_max_s=0.5,
    )  # fmt: skip
    settings = Settings(data_dir=tmp_path / "data", sites={"mesos": site})
    theirs = ("devel/a PENDING", "prod/b THROTTLED", "devel/c RUNNING", "devel/d FINISHED")
    aurora.others(*theirs, role="crowded")
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    commands = [f"echo {{n}} >> {ledger}", f"until [ -e {go} ]; do sleep 0.1; done"]
    experiment = Experiment(name="ours", site="mesos", commands=commands)
    with running(settings, concurrency=2):
        client = Client(settings)
        runs = [client.schedule(experiment, params={"n": 0})]
        row = client.store.sites.get
        wait_for(lambda: row("mesos").foreign_jobs == 3, 60, "that they are counted")
        wait_for(lambda: row("mesos").running == 2, 60, "that ours runs")
        runs += [client.schedule(experiment, params={"n": 1})]
        reason = "site mesos: has as many jobs in its queue as it may (2, 3 of them not ours)"
        wait_for(lambda: reason in runs[1].why(), 60, "that ours waits")
        assert aurora.seen()["active"] == 4
        aurora.others(*theirs[1:], role="crowded")
        wait_for(lambda: runs[1].status is ExperimentState.RUNNING, 60, "the begin of ours")
        go.touch()
        wait_for(lambda: all(run.status in FINAL for run in runs), 60, "the end")
        assert {run.status for run in runs} == {ExperimentState.DONE}
        client.close()
    aurora.others()
    assert Counter(ledger.read_text().split()) == Counter("01")


def test_a_count_that_fails_holds_nobody(aurora: PrivateAurora, tmp_path: Path) -> None:
    aurora.set(execute=True, no_roles=True)
    own = {"url": aurora.url, "cluster": "c", "role": "silent", "environment": "devel"}
    site = SiteSettings(
        name="mesos", kind="aurora", scratch=str(tmp_path / "scratch"), max_queued=1,
        options=own, poll_s=0.2, poll_max_s=0.5,
    )  # fmt: skip
    settings = Settings(data_dir=tmp_path / "data", sites={"mesos": site})
    aurora.others("devel/a PENDING", "devel/b PENDING", role="silent")
    with running(settings, concurrency=2):
        client = Client(settings)
        runs = [client.schedule(Experiment(name="x", site="mesos", commands=["sleep 1"]))]
        runs += [client.schedule(Experiment(name="y", site="mesos", commands=["true"]))]
        wait_for(lambda: all(run.status in FINAL for run in runs), 60, "the end")
        assert {run.status for run in runs} == {ExperimentState.DONE}
        assert client.store.sites.get("mesos").load_at is None
        assert client.store.polls.errors() == {}
        assert changes(client) == []
        client.close()
    aurora.others()


def test_a_crowd_does_not_keep_a_colleague_waiting(tmp_path: Path) -> None:
    site = SiteSettings(
        name="here", kind="local", scratch=str(tmp_path / "scratch"), max_running=2, poll_s=0.2
    )
    settings, ledger = Settings(data_dir=tmp_path / "data", sites={"here": site}), tmp_path / "led"
    commands = [f"echo {{who}} >> {ledger}", "sleep 0.2"]
    with running(settings, concurrency=4):
        client = Client(settings)
        crowd = Experiment(name="crowd", site="here", commands=commands, owner="ada")
        runs = [client.schedule(crowd, params={"who": "ada"}) for _ in range(16)]
        wait_for(lambda: client.store.sites.busy().get("here") is not None, 30, "the begin")
        late = Experiment(name="late", site="here", commands=commands, owner="ben")
        runs += [client.schedule(late, params={"who": "ben"}) for _ in range(3)]
        wait_for(lambda: all(run.status in FINAL for run in runs), 60, "the end")
        client.close()
    order = ledger.read_text().split()
    assert Counter(order) == {"ada": 16, "ben": 3}
    assert "ben" not in order[-4:], order


def test_a_rate_holds_for_all_workers(tmp_path: Path) -> None:
    site = SiteSettings(
        name="here", kind="local", scratch=str(tmp_path / "scratch"), submit_per_s=4.0,
        max_running=100, poll_s=0.2,
    )  # fmt: skip
    settings = Settings(data_dir=tmp_path / "data", sites={"here": site})
    with running(settings, concurrency=4):
        client = Client(settings)
        begun = time.monotonic()
        experiment = Experiment(name="quick", site="here", commands=["true"])
        runs = [client.schedule(experiment) for _ in range(12)]
        wait_for(lambda: all(run.status in FINAL for run in runs), 60, "the end")
        took = time.monotonic() - begun
        client.close()
    assert {run.status for run in runs} == {ExperimentState.DONE}
    assert took >= (12 - 4) / 4.0
