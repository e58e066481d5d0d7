//! Keys that an engine takes only from some version of its API on. An older one drops what it does not know without a word.
//! <https://docs.docker.com/reference/api/engine/version-history/>

use super::ContainerTarget;
use crate::topology::{Healthcheck, ServiceSpec};

/// A version of the engine's API.
type Api = (u32, u32);

/// A key of the target that an engine of `api` (as `1.41`) does not know, with the version that it needs. An engine whose version
/// is not told is taken to know all.
#[must_use]
pub fn beyond(target: &ContainerTarget, api: Option<&str>) -> Option<(String, String)> {
    let has = api.and_then(parse)?;
    let (key, (major, minor)) = needs(&target.spec).into_iter().find(|(_, needs)| *needs > has)?;
    Some((key, format!("{major}.{minor}")))
}

fn parse(text: &str) -> Option<Api> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn needs(spec: &ServiceSpec) -> Vec<(String, Api)> {
    let mut all = Vec::new();
    let mut need = |is_named: bool, key: &str, api: Api| {
        if is_named {
            all.push((key.to_owned(), api));
        }
    };
    need(spec.platform.is_some(), "platform", (1, 41));
    need(spec.options.cgroup.is_some(), "cgroup", (1, 41));
    need(matches!(spec.healthcheck, Some(Healthcheck { start_interval: Some(_), .. })), "healthcheck.start_interval", (1, 44));
    need(spec.volumes.values().any(|mount| mount.options.subpath.is_some()), "volumes.volume.subpath", (1, 45));
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_beyond_the_engine_is_named_with_the_version_that_it_needs() {
        let target = |options: serde_json::Value| -> ContainerTarget {
            let mut spec = json!({ "image": "i" });
            spec.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
            serde_json::from_value(json!({ "name": "a", "service": "a", "spec": spec, "labels": {} })).unwrap()
        };
        let cases = [
            (json!({ "platform": "linux/arm64" }), "platform", "1.41"),
            (json!({ "options": { "cgroup": "private" } }), "cgroup", "1.41"),
            (json!({ "healthcheck": { "start_interval": 1 } }), "healthcheck.start_interval", "1.44"),
            (
                json!({ "volumes": { "/a": { "type": "volume", "source": "v", "options": { "subpath": "b" } } } }),
                "volumes.volume.subpath",
                "1.45",
            ),
        ];
        for (spec, key, needs) in cases {
            let target = target(spec);
            let minor: u32 = needs.strip_prefix("1.").unwrap().parse().unwrap();
            assert_eq!(beyond(&target, Some(&format!("1.{}", minor - 1))), Some((key.to_owned(), needs.to_owned())));
            assert_eq!(beyond(&target, Some(needs)), None);
            assert_eq!(beyond(&target, None), None);
        }
        assert_eq!(beyond(&target(json!({})), Some("1.12")), None);
    }
}
