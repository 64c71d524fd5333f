//! Records: one contributor's view in, its records out, by the rules of Kubernetes DNS-Based Service Discovery 1.1.0.
//!
//! A Service's records are one immutable value in columns: addresses are stored side by side, the name of an endpoint
//! takes eight octets, and repeated values of a regular Service are stored once. A look-up gets an [`RRset`], a view
//! into the columns. Rule ids (N1, E3) are those of `tests/rows.md`.
//!
//! Not here: parsing of names (`name`), the index of the values (`zone`), the wire form (`wire`). Next: `build.rs`
//! makes the columns, `difference.rs` compares two states.

mod absence;
mod build;
mod difference;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::cluster::{Cluster, Contributor};
use crate::name::label_pool::{Label, LabelPool, PackedLabel, PoolRemap};
use crate::name::{ServiceKey, WireName, dashed};
use crate::naming_rules::NamingRules;
use crate::object::{ObjectRef, Protocol, Skipped};
use crate::rtype;

pub use absence::Absence;
pub use build::{pod_addresses, service_records};
pub use difference::Difference;

use absence::ExpectedOrdinals;

/// Part of the zone that one contributor publishes, with the contributor's identity.
#[derive(Clone, Debug, PartialEq)]
pub enum Contribution {
    /// Addresses of `ns.dns.Z`.
    Apex(ApexRecords),
    /// A namespace, and whether it exists without any Service in it.
    Namespace(Box<str>, bool),
    /// A Service's records; `None` if there is nothing to serve or to expect below its name.
    Service(ObjectRef, Option<Box<ServiceRecords>>),
    /// Addresses of a namespace's Pods.
    PodAddresses(Box<str>, PodAddresses),
}

/// Builds the contribution of `contributor` from the state of `cluster`, and reports the parts that were skipped.
///
/// `name_server` has the sources of the addresses of `ns.dns.Z`.
pub fn contribution(
    cluster: &Cluster,
    contributor: &Contributor,
    rules: NamingRules,
    name_server: &NameServer,
) -> (Contribution, Vec<Skipped>) {
    let contribution = match contributor {
        Contributor::Apex => Contribution::Apex(name_server.addresses(cluster)),
        Contributor::Namespace(name) => Contribution::Namespace(name.clone(), cluster.namespace_exists(name)),
        Contributor::Service(key) => {
            let (records, skipped) = service_records(&cluster.service(key), rules);
            return (Contribution::Service(key.clone(), records.map(Box::new)), skipped);
        }
        Contributor::PodAddresses(namespace) => {
            let addresses = pod_addresses(cluster.pod_addresses(namespace));
            Contribution::PodAddresses(namespace.clone(), addresses)
        }
    };
    (contribution, Vec::new())
}

/// Sources of the addresses of `ns.dns.Z` (N17).
#[derive(Clone, Debug, Default)]
pub struct NameServer {
    /// Addresses in the configuration, which replace all others.
    pub configured: Vec<IpAddr>,
    /// Addresses to use if none is configured, and the Service in front of this server has no ClusterIP.
    pub fallback: Vec<IpAddr>,
}

impl NameServer {
    fn addresses(&self, cluster: &Cluster) -> ApexRecords {
        let choices = [&self.configured[..], cluster.apex_addresses(), &self.fallback];
        choices.into_iter().find(|choice| !choice.is_empty()).unwrap_or_default().iter().copied().collect()
    }
}

/// Addresses of `ns.dns.Z` (N17).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApexRecords {
    /// IPv4 addresses as numbers.
    pub v4: Vec<u32>,
    /// IPv6 addresses as numbers.
    pub v6: Vec<u128>,
}

impl FromIterator<IpAddr> for ApexRecords {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        let mut records = Self::default();
        for address in addresses {
            match address {
                IpAddr::V4(v4) if !records.v4.contains(&v4.into()) => records.v4.push(v4.into()),
                IpAddr::V6(v6) if !records.v6.contains(&v6.into()) => records.v6.push(v6.into()),
                _ => {}
            }
        }
        records
    }
}

/// Addresses of a namespace's Pods, sorted (N21).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodAddresses {
    v4: Box<[u32]>,
    v6: Box<[u128]>,
}

impl PodAddresses {
    /// Returns whether a Pod has `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.v4.binary_search(&v4.into()).is_ok(),
            IpAddr::V6(v6) => self.v6.binary_search(&v6.into()).is_ok(),
        }
    }

    /// Returns whether there are no addresses.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Iterates over the addresses, IPv4 first, in order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.iter().map(|address| Ipv4Addr::from(*address).into());
        v4.chain(self.v6.iter().map(|address| Ipv6Addr::from(*address).into()))
    }
}

/// Labels of a Service, and the prefixes of its endpoints' labels. PTR records share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceName {
    key: Box<[u8]>,
    pool: LabelPool,
}

impl ServiceName {
    /// Returns the two labels of the Service in wire form.
    pub fn key(&self) -> ServiceKey<'_> {
        ServiceKey(&self.key)
    }

    /// Returns the mapping of this Service's labels to `other`; `None` if `other` sorts them differently.
    fn remap(&self, other: &Self) -> Option<PoolRemap> {
        self.pool.remap(&other.pool)
    }

    /// Returns the label of `packed`.
    pub fn label(&self, packed: PackedLabel) -> Label<'_> {
        self.pool.label(packed)
    }
}

/// All records at and below a Service's name.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceRecords {
    /// Name of the Service. Records with equal names share it.
    pub name: Arc<ServiceName>,
    rrsets: ServiceRrsets,
    endpoints: EndpointColumns,
    expected: Box<[ExpectedOrdinals]>,
}

/// RRsets at the Service's own name.
#[derive(Clone, Debug, PartialEq)]
enum ServiceRrsets {
    /// The name exists without records: an ExternalName that is not a name (N15), or a Service without an address.
    Empty,
    /// The cluster IPs of the Service (N10), with the numbers of all ports (N11) and those of each named port (N12).
    ClusterIp { v4: Box<[u32]>, v6: Box<[u128]>, ports: Box<[u16]>, named: Ports<Box<[u16]>> },
    /// The addresses of the Service's endpoints (N1), and of those with a named port (N5, N6).
    Headless { service: HeadlessRrset, named: Ports<HeadlessRrset> },
    /// A CNAME (N14).
    External(WireName),
}

/// Values at the names `_port._protocol`: port name, protocol, value.
type Ports<T> = Box<[(Box<str>, Protocol, T)]>;

/// Endpoints as columns.
///
/// Endpoints `0..in_service` are in the RRsets of the Service's name, endpoints up to `served` only have names of their
/// own, and the rest are known names without records.
#[derive(Clone, Debug, Default, PartialEq)]
struct EndpointColumns {
    /// Labels; `NONE` for an endpoint that is named by its address.
    names: Box<[PackedLabel]>,
    in_service: u32,
    served: u32,
    v4: Column<u32>,
    v6: Column<u128>,
    port_lists: EndpointPorts,
    /// Reasons why the endpoints from `served` on have no records.
    absent: Box<[Absence]>,
}

/// Addresses of one family, endpoint by endpoint.
#[derive(Clone, Debug, PartialEq)]
struct Column<T> {
    addresses: Box<[T]>,
    offsets: Offsets,
}

/// Assignment of a column's addresses to endpoints.
#[derive(Clone, Debug, PartialEq)]
enum Offsets {
    /// No endpoint has an address.
    None,
    /// Endpoint `n` has address `n`.
    Dense,
    /// The addresses of endpoint `n` end at `ends[n]`, and begin at the end of those of endpoint `n - 1`.
    Sparse(Box<[u32]>),
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { addresses: Box::new([]), offsets: Offsets::None }
    }
}

impl<T: PartialEq> Column<T> {
    /// Returns whether endpoint `one` has the addresses here that endpoint `two` has in `other`.
    fn has_same_addresses(&self, one: u32, other: &Self, two: u32) -> bool {
        match (&self.offsets, &other.offsets) {
            (Offsets::None, Offsets::None) => true,
            (Offsets::Dense, Offsets::Dense) => self.addresses[one as usize] == other.addresses[two as usize],
            _ => self.values_of(one) == other.values_of(two),
        }
    }
}

impl<T> Column<T> {
    #[inline]
    fn values_of(&self, endpoint: u32) -> &[T] {
        let endpoint = endpoint as usize;
        match &self.offsets {
            Offsets::None => &[],
            Offsets::Dense => &self.addresses[endpoint..=endpoint],
            Offsets::Sparse(ends) => {
                let start = if endpoint == 0 { 0 } else { ends[endpoint - 1] as usize };
                &self.addresses[start..ends[endpoint] as usize]
            }
        }
    }
}

/// Ports in the SRV records at the endpoints' own names (N8).
#[derive(Clone, Debug, PartialEq)]
enum EndpointPorts {
    /// All endpoints have these ports.
    Same(Box<[u16]>),
    /// The ports of endpoint `n` end at `ends[n]`; its SRV records have `weights[n]`.
    Each { ends: Box<[u32]>, ports: Box<[u16]>, weights: Box<[u16]> },
}

impl Default for EndpointPorts {
    fn default() -> Self {
        Self::Same(Box::new([]))
    }
}

/// RRsets of the name of a headless Service, or of one of its ports: a selection of endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
struct HeadlessRrset {
    v4: Selection,
    v6: Selection,
    targets: Targets,
    weight: u16,
}

/// Selection of addresses in a column.
#[derive(Clone, Debug, PartialEq)]
enum Selection {
    /// Number of addresses, from the first on.
    First(u32),
    /// Addresses at these positions.
    Indices(Box<[u32]>),
}

impl Selection {
    fn len(&self) -> usize {
        match self {
            Self::First(count) => *count as usize,
            Self::Indices(places) => places.len(),
        }
    }
}

impl Default for Selection {
    fn default() -> Self {
        Self::First(0)
    }
}

/// Selection of SRV targets and ports.
#[derive(Clone, Debug, PartialEq)]
enum Targets {
    /// Number of endpoints, from the first on, each with each of these ports.
    Product(u32, Box<[u16]>),
    /// Pairs of an endpoint and a port.
    Only(Box<[(u32, u16)]>),
}

impl Default for Targets {
    fn default() -> Self {
        Self::Product(0, Box::new([]))
    }
}

/// Records of one name and type: a view into columns.
#[derive(Clone, Copy, Debug)]
pub enum RRset<'z> {
    /// A RRset: IPv4 addresses (RFC 1035 section 3.4.1).
    A(AddressRrset<'z, u32>),
    /// AAAA RRset: IPv6 addresses (RFC 3596).
    Aaaa(AddressRrset<'z, u128>),
    /// SRV RRset (RFC 2782).
    Srv(SrvRrset<'z>),
    /// PTR RRset: the names of an address (RFC 1035 section 3.3.12).
    Ptr(PtrRrset<'z>),
    /// TXT RRset: one record with one character-string.
    Txt(&'static [u8]),
    /// SOA RRset: the one SOA record of the zone (RFC 1035 section 3.3.13).
    Soa,
    /// NS RRset: the one NS record of the zone (RFC 1035 section 3.3.11).
    Ns,
}

/// Selection of addresses of a column: never empty.
#[derive(Clone, Copy, Debug)]
pub struct AddressRrset<'z, T> {
    column: &'z [T],
    only: Option<&'z [u32]>,
}

impl<'z, T: Copy> AddressRrset<'z, T> {
    /// Selects all addresses of `column`; `None` if there are none.
    pub fn all(column: &'z [T]) -> Option<Self> {
        (!column.is_empty()).then_some(Self { column, only: None })
    }

    fn select(column: &'z [T], select: &'z Selection) -> Option<Self> {
        match select {
            Selection::First(count) => Self::all(&column[..*count as usize]),
            Selection::Indices(places) if places.is_empty() => None,
            Selection::Indices(places) => Some(Self { column, only: Some(places) }),
        }
    }

    /// Returns the number of addresses.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        self.only.map_or(self.column.len(), <[u32]>::len)
    }

    /// Returns the addresses as a slice if all of a column are selected.
    pub fn column(&self) -> Option<&'z [T]> {
        if self.only.is_none() { Some(self.column) } else { None }
    }

    /// Returns address number `index`.
    pub fn get(&self, index: usize) -> T {
        self.column[self.only.map_or(index, |places| places[index] as usize)]
    }

    /// Iterates over the addresses.
    pub fn iter(&self) -> impl Iterator<Item = T> {
        (0..self.len()).map(|index| self.get(index))
    }
}

/// Records of one SRV RRset: never empty.
#[derive(Clone, Copy, Debug)]
pub struct SrvRrset<'z> {
    records: &'z ServiceRecords,
    targets: SrvTargets<'z>,
    /// Weight of each record (RFC 2782).
    pub weight: u16,
}

#[derive(Clone, Copy, Debug)]
enum SrvTargets<'z> {
    /// The Service's own name with each of these ports.
    Service(&'z [u16]),
    /// Endpoints from `first` on, `count` of them, each with each of these ports.
    Product {
        first: u32,
        count: u32,
        ports: &'z [u16],
    },
    Only(&'z [(u32, u16)]),
}

/// Target and port of one SRV record.
#[derive(Clone, Copy, Debug)]
pub struct SrvRecord<'z> {
    /// First label of the target, in front of the Service's name; `None` if the target is the Service's name.
    pub label: Option<EndpointLabel<'z>>,
    /// Port of the target.
    pub port: u16,
}

impl<'z> SrvRrset<'z> {
    /// Returns the number of records.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        match self.targets {
            SrvTargets::Service(ports) => ports.len(),
            SrvTargets::Product { count, ports, .. } => count as usize * ports.len(),
            SrvTargets::Only(list) => list.len(),
        }
    }

    /// Returns record number `index`.
    pub fn get(&self, index: usize) -> SrvRecord<'z> {
        let (endpoint, port) = self.target(index);
        SrvRecord { label: endpoint.map(|endpoint| self.records.own_name(endpoint)), port }
    }

    /// Returns the endpoint that is the target of record `index`; `None` if the target is the Service's name.
    pub fn endpoint(&self, index: usize) -> Option<u32> {
        self.target(index).0
    }

    /// Returns the addresses of a target, as [`Self::endpoint`] returns it.
    pub fn addresses(&self, endpoint: Option<u32>) -> (&'z [u32], &'z [u128]) {
        match endpoint {
            Some(endpoint) => {
                (self.records.endpoints.v4.values_of(endpoint), self.records.endpoints.v6.values_of(endpoint))
            }
            None => self.records.own_addresses(),
        }
    }

    #[inline]
    fn target(&self, index: usize) -> (Option<u32>, u16) {
        match self.targets {
            SrvTargets::Service(ports) => (None, ports[index]),
            // The usual case, without a division.
            SrvTargets::Product { first, ports: [port], .. } => (Some(first + index as u32), *port),
            SrvTargets::Product { first, ports, .. } => {
                (Some(first + (index / ports.len()) as u32), ports[index % ports.len()])
            }
            SrvTargets::Only(list) => (Some(list[index].0), list[index].1),
        }
    }

    /// Returns the Service that the targets belong to.
    pub fn service(&self) -> ServiceKey<'z> {
        self.records.name.key()
    }
}

/// First label of an endpoint's name.
#[derive(Clone, Copy, Debug)]
pub enum EndpointLabel<'z> {
    /// Hostname of the endpoint, or its Pod's name.
    Label(Label<'z>),
    /// Address with dashes (N9).
    Dashed(IpAddr),
}

impl EndpointLabel<'_> {
    /// Writes the label into `buffer` and returns the octets written.
    pub fn write<'b>(&self, buffer: &'b mut [u8; 63]) -> &'b [u8] {
        match self {
            Self::Label(label) => label.write(buffer),
            Self::Dashed(address) => dashed::write(*address, buffer),
        }
    }
}

/// PTR target of an address: a Service, and the label in front of its name.
#[derive(Clone, Copy, Debug)]
pub struct PtrTarget<'z> {
    /// Name of the Service that has the address, or an endpoint with it.
    pub service: &'z ServiceName,
    label: PackedLabel,
}

impl<'z> PtrTarget<'z> {
    /// Returns the label in front of the Service's name for `address`; `None` if the target is the Service's own name.
    pub fn endpoint_label(&self, address: IpAddr) -> Option<EndpointLabel<'z>> {
        match self.label {
            PackedLabel::SERVICE => None,
            PackedLabel::NONE => Some(EndpointLabel::Dashed(address)),
            label => Some(EndpointLabel::Label(self.service.label(label))),
        }
    }

    /// Returns whether the label is the address with dashes, so that the name adds nothing to the address.
    pub fn is_dashed(&self) -> bool {
        self.label.is_none()
    }

    /// Compares two targets in the order of R2: the Service's own name, then hostnames, then dashed addresses; then by
    /// name.
    pub fn rank(&self, other: &Self) -> std::cmp::Ordering {
        let class = |name: &Self| match name.label {
            PackedLabel::SERVICE => 0,
            PackedLabel::NONE => 2,
            _ => 1,
        };
        let labels = || match class(self) {
            1 if class(other) == 1 => self.service.label(self.label).cmp_text(&other.service.label(other.label)),
            _ => std::cmp::Ordering::Equal,
        };
        let keys = || {
            let key = |name: &Self| (name.service.key().service(), name.service.key().namespace());
            key(self).cmp(&key(other))
        };
        class(self).cmp(&class(other)).then_with(labels).then_with(keys)
    }
}

/// PTR target that owns its Service's name, for storage.
#[derive(Clone, Debug)]
pub struct PtrName {
    /// Name of the Service that has the address, or an endpoint with it.
    pub service: Arc<ServiceName>,
    label: PackedLabel,
}

impl PtrName {
    /// Borrows the target as a [`PtrTarget`].
    pub fn ptr_target(&self) -> PtrTarget<'_> {
        PtrTarget { service: &self.service, label: self.label }
    }

    /// Compares two targets in the order of [`PtrTarget::rank`].
    pub fn rank(&self, other: &Self) -> std::cmp::Ordering {
        self.ptr_target().rank(&other.ptr_target())
    }
}

/// PTR RRset of one address, in the order of the response: never empty.
#[derive(Clone, Copy, Debug)]
pub enum PtrRrset<'z> {
    /// One target, which is the usual case.
    One(PtrTarget<'z>),
    /// Two or more targets.
    Several(&'z [PtrName]),
}

impl<'z> PtrRrset<'z> {
    /// Returns the number of targets.
    #[allow(clippy::len_without_is_empty)] // never empty
    pub fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Several(names) => names.len(),
        }
    }

    /// Returns target number `index`.
    pub fn get(&self, index: usize) -> PtrTarget<'z> {
        match self {
            Self::One(name) => *name,
            Self::Several(names) => names[index].ptr_target(),
        }
    }

    /// Iterates over the targets.
    pub fn iter(&self) -> impl Iterator<Item = PtrTarget<'z>> {
        (0..self.len()).map(|index| self.get(index))
    }
}

/// Name at or below a Service, as the zone resolves it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceNode {
    /// The Service's own name.
    Service,
    /// The endpoint with this number.
    Endpoint(u32),
    /// The port with this number.
    Port(usize),
}

impl ServiceRecords {
    /// Prefetches the fields that every look-up reads; the result only keeps the loads from being optimized away.
    #[inline]
    pub fn prefetch(&self) -> u64 {
        let EndpointColumns { names, v4, v6, served, .. } = &self.endpoints;
        let set = match &self.rrsets {
            ServiceRrsets::Headless {
                service: HeadlessRrset { v4: Selection::First(v4), v6: Selection::First(v6), .. },
                ..
            } => v4 ^ v6,
            _ => 0,
        };
        let lengths = names.len() ^ v4.addresses.len() ^ v6.addresses.len() ^ self.expected.len();
        u64::from(set ^ served) ^ lengths as u64
    }

    /// Prefetches the label and the first address of an endpoint; the result is as in [`Self::prefetch`].
    #[inline]
    pub fn prefetch_endpoint(&self, endpoint: u32) -> u64 {
        let endpoint = endpoint as usize;
        let label = self.endpoints.names.get(endpoint).map_or(0, |label| label.order());
        label ^ self.endpoints.v4.addresses.get(endpoint).map_or(0, |address| u64::from(*address))
    }

    /// Returns whether the Service's own name exists: there are records at it or below it (N3).
    pub fn exists(&self) -> bool {
        match &self.rrsets {
            ServiceRrsets::Headless { .. } => self.endpoints.served > 0,
            _ => true,
        }
    }

    /// Returns the target of the CNAME at the Service's name.
    pub fn external_name(&self) -> Option<&WireName> {
        match &self.rrsets {
            ServiceRrsets::External(target) => Some(target),
            _ => None,
        }
    }

    /// Iterates over the labels of all endpoints, also those without records, in the order of their numbers.
    pub fn endpoint_names(&self) -> impl ExactSizeIterator<Item = EndpointLabel<'_>> {
        (0..self.endpoints.names.len() as u32).map(|endpoint| self.own_name(endpoint))
    }

    /// Returns the label of endpoint number `endpoint`.
    pub fn own_name(&self, endpoint: u32) -> EndpointLabel<'_> {
        match self.endpoints.names[endpoint as usize] {
            PackedLabel::NONE => EndpointLabel::Dashed(self.first_address(endpoint)),
            label => EndpointLabel::Label(self.name.label(label)),
        }
    }

    /// Returns the number of endpoints with names that exist.
    pub fn served(&self) -> u32 {
        self.endpoints.served
    }

    /// Returns why endpoint number `endpoint` has no records; `None` if it has records.
    pub fn absence(&self, endpoint: u32) -> Option<Absence> {
        let absent = endpoint.checked_sub(self.endpoints.served)?;
        let absence = self.endpoints.absent[absent as usize];
        // The StatefulSet creates a Pod with this name again.
        match (absence, self.own_name(endpoint)) {
            (Absence::Terminating, EndpointLabel::Label(label)) if self.expected(label).is_some() => {
                Some(Absence::Replaced)
            }
            _ => Some(absence),
        }
    }

    /// Returns the absence of a label that no endpoint has; `None` if no StatefulSet expects it.
    pub fn expected(&self, label: Label<'_>) -> Option<Absence> {
        self.expected.iter().any(|ordinals| ordinals.contains(label)).then_some(Absence::Pending)
    }

    /// Returns whether a StatefulSet expects names here, so that the search can be skipped.
    pub fn expects_any(&self) -> bool {
        !self.expected.is_empty()
    }

    /// Returns the number of the port at `_port._protocol`; both labels have their underscore.
    pub fn port(&self, port: &[u8], protocol: &[u8]) -> Option<usize> {
        self.ports().position(|(name, other)| name.as_bytes() == &port[1..] && other.label().as_bytes() == protocol)
    }

    /// Returns whether there is a port below `_protocol` (N19).
    pub fn has_protocol(&self, protocol: &[u8]) -> bool {
        self.ports().any(|(_, other)| other.label().as_bytes() == protocol)
    }

    /// Iterates over the names and protocols of the ports that have names of their own.
    pub fn ports(&self) -> impl Iterator<Item = (&str, Protocol)> {
        let (own, sets): (&[_], &[_]) = match &self.rrsets {
            ServiceRrsets::ClusterIp { named, .. } => (named, &[]),
            ServiceRrsets::Headless { named, .. } => (&[], named),
            _ => (&[], &[]),
        };
        let own = own.iter().map(|(name, protocol, _)| (&**name, *protocol));
        own.chain(sets.iter().map(|(name, protocol, _)| (&**name, *protocol)))
    }

    /// Returns the records of one type at `node`; `None` if there are none.
    #[inline]
    pub fn rrset(&self, node: ServiceNode, rtype: u16) -> Option<RRset<'_>> {
        match rtype {
            rtype::A => self.v4(node).map(RRset::A),
            rtype::AAAA => self.v6(node).map(RRset::Aaaa),
            rtype::SRV => self.servers(node).map(RRset::Srv),
            _ => None,
        }
    }

    /// Iterates over the addresses with a PTR record to this Service, each with the target's label and the number of
    /// its endpoint, which is 0 for the Service's own addresses.
    pub fn reverse(&self) -> impl Iterator<Item = (IpAddr, PackedLabel, u32)> {
        let (own_v4, own_v6) = self.own_addresses();
        let own = addresses(own_v4, own_v6).map(|address| (address, PackedLabel::SERVICE, 0));
        let endpoints = (0..self.endpoints.in_service).flat_map(|endpoint| {
            let label = self.endpoints.names[endpoint as usize];
            let (v4, v6) = (self.endpoints.v4.values_of(endpoint), self.endpoints.v6.values_of(endpoint));
            addresses(v4, v6).map(move |address| (address, label, endpoint))
        });
        own.chain(endpoints)
    }

    /// Returns the PTR target for a label of [`Self::reverse`], for storage.
    pub fn ptr_name(&self, label: PackedLabel) -> PtrName {
        PtrName { service: Arc::clone(&self.name), label }
    }

    /// Returns the PTR target for a label of [`Self::reverse`].
    pub fn ptr(&self, label: PackedLabel) -> PtrTarget<'_> {
        PtrTarget { service: &self.name, label }
    }

    /// Returns the label of the PTR record of `address`; `None` if this Service has no PTR record for it.
    ///
    /// `near` is a hint: the endpoint's number modulo `apart` when the index was written. The search begins at `near`
    /// plus the multiples of `apart`, then continues from `near` in both directions.
    pub fn label_of(&self, address: IpAddr, near: u32, apart: usize) -> Option<PackedLabel> {
        let endpoints = &self.endpoints;
        let is = |endpoint: &u32| self.points_to(*endpoint, address);
        if let Some(endpoint) = (near..endpoints.in_service).step_by(apart).find(is) {
            return Some(endpoints.names[endpoint as usize]);
        }
        let own = match (self.own_addresses(), address) {
            ((v4, _), IpAddr::V4(address)) => v4.contains(&address.into()),
            ((_, v6), IpAddr::V6(address)) => v6.contains(&address.into()),
        };
        if own {
            return Some(PackedLabel::SERVICE);
        }
        let farthest = near.max(endpoints.in_service);
        let both = (1..=farthest).flat_map(|far| [near.checked_sub(far), near.checked_add(far)]).flatten();
        both.into_iter().find(is).map(|endpoint| endpoints.names[endpoint as usize])
    }

    /// Returns whether the PTR record of `address` has endpoint number `endpoint` as its target.
    pub fn points_to(&self, endpoint: u32, address: IpAddr) -> bool {
        endpoint < self.endpoints.in_service
            && match address {
                IpAddr::V4(v4) => self.endpoints.v4.values_of(endpoint).contains(&v4.into()),
                IpAddr::V6(v6) => self.endpoints.v6.values_of(endpoint).contains(&v6.into()),
            }
    }

    /// Returns the addresses of the Service itself.
    pub fn own_addresses(&self) -> (&[u32], &[u128]) {
        match &self.rrsets {
            ServiceRrsets::ClusterIp { v4, v6, .. } => (v4, v6),
            _ => (&[], &[]),
        }
    }

    #[inline]
    fn v4(&self, node: ServiceNode) -> Option<AddressRrset<'_, u32>> {
        let column = &self.endpoints.v4;
        match (node, &self.rrsets) {
            (ServiceNode::Endpoint(endpoint), _) => AddressRrset::all(column.values_of(endpoint)),
            (_, ServiceRrsets::ClusterIp { v4, .. }) => AddressRrset::all(v4),
            _ => AddressRrset::select(&column.addresses, &self.headless_rrset(node)?.v4),
        }
    }

    #[inline]
    fn v6(&self, node: ServiceNode) -> Option<AddressRrset<'_, u128>> {
        let column = &self.endpoints.v6;
        match (node, &self.rrsets) {
            (ServiceNode::Endpoint(endpoint), _) => AddressRrset::all(column.values_of(endpoint)),
            (_, ServiceRrsets::ClusterIp { v6, .. }) => AddressRrset::all(v6),
            _ => AddressRrset::select(&column.addresses, &self.headless_rrset(node)?.v6),
        }
    }

    #[inline]
    fn headless_rrset(&self, node: ServiceNode) -> Option<&HeadlessRrset> {
        match (node, &self.rrsets) {
            (ServiceNode::Service, ServiceRrsets::Headless { service, .. }) => Some(service),
            (ServiceNode::Port(port), ServiceRrsets::Headless { named, .. }) => Some(&named[port].2),
            _ => None,
        }
    }

    fn servers(&self, node: ServiceNode) -> Option<SrvRrset<'_>> {
        let (targets, weight) = match (node, &self.rrsets) {
            (ServiceNode::Endpoint(endpoint), _) => {
                let (ports, weight) = self.endpoint_ports(endpoint);
                (SrvTargets::Product { first: endpoint, count: 1, ports }, weight)
            }
            (_, ServiceRrsets::ClusterIp { v4, v6, ports, named }) => {
                let ports = if let ServiceNode::Port(port) = node { &named[port].2 } else { ports };
                (SrvTargets::Service(ports), weight(ports.len() * (v4.len() + v6.len())))
            }
            _ => {
                let set = self.headless_rrset(node)?;
                let targets = match &set.targets {
                    Targets::Product(count, ports) => SrvTargets::Product { first: 0, count: *count, ports },
                    Targets::Only(list) => SrvTargets::Only(list),
                };
                (targets, set.weight)
            }
        };
        let servers = SrvRrset { records: self, targets, weight };
        (servers.len() > 0).then_some(servers)
    }

    fn endpoint_ports(&self, endpoint: u32) -> (&[u16], u16) {
        match &self.endpoints.port_lists {
            EndpointPorts::Same(ports) => {
                let addresses =
                    self.endpoints.v4.values_of(endpoint).len() + self.endpoints.v6.values_of(endpoint).len();
                (ports, weight(addresses * ports.len()))
            }
            EndpointPorts::Each { ends, ports, weights } => {
                let endpoint = endpoint as usize;
                let start = if endpoint == 0 { 0 } else { ends[endpoint - 1] as usize };
                (&ports[start..ends[endpoint] as usize], weights[endpoint])
            }
        }
    }

    fn first_address(&self, endpoint: u32) -> IpAddr {
        match (self.endpoints.v4.values_of(endpoint), self.endpoints.v6.values_of(endpoint)) {
            ([first, ..], _) => Ipv4Addr::from(*first).into(),
            (_, [first, ..]) => Ipv6Addr::from(*first).into(),
            _ => unreachable!("an endpoint without a label has an address"),
        }
    }
}

fn addresses<'a>(v4: &'a [u32], v6: &'a [u128]) -> impl Iterator<Item = IpAddr> + 'a {
    let v4 = v4.iter().map(|address| IpAddr::V4(Ipv4Addr::from(*address)));
    v4.chain(v6.iter().map(|address| IpAddr::V6(Ipv6Addr::from(*address))))
}

/// Returns the weight of each SRV record of a set with `pairs` distinct (address, port) pairs (N4).
fn weight(pairs: usize) -> u16 {
    (100 / pairs.max(1)).max(1) as u16
}
