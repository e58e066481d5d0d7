//! What the tests need besides Rust: a Docker Engine, a static busybox, strace, faketime, docker-registry, docker-compose, Python with grpcio and proxmoxer. On Debian as root it is
//! installed; elsewhere it is asked for.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::cmd::{find, run, say, succeeds, target};

const SOCKET: &str = "/var/run/docker.sock";
const DOCKERD_START: Duration = Duration::from_secs(60);
const DOCKERD_STOP: Duration = Duration::from_secs(30);
const PYTHON_PACKAGES: [&str; 5] = ["grpcio", "grpcio-reflection", "grpcio-health-checking", "proxmoxer", "requests"];
/// What they are to Python.
const PYTHON_MODULES: &str = "import grpc, grpc_reflection, grpc_health, proxmoxer, requests";

/// The official descriptions of APIs, which are not ours to bring along: the variables that name them, and what they are called in a folder
/// `reference`.
pub const SCHEMAS: [(&str, &str); 2] = [("MOORLINE_PVE_SCHEMA", "pve-apidoc.json"), ("MOORLINE_DO_SCHEMA", "do-openapi.json")];

/// A `dockerd` that we started; it is stopped, by its id, when this goes.
pub struct Dockerd(Option<Child>);

impl Drop for Dockerd {
    fn drop(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        say("\nstopping the dockerd that was started for the tests\n");
        if let Ok(id) = i32::try_from(child.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let end = Instant::now() + DOCKERD_STOP;
        while Instant::now() < end {
            if child.try_wait().is_ok_and(|s| s.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// One of [`SCHEMAS`], where there is one: by the environment, or in a folder `reference` of something beside the checkout. With it every
/// request of the suite is held to it.
pub fn schema(root: &Path, variable: &str, file: &str) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(variable) {
        return Some(named.into());
    }
    let beside = std::fs::read_dir(root.parent()?).ok()?.filter_map(Result::ok);
    let found = beside.map(|folder| folder.path().join("reference").join(file)).find(|file| file.is_file());
    if found.is_none() {
        say(&format!("\nrequests are not held to their API's own description: {variable} names no {file}\n"));
    }
    found
}

/// Sees to it that an engine answers; starts one when none does.
pub fn engine() -> Result<Dockerd> {
    if engine_answers() {
        return Ok(Dockerd(None));
    }
    packages(&[("dockerd", "docker.io")])?;
    let dockerd = find("dockerd").context("`dockerd` is not installed; install docker.io (Debian) or Docker Engine and run this again")?;
    if !Uid::effective().is_root() {
        bail!("no Docker Engine answers at {SOCKET}; start one (`sudo systemctl start docker`) and run this again");
    }
    say("\nno Docker Engine answers; starting dockerd for the tests\n");
    let log = target()?.join("dockerd.log");
    std::fs::create_dir_all(target()?)?;
    let file = std::fs::File::create(&log)?;
    let child = Command::new(dockerd).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn().context("starting dockerd")?;
    let mut dockerd = Dockerd(Some(child));
    let end = Instant::now() + DOCKERD_START;
    while !engine_answers() {
        let ended = dockerd.0.as_mut().is_some_and(|c| c.try_wait().is_ok_and(|s| s.is_some()));
        if ended || Instant::now() > end {
            bail!("dockerd does not come up; see {}", log.display());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(dockerd)
}

fn engine_answers() -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<bool> {
        let mut stream = UnixStream::connect(SOCKET)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /_ping HTTP/1.0\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer)?;
        Ok(answer.ends_with(b"200"))
    };
    ask().unwrap_or(false)
}

/// Installs Debian packages whose program is missing.
fn packages(wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = wanted.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if find("apt-get").is_none() || !Uid::effective().is_root() {
        bail!("these are needed and not installed: {list}. On Debian: `sudo apt-get install --no-install-recommends {list}`");
    }
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt
    };
    let install = || run(apt().args(["install", "--yes", "--no-install-recommends"]).args(&missing));
    if install().is_err() {
        run(apt().arg("update"))?;
        install().with_context(|| format!("install them by hand: {list}"))?;
    }
    Ok(())
}

/// The static busybox that the drivers' own tests make their image of, the strace that lets a disk fail, the faketime that sets
/// an agent's clock, the registry that images are pulled from, and the
/// `docker-compose` that Compose files are compared by.
pub fn programs() -> Result<()> {
    packages(&[
        ("busybox", "busybox-static"),
        ("strace", "strace"),
        ("faketime", "faketime"),
        ("docker-registry", "docker-registry"),
        ("docker-compose", "docker-compose"),
    ])
}

/// A Python with the packages that the tests need, in a folder of its own under `target/`. Returns the interpreter.
pub fn python() -> Result<PathBuf> {
    let folder = target()?.join("python");
    let interpreter = folder.join("bin/python");
    if imports(&interpreter) {
        return Ok(interpreter);
    }
    packages(&[("python3", "python3")])?;
    let _ = std::fs::remove_dir_all(&folder);
    if !succeeds(Command::new("python3").args(["-m", "venv"]).arg(&folder)) {
        let _ = std::fs::remove_dir_all(&folder);
        // Debian keeps the module in a package of its own, which no program on the PATH shows.
        packages(&[("python3-venv is missing", "python3-venv")])?;
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let mut pip = Command::new(&interpreter);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PYTHON_PACKAGES);
    run(&mut pip).with_context(|| format!("the Python packages {} are needed", PYTHON_PACKAGES.join(", ")))?;
    if !imports(&interpreter) {
        bail!("{}: `{PYTHON_MODULES}` fails after their installation", interpreter.display());
    }
    Ok(interpreter)
}

fn imports(interpreter: &Path) -> bool {
    interpreter.is_file() && succeeds(Command::new(interpreter).args(["-c", PYTHON_MODULES]))
}
