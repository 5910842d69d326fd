"""Settings of Celery for wlm_tasks; nothing else.

What belongs to a place (broker, database, sites) stands in ``wlm.toml``. This module is found by
its name from any directory; WLM_CELERYCONFIG names another one. It must not import wlm_tasks.
"""

from kombu import Exchange, Queue

# Messages carry data, never code.
accept_content = ["json"]
task_serializer = "json"
result_serializer = "json"
event_serializer = "json"

# The rows are the truth, so no result is ever stored.
task_ignore_result = True

# An urgent message overtakes all waiting ones only with these three together: late ack, prefetch
# of one per slot, and x-max-priority on a classic queue. The first two also bring back the
# message of a worker that died.
task_acks_late = True
task_reject_on_worker_lost = True
worker_prefetch_multiplier = 1

# Dedicated queues. A misspelt queue name is an error, not a new queue.
task_create_missing_queues = False
_wlm = Exchange("wlm", type="direct", durable=True)
_dead = Exchange("wlm.dead", type="direct", durable=True)


def _queue(name: str) -> Queue:
    return Queue(
        name,
        _wlm,
        routing_key=name,
        durable=True,
        queue_arguments={
            "x-queue-type": "classic",
            "x-max-priority": 10,
            "x-dead-letter-exchange": "wlm.dead",
            "x-dead-letter-routing-key": "wlm.dead",
        },
    )


task_queues = tuple(
    _queue(name) for name in ("envsetup", "staging", "jobsub", "monitor", "scheduler")
)
task_default_queue = "scheduler"
task_default_exchange = "wlm"
task_default_exchange_type = "direct"
task_default_routing_key = "scheduler"
_QUEUE_OF = {
    "wlm.setup": "envsetup",
    "wlm.stage_in": "staging",
    "wlm.stage_out": "staging",
    "wlm.submit": "jobsub",
    "wlm.poll": "monitor",
    "wlm.cancel": "monitor",
    "wlm.remove": "monitor",
    "wlm.schedule": "scheduler",
}
# The exchange is named, or Celery would publish through the broker's default exchange, which a
# user with least rights may not write to.
task_routes = {
    task: {"queue": queue, "exchange": "wlm", "routing_key": queue}
    for task, queue in _QUEUE_OF.items()
}

# A silent peer is noticed after about 30 s instead of three minutes.
broker_heartbeat = 10
# A worker or control process outlives any outage of the broker.
broker_connection_retry = True
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_transport_options = {"client_properties": {"product": "wlm_tasks"}}
# A hint that cannot be sent soon is sent later by control, from the rows.
task_publish_retry = True
task_publish_retry_policy = {
    "max_retries": 2,
    "interval_start": 0.1,
    "interval_step": 0.2,
    "interval_max": 0.5,
}
# A step goes on when its worker loses the connection; its epoch keeps it from doing harm.
worker_cancel_long_running_tasks_on_connection_loss = False
worker_hijack_root_logger = True
# Checks each message's form; Celery's own ends the worker over a malformed one.
worker_consumer = "wlm_tasks.tasks.consumer:Consumer"
worker_proc_alive_timeout = 30
# One more message for every step; workers started with -E send it all the same.
task_send_sent_event = False
enable_utc = True
