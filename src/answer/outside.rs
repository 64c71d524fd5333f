//! Responses that need an upstream's answer: for which clients, from where each record comes, and how they are written.
//!
//! A [`Pending`] response holds what is written so far: the question alone (`--forward`), or CNAMEs that lead out of the
//! zones too (`--upstream`, N14). [`Responder::resume`] goes on along the chain of CNAMEs. Each name of the chain has one
//! source: our zones come first, then the special names, and only what is in neither is taken from an upstream
//! (RFC 1034 section 4.3.2 step 3a, RFC 2181 section 5.4.1). So an upstream cannot give records to a name of ours,
//! whatever its response holds. The records that are taken at all are chosen in `foreign.rs`; queries to upstreams are
//! in `serve/forward/`.

use std::sync::Arc;

use ipnet::IpNet;

use super::foreign::{ForeignAnswer, ForeignRecord};
use super::response::Response;
use super::{CauseReport, CountedZone, End, Peer, Received, Responder, ResponseSummary, Transport, stale};
use crate::names::reverse::is_reverse;
use crate::names::special::{Special, SpecialNames};
use crate::names::{MAX_CHAIN, MAX_FORWARDED_CHAIN, QueryName, WireName};
use crate::rtype;
use crate::status::DataState;
use crate::wire::{self, NameRef, QUESTION, Query, Remarks, Section, Writer, ede, rcode};
use crate::zone::View;

/// TTL of special names and of their denials, in seconds (RFC 6303 section 3).
const SPECIAL_TTL: u32 = 10_800;

/// Policy for names outside the zones.
#[derive(Clone, Debug)]
pub struct Outside {
    /// Networks of the clients for which upstreams are asked; empty: for none.
    pub names_for: Vec<IpNet>,
    /// CNAMEs that lead out of the zones are followed for every client, and not for those alone.
    pub aliases: bool,
    /// Names for which no upstream is asked.
    pub special: SpecialNames,
}

impl Outside {
    /// Returns whether upstreams are asked for names outside the zones, for this client.
    pub(super) fn serves(&self, peer: &Peer) -> bool {
        let client = peer.from.ip().to_canonical();
        self.names_for.iter().any(|network| network.contains(&client))
    }

    /// A special name's records, and the offset in the name at which its tree begins, in octets.
    pub(super) fn special(&self, name: &QueryName) -> Option<(Special, usize)> {
        let (special, at) = self.special.find(name)?;
        Some((special, name.offset(at)))
    }
}

/// The names of a response from QNAME along its CNAMEs, without a repetition.
#[derive(Debug)]
pub(super) struct Chain {
    names: Vec<WireName>,
    /// The largest number of CNAMEs.
    limit: usize,
    /// Pointer to the last name in the message.
    pub(super) owner: u16,
}

impl Chain {
    pub(super) fn new(qname: WireName) -> Self {
        Self { names: vec![qname], limit: MAX_CHAIN, owner: QUESTION }
    }

    /// The last name: its records come next.
    pub(super) fn last(&self) -> &WireName {
        &self.names[self.names.len() - 1]
    }

    /// Adds the target of a CNAME, to which `owner` points. Returns false if it is in the chain already, or one too many.
    pub(super) fn extend(&mut self, target: WireName, owner: u16) -> bool {
        let fits = self.names.len() <= self.limit && !self.names.contains(&target);
        if fits {
            self.names.push(target);
            self.owner = owner;
        }
        fits
    }
}

/// A response that waits for an upstream's answer.
#[derive(Debug)]
pub struct Pending {
    /// The client and our own address.
    pub peer: Peer,
    /// The transport of the query and of the response.
    pub transport: Transport,
    query: Query,
    /// Header, question, and the records of the answer section so far.
    begun: Box<[u8]>,
    /// The number of these records.
    answers: u16,
    /// The upstream is asked for its last name.
    chain: Chain,
    /// A CNAME of ours leads to that name.
    is_alias: bool,
    /// Extended error of records of ours that may be out of date.
    note: Option<(u16, String)>,
    /// The length of the query, in octets.
    length: usize,
    marks: Marks,
}

/// Properties of a pending response that do not change.
#[derive(Debug)]
pub(super) struct Marks {
    /// QNAME is in a zone of ours: the response is authoritative (RFC 1035 section 4.1.1).
    pub(super) authoritative: bool,
    /// The client may ask for names outside the zones.
    pub(super) served: bool,
    /// The server's identifier.
    pub(super) nsid: Arc<[u8]>,
    /// The zone for which it is counted.
    pub(super) zone: CountedZone,
}

/// Next step of a pending response.
#[derive(Debug)]
pub enum Resumed {
    /// An upstream has to be asked for [`Pending::name`].
    Ask,
    /// The response is complete.
    Complete(ResponseSummary),
}

/// Reason for which there is no answer of an upstream (RFC 8914 sections 4.22 and 4.23).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No upstream answers, or none has an answer.
    Unreachable(String),
    /// The exchange with an upstream failed.
    Network(String),
}

impl Failure {
    /// The reason, for people.
    pub fn text(&self) -> &str {
        let (Self::Unreachable(text) | Self::Network(text)) = self;
        text
    }
}

impl Pending {
    /// `writer` has written the records up to the last name of `chain`.
    pub(super) fn new(received: &Received<'_>, writer: Writer<'_>, mut chain: Chain, marks: Marks) -> Box<Self> {
        let Received { question, peer, request } = *received;
        let (peer, transport, query, length) = (*peer, request.transport, *question.query, request.length);
        let ((end, answers), is_alias) = (writer.so_far(), chain.names.len() > 1);
        chain.limit = MAX_FORWARDED_CHAIN;
        let begun = writer.into_message()[..end].into();
        Box::new(Self { peer, transport, query, begun, answers, chain, is_alias, note: None, length, marks })
    }

    /// Adds the extended error of records that may be out of date.
    pub(super) fn with_note(mut self: Box<Self>, note: Option<(u16, String)>) -> Box<Self> {
        self.note = note;
        self
    }

    /// The name for which an upstream has to be asked.
    pub fn name(&self) -> &WireName {
        self.chain.last()
    }

    /// Returns whether a CNAME of ours leads to [`Self::name`].
    pub fn is_alias(&self) -> bool {
        self.is_alias
    }

    /// The type for which an upstream has to be asked.
    pub fn qtype(&self) -> u16 {
        self.query.qtype
    }

    /// Writes the response at the start of `message` if no upstream has an answer: SERVFAIL, with the records so far and
    /// the reason. `message` is as long as for [`Responder::resume`].
    pub fn fail(&self, failure: &Failure, message: &mut [u8]) -> ResponseSummary {
        let code = match failure {
            Failure::Unreachable(_) => ede::NO_REACHABLE_AUTHORITY,
            Failure::Network(_) => ede::NETWORK_ERROR,
        };
        let reason = (code, failure.text());
        self.finish(self.writer(message), rcode::SERVFAIL, Some(reason))
    }

    fn writer<'m>(&self, message: &'m mut [u8]) -> Writer<'m> {
        message[..self.begun.len()].copy_from_slice(&self.begun);
        let limit = super::limit(self.transport, &self.query);
        Writer::resume(message, self.begun.len(), self.answers, limit, self.query.edns.is_some())
    }

    /// RFC 1035 section 4.1.1: AA is about the first name of the answer, RA about the queries that the client may send.
    fn finish(&self, writer: Writer<'_>, rcode: u16, error: Option<(u16, &str)>) -> ResponseSummary {
        let note = self.note.as_ref().map(|(code, text)| (*code, text.as_str()));
        let remarks = Remarks { nsid: &self.marks.nsid, error: error.or(note) };
        let writer = writer.recursion_available(self.marks.served);
        let truncated = writer.is_truncated();
        ResponseSummary {
            length: writer.finish(rcode, self.marks.authoritative, self.query.edns, remarks),
            query_length: self.length,
            zone: self.marks.zone,
            qtype: self.query.qtype,
            rcode,
            dnssec_ok: self.query.edns.is_some_and(|edns| edns.dnssec_ok),
            truncated,
            is_stale: self.note.is_some() && rcode != rcode::SERVFAIL,
            cause: CauseReport::None,
        }
    }

    fn complete(&self, writer: Writer<'_>, rcode: u16, error: Option<(u16, &str)>) -> Resumed {
        Resumed::Complete(self.finish(writer, rcode, error))
    }
}

impl Responder {
    /// Goes on with a pending response at the start of `message`: writes the records of each further name of the chain,
    /// from our zones, the special names, or `answer`, an upstream's for [`Pending::name`], until the response is
    /// complete or another answer is needed. It is to be called without an answer first.
    ///
    /// `message` is at least 1,232 octets long for UDP, 65,535 otherwise.
    pub fn resume(&self, pending: &mut Pending, answer: Option<&ForeignAnswer>, message: &mut [u8]) -> Resumed {
        // Loaded once, so that one response shows one state of the data.
        let state = self.status.data_state();
        let mut response = Response {
            writer: pending.writer(message),
            ttl: self.zone.ttl(),
            turn: pending.query.id,
            zone: pending.marks.zone,
        };
        let (mut view, mut name) = (View::default(), QueryName::default());
        let mut source = answer.map(|answer| (answer, answer.cnames.iter()));
        loop {
            name.set(pending.chain.last());
            // Which reverse names are ours is known with the addresses.
            let may_be_ours = matches!(state, DataState::NotSynced | DataState::Partial) && is_reverse(&name);
            if may_be_ours || self.is_in_zones(&mut view, &name) {
                if may_be_ours {
                    return self.fail_not_ready(pending, response);
                }
                if state.is_old() {
                    pending.note = Some((ede::STALE_ANSWER, self.status.sentence().to_string()));
                }
                match self.follow(&mut view, pending.query.qtype, state, &mut pending.chain, &mut response) {
                    End::NotReady => return self.fail_not_ready(pending, response),
                    End::At(rcode) => {
                        pending.note = pending.note.take().map(|(_, text)| (stale(rcode), text));
                        return pending.complete(response.writer, rcode, None);
                    }
                    End::Never => return fail_chain(pending, response),
                    // The rest of the upstream's answer was reached through a record that is not taken.
                    End::Outside => (pending.is_alias, source) = (true, None),
                }
            } else if let Some(special) = self.outside.as_ref().and_then(|outside| outside.special(&name)) {
                let rcode = write_special(&mut response.writer, pending.chain.owner, special, pending.query.qtype);
                return pending.complete(response.writer, self.outside_rcode(&name, rcode), None);
            } else {
                let Some((answer, cnames)) = &mut source else { break };
                let Some(cname) = cnames.next() else {
                    if answer.rrset.is_empty() && !answer.is_denial() {
                        break;
                    }
                    let rcode = self.outside_rcode(&name, answer.end_rcode());
                    let soa = answer.soa.as_ref().filter(|soa| {
                        // With `--namespace` an upstream may be another server of the same zone.
                        name.set(&soa.owner);
                        !self.is_in_zones(&mut view, &name)
                    });
                    write_end(&mut response.writer, pending.chain.owner, &answer.rrset, soa);
                    return pending.complete(response.writer, rcode, None);
                };
                let target = wire::pointer(response.writer.position() + 12);
                let (Some(target), true) = (target, put(&mut response.writer, pending.chain.owner, cname)) else {
                    response.writer.truncate();
                    return pending.complete(response.writer, rcode::NOERROR, None);
                };
                if !cname.target().is_some_and(|name| pending.chain.extend(name, target)) {
                    return fail_chain(pending, response);
                }
            }
        }
        let (end, answers) = response.writer.so_far();
        pending.begun = response.writer.into_message()[..end].into();
        pending.answers = answers;
        Resumed::Ask
    }

    /// The rcode of a name outside the zones. One with a zone of ours below it exists, although an upstream does not know:
    /// a resolver may deny with it all that is below (RFC 8020).
    pub(super) fn outside_rcode(&self, name: &QueryName, rcode: u16) -> u16 {
        if rcode == rcode::NXDOMAIN && self.zone.has_zone_below(name) { rcode::NOERROR } else { rcode }
    }

    fn fail_not_ready(&self, pending: &Pending, response: Response<'_>) -> Resumed {
        pending.complete(response.writer, rcode::SERVFAIL, Some((ede::NOT_READY, &self.not_synced)))
    }
}

/// Fails a response with CNAMEs that never end. A denial would be kept by caches, and there is no SOA for it.
fn fail_chain(pending: &Pending, response: Response<'_>) -> Resumed {
    let text = format!("the chain of CNAMEs is a loop, or longer than {MAX_FORWARDED_CHAIN}");
    pending.complete(response.writer, rcode::SERVFAIL, Some((ede::OTHER, &text)))
}

/// Writes the end of an upstream's answer: the RRset of the last name, or the SOA of its denial.
fn write_end(writer: &mut Writer<'_>, owner: u16, rrset: &[ForeignRecord], soa: Option<&ForeignRecord>) {
    let fits = rrset.iter().all(|record| put(writer, owner, record));
    if !fits {
        writer.truncate();
    }
    if let Some(ForeignRecord { owner, rtype, ttl, data }) = soa {
        writer.begin(Section::Authority);
        if !writer.record(NameRef::Whole(owner), *rtype, *ttl, &[data]) {
            writer.truncate();
        }
    }
}

/// Writes the record; returns whether it fits. `owner` points to its owner name (RFC 1035 section 4.1.4).
fn put(writer: &mut Writer<'_>, owner: u16, record: &ForeignRecord) -> bool {
    writer.record(NameRef::Pointer(owner), record.rtype, record.ttl, &[&record.data])
}

/// Writes the answer for a special name, to which `owner` points; its tree begins `apex` octets behind the start of the
/// name. The name is in the message in one piece: no name of a CNAME is compressed that is outside the zones.
pub(super) fn write_special(writer: &mut Writer<'_>, owner: u16, (special, apex): (Special, usize), qtype: u16) -> u16 {
    let data: &[u8] = match (special, qtype) {
        (Special::Localhost, rtype::A | rtype::ANY) => &[127, 0, 0, 1],
        (Special::Localhost, rtype::AAAA) => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        (Special::LocalhostReverse, rtype::PTR | rtype::ANY) => b"\x09localhost\x00",
        _ => &[],
    };
    let fits = if data.is_empty() {
        writer.begin(Section::Authority);
        // RFC 6303 section 3: the server's name is the zone's own, and the mailbox does not exist.
        let pointer = owner + apex as u16;
        let numbers = [1, 3600, 1200, 604_800, SPECIAL_TTL].map(u32::to_be_bytes).concat();
        let data: [&[u8]; 3] = [&pointer.to_be_bytes(), b"\x06nobody\x07invalid\x00", &numbers];
        writer.record(NameRef::Pointer(pointer), rtype::SOA, SPECIAL_TTL, &data)
    } else {
        let rtype = match special {
            Special::LocalhostReverse => rtype::PTR,
            _ if data.len() == 4 => rtype::A,
            _ => rtype::AAAA,
        };
        writer.record(NameRef::Pointer(owner), rtype, SPECIAL_TTL, &[data])
    };
    if !fits {
        writer.truncate();
    }
    if special == Special::Nothing { rcode::NXDOMAIN } else { rcode::NOERROR }
}
