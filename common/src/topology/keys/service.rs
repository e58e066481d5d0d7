//! The keys of a service.

use super::super::limits::REPLICAS_MAX;
use super::{CONFIG_MOUNT, Form, ID, Object, SECRET_MOUNT, key, required};

/// An entry under `services`.
pub(crate) static SERVICE: Object = Object {
    name: "a service",
    definition: "service",
    about: "A service: one container. https://github.com/compose-spec/compose-spec/blob/main/05-services.md",
    keys: &[
        key("image", Form::Text, "The image, as `docker run` takes it. Must come from the entry or from one of its profiles."),
        key("container_name", Form::Text, "Its container's name on the engine, instead of `{topology}-{service}-{number}`."),
        key(
            "adopt",
            Form::Pattern(ID),
            "The engine's id of the container that is taken over as it is. The host's policy file must allow it.",
        ),
        key(
            "drift",
            Form::OneOf(&["heal", "inbox"]),
            "What to do when its containers are not as the file says, instead of what the policy says.",
        ),
        key("platform", Form::Text, "What the image is made for, such as `linux/arm64`; the engine's own platform when left out."),
        key(
            "pull_policy",
            Form::OneOf(&["always", "missing", "if_not_present", "never"]),
            "When the image is pulled for a container that is made.",
        ),
        key("command", Form::Words, "Overrides the image's command."),
        key("entrypoint", Form::Words, "Overrides the image's entrypoint."),
        key("environment", Form::Environment, "Environment variables. One without a value is passed on from where the topology is pushed."),
        key(
            "env_file",
            Form::OneOrMoreOr(&ENV_FILE),
            "Files with environment variables, relative to the topology file; what `environment` says wins.",
        ),
        key("extends", Form::TextOr(&EXTENDS), "A service whose keys this one takes over, of the same section or of a Compose file."),
        key("profiles", Form::Names, "Compose's profiles: without one of them in `COMPOSE_PROFILES`, the service is not there."),
        key(
            "ports",
            Form::ShortOr { number: true, long: &PORT },
            "Published ports: `8080:80`, `127.0.0.1:8080:80/udp`, `3000-3005:3000-3005`, or the long form.",
        ),
        key("networks", Form::NamesOr(&ATTACHMENT), "Networks by name; without any, the topology's `default` network."),
        key(
            "volumes",
            Form::ShortOr { number: false, long: &MOUNT },
            "Mounts: `name:/path[:ro]`, `/on/host:/path[:ro]`, `/path` for a volume without a name, or the long form.",
        ),
        key(
            "secrets",
            Form::ShortOr { number: false, long: &SECRET_MOUNT },
            "Secrets that it has, by name or in the long form; each is the file `/run/secrets/NAME`.",
        ),
        key(
            "configs",
            Form::ShortOr { number: false, long: &CONFIG_MOUNT },
            "Configs that it has, by name or in the long form; each is the file `/NAME`.",
        ),
        key("restart", Form::Pattern("^(no|always|unless-stopped|on-failure(:[0-9]+)?)$"), "When the engine starts the container again."),
        key("labels", Form::Pairs, "Labels of your own; `moorline.` is reserved."),
        key("healthcheck", Form::Object(&HEALTHCHECK), "How the engine finds out whether the container is healthy."),
        key("depends_on", Form::NamesOr(&DEPENDENCY), "Services that must be so far before this one starts."),
        key("hostname", Form::Text, "The container's host name."),
        key("user", Form::Scalar, "User, or `user:group`, of the main process."),
        key("working_dir", Form::Text, "Working directory of the main process; absolute."),
        key("stop_signal", Form::Scalar, "The signal that stops the main process, such as `SIGTERM`."),
        key("stop_grace_period", Form::Duration, "How long the main process may take to stop before it is killed."),
        key("cgroup", Form::OneOf(&["host", "private"]), "Whose control groups it sees."),
        key("cgroup_parent", Form::Text, "The control group above the container's."),
        key("cap_add", Form::Names, "Capabilities besides the usual ones, such as `NET_ADMIN`. The host's policy file must allow them."),
        key("cap_drop", Form::Names, "Capabilities that are taken away; `ALL` is all of them."),
        key("cpu_period", Form::Int(0, 1_000_000), "Microseconds of a period of the processor's scheduler."),
        key("cpu_quota", Form::Scalar, "Microseconds of processor time in a period; -1 is without limit."),
        key("cpu_shares", Form::Int(0, 262_144), "Its weight beside other containers."),
        key("cpus", Form::Scalar, "Processors, such as `1.5`."),
        key("cpuset", Form::Scalar, "The processors that it may use, such as `0-2,5`."),
        key("deploy", Form::Object(&DEPLOY), "How many containers it has, what they may use, and how they are replaced."),
        key("device_cgroup_rules", Form::Names, "Rules of the control group for devices. The host's policy file must allow them."),
        key(
            "devices",
            Form::ShortOr { number: false, long: &DEVICE },
            "Devices of the host: `/dev/kvm`, `/dev/sda:/dev/xvda:r`. The host's policy file must allow them.",
        ),
        key("dns", Form::OneOrMore, "Name servers."),
        key("dns_opt", Form::OneOrMore, "Options of the resolver."),
        key("dns_search", Form::OneOrMore, "Domains in which names are searched."),
        key("domainname", Form::Text, "The domain of the container's host name."),
        key("expose", Form::Scalars, "Ports that it offers to other containers: `3000`, `8000-8010/udp`."),
        key(
            "extra_hosts",
            Form::Hosts,
            "Names in the container's hosts file: `db.example:10.0.0.5`, or a map; `host-gateway` is the host.",
        ),
        key("group_add", Form::Scalars, "Groups of the main process besides its user's."),
        key("init", Form::Bool, "Whether a small init reaps the orphans of the main process."),
        key("ipc", Form::Text, "Whose shared memory it sees: `private`, `shareable`, `none`, `host` or `service:NAME`."),
        key("logging", Form::Object(&LOGGING), "Where its output goes."),
        key("mem_limit", Form::Bytes, "Memory that it may use: `512m`."),
        key("mem_reservation", Form::Bytes, "Memory that it may use when memory is short."),
        key("mem_swappiness", Form::Int(0, 100), "How willing its memory is swapped."),
        key("memswap_limit", Form::Bytes, "Memory and swap together; -1 is without limit."),
        key("network_mode", Form::Text, "`host`, `none`, `bridge` or `service:NAME`, instead of networks."),
        key("oom_kill_disable", Form::Bool, "Whether the kernel does not kill it for want of memory."),
        key("oom_score_adj", Form::Scalar, "How soon the kernel kills it for want of memory, -1000 to 1000."),
        key("pid", Form::Text, "Whose processes it sees: `host` or `service:NAME`."),
        key("pids_limit", Form::Scalar, "How many processes it may have; -1 is without limit."),
        key("privileged", Form::Bool, "Whether it has all that the host has. The host's policy file must allow it."),
        key("read_only", Form::Bool, "Whether its root file system cannot be written."),
        key("runtime", Form::Text, "The program that runs the container. The host's policy file must allow it."),
        key("scale", Form::Int(0, REPLICAS_MAX), "How many containers it has; 1 when left out. The same as `deploy.replicas`."),
        key(
            "security_opt",
            Form::Names,
            "`no-new-privileges`, `seccomp=unconfined`, `apparmor=PROFILE`, `label=…`. What takes protection away the host's policy file must allow.",
        ),
        key("shm_size", Form::Bytes, "Shared memory: `128m`."),
        key("stdin_open", Form::Bool, "Whether its standard input stays open."),
        key("storage_opt", Form::Options, "Options of the storage driver."),
        key("sysctls", Form::Pairs, "Parameters of the kernel."),
        key("tmpfs", Form::OneOrMore, "Memory at these paths, each with the options of a mount: `/run:size=64m,mode=1777`."),
        key("tty", Form::Bool, "Whether it has a terminal."),
        key("ulimits", Form::MapOrInt(&ULIMIT), "Limits of its processes by name: a number, or `soft` and `hard`."),
        key("userns_mode", Form::OneOf(&["host"]), "The user namespace. The host's policy file must allow it."),
        key("uts", Form::OneOf(&["host"]), "Whose host name it has. The host's policy file must allow it."),
    ],
    never: &[
        ("attach", "output is read with `docker logs` on the host"),
        ("build", "build the image elsewhere and name it in `image`"),
        ("cpu_count", "write `cpus`"),
        ("cpu_percent", "write `cpus`"),
        ("credential_spec", "leave it out: it is for Windows alone"),
        ("develop", "leave it out: it is for a developer's machine"),
        ("external_links", "name a network that both are on, under `networks`"),
        ("isolation", "leave it out: it is for Windows alone"),
        ("label_file", "write the labels under `labels`"),
        ("links", "services of one network know each other by their names: leave it out, and use `depends_on` for the order"),
        ("models", "leave it out: models are run by Docker Desktop alone"),
        ("provider", "leave it out: a provider is a program on a developer's machine"),
        ("use_api_socket", "mount the socket under `volumes`, which the host's policy file must allow"),
        ("volumes_from", "name the same volumes at both services"),
    ],
    later: &["annotations", "blkio_config", "cpu_rt_period", "cpu_rt_runtime", "gpus", "mac_address", "post_start", "pre_stop"],
};

/// A file with variables.
pub(crate) static ENV_FILE: Object = Object {
    name: "a file of variables",
    definition: "env_file",
    about: "A file with environment variables.",
    keys: &[
        required("path", Form::Text, "Its path, relative to the file that names it."),
        key("required", Form::Bool, "`false` when it need not be there."),
        key("format", Form::OneOf(&["raw"]), "`raw` takes values as they stand, quotes and dollar signs included."),
    ],
    never: &[],
    later: &[],
};

/// `extends`.
pub(crate) static EXTENDS: Object = Object {
    name: "an extends section",
    definition: "extends",
    about: "What a service takes over.",
    keys: &[
        required("service", Form::Text, "The service that is extended."),
        key("file", Form::Text, "A Compose file, relative to the file that names it; without it, the service is one of the same section."),
    ],
    never: &[],
    later: &[],
};

/// The long form of a device.
pub(crate) static DEVICE: Object = Object {
    name: "a device",
    definition: "device",
    about: "A device of the host.",
    keys: &[
        required("source", Form::Text, "Its path on the host."),
        key("target", Form::Text, "Its path in the container; the same when left out."),
        key("permissions", Form::Pattern("^[rwm]+$"), "Of `r`, `w` and `m`; all of them when left out."),
    ],
    never: &[],
    later: &[],
};

/// `logging`.
pub(crate) static LOGGING: Object = Object {
    name: "a logging section",
    definition: "logging",
    about: "Where a container's output goes.",
    keys: &[key("driver", Form::Text, "The logging driver."), key("options", Form::Options, "Its options.")],
    never: &[],
    later: &[],
};

/// A limit under `ulimits`.
pub(crate) static ULIMIT: Object = Object {
    name: "a limit",
    definition: "ulimit",
    about: "A limit of processes; -1 is without limit.",
    keys: &[
        required("soft", Form::Scalar, "That processes may raise up to `hard`."),
        required("hard", Form::Scalar, "That they may not pass."),
    ],
    never: &[],
    later: &[],
};

/// The long form of a port.
pub(crate) static PORT: Object = Object {
    name: "a port",
    definition: "port",
    about: "One published port.",
    keys: &[
        required("target", Form::Int(1, 65535), "The port in the container."),
        key("published", Form::Scalar, "The port on the host; without it the engine chooses one."),
        key("host_ip", Form::Text, "The host's address to listen on; without it, all."),
        key("protocol", Form::OneOf(&["tcp", "udp", "sctp"]), "`tcp` when left out."),
    ],
    never: &[],
    later: &["app_protocol", "mode", "name"],
};

/// An entry of a service's `networks`.
pub(crate) static ATTACHMENT: Object = Object {
    name: "a network attachment",
    definition: "attachment",
    about: "How a service is attached to one network.",
    keys: &[
        key("aliases", Form::Names, "Further names on that network, besides the service's own."),
        key("ipv4_address", Form::Text, "A fixed address in one of the network's subnets."),
        key("ipv6_address", Form::Text, "A fixed IPv6 address in one of the network's subnets."),
    ],
    never: &[],
    later: &["driver_opts", "gw_priority", "interface_name", "link_local_ips", "mac_address", "priority"],
};

/// The long form of a mount.
pub(crate) static MOUNT: Object = Object {
    name: "a mount",
    definition: "mount",
    about: "One mount of a service.",
    keys: &[
        required("type", Form::OneOf(&["volume", "bind", "tmpfs"]), "What is mounted: a volume, a path on the host, or memory."),
        key("source", Form::Text, "A volume's name, or an absolute path on the host; nothing for memory and for a volume without a name."),
        required("target", Form::Text, "The absolute path in the container."),
        key("read_only", Form::Bool, "Whether the container may only read it."),
        key("bind", Form::Object(&BIND_OPTIONS), "How a path on the host is mounted."),
        key("tmpfs", Form::Object(&TMPFS_OPTIONS), "How memory is mounted."),
        key("volume", Form::Object(&VOLUME_OPTIONS), "How a volume is mounted."),
    ],
    never: &[],
    later: &["consistency", "image"],
};

/// `bind` of a mount.
pub(crate) static BIND_OPTIONS: Object = Object {
    name: "a section `bind`",
    definition: "bind",
    about: "How a path on the host is mounted.",
    keys: &[
        key("create_host_path", Form::Bool, "Whether a path that is not there is made, as a folder; `true` when left out."),
        key(
            "propagation",
            Form::OneOf(&["rprivate", "private", "rshared", "shared", "rslave", "slave"]),
            "Whether mounts below it are seen on the other side; `rprivate` when left out.",
        ),
        key("selinux", Form::OneOf(&["z", "Z"]), "Labels it anew: `z` for several containers, `Z` for this one."),
    ],
    never: &[],
    later: &["recursive"],
};

/// `tmpfs` of a mount.
pub(crate) static TMPFS_OPTIONS: Object = Object {
    name: "a section `tmpfs`",
    definition: "tmpfs",
    about: "How memory is mounted.",
    keys: &[
        key("mode", Form::Scalar, "Permissions in octal digits: `0o1777`."),
        key("size", Form::Bytes, "How much it may hold; without limit when left out."),
    ],
    never: &[],
    later: &[],
};

/// `volume` of a mount.
pub(crate) static VOLUME_OPTIONS: Object = Object {
    name: "a section `volume`",
    definition: "volume_options",
    about: "How a volume is mounted.",
    keys: &[
        key("nocopy", Form::Bool, "Whether an empty volume does not get what the image has there."),
        key("subpath", Form::Text, "A folder in the volume that is mounted instead of all of it."),
    ],
    never: &[],
    later: &["labels"],
};

/// `healthcheck`.
pub(crate) static HEALTHCHECK: Object = Object {
    name: "a healthcheck",
    definition: "healthcheck",
    about: "How the engine finds out whether a container is healthy.",
    keys: &[
        key("test", Form::Words, "A string runs in the image's shell; a list begins with `CMD`, `CMD-SHELL` or `NONE`."),
        key("interval", Form::Duration, "Between two checks."),
        key("timeout", Form::Duration, "For one check."),
        key("retries", Form::Int(1, 1_000_000), "Failures in a row that make the container unhealthy."),
        key("start_period", Form::Duration, "At the start, when failures do not count."),
        key("start_interval", Form::Duration, "Between two checks at the start."),
        key("disable", Form::Bool, "`true` switches the image's own healthcheck off."),
    ],
    never: &[],
    later: &[],
};

/// An entry of `depends_on`.
pub(crate) static DEPENDENCY: Object = Object {
    name: "a dependency",
    definition: "dependency",
    about: "How far another service must be.",
    keys: &[
        required(
            "condition",
            Form::OneOf(&["service_started", "service_healthy", "service_completed_successfully"]),
            "It runs; its healthcheck succeeds; it has exited with code 0.",
        ),
        key("required", Form::Bool, "Whether this service waits when the other is not defined or fails; `true` when left out."),
        key("restart", Form::Bool, "Whether this service's container is made anew when the other's is."),
    ],
    never: &[],
    later: &[],
};

/// `deploy`.
pub(crate) static DEPLOY: Object = Object {
    name: "a deploy section",
    definition: "deploy",
    about: "How a service's containers are made. https://github.com/compose-spec/compose-spec/blob/main/deploy.md",
    keys: &[
        key("mode", Form::OneOf(&["replicated"]), "One host has as many containers as `replicas` says."),
        key("replicas", Form::Int(0, REPLICAS_MAX), "How many containers it has; 1 when left out."),
        key("resources", Form::Object(&RESOURCES), "What each container may use."),
        key("restart_policy", Form::Object(&RESTART_POLICY), "When the engine starts a container again."),
        key("update_config", Form::Object(&UPDATE_CONFIG), "How a container is replaced."),
    ],
    never: &[
        ("endpoint_mode", "leave it out: it is for a swarm alone"),
        ("labels", "write them under `labels` of the service"),
        ("placement", "name the service under the hosts that shall have it"),
        ("rollback_config", "leave it out: when a successor fails the old container comes back"),
    ],
    later: &[],
};

/// `deploy.resources`.
pub(crate) static RESOURCES: Object = Object {
    name: "a resources section",
    definition: "resources",
    about: "What each container may use.",
    keys: &[
        key("limits", Form::Object(&LIMITS), "What it may not pass."),
        key("reservations", Form::Object(&RESERVATIONS), "What it gets when it is short."),
    ],
    never: &[],
    later: &[],
};

/// `deploy.resources.limits`.
pub(crate) static LIMITS: Object = Object {
    name: "a limits section",
    definition: "limits",
    about: "What a container may not pass.",
    keys: &[
        key("cpus", Form::Scalar, "Processors, such as `1.5`; the same as `cpus`."),
        key("memory", Form::Bytes, "Memory; the same as `mem_limit`."),
        key("pids", Form::Scalar, "Processes; the same as `pids_limit`."),
    ],
    never: &[],
    later: &[],
};

/// `deploy.resources.reservations`.
pub(crate) static RESERVATIONS: Object = Object {
    name: "a reservations section",
    definition: "reservations",
    about: "What a container gets when it is short.",
    keys: &[key("memory", Form::Bytes, "Memory; the same as `mem_reservation`.")],
    never: &[
        ("cpus", "write `cpu_shares`: one host reserves no processors"),
        ("generic_resources", "leave it out: it is for a swarm alone"),
    ],
    later: &["devices"],
};

/// `deploy.restart_policy`.
pub(crate) static RESTART_POLICY: Object = Object {
    name: "a restart policy",
    definition: "restart_policy",
    about: "When the engine starts a container again.",
    keys: &[
        key("condition", Form::OneOf(&["none", "on-failure", "any"]), "`any` when left out."),
        key("max_attempts", Form::Int(0, 1_000_000), "How often after a failure; without limit when left out."),
    ],
    never: &[
        ("delay", "leave it out: the engine doubles its wait from 100 ms on"),
        ("window", "leave it out: the engine counts a start after 10 s as good"),
    ],
    later: &[],
};

/// `deploy.update_config`.
pub(crate) static UPDATE_CONFIG: Object = Object {
    name: "an update section",
    definition: "update_config",
    about: "How a container is replaced by its successor. When that fails, the old one comes back.",
    keys: &[
        key("failure_action", Form::OneOf(&["rollback"]), "What is always done when the successor fails."),
        key("monitor", Form::Duration, "How long the successor must run without a failure, or be healthy; 1s when left out, at most 15m."),
        key(
            "order",
            Form::OneOf(&["stop-first", "start-first"]),
            "Whether the old container stops before the successor starts; it does when left out.",
        ),
    ],
    never: &[
        ("delay", "leave it out: the services of a host are replaced one after the other, as `depends_on` says"),
        ("max_failure_ratio", "leave it out: no failure is accepted"),
        ("parallelism", "leave it out: the services of a host are replaced as `depends_on` says"),
    ],
    later: &[],
};
