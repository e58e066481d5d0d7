//! What a simulated account begins as.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// 2026-11-23 10:00 UTC: when a simulated account begins, unless told otherwise.
pub const BEGINS_AT_MS: u64 = 1_795_428_000_000;
/// The token of [`Setup::default`] that may do everything.
pub const TOKEN: &str = "dop_v1_simulated-provisioning";
/// The one that may only read.
pub const READ_TOKEN: &str = "dop_v1_simulated-inventory";
/// What stands for every scope.
pub const EVERYTHING: &str = "*";
/// What stands for every scope that reads.
pub const READING: &str = "*:read";

/// An account as it begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setup {
    /// Seeds everything that is made up: addresses, request ids.
    pub seed: u64,
    /// When it begins, in milliseconds since 1970.
    pub begins_at_ms: u64,
    /// Who may call.
    pub tokens: Vec<Token>,
    /// How long things take.
    pub latencies: Latencies,
    /// How often may be called.
    pub limits: Limits,
    /// How many droplets the account may have.
    pub droplet_limit: usize,
    /// The regions' slugs and names.
    pub regions: Vec<(String, String)>,
    /// The sizes.
    pub sizes: Vec<Size>,
    /// The images that everybody sees.
    pub images: Vec<Image>,
    /// The account's keys.
    pub keys: Vec<Key>,
}

/// A token of the API.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// What it is called in the record of calls.
    pub name: String,
    /// What callers send.
    pub secret: String,
    /// What it may do: `droplet:create`, …; [`EVERYTHING`]; [`READING`].
    pub scopes: Vec<String>,
}

impl Token {
    /// Whether it may do something.
    #[must_use]
    pub fn may(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope || own == EVERYTHING || (own == READING && scope.ends_with(":read")))
    }
}

/// How long things take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Latencies {
    /// Until a call is answered. What it does is done at once.
    pub answer: u64,
    /// From a droplet's creation until it is `active`.
    pub active: u64,
    /// An action that switches or renames.
    pub action: u64,
    /// An action that makes a snapshot.
    pub snapshot: u64,
    /// From the end of that action until the snapshot is seen anywhere.
    pub snapshot_seen: u64,
    /// An action that resizes.
    pub resize: u64,
    /// From a droplet's creation until it is found by its id.
    pub found: u64,
    /// From a droplet's creation until it stands in listings.
    pub listed: u64,
    /// From a droplet's creation, or its tagging, until it bears its tags.
    pub tagged: u64,
    /// From the end of an action until a droplet shows the state that it then has.
    pub shown: u64,
    /// For how long what was deleted still stands in listings.
    pub lingers: u64,
    /// For how long what was deleted is still found by its id.
    pub remains: u64,
    /// For how long after a droplet's creation its deletion is answered by 404.
    pub undeletable: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            answer: 100,
            active: 20_000,
            action: 4_000,
            snapshot: 30_000,
            snapshot_seen: 6_000,
            resize: 25_000,
            found: 1_000,
            listed: 5_000,
            tagged: 8_000,
            shown: 2_000,
            lingers: 10_000,
            remains: 0,
            undeletable: 0,
        }
    }
}

impl Latencies {
    /// Everything is done and seen at once.
    #[must_use]
    pub fn none() -> Self {
        Self {
            answer: 0,
            active: 0,
            action: 0,
            snapshot: 0,
            snapshot_seen: 0,
            resize: 0,
            found: 0,
            listed: 0,
            tagged: 0,
            shown: 0,
            lingers: 0,
            remains: 0,
            undeletable: 0,
        }
    }

    /// The same order of things in a hundredth of the time, for real processes.
    #[must_use]
    pub fn short() -> Self {
        let long = Self::default();
        Self {
            answer: 1,
            active: long.active / 100,
            action: long.action / 100,
            snapshot: long.snapshot / 100,
            snapshot_seen: long.snapshot_seen / 100,
            resize: long.resize / 100,
            found: long.found / 100,
            listed: long.listed / 100,
            tagged: long.tagged / 100,
            shown: long.shown / 100,
            lingers: long.lingers / 100,
            remains: long.remains / 100,
            undeletable: long.undeletable / 100,
        }
    }

    /// Sets one by its name, such as `snapshot-seen`.
    ///
    /// # Errors
    /// When there is none of that name; the message names those that there are.
    pub fn set(&mut self, name: &str, ms: u64) -> Result<(), String> {
        let mut all = serde_json::to_value(*self).map_err(|error| error.to_string())?;
        if let Value::Object(all) = &mut all {
            all.insert(name.to_owned(), json!(ms));
        }
        *self = serde_json::from_value(all).map_err(|error| error.to_string())?;
        Ok(())
    }
}

/// How often may be called with one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Calls in an hour.
    pub hourly: usize,
    /// Calls in a minute.
    pub burst: usize,
    /// Listings of keys in a minute.
    pub keys: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { hourly: 5_000, burst: 250, keys: 10 }
    }
}

impl Limits {
    /// As good as none.
    #[must_use]
    pub fn none() -> Self {
        Self { hourly: UNLIMITED, burst: UNLIMITED, keys: UNLIMITED }
    }
}

/// So many calls are not counted any more.
pub const UNLIMITED: usize = 1_000_000_000;

/// A size of droplets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Its slug.
    pub slug: String,
    /// Memory, in MiB.
    pub memory: u64,
    /// Processors.
    pub vcpus: u64,
    /// Disk, in GiB.
    pub disk: u64,
    /// The price of an hour, in thousandths of a cent.
    pub hourly: u64,
    /// The regions that have it; all when empty.
    #[serde(default)]
    pub regions: Vec<String>,
}

/// An image that everybody sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Its number.
    pub id: u64,
    /// Its slug.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// Its distribution, as the API writes it.
    pub distribution: String,
    /// The disk that it needs, in GiB.
    pub min_disk: u64,
}

/// A key of the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The key.
    pub public_key: String,
}

impl Default for Setup {
    fn default() -> Self {
        let token = |name: &str, secret: &str, scope: &str| Token {
            name: name.to_owned(),
            secret: secret.to_owned(),
            scopes: vec![scope.to_owned()],
        };
        let regions = [("nyc3", "New York 3"), ("fra1", "Frankfurt 1"), ("ams3", "Amsterdam 3"), ("syd1", "Sydney 1")];
        Self {
            seed: 1,
            begins_at_ms: BEGINS_AT_MS,
            tokens: vec![token("provisioning", TOKEN, EVERYTHING), token("inventory", READ_TOKEN, READING)],
            latencies: Latencies::default(),
            limits: Limits::default(),
            droplet_limit: 500,
            regions: regions.iter().map(|(slug, name)| ((*slug).to_owned(), (*name).to_owned())).collect(),
            sizes: sizes(),
            images: images(),
            keys: vec![Key {
                id: 512_189,
                name: "operator".to_owned(),
                fingerprint: "3b:16:bf:e4:8b:00:8b:b8:59:8c:a9:d3:f0:19:45:fa".to_owned(),
                public_key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE2Mp operator".to_owned(),
            }],
        }
    }
}

impl Setup {
    /// Everything is done and seen at once, and nobody counts calls.
    #[must_use]
    pub fn prompt() -> Self {
        Self { latencies: Latencies::none(), limits: Limits::none(), ..Self::default() }
    }

    /// With a token that may do only this.
    #[must_use]
    pub fn with_token(mut self, name: &str, secret: &str, scopes: &[&str]) -> Self {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.tokens.retain(|token| token.name != name && token.secret != secret);
        self.tokens.push(Token { name: name.to_owned(), secret: secret.to_owned(), scopes });
        self
    }
}

fn sizes() -> Vec<Size> {
    let size = |slug: &str, memory, vcpus, disk, hourly, regions: &[&str]| Size {
        slug: slug.to_owned(),
        memory,
        vcpus,
        disk,
        hourly,
        regions: regions.iter().map(|region| (*region).to_owned()).collect(),
    };
    vec![
        size("s-1vcpu-512mb-10gb", 512, 1, 10, 595, &["nyc3", "fra1", "ams3"]),
        size("s-1vcpu-1gb", 1024, 1, 25, 893, &[]),
        size("s-1vcpu-2gb", 2048, 1, 50, 1786, &[]),
        size("s-2vcpu-2gb", 2048, 2, 60, 2679, &[]),
        size("s-2vcpu-4gb", 4096, 2, 80, 3571, &[]),
        size("s-4vcpu-8gb", 8192, 4, 160, 7143, &[]),
    ]
}

fn images() -> Vec<Image> {
    let image = |id, slug: &str, name: &str, distribution: &str, min_disk| Image {
        id,
        slug: slug.to_owned(),
        name: name.to_owned(),
        distribution: distribution.to_owned(),
        min_disk,
    };
    vec![
        image(159_651_797, "debian-12-x64", "12 x64", "Debian", 7),
        image(194_156_002, "debian-13-x64", "13 x64", "Debian", 7),
        image(155_133_621, "ubuntu-24-04-x64", "24.04 (LTS) x64", "Ubuntu", 7),
        image(187_000_100, "rockylinux-9-x64", "9 x64", "Rocky Linux", 20),
    ]
}
