//! Zone: the record index, with publish, look-up, serial and export.
//!
//! The two labels of a Service lead to one immutable value, and a small hash table of numbers in it leads from a label
//! to an endpoint. So a Service is replaced by one store, no response shows half of an update (A9), a name that does
//! not exist costs one failed look-up, and every empty non-terminal is known because the value below it is known.
//! Reverse names are found by address. Rule ids (A7, N3) are those of `tests/rows.md`.
//!
//! The maps and their locks are in this folder only. No guard leaves it, and a closure that gets the result of a
//! look-up must not call the zone again, or it can wait for a lock that its own thread holds.
//!
//! Here: the look-up. Next: `service_index.rs` and `reverse_index.rs` find Services and addresses, `publish.rs`
//! replaces contributions, `export.rs` lists all records.

mod export;
mod publish;
mod reverse_index;
mod service_index;

use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use foldhash::SharedSeed;
use foldhash::fast::SeedableRandomState;
use hashbrown::HashTable;

use crate::name::label_pool::Label;
use crate::name::reverse::{ReverseNameKind, ReverseZones};
use crate::name::{NAME_SERVER, NameKind, QueryName, ServiceKey, WireName, classify, dashed, service_of};
use crate::naming_rules::{NamingRules, PodRecords};
use crate::records::{Absence, AddressRrset, ApexRecords, PodAddresses, PtrRrset, RRset, ServiceNode, ServiceRecords};
use crate::rtype;

pub use export::{Record, RecordData};
pub use service_index::SnapshotCache;

use service_index::{ServiceIndex, ServiceTrie};

use reverse_index::ReverseIndex;

/// Settings of a zone. Only the TTLs can change later ([`Zone::set_ttls`]).
#[derive(Clone, Debug)]
pub struct Settings {
    /// Apex of the zone and its aliases, at least one, none below another. PTR records use the first.
    pub apexes: Vec<WireName>,
    /// TTL of all records except those of the apex, in seconds.
    pub ttl: u32,
    /// TTL of negative responses, and the SOA record's own TTL and MINIMUM (RFC 2308), in seconds.
    pub negative_ttl: u32,
    /// Rules by which objects have names.
    pub rules: NamingRules,
}

/// TTL of a negative response for a name that is expected to exist soon, in seconds (A7).
pub const EXPECTED_TTL: u32 = 1;
/// TTL of `dns-version.Z`, in seconds (Kubernetes DNS specification 1.1.0 section 2.2).
pub const VERSION_TTL: u32 = 28800;
/// SOA timers in seconds: refresh, retry, expire (A8).
pub const SOA_TIMERS: [u32; 3] = [7200, 1800, 86400];
/// Text of `dns-version.Z`.
pub const VERSION: &[u8] = b"1.1.0";

/// Packs two TTLs into one value.
fn pack_ttls(ttl: u32, negative: u32) -> u64 {
    u64::from(ttl) << 32 | u64::from(negative)
}

/// Outcome of a look-up: one of those of RFC 1034 section 4.3.2.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'z> {
    /// The name has records of this type.
    Found(ZoneContext<'z>, RRset<'z>),
    /// The name has a CNAME record, with this target. The outcome is independent of the QTYPE.
    Cname(ZoneContext<'z>, &'z WireName),
    /// The name exists, without records of this type.
    NoData(ZoneContext<'z>),
    /// The name does not exist, for this reason; `None` if its Service is not known either.
    NxDomain(ZoneContext<'z>, Option<Absence>),
    /// The name is in none of the zones.
    NotInZone,
}

impl Lookup<'_> {
    /// Returns the context of the zone that the name is in; `None` if it is in none.
    #[inline]
    pub fn context(&self) -> Option<&ZoneContext<'_>> {
        match self {
            Self::Found(context, _) | Self::Cname(context, _) | Self::NoData(context) | Self::NxDomain(context, _) => {
                Some(context)
            }
            Self::NotInZone => None,
        }
    }
}

/// Precomputed key of a look-up. It is valid only for the name that it was computed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupKey {
    /// Index of the forward zone plus 1; 0 for a name in none.
    apex: u32,
    /// Index of the label at which the apex begins.
    apex_at: u32,
    /// Hash of the Service's labels; 0 if the name is not at or below a Service.
    hash: u64,
}

/// Context of a look-up: the zone that the name is in.
#[derive(Clone, Copy, Debug)]
pub struct ZoneContext<'z> {
    /// Apex of the zone.
    pub apex: &'z WireName,
    /// Index of the label of the QNAME at which the apex begins.
    pub apex_at: usize,
    /// Forward zone of the names in the response: the zone of the QNAME, or the first forward zone if that is a reverse
    /// zone.
    pub forward: &'z WireName,
    /// Address that a reverse name spells; `None` if it does not spell a complete one.
    pub address: Option<IpAddr>,
    /// Number of the zone: 0 for all reverse zones of IPv4, 1 for those of IPv6, then the apexes in their order.
    pub number: usize,
}

/// Record index: all records of the zones, by name and type.
///
/// # Examples
///
/// A Service is published, and its address is looked up.
///
/// ```
/// use std::net::Ipv4Addr;
///
/// use headless_dns_core::cluster::{Cluster, Namespaces};
/// use headless_dns_core::name::{QueryName, WireName, reverse::ReverseZones};
/// use headless_dns_core::naming_rules::NamingRules;
/// use headless_dns_core::object::{Decoded, decode};
/// use headless_dns_core::records::{NameServer, RRset, contribution};
/// use headless_dns_core::rtype;
/// use headless_dns_core::zone::{Lookup, Settings, Zone};
///
/// let rules = NamingRules::default();
/// let apexes = vec![WireName::parse("cluster.local")?];
/// let zone = Zone::new(Settings { apexes, ttl: 5, negative_ttl: 5, rules }, ReverseZones::default());
///
/// let service = serde_json::json!({
///     "apiVersion": "v1",
///     "kind": "Service",
///     "metadata": {"namespace": "default", "name": "web"},
///     "spec": {"clusterIP": "10.96.0.10"},
/// });
/// let Ok(Decoded::Object(service, _)) = decode(service, "default") else { panic!("the Service is valid") };
/// let mut cluster = Cluster::new(Namespaces::Inferred, None);
/// let dirty = cluster.apply(service);
/// let records = dirty.iter().map(|contributor| contribution(&cluster, contributor, rules, &NameServer::default()).0);
/// zone.publish(records.collect(), 1_700_000_000);
/// assert_eq!(zone.serial(), 1_700_000_000);
///
/// let name = QueryName::parse("web.default.svc.cluster.local")?;
/// let addresses: Vec<Ipv4Addr> = zone.look_up(&name, rtype::A, |lookup| match lookup {
///     Lookup::Found(_, RRset::A(addresses)) => addresses.iter().map(Ipv4Addr::from).collect(),
///     other => panic!("not found: {other:?}"),
/// });
/// assert_eq!(addresses, [Ipv4Addr::new(10, 96, 0, 10)]);
/// # Ok::<(), String>(())
/// ```
pub struct Zone {
    settings: Settings,
    /// TTL of records and TTL of negative responses in one word, so that both change together.
    ttls: AtomicU64,
    services: ServiceIndex,
    namespaces: Map<Box<[u8]>, NamespaceNode>,
    pods: Map<Box<[u8]>, PodAddresses>,
    ptr_index: ReverseIndex,
    reverse: ArcSwap<ReverseZones>,
    apex: ArcSwap<ApexRecords>,
    serial: AtomicU32,
    hasher: SeedableRandomState,
    /// Label of the one namespace that is known; `None` if all are known.
    namespace_scope: Option<Box<[u8]>>,
}

type Map<K, V> = DashMap<K, V, SeedableRandomState>;

/// Records of one Service, with the numbers of its endpoints by their labels.
struct ServiceEntry {
    /// Hash of the Service's labels.
    hash: u64,
    records: ServiceRecords,
    index: HashTable<u32>,
    /// Number of the Service in the index of addresses; `None` if it has no PTR records.
    number: Option<u32>,
}

#[derive(Default)]
struct NamespaceNode {
    /// The namespace exists without any Service.
    declared: bool,
    /// Number of its Services with a name that exists.
    services: u32,
}

impl Zone {
    /// Creates a zone with the names that every zone has: the apexes and their empty non-terminals.
    pub fn new(settings: Settings, reverse: ReverseZones) -> Self {
        Self::with_hasher(settings, reverse, SeedableRandomState::random())
    }

    /// Creates a zone whose hashes are equal in each run, for counts of instructions. A server uses [`Zone::new`]: a client
    /// that knows the seed can construct names of one hash.
    pub fn with_seed(settings: Settings, reverse: ReverseZones, seed: u64) -> Self {
        Self::with_hasher(settings, reverse, SeedableRandomState::with_seed(seed, SharedSeed::global_fixed()))
    }

    fn with_hasher(settings: Settings, reverse: ReverseZones, hasher: SeedableRandomState) -> Self {
        let ttls = AtomicU64::new(pack_ttls(settings.ttl, settings.negative_ttl));
        Self {
            settings,
            ttls,
            services: ServiceIndex::default(),
            namespaces: DashMap::with_hasher(hasher.clone()),
            pods: DashMap::with_hasher(hasher.clone()),
            ptr_index: ReverseIndex::new(hasher.clone()),
            reverse: ArcSwap::from_pointee(reverse),
            apex: ArcSwap::default(),
            serial: AtomicU32::new(0),
            hasher,
            namespace_scope: None,
        }
    }

    /// Restricts the zone to one namespace. Names that could be in another are outside the zone: neither answered nor
    /// denied.
    pub fn for_namespace(self, namespace: &str) -> Self {
        Self { namespace_scope: Some(namespace.to_ascii_lowercase().into_bytes().into()), ..self }
    }

    /// Returns the settings that the zone was created with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the TTL of every record, in seconds: at first that of the settings.
    pub fn ttl(&self) -> u32 {
        (self.ttls.load(Ordering::Relaxed) >> 32) as u32
    }

    /// Returns the TTL of negative responses, in seconds: the SOA record's MINIMUM (RFC 2308 section 4).
    pub fn negative_ttl(&self) -> u32 {
        self.ttls.load(Ordering::Relaxed) as u32
    }

    /// Replaces both TTLs.
    pub fn set_ttls(&self, ttl: u32, negative: u32) {
        self.ttls.store(pack_ttls(ttl, negative), Ordering::Relaxed);
    }

    /// Returns the SOA record's serial: the Unix time of the last published change (A8).
    pub fn serial(&self) -> u32 {
        self.serial.load(Ordering::Relaxed)
    }

    /// Returns the addresses of `ns.dns.Z`.
    pub fn name_server(&self) -> Arc<ApexRecords> {
        self.apex.load_full()
    }

    /// Returns the reverse zones served.
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

    /// Returns the number of Services with a name that exists, and of addresses with a PTR record.
    pub fn size(&self) -> (usize, usize) {
        let services = self.namespaces.iter().map(|namespace| namespace.services as usize).sum();
        (services, self.ptr_index.len())
    }

    /// Returns the number of endpoint names with records, over all Services.
    pub fn endpoints(&self) -> usize {
        self.services.load().iter().map(|published| published.records.served() as usize).sum()
    }

    /// Returns a name with addresses, as an example: the Service with the most addresses, the first by name if there
    /// are several; the name server's name if no Service has an address.
    pub fn example(&self) -> WireName {
        let apex = &self.settings.apexes[0];
        let services = self.services.load();
        let with_addresses = services.iter().filter_map(|published| {
            let RRset::A(addresses) = published.records.rrset(ServiceNode::Service, rtype::A)? else { return None };
            let name = apex.for_service(published.records.name.key(), &[])?;
            Some((std::cmp::Reverse(addresses.len()), name.canonical(), name))
        });
        let name = with_addresses.min().map(|(_, _, name)| name);
        name.or_else(|| apex.prefixed(NAME_SERVER)).unwrap_or_else(|| apex.clone())
    }

    /// Returns whether a Service's name is known: it exists, or a StatefulSet names it.
    pub fn has_name(&self, service: ServiceKey<'_>) -> bool {
        self.services.load().get(self.hash(service.0), service.0).is_some()
    }

    /// Returns every known Service, as namespace and name.
    pub fn services(&self) -> Vec<(String, String)> {
        let text = |label: &[u8]| String::from_utf8_lossy(label).into_owned();
        let name = |key: ServiceKey<'_>| (text(key.namespace()), text(key.service()));
        self.services.load().iter().map(|service| name(service.records.name.key())).collect()
    }

    /// Returns every known namespace; a namespace can be in the list twice.
    pub fn namespaces(&self) -> Vec<String> {
        let text = |label: &[u8]| String::from_utf8_lossy(label).into_owned();
        let with_pods = self.pods.iter().map(|pods| text(pods.key()));
        self.namespaces.iter().map(|namespace| text(namespace.key())).chain(with_pods).collect()
    }

    /// Looks up the records of type `qtype` at `name`, and calls `visit` with the outcome.
    ///
    /// For ANY the outcome has one RRset (RFC 8482 section 4.1). `visit` must not call the zone again.
    pub fn look_up<R>(&self, name: &QueryName, qtype: u16, visit: impl FnOnce(Lookup<'_>) -> R) -> R {
        self.look_up_among(&self.services.load(), name, self.lookup_key(name), qtype, visit)
    }

    /// Looks up a name by its [`Self::lookup_key`], in the snapshot that `cache` caches between look-ups.
    #[inline]
    pub fn look_up_with<R>(
        &self,
        cache: &mut SnapshotCache,
        name: &QueryName,
        key: LookupKey,
        qtype: u16,
        visit: impl FnOnce(Lookup<'_>) -> R,
    ) -> R {
        self.look_up_among(self.services.load_cached(cache), name, key, qtype, visit)
    }

    /// Computes the zone of a name and the hash of its Service, from its octets alone.
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
    pub fn prefetch<'n>(&self, cache: &mut SnapshotCache, names: impl Iterator<Item = (&'n QueryName, LookupKey)>) {
        /// Maximum number of names to prefetch; look-ups of further names are correct, and slower.
        const MAX_NAMES: usize = 64;
        let services = self.services.load_cached(cache);
        let mut found = [None; MAX_NAMES];
        let mut count = 0;
        for ((name, key), place) in names.zip(&mut found) {
            count += 1;
            if key.hash != 0 {
                *place = services.probe(key.hash).map(|published| (name, key, published));
            }
        }
        let mut prefetched = 0;
        for (_, _, published) in found[..count].iter().flatten() {
            prefetched ^= published.prefetch();
        }
        for (name, key, published) in found[..count].iter().flatten() {
            prefetched ^= published.prefetch_below(self, name, *key);
        }
        std::hint::black_box(prefetched);
    }

    #[inline]
    fn look_up_among<R>(
        &self,
        services: &ServiceTrie,
        name: &QueryName,
        key: LookupKey,
        qtype: u16,
        visit: impl FnOnce(Lookup<'_>) -> R,
    ) -> R {
        if let Some(number) = key.apex.checked_sub(1) {
            let (number, apex_at) = (number as usize, key.apex_at as usize);
            let apex = &self.settings.apexes[number];
            let context = ZoneContext { apex, apex_at, forward: apex, address: None, number: 2 + number };
            return self.look_up_forward((services, key.hash), context, classify(name, apex_at), qtype, visit);
        }
        let zones = self.reverse.load();
        match zones.find(name) {
            None => visit(Lookup::NotInZone),
            Some((apex, apex_at, kind)) => {
                let number = usize::from(apex.octets().ends_with(b"\x03ip6\x04arpa\0"));
                let context = ZoneContext { apex, apex_at, forward: &self.settings.apexes[0], address: None, number };
                self.look_up_reverse(context, kind, qtype, visit)
            }
        }
    }

    #[inline]
    fn look_up_forward<R>(
        &self,
        (services, hash): (&ServiceTrie, u64),
        context: ZoneContext<'_>,
        kind: NameKind<'_>,
        qtype: u16,
        visit: impl FnOnce(Lookup<'_>) -> R,
    ) -> R {
        let found = |rrset| found(context, rrset);
        let exists = |exists| if exists { Lookup::NoData(context) } else { Lookup::NxDomain(context, None) };
        if let Some(scope) = &self.namespace_scope
            && kind.namespace().is_some_and(|namespace| *namespace != **scope)
        {
            return visit(Lookup::NotInZone);
        }
        // Values that the outcome borrows and the index does not own.
        let (apex, v4, v6);
        // A single call of `visit`, so that the compiler inlines it.
        visit(match kind {
            NameKind::Service(key)
            | NameKind::Endpoint(key, _)
            | NameKind::Protocol(key, _)
            | NameKind::Port(key, ..) => match services.get(hash, key.0) {
                Some(published) => published.look_up(self, context, kind, qtype),
                None => Lookup::NxDomain(context, None),
            },
            NameKind::Apex => found(apex_rrset(qtype)),
            // These names exist in every zone, even with nothing below them.
            NameKind::EmptyNonTerminal => Lookup::NoData(context),
            NameKind::NameServer => {
                apex = self.apex.load();
                found(address_rrset(&apex.v4, &apex.v6, qtype))
            }
            NameKind::Version => found(typed(qtype, &[rtype::TXT], |_| Some(RRset::Txt(VERSION)))),
            NameKind::Namespace(namespace) => exists(self.namespaces.contains_key(namespace)),
            NameKind::PodNamespace(namespace) => exists(self.has_pod_names(namespace)),
            NameKind::PodAddress(namespace, label) => match self.pod_address(namespace, label) {
                Some(IpAddr::V4(address)) => {
                    v4 = [address.into()];
                    found(address_rrset(&v4, &[], qtype))
                }
                Some(IpAddr::V6(address)) => {
                    v6 = [address.into()];
                    found(address_rrset(&[], &v6, qtype))
                }
                None => Lookup::NxDomain(context, None),
            },
            NameKind::Invalid => Lookup::NxDomain(context, None),
        })
    }

    #[inline(never)]
    fn look_up_reverse<R>(
        &self,
        context: ZoneContext<'_>,
        kind: ReverseNameKind,
        qtype: u16,
        visit: impl FnOnce(Lookup<'_>) -> R,
    ) -> R {
        match kind {
            ReverseNameKind::Apex(_) => visit(found(context, apex_rrset(qtype))),
            ReverseNameKind::EmptyNonTerminal(range) if self.ptr_index.any_in(&range) => visit(Lookup::NoData(context)),
            ReverseNameKind::Address(address) => {
                self.ptr_index.look_up(address, |names| visit(self.ptr(context, address, names, qtype)))
            }
            ReverseNameKind::EmptyNonTerminal(_) if self.namespace_scope.is_some() => visit(Lookup::NotInZone),
            ReverseNameKind::EmptyNonTerminal(_) | ReverseNameKind::Invalid => visit(Lookup::NxDomain(context, None)),
        }
    }

    fn ptr<'z>(
        &self,
        context: ZoneContext<'z>,
        address: IpAddr,
        names: Option<PtrRrset<'z>>,
        qtype: u16,
    ) -> Lookup<'z> {
        let Some(names) = names else {
            // The address may belong to a namespace that is not known.
            return if self.namespace_scope.is_some() { Lookup::NotInZone } else { Lookup::NxDomain(context, None) };
        };
        let names = answered_names(names, self.settings.rules.ptr);
        let rrset = typed(qtype, &[rtype::PTR], |_| Some(RRset::Ptr(names)));
        found(ZoneContext { address: Some(address), ..context }, rrset)
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

    /// Hashes a Service's two labels, or an endpoint's label. The hasher is seeded, so that a client cannot construct
    /// collisions.
    #[inline]
    fn hash(&self, octets: &[u8]) -> u64 {
        // `hash_one` would take another round for the length.
        let mut hasher = self.hasher.build_hasher();
        hasher.write(octets);
        hasher.finish()
    }
}

impl ServiceEntry {
    /// Returns the hash of [`Self::key`].
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }

    /// Returns the Service's two labels.
    #[inline]
    fn key(&self) -> &[u8] {
        self.records.name.key().0
    }

    #[inline]
    fn look_up<'z>(&'z self, zone: &Zone, context: ZoneContext<'z>, kind: NameKind<'_>, qtype: u16) -> Lookup<'z> {
        let records = &self.records;
        let at = |node| {
            let rrset = typed(qtype, &[rtype::A, rtype::AAAA, rtype::SRV], |rtype| records.rrset(node, rtype));
            found(context, rrset)
        };
        let absent = |why| Lookup::NxDomain(context, why);
        match kind {
            NameKind::Endpoint(_, label) => match self.find(zone, label) {
                Some(endpoint) if endpoint < records.served() => at(ServiceNode::Endpoint(endpoint)),
                Some(endpoint) => absent(records.absence(endpoint)),
                None => absent(Some(self.expected(label).unwrap_or(Absence::Unknown))),
            },
            NameKind::Service(_) if !records.exists() => absent(Some(Absence::Unknown)),
            NameKind::Service(_) => match records.external_name() {
                Some(target) => Lookup::Cname(context, target),
                None => at(ServiceNode::Service),
            },
            NameKind::Protocol(_, protocol) if records.has_protocol(protocol) => Lookup::NoData(context),
            NameKind::Port(_, port, protocol) => match records.port(port, protocol) {
                Some(port) => at(ServiceNode::Port(port)),
                None => absent(Some(Absence::Unknown)),
            },
            _ => absent(Some(Absence::Unknown)),
        }
    }

    /// Prefetches the parts that every look-up reads.
    #[inline]
    fn prefetch(&self) -> u64 {
        self.hash ^ u64::from(self.index.len() as u32) ^ self.records.prefetch()
    }

    /// Prefetches the memory one pointer further.
    #[inline]
    fn prefetch_below(&self, zone: &Zone, name: &QueryName, key: LookupKey) -> u64 {
        /// Maximum number of endpoints with columns that fit one cache line.
        const ENDPOINTS_PER_CACHE_LINE: usize = 8;
        let below = match key.apex_at.checked_sub(4) {
            // One endpoint: the memory at its number.
            Some(label) if self.index.len() > ENDPOINTS_PER_CACHE_LINE => {
                let hash = zone.hash(name.label(label as usize));
                self.index.find(hash, |_| true).map_or(0, |endpoint| self.records.prefetch_endpoint(*endpoint))
            }
            _ => self.records.prefetch_endpoint(0),
        };
        below ^ u64::from(self.key()[0])
    }

    /// Returns the number of the endpoint with this label, also if it has no records.
    fn find(&self, zone: &Zone, label: &[u8]) -> Option<u32> {
        let same = |endpoint: &u32| self.records.own_name(*endpoint).write(&mut [0; 63]) == label;
        self.index.find(zone.hash(label), same).copied()
    }

    fn expected(&self, label: &[u8]) -> Option<Absence> {
        if !self.records.expects_any() {
            return None;
        }
        self.records.expected(Label::new(std::str::from_utf8(label).ok()?))
    }
}

/// Returns the records of type `qtype`; for ANY the first RRset of `types` that exists.
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
        rtype::A => AddressRrset::all(v4).map(RRset::A),
        _ => AddressRrset::all(v6).map(RRset::Aaaa),
    })
}

#[inline]
fn found<'z>(context: ZoneContext<'z>, rrset: Option<RRset<'z>>) -> Lookup<'z> {
    rrset.map_or(Lookup::NoData(context), |rrset| Lookup::Found(context, rrset))
}

/// Returns the PTR targets that the rule keeps: all, or those with a label that is not a dashed address.
fn answered_names(names: PtrRrset<'_>, rule: crate::naming_rules::Ptr) -> PtrRrset<'_> {
    let PtrRrset::Several(several) = names else { return names };
    let telling = several.iter().take_while(|name| !name.ptr_target().is_dashed()).count();
    if rule == crate::naming_rules::Ptr::HostnameOnly && telling > 0 {
        PtrRrset::Several(&several[..telling])
    } else {
        names
    }
}
