//! `moorctl get resources`: what clouds have, as they told the hub.

use clap::ValueEnum;
use serde_json::Value;

use crate::client::Client;
use crate::client::clouds::ResourceFacts;
use crate::clock;
use crate::error::Failure;
use crate::render::{Table, Tone, Ui, or_dash, plain, visible};

/// What something in a cloud is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Machines
    Droplet,
    /// Snapshots of them
    Snapshot,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Kind::Droplet => "droplet",
            Kind::Snapshot => "snapshot",
        }
    }
}

/// Lists them.
///
/// # Errors
/// `cloud_unconfigured` for a cloud that the hub does not have.
pub(super) async fn list(client: &Client, ui: &mut Ui, cloud: &str, kind: Option<Kind>, all: bool) -> Result<(), Failure> {
    let (resources, truncated) = client.resources(cloud, kind.map_or("", Kind::as_str), all).await?;
    if truncated {
        ui.warn("there are more than one answer holds; ask for one --kind, or for one cloud");
    }
    let now = client.hub_now_ms();
    ui.result(&resources, || table(&resources, now))
}

fn text<'v>(one: &'v ResourceFacts, key: &str) -> &'v str {
    one.value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Where it is, or where snapshots are.
fn region(one: &ResourceFacts) -> String {
    let list = one.value.get("regions").and_then(Value::as_array);
    let regions = list.map(|list| list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","));
    regions.unwrap_or_else(|| text(one, "region").to_owned())
}

fn table(resources: &[ResourceFacts], now_ms: u64) -> String {
    if resources.is_empty() {
        return "the hub's clouds have nothing, or the hub has none\n".to_owned();
    }
    let mut table = Table::new(&["CLOUD", "KIND", "NUMBER", "NAME", "STATUS", "SIZE", "REGION", "SPEC", "SAGA", "SEEN"]);
    for one in resources {
        let size = if one.kind == "snapshot" { text(one, "size_gib") } else { text(one, "size") };
        // What is gone and still expected waits for a decision.
        let status = match (one.deleted.is_empty(), &one.spec) {
            (true, _) => (or_dash(&visible(text(one, "status"))), Tone::Plain),
            (false, Some(_)) => ("gone".to_owned(), Tone::Bad),
            (false, None) => ("deleted".to_owned(), Tone::Dim),
        };
        table.row(vec![
            plain(visible(&one.cloud)),
            plain(visible(&one.kind)),
            plain(one.number),
            plain(or_dash(&visible(&one.name))),
            status,
            plain(or_dash(&visible(size))),
            plain(or_dash(&visible(&region(one)))),
            plain(one.spec.as_ref().map_or_else(|| "-".to_owned(), |spec| format!("version {}", spec.version))),
            plain(or_dash(&visible(&one.saga_id))),
            (clock::age(one.seen_unix_ms, now_ms), Tone::Dim),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use moorline_proto::v1 as pb;

    use super::*;

    #[test]
    fn what_is_gone_and_still_expected_stands_out() {
        let spec = pb::ResourceSpec { fields_json: "{}".to_owned(), version: 3, ..pb::ResourceSpec::default() };
        let droplet = pb::Resource {
            cloud: "digitalocean".to_owned(),
            kind: "droplet".to_owned(),
            number: 7,
            name: "web\u{1b}[1m".to_owned(),
            value_json: r#"{"status":"active","size":"s-1vcpu-1gb","region":"fra1"}"#.to_owned(),
            spec: Some(spec),
            ..pb::Resource::default()
        };
        let gone = pb::Resource { deleted_unix_ms: 5, ..droplet.clone() };
        let deleted = pb::Resource { spec: None, value_json: "null".to_owned(), ..gone.clone() };
        let rows: Vec<ResourceFacts> = [droplet, gone, deleted].into_iter().map(|one| ResourceFacts::try_from(one).unwrap()).collect();
        let text = table(&rows, 1000);
        let status: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(4)).collect();
        assert_eq!(status.len(), 3, "{text}");
        for (found, wanted) in status.iter().zip(["active", "gone", "deleted"]) {
            assert!(found.contains(wanted), "{text}");
        }
        assert!(!text.contains("web\u{1b}") && text.contains("version 3"), "{text}");
    }
}
