//! `moorctl events`: what happened, as the hub recorded it.

use clap::Args;
use owo_colors::OwoColorize;

use super::Env;
use crate::client::EventFacts;
use crate::error::Failure;
use crate::limits::EVENTS_DEFAULT;
use crate::render::Ui;

/// Arguments of `events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    /// Stay, and show what comes
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the past
    #[arg(short = 'n', long, default_value_t = EVENTS_DEFAULT, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Only events after this sequence number
    #[arg(long, default_value_t = 0, value_name = "SEQUENCE", hide_default_value = true)]
    pub after: u64,
    /// Only events that concern this host
    #[arg(long, value_name = "NAME")]
    pub host: Option<String>,
    /// Only events that concern this topology
    #[arg(long, value_name = "NAME")]
    pub topology: Option<String>,
}

/// Runs it; with -o json each event is a line of its own.
///
/// # Errors
/// What calls can fail with; when the stream breaks.
pub async fn run(args: EventsArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let client = env.client(ui).await?;
    let mut stream = client.events(args.after, args.limit, args.follow).await?;
    while let Some(event) = stream.next().await? {
        let wanted = |filter: &Option<String>, value: &str| filter.as_deref().is_none_or(|f| f == value);
        if wanted(&args.host, &event.host) && wanted(&args.topology, &event.topology) {
            ui.item(&event, || line(&event))?;
        }
    }
    Ok(0)
}

fn line(event: &EventFacts) -> String {
    let mut about = Vec::new();
    if !event.host.is_empty() {
        about.push(event.host.clone());
    }
    if !event.topology.is_empty() {
        about.push(match event.generation {
            0 => event.topology.clone(),
            generation => format!("{}@{generation}", event.topology),
        });
    }
    let kind = format!("{:<14}", event.kind);
    let kind = if event.code.is_empty() { kind.bold().to_string() } else { kind.red().bold().to_string() };
    let code = if event.code.is_empty() { String::new() } else { format!(" [{}]", event.code) };
    let by =
        if event.actor.is_empty() || event.actor == "hub" { String::new() } else { format!(" ({})", event.actor).dimmed().to_string() };
    format!("{}  {kind} {}  {}{code}{by}\n", event.at.dimmed(), about.join(" "), event.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_with_its_code() {
        let event = EventFacts {
            sequence: 1,
            at: "2026-01-01T00:00:00Z".into(),
            kind: "refused".into(),
            actor: "hub".into(),
            host: "shop-17".into(),
            topology: "edge".into(),
            generation: 3,
            code: "expired".into(),
            message: "too late".into(),
        };
        let text = anstream::adapter::strip_str(&line(&event)).to_string();
        assert_eq!(text, "2026-01-01T00:00:00Z  refused        shop-17 edge@3  too late [expired]\n");
    }
}
