//! The link: the agent's one connection, which it dials out itself, to whichever hub answers.
//!
//! It carries signed statements to the intake and the host's state to the hub. It decides nothing: losing
//! it changes nothing on the host.

use std::sync::Arc;
use std::time::Duration;

use moorline_common::fault::Fault;
use moorline_common::id::UnixSeconds;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::identity::{Enrolment, HostKeys, StateDir, Transport};
use crate::intake::judge::Own;
use crate::intake::{Intake, Refused};
use crate::journal::Journal;
use crate::ledger::Ledger;
use crate::limits::{REDIAL_QUICK, REDIAL_QUICK_TRIES, REDIAL_SLOW, RENEW_GAP, SESSION_STABLE};
use crate::reconcile;
use crate::trust::TrustStore;

mod logs;
mod ops;
pub mod session;
pub mod transport;
mod witness;

use session::{End, Session, With};
use transport::{LinkError, Which};

/// How the link is, for `moorline-agent status`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkState {
    /// The hub that the session is with; `None` while there is none.
    pub hub: Option<String>,
    /// Since when the link has been as it is.
    pub since: UnixSeconds,
    /// Why the last session or dial failed.
    pub last_error: Option<String>,
    /// The last statement that was refused.
    pub last_refusal: Option<Refused>,
}

/// What a link is made of.
pub struct Parts<J> {
    /// The state folder, for certificates.
    pub state_dir: StateDir,
    /// What was joined.
    pub enrolment: Enrolment,
    /// The host's keys.
    pub keys: Arc<HostKeys>,
    /// The door for signed statements.
    pub intake: Intake,
    /// What was accepted and applied.
    pub ledger: Ledger,
    /// What was believed, to be handed back to a hub that lost it.
    pub trust_store: TrustStore,
    /// The journal, for its head.
    pub journal: J,
    /// The host's state.
    pub reconciler: reconcile::Handle,
    /// How far pulls are.
    pub pulls: crate::driver::pulls::View,
    /// What operators order once.
    pub ops: crate::ops::Handle,
    /// This host.
    pub own: Own,
    /// What containers write, when this host's policy lets the hub read it.
    pub logs: Option<crate::driver::logs::SharedLogs>,
    /// The driver's name.
    pub driver: &'static str,
    /// Why nothing may be changed, if the agent's records are damaged.
    pub quarantine: Option<Fault>,
}

/// See the module.
pub struct Link<J> {
    parts: Parts<J>,
    state: watch::Sender<LinkState>,
    renew_not_before: Instant,
    /// The hub has just rejected the renewed certificate for good: one dial with the older one may follow.
    next_rejected: bool,
}

impl<J: Journal> Link<J> {
    /// A link that has not dialled yet, and how it is.
    #[must_use]
    pub fn new(parts: Parts<J>) -> (Self, watch::Receiver<LinkState>) {
        let (state, state_rx) = watch::channel(LinkState::default());
        (Self { parts, state, renew_not_before: Instant::now(), next_rejected: false }, state_rx)
    }

    /// Keeps a session open until `shutdown`. Returns why, when the host's records are older than what the hub has seen of
    /// them.
    pub async fn run(mut self, shutdown: CancellationToken) -> Option<String> {
        shutdown.run_until_cancelled(self.keep_connected()).await
    }

    async fn keep_connected(&mut self) -> String {
        let mut failures: u32 = 0;
        loop {
            let began = Instant::now();
            let renewed = match self.one_round().await {
                Ok(renewed) => renewed,
                Err(behind) => return behind,
            };
            let had_session = self.state.borrow().hub.is_some();
            self.state.send_modify(|s| {
                if s.hub.take().is_some() {
                    s.since = Clock.wall();
                }
            });
            if renewed || (had_session && began.elapsed() >= SESSION_STABLE) {
                failures = 0;
            }
            failures = failures.saturating_add(1);
            tokio::time::sleep(redial_wait(failures, getrandom::u64().unwrap_or(0))).await;
        }
    }

    /// Tries the addresses in their order until there was a session. Returns whether there is a renewed
    /// certificate to use; an error says that the host's records are behind.
    async fn one_round(&mut self) -> Result<bool, String> {
        for address in self.parts.enrolment.hubs.clone() {
            match self.one_session(&address).await {
                Ok(End::Renewed) => {
                    self.renew_not_before = Instant::now() + RENEW_GAP;
                    return Ok(true);
                }
                Err(LinkError::Behind(reason)) => return Err(reason),
                Err(error) => self.note_error(&address, &error),
            }
            if self.state.borrow().hub.is_some() {
                break;
            }
        }
        Ok(false)
    }

    /// A renewed certificate is kept to until the hub rejects it for good. That no Welcome came tells nothing: the hub may
    /// count it as used already, and then an older one means to it that two hold this identity.
    async fn one_session(&mut self, address: &str) -> Result<End, LinkError> {
        let (certificate, which) = transport::choose(&self.parts.state_dir, std::mem::take(&mut self.next_rejected))?;
        let result = self.session_by(address, certificate, which).await;
        self.next_rejected = which == Which::Next && result.as_ref().is_err_and(LinkError::rejects_certificate);
        result
    }

    async fn session_by(&mut self, address: &str, certificate: Transport, which: Which) -> Result<End, LinkError> {
        let pins = transport::pins(&self.parts.intake.trust().borrow(), &self.parts.enrolment);
        let (state_dir, keys, serial) = (self.parts.state_dir.clone(), self.parts.keys.clone(), certificate.serial);
        let gateway = transport::open(address, pins, Some(certificate.client_identity()?)).await?;
        let with = With { gateway: gateway.clone(), link: &self.state, certificate, which, renew_not_before: self.renew_not_before };
        let session = match Session::open(&mut self.parts, with).await {
            // This host was away for longer than its certificate lived: the hub accepts it once more, to renew it.
            Err(LinkError::Unauthenticated(reason)) => {
                tracing::info!(hub = address, %reason, "renewing the transport certificate");
                if which == Which::Next {
                    transport::promote(&state_dir).await?;
                }
                transport::renew(gateway, state_dir, keys, serial).await?;
                return Ok(End::Renewed);
            }
            opened => opened?,
        };
        self.state.send_modify(|s| {
            s.hub = Some(address.to_owned());
            s.since = Clock.wall();
            s.last_error = None;
        });
        tracing::info!(hub = address, "connected");
        session.run().await
    }

    fn note_error(&self, address: &str, error: &LinkError) {
        let text = error.to_string();
        let is_new = self.state.borrow().last_error.as_ref() != Some(&text);
        if is_new {
            tracing::warn!(hub = address, error = %text, "no session with the hub");
        } else {
            tracing::debug!(hub = address, error = %text, "no session with the hub");
        }
        self.state.send_modify(|s| s.last_error = Some(text));
    }
}

/// How long to wait before all addresses are tried again.
fn redial_wait(failures: u32, random: u64) -> Duration {
    match failures.checked_sub(REDIAL_QUICK_TRIES) {
        None | Some(0) => REDIAL_QUICK.wait(failures, random),
        Some(more) => REDIAL_SLOW.wait(more, random),
    }
}

#[cfg(test)]
mod tests;
