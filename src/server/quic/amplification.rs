//! The anti-amplification limit of QUIC: the server sends at most three times as many octets to an address that is not
//! validated as it has received from there (RFC 9000 section 8.1).
//!
//! quinn has a limit of its own for each connection, but if any of it is left it sends one more whole datagram, and so
//! up to four times the octets received. This module counts datagrams as they are received and sent, and drops those
//! above the limit as if the network had lost them; quinn sends them again when more octets have arrived. Not here:
//! which handshakes begin without a validated address (`acceptor.rs`), and the content of a datagram. Read next:
//! `socket.rs`, which counts.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use headless_dns_core::lock::lock;

/// Octets sent for each octet received (RFC 9000 section 8.1).
const FACTOR: u64 = 3;
/// Minimum size of a datagram with an Initial packet, in octets (RFC 9000 section 14.1).
const MIN_INITIAL_BYTES: usize = 1200;
/// Number of addresses without a connection for which datagrams are counted. Above it all counts are cleared, and the
/// next connection from such an address counts as if its first datagram had the minimum size.
const MAX_UNKNOWN: usize = 1024;

/// Counters of the octets received from and sent to addresses that are not validated. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct AmplificationLimit(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Number of addresses that are not validated. At zero, a datagram takes no lock.
    unvalidated: AtomicUsize,
    addresses: Mutex<AddressCounters>,
}

#[derive(Debug, Default)]
struct AddressCounters {
    /// Addresses with a connection.
    connected: HashMap<SocketAddr, ConnectedAddress>,
    /// Number of addresses in `connected` that no connection has validated.
    unvalidated: usize,
    /// Addresses without a connection that sent a datagram which may begin one.
    unknown: HashMap<SocketAddr, Traffic>,
}

/// Octets received from and sent to one address.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    received: u64,
    sent: u64,
}

#[derive(Debug, Default)]
struct ConnectedAddress {
    traffic: Traffic,
    /// Number of connections that have not validated the address.
    unvalidated: usize,
    /// Number of connections that have.
    validated: usize,
}

impl ConnectedAddress {
    fn count(&mut self, is_validated: bool) -> &mut usize {
        if is_validated { &mut self.validated } else { &mut self.unvalidated }
    }
}

impl AmplificationLimit {
    /// Counts a received datagram.
    pub(super) fn receive(&self, from: SocketAddr, datagram: &[u8]) {
        let may_begin = may_begin(datagram);
        if may_begin || self.0.unvalidated.load(Ordering::Acquire) > 0 {
            self.0.change(|addresses| addresses.receive(from, datagram.len() as u64, may_begin));
        }
    }

    /// Counts `octets` that are about to be sent in datagrams of `segment` octets. Returns the number of octets that
    /// the limit allows, in whole datagrams.
    pub(super) fn send(&self, to: SocketAddr, octets: usize, segment: usize) -> usize {
        if self.0.unvalidated.load(Ordering::Acquire) == 0 {
            return octets;
        }
        self.0.lock().send(to, octets, segment)
    }

    /// Uncounts octets that [`Self::send`] counted and the socket did not accept.
    pub(super) fn take_back(&self, to: SocketAddr, octets: usize) {
        if self.0.unvalidated.load(Ordering::Acquire) > 0
            && let Some(traffic) = self.0.lock().traffic(to)
        {
            traffic.sent = traffic.sent.saturating_sub(octets as u64);
        }
    }

    /// Registers a new connection with its address, until the returned value is dropped.
    pub(super) fn begin(&self, address: SocketAddr, is_validated: bool) -> Address {
        self.0.change(|addresses| {
            let mut traffic = addresses.unknown.remove(&address).unwrap_or_default();
            traffic.received = traffic.received.max(MIN_INITIAL_BYTES as u64);
            addresses
                .connected
                .entry(address)
                .or_insert_with(|| ConnectedAddress { traffic, ..ConnectedAddress::default() });
            addresses.change(address, |connected| *connected.count(is_validated) += 1);
        });
        Address { limit: self.clone(), address, is_validated }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, AddressCounters> {
        lock(&self.addresses)
    }

    fn change(&self, change: impl FnOnce(&mut AddressCounters)) {
        let mut addresses = self.lock();
        change(&mut addresses);
        self.unvalidated.store(addresses.unvalidated + addresses.unknown.len(), Ordering::Release);
    }
}

impl AddressCounters {
    fn traffic(&mut self, address: SocketAddr) -> Option<&mut Traffic> {
        match self.connected.get_mut(&address) {
            Some(connected) => Some(&mut connected.traffic),
            None => self.unknown.get_mut(&address),
        }
    }

    fn receive(&mut self, from: SocketAddr, octets: u64, may_begin: bool) {
        if let Some(traffic) = self.traffic(from) {
            traffic.received += octets;
        } else if may_begin {
            if self.unknown.len() >= MAX_UNKNOWN {
                self.unknown.clear();
            }
            self.unknown.insert(from, Traffic { received: octets, sent: 0 });
        }
    }

    fn send(&mut self, to: SocketAddr, octets: usize, segment: usize) -> usize {
        let left = match self.connected.get(&to) {
            Some(ConnectedAddress { validated: 0, traffic, .. }) => {
                (traffic.received * FACTOR).saturating_sub(traffic.sent)
            }
            // A packet sent without a connection is smaller than the datagram that it responds to.
            Some(_) | None => u64::MAX,
        };
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let allowed = if octets <= left { octets } else { left - left % segment.max(1) };
        if let Some(traffic) = self.traffic(to) {
            traffic.sent += allowed as u64;
        }
        allowed
    }

    /// Changes the number of connections of an address, and removes it at zero.
    fn change(&mut self, address: SocketAddr, change: impl FnOnce(&mut ConnectedAddress)) {
        let Some(connected) = self.connected.get_mut(&address) else { return };
        let is_unvalidated = |connected: &ConnectedAddress| connected.validated == 0 && connected.unvalidated > 0;
        let before = is_unvalidated(connected);
        change(connected);
        let after = is_unvalidated(connected);
        if connected.validated + connected.unvalidated == 0 {
            self.connected.remove(&address);
        }
        self.unvalidated = self.unvalidated + usize::from(after) - usize::from(before);
    }
}

/// Returns whether a datagram may begin a connection: it has the minimum size and the long header of an Initial packet
/// (RFC 9000 sections 14.1 and 17.2). For versions other than 1, any long header counts.
fn may_begin(datagram: &[u8]) -> bool {
    datagram.len() >= MIN_INITIAL_BYTES
        && datagram[0] & 0x80 != 0
        && (datagram[0] & 0x30 == 0 || datagram[1..5] != [0, 0, 0, 1])
}

/// Client address of one connection. Dropping it unregisters the connection.
#[derive(Debug)]
pub(super) struct Address {
    limit: AmplificationLimit,
    address: SocketAddr,
    is_validated: bool,
}

impl Address {
    /// Marks the address as validated, which ends the limit.
    pub(super) fn validate(&mut self) {
        if !std::mem::replace(&mut self.is_validated, true) {
            self.limit.0.change(|addresses| {
                addresses.change(self.address, |connected| {
                    connected.unvalidated -= 1;
                    connected.validated += 1;
                });
            });
        }
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.limit.0.change(|addresses| {
            addresses.change(self.address, |connected| *connected.count(self.is_validated) -= 1);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initial(length: usize) -> Vec<u8> {
        let mut datagram = vec![0; length];
        datagram[..5].copy_from_slice(&[0xc0, 0, 0, 0, 1]);
        datagram
    }

    fn client(number: u16) -> SocketAddr {
        ([192, 0, 2, 1], number).into()
    }

    #[test]
    fn allows_three_times_received_octets() {
        let (limit, client) = (AmplificationLimit::default(), client(1));
        for length in [1200, 1250] {
            limit.receive(client, &initial(length));
        }
        let address = limit.begin(client, false);
        assert_eq!(limit.send(client, 5 * 1200, 1200), 5 * 1200);
        assert_eq!(limit.send(client, 3 * 1200, 1200), 1200, "7,350 in all, of which 6,000 were sent");
        assert_eq!(limit.send(client, 151, 151), 0);
        assert_eq!(limit.send(client, 150, 150), 150);
        limit.receive(client, &[0x40; 50]);
        assert_eq!(limit.send(client, 150, 150), 150);
        limit.take_back(client, 150);
        assert_eq!([limit.send(client, 150, 150), limit.send(client, 1, 1)], [150, 0]);
        drop(address);
        assert!(limit.0.lock().connected.is_empty());
    }

    #[test]
    fn validated_address_has_no_limit() {
        let (limit, client) = (AmplificationLimit::default(), client(1));
        let mut one = limit.begin(client, false);
        assert_eq!(limit.send(client, 9000, 1200), 3600);
        one.validate();
        one.validate();
        assert_eq!(limit.send(client, 9000, 1200), 9000);
        let two = limit.begin(client, false);
        assert_eq!(limit.send(client, 9000, 1200), 9000, "the first has shown that the client is there");
        drop(one);
        assert_eq!(limit.send(client, 9000, 1200), 0);
        drop(two);
        let three = limit.begin(client, true);
        assert_eq!(limit.send(client, 9000, 1200), 9000);
        drop(three);
        assert_eq!(limit.0.unvalidated.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn earlier_responses_count_against_connection() {
        let (limit, client) = (AmplificationLimit::default(), client(1));
        limit.receive(client, &initial(1200));
        assert_eq!(limit.send(client, 100, 100), 100, "a Retry packet");
        let _address = limit.begin(client, false);
        assert_eq!([limit.send(client, 3501, 3501), limit.send(client, 3500, 3500)], [0, 3500]);
    }

    #[test]
    fn limits_addresses_without_connection() {
        let limit = AmplificationLimit::default();
        for number in 0..u16::MAX {
            limit.receive(client(number), &initial(1300));
            limit.receive(client(number), &initial(1199));
        }
        let known = limit.0.lock().unknown.len();
        assert!((1..=MAX_UNKNOWN).contains(&known), "{known}");
        let _one = limit.begin(client(0), false);
        assert_eq!(limit.send(client(0), 3601, 1), 3600, "of one that was forgotten, the least size");
    }

    #[test]
    fn recognizes_initial_datagrams() {
        for (first, version, length, expected) in [
            (0xc0, 1, 1200, true),
            (0xcf, 1, 1500, true),
            (0x80, 1, 1200, true),
            (0xc0, 1, 1199, false),
            (0xe0, 1, 1200, false),
            (0xe0, 2, 1200, true),
            (0x40, 1, 1200, false),
        ] {
            let mut datagram = initial(length);
            (datagram[0], datagram[4]) = (first, version);
            assert_eq!(may_begin(&datagram), expected, "{first:x} {version} {length}");
        }
        assert!(!may_begin(&[]));
    }
}
