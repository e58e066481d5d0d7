//! The door for orders: who signed, for whom, what, and when. What an order needs of the journal (nonce, key) and of the
//! engine is judged behind it, in [`crate::ops`].

use std::borrow::Cow;
use std::sync::Arc;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, TopologyId, UnixSeconds};
use moorline_common::op::{Act, Class, OP_ENVELOPE_MAX, OP_SKEW_S, OpStatement, Order};
use moorline_common::saga::Shown;
use moorline_common::sign::{Envelope, Signed};
use moorline_common::trust::Evidence;
use tokio::sync::watch;

use super::judge::{Own, check_epoch, check_root_expiry, roots_of};
use super::{Target, internal};
use crate::clock::{BootTime, Clock};
use crate::config::Policy;
use crate::db::{DbError, blocking};
use crate::ledger::Ledger;
use crate::ledger::trial::Confirmed;
use crate::limits::{CLOCK_SKEW_ALARM_S, FLOOR_RAISE_KEPT_S, ISSUED_AHEAD_MAX_S};
use crate::plant::planted;
use crate::trust::Trust;

/// See the module. Cloned freely.
#[derive(Clone)]
pub struct Gate {
    pub(super) ledger: Ledger,
    pub(super) trust: watch::Receiver<Arc<Trust>>,
    pub(super) target: watch::Receiver<Target>,
    pub(super) trial: watch::Sender<u64>,
    pub(super) own: Own,
    pub(super) policy: Policy,
    pub(super) quarantine: Option<Fault>,
}

/// What this host knows about time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// The wall clock.
    pub wall: UnixSeconds,
    /// The earliest that it can be.
    pub floor: UnixSeconds,
    /// The floor as it is saved: what a restart in another boot begins with.
    pub saved: UnixSeconds,
    /// When the floor was last set by an order; what was signed before no longer counts.
    pub reset: UnixSeconds,
}

impl Clocks {
    /// Whether the wall clock and the floor are too far apart.
    #[must_use]
    pub fn is_unsound(&self) -> bool {
        self.wall.0.abs_diff(self.floor.0) > CLOCK_SKEW_ALARM_S
    }

    /// What time it is by what the host believes once it has verified a statement of `from`: the wall clock, unless that
    /// cannot be right.
    #[must_use]
    pub fn now(&self, from: UnixSeconds) -> UnixSeconds {
        let believed = Clocks { floor: self.floor.max(from), ..*self };
        if believed.is_unsound() { believed.floor } else { believed.floor.max(self.wall) }
    }

    /// Judges the window of a verified order, and tells the time floor once it is believed.
    ///
    /// A clock set back revives nothing, as the floor stands. One set far ahead makes nothing expire, as the floor then
    /// counts alone; until it is mended, nothing of the classes R3 and above is done.
    ///
    /// # Errors
    /// [`Code::NotYetValid`], [`Code::ClockUnsound`] or [`Code::Expired`].
    pub fn judge(&self, order: &Order) -> Result<UnixSeconds, Fault> {
        let statement = &order.statement;
        let (from, until) = (statement.not_before, statement.expires_at);
        if from < self.reset || (order.act == Act::TimeReset && from <= self.reset) {
            return Err(Fault::new(Code::Expired, "the order was signed before this host's time was set anew; sign it again"));
        }
        if order.act == Act::TimeReset {
            if from.0.saturating_sub(OP_SKEW_S) <= self.wall.0 && self.wall <= until {
                return Ok(from);
            }
            return Err(Fault::new(Code::ClockUnsound, "this host's clock is not in the order's window; set the clock first"));
        }
        // A clock that lost its battery is far behind the floor, and a verified order may tell it better.
        let is_behind = self.wall.plus(CLOCK_SKEW_ALARM_S) < self.floor;
        let ahead = if is_behind { ISSUED_AHEAD_MAX_S } else { OP_SKEW_S };
        if from > self.wall.max(self.floor).plus(ahead) {
            let by = from.0.saturating_sub(self.wall.max(self.floor).0);
            return Err(Fault::new(
                Code::NotYetValid,
                format!("signed {by} s after this host's time; set the clocks of the host and of the operator's machine, and sign again"),
            ));
        }
        let believed = Clocks { floor: self.floor.max(from), ..*self };
        let now = self.now(from);
        if believed.is_unsound() && order.class >= Class::R3 {
            return Err(Fault::new(
                Code::ClockUnsound,
                format!(
                    "this host's clock is {} hours from what it knows about time; nothing of class {} is done until that is mended",
                    self.wall.0.abs_diff(believed.floor.0) / 3600,
                    order.class
                ),
            ));
        }
        if now > until {
            return Err(Fault::new(
                Code::Expired,
                format!("the order's last moment was {} s ago; sign it again", now.0.saturating_sub(until.0)),
            ));
        }
        Ok(believed.floor)
    }
}

impl Gate {
    /// Judges the time of an order that was read, and raises the time floor by it.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub async fn admit(&self, order: &Order) -> Result<(), Fault> {
        let (clocks, boot) = self.clocks().await?;
        let floor = clocks.judge(order)?;
        // Elapsed time is known again after a restart; only what the order adds is worth a write.
        if floor.0 > clocks.floor.0.saturating_add(FLOOR_RAISE_KEPT_S) && order.act != Act::TimeReset {
            let ledger = self.ledger.clone();
            blocking(move || ledger.advance_time_floor(floor, &boot)).await.map_err(|e| internal(&e))?;
        }
        Ok(())
    }

    /// Who signed an order, for whom, what; not when. With it comes the trust by which that is so.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub async fn read(&self, envelope: Envelope) -> Result<(Order, Arc<Trust>), Fault> {
        let (clocks, _) = self.clocks().await?;
        self.verify(envelope, clocks)
    }

    /// Judges an order again that was accepted before, `by` that trust if it is known: trust or time may have changed since.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub async fn recheck(&self, order: &Order, by: Option<&Arc<Trust>>, envelope: &Envelope) -> Result<(), Fault> {
        let (clocks, _) = self.clocks().await?;
        // The same trust says the same of the same bytes.
        if by.is_some_and(|by| Arc::ptr_eq(by, &self.trust.borrow())) {
            self.check_standing(order, clocks)?;
        } else {
            self.verify(envelope.clone(), clocks)?;
        }
        clocks.judge(order)?;
        if planted("policy only at the door") { Ok(()) } else { self.allows(order) }
    }

    /// Verifies what was shown with an order of a saga, by the trust that verified the order.
    ///
    /// # Errors
    /// A [`Fault`] with the code of the first check that failed.
    pub fn shown(&self, evidence: Evidence, order: &Order, by: Option<&Arc<Trust>>) -> Result<Shown, Fault> {
        let trust = by.cloned().unwrap_or_else(|| self.trust.borrow().clone());
        let (root, binding) = roots_of(&trust)?;
        root.statement().verify_evidence(evidence, order, &binding.statement().name)
    }

    /// Whether the local policy of this host lets the order be done.
    ///
    /// # Errors
    /// [`Code::PolicyDenied`] with what would have to stand in the policy file.
    pub fn allows(&self, order: &Order) -> Result<(), Fault> {
        let (kind, class) = (order.act.kind(), order.class);
        if self.policy.ops_denied.iter().any(|denied| denied == kind) {
            return Err(Fault::new(Code::PolicyDenied, format!("`{kind}` is among the `ops_denied` of this host's policy file")));
        }
        if class > self.policy.op_class_max {
            return Err(Fault::new(
                Code::PolicyDenied,
                format!("this host's policy file has `op_class_max = \"{}\"`, and this is of class {class}", self.policy.op_class_max),
            ));
        }
        Ok(())
    }

    /// What this host knows about time now.
    ///
    /// # Errors
    /// [`Code::Internal`] when the ledger cannot be read.
    pub async fn clocks(&self) -> Result<(Clocks, BootTime), Fault> {
        let (floor, reset) = match self.ledger.times_known() {
            Some(times) => times,
            None => {
                let ledger = self.ledger.clone();
                blocking(move || ledger.times()).await.map_err(|e| internal(&e))?
            }
        };
        let boot = Clock.boot();
        let clocks = Clocks { wall: boot.wall, floor: floor.now(&boot), saved: floor.at, reset };
        let clocks = if planted("time by the wall clock") { Clocks { floor: clocks.wall, ..clocks } } else { clocks };
        let clocks = if planted("reset forgotten") { Clocks { reset: UnixSeconds(0), ..clocks } } else { clocks };
        Ok((clocks, boot))
    }

    /// What the host works towards.
    #[must_use]
    pub fn target(&self) -> Target {
        self.target.borrow().clone()
    }

    /// Takes an operator's word that a slice stays.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn confirm(&self, topology: TopologyId, generation: Generation) -> Result<Confirmed, DbError> {
        let ledger = self.ledger.clone();
        let confirmed = blocking(move || ledger.confirm(&topology, generation)).await?;
        self.trial.send_modify(|n| *n = n.wrapping_add(1));
        Ok(confirmed)
    }

    /// Why the host enforces nothing at present, although it has a slice.
    #[must_use]
    pub fn frozen(&self) -> Option<Fault> {
        self.trust.borrow().frozen.clone()
    }

    /// The ledger.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// This host.
    #[must_use]
    pub fn own(&self) -> &Own {
        &self.own
    }

    fn verify(&self, envelope: Envelope, clocks: Clocks) -> Result<(Order, Arc<Trust>), Fault> {
        if let Some(fault) = &self.quarantine {
            return Err(fault.clone());
        }
        let signed = Signed::<OpStatement>::new(envelope)?;
        let trust = self.trust.borrow().clone();
        let (root, binding) = roots_of(&trust)?;
        check_epoch(binding.statement(), &self.own)?;
        let mut binding = Cow::Borrowed(binding.statement());
        if planted("epoch not checked") {
            binding.to_mut().host_epoch = signed.peek()?.host_epoch;
        }
        let order = root.statement().verify_op(signed, &binding)?;
        self.check_standing(&order, clocks)?;
        Ok((order, trust))
    }

    /// What may end for a verified order although the trust is the same.
    fn check_standing(&self, order: &Order, clocks: Clocks) -> Result<(), Fault> {
        if let Some(fault) = &self.quarantine {
            return Err(fault.clone());
        }
        // What mends a wrong floor is not judged by it.
        let now = if order.act == Act::TimeReset { clocks.wall } else { clocks.now(order.statement.not_before) };
        check_root_expiry(roots_of(&self.trust.borrow())?.0.statement(), now)
    }
}

/// Reads an order's envelope within its own bounds.
///
/// # Errors
/// [`Code::TooLarge`] or [`Code::BadEnvelope`].
pub fn read_envelope(json: &[u8]) -> Result<Envelope, Fault> {
    if json.len() > OP_ENVELOPE_MAX {
        return Err(Fault::new(Code::TooLarge, format!("an order of {} bytes; at most {OP_ENVELOPE_MAX} are taken", json.len())));
    }
    Envelope::from_json(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use moorline_common::id::{HostEpoch, HostId, IdempotencyKey, Nonce, OpId, ResourceId};
    use serde_json::json;

    const DAY: u64 = 24 * 3600;
    const T: u64 = 1_700_000_000;

    fn order(act: Act, resource: &str, from: u64, until: u64) -> Order {
        let resource = ResourceId::parse(resource).unwrap();
        let statement = OpStatement {
            cluster: moorline_common::id::ClusterId::parse("c").unwrap(),
            op_id: OpId::parse("0197a2b4-1c3d-7e5f-8a6b-0123456789ab").unwrap(),
            idempotency_key: IdempotencyKey::parse("k").unwrap(),
            host_id: HostId::of_key(&[1; 32]),
            host_epoch: HostEpoch::parse("e".repeat(32)).unwrap(),
            resource: resource.clone(),
            incarnation: None,
            kind: act.kind().to_owned(),
            params: json!({}),
            precondition: None,
            not_before: UnixSeconds(from),
            expires_at: UnixSeconds(until),
            nonce: Nonce::parse("0".repeat(32)).unwrap(),
            root_version: 1,
            reason: String::new(),
            saga: None,
        };
        Order { class: act.class(&resource), intent: statement.intent().unwrap(), statement, act }
    }

    /// What time it is when the order counts.
    fn judge(wall: u64, floor: u64, reset: u64, order: &Order) -> Result<u64, Code> {
        let clocks = Clocks { wall: UnixSeconds(wall), floor: UnixSeconds(floor), saved: UnixSeconds(floor), reset: UnixSeconds(reset) };
        let now = if order.act == Act::TimeReset { clocks.wall } else { clocks.now(order.statement.not_before) };
        clocks.judge(order).map(|_| now.0).map_err(|f| f.code)
    }

    #[test]
    fn an_order_counts_within_its_window() {
        let stop = order(Act::Stop { timeout_s: None }, "docker/container/c", T, T + 900);
        for (wall, floor, expected) in [
            (T, T - 60, Ok(T)),
            (T + 900, T, Ok(T + 900)),
            (T + 901, T, Err(Code::Expired)),
            (T - OP_SKEW_S, T - 600, Ok(T)),
            (T - OP_SKEW_S - 1, T - 600, Err(Code::NotYetValid)),
            // A clock set back does not revive it.
            (T - 600, T + 901, Err(Code::Expired)),
            (T - 30 * DAY, T + 901, Err(Code::Expired)),
            // One set to 2099 does not end it.
            (T + 3000 * DAY, T, Ok(T)),
            (T + 3000 * DAY, T + 901, Err(Code::Expired)),
            // A host that was off for long learns the time from it.
            (T + 5, T - 100 * DAY, Ok(T + 5)),
            // One whose clock stands at its beginning, too, but no further than a day.
            (0, T - 3600, Ok(T)),
            (0, T - 2 * DAY, Err(Code::NotYetValid)),
        ] {
            assert_eq!(judge(wall, floor, 0, &stop), expected, "wall {wall} floor {floor}");
        }
    }

    #[test]
    fn nothing_irreversible_is_done_by_a_clock_that_cannot_be_right() {
        let destroy = order(Act::Destroy { volumes: false }, "docker/volume/v", T, T + 900);
        assert_eq!(judge(T, T, 0, &destroy), Ok(T));
        assert_eq!(judge(T + 2 * DAY, T, 0, &destroy), Err(Code::ClockUnsound));
        assert_eq!(judge(T - 2 * DAY, T + 1, 0, &destroy), Err(Code::ClockUnsound));
        assert_eq!(judge(T + 5, T - 100 * DAY, 0, &destroy), Ok(T + 5), "the order itself tells the time");
    }

    #[test]
    fn a_time_reset_mends_the_floor_by_the_clock_once() {
        let reset = order(Act::TimeReset, "host", T, T + 900);
        let far = T + 3000 * DAY;
        assert_eq!(judge(T + 1, far, 0, &reset), Ok(T + 1));
        assert_eq!(judge(far, far, 0, &reset), Err(Code::ClockUnsound), "the clock must be right");
        assert_eq!(judge(T + 1, far, T, &reset), Err(Code::Expired), "not a second time");
        let before = order(Act::Start, "docker/container/c", T - 60, T + 900);
        assert_eq!(judge(T + 1, T + 1, T, &before), Err(Code::Expired), "nothing signed before counts");
    }
}
