//! A container's log, as the engine keeps it.

use bollard::container::LogOutput;
use bollard::query_parameters::{InspectContainerOptions, LogsOptionsBuilder};
use futures_util::{StreamExt as _, TryStreamExt as _};
use moorline_common::fault::Code;

use super::super::logs::{LogPart, LogStream, LogWish};
use super::super::{DriverError, DriverErrorKind, Ownership};
use super::{Engine, error};

/// Begins to read the log that `wish` names, if it is of a container of ours.
pub(super) async fn open(engine: &Engine, owned: &Ownership, wish: &LogWish) -> Result<LogStream, DriverError> {
    let name = wish.container.name();
    let live = engine.docker.inspect_container(name, None::<InspectContainerOptions>).await;
    let live = live.map_err(|e| error::from_engine(&e, "reading a log"))?;
    let id = live.id.unwrap_or_default();
    let labels = live.config.and_then(|config| config.labels).unwrap_or_default();
    if owned.of(&id, &labels).is_none() {
        let message = format!("the container `{name}` is not one of Moorline's: its log is read on the host itself");
        return Err(DriverError { kind: DriverErrorKind::Permanent, code: Code::NotOwned, message });
    }
    let tail = wish.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).follow(wish.follow).tail(&tail);
    let options = options.since(i32::try_from(wish.since_s).unwrap_or(i32::MAX)).build();
    let read = engine.docker.logs(&id, Some(options)).map_err(|e| error::from_engine(&e, "reading a log"));
    Ok(read.map_ok(part).boxed())
}

fn part(output: LogOutput) -> LogPart {
    match output {
        LogOutput::StdErr { message } => LogPart { data: message.to_vec(), is_stderr: true },
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            LogPart { data: message.to_vec(), is_stderr: false }
        }
    }
}
