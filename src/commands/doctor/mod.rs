//! The command `local doctor`: checks the path of a query from this machine's programs to the server, hop by hop.
//!
//! Each check prints one line: good, wrong with a fix, or a note. The checks: the server itself, the files that configure the
//! resolver, each resolver in them, the addresses that programs get, and the route to them. The command changes nothing.
//! `docs/laptop.md` has the setups that the fixes refer to. Not here: the DNS client (`ask.rs`).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use super::ask::{query, query_over_tcp, version};
use super::write_stdout;
use crate::config::DoctorArgs;
use crate::config::resolv::{PATH, ResolvConf, mdns_module};
use crate::regular_file::{self, MAX_SMALL_FILE};
use headless_dns_core::escape::Printable;
use headless_dns_core::name::{NAME_SERVER, WireName};
use headless_dns_core::rtype;
use headless_dns_core::wire::client::{ParsedResponse, rcode_name};
use headless_dns_core::wire::rcode;

/// Runs all checks, and prints the results. The exit status is 1 if any is wrong.
///
/// # Errors
///
/// If `ns.dns.ZONE` is too long for a name.
pub fn run(doctor: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let default = || doctor.zone.prefixed(NAME_SERVER).context("ns.dns and the zone are too long for a name");
    let name = doctor.name.clone().map_or_else(default, Ok)?;
    let mut visit = DoctorRun { doctor, name, zone: undotted(&doctor.zone), lines: Vec::new() };
    visit.all();
    let mut text = String::new();
    for line in &visit.lines {
        let mark = match line.kind {
            LineKind::Good => '✓',
            LineKind::Wrong => '✗',
            LineKind::Note => '·',
        };
        let _ = writeln!(text, "{mark} {}", Printable(&line.text));
    }
    write_stdout(&text)?;
    let wrong = visit.lines.iter().any(|line| line.kind == LineKind::Wrong);
    Ok(ExitCode::from(u8::from(wrong)))
}

/// Result of one check, in one sentence or two.
struct DoctorLine {
    kind: LineKind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LineKind {
    Good,
    /// The text ends with the fix.
    Wrong,
    /// There is nothing to fix, or the check cannot decide.
    Note,
}

struct DoctorRun<'d> {
    doctor: &'d DoctorArgs,
    name: WireName,
    zone: String,
    lines: Vec<DoctorLine>,
}

impl DoctorRun<'_> {
    fn all(&mut self) {
        let Some(truth) = self.server() else { return };
        self.over_tcp(&truth);
        let told = self.explanations(self.doctor.server);
        self.report(
            if told.is_some() { LineKind::Good } else { LineKind::Note },
            match told {
                Some(how) => format!("the server says why a name does not resolve: {how}"),
                None => {
                    "the server does not tell this machine why a name does not resolve: see its --explain-to".into()
                }
            },
        );
        self.multicast();
        self.macos();
        let Some(conf) = self.resolv_conf() else { return };
        for ip in &conf.servers {
            self.resolver(SocketAddr::new(*ip, self.doctor.resolver_port), &truth);
        }
        self.short_names(&conf);
        self.programs(&truth);
        self.route(&truth);
    }

    fn report(&mut self, kind: LineKind, text: impl Into<String>) {
        self.lines.push(DoctorLine { kind, text: text.into() });
    }

    fn shown_name(&self) -> String {
        undotted(&self.name)
    }

    /// Checks that the server answers, and returns the addresses of the name, which the other checks compare with.
    fn server(&mut self) -> Option<BTreeSet<IpAddr>> {
        let (server, name, zone) = (self.doctor.server, self.shown_name(), self.zone.clone());
        let reply = match query(server, &self.name, rtype::A) {
            Ok(reply) => reply,
            Err(error) => {
                self.report(
                    LineKind::Wrong,
                    format!(
                        "nobody answers at {server} over UDP ({}): start `headless-dns serve`, or name the server with \
                         --server",
                        error.root_cause()
                    ),
                );
                return None;
            }
        };
        if reply.rcode != rcode::NOERROR {
            let why = reply.errors.first().map_or(String::new(), |(_, text)| format!(" ({text})"));
            let advice = match reply.rcode {
                rcode::REFUSED => format!("it does not serve {zone}, or not this machine: see its --zone and --allow"),
                rcode::NXDOMAIN => "name one that exists with --name".to_owned(),
                _ => "look at its log".to_owned(),
            };
            let code = rcode_name(reply.rcode);
            self.report(LineKind::Wrong, format!("the server at {server} says {code} to {name}{why}: {advice}"));
            return None;
        }
        let mut addresses = addresses(&reply);
        if let Ok(reply) = query(server, &self.name, rtype::AAAA) {
            addresses.extend(self::addresses(&reply));
        }
        if addresses.is_empty() {
            self.report(LineKind::Wrong, format!("{name} has no address at the server: name one that has with --name"));
            return None;
        }
        self.report(LineKind::Good, format!("the server at {server} answers over UDP: {name} is {}", list(&addresses)));
        Some(addresses)
    }

    fn over_tcp(&mut self, truth: &BTreeSet<IpAddr>) {
        let server = self.doctor.server;
        let qtype = if truth.iter().any(IpAddr::is_ipv4) { rtype::A } else { rtype::AAAA };
        match query_over_tcp(server, &self.name, qtype) {
            Ok(_) => self.report(LineKind::Good, "and over TCP, which large answers need"),
            Err(error) => self.report(
                LineKind::Wrong,
                format!(
                    "the server at {server} does not answer over TCP ({}): something between blocks it; large answers \
                     need it",
                    error.root_cause()
                ),
            ),
        }
    }

    /// Returns how a client of `server` gets the reason why a name does not resolve; `None` if it does not. Extended errors are
    /// sent for names that are close to an existing one, so that they are tested only if the name is that of a Service.
    fn explanations(&self, server: SocketAddr) -> Option<&'static str> {
        let text = self.doctor.zone.prefixed(b"\x04_why\x13headless-dns-doctor\x04none\x03svc")?;
        let text =
            query(server, &text, rtype::TXT).is_ok_and(|reply| reply.answer.iter().any(|one| one.text.is_some()));
        let code =
            self.without_svc().map(|near| query(server, &near, rtype::A).is_ok_and(|reply| !reply.errors.is_empty()));
        match (code, text) {
            (Some(true), true) => Some("with extended errors, and as TXT at _why"),
            (Some(true), false) => Some("with extended errors"),
            (Some(false), true) => Some("as TXT at _why; extended errors do not come through"),
            (None, true) => Some("as TXT at _why"),
            (_, false) => None,
        }
    }

    /// Returns `SERVICE.NAMESPACE.ZONE` for a name that ends in `SERVICE.NAMESPACE.svc.ZONE`.
    fn without_svc(&self) -> Option<WireName> {
        let name = self.shown_name();
        let mut labels = name.strip_suffix(&format!(".svc.{}", self.zone))?.rsplit('.');
        let (namespace, service) = (labels.next()?, labels.next()?);
        WireName::parse(&format!("{service}.{namespace}.{}", self.zone)).ok()
    }

    /// Checks whether multicast DNS may answer for the zone: `.local` belongs to it (RFC 6762 section 3).
    fn multicast(&mut self) {
        if self.doctor.zone.labels() == 0 || !format!(".{}", self.zone).ends_with(".local") {
            return;
        }
        let instead = "serve the names a second time with --zone-alias cluster.internal, and ask under that";
        match self.read("etc/nsswitch.conf").as_deref().and_then(mdns_module) {
            Some(module) => self.report(
                LineKind::Note,
                format!(
                    "nsswitch.conf has {module} before dns: older ones keep names of .local from DNS. If programs do not \
                     see them below, {instead}"
                ),
            ),
            None => self.report(
                LineKind::Note,
                format!("{} is below .local, which macOS and Avahi take for multicast DNS: there, {instead}", self.zone),
            ),
        }
    }

    /// Checks the zone's file in `/etc/resolver` of macOS (resolver(5)).
    fn macos(&mut self) {
        let Some(text) = self.read(&format!("etc/resolver/{}", self.zone)) else { return };
        let word = |wanted: &str| {
            let mut lines = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
            lines.find(|(key, _)| *key == wanted).map(|(_, value)| value.trim().to_owned())
        };
        let port = word("port").and_then(|port| port.parse().ok()).unwrap_or(53);
        let to = word("nameserver").and_then(|ip| ip.parse().ok()).map(|ip: IpAddr| SocketAddr::new(ip, port));
        let file = format!("/etc/resolver/{}", self.zone);
        match to {
            Some(to) if to == self.doctor.server => self.report(
                LineKind::Good,
                format!("{file} sends macOS programs to {to}; dig, host and nslookup do not read it"),
            ),
            _ => self.report(
                LineKind::Wrong,
                format!(
                    "{file} does not name the server: write `nameserver {}` and `port {}` into it",
                    self.doctor.server.ip(),
                    self.doctor.server.port()
                ),
            ),
        }
    }

    fn resolv_conf(&mut self) -> Option<ResolvConf> {
        let text = self.read(PATH.trim_start_matches('/'));
        if text.is_none() {
            self.report(
                LineKind::Wrong,
                format!("{PATH} cannot be read, and programs ask nobody: see docs/laptop.md for who should write it"),
            );
        }
        Some(ResolvConf::parse(&text?))
    }

    fn read(&self, path: &str) -> Option<String> {
        regular_file::read_text(&self.doctor.root.join(path), MAX_SMALL_FILE).ok()
    }

    /// Checks one of the servers in `resolv.conf`.
    fn resolver(&mut self, resolver: SocketAddr, truth: &BTreeSet<IpAddr>) {
        let (name, zone) = (self.shown_name(), self.zone.clone());
        if resolver == self.doctor.server {
            self.report(LineKind::Good, format!("{PATH} names the server itself, at {resolver}"));
            return;
        }
        let software = ResolverKind::detect(resolver);
        let who = format!("{resolver} ({})", software.name());
        let asked = [rtype::A, rtype::AAAA].map(|qtype| query(resolver, &self.name, qtype));
        let [Ok(v4), v6] = asked else {
            self.report(
                LineKind::Wrong,
                format!("{PATH} names {who}, which does not answer: start it, or take its line out"),
            );
            return;
        };
        let mut seen = addresses(&v4);
        seen.extend(v6.iter().flat_map(addresses));
        let advice = software.advice(&zone, self.doctor.server);
        if &seen == truth {
            self.report(LineKind::Good, format!("{who} knows {name}, with the same addresses"));
            self.keeps(resolver, &who);
            match self.explanations(resolver) {
                Some(how) => self.report(LineKind::Good, format!("{who} passes explanations on: {how}")),
                None => self.report(
                    LineKind::Note,
                    format!("{who} passes no explanations on: ask {} for them", self.doctor.server),
                ),
            }
        } else if v4.rcode == rcode::NOERROR && seen.is_empty() {
            self.report(
                LineKind::Wrong,
                format!(
                    "{who} knows {name} and leaves its addresses out, as protection against rebinding does: {}",
                    software.rebinding(&zone)
                ),
            );
        } else if !seen.is_empty() {
            self.report(
                LineKind::Wrong,
                format!(
                    "{who} says that {name} is {}, the server says {}: it asks another server or kept an old answer; \
                     {advice}",
                    list(&seen),
                    list(truth)
                ),
            );
        } else {
            self.report(
                LineKind::Wrong,
                format!(
                    "{who} says {} to {name}: it does not ask the server for {zone}; {advice}",
                    rcode_name(v4.rcode)
                ),
            );
        }
    }

    /// Checks that the resolver caches a negative response no longer than the server's negative TTL.
    fn keeps(&mut self, resolver: SocketAddr, who: &str) {
        let label = format!("headless-dns-doctor-{:x}", fastrand::u32(..));
        let labels = [&[label.len() as u8], label.as_bytes()].concat();
        let Some(missing) = self.doctor.zone.prefixed(&labels) else { return };
        let ttl = |server| query(server, &missing, rtype::A).ok().and_then(|reply| reply.negative_ttl);
        let (Some(kept), Some(meant)) = (ttl(resolver), ttl(self.doctor.server)) else { return };
        if kept > meant {
            self.report(
                LineKind::Wrong,
                format!(
                    "{who} keeps for {kept} s that a name does not exist, the server says {meant} s: a Pod that comes up \
                     stays unknown so long; lower its least negative TTL"
                ),
            );
        } else {
            self.report(LineKind::Good, format!("{who} keeps that a name does not exist for {kept} s and no longer"));
        }
    }

    fn short_names(&mut self, conf: &ResolvConf) {
        let zone = format!("svc.{}", self.zone);
        let pods = conf.search.iter().any(|domain| domain.trim_end_matches('.').ends_with(&zone));
        if pods {
            let search = conf.search.join(" ");
            self.report(LineKind::Good, format!("short names are looked for in {search} (ndots:{})", conf.ndots));
        } else {
            self.report(
                LineKind::Note,
                "short names (web, web.default) resolve in Pods only, by their search list: ask for whole ones here",
            );
        }
    }

    /// Checks the addresses that programs of this machine get.
    fn programs(&mut self, truth: &BTreeSet<IpAddr>) {
        let name = self.shown_name();
        if self.doctor.root != Path::new("/") {
            self.report(LineKind::Note, "another machine's files: what programs of this one get says nothing");
            return;
        }
        match (name.as_str(), 0).to_socket_addrs() {
            Ok(found) => {
                let seen: BTreeSet<IpAddr> = found.map(|one| one.ip()).collect();
                // On a machine without IPv6, getaddrinfo leaves out IPv6 addresses (RFC 3493 section 6.1).
                if seen.is_subset(truth) && !seen.is_empty() {
                    self.report(
                        LineKind::Good,
                        format!("programs get the same: {name} is {} (getaddrinfo)", list(&seen)),
                    );
                } else {
                    self.report(
                        LineKind::Wrong,
                        format!(
                            "programs get {} for {name} (getaddrinfo): look for it in /etc/hosts and nsswitch.conf",
                            list(&seen)
                        ),
                    );
                }
            }
            Err(error) => self.report(
                LineKind::Wrong,
                format!(
                    "programs do not find {name} (getaddrinfo: {error}): put right what is wrong above; if nothing is, \
                     the line hosts of nsswitch.conf keeps the name from dns"
                ),
            ),
        }
    }

    /// Reports the route to an address: a name that resolves may be out of reach.
    fn route(&mut self, truth: &BTreeSet<IpAddr>) {
        let Some(address) = truth.iter().find(|ip| !ip.is_loopback()).copied() else {
            self.report(
                LineKind::Note,
                "whether addresses of Pods can be reached from here was not looked at: name one with --name",
            );
            return;
        };
        // 192.0.2.1 is for documentation (RFC 5737), so that it has the default route.
        let source = |to: IpAddr| {
            let own: IpAddr =
                if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((own, 0)).ok()?;
            socket.connect((to, 9)).ok()?;
            Some(socket.local_addr().ok()?.ip())
        };
        let text = match (source(address), source(Ipv4Addr::new(192, 0, 2, 1).into())) {
            (None, _) => format!("there is no route from here to {address}: the name resolves and a connection fails"),
            (Some(own), Some(other)) if own == other => format!(
                "what is sent to {address} goes from {own}, the way of everything else: unless that network knows the \
                 Pods' addresses (a VPN, a route to a node), the name resolves and a connection fails"
            ),
            (Some(own), _) => format!("what is sent to {address} goes from {own}: there is a route of its own"),
        };
        self.report(LineKind::Note, text);
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
        if resolver.port() == 53
            && matches!(resolver.ip(), IpAddr::V4(ip) if [53, 54].map(|last| Ipv4Addr::new(127, 0, 0, last)).contains(&ip))
        {
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
            Self::Unknown => "it does not say what it is",
        }
    }

    /// Returns how to make the resolver forward the zone to the server.
    fn advice(&self, zone: &str, server: SocketAddr) -> String {
        let (ip, port) = (server.ip(), server.port());
        match self {
            Self::Resolved => format!(
                "put `DNS={ip}:{port}` and `Domains=~{zone}` below [Delegate] in /etc/systemd/dns-delegate.d/ \
                 (systemd 258), or below [Resolve] in /etc/systemd/resolved.conf.d/"
            ),
            Self::Dnsmasq(_) => format!("give it `server=/{zone}/{ip}#{port}`"),
            Self::Unbound(_) => format!("give it a stub-zone {zone} with `stub-addr: {ip}@{port}`"),
            Self::Other(_) | Self::Unknown => format!("send {zone} to {ip} port {port} there, as docs/laptop.md shows"),
        }
    }

    /// Returns how to exempt the zone from the resolver's protection against rebinding.
    fn rebinding(&self, zone: &str) -> String {
        match self {
            Self::Dnsmasq(_) => format!("give it `rebind-domain-ok=/{zone}/`"),
            Self::Unbound(_) => format!("give it `private-domain: {zone}`"),
            _ => format!("make an exception for {zone} there"),
        }
    }
}

fn addresses(reply: &ParsedResponse) -> BTreeSet<IpAddr> {
    reply
        .answer
        .iter()
        .filter(|one| matches!(one.rtype.as_str(), "A" | "AAAA"))
        .filter_map(|one| one.data.parse().ok())
        .collect()
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    const MOST: usize = 3;
    let first: Vec<String> = addresses.iter().take(MOST).map(ToString::to_string).collect();
    match addresses.len() {
        0 => "nothing".to_owned(),
        count if count > MOST => format!("{} and {} more", first.join(", "), count - MOST),
        _ => first.join(", "),
    }
}

fn undotted(name: &WireName) -> String {
    name.to_string().trim_end_matches('.').to_owned()
}
