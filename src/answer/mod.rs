//! Request and zone in, response out: the one engine, for every transport.
//!
//! [`RequestBatch::parse`] parses messages (`request.rs`). [`Responder::respond`] answers one of them: one `match` over the
//! result of the zone's lookup. `response.rs` writes the response over the query, in its buffer; `why.rs` adds the cause
//! of a non-resolution; `outside.rs` completes responses that need an upstream, with the records that `foreign.rs`
//! accepts. The engine has no metrics: [`ResponseSummary`] holds all that the server counts and logs. Row ids (N1, A4,
//! ...) are those of `tests/rows.md`. Not here: the wire format (`wire.rs`), the names that exist (`zone/`). Read next:
//! `request.rs`, then `response.rs`.

mod foreign;
mod outside;
mod request;
mod response;
mod summary;
mod why;

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::explain::{Absence, Asker, Busy, Finding};
use crate::names::reverse::is_reverse;
use crate::names::why::subject;
use crate::names::{QueryName, WireName};
use crate::rtype;
use crate::status::{DataState, Status};
use crate::wire::{self, MAX_TCP, QUESTION, Query, Refusal, Remarks, Section, Writer, ede, rcode};
use crate::zone::{EXPECTED_TTL, Lookup, Site, View, Zone};

use outside::{Chain, Marks};
use request::{Disposition, Question};
use response::Response;
use why::{Budget, Explainer, Open};

pub use crate::transport::Transport;
pub use crate::wire::DropReason;
pub use foreign::{ForeignAnswer, ForeignRecord, MAX_FOREIGN_NEGATIVE_TTL, MAX_FOREIGN_TTL};
pub use outside::{Failure, Outside, Pending, Resumed};
pub use request::{Request, RequestBatch};
pub use summary::{CauseReport, CountedZone, ResponseSummary};

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
pub struct Access {
    /// Networks of the clients that are answered. If empty, all clients are answered.
    pub allow: Vec<IpNet>,
    /// True if a query of any other client is dropped instead of answered with REFUSED.
    pub silent: bool,
}

impl Access {
    fn allows(&self, peer: &Peer) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(&peer.from.ip().to_canonical()))
    }
}

/// State of one thread that answers queries: zone snapshot, rotation counter of RRsets, budget for searches of causes.
#[derive(Default)]
pub struct Worker {
    /// Memory for the name that a `_why` question is about.
    subject: QueryName,
    view: View,
    turn: u16,
    causes: Budget,
}

impl Worker {
    /// Refills the budget for searches of causes; `now` is the time at which the batch arrived. If it is never called, the
    /// worker searches for no cause.
    pub fn begin_batch(&mut self, now: Instant) {
        self.causes.refill(now);
    }

    /// Releases the cached zone snapshot. Called when the worker goes idle, or old Services stay in memory.
    pub fn release_snapshot(&mut self) {
        self.view.rest();
    }
}

/// The engine's reply to one message.
#[derive(Debug)]
pub enum Reply {
    /// The response is at the start of the message's buffer.
    Response(ResponseSummary),
    /// The response needs records from an upstream; the content of the buffer is undefined. Only returned by a responder
    /// with a forwarding policy ([`Responder::asking`]).
    Forward(Box<Pending>),
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
const NOT_ALLOWED: Remarks<'_> = Remarks { nsid: &[], error: Some((ede::PROHIBITED, "")) };

/// Engine that answers requests from the zone, for every transport.
pub struct Responder {
    zone: Arc<Zone>,
    status: Arc<Status>,
    access: ArcSwap<Access>,
    /// True if the access list is empty, so that `access` need not be loaded.
    everyone: AtomicBool,
    explainer: Option<Explainer>,
    outside: Option<Outside>,
    /// Text of the extended error before the initial lists are complete.
    not_synced: String,
    /// Server identifier (RFC 5001); empty without one.
    nsid: Arc<[u8]>,
}

impl Responder {
    /// Creates a responder for `zone` that reports no causes and forwards nothing.
    pub fn new(zone: Arc<Zone>, status: Arc<Status>, access: Access) -> Self {
        let not_synced = Finding::NotSynced { waiting_for: Vec::new(), forbidden: false, seconds: 0 }.brief();
        let everyone = AtomicBool::new(access.allow.is_empty());
        let access = ArcSwap::from_pointee(access);
        Self { zone, status, access, everyone, explainer: None, outside: None, not_synced, nsid: Arc::default() }
    }

    /// Sets the identifier that allowed clients get on an NSID request (RFC 5001): at most 255 octets.
    pub fn named(self, nsid: &str) -> Self {
        Self { nsid: nsid.as_bytes().into(), ..self }
    }

    /// Reports causes of non-resolution to the clients in the networks `to`; if empty, to no client.
    pub fn explaining(self, asker: Asker, to: Vec<IpNet>) -> Self {
        Self { explainer: Some(Explainer::new(asker, to)), ..self }
    }

    /// Replaces the access list, and the networks of the clients that causes are reported to. The latter has no effect on a
    /// responder without [`Responder::explaining`].
    pub fn change_clients(&self, access: Access, to: Vec<IpNet>) {
        let everyone = access.allow.is_empty();
        self.access.store(Arc::new(access));
        self.everyone.store(everyone, Ordering::Release);
        if let Some(explainer) = &self.explainer {
            explainer.change_clients(to);
        }
    }

    /// Returns whether causes are reported to a client: see [`Responder::explaining`].
    pub fn explains_to(&self, client: IpAddr) -> bool {
        self.explainer.as_ref().is_some_and(|explainer| explainer.includes(client))
    }

    /// Sets the policy for names outside the zones: which clients may have them resolved by an upstream.
    pub fn asking(self, outside: Outside) -> Self {
        Self { outside: Some(outside), ..self }
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
    /// use headless_dns::answer::{Access, Peer, Reply, RequestBatch, Responder, Transport, Worker};
    /// use headless_dns::names::{WireName, reverse::ReverseZones};
    /// use headless_dns::zone::{Settings, Zone};
    ///
    /// let apexes = vec![WireName::parse("cluster.local").unwrap()];
    /// let settings = Settings { apexes, ttl: 5, negative_ttl: 5, rules: Default::default() };
    /// let zone = Arc::new(Zone::new(settings, ReverseZones::default()));
    /// let responder = Responder::new(zone, Arc::default(), Access::default());
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
        let refusal = Refusal::header_only(rcode::SERVFAIL, request.edns());
        unread(request, wire::refuse(message, refusal, Remarks::default()), refusal.rcode)
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
            Admission::Answered => true,
            Admission::Refused => false,
            Admission::Dropped => return Reply::Drop(DropReason::NotAllowed),
        };
        match disposition {
            Disposition::Answer(question) if allowed => {
                let received = Received { question, peer, request };
                let reply = self.resolve(worker, &received, message);
                if self.serves(peer) {
                    wire::set_recursion_available(message);
                }
                reply
            }
            Disposition::Answer(question) => {
                let Query { question_end, edns, .. } = *question.query;
                let refusal = Refusal { rcode: rcode::REFUSED, question_end, edns };
                let length = wire::refuse(message, refusal, NOT_ALLOWED);
                let received = Received { question, peer, request };
                Reply::Response(received.summary(length, rcode::REFUSED, CountedZone::OUTSIDE))
            }
            Disposition::Refuse(refusal) if allowed => {
                unread(request, wire::refuse(message, refusal, self.remarks(None)), refusal.rcode)
            }
            Disposition::Refuse(refusal) => {
                let refusal = Refusal::header_only(rcode::REFUSED, refusal.edns);
                unread(request, wire::refuse(message, refusal, NOT_ALLOWED), refusal.rcode)
            }
            Disposition::Fail | Disposition::Drop(_) => self.fail(request, message),
        }
    }

    #[inline]
    fn admission(&self, peer: &Peer) -> Admission {
        if self.everyone.load(Ordering::Acquire) {
            return Admission::Answered;
        }
        // Load once, so that both checks see one access list.
        let access = self.access.load();
        match (access.allows(peer), access.silent) {
            (true, _) => Admission::Answered,
            (false, false) => Admission::Refused,
            (false, true) => Admission::Dropped,
        }
    }

    fn remarks<'t>(&'t self, error: Option<(u16, &'t str)>) -> Remarks<'t> {
        Remarks { nsid: &self.nsid, error }
    }

    #[inline]
    fn resolve(&self, worker: &mut Worker, received: &Received<'_>, message: &mut [u8]) -> Reply {
        let query = received.question.query;
        worker.turn = worker.turn.wrapping_add(1);
        if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
            let error = (ede::PROHIBITED, "zone transfers are not offered");
            return self.refuse(message, received, CountedZone::OUTSIDE, rcode::REFUSED, error);
        }
        let limit = limit(received.request.transport, query);
        let mut response = Response {
            writer: Writer::new(message, query.question_end, limit, query.edns.is_some()),
            ttl: self.zone.ttl(),
            turn: query.id.wrapping_add(worker.turn),
            zone: CountedZone::OUTSIDE,
        };
        // Load once, so that one response describes one state of the data.
        let state = self.status.data_state();
        let first = self.write(worker, received, state, &mut response);
        // Nearly every query ends here: one look-up, and nothing to add.
        if state == DataState::Current
            && let Step::Done(rcode) | Step::Denied(rcode, _) = first
            && !matches!(&first, Step::Denied(_, open) if self.may_have_cause(&received.question, *open))
        {
            let zone = response.zone;
            let length = response.writer.finish(rcode, true, query.edns, self.remarks(None));
            return Reply::Response(received.summary(length, rcode, zone));
        }
        self.resolve_further(worker, received, state, (first, response))
    }

    /// Completes a response that needs more than one look-up, or an extended error.
    #[inline(never)]
    fn resolve_further(
        &self,
        worker: &mut Worker,
        received: &Received<'_>,
        state: DataState,
        (first, mut response): (Step, Response<'_>),
    ) -> Reply {
        let (peer, query) = (received.peer, received.question.query);
        let mut report = CauseReport::None;
        let outcome = self.go_on(worker, received, state, &mut report, (first, &mut response));
        let Response { writer, zone, .. } = response;
        let finish = |writer: Writer<'_>, rcode, error| {
            let length = writer.finish(rcode, true, query.edns, self.remarks(error));
            received.summary(length, rcode, zone)
        };
        match outcome {
            Outcome::Answered(rcode, _) if state.is_old() => {
                let summary = finish(writer, rcode, Some((stale(rcode), &self.status.sentence())));
                Reply::Response(ResponseSummary { is_stale: true, cause: report, ..summary })
            }
            Outcome::Answered(rcode, open) => {
                let cause = open.and_then(|open| self.cause(worker, received, open, &mut report));
                let error = cause.map(|cause| (cause.code(), cause.brief()));
                let summary = finish(writer, rcode, error.as_ref().map(|(code, text)| (*code, text.as_str())));
                Reply::Response(ResponseSummary { cause: report, ..summary })
            }
            Outcome::LeavesZones(chain) => {
                let note = state.is_old().then(|| (ede::STALE_ANSWER, self.status.sentence().to_string()));
                let marks = self.marks(peer, true, zone);
                Reply::Forward(Pending::new(received, writer, chain, marks).with_note(note))
            }
            Outcome::NotInZone => self.resolve_outside(received, writer, state),
            Outcome::NotReady => {
                let sentence = self.status.sentence();
                let told = !sentence.is_empty() && state != DataState::Restored && self.tells(peer);
                let text = if told { sentence.as_str() } else { &self.not_synced };
                self.refuse(writer.into_message(), received, zone, rcode::SERVFAIL, (ede::NOT_READY, text))
            }
        }
    }

    /// Answers a query for a name outside the zones: refuses it, or leaves it to an upstream.
    fn resolve_outside(&self, received: &Received<'_>, mut writer: Writer<'_>, state: DataState) -> Reply {
        let Received { question: Question { name, query, .. }, peer, .. } = *received;
        let serving = self.outside.as_ref().filter(|outside| outside.serves(peer));
        let Some(outside) = serving.filter(|_| writer.is_recursion_desired()) else {
            let error = (ede::NOT_AUTHORITATIVE, "");
            return self.refuse(writer.into_message(), received, CountedZone::OUTSIDE, rcode::REFUSED, error);
        };
        // The reverse zones follow from the addresses: before they are known, an upstream may not answer for one of them.
        if matches!(state, DataState::NotSynced | DataState::Partial) && is_reverse(name) {
            let error = (ede::NOT_READY, &*self.not_synced);
            return self.refuse(writer.into_message(), received, CountedZone::OUTSIDE, rcode::SERVFAIL, error);
        }
        let zone = CountedZone::FORWARDED;
        match outside.special(name) {
            Some(special) => {
                let rcode = outside::write_special(&mut writer, QUESTION, special, query.qtype);
                let rcode = self.outside_rcode(name, rcode);
                let writer = writer.recursion_available(true);
                let length = writer.finish(rcode, false, query.edns, self.remarks(None));
                Reply::Response(received.summary(length, rcode, zone))
            }
            None => {
                let chain = Chain::new(name.to_wire());
                Reply::Forward(Pending::new(received, writer, chain, self.marks(peer, false, zone)))
            }
        }
    }

    fn marks(&self, peer: &Peer, authoritative: bool, zone: CountedZone) -> Marks {
        Marks { authoritative, served: self.serves(peer), nsid: Arc::clone(&self.nsid), zone }
    }

    fn refuse(
        &self,
        message: &mut [u8],
        received: &Received<'_>,
        zone: CountedZone,
        rcode: u16,
        error: (u16, &str),
    ) -> Reply {
        let Query { question_end, edns, .. } = *received.question.query;
        let length = wire::refuse(message, Refusal { rcode, question_end, edns }, self.remarks(Some(error)));
        Reply::Response(received.summary(length, rcode, zone))
    }

    fn tells(&self, peer: &Peer) -> bool {
        self.explainer.as_ref().is_some_and(|explainer| explainer.tells(peer))
    }

    /// Searches for the cause of a non-resolution, if causes are reported to the client and one is likely to be found.
    /// Sets `report` to the result.
    fn cause(
        &self,
        worker: &mut Worker,
        received: &Received<'_>,
        open: Open,
        report: &mut CauseReport,
    ) -> Option<Finding> {
        let (explainer, question) = (self.explainer.as_ref()?, &received.question);
        if !self.may_have_cause(question, open) || !explainer.tells(received.peer) {
            return None;
        }
        let found =
            if worker.causes.take() { explainer.cause(question.name, question.query.qtype, open) } else { Err(Busy) };
        match &found {
            Ok(Some(cause)) => *report = CauseReport::Reported(cause.identity().1),
            Ok(None) => {}
            Err(Busy) => *report = CauseReport::Skipped,
        }
        found.ok().flatten()
    }

    /// Returns whether [`Self::cause`] may find a cause.
    #[inline]
    fn may_have_cause(&self, question: &Question<'_>, open: Open) -> bool {
        question.query.edns.is_some()
            && self.explainer.as_ref().is_some_and(Explainer::tells_anyone)
            && why::is_worth_asking(&self.zone, question.name, question.query.qtype, open)
    }

    /// Looks up QNAME, and writes the answer and authority sections that follow from QNAME alone.
    #[inline]
    fn write(
        &self,
        worker: &mut Worker,
        received: &Received<'_>,
        state: DataState,
        response: &mut Response<'_>,
    ) -> Step {
        let not_ready = state == DataState::NotSynced;
        // A restored snapshot may be older than a name, and an unreadable file may define it: no NXDOMAIN then.
        let may_deny = state.may_deny();
        let Question { name, key, query } = received.question;
        self.zone.look_up_with(&mut worker.view, name, key, query.qtype, |lookup| {
            let Some(site) = lookup.site() else { return Step::NotInZone };
            response.zone = CountedZone::ours(site.number);
            if not_ready || !may_deny && matches!(lookup, Lookup::NxDomain(..)) {
                return Step::NotReady;
            }
            let names = Names::of_question(site, name);
            match self.asks_why(name, received.peer, &lookup) {
                None => self.write_lookup(name, names, query.qtype, lookup, response),
                // The name exists, with a TXT record only.
                Some((site, _)) if !matches!(query.qtype, rtype::TXT | rtype::ANY) => {
                    self.deny(names, site, false, response);
                    Step::Done(rcode::NOERROR)
                }
                Some((site, labels)) => Step::Why(labels, site.apex_at),
            }
        })
    }

    /// Completes the response after the look-up of QNAME: the rest of a CNAME chain, addresses of the name server, or the
    /// text of a `_why` question.
    fn go_on(
        &self,
        worker: &mut Worker,
        received: &Received<'_>,
        state: DataState,
        report: &mut CauseReport,
        (first, response): (Step, &mut Response<'_>),
    ) -> Outcome {
        match first {
            Step::Done(rcode) => Outcome::Answered(rcode, None),
            Step::Denied(rcode, open) => Outcome::Answered(rcode, Some(open)),
            Step::Glue(target) => {
                response.glue(target, &self.zone);
                Outcome::Answered(rcode::NOERROR, None)
            }
            Step::NotInZone => Outcome::NotInZone,
            Step::NotReady => Outcome::NotReady,
            Step::Circle => Outcome::Answered(rcode::NOERROR, Some(Open::Chain)),
            Step::Follow(target, owner) => {
                let question = &received.question;
                let mut chain = Chain::new(question.name.to_wire());
                // Always true: a CNAME to QNAME itself is no `Follow`.
                let _ = chain.extend(target, owner);
                match self.follow(&mut worker.view, question.query.qtype, state, &mut chain, response) {
                    End::NotReady => Outcome::NotReady,
                    End::At(rcode) => Outcome::Answered(rcode, (rcode == rcode::NXDOMAIN).then_some(Open::Chain)),
                    End::Never => Outcome::Answered(rcode::NOERROR, Some(Open::Chain)),
                    // Without RD the client follows the rest itself.
                    End::Outside if self.follows_outside(received.peer) && response.writer.is_recursion_desired() => {
                        Outcome::LeavesZones(chain)
                    }
                    End::Outside => Outcome::Answered(rcode::NOERROR, None),
                }
            }
            Step::Why(labels, apex_at) => {
                let (text, cause) = self.why(worker, received.question.name, (labels, apex_at), state);
                *report = cause;
                response.text(&text);
                Outcome::Answered(rcode::NOERROR, None)
            }
        }
    }

    /// Returns the labels of NAME if QNAME is `_why.NAME`, does not exist otherwise, and causes are reported to the client.
    #[inline]
    fn asks_why<'z>(&self, name: &QueryName, peer: &Peer, lookup: &Lookup<'z>) -> Option<(Site<'z>, Range<usize>)> {
        let (Lookup::NxDomain(site, _), Some(explainer)) = (lookup, &self.explainer) else { return None };
        let labels = subject(name, site.apex_at)?;
        explainer.tells(peer).then_some((*site, labels))
    }

    /// Returns the text for the name that these labels of QNAME form in front of the apex, and the cause that it reports.
    fn why(
        &self,
        worker: &mut Worker,
        question: &QueryName,
        (labels, apex_at): (Range<usize>, usize),
        state: DataState,
    ) -> (String, CauseReport) {
        worker.subject.set_subject(question, labels, apex_at);
        let (mut text, cause) = match &self.explainer {
            Some(explainer) if worker.causes.take() => explainer.text(&self.zone, &worker.subject),
            _ => why::busy(),
        };
        if state.is_old() {
            text = format!("{text}; {}", *self.status.sentence());
        }
        (text, cause)
    }

    fn follows_outside(&self, peer: &Peer) -> bool {
        self.outside.as_ref().is_some_and(|outside| outside.aliases || outside.serves(peer))
    }

    fn serves(&self, peer: &Peer) -> bool {
        self.outside.as_ref().is_some_and(|outside| outside.serves(peer))
    }

    /// Returns whether the name is in a zone of this server.
    fn is_in_zones(&self, view: &mut View, name: &QueryName) -> bool {
        let key = self.zone.lookup_key(name);
        self.zone.look_up_with(view, name, key, rtype::ANY, |lookup| lookup.site().is_some())
    }

    /// Follows the CNAME chain through the zones, from its last name, the target of a CNAME: writes the records of each
    /// name until the chain ends or leaves the zones.
    fn follow(
        &self,
        view: &mut View,
        qtype: u16,
        state: DataState,
        chain: &mut Chain,
        response: &mut Response<'_>,
    ) -> End {
        let mut name = QueryName::default();
        loop {
            name.set(chain.last());
            let names = Names { owner: chain.owner, apex: None };
            let key = self.zone.lookup_key(&name);
            let step = self.zone.look_up_with(view, &name, key, qtype, |lookup| match (state, &lookup) {
                (_, Lookup::NotInZone) => Step::NotInZone,
                (DataState::NotSynced, _) => Step::NotReady,
                (state, Lookup::NxDomain(..)) if !state.may_deny() => Step::NotReady,
                _ => self.write_lookup(&name, names, qtype, lookup, response),
            });
            match step {
                Step::Follow(target, owner) if chain.extend(target.clone(), owner) => {}
                Step::Done(rcode) | Step::Denied(rcode, _) => return End::At(rcode),
                Step::Follow(..) | Step::Circle => return End::Never,
                Step::NotInZone => return End::Outside,
                Step::NotReady => return End::NotReady,
                Step::Glue(_) | Step::Why(..) => return End::At(rcode::NOERROR),
            }
        }
    }

    #[inline]
    fn write_lookup(
        &self,
        name: &QueryName,
        names: Names,
        qtype: u16,
        lookup: Lookup<'_>,
        response: &mut Response<'_>,
    ) -> Step {
        match lookup {
            Lookup::Found(site, rrset) => response.rrset(names, site, rrset, &self.zone),
            Lookup::Cname(site, target) => {
                let Some(owner) = response.cname(names, site, target) else { return Step::Done(rcode::NOERROR) };
                match qtype {
                    rtype::CNAME | rtype::ANY => Step::Done(rcode::NOERROR),
                    // A CNAME to its own owner.
                    _ if *target.octets() == *name.octets() => Step::Circle,
                    _ => Step::Follow(target.clone(), owner),
                }
            }
            Lookup::NoData(site) => {
                self.deny(names, site, false, response);
                Step::Denied(rcode::NOERROR, Open::NoData(site.apex_at))
            }
            Lookup::NxDomain(site, absence) => {
                let expected = absence.is_some_and(Absence::is_expected);
                self.deny(names, site, expected, response);
                Step::Denied(rcode::NXDOMAIN, Open::NxDomain(site.apex_at, absence))
            }
            Lookup::NotInZone => Step::NotInZone,
        }
    }

    /// Writes the SOA of a negative response, with the TTL for which caches keep it (RFC 2308 sections 2, 3 and 5).
    #[inline]
    fn deny(&self, names: Names, site: Site<'_>, expected: bool, response: &mut Response<'_>) {
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
enum Admission {
    Answered,
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
struct Received<'r> {
    question: Question<'r>,
    peer: &'r Peer,
    request: &'r Request,
}

impl Received<'_> {
    /// Returns the summary of the response, except for the TC bit.
    #[inline]
    fn summary(&self, length: usize, rcode: u16, zone: CountedZone) -> ResponseSummary {
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
        zone: CountedZone::OUTSIDE,
        qtype: 0,
        rcode,
        dnssec_ok: false,
        truncated: false,
        is_stale: false,
        cause: CauseReport::None,
    })
}

/// Result of a query within the zones.
enum Outcome {
    /// The sections are written: the RCODE, and the non-resolution to explain, if any.
    Answered(u16, Option<Open>),
    /// The last CNAME of the chain leads out of the zones, and an upstream must resolve its target.
    LeavesZones(Chain),
    NotInZone,
    NotReady,
}

/// End of a CNAME chain.
enum End {
    /// At a name of the zones, with this RCODE (RFC 6604 section 2.1).
    At(u16),
    /// At a name outside the zones.
    Outside,
    /// At a name that may or may not exist: the initial lists are not complete.
    NotReady,
    /// The chain is a loop, or too long.
    Never,
}

/// Result of the look-up of one name, with its records written.
enum Step {
    Done(u16),
    /// NXDOMAIN or NODATA.
    Denied(u16, Open),
    /// NS record. The target is at this position; its addresses belong in the additional section.
    Glue(usize),
    /// CNAME to this name, with the compression pointer to it in the message.
    Follow(WireName, u16),
    /// CNAME to its own owner.
    Circle,
    /// No records: a `_why` question for the name of these labels, in front of the apex at this label.
    Why(Range<usize>, usize),
    NotInZone,
    NotReady,
}

/// Compression pointers to names that the message contains already.
#[derive(Clone, Copy)]
struct Names {
    /// Owner name of the answer.
    owner: u16,
    /// Apex of the zone. `None` if the name is not QNAME, or a pointer cannot reach the apex.
    apex: Option<u16>,
}

impl Names {
    fn of_question(site: &Site<'_>, name: &QueryName) -> Self {
        Self { owner: QUESTION, apex: wire::pointer(wire::HEADER + name.offset(site.apex_at)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::reverse::ReverseZones;
    use crate::rules::Rules;
    use crate::zone::Settings;

    fn zone(apexes: &[&str]) -> Zone {
        let apexes = apexes.iter().map(|apex| WireName::parse(apex).unwrap()).collect();
        Zone::new(Settings { apexes, ttl: 5, negative_ttl: 5, rules: Rules::default() }, ReverseZones::default())
    }

    /// Uses a request that was parsed for another zone to make the engine panic, as any bug would.
    #[test]
    fn a_panic_is_answered_with_servfail_and_the_opt_record() {
        let query = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x05other\x04test\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\0";
        let responder = Responder::new(Arc::new(zone(&["cluster.local"])), Arc::default(), Access::default());
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
