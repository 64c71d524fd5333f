//! Request and zone in, response out: the one engine, for every transport.
//!
//! [`RequestBatch::parse`] parses messages (`request.rs`). [`Responder::respond`] answers one of them: one `match` over the
//! result of the zone's lookup. `response.rs` writes the response over the query, in its buffer; `chain.rs` follows
//! CNAMEs; `extended_errors.rs` adds the cause of a non-resolution; `forwarding.rs` completes responses that need an
//! upstream, with the records that `upstream_response.rs` accepts. The engine has no metrics: [`ResponseSummary`] holds
//! all that the server counts and logs. Row ids (N1, A4, ...) are those of `tests/rows.md`. Not here: the wire format
//! (`wire/`), the names that exist (`zone/`). Read next: `request.rs`, then `chain.rs`.

mod access;
mod chain;
mod extended_errors;
mod forwarding;
mod request;
mod response;
mod summary;
mod upstream_response;

use std::net::IpAddr;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;

use crate::diagnose::{Busy, Diagnostics, Finding};
use crate::name::QueryName;
use crate::name::reverse::is_reverse;
use crate::name::why_name::explain_target;
use crate::records::Absence;
use crate::rtype;
use crate::status::{DataState, Status};
use crate::wire::{self, ErrorResponse, MAX_TCP, QNAME_POINTER, Query, ResponseOptions, Section, Writer, ede, rcode};
use crate::zone::{EXPECTED_TTL, Lookup, SnapshotCache, Zone, ZoneContext};

use access::{AccessDecision, SharedAccessList};
use chain::{ChainWalk, CnameChain, NameOutcome};
use extended_errors::{EdePolicy, TokenBucket, Unresolved};
use forwarding::ResponseContext;
use request::{Disposition, ParsedQuestion};
use response::Response;

pub use crate::transport::Transport;
pub use crate::wire::DropReason;
pub use access::{AccessList, Peer};
pub use forwarding::{ForwardPolicy, ForwardedQuery, Resumed, UpstreamFailure};
pub use request::{Request, RequestBatch};
pub use summary::{CauseReport, ResponseSummary, ZoneLabel};
pub use upstream_response::{MAX_UPSTREAM_NEGATIVE_TTL, MAX_UPSTREAM_TTL, UpstreamRecord, UpstreamResponse};

/// State of one thread that answers queries: zone snapshot, rotation counter of RRsets, budget for searches of causes.
#[derive(Default)]
pub struct Worker {
    /// Memory for the name that a `_why` question is about.
    explain_target: QueryName,
    snapshot_cache: SnapshotCache,
    rotation: u16,
    explain_budget: TokenBucket,
}

impl Worker {
    /// Refills the budget for searches of causes; `now` is the time at which the batch arrived. If it is never called, the
    /// worker searches for no cause.
    pub fn begin_batch(&mut self, now: Instant) {
        self.explain_budget.refill(now);
    }

    /// Releases the cached zone snapshot. Called when the worker goes idle, or old Services stay in memory.
    pub fn release_snapshot(&mut self) {
        self.snapshot_cache.release();
    }
}

/// The engine's reply to one message.
#[derive(Debug)]
pub enum Reply {
    /// The response is at the start of the message's buffer.
    Response(ResponseSummary),
    /// The response needs records from an upstream; the content of the buffer is undefined. Only returned by a responder
    /// with a forwarding policy ([`Responder::with_forwarding`]).
    Forward(Box<ForwardedQuery>),
    /// No response: the server drops a datagram, and closes a connection.
    Drop(DropReason),
}

impl Reply {
    /// Returns the length of the response in octets, if the reply is one.
    pub fn length(&self) -> Option<usize> {
        if let Self::Response(summary) = self { Some(summary.length) } else { None }
    }
}

/// Error of a zone transfer: RCODE, extended error code and text.
const NO_TRANSFER: (u16, u16, &str) = (rcode::REFUSED, ede::PROHIBITED, "zone transfers are not offered");

/// EDNS options of a response to a client outside the access list: without NSID, so that it does not learn the server's
/// identifier.
const NOT_ALLOWED: ResponseOptions<'_> = ResponseOptions { nsid: &[], error: Some((ede::PROHIBITED, "")) };

/// Engine that answers requests from the zone, for every transport.
pub struct Responder {
    zone: Arc<Zone>,
    status: Arc<Status>,
    access: SharedAccessList,
    ede_policy: Option<EdePolicy>,
    forward_policy: Option<ForwardPolicy>,
    /// Text of the extended error before the initial lists are complete.
    not_synced: String,
    /// Server identifier (RFC 5001); empty without one.
    nsid: Arc<[u8]>,
}

impl Responder {
    /// Creates a responder for `zone` that reports no causes and forwards nothing.
    pub fn new(zone: Arc<Zone>, status: Arc<Status>, access: AccessList) -> Self {
        let not_synced = Finding::NotSynced { waiting_for: Vec::new(), forbidden: false, seconds: 0 }.ede_text();
        let access = SharedAccessList::new(access);
        Self { zone, status, access, ede_policy: None, forward_policy: None, not_synced, nsid: Arc::default() }
    }

    /// Sets the identifier that allowed clients get on an NSID request (RFC 5001): at most 255 octets.
    pub fn with_nsid(self, nsid: &str) -> Self {
        Self { nsid: nsid.as_bytes().into(), ..self }
    }

    /// Reports causes of non-resolution to the clients in the networks `to`; if empty, to no client.
    pub fn with_explanations(self, diagnostics: Diagnostics, to: Vec<IpNet>) -> Self {
        Self { ede_policy: Some(EdePolicy::new(diagnostics, to)), ..self }
    }

    /// Replaces the access list, and the networks of the clients that causes are reported to. The latter has no effect on a
    /// responder without [`Responder::with_explanations`].
    pub fn change_clients(&self, access: AccessList, to: Vec<IpNet>) {
        self.access.replace(access);
        if let Some(policy) = &self.ede_policy {
            policy.change_clients(to);
        }
    }

    /// Returns whether causes are reported to a client: see [`Responder::with_explanations`].
    pub fn is_explained_to(&self, client: IpAddr) -> bool {
        self.ede_policy.as_ref().is_some_and(|policy| policy.includes_client(client))
    }

    /// Sets the policy for names outside the zones: which clients may have them resolved by an upstream.
    pub fn with_forwarding(self, policy: ForwardPolicy) -> Self {
        Self { forward_policy: Some(policy), ..self }
    }

    /// Returns the zone that the responder answers from, for [`RequestBatch::parse`].
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Answers one request. `message` begins with the octets that the request was parsed from; the response overwrites
    /// them. Its length is at least 1,232 octets for UDP (the whole slot of the datagram), 65,535 for other transports.
    ///
    /// Never panics: a panic inside is caught and answered with SERVFAIL.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use headless_dns_core::answer::{AccessList, Peer, Reply, RequestBatch, Responder, Transport, Worker};
    /// use headless_dns_core::name::{WireName, reverse::ReverseZones};
    /// use headless_dns_core::zone::{Settings, Zone};
    ///
    /// let apexes = vec![WireName::parse("cluster.local").unwrap()];
    /// let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: Default::default() };
    /// let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    /// let responder = Responder::new(zone, Arc::default(), AccessList::default());
    ///
    /// let query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x07example\x04test\0\0\x01\0\x01";
    /// let (mut requests, mut worker) = (RequestBatch::new(Transport::Udp), Worker::default());
    /// let peer = Peer { from: "192.0.2.1:40000".parse().unwrap(), to: "192.0.2.53:53".parse().unwrap() };
    /// let mut buffer = [0; 1232];
    /// buffer[..query.len()].copy_from_slice(query);
    /// for request in requests.parse(responder.zone(), [&query[..]].into_iter()) {
    ///     let Reply::Response(summary) = responder.respond(request, peer, &mut worker, &mut buffer) else { panic!() };
    ///     assert_eq!((summary.length, summary.rcode), (query.len(), 5)); // REFUSED: no zone of this server
    /// }
    /// ```
    pub fn respond(&self, request: &Request, peer: Peer, worker: &mut Worker, message: &mut [u8]) -> Reply {
        let mut id = [0; 4];
        id.copy_from_slice(&message[..4]);
        // Assigned in place: a value that is returned through the closure is copied at each step.
        let mut reply = Reply::Drop(DropReason::Short);
        let answering = AssertUnwindSafe(|| reply = self.answer(request, &peer, worker, message));
        if catch_unwind(answering).is_err() {
            // The question may be overwritten by now, so the response has only a header.
            message[..4].copy_from_slice(&id);
            reply = self.fail(request, message);
        }
        if let Reply::Response(summary) = &mut reply {
            summary.truncated = wire::is_truncated(message);
        }
        reply
    }

    /// Answers with SERVFAIL after a panic.
    #[cold]
    fn fail(&self, request: &Request, message: &mut [u8]) -> Reply {
        let error = ErrorResponse::header_only(rcode::SERVFAIL, request.edns());
        reply_unparsed(request, wire::write_error(message, error, ResponseOptions::default()), error.rcode)
    }

    fn answer(&self, request: &Request, peer: &Peer, worker: &mut Worker, message: &mut [u8]) -> Reply {
        let disposition = request.disposition();
        if let Disposition::Drop(reason) = disposition {
            return Reply::Drop(reason);
        }
        if !peer.has_client_address() {
            return Reply::Drop(DropReason::Source);
        }
        let allowed = match self.access.decide(peer) {
            AccessDecision::Allowed => true,
            AccessDecision::Refused => false,
            AccessDecision::Dropped => return Reply::Drop(DropReason::NotAllowed),
        };
        match disposition {
            Disposition::Answer(question) => {
                // Load the state once, so that one response describes one state of the data.
                let context = RequestContext { question, peer, request, state: self.status.data_state() };
                if !allowed {
                    let Query { question_end, edns, .. } = *question.query;
                    let error = ErrorResponse { rcode: rcode::REFUSED, question_end, edns };
                    let length = wire::write_error(message, error, NOT_ALLOWED);
                    return Reply::Response(context.summary(length, rcode::REFUSED, ZoneLabel::NONE));
                }
                let reply = self.resolve(worker, &context, message);
                if self.serves(peer) {
                    wire::set_recursion_available(message);
                }
                reply
            }
            Disposition::Refuse(error) if allowed => {
                reply_unparsed(request, wire::write_error(message, error, self.response_options(None)), error.rcode)
            }
            Disposition::Refuse(error) => {
                let error = ErrorResponse::header_only(rcode::REFUSED, error.edns);
                reply_unparsed(request, wire::write_error(message, error, NOT_ALLOWED), error.rcode)
            }
            Disposition::Fail | Disposition::Drop(_) => self.fail(request, message),
        }
    }

    fn response_options<'t>(&'t self, error: Option<(u16, &'t str)>) -> ResponseOptions<'t> {
        ResponseOptions { nsid: &self.nsid, error }
    }

    #[inline]
    fn resolve(&self, worker: &mut Worker, context: &RequestContext<'_>, message: &mut [u8]) -> Reply {
        let query = context.question.query;
        worker.rotation = worker.rotation.wrapping_add(1);
        if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
            return self.refuse(context, message, ZoneLabel::NONE, NO_TRANSFER);
        }
        let limit = limit(context.request.transport, query);
        let mut response = Response {
            writer: Writer::new(message, query.question_end, limit, query.edns.is_some()),
            ttl: self.zone.ttl(),
            rotation: query.id.wrapping_add(worker.rotation),
            zone: ZoneLabel::NONE,
        };
        let first = self.write_qname(worker, context, &mut response);
        // Nearly every query ends here: one look-up, and nothing to add.
        if context.state == DataState::Current
            && let NameOutcome::Done(rcode) | NameOutcome::Negative(rcode, _) = first
            && !matches!(&first, NameOutcome::Negative(_, unresolved) if self.may_have_cause(&context.question, *unresolved))
        {
            return Reply::Response(self.finish(context, response, rcode, None));
        }
        self.complete(worker, context, first, response)
    }

    /// Completes a response that needs more than one look-up, or an extended error.
    #[inline(never)]
    fn complete(
        &self,
        worker: &mut Worker,
        context: &RequestContext<'_>,
        first: NameOutcome,
        mut response: Response<'_>,
    ) -> Reply {
        let RequestContext { question: ParsedQuestion { name, query, .. }, peer, state, .. } = *context;
        let (mut chain, mut report) = (None, CauseReport::None);
        let outcome = if matches!(first, NameOutcome::Cname(..)) {
            let chain = chain.insert(CnameChain::new(name.to_wire()));
            let mut walk = ChainWalk::new(chain, query.qtype, state, &mut worker.snapshot_cache);
            self.follow_chain(&mut walk, first, &mut response)
        } else {
            first
        };
        let (rcode, unresolved) = match outcome {
            NameOutcome::Done(rcode) => (rcode, None),
            NameOutcome::Negative(rcode, unresolved) => (rcode, Some(unresolved)),
            NameOutcome::Cname(..) | NameOutcome::EndlessChain => (rcode::NOERROR, Some(Unresolved::Chain)),
            NameOutcome::WhyQuery(labels, apex_at) => {
                worker.explain_target.set_explain_target(name, labels, apex_at);
                let text;
                (text, report) = self.why_text(worker, state);
                response.text(&text);
                (rcode::NOERROR, None)
            }
            NameOutcome::NotReady => return self.refuse_not_ready(context, response),
            NameOutcome::NotInZone => match chain {
                None => return self.resolve_outside(context, response.writer),
                // Without RD, the client follows the rest itself.
                Some(chain) if self.forwards_cname(peer) && response.writer.is_recursion_desired() => {
                    return self.forward(context, response, chain);
                }
                Some(_) => (rcode::NOERROR, None),
            },
        };
        if state.is_old() {
            let summary = self.finish(context, response, rcode, Some((stale(rcode), &self.status.sentence())));
            return Reply::Response(ResponseSummary { is_stale: true, cause: report, ..summary });
        }
        let mut cause = None;
        if let Some(unresolved) = unresolved {
            (cause, report) = self.cause(worker, context, unresolved);
        }
        let error = cause.map(|cause| (cause.ede_code(), cause.ede_text()));
        let summary = self.finish(context, response, rcode, error.as_ref().map(|(code, text)| (*code, text.as_str())));
        Reply::Response(ResponseSummary { cause: report, ..summary })
    }

    /// Finishes an authoritative response.
    #[inline]
    fn finish(
        &self,
        context: &RequestContext<'_>,
        response: Response<'_>,
        rcode: u16,
        error: Option<(u16, &str)>,
    ) -> ResponseSummary {
        let Response { writer, zone, .. } = response;
        let length = writer.finish(rcode, true, context.question.query.edns, self.response_options(error));
        context.summary(length, rcode, zone)
    }

    /// Leaves the rest of a CNAME chain to an upstream.
    fn forward(&self, context: &RequestContext<'_>, response: Response<'_>, chain: CnameChain) -> Reply {
        let note = context.state.is_old().then(|| (ede::STALE_ANSWER, self.status.sentence().to_string()));
        let properties = self.response_context(context, true, response.zone);
        Reply::Forward(ForwardedQuery::new(context, response.writer, chain, properties).with_note(note))
    }

    /// Answers with SERVFAIL, since objects are missing.
    fn refuse_not_ready(&self, context: &RequestContext<'_>, response: Response<'_>) -> Reply {
        let sentence = self.status.sentence();
        let is_explained =
            !sentence.is_empty() && context.state != DataState::Restored && self.may_explain(context.peer);
        let text = if is_explained { sentence.as_str() } else { &self.not_synced };
        let refusal = (rcode::SERVFAIL, ede::NOT_READY, text);
        self.refuse(context, response.writer.into_message(), response.zone, refusal)
    }

    /// Answers a query for a name outside the zones: refuses it, answers for a special name, or forwards it.
    fn resolve_outside(&self, context: &RequestContext<'_>, mut writer: Writer<'_>) -> Reply {
        let RequestContext { question: ParsedQuestion { name, query, .. }, peer, state, .. } = *context;
        let policy = self.forward_policy.as_ref().filter(|policy| policy.serves(peer));
        let Some(policy) = policy.filter(|_| writer.is_recursion_desired()) else {
            let refusal = (rcode::REFUSED, ede::NOT_AUTHORITATIVE, "");
            return self.refuse(context, writer.into_message(), ZoneLabel::NONE, refusal);
        };
        // The reverse zones follow from the addresses: before they are known, an upstream may not answer for one of them.
        if matches!(state, DataState::NotSynced | DataState::Partial) && is_reverse(name) {
            let refusal = (rcode::SERVFAIL, ede::NOT_READY, &*self.not_synced);
            return self.refuse(context, writer.into_message(), ZoneLabel::NONE, refusal);
        }
        let zone = ZoneLabel::FORWARDED;
        match policy.special(name) {
            Some(special) => {
                let rcode = forwarding::write_special(&mut writer, QNAME_POINTER, special, query.qtype);
                let rcode = self.forwarded_rcode(name, rcode);
                let writer = writer.recursion_available(true);
                let length = writer.finish(rcode, false, query.edns, self.response_options(None));
                Reply::Response(context.summary(length, rcode, zone))
            }
            None => {
                let chain = CnameChain::new(name.to_wire());
                Reply::Forward(ForwardedQuery::new(context, writer, chain, self.response_context(context, false, zone)))
            }
        }
    }

    fn response_context(&self, request: &RequestContext<'_>, authoritative: bool, zone: ZoneLabel) -> ResponseContext {
        let (nsid, query_length) = (Arc::clone(&self.nsid), request.request.length);
        ResponseContext { authoritative, served: self.serves(request.peer), nsid, zone, query_length }
    }

    /// Writes an error response without records. `refusal` is its RCODE, extended error code and text.
    fn refuse(
        &self,
        context: &RequestContext<'_>,
        message: &mut [u8],
        zone: ZoneLabel,
        (rcode, code, text): (u16, u16, &str),
    ) -> Reply {
        let Query { question_end, edns, .. } = *context.question.query;
        let error = ErrorResponse { rcode, question_end, edns };
        let length = wire::write_error(message, error, self.response_options(Some((code, text))));
        Reply::Response(context.summary(length, rcode, zone))
    }

    fn may_explain(&self, peer: &Peer) -> bool {
        self.ede_policy.as_ref().is_some_and(|policy| policy.is_allowed(peer))
    }

    /// Searches for the cause of a non-resolution, if causes are reported to the client and one is likely to be found.
    fn cause(
        &self,
        worker: &mut Worker,
        context: &RequestContext<'_>,
        unresolved: Unresolved,
    ) -> (Option<Finding>, CauseReport) {
        let question = &context.question;
        let policy = self.ede_policy.as_ref().filter(|_| self.may_have_cause(question, unresolved));
        let Some(policy) = policy.filter(|policy| policy.is_allowed(context.peer)) else {
            return (None, CauseReport::None);
        };
        if !worker.explain_budget.take() {
            return (None, CauseReport::Skipped);
        }
        match policy.cause(question.name, question.query.qtype, unresolved) {
            Ok(Some(cause)) => {
                let report = CauseReport::Reported(cause.id_and_token().1);
                (Some(cause), report)
            }
            Ok(None) => (None, CauseReport::None),
            Err(Busy) => (None, CauseReport::Skipped),
        }
    }

    /// Returns whether [`Self::cause`] may find a cause.
    #[inline]
    fn may_have_cause(&self, question: &ParsedQuestion<'_>, unresolved: Unresolved) -> bool {
        question.query.edns.is_some()
            && self.ede_policy.as_ref().is_some_and(EdePolicy::is_enabled)
            && extended_errors::may_have_finding(&self.zone, question.name, question.query.qtype, unresolved)
    }

    /// Looks up QNAME, and writes the answer and authority sections that follow from QNAME alone.
    #[inline]
    fn write_qname(
        &self,
        worker: &mut Worker,
        context: &RequestContext<'_>,
        response: &mut Response<'_>,
    ) -> NameOutcome {
        let ParsedQuestion { name, key, query } = context.question;
        let not_ready = context.state == DataState::NotSynced;
        // A restored snapshot may be older than a name, and an unreadable file may define it: no NXDOMAIN then.
        let may_deny = context.state.may_deny();
        self.zone.look_up_with(&mut worker.snapshot_cache, name, key, query.qtype, |lookup| {
            let Some(zone_context) = lookup.context() else { return NameOutcome::NotInZone };
            response.zone = ZoneLabel::served(zone_context.number);
            if not_ready || !may_deny && matches!(lookup, Lookup::NxDomain(..)) {
                return NameOutcome::NotReady;
            }
            let names = OwnerPointers::for_qname(zone_context, name);
            match self.why_target(name, context.peer, &lookup) {
                None => self.write_lookup(names, query.qtype, lookup, response),
                // The name exists, with a TXT record only.
                Some((zone_context, _)) if !matches!(query.qtype, rtype::TXT | rtype::ANY) => {
                    self.deny(names, zone_context, false, response);
                    NameOutcome::Done(rcode::NOERROR)
                }
                Some((zone_context, labels)) => NameOutcome::WhyQuery(labels, zone_context.apex_at),
            }
        })
    }

    /// Returns the labels of NAME if QNAME is `_why.NAME`, does not exist otherwise, and causes are reported to the client.
    #[inline]
    fn why_target<'z>(
        &self,
        name: &QueryName,
        peer: &Peer,
        lookup: &Lookup<'z>,
    ) -> Option<(ZoneContext<'z>, Range<usize>)> {
        let (Lookup::NxDomain(zone_context, _), Some(policy)) = (lookup, &self.ede_policy) else { return None };
        let labels = explain_target(name, zone_context.apex_at)?;
        policy.is_allowed(peer).then_some((*zone_context, labels))
    }

    /// Returns the text for the name that the worker's `_why` question is about, and the cause that it reports.
    fn why_text(&self, worker: &mut Worker, state: DataState) -> (String, CauseReport) {
        let (mut text, cause) = match &self.ede_policy {
            Some(policy) if worker.explain_budget.take() => policy.text(&self.zone, &worker.explain_target),
            _ => extended_errors::busy_text(),
        };
        if state.is_old() {
            text = format!("{text}; {}", *self.status.sentence());
        }
        (text, cause)
    }

    fn forwards_cname(&self, peer: &Peer) -> bool {
        self.forward_policy.as_ref().is_some_and(|policy| policy.aliases || policy.serves(peer))
    }

    fn serves(&self, peer: &Peer) -> bool {
        self.forward_policy.as_ref().is_some_and(|policy| policy.serves(peer))
    }

    /// Writes the result of a look-up.
    #[inline]
    fn write_lookup(
        &self,
        names: OwnerPointers,
        qtype: u16,
        lookup: Lookup<'_>,
        response: &mut Response<'_>,
    ) -> NameOutcome {
        match lookup {
            Lookup::Found(zone_context, rrset) => {
                response.rrset(names, zone_context, rrset, &self.zone);
                NameOutcome::Done(rcode::NOERROR)
            }
            Lookup::Cname(zone_context, target) => match response.cname(names, zone_context, target) {
                Some(pointer) if !matches!(qtype, rtype::CNAME | rtype::ANY) => {
                    NameOutcome::Cname(target.clone(), pointer)
                }
                _ => NameOutcome::Done(rcode::NOERROR),
            },
            Lookup::NoData(zone_context) => {
                self.deny(names, zone_context, false, response);
                NameOutcome::Negative(rcode::NOERROR, Unresolved::NoData(zone_context.apex_at))
            }
            Lookup::NxDomain(zone_context, absence) => {
                let expected = absence.is_some_and(Absence::is_expected);
                self.deny(names, zone_context, expected, response);
                NameOutcome::Negative(rcode::NXDOMAIN, Unresolved::NxDomain(zone_context.apex_at, absence))
            }
            Lookup::NotInZone => NameOutcome::NotInZone,
        }
    }

    /// Writes the SOA of a negative response, with the TTL for which caches keep it (RFC 2308 sections 2, 3 and 5).
    #[inline]
    fn deny(&self, names: OwnerPointers, zone_context: ZoneContext<'_>, expected: bool, response: &mut Response<'_>) {
        let negative = self.zone.negative_ttl();
        response.writer.begin(Section::Authority);
        response.soa(names, zone_context, if expected { negative.min(EXPECTED_TTL) } else { negative }, &self.zone);
    }
}

/// Returns the maximum length of the response, in octets.
#[inline]
fn limit(transport: Transport, query: &Query) -> usize {
    if transport.is_datagram() { wire::udp_limit(query.edns) } else { MAX_TCP }
}

/// Returns the extended error code of a response from stale data (RFC 8914 sections 4.4 and 4.20).
fn stale(rcode: u16) -> u16 {
    if rcode == rcode::NXDOMAIN { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER }
}

/// Query that is being answered, with its client.
#[derive(Clone, Copy)]
struct RequestContext<'r> {
    question: ParsedQuestion<'r>,
    peer: &'r Peer,
    request: &'r Request,
    state: DataState,
}

impl RequestContext<'_> {
    /// Returns the summary of the response, except for the TC bit.
    #[inline]
    fn summary(&self, length: usize, rcode: u16, zone: ZoneLabel) -> ResponseSummary {
        let query = self.question.query;
        ResponseSummary {
            length,
            query_length: self.request.length,
            zone,
            qtype: query.qtype,
            rcode,
            dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
            truncated: false,
            is_stale: false,
            cause: CauseReport::None,
        }
    }
}

/// Returns the reply to a message with an unparsed question.
#[cold]
fn reply_unparsed(request: &Request, length: usize, rcode: u16) -> Reply {
    Reply::Response(ResponseSummary {
        length,
        query_length: request.length,
        zone: ZoneLabel::NONE,
        qtype: 0,
        rcode,
        dnssec_ok: false,
        truncated: false,
        is_stale: false,
        cause: CauseReport::None,
    })
}

/// Compression pointers to names that the message contains already.
#[derive(Clone, Copy)]
struct OwnerPointers {
    /// Owner name of the answer.
    owner: u16,
    /// Apex of the zone. `None` if the name is not QNAME, or a pointer cannot reach the apex.
    apex: Option<u16>,
}

impl OwnerPointers {
    fn for_qname(zone_context: &ZoneContext<'_>, name: &QueryName) -> Self {
        Self { owner: QNAME_POINTER, apex: wire::pointer(wire::HEADER + name.offset(zone_context.apex_at)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::WireName;
    use crate::name::reverse::ReverseZones;
    use crate::naming_rules::NamingRules;
    use crate::zone::Settings;

    fn zone(apexes: &[&str]) -> Zone {
        let apexes = apexes.iter().map(|apex| WireName::parse(apex).unwrap()).collect();
        Zone::new(Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() }, ReverseZones::default())
    }

    /// Uses a request that was parsed for another zone to make the engine panic, as any bug would.
    #[test]
    fn answers_panic_with_servfail_and_opt_record() {
        let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x05other\x04test\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\0";
        let responder = Responder::new(Arc::new(zone(&["cluster.local"])), Arc::default(), AccessList::default());
        let peer = Peer { from: "192.0.2.1:40000".parse().unwrap(), to: "192.0.2.53:53".parse().unwrap() };
        let (mut requests, mut worker) = (RequestBatch::new(Transport::Udp), Worker::default());
        let mut respond = |zone: &Zone| {
            let mut message = query.to_vec();
            message.resize(1232, 0);
            let length = responder.respond(requests.parse_one(zone, query), peer, &mut worker, &mut message).length();
            message[..length.unwrap()].to_vec()
        };
        let failed = respond(&zone(&["cluster.local", "other.test"]));
        assert_eq!(failed[..12], [0x12, 0x34, 0x81, 0x02, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(failed[12..], [0, 0, 0x29, 0x04, 0xd0, 0, 0, 0x80, 0, 0, 0]);
        assert_eq!(respond(responder.zone())[3], 5, "the next query is answered as ever");
    }
}
