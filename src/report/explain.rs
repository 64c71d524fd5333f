//! Explanation of a name, from a zone and its cluster.
//!
//! The engine (`core/src/answer/`) responds to each name of the search list; the diagnosis (`core/src/diagnose/`) finds
//! the cause. This file decides which names are looked up, which of them is explained, and in which order findings are
//! listed. Not here: the text and JSON of an explanation (`explain_report.rs`).

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;

use super::explain_report::{Candidate, ExplainReport, StepView};
use super::finding_view::{Color, FindingView};
use crate::config::NameSpec;
use headless_dns_core::answer::{AccessList, Peer, RequestBatch, Responder, Transport, Worker};
use headless_dns_core::diagnose::{
    self, DiagnosedQuery, Diagnostics, DiagnosticsView, Finding, SearchDepth, Severity, TraceStep, service_ref,
};
use headless_dns_core::name::reverse::reverse_name;
use headless_dns_core::name::{NameKind, QueryName, WireName, classify};
use headless_dns_core::object::Subject;
use headless_dns_core::status::Status;
use headless_dns_core::wire::MAX_TCP;
use headless_dns_core::wire::client::{ParsedResponse, query};
use headless_dns_core::zone::{Lookup, Zone};

/// Number of dots from which on a Pod's resolver looks up a name before its search list (`ndots` of `dnsPolicy:
/// ClusterFirst`).
const NDOTS: usize = 5;

/// Name and type to explain.
#[derive(Clone, Debug)]
pub struct ExplainQuery<'q> {
    /// The name, as in the command line or request.
    pub name: &'q NameSpec,
    /// QTYPE.
    pub qtype: u16,
    /// The zone and its aliases, at least one.
    pub zones: &'q [WireName],
    /// Namespace of the search list.
    pub namespace: &'q str,
}

/// Completeness of the objects that were read.
#[derive(Clone, Copy, Debug)]
pub struct SourceState {
    /// True if every object was read and valid.
    pub is_complete: bool,
    /// True if an unknown name is answered with NXDOMAIN, false if with SERVFAIL.
    pub may_deny: bool,
}

/// Explains a name, from the responses of `zone` and the cluster of `diagnostics`. `hints` returns further sentences.
///
/// # Errors
///
/// An internal error: the engine returns no response.
pub fn explain(
    zone: &Arc<Zone>,
    diagnostics: &Diagnostics,
    request: &ExplainQuery<'_>,
    hints: impl FnOnce(&DiagnosticsView<'_>) -> Vec<String>,
    SourceState { is_complete: whole, may_deny }: SourceState,
) -> anyhow::Result<ExplainReport> {
    let qtype = request.qtype;
    let mut resolver = LocalResolver::new(zone, may_deny);
    let (tried, resolved) = try_each(request, |name| resolver.ask(name, qtype))?;
    Ok(diagnostics.with_view(|known| {
        let likely = || (0..tried.len()).rev().max_by_key(|index| candidate_score(known, &tried[*index].0, *index));
        let chosen = resolved.or_else(likely).unwrap_or_default();
        let (steps, findings) = explain_one(known, zone, &tried[chosen].0, qtype);
        let severity = |finding: &Finding| match finding.severity() {
            Severity::Cause => ("cause", Color::Bad),
            Severity::Guess => ("guess", Color::Doubt),
            Severity::Note => ("note", Color::Doubt),
        };
        ExplainReport {
            answer: tried[chosen].1.answer.clone(),
            chosen,
            qtype,
            searched: request.searched(),
            steps: steps.into_iter().map(StepView::from).collect(),
            findings: findings.iter().map(|finding| FindingView::from_finding(finding, severity(finding))).collect(),
            hints: hints(known),
            is_complete: whole,
            candidates: tried
                .into_iter()
                .map(|(name, reply, resolves)| Candidate::new(name, &reply, resolves))
                .collect(),
        }
    }))
}

/// Returns the steps of the decision on one name, and the findings, sorted by severity and rank.
fn explain_one(
    known: &DiagnosticsView<'_>,
    zone: &Zone,
    name: &WireName,
    qtype: u16,
) -> (Vec<TraceStep>, Vec<Finding>) {
    let mut query = QueryName::default();
    query.set(name);
    let ((outcome, absence), apex) = zone.look_up(&query, qtype, |lookup| {
        let apex = match &lookup {
            Lookup::Found(site, _) | Lookup::Cname(site, _) | Lookup::NoData(site) | Lookup::NxDomain(site, _) => {
                Some(site.apex.clone())
            }
            Lookup::NotInZone => None,
        };
        (lookup.verdict(), apex)
    });
    let diagnosed = DiagnosedQuery { name: &query, qtype, outcome, absence };
    let steps = diagnose::steps(known, &diagnosed, apex.as_ref());
    let mut findings = diagnose::explain(known, &diagnosed, SearchDepth::Search);
    // Stable, so that findings of one severity stay sorted by rank.
    findings.sort_by_key(Finding::severity);
    // Beside a cause, a missing Service without similar names is no news: the cause names that Service.
    if findings.first().is_some_and(|first| first.severity() == Severity::Cause) {
        findings.retain(|finding| !matches!(finding, Finding::NoService { near, .. } if near.is_empty()));
    }
    (steps, findings)
}

/// Scores a name that does not resolve: the more of its objects exist, the higher, from 0 to 7. The name with the highest
/// score is explained; of equal scores, the first.
fn candidate_score(known: &DiagnosticsView<'_>, name: &WireName, index: usize) -> u8 {
    let mut query = QueryName::default();
    query.set(name);
    let Some((_, apex_at)) = known.apex_of(&query) else { return 0 };
    let exists = |namespace: &[u8]| known.cluster.knows_namespace(&String::from_utf8_lossy(namespace));
    match classify(&query, apex_at) {
        NameKind::Invalid => 1,
        NameKind::Service(key) | NameKind::Endpoint(key, _) | NameKind::Port(key, ..) | NameKind::Protocol(key, _) => {
            let key = service_ref(key);
            let view = known.cluster.service(&key);
            match (view.service, &view.stateful_sets[..]) {
                (Some(_), _) => 7,
                (None, [_, ..]) => 6,
                // The first name of the search list has the namespace added; the next ones contain it themselves.
                _ if exists(key.namespace.as_bytes()) => {
                    if index == 0 {
                        4
                    } else {
                        5
                    }
                }
                _ => 3,
            }
        }
        _ => 2,
    }
}

/// Engine with its buffers, for queries without a socket.
struct LocalResolver {
    responder: Responder,
    worker: Worker,
    requests: RequestBatch,
}

impl LocalResolver {
    fn new(zone: &Arc<Zone>, may_deny: bool) -> Self {
        let status = Arc::new(Status::default());
        if may_deny {
            status.set_synced();
        } else {
            status.set_partial(Vec::new());
        }
        let responder = Responder::new(Arc::clone(zone), status, AccessList::default());
        Self { responder, worker: Worker::default(), requests: RequestBatch::new(Transport::Tcp) }
    }

    fn ask(&mut self, name: &WireName, qtype: u16) -> anyhow::Result<ParsedResponse> {
        // A constant, since the rotation of RRsets depends on the ID.
        const ID: u16 = u16::MAX;
        let peer = Peer { from: SocketAddr::from(([127, 0, 0, 1], 1)), to: SocketAddr::from(([127, 0, 0, 1], 53)) };
        let mut message = query(ID, name, qtype);
        let query_length = message.len();
        message.resize(MAX_TCP, 0);
        let Self { responder, worker, requests } = self;
        let request = requests.parse_one(responder.zone(), &message[..query_length]);
        let length = responder.respond(request, peer, worker, &mut message).length();
        let response = length.and_then(|length| ParsedResponse::parse(&message[..length], ID, name, qtype));
        response.context("the engine gave no response")
    }
}

// Names to look up.

/// Name that was looked up, its response, and whether it resolves.
pub type Attempt = (WireName, ParsedResponse, bool);

/// Looks up the names of the search list with `ask`, until one resolves. Returns the attempts, and the index of the name
/// that resolves.
///
/// # Errors
///
/// The errors of `ask`.
pub fn try_each(
    request: &ExplainQuery<'_>,
    mut ask: impl FnMut(&WireName) -> anyhow::Result<ParsedResponse>,
) -> anyhow::Result<(Vec<Attempt>, Option<usize>)> {
    let mut tried = Vec::new();
    for name in request.candidates() {
        let reply = ask(&name)?;
        let resolves = reply.resolves(request.qtype, request.zones);
        tried.push((name, reply, resolves));
        if resolves {
            let index = tried.len() - 1;
            return Ok((tried, Some(index)));
        }
    }
    Ok((tried, None))
}

impl ExplainQuery<'_> {
    /// Returns the names that a Pod's resolver would look up, in its order. At least one.
    fn candidates(&self) -> Vec<WireName> {
        let name = match self.name {
            NameSpec::Address(address) => return vec![reverse_name(*address)],
            NameSpec::Absolute(name) => return vec![name.clone()],
            NameSpec::Relative(name) => name,
        };
        let (zone, namespace) = (&self.zones[0], self.namespace);
        let below = |suffix: &str| WireName::parse(&format!("{suffix}{zone}")).ok();
        let search = [below(&format!("{namespace}.svc.")), below("svc."), Some(zone.clone())];
        let labels = &name.octets()[..name.octets().len() - 1];
        // A resolver skips a name that becomes too long.
        let mut names: Vec<WireName> =
            search.into_iter().flatten().filter_map(|suffix| suffix.prefixed(labels)).collect();
        let dots = name.labels() - 1;
        names.insert(if dots >= NDOTS { 0 } else { names.len() }, name.clone());
        names
    }

    /// Returns whether the result may depend on the object or names of `subject`: the Service of a candidate name, its
    /// slices, a StatefulSet that it governs, or the StatefulSet of the label. For an address, any object may have it. An
    /// unknown object may be the reason of any non-resolution.
    pub fn touches(&self, known: &DiagnosticsView<'_>, subject: &Subject, resolves: bool) -> bool {
        if matches!(self.name, NameSpec::Address(_)) || *subject == Subject::Unknown {
            return *subject != Subject::Unknown || !resolves;
        }
        self.candidates().iter().any(|name| {
            let mut query = QueryName::default();
            query.set(name);
            let Some((_, apex_at)) = known.apex_of(&query) else { return false };
            let (key, label) = match classify(&query, apex_at) {
                NameKind::Service(key) | NameKind::Port(key, ..) | NameKind::Protocol(key, _) => (key, key.service()),
                NameKind::Endpoint(key, label) => (key, label),
                _ => return false,
            };
            let key = diagnose::service_ref(key);
            let label = String::from_utf8_lossy(label);
            let set = label.rsplit_once('-').map_or(&*label, |(set, _)| set);
            match subject {
                Subject::Unknown => false,
                Subject::Object(object) => {
                    let view = known.cluster.service(&key);
                    *object == key
                        || object.namespace == key.namespace && [&*label, set].contains(&&*object.name)
                        || view.slices().any(|slice| slice.key == *object)
                        || view.stateful_sets.iter().any(|governed| governed.key == *object)
                }
                Subject::Names(names) => {
                    let is_named = |name: &str| names.binary_search_by(|other| (**other).cmp(name)).is_ok();
                    [&*key.name, &*label, set].into_iter().any(is_named)
                }
            }
        })
    }

    /// Returns the namespace of the search list, if one is applied.
    pub fn searched(&self) -> Option<Box<str>> {
        matches!(self.name, NameSpec::Relative(_)).then(|| self.namespace.into())
    }
}
