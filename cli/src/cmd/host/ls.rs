//! `moorctl host ls`: who the hosts are. What they do is shown by `moorctl status`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::approve;
use crate::client::HostView;
use crate::client::facts::{Cordon, Enrolment};
use crate::clock;
use crate::cmd::Env;
use crate::error::Failure;
use crate::render::{Table, Tone, Ui, or_dash, plain, visible};

#[derive(Serialize)]
struct Row {
    name: String,
    host_id: String,
    state: Enrolment,
    fingerprint: String,
    labels: BTreeMap<String, String>,
    serial: Option<u64>,
    joined: String,
    agent_version: String,
    connected: bool,
    /// Whether the hub keeps what is pushed from it.
    cordon: Option<Cordon>,
    /// Why its binding does not count, or why the hub keeps it out.
    doubt: Option<String>,
}

/// Runs it.
///
/// # Errors
/// What calls can fail with.
pub async fn run(env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let hosts = client.hosts(None).await?;
    let now = client.hub_now_ms();
    let rows: Vec<Row> = hosts.iter().map(row).collect();
    ui.result(&rows, || table(&rows, &hosts, now))?;
    Ok(0)
}

fn row(host: &HostView) -> Row {
    let binding = host.bound();
    Row {
        name: host.name.to_string(),
        host_id: host.host_id.to_string(),
        state: host.enrolment(),
        fingerprint: host.fingerprint(),
        labels: binding.map(|b| b.labels.clone()).unwrap_or_default(),
        serial: binding.map(|b| b.serial),
        joined: clock::rfc3339(host.joined_unix_ms),
        agent_version: host.agent_version.clone(),
        connected: host.connected,
        cordon: host.cordon.clone(),
        doubt: host.doubt.clone().or_else(|| approve::lock_fault(host)).map(|f| f.to_string()),
    }
}

fn table(rows: &[Row], hosts: &[HostView], now_ms: u64) -> String {
    if rows.is_empty() {
        return "no hosts yet: moorctl host add NAME\n".to_owned();
    }
    let mut table = Table::new(&["NAME", "STATE", "FINGERPRINT", "LABELS", "JOINED", "AGENT"]);
    for (row, host) in rows.iter().zip(hosts) {
        let labels: Vec<String> = row.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let tone = match row.state {
            Enrolment::Bound => Tone::Good,
            Enrolment::Pending => Tone::Warn,
            Enrolment::Unverified | Enrolment::Locked => Tone::Bad,
        };
        table.row(vec![
            plain(&row.name),
            (row.state.as_str().to_owned(), tone),
            plain(or_dash(&row.fingerprint)),
            plain(or_dash(&labels.join(","))),
            (clock::age(host.joined_unix_ms, now_ms), Tone::Dim),
            (or_dash(&row.agent_version), Tone::Dim),
        ]);
    }
    let mut text = table.text();
    for row in rows.iter().filter(|r| r.doubt.is_some()) {
        text.push_str(&format!("{}: {}\n", row.name, row.doubt.as_deref().unwrap_or_default()));
    }
    for (row, cordon) in rows.iter().filter_map(|row| Some((row, row.cordon.as_ref()?))) {
        let why = if cordon.reason.is_empty() { String::new() } else { format!(": {}", visible(&cordon.reason)) };
        let since = clock::age(cordon.since_unix_ms, now_ms);
        text.push_str(&format!("{}: cordoned for {since} by {}{why}; moorctl host uncordon {}\n", row.name, visible(&cordon.by), row.name));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revision::tests::host;

    #[test]
    fn a_locked_host_is_shown_with_what_unlocks_it() {
        let mut view = host(10, "shop-17");
        assert_eq!(row(&view).state, Enrolment::Bound);
        view.locked = true;
        let shown = row(&view);
        assert_eq!(shown.state, Enrolment::Locked);
        assert!(table(&[shown], &[view], 0).contains("moorctl host approve shop-17 --fingerprint"));
    }
}
