//! `moorctl import docker`: what runs on a host, as a topology file that takes it over.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, TopologyId};
use moorline_common::survey::Survey;
use moorline_common::topology::adopt::{AdoptError, Adoption, adopt};

use super::ask::{ask, require_answer};
use super::{give, refusal, require_new};
use crate::cmd::Env;
use crate::cmd::op::OrderArgs;
use crate::error::{Failure, LocalCode};
use crate::render::Ui;

/// Arguments of `import docker`.
#[derive(Debug, Args)]
pub struct DockerArgs {
    /// The host to look at
    #[arg(long, value_name = "NAME")]
    pub host: String,
    /// The topology's name [default: that of the Compose project, when all are of one]
    #[arg(long, value_name = "NAME")]
    pub topology: Option<String>,
    /// Only these containers, by their names; may be given several times [default: all that run]
    #[arg(long, value_name = "CONTAINER", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Only the containers of these Compose projects; may be given several times
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub project: Vec<String>,
    /// Write the topology to a new file [default: to standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// How the host is asked
    #[command(flatten)]
    pub order: OrderArgs,
}

pub(super) async fn run(args: &DockerArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let name = HostName::parse(args.host.clone())?;
    let topology = args.topology.clone().map(TopologyId::parse).transpose()?;
    require_new(args.out.as_ref())?;
    require_answer(&args.order, "docker")?;
    let client = env.client(ui).await?;
    let host = client.host(&name).await?;
    let survey = ask(&client, ui, &host, None, &args.order).await?;
    let (only, projects): (BTreeSet<String>, BTreeSet<String>) =
        (args.only.iter().cloned().collect(), args.project.iter().cloned().collect());
    let adoption = Adoption { host: &name, topology: topology.as_ref(), survey: &survey, only: &only, projects: &projects };
    let adopted = adopt(&adoption).map_err(|error| failure(&error, &survey))?;
    for note in &adopted.notes {
        ui.note(note);
    }
    let containers = if adopted.containers == 1 { "one container".to_owned() } else { format!("{} containers", adopted.containers) };
    ui.note(&format!(
        "{containers} of {name} can be taken over. The host's policy file must give them away; then push the file: nothing is touched.
  outside = {}",
        serde_json::to_string(&adopted.outside).unwrap_or_default()
    ));
    give(args.out.as_ref(), &adopted.text, ui)
}

fn failure(error: &AdoptError, survey: &Survey) -> Failure {
    let message = error.to_string();
    match error {
        AdoptError::LeftOut { .. } => Failure::local(message).with_remedy("leave it out of --only, or mend it on the host"),
        AdoptError::NoContainer(_) | AdoptError::NoProject(_) => {
            let known: Vec<&str> = survey.containers.keys().map(String::as_str).collect();
            let there = if known.is_empty() { "there is none".to_owned() } else { format!("there are {}", known.join(", ")) };
            Failure::from(Fault::new(Code::NotFound, message)).with_remedy(there)
        }
        AdoptError::Nothing => Failure::from(Fault::new(Code::NotFound, message)).with_remedy("nothing is to be taken over"),
        AdoptError::NoName => Failure::usage(message, "name it with --topology NAME, or choose one project with --project"),
        AdoptError::Bad(problems) => {
            let refused = refusal("the topology", problems);
            Failure { code: LocalCode::BadTopology.as_str(), ..refused }.with_remedy("leave the container out: name the others with --only")
        }
    }
}
