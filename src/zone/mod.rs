//! The record index: publish, look up, serial, iterate.
//!
//! A name is found by its labels: the two of its Service lead to one immutable value, and inside it a small table of
//! numbers, without keys, leads from a label to an endpoint. So one Service is replaced by one store, no answer shows
//! half of an update (A9), a name that does not exist costs one failed look-up, and every empty non-terminal is known
//! because the value that makes it exist is known. Reverse names are found by address. The maps and their locks are
//! in this folder only; no guard leaves it, and the closure that looks at what was found must not call the zone again.
//!
//! Here: the look-up. Beside it: `services.rs` finds Services, `reverse.rs` addresses, `publish.rs` replaces what
//! contributors gave, `records.rs` iterates.

mod publish;
mod records;
mod reverse;
mod services;

use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::explain::{Absence, Outcome};
use crate::names::labels::Label;
use crate::names::reverse::{ReverseOwner, ReverseZones};
use crate::names::{NAME_SERVER, Owner, QueryName, ServiceKey, WireName, dashed, owner, service_of};
use crate::records::{Addresses, ApexRecords, PodAddresses, Pointers, RRset, ServiceNode, ServiceRecords};
use crate::rtype;
use crate::rules::{PodRecords, Rules};

pub use records::{Record, RecordData};
pub use services::View;

use services::{Index, Services};

use reverse::ReverseIndex;

/// What a zone is made with. Nothing of it changes but the TTLs ([`Zone::set_ttls`]).
#[derive(Clone, Debug)]
pub struct Settings {
    /// The zone and its aliases, at least one, none below another. PTR records use the first.
    pub apexes: Vec<WireName>,
    /// TTL of all records but those of the apex, in seconds.
    pub ttl: u32,
    /// TTL of negative answers, and the SOA's own and MINIMUM (RFC 2308), in seconds.
    pub negative_ttl: u32,
    /// Which names exist.
    pub rules: Rules,
}

/// TTL of a negative answer for a name that is expected to exist soon, in seconds (A7).
pub const EXPECTED_TTL: u32 = 1;
/// TTL of `dns-version.Z`, in seconds (Kubernetes DNS specification 1.1.0 section 2.2).
pub const VERSION_TTL: u32 = 28800;
/// SOA timers, in seconds: refresh, retry, expire (A8).
pub const SOA_TIMERS: [u32; 3] = [7200, 1800, 86400];
/// The text of `dns-version.Z`.
pub const VERSION: &[u8] = b"1.1.0";

/// Two TTLs as one value.
fn both(ttl: u32, negative: u32) -> u64 {
    u64::from(ttl) << 32 | u64::from(negative)
}

/// What a look-up came to: the outcomes of RFC 1034 section 4.3.2, and no others.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'z> {
    /// The name has records of this type.
    Found(Site<'z>, RRset<'z>),
    /// The name is an alias, and something else than the alias was asked for.
    Cname(Site<'z>, &'z WireName),
    /// The name exists and has no record of this type.
    NoData(Site<'z>),
    /// The name does not exist; why, as far as that is known beforehand: `None` where not even its Service is known.
    NxDomain(Site<'z>, Option<Absence>),
    /// The name is in no zone of ours.
    NotInZone,
}

impl Lookup<'_> {
    /// Where in a zone the name stands; `None` where it is in none.
    #[inline]
    pub fn site(&self) -> Option<&Site<'_>> {
        match self {
            Self::Found(site, _) | Self::Cname(site, _) | Self::NoData(site) | Self::NxDomain(site, _) => Some(site),
            Self::NotInZone => None,
        }
    }

    /// What there is to explain about it.
    pub fn outcome(&self) -> (Outcome, Option<Absence>) {
        match self {
            Self::Found(..) | Self::Cname(..) => (Outcome::Found, None),
            Self::NoData(_) => (Outcome::NoData, None),
            Self::NxDomain(_, absence) => (Outcome::NxDomain, *absence),
            Self::NotInZone => (Outcome::NotInZone, None),
        }
    }
}

/// Where the look-up of one name begins. It is of use only together with the name that it was computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupKey {
    /// The number of the forward zone plus 1; 0 for a name that is in none.
    apex: u32,
    /// The number of the label at which its apex begins.
    apex_at: u32,
    /// Of the labels of the Service at or below which the name would stand, if there is one.
    hash: u64,
}

/// Where in a zone a name stands.
#[derive(Clone, Copy, Debug)]
pub struct Site<'z> {
    /// The apex of the zone.
    pub apex: &'z WireName,
    /// The number of the label of the question at which the apex begins.
    pub apex_at: usize,
    /// The forward zone under which names in the answer stand: the one that was asked, for a reverse zone the first.
    pub forward: &'z WireName,
    /// The address that a reverse name spells, where it spells a whole one.
    pub address: Option<IpAddr>,
    /// The number of the zone: 0 for all reverse ones of IPv4, 1 for those of IPv6, then the apexes in their order.
    pub number: usize,
}

/// The record index.
pub struct Zone {
    settings: Settings,
    /// The TTL of records and that of denials, which change together.
    ttls: AtomicU64,
    services: Index,
    namespaces: Map<Box<[u8]>, NamespaceNode>,
    pods: Map<Box<[u8]>, PodAddresses>,
    names_of: ReverseIndex,
    reverse: ArcSwap<ReverseZones>,
    apex: ArcSwap<ApexRecords>,
    serial: AtomicU32,
    hasher: RandomState,
    /// The one namespace that is known, where not all are.
    only: Option<Box<[u8]>>,
}

type Map<K, V> = DashMap<K, V, RandomState>;

/// One Service's records with the numbers of its endpoints by their labels.
struct Published {
    /// Of its labels.
    hash: u64,
    records: ServiceRecords,
    index: HashTable<u32>,
    /// In the index of addresses, where any leads back to it.
    number: Option<u32>,
}

#[derive(Default)]
struct NamespaceNode {
    /// It exists without any Service.
    declared: bool,
    /// Services whose names exist in it.
    services: u32,
}

impl Zone {
    /// An empty zone: its apexes exist, and the names that their form gives.
    pub fn new(settings: Settings, reverse: ReverseZones) -> Self {
        let hasher = RandomState::default();
        let ttls = AtomicU64::new(both(settings.ttl, settings.negative_ttl));
        Self {
            settings,
            ttls,
            services: Index::default(),
            namespaces: DashMap::with_hasher(hasher.clone()),
            pods: DashMap::with_hasher(hasher.clone()),
            names_of: ReverseIndex::new(hasher.clone()),
            reverse: ArcSwap::from_pointee(reverse),
            apex: ArcSwap::default(),
            serial: AtomicU32::new(0),
            hasher,
            only: None,
        }
    }

    /// The same where one namespace is all that is known: what could stand in another is no name of this zone, and is
    /// neither answered nor denied.
    pub fn of_namespace(self, namespace: &str) -> Self {
        Self { only: Some(namespace.to_ascii_lowercase().into_bytes().into()), ..self }
    }

    /// What the zone was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The TTL of every record, in seconds: at first that of the settings.
    pub fn ttl(&self) -> u32 {
        (self.ttls.load(Ordering::Relaxed) >> 32) as u32
    }

    /// The TTL of denials, in seconds: the SOA's MINIMUM (RFC 2308 section 4).
    pub fn negative_ttl(&self) -> u32 {
        self.ttls.load(Ordering::Relaxed) as u32
    }

    /// Both, from now on.
    pub fn set_ttls(&self, ttl: u32, negative: u32) {
        self.ttls.store(both(ttl, negative), Ordering::Relaxed);
    }

    /// The SOA's serial: Unix time of the last change that was published (A8).
    pub fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// The addresses of `ns.dns.Z`.
    pub fn name_server(&self) -> Arc<ApexRecords> {
        self.apex.load_full()
    }

    /// The reverse zones served.
    pub fn reverse_zones(&self) -> Arc<ReverseZones> {
        self.reverse.load_full()
    }

    /// Returns whether one of the zones is below `name`, which is in none of them. Then the name exists (RFC 8020).
    pub fn has_zone_below(&self, name: &QueryName) -> bool {
        let (name, reverse, mut apex) = (name.to_wire(), self.reverse.load(), QueryName::default());
        self.settings.apexes.iter().chain(reverse.apexes()).any(|zone| {
            apex.set(zone);
            apex.apex_at(&name).is_some()
        })
    }

    /// How many Services have a name that exists, and how many addresses have one.
    pub fn size(&self) -> (usize, usize) {
        let services = self.namespaces.iter().map(|namespace| namespace.services as usize).sum();
        (services, self.names_of.len())
    }

    /// Returns the number of names of endpoints that are answered, over all Services.
    pub fn endpoints(&self) -> usize {
        self.services.load().iter().map(|published| published.records.served() as usize).sum()
    }

    /// A name with addresses to try: that of the Service with the most, of several the first by name; the name
    /// server's where no Service has any.
    pub fn example(&self) -> WireName {
        let apex = &self.settings.apexes[0];
        let services = self.services.load();
        let with_addresses = services.iter().filter_map(|published| {
            let RRset::A(addresses) = published.records.rrset(ServiceNode::Service, rtype::A)? else { return None };
            let name = apex.of_service(published.records.name.key(), &[])?;
            Some((std::cmp::Reverse(addresses.len()), name.canonical(), name))
        });
        let name = with_addresses.min().map(|(_, _, name)| name);
        name.or_else(|| apex.prefixed(NAME_SERVER)).unwrap_or_else(|| apex.clone())
    }

    /// Whether anything is known of a Service's name: it exists, or a StatefulSet names it.
    pub fn knows(&self, service: ServiceKey<'_>) -> bool {
        self.services.load().get(self.hash(service.0), service.0).is_some()
    }

    /// Every Service of which anything is known, by namespace and name.
    pub fn services(&self) -> Vec<(String, String)> {
        let text = |label: &[u8]| String::from_utf8_lossy(label).into_owned();
        let name = |key: ServiceKey<'_>| (text(key.namespace()), text(key.service()));
        self.services.load().iter().map(|service| name(service.records.name.key())).collect()
    }

    /// Every namespace of which anything is known; one may come twice.
    pub fn namespaces(&self) -> Vec<String> {
        let text = |label: &[u8]| String::from_utf8_lossy(label).into_owned();
        let with_pods = self.pods.iter().map(|pods| text(pods.key()));
        self.namespaces.iter().map(|namespace| text(namespace.key())).chain(with_pods).collect()
    }

    /// Looks up the records of type `qtype` at `name`, and shows `see` what was found.
    ///
    /// `qtype` may be ANY: then one RRset is found (RFC 8482 section 4.1). `see` must not call the zone again.
    pub fn look_up<R>(&self, name: &QueryName, qtype: u16, see: impl FnOnce(Lookup<'_>) -> R) -> R {
        self.look_up_among(&self.services.load(), name, self.lookup_key(name), qtype, see)
    }

    /// Looks up a name by its [`Self::lookup_key`], in the snapshot that `view` keeps between look-ups.
    #[inline]
    pub fn look_up_with<R>(
        &self,
        view: &mut View,
        name: &QueryName,
        key: LookupKey,
        qtype: u16,
        see: impl FnOnce(Lookup<'_>) -> R,
    ) -> R {
        self.look_up_among(self.services.seen_by(view), name, key, qtype, see)
    }

    /// Which zone a name is in, and of which Service, by its octets alone.
    #[inline]
    pub fn lookup_key(&self, name: &QueryName) -> LookupKey {
        for (number, apex) in self.settings.apexes.iter().enumerate() {
            if let Some(apex_at) = name.apex_at(apex) {
                let hash = service_of(name, apex_at).map_or(0, |key| self.hash(key.0));
                return LookupKey { apex: number as u32 + 1, apex_at: apex_at as u32, hash };
            }
        }
        LookupKey::default()
    }

    /// Prefetches the memory that the look-ups of these names will read, level by level for all names, so that their
    /// cache misses overlap.
    pub fn prefetch<'n>(&self, view: &mut View, names: impl Iterator<Item = (&'n QueryName, LookupKey)>) {
        /// Of more names the rest are not touched: so many come together at the most.
        const MOST: usize = 64;
        let services = self.services.seen_by(view);
        let mut found = [None; MOST];
        let mut count = 0;
        for ((name, key), place) in names.zip(&mut found) {
            count += 1;
            if key.hash != 0 {
                *place = services.likely(key.hash).map(|published| (name, key, published));
            }
        }
        let mut touched = 0;
        for (_, _, published) in found[..count].iter().flatten() {
            touched ^= published.touch();
        }
        for (name, key, published) in found[..count].iter().flatten() {
            touched ^= published.touch_below(self, name, *key);
        }
        std::hint::black_box(touched);
    }

    #[inline]
    fn look_up_among<R>(
        &self,
        services: &Services,
        name: &QueryName,
        key: LookupKey,
        qtype: u16,
        see: impl FnOnce(Lookup<'_>) -> R,
    ) -> R {
        if let Some(number) = key.apex.checked_sub(1) {
            let (number, apex_at) = (number as usize, key.apex_at as usize);
            let apex = &self.settings.apexes[number];
            let site = Site { apex, apex_at, forward: apex, address: None, number: 2 + number };
            return self.look_up_forward((services, key.hash), site, owner(name, apex_at), qtype, see);
        }
        let zones = self.reverse.load();
        match zones.find(name) {
            None => see(Lookup::NotInZone),
            Some((apex, apex_at, owner)) => {
                let number = usize::from(apex.octets().ends_with(b"\x03ip6\x04arpa\0"));
                let site = Site { apex, apex_at, forward: &self.settings.apexes[0], address: None, number };
                self.look_up_reverse(site, owner, qtype, see)
            }
        }
    }

    #[inline]
    fn look_up_forward<R>(
        &self,
        (services, hash): (&Services, u64),
        site: Site<'_>,
        owner: Owner<'_>,
        qtype: u16,
        see: impl FnOnce(Lookup<'_>) -> R,
    ) -> R {
        let found = |rrset| found(site, rrset);
        let exists = |exists| if exists { Lookup::NoData(site) } else { Lookup::NxDomain(site, None) };
        if let Some(only) = &self.only
            && owner.namespace().is_some_and(|namespace| *namespace != **only)
        {
            return see(Lookup::NotInZone);
        }
        // What a look-up refers to, where nobody else holds it.
        let (apex, v4, v6);
        // One call of `see`, so that it becomes a part of this function.
        see(match owner {
            Owner::Service(key) | Owner::Endpoint(key, _) | Owner::Protocol(key, _) | Owner::Port(key, ..) => {
                match services.get(hash, key.0) {
                    Some(published) => published.look_up(self, site, owner, qtype),
                    None => Lookup::NxDomain(site, None),
                }
            }
            Owner::Apex => found(apex_rrset(qtype)),
            // Their names are part of the form of every zone, whether anything stands below them now or not.
            Owner::Structure => Lookup::NoData(site),
            Owner::NameServer => {
                apex = self.apex.load();
                found(address_rrset(&apex.v4, &apex.v6, qtype))
            }
            Owner::Version => found(typed(qtype, &[rtype::TXT], |_| Some(RRset::Txt(VERSION)))),
            Owner::Namespace(namespace) => exists(self.namespaces.contains_key(namespace)),
            Owner::PodNamespace(namespace) => exists(self.has_pod_names(namespace)),
            Owner::PodAddress(namespace, label) => match self.pod_address(namespace, label) {
                Some(IpAddr::V4(address)) => {
                    v4 = [address.into()];
                    found(address_rrset(&v4, &[], qtype))
                }
                Some(IpAddr::V6(address)) => {
                    v6 = [address.into()];
                    found(address_rrset(&[], &v6, qtype))
                }
                None => Lookup::NxDomain(site, None),
            },
            Owner::Nothing => Lookup::NxDomain(site, None),
        })
    }

    #[inline(never)]
    fn look_up_reverse<R>(
        &self,
        site: Site<'_>,
        owner: ReverseOwner,
        qtype: u16,
        see: impl FnOnce(Lookup<'_>) -> R,
    ) -> R {
        match owner {
            ReverseOwner::Apex(_) => see(found(site, apex_rrset(qtype))),
            ReverseOwner::Between(range) if self.names_of.any_in(&range) => see(Lookup::NoData(site)),
            ReverseOwner::Address(address) => {
                self.names_of.look_up(address, |names| see(self.ptr(site, address, names, qtype)))
            }
            ReverseOwner::Between(_) if self.only.is_some() => see(Lookup::NotInZone),
            ReverseOwner::Between(_) | ReverseOwner::Nothing => see(Lookup::NxDomain(site, None)),
        }
    }

    fn ptr<'z>(&self, site: Site<'z>, address: IpAddr, names: Option<Pointers<'z>>, qtype: u16) -> Lookup<'z> {
        let Some(names) = names else {
            // It may belong to a namespace that is not known.
            return if self.only.is_some() { Lookup::NotInZone } else { Lookup::NxDomain(site, None) };
        };
        let names = answered_names(names, self.settings.rules.ptr);
        let rrset = typed(qtype, &[rtype::PTR], |_| Some(RRset::Ptr(names)));
        found(Site { address: Some(address), ..site }, rrset)
    }

    fn has_pod_names(&self, namespace: &[u8]) -> bool {
        match self.settings.rules.pod_records {
            PodRecords::Off => false,
            PodRecords::Insecure => self.namespaces.contains_key(namespace),
            PodRecords::Verified => self.pods.contains_key(namespace),
        }
    }

    fn pod_address(&self, namespace: &[u8], label: &[u8]) -> Option<IpAddr> {
        let address = dashed::parse(label)?;
        let known = match self.settings.rules.pod_records {
            PodRecords::Verified => self.pods.get(namespace).is_some_and(|pods| pods.contains(address)),
            _ => self.has_pod_names(namespace),
        };
        known.then_some(address)
    }

    /// Of a Service's two labels, or of an endpoint's: seeded, so that nobody outside can make them collide.
    #[inline]
    fn hash(&self, octets: &[u8]) -> u64 {
        // Not `hash_one`, which takes another round for the length.
        let mut hasher = self.hasher.build_hasher();
        hasher.write(octets);
        hasher.finish()
    }
}

impl Published {
    /// The hash of [`Self::key`].
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }

    /// The Service's two labels.
    #[inline]
    fn key(&self) -> &[u8] {
        self.records.name.key().0
    }

    #[inline]
    fn look_up<'z>(&'z self, zone: &Zone, site: Site<'z>, owner: Owner<'_>, qtype: u16) -> Lookup<'z> {
        let records = &self.records;
        let at = |node| {
            let rrset = typed(qtype, &[rtype::A, rtype::AAAA, rtype::SRV], |rtype| records.rrset(node, rtype));
            found(site, rrset)
        };
        let absent = |why| Lookup::NxDomain(site, why);
        match owner {
            Owner::Endpoint(_, label) => match self.find(zone, label) {
                Some(endpoint) if endpoint < records.served() => at(ServiceNode::Endpoint(endpoint)),
                Some(endpoint) => absent(records.absence(endpoint)),
                None => absent(Some(self.expected(label).unwrap_or(Absence::Unlisted))),
            },
            Owner::Service(_) if !records.exists() => absent(Some(Absence::Unlisted)),
            Owner::Service(_) => match records.external_name() {
                Some(target) => Lookup::Cname(site, target),
                None => at(ServiceNode::Service),
            },
            Owner::Protocol(_, protocol) if records.has_protocol(protocol) => Lookup::NoData(site),
            Owner::Port(_, port, protocol) => match records.port(port, protocol) {
                Some(port) => at(ServiceNode::Port(port)),
                None => absent(Some(Absence::Unlisted)),
            },
            _ => absent(Some(Absence::Unlisted)),
        }
    }

    /// Reads a little of each part that every look-up reads.
    #[inline]
    fn touch(&self) -> u64 {
        self.hash ^ u64::from(self.index.len() as u32) ^ self.records.touch()
    }

    /// The same one pointer further.
    #[inline]
    fn touch_below(&self, zone: &Zone, name: &QueryName, key: LookupKey) -> u64 {
        /// The columns of so few endpoints begin and end in one line of the cache.
        const FEW: usize = 8;
        let below = match key.apex_at.checked_sub(4) {
            // One endpoint: where its number stands.
            Some(label) if self.index.len() > FEW => {
                let hash = zone.hash(name.label(label as usize));
                self.index.find(hash, |_| true).map_or(0, |endpoint| self.records.touch_endpoint(*endpoint))
            }
            _ => self.records.touch_endpoint(0),
        };
        below ^ u64::from(self.key()[0])
    }

    /// The number of the endpoint with this label, also of one that is absent.
    fn find(&self, zone: &Zone, label: &[u8]) -> Option<u32> {
        let same = |endpoint: &u32| self.records.own_name(*endpoint).write(&mut [0; 63]) == label;
        self.index.find(zone.hash(label), same).copied()
    }

    fn expected(&self, label: &[u8]) -> Option<Absence> {
        if !self.records.expects_any() {
            return None;
        }
        self.records.expected(Label::of(std::str::from_utf8(label).ok()?))
    }
}

/// The records of type `qtype`; for ANY those of the first of `types` that there are.
#[inline]
fn typed<'z>(qtype: u16, types: &[u16], of: impl Fn(u16) -> Option<RRset<'z>>) -> Option<RRset<'z>> {
    match qtype {
        rtype::ANY => types.iter().find_map(|rtype| of(*rtype)),
        _ if types.contains(&qtype) => of(qtype),
        _ => None,
    }
}

fn apex_rrset(qtype: u16) -> Option<RRset<'static>> {
    typed(qtype, &[rtype::SOA, rtype::NS], |rtype| Some(if rtype == rtype::SOA { RRset::Soa } else { RRset::Ns }))
}

fn address_rrset<'z>(v4: &'z [u32], v6: &'z [u128], qtype: u16) -> Option<RRset<'z>> {
    typed(qtype, &[rtype::A, rtype::AAAA], |rtype| match rtype {
        rtype::A => Addresses::all(v4).map(RRset::A),
        _ => Addresses::all(v6).map(RRset::Aaaa),
    })
}

#[inline]
fn found<'z>(site: Site<'z>, rrset: Option<RRset<'z>>) -> Lookup<'z> {
    rrset.map_or(Lookup::NoData(site), |rrset| Lookup::Found(site, rrset))
}

/// The names that an address is answered with: all, or those that say more than the address.
fn answered_names(names: Pointers<'_>, rule: crate::rules::Ptr) -> Pointers<'_> {
    let Pointers::Several(several) = names else { return names };
    let telling = several.iter().take_while(|name| !name.pointer().is_dashed()).count();
    if rule == crate::rules::Ptr::HostnameOnly && telling > 0 { Pointers::Several(&several[..telling]) } else { names }
}
