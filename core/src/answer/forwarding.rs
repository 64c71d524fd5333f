//! Forwarding: which clients may use upstreams, and how a response with an upstream's records is completed.
//!
//! A [`ForwardedQuery`] holds the message so far: the question alone (`--forward`), or also CNAMEs that lead out of the
//! zones (`--external-name-upstream`, row N14 of `tests/rows.md`). [`Responder::resume`] follows the rest of the CNAME
//! chain. Each name of the chain has one source: the zones of this server, else the special names (RFC 6761), else an
//! upstream (RFC 1034 section 4.3.2 step 3a, RFC 2181 section 5.4.1). So an upstream cannot supply records for a name of
//! the zones, whatever its response contains. Not here: the loop along the chain (`chain.rs`), the choice of records from
//! an upstream's response (`upstream_response.rs`), and queries to upstreams (`server/forward/`).

use std::sync::Arc;

use ipnet::IpNet;

use super::access::Peer;
use super::chain::{ChainWalk, CnameChain, NameOutcome};
use super::response::Response;
use super::upstream_response::{UpstreamRecord, UpstreamResponse};
use super::{CauseReport, RequestContext, Responder, ResponseSummary, Transport, ZoneLabel, stale};
use crate::name::special::{SpecialName, SpecialNames};
use crate::name::{MAX_FORWARDED_CHAIN, QueryName, WireName};
use crate::rtype;
use crate::wire::{self, NameRef, Query, ResponseOptions, Section, Writer, ede, rcode};
use crate::zone::SnapshotCache;

/// TTL of records and of negative responses for special names, in seconds (RFC 6303 section 3).
const SPECIAL_TTL: u32 = 10_800;

/// Forwarding policy: the policy for names outside the zones.
#[derive(Clone, Debug)]
pub struct ForwardPolicy {
    /// Networks of the clients that may use forwarding. If empty, no query is forwarded.
    pub allowed_clients: Vec<IpNet>,
    /// True if CNAMEs that lead out of the zones are followed for every client, not only for those in `allowed_clients`.
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
    context: ResponseContext,
}

/// Properties of a forwarded query that no later step changes.
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
    /// Length of the query, in octets.
    pub(super) query_length: usize,
}

/// Next step of a forwarded query.
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
    /// Creates a forwarded query from `writer`, which has written the records up to the last name of `chain`.
    pub(super) fn new(
        request: &RequestContext<'_>,
        writer: Writer<'_>,
        chain: CnameChain,
        context: ResponseContext,
    ) -> Box<Self> {
        let (end, answers) = writer.checkpoint();
        Box::new(Self {
            peer: *request.peer,
            transport: request.request.transport,
            query: *request.question.query,
            begun: writer.into_message()[..end].into(),
            answers,
            is_alias: chain.has_cname(),
            chain: chain.forwarded(),
            note: None,
            context,
        })
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
        let options = ResponseOptions { nsid: &self.context.nsid, error: error.or(note) };
        let writer = writer.recursion_available(self.context.served);
        let truncated = writer.is_truncated();
        ResponseSummary {
            length: writer.finish(rcode, self.context.authoritative, self.query.edns, options),
            query_length: self.context.query_length,
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
    /// Continues a forwarded query at the start of `message`: writes the records of each further name of the chain, from
    /// the zones, the special names, or `answer`, an upstream's answer for [`ForwardedQuery::name`], until the response is
    /// complete or needs another answer. The first call passes no answer.
    ///
    /// `message` is at least 1,232 octets long for UDP, 65,535 otherwise.
    pub fn resume(&self, query: &mut ForwardedQuery, answer: Option<&UpstreamResponse>, message: &mut [u8]) -> Resumed {
        // Load once, so that these records describe one state of the data.
        let state = self.status.data_state();
        let mut response = Response {
            writer: query.writer(message),
            ttl: self.zone.ttl(),
            rotation: query.query.id,
            zone: query.context.zone,
        };
        let mut snapshot_cache = SnapshotCache::default();
        let upstream = answer.map(|answer| (answer, answer.cnames.iter()));
        let mut walk =
            ChainWalk::new(&mut query.chain, query.query.qtype, state, &mut snapshot_cache).forwarded(upstream);
        let first = self.write_next(&mut walk, &mut response);
        let outcome = self.follow_chain(&mut walk, first, &mut response);
        let (is_in_zone, has_zone_name) = (walk.is_in_zone, walk.has_zone_name);
        if has_zone_name && state.is_old() {
            query.note = Some((ede::STALE_ANSWER, self.status.sentence().to_string()));
        }
        match outcome {
            NameOutcome::Done(rcode) | NameOutcome::Negative(rcode, _) => {
                if is_in_zone {
                    query.note = query.note.take().map(|(_, text)| (stale(rcode), text));
                }
                query.complete(response.writer, rcode, None)
            }
            // Caches would keep a negative response, and it would have no SOA.
            NameOutcome::Cname(..) | NameOutcome::EndlessChain => {
                let text = format!("the chain of CNAMEs is a loop, or longer than {MAX_FORWARDED_CHAIN}");
                query.complete(response.writer, rcode::SERVFAIL, Some((ede::OTHER, &text)))
            }
            // Only QNAME can be a `_why` question, and it is not forwarded.
            NameOutcome::NotReady | NameOutcome::WhyQuery(..) => {
                query.complete(response.writer, rcode::SERVFAIL, Some((ede::NOT_READY, &self.not_synced)))
            }
            NameOutcome::NotInZone => {
                query.is_alias |= has_zone_name;
                let (end, answers) = response.writer.checkpoint();
                (query.begun, query.answers) = (response.writer.into_message()[..end].into(), answers);
                Resumed::QueryNext
            }
        }
    }

    /// Writes the records of a name outside the zones: those of a special name, or the next ones of the upstream. Returns
    /// `NotInZone` if the upstream's response does not have them.
    pub(super) fn write_from_outside(
        &self,
        walk: &mut ChainWalk<'_>,
        name: &mut QueryName,
        response: &mut Response<'_>,
    ) -> NameOutcome {
        let (writer, owner) = (&mut response.writer, walk.chain.owner);
        if let Some(special) = self.forward_policy.as_ref().and_then(|policy| policy.special(name)) {
            let rcode = write_special(writer, owner, special, walk.qtype);
            return NameOutcome::Done(self.forwarded_rcode(name, rcode));
        }
        let Some((answer, cnames)) = &mut walk.upstream else { return NameOutcome::NotInZone };
        if let Some(cname) = cnames.next() {
            let pointer = wire::pointer(writer.position() + 12);
            let (Some(pointer), true) = (pointer, push_record(writer, owner, cname)) else {
                writer.truncate();
                return NameOutcome::Done(rcode::NOERROR);
            };
            return cname.target().map_or(NameOutcome::EndlessChain, |target| NameOutcome::Cname(target, pointer));
        }
        if answer.rrset.is_empty() && !answer.is_denial() {
            return NameOutcome::NotInZone;
        }
        let (answer, rcode) = (*answer, self.forwarded_rcode(name, answer.end_rcode()));
        let soa = answer.soa.as_ref().filter(|soa| {
            // With `--namespace`, an upstream may be a server of the whole zone: its SOA would deny names of this
            // server's part of it.
            name.set(&soa.owner);
            !self.is_in_zones(walk, name)
        });
        write_end(writer, owner, &answer.rrset, soa);
        NameOutcome::Done(rcode)
    }

    /// Returns the RCODE for a name outside the zones: NOERROR instead of NXDOMAIN if a zone of this server is below the
    /// name. From NXDOMAIN, a resolver could conclude that the zone does not exist (RFC 8020).
    pub(super) fn forwarded_rcode(&self, name: &QueryName, rcode: u16) -> u16 {
        if rcode == rcode::NXDOMAIN && self.zone.has_zone_below(name) { rcode::NOERROR } else { rcode }
    }
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
