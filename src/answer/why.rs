//! Why a name does not resolve, on the wire: which answers are worth a cause, and the text at `_why.NAME`.
//!
//! Nothing here waits. What is worth asking is decided by the shape of the name and at most one look-up in the zone, so
//! that ordinary traffic (search lists, AAAA of IPv4-only names) never comes to the objects. Who asks them at all is
//! bounded: by `--explain-to`, and by a [`Budget`]. Not here: what is the matter (`explain`).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;

use super::{CauseReport, Peer};
use crate::explain::{Absence, Asked, Asker, Busy, Finding, Outcome};
use crate::names::labels::is_ordinal;
use crate::names::{Owner, QueryName, WireName, meant, owner};
use crate::records::RRset;
use crate::rtype;
use crate::zone::{Lookup, Zone};

/// A worker looks for one cause in this time, about 4 us of it: who asks now and then is always told, and a flood costs
/// the others next to nothing.
const EVERY: Duration = Duration::from_micros(500);
/// How many causes it looks for at once, if it has looked for none for long.
const BURST: u32 = 64;

/// How many causes a worker may look for at the moment.
#[derive(Default)]
pub(super) struct Budget {
    left: u32,
    counted: Option<Instant>,
}

impl Budget {
    /// Time has passed.
    pub(super) fn refill(&mut self, now: Instant) {
        let Some(counted) = self.counted else {
            (self.left, self.counted) = (BURST, Some(now));
            return;
        };
        let earned = now.saturating_duration_since(counted).as_micros() / EVERY.as_micros();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.counted = Some(now);
        }
    }

    /// Whether one more may be looked for.
    pub(super) fn take(&mut self) -> bool {
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

/// What an answer leaves to be explained.
#[derive(Clone, Copy)]
pub(super) enum Open {
    /// The name does not exist. The apex begins at this label of the question.
    NxDomain(usize, Option<Absence>),
    /// The name has no record of the type. The same.
    NoData(usize),
    /// A chain of CNAMEs ends at a name that does not exist, or does not end.
    Chain,
}

/// Explains to some clients.
pub(super) struct Explainer {
    asker: Asker,
    clients: ArcSwap<Vec<IpNet>>,
    /// There are some: else nothing need be looked at.
    anyone: AtomicBool,
}

impl Explainer {
    /// Explains to `clients` what `asker` knows.
    pub(super) fn new(asker: Asker, clients: Vec<IpNet>) -> Self {
        let anyone = AtomicBool::new(!clients.is_empty());
        Self { asker, clients: ArcSwap::from_pointee(clients), anyone }
    }

    /// From now on others are told.
    pub(super) fn change_clients(&self, clients: Vec<IpNet>) {
        let anyone = !clients.is_empty();
        self.clients.store(Arc::new(clients));
        self.anyone.store(anyone, Ordering::Release);
    }

    /// Whether any client is told.
    #[inline]
    pub(super) fn tells_anyone(&self) -> bool {
        self.anyone.load(Ordering::Acquire)
    }

    /// Whether a client is told.
    pub(super) fn tells(&self, peer: &Peer) -> bool {
        self.includes(peer.from.ip())
    }

    /// Returns whether an address is in the networks of the clients.
    pub(super) fn includes(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.clients.load().iter().any(|network| network.contains(&client))
    }

    /// The cause that goes out with an answer; none where none is certain.
    pub(super) fn cause(&self, name: &QueryName, qtype: u16, open: Open) -> Result<Option<Finding>, Busy> {
        let (outcome, absence) = match open {
            Open::NxDomain(_, absence) => (Outcome::NxDomain, absence),
            Open::NoData(_) => (Outcome::NoData, None),
            Open::Chain => (Outcome::Found, None),
        };
        self.asker.first(&Asked { name, qtype, outcome, absence })
    }

    /// The text at `_why.NAME`, and the cause that it reports.
    pub(super) fn text(&self, zone: &Zone, name: &QueryName) -> (String, CauseReport) {
        let seen = see(zone, name);
        let (outcome, absence) = match &seen {
            Seen::Records(counts) => return (format!("RESOLVES: {}", counts.join(", ")), CauseReport::None),
            Seen::Nothing => (Outcome::NoData, None),
            Seen::Alias(_) => (Outcome::Found, None),
            Seen::Missing(absence) => (Outcome::NxDomain, *absence),
        };
        let text = match (self.asker.first(&Asked { name, qtype: rtype::A, outcome, absence }), seen) {
            (Err(Busy), _) => return busy(),
            (Ok(Some(finding)), _) => return (finding.line(), CauseReport::Reported(finding.identity().1)),
            (Ok(None), Seen::Alias(target)) => format!("ALIAS: the name stands for {target}"),
            (Ok(None), Seen::Missing(_)) => {
                format!("UNKNOWN: no cause is known for certain; run: headless-dns explain {name}")
            }
            (Ok(None), _) => "EMPTY: the name exists and has no records".to_owned(),
        };
        (text, CauseReport::None)
    }
}

/// The text where the objects are being changed, or the worker's budget of causes is spent.
pub(super) fn busy() -> (String, CauseReport) {
    let text = "BUSY: the cause was not looked for, to keep nobody waiting; ask again".to_owned();
    (text, CauseReport::Skipped)
}

/// Whether there may be a cause that is certain. It costs no more than a look-up in the zone, and mostly less.
///
/// What is not worth it is most of all traffic: names with a search list behind them, and one address family of a name
/// that has the other.
pub(super) fn is_worth_asking(zone: &Zone, name: &QueryName, qtype: u16, open: Open) -> bool {
    match open {
        Open::Chain | Open::NxDomain(_, Some(_)) => true,
        Open::NxDomain(apex_at, None) => may_be_meant(zone, name, apex_at),
        Open::NoData(apex_at) => match qtype {
            rtype::SRV => is_service(name, apex_at),
            rtype::A if is_service(name, apex_at) => {
                zone.look_up(name, rtype::AAAA, |lookup| matches!(lookup, Lookup::NoData(_)))
            }
            _ => false,
        },
    }
}

fn is_service(name: &QueryName, apex_at: usize) -> bool {
    matches!(owner(name, apex_at), Owner::Service(_))
}

/// Whether a name that the zone knows nothing of has the shape of one that somebody may have meant.
fn may_be_meant(zone: &Zone, name: &QueryName, apex_at: usize) -> bool {
    let by_shape = match owner(name, apex_at) {
        Owner::Service(key) => is_ordinal(key.service()),
        Owner::Endpoint(_, label) => is_ordinal(label),
        Owner::PodAddress(..) | Owner::PodNamespace(_) => true,
        Owner::Nothing => meant(name, apex_at).is_some_and(|service| zone.knows(service)),
        _ => false,
    };
    by_shape || name.has_asterisk(apex_at)
}

/// What stands at a name, whatever the type.
enum Seen {
    /// Records: how many, and of which type.
    Records(Vec<String>),
    /// Nothing, but below it there is something.
    Nothing,
    /// A CNAME.
    Alias(WireName),
    /// The name does not exist.
    Missing(Option<Absence>),
}

fn see(zone: &Zone, name: &QueryName) -> Seen {
    const TYPES: [(u16, &str); 7] = [
        (rtype::A, "A"),
        (rtype::AAAA, "AAAA"),
        (rtype::SRV, "SRV"),
        (rtype::PTR, "PTR"),
        (rtype::TXT, "TXT"),
        (rtype::SOA, "SOA"),
        (rtype::NS, "NS"),
    ];
    let mut counts = Vec::new();
    for (qtype, mnemonic) in TYPES {
        let other = zone.look_up(name, qtype, |lookup| match lookup {
            Lookup::Found(_, rrset) => {
                counts.push(format!("{} {mnemonic}", count(rrset)));
                None
            }
            Lookup::NoData(_) => None,
            Lookup::Cname(_, target) => Some(Seen::Alias(target.clone())),
            Lookup::NxDomain(_, absence) => Some(Seen::Missing(absence)),
            Lookup::NotInZone => Some(Seen::Missing(None)),
        });
        if let Some(other) = other {
            return other;
        }
    }
    if counts.is_empty() { Seen::Nothing } else { Seen::Records(counts) }
}

fn count(rrset: RRset<'_>) -> usize {
    match rrset {
        RRset::A(addresses) => addresses.len(),
        RRset::Aaaa(addresses) => addresses.len(),
        RRset::Srv(servers) => servers.len(),
        RRset::Ptr(names) => names.len(),
        RRset::Txt(_) | RRset::Soa | RRset::Ns => 1,
    }
}
