//! Giving a slice up for its fallback: what comes back is verified anew, as if it had just come in, and enforced in its place.
//!
//! The authority is the slice that is given up: an operator signed into it what may come back. The hub has no say in it.

use std::sync::Arc;

use moorline_common::fallback::Reason;
use moorline_common::fault::{Code, Fault};
use moorline_common::id::Generation;
use moorline_common::sign::{Envelope, Verified};
use moorline_common::statement::{Sealed, SliceStatement};
use moorline_common::topology::HostSpec;
use tokio::sync::watch;

use super::{Desired, Intake, IntakeError, Parts, desired_of, internal, judge, policy};
use crate::clock::Clock;
use crate::db::blocking;
use crate::ledger::trial::{TrialRow, empty_hash};
use crate::ledger::{Admission, FloorState};
use crate::trust::Trust;

impl Intake {
    /// Changes whenever it is known anew how the accepted slice stands.
    #[must_use]
    pub fn trial_news(&self) -> watch::Receiver<u64> {
        self.trial.subscribe()
    }

    /// Tells those who watch that it is known anew how the accepted slice stands.
    pub fn tell_of_trial(&self) {
        self.trial.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Gives the slice of `row` up for its fallback. `false`: it is not on trial any more.
    ///
    /// # Errors
    /// A [`Fault`] when the fallback cannot be used: nothing has changed then.
    pub async fn go_back(&mut self, row: TrialRow, reason: Reason, why: Option<String>) -> Result<bool, Fault> {
        let turn = self.turn.clone();
        let _turn = turn.lock().await;
        if let Some(fault) = &self.parts.quarantine {
            return Err(fault.clone());
        }
        let (parts, trust) = (self.parts.clone(), self.trust.borrow().clone());
        let back = blocking(move || {
            let Some(floor) = parts.ledger.accepted()?.filter(|f| row.is_of(&f.topology, f.generation)) else { return Ok(None) };
            let (slice, _) = judge::verify_slice(Envelope::from_json(&floor.envelope)?, &trust, &parts.own)?;
            let (desired, sealed) = base(&parts, &trust, &slice, &row)?;
            policy::check(&row.topology, &desired.spec, &parts.policy, &parts.guarded, policy::resolve)?;
            parts.vault.check(&desired.spec, &sealed)?;
            let reason = why.map_or_else(|| reason.to_string(), |why| format!("{reason}: {why}"));
            tracing::warn!(topology = %row.topology, generation = %row.generation, to = %row.base.0, reason, "the slice is given up for its fallback");
            crate::crash::point("intake.back.before");
            if !parts.ledger.go_back(row.generation, &desired.admission, reason, Clock.wall())? {
                return Ok(None);
            }
            parts.vault.offer(&sealed);
            Ok::<_, IntakeError>(Some(desired))
        })
        .await
        .map_err(Fault::from)?;
        crate::crash::point("intake.back.after");
        let Some(desired) = back else { return Ok(false) };
        self.target.send_modify(|t| {
            t.desired = Some(Arc::new(desired));
            t.pushes += 1;
        });
        self.tell_of_trial();
        Ok(true)
    }

    /// Ends the trial of `row` with the slice in force, for good or because its fallback could not be used.
    ///
    /// # Errors
    /// A [`Fault`] when the ledger fails.
    pub async fn keep(&self, row: &TrialRow, unusable: Option<String>) -> Result<(), Fault> {
        let (ledger, topology, generation) = (self.parts.ledger.clone(), row.topology.clone(), row.generation);
        let ended = blocking(move || match unusable {
            None => ledger.lapse(&topology, generation),
            Some(reason) => ledger.give_fallback_up(&topology, generation, reason),
        });
        if ended.await.map_err(|e| internal(&e))? {
            self.tell_of_trial();
        }
        Ok(())
    }
}

/// The row of `slice`, if that was given up.
pub(super) fn given_up<'r>(row: Option<&'r TrialRow>, slice: &SliceStatement) -> Option<&'r TrialRow> {
    row.filter(|row| row.is_used() && row.is_of(&slice.topology, slice.generation))
}

/// What the host shall be in the place of `slice`, by `row`, and the values that this needs.
pub(super) fn base(
    parts: &Parts,
    trust: &Trust,
    slice: &Verified<SliceStatement>,
    row: &TrialRow,
) -> Result<(Desired, Sealed), IntakeError> {
    let unusable = |why: String| IntakeError::Refused(Fault::new(Code::FallbackUnusable, why));
    let Some(terms) = slice.statement().fallback.as_ref().filter(|terms| row.terms.as_ref() == Some(*terms)) else {
        return Err(unusable("the slice was signed with another fallback".to_owned()));
    };
    if let Some(why) = row.misfit(terms) {
        return Err(unusable(why));
    }
    if terms.generation == Generation(0) {
        return Ok((nothing(slice), Sealed::default()));
    }
    let envelope = Envelope::from_json(&parts.ledger.trial_base()?)?;
    let (base, spec) = judge::verify_slice(envelope, trust, &parts.own)?;
    let statement = base.statement();
    if statement.topology != row.topology || statement.generation != terms.generation || statement.version_hash != terms.version_hash {
        return Err(unusable("what was kept is not what the fallback names".to_owned()));
    }
    let mut desired = Desired { accepted: row.generation, ..desired_of(&base, spec) };
    // What operations leave unlike the fallback is held as of the slice that was accepted last.
    desired.admission.content_since = row.generation;
    let sealed = statement.sealed.clone();
    Ok((desired, sealed))
}

/// Nothing was there before `slice`: it says itself that all of it goes.
fn nothing(slice: &Verified<SliceStatement>) -> Desired {
    let gone = desired_of(slice, HostSpec::default());
    let admission = Admission {
        generation: Generation(0),
        version_hash: empty_hash(),
        content_since: gone.accepted,
        hydrated: "{}".to_owned(),
        is_empty: true,
        ..gone.admission
    };
    Desired { admission, when_gone: FloorState::TornDown, ..gone }
}
