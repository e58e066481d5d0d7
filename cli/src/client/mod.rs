//! The hub's API for one context: dials, walks the trust root, and gives facts in the core's types.
//!
//! What matters is verified here and nowhere else: roots from the pinned one, bindings and topologies by
//! the newest root, reports by the binding's host key, all against the newest that this machine has seen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use moorline_common::fault::{Code, Fault};
use moorline_common::id::{Generation, HostId, HostName, TopologyId};
use moorline_common::sign::{Envelope, Signed, Verified};
use moorline_common::statement::{HostBinding, ObservedReport, TopologyStatement};
use moorline_common::trust::{Ending, TrustRoot};
use moorline_proto::convert;
use moorline_proto::v1 as pb;
use tokio::task::JoinSet;

use crate::clock;
use crate::error::{Failure, LocalCode};
use crate::home::Context;
use crate::limits::{CLOCK_SKEW_MAX_S, REPORTS_AT_ONCE};
use crate::parallel;

pub mod clouds;
pub mod drift;
pub mod facts;
mod floor;
pub mod hub;
pub mod logs;
pub mod ops;
mod push;
pub mod rollouts;
pub mod sagas;
pub mod walk;

pub use facts::{EventFacts, HostView, ReportView, RevisionFacts, RevisionView};
pub use hub::{ClusterFacts, Hub};

/// A hub whose trust root was walked from the pinned one.
#[derive(Clone)]
pub struct Client {
    hub: Hub,
    /// The context.
    pub context: Context,
    /// The newest verified trust root.
    pub root: TrustRoot,
    /// What the hub says about itself.
    pub facts: ClusterFacts,
    /// Things to tell the operator before anything else.
    pub warnings: Vec<String>,
    /// Whether to sign although this machine's clock and the hub's differ.
    pub accept_clock: bool,
    /// Bindings that verified, so that looking again costs nothing.
    bindings: Arc<Mutex<BTreeMap<HostId, KnownBinding>>>,
}

/// A binding's exact bytes, and what they verified as.
type KnownBinding = (Vec<u8>, Verified<HostBinding>);

/// Refuses when this machine's clock and the hub's are `offset_ms` and so too far apart: what is signed now would be
/// dated wrongly, and expire too early or too late.
///
/// # Errors
/// [`LocalCode::ClockSkew`], unless `accept`.
pub fn require_fair_clock(offset_ms: i64, accept: bool) -> Result<(), Failure> {
    let seconds = offset_ms.unsigned_abs() / 1000;
    if accept || seconds <= CLOCK_SKEW_MAX_S {
        return Ok(());
    }
    let which = if offset_ms > 0 { "behind" } else { "ahead of" };
    Err(Failure::new(
        LocalCode::ClockSkew,
        format!("this machine's clock is {} {which} the hub's; nothing was signed", clock::span_words(seconds)),
        "set the clock that is wrong; if it is the hub's and cannot be set now, add --accept-clock",
    ))
}

impl Client {
    /// Dials the context's hub and walks its trust root.
    ///
    /// # Errors
    /// When no hub answers, or it is not the one that this context trusts.
    pub async fn open(context: Context) -> Result<Self, Failure> {
        let bundle = context.bundle()?;
        let stored = context.roots()?;
        let mut pins = BTreeSet::from([bundle.ca_spki.clone()]);
        if !stored.is_empty() {
            pins.extend(walk::walk(&context.facts.root_pin, &stored, &[])?.newest.hub_ca_spki);
        }
        let hub = Hub::dial(&bundle, pins).await?;
        let facts = hub.cluster().await?;
        if facts.cluster != context.facts.cluster.as_str() {
            return Err(Fault::new(
                Code::WrongCluster,
                format!("the hub at {} serves cluster `{}`, this context is for `{}`", hub.address, facts.cluster, context.facts.cluster),
            )
            .into());
        }
        let walked = walk::walk(&context.facts.root_pin, &stored, &facts.roots)?;
        if walked.chain.len() > stored.len() {
            context.save_roots(&walked.chain)?;
        }
        let mut warnings = Vec::new();
        if walked.hub_lacks > 0 {
            warnings.push(format!(
                "the hub lacks {} newest version(s) of the trust root that this machine holds; `moorctl init` with the same bundle hands them in again",
                walked.hub_lacks
            ));
        }
        warnings.extend(expiry_warning(&walked.newest));
        if context.rotation_path().exists() {
            warnings.push("a rotation of this operator's key is unfinished: `moorctl key rotate` goes on with it".to_owned());
        }
        Ok(Self { hub, context, root: walked.newest, facts, warnings, accept_clock: false, bindings: Arc::default() })
    }

    /// The hub's clock now, in milliseconds since 1970.
    #[must_use]
    pub fn hub_now_ms(&self) -> u64 {
        clock::now_ms().saturating_add_signed(self.facts.clock_offset_ms)
    }

    /// Addresses for join tokens.
    ///
    /// # Errors
    /// When the bundle cannot be read.
    pub fn agent_addresses(&self) -> Result<Vec<String>, Failure> {
        if self.facts.agent_addresses.is_empty() { Ok(self.context.bundle()?.hubs) } else { Ok(self.facts.agent_addresses.clone()) }
    }

    /// Refuses when the trust root has expired (agents would refuse what is signed now), or this machine's clock is
    /// not the hub's.
    ///
    /// # Errors
    /// [`Code::RootExpired`]; as [`require_fair_clock`].
    pub fn require_signable(&self) -> Result<(), Failure> {
        require_fair_clock(self.facts.clock_offset_ms, self.accept_clock)?;
        if clock::now() < self.root.expires {
            return Ok(());
        }
        let when = clock::rfc3339(self.root.expires.0.saturating_mul(1000));
        Err(Fault::new(Code::RootExpired, format!("the trust root version {} expired at {when}", self.root.version)).into())
    }

    /// All hosts, or those of one name, sorted by name; bindings verified.
    ///
    /// # Errors
    /// When the call fails, the answer is malformed, or a binding is older than one seen before.
    pub async fn hosts(&self, name: Option<&HostName>) -> Result<Vec<HostView>, Failure> {
        let request = pb::ListHostsRequest { name: name.map(ToString::to_string).unwrap_or_default(), state: 0 };
        let answer = self.hub.call(|mut rpc| async move { rpc.list_hosts(request).await }).await?;
        let shown = answer.hosts.into_iter().map(HostView::from_wire).collect::<Result<Vec<_>, Fault>>()?;
        let verdicts = parallel::map(&shown, |(view, binding)| match binding {
            _ if view.pending => None,
            Some(envelope) => Some(self.verify_binding(view, envelope)),
            None => Some(Err(Fault::new(Code::BadEnvelope, "the hub shows no binding for it"))),
        });
        let judged = shown.into_iter().zip(verdicts).map(|((view, _), verdict)| match verdict {
            None => view,
            Some(Ok(binding)) => HostView { binding: Some(binding), ..view },
            Some(Err(fault)) => HostView { doubt: Some(fault), ..view },
        });
        let mut views: Vec<HostView> = judged.collect();
        self.note_serials(&mut views)?;
        views.sort_by(|a, b| (&a.name, &a.host_id).cmp(&(&b.name, &b.host_id)));
        Ok(views)
    }

    fn verify_binding(&self, view: &HostView, envelope: &pb::Envelope) -> Result<Verified<HostBinding>, Fault> {
        let known = || self.bindings.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known().get(&view.host_id).filter(|(bytes, _)| *bytes == envelope.json).map(|(_, binding)| binding.clone());
        let binding = match same {
            Some(binding) => binding,
            None => {
                let signed = Signed::from_json(&envelope.json)?;
                let binding = self.root.verify_binding(signed, Some(&view.host_id))?;
                known().insert(view.host_id.clone(), (envelope.json.clone(), binding.clone()));
                binding
            }
        };
        if binding.statement().name != view.name {
            return Err(Fault::new(Code::WrongHost, format!("its binding names `{}`", binding.statement().name)));
        }
        Ok(binding)
    }

    /// A binding of a lower serial than one seen before is withheld news: it does not count.
    fn note_serials(&self, views: &mut [HostView]) -> Result<(), Failure> {
        self.context.update_floors(|floors| {
            for view in views {
                let Some(serial) = view.bound().map(|b| b.serial) else { continue };
                if let Err(fault) = floor::note_serial(floors, &view.host_id, serial) {
                    view.binding = None;
                    view.doubt = Some(fault);
                }
            }
            Ok(())
        })
    }

    /// The one host of this name, bound if there is a bound one.
    ///
    /// # Errors
    /// [`Code::NotFound`] when there is none.
    pub async fn host(&self, name: &HostName) -> Result<HostView, Failure> {
        let mut hosts = self.hosts(Some(name)).await?;
        hosts.sort_by_key(|h| h.pending);
        hosts.into_iter().next().ok_or_else(|| Fault::new(Code::NotFound, format!("there is no host `{name}`")).into())
    }

    /// The newest revision of every topology.
    ///
    /// # Errors
    /// When the call fails or the answer is malformed.
    pub async fn topologies(&self) -> Result<Vec<RevisionFacts>, Failure> {
        let answer = self.hub.call(|mut rpc| async move { rpc.list_topologies(pb::ListTopologiesRequest {}).await }).await?;
        Ok(answer.revisions.into_iter().map(RevisionFacts::try_from).collect::<Result<_, _>>()?)
    }

    /// The revisions of a topology, newest first.
    ///
    /// # Errors
    /// When the call fails or the answer is malformed.
    pub async fn revisions(&self, topology: &TopologyId, limit: u32) -> Result<Vec<RevisionFacts>, Failure> {
        let request = pb::ListRevisionsRequest { topology: topology.to_string(), limit };
        let answer = self.hub.call(|mut rpc| async move { rpc.list_revisions(request).await }).await?;
        Ok(answer.revisions.into_iter().map(RevisionFacts::try_from).collect::<Result<_, _>>()?)
    }

    /// One revision; its source verified.
    ///
    /// # Errors
    /// [`Code::NotFound`] and what calls can fail with.
    pub async fn revision(&self, topology: &TopologyId, generation: Generation, with_slices: bool) -> Result<RevisionView, Failure> {
        let request = pb::GetRevisionRequest { topology: topology.to_string(), generation: generation.0, with_slices };
        let answer = self.hub.call(|mut rpc| async move { rpc.get_revision(request).await }).await;
        let answer = answer.map_err(|f| {
            if f.is(Code::NotFound) { f.with_remedy(format!("list what there is with `moorctl history {topology}`")) } else { f }
        })?;
        let Some(facts) = answer.revision else {
            return Err(Fault::new(Code::BadEnvelope, "the hub sent a revision without saying which").into());
        };
        let facts = RevisionFacts::try_from(facts)?;
        let wrong = facts.topology != *topology || (generation.0 != 0 && facts.generation != generation);
        if wrong {
            let got = format!("{} generation {}", facts.topology, facts.generation);
            return Err(Fault::new(Code::BadEnvelope, format!("asked the hub for {topology} generation {generation}, got {got}")).into());
        }
        let (source, doubt) = match answer.source.filter(|e| !e.json.is_empty()).map(|e| self.verify_source(&facts, e)) {
            None => (None, None),
            Some(Ok(source)) => (Some(source), None),
            Some(Err(fault)) => (None, Some(fault)),
        };
        let mut slices = Vec::with_capacity(answer.slices.len());
        for slice in answer.slices {
            let host_id = moorline_common::id::HostId::parse(slice.host_id)?;
            slices.push((host_id, convert::required(slice.slice, "slice")?));
        }
        Ok(RevisionView { facts, source, doubt, slices })
    }

    fn verify_source(
        &self,
        facts: &RevisionFacts,
        envelope: pb::Envelope,
    ) -> Result<moorline_common::sign::Verified<TopologyStatement>, Fault> {
        let source = self.root.verify_topology(Signed::new(Envelope::try_from(envelope)?)?)?;
        let statement = source.statement();
        if statement.topology != facts.topology || statement.generation != facts.generation {
            return Err(Fault::new(
                Code::BadEnvelope,
                format!("its source is signed as {} generation {}", statement.topology, statement.generation),
            ));
        }
        Ok(source)
    }

    /// The newest revision, checked against the newest that this machine has seen; `None` for a topology
    /// that was never pushed.
    ///
    /// # Errors
    /// [`Code::GenerationRegressed`] or [`Code::Equivocation`] when the hub shows less or other than was
    /// seen before; what calls can fail with.
    pub async fn current(&self, topology: &TopologyId, with_slices: bool) -> Result<Option<RevisionView>, Failure> {
        let view = self.shown(topology, with_slices).await?;
        let generation = view.as_ref().map(|v| v.facts.generation).unwrap_or_default();
        let sha = view.as_ref().and_then(|v| v.source.as_ref()).map(|s| s.envelope().payload_sha256()).unwrap_or_default();
        self.context.update_floors(|floors| Ok(floor::note_revision(floors, topology, generation, &sha)?))?;
        Ok(view)
    }

    /// The newest revision, whatever this machine has seen before: for an operator who knows that the hub was
    /// restored. `None` for a topology that was never pushed.
    ///
    /// # Errors
    /// What calls can fail with.
    pub async fn shown(&self, topology: &TopologyId, with_slices: bool) -> Result<Option<RevisionView>, Failure> {
        match self.revision(topology, Generation(0), with_slices).await {
            Ok(view) => Ok(Some(view)),
            Err(failure) if failure.is(Code::NotFound) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The last report of a host, verified by the host key in its binding; `None` when it never sent one.
    ///
    /// # Errors
    /// When the host has no verified binding, the signature is wrong, or the call fails.
    pub async fn report(&self, host: &HostView) -> Result<Option<ReportView>, Failure> {
        self.any_report(host, false).await
    }

    /// The same, after its host was asked for a new one: one that is connected signs what it has now.
    ///
    /// # Errors
    /// As [`Self::report`].
    pub async fn report_anew(&self, host: &HostView) -> Result<Option<ReportView>, Failure> {
        self.any_report(host, true).await
    }

    async fn any_report(&self, host: &HostView, anew: bool) -> Result<Option<ReportView>, Failure> {
        let binding = host.require_bound()?;
        let request = pb::GetReportRequest { host_id: host.host_id.to_string(), anew };
        let answer = match self.hub.call(|mut rpc| async move { rpc.get_report(request).await }).await {
            Ok(answer) => answer,
            Err(failure) if failure.is(Code::NotFound) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let Some(envelope) = answer.report else { return Ok(None) };
        let signed: Signed<ObservedReport> = Signed::new(Envelope::try_from(envelope)?)?;
        let report = signed.verify_by_host(&binding.host_key)?;
        if report.statement().host_id != host.host_id {
            return Err(Fault::new(Code::WrongHost, format!("the report of `{}` speaks of another host", host.name)).into());
        }
        Ok(Some(ReportView { report, received_unix_ms: answer.received_unix_ms }))
    }

    /// The reports of `hosts`, in their order, a bounded number at a time; `None` also for a host without a verified
    /// binding or a heartbeat.
    pub async fn reports(&self, hosts: &[&HostView]) -> Vec<Result<Option<ReportView>, Failure>> {
        let mut results: Vec<Result<Option<ReportView>, Failure>> = hosts.iter().map(|_| Ok(None)).collect();
        let mut tasks = JoinSet::new();
        let mut wanted = hosts.iter().enumerate().filter(|(_, h)| h.bound().is_some() && h.heartbeat.is_some());
        let client = Arc::new(self.clone());
        loop {
            while tasks.len() < REPORTS_AT_ONCE
                && let Some((index, host)) = wanted.next()
            {
                let (client, host) = (client.clone(), (*host).clone());
                tasks.spawn(async move { (index, client.report(&host).await) });
            }
            let Some(done) = tasks.join_next().await else { return results };
            if let Ok((index, report)) = done
                && let Some(place) = results.get_mut(index)
            {
                *place = report;
            }
        }
    }

    /// Registers a join token.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn create_join_token(&self, token: &moorline_common::enrol::JoinToken) -> Result<(), Failure> {
        let request = pb::CreateJoinTokenRequest {
            token_id: token.id.clone(),
            join_key_hash: token.join_key_hash(),
            name: token.name.to_string(),
            expires: token.expires.0,
        };
        self.hub.call(|mut rpc| async move { rpc.create_join_token(request).await }).await.map(|_| ())
    }

    /// Hands in a binding.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn put_binding(&self, binding: &Envelope) -> Result<(), Failure> {
        let request = pb::PutBindingRequest { binding: Some(binding.into()) };
        self.hub.call(|mut rpc| async move { rpc.put_binding(request).await }).await.map(|_| ())
    }

    /// Lets the hub keep what is pushed from a host, or no longer.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn cordon(&self, host: &HostId, cordoned: bool, reason: &str) -> Result<(), Failure> {
        let request = pb::CordonHostRequest { host_id: host.to_string(), cordoned, reason: reason.to_owned() };
        self.hub.call(|mut rpc| async move { rpc.cordon_host(request).await }).await.map(|_| ())
    }

    /// Lets the hub forget a host.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn remove_host(&self, host: &HostId) -> Result<(), Failure> {
        let request = pb::RemoveHostRequest { host_id: host.to_string() };
        self.hub.call(|mut rpc| async move { rpc.remove_host(request).await }).await.map(|_| ())
    }

    /// Adds a slice of the newest revision for a host that was bound after its push.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn add_slice(&self, topology: &TopologyId, generation: Generation, host: &HostView, slice: &Envelope) -> Result<(), Failure> {
        let slice = pb::HostSlice { host_id: host.host_id.to_string(), slice: Some(slice.into()) };
        let request = pb::AddSlicesRequest { topology: topology.to_string(), generation: generation.0, slices: vec![slice] };
        self.hub.call(|mut rpc| async move { rpc.add_slices(request).await }).await.map(|_| ())
    }

    /// Hands in the next version of the trust root, and keeps it.
    ///
    /// # Errors
    /// When it does not follow from the newest, or the hub refuses it.
    pub async fn put_next_root(&self, root: &Envelope) -> Result<TrustRoot, Failure> {
        let next = self.root.verify_next(root.clone())?.into_statement();
        self.hub.put_root(root).await?;
        let mut roots = self.context.roots()?;
        roots.push(root.clone());
        self.context.save_roots(&roots)?;
        Ok(next)
    }

    /// Hands in a version of the trust root as it is; the hub takes what follows from its newest.
    ///
    /// # Errors
    /// When the hub refuses it.
    pub async fn put_root(&self, root: &Envelope) -> Result<(), Failure> {
        self.hub.put_root(root).await.map(|_| ())
    }

    /// The same hub, judged by another trust root.
    #[must_use]
    pub fn under(&self, root: TrustRoot) -> Self {
        // What verified under this root says nothing under the other.
        Self { root, bindings: Arc::default(), ..self.clone() }
    }

    /// Events from a point on.
    ///
    /// # Errors
    /// When the call fails.
    pub async fn events(&self, after: u64, limit: u32, follow: bool) -> Result<EventStream, Failure> {
        let request = pb::EventsRequest { after, limit, follow };
        let stream = self.hub.call(|mut rpc| async move { rpc.events(request).await }).await?;
        Ok(EventStream { stream, hub: self.hub.clone() })
    }
}

/// Events as they come.
pub struct EventStream {
    stream: tonic::Streaming<pb::Event>,
    hub: Hub,
}

impl EventStream {
    /// The next event; `None` at the end.
    ///
    /// # Errors
    /// When the stream breaks.
    pub async fn next(&mut self) -> Result<Option<EventFacts>, Failure> {
        match self.stream.message().await {
            Ok(event) => Ok(event.map(EventFacts::from)),
            Err(status) => Err(self.hub.failure(&status)),
        }
    }
}

fn expiry_warning(root: &TrustRoot) -> Option<String> {
    let when = clock::rfc3339(root.expires.0.saturating_mul(1000));
    root.ends_soon(clock::now()).map(|ending| match ending {
        Ending::Over => {
            format!("the trust root expired at {when}: nothing new is accepted until a new version is signed with `moorctl key renew`")
        }
        Ending::Soon => format!("the trust root expires at {when}: sign a new version before, with `moorctl key renew`"),
    })
}

#[cfg(test)]
pub(crate) mod tests;
