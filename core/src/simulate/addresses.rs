//! Addresses for simulated Pods and Services.
//!
//! The hash of an object's name chooses its address, so that other objects can be added and removed without changing
//! it, except for the few objects that share a hash. `mod.rs` decides which objects get an address.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::object::AddressFamily;

/// Returns a hash that is equal in every build: names and addresses of simulated objects depend on it.
pub(super) fn hash(parts: &[&str]) -> u64 {
    // FNV-1a, with a zero octet, which no name contains, behind each part, and the last steps of SplitMix64, which
    // spread the bits.
    let octets = parts.iter().flat_map(|part| part.bytes().chain([0]));
    let mut hash = octets
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3));
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

/// Networks from which addresses are taken.
pub(super) struct Pools(Vec<Pool>);

struct Pool {
    family: AddressFamily,
    first: u128,
    /// Number of addresses, from `first`.
    size: u64,
    is_full: bool,
}

impl Pools {
    pub(super) fn new(ranges: &[IpNet]) -> Self {
        Self(ranges.iter().map(Pool::new).collect())
    }

    /// Returns the families of the networks, in the order of the networks.
    pub(super) fn families(&self) -> Vec<AddressFamily> {
        let mut families = Vec::new();
        for pool in &self.0 {
            if !families.contains(&pool.family) {
                families.push(pool.family);
            }
        }
        families
    }

    /// Takes an address that is not in `taken`, and adds it there. `None` if the networks of the family have no more.
    pub(super) fn take(&mut self, family: AddressFamily, key: &[&str], taken: &mut HashSet<IpAddr>) -> Option<IpAddr> {
        let start = hash(key);
        self.0.iter_mut().filter(|pool| pool.family == family).find_map(|pool| pool.take(start, taken))
    }
}

impl Pool {
    fn new(range: &IpNet) -> Self {
        let (family, first, bits) = match range.network() {
            IpAddr::V4(first) => (AddressFamily::V4, u128::from(u32::from(first)), 32 - range.prefix_len()),
            IpAddr::V6(first) => (AddressFamily::V6, u128::from(first), 128 - range.prefix_len()),
        };
        // 2^32 addresses are enough, and keep IPv6 addresses short: fd00::1a2b:3c4d.
        Self { family, first, size: 1 << bits.min(32), is_full: false }
    }

    fn take(&mut self, start: u64, taken: &mut HashSet<IpAddr>) -> Option<IpAddr> {
        if self.is_full {
            return None;
        }
        let probes = (0..self.size).map(|step| (start % self.size + step) % self.size);
        let free = probes.filter_map(|offset| self.address(offset)).find(|address| taken.insert(*address));
        // No address is returned to the pool, so a full pool stays full.
        self.is_full = free.is_none();
        free
    }

    /// Returns address number `offset`; `None` for one that looks like a network or broadcast address.
    fn address(&self, offset: u64) -> Option<IpAddr> {
        let address = self.first + u128::from(offset);
        match self.family {
            AddressFamily::V4 => Some(Ipv4Addr::from(address as u32))
                .filter(|address| !matches!(address.octets()[3], 0 | 255))
                .map(IpAddr::V4),
            AddressFamily::V6 => Some(Ipv6Addr::from(address)).filter(|_| offset != 0).map(IpAddr::V6),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exhausts_range_and_stops() {
        for (range, count) in [
            ("10.0.0.0/24", 254),
            ("10.0.0.8/30", 4),
            ("10.0.0.9/32", 1),
            ("10.0.0.0/32", 0),
            ("10.0.255.252/30", 3),
            ("10.0.0.0/16", 65536 - 512),
            ("fd00::/120", 255),
            ("fd00::5/128", 0),
        ] {
            let range: IpNet = range.parse().unwrap();
            let mut pools = Pools::new(&[range]);
            let family = pools.families()[0];
            let mut taken = HashSet::new();
            let given: Vec<_> =
                (0..count + 3).filter_map(|n| pools.take(family, &[&format!("pod-{n}")], &mut taken)).collect();
            assert_eq!(given.len(), count, "{range}");
            assert!(given.iter().all(|address| range.contains(address)), "{range}");
            assert_eq!(taken.len(), count, "{range}");
        }
    }

    #[test]
    fn hash_is_stable() {
        assert_eq!(hash(&[]), hash(&[]));
        assert_ne!(hash(&["a", "b"]), hash(&["ab", ""]));
        assert_eq!(hash(&["default", "web-0"]), HASH_OF_WEB_0);
    }

    /// Users write simulated addresses down: a change of this number changes all of them.
    const HASH_OF_WEB_0: u64 = 17_971_588_409_496_016_674;
}
