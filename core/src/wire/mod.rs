//! Wire format of queries and responses (RFC 1035 section 4, RFC 6891): header check, query parser, response writer.
//!
//! [`check_header`] and [`parse`] decide whether a message is dropped, gets an error, or is answered; `tests/it/gate.rs` has
//! the cases. The fast parser handles nearly every query; hickory-proto parses the rest (an IXFR with its SOA, a
//! signature) into a [`Query`] too. [`Writer`] builds the response behind the question, in the buffer that the query
//! came in. Rule ids (A3) are those of `tests/rows.md`.
//!
//! Not here: zones, and the decision about the response (`answer`). Next: [`client`] writes queries and parses
//! responses.

pub mod client;

use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsCode;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use crate::name::{QueryName, WireName};
use crate::rtype;

/// Length of a header, in octets (RFC 1035 section 4.1.1).
pub const HEADER: usize = 12;
/// Maximum length of a UDP response, in octets (RFC 9715 section 3.1: avoids fragmentation).
pub const MAX_UDP: usize = 1232;
/// Maximum length of a UDP response without EDNS, in octets (RFC 1035 section 2.3.4).
pub const MAX_UDP_PLAIN: usize = 512;
/// Maximum length of a message over TCP, in octets (RFC 1035 section 4.2.2).
pub const MAX_TCP: usize = 65_535;

/// Response codes, by their IANA numbers; those above 15 need an OPT record.
pub mod rcode {
    #![allow(missing_docs)] // the names are the documentation
    pub const NOERROR: u16 = 0;
    pub const FORMERR: u16 = 1;
    pub const SERVFAIL: u16 = 2;
    pub const NXDOMAIN: u16 = 3;
    pub const NOTIMP: u16 = 4;
    pub const REFUSED: u16 = 5;
    pub const NOTAUTH: u16 = 9;
    pub const BADVERS: u16 = 16;
}

const CLASS_IN: u16 = 1;
/// Compression pointer to the QNAME, directly behind the header (RFC 1035 section 4.1.4).
pub const QNAME_POINTER: u16 = 0xc000 | HEADER as u16;
const OPT_LENGTH: usize = 11;
/// Maximum number of octets of an unparsed message that are searched for an OPT record.
const MAX_OPT_SEARCH_BYTES: usize = 16 << 10;
/// EDNS option codes (RFC 5001 section 2.3, RFC 7830 section 3, RFC 8914 section 2).
const NSID: u16 = 3;
const PADDING: u16 = 12;
const EXTENDED_ERROR: u16 = 15;
/// Code of the EDNS option edns-tcp-keepalive (RFC 7828 section 3.1). It is ignored, except over QUIC, which forbids
/// it.
pub const TCP_KEEPALIVE: u16 = 11;
/// Block length in octets of a padded response (RFC 8467 section 4.1).
pub const PADDING_BLOCK: usize = 468;

/// Query that passed all checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Message ID, which the response copies.
    pub id: u16,
    /// QTYPE of the question.
    pub qtype: u16,
    /// End of the question, in octets from the start of the message.
    pub question_end: usize,
    /// OPT record of the query.
    pub edns: Option<Edns>,
}

/// Fields of an OPT record in use (RFC 6891 section 6.1). Other options and unknown flags are ignored, and not echoed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The requestor's UDP payload size, in octets.
    pub size: u16,
    /// DNSSEC OK, which the response copies (RFC 3225 section 3).
    pub dnssec_ok: bool,
    /// The query has an NSID option (RFC 5001 section 2.1: its data is ignored).
    pub asks_nsid: bool,
    /// The query was padded, so the response has to be (RFC 7830 section 4).
    pub padded: bool,
    version: u8,
}

/// Error response, with the parts of the query that it echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    /// RCODE of the response.
    pub rcode: u16,
    /// End of the question; the header's length if the question is not echoed.
    pub question_end: usize,
    /// OPT record to respond to.
    pub edns: Option<Edns>,
}

impl ErrorResponse {
    /// Creates an error response with the header alone, and an OPT record if `edns` has one.
    pub fn header_only(rcode: u16, edns: Option<Edns>) -> Self {
        Self { rcode, question_end: HEADER, edns }
    }
}

/// Reasons to drop a message without a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The message is shorter than a header.
    Short,
    /// The message is a response. A response to it could start a loop between two servers.
    Response,
    /// The source address cannot be that of a client.
    Source,
    /// The client is not allowed, and the server is configured to drop its queries.
    NotAllowed,
}

/// Checks that a message is a query.
///
/// # Errors
///
/// The reason to drop the message.
#[inline]
pub fn check_header(message: &[u8]) -> Result<(), DropReason> {
    match message {
        [_, _, flags, ..] if message.len() >= HEADER => {
            if flags & 0x80 == 0 {
                Ok(())
            } else {
                Err(DropReason::Response)
            }
        }
        _ => Err(DropReason::Short),
    }
}

/// Parses a message that passed [`check_header`] (opcode, sections, question, EDNS version, class).
///
/// `name` contains the QNAME if the result is `Ok`, and is undefined otherwise. Padding counts only in a message that
/// came `encrypted` (RFC 7830 section 6).
///
/// # Errors
///
/// The error response to the message.
///
/// # Examples
///
/// ```
/// use headless_dns_core::name::{QueryName, WireName};
/// use headless_dns_core::{rtype, wire};
///
/// let message = wire::client::query(7, &WireName::parse("web.default.svc.cluster.local")?, rtype::A);
/// assert_eq!(wire::check_header(&message), Ok(()));
///
/// let mut name = QueryName::default();
/// let query = wire::parse(&message, &mut name, false).expect("the query is well-formed");
/// assert_eq!((query.id, query.qtype), (7, rtype::A));
/// assert_eq!(name.to_string(), "web.default.svc.cluster.local.");
/// # Ok::<(), String>(())
/// ```
#[inline]
pub fn parse(message: &[u8], name: &mut QueryName, encrypted: bool) -> Result<Query, ErrorResponse> {
    let formerr = || error_for_unparsed(message, rcode::FORMERR, encrypted);
    let (header, body) = message.split_first_chunk::<HEADER>().ok_or_else(formerr)?;
    // Opcode.
    if header[2] & 0x78 != 0 {
        return Err(error_for_unparsed(message, rcode::NOTIMP, encrypted));
    }
    // Section counts. They are compared only: nothing is allocated from them.
    let [questions, answers, authorities, additionals] = section_counts(header);
    if questions != 1 || answers != 0 || authorities > 1 || additionals > 2 {
        return Err(formerr());
    }
    // Question.
    let name_length = name.parse_wire(body).ok_or_else(formerr)?;
    let question_end = HEADER + name_length + 4;
    let (&[qtype_high, qtype_low, class_high, class_low], behind) =
        body[name_length..].split_first_chunk().ok_or_else(formerr)?;
    let qtype = u16::from_be_bytes([qtype_high, qtype_low]);
    if qtype == rtype::OPT || authorities == 1 && qtype != rtype::IXFR {
        return Err(formerr());
    }
    // Other sections.
    let edns = match (authorities, additionals) {
        (0, 0) if behind.is_empty() => None,
        (0, 0) => return Err(formerr()),
        (0, 1) => match parse_opt(behind, encrypted) {
            Some(edns) => Some(edns),
            None => parse_unusual(message, question_end, false, encrypted)?,
        },
        _ => parse_unusual(message, question_end, authorities > 0, encrypted)?,
    };
    // EDNS version and class.
    if edns.is_some_and(|edns| edns.version > 0) {
        return Err(ErrorResponse { rcode: rcode::BADVERS, question_end, edns });
    }
    if u16::from_be_bytes([class_high, class_low]) != CLASS_IN {
        return Err(ErrorResponse { rcode: rcode::REFUSED, question_end, edns });
    }
    Ok(Query { id: u16::from_be_bytes([header[0], header[1]]), qtype, question_end, edns })
}

/// Returns QDCOUNT, ANCOUNT, NSCOUNT and ARCOUNT.
#[inline]
fn section_counts(header: &[u8; HEADER]) -> [u16; 4] {
    [4, 6, 8, 10].map(|at| u16::from_be_bytes([header[at], header[at + 1]]))
}

/// Returns the error response to a message that was not parsed: the header, and an OPT record if the message has a
/// valid one (RFC 6891 section 6.1.1).
#[cold]
fn error_for_unparsed(message: &[u8], rcode: u16, encrypted: bool) -> ErrorResponse {
    ErrorResponse::header_only(rcode, find_opt(message, encrypted))
}

/// Returns the OPT record of a message of any opcode, if the message has exactly one, it is valid, and the records
/// before it can be skipped.
fn find_opt(message: &[u8], encrypted: bool) -> Option<Edns> {
    let message = &message[..message.len().min(MAX_OPT_SEARCH_BYTES)];
    let [questions, answers, authorities, additionals] = section_counts(message.first_chunk()?);
    let mut at = HEADER;
    for _ in 0..questions {
        at = skip_name(message, at)? + 4;
    }
    for _ in 0..u32::from(answers) + u32::from(authorities) {
        at = skip_record(message, at)?;
    }
    let mut found = None;
    for _ in 0..additionals {
        let Some(end) = skip_record(message, at) else { break };
        let record = &message[at..end];
        at = end;
        if !is_opt(record) {
            continue;
        }
        if found.is_some() {
            return None;
        }
        found = Some(parse_opt(record, encrypted));
    }
    found.flatten()
}

/// Returns the end of the name at `at`, compressed or not.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            // RFC 1035 section 4.1.4: a pointer ends a name.
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

/// Returns the end of the record at `at`, if the record is complete.
fn skip_record(message: &[u8], at: usize) -> Option<usize> {
    let owner_end = skip_name(message, at)?;
    let length = message.get(owner_end + 8..owner_end + 10)?;
    let end = owner_end + 10 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    (end <= message.len()).then_some(end)
}

/// Returns whether a record is an OPT record, which has the root as its owner.
#[inline]
fn is_opt(record: &[u8]) -> bool {
    record.starts_with(&[0, 0, rtype::OPT as u8])
}

/// Parses an OPT record that takes all of `record` (RFC 6891 section 6.1.2).
#[inline]
fn parse_opt(record: &[u8], encrypted: bool) -> Option<Edns> {
    let (&[_, _, _, size_high, size_low, _rcode, version, flags, ..], mut options) = split_opt(record)?;
    let (mut asks_nsid, mut padded) = (false, false);
    while !options.is_empty() {
        let (code, rest) = split_option(options)?;
        asks_nsid |= code == NSID;
        padded |= code == PADDING && encrypted;
        options = rest;
    }
    let size = u16::from_be_bytes([size_high, size_low]);
    Some(Edns { size, dnssec_ok: flags & 0x80 != 0, asks_nsid, padded, version })
}

/// Splits an OPT record into its fixed part and its options.
#[inline]
fn split_opt(record: &[u8]) -> Option<(&[u8; OPT_LENGTH], &[u8])> {
    let (fixed, options) = record.split_first_chunk::<OPT_LENGTH>()?;
    let length = u16::from_be_bytes([fixed[9], fixed[10]]);
    (is_opt(fixed) && options.len() == usize::from(length)).then_some((fixed, options))
}

/// Returns the code of the first option, and the options behind it.
#[inline]
fn split_option(options: &[u8]) -> Option<(u16, &[u8])> {
    let (&[code_high, code_low, length_high, length_low], rest) = options.split_first_chunk()?;
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    Some((u16::from_be_bytes([code_high, code_low]), rest.get(length..)?))
}

/// Returns whether the query in `message` has an EDNS option with this code.
pub fn has_option(message: &[u8], code: u16) -> bool {
    let body = message.get(HEADER..).unwrap_or_default();
    let behind = QueryName::default().parse_wire(body).and_then(|length| body.get(length + 4..)).unwrap_or_default();
    if let Some((_, mut options)) = split_opt(behind) {
        while let Some((found, rest)) = split_option(options) {
            if found == code {
                return true;
            }
            options = rest;
        }
        return false;
    }
    !behind.is_empty()
        && Message::from_vec(message)
            .ok()
            .and_then(|parsed| parsed.edns)
            .is_some_and(|edns| edns.option(code.into()).is_some())
}

/// Parses the sections behind the question of a message in which they are not a single OPT record.
#[cold]
fn parse_unusual(
    message: &[u8],
    question_end: usize,
    authority: bool,
    encrypted: bool,
) -> Result<Option<Edns>, ErrorResponse> {
    let formerr = || error_for_unparsed(message, rcode::FORMERR, encrypted);
    let mut decoder = BinDecoder::new(message);
    let parsed = Message::read(&mut decoder).map_err(|_| formerr())?;
    let edns = parsed.edns.as_ref().map(|edns| Edns {
        size: edns.max_payload(),
        dnssec_ok: edns.flags().dnssec_ok,
        asks_nsid: edns.option(EdnsCode::NSID).is_some(),
        padded: encrypted && edns.option(EdnsCode::Padding).is_some(),
        version: edns.version(),
    });
    let opt_first = is_opt(&message[question_end..]);
    match &parsed.additionals[..] {
        _ if !decoder.is_empty() => return Err(formerr()),
        [] => {}
        // RFC 8945 section 5.2: a signature is the last record; section 5.2.1: this server knows no key.
        [last] if last.record_type() == RecordType::TSIG && (edns.is_none() || opt_first || authority) => {
            return Err(ErrorResponse { rcode: rcode::NOTAUTH, question_end, edns });
        }
        _ => return Err(formerr()),
    }
    Ok(edns)
}

/// Returns the maximum length of a response over UDP, in octets (A3).
#[inline]
pub fn udp_limit(edns: Option<Edns>) -> usize {
    edns.map_or(MAX_UDP_PLAIN, |edns| usize::from(edns.size).clamp(MAX_UDP_PLAIN, MAX_UDP))
}

/// Extended DNS Error codes (RFC 8914 section 5.2).
pub mod ede {
    #![allow(missing_docs)] // the names are the documentation
    pub const OTHER: u16 = 0;
    pub const STALE_ANSWER: u16 = 3;
    pub const NOT_READY: u16 = 14;
    pub const PROHIBITED: u16 = 18;
    pub const STALE_NXDOMAIN: u16 = 19;
    pub const NOT_AUTHORITATIVE: u16 = 20;
    pub const NO_REACHABLE_AUTHORITY: u16 = 22;
    pub const NETWORK_ERROR: u16 = 23;
}

/// EDNS options of a response. They are left out if there is no room, before any record is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseOptions<'t> {
    /// NSID of this server, for queries that ask for it (A11, RFC 5001); empty if it has none.
    pub nsid: &'t [u8],
    /// Extended DNS Error: code and text (RFC 8914).
    pub error: Option<(u16, &'t str)>,
}

/// Writer of one response over the query in `message`, section by section.
///
/// A record is written completely or not at all: every method that can run out of room returns whether the record fit.
pub struct Writer<'m> {
    message: &'m mut [u8],
    at: usize,
    limit: usize,
    section: usize,
    counts: [u16; 3],
    truncated: bool,
    recursion: bool,
}

/// Sections behind the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Answer section: the records of the QNAME and of a CNAME chain.
    Answer,
    /// Authority section: the SOA record of a negative response.
    Authority,
    /// Additional section: addresses of SRV targets and of the name server, and OPT.
    Additional,
}

impl<'m> Writer<'m> {
    /// Starts behind the question. `limit` is the maximum length of the response in octets; with `edns`, room for an
    /// OPT record is reserved.
    #[inline]
    pub fn new(message: &'m mut [u8], question_end: usize, limit: usize, edns: bool) -> Self {
        let limit = limit.min(message.len()) - if edns { OPT_LENGTH } else { 0 };
        Self { message, at: question_end, limit, section: 0, counts: [0; 3], truncated: false, recursion: false }
    }

    /// Continues a response with `answers` records in its answer section, which ends at `at`.
    pub fn resume(message: &'m mut [u8], at: usize, answers: u16, limit: usize, edns: bool) -> Self {
        let mut writer = Self::new(message, at, limit, edns);
        writer.counts[Section::Answer as usize] = answers;
        writer
    }

    /// Returns the arguments for [`Self::resume`]: the position of the next record, and the number of records in the
    /// answer section.
    pub fn checkpoint(&self) -> (usize, u16) {
        (self.at, self.counts[Section::Answer as usize])
    }

    /// Returns the buffer as it is: the header is not written yet.
    pub fn into_message(self) -> &'m mut [u8] {
        self.message
    }

    /// Returns whether the query has RD set.
    pub fn is_recursion_desired(&self) -> bool {
        is_recursion_desired(self.message)
    }

    /// Begins a later section.
    pub fn begin(&mut self, section: Section) {
        self.section = section as usize;
    }

    /// Sets RA of the response (RFC 1035 section 4.1.1).
    pub fn recursion_available(self, available: bool) -> Self {
        Self { recursion: available, ..self }
    }

    /// Returns the position of the next record, in octets from the start of the message.
    pub fn position(&self) -> usize {
        self.at
    }

    /// Returns the number of octets that still fit.
    pub fn remaining(&self) -> usize {
        self.limit - self.at
    }

    /// Returns the start and the end of the RDATA of the record at `position`, which has a compression pointer as its owner.
    pub fn rdata_range(&self, position: usize) -> (usize, usize) {
        let data = position + 12;
        (data, data + usize::from(u16::from_be_bytes([self.message[data - 2], self.message[data - 1]])))
    }

    /// Marks the response as truncated (RFC 2181 section 9).
    pub fn truncate(&mut self) {
        self.truncated = true;
    }

    /// Returns whether the response is truncated.
    pub fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Writes `count` A or AAAA records. The caller checked [`Self::remaining`] for 12 octets and an address each.
    #[inline]
    pub fn addresses<const N: usize>(
        &mut self,
        owner: u16,
        rtype: u16,
        ttl: u32,
        count: usize,
        addresses: impl Iterator<Item = [u8; N]>,
    ) {
        let mut before = [0; 12];
        before[..2].copy_from_slice(&owner.to_be_bytes());
        before[2..].copy_from_slice(&record_header(rtype, ttl, N));
        let end = self.at + count * (12 + N);
        for (record, address) in self.message[self.at..end].chunks_exact_mut(12 + N).zip(addresses) {
            record[..12].copy_from_slice(&before);
            record[12..].copy_from_slice(&address);
        }
        self.at = end;
        self.counts[self.section] += count as u16;
    }

    /// Writes one record with RDATA of a constant length: compiles to fewer instructions than [`Self::record`].
    #[inline]
    pub fn record_fixed<const N: usize>(&mut self, owner: u16, rtype: u16, ttl: u32, data: [u8; N]) -> bool {
        if 12 + N > self.remaining() {
            return false;
        }
        self.push(owner.to_be_bytes());
        self.push(record_header(rtype, ttl, N));
        self.push(data);
        self.counts[self.section] += 1;
        true
    }

    /// Writes one record with the parts of `data` as its RDATA.
    #[inline]
    pub fn record<const N: usize>(&mut self, owner: NameRef<'_>, rtype: u16, ttl: u32, data: &[&[u8]; N]) -> bool {
        let length: usize = data.iter().map(|part| part.len()).sum();
        let owner_length = match owner {
            NameRef::Pointer(_) => 2,
            NameRef::Uncompressed(name) => name.octets().len(),
        };
        if owner_length + 10 + length > self.remaining() {
            return false;
        }
        match owner {
            NameRef::Pointer(pointer) => self.push(pointer.to_be_bytes()),
            NameRef::Uncompressed(name) => self.extend(name.octets()),
        }
        self.push(record_header(rtype, ttl, length));
        for part in data {
            self.extend(part);
        }
        self.counts[self.section] += 1;
        true
    }

    /// Writes the OPT record if the query had one (A3), with the options that fit, then the header. Returns the length
    /// of the message.
    #[inline]
    pub fn finish(
        mut self,
        rcode: u16,
        authoritative: bool,
        edns: Option<Edns>,
        options: ResponseOptions<'_>,
    ) -> usize {
        if let Some(edns) = edns {
            self.limit += OPT_LENGTH;
            let length_at = self.at + OPT_LENGTH - 2;
            let [size_high, size_low] = (MAX_UDP as u16).to_be_bytes();
            let flags = u8::from(edns.dnssec_ok) << 7;
            self.push([0, 0, rtype::OPT as u8, size_high, size_low, (rcode >> 4) as u8, 0, flags, 0, 0, 0]);
            if edns.asks_nsid || edns.padded || options.error.is_some() {
                self.push_options(edns, options, length_at);
            }
            self.counts[Section::Additional as usize] += 1;
        }
        // QR set; opcode and RD of the query; AA, TC, RA; Z, AD, CD clear.
        let header = &mut self.message[..HEADER];
        header[2] = 0x80 | header[2] & 0x79 | u8::from(authoritative) << 2 | u8::from(self.truncated) << 1;
        header[3] = u8::from(self.recursion) << 7 | (rcode & 0x0f) as u8;
        for (place, count) in header[6..].chunks_exact_mut(2).zip(self.counts) {
            place.copy_from_slice(&count.to_be_bytes());
        }
        self.at
    }

    #[cold]
    fn push_options(&mut self, edns: Edns, options: ResponseOptions<'_>, length_at: usize) {
        if edns.asks_nsid && !options.nsid.is_empty() {
            self.push_option(NSID, &[options.nsid]);
        }
        if let Some((code, text)) = options.error {
            self.push_option(EXTENDED_ERROR, &[&code.to_be_bytes(), text.as_bytes()]);
        }
        if edns.padded {
            self.pad();
        }
        let length = (self.at - length_at - 2) as u16;
        self.message[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }

    /// Pads the message to a multiple of the block length, or as far as there is room (RFC 8467 section 4.1).
    ///
    /// Padding is the last option, so that it takes no room from another.
    fn pad(&mut self) {
        // The requestor's payload size is for UDP (RFC 6891 section 6.2.3), and a UDP response is never padded.
        let most = self.message.len().min(MAX_TCP);
        let data = self.at + 4;
        let end = data.next_multiple_of(PADDING_BLOCK).min(most);
        let Some(length) = end.checked_sub(data) else { return };
        self.push(PADDING.to_be_bytes());
        self.push((length as u16).to_be_bytes());
        self.message[data..end].fill(0);
        self.at = end;
    }

    /// Writes an option if it fits; a missing option does not set TC (RFC 8914 section 3).
    fn push_option(&mut self, code: u16, data: &[&[u8]]) {
        let length: usize = data.iter().map(|part| part.len()).sum();
        if self.remaining() < 4 + length {
            return;
        }
        self.push(code.to_be_bytes());
        self.push((length as u16).to_be_bytes());
        data.iter().for_each(|part| self.extend(part));
    }

    /// Writes octets of a constant number: compiles to a few instructions.
    #[inline]
    fn push<const N: usize>(&mut self, octets: [u8; N]) {
        self.message[self.at..self.at + N].copy_from_slice(&octets);
        self.at += N;
    }

    fn extend(&mut self, octets: &[u8]) {
        self.message[self.at..self.at + octets.len()].copy_from_slice(octets);
        self.at += octets.len();
    }
}

/// Builds the fields between a record's owner and its RDATA (RFC 1035 section 4.1.3).
#[inline]
fn record_header(rtype: u16, ttl: u32, length: usize) -> [u8; 10] {
    let mut header = [0; 10];
    header[..2].copy_from_slice(&rtype.to_be_bytes());
    header[2..4].copy_from_slice(&CLASS_IN.to_be_bytes());
    header[4..8].copy_from_slice(&ttl.to_be_bytes());
    header[8..].copy_from_slice(&(length as u16).to_be_bytes());
    header
}

/// Owner name of a record: a pointer into the message, or the complete name.
#[derive(Clone, Copy, Debug)]
pub enum NameRef<'n> {
    /// Compression pointer to the name in the message (RFC 1035 section 4.1.4).
    Pointer(u16),
    /// Complete name, written without compression.
    Uncompressed(&'n WireName),
}

/// Returns a compression pointer to `position`; `None` beyond 14 bits (RFC 1035 section 4.1.4).
pub fn pointer(position: usize) -> Option<u16> {
    (position < 0x4000).then_some(0xc000 | position as u16)
}

/// Returns whether the query in `message` has RD set (RFC 1035 section 4.1.1).
pub fn is_recursion_desired(message: &[u8]) -> bool {
    message[2] & 0x01 != 0
}

/// Returns whether the response in `message` has TC set (RFC 1035 section 4.1.1).
#[inline]
pub fn is_truncated(message: &[u8]) -> bool {
    message[2] & 0x02 != 0
}

/// Sets RA in the response in `message` (RFC 1035 section 4.1.1).
pub fn set_recursion_available(message: &mut [u8]) {
    message[3] |= 0x80;
}

/// Turns the query in `message` into an error response, and returns its length.
pub fn write_error(message: &mut [u8], error: ErrorResponse, options: ResponseOptions<'_>) -> usize {
    if error.question_end == HEADER {
        message[4..6].fill(0);
    }
    let limit = MAX_UDP_PLAIN.max(error.question_end + OPT_LENGTH);
    let writer = Writer::new(message, error.question_end, limit, error.edns.is_some());
    writer.finish(error.rcode, false, error.edns, options)
}
