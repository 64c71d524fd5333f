//! The record index: publish, look up, serial, iterate.
//!
//! A name is found by its labels: the two of its Service lead to one immutable value, and inside it a small table of
//! numbers, without keys, leads from a label to an endpoint. So one Service is replaced by one store, no answer shows
//! half of an update (A9), a name that does not exist costs one failed look-up, and every empty non-terminal is known
//! because the value that makes it exist is known. Reverse names are found by address. The maps and their locks are
//! in this file only; no guard leaves it, and the closure that looks at what was found must not call the zone again.
//!
//! Publishing is the work of one thread at a time. Its order: new and changed Services first, then each PTR address
//! once with all its changes, then removals. Across Services there is no common instant.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::cluster::Contributor;
use crate::explain::Absence;
use crate::names::labels::Label;
use crate::names::reverse::{AddressRange, ReverseOwner, ReverseZones, reverse_name};
use crate::names::{Owner, QueryName, ServiceKey, WireName, dashed, owner, service_key};
use crate::records::{
    Addresses, ApexRecords, Contribution, OwnName, PodAddresses, PtrName, RRset, ServiceNode, ServiceRecords,
};
use crate::rtype;
use crate::rules::{PodRecords, Rules};

/// What never changes while the server runs.
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
/// The text of `dns-version.Z`.
pub const VERSION: &[u8] = b"1.1.0";

/// What a look-up came to: the outcomes of RFC 1034 section 4.3.2, and no others.
#[derive(Clone, Copy, Debug)]
pub enum Lookup<'z> {
    /// The name has records of this type.
    Found(Site<'z>, RRset<'z>),
    /// The name is an alias, and something else than the alias was asked for.
    Cname(Site<'z>, &'z WireName),
    /// The name exists and has no record of this type.
    NoData(Site<'z>),
    /// The name does not exist; why, as far as that is known beforehand.
    NxDomain(Site<'z>, Option<Absence>),
    /// The name is in no zone of ours.
    NotInZone,
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
}

/// The record index.
pub struct Zone {
    settings: Settings,
    services: Map<Box<[u8]>, Arc<Published>>,
    namespaces: Map<Box<[u8]>, NamespaceNode>,
    pods: Map<Box<[u8]>, PodAddresses>,
    names_of_v4: Map<u32, PtrSet>,
    names_of_v6: Map<u128, PtrSet>,
    /// The addresses of the two maps above, in order: to tell whether one is in a range.
    order: RwLock<Order>,
    reverse: ArcSwap<ReverseZones>,
    apex: ArcSwap<ApexRecords>,
    serial: AtomicU32,
    hasher: RandomState,
}

type Map<K, V> = DashMap<K, V, RandomState>;

/// One Service's records with the numbers of its endpoints by their labels.
struct Published {
    records: ServiceRecords,
    index: HashTable<u32>,
}

#[derive(Default)]
struct NamespaceNode {
    /// It exists without any Service.
    declared: bool,
    /// Services whose names exist in it.
    services: u32,
}

/// The names of one address, in the order in which they are answered.
enum PtrSet {
    One(PtrName),
    // Boxed, so that a set is 16 octets: nearly every address has one name.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<PtrName>>),
}

impl PtrSet {
    fn names(&self) -> &[PtrName] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

#[derive(Default)]
struct Order {
    v4: BTreeSet<u32>,
    v6: BTreeSet<u128>,
}

impl Zone {
    /// An empty zone: its apexes exist, and the names that their form gives.
    pub fn new(settings: Settings, reverse: ReverseZones) -> Self {
        let hasher = RandomState::default();
        Self {
            settings,
            services: DashMap::with_hasher(hasher.clone()),
            namespaces: DashMap::with_hasher(hasher.clone()),
            pods: DashMap::with_hasher(hasher.clone()),
            names_of_v4: DashMap::with_hasher(hasher.clone()),
            names_of_v6: DashMap::with_hasher(hasher.clone()),
            order: RwLock::default(),
            reverse: ArcSwap::from_pointee(reverse),
            apex: ArcSwap::default(),
            serial: AtomicU32::new(0),
            hasher,
        }
    }

    /// What the zone was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
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

    /// How many Services have a name that exists, and how many addresses have one.
    pub fn size(&self) -> (usize, usize) {
        (self.services.len(), self.names_of_v4.len() + self.names_of_v6.len())
    }

    /// A name with addresses to try: that of the Service with the most, of several the first by name; the name
    /// server's where no Service has any.
    pub fn example(&self) -> WireName {
        let apex = &self.settings.apexes[0];
        let with_addresses = self.services.iter().filter_map(|published| {
            let RRset::A(addresses) = published.records.rrset(ServiceNode::Service, rtype::A)? else { return None };
            let name = below_service(apex, published.records.name.key(), &[])?;
            Some((std::cmp::Reverse(addresses.len()), canonical(&name), name))
        });
        let name = with_addresses.min().map(|(_, _, name)| name);
        name.or_else(|| below(apex, &[b"ns", b"dns"])).unwrap_or_else(|| apex.clone())
    }

    /// Looks up the records of type `qtype` at `name`, and shows `see` what was found.
    ///
    /// `qtype` may be ANY: then one RRset is found (RFC 8482 section 4.1). `see` must not call the zone again.
    pub fn look_up<R>(&self, name: &QueryName, qtype: u16, see: impl FnOnce(Lookup<'_>) -> R) -> R {
        for apex in &self.settings.apexes {
            if let Some(apex_at) = name.apex_at(apex) {
                let site = Site { apex, apex_at, forward: apex, address: None };
                return self.look_up_forward(site, owner(name, apex_at), qtype, see);
            }
        }
        let zones = self.reverse.load();
        match zones.find(name) {
            None => see(Lookup::NotInZone),
            Some((apex, apex_at, owner)) => {
                let site = Site { apex, apex_at, forward: &self.settings.apexes[0], address: None };
                self.look_up_reverse(site, owner, qtype, see)
            }
        }
    }

    fn look_up_forward<R>(&self, site: Site<'_>, owner: Owner<'_>, qtype: u16, see: impl FnOnce(Lookup<'_>) -> R) -> R {
        let found = |rrset| found(site, rrset);
        let exists = |exists| if exists { Lookup::NoData(site) } else { Lookup::NxDomain(site, None) };
        match owner {
            Owner::Service(key) | Owner::Endpoint(key, _) | Owner::Protocol(key, _) | Owner::Port(key, ..) => {
                match self.services.get(key.0) {
                    Some(published) => see(published.look_up(self, site, owner, qtype)),
                    None => see(Lookup::NxDomain(site, None)),
                }
            }
            Owner::Apex => see(found(apex_rrset(qtype))),
            // Their names are part of the form of every zone, whether anything stands below them now or not.
            Owner::Structure => see(Lookup::NoData(site)),
            Owner::NameServer => {
                let apex = self.apex.load();
                see(found(address_rrset(&apex.v4, &apex.v6, qtype)))
            }
            Owner::Version => see(found(typed(qtype, &[rtype::TXT], |_| Some(RRset::Txt(VERSION))))),
            Owner::Namespace(namespace) => see(exists(self.namespaces.contains_key(namespace))),
            Owner::PodNamespace(namespace) => see(exists(self.has_pod_names(namespace))),
            Owner::PodAddress(namespace, label) => match self.pod_address(namespace, label) {
                Some(IpAddr::V4(v4)) => see(found(address_rrset(&[v4.into()], &[], qtype))),
                Some(IpAddr::V6(v6)) => see(found(address_rrset(&[], &[v6.into()], qtype))),
                None => see(Lookup::NxDomain(site, None)),
            },
            Owner::Nothing => see(Lookup::NxDomain(site, None)),
        }
    }

    fn look_up_reverse<R>(
        &self,
        site: Site<'_>,
        owner: ReverseOwner,
        qtype: u16,
        see: impl FnOnce(Lookup<'_>) -> R,
    ) -> R {
        match owner {
            ReverseOwner::Apex(_) => see(found(site, apex_rrset(qtype))),
            ReverseOwner::Between(range) if self.any_in(&range) => see(Lookup::NoData(site)),
            ReverseOwner::Address(IpAddr::V4(v4)) => {
                let names = self.names_of_v4.get(&v4.into());
                see(self.ptr(site, v4.into(), names.as_deref(), qtype))
            }
            ReverseOwner::Address(IpAddr::V6(v6)) => {
                let names = self.names_of_v6.get(&v6.into());
                see(self.ptr(site, v6.into(), names.as_deref(), qtype))
            }
            ReverseOwner::Between(_) | ReverseOwner::Nothing => see(Lookup::NxDomain(site, None)),
        }
    }

    fn ptr<'z>(&self, site: Site<'z>, address: IpAddr, names: Option<&'z PtrSet>, qtype: u16) -> Lookup<'z> {
        let Some(names) = names else { return Lookup::NxDomain(site, None) };
        let names = answered_names(names.names(), self.settings.rules.ptr);
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

    fn any_in(&self, range: &AddressRange) -> bool {
        let order = self.order.read().unwrap_or_else(PoisonError::into_inner);
        match range {
            AddressRange::V4(range) => order.v4.range(range.clone()).next().is_some(),
            AddressRange::V6(range) => order.v6.range(range.clone()).next().is_some(),
        }
    }
}

impl Published {
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
                None => absent(self.expected(label)),
            },
            Owner::Service(_) if !records.exists() => absent(None),
            Owner::Service(_) => match records.external_name() {
                Some(target) => Lookup::Cname(site, target),
                None => at(ServiceNode::Service),
            },
            Owner::Protocol(_, protocol) if records.has_protocol(protocol) => Lookup::NoData(site),
            Owner::Port(_, port, protocol) => match records.port(port, protocol) {
                Some(port) => at(ServiceNode::Port(port)),
                None => absent(None),
            },
            _ => absent(None),
        }
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

fn found<'z>(site: Site<'z>, rrset: Option<RRset<'z>>) -> Lookup<'z> {
    rrset.map_or(Lookup::NoData(site), |rrset| Lookup::Found(site, rrset))
}

/// The names that an address is answered with: all, or those that say more than the address.
fn answered_names(names: &[PtrName], rule: crate::rules::Ptr) -> &[PtrName] {
    let telling = names.iter().take_while(|name| !name.is_dashed()).count();
    if rule == crate::rules::Ptr::HostnameOnly && telling > 0 { &names[..telling] } else { names }
}

/// Publishing.
impl Zone {
    /// Replaces what each contributor gave, and returns whether anything changed. Each is named at most once.
    ///
    /// `now` is Unix time in seconds: the serial becomes it, but never smaller (A8). One thread publishes at a time.
    pub fn publish(&self, changes: Vec<(Contributor, Contribution)>, now: u32) -> bool {
        let mut reverse = ReverseChanges::default();
        let mut removals = Vec::new();
        let mut changed = false;
        for (contributor, contribution) in changes {
            changed |= match (contributor, contribution) {
                (_, Contribution::Apex(records)) => self.publish_apex(records),
                (Contributor::Namespace(name), Contribution::Namespace(exists)) => {
                    self.change_namespace(name.as_bytes(), |node| node.declared = exists)
                }
                (Contributor::PodAddresses(name), Contribution::PodAddresses(pods)) => self.publish_pods(&name, &pods),
                (Contributor::Service(key), Contribution::Service(records)) => {
                    let Some(key) = service_key(&key.namespace, &key.name) else { continue };
                    match records {
                        Some(records) => self.publish_service(key, *records, &mut reverse),
                        None => {
                            removals.push(key);
                            false
                        }
                    }
                }
                (contributor, _) => unreachable!("{contributor:?} contributes its own kind"),
            };
        }
        for key in &removals {
            if let Some(old) = self.services.get(&**key) {
                reverse.replace(self, Some(&old), None);
            }
        }
        for (address, change) in reverse.changes {
            self.publish_reverse(address, change);
        }
        for key in removals {
            changed |= self.remove_service(&key);
        }
        if changed {
            self.serial.fetch_max(now, Ordering::Relaxed);
        }
        changed
    }

    /// Sets the reverse zones served, and returns whether they changed.
    pub fn set_reverse_zones(&self, zones: ReverseZones) -> bool {
        let changed = **self.reverse.load() != zones;
        if changed {
            self.reverse.store(Arc::new(zones));
        }
        changed
    }

    fn publish_apex(&self, records: ApexRecords) -> bool {
        let changed = **self.apex.load() != records;
        self.apex.store(Arc::new(records));
        changed
    }

    fn publish_pods(&self, namespace: &str, pods: &PodAddresses) -> bool {
        if self.settings.rules.pod_records != PodRecords::Verified {
            return false;
        }
        if pods.is_empty() {
            return self.pods.remove(namespace.as_bytes()).is_some();
        }
        let old = self.pods.insert(namespace.as_bytes().into(), pods.clone());
        old.is_none_or(|old| old != *pods)
    }

    fn publish_service(&self, key: Box<[u8]>, mut records: ServiceRecords, reverse: &mut ReverseChanges) -> bool {
        let old = self.services.get(&*key).map(|published| Arc::clone(&published));
        if let Some(old) = &old {
            if old.records == records {
                return false;
            }
            if old.records.name == records.name {
                records.name = Arc::clone(&old.records.name);
            }
        }
        let (existed, exists) = (old.as_ref().is_some_and(|old| old.records.exists()), records.exists());
        let namespace: Box<[u8]> = ServiceKey(&key).namespace().into();
        let new = Arc::new(self.index(records));
        reverse.replace(self, old.as_deref(), Some(&new));
        if exists && !existed {
            self.change_namespace(&namespace, |node| node.services += 1);
        }
        self.services.insert(key, new);
        if existed && !exists {
            self.change_namespace(&namespace, |node| node.services -= 1);
        }
        true
    }

    fn remove_service(&self, key: &[u8]) -> bool {
        let Some((_, old)) = self.services.remove(key) else { return false };
        if old.records.exists() {
            self.change_namespace(ServiceKey(key).namespace(), |node| node.services -= 1);
        }
        true
    }

    fn index(&self, records: ServiceRecords) -> Published {
        let hash = |endpoint: u32| self.hash(records.own_name(endpoint).write(&mut [0; 63]));
        let mut index = HashTable::with_capacity(records.endpoint_names().len());
        for endpoint in 0..records.endpoint_names().len() as u32 {
            index.insert_unique(hash(endpoint), endpoint, |endpoint| hash(*endpoint));
        }
        Published { records, index }
    }

    /// Returns whether the namespace's own name came or went.
    fn change_namespace(&self, name: &[u8], change: impl FnOnce(&mut NamespaceNode)) -> bool {
        let mut node = self.namespaces.entry(name.into()).or_default();
        let exists = |node: &NamespaceNode| node.declared || node.services > 0;
        let before = exists(&node);
        change(&mut node);
        let after = exists(&node);
        drop(node);
        if !after {
            self.namespaces.remove(name);
        }
        before != after
    }

    fn publish_reverse(&self, address: IpAddr, change: ReverseChange) {
        let order = || self.order.write().unwrap_or_else(PoisonError::into_inner);
        // A name is in the order as long as it is in the map, so that a name above it never seems to be empty.
        match address {
            IpAddr::V4(v4) => {
                order().v4.insert(v4.into());
                if !change.apply(&self.names_of_v4, v4.into()) {
                    order().v4.remove(&v4.into());
                }
            }
            IpAddr::V6(v6) => {
                order().v6.insert(v6.into());
                if !change.apply(&self.names_of_v6, v6.into()) {
                    order().v6.remove(&v6.into());
                }
            }
        }
    }

    fn hash(&self, label: &[u8]) -> u64 {
        use std::hash::BuildHasher;
        self.hasher.hash_one(label)
    }
}

/// All changes to PTR RRsets in one publication, by address.
#[derive(Default)]
struct ReverseChanges {
    changes: HashMap<IpAddr, ReverseChange, RandomState>,
}

#[derive(Default)]
struct ReverseChange {
    gone: Vec<PtrName>,
    new: Vec<PtrName>,
}

impl ReverseChanges {
    /// The difference between what two states of one Service say of addresses.
    fn replace(&mut self, zone: &Zone, old: Option<&Published>, new: Option<&Published>) {
        let missing_in = |other: Option<&Published>, published: &Published| {
            let names = published.records.reverse();
            let missing = names.filter(|(address, label)| {
                !other.is_some_and(|other| other.leads_to(zone, *address, &published.records.ptr_name(*label)))
            });
            missing.map(|(address, label)| (address, published.records.ptr_name(label))).collect::<Vec<_>>()
        };
        for (address, name) in old.map(|old| missing_in(new, old)).into_iter().flatten() {
            self.changes.entry(address).or_default().gone.push(name);
        }
        for (address, name) in new.map(|new| missing_in(old, new)).into_iter().flatten() {
            self.changes.entry(address).or_default().new.push(name);
        }
    }
}

impl Published {
    /// Whether `address` leads back to this Service under `name`.
    fn leads_to(&self, zone: &Zone, address: IpAddr, name: &PtrName) -> bool {
        match name.own_name(address) {
            Some(label) => self
                .find(zone, label.write(&mut [0; 63]))
                .is_some_and(|endpoint| self.records.leads_to(endpoint, address)),
            None => match (self.records.own_addresses(), address) {
                ((v4, _), IpAddr::V4(address)) => v4.contains(&address.into()),
                ((_, v6), IpAddr::V6(address)) => v6.contains(&address.into()),
            },
        }
    }
}

impl ReverseChange {
    /// Changes the names of `address` in one step, and returns whether it has any left.
    fn apply<K: Eq + std::hash::Hash + Copy>(self, names: &Map<K, PtrSet>, address: K) -> bool {
        use dashmap::Entry;
        let same = |a: &PtrName, b: &PtrName| a.rank(b).is_eq();
        match names.entry(address) {
            Entry::Vacant(entry) => match PtrSet::from_names(self.new) {
                Some(set) => !entry.insert(set).names().is_empty(),
                None => false,
            },
            Entry::Occupied(mut entry) => {
                let mut left = entry.get().names().to_vec();
                left.retain(|name| !self.gone.iter().any(|gone| same(gone, name)));
                left.extend(self.new);
                match PtrSet::from_names(left) {
                    Some(set) => {
                        entry.insert(set);
                        true
                    }
                    None => {
                        entry.remove();
                        false
                    }
                }
            }
        }
    }
}

impl PtrSet {
    fn from_names(mut names: Vec<PtrName>) -> Option<Self> {
        names.sort_by(PtrName::rank);
        names.dedup_by(|a, b| a.rank(b).is_eq());
        match names.len() {
            0 | 1 => names.pop().map(Self::One),
            _ => Some(Self::Many(Box::new(names))),
        }
    }
}

/// One record of the zone, as a zone file has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// The owner name.
    pub owner: WireName,
    /// TTL in seconds.
    pub ttl: u32,
    /// Type and data.
    pub data: RecordData,
}

/// The data of a [`Record`], by its type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)] // the types are those of the RFCs
pub enum RecordData {
    Soa { name_server: WireName, mailbox: WireName, serial: u32, minimum: u32 },
    Ns(WireName),
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Txt(Box<[u8]>),
    Cname(WireName),
    Srv { priority: u16, weight: u16, port: u16, target: WireName },
    Ptr(WireName),
}

/// SOA timers, in seconds: refresh, retry, expire (A8).
pub const SOA_TIMERS: [u32; 3] = [7200, 1800, 86400];

/// Iterating.
impl Zone {
    /// The apexes of all zones: the forward ones, then the reverse ones.
    pub fn origins(&self) -> Vec<WireName> {
        let mut origins = self.settings.apexes.clone();
        origins.extend_from_slice(self.reverse.load().apexes());
        origins
    }

    /// All records of the zone `origin`, the SOA first, the rest in canonical order (RFC 4034 section 6.1). `None`
    /// for a zone that is not served. What is made from the question (`--pod-records insecure`) is not in it.
    pub fn records(&self, origin: &WireName) -> Option<Vec<Record>> {
        let mut records = if self.settings.apexes.contains(origin) {
            self.forward_records(origin)
        } else {
            self.reverse_records(origin, &self.reverse.load().range_of(origin)?)
        };
        records.sort_by_cached_key(|record| (canonical(&record.owner), record.data.clone()));
        records.dedup();
        let forward = if self.settings.apexes.contains(origin) { origin } else { &self.settings.apexes[0] };
        let soa = RecordData::Soa {
            name_server: below(forward, &[b"ns", b"dns"])?,
            mailbox: below(forward, &[b"hostmaster"])?,
            serial: self.serial(),
            minimum: self.settings.negative_ttl,
        };
        let soa = Record { owner: origin.clone(), ttl: self.settings.negative_ttl, data: soa };
        let ns = Record {
            owner: origin.clone(),
            ttl: self.settings.ttl,
            data: RecordData::Ns(below(forward, &[b"ns", b"dns"])?),
        };
        records.splice(0..0, [soa, ns]);
        Some(records)
    }

    fn forward_records(&self, origin: &WireName) -> Vec<Record> {
        let mut out = Out { records: Vec::new(), origin, ttl: self.settings.ttl };
        let apex = self.apex.load();
        for rtype in [rtype::A, rtype::AAAA] {
            out.rrset(below(origin, &[b"ns", b"dns"]).as_ref(), address_rrset(&apex.v4, &apex.v6, rtype));
        }
        if let Some(owner) = below(origin, &[b"dns-version"]) {
            out.records.push(Record { owner, ttl: VERSION_TTL, data: RecordData::Txt(VERSION.into()) });
        }
        for published in &self.services {
            out.service(&published.records);
        }
        for pods in &self.pods {
            for address in pods.iter() {
                let mut buffer = [0; 63];
                let owner = below(origin, &[dashed::write(address, &mut buffer), pods.key(), b"pod"]);
                let data = match address {
                    IpAddr::V4(v4) => RecordData::A(v4),
                    IpAddr::V6(v6) => RecordData::Aaaa(v6),
                };
                out.record(owner, data);
            }
        }
        out.records
    }

    fn reverse_records(&self, origin: &WireName, range: &AddressRange) -> Vec<Record> {
        let mut out = Out { records: Vec::new(), origin, ttl: self.settings.ttl };
        let rule = self.settings.rules.ptr;
        let mut address = |address: IpAddr, names: &PtrSet| {
            for name in answered_names(names.names(), rule) {
                let target = endpoint_name(&self.settings.apexes[0], name.service.key(), name.own_name(address));
                if let Some(target) = target {
                    out.record(Some(reverse_name(address)), RecordData::Ptr(target));
                }
            }
        };
        match range {
            AddressRange::V4(range) => {
                for names in self.names_of_v4.iter().filter(|names| range.contains(names.key())) {
                    address(Ipv4Addr::from(*names.key()).into(), &names);
                }
            }
            AddressRange::V6(range) => {
                for names in self.names_of_v6.iter().filter(|names| range.contains(names.key())) {
                    address(Ipv6Addr::from(*names.key()).into(), &names);
                }
            }
        }
        out.records
    }
}

/// The records of a zone while they are collected.
struct Out<'z> {
    records: Vec<Record>,
    origin: &'z WireName,
    ttl: u32,
}

impl Out<'_> {
    fn service(&mut self, records: &ServiceRecords) {
        let key = records.name.key();
        let own = below_service(self.origin, key, &[]);
        if let Some(target) = records.external_name() {
            self.record(own, RecordData::Cname(target.clone()));
            return;
        }
        let mut nodes = vec![(own, ServiceNode::Service)];
        for (number, (port, protocol)) in records.ports().enumerate() {
            let port = [b"_", port.as_bytes()].concat();
            let owner = below_service(self.origin, key, &[&port, protocol.label().as_bytes()]);
            nodes.push((owner, ServiceNode::Port(number)));
        }
        for endpoint in 0..records.served() {
            let owner = endpoint_name(self.origin, key, Some(records.own_name(endpoint)));
            nodes.push((owner, ServiceNode::Endpoint(endpoint)));
        }
        for (owner, node) in nodes {
            for rtype in [rtype::A, rtype::AAAA, rtype::SRV] {
                self.rrset(owner.as_ref(), records.rrset(node, rtype));
            }
        }
    }

    fn rrset(&mut self, owner: Option<&WireName>, rrset: Option<RRset<'_>>) {
        match rrset {
            Some(RRset::A(addresses)) => {
                addresses.iter().for_each(|v4| self.record(owner.cloned(), RecordData::A(v4.into())));
            }
            Some(RRset::Aaaa(addresses)) => {
                addresses.iter().for_each(|v6| self.record(owner.cloned(), RecordData::Aaaa(v6.into())));
            }
            Some(RRset::Srv(servers)) => {
                for server in (0..servers.len()).map(|index| servers.get(index)) {
                    if let Some(target) = endpoint_name(self.origin, servers.service(), server.label) {
                        let (weight, port) = (servers.weight, server.port);
                        self.record(owner.cloned(), RecordData::Srv { priority: 0, weight, port, target });
                    }
                }
            }
            _ => {}
        }
    }

    /// A name over 255 octets cannot be asked for, and is not in the zone.
    fn record(&mut self, owner: Option<WireName>, data: RecordData) {
        self.records.extend(owner.map(|owner| Record { owner, ttl: self.ttl, data }));
    }
}

fn below(origin: &WireName, labels: &[&[u8]]) -> Option<WireName> {
    let mut wire = Vec::new();
    for label in labels {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label);
    }
    origin.prefixed(&wire)
}

fn below_service(origin: &WireName, key: ServiceKey<'_>, labels: &[&[u8]]) -> Option<WireName> {
    below(origin, &[labels, &[key.service(), key.namespace(), b"svc"]].concat())
}

fn endpoint_name(origin: &WireName, key: ServiceKey<'_>, label: Option<OwnName<'_>>) -> Option<WireName> {
    match label {
        Some(label) => below_service(origin, key, &[label.write(&mut [0; 63])]),
        None => below_service(origin, key, &[]),
    }
}

/// A key that sorts names in canonical order: their labels from the last to the first.
fn canonical(name: &WireName) -> Vec<Vec<u8>> {
    let mut labels: Vec<Vec<u8>> = crate::names::labels_of(name.octets()).map(<[u8]>::to_vec).collect();
    labels.reverse();
    labels
}
