//! Builds a Service's records from its kind, its slices and the rules, in one pass over the endpoints.
//!
//! A regular Service (every endpoint ready, with one address and equal ports) gets the short forms of `records/mod.rs`;
//! any other Service gets the general forms, by the same steps. Rule ids (N9, E6) are those of `tests/rows.md`. Next:
//! `difference.rs`.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use super::absence::{ExpectedOrdinals, expected_ordinals};
use super::{
    Absence, Column, EndpointColumns, EndpointPorts, HeadlessRrset, Offsets, PodAddresses, Ports, Selection,
    ServiceName, ServiceRecords, ServiceRrsets, Targets, weight,
};
use crate::cluster::ServiceView;
use crate::name::label_pool::{Label, LabelPoolBuilder, PackedLabel};
use crate::name::{WireName, dashed, is_address, is_label, service_key};
use crate::naming_rules::NamingRules;
use crate::object::{Conditions, EndpointPort, EndpointSlice, Protocol, Reason, Service, ServiceKind, Skipped};

/// Builds the records of one Service's name, and reports the objects that were skipped.
///
/// `None` if the Service does not exist, and no StatefulSet names it.
pub fn service_records(view: &ServiceView<'_>, rules: NamingRules) -> (Option<ServiceRecords>, Vec<Skipped>) {
    let Some(key) = service_key(&view.key.namespace, &view.key.name) else { return (None, Vec::new()) };
    let expected = expected_ordinals(view);
    let Some(service) = view.service else {
        // E6: slices without their Service are ignored. The ordinals of a StatefulSet that names the Service are
        // expected all the same.
        let records = (!expected.is_empty()).then(|| ServiceRecords::missing(key, expected));
        return (records, Vec::new());
    };
    let mut skipped = Vec::new();
    let mut builder = Builder::new(service, rules);
    // N14: below an ExternalName there are no names, even if slices exist.
    if !matches!(service.kind, ServiceKind::ExternalName(_)) {
        builder.add_slices(view.slices());
    }
    let (rrsets, endpoints) = builder.finish();
    let rrsets = match &service.kind {
        ServiceKind::Headless => rrsets,
        ServiceKind::ClusterIp(addresses) => cluster_ip(service, addresses, &mut skipped),
        ServiceKind::ExternalName(name) => external_name(service, name, &mut skipped),
    };
    let pool = builder.pool.finish();
    (Some(ServiceRecords { name: Arc::new(ServiceName { key, pool }), rrsets, endpoints, expected }), skipped)
}

impl ServiceRecords {
    /// Returns the records of a Service that does not exist: the ordinals that are expected below it.
    fn missing(key: Box<[u8]>, expected: Box<[ExpectedOrdinals]>) -> Self {
        let pool = LabelPoolBuilder::default().finish();
        let rrsets = ServiceRrsets::Headless { service: HeadlessRrset::default(), named: Ports::default() };
        Self { name: Arc::new(ServiceName { key, pool }), rrsets, endpoints: EndpointColumns::default(), expected }
    }
}

/// Sorts the addresses of a namespace's Pods by family.
pub fn pod_addresses(addresses: impl Iterator<Item = IpAddr>) -> PodAddresses {
    let (mut v4, mut v6): (Vec<u32>, Vec<u128>) = (Vec::new(), Vec::new());
    for address in addresses {
        match address {
            IpAddr::V4(address) => v4.push(address.into()),
            IpAddr::V6(address) => v6.push(address.into()),
        }
    }
    v4.sort_unstable();
    v4.dedup();
    v6.sort_unstable();
    v6.dedup();
    PodAddresses { v4: v4.into(), v6: v6.into() }
}

fn cluster_ip(service: &Service, addresses: &[IpAddr], skipped: &mut Vec<Skipped>) -> ServiceRrsets {
    if addresses.is_empty() {
        skipped.push(Skipped {
            reason: Reason::NoAddress,
            object: Some(service.key.clone()),
            text: format!(
                "Service {}: it has no `clusterIP`, so its name has no address; set one, or use --simulate",
                service.key
            ),
        });
        return ServiceRrsets::Empty;
    }
    let own = pod_addresses(addresses.iter().copied());
    let mut named: Vec<(Box<str>, Protocol, Vec<u16>)> = Vec::new();
    for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
        match named.iter_mut().find(|(name, protocol, _)| *name == port.name && *protocol == port.protocol) {
            Some((_, _, numbers)) => numbers.push(port.number),
            None => named.push((port.name.clone(), port.protocol, vec![port.number])),
        }
    }
    let named = named.into_iter().map(|(name, protocol, numbers)| (name, protocol, distinct(numbers)));
    let ports = distinct(service.ports.iter().map(|port| port.number).collect());
    ServiceRrsets::ClusterIp { v4: own.v4, v6: own.v6, ports, named: named.collect() }
}

fn external_name(service: &Service, name: &str, skipped: &mut Vec<Skipped>) -> ServiceRrsets {
    // N15.
    let target =
        if is_address(name) { Err(format!("{name:?} is an address, not a name")) } else { WireName::parse(name) };
    match target {
        Ok(target) => ServiceRrsets::External(target),
        Err(wrong) => {
            skipped.push(Skipped {
                reason: Reason::ExternalName,
                object: Some(service.key.clone()),
                text: format!("Service {}: its `externalName` {wrong}; responses are NODATA", service.key),
            });
            ServiceRrsets::Empty
        }
    }
}

/// One address of an endpoint, under one label.
struct SortedEndpoint {
    /// `NONE`: the endpoint is named by its address.
    label: PackedLabel,
    address: IpAddr,
    /// Index of the slice's list of ports in [`Builder::port_lists`].
    ports: u32,
    /// The address is a record of the Service's name.
    in_service: bool,
    /// The label is the Pod's name.
    is_pod_name: bool,
}

impl SortedEndpoint {
    /// Returns the sort key: rows of one endpoint are neighbours, and in them those of one address.
    fn order(&self) -> (u64, IpAddr, bool) {
        (self.label.order(), self.address, !self.in_service)
    }

    fn is_of_same_endpoint(&self, other: &Self) -> bool {
        self.label == other.label && (!self.label.is_none() || self.address == other.address)
    }
}

struct Builder<'s> {
    service: &'s Service,
    rules: NamingRules,
    pool: LabelPoolBuilder,
    rows: Vec<SortedEndpoint>,
    absent: Vec<(PackedLabel, Absence)>,
    /// Distinct lists of ports in the slices.
    port_lists: Vec<&'s [EndpointPort]>,
}

impl<'s> Builder<'s> {
    fn new(service: &'s Service, rules: NamingRules) -> Self {
        let pool = LabelPoolBuilder::default();
        Self { service, rules, pool, rows: Vec::new(), absent: Vec::new(), port_lists: Vec::new() }
    }

    fn add_slices(&mut self, slices: impl Iterator<Item = &'s EndpointSlice>) {
        for slice in slices.filter(|slice| !slice.is_empty()) {
            let ports = match self.port_lists.iter().position(|list| **list == *slice.ports) {
                Some(known) => known,
                None => {
                    self.port_lists.push(&slice.ports);
                    self.port_lists.len() - 1
                }
            };
            self.rows.reserve(slice.len());
            let hostnames = slice.hostnames(&mut self.pool);
            for (number, (address, conditions)) in slice.states().enumerate() {
                let label = hostnames.get(number);
                let pod = || slice.pod(number);
                self.add_endpoint(label, address, conditions, ports as u32, pod);
            }
        }
    }

    fn add_endpoint(
        &mut self,
        label: PackedLabel,
        address: IpAddr,
        conditions: Conditions,
        ports: u32,
        pod: impl Fn() -> Option<Label<'s>>,
    ) {
        let in_service = self.service.answers_with(conditions);
        let served = in_service || self.rules.ordinals.keeps(conditions.serving());
        let pod_name = self.pod_name(label, pod);
        if !served {
            let absence = if conditions.terminating() { Absence::Terminating } else { Absence::NotReady };
            self.absent.extend(pod_name.map(|name| (name, absence)));
            let name = self.spell_label(label, address);
            self.absent.push((name, absence));
            return;
        }
        let Some(pod_name) = pod_name else {
            return self.rows.push(SortedEndpoint { label, address, ports, in_service, is_pod_name: false });
        };
        self.rows.push(SortedEndpoint { label: pod_name, address, ports, in_service, is_pod_name: true });
        // An alias, and not a second endpoint of the Service.
        self.rows.push(SortedEndpoint { label, address, ports, in_service: false, is_pod_name: false });
    }

    /// Returns the label of an endpoint that is named by its Pod (N9): the endpoint has no hostname, and the Pod's name
    /// is a label.
    fn pod_name(&mut self, label: PackedLabel, pod: impl Fn() -> Option<Label<'s>>) -> Option<PackedLabel> {
        if !self.rules.endpoint_pod_names || !label.is_none() {
            return None;
        }
        let name = pod()?.to_string();
        is_label(&name).then(|| self.pool.pack(&name.to_ascii_lowercase()))
    }

    /// Returns the label of an endpoint that is not in the address columns.
    fn spell_label(&mut self, label: PackedLabel, address: IpAddr) -> PackedLabel {
        if !label.is_none() {
            return label;
        }
        let mut buffer = [0; 63];
        let dashed = dashed::write(address, &mut buffer);
        self.pool.pack(std::str::from_utf8(dashed).expect("digits and hyphens are ASCII"))
    }

    fn finish(&mut self) -> (ServiceRrsets, EndpointColumns) {
        let mut rows = std::mem::take(&mut self.rows);
        drop_shadowed_pod_names(&mut rows);
        rows.sort_by_key(SortedEndpoint::order);
        // Endpoints in the Service's RRsets come first, each part in the order of the names.
        let answered = |group: &&[SortedEndpoint]| group.iter().any(|row| row.in_service);
        let mut groups = Vec::with_capacity(rows.len());
        groups.extend(rows.chunk_by(SortedEndpoint::is_of_same_endpoint).filter(answered));
        let in_service = groups.len() as u32;
        if !rows.iter().all(|row| row.in_service) {
            groups.extend(rows.chunk_by(SortedEndpoint::is_of_same_endpoint).filter(|group| !answered(group)));
        }
        let v4 = rows.iter().filter(|row| row.address.is_ipv4()).count();
        let columns = Self::columns(&groups, rows.len(), v4);
        let (names, absent) = self.absent_names(&groups);
        let service = self.headless_rrset(&columns, in_service, None);
        let named = self.named_ports(&columns, &service);
        let rrsets = ServiceRrsets::Headless { service, named };
        let port_lists = self.endpoint_ports(&columns, groups.len());
        let endpoints = EndpointColumns {
            names,
            in_service,
            served: groups.len() as u32,
            v4: columns.v4.finish(),
            v6: columns.v6.finish(),
            port_lists,
            absent,
        };
        (rrsets, endpoints)
    }

    /// Builds the columns: each address of each endpoint once (E5), in the order of the endpoints.
    ///
    /// `groups` contains `rows` rows, `v4` of them with an IPv4 address.
    fn columns(groups: &[&[SortedEndpoint]], rows: usize, v4: usize) -> Columns {
        let mut columns = Columns {
            v4: ColumnBuilder::with_capacity(v4, groups.len()),
            v6: ColumnBuilder::with_capacity(rows - v4, groups.len()),
            rows: Vec::with_capacity(rows),
        };
        for (endpoint, group) in groups.iter().enumerate() {
            for same in group.chunk_by(|a, b| a.address == b.address) {
                let (place, v6) = match same[0].address {
                    IpAddr::V4(v4) => (columns.v4.push(v4.into()), false),
                    IpAddr::V6(v6) => (columns.v6.push(v6.into()), true),
                };
                columns.rows.extend(same.iter().map(|row| ColumnEndpoint {
                    endpoint: endpoint as u32,
                    place,
                    ports: row.ports,
                    v6,
                    in_service: row.in_service,
                }));
            }
            columns.v4.end_endpoint();
            columns.v6.end_endpoint();
        }
        columns
    }

    fn absent_names(&mut self, groups: &[&[SortedEndpoint]]) -> (Box<[PackedLabel]>, Box<[Absence]>) {
        let mut names: Vec<PackedLabel> = groups.iter().map(|group| group[0].label).collect();
        let mut absent = std::mem::take(&mut self.absent);
        // Of two reasons for one name, keep the first in the order of `Absence`.
        absent.sort_by_key(|(label, absence)| (label.order(), *absence as u8));
        absent.dedup_by_key(|(label, _)| *label);
        if !absent.is_empty() {
            let served: HashSet<PackedLabel> = names.iter().copied().collect();
            absent.retain(|(label, _)| !served.contains(label));
        }
        names.extend(absent.iter().map(|(label, _)| *label));
        (names.into(), absent.into_iter().map(|(_, absence)| absence).collect())
    }

    /// Builds the RRsets of a headless name: all endpoints in service, or those with the port `port`.
    fn headless_rrset(&self, columns: &Columns, in_service: u32, port: Option<(&str, Protocol)>) -> HeadlessRrset {
        let numbers: Vec<Box<[u16]>> = self.port_lists.iter().map(|list| numbers_of(list, port)).collect();
        let has_port = |row: &ColumnEndpoint| port.is_none() || !numbers[row.ports as usize].is_empty();
        let chosen = || columns.rows.iter().filter(|row| row.in_service && has_port(row));
        let (v4, v6) = (columns.v4.select(chosen(), false), columns.v6.select(chosen(), true));
        if let [numbers] = &numbers[..] {
            let weight = weight((v4.len() + v6.len()) * numbers.len());
            return HeadlessRrset { v4, v6, targets: Targets::Product(in_service, numbers.clone()), weight };
        }
        let each = || chosen().flat_map(|row| numbers[row.ports as usize].iter().map(move |number| (row, *number)));
        let pairs: DistinctSet<_> = each().map(|(row, number)| (columns.address(row), number)).collect();
        let mut targets: Vec<(u32, u16)> = each().map(|(row, number)| (row.endpoint, number)).collect();
        targets.sort_unstable();
        targets.dedup();
        HeadlessRrset { v4, v6, targets: Targets::Only(targets.into()), weight: weight(pairs.len()) }
    }

    /// Builds the RRsets of the ports' names; `service` has those of the Service's own name.
    fn named_ports(&self, columns: &Columns, service: &HeadlessRrset) -> Ports<HeadlessRrset> {
        let mut used = vec![false; self.port_lists.len()];
        for row in columns.rows.iter().filter(|row| row.in_service) {
            used[row.ports as usize] = true;
        }
        let lists = self.port_lists.iter().zip(used).filter(|(_, used)| *used).map(|(list, _)| list);
        let mut names: Vec<(&str, Protocol)> =
            lists.flat_map(|list| list.iter()).map(|port| (&*port.name, port.protocol)).collect();
        names.sort_unstable();
        names.dedup();
        let set = |port| match (&service.targets, &self.port_lists[..]) {
            // Each endpoint has every port.
            (Targets::Product(in_service, _), [list]) => {
                let numbers = numbers_of(list, Some(port));
                let weight = weight((service.v4.len() + service.v6.len()) * numbers.len());
                HeadlessRrset { targets: Targets::Product(*in_service, numbers), weight, ..service.clone() }
            }
            _ => self.headless_rrset(columns, 0, Some(port)),
        };
        let named = names.into_iter().filter(|(name, _)| !name.is_empty());
        named.map(|(name, protocol)| (name.into(), protocol, set((name, protocol)))).collect()
    }

    fn endpoint_ports(&self, columns: &Columns, endpoints: usize) -> EndpointPorts {
        match &self.port_lists[..] {
            [] => EndpointPorts::default(),
            [list] => EndpointPorts::Same(numbers_of(list, None)),
            lists => {
                let numbers: Vec<Box<[u16]>> = lists.iter().map(|list| numbers_of(list, None)).collect();
                let (mut ends, mut ports, mut weights) = (Vec::with_capacity(endpoints), Vec::new(), Vec::new());
                for rows in columns.rows.chunk_by(|a, b| a.endpoint == b.endpoint) {
                    let pairs = || {
                        let numbers = |row: &ColumnEndpoint| numbers[row.ports as usize].iter();
                        rows.iter().flat_map(move |row| numbers(row).map(move |number| (columns.address(row), *number)))
                    };
                    ports.extend(distinct(pairs().map(|(_, number)| number).collect()).iter());
                    ends.push(ports.len() as u32);
                    weights.push(weight(pairs().collect::<DistinctSet<_>>().len()));
                }
                EndpointPorts::Each { ends: ends.into(), ports: ports.into(), weights: weights.into() }
            }
        }
    }
}

/// Names endpoints by their addresses if the Pod's name is the hostname of another endpoint.
fn drop_shadowed_pod_names(rows: &mut [SortedEndpoint]) {
    if rows.iter().any(|row| row.is_pod_name) {
        let hostnames = rows.iter().filter(|row| !row.is_pod_name && !row.label.is_none());
        let hostnames: HashSet<PackedLabel> = hostnames.map(|row| row.label).collect();
        for row in rows.iter_mut().filter(|row| row.is_pod_name && hostnames.contains(&row.label)) {
            row.label = PackedLabel::NONE;
        }
    }
}

/// Set for counting distinct values.
type DistinctSet<T> = HashSet<T, foldhash::fast::RandomState>;

struct Columns {
    v4: ColumnBuilder<u32>,
    v6: ColumnBuilder<u128>,
    rows: Vec<ColumnEndpoint>,
}

impl Columns {
    fn address(&self, row: &ColumnEndpoint) -> (bool, u128) {
        let place = row.place as usize;
        (row.v6, if row.v6 { self.v6.addresses[place] } else { self.v4.addresses[place].into() })
    }
}

/// A row with the position of its address in a column. Several rows can share a position.
struct ColumnEndpoint {
    endpoint: u32,
    place: u32,
    ports: u32,
    v6: bool,
    in_service: bool,
}

struct ColumnBuilder<T> {
    addresses: Vec<T>,
    /// End of each endpoint's addresses.
    ends: Vec<u32>,
}

impl<T: Copy + Ord + Hash> ColumnBuilder<T> {
    fn with_capacity(addresses: usize, endpoints: usize) -> Self {
        Self { addresses: Vec::with_capacity(addresses), ends: Vec::with_capacity(endpoints) }
    }

    fn push(&mut self, address: T) -> u32 {
        self.addresses.push(address);
        (self.addresses.len() - 1) as u32
    }

    fn end_endpoint(&mut self) {
        self.ends.push(self.addresses.len() as u32);
    }

    /// Returns the positions of the `rows` that belong to this column, each address once.
    fn select<'r>(&self, rows: impl Iterator<Item = &'r ColumnEndpoint>, v6: bool) -> Selection {
        let mut places = Vec::with_capacity(self.addresses.len());
        places.extend(rows.filter(|row| row.v6 == v6).map(|row| row.place));
        places.dedup();
        let address = |place: u32| self.addresses[place as usize];
        let mut sorted: Vec<T> = places.iter().map(|place| address(*place)).collect();
        // The input is mostly sorted runs, which a stable sort only merges.
        sorted.sort();
        // Two endpoints rarely share an address.
        if !sorted.is_sorted_by(|a, b| a < b) {
            let mut seen = DistinctSet::default();
            places.retain(|place| seen.insert(address(*place)));
        }
        if places.iter().copied().eq(0..places.len() as u32) {
            Selection::First(places.len() as u32)
        } else {
            Selection::Indices(places.into())
        }
    }

    fn finish(self) -> Column<T> {
        let spans = if self.addresses.is_empty() {
            Offsets::None
        } else if self.ends.iter().copied().eq(1..=self.ends.len() as u32) {
            Offsets::Dense
        } else {
            Offsets::Sparse(self.ends.into())
        };
        Column { addresses: self.addresses.into(), offsets: spans }
    }
}

/// Returns the distinct numbers in a list of ports: of all ports, or of those with this name and protocol.
fn numbers_of(list: &[EndpointPort], port: Option<(&str, Protocol)>) -> Box<[u16]> {
    let matches = |candidate: &&EndpointPort| {
        port.is_none_or(|(name, protocol)| *candidate.name == *name && candidate.protocol == protocol)
    };
    distinct(list.iter().filter(matches).map(|port| port.number).collect())
}

fn distinct(mut numbers: Vec<u16>) -> Box<[u16]> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into()
}
