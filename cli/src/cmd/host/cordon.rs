//! `moorctl host cordon`: what is pushed is kept from a host.

use clap::Args;
use moorline_common::id::HostName;
use serde::Serialize;

use crate::cmd::Env;
use crate::error::Failure;
use crate::render::Ui;

/// Arguments of `host cordon`.
#[derive(Debug, Args)]
pub struct CordonArgs {
    /// The host's name
    pub name: String,
    /// Why, for the record
    #[arg(long, default_value = "", value_name = "TEXT", hide_default_value = true)]
    pub reason: String,
}

/// How a host stands after a verb.
#[derive(Serialize)]
pub(super) struct Stands<'a> {
    pub(super) name: &'a HostName,
    pub(super) cordoned: bool,
    /// Containers that were stopped or started.
    pub(super) containers: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// When there is no such host, or the hub refuses it.
pub async fn run(args: CordonArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.name)?;
    let client = env.client(ui).await?;
    let host = client.host(&name).await?;
    client.cordon(&host.host_id, true, &args.reason).await?;
    let stands = Stands { name: &name, cordoned: true, containers: Vec::new() };
    ui.result(&stands, || format!("`{name}` is cordoned: it stays as it is until `moorctl host uncordon {name}`\n"))?;
    Ok(0)
}
