//! Forwarding: which clients may use upstreams, and how a response with an upstream's records is completed.
//!
//! A [`ForwardedQuery`] response holds the message so far: the question alone (`--forward`), or also CNAMEs that lead out of the
//! zones (`--external-name-upstream`, row N14 of `tests/rows.md`). [`Responder::resume`] follows the rest of the CNAME
//! chain. Each name of the chain has one source: the zones of this server, else the special names (RFC 6761), else an
//! upstream (RFC 1034 section 4.3.2 step 3a, RFC 2181 section 5.4.1). So an upstream cannot supply records for a name of
//! the zones, whatever its response contains. Not here: the choice of records from an upstream's response (`foreign.rs`), and queries to
//! upstreams (`server/forward/`).

use std::sync::Arc;

use ipnet::IpNet;

use super::response::Response;
use super::upstream_response::{UpstreamRecord, UpstreamResponse};
use super::{CauseReport, ChainEnd, Peer, RequestContext, Responder, ResponseSummary, Transport, ZoneLabel, stale};
use crate::name::reverse::is_reverse;
use crate::name::special::{SpecialName, SpecialNames};
use crate::name::{MAX_CHAIN, MAX_FORWARDED_CHAIN, QueryName, WireName};
use crate::rtype;
use crate::status::DataState;
use crate::wire::{self, NameRef, QNAME_POINTER, Query, ResponseOptions, Section, Writer, ede, rcode};
use crate::zone::SnapshotCache;

/// TTL of records and of negative responses for special names, in seconds (RFC 6303 section 3).
const SPECIAL_TTL: u32 = 10_800;

/// Forwarding policy: the policy for names outside the zones.
#[derive(Clone, Debug)]
pub struct ForwardPolicy {
    /// Networks of the clients that may use forwarding. If empty, no query is forwarded.
    pub allowed_clients: Vec<IpNet>,
    /// True if CNAMEs that lead out of the zones are followed for every client, not only for those in `names_for`.
    pub aliases: bool,
    /// Special names, which are answered here and never forwarded.
    pub special: SpecialNames,
}

impl ForwardPolicy {
    /// Returns whether names outside the zones are forwarded for this client.
    pub(super) fn serves(&self, peer: &Peer) -> bool {
        let client = peer.from.ip().to_canonical();
        self.allowed_clients.iter().any(|network| network.contains(&client))
    }

    /// Returns the special-use domain that the name is in, and the offset in octets of that domain in the name.
    pub(super) fn special(&self, name: &QueryName) -> Option<(SpecialName, usize)> {
        let (special, at) = self.special.find(name)?;
        Some((special, name.offset(at)))
    }
}

/// CNAME chain of a response: the names from QNAME on, each at most once.
#[derive(Debug)]
pub(super) struct CnameChain {
    names: Vec<WireName>,
    /// Maximum number of CNAMEs.
    limit: usize,
    /// Compression pointer to the last name.
    pub(super) owner: u16,
}

impl CnameChain {
    pub(super) fn new(qname: WireName) -> Self {
        Self { names: vec![qname], limit: MAX_CHAIN, owner: QNAME_POINTER }
    }

    /// Returns the last name: the response needs its records next.
    pub(super) fn last(&self) -> &WireName {
        &self.names[self.names.len() - 1]
    }

    /// Adds the target of a CNAME, to which the compression pointer `owner` points. Returns false for a loop, or if the
    /// chain is too long.
    pub(super) fn extend(&mut self, target: WireName, owner: u16) -> bool {
        let fits = self.names.len() <= self.limit && !self.names.contains(&target);
        if fits {
            self.names.push(target);
            self.owner = owner;
        }
        fits
    }
}

/// Response that waits for an upstream's answer.
#[derive(Debug)]
pub struct ForwardedQuery {
    /// Addresses of the client and of the listener.
    pub peer: Peer,
    /// Transport of the query and of the response.
    pub transport: Transport,
    query: Query,
    /// Header, question, and the records of the answer section so far.
    begun: Box<[u8]>,
    /// Number of records in `begun`.
    answers: u16,
    /// CNAME chain; the upstream resolves its last name.
    chain: CnameChain,
    /// True if a CNAME of this server's zones leads to the last name.
    is_alias: bool,
    /// Extended error, if the response contains stale records of this server's zones.
    note: Option<(u16, String)>,
    /// Length of the query, in octets.
    length: usize,
    context: ResponseContext,
}

/// Properties of a pending response that no later step changes.
#[derive(Debug)]
pub(super) struct ResponseContext {
    /// AA bit: QNAME is in a zone of this server (RFC 1035 section 4.1.1).
    pub(super) authoritative: bool,
    /// RA bit: names outside the zones are forwarded for this client.
    pub(super) served: bool,
    /// Server identifier (RFC 5001); empty without one.
    pub(super) nsid: Arc<[u8]>,
    /// Zone label of the response in metrics.
    pub(super) zone: ZoneLabel,
}

/// Next step of a pending response.
#[derive(Debug)]
pub enum Resumed {
    /// An upstream must resolve [`ForwardedQuery::name`].
    QueryNext,
    /// The response is complete.
    Complete(ResponseSummary),
}

/// Failure of forwarding (RFC 8914 sections 4.22 and 4.23).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamFailure {
    /// No upstream responds, or none returns an answer.
    Unreachable(String),
    /// The exchange with an upstream failed.
    Network(String),
}

impl UpstreamFailure {
    /// Returns the reason as text for people.
    pub fn text(&self) -> &str {
        let (Self::Unreachable(text) | Self::Network(text)) = self;
        text
    }
}

impl ForwardedQuery {
    /// Creates a pending response from `writer`, which has written the records up to the last name of `chain`.
    pub(super) fn new(
        received: &RequestContext<'_>,
        writer: Writer<'_>,
        mut chain: CnameChain,
        marks: ResponseContext,
    ) -> Box<Self> {
        let RequestContext { question, peer, request } = *received;
        let (peer, transport, query, length) = (*peer, request.transport, *question.query, request.length);
        let ((end, answers), is_alias) = (writer.checkpoint(), chain.names.len() > 1);
        chain.limit = MAX_FORWARDED_CHAIN;
        let begun = writer.into_message()[..end].into();
        Box::new(Self { peer, transport, query, begun, answers, chain, is_alias, note: None, length, context: marks })
    }

    /// Sets the extended error of stale records.
    pub(super) fn with_note(mut self: Box<Self>, note: Option<(u16, String)>) -> Box<Self> {
        self.note = note;
        self
    }

    /// Returns the name that an upstream must resolve.
    pub fn name(&self) -> &WireName {
        self.chain.last()
    }

    /// Returns whether a CNAME of this server's zones leads to [`Self::name`].
    pub fn is_alias(&self) -> bool {
        self.is_alias
    }

    /// Returns QTYPE of the query to the upstream.
    pub fn qtype(&self) -> u16 {
        self.query.qtype
    }

    /// Writes the response to a failed query at the start of `message`: SERVFAIL, with the records so far and the reason as
    /// extended error. `message` is as long as for [`Responder::resume`].
    pub fn fail(&self, failure: &UpstreamFailure, message: &mut [u8]) -> ResponseSummary {
        let code = match failure {
            UpstreamFailure::Unreachable(_) => ede::NO_REACHABLE_AUTHORITY,
            UpstreamFailure::Network(_) => ede::NETWORK_ERROR,
        };
        let reason = (code, failure.text());
        self.finish(self.writer(message), rcode::SERVFAIL, Some(reason))
    }

    fn writer<'m>(&self, message: &'m mut [u8]) -> Writer<'m> {
        message[..self.begun.len()].copy_from_slice(&self.begun);
        let limit = super::limit(self.transport, &self.query);
        Writer::resume(message, self.begun.len(), self.answers, limit, self.query.edns.is_some())
    }

    /// Finishes the response. AA is set according to QNAME alone, RA according to the client (RFC 1035 section 4.1.1).
    fn finish(&self, writer: Writer<'_>, rcode: u16, error: Option<(u16, &str)>) -> ResponseSummary {
        let note = self.note.as_ref().map(|(code, text)| (*code, text.as_str()));
        let remarks = ResponseOptions { nsid: &self.context.nsid, error: error.or(note) };
        let writer = writer.recursion_available(self.context.served);
        let truncated = writer.is_truncated();
        ResponseSummary {
            length: writer.finish(rcode, self.context.authoritative, self.query.edns, remarks),
            query_length: self.length,
            zone: self.context.zone,
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
    /// Continues a pending response at the start of `message`: writes the records of each further name of the chain, from
    /// the zones, the special names, or `answer`, an upstream's answer for [`ForwardedQuery::name`], until the response is
    /// complete or needs another answer. The first call passes no answer.
    ///
    /// `message` is at least 1,232 octets long for UDP, 65,535 otherwise.
    pub fn resume(
        &self,
        pending: &mut ForwardedQuery,
        answer: Option<&UpstreamResponse>,
        message: &mut [u8],
    ) -> Resumed {
        // Load once, so that these records describe one state of the data.
        let state = self.status.data_state();
        let mut response = Response {
            writer: pending.writer(message),
            ttl: self.zone.ttl(),
            turn: pending.query.id,
            zone: pending.context.zone,
        };
        let (mut view, mut name) = (SnapshotCache::default(), QueryName::default());
        let mut source = answer.map(|answer| (answer, answer.cnames.iter()));
        loop {
            name.set(pending.chain.last());
            // The reverse zones follow from the addresses: before they are known, an upstream may not answer for one of
            // them.
            let may_be_ours = matches!(state, DataState::NotSynced | DataState::Partial) && is_reverse(&name);
            if may_be_ours || self.is_in_zones(&mut view, &name) {
                if may_be_ours {
                    return self.fail_not_ready(pending, response);
                }
                if state.is_old() {
                    pending.note = Some((ede::STALE_ANSWER, self.status.sentence().to_string()));
                }
                match self.follow(&mut view, pending.query.qtype, state, &mut pending.chain, &mut response) {
                    ChainEnd::NotReady => return self.fail_not_ready(pending, response),
                    ChainEnd::At(rcode) => {
                        pending.note = pending.note.take().map(|(_, text)| (stale(rcode), text));
                        return pending.complete(response.writer, rcode, None);
                    }
                    ChainEnd::ChainTooLong => return fail_chain(pending, response),
                    // The upstream's other records follow from a record that is not used, since the zones have that name.
                    ChainEnd::Outside => (pending.is_alias, source) = (true, None),
                }
            } else if let Some(special) = self.forward_policy.as_ref().and_then(|outside| outside.special(&name)) {
                let rcode = write_special(&mut response.writer, pending.chain.owner, special, pending.query.qtype);
                return pending.complete(response.writer, self.forwarded_rcode(&name, rcode), None);
            } else {
                let Some((answer, cnames)) = &mut source else { break };
                let Some(cname) = cnames.next() else {
                    if answer.rrset.is_empty() && !answer.is_denial() {
                        break;
                    }
                    let rcode = self.forwarded_rcode(&name, answer.end_rcode());
                    let soa = answer.soa.as_ref().filter(|soa| {
                        // With `--namespace`, an upstream may be a server of the whole zone: its SOA would deny names of
                        // this server's part of it.
                        name.set(&soa.owner);
                        !self.is_in_zones(&mut view, &name)
                    });
                    write_end(&mut response.writer, pending.chain.owner, &answer.rrset, soa);
                    return pending.complete(response.writer, rcode, None);
                };
                let target = wire::pointer(response.writer.position() + 12);
                let (Some(target), true) = (target, push_record(&mut response.writer, pending.chain.owner, cname))
                else {
                    response.writer.truncate();
                    return pending.complete(response.writer, rcode::NOERROR, None);
                };
                if !cname.target().is_some_and(|name| pending.chain.extend(name, target)) {
                    return fail_chain(pending, response);
                }
            }
        }
        let (end, answers) = response.writer.checkpoint();
        pending.begun = response.writer.into_message()[..end].into();
        pending.answers = answers;
        Resumed::QueryNext
    }

    /// Returns the RCODE for a name outside the zones: NOERROR instead of NXDOMAIN if a zone of this server is below the
    /// name. From NXDOMAIN, a resolver could conclude that the zone does not exist (RFC 8020).
    pub(super) fn forwarded_rcode(&self, name: &QueryName, rcode: u16) -> u16 {
        if rcode == rcode::NXDOMAIN && self.zone.has_zone_below(name) { rcode::NOERROR } else { rcode }
    }

    fn fail_not_ready(&self, pending: &ForwardedQuery, response: Response<'_>) -> Resumed {
        pending.complete(response.writer, rcode::SERVFAIL, Some((ede::NOT_READY, &self.not_synced)))
    }
}

/// Answers with SERVFAIL, since the CNAME chain is a loop or too long. Caches would keep a negative response, and it would
/// have no SOA.
fn fail_chain(pending: &ForwardedQuery, response: Response<'_>) -> Resumed {
    let text = format!("the chain of CNAMEs is a loop, or longer than {MAX_FORWARDED_CHAIN}");
    pending.complete(response.writer, rcode::SERVFAIL, Some((ede::OTHER, &text)))
}

/// Writes the end of an upstream's answer: the RRset of the last name, or the SOA of a negative response.
fn write_end(writer: &mut Writer<'_>, owner: u16, rrset: &[UpstreamRecord], soa: Option<&UpstreamRecord>) {
    let fits = rrset.iter().all(|record| push_record(writer, owner, record));
    if !fits {
        writer.truncate();
    }
    if let Some(UpstreamRecord { owner, rtype, ttl, data }) = soa {
        writer.begin(Section::Authority);
        if !writer.record(NameRef::Uncompressed(owner), *rtype, *ttl, &[data]) {
            writer.truncate();
        }
    }
}

/// Writes the record, and returns whether it fits. `owner` points to its owner name (RFC 1035 section 4.1.4).
fn push_record(writer: &mut Writer<'_>, owner: u16, record: &UpstreamRecord) -> bool {
    writer.record(NameRef::Pointer(owner), record.rtype, record.ttl, &[&record.data])
}

/// Writes the response for a special name, to which `owner` points, and returns its RCODE. The special-use domain begins
/// `apex` octets after the start of the name. The name is in the message without compression: only targets of CNAMEs
/// inside the zones are compressed.
pub(super) fn write_special(
    writer: &mut Writer<'_>,
    owner: u16,
    (special, apex): (SpecialName, usize),
    qtype: u16,
) -> u16 {
    let data: &[u8] = match (special, qtype) {
        (SpecialName::Localhost, rtype::A | rtype::ANY) => &[127, 0, 0, 1],
        (SpecialName::Localhost, rtype::AAAA) => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        (SpecialName::LocalhostReverse, rtype::PTR | rtype::ANY) => b"\x09localhost\x00",
        _ => &[],
    };
    let fits = if data.is_empty() {
        writer.begin(Section::Authority);
        // RFC 6303 section 3: MNAME is the zone's name, and the mailbox does not exist.
        let pointer = owner + apex as u16;
        let numbers = [1, 3600, 1200, 604_800, SPECIAL_TTL].map(u32::to_be_bytes).concat();
        let data: [&[u8]; 3] = [&pointer.to_be_bytes(), b"\x06nobody\x07invalid\x00", &numbers];
        writer.record(NameRef::Pointer(pointer), rtype::SOA, SPECIAL_TTL, &data)
    } else {
        let rtype = match special {
            SpecialName::LocalhostReverse => rtype::PTR,
            _ if data.len() == 4 => rtype::A,
            _ => rtype::AAAA,
        };
        writer.record(NameRef::Pointer(owner), rtype, SPECIAL_TTL, &[data])
    };
    if !fits {
        writer.truncate();
    }
    if special == SpecialName::NxDomain { rcode::NXDOMAIN } else { rcode::NOERROR }
}
