//! What containers and commands write, on its way from hosts to operators. The hub only passes it on, and keeps none of it.

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostId, OpId};
use tokio::sync::mpsc;

use super::readings::{Place, Readings};
use crate::limits;

/// Logs under way. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Logs(Readings<Reader>);

/// Who reads one log.
#[derive(Debug, Clone)]
struct Reader {
    is_output: bool,
    parts: mpsc::Sender<Result<Chunk, Fault>>,
}

/// What is read as it comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// What a container writes.
    Log {
        /// Its name on the engine.
        container: String,
        /// Whether to go on with what it writes from now on.
        follow: bool,
        /// Only so many of the last lines.
        tail: Option<u32>,
        /// Only what was written since, in seconds since 1970.
        since_s: u64,
    },
    /// What the command of an operation says while it runs.
    Output(OpId),
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// What the container wrote.
    pub data: Vec<u8>,
    /// Whether to its standard error.
    pub is_stderr: bool,
}

/// One log under way, until it is dropped.
#[derive(Debug)]
pub struct Log {
    place: Place<Reader>,
    parts: mpsc::Receiver<Result<Chunk, Fault>>,
}

impl Logs {
    /// Begins to read a log from a host's session.
    ///
    /// # Errors
    /// [`Code::Busy`] when too many are under way, of this host or of all.
    pub fn begin(&self, host: &HostId, session: u64, is_output: bool) -> Result<Log, Fault> {
        let (tx, parts) = mpsc::channel(limits::LOG_WINDOW + 1);
        let place = self.0.begin(host, session, Reader { is_output, parts: tx }, |under_way| {
            let of_host = under_way.values().filter(|r| r.host == *host && r.reader.is_output == is_output).count();
            let busy = |what: String| Err(Fault::new(Code::Busy, format!("{what}; try again later")));
            if under_way.len() >= limits::LOGS_MAX {
                return busy(format!("{} logs are being read already through this hub", limits::LOGS_MAX));
            }
            if !is_output && of_host >= limits::LOGS_OF_HOST_MAX {
                return busy(format!("{of_host} logs of this host are being read already"));
            }
            if is_output && of_host >= limits::OUTPUTS_OF_HOST_MAX {
                return busy(format!("the output of {of_host} commands on this host is being read already"));
            }
            Ok(())
        })?;
        Ok(Log { place, parts })
    }

    /// Passes on what a host's session sent. What nobody asked this session for is dropped; one that sends more than it was told
    /// that there is room for is listened to no longer, as a session never waits for who reads.
    pub fn answer(&self, host: &HostId, session: u64, request_id: u64, part: Result<Option<Chunk>, Fault>) {
        let Some(reader) = self.0.with(host, session, request_id, |reader| reader.clone()) else { return };
        let too_much = || Fault::new(Code::TooLarge, "the host sent more of its log at once than it was asked for");
        let end = match part {
            // The last place is for how it ends.
            Ok(Some(chunk)) if chunk.data.len() <= limits::LOG_PART_MAX && reader.parts.capacity() > 1 => {
                let _ = reader.parts.try_send(Ok(chunk));
                return;
            }
            Ok(Some(_)) => Some(too_much()),
            Ok(None) => None,
            Err(fault) => Some(fault),
        };
        self.0.end(request_id);
        if let Some(fault) = end {
            let _ = reader.parts.try_send(Err(fault));
        }
    }

    /// Ends what a session that is gone cannot send any more.
    pub fn session_ended(&self, host: &HostId, session: u64) {
        self.0.session_ended(host, session, |reader| {
            let _ = reader.parts.try_send(Err(Fault::new(Code::Waiting, "the host's session ended")));
        });
    }
}

impl Log {
    /// What the host's answer is to name.
    #[must_use]
    pub const fn request_id(&self) -> u64 {
        self.place.request_id
    }

    /// The next part; `None` at the end.
    ///
    /// # Errors
    /// What the host says.
    pub async fn next(&mut self) -> Result<Option<Chunk>, Fault> {
        self.parts.recv().await.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(n: u8) -> HostId {
        HostId::of_key(&[n; 32])
    }

    fn chunk(text: &str) -> Result<Option<Chunk>, Fault> {
        Ok(Some(Chunk { data: text.as_bytes().to_vec(), is_stderr: false }))
    }

    #[tokio::test]
    async fn only_the_session_that_was_asked_answers_and_its_end_is_told() {
        let logs = Logs::default();
        let mut log = logs.begin(&host(1), 7, false).unwrap();
        logs.answer(&host(2), 7, log.request_id(), chunk("other host"));
        logs.answer(&host(1), 8, log.request_id(), chunk("other session"));
        logs.answer(&host(1), 7, log.request_id(), chunk("a"));
        assert_eq!(log.next().await.unwrap().unwrap().data, b"a");
        logs.session_ended(&host(1), 7);
        assert_eq!(log.next().await.unwrap_err().code, Code::Waiting);
        assert_eq!(log.next().await, Ok(None));
    }

    #[tokio::test]
    async fn a_host_that_sends_more_than_there_is_room_for_is_cut_off_and_its_reader_told() {
        let logs = Logs::default();
        let mut log = logs.begin(&host(1), 7, false).unwrap();
        for n in 0..limits::LOG_WINDOW + 5 {
            logs.answer(&host(1), 7, log.request_id(), chunk(&n.to_string()));
        }
        for n in 0..limits::LOG_WINDOW {
            assert_eq!(log.next().await.unwrap().unwrap().data, n.to_string().into_bytes());
        }
        assert_eq!(log.next().await.unwrap_err().code, Code::TooLarge);
        assert_eq!(log.next().await, Ok(None));
    }

    #[tokio::test]
    async fn places_are_given_back() {
        let logs = Logs::default();
        let open: Vec<Log> = (0..limits::LOGS_OF_HOST_MAX).map(|_| logs.begin(&host(1), 7, false).unwrap()).collect();
        assert_eq!(logs.begin(&host(1), 7, false).unwrap_err().code, Code::Busy);
        assert!(logs.begin(&host(1), 7, true).is_ok(), "who follows logs is in no command's way");
        drop(open);
        assert!(logs.begin(&host(1), 7, false).is_ok());
    }
}
