//! `moorctl host add`: from a name to a bound host.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use moorline_common::enrol::{JoinToken, TokenParts};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostName;
use serde::Serialize;
use zeroize::Zeroizing;

use super::approve::{Approved, bind_and_give};
use super::parse_label;
use crate::approve;
use crate::client::{Client, HostView};
use crate::clock;
use crate::cmd::Env;
use crate::error::{Failure, LocalCode};
use crate::home::{Home, Pending};
use crate::limits::{POLL_INTERVAL, TOKEN_TTL_MAX_S};
use crate::render::Ui;
use crate::signers::Signers;

/// Arguments of `host add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The name that the host will have
    pub name: String,
    /// A label, for selectors and variables; may be repeated
    #[arg(short, long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    pub labels: Vec<(String, String)>,
    /// Print the token and do not wait; approve later with `moorctl host approve`
    #[arg(long)]
    pub no_wait: bool,
    /// How long the token is good for, at most 7d
    #[arg(long, default_value = "1h", value_name = "SPAN", value_parser = clock::parse_span)]
    pub ttl: Duration,
    /// How long to wait for the host
    #[arg(long, default_value = "10m", value_name = "SPAN", value_parser = clock::parse_span)]
    pub timeout: Duration,
}

#[derive(Serialize)]
struct TokenView<'a> {
    name: &'a HostName,
    token_id: &'a str,
    token: &'a str,
    expires: String,
}

/// Runs it. The token is the first line of standard output, alone.
///
/// # Errors
/// When the name is taken, the host does not come in time, or is not the one that was meant.
pub async fn run(args: AddArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    if args.ttl.is_zero() || args.ttl.as_secs() > TOKEN_TTL_MAX_S {
        return Err(Failure::usage("--ttl must be between 1s and 7d", "leave it out for 1h"));
    }
    let client = env.client(ui).await?;
    client.require_signable()?;
    if let Some(host) = client.hosts(Some(&name)).await?.iter().find(|h| !h.pending) {
        let message = format!("host `{}` is bound already (id {})", host.name, host.host_id);
        return Err(Failure::from(Fault::new(Code::AlreadyExists, message)).with_remedy(format!(
            "choose another name; if its agent still has its state folder, `moorctl host approve {name}` is enough; if the machine was made \
             anew, `moorctl host rm {name}` frees the name"
        )));
    }
    // Read before the host is asked to come: a missing key must not show after it has joined.
    let signers = Signers::of(&client)?;
    let labels: BTreeMap<String, String> = args.labels.into_iter().collect();
    let token = new_token(&client, &name, args.ttl)?;
    let pending = Pending::new(token.cluster.clone(), token.id.clone(), name.clone(), labels, token.expires, &token.mac_key());
    env.home.save_pending(&pending)?;
    client.create_join_token(&token).await.inspect_err(|_| env.home.forget_pending(&token.id))?;
    let line = token.encode();
    let expires = clock::rfc3339(token.expires.0.saturating_mul(1000));
    let shown = TokenView { name: &name, token_id: &token.id, token: &line, expires };
    ui.item(&shown, || format!("{}\n", *line))?;
    ui.note(&format!(
        "on the new host, as root: `runuser -u moorline-agent -- moorline-agent join -`, then paste the line above and end with \
         Ctrl-D (good until {})",
        shown.expires
    ));
    if args.no_wait {
        ui.note(&format!("then, on this machine: moorctl host approve {name}"));
        return Ok(0);
    }
    ui.note(&format!("waiting for `{name}` to join …"));
    let host = wait_for_join(&client, &env.home, &token, args.timeout).await?;
    approve::check_claim(&env.home, &host, None)?;
    let approved: Approved = bind_and_give(&client, ui, &env.home, &signers, &host, pending.labels.clone()).await?;
    let words = approved.words();
    ui.note(&words);
    if ui.format != crate::render::Format::Table {
        ui.item(&approved, String::new)?;
    }
    Ok(0)
}

pub(in crate::cmd) fn new_token(client: &Client, name: &HostName, ttl: Duration) -> Result<JoinToken, Failure> {
    let mut id = [0; 16];
    let mut secret = Zeroizing::new([0; 32]);
    for bytes in [id.as_mut_slice(), secret.as_mut_slice()] {
        getrandom::fill(bytes).map_err(|e| Failure::local(format!("the system gives no randomness: {e}")))?;
    }
    // The hub judges the token's life by its own clock.
    let now_s = client.hub_now_ms() / 1000;
    let parts = TokenParts {
        id: hex::encode(id),
        cluster: client.root.cluster.clone(),
        name: name.clone(),
        hubs: client.agent_addresses()?,
        ca_spki: client.context.bundle()?.ca_spki,
        root_pin: client.context.facts.root_pin.clone(),
        expires: moorline_common::id::UnixSeconds(now_s).plus(ttl.as_secs()),
    };
    Ok(JoinToken::new(parts, *secret))
}

/// Looks at the hub until the host that used `token` is there.
async fn wait_for_join(client: &Client, home: &Home, token: &JoinToken, timeout: Duration) -> Result<HostView, Failure> {
    let started = Instant::now();
    loop {
        let over = started.elapsed() >= timeout;
        let hosts = match client.hosts(Some(&token.name)).await {
            // A hub that restarts is back in seconds; the token is durable.
            Err(failure) if !over && failure.code == LocalCode::HubUnreachable.as_str() => Vec::new(),
            answer => answer?,
        };
        let ours = |h: &HostView| h.claim.as_ref().is_some_and(|c| c.token_id == token.id);
        if let Some(host) = hosts.into_iter().find(ours) {
            return Ok(host);
        }
        if over {
            let expired = clock::now() >= token.expires;
            if expired {
                home.forget_pending(&token.id);
            }
            return Err(Failure::new(
                LocalCode::NotConverged,
                format!("host `{}` did not join within {} s", token.name, timeout.as_secs()),
                if expired {
                    "the token has expired: make a new one".to_owned()
                } else {
                    format!("the token stays good; when the host has joined, run `moorctl host approve {}`", token.name)
                },
            ));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
