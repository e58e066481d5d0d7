//! A command whose output is shown as it comes, and compared at its end with what the host has signed of it.

use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{OpId, ResourceId};
use moorline_common::op::{Act, Exec, Outcome, Stage, State};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::submit::{self, Order};
use super::view;
use super::wait::Beside;
use super::{OpWait, OrderArgs};
use crate::client::logs::LogStream;
use crate::client::{Client, HostView};
use crate::clock;
use crate::error::{EXIT_INTERRUPTED, Failure, LocalCode};
use crate::limits::{OUTPUT_HEAD_MAX, OUTPUT_SILENCE, RECEIPT_GRACE};
use crate::render::{Format, Ui, whole_characters};

/// Runs a command in a container; exits as it does. What it says is shown as it comes, or, in a format for programs, with all else at
/// its end.
///
/// # Errors
/// When it does not run to its end, or its output did not come whole.
pub async fn run(client: &Client, ui: &mut Ui, host: &HostView, exec: Exec, resource: ResourceId, reason: &str) -> Result<u8, Failure> {
    let may_last = Duration::from_secs(exec.timeout_s.into());
    let args = OrderArgs::usual(reason, OpWait::usual());
    let is_streamed = ui.format == Format::Table;
    let act = Act::Exec(Exec { stream: is_streamed, ..exec });
    let Order { statement, sealed, words, class } = submit::sign(client, ui, host, &act, resource, &args).await?;
    let remedy = "name the other operators' key files with --sign-with FILE, or write the order down: `moorctl op exec --save FILE`";
    let envelope = sealed.whole(remedy)?;
    let (signed, totals) = watch::channel(None);
    let mut showing = None;
    if is_streamed {
        // Most commands are over in no time: who takes what they say is there first.
        let stream = client.output(&host.host_id, &statement.op_id).await.map_err(away)?;
        showing = Some(AbortOnDropHandle::new(tokio::spawn(show(stream, totals))));
    }
    ui.note(&format!("{words}: operation {}", statement.op_id));
    let window = Duration::from_secs(statement.expires_at.0.saturating_sub(clock::now().0));
    let limit = window.saturating_add(may_last).saturating_add(RECEIPT_GRACE);
    let mut shown = None;
    let settled = async {
        submit::give(client, &statement, &envelope).await?;
        let settle = submit::settle(client, ui, host, &statement, &envelope, Some(limit), Beside::Quiet);
        tokio::pin!(settle);
        if let Some(showing) = &mut showing {
            tokio::select! {
                settled = &mut settle => return settled,
                // Where nobody reads any more, nobody waits.
                ended = showing => shown = Some(end_of(ended, &statement.op_id)?),
            }
        }
        settle.await
    };
    let mut view = settled.await.map_err(|failure| without_flags(failure, &statement.op_id))?;
    view.facts.class = class.to_string();
    if !is_streamed {
        submit::tell(ui, &view, &host.name)?;
    }
    let Some(receipt) = view.receipt.as_ref().filter(|receipt| receipt.result.get("stdout").is_some()) else {
        let judged = submit::judge(&view, &statement, host.require_bound()?);
        return judged.map_err(|failure| without_flags(failure, &statement.op_id));
    };
    let total = |name: &str| receipt.result.get(name).and_then(Value::as_u64).unwrap_or_default();
    signed.send_replace(Some([total("stdout_bytes"), total("stderr_bytes")]));
    if let (None, Some(showing)) = (&shown, showing) {
        shown = tokio::select! {
            ended = showing => Some(end_of(ended, &statement.op_id)?),
            Ok(()) = tokio::signal::ctrl_c() => return Err(broken_off(&statement.op_id)),
        };
    }
    let whole = shown.map_or(Ok(()), |shown| shown.complete(ui, &receipt.result));
    if !matches!(receipt.outcome, Outcome::Succeeded | Outcome::Failed) {
        // That nobody knows whether it ended, and what to do then, goes before what its output lacks.
        if let Err(lost) = whole {
            ui.warn(&lost.message);
        }
        let judged = submit::judge(&view, &statement, host.require_bound()?);
        return judged.map_err(|failure| without_flags(failure, &statement.op_id));
    }
    let code = receipt.result.get("exit_code").and_then(Value::as_i64);
    if is_streamed {
        let ended = code.map_or_else(|| "no exit code".to_owned(), |code| format!("exit code {code}"));
        ui.note(&format!("exec {} on {}: {}, {ended}, receipt verified", receipt.resource, host.name, receipt.outcome.as_str()));
    }
    whole?;
    match (view.facts.state, code.and_then(|code| u8::try_from(code).ok())) {
        (Stage::At(State::Failed), Some(code)) if code > 0 => Ok(code),
        _ => submit::judge(&view, &statement, host.require_bound()?),
    }
}

fn away(failure: Failure) -> Failure {
    if failure.is(Code::Waiting) {
        return failure.with_remedy("when it is back; or order it with `moorctl op exec`, which waits for it");
    }
    failure
}

/// What to do about a failure, in the words of a verb that has no key, no window and no incarnation of its own.
fn without_flags(failure: Failure, op_id: &OpId) -> Failure {
    if ["--key", "--expires", "--incarnation"].iter().any(|flag| failure.remedy.contains(flag)) {
        return failure.with_remedy(format!("look how it ended with `moorctl op show {op_id}` before you run it again"));
    }
    failure
}

/// What was shown until the end. Where it cannot be written any more, the command goes on unseen.
fn end_of(ended: Result<Result<Shown, Failure>, tokio::task::JoinError>, op_id: &OpId) -> Result<Shown, Failure> {
    let shown = ended.map_err(|e| Failure::local(format!("the output is shown no longer: {e}")))?;
    shown.map_err(|failure| {
        let why = if failure.is_quiet() { "nobody reads the output any more".to_owned() } else { failure.message };
        let message = format!("{why}: the command goes on, and the rest of its output is not kept");
        Failure::new(LocalCode::OutputLost, message, format!("look how it ends with `moorctl op show {op_id}`"))
    })
}

fn broken_off(op_id: &OpId) -> Failure {
    let failure = Failure::new(
        LocalCode::NotConverged,
        format!("operation {op_id} has ended; the rest of its output was not waited for, and what was shown is not verified"),
        format!("its receipt has the beginning: `moorctl op show {op_id}`"),
    );
    Failure { exit: EXIT_INTERRUPTED, ..failure }
}

/// What was shown.
#[derive(Default)]
struct Shown {
    out: Tally,
    err: Tally,
    /// Why it ended before the end.
    broken: Option<Failure>,
}

/// What was shown of one stream.
#[derive(Default)]
struct Tally {
    bytes: u64,
    digest: Sha256,
    /// The first bytes, as many as a receipt may have.
    head: Vec<u8>,
    /// The beginning of a character whose rest has not come yet.
    rest: Vec<u8>,
}

impl Tally {
    fn count(&mut self, data: &[u8]) {
        self.bytes = self.bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        self.digest.update(data);
        let room = OUTPUT_HEAD_MAX.saturating_sub(self.head.len());
        self.head.extend(data.iter().take(room));
    }

    /// What can be shown now of all that came.
    fn whole_characters(&mut self, data: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(data);
        whole_characters(&mut self.rest)
    }
}

/// Shows what comes until its end; once `totals`, the bytes of standard output and error that the host has signed, are known, until as much
/// came, or nothing comes any more.
async fn show(mut stream: LogStream, mut totals: watch::Receiver<Option<[u64; 2]>>) -> Result<Shown, Failure> {
    let mut ui = Ui::new(Format::Table, false);
    let mut shown = Shown::default();
    // Who reads slowly holds up this task, and nothing else that goes on here.
    let mut write =
        |data: &[u8], is_stderr: bool| tokio::task::block_in_place(|| if is_stderr { ui.error_output(data) } else { ui.output(data) });
    loop {
        let known = *totals.borrow();
        if let Some([out, err]) = known
            && (shown.out.bytes > out || shown.err.bytes > err || (shown.out.bytes, shown.err.bytes) == (out, err))
        {
            return Ok(shown);
        }
        let silence = async {
            if known.is_none() && totals.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
            if known.is_some() {
                tokio::time::sleep(OUTPUT_SILENCE).await;
            }
        };
        let part = tokio::select! {
            part = stream.next() => part,
            // That they are known now is looked at first.
            () = silence => match known {
                Some(_) => return Ok(shown),
                None => continue,
            },
        };
        match part {
            Ok(Some(part)) => {
                let tally = if part.is_stderr { &mut shown.err } else { &mut shown.out };
                tally.count(&part.data);
                write(&tally.whole_characters(&part.data), part.is_stderr)?;
            }
            Ok(None) => return Ok(shown),
            Err(failure) => return Ok(Shown { broken: Some(failure), ..shown }),
        }
    }
}

impl Shown {
    /// Shows what the receipt has besides, and compares all of it with what the host has signed.
    fn complete(mut self, ui: &mut Ui, result: &Value) -> Result<(), Failure> {
        for (name, tally) in [("stdout", &mut self.out), ("stderr", &mut self.err)] {
            // Not all of it came, and not what the host signed: the second is worse.
            if !tally.begins_like(result, name) {
                return Err(altered(name));
            }
            let more = tally.rest(result, name);
            tally.count(&more);
            let more = [std::mem::take(&mut tally.rest), more].concat();
            if name == "stderr" { ui.error_output(&more)? } else { ui.output(&more)? }
        }
        let is_lost = result.get("output_lost").is_some();
        for (name, tally) in [("stdout", &self.out), ("stderr", &self.err)] {
            let field = |what: &str| result.get(format!("{name}_{what}"));
            let total = field("bytes").and_then(Value::as_u64).unwrap_or_default();
            if is_lost || tally.bytes < total {
                let missing = match total.saturating_sub(tally.bytes) {
                    0 => "some of it is".to_owned(),
                    bytes => format!("{bytes} bytes of {name} are"),
                };
                let why = match &self.broken {
                    Some(failure) => failure.message.clone(),
                    None if is_lost => "the agent could not hear all of it".to_owned(),
                    None => "it was withheld on its way".to_owned(),
                };
                let message = format!("the output did not come whole, {missing} missing, and what was shown is not verified: {why}");
                return Err(Failure::new(LocalCode::OutputLost, message, "run it again, if it may run twice, or let it write to a file"));
            }
            let digest = hex::encode(tally.digest.clone().finalize());
            if tally.bytes > total || field("sha256").and_then(Value::as_str) != Some(digest.as_str()) {
                return Err(altered(name));
            }
        }
        Ok(())
    }
}

fn altered(name: &str) -> Failure {
    let message = format!("THE OUTPUT THAT WAS SHOWN IS NOT THE ONE THAT THE HOST SIGNED ({name})");
    Failure::from(Fault::new(Code::HashMismatch, message))
        .with_remedy("believe nothing of what was shown: something on the way, the hub above all, has changed it")
}

impl Tally {
    /// Whether what was shown first is what the receipt has.
    fn begins_like(&self, result: &Value, name: &str) -> bool {
        let kept = view::decoded(result.get(name).and_then(Value::as_str).unwrap_or_default());
        // Nothing is kept of what the agent did not hear.
        kept.iter().zip(&self.head).all(|(kept, shown)| kept == shown)
    }

    /// What the receipt has of a stream that was not shown.
    fn rest(&self, result: &Value, name: &str) -> Vec<u8> {
        let kept = view::decoded(result.get(name).and_then(Value::as_str).unwrap_or_default());
        let total = result.get(format!("{name}_bytes")).and_then(Value::as_u64);
        let is_whole = u64::try_from(kept.len()).ok() == total;
        let from = usize::try_from(self.bytes).unwrap_or(usize::MAX);
        kept.get(from..).filter(|_| is_whole).unwrap_or_default().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use serde_json::json;

    use super::*;

    /// A receipt of a host that kept the first `kept` bytes of what the command said.
    fn receipt(said: &[u8], kept: usize) -> Value {
        let encoded = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
        json!({
            "exit_code": 0, "stdout": encoded(&said[..kept]), "stdout_bytes": said.len(), "stdout_sha256": digest(said),
            "stderr": "", "stderr_bytes": 0, "stderr_sha256": digest(b""),
        })
    }

    fn judged(shown: &[u8], result: &Value) -> Result<(), &'static str> {
        let mut ui = Ui::new(Format::Table, false);
        let mut all = Shown::default();
        all.out.count(shown);
        all.complete(&mut ui, result).map_err(|failure| failure.code)
    }

    #[test]
    fn what_was_shown_is_what_the_host_signed_or_it_is_said_so() {
        let said = b"one two three";
        assert_eq!(judged(said, &receipt(said, 4)), Ok(()));
        assert_eq!(judged(b"one ", &receipt(said, said.len())), Ok(()), "the receipt has the rest");
        assert_eq!(judged(b"one ", &receipt(said, 4)), Err("output_lost"));
        for altered in [&b"one two four!"[..], b"one two three and more"] {
            assert_eq!(judged(altered, &receipt(said, 4)), Err("hash_mismatch"));
        }
        assert_eq!(judged(b"two", &receipt(said, said.len())), Err("hash_mismatch"));
        assert_eq!(judged(b"onE two thre", &receipt(said, 4)), Err("hash_mismatch"), "short of a byte, and another one changed");
        let mut lost = receipt(b"", 0);
        lost["output_lost"] = true.into();
        assert_eq!(judged(b"one", &lost), Err("output_lost"));
        let mut tally = Tally::default();
        assert_eq!(tally.whole_characters("aé".as_bytes().split_at(2).0), b"a");
        assert_eq!(tally.whole_characters("é€".as_bytes().split_at(1).1.split_at(2).0), "é".as_bytes());
        assert_eq!(tally.whole_characters(b"\x82\xac\xff"), b"\xe2\x82\xac\xff");
        let mut unsigned = receipt(said, 4);
        unsigned.as_object_mut().unwrap().remove("stdout_sha256");
        assert_eq!(judged(said, &unsigned), Err("hash_mismatch"));
    }
}
