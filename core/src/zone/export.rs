//! Export of a zone: all its records, as a zone file has them.
//!
//! Not here: the zone file's syntax (the command `records`) and look-ups (`zone/mod.rs`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{VERSION, VERSION_TTL, Zone, address_rrset, answered_names};
use crate::name::reverse::{AddressRange, reverse_name};
use crate::name::{self, HOSTMASTER, NAME_SERVER, ServiceKey, WireName, dashed};
use crate::records::{EndpointLabel, PtrRrset, RRset, ServiceNode, ServiceRecords};
use crate::rtype;

/// One record of a zone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// Owner name of the record.
    pub owner: WireName,
    /// TTL in seconds.
    pub ttl: u32,
    /// Type and data.
    pub data: RecordData,
}

/// Data of a [`Record`], by its type.
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

impl Zone {
    /// Returns the apexes of all zones, the forward zones first.
    pub fn origins(&self) -> Vec<WireName> {
        let mut origins = self.settings.apexes.clone();
        origins.extend_from_slice(self.reverse.load().apexes());
        origins
    }

    /// Returns all records of the zone `origin`, the SOA record first, the rest in canonical order (RFC 4034 section
    /// 6.1).
    ///
    /// `None` for a zone that is not served. Records made from the QNAME (`--pod-records insecure`) are not included.
    pub fn records(&self, origin: &WireName) -> Option<Vec<Record>> {
        Some(self.chunks(origin)?.flatten().collect())
    }

    /// Iterates over the records of a zone in chunks: the apex, the Pods of each namespace, each Service, or some
    /// addresses.
    ///
    /// So a zone of any size can be written without a copy of it in memory. Each chunk shows one state; between chunks
    /// the zone can change. `None` for a zone that is not served.
    pub fn chunks(&self, origin: &WireName) -> Option<impl Iterator<Item = Vec<Record>>> {
        let forward = self.settings.apexes.contains(origin);
        let mut chunks = vec![Chunk::Apex];
        if forward {
            // Order of the labels below the apex: dns, dns-version, pod, svc.
            let mut namespaces: Vec<Box<[u8]>> = self.pods.iter().map(|pods| pods.key().clone()).collect();
            namespaces.sort();
            chunks.extend(namespaces.into_iter().map(Chunk::Pods));
            let mut services: Vec<Box<[u8]>> =
                self.services.load().iter().map(|service| service.key().into()).collect();
            services.sort_by(|one, other| {
                let (one, other) = (ServiceKey(one), ServiceKey(other));
                (one.namespace(), one.service()).cmp(&(other.namespace(), other.service()))
            });
            chunks.extend(services.into_iter().map(Chunk::Service));
        } else {
            let addresses = self.addresses_in(&self.reverse.load().range_of(origin)?);
            chunks.extend(addresses.chunks(ADDRESSES_PER_CHUNK).map(|some| Chunk::Addresses(some.into())));
        }
        let origin = origin.clone();
        Some(chunks.into_iter().map(move |chunk| self.chunk(&origin, forward, &chunk)))
    }

    /// Returns the number of addresses with PTR records in a reverse zone; `None` for a zone that is not served.
    pub fn addresses_of(&self, origin: &WireName) -> Option<usize> {
        Some(self.ptr_index.count_in(&self.reverse.load().range_of(origin)?))
    }

    fn chunk(&self, origin: &WireName, forward: bool, chunk: &Chunk) -> Vec<Record> {
        let mut sink = RecordSink { records: Vec::new(), origin, ttl: self.ttl() };
        match chunk {
            Chunk::Apex => self.apex_chunk(&mut sink, forward),
            Chunk::Pods(namespace) => self.pods_chunk(&mut sink, namespace),
            Chunk::Service(key) => {
                if let Some(published) = self.services.load().get(self.hash(key), key) {
                    sink.service(&published.records);
                }
            }
            Chunk::Addresses(addresses) => {
                for address in addresses {
                    self.add_ptr_records(&mut sink, *address);
                }
            }
        }
        // Addresses are sorted already, and the SOA record stays first.
        let head = match chunk {
            Chunk::Apex => 2.min(sink.records.len()),
            Chunk::Addresses(_) => return sink.records,
            Chunk::Pods(_) | Chunk::Service(_) => 0,
        };
        let mut records = sink.records;
        records[head..].sort_by_cached_key(|record| (record.owner.canonical(), record.data.clone()));
        records.dedup();
        records
    }

    fn apex_chunk(&self, sink: &mut RecordSink<'_>, is_forward: bool) {
        let origin = sink.origin;
        let forward = if is_forward { origin } else { &self.settings.apexes[0] };
        let (Some(name_server), Some(mailbox)) = (forward.prefixed(NAME_SERVER), forward.prefixed(HOSTMASTER)) else {
            return;
        };
        let (serial, minimum) = (self.serial(), self.negative_ttl());
        let soa = RecordData::Soa { name_server: name_server.clone(), mailbox, serial, minimum };
        sink.records.push(Record { owner: origin.clone(), ttl: minimum, data: soa });
        sink.record(Some(origin.clone()), RecordData::Ns(name_server));
        if !is_forward {
            return;
        }
        let apex = self.apex.load();
        for rtype in [rtype::A, rtype::AAAA] {
            sink.rrset(origin.prefixed(NAME_SERVER).as_ref(), address_rrset(&apex.v4, &apex.v6, rtype));
        }
        if let Some(owner) = origin.prefixed(name::VERSION) {
            sink.records.push(Record { owner, ttl: VERSION_TTL, data: RecordData::Txt(VERSION.into()) });
        }
    }

    fn pods_chunk(&self, sink: &mut RecordSink<'_>, namespace: &[u8]) {
        let Some(pods) = self.pods.get(namespace) else { return };
        for address in pods.iter() {
            let mut buffer = [0; 63];
            let owner = sink.origin.for_pod(namespace, dashed::write(address, &mut buffer));
            let data = match address {
                IpAddr::V4(v4) => RecordData::A(v4),
                IpAddr::V6(v6) => RecordData::Aaaa(v6),
            };
            sink.record(owner, data);
        }
    }

    /// Adds the PTR records of `address`, in the order of a zone file.
    fn add_ptr_records(&self, sink: &mut RecordSink<'_>, address: IpAddr) {
        let before = sink.records.len();
        self.ptr_index.look_up(address, |names| {
            let names = names.map(|names| answered_names(names, self.settings.rules.ptr));
            for name in names.iter().flat_map(PtrRrset::iter) {
                let target = endpoint_name(&self.settings.apexes[0], name.service.key(), name.endpoint_label(address));
                if let Some(target) = target {
                    sink.record(Some(reverse_name(address)), RecordData::Ptr(target));
                }
            }
        });
        sink.records[before..].sort();
        sink.records.dedup();
    }

    /// Returns the addresses with PTR records in `range`, in the canonical order of their reverse names.
    fn addresses_in(&self, range: &AddressRange) -> Vec<IpAddr> {
        let mut addresses = self.ptr_index.addresses();
        addresses.retain(|address| match (range, address) {
            (AddressRange::V4(range), IpAddr::V4(v4)) => range.contains(&(*v4).into()),
            (AddressRange::V6(range), IpAddr::V6(v6)) => range.contains(&(*v6).into()),
            _ => false,
        });
        // Octets of IPv4 are compared as labels: 10 is before 2. Hexadecimal digits have the order of the address.
        if let AddressRange::V4(_) = range {
            addresses.sort_by_cached_key(|address| match address {
                IpAddr::V4(v4) => v4.octets().map(|octet| octet.to_string()),
                IpAddr::V6(_) => Default::default(),
            });
        }
        addresses
    }
}

/// Maximum number of addresses in a chunk.
const ADDRESSES_PER_CHUNK: usize = 1024;

/// Chunk of a zone: its names are neighbours in canonical order.
enum Chunk {
    Apex,
    /// Pods of a namespace.
    Pods(Box<[u8]>),
    /// Service with these two labels.
    Service(Box<[u8]>),
    Addresses(Box<[IpAddr]>),
}

/// Collector of a zone's records.
struct RecordSink<'z> {
    records: Vec<Record>,
    origin: &'z WireName,
    ttl: u32,
}

impl RecordSink<'_> {
    fn service(&mut self, records: &ServiceRecords) {
        let key = records.name.key();
        let own = self.origin.for_service(key, &[]);
        if let Some(target) = records.external_name() {
            self.record(own, RecordData::Cname(target.clone()));
            return;
        }
        let mut nodes = vec![(own, ServiceNode::Service)];
        for (number, (port, protocol)) in records.ports().enumerate() {
            let port = [b"_", port.as_bytes()].concat();
            let owner = self.origin.for_service(key, &[&port, protocol.label().as_bytes()]);
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

    /// Adds a record. A name over 255 octets cannot be queried, and is left out.
    fn record(&mut self, owner: Option<WireName>, data: RecordData) {
        self.records.extend(owner.map(|owner| Record { owner, ttl: self.ttl, data }));
    }
}

fn endpoint_name(origin: &WireName, key: ServiceKey<'_>, label: Option<EndpointLabel<'_>>) -> Option<WireName> {
    match label {
        Some(label) => origin.for_service(key, &[label.write(&mut [0; 63])]),
        None => origin.for_service(key, &[]),
    }
}
