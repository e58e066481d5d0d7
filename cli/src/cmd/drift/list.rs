//! `moorctl drift ls` and `moorctl drift show`.

use moorline_common::id::HostName;
use serde::Serialize;

use super::{Case, cloud, revert};
use crate::client::drift::DriftFacts;
use crate::clock;
use crate::cmd::Env;
use crate::error::Failure;
use crate::overrides;
use crate::render::{Table, Tone, Ui, or_dash, plain, shorten, visible};
use crate::revision::Previous;

/// Lists drifts.
pub async fn ls(env: &Env, ui: &mut Ui, host: Option<&str>, all: bool, limit: u32) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let host = match host {
        Some(name) => Some(client.host(&HostName::parse(name)?).await?.host_id),
        None => None,
    };
    let drifts = client.drifts(host.as_ref(), all, limit).await?;
    let now = client.hub_now_ms();
    ui.result(&drifts, || table(&drifts, all, now))?;
    Ok(0)
}

fn tone(status: &str) -> Tone {
    match status {
        "open" => Tone::Bad,
        "ignored" => Tone::Warn,
        "accepted" | "reverted" => Tone::Good,
        _ => Tone::Dim,
    }
}

fn table(drifts: &[DriftFacts], all: bool, now_ms: u64) -> String {
    if drifts.is_empty() {
        return if all { "no drift\n" } else { "no open drift\n" }.to_owned();
    }
    let mut table = Table::new(&["ID", "HOST", "RESOURCE", "FIELD", "EXPECTED", "ACTUAL", "STATUS", "AGE"]);
    for one in drifts {
        let ordered = if one.status == "open" && !one.op_id.is_empty() { "open, revert ordered" } else { one.status.as_str() };
        table.row(vec![
            plain(one.id),
            plain(or_dash(&visible(if one.cloud.is_empty() { &one.host } else { &one.cloud }))),
            plain(&one.drift.resource),
            plain(visible(&one.drift.field)),
            plain(shorten(&visible(&one.expected()), 40)),
            plain(shorten(&visible(&one.actual()), 40)),
            (ordered.to_owned(), tone(&one.status)),
            (clock::age(one.detected_unix_ms, now_ms), Tone::Dim),
        ]);
    }
    table.text()
}

/// One drift with what is verified about it.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    facts: DriftFacts,
    /// Whether the host's own signature stands under the live value.
    verified: bool,
    /// Why not.
    doubt: String,
    /// How old the host's report is, in seconds; none without one that verifies.
    report_age_s: Option<u64>,
    /// What `accept` would write, or why it cannot.
    accept: String,
    /// What `revert` would do, or why it cannot.
    revert: String,
}

/// Shows one drift.
pub async fn show(env: &Env, ui: &mut Ui, id: u64) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let facts = client.drift(id).await?;
    if !facts.cloud.is_empty() {
        return cloud::show(facts, ui);
    }
    let mut shown = Shown {
        facts: facts.clone(),
        verified: false,
        doubt: String::new(),
        report_age_s: None,
        accept: String::new(),
        revert: String::new(),
    };
    match Case::of(&client, facts).await {
        Err(failure) => shown.doubt = failure.to_string(),
        Ok(case) => {
            shown.report_age_s = Some(case.report.age_s(clock::now()));
            match case.signed() {
                Err(failure) => shown.doubt = failure.to_string(),
                Ok(drift) => {
                    shown.verified = true;
                    let identity = case.identity(&client)?;
                    let current = client.current(&identity.topology, true).await?;
                    let previous = Previous::of(current.as_ref(), std::slice::from_ref(&case.host), &client.root);
                    let spec = previous.spec_of(&case.host.host_id).unwrap_or_default();
                    let accept = overrides::of(drift, &identity.topology, &spec);
                    shown.accept = accept.map_or_else(|failure| failure.to_string(), |o| format!("hosts.{}.{}", case.host.name, o.words()));
                    let effect = revert::effect(&identity, &spec, case.observed(), &[drift]);
                    shown.revert = effect.map_or_else(|failure| failure.to_string(), |effect| effect.words());
                }
            }
        }
    }
    ui.result(&shown, || words(&shown))?;
    Ok(0)
}

fn words(shown: &Shown) -> String {
    let Shown { facts, verified, doubt, report_age_s, accept, revert } = shown;
    let mut lines = vec![
        format!("drift {} is {}", facts.id, facts.status),
        format!("  host      {}", or_dash(&facts.host)),
        format!("  resource  {}", facts.drift.resource),
        format!("  field     {}", visible(&facts.drift.field)),
        format!("  expected  {}", visible(&facts.drift.expected)),
        format!("  actual    {}", visible(&facts.drift.actual)),
        format!("  seen      {} (value since {})", facts.detected, facts.changed),
    ];
    if !facts.resolved.is_empty() {
        lines.push(format!("  resolved  {} by {}", facts.resolved, facts.resolved_by));
    }
    if !facts.ignored_until.is_empty() {
        lines.push(format!("  ignored   until {} by {}", facts.ignored_until, facts.resolved_by));
    }
    if facts.accepted_generation > 0 {
        lines.push(format!("  accepted  by generation {}", facts.accepted_generation));
    }
    if !facts.op_id.is_empty() {
        lines.push(format!("  operation {}", facts.op_id));
    }
    if !facts.reason.is_empty() {
        lines.push(format!("  reason    {}", visible(&facts.reason)));
    }
    let age = report_age_s.map(|age| format!(" {} ago", clock::span_words(age))).unwrap_or_default();
    if *verified {
        lines.push(format!("  verified  the host signed this value{age}"));
        lines.push(format!("  accept    {accept}"));
        lines.push(format!("  revert    {revert}"));
    } else if facts.is_unresolved() {
        lines.push(format!("  NOT VERIFIED: {doubt}"));
    }
    lines.join("\n") + "\n"
}
