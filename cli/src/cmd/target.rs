//! `HOST/SERVICE`: which containers are meant.

use std::collections::{BTreeMap, BTreeSet};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, TopologyId};
use moorline_common::observe::Owner;
use moorline_common::plan::lower;
use moorline_common::topology::{HostSpec, nearest};

use super::op::draft;
use crate::client::{Client, HostView};
use crate::error::Failure;
use crate::revision::Previous;

/// What an operator wrote.
pub struct Target<'a> {
    host: HostName,
    what: &'a str,
}

impl<'a> Target<'a> {
    /// Splits `HOST/SERVICE`.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &'a str) -> Result<Self, Failure> {
        match draft::target(text)? {
            (host, Some(what)) => Ok(Self { host, what }),
            (host, None) => {
                Err(Failure::usage(format!("`{text}` does not say what on the host"), format!("write HOST/SERVICE, such as {host}/site")))
            }
        }
    }

    /// The host, and of the containers that it has those that are meant: a service's, or one by its own name.
    ///
    /// # Errors
    /// [`Code::NotFound`] for what it does not have; a usage failure for what means two things.
    pub async fn containers(&self, client: &Client) -> Result<(HostView, Vec<String>), Failure> {
        let host = client.host(&self.host).await?;
        let report = client.report(&host).await?;
        let none = || Fault::new(Code::Waiting, format!("host `{}` has sent no report yet that tells what it has", host.name));
        let statement = report.as_ref().map(|r| r.report.statement()).ok_or_else(none)?;
        let ours: BTreeMap<&str, &Owner> =
            statement.observed.containers.iter().filter_map(|(name, c)| Some((name.as_str(), c.owner.as_ref()?))).collect();
        let mut services = BTreeMap::new();
        if let Some(topology) = &statement.apply.topology {
            let spec = spec_of(client, &host, topology).await?;
            for (name, service) in spec.docker.iter().flat_map(|docker| &docker.services) {
                services.insert(name.clone(), lower::container_names(topology, name, service).collect::<Vec<_>>());
            }
        }
        let found = self.among(&ours, &services)?;
        Ok((host, found))
    }

    /// Those that are meant of the containers that are there, by the services that there are to be with their containers.
    fn among(&self, ours: &BTreeMap<&str, &Owner>, services: &BTreeMap<String, Vec<String>>) -> Result<Vec<String>, Failure> {
        let (host, what) = (&self.host, self.what);
        // One that the newest revision has no more, or has in another number, is there until the host has that.
        let is_numbered = |name: &str, owner: &Owner| {
            name.strip_prefix(&format!("{}-{what}-", owner.topology)).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
        };
        let there = ours.iter().filter(|(name, owner)| is_numbered(name, owner)).map(|(name, _)| *name);
        let named = services.get(what).into_iter().flatten().map(String::as_str).filter(|name| ours.contains_key(name));
        let mut found: BTreeSet<&str> = named.chain(there).collect();
        if let Some((by_name, _)) = ours.get_key_value(what) {
            if found.iter().any(|container| container != by_name) {
                let each = found.iter().map(|c| format!("{host}/{c}")).collect::<Vec<_>>().join(", ");
                let is_of = |containers: &Vec<String>| containers.iter().any(|container| container == by_name);
                let other = services.iter().find(|(_, containers)| is_of(containers)).map_or("?", |(name, _)| name.as_str());
                let message = format!("`{what}` on `{host}` is a service, and the name of a container of another one");
                return Err(Failure::usage(message, format!("for the service name {each}; for the other one {host}/{other}")));
            }
            found.insert(by_name);
        }
        if found.is_empty() { Err(self.unknown(ours, services)) } else { Ok(found.into_iter().map(str::to_owned).collect()) }
    }

    fn unknown(&self, ours: &BTreeMap<&str, &Owner>, services: &BTreeMap<String, Vec<String>>) -> Failure {
        let (host, what) = (&self.host, self.what);
        if services.contains_key(what) {
            let fault = Fault::new(Code::NotFound, format!("host `{host}` shall have service `{what}`, and has no container of it yet"));
            return Failure::from(fault).with_remedy("`moorctl status` tells why");
        }
        let known: Vec<&str> = services.keys().map(String::as_str).chain(ours.keys().copied()).collect();
        let hint = match nearest(what, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "it has nothing of ours yet: `moorctl status`".to_owned(),
            None => format!("it has {}", known.join(", ")),
        };
        Failure::from(Fault::new(Code::NotFound, format!("host `{host}` has no service or container `{what}` of ours"))).with_remedy(hint)
    }
}

async fn spec_of(client: &Client, host: &HostView, topology: &TopologyId) -> Result<HostSpec, Failure> {
    let current = client.current(topology, true).await?;
    let previous = Previous::of(current.as_ref(), std::slice::from_ref(host), &client.root);
    Ok(previous.spec_of(&host.host_id).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use moorline_common::id::ResourceId;

    use super::*;

    #[test]
    fn a_name_is_a_service_or_a_container_and_never_silently_one_of_two() {
        let owner = |name: &str| Owner {
            topology: "edge".to_owned(),
            resource: ResourceId::parse(format!("docker/container/{name}")).unwrap(),
            spec: String::new(),
            base: String::new(),
            adopted: false,
            hidden: None,
        };
        let names = ["db", "edge-db-1", "edge-web-1", "edge-web-2", "edge-web-old-1"];
        let owners = names.map(owner);
        let ours: BTreeMap<&str, &Owner> = names.into_iter().zip(&owners).collect();
        let services: BTreeMap<String, Vec<String>> =
            [("a", vec!["db"]), ("db", vec!["edge-db-1"]), ("web", vec!["edge-web-1"]), ("new", vec!["edge-new-1"])]
                .into_iter()
                .map(|(name, containers)| (name.to_owned(), containers.into_iter().map(str::to_owned).collect()))
                .collect();
        let meant = |text: &str| Target::parse(text).unwrap().among(&ours, &services);
        assert_eq!(meant("h/web").unwrap(), ["edge-web-1", "edge-web-2"], "also what it has no more");
        assert_eq!(meant("h/edge-web-2").unwrap(), ["edge-web-2"]);
        assert_eq!(meant("h/a").unwrap(), ["db"]);
        let two = meant("h/db").unwrap_err();
        assert!(two.message.contains("another one") && two.remedy.contains("h/edge-db-1") && two.remedy.contains("h/a"), "{two:?}");
        assert!(meant("h/wev").unwrap_err().remedy.contains("`web`"));
        assert!(meant("h/new").unwrap_err().message.contains("no container of it yet"));
        assert!(Target::parse("h").is_err());
    }
}
