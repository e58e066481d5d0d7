//! Every limit of the agent in one place. Past each one comes a typed refusal, never silence.

use std::time::Duration;

use moorline_common::backoff::Backoff;
use moorline_common::sign::ENVELOPE_MAX;

/// The largest gRPC message that is read or sent: an envelope and its frame.
pub const MESSAGE_MAX: usize = 8 * 1024 * 1024;
/// Messages that may wait for the hub to read them.
pub const OUTBOUND_QUEUE: usize = 64;
/// How long the hub may take to answer Hello, Join or Renew.
pub const HUB_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Logs that are sent at once.
pub const LOGS_MAX: usize = 8;
/// Commands whose output is sent at once, besides.
pub const OUTPUTS_MAX: usize = 4;
/// How long one who takes the log of an operation on a guest may take for a part, before it gets no more of that task's: nobody signed that
/// it may hold the operation up.
pub const OUTPUT_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of a log in one message.
pub const LOG_PART_MAX: usize = 64 * 1024;
/// Parts of one log under way, at most: all together leave room in the queue to others.
pub const LOG_WINDOW_MAX: usize = OUTBOUND_QUEUE / (LOGS_MAX + OUTPUTS_MAX) * 3 / 4;
/// How long one message may wait for the hub to read before the session is given up.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// The shortest and longest heartbeat interval that a hub may ask for.
pub const HEARTBEAT_INTERVAL_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(300));
/// Between two heartbeats that report a change.
pub const HEARTBEAT_GAP: Duration = Duration::from_millis(50);
/// Waits between dials while the hub may merely be restarting.
pub const REDIAL_QUICK: Backoff = Backoff { base: Duration::from_millis(250), max: Duration::from_secs(1) };
/// So many quick redials come first.
pub const REDIAL_QUICK_TRIES: u32 = 15;
/// Waits between dials after that.
pub const REDIAL_SLOW: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(30) };
/// A session that lived this long counts as a success for the redial waits.
pub const SESSION_STABLE: Duration = Duration::from_secs(5);
/// At least this long lies between two renewals, whatever this host's clock says.
pub const RENEW_GAP: Duration = Duration::from_secs(600);
/// A failed renewal is tried again after this: 1 minute, doubling up to an hour.
pub const RENEW_RETRY: Backoff = Backoff { base: Duration::from_secs(60), max: Duration::from_secs(3600) };
/// How often `join` tries all the hub's addresses before it gives up.
pub const JOIN_TRIES: u32 = 5;
/// The longest token that `join` reads, in bytes.
pub const TOKEN_INPUT_MAX: u64 = 8192;
/// So long after its end a certificate still renews itself: what hubs allow.
pub const EXPIRED_RENEWAL_MAX_S: u64 = 90 * 24 * 3600;
/// Addresses of hubs that are kept.
pub const HUBS_MAX: usize = 16;
/// Trust roots that are kept; each new version is one.
pub const ROOTS_MAX: u64 = 10_000;
/// Trust roots that are sent in one Held message: the newest ones.
pub const HELD_ROOTS_MAX: usize = 256;
/// Bytes of envelopes in one Held message, unless a single one is larger; the hub takes 8 MiB.
pub const HELD_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Bytes of the observation in a report: with the apply report beside it and in base64, it fits into one envelope.
pub const REPORT_BYTES_MAX: usize = 2560 * 1024;
/// Torn-down topologies whose last envelope is kept, besides the newest.
pub const FLOOR_ENVELOPES_MAX: u32 = 8;

/// Steps and inspections at once on one engine.
pub const DOCKER_PARALLELISM: usize = 8;
/// For the engine to say who it is. A dead engine must be known as such within seconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For the engine to begin its answer to a request.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one observation may take before the engine counts as unreachable.
pub const OBSERVE_TIMEOUT: Duration = Duration::from_secs(30);
/// Steps that have begun and not ended; the others wait for an end. One append of the journal holds the ends of all and
/// as many beginnings, and lanes that end have not made room yet.
pub const STEPS_MAX: usize = 1024;
const _: () = assert!(2 * STEPS_MAX <= JOURNAL_APPEND_MAX && 2 * STEPS_MAX <= LANES_MAX);
/// How long one step may take, without its pull and what else it does aside.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Images that are pulled at once; the wait for a turn has no limit but the others' pulls.
pub const PULLS_MAX: usize = 3;
/// Layers of one image of which it is known how far they are; of others only that there are more.
pub const PULL_LAYERS_MAX: usize = 512;
/// Pulls that the hub is told of at once, those that wait included.
pub const PULLS_TOLD_MAX: usize = 16;
/// Between two words to the hub about pulls.
pub const PULLS_GAP: Duration = Duration::from_millis(500);
/// Bytes of a file with a registry's credentials.
pub const CREDENTIALS_MAX: u64 = 1024 * 1024;
/// Registries with credentials of their own.
pub const REGISTRIES_MAX: usize = 256;
/// Between two signs of life of a pull.
pub const PULL_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// One pull: large images come over slow lines.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// A container that takes longer to stop keeps no place of other steps.
pub const STOP_ASIDE_AFTER: Duration = Duration::from_secs(15);
/// Between two tries to open the event stream.
pub const EVENTS_BACKOFF: Backoff = Backoff { base: Duration::from_millis(200), max: Duration::from_secs(5) };
/// Between two looks of the simulated engine at its file.
pub const SIM_POLL: Duration = Duration::from_millis(200);
/// Until when a host of Proxmox VE must have answered: its own proxies give up after 30 s.
pub const PVE_CALL_TIMEOUT: Duration = Duration::from_secs(40);
/// The most bytes of one of its answers.
pub const PVE_ANSWER_MAX: usize = 32 * 1024 * 1024;
/// Guests of one host that are asked for at once.
pub const PVE_CALLS_AT_ONCE: usize = 4;
/// Between two looks at a task.
pub const PVE_TASK_LOOK: Backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_secs(5) };
/// Lines of a task's log that are asked for at once.
pub const PVE_TASK_LINES: usize = 500;
/// Tasks about one guest that are listed.
pub const PVE_TASKS_LISTED: usize = 50;
/// The longest that a task of a step may take which neither makes a guest nor ends one.
pub const PVE_TASK_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// The longest that making a guest may take.
pub const PVE_MAKE_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// Steps and operations on guests that may run at once: some lock a storage for all.
pub const PVE_PARALLELISM: usize = 4;
/// Between two looks at a node's lists while something works there, and while nothing does.
pub const PVE_POLL_BUSY: Duration = Duration::from_secs(2);
/// See [`PVE_POLL_BUSY`].
pub const PVE_POLL_IDLE: Duration = Duration::from_secs(10);
/// The longest that a task of an operation is waited for; past it an operator must look.
pub const PVE_OP_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// So late the call of an operation may leave after that has begun: looking at the guest comes first.
pub const PVE_ASK_WITHIN: Duration = Duration::from_secs(20);
/// By then a request that was on its way shows as a task, or never will. It counts from the record of the operation's beginning: longer
/// than [`OP_START_SLACK`], [`PVE_ASK_WITHIN`] and the 30 s of the host's own proxies together.
pub const PVE_MARGIN: Duration = Duration::from_secs(60);
/// How often a call is repeated that found a guest's file held by somebody, and did nothing.
pub const PVE_BUSY_TRIES: u32 = 5;
/// How long a look at guests may take beside one at an engine of containers.
pub const PVE_LOOK_BESIDE: Duration = Duration::from_secs(15);
/// How long a host that was away may take to say that it is there again.
pub const PVE_ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks at a guest that is watched.
pub const PVE_CHECK_LOOK: Duration = Duration::from_secs(2);
/// So long after its time is over the last look of a `check` may be answered.
pub const PVE_CHECK_SLACK: Duration = Duration::from_secs(10);
/// Operations in doubt that are remembered.
pub const PVE_DOUBTS_MAX: usize = 1024;
/// How much longer than its own time to stop a guest is waited for.
pub const PVE_STOP_MARGIN: Duration = Duration::from_secs(60);
/// The largest file of the simulated engine that is read, in bytes.
pub const SIM_FILE_MAX: u64 = 64 * 1024 * 1024;
/// A full look at the engine, even when nothing seems to have changed.
pub const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// A look at the engine while steps run, so that a long one delays no other resource for long.
pub const WORKING_LOOK: Duration = Duration::from_secs(5);
/// A look at the engine while a resource waits for another one's health.
pub const WAITING_LOOK: Duration = Duration::from_secs(2);
/// Engine events that come this close together lead to one pass.
pub const EVENT_DEBOUNCE: Duration = Duration::from_millis(10);
/// Waits between looks at an engine that can't be observed.
pub const ENGINE_RETRY: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(10) };
/// Waits before a failed or crashing resource is tried again.
pub const RESOURCE_RETRY: Backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(300) };
/// For so long a container's successor must run before the old one goes, unless its service says.
pub const MONITOR_DEFAULT: Duration = Duration::from_secs(1);
/// The longest wait of [`RESOURCE_RETRY`] when somebody undoes what was set right: the host is to be right soon after that stops.
pub const FOUGHT_RETRY_MAX: Duration = Duration::from_secs(2);
/// The longest that a successor's healthcheck may take to say whether it is good; well below [`STEP_TIMEOUT`].
pub const HEALTH_WAIT_MAX: Duration = Duration::from_secs(15 * 60);
/// A change that must be made again within this time did not hold.
pub const HOLD_TIME: Duration = Duration::from_secs(10);
/// So many relapses in a row are mended at once; then [`RESOURCE_RETRY`] applies.
pub const FREE_RELAPSES: u32 = 3;
/// Lanes that may exist at once.
pub const LANES_MAX: usize = 4096;
/// Operations that may wait in one lane.
pub const LANE_DEPTH_MAX: usize = 64;
/// Operations of all lanes that wait or run.
pub const PLACES_MAX: usize = 2048;
/// Operations that have ended, and whose end no hub has acknowledged, together with those that have not: past it none is
/// accepted.
pub const OPS_KEPT_MAX: usize = 4096;
/// Bytes of names and values of differences in an apply report: it shares an envelope with [`REPORT_BYTES_MAX`].
pub const DRIFT_BYTES_MAX: usize = 256 * 1024;
/// Troubles in an apply report.
pub const TROUBLES_MAX: usize = 64;

/// Commands that may wait for the operations.
pub const OPS_QUEUE: usize = 64;
/// Repeated orders that wait for what becomes of their first one.
pub const ALIASES_MAX: usize = 1024;
/// How long the engine may take over one call of an operation, without what it waits for aside; past it, evidence is
/// looked for.
pub const OP_CALL_TIMEOUT: Duration = Duration::from_secs(2 * 3600);
/// So long after its last moment an operation that waits is ended.
pub const OP_EXPIRY_SLACK: Duration = Duration::from_secs(1);
/// Looks at the host by one `converge`.
pub const CONVERGE_ROUNDS_MAX: u32 = 8;

/// So often a hub is told anew of every operation whose end it has not acknowledged.
pub const RECEIPTS_AGAIN: Duration = Duration::from_secs(60);
/// Bytes of the journal in one message to the hub.
pub const JOURNAL_PART_MAX: usize = 1024 * 1024;
/// The longest journal line, in bytes.
pub const JOURNAL_LINE_MAX: usize = moorline_common::journal::LINE_MAX;
/// Records that one append may carry.
pub const JOURNAL_APPEND_MAX: usize = 4096;
/// Appends that may wait for the writer.
pub const JOURNAL_QUEUE: usize = 1024;
/// Records that share one flush.
pub const JOURNAL_BATCH_MAX: usize = 4096;
/// A journal segment with this many bytes of records is closed and a new one begun.
pub const JOURNAL_ROTATE_BYTES: u64 = 16 * 1024 * 1024;
/// When the disk has no room for a new segment, that is tried again after this many bytes more.
pub const JOURNAL_ROTATE_AGAIN_BYTES: u64 = 1024 * 1024;
/// A journal segment beyond this many bytes is not read.
pub const JOURNAL_READ_MAX: u64 = 1024 * 1024 * 1024;
/// Bytes on the disk that are kept free for how things end: on a full disk nothing new begins.
pub const JOURNAL_RESERVE_BYTES: u64 = 4 * 1024 * 1024;
/// Space is taken from the disk in steps of so many bytes.
pub const JOURNAL_RESERVE_STEP: u64 = 1024 * 1024;
/// Closed segments that are kept for audit.
pub const JOURNAL_SEALED_MAX: usize = 64;
/// Remains of writes that were cut short, of which the newest are kept.
pub const JOURNAL_TORN_MAX: usize = 8;
/// For so long a closed segment is kept for audit, in milliseconds: 400 days.
pub const JOURNAL_SEALED_AGE_MS: u64 = 400 * 24 * 3600 * 1000;

/// The largest sealed value, in bytes: age's header, and base64.
pub const SEALED_FILE_MAX: u64 = 1024 * 1024;

/// The largest configuration or policy file, in bytes.
pub const CONFIG_MAX: u64 = 64 * 1024;
/// Bind roots in a policy.
pub const BIND_ROOTS_MAX: usize = 64;
/// Clients of the admin socket at once.
pub const ADMIN_CLIENTS_MAX: usize = 8;
/// The longest line on the admin socket, in bytes: a trust root in its envelope.
pub const ADMIN_LINE_MAX: usize = ENVELOPE_MAX + 4096;
/// How long an admin client may take to send its line or read the answer.
pub const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long running steps may take to end when the agent stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `teardown` may take.
pub const TEARDOWN_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a statement waits for another process that has the ledger.
pub const LEDGER_BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is saved how much of a trial's time has passed: at most so much is forgotten at a boot.
pub const TRIAL_SAVE_INTERVAL: Duration = Duration::from_secs(30);
/// Between two tries to use a fallback that cannot be used for now.
pub const TRIAL_RETRY: Duration = Duration::from_secs(30);
/// How often the time floor is saved while the agent runs.
pub const FLOOR_SAVE_INTERVAL: Duration = Duration::from_secs(3600);
/// An order that raises the time floor by less than this leaves no trace of it in the ledger, in seconds.
pub const FLOOR_RAISE_KEPT_S: u64 = 60;
/// A statement may have been signed so many seconds after this host's time, no more.
pub const ISSUED_AHEAD_MAX_S: u64 = 24 * 3600;
/// Words of each list in a policy.
pub const POLICY_WORDS_MAX: usize = 64;
/// A clock that differs more than this from the time floor is reported, in seconds.
pub const CLOCK_SKEW_ALARM_S: u64 = 24 * 3600;

/// After so long an engine has done what it was asked before the agent was cut off, grace periods aside.
pub const OP_MARGIN: Duration = Duration::from_secs(30);
/// So late the record of an operation's beginning may come to the disk for its effect to follow at once; well below
/// [`OP_MARGIN`], which counts from when it was made.
pub const OP_START_SLACK: Duration = Duration::from_secs(3);
/// For the engine to freeze a container's processes; well below [`OP_MARGIN`].
pub const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);
/// An engine that answers every look for evidence with an error of its own is asked so often.
pub const EVIDENCE_LOOKS: u32 = 5;
/// Between two looks for evidence of an operation that may still be happening.
pub const OP_LOOK: Duration = Duration::from_secs(1);
/// The most bytes of each of a command's streams that are kept.
pub const EXEC_OUTPUT_MAX: usize = 16 * 1024;
/// Between two looks at a command that runs.
pub const EXEC_LOOK: Duration = Duration::from_millis(500);
/// How long who takes a command's output may keep the engine waiting before it is looked whether the command still runs: Docker waits
/// for its listeners for 2 s after a command's end.
pub const EXEC_STALL: Duration = Duration::from_secs(1);
/// What Docker keeps of a command's output for a listener that is slow, in bytes; a little less than it does.
pub const EXEC_ENGINE_BUFFER: usize = 900_000;
/// So long the output of a command that has ended may still come.
pub const EXEC_DRAIN: Duration = Duration::from_secs(2);
/// Objects that one `prune` removes.
pub const PRUNE_MAX: usize = 256;
/// Operations whose effects the simulated engine counts.
pub const SIM_EFFECTS_MAX: usize = 10_000;
/// Between two warnings in the log that the trust root expires soon.
pub const EXPIRY_WARNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a thread's stack: what the engine is asked nests deep in builds that are not optimised. Only what is used takes memory.
pub const THREAD_STACK: usize = 4 * 1024 * 1024;
