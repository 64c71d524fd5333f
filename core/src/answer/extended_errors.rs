//! Causes of non-resolution in responses: which responses may report one, and the text at `_why.NAME`.
//!
//! Nothing here waits. The form of the name and at most one look-up in the zone decide whether a cause is searched for, so
//! that ordinary traffic (search lists, AAAA of IPv4-only names) never reaches the cluster. `--explain-to` limits the
//! clients, a [`TokenBucket`] the rate. Not here: the search itself (`diagnose/`).

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;

use super::{CauseReport, Peer};
use crate::diagnose::{Busy, DiagnosedQuery, Diagnostics, Finding, ZoneVerdict};
use crate::name::label_pool::is_ordinal;
use crate::name::{NameKind, QueryName, WireName, classify, guess_service};
use crate::records::{Absence, RRset};
use crate::rtype;
use crate::zone::{Lookup, Zone};

/// Time in which a worker earns one search. A search takes about 4 us, so a flood of such queries costs other clients less
/// than 1 % of the worker's time.
const REFILL_INTERVAL: Duration = Duration::from_micros(500);
/// Maximum number of searches that a worker saves up.
const MAX_TOKENS: u32 = 64;

/// Token bucket of one worker for searches of causes.
#[derive(Default)]
pub(super) struct TokenBucket {
    tokens: u32,
    refilled_at: Option<Instant>,
}

impl TokenBucket {
    /// Adds the searches earned since the last call.
    pub(super) fn refill(&mut self, now: Instant) {
        let Some(counted) = self.refilled_at else {
            (self.tokens, self.refilled_at) = (MAX_TOKENS, Some(now));
            return;
        };
        let earned = now.saturating_duration_since(counted).as_micros() / REFILL_INTERVAL.as_micros();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(MAX_TOKENS);
            self.refilled_at = Some(now);
        }
    }

    /// Takes one search from the budget. Returns false if none is left.
    pub(super) fn take(&mut self) -> bool {
        let may = self.tokens > 0;
        self.tokens -= u32::from(may);
        may
    }
}

impl Lookup<'_> {
    /// Returns the verdict and the absence that a diagnosis starts from.
    pub fn verdict(&self) -> (ZoneVerdict, Option<Absence>) {
        match self {
            Self::Found(..) | Self::Cname(..) => (ZoneVerdict::Found, None),
            Self::NoData(_) => (ZoneVerdict::NoData, None),
            Self::NxDomain(_, absence) => (ZoneVerdict::NxDomain, *absence),
            Self::NotInZone => (ZoneVerdict::NotInZone, None),
        }
    }
}

/// Non-resolution that a cause may explain.
#[derive(Clone, Copy)]
pub(super) enum Unresolved {
    /// QNAME does not exist. The first field is the label of QNAME at which the apex begins.
    NxDomain(usize, Option<Absence>),
    /// QNAME has no record of QTYPE. The field is the label of QNAME at which the apex begins.
    NoData(usize),
    /// The CNAME chain ends at a name that does not exist, or is a loop, or too long.
    Chain,
}

/// Policy and cluster handle for causes in responses.
pub(super) struct EdePolicy {
    diagnostics: Diagnostics,
    clients: ArcSwap<Vec<IpNet>>,
    /// True if `clients` is not empty, so that `clients` is loaded only if needed.
    is_enabled: AtomicBool,
}

impl EdePolicy {
    /// Creates the policy: causes that `diagnostics` finds are reported to `clients`.
    pub(super) fn new(diagnostics: Diagnostics, clients: Vec<IpNet>) -> Self {
        let is_enabled = AtomicBool::new(!clients.is_empty());
        Self { diagnostics, clients: ArcSwap::from_pointee(clients), is_enabled }
    }

    /// Replaces the networks of the clients that causes are reported to.
    pub(super) fn change_clients(&self, clients: Vec<IpNet>) {
        let is_enabled = !clients.is_empty();
        self.clients.store(Arc::new(clients));
        self.is_enabled.store(is_enabled, Ordering::Release);
    }

    /// Returns whether causes are reported to any client.
    #[inline]
    pub(super) fn is_enabled(&self) -> bool {
        self.is_enabled.load(Ordering::Acquire)
    }

    /// Returns whether causes are reported to the client.
    pub(super) fn is_allowed(&self, peer: &Peer) -> bool {
        self.includes_client(peer.from.ip())
    }

    /// Returns whether causes are reported to clients at this address.
    pub(super) fn includes_client(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        self.clients.load().iter().any(|network| network.contains(&client))
    }

    /// Searches for the cause that a response reports; `None` if no cause is certain.
    pub(super) fn cause(&self, name: &QueryName, qtype: u16, unresolved: Unresolved) -> Result<Option<Finding>, Busy> {
        let (outcome, absence) = match unresolved {
            Unresolved::NxDomain(_, absence) => (ZoneVerdict::NxDomain, absence),
            Unresolved::NoData(_) => (ZoneVerdict::NoData, None),
            Unresolved::Chain => (ZoneVerdict::Found, None),
        };
        self.diagnostics.try_best_finding(&DiagnosedQuery { name, qtype, outcome, absence })
    }

    /// Returns the text at `_why.NAME`, and the cause that it reports.
    pub(super) fn text(&self, zone: &Zone, name: &QueryName) -> (String, CauseReport) {
        let seen = lookup_all(zone, name);
        let (outcome, absence) = match &seen {
            NameContents::Records(counts) => return (format!("RESOLVES: {}", counts.join(", ")), CauseReport::None),
            NameContents::Empty => (ZoneVerdict::NoData, None),
            NameContents::Alias(_) => (ZoneVerdict::Found, None),
            NameContents::Missing(absence) => (ZoneVerdict::NxDomain, *absence),
        };
        let text = match (
            self.diagnostics.try_best_finding(&DiagnosedQuery { name, qtype: rtype::A, outcome, absence }),
            seen,
        ) {
            (Err(Busy), _) => return busy_text(),
            (Ok(Some(finding)), _) => return (finding.line(), CauseReport::Reported(finding.id_and_token().1)),
            (Ok(None), NameContents::Alias(target)) => format!("ALIAS: the name is an alias of {target}"),
            (Ok(None), NameContents::Missing(_)) => {
                format!("UNKNOWN: no cause is known for certain; run: headless-dns explain {name}")
            }
            (Ok(None), _) => "EMPTY: the name exists and has no records".to_owned(),
        };
        (text, CauseReport::None)
    }
}

/// Returns the text if the publisher is changing the cluster, or the worker's budget is spent.
pub(super) fn busy_text() -> (String, CauseReport) {
    let text = "BUSY: no search for the cause now, since it would delay other queries; query again".to_owned();
    (text, CauseReport::Skipped)
}

/// Returns whether a search may find a certain cause. Costs at most one look-up in the zone.
///
/// Excludes most negative responses of ordinary traffic: names with a search list applied, and queries for one address
/// family of a name that has the other.
pub(super) fn may_have_finding(zone: &Zone, name: &QueryName, qtype: u16, unresolved: Unresolved) -> bool {
    match unresolved {
        Unresolved::Chain | Unresolved::NxDomain(_, Some(_)) => true,
        Unresolved::NxDomain(apex_at, None) => may_refer_to_service(zone, name, apex_at),
        Unresolved::NoData(apex_at) => match qtype {
            rtype::SRV => is_service(name, apex_at),
            rtype::A if is_service(name, apex_at) => {
                zone.look_up(name, rtype::AAAA, |lookup| matches!(lookup, Lookup::NoData(_)))
            }
            _ => false,
        },
    }
}

fn is_service(name: &QueryName, apex_at: usize) -> bool {
    matches!(classify(name, apex_at), NameKind::Service(_))
}

/// Returns whether a nonexistent name has a form that suggests a mistake: a Pod's ordinal, an address, a wildcard, or
/// labels that lead to an existing Service.
fn may_refer_to_service(zone: &Zone, name: &QueryName, apex_at: usize) -> bool {
    let by_shape = match classify(name, apex_at) {
        NameKind::Service(key) => is_ordinal(key.service()),
        NameKind::Endpoint(_, label) => is_ordinal(label),
        NameKind::PodAddress(..) | NameKind::PodNamespace(_) => true,
        NameKind::Invalid => guess_service(name, apex_at).is_some_and(|service| zone.has_name(service)),
        _ => false,
    };
    by_shape || name.has_asterisk(apex_at)
}

/// Contents of a name, for all types.
enum NameContents {
    /// Records: the number and the mnemonic of each type.
    Records(Vec<String>),
    /// No records, but the name exists: an empty non-terminal.
    Empty,
    /// CNAME with this target.
    Alias(WireName),
    /// The name does not exist.
    Missing(Option<Absence>),
}

fn lookup_all(zone: &Zone, name: &QueryName) -> NameContents {
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
            Lookup::Cname(_, target) => Some(NameContents::Alias(target.clone())),
            Lookup::NxDomain(_, absence) => Some(NameContents::Missing(absence)),
            Lookup::NotInZone => Some(NameContents::Missing(None)),
        });
        if let Some(other) = other {
            return other;
        }
    }
    if counts.is_empty() { NameContents::Empty } else { NameContents::Records(counts) }
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
