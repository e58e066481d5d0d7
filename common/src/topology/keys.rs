//! Every key of the file: what may stand there, and what it means. The reader takes its known keys
//! from these tables and the JSON Schema is made of them, so the two cannot disagree.

/// A map with fixed keys.
pub(crate) struct Object {
    /// What it is, for messages: "a service".
    pub(crate) name: &'static str,
    /// Its name among the schema's definitions.
    pub(crate) definition: &'static str,
    /// Where its meaning comes from and what it is for.
    pub(crate) about: &'static str,
    /// The keys that may stand in it.
    pub(crate) keys: &'static [Key],
    /// Keys of the Compose Specification (or of Moorline) that this version doesn't know what to do with.
    pub(crate) later: &'static [&'static str],
}

/// One key of an [`Object`].
pub(crate) struct Key {
    /// As it is written.
    pub(crate) name: &'static str,
    /// What may stand behind it.
    pub(crate) form: Form,
    /// What it means.
    pub(crate) about: &'static str,
    /// Whether it must be there.
    pub(crate) required: bool,
}

/// What may stand behind a key.
pub(crate) enum Form {
    /// Text.
    Text,
    /// Text of this pattern.
    Pattern(&'static str),
    /// Text or a number.
    Scalar,
    /// `true` or `false`.
    Bool,
    /// A whole number within these bounds.
    Int(u64, u64),
    /// A span of time: `1m30s`.
    Duration,
    /// Bytes: a number, or one with a unit, as `512m`.
    Bytes,
    /// Text, or a list of text.
    OneOrMore,
    /// Text, or a list of text and objects.
    OneOrMoreOr(&'static Object),
    /// Text or an object.
    TextOr(&'static Object),
    /// As `Pairs`, and a name without a value.
    Environment,
    /// A list of text and numbers.
    Scalars,
    /// A list of `name:address`, or a map from names to addresses or lists of them.
    Hosts,
    /// A map from names to numbers or objects.
    MapOrInt(&'static Object),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A string that is split as a shell does, or a list of words.
    Words,
    /// A map of text, numbers and truth values, or a list of `NAME=VALUE`.
    Pairs,
    /// A map of text, numbers and truth values.
    Options,
    /// A list of text.
    Names,
    /// A list of names, or a map from name to an object (or nothing).
    NamesOr(&'static Object),
    /// A map from names to objects (or nothing).
    Map(&'static Object),
    /// An object.
    Object(&'static Object),
    /// A list of objects.
    ListOf(&'static Object),
    /// A list of short forms (text, or numbers too) or objects.
    ShortOr {
        /// Whether a short form may be a number.
        number: bool,
        /// The long form.
        long: &'static Object,
    },
}

const fn key(name: &'static str, form: Form, about: &'static str) -> Key {
    Key { name, form, about, required: false }
}

const fn required(name: &'static str, form: Form, about: &'static str) -> Key {
    Key { name, form, about, required: true }
}

/// The whole file.
pub(crate) static FILE: Object = Object {
    name: "a topology file",
    definition: "topology",
    about: "What some hosts shall have.",
    keys: &[
        required(
            "topology",
            Form::Pattern("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"),
            "The topology's name; prefixes every name that it gives to the engine.",
        ),
        key("policy", Form::Object(&POLICY), "What to do about drift, for hosts whose entry doesn't say."),
        key("profiles", Form::Map(&PROFILE), "Named parts that hosts may `use`."),
        required(
            "hosts",
            Form::Map(&HOST),
            "What each host shall have: a host's name, or `label=value` for every host whose binding has that label.",
        ),
    ],
    later: &["rollout", "secrets", "configs"],
};

/// `policy`.
pub(crate) static POLICY: Object = Object {
    name: "a policy",
    definition: "policy",
    about: "What to do when a live value differs from the file.",
    keys: &[required(
        "drift",
        Form::OneOf(&["heal", "inbox"]),
        "`heal` mends reversible differences at once; `inbox` changes nothing and tells the operator.",
    )],
    later: &[],
};

/// An entry under `profiles`.
pub(crate) static PROFILE: Object = Object {
    name: "a profile",
    definition: "profile",
    about: "A named part of a host's desired state.",
    keys: &[
        key("docker", Form::Object(&DOCKER), "What Docker shall have."),
        key("policy", Form::Object(&POLICY), "What to do about drift on the hosts that use this profile."),
    ],
    later: &["proxmox"],
};

/// An entry under `hosts`.
pub(crate) static HOST: Object = Object {
    name: "a host entry",
    definition: "host",
    about: "What one host, or every host with a label, shall have.",
    keys: &[
        key("use", Form::Names, "Profiles to merge, in order; later ones win, and what the entry says itself wins over all of them."),
        key("docker", Form::Object(&DOCKER), "What Docker shall have."),
        key("policy", Form::Object(&POLICY), "What to do about drift on this host."),
    ],
    later: &["proxmox"],
};

/// `docker`.
pub(crate) static DOCKER: Object = Object {
    name: "a docker section",
    definition: "docker",
    about: "Docker objects in the words of the Compose Specification.",
    keys: &[
        key("networks", Form::Map(&NETWORK), "Networks; on the engine `{topology}_{name}`."),
        key("volumes", Form::Map(&VOLUME), "Named volumes; on the engine `{topology}_{name}`."),
        key("services", Form::Map(&SERVICE), "Services; each is one container, on the engine `{topology}-{name}-1`."),
    ],
    later: &["secrets", "configs", "include", "name", "version"],
};

/// An entry under `networks`.
pub(crate) static NETWORK: Object = Object {
    name: "a network",
    definition: "network",
    about: "A network. https://github.com/compose-spec/compose-spec/blob/main/06-networks.md",
    keys: &[
        key("driver", Form::Text, "The network driver; the engine's default is `bridge`."),
        key("driver_opts", Form::Options, "Options for the driver."),
        key("internal", Form::Bool, "Whether the network has no way out of the host."),
        key("ipam", Form::Object(&IPAM), "Address management."),
        key("labels", Form::Pairs, "Labels of your own; `moorline.` is reserved."),
    ],
    later: &["attachable", "enable_ipv4", "enable_ipv6", "external", "name"],
};

/// `ipam`.
pub(crate) static IPAM: Object = Object {
    name: "an ipam section",
    definition: "ipam",
    about: "Address management of a network.",
    keys: &[key("driver", Form::Text, "The IPAM driver."), key("config", Form::ListOf(&POOL), "Address pools.")],
    later: &["options"],
};

/// An entry of `ipam.config`.
pub(crate) static POOL: Object = Object {
    name: "an address pool",
    definition: "pool",
    about: "One address pool of a network.",
    keys: &[
        required("subnet", Form::Text, "The subnet in CIDR form, such as `10.40.0.0/24`."),
        key("ip_range", Form::Text, "The part of the subnet that containers' addresses come from, in CIDR form."),
        key("gateway", Form::Text, "The gateway's address, inside the subnet."),
    ],
    later: &["aux_addresses"],
};

/// An entry under `volumes`.
pub(crate) static VOLUME: Object = Object {
    name: "a volume",
    definition: "volume",
    about: "A named volume. https://github.com/compose-spec/compose-spec/blob/main/07-volumes.md",
    keys: &[
        key("driver", Form::Text, "The volume driver; the engine's default is `local`."),
        key("driver_opts", Form::Options, "Options for the driver."),
        key("labels", Form::Pairs, "Labels of your own; `moorline.` is reserved."),
    ],
    later: &["external", "name"],
};

/// An entry under `services`.
pub(crate) static SERVICE: Object = Object {
    name: "a service",
    definition: "service",
    about: "A service: one container. https://github.com/compose-spec/compose-spec/blob/main/05-services.md",
    keys: &[
        key("image", Form::Text, "The image, as `docker run` takes it. Must come from the entry or from one of its profiles."),
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
        key(
            "security_opt",
            Form::Names,
            "`no-new-privileges`, `seccomp=unconfined`, `apparmor=PROFILE`, `label=…`. What takes protection away the host's policy file must allow.",
        ),
        key("shm_size", Form::Bytes, "Shared memory: `128m`."),
        key("stdin_open", Form::Bool, "Whether its standard input stays open."),
        key("storage_opt", Form::Options, "Options of the storage driver."),
        key("sysctls", Form::Pairs, "Parameters of the kernel."),
        key("tty", Form::Bool, "Whether it has a terminal."),
        key("ulimits", Form::MapOrInt(&ULIMIT), "Limits of its processes by name: a number, or `soft` and `hard`."),
        key("userns_mode", Form::OneOf(&["host"]), "The user namespace. The host's policy file must allow it."),
        key("uts", Form::OneOf(&["host"]), "Whose host name it has. The host's policy file must allow it."),
    ],
    later: &[
        "annotations",
        "attach",
        "blkio_config",
        "build",
        "configs",
        "container_name",
        "cpu_count",
        "cpu_percent",
        "cpu_rt_period",
        "cpu_rt_runtime",
        "credential_spec",
        "deploy",
        "develop",
        "expose",
        "external_links",
        "gpus",
        "isolation",
        "label_file",
        "links",
        "mac_address",
        "models",
        "post_start",
        "pre_stop",
        "provider",
        "scale",
        "secrets",
        "tmpfs",
        "use_api_socket",
        "volumes_from",
    ],
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
    later: &[],
};

/// `logging`.
pub(crate) static LOGGING: Object = Object {
    name: "a logging section",
    definition: "logging",
    about: "Where a container's output goes.",
    keys: &[key("driver", Form::Text, "The logging driver."), key("options", Form::Options, "Its options.")],
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
    ],
    later: &["driver_opts", "gw_priority", "interface_name", "ipv6_address", "link_local_ips", "mac_address", "priority"],
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
    ],
    later: &["bind", "consistency", "image", "tmpfs", "volume"],
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
        key("disable", Form::Bool, "`true` switches the image's own healthcheck off."),
    ],
    later: &["start_interval"],
};

/// An entry of `depends_on`.
pub(crate) static DEPENDENCY: Object = Object {
    name: "a dependency",
    definition: "dependency",
    about: "How far another service must be.",
    keys: &[required(
        "condition",
        Form::OneOf(&["service_started", "service_healthy", "service_completed_successfully"]),
        "It runs; its healthcheck succeeds; it has exited with code 0.",
    )],
    later: &["required", "restart"],
};
