//! What is on a host besides Moorline's, as it is told to the operator who asked for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::observe::{ContainerConfig, ObservedContainer, ObservedNetwork, ObservedVolume};
use crate::topology::options::Exposed;

/// The most bytes of an answer in JSON, before it is sealed.
pub const SURVEY_MAX: usize = 24 * 1024;
/// Hex digits of the name that the engine gives to a volume without one.
const ANONYMOUS_NAME: usize = 64;
/// Digits of the id that the engine gives to a container for a host name.
const SHORT_ID: usize = 12;

/// One answer: some containers, and the networks and volumes that they use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// Networks by their engine names; those of Moorline's own have an owner.
    #[serde(default)]
    pub networks: BTreeMap<String, ObservedNetwork>,
    /// Volumes by their engine names; those of Moorline's own have an owner.
    #[serde(default)]
    pub volumes: BTreeMap<String, ObservedVolume>,
    /// Containers by their engine names, without what their images say.
    #[serde(default)]
    pub containers: BTreeMap<String, ObservedContainer>,
    /// Containers that no answer has room for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub too_large: Vec<String>,
    /// The container behind which the next answer begins; `None` when this is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Survey {
    /// As many of `containers` behind `after` as fit, with what they use.
    #[must_use]
    pub fn of(
        containers: BTreeMap<String, ObservedContainer>,
        networks: &BTreeMap<String, ObservedNetwork>,
        volumes: &BTreeMap<String, ObservedVolume>,
        after: Option<&str>,
    ) -> Self {
        let mut survey = Self::default();
        let (mut left, mut last) = (SURVEY_MAX, None);
        for (name, container) in containers.into_iter().filter(|(name, _)| after.is_none_or(|after| name.as_str() > after)) {
            let used = uses(&container, networks, volumes);
            let size = size(&(&name, &container, &used));
            if size > SURVEY_MAX {
                last = Some(name.clone());
                survey.too_large.push(name);
                continue;
            }
            if size > left {
                survey.next = last;
                return survey;
            }
            left -= size;
            last = Some(name.clone());
            survey.networks.extend(used.0);
            survey.volumes.extend(used.1);
            survey.containers.insert(name, container);
        }
        survey
    }

    /// Takes in a later answer.
    pub fn extend(&mut self, later: Self) {
        self.networks.extend(later.networks);
        self.volumes.extend(later.volumes);
        self.containers.extend(later.containers);
        self.too_large.extend(later.too_large);
        self.next = later.next;
    }
}

type Used = (BTreeMap<String, ObservedNetwork>, BTreeMap<String, ObservedVolume>);

fn uses(container: &ObservedContainer, networks: &BTreeMap<String, ObservedNetwork>, volumes: &BTreeMap<String, ObservedVolume>) -> Used {
    let config = container.config.as_deref();
    let joined = config.iter().flat_map(|c| c.networks.keys()).filter_map(|name| Some((name.clone(), networks.get(name)?.clone())));
    let mounted = config.iter().flat_map(|c| c.volumes.values()).filter_map(|mount| mount.source.as_ref());
    let mounted = mounted.filter_map(|name| Some((name.clone(), volumes.get(name)?.clone())));
    (joined.collect(), mounted.collect())
}

fn size<T: Serialize>(value: &T) -> usize {
    serde_json::to_string(value).map_or(usize::MAX, |text| text.len())
}

/// What a container has of its image, or of its engine without being told.
#[derive(Debug, Clone, Default)]
pub struct Inherited {
    /// The image's own settings.
    pub image: ContainerConfig,
    /// Paths at which the image has volumes.
    pub volumes: Vec<String>,
    /// The control group namespace of containers that name none.
    pub cgroup: Option<String>,
    /// The logging driver of containers that name none.
    pub log_driver: Option<String>,
}

/// `config` of the container `id` without what is `inherited`: what remains was said by whoever made it.
#[must_use]
pub fn said(mut config: ContainerConfig, id: &str, inherited: &Inherited) -> ContainerConfig {
    let image = &inherited.image;
    config.environment.retain(|name, value| image.environment.get(name) != Some(value));
    config.labels.retain(|name, value| image.labels.get(name) != Some(value));
    if config.entrypoint == image.entrypoint {
        config.entrypoint.clear();
        if config.command == image.command {
            config.command.clear();
        }
    }
    let same = |own: &mut String, image: &String| {
        if own == image {
            own.clear();
        }
    };
    same(&mut config.user, &image.user);
    same(&mut config.working_dir, &image.working_dir);
    same(&mut config.hostname, &id.chars().take(SHORT_ID).collect());
    config.stop_signal = config.stop_signal.filter(|signal| image.stop_signal.as_ref() != Some(signal));
    config.healthcheck = config.healthcheck.filter(|check| image.healthcheck.as_ref() != Some(check));
    config.volumes.retain(|path, mount| !(is_anonymous(mount.source.as_deref()) && inherited.volumes.contains(path)));
    for mount in config.volumes.values_mut().filter(|mount| is_anonymous(mount.source.as_deref())) {
        mount.source = None;
    }
    let published: Vec<String> = config.ports.iter().map(|port| format!("{}/{}", port.target, port.protocol.as_str())).collect();
    let options = &mut config.options;
    let of_image = image.options.expose.clone().unwrap_or_default().0;
    options.expose = options
        .expose
        .take()
        .map(|Exposed(ports)| Exposed(ports.into_iter().filter(|port| !of_image.contains(port) && !published.contains(port)).collect()));
    options.cgroup = options.cgroup.take().filter(|mode| inherited.cgroup.as_ref() != Some(mode));
    let usual = |log: &crate::topology::options::Logging| log.options.is_empty() && log.driver == inherited.log_driver;
    options.logging = options.logging.take().filter(|logging| !usual(logging));
    let by_itself = options.usual_swap();
    options.memswap_limit = options.memswap_limit.filter(|swap| *swap != by_itself);
    config.options = std::mem::take(&mut config.options).without_usual();
    config
}

fn is_anonymous(volume: Option<&str>) -> bool {
    volume.is_some_and(|name| name.len() == ANONYMOUS_NAME && name.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_what_fits_and_together_everything_once() {
        let container = |n: usize| ObservedContainer {
            id: format!("{n:064}"),
            config: Some(Box::new(ContainerConfig {
                environment: BTreeMap::from([("A".to_owned(), "x".repeat(if n == 7 { SURVEY_MAX } else { 3_000 }))]),
                networks: BTreeMap::from([(format!("net{}", n / 2), Default::default())]),
                ..ContainerConfig::default()
            })),
            ..ObservedContainer::default()
        };
        let all: BTreeMap<String, ObservedContainer> = (0..20).map(|n| (format!("c{n:02}"), container(n))).collect();
        let networks = (0..20).map(|n| (format!("net{n}"), ObservedNetwork::default())).collect();
        let mut whole = Survey::of(all.clone(), &networks, &BTreeMap::new(), None);
        let mut answers = 1;
        while let Some(after) = whole.next.take() {
            let page = Survey::of(all.clone(), &networks, &BTreeMap::new(), Some(&after));
            assert!(size(&page) < 2 * SURVEY_MAX && !page.containers.is_empty());
            whole.extend(page);
            answers += 1;
        }
        assert!(answers > 2 && whole.containers.len() == 19 && whole.networks.len() == 10, "{answers}");
        assert_eq!(whole.too_large, ["c07"]);
    }
}
