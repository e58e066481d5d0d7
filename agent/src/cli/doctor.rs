//! `moorline-agent doctor`.

use std::process::ExitCode;

use super::{Output, drivers, say};
use crate::config::Config;
use crate::doctor::{Check, Outcome, examine};
use crate::driver::Ownership;
use crate::identity::StateDir;

pub(super) async fn doctor(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let (driver, wrong) = match ownership(config).map(|owned| drivers::driver(config, owned, None)).transpose() {
        Ok(driver) => (driver, None),
        Err(wrong) => (None, Some(Check { name: "configuration", outcome: Outcome::Failed, detail: format!("{wrong:#}") })),
    };
    let mut checks = examine(config, driver).await;
    checks.extend(wrong);
    match output {
        Output::Json => say(&serde_json::to_string_pretty(&checks)?),
        Output::Text => checks.iter().for_each(|check| say(&line(check))),
    }
    let failed = checks.iter().any(|c| c.outcome == Outcome::Failed);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn ownership(config: &Config) -> Option<Ownership> {
    let state = StateDir(config.state.clone());
    let enrolment = state.joined().ok()?;
    Some(Ownership { cluster: enrolment.cluster, host_id: state.keys().ok()??.host_id(), known: Default::default() })
}

fn line(check: &Check) -> String {
    let mark = match check.outcome {
        Outcome::Ok => "ok",
        Outcome::Warning => "warning",
        Outcome::Failed => "FAILED",
    };
    format!("{mark:<9}{:<18}{}", check.name, check.detail)
}
