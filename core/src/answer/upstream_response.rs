//! Records of an upstream's response: which of them are accepted, and with which TTL.
//!
//! A response of an upstream is input that an attacker may have written. [`UpstreamResponse::new`] accepts the CNAME chain
//! that begins at QNAME, the RRset at its end, and the SOA of a negative response; it ignores every other record, in any
//! section (RFC 2181 section 5.4.1, RFC 5452 section 6). A chain may still lead through the zones of this server:
//! `forwarding.rs` cuts it there. Not here: queries to upstreams (`server/forward/`).

use std::collections::HashSet;

use crate::name::{MAX_FORWARDED_CHAIN, QueryName, WireName};
use crate::rtype;
use crate::wire::rcode;

/// Maximum TTL of a record from an upstream, in seconds: 1 day. A longer TTL is lowered, so that a wrong record expires
/// after a day, here and in the caches of clients. RFC 8767 section 4 allows 7 days; Unbound's default is 1 day too.
pub const MAX_UPSTREAM_TTL: u32 = 86_400;
/// Maximum TTL of a negative response from an upstream, in seconds: 3 hours, the upper end of the range that RFC 2308
/// section 5 recommends.
pub const MAX_UPSTREAM_NEGATIVE_TTL: u32 = 10_800;
/// Lowest TTL with the sign bit set: such a TTL counts as 0 (RFC 2181 section 8).
const TTL_SIGN_BIT: u32 = 1 << 31;

/// A record from an upstream, of class IN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamRecord {
    /// Owner name of the record.
    pub owner: WireName,
    /// RR type, as a number.
    pub rtype: u16,
    /// TTL in seconds.
    pub ttl: u32,
    /// RDATA without compressed names, at most 65,535 octets.
    pub data: Box<[u8]>,
}

impl UpstreamRecord {
    /// Returns the target of a CNAME; `None` for another type.
    pub fn target(&self) -> Option<WireName> {
        let mut name = QueryName::default();
        name.parse_wire(&self.data).filter(|_| self.rtype == rtype::CNAME)?;
        Some(name.to_wire())
    }

    /// Returns the field MINIMUM of a SOA (RFC 1035 section 3.3.13).
    fn minimum(&self) -> Option<u32> {
        self.data.last_chunk().map(|octets| u32::from_be_bytes(*octets))
    }
}

/// Answer of an upstream: the records of its response that answer the question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamResponse {
    /// CNAMEs from QNAME to the last name of the chain.
    pub(super) cnames: Vec<UpstreamRecord>,
    /// Records of the last name, of type QTYPE.
    pub(super) rrset: Vec<UpstreamRecord>,
    /// RCODE of the last name (RFC 6604 section 2.1): NOERROR or NXDOMAIN.
    pub(super) rcode: u16,
    /// SOA of a negative response, with the TTL of that response.
    pub(super) soa: Option<UpstreamRecord>,
}

impl UpstreamResponse {
    /// Selects the answer to the question for `name` and `qtype` from the records of a response.
    ///
    /// `rcode` is NOERROR or NXDOMAIN.
    pub fn new(
        (name, qtype, rcode): (&WireName, u16, u16),
        mut answers: Vec<UpstreamRecord>,
        authorities: Vec<UpstreamRecord>,
    ) -> Self {
        let is_asked = |record: &UpstreamRecord| qtype == rtype::ANY || record.rtype == qtype;
        let (mut cnames, mut last) = (Vec::new(), name.clone());
        // Keeps one CNAME more than may be followed, so that `Responder::resume` detects a chain that is too long.
        let rrset = loop {
            let rrset: Vec<_> = answers.extract_if(.., |record| record.owner == last && is_asked(record)).collect();
            let cname = answers.iter().position(|record| record.owner == last && record.rtype == rtype::CNAME);
            let target = cname.and_then(|index| answers[index].target());
            let (true, Some(index), Some(target)) = (rrset.is_empty(), cname, target) else { break rrset };
            cnames.push(answers.swap_remove(index));
            last = target;
            if cnames.len() > MAX_FORWARDED_CHAIN {
                break Vec::new();
            }
        };
        let soa =
            authorities.into_iter().find(|record| record.rtype == rtype::SOA && is_at_or_above(&record.owner, &last));
        let soa = soa.filter(|_| rrset.is_empty()).map(|soa| {
            // RFC 2308 section 5.
            let ttl = limit_ttl(soa.ttl, MAX_UPSTREAM_NEGATIVE_TTL).min(soa.minimum().unwrap_or(0));
            UpstreamRecord { ttl, ..soa }
        });
        for cname in &mut cnames {
            cname.ttl = limit_ttl(cname.ttl, MAX_UPSTREAM_TTL);
        }
        Self { cnames, rrset: unified(rrset), rcode, soa }
    }

    /// Returns whether the response is negative (NXDOMAIN or NODATA) for the last name. An answer without records that is
    /// not negative ends in the middle of a chain: the last name needs another query.
    pub(super) fn is_denial(&self) -> bool {
        self.rrset.is_empty() && (self.rcode == rcode::NXDOMAIN || self.soa.is_some() || self.cnames.is_empty())
    }

    /// Returns the RCODE of a response that ends with this answer.
    pub(super) fn end_rcode(&self) -> u16 {
        if self.rrset.is_empty() { self.rcode } else { rcode::NOERROR }
    }

    /// Returns how long a cache may keep the answer, in seconds: its shortest TTL; 0 for a negative response without SOA
    /// (RFC 2308 section 5).
    pub fn ttl(&self) -> u32 {
        let is_undated = self.rrset.is_empty() && self.soa.is_none();
        if is_undated { 0 } else { self.records().map(|record| record.ttl).min().unwrap_or(0) }
    }

    /// Returns the approximate size in memory, in octets.
    pub fn size(&self) -> usize {
        self.records().map(|record| size_of_val(record) + record.owner.octets().len() + record.data.len()).sum()
    }

    /// Returns the answer with TTLs that are `seconds` shorter.
    pub fn aged(&self, seconds: u32) -> Self {
        let mut aged = self.clone();
        let Self { cnames, rrset, soa, .. } = &mut aged;
        for record in cnames.iter_mut().chain(rrset).chain(soa) {
            record.ttl = record.ttl.saturating_sub(seconds);
        }
        aged
    }

    fn records(&self) -> impl Iterator<Item = &UpstreamRecord> {
        self.cnames.iter().chain(&self.rrset).chain(&self.soa)
    }
}

/// Rest of an upstream's answer: the answer, and its CNAMEs that are not written yet.
pub(super) type UpstreamCursor<'u> = (&'u UpstreamResponse, std::slice::Iter<'u, UpstreamRecord>);

fn limit_ttl(ttl: u32, most: u32) -> u32 {
    if ttl >= TTL_SIGN_BIT { 0 } else { ttl.min(most) }
}

/// Groups the records into RRsets: removes duplicates, and gives each RRset its lowest TTL (RFC 2181 sections 5 and 5.2).
fn unified(records: Vec<UpstreamRecord>) -> Vec<UpstreamRecord> {
    let mut seen = HashSet::with_capacity(records.len());
    let mut ttls = std::collections::HashMap::new();
    for record in &records {
        let ttl = limit_ttl(record.ttl, MAX_UPSTREAM_TTL);
        ttls.entry(record.rtype).and_modify(|least: &mut u32| *least = ttl.min(*least)).or_insert(ttl);
    }
    let first = records.iter().map(|record| seen.insert((record.rtype, &record.data))).collect::<Vec<_>>();
    let kept = records.into_iter().zip(first).filter_map(|(record, is_first)| is_first.then_some(record));
    kept.map(|record| UpstreamRecord { ttl: ttls[&record.rtype], ..record }).collect()
}

fn is_at_or_above(zone: &WireName, name: &WireName) -> bool {
    let mut query = QueryName::default();
    query.set(name);
    query.apex_at(zone).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u16 = rtype::A;

    fn record(owner: &str, rtype: u16, ttl: u32, data: &[u8]) -> UpstreamRecord {
        UpstreamRecord { owner: WireName::parse(owner).unwrap(), rtype, ttl, data: data.into() }
    }

    fn cname(owner: &str, target: &str) -> UpstreamRecord {
        record(owner, rtype::CNAME, 300, WireName::parse(target).unwrap().octets())
    }

    fn soa(owner: &str, ttl: u32, minimum: u32) -> UpstreamRecord {
        record(owner, rtype::SOA, ttl, &[&[0, 0][..], &[0; 16], &minimum.to_be_bytes()].concat())
    }

    fn shown(qtype: u16, rcode: u16, answers: &[UpstreamRecord], authorities: &[UpstreamRecord]) -> String {
        let name = WireName::parse("www.test").unwrap();
        let answer = UpstreamResponse::new((&name, qtype, rcode), answers.to_vec(), authorities.to_vec());
        let records = answer.records().map(|record| format!("{} {} {}", record.owner, record.rtype, record.ttl));
        let denial = if answer.is_denial() { ["denial".to_owned()].into_iter().collect() } else { Vec::new() };
        records.chain(denial).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn takes_cname_chain_only() {
        let [x, y] = [[192, 0, 2, 1], [192, 0, 2, 2]];
        let chain = [record("host.test", A, 9, &x), cname("www.test", "HOST.test"), record("other.test", A, 9, &y)];
        assert_eq!(shown(A, 0, &chain, &[soa("test", 60, 60)]), "www.test. 5 300, host.test. 1 9");
        // Records of the name itself come before its CNAME; of several CNAMEs the first is followed.
        let both = [cname("www.test", "host.test"), record("www.test", A, 9, &x), record("host.test", A, 9, &y)];
        assert_eq!(shown(A, 0, &both, &[]), "www.test. 1 9");
        let two = [cname("www.test", "one.test"), cname("www.test", "two.test"), record("two.test", A, 9, &y)];
        assert_eq!(shown(A, 0, &two, &[]), "www.test. 5 300");
        // ANY and CNAME are not followed.
        assert_eq!(shown(rtype::ANY, 0, &chain, &[]), "www.test. 5 300");
        assert_eq!(shown(rtype::CNAME, 0, &chain, &[]), "www.test. 5 300");
        // A loop ends.
        let circle = [cname("www.test", "host.test"), cname("host.test", "www.test")];
        assert_eq!(shown(A, 0, &circle, &[]), "www.test. 5 300, host.test. 5 300");
        let long: Vec<_> = (0..100).map(|n| cname(&format!("n{n}.test"), &format!("n{}.test", n + 1))).collect();
        let long = [&[cname("www.test", "n0.test")], &long[..]].concat();
        assert_eq!(shown(A, 0, &long, &[]).matches(" 5 300").count(), MAX_FORWARDED_CHAIN + 1);
        assert_eq!(shown(A, 0, &[], &[]), "denial");
        assert_eq!(shown(A, 3, &[cname("www.test", "host.test")], &[]), "www.test. 5 300, denial");
    }

    #[test]
    fn limits_ttls() {
        let [x, y] = [[192, 0, 2, 1], [192, 0, 2, 2]];
        let one = |ttl| shown(A, 0, &[record("www.test", A, ttl, &x)], &[]);
        assert_eq!(one(u32::MAX), "www.test. 1 0");
        assert_eq!(one(i32::MAX as u32), "www.test. 1 86400");
        let rrset = [record("www.test", A, 60, &x), record("www.test", A, 30, &y), record("www.test", A, 90, &x)];
        assert_eq!(shown(A, 0, &rrset, &[]), "www.test. 1 30, www.test. 1 30");
        let denied = |ttl, minimum| shown(A, 3, &[], &[soa("test", ttl, minimum)]);
        assert_eq!(denied(1_000_000, 1_000_000), "test. 6 10800, denial");
        assert_eq!(denied(600, 60), "test. 6 60, denial");
        assert_eq!(denied(60, 600), "test. 6 60, denial");
        // The SOA of a zone that does not contain the name is ignored.
        assert_eq!(shown(A, 3, &[], &[soa("local", 60, 60)]), "denial");
    }

    #[test]
    fn may_be_kept_for_the_shortest_ttl() {
        let name = WireName::parse("www.test").unwrap();
        let new = |answers, authorities| UpstreamResponse::new((&name, A, 0), answers, authorities);
        assert_eq!(new(vec![cname("www.test", "host.test"), record("host.test", A, 9, &[1; 4])], vec![]).ttl(), 9);
        assert_eq!(new(vec![], vec![soa("test", 60, 30)]).ttl(), 30);
        assert_eq!(new(vec![], vec![]).ttl(), 0);
        assert_eq!(new(vec![cname("www.test", "host.test")], vec![]).ttl(), 0, "the rest is asked for anew");
        let aged = new(vec![record("www.test", A, 9, &[1; 4])], vec![]).aged(4);
        assert_eq!((aged.ttl(), aged.aged(100).ttl()), (5, 0));
    }
}
