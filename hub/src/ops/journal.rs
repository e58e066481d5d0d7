//! Journals on their way from hosts to operators. The hub only passes them on: who asked checks them.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::HostId;
use tokio::sync::mpsc;

use super::readings::{Place, Readings};
use crate::limits;

/// Journals under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Journals(Readings<Reader>);

/// What is known of one journal under way.
#[derive(Debug, Clone)]
struct Reader {
    parts: mpsc::Sender<Part>,
    bytes: u64,
}

/// What comes of a journal.
#[derive(Debug)]
enum Part {
    Lines(Vec<u8>),
    Last,
    Failed(Fault),
}

/// One journal under way, until it is dropped.
#[derive(Debug)]
pub struct Reading {
    place: Place<Reader>,
    parts: mpsc::Receiver<Part>,
}

impl Journals {
    /// Begins to read a host's journal from its session.
    ///
    /// # Errors
    /// [`Code::Busy`] when that host's is under way already, or too many are.
    pub fn begin(&self, host: &HostId, session: u64) -> Result<Reading, Fault> {
        let (tx, parts) = mpsc::channel(limits::JOURNAL_QUEUE);
        let place = self.0.begin(host, session, Reader { parts: tx, bytes: 0 }, |under_way| {
            if under_way.len() >= limits::JOURNALS_MAX {
                return Err(Fault::new(Code::Busy, format!("{} journals are being read already; try again later", under_way.len())));
            }
            if under_way.values().any(|r| r.host == *host) {
                return Err(Fault::new(Code::Busy, "this host's journal is being read already; try again later"));
            }
            Ok(())
        })?;
        Ok(Reading { place, parts })
    }

    /// Passes on what a host's session answered. What nobody asked this session for is dropped.
    pub async fn answer(&self, host: &HostId, session: u64, request_id: u64, lines: Vec<u8>, last: bool, fault: Option<Fault>) {
        let bytes = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        let found = self.0.with(host, session, request_id, |reader| {
            reader.bytes = reader.bytes.saturating_add(bytes);
            reader.clone()
        });
        let Some(reader) = found else { return };
        let fault = if lines.len() > limits::JOURNAL_PART_MAX || reader.bytes > limits::JOURNAL_BYTES_MAX {
            Some(Fault::new(Code::TooLarge, "the host sent more of its journal than the hub passes on"))
        } else {
            fault
        };
        let is_over = last || fault.is_some();
        let mut parts = Vec::new();
        match fault {
            Some(fault) => parts.push(Part::Failed(fault)),
            None => {
                parts.extend((!lines.is_empty()).then_some(Part::Lines(lines)));
                parts.extend(last.then_some(Part::Last));
            }
        }
        let mut is_stalled = false;
        for part in parts {
            is_stalled |= reader.parts.send_timeout(part, limits::JOURNAL_STALL).await.is_err();
        }
        // The session must not wait for ever for who reads too slowly.
        if is_over || is_stalled {
            self.0.end(request_id);
        }
    }

    /// Ends what a session that is gone cannot send any more.
    pub fn session_ended(&self, host: &HostId, session: u64) {
        // That nothing comes any more is what it is told.
        self.0.session_ended(host, session, |_| {});
    }
}

impl Reading {
    /// What the host's answer is to name.
    #[must_use]
    pub const fn request_id(&self) -> u64 {
        self.place.request_id
    }

    /// The next lines; `None` at the end.
    ///
    /// # Errors
    /// [`Code::Waiting`] when the host sends nothing any more, or what the host says.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        match tokio::time::timeout(limits::JOURNAL_PATIENCE, self.parts.recv()).await {
            Ok(Some(Part::Lines(lines))) => Ok(Some(lines)),
            Ok(Some(Part::Last)) => Ok(None),
            Ok(Some(Part::Failed(fault))) => Err(fault),
            Ok(None) => Err(Fault::new(
                Code::Waiting,
                "the host's session ended in the middle of its journal, or it was read too slowly; try again",
            )),
            Err(_) => Err(Fault::new(Code::Waiting, "the host sends no more of its journal; try again when it is less busy")),
        }
    }
}
