//! Request and zone in, response out: the one engine, for every transport.
//!
//! [`RequestBatch::parse`] parses messages (`request.rs`). [`Responder::respond`] answers one of them: one `match` over the
//! result of the zone's lookup. `response.rs` writes the response over the query, in its buffer; `why.rs` adds the cause
//! of a non-resolution; `outside.rs` completes responses that need an upstream, with the records that `foreign.rs`
//! accepts. The engine has no metrics: [`ResponseSummary`] holds all that the server counts and logs. Row ids (N1, A4,
//! ...) are those of `tests/rows.md`. Not here: the wire format (`wire.rs`), the names that exist (`zone/`). Read next:
//! `request.rs`, then `response.rs`.

mod extended_errors;
mod forwarding;
mod request;
mod response;
mod summary;
mod upstream_response;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::diagnose::{Busy, Diagnostics, Finding};
use crate::name::reverse::is_reverse;
use crate::name::why_name::explain_target;
use crate::name::{QueryName, WireName};
use crate::records::Absence;
use crate::rtype;
use crate::status::{DataState, Status};
use crate::wire::{self, ErrorResponse, MAX_TCP, QNAME_POINTER, Query, ResponseOptions, Section, Writer, ede, rcode};
use crate::zone::{EXPECTED_TTL, Lookup, SnapshotCache, Zone, ZoneContext};

use extended_errors::{EdePolicy, TokenBucket, Unresolved};
use forwarding::{CnameChain, ResponseContext};
use request::{Disposition, ParsedQuestion};
use response::Response;

pub use crate::transport::Transport;
pub use crate::wire::DropReason;
pub use forwarding::{ForwardPolicy, ForwardedQuery, Resumed, UpstreamFailure};
pub use request::{Request, RequestBatch};
pub use summary::{CauseReport, ResponseSummary, ZoneLabel};
pub use upstream_response::{MAX_UPSTREAM_NEGATIVE_TTL, MAX_UPSTREAM_TTL, UpstreamRecord, UpstreamResponse};

/// Addresses of the client and of the listener.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Address and port of the client.
    pub from: SocketAddr,
    /// Address and port of the listener; for a wildcard bind, the address that the client sent the message to.
    pub to: SocketAddr,
}

/// Access list: the clients that are answered, and the treatment of all other clients.
#[derive(Clone, Debug, Default)]
pub struct AccessList {
    /// Networks of the clients that are answered. If empty, all clients are answered.
    pub allow: Vec<IpNet>,
    /// True if a query of any other client is dropped instead of answered with REFUSED.
    pub silent: bool,
}

impl AccessList {
    fn is_allowed(&self, peer: &Peer) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(&peer.from.ip().to_canonical()))
    }
}

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

/// EDNS options of a response to a client outside the access list: without NSID, so that it does not learn the server's
/// identifier.
const NOT_ALLOWED: ResponseOptions<'_> = ResponseOptions { nsid: &[], error: Some((ede::PROHIBITED, "")) };

/// Engine that answers requests from the zone, for every transport.
pub struct Responder {
    zone: Arc<Zone>,
    status: Arc<Status>,
    access: ArcSwap<AccessList>,
    /// True if the access list is empty, so that `access` need not be loaded.
    allows_everyone: AtomicBool,
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
        let everyone = AtomicBool::new(access.allow.is_empty());
        let access = ArcSwap::from_pointee(access);
        Self {
            zone,
            status,
            access,
            allows_everyone: everyone,
            ede_policy: None,
            forward_policy: None,
            not_synced,
            nsid: Arc::default(),
        }
    }

    /// Sets the identifier that allowed clients get on an NSID request (RFC 5001): at most 255 octets.
    pub fn with_nsid(self, nsid: &str) -> Self {
        Self { nsid: nsid.as_bytes().into(), ..self }
    }

    /// Reports causes of non-resolution to the clients in the networks `to`; if empty, to no client.
    pub fn with_explanations(self, asker: Diagnostics, to: Vec<IpNet>) -> Self {
        Self { ede_policy: Some(EdePolicy::new(asker, to)), ..self }
    }

    /// Replaces the access list, and the networks of the clients that causes are reported to. The latter has no effect on a
    /// responder without [`Responder::with_explanations`].
    pub fn change_clients(&self, access: AccessList, to: Vec<IpNet>) {
        let everyone = access.allow.is_empty();
        self.access.store(Arc::new(access));
        self.allows_everyone.store(everyone, Ordering::Release);
        if let Some(explainer) = &self.ede_policy {
            explainer.change_clients(to);
        }
    }

    /// Returns whether causes are reported to a client: see [`Responder::with_explanations`].
    pub fn is_explained_to(&self, client: IpAddr) -> bool {
        self.ede_policy.as_ref().is_some_and(|explainer| explainer.includes_client(client))
    }

    /// Sets the policy for names outside the zones: which clients may have them resolved by an upstream.
    pub fn with_forwarding(self, outside: ForwardPolicy) -> Self {
        Self { forward_policy: Some(outside), ..self }
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
        let refusal = ErrorResponse::header_only(rcode::SERVFAIL, request.edns());
        unread(request, wire::write_error(message, refusal, ResponseOptions::default()), refusal.rcode)
    }

    fn answer(&self, request: &Request, peer: &Peer, worker: &mut Worker, message: &mut [u8]) -> Reply {
        let disposition = request.disposition();
        if let Disposition::Drop(reason) = disposition {
            return Reply::Drop(reason);
        }
        if !is_client(peer) {
            return Reply::Drop(DropReason::Source);
        }
        let allowed = match self.admission(peer) {
            AccessDecision::Allowed => true,
            AccessDecision::Refused => false,
            AccessDecision::Dropped => return Reply::Drop(DropReason::NotAllowed),
        };
        match disposition {
            Disposition::Answer(question) if allowed => {
                let received = RequestContext { question, peer, request };
                let reply = self.resolve(worker, &received, message);
                if self.serves(peer) {
                    wire::set_recursion_available(message);
                }
                reply
            }
            Disposition::Answer(question) => {
                let Query { question_end, edns, .. } = *question.query;
                let refusal = ErrorResponse { rcode: rcode::REFUSED, question_end, edns };
                let length = wire::write_error(message, refusal, NOT_ALLOWED);
                let received = RequestContext { question, peer, request };
                Reply::Response(received.summary(length, rcode::REFUSED, ZoneLabel::NONE))
            }
            Disposition::Refuse(refusal) if allowed => {
                unread(request, wire::write_error(message, refusal, self.response_options(None)), refusal.rcode)
            }
            Disposition::Refuse(refusal) => {
                let refusal = ErrorResponse::header_only(rcode::REFUSED, refusal.edns);
                unread(request, wire::write_error(message, refusal, NOT_ALLOWED), refusal.rcode)
            }
            Disposition::Fail | Disposition::Drop(_) => self.fail(request, message),
        }
    }

    #[inline]
    fn admission(&self, peer: &Peer) -> AccessDecision {
        if self.allows_everyone.load(Ordering::Acquire) {
            return AccessDecision::Allowed;
        }
        // Load once, so that both checks see one access list.
        let access = self.access.load();
        match (access.is_allowed(peer), access.silent) {
            (true, _) => AccessDecision::Allowed,
            (false, false) => AccessDecision::Refused,
            (false, true) => AccessDecision::Dropped,
        }
    }

    fn response_options<'t>(&'t self, error: Option<(u16, &'t str)>) -> ResponseOptions<'t> {
        ResponseOptions { nsid: &self.nsid, error }
    }

    #[inline]
    fn resolve(&self, worker: &mut Worker, received: &RequestContext<'_>, message: &mut [u8]) -> Reply {
        let query = received.question.query;
        worker.rotation = worker.rotation.wrapping_add(1);
        if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
            let error = (ede::PROHIBITED, "zone transfers are not offered");
            return self.refuse(message, received, ZoneLabel::NONE, rcode::REFUSED, error);
        }
        let limit = limit(received.request.transport, query);
        let mut response = Response {
            writer: Writer::new(message, query.question_end, limit, query.edns.is_some()),
            ttl: self.zone.ttl(),
            turn: query.id.wrapping_add(worker.rotation),
            zone: ZoneLabel::NONE,
        };
        // Load once, so that one response describes one state of the data.
        let state = self.status.data_state();
        let first = self.write(worker, received, state, &mut response);
        // Nearly every query ends here: one look-up, and nothing to add.
        if state == DataState::Current
            && let NameOutcome::Done(rcode) | NameOutcome::Denied(rcode, _) = first
            && !matches!(&first, NameOutcome::Denied(_, open) if self.may_have_cause(&received.question, *open))
        {
            let zone = response.zone;
            let length = response.writer.finish(rcode, true, query.edns, self.response_options(None));
            return Reply::Response(received.summary(length, rcode, zone));
        }
        self.resolve_further(worker, received, state, (first, response))
    }

    /// Completes a response that needs more than one look-up, or an extended error.
    #[inline(never)]
    fn resolve_further(
        &self,
        worker: &mut Worker,
        received: &RequestContext<'_>,
        state: DataState,
        (first, mut response): (NameOutcome, Response<'_>),
    ) -> Reply {
        let (peer, query) = (received.peer, received.question.query);
        let mut report = CauseReport::None;
        let outcome = self.follow_chain(worker, received, state, &mut report, (first, &mut response));
        let Response { writer, zone, .. } = response;
        let finish = |writer: Writer<'_>, rcode, error| {
            let length = writer.finish(rcode, true, query.edns, self.response_options(error));
            received.summary(length, rcode, zone)
        };
        match outcome {
            QueryOutcome::Answered(rcode, _) if state.is_old() => {
                let summary = finish(writer, rcode, Some((stale(rcode), &self.status.sentence())));
                Reply::Response(ResponseSummary { is_stale: true, cause: report, ..summary })
            }
            QueryOutcome::Answered(rcode, open) => {
                let cause = open.and_then(|open| self.cause(worker, received, open, &mut report));
                let error = cause.map(|cause| (cause.ede_code(), cause.ede_text()));
                let summary = finish(writer, rcode, error.as_ref().map(|(code, text)| (*code, text.as_str())));
                Reply::Response(ResponseSummary { cause: report, ..summary })
            }
            QueryOutcome::LeavesZones(chain) => {
                let note = state.is_old().then(|| (ede::STALE_ANSWER, self.status.sentence().to_string()));
                let marks = self.response_context(peer, true, zone);
                Reply::Forward(ForwardedQuery::new(received, writer, chain, marks).with_note(note))
            }
            QueryOutcome::NotInZone => self.resolve_forwarded(received, writer, state),
            QueryOutcome::NotSynced => {
                let sentence = self.status.sentence();
                let told = !sentence.is_empty() && state != DataState::Restored && self.may_explain(peer);
                let text = if told { sentence.as_str() } else { &self.not_synced };
                self.refuse(writer.into_message(), received, zone, rcode::SERVFAIL, (ede::NOT_READY, text))
            }
        }
    }

    /// Answers a query for a name outside the zones: refuses it, or leaves it to an upstream.
    fn resolve_forwarded(&self, received: &RequestContext<'_>, mut writer: Writer<'_>, state: DataState) -> Reply {
        let RequestContext { question: ParsedQuestion { name, query, .. }, peer, .. } = *received;
        let serving = self.forward_policy.as_ref().filter(|outside| outside.serves(peer));
        let Some(outside) = serving.filter(|_| writer.is_recursion_desired()) else {
            let error = (ede::NOT_AUTHORITATIVE, "");
            return self.refuse(writer.into_message(), received, ZoneLabel::NONE, rcode::REFUSED, error);
        };
        // The reverse zones follow from the addresses: before they are known, an upstream may not answer for one of them.
        if matches!(state, DataState::NotSynced | DataState::Partial) && is_reverse(name) {
            let error = (ede::NOT_READY, &*self.not_synced);
            return self.refuse(writer.into_message(), received, ZoneLabel::NONE, rcode::SERVFAIL, error);
        }
        let zone = ZoneLabel::FORWARDED;
        match outside.special(name) {
            Some(special) => {
                let rcode = forwarding::write_special(&mut writer, QNAME_POINTER, special, query.qtype);
                let rcode = self.forwarded_rcode(name, rcode);
                let writer = writer.recursion_available(true);
                let length = writer.finish(rcode, false, query.edns, self.response_options(None));
                Reply::Response(received.summary(length, rcode, zone))
            }
            None => {
                let chain = CnameChain::new(name.to_wire());
                Reply::Forward(ForwardedQuery::new(received, writer, chain, self.response_context(peer, false, zone)))
            }
        }
    }

    fn response_context(&self, peer: &Peer, authoritative: bool, zone: ZoneLabel) -> ResponseContext {
        ResponseContext { authoritative, served: self.serves(peer), nsid: Arc::clone(&self.nsid), zone }
    }

    fn refuse(
        &self,
        message: &mut [u8],
        received: &RequestContext<'_>,
        zone: ZoneLabel,
        rcode: u16,
        error: (u16, &str),
    ) -> Reply {
        let Query { question_end, edns, .. } = *received.question.query;
        let length =
            wire::write_error(message, ErrorResponse { rcode, question_end, edns }, self.response_options(Some(error)));
        Reply::Response(received.summary(length, rcode, zone))
    }

    fn may_explain(&self, peer: &Peer) -> bool {
        self.ede_policy.as_ref().is_some_and(|explainer| explainer.is_allowed(peer))
    }

    /// Searches for the cause of a non-resolution, if causes are reported to the client and one is likely to be found.
    /// Sets `report` to the result.
    fn cause(
        &self,
        worker: &mut Worker,
        received: &RequestContext<'_>,
        open: Unresolved,
        report: &mut CauseReport,
    ) -> Option<Finding> {
        let (explainer, question) = (self.ede_policy.as_ref()?, &received.question);
        if !self.may_have_cause(question, open) || !explainer.is_allowed(received.peer) {
            return None;
        }
        let found = if worker.explain_budget.take() {
            explainer.cause(question.name, question.query.qtype, open)
        } else {
            Err(Busy)
        };
        match &found {
            Ok(Some(cause)) => *report = CauseReport::Reported(cause.id_and_token().1),
            Ok(None) => {}
            Err(Busy) => *report = CauseReport::Skipped,
        }
        found.ok().flatten()
    }

    /// Returns whether [`Self::cause`] may find a cause.
    #[inline]
    fn may_have_cause(&self, question: &ParsedQuestion<'_>, open: Unresolved) -> bool {
        question.query.edns.is_some()
            && self.ede_policy.as_ref().is_some_and(EdePolicy::is_enabled)
            && extended_errors::may_have_finding(&self.zone, question.name, question.query.qtype, open)
    }

    /// Looks up QNAME, and writes the answer and authority sections that follow from QNAME alone.
    #[inline]
    fn write(
        &self,
        worker: &mut Worker,
        received: &RequestContext<'_>,
        state: DataState,
        response: &mut Response<'_>,
    ) -> NameOutcome {
        let not_ready = state == DataState::NotSynced;
        // A restored snapshot may be older than a name, and an unreadable file may define it: no NXDOMAIN then.
        let may_deny = state.may_deny();
        let ParsedQuestion { name, key, query } = received.question;
        self.zone.look_up_with(&mut worker.snapshot_cache, name, key, query.qtype, |lookup| {
            let Some(site) = lookup.context() else { return NameOutcome::NotInZone };
            response.zone = ZoneLabel::served(site.number);
            if not_ready || !may_deny && matches!(lookup, Lookup::NxDomain(..)) {
                return NameOutcome::NotReady;
            }
            let names = OwnerPointers::of_question(site, name);
            match self.is_why_query(name, received.peer, &lookup) {
                None => self.write_lookup(name, names, query.qtype, lookup, response),
                // The name exists, with a TXT record only.
                Some((site, _)) if !matches!(query.qtype, rtype::TXT | rtype::ANY) => {
                    self.deny(names, site, false, response);
                    NameOutcome::Done(rcode::NOERROR)
                }
                Some((site, labels)) => NameOutcome::Why(labels, site.apex_at),
            }
        })
    }

    /// Completes the response after the look-up of QNAME: the rest of a CNAME chain, addresses of the name server, or the
    /// text of a `_why` question.
    fn follow_chain(
        &self,
        worker: &mut Worker,
        received: &RequestContext<'_>,
        state: DataState,
        report: &mut CauseReport,
        (first, response): (NameOutcome, &mut Response<'_>),
    ) -> QueryOutcome {
        match first {
            NameOutcome::Done(rcode) => QueryOutcome::Answered(rcode, None),
            NameOutcome::Denied(rcode, open) => QueryOutcome::Answered(rcode, Some(open)),
            NameOutcome::Glue(target) => {
                response.glue(target, &self.zone);
                QueryOutcome::Answered(rcode::NOERROR, None)
            }
            NameOutcome::NotInZone => QueryOutcome::NotInZone,
            NameOutcome::NotReady => QueryOutcome::NotSynced,
            NameOutcome::CnameLoop => QueryOutcome::Answered(rcode::NOERROR, Some(Unresolved::Chain)),
            NameOutcome::Follow(target, owner) => {
                let question = &received.question;
                let mut chain = CnameChain::new(question.name.to_wire());
                // Always true: a CNAME to QNAME itself is no `Follow`.
                let _ = chain.extend(target, owner);
                match self.follow(&mut worker.snapshot_cache, question.query.qtype, state, &mut chain, response) {
                    ChainEnd::NotReady => QueryOutcome::NotSynced,
                    ChainEnd::At(rcode) => {
                        QueryOutcome::Answered(rcode, (rcode == rcode::NXDOMAIN).then_some(Unresolved::Chain))
                    }
                    ChainEnd::ChainTooLong => QueryOutcome::Answered(rcode::NOERROR, Some(Unresolved::Chain)),
                    // Without RD the client follows the rest itself.
                    ChainEnd::Outside
                        if self.forwards_cname(received.peer) && response.writer.is_recursion_desired() =>
                    {
                        QueryOutcome::LeavesZones(chain)
                    }
                    ChainEnd::Outside => QueryOutcome::Answered(rcode::NOERROR, None),
                }
            }
            NameOutcome::Why(labels, apex_at) => {
                let (text, cause) = self.why(worker, received.question.name, (labels, apex_at), state);
                *report = cause;
                response.text(&text);
                QueryOutcome::Answered(rcode::NOERROR, None)
            }
        }
    }

    /// Returns the labels of NAME if QNAME is `_why.NAME`, does not exist otherwise, and causes are reported to the client.
    #[inline]
    fn is_why_query<'z>(
        &self,
        name: &QueryName,
        peer: &Peer,
        lookup: &Lookup<'z>,
    ) -> Option<(ZoneContext<'z>, Range<usize>)> {
        let (Lookup::NxDomain(site, _), Some(explainer)) = (lookup, &self.ede_policy) else { return None };
        let labels = explain_target(name, site.apex_at)?;
        explainer.is_allowed(peer).then_some((*site, labels))
    }

    /// Returns the text for the name that these labels of QNAME form in front of the apex, and the cause that it reports.
    fn why(
        &self,
        worker: &mut Worker,
        question: &QueryName,
        (labels, apex_at): (Range<usize>, usize),
        state: DataState,
    ) -> (String, CauseReport) {
        worker.explain_target.set_explain_target(question, labels, apex_at);
        let (mut text, cause) = match &self.ede_policy {
            Some(explainer) if worker.explain_budget.take() => explainer.text(&self.zone, &worker.explain_target),
            _ => extended_errors::busy(),
        };
        if state.is_old() {
            text = format!("{text}; {}", *self.status.sentence());
        }
        (text, cause)
    }

    fn forwards_cname(&self, peer: &Peer) -> bool {
        self.forward_policy.as_ref().is_some_and(|outside| outside.aliases || outside.serves(peer))
    }

    fn serves(&self, peer: &Peer) -> bool {
        self.forward_policy.as_ref().is_some_and(|outside| outside.serves(peer))
    }

    /// Returns whether the name is in a zone of this server.
    fn is_in_zones(&self, view: &mut SnapshotCache, name: &QueryName) -> bool {
        let key = self.zone.lookup_key(name);
        self.zone.look_up_with(view, name, key, rtype::ANY, |lookup| lookup.context().is_some())
    }

    /// Follows the CNAME chain through the zones, from its last name, the target of a CNAME: writes the records of each
    /// name until the chain ends or leaves the zones.
    fn follow(
        &self,
        view: &mut SnapshotCache,
        qtype: u16,
        state: DataState,
        chain: &mut CnameChain,
        response: &mut Response<'_>,
    ) -> ChainEnd {
        let mut name = QueryName::default();
        loop {
            name.set(chain.last());
            let names = OwnerPointers { owner: chain.owner, apex: None };
            let key = self.zone.lookup_key(&name);
            let step = self.zone.look_up_with(view, &name, key, qtype, |lookup| match (state, &lookup) {
                (_, Lookup::NotInZone) => NameOutcome::NotInZone,
                (DataState::NotSynced, _) => NameOutcome::NotReady,
                (state, Lookup::NxDomain(..)) if !state.may_deny() => NameOutcome::NotReady,
                _ => self.write_lookup(&name, names, qtype, lookup, response),
            });
            match step {
                NameOutcome::Follow(target, owner) if chain.extend(target.clone(), owner) => {}
                NameOutcome::Done(rcode) | NameOutcome::Denied(rcode, _) => return ChainEnd::At(rcode),
                NameOutcome::Follow(..) | NameOutcome::CnameLoop => return ChainEnd::ChainTooLong,
                NameOutcome::NotInZone => return ChainEnd::Outside,
                NameOutcome::NotReady => return ChainEnd::NotReady,
                NameOutcome::Glue(_) | NameOutcome::Why(..) => return ChainEnd::At(rcode::NOERROR),
            }
        }
    }

    #[inline]
    fn write_lookup(
        &self,
        name: &QueryName,
        names: OwnerPointers,
        qtype: u16,
        lookup: Lookup<'_>,
        response: &mut Response<'_>,
    ) -> NameOutcome {
        match lookup {
            Lookup::Found(site, rrset) => response.rrset(names, site, rrset, &self.zone),
            Lookup::Cname(site, target) => {
                let Some(owner) = response.cname(names, site, target) else { return NameOutcome::Done(rcode::NOERROR) };
                match qtype {
                    rtype::CNAME | rtype::ANY => NameOutcome::Done(rcode::NOERROR),
                    // A CNAME to its own owner.
                    _ if *target.octets() == *name.octets() => NameOutcome::CnameLoop,
                    _ => NameOutcome::Follow(target.clone(), owner),
                }
            }
            Lookup::NoData(site) => {
                self.deny(names, site, false, response);
                NameOutcome::Denied(rcode::NOERROR, Unresolved::NoData(site.apex_at))
            }
            Lookup::NxDomain(site, absence) => {
                let expected = absence.is_some_and(Absence::is_expected);
                self.deny(names, site, expected, response);
                NameOutcome::Denied(rcode::NXDOMAIN, Unresolved::NxDomain(site.apex_at, absence))
            }
            Lookup::NotInZone => NameOutcome::NotInZone,
        }
    }

    /// Writes the SOA of a negative response, with the TTL for which caches keep it (RFC 2308 sections 2, 3 and 5).
    #[inline]
    fn deny(&self, names: OwnerPointers, site: ZoneContext<'_>, expected: bool, response: &mut Response<'_>) {
        let negative = self.zone.negative_ttl();
        response.writer.begin(Section::Authority);
        response.soa(names, site, if expected { negative.min(EXPECTED_TTL) } else { negative }, &self.zone);
    }
}

/// Returns the maximum length of the response, in octets.
#[inline]
fn limit(transport: Transport, query: &Query) -> usize {
    if transport.is_datagram() { wire::udp_limit(query.edns) } else { MAX_TCP }
}

/// Decision of the access list about a client's message.
enum AccessDecision {
    Allowed,
    Refused,
    Dropped,
}

/// Returns whether the source address can be a client's: unicast, with a port, and not the listener's own address and
/// port, since a response to it would be a query that this server sends to itself.
#[inline]
fn is_client(peer: &Peer) -> bool {
    let address = peer.from.ip();
    peer.from.port() != 0 && !address.is_unspecified() && !address.is_multicast() && peer.from != peer.to
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
fn unread(request: &Request, length: usize, rcode: u16) -> Reply {
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

/// Result of a query within the zones.
enum QueryOutcome {
    /// The sections are written: the RCODE, and the non-resolution to explain, if any.
    Answered(u16, Option<Unresolved>),
    /// The last CNAME of the chain leads out of the zones, and an upstream must resolve its target.
    LeavesZones(CnameChain),
    NotInZone,
    NotSynced,
}

/// End of a CNAME chain.
enum ChainEnd {
    /// At a name of the zones, with this RCODE (RFC 6604 section 2.1).
    At(u16),
    /// At a name outside the zones.
    Outside,
    /// At a name that may or may not exist: the initial lists are not complete.
    NotReady,
    /// The chain is a loop, or too long.
    ChainTooLong,
}

/// Result of the look-up of one name, with its records written.
enum NameOutcome {
    Done(u16),
    /// NXDOMAIN or NODATA.
    Denied(u16, Unresolved),
    /// NS record. The target is at this position; its addresses belong in the additional section.
    Glue(usize),
    /// CNAME to this name, with the compression pointer to it in the message.
    Follow(WireName, u16),
    /// CNAME to its own owner.
    CnameLoop,
    /// No records: a `_why` question for the name of these labels, in front of the apex at this label.
    Why(Range<usize>, usize),
    NotInZone,
    NotReady,
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
    fn of_question(site: &ZoneContext<'_>, name: &QueryName) -> Self {
        Self { owner: QNAME_POINTER, apex: wire::pointer(wire::HEADER + name.offset(site.apex_at)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::reverse::ReverseZones;
    use crate::naming_rules::NamingRules;
    use crate::zone::Settings;

    fn zone(apexes: &[&str]) -> Zone {
        let apexes = apexes.iter().map(|apex| WireName::parse(apex).unwrap()).collect();
        Zone::new(Settings { apexes, ttl: 5, negative_ttl: 5, rules: NamingRules::default() }, ReverseZones::default())
    }

    /// Uses a request that was parsed for another zone to make the engine panic, as any bug would.
    #[test]
    fn a_panic_is_answered_with_servfail_and_the_opt_record() {
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
