// The whole interface as a scheduler of 0.22 has it, as far as calls and answers of jobs go. Written
// by itself, never from the client's file, so that a wrong field id there shows here.

enum ResponseCode {
  INVALID_REQUEST = 0, OK = 1, ERROR = 2, WARNING = 3, AUTH_FAILED = 4, JOB_UPDATING_ERROR = 5,
  ERROR_TRANSIENT = 6
}
enum ScheduleStatus {
  INIT = 11, THROTTLED = 16, PENDING = 0, ASSIGNED = 9, STARTING = 1, RUNNING = 2, FINISHED = 3,
  PREEMPTING = 13, RESTARTING = 12, DRAINING = 17, FAILED = 4, KILLED = 5, KILLING = 6, LOST = 7,
  PARTITIONED = 18
}
enum CronCollisionPolicy { KILL_EXISTING = 0, CANCEL_NEW = 1, RUN_OVERLAP = 2 }
enum Mode { RW = 1, RO = 2 }

struct Identity { 2: string user }
struct JobKey { 1: string role, 2: string environment, 3: string name }
struct InstanceKey { 1: JobKey jobKey, 2: i32 instanceId }
struct ExecutorConfig { 1: string name, 2: string data }
struct Metadata { 1: string key, 2: string value }
union Resource { 1: double numCpus, 2: i64 ramMb, 3: i64 diskMb, 4: string namedPort, 5: i64 numGpus }
struct ValueConstraint { 1: bool negated, 2: set<string> values }
struct LimitConstraint { 1: i32 limit }
union TaskConstraint { 1: ValueConstraint value, 2: LimitConstraint limit }
struct Constraint { 1: string name, 2: TaskConstraint constraint }
struct DockerImage { 1: string name, 2: string tag }
struct AppcImage { 1: string name, 2: string imageId }
union Image { 1: DockerImage docker, 2: AppcImage appc }
struct Volume { 1: string containerPath, 2: string hostPath, 3: Mode mode }
struct MesosContainer { 1: optional Image image, 2: optional list<Volume> volumes }
struct DockerParameter { 1: string name, 2: string value }
struct DockerContainer { 1: string image, 2: optional list<DockerParameter> parameters }
union Container { 1: MesosContainer mesos, 2: DockerContainer docker }
struct MesosFetcherURI {
  1: string value, 2: optional bool extract, 3: optional bool cache, 4: optional string outputFile
}
struct PartitionPolicy { 1: bool reschedule, 2: optional i64 delaySecs }
struct PercentageSlaPolicy { 1: double percentage, 2: i64 durationSecs }
struct CountSlaPolicy { 1: i64 count, 2: i64 durationSecs }
struct CoordinatorSlaPolicy { 1: string coordinatorUrl, 2: string statusKey }
union SlaPolicy {
  1: PercentageSlaPolicy percentageSlaPolicy, 2: CountSlaPolicy countSlaPolicy,
  3: CoordinatorSlaPolicy coordinatorSlaPolicy
}
struct TaskConfig {
  7: bool isService
  8: optional double numCpus       // 8, 9, 10 and 21 up to 0.19
  9: optional i64 ramMb
  10: optional i64 diskMb
  11: i32 priority
  13: i32 maxTaskFailures
  17: optional Identity owner
  18: optional bool production
  20: set<Constraint> constraints
  21: optional set<string> requestedPorts
  22: optional map<string, string> taskLinks
  23: optional string contactEmail
  25: optional ExecutorConfig executorConfig
  27: optional set<Metadata> metadata
  28: JobKey job
  29: Container container
  30: optional string tier
  32: set<Resource> resources
  33: optional set<MesosFetcherURI> mesosFetcherUris
  34: optional PartitionPolicy partitionPolicy
  35: optional SlaPolicy slaPolicy
}
struct JobConfiguration {
  4: optional string cronSchedule
  5: CronCollisionPolicy cronCollisionPolicy
  6: TaskConfig taskConfig
  7: optional Identity owner
  8: i32 instanceCount
  9: JobKey key
}
struct TaskQuery {
  2: string jobName, 4: set<string> taskIds, 5: set<ScheduleStatus> statuses, 7: set<i32> instanceIds
  9: string environment, 10: set<string> slaveHosts, 11: set<JobKey> jobKeys, 12: i32 offset
  13: i32 limit, 14: string role
}
struct TaskEvent { 1: i64 timestamp, 2: ScheduleStatus status, 3: optional string message, 4: optional string scheduler }
struct AssignedTask {
  1: string taskId, 2: string slaveId, 3: string slaveHost, 4: TaskConfig task
  5: map<string, i32> assignedPorts, 6: i32 instanceId
}
struct ScheduledTask {
  1: AssignedTask assignedTask, 2: ScheduleStatus status, 3: i32 failureCount
  4: list<TaskEvent> taskEvents, 5: optional string ancestorId, 6: i32 timesPartitioned
}
struct ScheduleStatusResult { 1: list<ScheduledTask> tasks }
struct PopulateJobResult { 2: TaskConfig taskConfig }
struct GetJobsResult { 1: set<JobConfiguration> configs }
struct PendingReason { 1: string taskId, 2: string reason }
struct GetPendingReasonResult { 1: set<PendingReason> reasons }
struct TierConfig { 1: string name, 2: map<string, string> settings }
struct GetTierConfigResult { 1: string defaultTierName, 2: set<TierConfig> tiers }
union Result {
  1: PopulateJobResult populateJobResult
  3: ScheduleStatusResult scheduleStatusResult
  4: GetJobsResult getJobsResult
  21: GetPendingReasonResult getPendingReasonResult
  27: GetTierConfigResult getTierConfigResult
}
struct ServerInfo { 1: string clusterName, 3: string statsUrlPrefix }
struct ResponseDetail { 1: string message }
struct Response {
  1: ResponseCode responseCode, 3: optional Result result, 5: ServerInfo serverInfo
  6: optional list<ResponseDetail> details
}

service ReadOnlyScheduler {
  Response getTasksStatus(1: TaskQuery query)
  Response getTasksWithoutConfigs(1: TaskQuery query)
  Response getPendingReason(1: TaskQuery query)
  Response getTierConfigs()
}
service AuroraSchedulerManager extends ReadOnlyScheduler {
  Response createJob(1: JobConfiguration description)
  Response killTasks(4: JobKey job, 5: set<i32> instances, 6: string message)
}
