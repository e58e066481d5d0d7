//! docker-compose as a contender, when it is installed.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use super::scene::Scene;
use super::{PATIENCE, Sample};

/// See the module.
pub struct Compose {
    scene: Scene,
    folder: tempfile::TempDir,
    /// What it calls itself.
    pub version: String,
}

impl Compose {
    /// A contender, or `None` when there is no docker-compose.
    ///
    /// # Errors
    /// When a folder cannot be made.
    pub async fn find(scene: Scene) -> Result<Option<Self>> {
        let Ok(said) = Command::new("docker-compose").args(["version", "--short"]).stdin(Stdio::null()).output().await else {
            return Ok(None);
        };
        if !said.status.success() {
            return Ok(None);
        }
        let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        Ok(Some(Self { scene, folder: tempfile::tempdir()?, version }))
    }

    /// Everything once; it does not heal.
    ///
    /// # Errors
    /// When it fails.
    pub async fn round(&self, marker: &str) -> Result<Sample> {
        self.write(marker)?;
        let cold = self.run(&["up", "-d"]).await?;
        let noop = self.run(&["up", "-d"]).await?;
        self.write(&format!("{marker}-changed"))?;
        let change = self.run(&["up", "-d"]).await?;
        let down = self.run(&["down"]).await?;
        Ok(Sample { cold: Some(cold), noop: Some(noop), change: Some(change), heal: None, down: Some(down) })
    }

    fn write(&self, marker: &str) -> Result<()> {
        std::fs::write(self.folder.path().join("docker-compose.json"), self.scene.compose_file(marker).to_string())?;
        Ok(())
    }

    async fn run(&self, verb: &[&str]) -> Result<Duration> {
        let file = self.folder.path().join("docker-compose.json");
        let begin = Instant::now();
        let done = command(&file, &self.scene.name).args(verb).output();
        let done = tokio::time::timeout(PATIENCE, done).await.context("docker-compose does not end")?.context("starting docker-compose")?;
        if !done.status.success() {
            bail!("docker-compose {verb:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(begin.elapsed())
    }
}

fn command(file: &Path, project: &str) -> Command {
    let mut command = Command::new("docker-compose");
    // Its own limit (64) stays: with a lower one than services it waits for itself.
    command.arg("-f").arg(file).args(["-p", project]).stdin(Stdio::null()).kill_on_drop(true);
    command
}
