//! `moorctl saga start`: builds a plan, shows it or signs it, and hands it in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{HostName, SagaId};
use moorline_common::op::Class;
use moorline_common::saga::{Act, HubAct, NewHost, Plan};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{StartArgs, droplet, follow, view};
use crate::client::Client;
use crate::client::clouds::ResourceFacts;
use crate::client::sagas::SagaFacts;
use crate::clock;
use crate::cmd::Env;
use crate::cmd::op::guest::meant;
use crate::desired;
use crate::error::Failure;
use crate::home::Home;
use crate::render::Ui;
use crate::saga::given::{Given, Hosts, Known, Target};
use crate::saga::joining::Joining;
use crate::saga::library::{self, Definition, Place, Pushes};
use crate::saga::own::Own;
use crate::saga::push::{self, Pushed};
use crate::saga::seal::Terms;
use crate::saga::{Draft, rehearsal, words};
use crate::signers::Signers;

/// The hash that stands for an order's in a plan that nobody signs.
const NO_ORDER: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What is started.
enum Wanted {
    /// A definition of the library, with what it is about.
    Library(&'static Definition, Vec<Target>),
    /// One of the operator's own.
    Own(Box<Own>),
}

/// Runs it.
pub async fn run(args: &StartArgs, env: &Env, ui: &mut Ui) -> Result<u8, Failure> {
    // What is wrong in itself needs no hub to be told.
    let wanted = wanted(args)?;
    let set = inputs(&args.set)?;
    start((&env.client(ui).await?, &env.home), ui, args, &wanted, &set).await
}

/// Starts what is wanted.
async fn start(
    (client, home): (&Client, &Home),
    ui: &mut Ui,
    args: &StartArgs,
    wanted: &Wanted,
    set: &BTreeMap<String, String>,
) -> Result<u8, Failure> {
    let saga_id = saga_id(client, args.key.as_deref())?;
    if args.key.is_some()
        && let Some(known) = known(client, &saga_id).await?
    {
        if known.name != wanted.name() {
            let message = format!("the key was used before, for saga {saga_id} of `{}`", known.name);
            return Err(Failure::from(Fault::new(Code::Conflict, message)).with_remedy("use another key for another saga"));
        }
        ui.note(&format!("saga {saga_id} was started with this key before: nothing is done twice"));
        return ended(client, ui, known, args).await;
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
    let hosts = look(client, ui, &wanted.hosts(&saga_id, set)?).await?;
    let pushed = pushed(client, ui, args, wanted).await?;
    let cloud = InCloud::of(client, home, wanted, args, set).await?;
    let mut draft = wanted.draft(&saga_id, &hosts, set, (pushed.as_ref(), &cloud)).inspect_err(|_| cloud.forget(home))?;
    if let Some(step) = &args.fail_after {
        rehearsal::fail_after(&mut draft, step)?;
    }
    if args.dry_run {
        let plan = terms.plan(&draft, &hosts, |_, _| Ok(NO_ORDER.to_owned()))?;
        show(ui, &plan, &draft)?;
        return Ok(0);
    }
    client.require_signable()?;
    let signers = Signers::of(client)?;
    let sealed = terms.seal(&draft, &hosts, &signers).and_then(|sealed| confirm(ui, &draft).map(|()| sealed));
    let sealed = sealed.inspect_err(|_| cloud.forget(home))?;
    let revisions = pushed.as_ref().filter(|_| pushes(&sealed.plan)).map(Pushed::revisions);
    let revisions = revisions.as_ref().map_or(&[][..], |revisions| revisions.as_slice());
    let (facts, is_known) = client.start_saga(&sealed, revisions).await.map_err(|failure| not_taken(failure, &saga_id))?;
    let before = if is_known { ", which the hub had already" } else { "" };
    ui.note(&format!("saga {saga_id}{before}: {} steps, {} orders", sealed.plan.steps.len(), sealed.orders.len()));
    let facts = match &cloud.joining {
        Some(joining) if args.wait => droplet::bind(client, home, ui, joining, facts).await?,
        Some(_) | None => facts,
    };
    let ended = ended(client, ui, facts, args).await?;
    if let Some(pushed) = pushed.filter(|_| args.wait && ended == 0) {
        // This machine's next push is made from what the saga has pushed.
        client.note_pushed(&pushed.topology, pushed.forward.generation, &pushed.forward.source.payload_sha256(), false)?;
    }
    Ok(ended)
}

fn wanted(args: &StartArgs) -> Result<Wanted, Failure> {
    if let Some(file) = &args.file {
        let own = Own::read(file)?;
        return match &args.name {
            Some(name) if name != own.name() => Err(Failure::usage(
                format!("{} is the definition of `{}`, not of `{name}`", file.display(), own.name()),
                "leave the name out: the file says what it is about",
            )),
            Some(_) | None => Ok(Wanted::Own(Box::new(own))),
        };
    }
    let definition = library::find(args.name.as_deref().unwrap_or_default())?;
    match (definition.pushes, &args.topology) {
        (Pushes::Never, Some(_)) => {
            return Err(Failure::usage(format!("`{}` pushes nothing", definition.name), "leave --topology out"));
        }
        (Pushes::Always, None) => {
            return Err(Failure::usage(format!("`{}` pushes a revision", definition.name), "name the topology file with --topology FILE"));
        }
        (Pushes::Never | Pushes::MayBe | Pushes::Always, Some(_) | None) => {}
    }
    let targets = args.targets.iter().map(|text| Target::parse(text)).collect::<Result<_, _>>()?;
    Ok(Wanted::Library(definition, targets))
}

/// The revisions of the file that was named.
async fn pushed(client: &Client, ui: &mut Ui, args: &StartArgs, wanted: &Wanted) -> Result<Option<Pushed>, Failure> {
    let (Some(file), Wanted::Library(..)) = (&args.topology, wanted) else { return Ok(None) };
    let source = desired::read(ui, file, &args.inputs)?;
    client.require_signable()?;
    Ok(Some(push::sign(client, ui, &Signers::of(client)?, source, &args.reason).await?))
}

/// Whether some step pushes a revision.
fn pushes(plan: &Plan) -> bool {
    plan.tasks().any(|(_, _, task)| matches!(task.act, Act::Hub(HubAct::Push { .. })))
}

/// What is known of clouds, and is made for one, before anything is signed.
struct InCloud {
    droplets: Vec<ResourceFacts>,
    was_host: Option<NewHost>,
    joining: Option<Joining>,
}

impl InCloud {
    async fn of(client: &Client, home: &Home, wanted: &Wanted, args: &StartArgs, set: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let Wanted::Library(definition, targets) = wanted else {
            return Ok(Self { droplets: Vec::new(), was_host: None, joining: None });
        };
        let droplets = droplet::known(client, definition, set).await?;
        let was_host = droplet::was_host(client, targets, &droplets).await?;
        let joining = droplet::joining(client, home, (definition, targets), set, (args.expires, args.dry_run)).await?;
        Ok(Self { droplets, was_host, joining })
    }

    /// Nothing comes of the token.
    fn forget(&self, home: &Home) {
        if let Some(joining) = &self.joining {
            home.forget_pending(&joining.token_id);
        }
    }
}

impl Wanted {
    fn name(&self) -> &str {
        match self {
            Wanted::Library(definition, _) => definition.name,
            Wanted::Own(own) => own.name(),
        }
    }

    fn hosts(&self, saga_id: &SagaId, set: &BTreeMap<String, String>) -> Result<BTreeSet<HostName>, Failure> {
        match self {
            Wanted::Library(Definition { place: Place::Cloud, .. }, _) => Ok(BTreeSet::new()),
            Wanted::Library(_, targets) => Ok(targets.iter().map(|target| target.host.clone()).collect()),
            Wanted::Own(own) => own.hosts(saga_id, set),
        }
    }

    fn draft(
        &self,
        saga_id: &SagaId,
        hosts: &Hosts,
        set: &BTreeMap<String, String>,
        (pushed, cloud): (Option<&Pushed>, &InCloud),
    ) -> Result<Draft, Failure> {
        match self {
            Wanted::Library(definition, targets) => {
                let mut given = Given::new(saga_id, hosts, targets, set);
                given.pushed = pushed;
                given.droplets = &cloud.droplets;
                given.was_host = cloud.was_host.as_ref();
                given.joining = cloud.joining.as_ref();
                definition.draft(&given)
            }
            Wanted::Own(own) => own.draft(&Given::new(saga_id, hosts, &[], set)),
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Starts what a command line says.
    pub(in crate::cmd::saga) async fn by(client: &Client, ui: &mut Ui, args: &StartArgs) -> Result<u8, Failure> {
        let home = Home::open(Some(client.context.dir().to_owned()))?;
        start((client, &home), ui, args, &wanted(args)?, &inputs(&args.set)?).await
    }
}
