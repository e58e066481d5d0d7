//! `moorctl host`: machines that join, are approved, listed and removed.

use clap::Subcommand;

use super::Env;
use crate::error::Failure;
use crate::render::Ui;

pub mod add;
pub mod approve;
pub mod cordon;
pub mod drain;
mod in_order;
pub mod ls;
pub mod rm;
pub mod uncordon;

/// Verbs of `host`.
#[derive(Debug, Subcommand)]
pub enum HostVerb {
    /// Print a one-time join token, wait for the host, check it, bind it and give it its slices
    Add(add::AddArgs),
    /// Bind a host that has joined and waits, or anew one that the hub has locked
    Approve(approve::ApproveArgs),
    /// List hosts with their fingerprints and labels
    Ls,
    /// Keep what is pushed from now on from a host; it stays as it is, and operations are still done
    Cordon(cordon::CordonArgs),
    /// Cordon a host, and stop what runs on it by signed operations, in order
    Drain(drain::DrainArgs),
    /// Start what `drain` stopped, and let the host have what is pushed again
    Uncordon(uncordon::UncordonArgs),
    /// Forget a host, so that its name is free; what runs on it stays
    Rm(rm::RmArgs),
}

/// Runs one of them.
///
/// # Errors
/// What the verb failed with.
pub async fn run(verb: HostVerb, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    match verb {
        HostVerb::Add(args) => add::run(args, env, ui).await,
        HostVerb::Approve(args) => approve::run(args, env, ui).await,
        HostVerb::Ls => ls::run(env, ui).await,
        HostVerb::Cordon(args) => cordon::run(args, env, ui).await,
        HostVerb::Drain(args) => drain::run(args, env, ui).await,
        HostVerb::Uncordon(args) => uncordon::run(args, env, ui).await,
        HostVerb::Rm(args) => rm::run(args, env, ui).await,
    }
}

/// Reads `key=value` of a label.
///
/// # Errors
/// What was expected.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as key=value")?;
    let plain = |t: &str| t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'));
    if key.is_empty() || key.len() > 63 || value.len() > 63 || !plain(key) || !plain(value) {
        return Err("key and value are at most 63 letters, digits, -, _, . and /".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_simple_words() {
        assert_eq!(parse_label("site=sydney"), Ok(("site".into(), "sydney".into())));
        assert!(parse_label("site").is_err());
        assert!(parse_label("=x").is_err());
        assert!(parse_label("a=b c").is_err());
    }
}
