//! A fleet's hosts: enrolling them, and their agents' lives.

use std::io::BufReader;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail};

use super::{Agent, Drive, Fleet};
use crate::limits::COMMAND;
use crate::process::{Output, Process, run, tail};
use crate::pve::PveHost;

impl Fleet {
    /// Enrols a host by `moorctl host add` and `moorline-agent join`, and starts its agent.
    ///
    /// # Errors
    /// When one of the steps fails, with its words.
    pub fn add_host(&mut self, name: &str, drive: Drive, labels: &[&str]) -> Result<()> {
        let mut args = vec!["host", "add", name];
        labels.iter().for_each(|label| args.extend(["--label", label]));
        self.used_engine |= matches!(drive, Drive::Docker(_));
        let mut adding = self.moorctl_command(&args);
        adding.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut adding = adding.spawn().context("starting moorctl host add")?;
        let mut stdout = BufReader::new(adding.stdout.take().context("standard output")?);
        let token = first_token(&mut stdout);
        let joined = token.and_then(|token| {
            self.join(name, &drive, &token)?.ok().context("moorline-agent join")?;
            self.agents.insert(name.to_owned(), Agent { drive, process: None });
            self.start_agent(name)
        });
        if joined.is_err() {
            let _ = adding.kill();
        }
        let rest = std::io::read_to_string(stdout).unwrap_or_default();
        let ended = adding.wait_with_output()?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        joined.with_context(|| format!("moorctl host add said: {rest}{said}"))?;
        if !ended.status.success() {
            bail!("moorctl host add {name} ended with {}: {rest}{said}", ended.status);
        }
        Ok(())
    }

    /// A join token for `name`, without waiting for the join.
    ///
    /// # Errors
    /// When `moorctl` fails or prints none.
    pub fn token(&self, name: &str, more: &[&str]) -> Result<String> {
        let mut args = vec!["host", "add", name, "--no-wait"];
        args.extend(more);
        let output = self.moorctl(&args)?.ok()?;
        first_token(&mut output.stdout.as_bytes())
    }

    /// `moorline-agent join`, with the token on its standard input.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn join(&self, name: &str, drive: &Drive, token: &str) -> Result<Output> {
        let mut command = self.agent_command(name, drive)?;
        command.args(["join", "-"]);
        run(command, format!("{token}\n").as_bytes(), COMMAND)
    }

    /// `moorline-agent` on a host's folder, not yet run; its verb is still to be added.
    ///
    /// # Errors
    /// When the host's configuration file cannot be written.
    pub fn agent_command(&self, name: &str, drive: &Drive) -> Result<Command> {
        let state = self.agent_dir(name);
        std::fs::create_dir_all(self.root.join("hosts"))?;
        let config = self.root.join("hosts").join(format!("{name}.toml"));
        if !config.exists() {
            std::fs::write(&config, "")?;
        }
        let mut command = Command::new(&self.binaries.agent);
        command.arg("--config").arg(config).arg("--state").arg(state);
        match drive {
            Drive::Sim => command.args(["--driver", "sim"]),
            Drive::Docker(socket) => command.args(["--driver", "docker", "--docker-socket"]).arg(socket),
            Drive::Guests => command.args(["--driver", "none"]),
        };
        Ok(command)
    }

    /// Adds a line to a host's `agent.toml`; counts from its agent's next start.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_agent_config(&self, name: &str, line: &str) -> Result<()> {
        std::fs::create_dir_all(self.root.join("hosts"))?;
        let path = self.root.join("hosts").join(format!("{name}.toml"));
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, format!("{line}\n{old}"))?;
        Ok(())
    }

    /// Connects a host's agent to Proxmox VE; counts from its next start.
    ///
    /// # Errors
    /// When its configuration cannot be written.
    pub fn connect_to_proxmox(&self, name: &str, pve: &PveHost) -> Result<()> {
        let path = self.root.join("hosts").join(format!("{name}.toml"));
        std::fs::create_dir_all(self.root.join("hosts"))?;
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        // Tables come last.
        std::fs::write(&path, format!("{old}\n{}", pve.config()))?;
        Ok(())
    }

    /// Runs another verb of `moorline-agent` on a host's folder.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub fn agent(&self, name: &str, args: &[&str]) -> Result<Output> {
        let drive = self.agents.get(name).map_or(Drive::Sim, |a| a.drive.clone());
        let mut command = self.agent_command(name, &drive)?;
        command.args(args);
        run(command, b"", COMMAND)
    }

    /// Starts a host's agent.
    ///
    /// # Errors
    /// When the host is unknown or the program cannot be started.
    pub fn start_agent(&mut self, name: &str) -> Result<()> {
        self.start_agent_with(name, &[])
    }

    /// Starts a host's agent with more in its environment.
    ///
    /// # Errors
    /// As [`Self::start_agent`].
    pub fn start_agent_with(&mut self, name: &str, environment: &[(&str, &str)]) -> Result<()> {
        let drive = self.agents.get(name).with_context(|| format!("no host `{name}` in this fleet"))?.drive.clone();
        let mut command = self.agent_command(name, &drive)?;
        command.arg("run").envs(environment.iter().copied());
        let process = Process::start(&format!("agent {name}"), command, &self.log_path(name))?;
        if let Some(agent) = self.agents.get_mut(name) {
            agent.process = Some(process);
        }
        Ok(())
    }

    /// Adopts a host that has joined by other means, so that its agent can be started.
    pub fn adopt_host(&mut self, name: &str, drive: Drive) {
        self.used_engine |= matches!(drive, Drive::Docker(_));
        self.agents.insert(name.to_owned(), Agent { drive, process: None });
    }

    fn running_agent(&mut self, name: &str) -> Result<Process> {
        let agent = self.agents.get_mut(name).with_context(|| format!("no host `{name}` in this fleet"))?;
        agent.process.take().with_context(|| format!("the agent of {name} does not run"))
    }

    /// An agent's process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn agent_id(&self, name: &str) -> Result<u32> {
        let agent = self.agents.get(name).with_context(|| format!("no host `{name}` in this fleet"))?;
        Ok(agent.process.as_ref().with_context(|| format!("the agent of {name} does not run"))?.id())
    }

    /// How an agent ended, if it has ended by itself; it can be started again then.
    ///
    /// # Errors
    /// When it was not started.
    pub fn agent_ended(&mut self, name: &str) -> Result<Option<ExitStatus>> {
        let agent = self.agents.get_mut(name).with_context(|| format!("no host `{name}` in this fleet"))?;
        let ended = agent.process.as_mut().with_context(|| format!("the agent of {name} does not run"))?.ended()?;
        if ended.is_some() {
            agent.process = None;
        }
        Ok(ended)
    }

    /// Ends an agent as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_agent(&mut self, name: &str) -> Result<()> {
        self.running_agent(name)?.kill()
    }

    /// Asks an agent to end.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub fn stop_agent(&mut self, name: &str) -> Result<()> {
        let status = self.running_agent(name)?.stop()?;
        if !status.success() {
            bail!("the agent of {name} ended with {status} after SIGTERM:\n{}", tail(&self.log_path(name)));
        }
        Ok(())
    }
}

fn first_token(from: &mut impl std::io::BufRead) -> Result<String> {
    let mut seen = String::new();
    let mut line = String::new();
    while from.read_line(&mut line)? > 0 {
        if line.trim().starts_with("moor1.") {
            return Ok(line.trim().to_owned());
        }
        seen.push_str(&std::mem::take(&mut line));
    }
    bail!("moorctl host add printed no token line; it said: {seen}")
}
