//! Questions that somebody else has to answer: for whom, which of them never leave, and the writing of what comes back.
//!
//! A [`Pending`] response is all that is ours of one, up to where the answer of a resolver begins: the question alone
//! (`--forward`), or CNAMEs that lead out of the zones too (`--upstream`, N14). Nothing here asks: that is
//! `serve/forward/`. What is special about some names is `names/special.rs`.

use std::collections::HashMap;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Peer, Received, Transport};
use crate::metrics::{Answered, CountedZone};
use crate::names::special::{Special, SpecialNames};
use crate::names::{QueryName, WireName};
use crate::rtype;
use crate::wire::{self, MAX_TCP, NameRef, QUESTION, Query, Remarks, Section, Writer, ede, rcode};

/// How long what is said of special names may be kept, in seconds (RFC 6303 section 3).
const SPECIAL_TTL: u32 = 10_800;

/// What is left to a resolver.
#[derive(Clone, Debug)]
pub struct Outside {
    /// For whom names outside the zones are asked for; for nobody where this is empty.
    pub names_for: Vec<IpNet>,
    /// Whether CNAMEs that lead out of the zones are followed for everyone, and not for those alone.
    pub aliases: bool,
    /// The names that are not asked for.
    pub special: SpecialNames,
}

impl Outside {
    /// Whether names outside the zones are asked for, for this client.
    pub(super) fn serves(&self, peer: &Peer) -> bool {
        let client = peer.from.ip().to_canonical();
        self.names_for.iter().any(|network| network.contains(&client))
    }

    /// What is answered without asking: what there is, and where in the question its tree begins.
    pub(super) fn special(&self, name: &QueryName) -> Option<(Special, usize)> {
        let (special, at) = self.special.find(name)?;
        Some((special, name.offset(at)))
    }
}

/// A response that waits for what a resolver says.
#[derive(Debug)]
pub struct Pending {
    /// Who waits for it.
    pub peer: Peer,
    /// How it goes back.
    pub transport: Transport,
    /// What the resolver is asked for.
    pub name: WireName,
    query: Query,
    /// Header, question, and what stands in the answer section already.
    begun: Box<[u8]>,
    own: Own,
    /// The length of the query, in octets.
    length: usize,
    marks: Marks,
}

/// What is known beforehand of a pending response.
#[derive(Debug)]
pub(super) struct Marks {
    /// Whether names outside the zones are asked for, for this client.
    pub(super) served: bool,
    /// Which server it is.
    pub(super) nsid: Arc<[u8]>,
    /// What it counts for.
    pub(super) zone: CountedZone,
}

/// What is ours of a pending response.
#[derive(Debug)]
pub(super) enum Own {
    /// The question is not about our zones.
    Nothing,
    /// So many CNAMEs, and what there is to say about them.
    Alias { answers: u16, note: Option<(u16, String)> },
}

/// What a resolver said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// NOERROR, or NXDOMAIN.
    pub rcode: u16,
    /// The answer section: from the name asked for, CNAMEs first.
    pub answer: Vec<ForeignRecord>,
    /// The authority section: the SOA of a negative answer.
    pub authority: Vec<ForeignRecord>,
}

/// A record of somebody else's, of class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRecord {
    /// The owner name.
    pub owner: WireName,
    /// Its type.
    pub rtype: u16,
    /// In seconds.
    pub ttl: u32,
    /// Its data, with no name in it compressed, at most 65,535 octets.
    pub data: Box<[u8]>,
}

impl ForeignRecord {
    /// The name that a CNAME leads to.
    pub fn target(&self) -> Option<WireName> {
        let mut name = QueryName::default();
        name.read(&self.data).filter(|_| self.rtype == rtype::CNAME)?;
        Some(name.to_wire())
    }
}

/// Why a resolver said nothing (RFC 8914 sections 4.22 and 4.23).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No upstream answers, or none has an answer.
    Unreachable(String),
    /// An upstream cannot be talked to.
    Network(String),
}

impl Failure {
    /// What happened, for people.
    pub fn text(&self) -> &str {
        let (Self::Unreachable(text) | Self::Network(text)) = self;
        text
    }
}

impl Pending {
    pub(super) fn new(
        received: Received<'_>,
        query: Query,
        (name, begun): (WireName, &[u8]),
        own: Own,
        marks: Marks,
    ) -> Box<Self> {
        let Received { peer, transport, length, .. } = received;
        let peer = *peer;
        Box::new(Self { peer, transport, name, query, begun: begun.into(), own, length, marks })
    }

    /// What is counted of the response.
    pub fn answered(&self, length: usize, rcode: u16) -> Answered {
        let dnssec_ok = self.query.edns.is_some_and(|edns| edns.dnssec_ok);
        let (zone, qtype) = (self.marks.zone, self.query.qtype);
        Answered { zone, qtype, dnssec_ok, rcode, query: self.length, response: length }
    }

    /// Whether a CNAME of ours leads to the name.
    pub fn is_alias(&self) -> bool {
        matches!(self.own, Own::Alias { .. })
    }

    /// The type that the resolver is asked for.
    pub fn qtype(&self) -> u16 {
        self.query.qtype
    }

    /// Writes the response with what was said at the start of `message`, which is as long as [`super::Responder::respond`]
    /// wants it; returns its length and rcode.
    pub fn write(&self, said: &Said, message: &mut [u8]) -> (usize, u16) {
        let mut writer = self.resume(message);
        let mut owners = HashMap::new();
        if let Own::Nothing = self.own {
            owners.insert(&self.name, QUESTION);
        }
        let sections = [(Section::Answer, &said.answer), (Section::Authority, &said.authority)];
        let whole = sections.into_iter().all(|(section, records)| {
            writer.begin(section);
            records.iter().all(|record| put(&mut writer, &mut owners, record))
        });
        if !whole {
            writer.truncate();
        }
        (self.finish(writer, said.rcode, None), said.rcode)
    }

    /// Writes the response where nothing was said: SERVFAIL, with what is ours of it and the reason.
    pub fn fail(&self, failure: &Failure, message: &mut [u8]) -> (usize, u16) {
        let code = match failure {
            Failure::Unreachable(_) => ede::NO_REACHABLE_AUTHORITY,
            Failure::Network(_) => ede::NETWORK_ERROR,
        };
        let reason = (code, failure.text());
        (self.finish(self.resume(message), rcode::SERVFAIL, Some(reason)), rcode::SERVFAIL)
    }

    fn resume<'m>(&self, message: &'m mut [u8]) -> Writer<'m> {
        let limit = if self.transport.is_datagram() { wire::udp_limit(self.query.edns) } else { MAX_TCP };
        message[..self.begun.len()].copy_from_slice(&self.begun);
        let answers = if let Own::Alias { answers, .. } = self.own { answers } else { 0 };
        Writer::resume(message, self.begun.len(), answers, limit, self.query.edns.is_some())
    }

    /// RFC 1035 section 4.1.1: AA is about the first name of the answer, RA about what the client may ask for.
    fn finish(&self, writer: Writer<'_>, rcode: u16, error: Option<(u16, &str)>) -> usize {
        let note = match &self.own {
            Own::Alias { note: Some((code, text)), .. } => Some((*code, text.as_str())),
            Own::Alias { .. } | Own::Nothing => None,
        };
        let (authoritative, edns) = (self.is_alias(), self.query.edns);
        let remarks = Remarks { nsid: &self.marks.nsid, error: error.or(note) };
        writer.recursion_available(self.marks.served).finish(rcode, authoritative, edns, remarks)
    }
}

/// Whether the record fits. Owner names point to where they stand already (RFC 1035 section 4.1.4).
fn put<'r>(writer: &mut Writer<'_>, owners: &mut HashMap<&'r WireName, u16>, record: &'r ForeignRecord) -> bool {
    let at = writer.position();
    let known = owners.get(&record.owner).map(|pointer| NameRef::Pointer(*pointer));
    let fits = writer.record(known.unwrap_or(NameRef::Whole(&record.owner)), record.rtype, record.ttl, &[&record.data]);
    if fits
        && known.is_none()
        && let Some(pointer) = wire::pointer(at)
    {
        owners.insert(&record.owner, pointer);
    }
    fits
}

/// Answers a question for a special name, whose tree begins `apex` octets behind the start of the name.
pub(super) fn write_special(
    (special, apex): (Special, usize),
    message: &mut [u8],
    query: Query,
    (limit, remarks): (usize, Remarks<'_>),
) -> (usize, u16) {
    let mut writer = Writer::new(message, query.question_end, limit, query.edns.is_some());
    let data: &[u8] = match (special, query.qtype) {
        (Special::Localhost, rtype::A | rtype::ANY) => &[127, 0, 0, 1],
        (Special::Localhost, rtype::AAAA) => &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        (Special::LocalhostReverse, rtype::PTR | rtype::ANY) => b"\x09localhost\x00",
        _ => &[],
    };
    if data.is_empty() {
        writer.begin(Section::Authority);
        // RFC 6303 section 3: the server's name is the zone's own, and nobody is there to be written to.
        let pointer = wire::pointer(wire::HEADER + apex).unwrap_or(QUESTION);
        let numbers = [1, 3600, 1200, 604_800, SPECIAL_TTL].map(u32::to_be_bytes).concat();
        let data: [&[u8]; 3] = [&pointer.to_be_bytes(), b"\x06nobody\x07invalid\x00", &numbers];
        writer.record(NameRef::Pointer(pointer), rtype::SOA, SPECIAL_TTL, &data);
    } else {
        let rtype = match special {
            Special::LocalhostReverse => rtype::PTR,
            _ if data.len() == 4 => rtype::A,
            _ => rtype::AAAA,
        };
        writer.record(NameRef::Pointer(QUESTION), rtype, SPECIAL_TTL, &[data]);
    }
    let rcode = if special == Special::Nothing { rcode::NXDOMAIN } else { rcode::NOERROR };
    (writer.recursion_available(true).finish(rcode, false, query.edns, remarks), rcode)
}
