//! Differences of NSD or BIND that are allowed: one rule each, as narrow as possible. `differences.md` has the reasons.

use std::fmt;

use headless_dns_core::zone::EXPECTED_TTL;
use hickory_proto::rr::RecordType;

use crate::Scenario;
use crate::ask::{Answer, Mode, Question, Rr};
use crate::questions::{self, Name};

/// Predicate of a rule: the difference is the expected one.
type Explains = fn(&Case<'_>) -> bool;

/// The rules by their headings in `differences.md`, in its order.
pub(crate) const RULES: &[(&str, Explains)] = &[
    ("empty-by-form", empty_by_form),
    ("service-without-records", service_without_records),
    ("expected-soon", expected_soon),
    ("pod-insecure", pod_insecure),
    ("cname-depth", cname_depth),
    ("cname-circle", cname_circle),
    ("bind-cuts-earlier", bind_cuts_earlier),
    ("nsd-cuts-later", nsd_cuts_later),
];

const NOERROR: u16 = 0;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;
/// N14: the CNAME of the question's name, and eight that were followed.
const MOST_CNAMES: usize = 9;

fn empty_by_form(case: &Case<'_>) -> bool {
    let structure = match &case.below_apex()[..] {
        ["svc" | "pod"] => true,
        [namespace, "svc"] => case.scenario.has_namespace(namespace) || *namespace == "default",
        _ => false,
    };
    structure && case.only_we_have_it() && case.ours.records.is_empty()
}

fn service_without_records(case: &Case<'_>) -> bool {
    let declared = match &case.below_apex()[..] {
        [service, namespace, "svc"] => case.scenario.has_service(namespace, service),
        _ => false,
    };
    declared && case.only_we_have_it() && case.ours.records.is_empty()
}

fn expected_soon(case: &Case<'_>) -> bool {
    let expected = match &case.below_apex()[..] {
        [endpoint, _, namespace, "svc"] => case.scenario.expects(namespace, endpoint),
        _ => false,
    };
    let ([ours], [theirs]) = (&case.ours.soa[..], &case.theirs.soa[..]) else { return false };
    let otherwise_equal = Rr { ttl: theirs.ttl, ..ours.clone() } == *theirs;
    expected
        && case.differing() == [Part::Soa]
        && case.ours.rcode == NXDOMAIN
        && (otherwise_equal && ours.ttl == EXPECTED_TTL && theirs.ttl > EXPECTED_TTL)
}

fn pod_insecure(case: &Case<'_>) -> bool {
    let made = |address: Option<&str>| match (&case.ours.records[..], address) {
        ([], _) => true,
        ([record], Some(address)) => record.data.replace([':', '.'], "-") == address,
        _ => false,
    };
    let expected = match &case.below_apex()[..] {
        [namespace, "pod"] => case.scenario.has_namespace(namespace) && made(None),
        [address, namespace, "pod"] => case.scenario.has_namespace(namespace) && made(Some(address)),
        _ => false,
    };
    expected && case.scenario.options.contains("--pod-records insecure") && case.only_we_have_it()
}

fn cname_depth(case: &Case<'_>) -> bool {
    let (ours, theirs) = (&case.ours.records, &case.theirs.records);
    let same_so_far = ours.iter().all(|record| record.rtype == RecordType::CNAME && theirs.contains(record));
    same_so_far && ours.len() == MOST_CNAMES && case.ours.rcode == NOERROR && case.ours.aa && !case.ours.tc
}

fn cname_circle(case: &Case<'_>) -> bool {
    let records = &case.ours.records;
    let closed = records.iter().all(|record| records.iter().any(|next| next.owner == record.data));
    let rcodes = (case.ours.rcode, case.theirs.rcode);
    case.peer == Peer::Bind && closed && case.differing() == [Part::Rcode] && rcodes == (NOERROR, SERVFAIL)
}

fn bind_cuts_earlier(case: &Case<'_>) -> bool {
    let mixed_case = case.question.name.iter().any(u8::is_ascii_uppercase);
    case.peer == Peer::Bind && (mixed_case || case.only_pointers(10)) && case.cuts_more(case.theirs, case.ours)
}

fn nsd_cuts_later(case: &Case<'_>) -> bool {
    case.peer == Peer::Nsd && case.only_pointers(10) && case.cuts_more(case.ours, case.theirs)
}

/// The other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Nsd,
    Bind,
}

/// One question and two answers.
pub(crate) struct Case<'c> {
    pub(crate) scenario: &'c Scenario,
    pub(crate) name: &'c Name,
    /// Number of labels of the apex above the name; 0 outside all zones.
    pub(crate) apex: usize,
    pub(crate) question: &'c Question,
    pub(crate) mode: Mode,
    pub(crate) peer: Peer,
    pub(crate) ours: &'c Answer,
    pub(crate) theirs: &'c Answer,
}

/// A part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Rcode,
    Aa,
    Tc,
    Records,
    Soa,
}

impl Case<'_> {
    /// The labels in front of the apex; none for a name that is in no zone.
    fn below_apex(&self) -> Vec<&str> {
        let labels = self.name.len() - if self.apex == 0 { self.name.len() } else { self.apex };
        self.name[..labels].iter().map(|label| std::str::from_utf8(label).unwrap_or("?")).collect()
    }

    /// Over UDP one answer is cut and the other is whole, and that is all.
    fn cuts_more(&self, cut: &Answer, whole: &Answer) -> bool {
        self.mode != Mode::Tcp
            && self.differing() == [Part::Tc, Part::Records]
            && (cut.tc && !whole.tc)
            && cut.records.iter().all(|record| whole.records.contains(record))
    }

    /// Our records are PTR, `least` of them or more.
    fn only_pointers(&self, least: usize) -> bool {
        let records = &self.ours.records;
        records.len() >= least && records.iter().all(|record| record.rtype == RecordType::PTR)
    }

    /// This server answers NODATA, the other NXDOMAIN; and the zone file has no record at the name or below.
    fn only_we_have_it(&self) -> bool {
        let rcodes = (self.ours.rcode, self.theirs.rcode);
        let same = !self.differing().iter().any(|part| matches!(part, Part::Aa | Part::Tc));
        rcodes == (NOERROR, NXDOMAIN)
            && same
            && (!self.ours.records.is_empty() || self.ours.soa == self.theirs.soa)
            && self.theirs.records.is_empty()
            && !self.scenario.there.contains(self.name)
    }

    /// Returns the parts in which the two answers differ. If both are truncated, their remaining records may differ.
    pub(crate) fn differing(&self) -> Vec<Part> {
        let (ours, theirs) = (self.ours, self.theirs);
        let cut = ours.tc && theirs.tc;
        let parts = [
            (Part::Rcode, ours.rcode != theirs.rcode),
            (Part::Aa, ours.aa != theirs.aa),
            (Part::Tc, ours.tc != theirs.tc),
            (Part::Records, !cut && ours.records != theirs.records),
            (Part::Soa, !cut && ours.soa != theirs.soa),
        ];
        parts.into_iter().filter(|(_, differs)| *differs).map(|(part, _)| part).collect()
    }

    /// Returns the summary that groups a difference with those of the same name in other types, cases and modes.
    pub(crate) fn kind(&self) -> String {
        format!("{} {:?} {} {:?}", self.scenario.name, self.peer, questions::text(self.name), self.differing())
    }
}

impl fmt::Display for Case<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, qtype) = (questions::text(&questions::labels(&self.question.name)), self.question.qtype);
        write!(f, "{}: {name} type {qtype} {:?}: ", self.scenario.name, self.mode)?;
        write!(f, "{:?} differ\n  ours {}\n  {:?} {}", self.differing(), self.ours, self.peer, self.theirs)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rcode {}{}{}", self.rcode, if self.aa { " aa" } else { "" }, if self.tc { " tc" } else { "" })?;
        write!(f, ", {} records", self.records.len())?;
        for record in self.records.iter().take(12).chain(&self.soa) {
            write!(f, "\n    {} {} {} {}", record.owner, record.ttl, record.rtype, record.data)?;
        }
        Ok(())
    }
}
