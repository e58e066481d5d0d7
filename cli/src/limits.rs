//! Every limit of `moorctl` in one place.

use std::time::Duration;

/// The largest file that is read from the home folder or as a bundle, in bytes.
pub const HOME_FILE_MAX: u64 = 64 * 1024 * 1024;
/// The largest message that is accepted from a hub, in bytes: a revision with all its slices.
pub const MESSAGE_MAX: usize = 256 * 1024 * 1024;
/// How long one call to the hub may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at the hosts while waiting.
pub const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// Between two lines about the same host's pulls, where there is no terminal to show them move.
pub const PULL_LINES_INTERVAL: Duration = Duration::from_secs(5);
/// Logs that are followed at once: the containers of one service.
pub const LOGS_AT_ONCE: usize = 8;
/// Drifts in a listing when the operator says nothing.
pub const DRIFTS_DEFAULT: u32 = 100;
/// Between two looks at a pull that was ordered.
pub const PULL_LOOK: Duration = Duration::from_secs(1);
/// How long a registry may take to say which digest a tag has.
pub const REGISTRY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a registry's answer: of a manifest or a token.
pub const REGISTRY_ANSWER_MAX: usize = 4 * 1024 * 1024;
/// How often a registry may send on to another place.
pub const REGISTRY_REDIRECTS_MAX: usize = 5;
/// Bytes of a file with logins for registries.
pub const LOGINS_MAX: u64 = 1024 * 1024;
/// Pulls of one host that are shown.
pub const PULLS_MAX: usize = 16;
/// Between two refreshes of `status -w`, however short an `--interval` is asked for.
pub const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(250);
/// How long `push --wait` hopes for offline hosts when every connected one is done.
pub const OFFLINE_GRACE: Duration = Duration::from_secs(10);
/// Looks in a row that must show the same error before a wait gives a host up.
pub const ERROR_LOOKS: u32 = 3;
/// How long after the last moment of an order its end is still waited for.
pub const RECEIPT_GRACE: Duration = Duration::from_secs(3);
/// A part of a log or of a command's output, in bytes: as much as hosts send at once.
pub const LOG_PART_MAX: usize = 64 * 1024;
/// How long nothing may come of the output of a command that has ended, before it is no longer waited for.
pub const OUTPUT_SILENCE: Duration = Duration::from_secs(10);
/// Bytes of a command's output that are compared with what its receipt has of it, if not all of it came.
pub const OUTPUT_HEAD_MAX: usize = 64 * 1024;
/// How long nothing may come of the log of an operation on a guest that has ended, before it is no longer waited for.
pub const TASK_LOG_SILENCE: Duration = Duration::from_secs(1);
/// How long the rest of such a log is waited for in all.
pub const TASK_LOG_TAIL: Duration = Duration::from_secs(5);
/// Bytes of a line of such a log, before it is shown in pieces.
pub const TASK_LINE_MAX: usize = 16 * 1024;
/// Hosts whose reports are looked through for a guest that the named host does not have.
pub const GUEST_HOSTS_LOOKED: usize = 64;
/// Orders for one host that are handed in before the first is waited for.
pub const ORDERS_AT_ONCE: usize = 16;
/// How long an operation is waited for when nobody says.
pub const OP_WAIT_DEFAULT: Duration = Duration::from_secs(600);
/// Threads that verify and plan at the same time.
pub const WORKERS_MAX: usize = 8;
/// Hosts for which a thread of their own is worth its start.
pub const WORKER_SHARE_MIN: usize = 8;
/// Reports that are fetched at the same time.
pub const REPORTS_AT_ONCE: usize = 16;
/// A report that is older than this is warned of, in seconds.
pub const REPORT_OLD_S: u64 = 300;
/// The most characters of a field's name or value that a plan shows to people.
pub const FIELD_SHOWN: usize = 72;
/// The most fields of one step that a plan shows to people.
pub const FIELDS_SHOWN: usize = 40;
/// Hosts without anything to tell that a plan lists one by one; more are summed up.
pub const QUIET_HOSTS_SHOWN: usize = 5;
/// Revisions that `history` shows when not told.
pub const HISTORY_DEFAULT: u32 = 20;
/// Events of the past that `events` shows when not told.
pub const EVENTS_DEFAULT: u32 = 50;
/// The longest life of a join token, in seconds.
pub const TOKEN_TTL_MAX_S: u64 = 7 * 24 * 3600;
/// How long a new trust root is valid, in seconds: a year.
pub const ROOT_LIFE_S: u64 = 365 * 24 * 3600;
/// How far this machine's clock and the hub's may be apart when something is signed, in seconds.
pub const CLOCK_SKEW_MAX_S: u64 = 300;
/// While watching, a report that nothing hints to be stale is fetched anew after this.
pub const REPORT_LIFE: Duration = Duration::from_secs(30);
/// How many times an action that another operator overtook by a hair is tried again.
pub const RETRIES: u32 = 3;
/// The most lines of a difference that an error shows.
pub const ERROR_DIFF_LINES: usize = 60;
/// Operations that `op ls` shows when not told.
pub const OPS_DEFAULT: u32 = 50;
/// The most bytes that are read as a command's input; an order takes less.
pub const STDIN_MAX: u64 = 64 * 1024;
/// An order is valid from so long before it was signed, in seconds: clocks differ.
pub const ORDER_BACKDATED_S: u64 = 60;
/// Names that a refusal lists as those that there are.
pub const NAMES_SHOWN: usize = 8;
/// The most bytes of all values of secrets and configs that are held at a time: more than one push can carry, and no whole memory.
pub const VALUES_MAX: usize = 64 * 1024 * 1024;
/// The largest file with a saved order, in bytes: the order, a binding and every version of the trust root.
pub const ORDER_FILE_MAX: u64 = 16 * 1024 * 1024;
/// The largest file with a saved revision, in bytes: all that a push may have, each host's binding, the source before it and every
/// version of the trust root.
pub const REVISION_FILE_MAX: u64 = 256 * 1024 * 1024;
/// The largest file with a saved plan, in bytes.
pub const PLAN_FILE_MAX: u64 = 256 * 1024 * 1024;
/// The largest line of a journal, in bytes.
pub const JOURNAL_LINE_MAX: usize = moorline_common::journal::PART_LINE_MAX;
/// The largest segment of a journal, in bytes: it is held in memory while it is checked.
pub const SEGMENT_MAX: usize = 1024 * 1024 * 1024;
/// The cost of a key file's passphrase: scrypt with N = 2^17 and r = 8 takes 128 MiB and a good part of a second.
pub const SCRYPT_LOG_N: u8 = 17;
/// The greatest cost that a key file may ask for (1 GiB): a file must not take the machine down.
pub const SCRYPT_LOG_N_MAX: u8 = 20;
/// The most passphrases that are tried on one key file.
pub const PASSPHRASES_MAX: usize = 8;
/// The shortest passphrase that a key may be sealed with, in characters.
pub const PASSPHRASE_MIN: usize = 8;
/// The most answers that are asked for about what is on one host.
pub const SURVEYS_MAX: usize = 100;
/// Rollouts that `rollout ls` shows when not told.
pub const ROLLOUTS_DEFAULT: u32 = 20;
/// Hosts of a rollout that are pending or healthy and listed one by one; more are summed up.
pub const ROLLOUT_HOSTS_NAMED: usize = 50;
/// Rollouts among which those that are under way are looked for, the newest first; a hub lists no more.
pub const ROLLOUTS_LOOKED: u32 = 1000;
/// Sagas that `saga ls` shows when not told.
pub const SAGAS_DEFAULT: u32 = 50;
