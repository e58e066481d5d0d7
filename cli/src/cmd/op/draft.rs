//! From what an operator means to what is signed: which resource, which one of those that have borne its name, until when.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, IdempotencyKey, Nonce, OpId, ResourceId, UnixSeconds};
use moorline_common::observe::{ContainerState, Observed};
use moorline_common::op::{Act, Class, OpStatement, Precondition};
use moorline_common::pve::Vmid;
use moorline_common::sign::{Envelope, Signed};
use moorline_common::statement::HostBinding;
use moorline_common::topology::nearest;
use moorline_common::trust::TrustRoot;

use super::OrderArgs;
use super::guest::meant::{self, Named};
use super::guest::words as guest_words;
use crate::error::Failure;
use crate::limits::{NAMES_SHOWN, ORDER_BACKDATED_S};
use crate::signers::Signers;

/// Splits `HOST[/RESOURCE]`.
///
/// # Errors
/// When the host's name is none.
pub fn target(text: &str) -> Result<(HostName, Option<&str>), Failure> {
    let (host, resource) = text.split_once('/').map_or((text, None), |(host, resource)| (host, Some(resource)));
    Ok((HostName::parse(host)?, resource.filter(|r| !r.is_empty())))
}

/// The resource that `text` means for `act`: `docker/container/NAME`, `container/NAME`, or a bare name; a guest by its number.
///
/// # Errors
/// A usage failure when it is missing, too much, or none.
pub fn resource(act: &Act, text: Option<&str>) -> Result<ResourceId, Failure> {
    let on_host = matches!(act, Act::Prune { .. } | Act::TimeReset | Act::Confirm(_) | Act::Survey(_));
    let kind = act.kind();
    let Some(text) = text else {
        return if on_host {
            Ok(ResourceId::host())
        } else {
            Err(Failure::usage(format!("`op {kind}` needs to know on what"), "write HOST/RESOURCE, such as shop-17/edge-site-1"))
        };
    };
    if on_host {
        return Err(Failure::usage(format!("`op {kind}` is for a whole host"), "write the host's name alone"));
    }
    if !matches!(act, Act::Pull)
        && let Some(named) = meant::named(text)?
    {
        return match named {
            Named::Number(vmid) => Ok(vmid.resource()),
            Named::Name(name) => {
                Err(Failure::usage(format!("`guest/{name}` is a guest's name"), "name it by its number, such as pve-1/101"))
            }
        };
    }
    let is_short = |kind: &str| text.strip_prefix(kind).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'));
    let full = if is_short("docker") || is_short("pve") {
        text.to_owned()
    } else if matches!(act, Act::Pull) {
        // The first part of an image's name may be anything.
        format!("docker/image/{}", text.strip_prefix("image/").unwrap_or(text))
    } else if ["container", "volume", "network", "image"].iter().any(|kind| is_short(kind)) {
        format!("docker/{text}")
    } else {
        format!("docker/container/{text}")
    };
    ResourceId::parse(full)
        .map_err(|e| Failure::usage(e.to_string(), "write HOST/RESOURCE, such as shop-17/edge-site-1 or shop-17/volume/edge_data"))
}

/// Which one is meant of those that have borne the name of `resource`, by the host's verified report. `None`: any.
///
/// # Errors
/// [`Code::NotFound`] for a name that the report does not have, with the nearest one that it has.
pub fn incarnation(
    act: &Act,
    resource: &ResourceId,
    class: Class,
    wanted: Option<&str>,
    observed: Option<&Observed>,
) -> Result<Option<String>, Failure> {
    if let Some(vmid) = Vmid::of(resource) {
        return meant::incarnation(act, vmid, wanted, observed);
    }
    match wanted {
        Some("any") => return Ok(None),
        Some(id) => return Ok(Some(id.to_owned())),
        None => {}
    }
    let disrupts = class >= Class::R3 && resource.kind() == "docker/container";
    let Some(observed) = observed else {
        return if disrupts {
            Err(Failure::from(Fault::new(Code::NotFound, "the host has sent no report by which to tell which container is meant"))
                .with_remedy("wait for its report, or add --incarnation ID or --incarnation any"))
        } else {
            Ok(None)
        };
    };
    // What is to be made or lifted need not be there.
    let may_be_absent = matches!(act, Act::Pull | Act::Converge(_) | Act::Release) || observed.trimmed;
    let container = match resource.kind() {
        "docker/container" => {
            let found = observed.containers.get(resource.name());
            if found.is_none() && !may_be_absent {
                let ours = observed.containers.iter().filter(|(_, c)| c.owner.is_some()).map(|(name, _)| name);
                return Err(unknown("container", resource, ours));
            }
            if found.is_some_and(|c| c.owner.is_none()) {
                return Err(foreign(resource));
            }
            found
        }
        "docker/volume" if !may_be_absent && !observed.volumes.contains_key(resource.name()) => {
            let ours = observed.volumes.iter().filter(|(_, v)| v.owner.is_some()).map(|(name, _)| name);
            return Err(unknown("volume", resource, ours));
        }
        "docker/volume" if observed.volumes.get(resource.name()).is_some_and(|v| v.owner.is_none()) => return Err(foreign(resource)),
        _ => None,
    };
    match container {
        Some(container) if disrupts => Ok(Some(container.id.clone())),
        None if disrupts => Err(Failure::from(Fault::new(Code::NotFound, "the host's report has no room for this container"))
            .with_remedy("add --incarnation ID or --incarnation any")),
        Some(_) | None => Ok(None),
    }
}

/// What Moorline did not make is not touched, and its neighbours are nobody's business.
fn foreign(resource: &ResourceId) -> Failure {
    let message = format!("{resource} is not one of ours by the host's last report: operations touch only what Moorline made");
    Failure::from(Fault::new(Code::NotOwned, message)).with_remedy("act on it on the host itself, or name one of ours")
}

fn unknown<'a>(what: &str, resource: &ResourceId, known: impl Iterator<Item = &'a String> + Clone) -> Failure {
    let name = resource.name();
    let fault = Fault::new(Code::NotFound, format!("the host's last report has no {what} `{name}`"));
    // A service's name stands inside its containers' names.
    let near = nearest(name, known.clone().map(String::as_str)).or_else(|| known.clone().map(String::as_str).find(|k| k.contains(name)));
    let hint = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let mut names: Vec<&str> = known.clone().take(NAMES_SHOWN).map(String::as_str).collect();
            if known.count() > NAMES_SHOWN {
                names.push("…");
            }
            if names.is_empty() { format!("it has no {what} of ours.") } else { format!("it has {}.", names.join(", ")) }
        }
    };
    Failure::from(fault).with_remedy(format!("{hint} If it is newer than the report, add --incarnation any"))
}

/// Reads a container's state as reports write it.
///
/// # Errors
/// What was expected.
pub fn container_state(text: &str) -> Result<ContainerState, String> {
    serde_json::from_value(serde_json::Value::String(text.to_owned()))
        .map_err(|_| "write created, running, paused, restarting, removing, exited or dead".to_owned())
}

/// What is ordered, before it is signed.
///
/// # Errors
/// What the host would refuse of its shape; when there is no randomness.
pub fn statement(
    root: &TrustRoot,
    binding: &HostBinding,
    act: &Act,
    (resource, incarnation): (ResourceId, Option<String>),
    args: &OrderArgs,
    now: UnixSeconds,
) -> Result<OpStatement, Failure> {
    let class = act.class(&resource);
    let window = args.expires.map_or(class.window_default_s(), |span| span.as_secs());
    if window == 0 {
        return Err(Failure::usage("an order whose window is over when it is signed is never done", "give `--expires` at least a second"));
    }
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|e| Failure::local(format!("this machine gives no random numbers: {e}")))?;
    let key = args.key.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let precondition = Precondition { generation: args.if_generation.map(moorline_common::id::Generation), state: args.if_state };
    let statement = OpStatement {
        cluster: root.cluster.clone(),
        op_id: OpId::parse(uuid::Uuid::now_v7().to_string())?,
        idempotency_key: IdempotencyKey::parse(key)?,
        host_id: binding.host_id.clone(),
        host_epoch: binding.host_epoch.clone(),
        resource,
        incarnation,
        kind: act.kind().to_owned(),
        params: act.params(),
        precondition: (precondition != Precondition::default()).then_some(precondition),
        not_before: UnixSeconds(now.0.saturating_sub(ORDER_BACKDATED_S)),
        expires_at: now.plus(window),
        nonce: Nonce::parse(hex::encode(nonce))?,
        root_version: root.version,
        reason: args.reason.clone(),
        saga: None,
    };
    statement.act()?;
    Ok(statement)
}

/// A signed order, and what it still lacks.
#[derive(Debug)]
pub struct Sealed {
    /// The envelope.
    pub envelope: Envelope,
    /// Why it is not enough yet: more keys must sign.
    pub lacks: Option<Fault>,
}

impl Sealed {
    /// The envelope, if it bears all the signatures that it needs.
    ///
    /// # Errors
    /// When more keys must sign; with `remedy`.
    pub fn whole(self, remedy: &str) -> Result<Envelope, Failure> {
        match self.lacks {
            Some(lacks) => Err(Failure::from(lacks).with_remedy(remedy)),
            None => Ok(self.envelope),
        }
    }
}

/// Signs `statement`.
///
/// # Errors
/// What the host would refuse, other than that more keys must sign.
pub fn seal(root: &TrustRoot, binding: &HostBinding, statement: &OpStatement, signers: &Signers) -> Result<Sealed, Failure> {
    let envelope = signers.seal(statement)?.envelope().clone();
    let lacks = lacking(root, binding, &envelope)?;
    Ok(Sealed { envelope, lacks })
}

/// Why an order is not enough yet; `None` when its host would take it.
///
/// # Errors
/// What the host would refuse for good.
pub fn lacking(root: &TrustRoot, binding: &HostBinding, envelope: &Envelope) -> Result<Option<Fault>, Failure> {
    match root.verify_op(Signed::new(envelope.clone())?, binding) {
        Ok(_) => Ok(None),
        Err(fault) if fault.code == Code::ThresholdNotMet => Ok(Some(fault)),
        Err(fault) => Err(fault.into()),
    }
}

/// What an order says, for the person who is asked whether to sign it; with the name of a guest, if the host's report is at hand.
#[must_use]
pub fn words(statement: &OpStatement, class: Class, host: &HostName, observed: Option<&Observed>) -> String {
    if let (Some(vmid), Ok(Act::Guest(op))) = (Vmid::of(&statement.resource), statement.act()) {
        return guest_words::of_order(statement, &op, class, host, meant::find(observed, vmid));
    }
    let on = if statement.resource.is_host() { String::new() } else { format!(" {}", statement.resource) };
    let which = statement.incarnation.as_ref().map(|id| format!(" ({})", short(id))).unwrap_or_default();
    format!("{}{on}{which} on host {host}, class {class}", statement.kind)
}

/// A container's id as people know it.
fn short(id: &str) -> &str {
    if id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()) { id.get(..12).unwrap_or(id) } else { id }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use moorline_common::observe::{ObservedContainer, ObservedVolume, Owner};

    use super::*;
    use crate::cmd::op::OpWait;
    use crate::revision::tests::{host, keys, trust};

    pub(in crate::cmd::op) fn args() -> OrderArgs {
        OrderArgs {
            reason: String::new(),
            key: None,
            expires: None,
            incarnation: None,
            if_state: None,
            if_generation: None,
            save: None,
            wait: OpWait { wait: false, no_wait: false, timeout_wait: std::time::Duration::from_secs(1) },
        }
    }

    #[test]
    fn a_resource_is_named_in_full_in_short_or_by_its_bare_name() {
        let read = |act: &Act, text: &str| resource(act, Some(text)).unwrap().to_string();
        for (text, full) in [
            ("edge-site-1", "docker/container/edge-site-1"),
            ("container/edge-site-1", "docker/container/edge-site-1"),
            ("docker/container/edge-site-1", "docker/container/edge-site-1"),
            ("volume/edge_data", "docker/volume/edge_data"),
            ("network/edge_front", "docker/network/edge_front"),
        ] {
            assert_eq!(read(&Act::Converge(moorline_common::op::Converge::default()), text), full);
        }
        for (text, full) in [
            ("nginx:1.27", "docker/image/nginx:1.27"),
            ("image/nginx:1.27", "docker/image/nginx:1.27"),
            ("registry.example:5000/a/b", "docker/image/registry.example:5000/a/b"),
            ("docker/image/x", "docker/image/x"),
        ] {
            assert_eq!(read(&Act::Pull, text), full);
        }
        assert!(resource(&Act::TimeReset, None).unwrap().is_host());
        assert_eq!(resource(&Act::TimeReset, Some("x")).unwrap_err().exit, 64);
        assert_eq!(resource(&Act::Start, None).unwrap_err().exit, 64);
        let (host, rest) = target("shop-1.example/registry:5000/a").unwrap();
        assert_eq!((host.as_str(), rest), ("shop-1.example", Some("registry:5000/a")));
    }

    fn observed() -> Observed {
        let owner = |resource: &str| {
            Some(Owner {
                topology: "edge".to_owned(),
                resource: ResourceId::parse(resource).unwrap(),
                spec: String::new(),
                base: String::new(),
                adopted: false,
                hidden: None,
            })
        };
        let container =
            ObservedContainer { id: "c".repeat(64), owner: owner("docker/container/edge-site-1"), ..ObservedContainer::default() };
        let volume = ObservedVolume { owner: owner("docker/volume/edge_data"), ..ObservedVolume::default() };
        Observed {
            containers: BTreeMap::from([("edge-site-1".to_owned(), container), ("zzz-foreign".to_owned(), ObservedContainer::default())]),
            volumes: BTreeMap::from([("edge_data".to_owned(), volume), ("foreign".to_owned(), ObservedVolume::default())]),
            ..Observed::default()
        }
    }

    fn pick(act: &Act, on: &str, wanted: Option<&str>, observed: Option<&Observed>) -> Result<Option<String>, Failure> {
        let resource = ResourceId::parse(on).unwrap();
        incarnation(act, &resource, act.class(&resource), wanted, observed)
    }

    #[test]
    fn what_disrupts_a_container_names_the_very_one_that_was_seen() {
        let (observed, kill) = (observed(), Act::Kill { signal: "SIGKILL".to_owned() });
        let (site, id) = ("docker/container/edge-site-1", "c".repeat(64));
        assert_eq!(pick(&kill, site, None, Some(&observed)).unwrap(), Some(id));
        assert_eq!(pick(&kill, site, Some("any"), Some(&observed)).unwrap(), None);
        assert_eq!(pick(&kill, site, Some("x"), None).unwrap(), Some("x".to_owned()));
        assert_eq!(pick(&Act::Start, site, None, Some(&observed)).unwrap(), None);
        assert_eq!(pick(&Act::Destroy { volumes: false }, "docker/volume/edge_data", None, Some(&observed)).unwrap(), None);
        assert!(pick(&kill, site, None, None).unwrap_err().is(Code::NotFound));
    }

    #[test]
    fn an_unknown_name_gets_the_nearest_known_one() {
        let observed = observed();
        for (on, near) in [
            ("docker/container/edge-sit-1", "did you mean `edge-site-1`?"),
            ("docker/container/site", "did you mean `edge-site-1`?"),
            ("docker/container/zzz", "it has edge-site-1"),
        ] {
            let failure = pick(&Act::Start, on, None, Some(&observed)).unwrap_err();
            assert!(failure.is(Code::NotFound) && failure.remedy.contains(near), "{failure:?}");
        }
        let volume = pick(&Act::Destroy { volumes: false }, "docker/volume/edge_dat", None, Some(&observed)).unwrap_err();
        assert!(volume.remedy.contains("edge_data") && !volume.remedy.contains("foreign"), "{volume:?}");
        for (act, on) in [(Act::Start, "docker/container/zzz-foreign"), (Act::Destroy { volumes: false }, "docker/volume/foreign")] {
            assert!(pick(&act, on, None, Some(&observed)).unwrap_err().is(Code::NotOwned), "{on}");
            assert_eq!(pick(&act, on, Some("any"), Some(&observed)).unwrap(), None, "the host judges");
        }
        assert!(pick(&Act::Converge(moorline_common::op::Converge::default()), "docker/container/zzz", None, Some(&observed)).is_ok());
    }

    #[test]
    fn an_order_is_what_its_host_will_take_or_is_not_signed() {
        let (root, view, now) = (trust(), host(10, "a"), UnixSeconds(1_000_000));
        let binding = view.bound().unwrap();
        let order =
            |act: &Act, on: &str, args: &OrderArgs| statement(&root, binding, act, (ResourceId::parse(on).unwrap(), None), args, now);
        let stop = order(&Act::Stop { timeout_s: None }, "docker/container/c", &args()).unwrap();
        assert_eq!((stop.not_before, stop.expires_at, stop.root_version), (UnixSeconds(999_940), UnixSeconds(1_003_600), root.version));
        let destroy = order(&Act::Destroy { volumes: false }, "docker/volume/v", &args()).unwrap();
        assert_eq!(destroy.expires_at, UnixSeconds(1_000_900));
        let named = OrderArgs { key: Some("nightly".to_owned()), if_generation: Some(3), ..args() };
        let named = order(&Act::Start, "docker/container/c", &named).unwrap();
        assert_eq!((named.idempotency_key.as_str(), named.precondition.unwrap().generation.unwrap().0), ("nightly", 3));
        assert!(order(&Act::Start, "docker/volume/v", &args()).unwrap_err().is(Code::UnknownKind));
        assert_ne!(stop.nonce, destroy.nonce);
        let (recovery, operator) = keys();
        let (recovery, operator): (Signers, Signers) = (recovery.into(), operator.into());
        assert!(seal(&root, binding, &stop, &operator).unwrap().lacks.is_none());
        assert!(seal(&root, binding, &stop, &recovery).unwrap_err().is(Code::OutOfScope));
        let mut strict = root.clone();
        strict.class_thresholds.insert(Class::R4, 2);
        let lacks = seal(&strict, binding, &destroy, &operator).unwrap().lacks.unwrap();
        assert!(lacks.message.contains("needs 2 keys, 1 signed"), "{lacks}");
    }
}
