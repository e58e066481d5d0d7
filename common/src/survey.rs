//! What is on a host besides Moorline's, as it is told to the operator who asked for it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::observe::{ContainerConfig, ObservedContainer, ObservedGuest, ObservedNetwork, ObservedVolume};
use crate::pve::Vmid;
use crate::topology::MountKind;
use crate::topology::options::Exposed;

/// The most bytes of an answer in JSON, before it is sealed.
pub const SURVEY_MAX: usize = 24 * 1024;
/// Hex digits of the name that the engine gives to a volume without one.
const ANONYMOUS_NAME: usize = 64;
/// Digits of the id that the engine gives to a container for a host name.
const SHORT_ID: usize = 12;

/// One answer: some containers, and the networks and volumes that they use; or some guests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Survey {
    /// Networks by their engine names; those of Moorline's own have an owner.
    #[serde(default)]
    pub networks: BTreeMap<String, ObservedNetwork>,
    /// Volumes by their engine names; those of Moorline's own have an owner.
    #[serde(default)]
    pub volumes: BTreeMap<String, ObservedVolume>,
    /// How many containers of the whole host use these, whoever made them.
    #[serde(default)]
    pub users: Users,
    /// Containers by their engine names, without what their images say.
    #[serde(default)]
    pub containers: BTreeMap<String, ObservedContainer>,
    /// Where guests are asked for: the node's guests by their numbers, also Moorline's own (with their owners), templates and locked ones,
    /// so that it can be said why they are not taken over. Each has its config (`set` with all keys, `running` with what waits) and its
    /// incarnation, as [`crate::observe::ObservedPve`] has them for a guest that is ours; its snapshots and its digest are left out. One
    /// whose config the token may not read has none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub guests: BTreeMap<Vmid, ObservedGuest>,
    /// Containers by their engine names, or guests by their numbers, that cannot be told of, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, String>,
    /// The container or guest behind which the next answer begins; `None` when this is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// How many containers use each network and each volume, by their engine names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// Of networks.
    #[serde(default)]
    pub networks: BTreeMap<String, u32>,
    /// Of volumes.
    #[serde(default)]
    pub volumes: BTreeMap<String, u32>,
}

impl Users {
    /// Counts these containers.
    #[must_use]
    pub fn of<'c>(containers: impl IntoIterator<Item = &'c ObservedContainer>) -> Self {
        let mut users = Self::default();
        for config in containers.into_iter().filter_map(|container| container.config.as_deref()) {
            let mounted = config.volumes.values().filter(|mount| mount.kind == MountKind::Volume);
            users.count(config.networks.keys().cloned(), mounted.filter_map(|mount| mount.source.clone()));
        }
        users
    }

    /// Counts one container.
    pub fn count(&mut self, networks: impl IntoIterator<Item = String>, volumes: impl IntoIterator<Item = String>) {
        let (networks, volumes) = (networks.into_iter().collect(), volumes.into_iter().collect());
        for (counts, names) in [(&mut self.networks, networks), (&mut self.volumes, volumes)] {
            let names: BTreeSet<String> = names;
            names.into_iter().for_each(|name| *counts.entry(name).or_default() += 1);
        }
    }
}

impl Survey {
    /// As many of `containers` behind `after` as fit, with what they use.
    #[must_use]
    pub fn of(containers: BTreeMap<String, ObservedContainer>, around: Around, after: Option<&str>) -> Self {
        let mut page = Page::new(around);
        for (name, container) in containers.into_iter().filter(|(name, _)| after.is_none_or(|after| name.as_str() > after)) {
            if !page.add(name, container) {
                break;
            }
        }
        page.into_survey()
    }

    /// As many of `guests` behind `after` as fit, in the order of their numbers: those that are `wanted`, or all when that is empty.
    #[must_use]
    pub fn of_guests(guests: BTreeMap<Vmid, ObservedGuest>, wanted: &BTreeSet<Vmid>, after: Option<&str>) -> Self {
        let mut page = Page::new(Around::default());
        let after = after.and_then(|after| Vmid::parse(after).ok());
        let is_next = |vmid: &Vmid| after.is_none_or(|after| *vmid > after) && (wanted.is_empty() || wanted.contains(vmid));
        for (vmid, guest) in guests.into_iter().filter(|(vmid, _)| is_next(vmid)) {
            if !page.add_guest(vmid, guest) {
                break;
            }
        }
        page.into_survey()
    }

    /// Takes in a later answer.
    pub fn extend(&mut self, later: Self) {
        self.networks.extend(later.networks);
        self.volumes.extend(later.volumes);
        self.users.networks.extend(later.users.networks);
        self.users.volumes.extend(later.users.volumes);
        self.containers.extend(later.containers);
        self.guests.extend(later.guests);
        self.left_out.extend(later.left_out);
        self.next = later.next;
    }
}

/// What containers may use on a host.
#[derive(Debug, Clone, Default)]
pub struct Around {
    /// Networks by their engine names.
    pub networks: BTreeMap<String, ObservedNetwork>,
    /// Volumes by their engine names.
    pub volumes: BTreeMap<String, ObservedVolume>,
    /// How many containers of the whole host use them.
    pub users: Users,
}

/// An answer that is filled, container by container in the order of their names, or guest by guest in the order of their numbers.
#[derive(Debug)]
pub struct Page {
    around: Around,
    survey: Survey,
    left: usize,
    last: Option<String>,
}

impl Page {
    /// An empty one.
    #[must_use]
    pub fn new(around: Around) -> Self {
        Self { around, survey: Survey::default(), left: SURVEY_MAX, last: None }
    }

    /// Adds the next container, or the word that it is too large for any answer. `false` when this one is full: then nothing is added, and
    /// the next answer begins with it.
    pub fn add(&mut self, name: String, container: ObservedContainer) -> bool {
        let used = self.uses(&container);
        let size = size(&(&name, &container, &used));
        if size > SURVEY_MAX {
            return self.leave_out(name, "its settings are too large for an answer".to_owned());
        }
        if !self.has_room(&name, size) {
            return false;
        }
        let (networks, volumes, users) = used;
        self.survey.networks.extend(networks);
        self.survey.volumes.extend(volumes);
        self.survey.users.networks.extend(users.networks);
        self.survey.users.volumes.extend(users.volumes);
        self.survey.containers.insert(name, container);
        true
    }

    /// Adds the next guest. As [`Self::add`].
    pub fn add_guest(&mut self, vmid: Vmid, guest: ObservedGuest) -> bool {
        let size = size(&(vmid, &guest));
        if size > SURVEY_MAX {
            return self.leave_out(vmid.to_string(), "its settings are too large for an answer".to_owned());
        }
        if !self.has_room(&vmid.to_string(), size) {
            return false;
        }
        self.survey.guests.insert(vmid, guest);
        true
    }

    /// Says of the next container or guest why it is not told of. `false` as for [`Self::add`].
    pub fn leave_out(&mut self, name: String, why: String) -> bool {
        let has_room = self.has_room(&name, size(&(&name, &why)));
        if has_room {
            self.survey.left_out.insert(name, why);
        }
        has_room
    }

    /// What there is room for.
    #[must_use]
    pub fn into_survey(self) -> Survey {
        self.survey
    }

    fn has_room(&mut self, name: &str, size: usize) -> bool {
        let Some(left) = self.left.checked_sub(size) else {
            self.survey.next = self.last.take();
            return false;
        };
        self.left = left;
        self.last = Some(name.to_owned());
        true
    }

    fn uses(&self, container: &ObservedContainer) -> Used {
        let Around { networks, volumes, users } = &self.around;
        let config = container.config.as_deref();
        let joined = config.iter().flat_map(|c| c.networks.keys());
        let joined: BTreeMap<String, ObservedNetwork> =
            joined.filter_map(|name| Some((name.clone(), networks.get(name)?.clone()))).collect();
        let mounted = config.iter().flat_map(|c| c.volumes.values()).filter_map(|mount| mount.source.as_ref());
        let mounted: BTreeMap<String, ObservedVolume> =
            mounted.filter_map(|name| Some((name.clone(), volumes.get(name)?.clone()))).collect();
        let users = Users {
            networks: joined.keys().filter_map(|name| Some((name.clone(), *users.networks.get(name)?))).collect(),
            volumes: mounted.keys().filter_map(|name| Some((name.clone(), *users.volumes.get(name)?))).collect(),
        };
        (joined, mounted, users)
    }
}

type Used = (BTreeMap<String, ObservedNetwork>, BTreeMap<String, ObservedVolume>, Users);

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
        let around = Around { networks, users: Users::of(all.values()), ..Around::default() };
        let mut whole = Survey::of(all.clone(), around.clone(), None);
        let mut answers = 1;
        while let Some(after) = whole.next.take() {
            let page = Survey::of(all.clone(), around.clone(), Some(&after));
            assert!(size(&page) < 2 * SURVEY_MAX && !page.containers.is_empty());
            whole.extend(page);
            answers += 1;
        }
        assert!(answers > 2 && whole.containers.len() == 19 && whole.networks.len() == 10, "{answers}");
        assert_eq!(whole.left_out.keys().collect::<Vec<_>>(), ["c07"]);
        assert_eq!(whole.users.networks["net3"], 2, "the one that is left out is on it, too");
    }

    #[test]
    fn guests_are_told_of_in_the_order_of_their_numbers() {
        let guest = |n: usize| -> ObservedGuest {
            let text = "x".repeat(if n == 99 { SURVEY_MAX } else { 2_000 });
            serde_json::from_value(serde_json::json!({ "type": "lxc", "status": "running",
                "config": { "type": "lxc", "set": { "description": text } } }))
            .unwrap()
        };
        let number = |n: usize| Vmid::parse(&(n * 100 + 100).to_string()).unwrap();
        let all: BTreeMap<Vmid, ObservedGuest> = (0..120).map(|n| (number(n), guest(n))).collect();
        let (mut whole, mut answers) = (Survey::of_guests(all.clone(), &BTreeSet::new(), None), 1);
        while let Some(after) = whole.next.take() {
            let page = Survey::of_guests(all.clone(), &BTreeSet::new(), Some(&after));
            assert!(size(&page) < 2 * SURVEY_MAX && page.guests.keys().next() > whole.guests.keys().last());
            whole.extend(page);
            answers += 1;
        }
        assert!(answers > 5 && whole.guests.len() == 119, "{answers}");
        assert_eq!(whole.left_out.keys().collect::<Vec<_>>(), ["10000"]);
        let some = Survey::of_guests(all, &BTreeSet::from([number(3), number(110)]), None);
        assert_eq!((some.guests.len(), some.next), (2, None));
    }

    #[test]
    fn words_about_what_is_left_out_take_their_room() {
        let mut page = Page::new(Around::default());
        let mut told = 0;
        while page.leave_out(format!("c{told:05}"), "x".repeat(200)) {
            told += 1;
        }
        let survey = page.into_survey();
        assert!(size(&survey) < SURVEY_MAX + 4 * told && told > 100, "{told}");
        assert_eq!((survey.left_out.len(), survey.next), (told, Some(format!("c{:05}", told - 1))));
    }
}
