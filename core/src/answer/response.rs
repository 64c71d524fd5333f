//! Response writer for RRsets: how many records fit, at which record a rotated RRset begins, which names are compressed.
//!
//! The rows in parentheses (A1, N4, R2, ...) are those of `tests/rows.md`. Not here: the choice of the RRset (`mod.rs`), and
//! the wire format of a record (`wire/`).

use super::{OwnerPointers, ZoneLabel};
use crate::name::{HOSTMASTER, MAX_NAME, NAME_SERVER, QueryName, SVC, ServiceKey, WireName};
use crate::records::{AddressRrset, EndpointLabel, PtrRrset, RRset, SrvRecord, SrvRrset};
use crate::rtype;
use crate::wire::{self, NameRef, QNAME_POINTER, Section, Writer};
use crate::zone::{SOA_TIMERS, VERSION_TTL, Zone, ZoneContext};

/// Response under construction.
pub(super) struct Response<'m> {
    pub(super) writer: Writer<'m>,
    pub(super) ttl: u32,
    /// Rotation counter: modulo the number of records, the index of the first record of an RRset (A6).
    pub(super) rotation: u16,
    /// Zone label of the response in metrics.
    pub(super) zone: ZoneLabel,
}

impl Response<'_> {
    pub(super) fn rrset(&mut self, names: OwnerPointers, zone_context: ZoneContext<'_>, rrset: RRset<'_>, zone: &Zone) {
        match rrset {
            RRset::A(addresses) => self.addresses(names.owner, rtype::A, addresses, u32::to_be_bytes),
            RRset::Aaaa(addresses) => self.addresses(names.owner, rtype::AAAA, addresses, u128::to_be_bytes),
            RRset::Srv(servers) => self.srv_rrset(names.owner, zone_context.forward, servers),
            RRset::Ptr(pointers) => self.ptr_rrset(names.owner, zone_context, pointers),
            RRset::Txt(text) => self.write_record(names.owner, rtype::TXT, VERSION_TTL, &[&[text.len() as u8], text]),
            RRset::Soa => self.soa(names, zone_context, zone.negative_ttl(), zone),
            RRset::Ns => {
                let target = self.writer.position() + 12;
                let (label, rest) = name_server(names, zone_context);
                self.write_record(names.owner, rtype::NS, self.ttl, &[label, rest.octets()]);
                // Only at QNAME: the end of a CNAME chain has no additional records.
                if names.owner == QNAME_POINTER && !self.writer.is_truncated() {
                    self.name_server_addresses(target, zone);
                }
            }
        }
    }

    /// Writes as many addresses as fit (A4), in rotated order (A6).
    fn addresses<T: Copy, const N: usize>(
        &mut self,
        owner: u16,
        rtype: u16,
        addresses: AddressRrset<'_, T>,
        octets: impl Fn(T) -> [u8; N],
    ) {
        let count = addresses.len();
        let fit = self.fit(count, 12 + N);
        let start = start(self.rotation, count);
        match addresses.column() {
            Some(column) => {
                let (head, tail) = column.split_at(start);
                let rest = fit.saturating_sub(tail.len());
                let tail = tail.iter().take(fit).map(|address| octets(*address));
                self.writer.addresses(owner, rtype, self.ttl, fit - rest, tail);
                let head = head.iter().map(|address| octets(*address));
                self.writer.addresses(owner, rtype, self.ttl, rest, head);
            }
            None => {
                let order = (start..count).chain(0..start).map(|index| octets(addresses.get(index)));
                self.writer.addresses(owner, rtype, self.ttl, fit, order);
            }
        }
    }

    /// Returns how many of `count` records of `length` octets fit. If some do not, sets TC.
    fn fit(&mut self, count: usize, length: usize) -> usize {
        let fit = count.min(self.writer.remaining() / length);
        if fit < count {
            self.writer.truncate();
        }
        fit
    }

    /// Writes SRV records (N4, N5) with uncompressed targets (RFC 2782), then the addresses of the targets as additional
    /// records, as far as they fit (A4). A truncated RRset gets none, since the client discards it (RFC 2181 section 9).
    fn srv_rrset(&mut self, owner: u16, zone: &WireName, servers: SrvRrset<'_>) {
        let count = servers.len();
        let start = start(self.rotation, count);
        let first = self.writer.position();
        let mut below = [0; MAX_NAME];
        let below = concat(&mut below, [servers.service().0, SVC, zone.octets()]);
        // Two loops instead of `chain`, which would check at each step which of the ranges is current.
        for range in [start..count, 0..start] {
            for index in range {
                if !self.srv_record(owner, below, servers.weight, servers.get(index)) {
                    self.writer.truncate();
                    return;
                }
            }
        }
        self.writer.begin(Section::Additional);
        let mut position = first;
        let mut before = None;
        let begun_with = servers.endpoint(start);
        for index in (start..count).chain(0..start) {
            let (data, next) = self.writer.rdata_range(position);
            position = next;
            let endpoint = servers.endpoint(index);
            // The ports of one endpoint are adjacent, except where the rotation begins between two of them.
            let seen = before == Some(endpoint) || index < start && begun_with == endpoint;
            before = Some(endpoint);
            let Some(target) = wire::pointer(data + 6).filter(|_| !seen) else { continue };
            if self.writer.remaining() < 16 {
                break;
            }
            let (v4, v6) = servers.addresses(endpoint);
            self.additional(target, rtype::A, v4, u32::to_be_bytes);
            self.additional(target, rtype::AAAA, v6, u128::to_be_bytes);
        }
    }

    /// Writes one SRV record, and returns whether it fits. `below` is the rest of the target after its first label.
    fn srv_record(&mut self, owner: u16, below: &[u8], weight: u16, server: SrvRecord<'_>) -> bool {
        let mut buffer = [0; 64];
        let label = own_label(server.label, &mut buffer);
        let mut fixed = [0; 6];
        fixed[2..4].copy_from_slice(&weight.to_be_bytes());
        fixed[4..6].copy_from_slice(&server.port.to_be_bytes());
        self.writer.record(NameRef::Pointer(owner), rtype::SRV, self.ttl, &[&fixed, label, below])
    }

    /// Writes an RRset into the additional section if all its records fit.
    fn additional<T: Copy, const N: usize>(
        &mut self,
        owner: u16,
        rtype: u16,
        addresses: &[T],
        octets: impl Fn(T) -> [u8; N],
    ) {
        if addresses.len() * (12 + N) <= self.writer.remaining() {
            let octets = addresses.iter().map(|address| octets(*address));
            self.writer.addresses(owner, rtype, self.ttl, addresses.len(), octets);
        }
    }

    /// Writes PTR records in their own order (R2): they are never rotated, since clients use the first.
    fn ptr_rrset(&mut self, owner: u16, zone_context: ZoneContext<'_>, names: PtrRrset<'_>) {
        let Some(address) = zone_context.address else { return };
        // The first target is written in full; the next ones point to its `svc` and zone (RFC 1035 section 4.1.4).
        let mut shared: Option<u16> = None;
        for name in names.iter() {
            let mut buffer = [0; 64];
            let label = own_label(name.endpoint_label(address), &mut buffer);
            let ServiceKey(service) = name.service.key();
            let at = self.writer.position() + 12 + label.len() + service.len();
            let suffix = shared.map(u16::to_be_bytes);
            let rest: [&[u8]; 2] = match &suffix {
                Some(pointer) => [pointer, &[]],
                None => [SVC, zone_context.forward.octets()],
            };
            if !self.writer.record(NameRef::Pointer(owner), rtype::PTR, self.ttl, &[label, service, rest[0], rest[1]]) {
                self.writer.truncate();
                return;
            }
            shared = shared.or_else(|| wire::pointer(at));
        }
    }

    /// Writes a CNAME record, and returns a compression pointer to its target; `None` if the record does not fit, or the
    /// target is beyond the reach of pointers.
    pub(super) fn cname(
        &mut self,
        names: OwnerPointers,
        zone_context: ZoneContext<'_>,
        target: &WireName,
    ) -> Option<u16> {
        let at = self.writer.position() + 12;
        let below =
            target.octets().strip_suffix(zone_context.apex.octets()).filter(|_| is_below(target, zone_context.apex));
        let pointer = names.apex.map(u16::to_be_bytes);
        let data: [&[u8]; 2] = match (below, &pointer) {
            (Some(labels), Some(pointer)) => [labels, pointer],
            _ => [target.octets(), &[]],
        };
        if !self.writer.record(NameRef::Pointer(names.owner), rtype::CNAME, self.ttl, &data) {
            self.writer.truncate();
            return None;
        }
        wire::pointer(at)
    }

    /// Writes the SOA record (A8). It always fits, even after a QNAME of 255 octets.
    pub(super) fn soa(&mut self, names: OwnerPointers, zone_context: ZoneContext<'_>, ttl: u32, zone: &Zone) {
        let [refresh, retry, expire] = SOA_TIMERS;
        let values = [zone.serial(), refresh, retry, expire, zone.negative_ttl()];
        let mut numbers = [0; 20];
        for (place, value) in numbers.chunks_exact_mut(4).zip(values) {
            place.copy_from_slice(&value.to_be_bytes());
        }
        let (label, rest) = name_server(names, zone_context);
        match (names.apex, &rest) {
            // The usual case, in which all SOA records have one length.
            (Some(owner), NameSuffix::Pointer([high, low])) => {
                let mut data = [0; NAME_SERVER.len() + HOSTMASTER.len() + 24];
                let (names, tail) = data.split_at_mut(NAME_SERVER.len() + HOSTMASTER.len() + 4);
                let (server, mailbox) = names.split_at_mut(NAME_SERVER.len() + 2);
                server[..NAME_SERVER.len()].copy_from_slice(NAME_SERVER);
                server[NAME_SERVER.len()..].copy_from_slice(&[*high, *low]);
                mailbox[..HOSTMASTER.len()].copy_from_slice(HOSTMASTER);
                mailbox[HOSTMASTER.len()..].copy_from_slice(&[*high, *low]);
                tail.copy_from_slice(&numbers);
                self.writer.record_fixed(owner, rtype::SOA, ttl, data);
            }
            _ => {
                let owner = names.apex.map_or(NameRef::Uncompressed(zone_context.apex), NameRef::Pointer);
                let rest = rest.octets();
                self.writer.record(owner, rtype::SOA, ttl, &[label, rest, HOSTMASTER, rest, &numbers]);
            }
        }
    }

    /// Writes the addresses of the name server as additional records. `target` is the position of its name in the message.
    fn name_server_addresses(&mut self, target: usize, zone: &Zone) {
        let apex = zone.name_server();
        self.writer.begin(Section::Additional);
        if let Some(owner) = wire::pointer(target) {
            self.additional(owner, rtype::A, &apex.v4, u32::to_be_bytes);
            self.additional(owner, rtype::AAAA, &apex.v6, u128::to_be_bytes);
        }
    }

    /// Writes a TXT record at QNAME, in character-strings of at most 255 octets. Its TTL is 0: the text describes the
    /// present state only.
    pub(super) fn text(&mut self, text: &str) {
        let strings = text.as_bytes().chunks(255);
        let data: Vec<u8> = strings.flat_map(|string| [&[string.len() as u8], string].concat()).collect();
        self.write_record(wire::QNAME_POINTER, rtype::TXT, 0, &[&data]);
    }

    fn write_record<const N: usize>(&mut self, owner: u16, rtype: u16, ttl: u32, data: &[&[u8]; N]) {
        if !self.writer.record(NameRef::Pointer(owner), rtype, ttl, data) {
            self.writer.truncate();
        }
    }
}

/// Returns the index of the first record of a rotated RRset of `count` records.
#[inline]
fn start(rotation: u16, count: usize) -> usize {
    // 32 bits, since a 64-bit division takes twice as long.
    match u32::try_from(count) {
        Ok(count) if count > 1 => (u32::from(rotation) % count) as usize,
        _ => 0,
    }
}

/// Returns the labels of the name server in front of the zone, and the zone: a compression pointer, or the name in full.
fn name_server<'s>(names: OwnerPointers, zone_context: ZoneContext<'s>) -> (&'static [u8], NameSuffix<'s>) {
    match names.apex.filter(|_| std::ptr::eq(zone_context.apex, zone_context.forward)) {
        Some(pointer) => (NAME_SERVER, NameSuffix::Pointer(pointer.to_be_bytes())),
        None => (NAME_SERVER, NameSuffix::Zone(zone_context.forward)),
    }
}

enum NameSuffix<'s> {
    Pointer([u8; 2]),
    Zone(&'s WireName),
}

impl NameSuffix<'_> {
    fn octets(&self) -> &[u8] {
        match self {
            Self::Pointer(octets) => octets,
            Self::Zone(zone) => zone.octets(),
        }
    }
}

/// Returns the first label of an endpoint's name in wire format, or nothing for the Service's own name.
fn own_label<'b>(name: Option<EndpointLabel<'_>>, buffer: &'b mut [u8; 64]) -> &'b [u8] {
    let (Some(name), [length, text @ ..]) = (name, &mut *buffer) else { return &[] };
    *length = name.write(text).len() as u8;
    let end = 1 + usize::from(*length);
    &buffer[..end]
}

/// Concatenates the parts in `buffer`.
fn concat<'b, const N: usize>(buffer: &'b mut [u8; MAX_NAME], parts: [&[u8]; N]) -> &'b [u8] {
    let mut end = 0;
    for part in parts {
        buffer[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    &buffer[..end]
}

/// Returns whether `name` ends with the labels of `apex`: equal octets at the end can begin inside a label.
fn is_below(name: &WireName, apex: &WireName) -> bool {
    let mut query = QueryName::default();
    query.set(name);
    query.apex_at(apex).is_some()
}
