//! Every key of the file: what may stand there, and what it means. The reader takes its known keys
//! from these tables and the JSON Schema is made of them, so the two cannot disagree.

mod proxmox;
mod sealed;
mod service;

pub(crate) use proxmox::{FROM, GUEST, PROXMOX, SHUTDOWN};
pub(crate) use sealed::{CONFIG, CONFIG_MOUNT, SECRET, SECRET_MOUNT};
pub(crate) use service::{
    ATTACHMENT, BIND_OPTIONS, DEPENDENCY, DEPLOY, DEVICE, ENV_FILE, EXTENDS, HEALTHCHECK, LIMITS, LOGGING, MOUNT, PORT, RESERVATIONS,
    RESOURCES, RESTART_POLICY, SERVICE, TMPFS_OPTIONS, ULIMIT, UPDATE_CONFIG, VOLUME_OPTIONS,
};

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
    /// Keys of the Compose Specification that mean nothing here, each with what to do instead.
    pub(crate) never: &'static [(&'static str, &'static str)],
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
    /// A number of hosts, or a share of them, as `25%`.
    Share,
    /// Text, or a list of text.
    OneOrMore,
    /// Text, or a list of text and objects.
    OneOrMoreOr(&'static Object),
    /// Text or an object.
    TextOr(&'static Object),
    /// `true`, `false` or an object.
    BoolOr(&'static Object),
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
    /// A map from guests' numbers to objects.
    Guests(&'static Object),
    /// Settings of a guest, in Proxmox VE's own keys.
    GuestConfig,
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
        key("rollout", Form::Object(&ROLLOUT), "How a push spreads over the hosts that it changes; without it they all get it at once."),
        key("profiles", Form::Map(&PROFILE), "Named parts that hosts may `use`."),
        required(
            "hosts",
            Form::Map(&HOST),
            "What each host shall have: a host's name, or `label=value` for every host whose binding has that label.",
        ),
    ],
    never: &[
        ("secrets", "write them under `docker` of the profile or host whose services have them"),
        ("configs", "write them under `docker` of the profile or host whose services have them"),
    ],
    later: &[],
};

/// `policy`.
pub(crate) static POLICY: Object = Object {
    name: "a policy",
    definition: "policy",
    about: "What to do when a live value differs from the file, and when a push may change what a host has.",
    keys: &[
        key(
            "drift",
            Form::OneOf(&["heal", "inbox"]),
            "`heal` mends reversible differences at once, also when left out; `inbox` changes nothing and tells the operator.",
        ),
        key(
            "loop_breaker",
            Form::Bool,
            "Whether what was healed 3 times within 10 minutes is left to the operator from then on; `true` when left out.",
        ),
        key(
            "maintenance",
            Form::ListOf(&WINDOW),
            "The only times at which a host takes other content that a push gives it; at any time when left out. What it has is healed as ever.",
        ),
    ],
    never: &[],
    later: &[],
};

/// One of `maintenance`.
pub(crate) static WINDOW: Object = Object {
    name: "a maintenance window",
    definition: "maintenance-window",
    about: "A time that comes again each week.",
    keys: &[
        key("days", Form::Names, "The days on which it opens, `mon` to `sun`; every day when left out."),
        required("start", Form::Text, "When it opens, as `02:00`."),
        required("duration", Form::Duration, "How long it is open: from one minute to seven days, as `3h`."),
        key("timezone", Form::Text, "Whose clocks that goes by, as `Europe/Berlin`; `UTC` when left out."),
    ],
    never: &[],
    later: &[],
};

/// `rollout`.
pub(crate) static ROLLOUT: Object = Object {
    name: "a rollout",
    definition: "rollout",
    about: "How a push spreads over the hosts that it changes.",
    keys: &[
        key("canary", Form::Share, "So many hosts must be healthy with it before any other gets it; 1 when left out."),
        key("max_parallel", Form::Share, "At most so many get it at once; `25%` when left out."),
        key("healthy_for", Form::Duration, "How long a host has to be healthy without a break to count as done; `30s` when left out."),
        key("deadline", Form::Duration, "How long a host may take to get there; `10m` when left out."),
        key(
            "on_failure",
            Form::OneOf(&["rollback", "pause"]),
            "`rollback`: a host that fails goes back by itself; `pause`: it stays, and the rollout waits for an operator.",
        ),
        key("failure_budget", Form::Share, "So many hosts may fail; 0 when left out."),
    ],
    never: &[],
    later: &[],
};

/// An entry under `profiles`.
pub(crate) static PROFILE: Object = Object {
    name: "a profile",
    definition: "profile",
    about: "A named part of a host's desired state.",
    keys: &[
        key("docker", Form::Object(&DOCKER), "What Docker shall have."),
        key("proxmox", Form::Object(&PROXMOX), "What Proxmox VE shall have."),
        key("policy", Form::Object(&POLICY), "What to do about drift on the hosts that use this profile."),
    ],
    never: &[],
    later: &[],
};

/// An entry under `hosts`.
pub(crate) static HOST: Object = Object {
    name: "a host entry",
    definition: "host",
    about: "What one host, or every host with a label, shall have.",
    keys: &[
        key("use", Form::Names, "Profiles to merge, in order; later ones win, and what the entry says itself wins over all of them."),
        key("docker", Form::Object(&DOCKER), "What Docker shall have."),
        key("proxmox", Form::Object(&PROXMOX), "What Proxmox VE shall have."),
        key("policy", Form::Object(&POLICY), "What to do about drift on this host."),
    ],
    never: &[],
    later: &[],
};

/// `docker`.
pub(crate) static DOCKER: Object = Object {
    name: "a docker section",
    definition: "docker",
    about: "Docker objects in the words of the Compose Specification.",
    keys: &[
        key("networks", Form::Map(&NETWORK), "Networks; on the engine `{topology}_{name}`."),
        key("volumes", Form::Map(&VOLUME), "Named volumes; on the engine `{topology}_{name}`."),
        key("secrets", Form::Map(&SECRET), "Secrets: files that services have, sealed to their hosts."),
        key("configs", Form::Map(&CONFIG), "Configs: as secrets, and their values may stand here."),
        key("services", Form::Map(&SERVICE), "Services; each is one container, on the engine `{topology}-{name}-1`."),
    ],
    never: &[("version", "leave it out"), ("name", "the key `topology` of the file is the project's name")],
    later: &["include"],
};

/// An entry under `networks`.
pub(crate) static NETWORK: Object = Object {
    name: "a network",
    definition: "network",
    about: "A network. https://github.com/compose-spec/compose-spec/blob/main/06-networks.md",
    keys: &[
        key("driver", Form::Text, "The network driver; the engine's default is `bridge`."),
        key("driver_opts", Form::Options, "Options for the driver."),
        key("attachable", Form::Bool, "Whether containers that are none of a swarm's may join it."),
        key("enable_ipv6", Form::Bool, "Whether it has IPv6 addresses."),
        key("internal", Form::Bool, "Whether the network has no way out of the host."),
        key("ipam", Form::Object(&IPAM), "Address management."),
        key("labels", Form::Pairs, "Labels of your own; `moorline.` is reserved."),
        key("name", Form::Text, "Its name on the engine, instead of `{topology}_{name}`."),
        key(
            "external",
            Form::BoolOr(&EXTERNAL),
            "Whether it is there without Moorline, and only used. The host's policy file must allow it.",
        ),
        key(
            "adopt",
            Form::Pattern(ID),
            "The engine's id of the network that is taken over as it is. The host's policy file must allow it.",
        ),
        key(
            "drift",
            Form::OneOf(&["heal", "inbox"]),
            "What to do when the network is not as the file says, instead of what the policy says.",
        ),
    ],
    never: &[],
    later: &["enable_ipv4"],
};

/// An engine's id.
pub(crate) const ID: &str = "^[0-9a-f]{64}$";

/// The older form of `external`.
pub(crate) static EXTERNAL: Object = Object {
    name: "an external object",
    definition: "external",
    about: "The older form of `external: true` and `name`.",
    keys: &[key("name", Form::Text, "Its name on the engine.")],
    never: &[],
    later: &[],
};

/// `ipam`.
pub(crate) static IPAM: Object = Object {
    name: "an ipam section",
    definition: "ipam",
    about: "Address management of a network.",
    keys: &[key("driver", Form::Text, "The IPAM driver."), key("config", Form::ListOf(&POOL), "Address pools.")],
    never: &[],
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
    never: &[],
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
        key("name", Form::Text, "Its name on the engine, instead of `{topology}_{name}`."),
        key(
            "external",
            Form::BoolOr(&EXTERNAL),
            "Whether it is there without Moorline, and only used. The host's policy file must allow it.",
        ),
        key("adopt", Form::Text, "The name of the volume that is taken over as it is. The host's policy file must allow it."),
        key(
            "drift",
            Form::OneOf(&["heal", "inbox"]),
            "What to do when the volume is not as the file says, instead of what the policy says.",
        ),
    ],
    never: &[],
    later: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guide_for_users_of_compose_has_every_key_that_is_refused() {
        let guide = include_str!("../../../docs/compose.md");
        let sections = [
            ("", &SERVICE),
            ("deploy.", &DEPLOY),
            ("deploy.resources.", &RESOURCES),
            ("deploy.resources.limits.", &LIMITS),
            ("deploy.resources.reservations.", &RESERVATIONS),
            ("deploy.restart_policy.", &RESTART_POLICY),
            ("deploy.update_config.", &UPDATE_CONFIG),
        ];
        let rows = |(above, object): &(&str, &Object)| {
            object.never.iter().map(|(key, remedy)| format!("| `{above}{key}` | {remedy} |")).collect::<Vec<_>>()
        };
        let wanted: Vec<String> = sections.iter().flat_map(rows).collect();
        let (_, table) = guide.split_once("| key of a service |").unwrap_or_default();
        let listed: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(listed, wanted);
        for key in SERVICE.later {
            assert!(table.contains(&format!("`{key}`")), "`{key}` is not supported yet, and docs/compose.md does not say so");
        }
    }
}
