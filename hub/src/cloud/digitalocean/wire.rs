//! What the API writes, in Moorline's words.

use moorline_common::id::UnixSeconds;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::CloudError;
use super::super::types::{Accepted, Action, ActionId, ActionStatus, Address, Droplet, DropletId, Image, Snapshot, SnapshotId};
use super::client::Verb;

/// Something in an answer is not what the API says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misread(String);

impl Misread {
    pub(super) fn new(key: &str, wanted: &str) -> Self {
        Self(format!("`{key}` is not {wanted}"))
    }

    /// The error after a call of this kind, which the answer shows to have arrived.
    pub(super) fn after(self, verb: Verb) -> CloudError {
        CloudError::Garbled { message: self.0, maybe_done: verb.changes() }
    }
}

impl From<Misread> for CloudError {
    fn from(misread: Misread) -> Self {
        misread.after(Verb::Get)
    }
}

type Read<T> = std::result::Result<T, Misread>;

/// What stands under `key`.
pub(super) fn part<'a>(answer: &'a Value, key: &str) -> Read<&'a Value> {
    answer.get(key).filter(|part| part.is_object()).ok_or_else(|| Misread::new(key, "there"))
}

/// What a droplet's number, status and the like stand under; all else is an attribute.
const OWN: [&str; 10] = ["id", "name", "status", "region", "size", "size_slug", "image", "tags", "networks", "locked"];

/// A droplet.
pub(super) fn droplet(value: &Value) -> Read<Droplet> {
    let map = value.as_object().ok_or_else(|| Misread::new("droplet", "an object"))?;
    let size = map.get("size_slug").or_else(|| value.pointer("/size/slug")).and_then(Value::as_str);
    let attributes = map.iter().filter(|(key, _)| !OWN.contains(&key.as_str()) && *key != "created_at");
    Ok(Droplet {
        id: DropletId(number(map, "id")?),
        name: text(map, "name")?,
        status: serde_json::from_value(map.get("status").cloned().unwrap_or_default()).map_err(|_| Misread::new("status", "text"))?,
        region: value.pointer("/region/slug").and_then(Value::as_str).unwrap_or_default().to_owned(),
        size: size.unwrap_or_default().to_owned(),
        image: image(map.get("image")),
        tags: list::<String>(map, "tags").into_iter().collect(),
        addresses: addresses(value),
        created_at: time(map, "created_at")?,
        locked: map.get("locked").and_then(Value::as_bool).unwrap_or(false),
        attributes: attributes.map(|(key, value)| (key.clone(), value.clone())).collect(),
    })
}

/// The answer to a creation.
pub(super) fn accepted(answer: &Value) -> Read<Accepted> {
    let droplet = droplet(part(answer, "droplet")?)?;
    let links = answer.pointer("/links/actions").and_then(Value::as_array);
    let made_by = links.into_iter().flatten().find(|link| link.get("rel").and_then(Value::as_str) == Some("create"));
    let action = made_by.and_then(|link| link.get("id")).and_then(as_number).map(ActionId);
    Ok(Accepted { droplet, action })
}

/// An action.
pub(super) fn action(value: &Value) -> Read<Action> {
    let map = value.as_object().ok_or_else(|| Misread::new("action", "an object"))?;
    let status = match map.get("status").and_then(Value::as_str) {
        Some("in-progress") => ActionStatus::InProgress,
        Some("completed") => ActionStatus::Completed,
        Some("errored") => ActionStatus::Errored,
        Some(_) | None => return Err(Misread::new("status", "one of an action")),
    };
    Ok(Action { id: ActionId(number(map, "id")?), kind: text(map, "type")?, status, started_at: time(map, "started_at")? })
}

/// A snapshot, of the list of all or of that of a droplet: numbers are text in the one, and numbers in the other.
pub(super) fn snapshot(value: &Value) -> Read<Snapshot> {
    let map = value.as_object().ok_or_else(|| Misread::new("snapshot", "an object"))?;
    let is_droplet = map.get("resource_type").and_then(Value::as_str).is_none_or(|kind| kind == "droplet");
    let droplet = map.get("resource_id").filter(|_| is_droplet).and_then(as_number).map(DropletId);
    Ok(Snapshot {
        id: SnapshotId(number(map, "id")?),
        name: text(map, "name")?,
        droplet,
        regions: list::<String>(map, "regions").into_iter().collect(),
        created_at: time(map, "created_at")?,
        min_disk_gib: map.get("min_disk_size").and_then(Value::as_u64).unwrap_or(0),
        size_gib: map.get("size_gigabytes").map(ToString::to_string).unwrap_or_default(),
    })
}

fn image(value: Option<&Value>) -> Image {
    let Some(Value::Object(map)) = value else { return Image::default() };
    Image {
        id: map.get("id").and_then(as_number).unwrap_or(0),
        slug: map.get("slug").and_then(Value::as_str).filter(|slug| !slug.is_empty()).map(str::to_owned),
        name: map.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
    }
}

fn addresses(droplet: &Value) -> Vec<Address> {
    let of = |version: &str| droplet.pointer(&format!("/networks/{version}")).and_then(Value::as_array).into_iter().flatten();
    let read = |one: &Value| {
        let ip = one.get("ip_address").and_then(Value::as_str)?.parse().ok()?;
        Some(Address { ip, public: one.get("type").and_then(Value::as_str) == Some("public") })
    };
    of("v4").chain(of("v6")).filter_map(read).collect()
}

fn as_number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn number(map: &Map<String, Value>, key: &str) -> Read<u64> {
    map.get(key).and_then(as_number).ok_or_else(|| Misread::new(key, "a number"))
}

fn text(map: &Map<String, Value>, key: &str) -> Read<String> {
    map.get(key).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| Misread::new(key, "text"))
}

fn time(map: &Map<String, Value>, key: &str) -> Read<UnixSeconds> {
    let at = map.get(key).and_then(Value::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
    at.and_then(|at| u64::try_from(at.as_second()).ok()).map(UnixSeconds).ok_or_else(|| Misread::new(key, "a time"))
}

/// What a token may not see is missing or null.
fn list<T: DeserializeOwned>(map: &Map<String, Value>, key: &str) -> Vec<T> {
    map.get(key).and_then(|list| serde_json::from_value(list.clone()).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::super::types::DropletStatus;
    use super::*;

    fn full() -> Value {
        json!({
            "id": 3_164_444, "name": "web-1", "memory": 1024, "vcpus": 1, "disk": 25, "locked": false, "status": "active",
            "created_at": "2020-07-21T18:37:44Z", "features": ["ipv6"], "image": { "id": 7, "slug": "debian-12-x64", "name": "12 x64" },
            "size": { "slug": "s-1vcpu-1gb" }, "size_slug": "s-1vcpu-1gb", "tags": ["web"], "region": { "slug": "nyc3", "name": "New York 3" },
            "networks": { "v4": [{ "ip_address": "10.128.192.124", "type": "private" }, { "ip_address": "192.0.2.7", "type": "public" }],
                          "v6": [{ "ip_address": "2604:a880::1", "type": "public", "netmask": 64 }] },
            "vpc_uuid": "760e09ef",
        })
    }

    #[test]
    fn a_droplet_is_read_with_all_that_it_says() {
        let droplet = droplet(&full()).unwrap();
        assert_eq!((droplet.id, droplet.region.as_str(), droplet.size.as_str()), (DropletId(3_164_444), "nyc3", "s-1vcpu-1gb"));
        assert_eq!(droplet.created_at, UnixSeconds(1_595_356_664));
        assert_eq!(droplet.addresses.iter().filter(|address| address.public).count(), 2);
        assert_eq!(droplet.attributes.get("vcpus"), Some(&json!(1)));
        assert!(!droplet.attributes.contains_key("networks"));
        let stored: Droplet = serde_json::from_value(droplet.to_value()).unwrap();
        assert_eq!(stored, droplet);
    }

    #[test]
    fn what_a_token_may_not_see_is_missing_and_a_status_of_tomorrow_is_kept() {
        let mut value = full();
        value["image"] = Value::Null;
        value["tags"] = Value::Null;
        value["networks"] = json!({});
        value["status"] = json!("hibernating");
        let droplet = droplet(&value).unwrap();
        assert_eq!(droplet.status, DropletStatus::Other("hibernating".to_owned()));
        assert!(droplet.tags.is_empty() && droplet.addresses.is_empty() && droplet.image == Image::default());
    }

    #[test]
    fn snapshots_have_numbers_as_text_or_as_numbers() {
        let of_all = json!({ "id": "6372321", "name": "a", "created_at": "2014-09-26T16:40:18Z", "regions": ["nyc3"], "min_disk_size": 25,
            "size_gigabytes": 2.34, "resource_id": "200776916", "resource_type": "droplet", "tags": [] });
        let of_droplet = json!({ "id": 6_372_321, "name": "a", "created_at": "2014-09-26T16:40:18Z", "regions": ["nyc3"], "min_disk_size": 25,
            "size_gigabytes": 2.34, "type": "snapshot" });
        let (of_all, of_droplet) = (snapshot(&of_all).unwrap(), snapshot(&of_droplet).unwrap());
        assert_eq!(of_all.id, of_droplet.id);
        assert_eq!((of_all.droplet, of_droplet.droplet), (Some(DropletId(200_776_916)), None));
    }

    #[test]
    fn what_is_no_droplet_says_what_is_wrong() {
        for key in ["id", "name", "created_at", "status"] {
            let mut value = full();
            value[key] = json!([]);
            let error = CloudError::from(droplet(&value).unwrap_err()).to_string();
            assert!(error.contains(key), "{error}");
        }
        assert!(accepted(&json!({ "links": {} })).is_err());
    }
}
