//! Every limit on a topology file, in one place. Past a limit comes a problem with its line.

/// The largest file that is read, in bytes.
pub const TOPOLOGY_FILE_MAX: usize = 4 * 1024 * 1024;
/// The most YAML nodes that a file may hold, aliases and merge keys written out.
pub const NODES_MAX: usize = 500_000;
/// How deep lists and maps may nest, aliases written out.
pub const DEPTH_MAX: usize = 64;
/// The most problems that are reported for one file.
pub const PROBLEMS_MAX: usize = 100;
/// The most problems that are kept in memory before they are sorted and cut.
pub const PROBLEMS_KEPT_MAX: usize = 1_000;
/// The most characters that are shown of one message or path.
pub const SHOWN_MAX: usize = 500;
/// The most known names that are compared with one that nobody defined.
pub const NAMES_COMPARED_MAX: usize = 1_000;
/// The most circles of `depends_on` that are told of one host.
pub const CYCLES_MAX: usize = 10;
/// The most services of a circle that are named.
pub const CYCLE_SHOWN_MAX: usize = 12;
/// The longest name of a service, network, volume or profile, in characters: a DNS label's length,
/// because a service's name is an alias on its networks.
pub const NAME_MAX: usize = 63;
/// The longest name on the engine that a topology may give.
pub const ENGINE_NAME_MAX: usize = 200;
/// The digits of an engine's id.
pub const ENGINE_ID: usize = 64;
/// The most ports that one service may publish, ranges expanded.
pub const PORTS_MAX: usize = 1024;
/// The most bytes of memory that a key may name: 2^53.
pub const MEMORY_MAX: u64 = 1 << 53;
/// The most processors that a key may name, in billionths: 4,096.
pub const NANO_CPUS_MAX: u64 = 4096 * 1_000_000_000;
/// The longest span of time, in nanoseconds: 2^53, about 104 days.
pub const NANOS_MAX: u64 = 1 << 53;
/// The most variables of the operator's machine that a topology may take.
pub const VARIABLES_MAX: usize = 1_000;
/// The most images of a topology that are pinned to digests.
pub const PINS_MAX: usize = 256;
/// The most values of secrets and configs that a topology may take, those that differ from host to host counted one by one.
pub const DIGESTS_MAX: usize = 5_000;
/// The largest value of a secret or config, in bytes.
pub const SEALED_MAX: usize = 512 * 1024;
/// The most bytes of all values that one host gets, sealed: they are signed in one envelope with its slice.
pub const SEALED_HOST_MAX: usize = 1024 * 1024;
/// The most files that a topology may take besides itself.
pub const INPUT_FILES_MAX: usize = 256;
/// The largest such file, and the largest value of a variable, in bytes.
pub const INPUT_MAX: usize = 512 * 1024;
/// The most bytes of all variables and files together: they are signed in one envelope with the topology.
pub const INPUTS_MAX: usize = 1024 * 1024;
/// How deep variables may nest in the defaults of others.
pub const NESTED_VARIABLES_MAX: usize = 16;
/// The most bytes that filling variables in may make of one file's values.
pub const FILLED_MAX: usize = 16 * 1024 * 1024;
/// The most services in a chain of `extends`.
pub const EXTENDS_MAX: usize = 32;
/// The most values that a file may hold when what services extend is written out.
pub const RESOLVED_NODES_MAX: usize = 2 * NODES_MAX;
/// The longest time that a successor can be watched.
pub const MONITOR_MAX: super::Nanos = super::Nanos(15 * 60 * 1_000_000_000);
/// Containers of one service on one host.
pub const REPLICAS_MAX: u64 = 100;
