//! Asking a host what is on it besides Moorline's.
//!
//! The host is asked by a signed order, and seals its answer to a key that lives as long as this command: what others run may hold
//! secrets, and neither the hub nor the host's journal is to keep them.

use std::collections::BTreeSet;

use age::x25519::Identity;
use base64::Engine as _;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::ResourceId;
use moorline_common::op::{Act, Survey as Asked};
use moorline_common::pve::Vmid;
use moorline_common::survey::Survey;
use serde_json::Value;

use crate::client::{Client, HostView};
use crate::cmd::op::{OrderArgs, submit};
use crate::error::Failure;
use crate::limits::SURVEYS_MAX;
use crate::render::Ui;

/// All answers of the host: of its containers, or of these `guests`.
pub(super) async fn ask(
    client: &Client,
    ui: &mut Ui,
    host: &HostView,
    guests: Option<BTreeSet<Vmid>>,
    order: &OrderArgs,
) -> Result<Survey, Failure> {
    let identity = Identity::generate();
    let recipient = identity.to_public().to_string();
    let what = if guests.is_some() { "guests" } else { "containers" };
    let mut whole = Survey::default();
    for _ in 0..SURVEYS_MAX {
        let act = Act::Survey(Asked { recipient: recipient.clone(), after: whole.next.take(), guests: guests.clone() });
        let answer = submit::ask(client, ui, host, act, ResourceId::host(), order).await?;
        whole.extend(open(&identity, &answer)?);
        if whole.next.is_none() {
            return Ok(whole);
        }
    }
    let message = format!("host {} has more {what} than {SURVEYS_MAX} answers hold", host.name);
    Err(Failure::from(Fault::new(Code::TooLarge, message)).with_remedy("remove what is not needed there, and ask again"))
}

/// Without the host's answer there is nothing to import.
pub(super) fn require_answer(order: &OrderArgs, what: &str) -> Result<(), Failure> {
    if order.no_answer() {
        return Err(Failure::usage(format!("`import {what}` needs the host's answer"), "leave --save, --key and --no-wait out"));
    }
    Ok(())
}

fn open(identity: &Identity, answer: &Value) -> Result<Survey, Failure> {
    let bad = |why: String| Failure::from(Fault::new(Code::BadContent, format!("the host's answer cannot be read: {why}")));
    let sealed = answer.get("sealed").and_then(Value::as_str).ok_or_else(|| bad("it holds nothing".to_owned()))?;
    let sealed = base64::engine::general_purpose::STANDARD.decode(sealed).map_err(|e| bad(e.to_string()))?;
    let text = age::decrypt(identity, &sealed).map_err(|e| bad(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))
}
