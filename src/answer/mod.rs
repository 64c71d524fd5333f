//! Request and zone in, response out: the one engine, whatever brought the request.
//!
//! [`Responder::respond`] is the door: the gate, then one `match` over what the zone says. A response is written in
//! the buffer of the query, in `response.rs`. Row ids (N1, A4, ...) are those of `tests/rows.md`. Octets are `wire.rs`, what exists is
//! `zone.rs`.

mod response;

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ipnet::IpNet;

use crate::explain::Absence;
use crate::metrics::{Counters, Event};
use crate::names::{QueryName, WireName};
use crate::rtype;
use crate::status::{DataState, Status};
use crate::wire::{self, MAX_TCP, QUESTION, Query, Refusal, Section, Writer, ede, rcode};
use crate::zone::{EXPECTED_TTL, Lookup, Site, Zone};

use response::Response;

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

/// What one worker needs for itself: room for a name, a counter that rotates RRsets, its event counters.
pub struct Worker {
    /// Its counters.
    pub counters: Arc<Counters>,
    name: QueryName,
    alias: QueryName,
    turn: u16,
}

impl Worker {
    /// For a thread that begins to work.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { counters, name: QueryName::default(), alias: QueryName::default(), turn: 0 }
    }
}

/// Answers messages, whatever brought them.
pub struct Responder {
    zone: Arc<Zone>,
    status: Arc<Status>,
    access: Access,
}

impl Responder {
    /// Answers for `zone`.
    pub fn new(zone: Arc<Zone>, status: Arc<Status>, access: Access) -> Self {
        Self { zone, status, access }
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
        let allowed = self.allows(peer);
        if !allowed && self.access.silent {
            return drop(worker, Event::DroppedNotAllowed);
        }
        match wire::read(&message[..length], &mut worker.name) {
            Ok(query) if allowed => Some(self.resolve(worker, transport, message, query)),
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

    fn allows(&self, peer: Peer) -> bool {
        let allow = &self.access.allow;
        allow.is_empty() || allow.iter().any(|network| network.contains(&peer.from.ip().to_canonical()))
    }

    fn resolve(&self, worker: &mut Worker, transport: Transport, message: &mut [u8], query: Query) -> (usize, u16) {
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
            ttl: self.zone.settings().ttl,
            turn: usize::from(query.id.wrapping_add(worker.turn)),
        };
        // Once: what one response says about the data is one state of it.
        let state = self.status.data_state();
        match self.write(worker, query, state, &mut response) {
            Outcome::Answered(rcode) => {
                let error = (state == DataState::Stale).then(|| stale(rcode));
                (response.writer.finish(rcode, true, query.edns, error), rcode)
            }
            Outcome::NotInZone => refuse(message, rcode::REFUSED, (ede::NOT_AUTHORITATIVE, "")),
            Outcome::NotReady => refuse(message, rcode::SERVFAIL, (ede::NOT_READY, "not synced yet")),
        }
    }

    /// Writes answer and authority, and follows CNAMEs inside the zones.
    fn write(&self, worker: &mut Worker, query: Query, state: DataState, response: &mut Response<'_>) -> Outcome {
        let not_ready = state == DataState::NotSynced;
        let first = self.zone.look_up(&worker.name, query.qtype, |lookup| match lookup {
            Lookup::NotInZone => Step::NotInZone,
            _ if not_ready => Step::NotReady,
            lookup => {
                self.write_lookup(&worker.name, Names::of_question(&lookup, &worker.name), query, lookup, response)
            }
        });
        match first {
            Step::Done(rcode) => Outcome::Answered(rcode),
            Step::Glue(target) => {
                response.glue(target, &self.zone);
                Outcome::Answered(rcode::NOERROR)
            }
            Step::NotInZone => Outcome::NotInZone,
            Step::NotReady => Outcome::NotReady,
            Step::Follow(target, owner) => Outcome::Answered(self.follow(worker, query, target, owner, response)),
        }
    }

    /// Follows a chain of CNAMEs to its end, and returns the rcode of its last name (RFC 6604 section 2.1).
    fn follow(
        &self,
        worker: &mut Worker,
        query: Query,
        target: WireName,
        owner: u16,
        response: &mut Response<'_>,
    ) -> u16 {
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
                Step::Done(rcode) => return rcode,
                _ => return rcode::NOERROR,
            }
        }
        rcode::NOERROR
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
                    _ if *target.octets() == *name.octets() => Step::Done(rcode::NOERROR),
                    _ => Step::Follow(target.clone(), owner),
                }
            }
            Lookup::NoData(site) => self.deny(names, site, rcode::NOERROR, None, response),
            Lookup::NxDomain(site, absence) => self.deny(names, site, rcode::NXDOMAIN, absence, response),
            Lookup::NotInZone => Step::NotInZone,
        }
    }

    /// RFC 2308 sections 2 and 3: a negative answer carries the SOA, with the TTL that it may be kept for.
    fn deny(
        &self,
        names: Names,
        site: Site<'_>,
        rcode: u16,
        absence: Option<Absence>,
        response: &mut Response<'_>,
    ) -> Step {
        let negative = self.zone.settings().negative_ttl;
        let expected = absence.is_some_and(Absence::is_expected);
        response.writer.begin(Section::Authority);
        response.soa(names, site, if expected { negative.min(EXPECTED_TTL) } else { negative }, &self.zone);
        Step::Done(rcode)
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

/// What an answer from data that nobody can vouch for is marked with (RFC 8914 sections 4.4 and 4.20).
fn stale(rcode: u16) -> (u16, &'static str) {
    const CUT_OFF: &str = "the API server is out of reach";
    (if rcode == rcode::NXDOMAIN { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER }, CUT_OFF)
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
    Answered(u16),
    NotInZone,
    NotReady,
}

/// What became of one name.
enum Step {
    Done(u16),
    /// The name server's addresses go into the additional section, under the name at this position.
    Glue(usize),
    /// A CNAME to this name, which stands in the message where this pointer points.
    Follow(WireName, u16),
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
