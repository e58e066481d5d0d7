//! DigitalOcean's API, version 2.
//!
//! | module | what it does |
//! |---|---|
//! | `client` | one call: waits its turn, sends it, reads how it ended, repeats what may be repeated |
//! | `pages` | listings, page by page, from one host only |
//! | `rate` | when a token may call again |
//! | `wire` | what the API writes, in Moorline's words |
//! | `https` | the way there |
//!
//! Source: the official description (digitalocean/openapi). What it does not say (a droplet that is found late, what bears no tag yet) is in
//! the steps that must know it.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::config::CloudConfig;
use super::types::{Accepted, Action, ActionId, Change, Droplet, DropletId, NewDroplet, Snapshot, SnapshotId};
use super::{Call, CloudError, Provider, Result};

mod client;
mod https;
mod pages;
mod rate;
mod wire;

pub use client::{NoReply, Reply, Request, Transport, Verb, Wall};
pub use https::{Https, Unusable};

use client::{Access, Client};
use pages::Base;

/// Where the API is when nothing else is said.
pub const URL_DEFAULT: &str = "https://api.digitalocean.com";

/// DigitalOcean, by its two tokens.
pub struct DigitalOcean<T = Https> {
    client: Client<T>,
    inventory: Option<Access>,
    provisioning: Option<Access>,
}

impl DigitalOcean<Https> {
    /// As the configuration says. Opens nothing yet.
    ///
    /// # Errors
    /// [`Unusable`] when the authorities' file cannot be used.
    pub fn new(config: &CloudConfig) -> std::result::Result<Self, Unusable> {
        let wall: Wall = std::sync::Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
        Ok(Self::over(Https::new(config)?, config, wall))
    }
}

impl<T: Transport> DigitalOcean<T> {
    /// The same over another way there. `wall`: seconds since 1970.
    pub fn over(transport: T, config: &CloudConfig, wall: Wall) -> Self {
        let access = |source: &Option<_>, role| source.clone().map(|source| Access::new(source, role));
        Self {
            client: Client::new(transport, Base::new(config.url.clone()), wall),
            inventory: access(&config.inventory, "inventory"),
            provisioning: access(&config.provisioning, "provisioning"),
        }
    }

    fn reader(&self) -> Result<&Access> {
        let lacks = "no token for the inventory: set `inventory_token_file` or `inventory_token_env` in [cloud.digitalocean] of hub.toml";
        self.inventory.as_ref().ok_or_else(|| CloudError::Unconfigured { message: lacks.to_owned() })
    }

    fn writer(&self) -> Result<&Access> {
        let lacks = "no token for provisioning: set `provision_token_file` or `provision_token_env` in [cloud.digitalocean] of hub.toml";
        self.provisioning.as_ref().ok_or_else(|| CloudError::Unconfigured { message: lacks.to_owned() })
    }

    async fn get(&self, path: &[&str]) -> Result<Value> {
        self.client.call(self.writer()?, Verb::Get, self.client.base.url(path, &[]), None).await
    }

    async fn post(&self, path: &[&str], body: &Value) -> Result<Value> {
        self.client.call(self.writer()?, Verb::Post, self.client.base.url(path, &[]), Some(body)).await
    }

    async fn delete(&self, path: &[&str], body: Option<&Value>) -> Result<()> {
        self.client.call(self.writer()?, Verb::Delete, self.client.base.url(path, &[]), body).await.map(drop)
    }

    async fn droplets(&self, access: &Access, query: &[(&str, &str)]) -> Result<Vec<Droplet>> {
        let found = self.client.list(access, &["droplets"], query, "droplets", wire::droplet).await?;
        Ok(pages::once(found, |droplet| droplet.id))
    }

    async fn all_snapshots(&self, access: &Access) -> Result<Vec<Snapshot>> {
        let found = self.client.list(access, &["snapshots"], &[("resource_type", "droplet")], "snapshots", wire::snapshot).await?;
        Ok(pages::once(found, |snapshot| snapshot.id))
    }
}

impl<T: Transport> Provider for DigitalOcean<T> {
    fn name(&self) -> &'static str {
        "digitalocean"
    }

    fn create_droplet<'a>(&'a self, wanted: &'a NewDroplet) -> Call<'a, Accepted> {
        Box::pin(async move {
            let answer = self.post(&["droplets"], &creation(wanted)).await?;
            wire::accepted(&answer).map_err(|error| error.after(Verb::Post))
        })
    }

    fn droplet(&self, id: DropletId) -> Call<'_, Droplet> {
        Box::pin(async move { Ok(wire::droplet(wire::part(&self.get(&["droplets", &id.to_string()]).await?, "droplet")?)?) })
    }

    fn droplets_by_tag<'a>(&'a self, tag: &'a str) -> Call<'a, Vec<Droplet>> {
        Box::pin(async move {
            match self.droplets(self.writer()?, &[("tag_name", tag)]).await {
                // A tag that was never used.
                Err(CloudError::NotFound { .. }) => Ok(Vec::new()),
                found => found,
            }
        })
    }

    fn droplets_by_name<'a>(&'a self, name: &'a str) -> Call<'a, Vec<Droplet>> {
        Box::pin(async move {
            let mut found = self.droplets(self.writer()?, &[("name", name)]).await?;
            // The API does not tell capitals from small letters.
            found.retain(|droplet| droplet.name == name);
            Ok(found)
        })
    }

    fn inventory(&self) -> Call<'_, Vec<Droplet>> {
        Box::pin(async move { self.droplets(self.reader()?, &[]).await })
    }

    fn delete_droplet(&self, id: DropletId) -> Call<'_, ()> {
        Box::pin(async move { self.delete(&["droplets", &id.to_string()], None).await })
    }

    fn act<'a>(&'a self, id: DropletId, change: &'a Change) -> Call<'a, Action> {
        Box::pin(async move {
            let answer = self.post(&["droplets", &id.to_string(), "actions"], &action_body(change)).await?;
            wire::part(&answer, "action").and_then(wire::action).map_err(|error| error.after(Verb::Post))
        })
    }

    fn action(&self, id: ActionId) -> Call<'_, Action> {
        Box::pin(async move { Ok(wire::action(wire::part(&self.get(&["actions", &id.to_string()]).await?, "action")?)?) })
    }

    fn actions_of(&self, id: DropletId) -> Call<'_, Vec<Action>> {
        Box::pin(async move {
            let path = ["droplets", &id.to_string(), "actions"];
            let found = self.client.list(self.writer()?, &path, &[], "actions", wire::action).await?;
            Ok(pages::once(found, |action| action.id))
        })
    }

    fn tag<'a>(&'a self, id: DropletId, tag: &'a str) -> Call<'a, ()> {
        Box::pin(async move {
            self.post(&["tags"], &json!({ "name": tag })).await?;
            self.post(&["tags", tag, "resources"], &bearer(id)).await.map(drop)
        })
    }

    fn untag<'a>(&'a self, id: DropletId, tag: &'a str) -> Call<'a, ()> {
        Box::pin(async move { self.delete(&["tags", tag, "resources"], Some(&bearer(id))).await })
    }

    fn snapshot(&self, id: SnapshotId) -> Call<'_, Snapshot> {
        Box::pin(async move { Ok(wire::snapshot(wire::part(&self.get(&["snapshots", &id.to_string()]).await?, "snapshot")?)?) })
    }

    fn snapshots_of(&self, id: DropletId) -> Call<'_, Vec<Snapshot>> {
        Box::pin(async move {
            let path = ["droplets", &id.to_string(), "snapshots"];
            let mut found = self.client.list(self.writer()?, &path, &[], "snapshots", wire::snapshot).await?;
            found.iter_mut().for_each(|snapshot| snapshot.droplet = Some(id));
            Ok(pages::once(found, |snapshot| snapshot.id))
        })
    }

    fn snapshots_by_name<'a>(&'a self, name: &'a str) -> Call<'a, Vec<Snapshot>> {
        Box::pin(async move {
            let mut found = self.all_snapshots(self.writer()?).await?;
            found.retain(|snapshot| snapshot.name == name);
            Ok(found)
        })
    }

    fn snapshots(&self) -> Call<'_, Vec<Snapshot>> {
        Box::pin(async move { self.all_snapshots(self.reader()?).await })
    }

    fn delete_snapshot(&self, id: SnapshotId) -> Call<'_, ()> {
        Box::pin(async move { self.delete(&["snapshots", &id.to_string()], None).await })
    }
}

fn creation(wanted: &NewDroplet) -> Value {
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| drop(body.insert(key.to_owned(), value));
    put("name", json!(wanted.name));
    put("region", json!(wanted.region));
    put("size", json!(wanted.size));
    put("image", number_or_text(&wanted.image));
    put("ssh_keys", wanted.ssh_keys.iter().map(|key| number_or_text(key)).collect());
    put("tags", json!(wanted.tags.iter().collect::<BTreeSet<_>>()));
    put("monitoring", json!(wanted.monitoring));
    put("ipv6", json!(wanted.ipv6));
    if let Some(user_data) = &wanted.user_data {
        put("user_data", json!(user_data.expose()));
    }
    if let Some(vpc) = &wanted.vpc {
        put("vpc_uuid", json!(vpc));
    }
    Value::Object(body)
}

/// Images and keys are named by numbers, or by words.
fn number_or_text(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number))
}

fn action_body(change: &Change) -> Value {
    let kind = change.kind();
    match change {
        Change::Snapshot { name } | Change::Rename { name } => json!({ "type": kind, "name": name }),
        Change::Resize { size, disk } => json!({ "type": kind, "size": size, "disk": disk }),
        Change::PowerOn | Change::PowerOff => json!({ "type": kind }),
    }
}

fn bearer(id: DropletId) -> Value {
    json!({ "resources": [{ "resource_id": id.to_string(), "resource_type": "droplet" }] })
}
