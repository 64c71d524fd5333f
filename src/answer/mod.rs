//! Request and zone in, response out: the one engine, for every transport.
//!
//! [`RequestBatch::parse`] reads messages (`request.rs`), [`Responder::respond`] answers one of them: one `match` over the
//! zone's lookup. A response is written in the buffer of the query, in `response.rs`; why a name does not resolve is
//! added by `why.rs`; responses that need an upstream's answer are in `outside.rs`, and the records taken from it in
//! `foreign.rs`. What is to be counted and logged comes back as a value (`summary.rs`): the engine has no metrics. Row ids
//! (N1, A4, ...) are those of `tests/rows.md`. Octets are `wire.rs`, the names that exist `zone.rs`.

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

/// The two ends of a message's path.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client.
    pub from: SocketAddr,
    /// Our own address and port. For a wildcard bind, the address that was asked.
    pub to: SocketAddr,
}

/// Which clients are answered.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The clients that are answered; all where this is empty.
    pub allow: Vec<IpNet>,
    /// Other clients get no response instead of REFUSED.
    pub silent: bool,
}

impl Access {
    fn allows(&self, peer: &Peer) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(&peer.from.ip().to_canonical()))
    }
}

/// The state of one thread that answers: its zone snapshot, the counter that rotates RRsets, its budget of causes.
#[derive(Default)]
pub struct Worker {
    /// The name that a question of `_why` is about.
    subject: QueryName,
    view: View,
    turn: u16,
    causes: Budget,
}

impl Worker {
    /// Refills the budget of causes, `now` that messages came. Without it no cause is searched for.
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
    /// An upstream has to be asked first; the content of the buffer is undefined. Only where [`Responder::asking`]
    /// allows it.
    Forward(Box<Pending>),
    /// No response: over UDP the message is dropped, a connection is closed.
    Drop(DropReason),
}

impl Reply {
    /// The length of the response, where there is one.
    pub fn length(&self) -> Option<usize> {
        if let Self::Response(summary) = self { Some(summary.length) } else { None }
    }
}

/// The remarks of a response to a client that is not answered: it does not learn which server this is.
const NOT_ALLOWED: Remarks<'_> = Remarks { nsid: &[], error: Some((ede::PROHIBITED, "")) };

/// Answers requests, for every transport.
pub struct Responder {
    zone: Arc<Zone>,
    status: Arc<Status>,
    access: ArcSwap<Access>,
    /// Everyone is answered: then `access` need not be looked at.
    everyone: AtomicBool,
    explainer: Option<Explainer>,
    outside: Option<Outside>,
    /// What everyone is told before everything was read.
    not_synced: String,
    /// Which of several replicas this is; empty where nobody said.
    nsid: Arc<[u8]>,
}

impl Responder {
    /// Answers for `zone`, and explains to nobody.
    pub fn new(zone: Arc<Zone>, status: Arc<Status>, access: Access) -> Self {
        let not_synced = Finding::NotSynced { waiting_for: Vec::new(), forbidden: false, seconds: 0 }.brief();
        let everyone = AtomicBool::new(access.allow.is_empty());
        let access = ArcSwap::from_pointee(access);
        Self { zone, status, access, everyone, explainer: None, outside: None, not_synced, nsid: Arc::default() }
    }

    /// Also says which server it is, to allowed clients that ask (RFC 5001): at most 255 octets.
    pub fn named(self, nsid: &str) -> Self {
        Self { nsid: nsid.as_bytes().into(), ..self }
    }

    /// Also says why names do not resolve, to the clients in `to`; to nobody where this is empty.
    pub fn explaining(self, asker: Asker, to: Vec<IpNet>) -> Self {
        Self { explainer: Some(Explainer::new(asker, to)), ..self }
    }

    /// From now on others are answered, and told why names do not resolve. The latter only where somebody could be told
    /// before: see [`Responder::explaining`].
    pub fn change_clients(&self, access: Access, to: Vec<IpNet>) {
        let everyone = access.allow.is_empty();
        self.access.store(Arc::new(access));
        self.everyone.store(everyone, Ordering::Release);
        if let Some(explainer) = &self.explainer {
            explainer.change_clients(to);
        }
    }

    /// Returns whether a client is in the networks to which names are explained: see [`Responder::explaining`].
    pub fn explains_to(&self, client: IpAddr) -> bool {
        self.explainer.as_ref().is_some_and(|explainer| explainer.includes(client))
    }

    /// Also leaves to a resolver what `outside` says.
    pub fn asking(self, outside: Outside) -> Self {
        Self { outside: Some(outside), ..self }
    }

    /// The zone that is answered from: what [`RequestBatch::parse`] takes.
    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    /// Answers one request. `message` begins with the octets that the request was parsed from; the response is written
    /// over them.
    ///
    /// Never panics: a panic inside is caught and answered with SERVFAIL. `message` is at least 1232 octets long for
    /// UDP (the whole slot of the datagram), 65,535 for the other transports.
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
        // Written where it stays: a value that is handed on is copied at each step.
        let mut reply = Reply::Drop(DropReason::Short);
        let answering = AssertUnwindSafe(|| reply = self.answer(request, &peer, worker, message));
        if catch_unwind(answering).is_err() {
            // The question may be overwritten by now: the header is enough.
            message[..4].copy_from_slice(&id);
            reply = self.fail(request, message);
        }
        if let Reply::Response(summary) = &mut reply {
            summary.truncated = wire::is_truncated(message);
        }
        reply
    }

    /// SERVFAIL after a panic.
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
        // Once: what becomes of one message is decided by one state of it.
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

    /// Completes a response that needs more than one look-up, or has a remark.
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

    /// Answers for a name outside the zones.
    fn resolve_outside(&self, received: &Received<'_>, mut writer: Writer<'_>, state: DataState) -> Reply {
        let Received { question: Question { name, query, .. }, peer, .. } = *received;
        let serving = self.outside.as_ref().filter(|outside| outside.serves(peer));
        let Some(outside) = serving.filter(|_| writer.is_recursion_desired()) else {
            let error = (ede::NOT_AUTHORITATIVE, "");
            return self.refuse(writer.into_message(), received, CountedZone::OUTSIDE, rcode::REFUSED, error);
        };
        // Which reverse names are ours is known with the addresses.
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

    /// Searches for the cause of a non-resolution: only for clients that causes are reported to, and where one is likely
    /// to be known.
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

    /// Returns whether [`Self::cause`] may find one.
    #[inline]
    fn may_have_cause(&self, question: &Question<'_>, open: Open) -> bool {
        question.query.edns.is_some()
            && self.explainer.as_ref().is_some_and(Explainer::tells_anyone)
            && why::is_worth_asking(&self.zone, question.name, question.query.qtype, open)
    }

    /// Writes answer and authority of the question's own name.
    #[inline]
    fn write(
        &self,
        worker: &mut Worker,
        received: &Received<'_>,
        state: DataState,
        response: &mut Response<'_>,
    ) -> Step {
        let not_ready = state == DataState::NotSynced;
        // A snapshot may be from before a name, and a file that cannot be read may define it.
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
                // A name that exists, and has nothing but a text.
                Some((site, _)) if !matches!(query.qtype, rtype::TXT | rtype::ANY) => {
                    self.deny(names, site, false, response);
                    Step::Done(rcode::NOERROR)
                }
                Some((site, labels)) => Step::Why(labels, site.apex_at),
            }
        })
    }

    /// Adds to what was written first what is missing: the rest of a chain of CNAMEs, addresses, a text.
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
                // The first target is another name than the question's.
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

    /// The labels of the name that the question asks after, where nothing else knows the question's name, and the
    /// client is told.
    #[inline]
    fn asks_why<'z>(&self, name: &QueryName, peer: &Peer, lookup: &Lookup<'z>) -> Option<(Site<'z>, Range<usize>)> {
        let (Lookup::NxDomain(site, _), Some(explainer)) = (lookup, &self.explainer) else { return None };
        let labels = subject(name, site.apex_at)?;
        explainer.tells(peer).then_some((*site, labels))
    }

    /// The text for the name of these labels of the question before the apex.
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

    /// Returns whether the name is in a zone of ours.
    fn is_in_zones(&self, view: &mut View, name: &QueryName) -> bool {
        let key = self.zone.lookup_key(name);
        self.zone.look_up_with(view, name, key, rtype::ANY, |lookup| lookup.site().is_some())
    }

    /// Writes the records of our zones from the last name of `chain` on, which is the target of a CNAME.
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
                    // To itself: there is nothing to follow.
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

    /// RFC 2308 sections 2 and 3: a negative answer carries the SOA, with the TTL that it may be kept for.
    #[inline]
    fn deny(&self, names: Names, site: Site<'_>, expected: bool, response: &mut Response<'_>) {
        let negative = self.zone.negative_ttl();
        response.writer.begin(Section::Authority);
        response.soa(names, site, if expected { negative.min(EXPECTED_TTL) } else { negative }, &self.zone);
    }
}

/// How long the response may become, in octets.
#[inline]
fn limit(transport: Transport, query: &Query) -> usize {
    if transport.is_datagram() { wire::udp_limit(query.edns) } else { MAX_TCP }
}

/// What becomes of a client's messages.
enum Admission {
    Answered,
    Refused,
    Dropped,
}

/// Step 3 of the gate: what can be a client. Our own address and port is a message that we sent ourselves.
#[inline]
fn is_client(peer: &Peer) -> bool {
    let address = peer.from.ip();
    peer.from.port() != 0 && !address.is_unspecified() && !address.is_multicast() && peer.from != peer.to
}

/// The code of an answer from data that nobody can vouch for (RFC 8914 sections 4.4 and 4.20).
fn stale(rcode: u16) -> u16 {
    if rcode == rcode::NXDOMAIN { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER }
}

/// A query that is answered, with where it came from.
#[derive(Clone, Copy)]
struct Received<'r> {
    question: Question<'r>,
    peer: &'r Peer,
    request: &'r Request,
}

impl Received<'_> {
    /// The summary of its response, but for TC.
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

/// The reply to a message with an unread question.
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

/// What became of a query.
enum Outcome {
    /// With this rcode, and perhaps with something to explain.
    Answered(u16, Option<Open>),
    /// The last CNAME leads out of the zones, and is to be followed there.
    LeavesZones(Chain),
    NotInZone,
    NotReady,
}

/// Where a chain of CNAMEs ends.
enum End {
    /// At a name with this rcode (RFC 6604 section 2.1).
    At(u16),
    /// At a name outside the zones.
    Outside,
    /// At a name of which it is not known yet whether it exists.
    NotReady,
    Never,
}

/// What became of one name.
enum Step {
    Done(u16),
    /// It is not there, or has nothing of the type.
    Denied(u16, Open),
    /// The name server's addresses go into the additional section, under the name at this position.
    Glue(usize),
    /// A CNAME to this name, which stands in the message where this pointer points.
    Follow(WireName, u16),
    /// A CNAME to itself.
    Circle,
    /// Nothing: the question asks after the name of these labels and the apex at the second.
    Why(Range<usize>, usize),
    NotInZone,
    NotReady,
}

/// Where names stand in the message already.
#[derive(Clone, Copy)]
struct Names {
    /// The owner of what is answered.
    owner: u16,
    /// The apex of the zone that was asked.
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

    /// A request that was parsed for another zone represents any bug of the engine.
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
