//! `moorctl import proxmox`: the guests of a host, as the part of a topology file that takes them over.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, TopologyId};
use moorline_common::pve::Vmid;
use moorline_common::survey::Survey;
use moorline_common::topology::adopt::guests::{AdoptError, Adoption, adopt};
use serde_json::json;

use super::ask::{ask, require_answer};
use super::{give, refusal, require_new};
use crate::cmd::Env;
use crate::cmd::op::OrderArgs;
use crate::error::{Failure, LocalCode};
use crate::home::files;
use crate::render::{Ui, visible};

/// Arguments of `import proxmox`.
#[derive(Debug, Args)]
pub struct ProxmoxArgs {
    /// The host to look at
    #[arg(long, value_name = "NAME")]
    pub host: String,
    /// Write a whole file for a topology of this name [default: only the host's part, for a file that is there]
    #[arg(long, value_name = "NAME")]
    pub topology: Option<String>,
    /// Only these guests, by their numbers; may be given several times [default: all]
    #[arg(long, value_name = "VMID", value_delimiter = ',')]
    pub vmid: Vec<String>,
    /// Write it to a new file [default: to standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How the host is asked
    #[command(flatten)]
    pub order: OrderArgs,
}

pub(super) async fn run(args: &ProxmoxArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.host.clone())?;
    let topology = args.topology.clone().map(TopologyId::parse).transpose()?;
    let only = args.vmid.iter().map(|text| Vmid::parse(text)).collect::<Result<BTreeSet<Vmid>, _>>();
    let only = only.map_err(|wrong| Failure::usage(wrong.to_string(), "name a guest by its number, such as --vmid 101"))?;
    require_new(args.out.as_ref())?;
    require_answer(&args.order, "proxmox")?;
    let client = env.client(ui).await?;
    let host = client.host(&name).await?;
    let survey = ask(&client, ui, &host, Some(only.clone()), &args.order).await?;
    let Survey { guests, left_out, .. } = &survey;
    let adopted = adopt(&Adoption { host: &name, topology: topology.as_ref(), guests, left_out, only: &only });
    let adopted = adopted.map_err(|error| failure(&error, &survey))?;
    let count = |n: usize| if n == 1 { "one guest".to_owned() } else { format!("{n} guests") };
    ui.note(&format!("{} of {name} can be taken over; pushing that touches nothing of them", count(adopted.guests)));
    if adopted.left_out > 0 {
        ui.note(&format!("{} left out: the comments at the top say why", count(adopted.left_out)));
    }
    if topology.is_some() {
        return give(args.out.as_ref(), &adopted.text, ui);
    }
    let Some(out) = &args.out else {
        ui.result(&json!({ "part": adopted.text }), || adopted.text.clone())?;
        return Ok(0);
    };
    files::write_new(out, adopted.text.as_bytes())?;
    let shown = out.display();
    ui.result(&json!({ "file": out }), || format!("wrote {shown}; put it into the topology file that {name} follows, under `hosts`\n"))?;
    Ok(0)
}

fn failure(error: &AdoptError, survey: &Survey) -> Failure {
    let message = visible(&error.to_string());
    match error {
        AdoptError::LeftOut { .. } => Failure::local(message).with_remedy("leave it out of --vmid, or mend that on the host"),
        AdoptError::NoGuest(_) => {
            let known: Vec<String> = survey.guests.keys().map(Vmid::to_string).collect();
            let there = match known.as_slice() {
                [] => "without --vmid all that are there are told of".to_owned(),
                known => format!("of those that are named there are {}", known.join(", ")),
            };
            Failure::from(Fault::new(Code::NotFound, message)).with_remedy(there)
        }
        AdoptError::Nothing(why) => Failure::from(Fault::new(Code::NotFound, message))
            .with_remedy("nothing is to be taken over")
            .with_details(why.iter().map(|words| visible(words)).collect()),
        AdoptError::Bad(problems) => {
            let refused = refusal("the topology", problems);
            Failure { code: LocalCode::BadTopology.as_str(), ..refused }.with_remedy("leave the guest out: name the others with --vmid")
        }
    }
}
