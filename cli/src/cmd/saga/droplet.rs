//! What `saga start` does for droplets besides signing: their token to join by, and the binding of the host that comes of one.

use std::collections::BTreeMap;
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::SagaId;
use moorline_common::saga::{Act, HubAct, NewHost};
use moorline_common::sign::Signed;

use super::follow::new_facts;
use crate::approve;
use crate::client::clouds::ResourceFacts;
use crate::client::sagas::SagaFacts;
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::host::{add, approve as approval};
use crate::error::{Failure, LocalCode};
use crate::home::{Home, Pending};
use crate::limits::{POLL_INTERVAL, TOKEN_TTL_MAX_S};
use crate::render::Ui;
use crate::saga::given::Target;
use crate::saga::joining::{Agent, Joining};
use crate::saga::library::{Definition, Place};
use crate::signers::Signers;

/// What is known of droplets, where a definition is about some.
pub(super) async fn known(client: &Client, definition: &Definition, set: &BTreeMap<String, String>) -> Result<Vec<ResourceFacts>, Failure> {
    if definition.place != Place::Cloud {
        return Ok(Vec::new());
    }
    let cloud = set.get("cloud").map(String::as_str).unwrap_or_default();
    Ok(client.resources(cloud, "droplet", false).await?.0)
}

/// The host that a droplet became when a saga made it.
pub(super) async fn was_host(client: &Client, targets: &[Target], droplets: &[ResourceFacts]) -> Result<Option<NewHost>, Failure> {
    let is_meant = |known: &&ResourceFacts| {
        targets.iter().any(|target| {
            let text = target.to_string();
            text == known.number.to_string() || text == known.name
        })
    };
    let made_by = droplets.iter().find(is_meant).and_then(|known| known.spec.as_ref()).map(|spec| spec.saga_id.clone());
    let Some(saga_id) = made_by.and_then(|id| SagaId::parse(id).ok()) else { return Ok(None) };
    let saga = match client.saga(&saga_id).await {
        Ok(saga) => saga,
        // It ended long ago.
        Err(failure) if failure.is(Code::NotFound) => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let Some(plan) = saga.plan else { return Ok(None) };
    let plan = client.root.verify_plan(Signed::new(plan)?)?.into_statement();
    let joined = plan.tasks().find_map(|(_, _, task)| match &task.act {
        Act::Hub(HubAct::Joined(new)) => Some(new.clone()),
        Act::Host(_) | Act::Hub(_) | Act::Cloud(_) => None,
    });
    Ok(joined)
}

/// How the droplet that a definition makes joins; `None` when it does not, or none is made. A dry run makes no token.
pub(super) async fn joining(
    client: &Client,
    home: &Home,
    (definition, targets): (&Definition, &[Target]),
    set: &BTreeMap<String, String>,
    (ttl, is_dry): (Duration, bool),
) -> Result<Option<Joining>, Failure> {
    if definition.name != "provision-droplet" || set.get("join").is_some_and(|join| join == "no" || join == "false") {
        return Ok(None);
    }
    let [Target { host, guest: None }] = targets else { return Ok(None) };
    let agent = Agent::of(set)?;
    if is_dry {
        return Joining::dry(host.clone(), &agent).map(Some);
    }
    if client.hosts(Some(host)).await?.iter().any(|known| !known.pending) {
        let message = format!("host `{host}` is bound already");
        return Err(Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy("choose another name for the droplet"));
    }
    let token = add::new_token(client, host, ttl.min(Duration::from_secs(TOKEN_TTL_MAX_S)))?;
    let joining = Joining::new(&token, &agent)?;
    let labels = set.iter().filter_map(|(key, value)| Some((key.strip_prefix("label.")?.to_owned(), value.clone())));
    let pending = Pending::new(token.cluster.clone(), token.id.clone(), host.clone(), labels.collect(), token.expires, &token.mac_key());
    home.save_pending(&pending)?;
    client.create_join_token(&token).await.inspect_err(|_| home.forget_pending(&token.id))?;
    Ok(Some(joining))
}

/// Waits until the droplet has joined, and binds the host that it is; or until the saga is over.
pub(super) async fn bind(client: &Client, home: &Home, ui: &mut Ui, joining: &Joining, mut saga: SagaFacts) -> Result<SagaFacts, Failure> {
    let signers = Signers::of(client)?;
    let mut told = Vec::new();
    loop {
        for fact in new_facts(&told, &saga.timeline) {
            ui.note(&format!("{}  {}", clock::rfc3339(fact.at_unix_ms), fact.what));
        }
        told = saga.timeline.clone();
        if saga.is_over() {
            return Ok(saga);
        }
        if let Some(host) = joined(client, joining).await? {
            let pending = approve::check_claim(home, &host, None)?;
            let labels = pending.map(|pending| pending.labels).unwrap_or_default();
            let approved = approval::bind_and_give(client, ui, home, &signers, &host, labels).await?;
            ui.note(&approved.words());
            return Ok(saga);
        }
        tokio::select! {
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            Ok(()) = tokio::signal::ctrl_c() => return Ok(saga),
        }
        saga = match client.saga(&saga.saga_id).await {
            // A hub that restarts is back in seconds.
            Err(failure) if failure.code == LocalCode::HubUnreachable.as_str() => saga,
            now => now?,
        };
    }
}

/// The host that has joined by the token and waits.
async fn joined(client: &Client, joining: &Joining) -> Result<Option<HostView>, Failure> {
    let hosts = match client.hosts(Some(&joining.host)).await {
        Err(failure) if failure.code == LocalCode::HubUnreachable.as_str() => Vec::new(),
        hosts => hosts?,
    };
    let is_it = |host: &HostView| host.pending && host.claim.as_ref().is_some_and(|claim| claim.token_id == joining.token_id);
    Ok(hosts.into_iter().find(is_it))
}
