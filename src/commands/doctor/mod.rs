//! The command `local doctor`: checks the path of a query from this machine's programs to the server, hop by hop.
//!
//! Each check prints one line: good, a problem with its fix, or a note. The checks: the server itself, the files that
//! configure the resolver, each resolver in them (`resolver.rs`), the addresses that programs get, and the route to them. The
//! command changes nothing. `docs/laptop.md` has the setups that the fixes refer to. Not here: the DNS client
//! (`commands/ask.rs`).

mod resolver;

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use super::ask::{query, query_over_tcp};
use super::{join_first, write_stdout};
use crate::config::DoctorArgs;
use crate::config::resolv::{PATH, ResolvConf, mdns_module};
use crate::regular_file::{self, MAX_SMALL_FILE};
use headless_dns_core::escape::Printable;
use headless_dns_core::name::{NAME_SERVER, WireName};
use headless_dns_core::rtype;
use headless_dns_core::wire::client::{ParsedResponse, rcode_name};
use headless_dns_core::wire::rcode;

/// Runs all checks, and prints the results. The exit status is 1 if there is a problem.
///
/// # Errors
///
/// If `ns.dns.ZONE` is too long for a name.
pub fn run(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let default = || args.zone.prefixed(NAME_SERVER).context("ns.dns and the zone are too long for a name");
    let name = args.name.clone().map_or_else(default, Ok)?;
    let (name_text, zone_text) = (name.without_final_dot(), args.zone.without_final_dot());
    let mut run = DoctorRun { args, name, name_text, zone_text, report: DoctorReport::default() };
    run.check_all();
    write_stdout(&run.report.text)?;
    Ok(ExitCode::from(u8::from(run.report.has_problem)))
}

/// Lines of the checks, each with its mark.
#[derive(Default)]
struct DoctorReport {
    text: String,
    has_problem: bool,
}

impl DoctorReport {
    /// Adds a check that passed.
    fn good(&mut self, text: impl Display) {
        self.add('✓', text);
    }

    /// Adds a problem. The text ends with the fix.
    fn problem(&mut self, text: impl Display) {
        self.has_problem = true;
        self.add('✗', text);
    }

    /// Adds a line with nothing to fix, or one for a check that cannot decide.
    fn note(&mut self, text: impl Display) {
        self.add('·', text);
    }

    fn add(&mut self, mark: char, text: impl Display) {
        // Writing to a String does not fail.
        let _ = writeln!(self.text, "{mark} {}", Printable(text));
    }
}

/// One run of all checks.
struct DoctorRun<'d> {
    args: &'d DoctorArgs,
    /// Name that is looked up at the server, at each resolver, and by a program.
    name: WireName,
    /// Name without the final dot.
    name_text: String,
    /// Apex of the zone without the final dot.
    zone_text: String,
    report: DoctorReport,
}

impl DoctorRun<'_> {
    fn check_all(&mut self) {
        let Some(expected) = self.check_server() else { return };
        self.check_server_over_tcp(&expected);
        self.check_server_explanations();
        self.check_multicast_dns();
        self.check_macos_resolver_file();
        let Some(conf) = self.check_resolv_conf() else { return };
        for ip in &conf.servers {
            self.check_resolver(SocketAddr::new(*ip, self.args.resolver_port), &expected);
        }
        self.check_search_list(&conf);
        self.check_programs(&expected);
        self.check_route(&expected);
    }

    /// Checks that the server answers, and returns the addresses of the name, which the other checks compare with.
    fn check_server(&mut self) -> Option<BTreeSet<IpAddr>> {
        let (server, name) = (self.args.server, &self.name_text);
        let response = match query(server, &self.name, rtype::A) {
            Ok(response) if response.rcode == rcode::NOERROR => response,
            Ok(response) => {
                let reason = response.errors.first().map_or(String::new(), |(_, text)| format!(" ({text})"));
                let fix = match response.rcode {
                    rcode::REFUSED => "it does not serve the zone, or not this machine: see its --zone and --allow",
                    rcode::NXDOMAIN => "choose a name that exists with --name",
                    _ => "see its log",
                };
                let rcode = rcode_name(response.rcode);
                self.report.problem(format_args!("the server at {server} answers {name} with {rcode}{reason}: {fix}"));
                return None;
            }
            Err(error) => {
                self.report.problem(format_args!(
                    "no server answers at {server} over UDP ({}): start `headless-dns serve`, or name the server with \
                     --server",
                    error.root_cause()
                ));
                return None;
            }
        };
        let mut addresses = response_addresses(&response);
        if let Ok(response) = query(server, &self.name, rtype::AAAA) {
            addresses.extend(response_addresses(&response));
        }
        if addresses.is_empty() {
            self.report.problem(format_args!(
                "the server has no address for {name}: choose a name with addresses with --name"
            ));
            return None;
        }
        self.report
            .good(format_args!("the server at {server} answers over UDP: {name} is {}", join_first(addresses.iter())));
        Some(addresses)
    }

    fn check_server_over_tcp(&mut self, expected: &BTreeSet<IpAddr>) {
        let server = self.args.server;
        let qtype = if expected.iter().any(IpAddr::is_ipv4) { rtype::A } else { rtype::AAAA };
        match query_over_tcp(server, &self.name, qtype) {
            Ok(_) => self.report.good("the server answers over TCP too, which large responses need"),
            Err(error) => self.report.problem(format_args!(
                "the server at {server} does not answer over TCP ({}), which large responses need: allow TCP on the way",
                error.root_cause()
            )),
        }
    }

    fn check_server_explanations(&mut self) {
        match self.explanation_channels(self.args.server) {
            Some(channels) => {
                self.report.good(format_args!("the server explains why a name does not resolve: {channels}"));
            }
            None => self
                .report
                .note("the server does not explain to this machine why a name does not resolve: see its --explain-to"),
        }
    }

    /// Returns how a client of `server` gets the reason why a name does not resolve; `None` if it does not. Extended errors
    /// are sent for names that are close to an existing one, so that they are tested only if the name is that of a Service.
    fn explanation_channels(&self, server: SocketAddr) -> Option<&'static str> {
        let text = self.args.zone.prefixed(b"\x04_why\x13headless-dns-doctor\x04none\x03svc")?;
        let text = query(server, &text, rtype::TXT)
            .is_ok_and(|response| response.answer.iter().any(|record| record.text.is_some()));
        let code = self
            .name_without_svc()
            .map(|near| query(server, &near, rtype::A).is_ok_and(|response| !response.errors.is_empty()));
        match (code, text) {
            (Some(true), true) => Some("with extended errors, and as TXT at _why"),
            (Some(true), false) => Some("with extended errors"),
            (Some(false), true) => Some("as TXT at _why; extended errors do not come through"),
            (None, true) => Some("as TXT at _why"),
            (_, false) => None,
        }
    }

    /// Returns `SERVICE.NAMESPACE.ZONE` for a name that ends in `SERVICE.NAMESPACE.svc.ZONE`.
    fn name_without_svc(&self) -> Option<WireName> {
        let mut labels = self.name_text.strip_suffix(&format!(".svc.{}", self.zone_text))?.rsplit('.');
        let (namespace, service) = (labels.next()?, labels.next()?);
        WireName::parse(&format!("{service}.{namespace}.{}", self.zone_text)).ok()
    }

    /// Checks whether multicast DNS may answer for the zone: `.local` belongs to it (RFC 6762 section 3).
    fn check_multicast_dns(&mut self) {
        let zone = &self.zone_text;
        if self.args.zone.labels() == 0 || !format!(".{zone}").ends_with(".local") {
            return;
        }
        let fix = "serve the names under a second apex with --zone-alias cluster.internal, and use that";
        match self.read_file("etc/nsswitch.conf").as_deref().and_then(mdns_module) {
            Some(module) => self.report.note(format_args!(
                "nsswitch.conf has {module} before dns, of which old versions keep names of .local from DNS: if programs \
                 do not resolve them below, {fix}"
            )),
            None => self.report.note(format_args!(
                "{zone} is below .local, for which macOS and Avahi use multicast DNS: there, {fix}"
            )),
        }
    }

    /// Checks the zone's file in `/etc/resolver` of macOS (resolver(5)).
    fn check_macos_resolver_file(&mut self) {
        let Some(text) = self.read_file(&format!("etc/resolver/{}", self.zone_text)) else { return };
        let value = |wanted: &str| {
            let mut lines = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
            lines.find(|(key, _)| *key == wanted).map(|(_, value)| value.trim().to_owned())
        };
        let port = value("port").and_then(|port| port.parse().ok()).unwrap_or(53);
        let target = value("nameserver").and_then(|ip| ip.parse().ok()).map(|ip: IpAddr| SocketAddr::new(ip, port));
        let (file, server) = (format!("/etc/resolver/{}", self.zone_text), self.args.server);
        if target == Some(server) {
            self.report.good(format_args!(
                "{file} sends queries of macOS programs to {server}; dig, host and nslookup do not read it"
            ));
        } else {
            self.report.problem(format_args!(
                "{file} does not name the server: write `nameserver {}` and `port {}` into it",
                server.ip(),
                server.port()
            ));
        }
    }

    fn check_resolv_conf(&mut self) -> Option<ResolvConf> {
        let text = self.read_file(PATH.trim_start_matches('/'));
        if text.is_none() {
            self.report.problem(format_args!(
                "{PATH} cannot be read, so that programs have no resolver: see docs/laptop.md for the software that writes it"
            ));
        }
        Some(ResolvConf::parse(&text?))
    }

    fn read_file(&self, path: &str) -> Option<String> {
        regular_file::read_text(&self.args.root.join(path), MAX_SMALL_FILE).ok()
    }

    fn check_search_list(&mut self, conf: &ResolvConf) {
        let suffix = format!("svc.{}", self.zone_text);
        if conf.search.iter().any(|domain| domain.trim_end_matches('.').ends_with(&suffix)) {
            let search = conf.search.join(" ");
            self.report.good(format_args!("short names are tried in {search} (ndots:{})", conf.ndots));
        } else {
            self.report.note(
                "short names (web, web.default) resolve in Pods only, by their search list: use full names on this machine",
            );
        }
    }

    /// Checks the addresses that programs of this machine get.
    fn check_programs(&mut self, expected: &BTreeSet<IpAddr>) {
        let name = &self.name_text;
        if self.args.root != Path::new("/") {
            self.report.note("the files are those of another machine: getaddrinfo of this one was not checked");
            return;
        }
        let found: BTreeSet<IpAddr> = match (name.as_str(), 0).to_socket_addrs() {
            Ok(found) => found.map(|address| address.ip()).collect(),
            Err(error) => {
                self.report.problem(format_args!(
                    "programs do not resolve {name} (getaddrinfo: {error}): fix the problems above; without any, the line \
                     hosts of nsswitch.conf keeps the name from dns"
                ));
                return;
            }
        };
        let list = join_first(found.iter());
        // On a machine without IPv6, getaddrinfo leaves out IPv6 addresses (RFC 3493 section 6.1).
        if found.is_subset(expected) && !found.is_empty() {
            self.report.good(format_args!("programs get the same addresses (getaddrinfo): {name} is {list}"));
        } else {
            self.report.problem(format_args!(
                "programs get {list} for {name} (getaddrinfo): look for the name in /etc/hosts and nsswitch.conf"
            ));
        }
    }

    /// Reports the route to an address: a name that resolves may be out of reach.
    fn check_route(&mut self, expected: &BTreeSet<IpAddr>) {
        let Some(address) = expected.iter().find(|ip| !ip.is_loopback()).copied() else {
            self.report.note("the route to addresses of Pods was not checked: choose a name of a Pod with --name");
            return;
        };
        // 192.0.2.1 is for documentation (RFC 5737), so that it has the default route.
        match (route_source(address), route_source(Ipv4Addr::new(192, 0, 2, 1).into())) {
            (None, _) => self.report.note(format_args!(
                "there is no route from here to {address}: the name resolves, and connections fail"
            )),
            (Some(own), Some(default)) if own == default => self.report.note(format_args!(
                "packets to {address} leave from {own}, by the default route: unless that network has a route to the Pods \
                 (a VPN, a route to a node), the name resolves, and connections fail"
            )),
            (Some(own), _) => {
                self.report.note(format_args!("packets to {address} leave from {own}, by a route of their own"));
            }
        }
    }
}

/// Returns the source address of packets to `destination`; `None` without a route.
fn route_source(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Connecting a UDP socket sends nothing; the kernel only looks up the route.
    socket.connect((destination, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn response_addresses(response: &ParsedResponse) -> BTreeSet<IpAddr> {
    let records = response.answer.iter().filter(|record| matches!(record.rtype.as_str(), "A" | "AAAA"));
    records.filter_map(|record| record.data.parse().ok()).collect()
}
