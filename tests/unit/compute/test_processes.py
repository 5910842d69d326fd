"""Recognising processes."""

from __future__ import annotations

import os
import signal
import subprocess

from services.processes import wait_for
from wlm_tasks.compute import processes
from wlm_tasks.compute.processes import Process, ProcessTable


def test_this_process() -> None:
    me = processes.look_up(os.getpid())
    assert me is not None
    assert (me.pid, me.parent, me.session) == (os.getpid(), os.getppid(), os.getsid(0))
    assert processes.command_line(os.getpid())
    assert processes.look_up(2**22 + 1) is None
    assert processes.command_line(2**22 + 1) == []


def test_a_name_made_to_confuse() -> None:
    with subprocess.Popen(
        ["bash", "-c", "echo -n ') R 1 1' > /proc/$$/comm; cat /proc/$$/comm; read"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b") R 1 1\n"
        found = processes.look_up(child.pid)
        assert found is not None
        assert found.parent == os.getpid()
        child.kill()


def test_a_zombie_does_not_live() -> None:
    child = subprocess.Popen(["true"])
    wait_for(lambda: processes.look_up(child.pid) is None, what="the end of the child")
    assert child.wait() == 0


def test_tokens_are_whole_entries() -> None:
    for environ, expected in (
        ({"WLM_JOB_TOKEN": "abc"}, ["abc"]),
        ({"WLM_JOB_TOKEN": "abcd"}, []),
        ({"X": "WLM_JOB_TOKEN=abc"}, []),
        ({"XWLM_JOB_TOKEN": "abc"}, []),
    ):
        with subprocess.Popen(["/bin/sleep", "30"], env=environ) as child:
            wait_for(lambda pid=child.pid: "/bin/sleep" in processes.command_line(pid))  # type: ignore[misc]
            found = processes.scan().of_job("abc", None)
            assert [p.token for p in found.values()] == expected
            child.kill()


def test_a_signal_goes_to_the_process_meant() -> None:
    with subprocess.Popen(["sleep", "30"]) as child:
        found = processes.look_up(child.pid)
        assert found is not None
        other = Process(found.pid, found.start + 1, found.parent, found.session)
        processes.send([other, Process(2**22 + 1, 1, 1, 1)], signal.SIGKILL)
        assert processes.look_up(child.pid) is not None
        processes.send([found], signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL


def test_members_of_a_job() -> None:
    guard = Process(100, 5, 1, 100, "t")
    payload = Process(101, 6, 100, 100, "t")
    bare = Process(102, 7, 101, 100)
    fled = Process(103, 8, 102, 103)
    orphan = Process(104, 9, 1, 104, "t")
    stranger = Process(105, 10, 1, 105, "u")
    table = ProcessTable([guard, payload, bare, fled, orphan, stranger])
    assert set(table.of_job("t", (100, 5))) == {100, 101, 102, 103, 104}
    # the leader is dead, its session lives
    table = ProcessTable([bare, fled, stranger])
    assert set(table.of_job("t", (100, 5))) == {102, 103}
    assert table.of_job("t", None) == {}
    # the leader's pid was given away: that session is not the job's
    table = ProcessTable([Process(100, 50, 1, 100), bare, stranger])
    assert table.of_job("t", (100, 5)) == {}
