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
        key("command", Form::Words, "Overrides the image's command."),
        key("entrypoint", Form::Words, "Overrides the image's entrypoint."),
        key("environment", Form::Pairs, "Environment variables, each with its value."),
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
    ],
    later: &[
        "annotations",
        "attach",
        "blkio_config",
        "build",
        "cap_add",
        "cap_drop",
        "cgroup",
        "cgroup_parent",
        "configs",
        "container_name",
        "cpu_count",
        "cpu_percent",
        "cpu_period",
        "cpu_quota",
        "cpu_rt_period",
        "cpu_rt_runtime",
        "cpu_shares",
        "cpus",
        "cpuset",
        "credential_spec",
        "deploy",
        "develop",
        "device_cgroup_rules",
        "devices",
        "dns",
        "dns_opt",
        "dns_search",
        "domainname",
        "env_file",
        "expose",
        "extends",
        "external_links",
        "extra_hosts",
        "gpus",
        "group_add",
        "init",
        "ipc",
        "isolation",
        "label_file",
        "links",
        "logging",
        "mac_address",
        "mem_limit",
        "mem_reservation",
        "mem_swappiness",
        "memswap_limit",
        "models",
        "network_mode",
        "oom_kill_disable",
        "oom_score_adj",
        "pid",
        "pids_limit",
        "platform",
        "post_start",
        "pre_stop",
        "privileged",
        "profiles",
        "provider",
        "pull_policy",
        "read_only",
        "runtime",
        "scale",
        "secrets",
        "security_opt",
        "shm_size",
        "stdin_open",
        "storage_opt",
        "sysctls",
        "tmpfs",
        "tty",
        "ulimits",
        "use_api_socket",
        "userns_mode",
        "uts",
        "volumes_from",
    ],
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
