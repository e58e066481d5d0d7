//! What a definition is given: guests as their hosts report them, and inputs.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use moorline_common::fault::Code;
use moorline_common::id::{HostName, SagaId};
use moorline_common::observe::{GuestStatus, Observed, ObservedGuest};
use moorline_common::op::{Act, GuestOp};
use moorline_common::pve::Vmid;
use moorline_common::saga::NewHost;
use moorline_common::statement::HostBinding;

use super::draft::{Draft, OnHost};
use super::joining::Joining;
use super::push::Pushed;
use crate::client::clouds::ResourceFacts;
use crate::cmd::op::draft as order;
use crate::cmd::op::guest::meant::{self, Named};
use crate::error::Failure;

/// What is verified of a host.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its binding.
    pub binding: HostBinding,
    /// What it reported, if it did.
    pub observed: Option<Observed>,
}

/// Hosts by their names.
pub type Hosts = BTreeMap<HostName, Known>;

/// What was said on the command line after the definition's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: HostName,
    /// What on it.
    pub guest: Option<Named>,
}

impl Target {
    /// Reads `HOST`, `HOST/VMID` or `HOST/guest/NAME`.
    ///
    /// # Errors
    /// A usage failure.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let (host, rest) = order::target(text)?;
        let Some(rest) = rest else { return Ok(Self { host, guest: None }) };
        match meant::named(rest)? {
            Some(guest) => Ok(Self { host, guest: Some(guest) }),
            None => Err(Failure::usage(
                format!("`{text}` is no guest"),
                "write HOST and the guest's number or name, such as pve-1/101 or pve-1/guest/db",
            )),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.guest {
            None => write!(f, "{}", self.host),
            Some(Named::Number(vmid)) => write!(f, "{}/{vmid}", self.host),
            Some(Named::Name(name)) => write!(f, "{}/guest/{name}", self.host),
        }
    }
}

/// See the module.
pub struct Given<'a> {
    /// The saga.
    pub saga_id: &'a SagaId,
    /// What is verified of the hosts.
    pub hosts: &'a Hosts,
    /// What it is about.
    pub targets: &'a [Target],
    /// Inputs by their names.
    pub set: &'a BTreeMap<String, String>,
    /// The revisions that it may push.
    pub pushed: Option<&'a Pushed>,
    /// What the hub knows of droplets.
    pub droplets: &'a [ResourceFacts],
    /// The host that the droplet became when a saga made it.
    pub was_host: Option<&'a NewHost>,
    /// How a droplet that it makes joins as a host.
    pub joining: Option<&'a Joining>,
    asked: RefCell<BTreeSet<String>>,
}

/// A guest that a definition is about.
pub struct Guest<'a> {
    /// What names it in an order.
    pub on: OnHost,
    /// Its number.
    pub vmid: Vmid,
    /// As its host reported it; `None` for one that is not there yet.
    pub seen: Option<&'a ObservedGuest>,
}

impl Guest<'_> {
    /// Whether it runs, by the report.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.seen.is_some_and(|guest| guest.status != GuestStatus::Stopped)
    }
}

impl<'a> Given<'a> {
    /// What was given.
    #[must_use]
    pub const fn new(saga_id: &'a SagaId, hosts: &'a Hosts, targets: &'a [Target], set: &'a BTreeMap<String, String>) -> Self {
        Self {
            saga_id,
            hosts,
            targets,
            set,
            pushed: None,
            droplets: &[],
            was_host: None,
            joining: None,
            asked: RefCell::new(BTreeSet::new()),
        }
    }

    /// What the first boots of its droplets are told.
    #[must_use]
    pub fn boots(&self) -> Vec<String> {
        self.joining.map(|joining| joining.boot.clone()).into_iter().collect()
    }

    /// An input, if it was given.
    #[must_use]
    pub fn input(&self, key: &str) -> Option<&'a str> {
        self.asked.borrow_mut().insert(key.to_owned());
        self.set.get(key).map(String::as_str)
    }

    /// An input that there must be.
    ///
    /// # Errors
    /// A usage failure.
    pub fn required(&self, key: &str) -> Result<&'a str, Failure> {
        self.input(key).ok_or_else(|| Failure::usage(format!("the input `{key}` is missing"), format!("say `--set {key}=…`")))
    }

    /// An input that is a number of seconds, or a span such as `10m`.
    ///
    /// # Errors
    /// A usage failure.
    pub fn span_s(&self, key: &str, default_s: u64) -> Result<u64, Failure> {
        let Some(text) = self.input(key) else { return Ok(default_s) };
        let span =
            crate::clock::parse_span(text).map_err(|why| Failure::usage(format!("the input `{key}`: {why}"), "such as 90s or 10m"))?;
        Ok(span.as_secs())
    }

    /// An input that is yes or no.
    ///
    /// # Errors
    /// A usage failure.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, Failure> {
        match self.input(key) {
            None => Ok(default),
            Some("yes" | "true") => Ok(true),
            Some("no" | "false") => Ok(false),
            Some(_) => Err(Failure::usage(format!("the input `{key}` is yes or no"), format!("say `--set {key}=yes`"))),
        }
    }

    /// Inputs whose names begin so, without that beginning.
    #[must_use]
    pub fn inputs_below(&self, prefix: &str) -> BTreeMap<String, String> {
        let mut below = BTreeMap::new();
        for (key, value) in self.set {
            if let Some(rest) = key.strip_prefix(prefix).filter(|rest| !rest.is_empty()) {
                self.asked.borrow_mut().insert(key.clone());
                below.insert(rest.to_owned(), value.clone());
            }
        }
        below
    }

    /// Refuses inputs that nothing asked for.
    ///
    /// # Errors
    /// A usage failure with the nearest one that is known.
    pub fn all_asked(&self) -> Result<(), Failure> {
        let asked = self.asked.borrow();
        let Some(strange) = self.set.keys().find(|key| !asked.contains(*key)) else { return Ok(()) };
        let near = moorline_common::topology::nearest(strange, asked.iter().map(String::as_str));
        let known: Vec<&str> = asked.iter().map(String::as_str).collect();
        let remedy = match near {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "it takes no inputs".to_owned(),
            None => format!("it takes {}", known.join(", ")),
        };
        Err(Failure::usage(format!("there is no input `{strange}`"), remedy))
    }

    /// The revisions that it pushes.
    ///
    /// # Errors
    /// A usage failure when no file was named.
    pub fn revision(&self) -> Result<&'a Pushed, Failure> {
        self.pushed.ok_or_else(|| Failure::usage("it pushes a revision", "name the topology file with --topology FILE"))
    }

    /// What is verified of a host.
    ///
    /// # Errors
    /// When it was not looked at.
    pub fn host(&self, name: &HostName) -> Result<&'a Known, Failure> {
        self.hosts.get(name).ok_or_else(|| Failure::local(format!("host {name} was not looked at")))
    }

    /// The guests that it is about, all of them there.
    ///
    /// # Errors
    /// When there is none, or one is not there or not ours.
    pub fn guests(&self) -> Result<Vec<Guest<'a>>, Failure> {
        if self.targets.is_empty() {
            return Err(Failure::usage("no guest is named", "name at least one, such as pve-1/101"));
        }
        let guests = self.targets.iter().map(|target| self.guest(target)).collect::<Result<Vec<_>, _>>()?;
        let mut met = BTreeSet::new();
        match guests.iter().find(|guest| !met.insert((guest.on.host.clone(), guest.vmid))) {
            Some(twice) => Err(Failure::usage(format!("guest {} of host {} is named twice", twice.vmid, twice.on.host), "name it once")),
            None => Ok(guests),
        }
    }

    fn guest(&self, target: &Target) -> Result<Guest<'a>, Failure> {
        let observed = self.host(&target.host)?.observed.as_ref();
        let vmid = match &target.guest {
            Some(Named::Number(vmid)) => *vmid,
            Some(Named::Name(name)) => meant::by_name(name, observed)?,
            None => return Err(no_guest(&target.host)),
        };
        let Some(seen) = meant::find(observed, vmid) else {
            return Err(meant::missing(vmid, observed, ""));
        };
        meant::require_ours(vmid, seen)?;
        Ok(Guest { on: on(&target.host, vmid), vmid, seen: Some(seen) })
    }

    /// The one guest that is to be made.
    ///
    /// # Errors
    /// When its number is not said, or is taken.
    pub fn new_guest(&self) -> Result<Guest<'a>, Failure> {
        let [target] = self.targets else {
            return Err(Failure::usage("it makes one guest", "name its host and number, such as pve-1/205"));
        };
        let Some(Named::Number(vmid)) = &target.guest else { return Err(no_guest(&target.host)) };
        let observed = self.host(&target.host)?.observed.as_ref();
        Ok(Guest { on: on(&target.host, *vmid), vmid: *vmid, seen: meant::find(observed, *vmid) })
    }

    /// Says for each operation which one is meant of those that have borne its resource's name.
    ///
    /// # Errors
    /// As [`order::incarnation`]; a host that was not looked at.
    pub fn aim(&self, draft: &mut Draft) -> Result<(), Failure> {
        for on in draft.on_hosts_mut() {
            let observed = self.host(&on.host)?.observed.as_ref();
            on.incarnation = incarnation(on, observed)?;
        }
        Ok(())
    }
}

/// Which one is meant of those that have borne the resource's name. What a step makes is not there yet; where it is, that one is
/// meant unless the step makes another one of it.
///
/// # Errors
/// As [`order::incarnation`].
pub fn incarnation(on: &OnHost, observed: Option<&Observed>) -> Result<Option<String>, Failure> {
    let found = order::incarnation(&on.act, &on.resource, on.act.class(&on.resource), None, observed);
    match found {
        Err(failure) if on.made_by.is_some() && failure.is(Code::NotFound) => Ok(None),
        found => found,
    }
}

fn on(host: &HostName, vmid: Vmid) -> OnHost {
    let act = Act::Guest(GuestOp::SnapshotList);
    OnHost { host: host.clone(), resource: vmid.resource(), act, incarnation: None, made_by: None }
}

fn no_guest(host: &HostName) -> Failure {
    Failure::usage("it is about guests", format!("name one by its number behind its host, such as {host}/101"))
}
