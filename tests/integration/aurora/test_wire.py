"""Bytes against an independent Thrift stack: each side reads what the other wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.Thrift import TApplicationException, TMessageType, TType
from thrift.transport.TTransport import TMemoryBuffer

from services.aurora_peer import rules
from services.aurora_peer.generated import Generated, set_fields
from wlm_tasks.compute.aurora import generations
from wlm_tasks.compute.aurora.job import configuration, job_key, token_of
from wlm_tasks.compute.aurora.options import AuroraOptions
from wlm_tasks.compute.aurora.wire import decode, encode, idl, text
from wlm_tasks.compute.base import JobRef, JobSpec
from wlm_tasks.model.experiment import Resources, Transfer

OPTIONS = AuroraOptions.of(
    "mesos",
    {
        "url": "http://scheduler:8081",
        "cluster": "example",
        "role": "gateway",
        "environment": "staging2",
        "tier": "preferred",
        "disk_mb": 77,
    },
)
REF = JobRef(token="wlm-7f.a_b-1", workdir="/scratch/w")


def read_call(generated: Generated, method: str, data: bytes) -> Any:
    """Return the arguments of a call as the official stack reads them."""
    buffer = TMemoryBuffer(data)
    protocol = TBinaryProtocol(buffer, strictRead=True, strictWrite=True)
    assert protocol.readMessageBegin() == (method, TMessageType.CALL, 0)
    arguments = generated.arguments(method)
    arguments.read(protocol)
    protocol.readMessageEnd()
    assert buffer.read(1) == b""
    return arguments


def write_answer(method: str, write: Any, kind: int = TMessageType.REPLY) -> bytes:
    """Return an answer; `write` writes what is in its ``success``, or the exception."""
    buffer = TMemoryBuffer()
    protocol = TBinaryProtocol(buffer)
    protocol.writeMessageBegin(method, kind, 0)
    if kind == TMessageType.REPLY:
        protocol.writeFieldBegin("success", TType.STRUCT, 0)
        write(protocol)
        protocol.writeFieldStop()
    else:
        write(protocol)
    data: bytes = buffer.getvalue()
    return data


def test_a_job_arrives_whole(generated: Generated) -> None:
    spec = JobSpec(
        ref=REF,
        script="echo",
        resources=Resources(cpus=3, memory_mb=2048, gpus=2),
        name="Schmelze \u00e9\U0001f9ea",
        priority=9,
    )
    data = encode("createJob", {"description": configuration(OPTIONS, spec)})
    job = read_call(generated, "createJob", data).description
    rules.check_job(job)
    task = job.taskConfig
    assert vars(job.key) == {"role": "gateway", "environment": "staging2", "name": REF.token}
    assert task.job == job.key
    assert (job.instanceCount, job.cronSchedule, job.owner) == (1, None, None)
    assert (task.isService, task.priority, task.maxTaskFailures) == (False, 9, 1)
    assert task.tier == "preferred"
    assert set_fields(task.container) == ["mesos"]
    assert {set_fields(r)[0]: getattr(r, set_fields(r)[0]) for r in task.resources} == {
        "numCpus": 3.0,
        "ramMb": 2048,
        "diskMb": 77,
        "numGpus": 2,
    }
    assert {entry.key: entry.value for entry in task.metadata} == {
        "wlm_token": REF.token,
        "wlm_name": "Schmelze \u00e9\U0001f9ea",
    }
    assert task.executorConfig.name == "AuroraExecutor"
    assert json.loads(task.executorConfig.data)["task"]["resources"] == {
        "cpu": 3.0,
        "ram": 2048 * 1024**2,
        "disk": 77 * 1024**2,
        "gpu": 2,
    }


def test_the_disk_that_a_job_asks_for(generated: Generated) -> None:
    spec = JobSpec(ref=REF, script="echo", resources=Resources(disk_mb=500))
    data = encode("createJob", {"description": configuration(OPTIONS, spec)})
    task = read_call(generated, "createJob", data).description.taskConfig
    assert [one.diskMb for one in task.resources if one.diskMb is not None] == [500]


def test_a_job_that_carries_its_files_arrives_whole(generated: Generated) -> None:
    options = replace(OPTIONS, shared_scratch=False, upload_url="http://host/runs")
    inputs = [Transfer("http://host/in", "a"), Transfer("http://host/in", "b")]
    spec = JobSpec(
        ref=REF,
        script="echo {{x}}",
        resources=Resources(),
        inputs=[*inputs, Transfer("hdfs:///x?y", "c")],
        outputs=[Transfer("out", "ftp://host/{{x}}")],
    )
    data = encode("createJob", {"description": configuration(options, spec)})
    job = read_call(generated, "createJob", data).description
    rules.check_job(job)
    task = job.taskConfig
    uris = {(uri.value, uri.extract, uri.cache) for uri in task.mesosFetcherUris}
    assert uris == {("http://host/in", False, False), ("hdfs:///x?y", False, False)}
    assert (task.maxTaskFailures, task.partitionPolicy.reschedule) == (1, False)
    told = json.loads(task.executorConfig.data)["task"]
    assert told["constraints"] == [{"order": ["unpack", "place", "start", "job", "check", "send"]}]
    final = {one["name"] for one in told["processes"] if one["final"]}
    assert final == {"record"}
    assert "{{" not in task.executorConfig.data
    plain = configuration(replace(options, upload_url=""), replace(spec, inputs=(), outputs=()))
    data = encode("createJob", {"description": plain})
    task = read_call(generated, "createJob", data).description.taskConfig
    assert task.mesosFetcherUris is None
    names = [one["name"] for one in json.loads(task.executorConfig.data)["task"]["processes"]]
    assert names == ["unpack", "job", "check"]


def test_other_calls_arrive_whole(generated: Generated) -> None:
    key = job_key(OPTIONS, "t")
    kill = read_call(generated, "killTasks", encode("killTasks", {"job": key, "message": "why"}))
    assert (kill.job.name, kill.instances, kill.message) == ("t", None, "why")
    for method in ("getTasksWithoutConfigs", "getPendingReason"):
        query = idl().TaskQuery(jobKeys=[key, job_key(OPTIONS, "u")])
        asked = read_call(generated, method, encode(method, {"query": query})).query
        assert sorted(key.name for key in asked.jobKeys) == ["t", "u"]
        assert {name for name, value in vars(asked).items() if value is not None} == {"jobKeys"}
    read_call(generated, "getTierConfigs", encode("getTierConfigs", {}))


def test_the_question_for_all_of_a_role(generated: Generated) -> None:
    query = idl().TaskQuery(role="gateway", statuses=set(generations.COUNTED))
    method = "getTasksWithoutConfigs"
    asked = read_call(generated, method, encode(method, {"query": query})).query
    names = generated.types.ScheduleStatus._VALUES_TO_NAMES
    assert {names[number] for number in asked.statuses} == {
        *("INIT", "THROTTLED", "PENDING", "ASSIGNED", "STARTING", "RUNNING"),
        *("KILLING", "RESTARTING", "PREEMPTING", "DRAINING"),
    }
    told = {name: value for name, value in vars(asked).items() if value is not None}
    assert told == {"role": "gateway", "statuses": asked.statuses}


def full_task(types: Any, number: int, **more: Any) -> Any:
    """Return a task with every field that a scheduler tells."""
    key = types.JobKey(role="gateway", environment="devel", name=f"t{number}")
    config = types.TaskConfig(
        job=key,
        isService=False,
        priority=4,
        maxTaskFailures=1,
        owner=types.Identity(user="gateway"),
        production=False,
        constraints=set(),
        requestedPorts=set(),
        taskLinks={},
        contactEmail="a@b",
        executorConfig=types.ExecutorConfig(name="AuroraExecutor"),
        metadata={types.Metadata(key="wlm_token", value=f"t{number}")},
        container=types.Container(mesos=types.MesosContainer()),
        resources={types.Resource(namedPort="http"), types.Resource(numCpus=1.0)},
    )
    assigned = types.AssignedTask(
        taskId=f"id{number}",
        slaveId="S1",
        slaveHost="agent",
        task=config,
        assignedPorts={"http": 1},
        instanceId=number,
    )
    events = [types.TaskEvent(timestamp=1_700_000_000_500, status=4, message="pourquoi \u00e9")]
    fields = {"status": 4, "failureCount": 1, "timesPartitioned": 2, "ancestorId": "before"}
    return types.ScheduledTask(assignedTask=assigned, taskEvents=events, **{**fields, **more})


def answer_with(types: Any, tasks: list[Any]) -> bytes:
    result = types.Result(scheduleStatusResult=types.ScheduleStatusResult(tasks=tasks))
    response = types.Response(
        responseCode=1,
        result=result,
        serverInfo=types.ServerInfo(clusterName="c", statsUrlPrefix="p"),
        details=[types.ResponseDetail(message="said")],
    )
    return write_answer("getTasksWithoutConfigs", response.write)


def test_answers_are_read_whole(generated: Generated) -> None:
    data = answer_with(generated.types, [full_task(generated.types, n) for n in range(200)])
    assert len(data) > 40_000
    response = decode("getTasksWithoutConfigs", data)
    tasks = response.result.scheduleStatusResult.tasks
    assert [token_of(task) for task in tasks] == [f"t{n}" for n in range(200)]
    assert [detail.message for detail in response.details] == ["said"]
    assert generations.read(tasks[7]) == generations.Generation(
        task_id="id7",
        status=generations.FAILED,
        instance=7,
        ancestor="before",
        seen=frozenset({generations.FAILED}),
        message="pourquoi \u00e9",
        ended_at=1_700_000_000.5,
        host="agent",
        agent_id="S1",
    )


class Newer:
    """A structure with one more field than anybody knows."""

    def __init__(self, old: Any) -> None:
        self.old = old

    def write(self, protocol: Any) -> None:
        buffer = TMemoryBuffer()
        self.old.write(TBinaryProtocol(buffer))
        protocol.trans.write(buffer.getvalue()[:-1])  # without the end of the structure
        protocol.writeFieldBegin("news", TType.LIST, 99)
        protocol.writeListBegin(TType.STRUCT, 1)
        protocol.writeFieldBegin("deep", TType.STRING, 7)
        protocol.writeString("x")
        protocol.writeFieldStop()
        protocol.writeFieldStop()


def test_a_newer_scheduler_is_understood(generated: Generated) -> None:
    """Fields and states that are not known here."""
    task = full_task(generated.types, 1, status=77)
    task.assignedTask.task = Newer(task.assignedTask.task)
    task.taskEvents[0].status = 78
    response = decode("getTasksWithoutConfigs", answer_with(generated.types, [task]))
    (read,) = response.result.scheduleStatusResult.tasks
    assert token_of(read) == "t1"
    generation = generations.read(read)
    assert (generation.status, generation.ended) == (77, False)
    assert "status 77" in generations.of_active(generation).reason


def test_text_that_is_not_utf8(generated: Generated) -> None:
    data = answer_with(generated.types, [full_task(generated.types, 1)])
    broken = data.replace("\u00e9".encode(), b"\xff\xfe")
    (task,) = decode("getTasksWithoutConfigs", broken).result.scheduleStatusResult.tasks
    assert generations.read(task).message == "pourquoi \ufffd\ufffd"
    assert text(None) == ""


def test_exceptions_keep_their_words() -> None:
    error = TApplicationException(TApplicationException.UNKNOWN_METHOD, "Invalid method name: 'x'")
    data = write_answer("createJob", error.write, TMessageType.EXCEPTION)
    with pytest.raises(ValueError, match="Invalid method name: 'x'"):
        decode("createJob", data)


def test_an_answer_cut_off_anywhere_is_none(generated: Generated) -> None:
    data = answer_with(generated.types, [full_task(generated.types, 1)])
    for length in range(len(data)):
        with pytest.raises(ValueError, match="no Thrift message"):
            decode("getTasksWithoutConfigs", data[:length])


def test_the_answer_to_another_call(generated: Generated) -> None:
    data = answer_with(generated.types, [])
    with pytest.raises(ValueError, match="no answer to createJob"):
        decode("createJob", data)
    with pytest.raises(ValueError, match="no Thrift message"):
        decode("createJob", b"<html>please log in</html>")
