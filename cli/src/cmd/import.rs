//! `moorctl import`: topology files made of what is there already.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, TopologyId};
use moorline_common::topology::Problem;
use moorline_common::topology::import::{self, Import};
use moorline_common::topology::limits::TOPOLOGY_FILE_MAX;
use serde_json::json;

use crate::cmd::Env;
use crate::error::{Failure, LocalCode};
use crate::home::files;
use crate::inputs::{self, InputArgs, Machine, Named};
use crate::render::Ui;

mod ask;
mod docker;
mod proxmox;

/// What is imported.
#[derive(Debug, Subcommand)]
pub enum ImportVerb {
    /// Make a topology file of Compose files, for one host
    Compose(ComposeArgs),
    /// Make a topology file that takes over what runs on a host, without touching it
    Docker(docker::DockerArgs),
    /// Write the part of a topology file that takes over a host's guests of Proxmox VE, without touching them
    Proxmox(proxmox::ProxmoxArgs),
}

/// Arguments of `import compose`.
#[derive(Debug, Args)]
pub struct ComposeArgs {
    /// Compose files; later ones go on top of earlier ones, as `docker compose -f A -f B` has it
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The host that shall have the services
    #[arg(long, value_name = "NAME")]
    pub host: String,
    /// The topology's name [default: the one in the files, or else that of their folder]
    #[arg(long, value_name = "NAME")]
    pub topology: Option<String>,
    /// The folder on the host that takes the place of the Compose file's, for paths on the host that are relative to it
    #[arg(long, value_name = "DIR")]
    pub bind_root: Option<String>,
    /// Write the topology to a new file [default: to standard output]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// What the topology takes from this machine
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// Runs one of them.
///
/// # Errors
/// `bad_topology` with everything that is in the way, at its place.
pub async fn run(verb: &ImportVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    match verb {
        ImportVerb::Compose(args) => compose(args, ui),
        ImportVerb::Docker(args) => docker::run(args, env, ui).await,
        ImportVerb::Proxmox(args) => proxmox::run(args, env, ui).await,
    }
}

/// Nothing is overwritten.
fn require_new(out: Option<&PathBuf>) -> Result<(), Failure> {
    let Some(out) = out.filter(|out| out.exists()) else { return Ok(()) };
    let fault = Fault::new(Code::AlreadyExists, format!("{} is there already", out.display()));
    Err(Failure::from(fault).with_remedy("name another file with --out, or remove that one"))
}

/// Writes the file, or shows it.
fn give(out: Option<&PathBuf>, text: &str, ui: &mut Ui) -> Result<u8, Failure> {
    let Some(out) = out else {
        ui.result(&json!({ "topology": text }), || text.to_owned())?;
        return Ok(0);
    };
    files::write_new(out, text.as_bytes())?;
    ui.result(&json!({ "file": out }), || format!("wrote {}; look at it, then `moorctl validate -f {}`\n", out.display(), out.display()))?;
    Ok(0)
}

fn compose(args: &ComposeArgs, ui: &mut Ui) -> Result<u8, Failure> {
    let host = HostName::parse(args.host.clone())?;
    let topology = args.topology.clone().map(TopologyId::parse).transpose()?;
    if args.bind_root.as_ref().is_some_and(|root| !root.starts_with('/')) {
        return Err(Failure::usage("--bind-root must be an absolute path on the host", "name one such as `/srv/moorline/shop`"));
    }
    require_new(args.out.as_ref())?;
    let mut texts = Vec::with_capacity(args.files.len());
    for path in &args.files {
        texts.push((path.display().to_string(), read(path)?));
    }
    let folder = args.out.as_deref().map_or(Path::new(""), files::folder_of);
    let (here, there) = (absolute(folder)?, absolute(args.files.first().map_or(Path::new(""), |first| files::folder_of(first)))?);
    let fallback = there.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let import = Import {
        files: &texts,
        host: &host,
        topology: topology.as_ref(),
        fallback: &fallback,
        way: &way(&here, &there),
        bind_root: args.bind_root.as_deref(),
    };
    let environment = |name: &str| std::env::var_os(name);
    let machine = Machine { folder, env_files: &args.inputs.env_file, environment: &environment, named: Named::default() };
    let (imported, _) = machine.gather(|inputs| import::compose(&import, inputs), |imported| &imported.asked)?;
    // The Compose files are named as on the command line, others as seen from here.
    let named = |problem: &Problem| match problem.file.as_deref() {
        Some(file) if texts.iter().any(|(name, _)| name == file) => problem.clone(),
        Some(_) | None => inputs::from_here(problem, folder),
    };
    let what = args.out.as_ref().map_or_else(|| "the topology".to_owned(), |out| out.display().to_string());
    let text = imported.text.map_err(|problems| refusal(&what, &problems.iter().map(named).collect::<Vec<_>>()))?;
    for note in &imported.notes {
        ui.note(&named(note).render_as(&what, "note"));
    }
    give(args.out.as_ref(), &text, ui)
}

fn refusal(what: &str, problems: &[Problem]) -> Failure {
    let count = if problems.len() == 1 { "one thing is".to_owned() } else { format!("{} things are", problems.len()) };
    let has_relative = problems.iter().any(|p| p.message.contains("is a relative path on the host"));
    let or = if has_relative { "; `--bind-root DIR` gives relative paths on the host a place" } else { "" };
    let details = problems.iter().flat_map(|p| p.render(what).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let message = format!("{count} in the way of importing; nothing was written");
    let remedy = format!("change the lines above, in the Compose file or a copy, and import again{or}");
    Failure::new(LocalCode::BadTopology, message, remedy).with_details(details)
}

fn read(path: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let failed = |e| Failure::file("read", path, &e).with_remedy("check the path of the Compose file");
    let limit = u64::try_from(TOPOLOGY_FILE_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > TOPOLOGY_FILE_MAX {
        let message = format!("{} is larger than {} MiB", path.display(), TOPOLOGY_FILE_MAX / (1024 * 1024));
        return Err(Failure::new(LocalCode::BadTopology, message, "split it"));
    }
    let wrong = |_| Failure::new(LocalCode::BadTopology, format!("{} is not UTF-8", path.display()), "save the file as UTF-8");
    String::from_utf8(bytes).map_err(wrong)
}

fn absolute(folder: &Path) -> Result<PathBuf, Failure> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    folder.canonicalize().map_err(|e| Failure::file("find the folder", folder, &e))
}

/// The way from one folder to another, both absolute; empty when they are the same.
fn way(from: &Path, to: &Path) -> String {
    let same = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(same).map(|_| "..".to_owned());
    let down = to.components().skip(same).map(|part| part.as_os_str().to_string_lossy().into_owned());
    up.chain(down).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_between_folders_is_relative() {
        for (from, to, expected) in
            [("/a/b", "/a/b", ""), ("/a", "/a/b/c", "b/c"), ("/a/b", "/a", ".."), ("/a/b/c", "/a/d", "../../d"), ("/", "/x", "x")]
        {
            assert_eq!(way(Path::new(from), Path::new(to)), expected, "{from} {to}");
        }
    }
}
