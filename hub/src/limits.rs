//! Every bound of the hub, in one place: what is past it gets a typed refusal, not a longer queue.

use std::time::Duration;

/// The largest message from an agent or to one, in bytes: an envelope of 4 MiB and its frame.
pub const MESSAGE_MAX: usize = 8 * 1024 * 1024;
/// The largest answer to an operator, in bytes: whatever could be pushed can be listed.
pub const ANSWER_MAX: usize = 2 * moorline_proto::OPERATOR_MESSAGE_MAX;
/// TLS handshakes under way at once; further connections wait for their turn.
pub const HANDSHAKES_MAX: usize = 256;
/// TLS handshakes under way at once from one source.
pub const HANDSHAKES_PER_SOURCE: usize = 128;
/// Connections whose handshake has not ended or not begun; none of one source may take all that is left.
pub const UNFINISHED_MAX: usize = 4096;
/// Open connections that showed no client certificate. They can only join and ask for health.
pub const ANONYMOUS_MAX: usize = 256;
/// Those from one source: a rack that joins behind one address, but not all there are.
pub const ANONYMOUS_PER_SOURCE: usize = 128;
/// How long a connection without a client certificate may stay open.
pub const ANONYMOUS_LIFE: Duration = Duration::from_secs(60);
/// Bytes that a connection without a client certificate may send: a join and some calls of health fit many times.
pub const ANONYMOUS_BYTES_MAX: usize = 256 * 1024;
/// Open connections in all.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Accepted connections that wait to be served.
pub const ACCEPTED_QUEUE: usize = 64;
/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a TLS handshake may take while others wait for its place.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(1);
/// How long the listener pauses after the kernel refused an accept (no descriptors left).
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// HTTP/2 streams on one connection.
pub const STREAMS_MAX: u32 = 32;
/// HTTP/2 flow-control window of one stream, in bytes: what a peer may have in flight unread.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// HTTP/2 flow-control window of one connection, in bytes.
pub const CONNECTION_WINDOW: u32 = 256 * 1024;
/// HTTP/2 header block, in bytes.
pub const HEADERS_MAX: u32 = 16 * 1024;
/// A ping is sent on a connection that was silent for so long.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// No answer to a ping within this ends the connection.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an agent may take to say Hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages that wait to be sent to one agent.
pub const SESSION_QUEUE: usize = 8;
/// A session whose heartbeats stay away for this many intervals is cut …
pub const SILENT_INTERVALS: u32 = 4;
/// … but never before this.
pub const SILENT_MIN: Duration = Duration::from_secs(15);
/// Between two looks for silent sessions.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
/// A host must have been as wanted for so long before the waits between pushes are short again.
pub const CALM: Duration = Duration::from_secs(300);
/// What one host says is kept by the store at most once in this time; the newest counts.
pub const KEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Hosts whose words are handed to the store at once.
pub const KEEP_BATCH: usize = 256;
/// Certificates that one host gets in one minute.
pub const RENEWALS_PER_MINUTE: u32 = 10;
/// Sessions that one host opens in one minute.
pub const SESSIONS_PER_MINUTE: u32 = 120;
/// Before a host is looked at again for which the store failed.
pub const STORE_RETRY: Duration = Duration::from_secs(5);
/// Before a host is looked at again to which something was sent, or could not be as its queue was full.
pub const SENT_RETRY: Duration = Duration::from_secs(1);
/// Threads that serve: the work is waiting, and each thread costs memory.
pub const WORKERS_MAX: usize = 4;
/// How long tasks may take to end once all was drained.
pub const RUNTIME_GRACE: Duration = Duration::from_secs(1);
/// The longest of an agent's short texts (versions, digests, codes), in bytes.
pub const SHORT_MAX: usize = 200;
/// Pulls of one host that operators are shown.
pub const PULLS_MAX: usize = 16;
/// The longest name of an image in them, in bytes.
pub const PULL_IMAGE_MAX: usize = 512;
/// The longest head of a journal's chain, in bytes.
pub const JOURNAL_HEAD_MAX: usize = 64;
/// How long sessions and calls may take to end when the hub stops.
pub const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Store jobs that wait for the writer; past it callers wait.
pub const WRITE_QUEUE: usize = 1024;
/// Store jobs that share one commit.
pub const WRITE_BATCH: usize = 256;
/// Threads that read the store, each with its own connection.
pub const READERS: usize = 2;
/// Pages that the store's writer caches, in KiB.
pub const WRITER_CACHE_KIB: i64 = 8 * 1024;
/// Pages in the store's log before they go into the database: what changes often goes there once. 16 MiB.
pub const LOG_PAGES: u32 = 4096;
/// Pages that each reader of the store caches, in KiB.
pub const READER_CACHE_KIB: i64 = 512;
/// How long a connection to the store waits for another process's lock.
pub const STORE_PATIENCE: Duration = Duration::from_secs(10);
/// Statements that each connection to the store keeps prepared.
pub const STATEMENTS_KEPT: usize = 64;
/// Store jobs that wait for one reader.
pub const READ_QUEUE: usize = 256;

/// Between two looks at rollouts, however much hosts say.
pub const ROLLOUT_LOOK_MIN: Duration = Duration::from_millis(200);
/// Between two looks at rollouts, however little hosts say.
pub const ROLLOUT_LOOK_MAX: Duration = Duration::from_secs(60);
/// Rollouts in one listing.
pub const ROLLOUTS_MAX: u32 = 1000;
/// Rollouts in one listing when the caller says nothing.
pub const ROLLOUTS_DEFAULT: u32 = 100;
/// Names of hosts in one event's words.
pub const NAMES_SHOWN: usize = 8;

/// Operations of one host that have not ended; past it none is taken.
pub const OPS_OPEN_MAX: u64 = 4096;
/// So many more `cancel` and `resolve` are taken: they are what makes room.
pub const OPS_OPEN_RESERVE: u64 = 64;
/// Operations of one host that are kept when they have ended.
pub const OPS_KEPT: u64 = 10_000;
/// How many of a host's operations are forgotten at once; at about every 256th that ends.
pub const OPS_FORGOTTEN_BATCH: u64 = 1024;
/// Resolved drifts of one host that are kept.
pub const DRIFT_KEPT: u32 = 1000;
/// Beginnings and ends of drifts that one host causes events of in a minute.
pub const DRIFT_EVENTS_PER_MINUTE: u32 = 300;
/// Logs that are read at once.
pub const LOGS_MAX: usize = 128;
/// Logs of one host among them.
pub const LOGS_OF_HOST_MAX: usize = 8;
/// Commands of one host whose output is taken at once, besides.
pub const OUTPUTS_OF_HOST_MAX: usize = 4;
/// How long who reads a log slowly may take to read why it ends.
pub const LAST_WORD: Duration = Duration::from_secs(5);
/// Parts of a log that its host may send before its reader has taken one.
pub const LOG_WINDOW: usize = 4;
/// The largest part of a log, in bytes.
pub const LOG_PART_MAX: usize = 64 * 1024;
/// How long listing one kind of thing that a cloud has may take.
pub const CLOUD_LISTING_TIME: Duration = Duration::from_secs(600);
/// Resources in one listing.
pub const RESOURCES_MAX: usize = 10_000;
/// Drifts in one listing.
pub const DRIFTS_MAX: u32 = 1000;
/// Drifts in one listing when the caller says nothing.
pub const DRIFTS_DEFAULT: u32 = 100;
/// Drifts that one request decides about.
pub const DRIFTS_DECIDED_MAX: usize = 64;
/// The longest that a drift is ignored.
pub const DRIFT_IGNORED_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Drifts that are opened again at once.
pub const DRIFT_REOPENED_BATCH: u32 = 256;
/// How long a host that is asked for a new report may take to send it.
pub const REPORT_ANSWER: Duration = Duration::from_secs(5);
/// Between two looks whether it has.
pub const REPORT_LOOK: Duration = Duration::from_millis(50);
/// Operations in one listing.
pub const OPS_MAX: u32 = 1000;
/// Operations in one listing when the caller says nothing.
pub const OPS_DEFAULT: u32 = 100;
/// Operations that are read from the store, and marked as sent, at a time.
pub const OPS_PAGE: u32 = 64;
/// Between two looks for operations whose time is over.
pub const OPS_SWEEP: Duration = Duration::from_secs(2);
/// Operations that are marked as expired at a time.
pub const OPS_EXPIRED_BATCH: u32 = 256;
/// What a host says of its operations in one minute; past it its words are dropped, and its receipts not acknowledged.
pub const OP_WORDS_PER_MINUTE: u32 = 20_000;
/// The words of one operation that goes no further are stored at most this often, in milliseconds.
pub const OP_WORDS_INTERVAL_MS: u64 = 1000;
/// Receipts in one minute of orders that this hub does not know.
pub const RECEIPTS_UNKNOWN_PER_MINUTE: u32 = 600;
/// The largest receipt, in bytes of its envelope's JSON: what it says fits one line of the host's journal.
pub const RECEIPT_MAX: usize = 512 * 1024;
/// Acknowledgements that wait to be sent to one host; what is past it is sent again by the host.
pub const OP_ACKS_MAX: usize = 4096;
/// Callers that follow operations.
pub const OP_WATCHES_MAX: usize = 1024;
/// Journals under way to operators; each takes a few parts of memory.
pub const JOURNALS_MAX: usize = 8;
/// Parts of a journal that wait to be sent to an operator.
pub const JOURNAL_QUEUE: usize = 2;
/// The largest part of a journal, in bytes.
pub const JOURNAL_PART_MAX: usize = 1024 * 1024;
/// The largest journal that is passed on, in bytes.
pub const JOURNAL_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// How long a host may take to send the next part of its journal.
pub const JOURNAL_PATIENCE: Duration = Duration::from_secs(30);
/// How long a host's session waits for an operator who reads its journal slowly.
pub const JOURNAL_STALL: Duration = Duration::from_secs(5);

/// The life of a join token, at most: 7 days.
pub const TOKEN_TTL_MAX_S: u64 = 7 * 24 * 3600;
/// Join tokens that are neither used nor expired.
pub const TOKENS_MAX: u64 = 10_000;
/// Joins handled at once.
pub const JOINS_MAX: usize = 32;
/// Operators' changes handled at once; each holds its message.
pub const CHANGES_MAX: usize = 16;
/// Events in one minute of what is refused to operators; the rest are only in the log.
pub const REFUSALS_PER_MINUTE: u32 = 60;
/// Events in one minute of calls that are not the caller's to make; the rest are only in the log.
pub const DENIALS_PER_MINUTE: u32 = 60;
/// Events in one minute that strangers cause by joins that are refused; the rest are only in the log.
pub const STRANGERS_EVENTS_PER_MINUTE: u32 = 60;
/// Alarms in one minute; the rest are only in the log.
pub const ALARMS_PER_MINUTE: u32 = 60;
/// Events in one minute that one host causes; the rest are only in the log.
pub const HOST_EVENTS_PER_MINUTE: u32 = 60;
/// The largest certificate request, in bytes.
pub const CSR_MAX: usize = 4096;

/// Slices in one push or addition.
pub const SLICES_MAX: usize = 100_000;
/// Trust roots that an agent may hand in at once.
pub const ROOTS_MAX: usize = 1000;
/// Revisions of a topology that are kept; of older ones only what hosts still follow or left by.
pub const REVISIONS_KEPT: u64 = 200;
/// Revisions in one listing.
pub const REVISIONS_MAX: u32 = 1000;
/// Revisions in one listing when the caller says nothing.
pub const REVISIONS_DEFAULT: u32 = 100;
/// Past events in one answer.
pub const EVENTS_MAX: u32 = 10_000;
/// Past events when the caller says nothing.
pub const EVENTS_DEFAULT: u32 = 100;
/// Events that are kept; past it the oldest are removed, and the hash of the last removed one is kept.
pub const EVENTS_KEPT: u64 = 1_000_000;
/// The oldest events are removed once in so many new ones …
pub const EVENTS_PRUNE_EVERY: u64 = 1024;
/// … at most so many at once.
pub const EVENTS_PRUNED_MAX: u64 = 4096;
/// Events read from the store at a time.
pub const EVENTS_PAGE: u32 = 256;
/// Events that wait to be sent to one follower.
pub const EVENTS_QUEUE: usize = 64;
/// The longest text in an event's message, in characters.
pub const EVENT_TEXT_MAX: usize = 400;
/// A host whose same error comes and goes writes an event for it at most this often.
pub const ERROR_EVENT_INTERVAL: Duration = Duration::from_secs(300);

/// A host whose error keeps its code but not its words writes an event for it at most this often.
pub const ERROR_WORDS_INTERVAL: Duration = Duration::from_secs(30);

/// The life of an agent's transport certificate.
pub const AGENT_CERT_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long a removed host is remembered: longer than any of its certificates lives.
pub const REMOVED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// The life of an operator's transport certificate.
pub const OPERATOR_CERT_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// The life of the hub's own certificate, which exists in memory only.
pub const SERVER_CERT_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// The hub makes itself a new certificate this often.
pub const SERVER_CERT_RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);
/// The life of the embedded CA.
pub const CA_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from this long before they are made, for clocks that are behind.
pub const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// An agent that was away may still renew (and do nothing else) by a certificate expired for at most this long.
pub const EXPIRED_RENEWAL_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// `doctor` warns when the CA ends within this.
pub const CA_WARNING: Duration = Duration::from_secs(180 * 24 * 3600);
/// How long `doctor` waits for an answer on the hub's address.
pub const DOCTOR_DIAL: Duration = Duration::from_secs(3);
/// `doctor` warns when less than this is free on the disk, in bytes.
pub const DISK_FREE_MIN: u64 = 256 * 1024 * 1024;

/// Between two heartbeats when the configuration says nothing, in milliseconds.
pub const HEARTBEAT_DEFAULT_MS: u32 = 5_000;
/// The shortest interval that may be configured, in milliseconds.
pub const HEARTBEAT_MIN_MS: u32 = 100;
/// The longest interval that may be configured, in milliseconds.
pub const HEARTBEAT_MAX_MS: u32 = 300_000;
/// Addresses to advertise.
pub const ADVERTISE_MAX: usize = 16;
/// A configuration file, in bytes.
pub const CONFIG_MAX: u64 = 64 * 1024;

/// Sagas that have not ended.
pub const SAGAS_OPEN_MAX: u64 = 4096;
/// Sagas that have ended and are kept.
pub const SAGAS_KEPT: u64 = 10_000;
/// What is kept of what happened to one saga.
pub const SAGA_FACTS_KEPT: u64 = 1000;
/// Sagas that one answer lists at most.
pub const SAGAS_MAX: u32 = 1000;
/// Sagas that one answer lists when the caller says nothing.
pub const SAGAS_DEFAULT: u32 = 100;
/// Sagas that are taken over at once.
pub const SAGAS_CLAIMED_BATCH: u32 = 256;
/// How long a runner keeps a saga without a sign of life.
pub const SAGA_LEASE: Duration = Duration::from_secs(6);
/// Between two signs of life, and between two looks for sagas that nobody runs.
pub const SAGA_RENEWAL: Duration = Duration::from_secs(2);
/// The wait after the store failed a saga's runner.
pub const SAGA_STORE_RETRY: Duration = Duration::from_secs(1);
/// Between two looks at what a step waits for that nobody tells of.
pub const SAGA_LOOK: Duration = Duration::from_secs(1);
/// How long it is remembered that something in a cloud was deleted.
pub const BURIED_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// What is kept of what happened in clouds.
pub const RESOURCE_EVENTS_KEPT: u64 = 100_000;
/// How many listings in a row must miss something before it counts as gone.
pub const RESOURCE_MISSES: u64 = 2;
/// What was first seen less long ago may not be listed yet.
pub const RESOURCE_YOUNG: Duration = Duration::from_secs(60);
/// How long after the end of a saga something may come to be in a cloud that is still taken for the saga's.
pub const CLOUD_LATE: Duration = Duration::from_secs(3600);
/// How long deleting one thing that a saga has left in a cloud may take.
pub const CLOUD_SWEEP_TIME: Duration = Duration::from_secs(300);
/// Callers that follow sagas at once.
pub const SAGA_WATCHES_MAX: usize = 1024;
