//! Causes of non-resolution in responses: which responses may report one, and the text at `_why.NAME`.
//!
//! Nothing here waits. The form of the name and at most one look-up in the zone decide whether a cause is searched for, so
//! that ordinary traffic (search lists, AAAA of IPv4-only names) never reaches the cluster. `--explain-to` limits the
//! clients, a [`Budget`] the rate. Not here: the search itself (`explain/`).

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

/// Time in which a worker earns one search. A search takes about 4 us, so a flood of such queries costs other clients less
/// than 1 % of the worker's time.
const EVERY: Duration = Duration::from_micros(500);
/// Maximum number of searches that a worker saves up.
const BURST: u32 = 64;

/// Token bucket of one worker for searches of causes.
#[derive(Default)]
pub(super) struct Budget {
    left: u32,
    counted: Option<Instant>,
}

impl Budget {
    /// Adds the searches earned since the last call.
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

    /// Takes one search from the budget. Returns false if none is left.
    pub(super) fn take(&mut self) -> bool {
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

/// Non-resolution that a cause may explain.
#[derive(Clone, Copy)]
pub(super) enum Open {
    /// QNAME does not exist. The first field is the label of QNAME at which the apex begins.
    NxDomain(usize, Option<Absence>),
    /// QNAME has no record of QTYPE. The field is the label of QNAME at which the apex begins.
    NoData(usize),
    /// The CNAME chain ends at a name that does not exist, or is a loop, or too long.
    Chain,
}

/// Policy and cluster handle for causes in responses.
pub(super) struct Explainer {
    asker: Asker,
    clients: ArcSwap<Vec<IpNet>>,
    /// True if `clients` is not empty, so that `clients` is loaded only if needed.
    anyone: AtomicBool,
}

impl Explainer {
    /// Creates the policy: causes that `asker` finds are reported to `clients`.
    pub(super) fn new(asker: Asker, clients: Vec<IpNet>) -> Self {
        let anyone = AtomicBool::new(!clients.is_empty());
        Self { asker, clients: ArcSwap::from_pointee(clients), anyone }
    }

    /// Replaces the networks of the clients that causes are reported to.
    pub(super) fn change_clients(&self, clients: Vec<IpNet>) {
        let anyone = !clients.is_empty();
        self.clients.store(Arc::new(clients));
        self.anyone.store(anyone, Ordering::Release);
    }

    /// Returns whether causes are reported to any client.
    #[inline]
    pub(super) fn tells_anyone(&self) -> bool {
        self.anyone.load(Ordering::Acquire)
    }

    /// Returns whether causes are reported to the client.
    pub(super) fn tells(&self, peer: &Peer) -> bool {
        self.includes(peer.from.ip())
    }

    /// Returns whether causes are reported to clients at this address.
    pub(super) fn includes(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.clients.load().iter().any(|network| network.contains(&client))
    }

    /// Searches for the cause that a response reports; `None` if no cause is certain.
    pub(super) fn cause(&self, name: &QueryName, qtype: u16, open: Open) -> Result<Option<Finding>, Busy> {
        let (outcome, absence) = match open {
            Open::NxDomain(_, absence) => (Outcome::NxDomain, absence),
            Open::NoData(_) => (Outcome::NoData, None),
            Open::Chain => (Outcome::Found, None),
        };
        self.asker.first(&Asked { name, qtype, outcome, absence })
    }

    /// Returns the text at `_why.NAME`, and the cause that it reports.
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

/// Returns the text if the publisher is changing the cluster, or the worker's budget is spent.
pub(super) fn busy() -> (String, CauseReport) {
    let text = "BUSY: the cause was not looked for, to keep nobody waiting; ask again".to_owned();
    (text, CauseReport::Skipped)
}

/// Returns whether a search may find a certain cause. Costs at most one look-up in the zone.
///
/// Excludes most negative responses of ordinary traffic: names with a search list applied, and queries for one address
/// family of a name that has the other.
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

/// Returns whether a nonexistent name has a form that suggests a mistake: a Pod's ordinal, an address, a wildcard, or
/// labels that lead to an existing Service.
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

/// Contents of a name, for all types.
enum Seen {
    /// Records: the number and the mnemonic of each type.
    Records(Vec<String>),
    /// No records, but the name exists: an empty non-terminal.
    Nothing,
    /// CNAME with this target.
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
