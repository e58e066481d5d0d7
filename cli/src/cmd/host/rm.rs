//! `moorctl host rm`: forgets a host, so that its name is free for another machine.

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, HostName};
use serde::Serialize;

use crate::client::HostView;
use crate::cmd::Env;
use crate::error::Failure;
use crate::render::Ui;
use crate::revision::empty_hash;

/// Arguments of `host rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The host's name
    pub name: String,
}

#[derive(Serialize)]
struct Removed<'a> {
    name: &'a HostName,
    /// The bound host of that name, and those that had joined under it and waited.
    host_ids: Vec<&'a HostId>,
}

/// Runs it.
///
/// # Errors
/// When there is no such host, or the answer is no.
pub async fn run(args: RmArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    let client = env.client(ui).await?;
    let hosts = client.hosts(Some(&name)).await?;
    if hosts.is_empty() {
        return Err(Fault::new(Code::NotFound, format!("there is no host `{name}`")).into());
    }
    ui.confirm(&question(&name, &hosts)?)?;
    for host in &hosts {
        client.remove_host(&host.host_id).await.map_err(|f| f.while_doing(format_args!("removing host `{name}` ({})", host.host_id)))?;
        if let Some(claim) = &host.claim {
            env.home.forget_pending(&claim.token_id);
        }
    }
    let removed = Removed { name: &name, host_ids: hosts.iter().map(|h| &h.host_id).collect() };
    ui.result(&removed, || format!("removed `{name}`; the name is free: moorctl host add {name}\n"))?;
    Ok(0)
}

fn question(name: &HostName, hosts: &[HostView]) -> Result<String, Failure> {
    let shown: Vec<String> = hosts
        .iter()
        .map(|h| format!("{}, {}, {}", h.enrolment().as_str(), h.fingerprint(), if h.connected { "connected" } else { "offline" }))
        .collect();
    let mut text =
        format!("Remove host `{name}` ({})? The hub forgets it and lets it in no more; what runs on it stays.", shown.join("; "));
    let empty = empty_hash()?;
    for target in hosts.iter().filter_map(|h| h.target.as_ref()).filter(|t| t.hash.as_ref() != Some(&empty)) {
        text.push_str(&format!(
            " Topology `{}` generation {} has a slice for it: if the file still names it, the next host of this name gets one.",
            target.topology, target.generation
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::facts::TargetFacts;
    use crate::revision::tests::host;
    use moorline_common::id::{Generation, TopologyId};

    #[test]
    fn the_question_says_which_host_goes_and_what_is_meant_for_it() {
        let mut view = host(10, "shop-17");
        let name = view.name.clone();
        let plain = question(&name, std::slice::from_ref(&view)).unwrap();
        assert!(plain.contains("bound") && plain.contains(&view.fingerprint()) && !plain.contains("Topology"), "{plain}");
        let edge = TopologyId::parse("edge").unwrap();
        view.target = Some(TargetFacts { topology: edge.clone(), generation: Generation(3), hash: None });
        assert!(question(&name, std::slice::from_ref(&view)).unwrap().contains("Topology `edge` generation 3"));
        view.target = Some(TargetFacts { topology: edge, generation: Generation(4), hash: Some(empty_hash().unwrap()) });
        assert!(!question(&name, &[view]).unwrap().contains("Topology"), "it is torn down");
    }
}
