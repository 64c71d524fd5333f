//! The client's side of the wire format: writes queries and parses responses, with names and data as text.
//!
//! For commands that query a server or the engine itself, and for the query log. Not here: sockets (`commands/ask.rs`).

use std::fmt;

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{RData, Record, RecordType};

use super::{HEADER, MAX_UDP, MAX_UDP_PLAIN, ede, rcode};
use crate::name::{QueryName, WireName};
use crate::rtype;

/// Code of the EDNS option for an Extended DNS Error (RFC 8914 section 2).
const EDE: u16 = 15;

/// Builds a query for `name` with an OPT record, and with RD set as stub resolvers do.
pub fn query(id: u16, name: &WireName, qtype: u16) -> Vec<u8> {
    let mut message = vec![0; HEADER];
    message[..2].copy_from_slice(&id.to_be_bytes());
    message[2] = 0x01;
    (message[5], message[11]) = (1, 1);
    message.extend_from_slice(name.octets());
    message.extend_from_slice(&qtype.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message.extend_from_slice(&[0, 0, rtype::OPT as u8]);
    message.extend_from_slice(&(MAX_UDP as u16).to_be_bytes());
    message.extend_from_slice(&[0; 6]);
    message
}

/// Response as a client reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedResponse {
    /// RCODE, including the upper bits in the OPT record (RFC 6891).
    pub rcode: u16,
    /// The response is truncated: the client has to repeat the query over TCP.
    pub truncated: bool,
    /// Records of the answer section.
    pub answer: Vec<AnswerRecord>,
    /// The authority section has an SOA record: the last name of the answer has no records of the QTYPE (RFC 2308
    /// section 2).
    pub negative: bool,
    /// TTL of a negative response, in seconds: that of its SOA record (RFC 2308 section 5).
    pub negative_ttl: Option<u32>,
    /// Extended DNS Errors: code and text.
    pub errors: Vec<(u16, String)>,
}

/// Record as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerRecord {
    /// Owner name, with the final dot.
    pub name: String,
    /// TTL in seconds.
    pub ttl: u32,
    /// RR type as a mnemonic: `A`.
    pub rtype: String,
    /// RDATA in presentation format (RFC 1035 section 5).
    pub data: String,
    /// Text of a TXT record: its character-strings joined.
    pub text: Option<String>,
}

impl fmt::Display for AnswerRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} IN {} {}", self.name, self.ttl, self.rtype, self.data)
    }
}

impl From<&Record> for AnswerRecord {
    fn from(record: &Record) -> Self {
        let text = |octets: &[Box<[u8]>]| String::from_utf8_lossy(&octets.concat()).into_owned();
        Self {
            name: record.name.to_string(),
            ttl: record.ttl,
            rtype: rtype::name(record.record_type().into()),
            data: record.data.to_string(),
            text: if let RData::TXT(txt) = &record.data { Some(text(&txt.txt_data)) } else { None },
        }
    }
}

impl ParsedResponse {
    /// Parses the response to the query of [`query`]; `None` for any other message.
    pub fn parse(message: &[u8], id: u16, name: &WireName, qtype: u16) -> Option<Self> {
        let parsed = Message::from_vec(message).ok()?;
        if parsed.metadata.message_type != MessageType::Response || parsed.metadata.id != id {
            return None;
        }
        // An error response can lack the question; a question must be that of the query.
        let mut echoed = QueryName::default();
        if message[5] == 1 {
            let end = HEADER + echoed.parse_wire(&message[HEADER..])?;
            if echoed.octets() != name.octets() || message.get(end..end + 2)? != qtype.to_be_bytes() {
                return None;
            }
        }
        let (rcode, errors) = rcode_and_errors(message);
        let is_soa = |record: &&Record| record.record_type() == RecordType::SOA;
        let negative_ttl = parsed.authorities.iter().find(is_soa).map(|soa| soa.ttl);
        Some(Self {
            rcode,
            truncated: parsed.metadata.truncation,
            answer: parsed.answers.iter().map(AnswerRecord::from).collect(),
            negative: negative_ttl.is_some(),
            negative_ttl,
            errors,
        })
    }

    /// Returns whether the response resolves the query: it has a record of type `qtype`, or a CNAME chain that leaves
    /// `zones`, the zones of the server.
    pub fn resolves<'z>(&self, qtype: u16, zones: impl IntoIterator<Item = &'z WireName>) -> bool {
        let Some(last) = self.answer.last().filter(|_| self.rcode == rcode::NOERROR) else { return false };
        qtype == rtype::ANY
            || last.rtype == rtype::name(qtype)
            || last.rtype == "CNAME" && !self.negative && leaves_zones(&last.data, zones)
    }
}

fn leaves_zones<'z>(target: &str, zones: impl IntoIterator<Item = &'z WireName>) -> bool {
    let Ok(name) = QueryName::parse(target) else { return true };
    zones.into_iter().all(|zone| name.apex_at(zone).is_none())
}

fn extended_error((code, option): &(EdnsCode, EdnsOption)) -> Option<(u16, String)> {
    match option {
        EdnsOption::Unknown(_, data) if u16::from(*code) == EDE => {
            let (info, text) = data.split_first_chunk::<2>()?;
            Some((u16::from_be_bytes(*info), String::from_utf8_lossy(text).into_owned()))
        }
        _ => None,
    }
}

/// Question and EDNS fields of a query as text; `-` for parts that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedQuery {
    /// QNAME, escaped to ASCII, in lower case.
    pub name: String,
    /// QTYPE as a mnemonic: `A`.
    pub qtype: String,
    /// QCLASS as a mnemonic: `IN`.
    pub qclass: String,
    /// DO bit of the query (RFC 3225).
    pub dnssec_ok: bool,
    /// Maximum length of a UDP response that the client accepts, in octets.
    pub size: u16,
}

impl ParsedQuery {
    /// Parses a query, or as much of it as is well-formed.
    pub fn parse(query: &[u8]) -> Self {
        let mut name = QueryName::default();
        let question = || {
            let end = HEADER + name.parse_wire(query.get(HEADER..)?)?;
            let &[t0, t1, c0, c1] = query.get(end..end + 4)? else { return None };
            Some((
                name.to_string(),
                rtype::name(u16::from_be_bytes([t0, t1])),
                class_name(u16::from_be_bytes([c0, c1])),
            ))
        };
        let unknown = || ("-".to_owned(), "-".to_owned(), "-".to_owned());
        let (name, qtype, qclass) = std::iter::once_with(question).flatten().next().unwrap_or_else(unknown);
        let edns = Message::from_vec(query).ok().and_then(|query| query.edns);
        let size = edns.as_ref().map_or(MAX_UDP_PLAIN as u16, hickory_proto::op::Edns::max_payload);
        Self { name, qtype, qclass, dnssec_ok: edns.is_some_and(|edns| edns.flags().dnssec_ok), size }
    }
}

/// Returns the RCODE and the Extended DNS Errors, each with code and text. If the response cannot be parsed, the RCODE
/// is that of the header.
pub fn rcode_and_errors(response: &[u8]) -> (u16, Vec<(u16, String)>) {
    let low = u16::from(response[3] & 0x0f);
    match Message::from_vec(response).ok().and_then(|response| response.edns) {
        Some(edns) => {
            let errors = edns.options().options.iter().filter_map(extended_error).collect();
            (u16::from(edns.rcode_high()) << 4 | low, errors)
        }
        None => (low, Vec::new()),
    }
}

/// Formats a class: its mnemonic, or `CLASS65280` (RFC 3597 section 5).
fn class_name(class: u16) -> String {
    let name = match class {
        1 => "IN",
        3 => "CH",
        4 => "HS",
        254 => "NONE",
        255 => "ANY",
        other => return format!("CLASS{other}"),
    };
    name.to_owned()
}

/// Formats a response code: its IANA name, or `RCODE` and the number.
pub fn rcode_name(code: u16) -> String {
    let name = match code {
        rcode::NOERROR => "NOERROR",
        rcode::FORMERR => "FORMERR",
        rcode::SERVFAIL => "SERVFAIL",
        rcode::NXDOMAIN => "NXDOMAIN",
        rcode::NOTIMP => "NOTIMP",
        rcode::REFUSED => "REFUSED",
        rcode::NOTAUTH => "NOTAUTH",
        rcode::BADVERS => "BADVERS",
        other => return format!("RCODE{other}"),
    };
    name.to_owned()
}

/// Returns the IANA name of an Extended DNS Error code (RFC 8914 section 5.2) that this server sends; `None` for any
/// other.
pub fn ede_name(code: u16) -> Option<&'static str> {
    match code {
        ede::STALE_ANSWER => Some("Stale Answer"),
        ede::NOT_READY => Some("Not Ready"),
        ede::PROHIBITED => Some("Prohibited"),
        ede::STALE_NXDOMAIN => Some("Stale NXDOMAIN Answer"),
        ede::NOT_AUTHORITATIVE => Some("Not Authoritative"),
        ede::NO_REACHABLE_AUTHORITY => Some("No Reachable Authority"),
        ede::NETWORK_ERROR => Some("Network Error"),
        _ => None,
    }
}
