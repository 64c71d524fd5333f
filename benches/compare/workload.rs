//! What is asked: the workloads W1 to W10, and what is right.
//!
//! A workload is a list of names and types, drawn with a fixed seed. What the right answer is comes from the zone files
//! that our own server wrote of the same objects ([`Zones`]), never from an answer, so a wrong one is seen whoever gave
//! it. Not here: how questions are sent (`load.rs`), and who is asked (`peers.rs`).

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;

use headless_dns_core::name::WireName;
use headless_dns_core::name::reverse::reverse_name;
use headless_dns_core::rtype;

use super::cluster::{Cluster, Service};
use super::load::{Expect, Question};

const NXDOMAIN: u8 = 3;
/// What a response over UDP may have (RFC 9715), and what the queries offer.
const UDP: usize = 1232;
/// Questions of W8.
pub const MIX: usize = 20_000;

/// A name and a type.
pub type Asked = (String, u16);

/// One kind of question, or the mix of them.
pub struct Workload {
    pub name: &'static str,
    pub what: &'static str,
    pub asked: Vec<Asked>,
}

/// The share of each kind of question in W8, in percent.
pub const SHARES: [(Kind, u32); 6] = [
    (Kind::Headless, 35),
    (Kind::NoData, 25),
    (Kind::NxDomain, 25),
    (Kind::Ordinal, 8),
    (Kind::Srv, 4),
    (Kind::Ptr, 3),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Headless,
    NoData,
    NxDomain,
    Ordinal,
    Srv,
    Ptr,
}

impl Kind {
    /// A question of this kind. In W10 the Pods with ordinal 0 move: nobody asks for the names of their addresses.
    fn ask(self, services: &[Service], random: &mut fastrand::Rng) -> Asked {
        let service = &services[random.usize(..services.len())];
        let ordinal = random.usize(1..service.endpoints);
        match self {
            Self::Headless => (service.owner(), rtype::A),
            Self::NoData => (service.owner(), rtype::AAAA),
            Self::NxDomain => (searched(random, &service.namespace), rtype::A),
            Self::Ordinal => (service.pod(ordinal), rtype::A),
            Self::Srv => (format!("_http._tcp.{}", service.owner()), rtype::SRV),
            Self::Ptr => (reverse_name(service.address(ordinal).into()).to_string(), rtype::PTR),
        }
    }
}

/// A name of the outside with a domain of a Pod's search list behind it (ndots:5).
fn searched(random: &mut fastrand::Rng, namespace: &str) -> String {
    let domains = [&format!("{namespace}.svc.cluster.local"), "svc.cluster.local", "cluster.local"];
    format!("www{}.example.com.{}", random.u32(..1000), domains[random.usize(..3)])
}

/// W1 to W8, over UDP; W9 and W10 ask what W8 asks.
pub fn workloads(cluster: &Cluster) -> Vec<Workload> {
    let random = &mut fastrand::Rng::with_seed(1);
    let small = cluster.small();
    let hundred = &cluster.services[small.len()..=small.len()];
    let set = &cluster.services[small.len() + 1..];
    let mut of = |name, what, kind: Kind, services: &[Service]| Workload {
        name,
        what,
        asked: (0..5000).map(|_| kind.ask(services, random)).collect(),
    };
    let mut workloads = vec![
        of("W1", "headless A, 3 endpoints", Kind::Headless, small),
        of("W2", "headless A, 100 endpoints (cut at 1232 octets)", Kind::Headless, hundred),
        of("W3", "SRV, 3 endpoints", Kind::Srv, small),
        of("W4", "A of one ordinal of 5,000", Kind::Ordinal, set),
        of("W5", "PTR", Kind::Ptr, small),
        of("W6", "NXDOMAIN by search list", Kind::NxDomain, small),
        of("W7", "AAAA where there is IPv4 only", Kind::NoData, small),
    ];
    workloads.push(Workload { name: "W8", what: "the mix", asked: mix(small, MIX) });
    workloads
}

/// W8, of these Services.
pub fn mix(services: &[Service], count: usize) -> Vec<Asked> {
    let random = &mut fastrand::Rng::with_seed(8);
    let mut asked = Vec::new();
    for (kind, share) in SHARES {
        asked.extend((0..count * share as usize / 100).map(|_| kind.ask(services, random)));
    }
    random.shuffle(&mut asked);
    asked
}

/// Ordinals at random, as W4, of these Services.
pub fn ordinals(services: &[Service], count: usize) -> Vec<Asked> {
    let random = &mut fastrand::Rng::with_seed(4);
    (0..count).map(|_| Kind::Ordinal.ask(services, random)).collect()
}

/// The records of the names that are asked for, from zone files as `headless-dns records` writes them.
#[derive(Default)]
pub struct Zones {
    records: HashMap<Asked, Vec<Vec<u8>>>,
    /// Of the names that are asked for, those that exist: with records, or only with names below them.
    nodes: HashSet<String>,
}

impl Zones {
    /// Reads files line by line, and keeps what these questions are about.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, or a line that is no record: the sentence names file and line.
    pub fn read<'q>(files: &[&Path], asked: impl IntoIterator<Item = &'q Asked>) -> io::Result<Self> {
        let mut zones = Self::default();
        let wanted: HashSet<&str> = asked.into_iter().map(|(name, _)| name.trim_end_matches('.')).collect();
        for path in files {
            let named = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", path.display()));
            let file = std::fs::File::open(path).map_err(|error| named(&error))?;
            for (number, line) in BufReader::new(file).lines().enumerate() {
                let line = line.map_err(|error| named(&error))?;
                zones.line(&line, &wanted).map_err(|error| named(&format!("line {}: {error}", number + 1)))?;
            }
        }
        Ok(zones)
    }

    /// `OWNER TTL IN TYPE DATA`, with tabs between.
    fn line(&mut self, line: &str, wanted: &HashSet<&str>) -> Result<(), String> {
        let mut fields = line.splitn(5, '\t');
        let mut field = || fields.next().ok_or_else(|| format!("no record: {line}"));
        let owner = field()?.trim_end_matches('.');
        let (_ttl, _class, rtype, data) = (field()?, field()?, field()?, field()?);
        let mut node = owner;
        loop {
            if wanted.contains(node) && !self.nodes.contains(node) {
                self.nodes.insert(node.to_owned());
            }
            let Some((_, above)) = node.split_once('.') else { break };
            node = above;
        }
        if wanted.contains(owner)
            && let Some((rtype, data)) = data_of(rtype, data)?
        {
            self.records.entry((owner.to_owned(), rtype)).or_default().push(data);
        }
        Ok(())
    }

    /// The query, with EDNS, and what is right over a transport whose messages have at most `limit` octets.
    ///
    /// # Errors
    ///
    /// A name that is none.
    pub fn question(&self, (name, qtype): &Asked, limit: usize) -> Result<Question, String> {
        let name = name.trim_end_matches('.');
        let wire = WireName::parse(name)?;
        let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend_from_slice(wire.octets());
        message.extend_from_slice(&qtype.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
        let expect = self.expect(name, *qtype, message.len(), limit);
        Ok(Question { message, expect })
    }

    fn expect(&self, name: &str, qtype: u16, query: usize, limit: usize) -> Expect {
        let Some(data) = self.records.get(&(name.to_owned(), qtype)) else {
            return Expect::Denied { rcode: if self.nodes.contains(name) { 0 } else { NXDOMAIN } };
        };
        // The owner is a pointer; then type, class, TTL and length.
        let answers: usize = data.iter().map(|data| 12 + data.len()).sum();
        let truncated = query + answers > limit;
        let mut sorted = data.clone();
        sorted.sort();
        Expect::Records { rcode: 0, answers: data.len() as u16, truncated, qtype, data: sorted }
    }

    /// Over UDP.
    ///
    /// # Errors
    ///
    /// A name that is none.
    pub fn over_udp(&self, asked: &[Asked]) -> Result<Vec<Question>, String> {
        asked.iter().map(|asked| self.question(asked, UDP)).collect()
    }

    /// Over TCP.
    ///
    /// # Errors
    ///
    /// A name that is none.
    pub fn over_tcp(&self, asked: &[Asked]) -> Result<Vec<Question>, String> {
        asked.iter().map(|asked| self.question(asked, usize::from(u16::MAX))).collect()
    }
}

/// While endpoints move, an address is not what it was; how many there are, and which names exist, is.
pub fn moving(mut questions: Vec<Question>) -> Vec<Question> {
    for question in &mut questions {
        if let Expect::Records { data, qtype: rtype::A, .. } = &mut question.expect {
            data.clear();
        }
    }
    questions
}

/// The same question, whatever comes back.
pub fn unjudged(question: &Question) -> Question {
    Question { message: question.message.clone(), expect: Expect::Anything }
}

/// How many questions are right with records, with NODATA, and with NXDOMAIN.
pub fn outcomes(questions: &[Question]) -> [usize; 3] {
    let mut counts = [0; 3];
    for question in questions {
        match question.expect {
            Expect::Records { .. } => counts[0] += 1,
            Expect::Denied { rcode: 0 } => counts[1] += 1,
            Expect::Denied { .. } => counts[2] += 1,
            Expect::Anything => {}
        }
    }
    counts
}

/// The data of the types that are asked for, in wire form; `None` of the others.
fn data_of(rtype: &str, data: &str) -> Result<Option<(u16, Vec<u8>)>, String> {
    let name = |text: &str| WireName::parse(text).map(|name| name.octets().to_vec());
    Ok(Some(match rtype {
        "A" => {
            let address: Ipv4Addr = data.parse().map_err(|_| format!("no address: {data}"))?;
            (rtype::A, address.octets().to_vec())
        }
        "PTR" => (rtype::PTR, name(data)?),
        "SRV" => {
            let [priority, weight, port, target] = data.split(' ').collect::<Vec<_>>()[..] else {
                return Err(format!("no SRV data: {data}"));
            };
            let number = |text: &str| text.parse::<u16>().map_err(|_| format!("no SRV data: {data}"));
            let numbers = [number(priority)?, number(weight)?, number(port)?].map(u16::to_be_bytes).concat();
            (rtype::SRV, [numbers, name(target)?].concat())
        }
        _ => return Ok(None),
    }))
}
