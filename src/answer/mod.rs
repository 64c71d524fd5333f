//! Request and zone in, response out: the one engine, whatever brought the request.
//!
//! [`Responder::respond`] is the door: the gate, then one `match` over what the zone says. A response is written in
//! the buffer of the query, in `response.rs`; why a name does not resolve is added by `why.rs`. Row ids (N1, A4, ...)
//! are those of `tests/rows.md`. Octets are `wire.rs`, what exists is `zone.rs`.

mod response;
mod why;

use std::net::SocketAddr;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::explain::{Absence, Asker, Finding};
use crate::metrics::{Counters, Event};
use crate::names::why::subject;
use crate::names::{QueryName, WireName};
use crate::rtype;
use crate::status::{DataState, Status};
use crate::wire::{self, MAX_TCP, QUESTION, Query, Refusal, Section, Writer, ede, rcode};
use crate::zone::{EXPECTED_TTL, Lookup, Site, Zone};

use response::Response;
use why::{Budget, Explainer, Open};

/// How deep a chain of CNAMEs inside the zones is followed (N14).
const MAX_CHAIN: usize = 8;

/// How a message came, and so how large a response may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: at most 1232 octets back.
    Udp,
    /// A stream: at most 65,535 octets back.
    Tcp,
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
    fn allows(&self, peer: Peer) -> bool {
        self.allow.is_empty() || self.allow.iter().any(|network| network.contains(&peer.from.ip().to_canonical()))
    }
}

/// What one worker needs for itself: room for a name, a counter that rotates RRsets, its event counters.
pub struct Worker {
    /// Its counters.
    pub counters: Arc<Counters>,
    name: QueryName,
    alias: QueryName,
    turn: u16,
    causes: Budget,
}

impl Worker {
    /// For a thread that begins to work.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { counters, name: QueryName::default(), alias: QueryName::default(), turn: 0, causes: Budget::default() }
    }

    /// Begins a batch of messages: what was received together, `now`. Without it no cause is looked for.
    pub fn begin_batch(&mut self, now: Instant) {
        self.causes.refill(now);
    }
}

/// Answers messages, whatever brought them.
pub struct Responder {
    zone: Arc<Zone>,
    status: Arc<Status>,
    access: ArcSwap<Access>,
    explainer: Option<Explainer>,
    /// What everyone is told before everything was read.
    not_synced: String,
}

impl Responder {
    /// Answers for `zone`, and explains to nobody.
    pub fn new(zone: Arc<Zone>, status: Arc<Status>, access: Access) -> Self {
        let not_synced = Finding::NotSynced { waiting_for: Vec::new(), forbidden: false, seconds: 0 }.brief();
        Self { zone, status, access: ArcSwap::from_pointee(access), explainer: None, not_synced }
    }

    /// Also says why names do not resolve, to the clients in `to`; to nobody where this is empty.
    pub fn explaining(self, asker: Asker, to: Vec<IpNet>) -> Self {
        Self { explainer: Some(Explainer::new(asker, to)), ..self }
    }

    /// From now on others are answered, and told why names do not resolve. The latter only where somebody could be told
    /// before: see [`Responder::explaining`].
    pub fn change_clients(&self, access: Access, to: Vec<IpNet>) {
        self.access.store(Arc::new(access));
        if let Some(explainer) = &self.explainer {
            explainer.change_clients(to);
        }
    }

    /// Reads the query in `message[..length]` and writes the response over it, from the start of `message`.
    ///
    /// Returns the length of the response in octets, or `None` where the message deserves none: over UDP it is then
    /// dropped, and a TCP connection is closed. Never panics: a panic inside is caught and answered with SERVFAIL.
    /// `message` is at least 1232 octets long for UDP (the whole slot of the datagram), 65,535 for TCP.
    pub fn respond(
        &self,
        worker: &mut Worker,
        peer: Peer,
        transport: Transport,
        message: &mut [u8],
        length: usize,
    ) -> Option<usize> {
        let (response, rcode) = guarded(message, |message| self.answer(worker, peer, transport, message, length))
            .unwrap_or_else(|servfail| {
                worker.counters.count(Event::Panics);
                Some((servfail, rcode::SERVFAIL))
            })?;
        worker.counters.count(rcode_event(rcode));
        if message[2] & 0x02 != 0 {
            let udp = transport == Transport::Udp;
            worker.counters.count(if udp { Event::TruncatedUdp } else { Event::TruncatedTcp });
        }
        Some(response)
    }

    fn answer(
        &self,
        worker: &mut Worker,
        peer: Peer,
        transport: Transport,
        message: &mut [u8],
        length: usize,
    ) -> Option<(usize, u16)> {
        let drop = |worker: &Worker, event| {
            worker.counters.count(event);
            None
        };
        if let Err(event) = wire::gate(&message[..length]) {
            return drop(worker, event);
        }
        if !is_client(peer) {
            return drop(worker, Event::DroppedSource);
        }
        let access = self.access.load();
        let allowed = access.allows(peer);
        if !allowed && access.silent {
            return drop(worker, Event::DroppedNotAllowed);
        }
        match wire::read(&message[..length], &mut worker.name) {
            Ok(query) if allowed => Some(self.resolve(worker, peer, transport, message, query)),
            Ok(Query { question_end, edns, .. }) => {
                let refusal = Refusal { rcode: rcode::REFUSED, question_end, edns };
                Some((wire::refuse(message, refusal, Some((ede::PROHIBITED, ""))), rcode::REFUSED))
            }
            Err(refusal) => {
                let refusal = if allowed { refusal } else { Refusal::header_only(rcode::REFUSED) };
                Some((wire::refuse(message, refusal, None), refusal.rcode))
            }
        }
    }

    fn resolve(
        &self,
        worker: &mut Worker,
        peer: Peer,
        transport: Transport,
        message: &mut [u8],
        query: Query,
    ) -> (usize, u16) {
        worker.turn = worker.turn.wrapping_add(1);
        let refuse = |message: &mut [u8], rcode, error| {
            let refusal = Refusal { rcode, question_end: query.question_end, edns: query.edns };
            (wire::refuse(message, refusal, Some(error)), rcode)
        };
        if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
            return refuse(message, rcode::REFUSED, (ede::PROHIBITED, "zone transfers are not offered"));
        }
        let limit = if transport == Transport::Udp { wire::udp_limit(query.edns) } else { MAX_TCP };
        let mut response = Response {
            writer: Writer::new(message, query.question_end, limit, query.edns.is_some()),
            ttl: self.zone.ttl(),
            turn: usize::from(query.id.wrapping_add(worker.turn)),
        };
        // Once: what one response says about the data is one state of it.
        let state = self.status.data_state();
        match self.write(worker, peer, query, state, &mut response) {
            Outcome::Answered(rcode, _) if matches!(state, DataState::Stale | DataState::Restored) => {
                let sentence = self.status.sentence();
                (response.writer.finish(rcode, true, query.edns, Some((stale(rcode), &sentence))), rcode)
            }
            Outcome::Answered(rcode, open) => {
                let cause = open.and_then(|open| self.cause(worker, peer, query, open));
                let error = cause.map(|cause| (cause.code(), cause.brief()));
                let error = error.as_ref().map(|(code, text)| (*code, text.as_str()));
                (response.writer.finish(rcode, true, query.edns, error), rcode)
            }
            Outcome::NotInZone => refuse(message, rcode::REFUSED, (ede::NOT_AUTHORITATIVE, "")),
            Outcome::NotReady => {
                let sentence = self.status.sentence();
                let told = !sentence.is_empty() && state == DataState::NotSynced && self.tells(peer);
                let text = if told { sentence.as_str() } else { &self.not_synced };
                refuse(message, rcode::SERVFAIL, (ede::NOT_READY, text))
            }
        }
    }

    fn tells(&self, peer: Peer) -> bool {
        self.explainer.as_ref().is_some_and(|explainer| explainer.tells(peer))
    }

    /// Why there is no answer: only for those who are told, where it goes out, and where it is likely to be known.
    fn cause(&self, worker: &mut Worker, peer: Peer, query: Query, open: Open) -> Option<Finding> {
        let explainer = self.explainer.as_ref().filter(|_| query.edns.is_some())?;
        let worth = why::is_worth_asking(&self.zone, &worker.name, query.qtype, open)
            && explainer.tells(peer)
            && worker.causes.take();
        if worth { explainer.cause(&worker.name, query.qtype, open) } else { None }
    }

    /// Writes answer and authority, and follows CNAMEs inside the zones.
    fn write(
        &self,
        worker: &mut Worker,
        peer: Peer,
        query: Query,
        state: DataState,
        response: &mut Response<'_>,
    ) -> Outcome {
        let not_ready = state == DataState::NotSynced;
        // A snapshot may be from before a name: what it does not know is not denied.
        let restored = state == DataState::Restored;
        let name = &worker.name;
        let first = self.zone.look_up(name, query.qtype, |lookup| match lookup {
            Lookup::NotInZone => Step::NotInZone,
            _ if not_ready => Step::NotReady,
            Lookup::NxDomain(..) if restored => Step::NotReady,
            lookup => {
                let names = Names::of_question(&lookup, name);
                match self.asks_why(name, peer, &lookup) {
                    None => self.write_lookup(name, names, query, lookup, response),
                    // A name that exists, and has nothing but a text.
                    Some((site, _)) if !matches!(query.qtype, rtype::TXT | rtype::ANY) => {
                        self.deny(names, site, false, response);
                        Step::Done(rcode::NOERROR)
                    }
                    Some((site, labels)) => Step::Why(labels, site.apex_at),
                }
            }
        });
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
                let (rcode, ends) = self.follow(worker, query, target, owner, response);
                if restored && rcode == rcode::NXDOMAIN {
                    return Outcome::NotReady;
                }
                Outcome::Answered(rcode, (!ends || rcode == rcode::NXDOMAIN).then_some(Open::Chain))
            }
            Step::Why(labels, apex_at) => {
                response.text(&self.why(worker, labels, apex_at, state));
                Outcome::Answered(rcode::NOERROR, None)
            }
        }
    }

    /// The labels of the name that the question asks after, where nothing else knows the question's name, and the
    /// client is told.
    fn asks_why<'z>(&self, name: &QueryName, peer: Peer, lookup: &Lookup<'z>) -> Option<(Site<'z>, Range<usize>)> {
        let (Lookup::NxDomain(site, _), Some(explainer)) = (lookup, &self.explainer) else { return None };
        let labels = subject(name, site.apex_at)?;
        explainer.tells(peer).then_some((*site, labels))
    }

    /// The text for the name of these labels before the question's apex.
    fn why(&self, worker: &mut Worker, labels: Range<usize>, apex_at: usize, state: DataState) -> String {
        worker.alias.set_subject(&worker.name, labels, apex_at);
        let mut text = match &self.explainer {
            Some(explainer) if worker.causes.take() => explainer.text(&self.zone, &worker.alias),
            _ => why::busy(),
        };
        if state == DataState::Stale {
            text = format!("{text}; {}", *self.status.sentence());
        }
        text
    }

    /// Follows a chain of CNAMEs, and returns the rcode of its last name (RFC 6604 section 2.1), and whether it ends.
    fn follow(
        &self,
        worker: &mut Worker,
        query: Query,
        target: WireName,
        owner: u16,
        response: &mut Response<'_>,
    ) -> (u16, bool) {
        let mut visited = vec![worker.name.to_wire(), target];
        let mut owner = owner;
        while let Some(target) = visited.last() {
            worker.alias.set(target);
            let names = Names { owner, apex: None };
            let step = self.zone.look_up(&worker.alias, query.qtype, |lookup| match lookup {
                // N14: names outside are not chased.
                Lookup::NotInZone => Step::Done(rcode::NOERROR),
                lookup => self.write_lookup(&worker.alias, names, query, lookup, response),
            });
            match step {
                Step::Follow(next, at) if visited.len() <= MAX_CHAIN && !visited.contains(&next) => {
                    visited.push(next);
                    owner = at;
                }
                Step::Done(rcode) | Step::Denied(rcode, _) => return (rcode, true),
                Step::Follow(..) | Step::Circle => return (rcode::NOERROR, false),
                _ => return (rcode::NOERROR, true),
            }
        }
        (rcode::NOERROR, true)
    }

    fn write_lookup(
        &self,
        name: &QueryName,
        names: Names,
        query: Query,
        lookup: Lookup<'_>,
        response: &mut Response<'_>,
    ) -> Step {
        match lookup {
            Lookup::Found(site, rrset) => response.rrset(names, site, rrset, &self.zone),
            Lookup::Cname(site, target) => {
                let Some(owner) = response.cname(names, site, target) else { return Step::Done(rcode::NOERROR) };
                match query.qtype {
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
    fn deny(&self, names: Names, site: Site<'_>, expected: bool, response: &mut Response<'_>) {
        let negative = self.zone.negative_ttl();
        response.writer.begin(Section::Authority);
        response.soa(names, site, if expected { negative.min(EXPECTED_TTL) } else { negative }, &self.zone);
    }
}

/// Answers, or catches the panic of it: then `message` is SERVFAIL, and its length the error.
fn guarded(
    message: &mut [u8],
    answer: impl FnOnce(&mut [u8]) -> Option<(usize, u16)>,
) -> Result<Option<(usize, u16)>, usize> {
    let mut header = [0; 4];
    header.copy_from_slice(&message[..4]);
    catch_unwind(AssertUnwindSafe(|| answer(message))).map_err(|_| {
        // The question may be written over by now: the header alone says enough.
        message[..4].copy_from_slice(&header);
        wire::refuse(message, Refusal::header_only(rcode::SERVFAIL), None)
    })
}

/// Step 3 of the gate: what can be a client. Our own address and port is a message that we sent ourselves.
fn is_client(peer: Peer) -> bool {
    let address = peer.from.ip();
    peer.from.port() != 0 && !address.is_unspecified() && !address.is_multicast() && peer.from != peer.to
}

/// The code of an answer from data that nobody can vouch for (RFC 8914 sections 4.4 and 4.20).
fn stale(rcode: u16) -> u16 {
    if rcode == rcode::NXDOMAIN { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER }
}

fn rcode_event(rcode: u16) -> Event {
    match rcode {
        rcode::NOERROR => Event::NoError,
        rcode::FORMERR => Event::FormErr,
        rcode::SERVFAIL => Event::ServFail,
        rcode::NXDOMAIN => Event::NxDomain,
        rcode::NOTIMP => Event::NotImp,
        rcode::REFUSED => Event::Refused,
        _ => Event::OtherCode,
    }
}

/// What became of a query.
enum Outcome {
    /// With this rcode, and perhaps with something to explain.
    Answered(u16, Option<Open>),
    NotInZone,
    NotReady,
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
    fn of_question(lookup: &Lookup<'_>, name: &QueryName) -> Self {
        let apex = match lookup {
            Lookup::Found(site, _) | Lookup::Cname(site, _) | Lookup::NoData(site) | Lookup::NxDomain(site, _) => {
                wire::pointer(wire::HEADER + name.offset(site.apex_at))
            }
            Lookup::NotInZone => None,
        };
        Self { owner: QUESTION, apex }
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
            panic!("on purpose");
        });
        assert_eq!(length, Err(12));
        assert_eq!(message[..12], [0x12, 0x34, 0x81, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(guarded(&mut message, |_| Some((7, 0))), Ok(Some((7, 0))));
    }
}
