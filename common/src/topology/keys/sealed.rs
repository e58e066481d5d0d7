//! The keys of secrets and configs.

use super::{Form, Object, key, required};

/// What to do instead of keys that are about a store of somebody else's.
const NEVER: &[(&str, &str)] = &[
    ("driver", "leave it out: values come from your files and variables when you push"),
    ("driver_opts", "leave it out: values come from your files and variables when you push"),
    ("external", "name the `file` or the variable (`environment`) that has the value: no store of secrets is asked"),
    ("labels", "leave it out: nobody sees them"),
    ("name", "leave it out: the key itself is the name, and `target` of the service the path in the container"),
    ("template_driver", "leave it out, and write variables such as `${host.name}` into the `content` of a config"),
];

/// An entry under `secrets`.
pub(crate) static SECRET: Object = Object {
    name: "a secret",
    definition: "secret",
    about: "A secret. https://github.com/compose-spec/compose-spec/blob/main/09-secrets.md",
    keys: &[
        key("file", Form::Text, "The file that has its value, relative to the topology file."),
        key("environment", Form::Text, "The variable that has its value, of the environment or of `.env`."),
    ],
    never: NEVER,
    later: &[],
};

/// An entry under `configs`.
pub(crate) static CONFIG: Object = Object {
    name: "a config",
    definition: "config",
    about: "A config. https://github.com/compose-spec/compose-spec/blob/main/08-configs.md",
    keys: &[
        key("file", Form::Text, "The file that has its value, relative to the topology file."),
        key("environment", Form::Text, "The variable that has its value, of the environment or of `.env`."),
        key("content", Form::Text, "The value itself. Variables are filled in."),
    ],
    never: NEVER,
    later: &[],
};

/// The long form of a service's secret.
pub(crate) static SECRET_MOUNT: Object = Object {
    name: "a secret of a service",
    definition: "secret_mount",
    about: "How a service has a secret.",
    keys: &[
        required("source", Form::Text, "The secret's name."),
        key(
            "target",
            Form::Text,
            "The file in the container, in `/run/secrets` unless it begins with `/`; the secret's name when left out.",
        ),
        key("uid", Form::Scalar, "The number of the user who owns it."),
        key("gid", Form::Scalar, "The number of the group that owns it."),
        key("mode", Form::Scalar, "Its permissions in octal digits: `0o400`; 0444 when left out."),
    ],
    never: &[],
    later: &[],
};

/// The long form of a service's config.
pub(crate) static CONFIG_MOUNT: Object = Object {
    name: "a config of a service",
    definition: "config_mount",
    about: "How a service has a config.",
    keys: &[
        required("source", Form::Text, "The config's name."),
        key("target", Form::Text, "The file in the container; `/` and the config's name when left out."),
        key("uid", Form::Scalar, "The number of the user who owns it."),
        key("gid", Form::Scalar, "The number of the group that owns it."),
        key("mode", Form::Scalar, "Its permissions in octal digits: `0o400`; 0444 when left out."),
    ],
    never: &[],
    later: &[],
};
