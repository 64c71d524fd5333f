//! Iterating: all records of a zone, as a zone file has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{PtrSet, VERSION, VERSION_TTL, Zone, address_rrset, answered_names};
use crate::names::reverse::{AddressRange, reverse_name};
use crate::names::{self, HOSTMASTER, NAME_SERVER, ServiceKey, WireName, dashed};
use crate::records::{OwnName, RRset, ServiceNode, ServiceRecords};
use crate::rtype;

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
        records.sort_by_cached_key(|record| (record.owner.canonical(), record.data.clone()));
        records.dedup();
        let forward = if self.settings.apexes.contains(origin) { origin } else { &self.settings.apexes[0] };
        let soa = RecordData::Soa {
            name_server: forward.prefixed(NAME_SERVER)?,
            mailbox: forward.prefixed(HOSTMASTER)?,
            serial: self.serial(),
            minimum: self.negative_ttl(),
        };
        let soa = Record { owner: origin.clone(), ttl: self.negative_ttl(), data: soa };
        let ns =
            Record { owner: origin.clone(), ttl: self.ttl(), data: RecordData::Ns(forward.prefixed(NAME_SERVER)?) };
        records.splice(0..0, [soa, ns]);
        Some(records)
    }

    fn forward_records(&self, origin: &WireName) -> Vec<Record> {
        let mut out = Out { records: Vec::new(), origin, ttl: self.ttl() };
        let apex = self.apex.load();
        for rtype in [rtype::A, rtype::AAAA] {
            out.rrset(origin.prefixed(NAME_SERVER).as_ref(), address_rrset(&apex.v4, &apex.v6, rtype));
        }
        if let Some(owner) = origin.prefixed(names::VERSION) {
            out.records.push(Record { owner, ttl: VERSION_TTL, data: RecordData::Txt(VERSION.into()) });
        }
        for published in &self.services {
            out.service(&published.records);
        }
        for pods in &self.pods {
            for address in pods.iter() {
                let mut buffer = [0; 63];
                let owner = origin.of_pod(pods.key(), dashed::write(address, &mut buffer));
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
        let mut out = Out { records: Vec::new(), origin, ttl: self.ttl() };
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
        let own = self.origin.of_service(key, &[]);
        if let Some(target) = records.external_name() {
            self.record(own, RecordData::Cname(target.clone()));
            return;
        }
        let mut nodes = vec![(own, ServiceNode::Service)];
        for (number, (port, protocol)) in records.ports().enumerate() {
            let port = [b"_", port.as_bytes()].concat();
            let owner = self.origin.of_service(key, &[&port, protocol.label().as_bytes()]);
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

fn endpoint_name(origin: &WireName, key: ServiceKey<'_>, label: Option<OwnName<'_>>) -> Option<WireName> {
    match label {
        Some(label) => origin.of_service(key, &[label.write(&mut [0; 63])]),
        None => origin.of_service(key, &[]),
    }
}
