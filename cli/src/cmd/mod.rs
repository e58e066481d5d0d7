//! The verbs, one per file: each reads its arguments, asks the client, decides with the pure modules, shows.

use moorline_common::sign::Envelope;
use moorline_common::trust::TrustRoot;

use crate::args::{Cli, Global, Verb};
use crate::client::{Client, walk};
use crate::error::Failure;
use crate::home::{Context, Home, Passphrases};
use crate::render::Ui;

pub mod completion;
pub mod confirm;
pub mod deploy;
pub mod diff;
pub mod down;
pub mod drift;
pub mod events;
pub mod exec;
pub mod get;
pub mod history;
pub mod host;
pub mod import;
pub mod init;
pub mod journal;
pub mod key;
pub mod logs;
pub mod op;
pub mod plan;
pub mod push;
pub mod revision_file;
pub mod rollback;
pub mod rollout;
pub mod saga;
pub mod schema;
pub mod status;
mod target;
pub mod validate;

/// Where a verb finds its context.
pub struct Env {
    /// The home folder.
    pub home: Home,
    /// The context that was named, if one was.
    pub context: Option<String>,
    /// Whether to sign although this machine's clock and the hub's differ.
    pub accept_clock: bool,
}

impl Env {
    fn new(global: &Global) -> Result<Self, Failure> {
        let mut home = Home::open(global.home.clone())?;
        home.passphrases = Passphrases::new(global.passphrase_file.clone());
        home.sign_with.clone_from(&global.sign_with);
        Ok(Self { home, context: global.context.clone(), accept_clock: global.accept_clock })
    }

    /// The context, and the newest trust root that it and a file of `offered` roots know: verified from the pinned one on, and
    /// kept. Asks no hub.
    ///
    /// # Errors
    /// When there is no context, or the roots do not follow from each other.
    pub fn newest_root(&self, offered: &[Envelope]) -> Result<(Context, TrustRoot), Failure> {
        let context = self.home.context(self.context.as_deref())?;
        let stored = context.roots()?;
        let walked = walk::walk(&context.facts.root_pin, &stored, offered)?;
        if walked.chain.len() > stored.len() {
            context.save_roots(&walked.chain)?;
        }
        Ok((context, walked.newest))
    }

    /// Connects to the context's hub, and passes on its warnings.
    ///
    /// # Errors
    /// As [`Client::open`], or when there is no context.
    pub async fn client(&self, ui: &mut Ui) -> Result<Client, Failure> {
        let mut client = Client::open(self.home.context(self.context.as_deref())?).await?;
        client.accept_clock = self.accept_clock;
        for warning in &client.warnings {
            ui.warn(warning);
        }
        Ok(client)
    }
}

/// Runs the verb of `cli`; gives its exit code.
///
/// # Errors
/// What the verb failed with.
pub async fn run(cli: Cli, ui: &mut Ui) -> Result<u8, Failure> {
    let env = Env::new(&cli.global)?;
    match cli.verb {
        Verb::Init(args) => init::run(args, &env, ui).await,
        Verb::Key(verb) => key::run(verb, &env, ui).await,
        Verb::Host(verb) => host::run(verb, &env, ui).await,
        Verb::Validate(args) => validate::run(&args, ui),
        Verb::Import(verb) => import::run(&verb, &env, ui).await,
        Verb::Plan(args) => plan::run(args, &env, ui).await,
        Verb::Push(args) => push::run(args, &env, ui).await,
        Verb::Confirm(args) => confirm::run(args, &env, ui).await,
        Verb::Revision(verb) => revision_file::run(verb, &env, ui).await,
        Verb::Status(args) => status::run(args, &env, ui).await,
        Verb::Get(verb) => get::run(verb, &env, ui).await,
        Verb::History(args) => history::run(args, &env, ui).await,
        Verb::Diff(args) => diff::run(args, &env, ui).await,
        Verb::Rollback(args) => rollback::run(args, &env, ui).await,
        Verb::Rollout(verb) => rollout::run(verb, &env, ui).await,
        Verb::Down(args) => down::run(args, &env, ui).await,
        Verb::Journal(args) => journal::run(args, &env, ui).await,
        Verb::Drift(verb) => drift::run(verb, &env, ui).await,
        Verb::Op(verb) => op::run(*verb, &env, ui).await,
        Verb::Saga(verb) => saga::run(verb, &env, ui).await,
        Verb::Exec(args) => exec::run(*args, &env, ui).await,
        Verb::Logs(args) => logs::run(args, &env, ui).await,
        Verb::Events(args) => events::run(args, &env, ui).await,
        Verb::Schema => schema::run(ui),
        Verb::Completion(args) => completion::run(&args, ui),
    }
}
