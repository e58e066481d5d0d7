//! A registry of our own: Debian's `docker-registry`, with its files in one folder and a login where one is asked for.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bollard::auth::DockerCredentials;
use bollard::query_parameters as query;
use futures_util::StreamExt as _;

use crate::engine::{self, Engine};
use crate::limits::SOON;
use crate::process::{Process, tail};
use crate::wait::wait_until;

/// Who may pull where a login is asked for.
pub const PULLER: &str = "puller";
/// By what, at first. Its base64 needs both characters in which base64 for URLs differs.
pub const PASSWORD: &str = "first?~>pass>~?";
/// By what after [`Registry::change_password`].
pub const PASSWORD_AFTER: &str = "second-Passw0rd";
// bcrypt, of as little work as it has.
const HASH: &str = "$2y$04$gR.WR7Jcef9a9hE/BWQwC.g0bhTHvgezowzrWlPtz0NUDK1HxBxCm";
const HASH_AFTER: &str = "$2y$04$5hw96OFd9giZoxhC77CTdeQVNInDPM0e8E6tr6tlaveQF9aS9ow6K";
/// Who pushes.
const PUSHER: (&str, &str, &str) = ("pusher", "push-it", "$2y$04$g0A9DmPlpn9zaWfzuKJkeuhk7ASsUNbGHPkt67pxkGEX6Bo6rUjiq");

/// See the module. Ends with its value.
pub struct Registry {
    folder: PathBuf,
    port: u16,
    asks: bool,
    /// The process in whose network it stands; the host's own when `None`.
    beside: Option<u32>,
    process: Option<Process>,
}

impl Registry {
    /// Starts one with its files in `folder`; it `asks` for a login or takes anybody. `None`, with a line that says so, when
    /// it is not installed and nothing is required.
    ///
    /// # Errors
    /// When it does not come up, with the end of its log.
    pub fn start(folder: &Path, port: u16, asks: bool) -> Result<Option<Self>> {
        if crate::own_engine::find("docker-registry").is_none() {
            if engine::is_required() {
                bail!("`docker-registry` is not installed; on Debian: `apt-get install --no-install-recommends docker-registry`");
            }
            tracing::info!("skipped: `docker-registry` is not installed");
            return Ok(None);
        }
        std::fs::create_dir_all(folder.join("data"))?;
        let mut registry = Self { folder: folder.to_owned(), port, asks, beside: None, process: None };
        registry.write_logins(HASH)?;
        registry.restart()?;
        Ok(Some(registry))
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts it again after [`Self::stop`].
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        let (config, log, data) = (self.folder.join("registry.yml"), self.folder.join("registry.log"), self.folder.join("data"));
        let mut yaml = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"{}\" }}\n",
            data.display(),
            self.address()
        );
        if self.asks {
            yaml.push_str(&format!("auth: {{ htpasswd: {{ realm: test, path: {} }} }}\n", self.folder.join("htpasswd").display()));
        }
        std::fs::write(&config, yaml)?;
        let program = crate::own_engine::find("docker-registry").context("`docker-registry` is not installed")?;
        let mut command = match self.beside {
            Some(id) => {
                let mut command = Command::new(crate::own_engine::find("nsenter").context("`nsenter` is not installed")?);
                command.args(["--net", "--target", &id.to_string(), "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("serve").arg(config);
        let mut process = Process::start("docker-registry", command, &log)?;
        let (address, elsewhere) = (self.address(), self.beside.is_some());
        wait_until("the registry listens or has ended", SOON, || {
            let listens = if elsewhere { process.log()?.contains("listening on") } else { TcpStream::connect(&address).is_ok() };
            Ok(listens || process.check_alive().is_err())
        })?;
        if process.check_alive().is_err() {
            bail!("the registry does not come up:\n{}", tail(&log));
        }
        self.process = Some(process);
        Ok(())
    }

    /// Starts it again in the network of another process.
    ///
    /// # Errors
    /// When it does not come up there.
    pub fn restart_beside(&mut self, id: u32) -> Result<()> {
        self.stop()?;
        self.beside = Some(id);
        self.restart()
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.stop().map(drop))
    }

    /// From now on it lets [`PULLER`] in by [`PASSWORD_AFTER`] alone.
    ///
    /// # Errors
    /// When it does not start again.
    pub fn change_password(&mut self) -> Result<()> {
        self.write_logins(HASH_AFTER)?;
        self.stop()?;
        self.restart()
    }

    fn write_logins(&self, puller: &str) -> Result<()> {
        let (pusher, _, hash) = PUSHER;
        std::fs::write(self.folder.join("htpasswd"), format!("{PULLER}:{puller}\n{pusher}:{hash}\n"))?;
        Ok(())
    }

    /// Gives it the engine's image `from` under `name:tag`, and leaves none of that name on the engine. Returns the digest.
    ///
    /// # Errors
    /// When the engine or the registry refuses.
    pub fn give(&self, engine: &Engine, from: &str, name: &str, tag: &str) -> Result<String> {
        let repository = format!("{}/{name}", self.address());
        let (username, password, _) = PUSHER;
        let login = DockerCredentials { username: Some(username.into()), password: Some(password.into()), ..Default::default() };
        engine.block_on(async {
            let docker = engine.docker();
            let options = query::TagImageOptionsBuilder::new().repo(&repository).tag(tag).build();
            docker.tag_image(from, Some(options)).await?;
            let options = query::PushImageOptionsBuilder::new().tag(tag).build();
            let mut stream = std::pin::pin!(docker.push_image(&repository, Some(options), Some(login)));
            while let Some(progress) = stream.next().await {
                progress.context("pushing to the registry")?;
            }
            let image = docker.inspect_image(&format!("{repository}:{tag}")).await?;
            let digests = image.repo_digests.unwrap_or_default();
            let own = digests.iter().find_map(|d| d.strip_prefix(&format!("{repository}@")));
            let digest = own.context("the engine knows no digest of what it has pushed")?.to_owned();
            docker.remove_image(&format!("{repository}:{tag}"), None::<query::RemoveImageOptions>, None).await?;
            let by_digest = format!("{repository}@{digest}");
            let _ = docker.remove_image(&by_digest, None::<query::RemoveImageOptions>, None).await;
            Ok(digest)
        })
    }

    /// Puts other bytes in the place of every blob of more than `bytes`.
    ///
    /// # Errors
    /// The file system's; or when there is none.
    pub fn spoil_blobs(&self, bytes: u64) -> Result<()> {
        let mut folders = vec![self.folder.join("data/docker/registry/v2/blobs")];
        let mut spoilt = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                let meta = entry.metadata()?;
                if meta.is_dir() {
                    folders.push(entry.path());
                } else if meta.len() > bytes {
                    let mut data = std::fs::read(entry.path())?;
                    if let Some(byte) = data.get_mut(usize::try_from(bytes)?) {
                        *byte ^= 0xff;
                    }
                    std::fs::write(entry.path(), data)?;
                    spoilt += 1;
                }
            }
        }
        if spoilt == 0 { bail!("no blob of more than {bytes} bytes") } else { Ok(()) }
    }
}

/// A way to a registry on which its words go through slowly; ends with its value.
pub struct SlowWay {
    port: u16,
    _runtime: tokio::runtime::Runtime,
}

impl SlowWay {
    /// Passes on to `to`, `bytes` at a time with `pause` between.
    ///
    /// # Errors
    /// When there is no port.
    pub fn start(to: &str, bytes: usize, pause: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let to = to.to_owned();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (stream, _) = listener.accept().await?;
                let to = to.clone();
                tokio::spawn(async move { pass_on(stream, &to, bytes, pause).await });
            }
            #[allow(unreachable_code, reason = "names the type")]
            Ok::<(), std::io::Error>(())
        });
        Ok(Self { port, _runtime: runtime })
    }

    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

async fn pass_on(mut stream: tokio::net::TcpStream, to: &str, bytes: usize, pause: Duration) -> std::io::Result<()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut registry = tokio::net::TcpStream::connect(to).await?;
    let (mut from_engine, mut to_engine) = stream.split();
    let (mut from_registry, mut to_registry) = registry.split();
    let back = async {
        let mut part = vec![0; bytes];
        loop {
            let read = from_registry.read(&mut part).await?;
            let Some(said) = part.get(..read).filter(|s| !s.is_empty()) else { return to_engine.shutdown().await };
            to_engine.write_all(said).await?;
            if read == bytes {
                // A line as slow as some are; nothing waits here for anything to happen.
                tokio::time::sleep(pause).await;
            }
        }
    };
    let forth = async {
        tokio::io::copy(&mut from_engine, &mut to_registry).await?;
        to_registry.shutdown().await
    };
    tokio::try_join!(forth, back).map(drop)
}
