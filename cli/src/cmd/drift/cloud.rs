//! Drift in clouds: what the hub hears from them. Nobody signs it, and what is accepted changes what the hub expects, and no host.

use moorline_common::fault::{Code, Fault};
use serde::Serialize;
use serde_json::Value;

use super::AcceptArgs;
use crate::client::drift::{DriftFacts, Shown};
use crate::cmd::Env;
use crate::cmd::op::OpWait;
use crate::cmd::saga::{self, SagaVerb, StartArgs};
use crate::error::Failure;
use crate::render::{Table, Tone, Ui, or_dash, plain, visible};

/// A drift with what each decision about it would do.
#[derive(Serialize)]
struct View {
    #[serde(flatten)]
    facts: DriftFacts,
    /// What `accept` would do.
    accept: String,
    /// What mends it.
    revert: String,
}

/// The field of a droplet that is there no more.
const EXISTS: &str = "exists";

/// Looks at clouds now.
pub async fn scan(env: &Env, ui: &mut Ui, cloud: &str) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let scans = client.scan_drift(cloud).await?;
    ui.result(&scans, || {
        let mut table = Table::new(&["CLOUD", "CHECKED", "DRIFTED FIELDS", "NEW DRIFT", "RESOLVED STALE"]);
        for scan in &scans {
            let drifted = if scan.drifted_fields > 0 { Tone::Bad } else { Tone::Good };
            table.row(vec![
                plain(visible(&scan.cloud)),
                plain(scan.checked),
                (scan.drifted_fields.to_string(), drifted),
                plain(scan.new_drift),
                plain(scan.resolved_stale),
            ]);
        }
        table.text()
    })?;
    Ok(0)
}

/// Accepts what is in clouds, one after the other.
pub async fn accept(args: &AcceptArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let mut shown: Vec<DriftFacts> = Vec::with_capacity(args.ids.len());
    for id in &args.ids {
        let facts = client.drift(*id).await?;
        if facts.cloud.is_empty() {
            let message = format!("drift {id} is on host `{}`: what that has is written into the topology file", or_dash(&facts.host));
            return Err(Failure::usage(message, "name the file with -f"));
        }
        if shown.iter().any(|one| one.id == *id) {
            return Err(Failure::usage(format!("drift {id} is named twice"), "name each once"));
        }
        shown.push(facts);
    }
    if args.in_profile.is_some() {
        return Err(Failure::usage("what is in a cloud stands in no profile", "leave --in-profile out"));
    }
    for facts in &shown {
        ui.note(&consequence(facts));
    }
    ui.confirm("Accept it?")?;
    let mut accepted = Vec::with_capacity(shown.len());
    for facts in &shown {
        let shown = Shown { id: facts.id, actual: facts.drift.actual.clone() };
        accepted.push(client.accept_cloud_drift(&shown, &args.message).await?);
    }
    ui.result(&accepted, || accepted.iter().map(|one| format!("drift {} is accepted\n", one.id)).collect())?;
    Ok(0)
}

/// What accepting does.
fn consequence(facts: &DriftFacts) -> String {
    let (resource, field) = (&facts.drift.resource, visible(&facts.drift.field));
    if facts.drift.field == EXISTS {
        return format!("{resource} is gone, and nothing is expected of it any more");
    }
    format!("{resource}: {field} {} is wanted from now on, and not {}", visible(&facts.actual()), visible(&facts.expected()))
}

/// The saga that mends a field, if there is one.
fn mended_by(facts: &DriftFacts) -> Option<&'static str> {
    match facts.drift.field.as_str() {
        "size" => Some("resize-droplet"),
        "name" => Some("rename-droplet"),
        "tags" => Some("retag-droplet"),
        _ => None,
    }
}

/// The one drift that is to be reverted, if it is in a cloud.
pub async fn reverted(ids: &[u64], env: &Env, ui: &mut Ui) -> Result<Option<DriftFacts>, Failure> {
    let Some(first) = ids.first() else { return Ok(None) };
    let facts = env.client(ui).await?.drift(*first).await?;
    if facts.cloud.is_empty() {
        return Ok(None);
    }
    match ids {
        [_] => Ok(Some(facts)),
        _ => Err(Failure::usage("each field of a droplet is mended by a saga of its own", "revert one at a time")),
    }
}

/// Starts the saga that gives a field what is wanted again.
pub async fn revert(facts: &DriftFacts, reason: &str, wait: &OpWait, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let Some(definition) = mended_by(facts).filter(|_| facts.is_unresolved()) else { return Err(refusal(facts, "revert")) };
    let wanted = match serde_json::from_str(&facts.drift.expected) {
        Ok(Value::String(text)) => text,
        Ok(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
        Ok(_) | Err(_) => return Err(refusal(facts, "revert")),
    };
    let reason = if reason.is_empty() { format!("revert drift {}", facts.id) } else { reason.to_owned() };
    let mut args = StartArgs::of(definition, facts.drift.resource.name(), (facts.drift.field.as_str(), wanted), &reason);
    args.set.push(("cloud".to_owned(), facts.cloud.clone()));
    (args.wait, args.timeout) = (!wait.no_wait, (!wait.no_wait).then_some(wait.timeout_wait));
    saga::run(SagaVerb::Start(Box::new(args)), env, ui).await
}

/// What mends it, in words.
fn mends(facts: &DriftFacts) -> String {
    match mended_by(facts) {
        Some(saga) => format!("`moorctl saga start {saga} …` gives it {} again", visible(&facts.expected())),
        None => format!("no saga mends `{}`; accept it, ignore it, or mend it in the cloud", visible(&facts.drift.field)),
    }
}

/// Why no verb for hosts is about it.
pub fn refusal(facts: &DriftFacts, verb: &str) -> Failure {
    let message = format!("drift {} is in the cloud `{}`, and not on a host", facts.id, visible(&facts.cloud));
    let failure = Failure::from(Fault::new(Code::InvalidArgument, message));
    match verb {
        "revert" => failure.with_remedy(mends(facts)),
        _ => failure.with_remedy(format!("no file says what is in clouds: `moorctl drift {verb} {}` without -f", facts.id)),
    }
}

/// Shows one.
pub fn show(facts: DriftFacts, ui: &mut Ui) -> Result<u8, Failure> {
    let (accept, revert) = if facts.is_unresolved() { (consequence(&facts), mends(&facts)) } else { (String::new(), String::new()) };
    let view = View { facts, accept, revert };
    ui.result(&view, || words(&view))?;
    Ok(0)
}

fn words(view: &View) -> String {
    let View { facts, accept, revert } = view;
    let mut lines = vec![
        format!("drift {} is {}", facts.id, facts.status),
        format!("  cloud     {}", visible(&facts.cloud)),
        format!("  resource  {}", facts.drift.resource),
        format!("  field     {}", visible(&facts.drift.field)),
        format!("  expected  {} (version {} of its spec)", visible(&facts.expected()), facts.generation),
        format!("  actual    {}", visible(&facts.actual())),
        format!("  seen      {} (value since {})", facts.detected, facts.changed),
    ];
    if !facts.resolved.is_empty() {
        lines.push(format!("  resolved  {} by {}", facts.resolved, visible(&facts.resolved_by)));
    }
    if !facts.ignored_until.is_empty() {
        lines.push(format!("  ignored   until {} by {}", facts.ignored_until, visible(&facts.resolved_by)));
    }
    if facts.accepted_generation > 0 {
        lines.push(format!("  accepted  by version {} of its spec", facts.accepted_generation));
    }
    if !facts.reason.is_empty() {
        lines.push(format!("  reason    {}", visible(&facts.reason)));
    }
    if facts.is_unresolved() {
        lines.push("  word      the cloud's to the hub; nobody signs it".to_owned());
        lines.push(format!("  accept    {accept}"));
        lines.push(format!("  revert    {revert}"));
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use moorline_proto::v1 as pb;

    use super::*;

    fn facts(field: &str, expected: &str, actual: &str) -> DriftFacts {
        let row = pb::Drift {
            id: 5,
            cloud: "digitalocean".to_owned(),
            resource: "digitalocean/droplet/524000001".to_owned(),
            field: field.to_owned(),
            expected: expected.to_owned(),
            actual: actual.to_owned(),
            status: "open".to_owned(),
            generation: 1,
            ..pb::Drift::default()
        };
        DriftFacts::try_from(row).unwrap()
    }

    #[test]
    fn a_revert_in_a_cloud_names_the_saga_that_mends_the_field() {
        for (field, saga) in [("size", "resize-droplet"), ("name", "rename-droplet"), ("tags", "retag-droplet")] {
            let failure = refusal(&facts(field, "\"a\"", "\"b\""), "revert");
            assert!(failure.is(Code::InvalidArgument) && failure.remedy.contains(&format!("moorctl saga start {saga} ")), "{failure:?}");
        }
        assert!(refusal(&facts("region", "\"a\"", "\"b\""), "revert").remedy.contains("no saga mends `region`"));
        assert!(refusal(&facts("size", "\"a\"", "\"b\""), "accept").remedy.contains("`moorctl drift accept 5` without -f"));
    }

    #[test]
    fn what_is_accepted_is_shown_in_words() {
        let size = facts("size", "\"s-2vcpu-2gb\"", "\"s-1vcpu-1gb\"");
        assert_eq!(consequence(&size), "digitalocean/droplet/524000001: size s-1vcpu-1gb is wanted from now on, and not s-2vcpu-2gb");
        let gone = facts("exists", "true", "false");
        assert_eq!(consequence(&gone), "digitalocean/droplet/524000001 is gone, and nothing is expected of it any more");
        let tags = facts("tags", "[\"a\"]", "[\"b\"]");
        assert!(consequence(&tags).contains("tags [\"b\"] is wanted"));
    }

    #[test]
    fn a_drift_is_on_a_host_or_in_a_cloud_and_never_both() {
        let row = pb::Drift { resource: "digitalocean/droplet/7".to_owned(), ..pb::Drift::default() };
        assert!(DriftFacts::try_from(row.clone()).is_err());
        let both = pb::Drift { cloud: "digitalocean".to_owned(), host_id: "a".repeat(64), ..row };
        assert!(DriftFacts::try_from(both).is_err());
    }
}
