//! Special-use names that are answered here and never forwarded: `localhost`, `invalid`, the reverse names of private
//! networks.
//!
//! The sources are the IANA registries "Special-Use Domain Names" and "Locally-Served DNS Zones".
//! [`SpecialNames::find`] lists the names of them that are forwarded, because they can exist at an upstream. Not here:
//! the responses (`answer`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reverse::{ReverseNameKind, ReverseZones};
use super::{QueryName, WireName};

/// Contents of a special-use name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialName {
    /// The addresses of this host (RFC 6761 section 6.3).
    Localhost,
    /// A PTR record to `localhost`.
    LocalhostReverse,
    /// NODATA: a name without records.
    NoData,
    /// NXDOMAIN: no name.
    NxDomain,
}

/// Table of the special-use names, with or without those of private networks.
#[derive(Clone, Debug)]
pub struct SpecialNames {
    /// Trees that are answered locally as a whole.
    trees: Vec<(WireName, SpecialName)>,
    loopback: ReverseZones,
    private: ReverseZones,
}

/// Networks with a meaning only inside themselves (RFC 6303 sections 4.2 to 4.6, RFC 7793).
const PRIVATE: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "255.255.255.255/32",
    "::/128",
    "2001:db8::/32",
    "fd00::/8",
    "fe80::/10",
];

impl SpecialNames {
    /// Builds the table. `private_is_outside`: every upstream is inside a private network and may know its names, so
    /// that reverse names of private networks and `home.arpa` are forwarded.
    pub fn new(private_is_outside: bool) -> Self {
        let networks = |texts: &[&str]| ReverseZones::new(texts.iter().filter_map(|text| text.parse().ok()));
        let mut trees = vec![("localhost", SpecialName::Localhost), ("invalid", SpecialName::NxDomain)];
        // RFC 7686 section 2, RFC 9462 section 6.4: an upstream's response would lead clients past this server.
        trees.extend([("onion", SpecialName::NxDomain), ("resolver.arpa", SpecialName::NoData)]);
        if !private_is_outside {
            // RFC 8375 section 4.
            trees.push(("home.arpa", SpecialName::NxDomain));
        }
        let tree = |(text, special)| WireName::parse(text).ok().map(|name| (name, special));
        Self {
            trees: trees.into_iter().filter_map(tree).collect(),
            loopback: networks(&["127.0.0.0/8", "::1/128"]),
            private: networks(if private_is_outside { &[] } else { PRIVATE }),
        }
    }

    /// Returns the contents of `name`, and the index of the label at which the special tree begins; `None` for a name
    /// that is not special.
    ///
    /// Not in the table: `local` (RFC 6762 leaves it to multicast DNS, but company directories use it), `test` (RFC
    /// 6761 section 6.2: a site that uses it has it at its resolver), `example` (no reason for an exception).
    pub fn find(&self, name: &QueryName) -> Option<(SpecialName, usize)> {
        let tree = self.trees.iter().find_map(|(tree, special)| Some((*special, name.apex_at(tree)?)));
        let loopback = || {
            let (_, at, owner) = self.loopback.find(name)?;
            let own = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
            Some(match owner {
                ReverseNameKind::Address(address) if own.contains(&address) => (SpecialName::LocalhostReverse, at),
                // The apex for ::1/128 is itself the reverse name of ::1.
                ReverseNameKind::Apex(_) if name.labels() == 34 => (SpecialName::LocalhostReverse, at),
                ReverseNameKind::Apex(_) | ReverseNameKind::EmptyNonTerminal(_) => (SpecialName::NoData, at),
                ReverseNameKind::Address(_) | ReverseNameKind::Invalid => (SpecialName::NxDomain, at),
            })
        };
        let private = || {
            let (_, at, owner) = self.private.find(name)?;
            Some((
                if matches!(owner, ReverseNameKind::Apex(_)) { SpecialName::NoData } else { SpecialName::NxDomain },
                at,
            ))
        };
        tree.map(|(special, at)| {
            (if at == 0 && special == SpecialName::NxDomain { SpecialName::NoData } else { special }, at)
        })
        .or_else(loopback)
        .or_else(private)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_special_names() {
        let (public, private) = (SpecialNames::new(false), SpecialNames::new(true));
        for (name, expected, of_private) in [
            ("localhost", "Localhost 0", "Localhost 0"),
            ("LOCALHOST.", "Localhost 0", "Localhost 0"),
            ("a.b.localhost", "Localhost 2", "Localhost 2"),
            ("xlocalhost", "-", "-"),
            ("invalid", "NoData 0", "NoData 0"),
            ("x.invalid", "NxDomain 1", "NxDomain 1"),
            ("abc.onion", "NxDomain 1", "NxDomain 1"),
            ("_dns.resolver.arpa", "NoData 1", "NoData 1"),
            ("x.home.arpa", "NxDomain 1", "-"),
            ("1.0.0.127.in-addr.arpa", "LocalhostReverse 3", "LocalhostReverse 3"),
            ("0.127.in-addr.arpa", "NoData 1", "NoData 1"),
            ("2.0.0.127.in-addr.arpa", "NxDomain 3", "NxDomain 3"),
            ("1.2.3.10.in-addr.arpa", "NxDomain 3", "-"),
            ("10.in-addr.arpa", "NoData 0", "-"),
            ("1.2.31.172.in-addr.arpa", "NxDomain 2", "-"),
            ("1.2.32.172.in-addr.arpa", "-", "-"),
            ("1.1.1.1.in-addr.arpa", "-", "-"),
            ("1.d.f.ip6.arpa", "NxDomain 1", "-"),
            ("0.a.e.f.ip6.arpa", "NxDomain 1", "-"),
            ("in-addr.arpa", "-", "-"),
            ("arpa", "-", "-"),
            ("printer.local", "-", "-"),
            ("example.test", "-", "-"),
            ("example.com", "-", "-"),
        ] {
            let shown = |names: &SpecialNames| {
                let found = names.find(&QueryName::parse(name).unwrap());
                found.map_or("-".to_owned(), |(special, at)| format!("{special:?} {at}"))
            };
            assert_eq!((shown(&public).as_str(), shown(&private).as_str()), (expected, of_private), "{name}");
        }
        let own = crate::name::reverse::reverse_name(Ipv6Addr::LOCALHOST.into());
        let found = public.find(&QueryName::parse(&own.to_string()).unwrap());
        assert_eq!(found, Some((SpecialName::LocalhostReverse, 0)));
    }
}
