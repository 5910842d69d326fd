"""What ``createJob`` is sent: one job of one instance, named after its token."""

from __future__ import annotations

from typing import Any, Final

from wlm_tasks.compute.aurora import sandbox
from wlm_tasks.compute.aurora.carrying import fetched
from wlm_tasks.compute.aurora.options import AuroraOptions
from wlm_tasks.compute.aurora.thermos import Amounts, Process, executor_data, guard_processes
from wlm_tasks.compute.aurora.wire import idl, text
from wlm_tasks.compute.base import JobSpec
from wlm_tasks.errors import JobRejectedError

#: metadata of a job by which its tasks are known as ours
TOKEN_KEY: Final = "wlm_token"  # noqa: S105 - the name of a field
_NAME_KEY: Final = "wlm_name"
_EXECUTOR: Final = "AuroraExecutor"


def job_key(options: AuroraOptions, token: str) -> Any:
    """Return the key of a token's job: the same whoever asks, and of no other token."""
    return idl().JobKey(role=options.role, environment=options.environment, name=token)


def native_id(options: AuroraOptions, token: str) -> str:
    """Return the job's id as Aurora's own command line takes it behind the cluster."""
    return f"{options.role}/{options.environment}/{token}"


def configuration(options: AuroraOptions, spec: JobSpec) -> Any:
    """Return the ``JobConfiguration``; raises `JobRejectedError` for what Aurora has not."""
    resources, types = spec.resources, idl()
    if resources.nodes > 1:
        raise JobRejectedError(
            f"resources.nodes: got {resources.nodes}, expected 1 on an Aurora site"
        )
    amounts = Amounts(
        cpus=resources.cpus,
        memory_mb=resources.memory_mb or options.memory_mb,
        disk_mb=resources.disk_mb or options.disk_mb,
        gpus=resources.gpus,
    )
    key = job_key(options, spec.ref.token)
    data = executor_data(
        cluster=options.cluster,
        role=options.role,
        environment=options.environment,
        name=spec.ref.token,
        amounts=amounts,
        processes=_processes(options, spec),
    )
    task = types.TaskConfig(
        job=key,
        isService=False,
        priority=spec.priority,
        maxTaskFailures=1,
        executorConfig=types.ExecutorConfig(name=_EXECUTOR, data=data),
        metadata=[
            types.Metadata(key=TOKEN_KEY, value=spec.ref.token),
            types.Metadata(key=_NAME_KEY, value=spec.name),
        ],
        container=types.Container(mesos=types.MesosContainer()),
        tier=options.tier or None,
        resources=_resources(amounts),
        **_for_a_sandbox(options, spec),
    )
    return types.JobConfiguration(key=key, taskConfig=task, instanceCount=1)


def _processes(options: AuroraOptions, spec: JobSpec) -> tuple[Process, ...]:
    if options.shared_scratch:
        return guard_processes(spec.ref)
    return sandbox.processes(spec, upload_url=options.upload_url, transfer_s=options.transfer_s)


def _for_a_sandbox(options: AuroraOptions, spec: JobSpec) -> dict[str, Any]:
    """Return the fields of a ``TaskConfig`` for jobs that find no directory of ours."""
    if options.shared_scratch:
        return {}
    types = idl()
    # an agent that Mesos cannot reach for a while goes on, and no second one is to begin
    found: dict[str, Any] = {"partitionPolicy": types.PartitionPolicy(reschedule=False)}
    if uris := fetched(spec.inputs):
        found["mesosFetcherUris"] = [
            types.MesosFetcherURI(value=uri, extract=False, cache=False) for uri in uris
        ]
    return found


def _resources(amounts: Amounts) -> list[Any]:
    of = idl().Resource
    found = [
        of(numCpus=float(amounts.cpus)),
        of(ramMb=amounts.memory_mb),
        of(diskMb=amounts.disk_mb),
    ]
    return [*found, of(numGpus=amounts.gpus)] if amounts.gpus else found


def token_of(task: Any) -> str | None:
    """Return the token of a ``ScheduledTask``, None if it is not one of ours."""
    for entry in task.assignedTask.task.metadata or ():
        if text(entry.key) == TOKEN_KEY:
            return text(entry.value)
    return None
