//! The same for guests of Proxmox VE.

use moorline_common::drift::Drift;
use moorline_common::observe::TAG;
use moorline_common::plan::compare::{NOTHING, PRESENCE, STATE};
use moorline_common::plan::guest::CONFIG;
use moorline_common::pve::guest::{Config, check};
use moorline_common::pve::keys::{self, Shape};
use moorline_common::pve::property::Whose;
use moorline_common::pve::{GuestKind, Vmid, tags, value};
use moorline_common::topology::{Entry, GuestSpec, HostSpec};
use serde_json::{Value, json};

use super::{Override, Word, literal, typed, unsayable};
use crate::error::Failure;

const BY_HAND: &str = "edit the topology file by hand and push it, or revert the drift";

/// What says the live value of `drift`.
pub(super) fn of(drift: &Drift, vmid: Vmid, spec: &HostSpec) -> Result<Override, Failure> {
    let guest = spec.guests().find(|(known, _)| *known == vmid).map(|(_, guest)| guest);
    let guest =
        guest.ok_or_else(|| unsayable(format!("the topology says nothing of {}", drift.resource), "only what it wants can be accepted"))?;
    let (more, value) = match drift.field.as_str() {
        PRESENCE if drift.actual == "missing" => (Vec::new(), Word::Nothing { instead: None }),
        PRESENCE => {
            let message = format!("{} is {}, which no topology says", drift.resource, drift.actual);
            return Err(unsayable(
                message,
                "give the guest another number in the topology file, or see to the stranger on the host itself",
            ));
        }
        STATE if matches!(drift.actual.as_str(), "running" | "stopped") => (vec![STATE.to_owned()], Word::Value(json!(drift.actual))),
        STATE => {
            let message = format!("a topology says that a guest runs or is stopped, not that it is {}", drift.actual);
            return Err(unsayable(message, "revert the drift, or ignore it"));
        }
        field => match field.strip_prefix(CONFIG) {
            Some(key) => (vec!["config".to_owned(), key.to_owned()], setting(guest.kind, key, &drift.actual)?),
            None => return Err(unsayable(format!("`{field}` is nothing that one value says"), BY_HAND)),
        },
    };
    let path = place(vmid).into_iter().chain(more).collect();
    Ok(Override { path, value })
}

fn place(vmid: Vmid) -> Vec<String> {
    vec!["proxmox".to_owned(), "guests".to_owned(), vmid.to_string()]
}

/// What says that a setting is `actual`.
fn setting(kind: GuestKind, key: &str, actual: &str) -> Result<Word, Failure> {
    let shape = keys::find(kind, key).map_err(|why| unsayable(format!("`{key}` cannot stand in a topology: {why}"), BY_HAND))?.shape;
    if matches!(shape, Shape::PasswordHash) {
        return Err(unsayable(
            format!("no host shows its `{key}`, so nobody knows what would be accepted"),
            "write the hash that is meant into the topology file and push it, or revert the drift",
        ));
    }
    if actual == NOTHING {
        return Ok(Word::Nothing { instead: default(shape).map(|text| typed(&text)) });
    }
    if actual.contains("… sha256:") {
        return Err(unsayable("the value is too long to be taken over from a report", "edit the topology file by hand and push it"));
    }
    let text = if matches!(shape, Shape::Tags) { tags::without(actual, TAG) } else { actual.to_owned() };
    if let Err(wrong) = check(kind, &Config::from([(key.to_owned(), text.clone())])) {
        let why = wrong.get(key).cloned().unwrap_or_default();
        return Err(unsayable(format!("the host's `{key}` cannot stand in a topology: {why}"), BY_HAND));
    }
    let value = match typed(&text) {
        number @ Value::Number(_) => number,
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => json!(text),
    };
    Ok(Word::Value(literal(value)))
}

/// The text of a setting by which a host's default holds, if there is one.
fn default(shape: Shape) -> Option<String> {
    let said = match shape {
        Shape::Bool(default) => default.map(|yes| if yes { "1" } else { "0" }.to_owned()),
        Shape::Int(_, _, default) => default.map(|number| number.to_string()),
        Shape::Number(_, default) | Shape::Word(_, default) | Shape::Text(default) => default.map(str::to_owned),
        Shape::CpuUnits
        | Shape::DnsName
        | Shape::Description
        | Shape::Tags
        | Shape::SshKeys
        | Shape::PasswordHash
        | Shape::Props(_)
        | Shape::Volume(_)
        | Shape::Card(..)
        | Shape::Identity(..) => None,
    };
    let is_default = |text: &String| value::normal(shape, text, Whose::Ours).is_ok_and(|normal| normal.is_none());
    // Pairs say it by no pair at all, or by a `0` that stands for the one that is needed, as in `agent: 0`.
    said.into_iter().chain([String::new(), "0".to_owned()]).find(is_default)
}

/// What has to be written into the part `target` of a file, of which the host has `others`, too, so that `over` holds.
///
/// # Errors
/// When another part says otherwise, and nothing in `target` takes that back.
pub fn written(over: &Override, guest: &GuestSpec, target: &Entry, others: &[&Entry]) -> Result<Vec<Override>, Failure> {
    let Some(vmid) = over.path.get(2).and_then(|number| Vmid::parse(number).ok()) else { return Ok(vec![over.clone()]) };
    let in_part = |part: &Entry| part.proxmox.as_ref().and_then(|proxmox| proxmox.guests.get(&vmid)).cloned();
    let setting = over.path.get(4).map(String::as_str);
    let says = |part: &Entry| in_part(part).is_some_and(|guest| setting.is_none_or(|key| guest.config.contains_key(key)));
    let value = match &over.value {
        Word::Value(value) => value.clone(),
        Word::Nothing { .. } if !others.iter().any(|part| says(part)) => return Ok(vec![over.clone()]),
        Word::Nothing { instead: Some(default) } => default.clone(),
        Word::Nothing { instead: None } => {
            let what = setting.map_or_else(|| format!("guest {vmid}"), |key| format!("`{key}` of guest {vmid}"));
            return Err(unsayable(
                format!("the host has no {what}, and one entry cannot take away what another one says, such as a profile"),
                BY_HAND,
            ));
        }
    };
    let mut edits = Vec::new();
    if in_part(target).is_none() {
        let path = place(vmid).into_iter().chain(["type".to_owned()]).collect();
        edits.push(Override { path, value: Word::Value(json!(guest.kind.as_str())) });
    }
    edits.push(Override { path: over.path.clone(), value: Word::Value(value) });
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use moorline_common::id::{HostId, HostName, TopologyId};
    use moorline_common::topology::{BoundHost, TopologyFile, load};

    use super::*;
    use crate::overrides::edit;

    const FILE: &str = "topology: edge
profiles:
  db:
    proxmox:
      guests:
        101: { type: qemu, config: { memory: 4096, onboot: true, agent: \"1\" } }   # every shop's
hosts:
  # In the north.
  pve-1:
    use: [db]
    proxmox:
      guests:
        # The files.
        102:
          type: qemu
          config:
            name: files   # as ever
            memory: 2048
            scsi0: \"local-lvm:8\"
            cipassword: \"$$6$$salt$$hash\"
        205: { type: lxc, state: running, from: { clone: 9001 }, config: { hostname: cache, cores: 2 } }
  pve-2: { use: [db] }
";

    fn bound() -> BoundHost {
        BoundHost { host_id: HostId::of_key(&[1; 32]), name: HostName::parse("pve-1").unwrap(), labels: Default::default() }
    }

    fn spec(file: &TopologyFile) -> HostSpec {
        file.slice(&[bound()]).unwrap().hosts.remove(&bound().host_id).unwrap()
    }

    /// The lines that the file has otherwise when this drift of a guest is accepted, or why it cannot be.
    fn accepted(guest: &str, field: &str, actual: &str, in_profile: bool) -> Result<Vec<String>, String> {
        let file = load(FILE).unwrap();
        let resource = Vmid::parse(guest).unwrap().resource();
        let drift = Drift { resource, field: field.to_owned(), expected: String::new(), actual: actual.to_owned() };
        let over = crate::overrides::of(&drift, &TopologyId::parse("edge").unwrap(), &spec(&file)).map_err(|f| f.message)?;
        let (own, profile) = (&file.hosts["pve-1"].own, &file.profiles["db"]);
        let (target, other, place) = if in_profile { (profile, own, ["profiles", "db"]) } else { (own, profile, ["hosts", "pve-1"]) };
        let before = spec(&file);
        let (_, guest) = before.guests().find(|(vmid, _)| vmid.to_string() == guest).unwrap();
        let edits = written(&over, guest, target, &[other]).map_err(|f| f.message)?;
        let edited = edits.iter().fold(FILE.to_owned(), |text, over| {
            let path: Vec<String> = place.iter().map(|part| (*part).to_owned()).chain(over.path.iter().cloned()).collect();
            edit(&text, &path, &over.value).unwrap()
        });
        let after = load(&edited).unwrap_or_else(|problems| panic!("{edited}\n{problems:?}"));
        assert_ne!(spec(&after), before, "{edited}");
        let diff = crate::render::diff::unified(FILE, &edited, "a", "b");
        Ok(diff.lines().skip(2).filter(|l| l.starts_with(['+', '-'])).map(str::to_owned).collect())
    }

    #[test]
    fn what_a_guest_has_is_written_into_its_hosts_own_entry() {
        let own = |field: &str, actual: &str| accepted("102", field, actual, false).unwrap();
        assert_eq!(own("config.memory", "8192"), ["-            memory: 2048", "+            memory: 8192"]);
        assert_eq!(own("config.name", "data"), ["-            name: files   # as ever", "+            name: data   # as ever"]);
        let disk = own("config.scsi0", "local-lvm:vm-102-disk-0,size=32G");
        assert!(disk[1].contains("local-lvm:vm-102-disk-0,size=32G"), "{disk:?}");
        assert_eq!(own("state", "stopped"), ["+          state: stopped"]);
        assert_eq!(own("config.tags", "prod;moorline;db"), ["+            tags: prod;db"]);
        let dollars = own("config.description", "a ${b}");
        assert!(dollars[0].contains("a $${b}"), "{dollars:?}");
    }

    #[test]
    fn what_a_profile_says_is_said_otherwise_for_the_one_host_with_the_guests_type() {
        let lines = accepted("101", "config.memory", "8192", false).unwrap().concat();
        assert!(lines.contains("101") && lines.contains("type: qemu") && lines.contains("memory: 8192") && !lines.contains('-'), "{lines}");
        let everywhere = accepted("101", "config.memory", "8192", true).unwrap();
        assert!(everywhere[1].contains("memory: 8192") && everywhere[1].ends_with("# every shop's"), "{everywhere:?}");
    }

    #[test]
    fn what_a_guest_has_no_more_is_taken_out_or_said_to_be_as_by_default() {
        assert_eq!(accepted("102", "config.memory", "nothing", false).unwrap(), ["-            memory: 2048"]);
        let flow = accepted("205", "config.cores", "nothing", false).unwrap();
        assert!(flow.len() == 2 && !flow[1].contains("cores") && flow[1].contains("hostname: cache"), "{flow:?}");
        let default = accepted("101", "config.onboot", "nothing", false).unwrap().concat();
        assert!(default.contains("onboot: 0"), "{default}");
        assert!(accepted("101", "config.agent", "nothing", false).unwrap().concat().contains("agent: "));
        let gone = accepted("102", "presence", "missing", false).unwrap();
        assert!(gone.len() >= 7 && gone.iter().all(|line| line.starts_with('-')), "{gone:?}");
        assert_eq!(accepted("205", "presence", "missing", false).unwrap().len(), 1);
    }

    #[test]
    fn what_no_entry_can_say_is_refused_with_words() {
        for (guest, field, actual, words) in [
            ("102", "config.cipassword", "another value", "no host shows"),
            ("102", "config.scsi0", "/dev/sda", "only root"),
            ("102", "config.name", "x… sha256:0", "too long"),
            ("102", "state", "paused", "runs or is stopped"),
            ("102", "presence", "another guest of that name", "no topology says"),
            ("101", "presence", "missing", "one entry cannot take away"),
        ] {
            let said = accepted(guest, field, actual, false).unwrap_err();
            assert!(said.contains(words), "{field}: {said}");
        }
    }
}
