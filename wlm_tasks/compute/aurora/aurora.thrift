// What we say to an Aurora scheduler and read of its answers, loaded when it is first needed.
// Field ids are those of Aurora 0.16 to 0.22. Left out is what no call of ours sends and no
// decision of ours reads: a reader of the binary protocol passes over fields it does not know.

namespace py aurora

enum ResponseCode {
  INVALID_REQUEST = 0,
  OK = 1,
  ERROR = 2,
  WARNING = 3,
  AUTH_FAILED = 4,
  JOB_UPDATING_ERROR = 5,  // named LOCK_ERROR before 0.19
  ERROR_TRANSIENT = 6,
}

enum ScheduleStatus {
  PENDING = 0,
  STARTING = 1,
  RUNNING = 2,
  FINISHED = 3,
  FAILED = 4,
  KILLED = 5,
  KILLING = 6,
  LOST = 7,
  ASSIGNED = 9,
  INIT = 11,
  RESTARTING = 12,
  PREEMPTING = 13,
  THROTTLED = 16,
  DRAINING = 17,
  PARTITIONED = 18,  // since 0.20
}

struct JobKey {
  1: string role
  2: string environment
  3: string name
}

struct ExecutorConfig {
  1: string name
  2: string data
}

struct Metadata {
  1: string key
  2: string value
}

// exactly one field is set
union Resource {
  1: double numCpus
  2: i64 ramMb
  3: i64 diskMb
  5: i64 numGpus
}

struct MesosContainer {
}

union Container {
  1: MesosContainer mesos
}

// outputFile (4) is left out: before 0.22 none heeds it, and files have the URI's last name
struct MesosFetcherURI {
  1: string value
  2: bool extract
  3: bool cache
}

// since 0.20, of schedulers that know partitions; others pass over it
struct PartitionPolicy {
  1: bool reschedule
}

// numCpus, ramMb and diskMb (8, 9, 10) are left out on purpose: older servers fill them in from
// `resources`, newer ones do not know them
struct TaskConfig {
  7: bool isService
  11: i32 priority
  13: i32 maxTaskFailures
  25: ExecutorConfig executorConfig
  27: set<Metadata> metadata
  28: JobKey job
  29: Container container
  30: string tier
  32: set<Resource> resources
  33: set<MesosFetcherURI> mesosFetcherUris
  34: PartitionPolicy partitionPolicy
}

// cronSchedule (4) is left out on purpose: even an empty one is refused
struct JobConfiguration {
  6: TaskConfig taskConfig
  8: i32 instanceCount
  9: JobKey key
}

struct TaskQuery {
  5: set<ScheduleStatus> statuses
  11: set<JobKey> jobKeys
  14: string role
}

struct TaskEvent {
  1: i64 timestamp  // milliseconds
  2: ScheduleStatus status
  3: string message
}

struct AssignedTask {
  1: string taskId
  2: string slaveId
  3: string slaveHost
  4: TaskConfig task
  6: i32 instanceId
}

struct ScheduledTask {
  1: AssignedTask assignedTask
  2: ScheduleStatus status
  4: list<TaskEvent> taskEvents
  5: string ancestorId
}

struct ScheduleStatusResult {
  1: list<ScheduledTask> tasks
}

struct PendingReason {
  1: string taskId
  2: string reason
}

struct GetPendingReasonResult {
  1: set<PendingReason> reasons
}

struct TierConfig {
  1: string name
}

struct GetTierConfigResult {
  1: string defaultTierName
  2: set<TierConfig> tiers
}

union Result {
  3: ScheduleStatusResult scheduleStatusResult
  21: GetPendingReasonResult getPendingReasonResult
  27: GetTierConfigResult getTierConfigResult
}

struct ResponseDetail {
  1: string message
}

struct Response {
  1: ResponseCode responseCode
  3: Result result
  6: list<ResponseDetail> details
}

service AuroraSchedulerManager {
  Response createJob(1: JobConfiguration description)
  Response killTasks(4: JobKey job, 5: set<i32> instances, 6: string message)
  Response getTasksWithoutConfigs(1: TaskQuery query)
  Response getPendingReason(1: TaskQuery query)
  Response getTierConfigs()
}
