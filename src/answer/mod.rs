//! Request and zone in, response out: the one engine, whatever brought the request.
//!
//! [`Responder::respond`] is the door: the gate, then one `match` over what the zone says. A response is written in
//! the buffer of the query, in `response.rs`; why a name does not resolve is added by `why.rs`; responses that need an
//! upstream's answer are in `outside.rs`, and the records taken from it in `foreign.rs`. Row ids (N1, A4, ...) are those of `tests/rows.md`. Octets are `wire.rs`,
//! what exists is `zone.rs`.

mod foreign;
mod outside;
mod response;
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
use crate::metrics::{Answered, Answers, CountedZone, Counters, Event, Proto};
use crate::names::reverse::is_reverse;
use crate::names::why::subject;
use crate::names::{QueryName, WireName};
use crate::rtype;
use crate::status::{DataState, Status};
use crate::wire::{self, MAX_TCP, QUESTION, Query, Refusal, Remarks, Section, Writer, ede, rcode};
use crate::zone::{EXPECTED_TTL, Lookup, Site, Spot, View, Zone};

use outside::{Chain, Marks};
use response::Response;
use why::{Budget, Explainer, Open};

pub use foreign::{ForeignAnswer, ForeignRecord, MAX_FOREIGN_NEGATIVE_TTL, MAX_FOREIGN_TTL};
pub use outside::{Failure, Outside, Pending, Resumed};

/// How a message came, and so how large a response may be, and whether it can be padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: at most 1232 octets back.
    Udp,
    /// A stream, as all that follow: at most 65,535 octets back.
    Tcp,
    /// TLS (RFC 7858).
    Tls,
    /// HTTPS (RFC 8484).
    Https,
    /// QUIC (RFC 9250).
    Quic,
}

impl Transport {
    /// Whether a response has to fit into a datagram.
    #[inline]
    pub fn is_datagram(self) -> bool {
        self == Self::Udp
    }

    /// Whether others on the way see no more than how long a message is.
    #[inline]
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Https | Self::Quic)
    }

    /// What its messages are counted under.
    pub fn proto(self) -> Proto {
        match self {
            Self::Udp => Proto::Udp,
            Self::Tcp => Proto::Tcp,
            Self::Tls => Proto::Tls,
            Self::Https => Proto::Https,
            Self::Quic => Proto::Quic,
        }
    }
}

/// Where a message came from, and which of our addresses it came to.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client.
    pub from: SocketAddr,
    /// Our own address and port. For a wildcard bind, the address that was asked.
    pub to: SocketAddr,
}

/// Who is answered.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The clients that are answered; everyone where this is empty.
    pub allow: Vec<IpNet>,
    /// Others get no response instead of REFUSED.
    pub silent: bool,
}

impl Access {
    fn allows(&self, peer: &Peer) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(&peer.from.ip().to_canonical()))
    }
}

/// What one worker needs for itself: room for a name, a counter that rotates RRsets, its event counters.
pub struct Worker {
    /// Its counters.
    pub counters: Arc<Counters>,
    answers: Arc<Answers>,
    /// What was read of messages: of one that has its turn, or of a whole batch before it has.
    reads: Vec<Read>,
    /// Which of them is that of the message that has its turn.
    at: usize,
    /// How many were read before their turn.
    ahead: usize,
    /// Which of these is that of the message that comes next.
    next: Option<usize>,
    alias: QueryName,
    view: View,
    turn: u16,
    causes: Budget,
    /// When the batch came in that is being answered.
    begun: Option<Instant>,
}

impl Worker {
    /// For a thread that begins to work.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self {
            answers: counters.answers(),
            counters,
            reads: vec![Read::default()],
            at: 0,
            ahead: 0,
            next: None,
            alias: QueryName::default(),
            view: View::default(),
            turn: 0,
            causes: Budget::default(),
            begun: None,
        }
    }

    /// Begins a batch of messages: what was received together, `now`. Without it no cause is looked for.
    pub fn begin_batch(&mut self, now: Instant) {
        self.causes.refill(now);
        self.begun = Some(now);
    }

    /// The next message is number `index` of those that [`Responder::look_ahead`] was shown.
    #[inline]
    pub fn turn_to(&mut self, index: usize) {
        self.next = (index < self.ahead).then_some(index);
    }

    fn name(&self) -> &QueryName {
        &self.reads[self.at].name
    }

    /// Counts the response in `message`.
    pub fn count(&self, transport: Transport, message: &[u8], answered: Answered) {
        count_response(&self.counters, &self.answers, transport, message, answered);
    }

    /// There is nothing to do: lets go of what was looked at.
    pub fn rest(&mut self) {
        self.view.rest();
    }

    /// Ends a batch of messages: its responses are sent, `now`.
    pub fn end_batch(&mut self, now: Instant) {
        if let Some(begun) = self.begun.take() {
            self.answers.took(now.saturating_duration_since(begun));
        }
    }
}

/// What was read of a message: the question's name, and where it stands.
struct Read {
    name: QueryName,
    spot: Spot,
    query: Result<Query, Refusal>,
}

impl Default for Read {
    fn default() -> Self {
        let query = Err(Refusal::header_only(rcode::FORMERR));
        Self { name: QueryName::default(), spot: Spot::default(), query }
    }
}

impl Read {
    /// Of a message that passed the gate, and came encrypted or not.
    #[inline]
    fn read(&mut self, message: &[u8], zone: &Zone, encrypted: bool) {
        self.query = wire::read(message, &mut self.name, encrypted);
        if self.query.is_ok() {
            self.spot = zone.spot(&self.name);
        }
    }
}

/// What becomes of a message.
#[derive(Debug)]
pub enum Reply {
    /// It deserves no response: over UDP it is dropped, and a TCP connection is closed.
    None,
    /// The response, of so many octets, stands at the start of the message's buffer.
    Here(usize),
    /// A resolver has to be asked first: the buffer is as good as empty. Only where [`Responder::asking`] allows it.
    Pending(Box<Pending>),
}

impl Reply {
    /// The length of a response that is here.
    pub fn length(&self) -> Option<usize> {
        if let Self::Here(length) = self { Some(*length) } else { None }
    }
}

/// Answers messages, whatever brought them.
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

    /// Reads all messages of a batch of datagrams, and has the memory that their answers will need fetched together: one
    /// by one each answer would wait for its own. Then each has its turn: [`Worker::turn_to`] and [`Self::respond`]. It
    /// decides nothing.
    ///
    /// Never panics: after a panic inside each message is read in its turn, where it costs one.
    pub fn look_ahead<'m>(&self, worker: &mut Worker, messages: impl ExactSizeIterator<Item = &'m [u8]>) {
        worker.ahead = 0;
        let ahead = catch_unwind(AssertUnwindSafe(|| self.read_ahead(worker, messages)));
        worker.ahead = ahead.unwrap_or(0);
    }

    /// Returns how many were read.
    fn read_ahead<'m>(&self, worker: &mut Worker, messages: impl ExactSizeIterator<Item = &'m [u8]>) -> usize {
        let count = messages.len();
        if worker.reads.len() < count {
            worker.reads.resize_with(count, Read::default);
        }
        for (message, read) in messages.zip(&mut worker.reads) {
            match wire::gate(message) {
                Ok(()) => read.read(message, &self.zone, false),
                Err(_) => read.spot = Spot::default(),
            }
        }
        let reads = worker.reads[..count].iter();
        self.zone.look_ahead(&mut worker.view, reads.map(|read| (&read.name, read.spot)));
        count
    }

    /// Reads the query in `message[..length]` and writes the response over it, from the start of `message`.
    ///
    /// Never panics: a panic inside is caught and answered with SERVFAIL. `message` is at least 1232 octets long for
    /// UDP (the whole slot of the datagram), 65,535 for the others. A response that is pending is not counted.
    pub fn respond(
        &self,
        worker: &mut Worker,
        peer: Peer,
        transport: Transport,
        message: &mut [u8],
        length: usize,
    ) -> Reply {
        let received = Received { peer: &peer, transport, length, read: worker.next.take() };
        let made = guarded(message, |message| self.answer(worker, &received, message));
        let written = match made {
            Ok(Made::Response(written)) => written,
            Ok(Made::Nothing) => return Reply::None,
            Ok(Made::Pending(pending)) => return Reply::Pending(pending),
            Err(servfail) => {
                worker.counters.count(Event::Panics);
                Written::unread(servfail, rcode::SERVFAIL)
            }
        };
        worker.count(transport, message, written.answered(length));
        Reply::Here(written.length)
    }

    fn answer(&self, worker: &mut Worker, received: &Received<'_>, message: &mut [u8]) -> Made {
        let Received { peer, transport, length, .. } = *received;
        let drop = |worker: &Worker, event| {
            worker.counters.count(event);
            Made::Nothing
        };
        if let Err(event) = wire::gate(&message[..length]) {
            return drop(worker, event);
        }
        if !is_client(peer) {
            return drop(worker, Event::DroppedSource);
        }
        let allowed = match self.admission(peer) {
            Admission::Answered => true,
            Admission::Refused => false,
            Admission::Dropped => return drop(worker, Event::DroppedNotAllowed),
        };
        worker.at = received.read.unwrap_or_else(|| {
            worker.reads[0].read(&message[..length], &self.zone, transport.is_encrypted());
            0
        });
        match worker.reads[worker.at].query {
            Ok(query) if allowed => {
                let made = self.resolve(worker, received, message, query);
                if self.serves(peer) {
                    wire::set_recursion_available(message);
                }
                made
            }
            Ok(query) => {
                let Query { question_end, edns, .. } = query;
                let refusal = Refusal { rcode: rcode::REFUSED, question_end, edns };
                let remarks = Remarks { nsid: &[], error: Some((ede::PROHIBITED, "")) };
                let length = wire::refuse(message, refusal, remarks);
                Made::Response(Written::to(query, length, rcode::REFUSED, CountedZone::OUTSIDE))
            }
            Err(refusal) => {
                let refusal = if allowed { refusal } else { Refusal::header_only(rcode::REFUSED) };
                Made::Response(Written::unread(wire::refuse(message, refusal, self.remarks(None)), refusal.rcode))
            }
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
    fn resolve(&self, worker: &mut Worker, received: &Received<'_>, message: &mut [u8], query: Query) -> Made {
        let Received { peer, transport, .. } = *received;
        worker.turn = worker.turn.wrapping_add(1);
        if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
            let error = (ede::PROHIBITED, "zone transfers are not offered");
            return self.refuse(message, query, CountedZone::OUTSIDE, rcode::REFUSED, error);
        }
        let limit = limit(transport, query);
        let mut response = Response {
            writer: Writer::new(message, query.question_end, limit, query.edns.is_some()),
            ttl: self.zone.ttl(),
            turn: query.id.wrapping_add(worker.turn),
            zone: CountedZone::OUTSIDE,
        };
        // Once: what one response says about the data is one state of it.
        let state = self.status.data_state();
        let first = self.write(worker, peer, query, state, &mut response);
        // What nearly every query comes to: there is nothing to add.
        if state == DataState::Current
            && let Step::Done(rcode) | Step::Denied(rcode, _) = first
            && !matches!(&first, Step::Denied(_, open) if self.may_have_cause(worker.name(), query, *open))
        {
            let zone = response.zone;
            let length = response.writer.finish(rcode, true, query.edns, self.remarks(None));
            return Made::Response(Written::to(query, length, rcode, zone));
        }
        self.resolve_further(worker, received, query, state, (first, response))
    }

    /// Goes on where one look-up is not all of it, or its answer has a remark.
    #[inline(never)]
    fn resolve_further(
        &self,
        worker: &mut Worker,
        received: &Received<'_>,
        query: Query,
        state: DataState,
        (first, mut response): (Step, Response<'_>),
    ) -> Made {
        let peer = received.peer;
        let outcome = self.go_on(worker, peer, query, state, (first, &mut response));
        let Response { writer, zone, .. } = response;
        let finish = |writer: Writer<'_>, rcode, error| {
            let length = writer.finish(rcode, true, query.edns, self.remarks(error));
            Made::Response(Written::to(query, length, rcode, zone))
        };
        match outcome {
            Outcome::Answered(rcode, _) if state.is_old() => {
                worker.counters.count(Event::StaleAnswers);
                finish(writer, rcode, Some((stale(rcode), &self.status.sentence())))
            }
            Outcome::Answered(rcode, open) => {
                let cause = open.and_then(|open| self.cause(worker, peer, query, open));
                let error = cause.map(|cause| (cause.code(), cause.brief()));
                finish(writer, rcode, error.as_ref().map(|(code, text)| (*code, text.as_str())))
            }
            Outcome::LeavesZones(chain) => {
                let note = state.is_old().then(|| (ede::STALE_ANSWER, self.status.sentence().to_string()));
                let marks = self.marks(peer, true, zone);
                Made::Pending(Pending::new(*received, query, writer, chain, marks).with_note(note))
            }
            Outcome::NotInZone => self.resolve_outside(worker, received, writer, query, state),
            Outcome::NotReady => {
                let sentence = self.status.sentence();
                let told = !sentence.is_empty() && state == DataState::NotSynced && self.tells(peer);
                let text = if told { sentence.as_str() } else { &self.not_synced };
                self.refuse(writer.into_message(), query, zone, rcode::SERVFAIL, (ede::NOT_READY, text))
            }
        }
    }

    /// Answers for a name outside the zones.
    fn resolve_outside(
        &self,
        worker: &Worker,
        received: &Received<'_>,
        mut writer: Writer<'_>,
        query: Query,
        state: DataState,
    ) -> Made {
        let serving = self.outside.as_ref().filter(|outside| outside.serves(received.peer));
        let Some(outside) = serving.filter(|_| writer.is_recursion_desired()) else {
            let error = (ede::NOT_AUTHORITATIVE, "");
            return self.refuse(writer.into_message(), query, CountedZone::OUTSIDE, rcode::REFUSED, error);
        };
        // Which reverse names are ours is known with the addresses.
        if state == DataState::NotSynced && is_reverse(worker.name()) {
            let error = (ede::NOT_READY, &*self.not_synced);
            return self.refuse(writer.into_message(), query, CountedZone::OUTSIDE, rcode::SERVFAIL, error);
        }
        let zone = CountedZone::FORWARDED;
        match outside.special(worker.name()) {
            Some(special) => {
                let rcode = outside::write_special(&mut writer, QUESTION, special, query.qtype);
                let rcode = self.outside_rcode(worker.name(), rcode);
                let writer = writer.recursion_available(true);
                let length = writer.finish(rcode, false, query.edns, self.remarks(None));
                Made::Response(Written::to(query, length, rcode, zone))
            }
            None => {
                let chain = Chain::new(worker.name().to_wire());
                Made::Pending(Pending::new(*received, query, writer, chain, self.marks(received.peer, false, zone)))
            }
        }
    }

    fn marks(&self, peer: &Peer, authoritative: bool, zone: CountedZone) -> Marks {
        Marks { authoritative, served: self.serves(peer), nsid: Arc::clone(&self.nsid), zone }
    }

    fn refuse(&self, message: &mut [u8], query: Query, zone: CountedZone, rcode: u16, error: (u16, &str)) -> Made {
        let refusal = Refusal { rcode, question_end: query.question_end, edns: query.edns };
        let length = wire::refuse(message, refusal, self.remarks(Some(error)));
        Made::Response(Written::to(query, length, rcode, zone))
    }

    fn tells(&self, peer: &Peer) -> bool {
        self.explainer.as_ref().is_some_and(|explainer| explainer.tells(peer))
    }

    /// Why there is no answer: only for those who are told, where it goes out, and where it is likely to be known.
    fn cause(&self, worker: &mut Worker, peer: &Peer, query: Query, open: Open) -> Option<Finding> {
        let explainer = self.explainer.as_ref()?;
        if !self.may_have_cause(worker.name(), query, open) || !explainer.tells(peer) {
            return None;
        }
        let may_look = worker.causes.take();
        let looked = if may_look { explainer.cause(worker.name(), query.qtype, open) } else { Err(Busy) };
        match &looked {
            Ok(Some(cause)) => worker.counters.count_told(cause.identity().1),
            Ok(None) => {}
            Err(Busy) => worker.counters.count(Event::CausesNotLookedFor),
        }
        looked.ok().flatten()
    }

    /// Whether [`Self::cause`] may find one.
    #[inline]
    fn may_have_cause(&self, name: &QueryName, query: Query, open: Open) -> bool {
        query.edns.is_some()
            && self.explainer.as_ref().is_some_and(Explainer::tells_anyone)
            && why::is_worth_asking(&self.zone, name, query.qtype, open)
    }

    /// Writes answer and authority of the question's own name.
    #[inline]
    fn write(
        &self,
        worker: &mut Worker,
        peer: &Peer,
        query: Query,
        state: DataState,
        response: &mut Response<'_>,
    ) -> Step {
        let not_ready = state == DataState::NotSynced;
        // A snapshot may be from before a name: what it does not know is not denied.
        let restored = state == DataState::Restored;
        let Read { name, spot, .. } = &worker.reads[worker.at];
        self.zone.look_up_with(&mut worker.view, name, *spot, query.qtype, |lookup| {
            let Some(site) = lookup.site() else { return Step::NotInZone };
            response.zone = CountedZone::ours(site.number);
            if not_ready || restored && matches!(lookup, Lookup::NxDomain(..)) {
                return Step::NotReady;
            }
            let names = Names::of_question(site, name);
            match self.asks_why(name, peer, &lookup) {
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
        peer: &Peer,
        query: Query,
        state: DataState,
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
                let mut chain = Chain::new(worker.name().to_wire());
                // The first target is another name than the question's.
                let _ = chain.extend(target, owner);
                match self.follow(&mut worker.view, query.qtype, state, &mut chain, response) {
                    End::NotReady => Outcome::NotReady,
                    End::At(rcode) => Outcome::Answered(rcode, (rcode == rcode::NXDOMAIN).then_some(Open::Chain)),
                    End::Never => Outcome::Answered(rcode::NOERROR, Some(Open::Chain)),
                    // Without RD the client follows the rest itself.
                    End::Outside if self.follows_outside(peer) && response.writer.is_recursion_desired() => {
                        Outcome::LeavesZones(chain)
                    }
                    End::Outside => Outcome::Answered(rcode::NOERROR, None),
                }
            }
            Step::Why(labels, apex_at) => {
                response.text(&self.why(worker, labels, apex_at, state));
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

    /// The text for the name of these labels before the question's apex.
    fn why(&self, worker: &mut Worker, labels: Range<usize>, apex_at: usize, state: DataState) -> String {
        worker.alias.set_subject(&worker.reads[worker.at].name, labels, apex_at);
        let mut text = match &self.explainer {
            Some(explainer) if worker.causes.take() => explainer.text(&self.zone, &worker.alias, &worker.counters),
            _ => why::busy(&worker.counters),
        };
        if state.is_old() {
            text = format!("{text}; {}", *self.status.sentence());
        }
        text
    }

    fn follows_outside(&self, peer: &Peer) -> bool {
        self.outside.as_ref().is_some_and(|outside| outside.aliases || outside.serves(peer))
    }

    fn serves(&self, peer: &Peer) -> bool {
        self.outside.as_ref().is_some_and(|outside| outside.serves(peer))
    }

    /// Returns whether the name is in a zone of ours.
    fn is_in_zones(&self, view: &mut View, name: &QueryName) -> bool {
        let spot = self.zone.spot(name);
        self.zone.look_up_with(view, name, spot, rtype::ANY, |lookup| lookup.site().is_some())
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
            let spot = self.zone.spot(&name);
            let step = self.zone.look_up_with(view, &name, spot, qtype, |lookup| match (state, &lookup) {
                (_, Lookup::NotInZone) => Step::NotInZone,
                // A snapshot may be older than the name.
                (DataState::NotSynced, _) | (DataState::Restored, Lookup::NxDomain(..)) => Step::NotReady,
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

/// Answers, or catches the panic of it: then `message` is SERVFAIL, and its length the error.
#[inline]
fn guarded<T>(message: &mut [u8], answer: impl FnOnce(&mut [u8]) -> T) -> Result<T, usize> {
    let mut header = [0; 4];
    header.copy_from_slice(&message[..4]);
    catch_unwind(AssertUnwindSafe(|| answer(message))).map_err(|_| {
        // The question may be written over by now: the header alone says enough.
        message[..4].copy_from_slice(&header);
        wire::refuse(message, Refusal::header_only(rcode::SERVFAIL), Remarks::default())
    })
}

/// How long the response may become, in octets.
#[inline]
fn limit(transport: Transport, query: Query) -> usize {
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

/// Counts the response in `message`.
#[inline]
pub fn count_response(
    counters: &Counters,
    answers: &Answers,
    transport: Transport,
    message: &[u8],
    answered: Answered,
) {
    answers.count(answered);
    if message[2] & 0x02 != 0 {
        counters.count(Event::truncated(transport.proto()));
    }
}

/// A response, and what is counted of it.
struct Written {
    length: usize,
    rcode: u16,
    zone: CountedZone,
    qtype: u16,
    dnssec_ok: bool,
}

impl Written {
    fn to(query: Query, length: usize, rcode: u16, zone: CountedZone) -> Self {
        let dnssec_ok = query.edns.is_some_and(|edns| edns.dnssec_ok);
        Self { length, rcode, zone, qtype: query.qtype, dnssec_ok }
    }

    /// To what could not be read, or was read no further.
    fn unread(length: usize, rcode: u16) -> Self {
        Self { length, rcode, zone: CountedZone::OUTSIDE, qtype: 0, dnssec_ok: false }
    }

    fn answered(&self, query: usize) -> Answered {
        let Self { length, rcode, zone, qtype, dnssec_ok } = *self;
        Answered { zone, qtype, dnssec_ok, rcode, query, response: length }
    }
}

/// A message that came in.
#[derive(Clone, Copy, Debug)]
struct Received<'r> {
    peer: &'r Peer,
    transport: Transport,
    /// In octets.
    length: usize,
    /// Which of the worker's reads is this message's, if it was read before its turn.
    read: Option<usize>,
}

/// What became of a message.
enum Made {
    Nothing,
    Response(Written),
    Pending(Box<Pending>),
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

    #[test]
    fn a_panic_costs_one_query() {
        let mut message = [0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0].to_vec();
        message.resize(1232, 0);
        let length = guarded(&mut message, |message| {
            message[..100].fill(0xff);
            if message.len() == 1232 {
                panic!("on purpose");
            }
        });
        assert!(matches!(length, Err(12)));
        assert_eq!(message[..12], [0x12, 0x34, 0x81, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(guarded(&mut message, |_| 7), Ok(7));
    }
}
