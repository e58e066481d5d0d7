//! `moorctl host approve`: binds a host that has joined and waits.

use std::collections::BTreeMap;

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, HostName};
use serde::Serialize;

use super::parse_label;
use crate::approve;
use crate::client::{Client, HostView};
use crate::cmd::Env;
use crate::error::Failure;
use crate::home::{Home, Pending};
use crate::render::Ui;
use crate::signers::Signers;

/// Arguments of `host approve`; also for a host that the hub has locked.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The host's name
    pub name: String,
    /// The fingerprint that `moorline-agent status` shows on the host; needed when the token was made elsewhere
    #[arg(long, value_name = "FINGERPRINT")]
    pub fingerprint: Option<String>,
    /// A label, besides those given to `host add`; may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
}

/// A host that was bound.
#[derive(Debug, Serialize)]
pub struct Approved {
    name: HostName,
    host_id: HostId,
    fingerprint: String,
    labels: BTreeMap<String, String>,
    /// Whether the hub had locked it, which the new binding ended.
    unlocked: bool,
    /// The topology whose slice it got.
    topology: Option<String>,
    generation: Option<u64>,
}

impl Approved {
    /// The same for people.
    #[must_use]
    pub fn words(&self) -> String {
        let follows = match (&self.topology, self.generation) {
            (Some(topology), Some(generation)) => format!("it gets `{topology}` generation {generation}"),
            (None, _) | (_, None) => "no topology names it yet".to_owned(),
        };
        let done = if self.unlocked { "unlocked and bound anew" } else { "bound" };
        format!("{done} `{}` ({}): {follows}", self.name, self.fingerprint)
    }
}

/// Runs it. A host that is bound already gets the slices that it lacks, and is unlocked if the hub had locked it.
///
/// # Errors
/// When there is no such host, or its claim cannot be checked or is wrong.
pub async fn run(args: ApproveArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    let client = env.client(ui).await?;
    let signers = Signers::of(&client)?;
    let hosts = client.hosts(Some(&name)).await?;
    let extra: BTreeMap<String, String> = args.labels.into_iter().collect();
    let approved = if let Some(bound) = hosts.iter().find(|h| h.bound().is_some()) {
        if !extra.is_empty() {
            let message = format!("host `{name}` is bound already, and its labels with it");
            return Err(Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy("leave --label out"));
        }
        match (bound.bound().filter(|_| bound.locked), new_life(bound)) {
            (Some(held), _) => {
                approve::check_locked(&env.home, bound, held, args.fingerprint.as_deref())?;
                approve::unlock(&client, ui, &signers, bound, held).await?;
                ui.warn("two machines used this host's identity: a copy that still runs locks it again when it renews its certificate");
                Approved { unlocked: true, ..give_newest(&client, ui, &signers, bound).await? }
            }
            (None, Some(labels)) => {
                ui.note(&format!("host `{name}` has begun a new life, as it does when its records were damaged: binding it again"));
                bind_and_give(&client, ui, &env.home, &signers, bound, labels).await?
            }
            (None, None) => {
                ui.note(&format!("host `{name}` is bound already"));
                give(&client, ui, &signers, bound).await?
            }
        }
    } else {
        let (host, pending) = choose(&env.home, &hosts, &name, args.fingerprint.as_deref())?;
        let mut labels = pending.map(|p| p.labels).unwrap_or_default();
        labels.extend(extra);
        bind_and_give(&client, ui, &env.home, &signers, host, labels).await?
    };
    ui.result(&approved, || format!("{}\n", approved.words()))?;
    Ok(0)
}

/// The labels of a bound host that says, with the very keys of its binding, that it is in another epoch.
fn new_life(host: &HostView) -> Option<BTreeMap<String, String>> {
    let (binding, claim) = (host.bound()?, &host.claim.as_ref()?.claim);
    let same_host = claim.host_key == binding.host_key && claim.sealing_key == binding.sealing_key;
    (same_host && claim.host_epoch != binding.host_epoch).then(|| binding.labels.clone())
}

/// The pending host whose claim stands. Several may bear one name: stolen or repeated tokens.
fn choose<'h>(
    home: &Home,
    hosts: &'h [HostView],
    name: &HostName,
    fingerprint: Option<&str>,
) -> Result<(&'h HostView, Option<Pending>), Failure> {
    let mut refusal = Failure::from(Fault::new(Code::NotFound, format!("no host has joined as `{name}`")))
        .with_remedy("make a token with `moorctl host add`, and join with it on the host");
    for host in hosts.iter().filter(|h| h.pending) {
        match approve::check_claim(home, host, fingerprint) {
            Ok(pending) => return Ok((host, pending)),
            Err(failure) => refusal = failure,
        }
    }
    Err(refusal)
}

/// Binds a host whose claim was checked, forgets its token and gives it its slices.
///
/// # Errors
/// When the binding or a slice is refused.
pub async fn bind_and_give(
    client: &Client,
    ui: &mut Ui,
    home: &Home,
    signers: &Signers,
    host: &HostView,
    labels: BTreeMap<String, String>,
) -> Result<Approved, Failure> {
    approve::bind(client, ui, signers, host, labels).await?;
    if let Some(claim) = &host.claim {
        home.forget_pending(&claim.token_id);
    }
    give_newest(client, ui, signers, host).await
}

/// Gives a host that was just bound its slices, by the binding that the hub shows now.
async fn give_newest(client: &Client, ui: &mut Ui, signers: &Signers, host: &HostView) -> Result<Approved, Failure> {
    let hosts = client.hosts(Some(&host.name)).await?;
    let bound = hosts
        .iter()
        .find(|h| h.host_id == host.host_id)
        .ok_or_else(|| Fault::new(Code::Internal, format!("the hub took the binding of `{}` and does not show the host", host.name)))?;
    give(client, ui, signers, bound).await
}

async fn give(client: &Client, ui: &mut Ui, signers: &Signers, host: &HostView) -> Result<Approved, Failure> {
    let given = approve::give_slices(client, ui, signers, host).await?;
    Ok(Approved {
        name: host.name.clone(),
        host_id: host.host_id.clone(),
        fingerprint: host.fingerprint(),
        labels: host.bound().map(|b| b.labels.clone()).unwrap_or_default(),
        unlocked: false,
        topology: given.as_ref().map(|(topology, _)| topology.to_string()),
        generation: given.map(|(_, generation)| generation.0),
    })
}
