//! The checks of one resolver in `resolv.conf`: the addresses, explanations and negative TTLs that it passes on from the
//! server, and the fix for the software that it runs. Not here: the order of the checks (`mod.rs`).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{DoctorRun, response_addresses};
use crate::commands::ask::{query, version};
use crate::commands::join_first;
use crate::config::resolv::PATH;
use headless_dns_core::rtype;
use headless_dns_core::wire::client::rcode_name;
use headless_dns_core::wire::rcode;

impl DoctorRun<'_> {
    /// Checks one of the servers in `resolv.conf`: it is expected to resolve the name to the addresses of the server.
    pub(super) fn check_resolver(&mut self, resolver: SocketAddr, expected: &BTreeSet<IpAddr>) {
        let (name, zone, server) = (&self.name_text, &self.zone_text, self.args.server);
        if resolver == server {
            self.report.good(format_args!("{PATH} names the server itself, at {resolver}"));
            return;
        }
        let kind = ResolverKind::detect(resolver);
        let label = format!("{resolver} ({})", kind.name());
        let [Ok(v4), v6] = [rtype::A, rtype::AAAA].map(|qtype| query(resolver, &self.name, qtype)) else {
            self.report
                .problem(format_args!("{PATH} names {label}, which does not answer: start it, or remove its line"));
            return;
        };
        let mut found = response_addresses(&v4);
        found.extend(v6.iter().flat_map(response_addresses));
        if &found == expected {
            self.report.good(format_args!("{label} resolves {name} to the same addresses"));
            self.check_negative_ttl(resolver, &label);
            self.check_resolver_explanations(resolver, &label);
        } else if !found.is_empty() {
            self.report.problem(format_args!(
                "{label} resolves {name} to {}, the server to {}: it queries another server, or has an old response in its \
                 cache; {}",
                join_first(found.iter()),
                join_first(expected.iter()),
                kind.forwarding_fix(zone, server)
            ));
        } else if v4.rcode == rcode::NOERROR {
            self.report.problem(format_args!(
                "{label} knows {name} and removes its addresses, as protection against rebinding does: {}",
                kind.rebinding_fix(zone)
            ));
        } else {
            self.report.problem(format_args!(
                "{label} answers {name} with {}: it does not forward {zone} to the server; {}",
                rcode_name(v4.rcode),
                kind.forwarding_fix(zone, server)
            ));
        }
    }

    /// Checks that the resolver caches a negative response no longer than the server's negative TTL.
    fn check_negative_ttl(&mut self, resolver: SocketAddr, label: &str) {
        let missing = format!("headless-dns-doctor-{:x}", fastrand::u32(..));
        let missing = [&[missing.len() as u8], missing.as_bytes()].concat();
        let Some(missing) = self.args.zone.prefixed(&missing) else { return };
        let ttl = |server| query(server, &missing, rtype::A).ok().and_then(|response| response.negative_ttl);
        let (Some(cached), Some(ttl)) = (ttl(resolver), ttl(self.args.server)) else { return };
        if cached > ttl {
            self.report.problem(format_args!(
                "{label} caches a negative response for {cached} s, and its TTL at the server is {ttl} s: a new Pod does not \
                 resolve for so long; lower the resolver's minimum negative TTL"
            ));
        } else {
            self.report.good(format_args!("{label} caches a negative response for {cached} s, and no longer"));
        }
    }

    fn check_resolver_explanations(&mut self, resolver: SocketAddr, label: &str) {
        match self.explanation_channels(resolver) {
            Some(channels) => self.report.good(format_args!("{label} passes explanations on: {channels}")),
            None => {
                self.report
                    .note(format_args!("{label} passes no explanations on: query {} for them", self.args.server));
            }
        }
    }
}

/// Implementation of a resolver, as far as it can be detected.
enum ResolverKind {
    Resolved,
    Dnsmasq(String),
    Unbound(String),
    Other(String),
    Unknown,
}

impl ResolverKind {
    fn detect(resolver: SocketAddr) -> Self {
        // systemd-resolved.service(8): the stub listens on these two addresses.
        let stub = [53, 54].map(|last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last)));
        if resolver.port() == 53 && stub.contains(&resolver.ip()) {
            return Self::Resolved;
        }
        match version(resolver) {
            Some(text) if text.starts_with("dnsmasq") => Self::Dnsmasq(text),
            Some(text) if text.starts_with("unbound") => Self::Unbound(text),
            Some(text) => Self::Other(text),
            None => Self::Unknown,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Resolved => "systemd-resolved",
            Self::Dnsmasq(text) | Self::Unbound(text) | Self::Other(text) => text,
            Self::Unknown => "unknown software",
        }
    }

    /// Returns how to make the resolver forward the zone to the server.
    fn forwarding_fix(&self, zone: &str, server: SocketAddr) -> String {
        let (ip, port) = (server.ip(), server.port());
        match self {
            Self::Resolved => format!(
                "put `DNS={ip}:{port}` and `Domains=~{zone}` below [Delegate] in /etc/systemd/dns-delegate.d/ \
                 (systemd 258), or below [Resolve] in /etc/systemd/resolved.conf.d/"
            ),
            Self::Dnsmasq(_) => format!("give it `server=/{zone}/{ip}#{port}`"),
            Self::Unbound(_) => format!("give it a stub-zone {zone} with `stub-addr: {ip}@{port}`"),
            Self::Other(_) | Self::Unknown => {
                format!("forward {zone} to {ip} port {port} there, as docs/laptop.md shows")
            }
        }
    }

    /// Returns how to exempt the zone from the resolver's protection against rebinding.
    fn rebinding_fix(&self, zone: &str) -> String {
        match self {
            Self::Dnsmasq(_) => format!("give it `rebind-domain-ok=/{zone}/`"),
            Self::Unbound(_) => format!("give it `private-domain: {zone}`"),
            _ => format!("make an exception for {zone} there"),
        }
    }
}
