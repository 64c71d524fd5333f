//! Reverse names, `in-addr.arpa` (RFC 1035 section 3.5) and `ip6.arpa` (RFC 3596 section 2.5), and the reverse zones
//! served.
//!
//! Not here: which names an address has (`zone/reverse_index.rs`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::{QueryName, WireName};

/// Kinds of names at and below a reverse apex, by the labels alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReverseNameKind {
    /// The apex of the zone, with the addresses below it.
    Apex(AddressRange),
    /// A name between the apex and complete addresses: it exists if an address below it has a name.
    EmptyNonTerminal(AddressRange),
    /// The name of one complete address.
    Address(IpAddr),
    /// A name with a label that is no octet or nibble, or with too many labels: it cannot exist.
    Invalid,
}

/// All addresses below a reverse name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressRange {
    /// IPv4 addresses as numbers.
    V4(RangeInclusive<u32>),
    /// IPv6 addresses as numbers.
    V6(RangeInclusive<u128>),
}

/// Prefix of an address that a reverse name spells: `depth` octets (IPv4) or nibbles (IPv6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Prefix {
    v6: bool,
    depth: u8,
    /// Address bits, aligned to the left of the family's width, zeros behind the prefix.
    bits: u128,
}

impl Prefix {
    const fn unit(v6: bool) -> u32 {
        if v6 { 4 } else { 8 }
    }

    const fn width(v6: bool) -> u32 {
        if v6 { 128 } else { 32 }
    }

    fn length(self) -> u32 {
        u32::from(self.depth) * Self::unit(self.v6)
    }

    /// Shortens the prefix to `depth` labels.
    fn at(self, depth: u8) -> Self {
        let keep = u32::from(depth) * Self::unit(self.v6);
        let bits = self.bits & !Self::low_bits_mask(Self::width(self.v6) - keep);
        Self { depth, bits, ..self }
    }

    fn low_bits_mask(count: u32) -> u128 {
        if count == 128 { u128::MAX } else { (1 << count) - 1 }
    }

    fn range(self) -> AddressRange {
        let last = self.bits | Self::low_bits_mask(Self::width(self.v6) - self.length());
        if self.v6 { AddressRange::V6(self.bits..=last) } else { AddressRange::V4(self.bits as u32..=last as u32) }
    }

    fn from_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self { v6: false, depth: 4, bits: u128::from(u32::from(v4)) },
            IpAddr::V6(v6) => Self { v6: true, depth: 32, bits: u128::from(v6) },
        }
    }

    fn address(self) -> IpAddr {
        if self.v6 { Ipv6Addr::from(self.bits).into() } else { Ipv4Addr::from(self.bits as u32).into() }
    }

    fn name(self) -> WireName {
        let unit = Self::unit(self.v6);
        let mut text = String::new();
        for label in (1..=u32::from(self.depth)).rev() {
            let value = (self.bits >> (Self::width(self.v6) - label * unit)) & Self::low_bits_mask(unit);
            text.push_str(&if self.v6 { format!("{value:x}.") } else { format!("{value}.") });
        }
        text.push_str(if self.v6 { "ip6.arpa" } else { "in-addr.arpa" });
        WireName::parse(&text).expect("octets and nibbles are labels, and 34 of them fit a name")
    }
}

/// Returns the reverse name of an address: `10.1.2.10.in-addr.arpa`.
pub fn reverse_name(address: IpAddr) -> WireName {
    Prefix::from_address(address).name()
}

/// Returns the address that a reverse name spells; `None` unless it spells a complete one.
pub fn parse_address(name: &QueryName) -> Option<IpAddr> {
    let (prefix, rest) = parse(name)?;
    (rest == 0 && prefix.length() == Prefix::width(prefix.v6)).then(|| prefix.address())
}

/// Returns whether `name` is below `in-addr.arpa` or `ip6.arpa`, or one of them.
pub fn is_reverse(name: &QueryName) -> bool {
    parse(name).is_some()
}

/// Reverse zones served: no two of them overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReverseZones {
    zones: Vec<WireName>,
    by_prefix: HashMap<Prefix, usize, foldhash::fast::RandomState>,
    /// Label counts that zones have, one bit for each count: IPv4, IPv6.
    depths: [u64; 2],
}

impl ReverseZones {
    /// Computes the zones that cover `networks`.
    ///
    /// A network off an octet or nibble boundary becomes several zones (172.16.0.0/12 becomes 16); a network inside
    /// another adds nothing.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let mut prefixes: Vec<Prefix> = networks.into_iter().flat_map(split_network).collect();
        prefixes.sort_by_key(|prefix| (prefix.v6, prefix.depth, prefix.bits));
        let mut built = Self::default();
        for prefix in prefixes {
            let inside = (0..=prefix.depth).any(|depth| built.by_prefix.contains_key(&prefix.at(depth)));
            if !inside {
                built.by_prefix.insert(prefix, built.zones.len());
                built.depths[usize::from(prefix.v6)] |= 1 << prefix.depth;
                built.zones.push(prefix.name());
            }
        }
        built
    }

    /// Returns the apexes, IPv4 first, by depth and address.
    pub fn apexes(&self) -> &[WireName] {
        &self.zones
    }

    /// Finds the zone that `name` is in. Returns the apex, the index of the label at which it begins, and the kind of
    /// the name; `None` for a name outside these zones.
    pub fn find(&self, name: &QueryName) -> Option<(&WireName, usize, ReverseNameKind)> {
        let (prefix, rest) = parse(name)?;
        let (depth, zone) = self.zone_of(prefix)?;
        let owner = if rest > 0 {
            ReverseNameKind::Invalid
        } else if prefix.depth == depth {
            ReverseNameKind::Apex(prefix.range())
        } else if prefix.length() == Prefix::width(prefix.v6) {
            ReverseNameKind::Address(prefix.address())
        } else {
            ReverseNameKind::EmptyNonTerminal(prefix.range())
        };
        Some((&self.zones[zone], rest + usize::from(prefix.depth - depth), owner))
    }

    /// Returns whether one of these zones contains the reverse name of `address`.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.zone_of(Prefix::from_address(address)).is_some()
    }

    /// Returns the addresses below `apex`; `None` if it is not an apex of these zones.
    pub fn range_of(&self, apex: &WireName) -> Option<AddressRange> {
        self.by_prefix.iter().find(|(_, zone)| self.zones[**zone] == *apex).map(|(prefix, _)| prefix.range())
    }

    fn zone_of(&self, prefix: Prefix) -> Option<(u8, usize)> {
        let depths = self.depths[usize::from(prefix.v6)];
        let mut depths = (0..=prefix.depth).filter(|depth| depths >> depth & 1 != 0);
        depths.find_map(|depth| Some((depth, *self.by_prefix.get(&prefix.at(depth))?)))
    }
}

/// Parses a reverse name into the prefix that it spells, and the number of labels in front that are not part of it.
fn parse(name: &QueryName) -> Option<(Prefix, usize)> {
    let mut left = name.labels().checked_sub(2)?;
    if name.label(left + 1) != b"arpa" {
        return None;
    }
    let v6 = match name.label(left) {
        b"in-addr" => false,
        b"ip6" => true,
        _ => return None,
    };
    let mut depth = 0u8;
    let bits = if v6 {
        let mut bits = 0u128;
        while left > 0
            && depth < 32
            && let Some(value) = nibble(name.label(left - 1))
        {
            (left, depth) = (left - 1, depth + 1);
            bits |= u128::from(value) << (128 - 4 * u32::from(depth));
        }
        bits
    } else {
        let mut octets = [0; 4];
        while left > 0
            && usize::from(depth) < octets.len()
            && let Some(value) = octet(name.label(left - 1))
        {
            octets[usize::from(depth)] = value;
            (left, depth) = (left - 1, depth + 1);
        }
        u32::from_be_bytes(octets).into()
    };
    Some((Prefix { v6, depth, bits }, left))
}

fn octet(label: &[u8]) -> Option<u8> {
    let digit = |digit: u8| digit.is_ascii_digit().then(|| u16::from(digit - b'0'));
    let value = match *label {
        [ones] => digit(ones)?,
        // `010` is not the label `10`, and spells no octet.
        [b'0', ..] => return None,
        [tens, ones] => digit(tens)? * 10 + digit(ones)?,
        [hundreds, tens, ones] => digit(hundreds)? * 100 + digit(tens)? * 10 + digit(ones)?,
        _ => return None,
    };
    u8::try_from(value).ok()
}

fn nibble(label: &[u8]) -> Option<u8> {
    match label {
        [digit] => char::from(*digit).to_digit(16).map(|value| value as u8),
        _ => None,
    }
}

fn split_network(network: IpNet) -> impl Iterator<Item = Prefix> {
    let v6 = matches!(network, IpNet::V6(_));
    let (unit, width) = (Prefix::unit(v6), Prefix::width(v6));
    let depth = u32::from(network.prefix_len()).div_ceil(unit);
    let step = width - depth * unit;
    let first = Prefix::from_address(network.network()).bits;
    (0..1u128 << (depth * unit - u32::from(network.prefix_len()))).map(move |index| Prefix {
        v6,
        depth: depth as u8,
        bits: first | if step == 128 { 0 } else { index << step },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zones(networks: &[&str]) -> ReverseZones {
        ReverseZones::new(networks.iter().map(|network| network.parse().unwrap()))
    }

    fn find(zones: &ReverseZones, text: &str) -> Option<(String, usize, ReverseNameKind)> {
        let mut name = QueryName::default();
        name.set(&WireName::parse(text).unwrap());
        zones.find(&name).map(|(apex, at, owner)| (apex.to_string(), at, owner))
    }

    #[test]
    fn splits_networks_into_zones() {
        let names = |networks: &[&str]| {
            let zones = zones(networks);
            zones.apexes().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(&["10.0.0.0/8", "10.96.0.0/16"]), ["10.in-addr.arpa."]);
        assert_eq!(names(&["172.16.0.0/12"]).len(), 16);
        assert_eq!(names(&["172.16.0.0/12"])[15], "31.172.in-addr.arpa.");
        assert_eq!(names(&["100.64.0.0/10"]).len(), 64);
        assert_eq!(names(&["fc00::/7"]), ["c.f.ip6.arpa.", "d.f.ip6.arpa."]);
        assert_eq!(names(&["fd00:10:244::/64"]), ["0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa."]);
        assert_eq!(names(&["0.0.0.0/0", "::/0"]), ["in-addr.arpa.", "ip6.arpa."]);
        assert_eq!(names(&["10.2.1.10/32"]), ["10.1.2.10.in-addr.arpa."]);
    }

    #[test]
    fn finds_zones_of_names() {
        let zones = zones(&["10.2.0.0/16", "fd00::/16"]);
        let range = |from: &str, to: &str| {
            let number = |text: &str| u32::from(text.parse::<Ipv4Addr>().unwrap());
            AddressRange::V4(number(from)..=number(to))
        };
        let apex = "2.10.in-addr.arpa.".to_string();
        assert_eq!(find(&zones, "10.in-addr.arpa"), None);
        assert_eq!(find(&zones, "3.10.in-addr.arpa"), None);
        assert_eq!(
            find(&zones, "2.10.in-addr.arpa"),
            Some((apex.clone(), 0, ReverseNameKind::Apex(range("10.2.0.0", "10.2.255.255"))))
        );
        assert_eq!(
            find(&zones, "1.2.10.in-addr.arpa"),
            Some((apex.clone(), 1, ReverseNameKind::EmptyNonTerminal(range("10.2.1.0", "10.2.1.255"))))
        );
        assert_eq!(
            find(&zones, "10.1.2.10.in-addr.arpa"),
            Some((apex.clone(), 2, ReverseNameKind::Address("10.2.1.10".parse().unwrap())))
        );
        for nothing in ["x.2.10.in-addr.arpa", "010.1.2.10.in-addr.arpa", "256.1.2.10.in-addr.arpa"] {
            assert!(matches!(find(&zones, nothing), Some((_, _, ReverseNameKind::Invalid))), "{nothing}");
        }
        assert_eq!(find(&zones, "a.10.1.2.10.in-addr.arpa"), Some((apex, 3, ReverseNameKind::Invalid)));
        let address: IpAddr = "fd00:2::11".parse().unwrap();
        let name = reverse_name(address).to_string();
        assert_eq!(find(&zones, &name).unwrap().2, ReverseNameKind::Address(address));
        assert!(zones.covers(address) && !zones.covers("10.3.0.1".parse().unwrap()));
    }
}
