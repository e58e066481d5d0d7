//! What a droplet is to the simulated cloud: a machine of its own in a folder of its own. It does what its first boot is told (the
//! `write_files` and `runcmd` of cloud-init), with the programs of this machine and stand-ins for those that change it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// The folder in which each droplet has its own.
const DROPLETS: &str = "MOORLINE_DROPLETS";
/// Stand-ins for programs that would change this machine, by their names.
const STAND_INS: [(&str, &str); 8] = [
    ("id", "exit 0"),
    ("useradd", "exit 0"),
    ("usermod", "exit 0"),
    ("chown", "exit 0"),
    ("getent", "exit 2"),
    // runuser -u USER -- PROGRAM …
    ("runuser", "shift 3; exec \"$@\""),
    ("sed", "exit 0"),
    // What `enable --now` starts lives as long as the droplet is on.
    (
        "systemctl",
        "[ \"$1\" = enable ] || exit 0\n\
         \"$MOORLINE_ROOT/usr/bin/moorline-agent\" --config \"$MOORLINE_ROOT/etc/moorline/agent.toml\" \
         --state \"$MOORLINE_ROOT/var/lib/moorline-agent\" run &",
    ),
];

#[derive(Deserialize)]
struct CloudConfig {
    #[serde(default)]
    write_files: Vec<File>,
    #[serde(default)]
    runcmd: Vec<Vec<String>>,
}

#[derive(Deserialize)]
struct File {
    path: String,
    permissions: String,
    content: String,
}

fn main() -> Result<()> {
    let var = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let (id, boot) = (var("DROPLET_ID")?, var("DROPLET_BOOT")?);
    let root = PathBuf::from(var(DROPLETS)?).join(&id);
    let mut told = String::new();
    std::io::stdin().read_to_string(&mut told)?;
    let programs = root.join("stand-ins");
    if boot == "1" {
        for (name, script) in STAND_INS {
            write(&programs.join(name), &format!("#!/bin/sh\n{script}\n"), 0o755)?;
        }
        first_boot(&root, &programs, &told)?;
    } else {
        run(&root, &programs, &["systemctl".to_owned(), "enable".to_owned()])?;
    }
    // It is on until somebody switches it off.
    loop {
        std::thread::park();
    }
}

fn first_boot(root: &Path, programs: &Path, told: &str) -> Result<()> {
    let Some(text) = told.strip_prefix("#cloud-config\n") else { return Ok(()) };
    let config: CloudConfig = serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("the first boot is told no YAML: {error}"))?;
    for File { path, permissions, content } in &config.write_files {
        let mode = u32::from_str_radix(permissions, 8).context("permissions are octal")?;
        write(&root.join(path.trim_start_matches('/')), content, mode)?;
    }
    config.runcmd.iter().try_for_each(|line| {
        let inside = |word: &String| if word.starts_with("/run/") { format!("{}{word}", root.display()) } else { word.clone() };
        run(root, programs, &line.iter().map(inside).collect::<Vec<_>>())
    })
}

fn write(path: &Path, content: &str, mode: u32) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, content).with_context(|| format!("writing {}", path.display()))?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
}

fn run(root: &Path, programs: &Path, line: &[String]) -> Result<()> {
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let env = BTreeMap::from([("MOORLINE_ROOT", root.display().to_string()), ("PATH", path)]);
    let Some((program, args)) = line.split_first() else { return Ok(()) };
    // Found by the path of the droplet, not by ours.
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "exec \"$@\"", "sh", program]).args(args).envs(env);
    let status = command.status().with_context(|| format!("running {program}"))?;
    if !status.success() {
        bail!("{program} ended with {status}");
    }
    Ok(())
}
