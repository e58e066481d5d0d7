//! `moorctl host approve`: binds a host that has joined and waits.

use std::collections::BTreeMap;

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, HostName};
use moorline_common::sign::OperatorKey;
use serde::Serialize;

use super::parse_label;
use crate::approve;
use crate::client::{Client, HostView};
use crate::cmd::Env;
use crate::error::Failure;
use crate::home::{Home, Pending};
use crate::render::Ui;

/// Arguments of `host approve`.
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
        format!("bound `{}` ({}): {follows}", self.name, self.fingerprint)
    }
}

/// Runs it. A host that is bound already gets the slices that it lacks.
///
/// # Errors
/// When there is no such host, or its claim cannot be checked or is wrong.
pub async fn run(args: ApproveArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    let client = env.client(ui).await?;
    let key = client.context.operator_key()?;
    let hosts = client.hosts(Some(&name)).await?;
    let extra: BTreeMap<String, String> = args.labels.into_iter().collect();
    let approved = if let Some(bound) = hosts.iter().find(|h| h.bound().is_some()) {
        if !extra.is_empty() {
            let message = format!("host `{name}` is bound already, and its labels with it");
            return Err(Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy("leave --label out"));
        }
        ui.note(&format!("host `{name}` is bound already"));
        give(&client, ui, &key, bound).await?
    } else {
        let (host, pending) = choose(&env.home, &hosts, &name, args.fingerprint.as_deref())?;
        let mut labels = pending.map(|p| p.labels).unwrap_or_default();
        labels.extend(extra);
        bind_and_give(&client, ui, &env.home, &key, host, labels).await?
    };
    ui.result(&approved, || format!("{}\n", approved.words()))?;
    Ok(0)
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
    key: &OperatorKey,
    host: &HostView,
    labels: BTreeMap<String, String>,
) -> Result<Approved, Failure> {
    approve::bind(client, ui, key, host, labels).await?;
    if let Some(claim) = &host.claim {
        home.forget_pending(&claim.token_id);
    }
    let hosts = client.hosts(Some(&host.name)).await?;
    let bound = hosts
        .iter()
        .find(|h| h.host_id == host.host_id)
        .ok_or_else(|| Fault::new(Code::Internal, format!("the hub took the binding of `{}` and does not show the host", host.name)))?;
    give(client, ui, key, bound).await
}

async fn give(client: &Client, ui: &mut Ui, key: &OperatorKey, host: &HostView) -> Result<Approved, Failure> {
    let given = approve::give_slices(client, ui, key, host).await?;
    Ok(Approved {
        name: host.name.clone(),
        host_id: host.host_id.clone(),
        fingerprint: host.claim.as_ref().map(|c| c.claim.fingerprint()).unwrap_or_default(),
        labels: host.bound().map(|b| b.labels.clone()).unwrap_or_default(),
        topology: given.as_ref().map(|(topology, _)| topology.to_string()),
        generation: given.map(|(_, generation)| generation.0),
    })
}
