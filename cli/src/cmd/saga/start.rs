//! `moorctl saga start`: builds a plan, shows it or signs it, and hands it in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moorline_common::fault::Code;
use moorline_common::id::{HostName, SagaId};
use moorline_common::op::Class;
use moorline_common::saga::Plan;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{StartArgs, follow, view};
use crate::client::Client;
use crate::client::sagas::SagaFacts;
use crate::clock;
use crate::cmd::Env;
use crate::cmd::op::guest::meant;
use crate::error::Failure;
use crate::render::Ui;
use crate::saga::given::{Given, Hosts, Known, Target};
use crate::saga::library::{self, Definition};
use crate::saga::push::Pushed;
use crate::saga::seal::Terms;
use crate::saga::{Draft, words};
use crate::signers::Signers;

/// The hash that stands for an order's in a plan that nobody signs.
const NO_ORDER: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What is started.
enum Wanted {
    Library(&'static Definition, Vec<Target>),
}

/// Runs it.
pub async fn run(args: StartArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    let wanted = wanted(&args)?;
    let set = inputs(&args.set)?;
    let client = env.client(ui).await?;
    let saga_id = saga_id(&client, args.key.as_deref())?;
    if args.key.is_some()
        && let Some(known) = known(&client, &saga_id).await?
    {
        ui.note(&format!("saga {saga_id} was started with this key before: nothing is done twice"));
        return ended(&client, ui, known, &args).await;
    }
    let terms = Terms {
        root: &client.root,
        now: clock::now(),
        expires_s: args.expires.as_secs(),
        undo_s: args.undo_for.as_secs(),
        deployment: &args.deployment,
        reason: &args.reason,
    };
    terms.check()?;
    let hosts = look(&client, ui, &wanted.hosts()).await?;
    let pushed: Option<Pushed> = None;
    let draft = wanted.draft(&saga_id, &hosts, &set, pushed.as_ref())?;
    if args.dry_run {
        let plan = terms.plan(&draft, &hosts, |_, _| Ok(NO_ORDER.to_owned()))?;
        show(ui, &plan, &draft)?;
        return Ok(0);
    }
    client.require_signable()?;
    let signers = Signers::of(&client)?;
    let sealed = terms.seal(&draft, &hosts, &signers)?;
    confirm(ui, &draft)?;
    let (facts, is_known) = client.start_saga(&sealed, &[]).await.map_err(|failure| not_taken(failure, &saga_id))?;
    let before = if is_known { ", which the hub had already" } else { "" };
    ui.note(&format!("saga {saga_id}{before}: {} steps, {} orders", sealed.plan.steps.len(), sealed.orders.len()));
    ended(&client, ui, facts, &args).await
}

fn wanted(args: &StartArgs) -> Result<Wanted, Failure> {
    let name = args.name.as_deref().unwrap_or_default();
    let targets = args.targets.iter().map(|text| Target::parse(text)).collect::<Result<_, _>>()?;
    Ok(Wanted::Library(library::find(name)?, targets))
}

impl Wanted {
    fn hosts(&self) -> BTreeSet<HostName> {
        match self {
            Wanted::Library(_, targets) => targets.iter().map(|target| target.host.clone()).collect(),
        }
    }

    fn draft(&self, saga_id: &SagaId, hosts: &Hosts, set: &BTreeMap<String, String>, pushed: Option<&Pushed>) -> Result<Draft, Failure> {
        match self {
            Wanted::Library(definition, targets) => {
                let mut given = Given::new(saga_id, hosts, targets, set);
                given.pushed = pushed;
                definition.draft(&given)
            }
        }
    }
}

fn inputs(set: &[(String, String)]) -> Result<BTreeMap<String, String>, Failure> {
    let mut inputs = BTreeMap::new();
    for (key, value) in set {
        if inputs.insert(key.clone(), value.clone()).is_some() {
            return Err(Failure::usage(format!("the input `{key}` is given twice"), "say `--set` once for each"));
        }
    }
    Ok(inputs)
}

/// What is verified of hosts, with their reports.
pub(super) async fn look(client: &Client, ui: &mut Ui, names: &BTreeSet<HostName>) -> Result<Hosts, Failure> {
    let mut hosts = Hosts::new();
    for name in names {
        let host = client.host(name).await?;
        let binding = host.require_bound()?.clone();
        let report = client.report(&host).await?;
        let observed = report.map(|report| report.report.into_statement().observed);
        if let Some(doubt) = observed.as_ref().and_then(meant::doubt) {
            ui.warn(&format!("host {name}: {doubt}"));
        }
        hosts.insert(name.clone(), Known { binding, observed });
    }
    Ok(hosts)
}

/// A new id; with a key always the same one in a cluster.
fn saga_id(client: &Client, key: Option<&str>) -> Result<SagaId, Failure> {
    let uuid = match key {
        None => Uuid::now_v7(),
        Some(key) => {
            let hash: [u8; 32] = Sha256::digest(format!("saga:{}:{key}", client.root.cluster)).into();
            let mut random = [0; 10];
            random.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
            uuid::Builder::from_unix_timestamp_millis(0, &random).into_uuid()
        }
    };
    Ok(SagaId::parse(uuid.to_string())?)
}

async fn known(client: &Client, saga_id: &SagaId) -> Result<Option<SagaFacts>, Failure> {
    match client.saga(saga_id).await {
        Ok(saga) => Ok(Some(saga)),
        Err(failure) if failure.is(Code::NotFound) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn show(ui: &mut Ui, plan: &Plan, draft: &Draft) -> Result<(), Failure> {
    ui.result(&words::Planning::new(plan, draft), || format!("{}\nnothing was signed or sent\n", words::plan(plan, draft)))
}

/// What disrupts or destroys is asked about first.
fn confirm(ui: &mut Ui, draft: &Draft) -> Result<(), Failure> {
    let (name, steps) = (&draft.name, draft.steps.len());
    let what = format!("saga `{name}` of {steps} steps; --dry-run shows them");
    match draft.class() {
        None | Some(Class::R0 | Class::R1 | Class::R2) => Ok(()),
        Some(Class::R3) => ui.confirm(&format!("This disrupts what runs: {what}. Go on?")),
        Some(Class::R4) => ui.confirm(&format!("This cannot be undone: {what}. Go on?")),
        Some(Class::P) => ui.confirm(&format!("This reaches past the guests' and containers' walls: {what}. Go on?")),
    }
}

fn not_taken(failure: Failure, saga_id: &SagaId) -> Failure {
    if failure.code == crate::error::LocalCode::HubUnreachable.as_str() {
        return failure.with_remedy(format!(
            "whether the hub took it is not known: look with `moorctl saga show {saga_id}` before you start it again"
        ));
    }
    failure
}

/// Shows the saga, once it has ended if that is to be waited for.
async fn ended(client: &Client, ui: &mut Ui, facts: SagaFacts, args: &StartArgs) -> Result<u8, Failure> {
    if !args.wait {
        let next = format!("follow it with `moorctl saga show {} -w`", facts.saga_id);
        ui.result(&facts, || format!("{}; {next}\n", view::headline(&facts)))?;
        return Ok(0);
    }
    let facts = if facts.is_over() {
        client.saga(&facts.saga_id).await?
    } else {
        follow::until_over(client, ui, facts, args.timeout.unwrap_or(Duration::MAX)).await?
    };
    view::tell(client, ui, facts, true)
}
