//! `moorctl saga ls` and `moorctl saga library`.

use moorline_common::saga::Status;
use serde_json::{Value, json};

use super::LsArgs;
use crate::client::sagas::{SagaFacts, SagaFilter};
use crate::clock;
use crate::cmd::Env;
use crate::error::Failure;
use crate::render::{Table, Tone, Ui, or_dash, plain, shorten};
use crate::saga::library::{self, Definition, Pushes};

/// The longest note in a list, in characters.
const NOTE_MAX: usize = 60;

/// Lists sagas.
pub async fn ls(args: LsArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let LsArgs { status, kind, deployment, limit } = args;
    let sagas = client.sagas(&SagaFilter { status, kind, deployment, limit }).await?;
    let now = client.hub_now_ms();
    ui.result(&sagas, || table(&sagas, now))?;
    Ok(0)
}

/// What a status says at a glance.
const fn tone(status: Status) -> Tone {
    match status {
        Status::Completed => Tone::Good,
        Status::Pending | Status::Running | Status::Compensating => Tone::Warn,
        Status::Stuck => Tone::Bad,
        Status::RolledBack | Status::Cancelled | Status::Abandoned => Tone::Dim,
    }
}

pub(super) fn table(sagas: &[SagaFacts], now_ms: u64) -> String {
    if sagas.is_empty() {
        return "no sagas: one begins with `moorctl saga start`\n".to_owned();
    }
    let mut table = Table::new(&["SAGA", "NAME", "KIND", "DEPLOYMENT", "STATUS", "STEPS", "STARTED", "CHANGED", "NOTE"]);
    for saga in sagas {
        let (note, note_tone) = if saga.stuck.is_empty() { (&saga.reason, Tone::Dim) } else { (&saga.stuck, Tone::Bad) };
        table.row(vec![
            plain(&saga.saga_id),
            plain(&saga.name),
            plain(saga.kind),
            plain(or_dash(&saga.deployment)),
            (saga.status.as_str().to_owned(), tone(saga.status)),
            plain(format!("{} of {}", saga.steps_over, saga.step_count)),
            (clock::age(saga.started_unix_ms, now_ms), Tone::Dim),
            (clock::age(saga.changed_unix_ms, now_ms), Tone::Dim),
            (shorten(note, NOTE_MAX), note_tone),
        ]);
    }
    table.text()
}

/// Lists definitions.
pub fn library(ui: &mut Ui, name: Option<&str>) -> Result<u8, Failure> {
    let definitions = match name {
        Some(name) => vec![library::find(name)?],
        None => library::ALL.to_vec(),
    };
    let values: Vec<Value> = definitions.iter().map(|definition| value(definition)).collect();
    ui.result(&values, || definitions.iter().map(|definition| words(definition)).collect::<Vec<_>>().join("\n"))?;
    Ok(0)
}

fn value(definition: &Definition) -> Value {
    let inputs: Vec<Value> = definition.inputs.iter().map(|input| json!({ "name": input.name, "about": input.about })).collect();
    json!({
        "name": definition.name,
        "kind": definition.kind,
        "about": definition.about,
        "target": definition.target,
        "pushes": definition.pushes != Pushes::Never,
        "inputs": inputs,
    })
}

fn words(definition: &Definition) -> String {
    let topology = match definition.pushes {
        Pushes::Never => "",
        Pushes::MayBe => " [--topology FILE]",
        Pushes::Always => " --topology FILE",
    };
    let mut text = format!("{} ({})\n  {}\n", definition.name, definition.kind, definition.about);
    text.push_str(&format!("  moorctl saga start {} {}{topology}\n", definition.name, definition.target));
    for input in definition.inputs {
        text.push_str(&format!("    --set {:<24}{}\n", format!("{}=…", input.name), input.about));
    }
    text
}
