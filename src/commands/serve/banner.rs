//! Texts about the server: the banner with zones, source and addresses, and the counters for the log line at shutdown.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::commands::{SourceHandle, join_first};
use crate::config::{Config, ForwardConfig, ManifestPath, Source};
use crate::metrics::{Event, Metrics};
use crate::server::{ListenAddress, ListenProtocol};
use headless_dns_core::escape::Printable;
use headless_dns_core::zone::Zone;

/// Returns the banner: zones, source, addresses, and an example command.
pub(super) fn startup_summary(
    config: &Config,
    listening: &[ListenAddress],
    admin: &[SocketAddr],
    zone: &Zone,
    from: &str,
) -> String {
    let of_kind = |kind| listening.iter().filter(move |listen| listen.protocol == kind).map(|listen| listen.address);
    let addresses: Vec<SocketAddr> = of_kind(ListenProtocol::Plain).collect();
    let encrypted: String = [ListenProtocol::Tls, ListenProtocol::Https, ListenProtocol::Quic]
        .into_iter()
        .filter(|kind| of_kind(*kind).next().is_some())
        .map(|kind| format!("listen  {} over {kind}\n", join_first(of_kind(kind))))
        .collect();
    let (services, names) = zone.size();
    let mut source = from.to_owned();
    if !config.simulate.is_empty() {
        let networks: Vec<String> = config.simulate.iter().map(ToString::to_string).collect();
        let _ = write!(source, ", workloads simulated in {}", networks.join(" and "));
    }
    let listen = join_first(addresses.iter());
    let to = addresses.iter().find(|address| address.is_ipv4()).unwrap_or(&addresses[0]);
    let ip = match to.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let others = more(config);
    let example = zone.example().without_final_dot();
    let admin: String = admin.iter().map(|address| format!("admin   http://{address}\n")).collect();
    format!(
        "headless-dns {}\n\
         zone    {} with {services} Services; {names} addresses in reverse, in {}\n\
         source  {source}\n\
         listen  {listen} over UDP and TCP, {} workers\n{encrypted}{others}{admin}\
         try     dig @{ip} -p {} +short {}\n",
        env!("CARGO_PKG_VERSION"),
        join_first(config.zones()),
        join_first(zone.reverse_zones().apexes().iter()),
        config.workers,
        to.port(),
        example,
    )
}

/// Returns the lines about upstreams and their clients; empty without upstreams.
fn more(config: &Config) -> String {
    let mut lines = String::new();
    let ForwardConfig { to, clients, aliases } = &config.forward;
    if !to.is_empty() {
        let _ = writeln!(
            lines,
            "forward names outside the zones to {}, for {}",
            join_first(to.iter()),
            join_first(clients.iter())
        );
    }
    if !aliases.is_empty() {
        let _ = writeln!(lines, "forward targets of ExternalName Services to {}", join_first(aliases.iter()));
    }
    lines
}

/// Returns the description of the source, escaped.
pub(super) fn source_text(config: &Config, source: &SourceHandle) -> String {
    let text = match source {
        SourceHandle::Cluster(access, _) => watched(config, &access.server),
        SourceHandle::Manifests(_) => written(config),
    };
    Printable(text).to_string()
}

/// Returns the API server and the part of the cluster that is watched.
fn watched(config: &Config, server: &str) -> String {
    let mut text = server.to_owned();
    if let Some(namespace) = &config.namespace {
        let _ = write!(text, ", the namespace {namespace} only");
    }
    if let Source::Cluster { selector: Some(selector), .. } = &config.source {
        let _ = write!(text, ", Services with {selector} only");
    }
    text
}

/// Returns the locations of the manifests.
fn written(config: &Config) -> String {
    match &config.source {
        Source::Cluster { .. } => String::new(),
        Source::Demo => "the built-in example".to_owned(),
        Source::Manifests(paths) => join_first(paths.iter().map(ManifestPath::text)),
    }
}

/// Returns the event counters that are not 0.
pub(super) fn summary(metrics: &Metrics) -> String {
    let totals = Event::ALL.iter().map(|event| (event.label(), metrics.total(*event)));
    let counted: Vec<String> =
        totals.filter(|(_, total)| *total > 0).map(|(label, total)| format!("{label} {total}")).collect();
    if counted.is_empty() { "no queries".to_owned() } else { counted.join(", ") }
}
