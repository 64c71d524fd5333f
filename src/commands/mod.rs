//! The commands, from their configuration to their exit status.
//!
//! Here: dispatch, output and error reports, and the opening of a source ([`open_source`]), which several commands share.
//! Results go to standard output, everything else to standard error. Not here: the options (`cli`).

mod admin;
mod ask;
pub mod check;
pub mod config;
pub mod doctor;
pub mod explain;
mod forward;
pub mod records;
pub mod serve;

use std::env;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::cli::{Invocation, NAME, USAGE_ERROR_STATUS};
use crate::config::{Config, DEMO, EncryptedConfig, ManifestPath, Source};
use crate::log;
use crate::report::finding_view::Style;
use crate::server::{ListenAddress, ListenProtocol};
use crate::source::kubernetes::{self, ClusterAccess, Scope, Timing};
use crate::source::manifests::Manifests;
use crate::source::{Input, LoadReport, ManifestSource, Publisher, PublisherOptions};
use headless_dns_core::cluster::Resource;
use headless_dns_core::diagnose::{Diagnostics, DiagnosticsView, WatchScope};
use headless_dns_core::escape::{self, Printable};
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::PodRecords;
use headless_dns_core::records::NameServer;
use headless_dns_core::zone::{Settings, Zone};

/// Networks for the addresses of simulated Services: the defaults of most clusters.
const DEFAULT_SERVICE_NETWORKS: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 112)),
];

/// R6 (`tests/rows.md`): default reverse zones of a server in a cluster: RFC 1918, RFC 6598, RFC 4193.
const PRIVATE_NETWORKS: [IpNet; 5] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 168, 0, 0), 16)),
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7)),
];

/// Runs a command, and returns its exit status.
///
/// # Errors
///
/// The error that kept the command from a result, for [`report`].
pub fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    match invocation {
        Invocation::Serve(config) => {
            let log = log::start(&config.log)?;
            serve::run(config, log)
        }
        Invocation::Records(config, export) => {
            log::start(&config.log)?;
            records::run(&config, export)
        }
        Invocation::Explain(config, question) => {
            log::start(&config.log)?;
            Ok(or_wrong_use(explain::run(&config, &question)))
        }
        Invocation::Check(config, strictness) => {
            log::start(&config.log)?;
            Ok(or_wrong_use(check::run(&config, strictness)))
        }
        Invocation::Doctor(doctor) => Ok(or_wrong_use(doctor::run(&doctor))),
        Invocation::PrintConfig(config, origins) => config::print(&config, &origins),
        Invocation::Completions(shell) => config::completions(shell),
    }
}

/// Reports an error with status 2, for commands in which status 1 is a result.
fn or_wrong_use(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        report(&error);
        ExitCode::from(USAGE_ERROR_STATUS)
    })
}

/// Writes an error to standard error in one sentence, from the outermost cause to the innermost. Returns the exit status.
pub fn report(error: &anyhow::Error) -> ExitCode {
    log::write_line(&Printable(format_args!("{NAME}: {error:#}")).to_string());
    if error.is::<WrongUse>() { ExitCode::from(USAGE_ERROR_STATUS) } else { ExitCode::FAILURE }
}

/// Wrong use that is detected only while the command runs, in one sentence.
#[derive(Debug)]
struct WrongUse(String);

impl fmt::Display for WrongUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUse {}

/// Returns the styles for standard output: colours on a terminal that supports them, unless NO_COLOR is set (no-color.org).
fn paint() -> Style {
    let set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    Style::new(io::stdout().is_terminal() && !set("NO_COLOR") && !dumb)
}

/// Writes a command's result to standard output. A closed pipe is no error: a reader such as `head` has read enough.
pub(crate) fn write_stdout(text: &str) -> anyhow::Result<ExitCode> {
    let mut output = io::stdout().lock();
    // Each text from outside was escaped when it was inserted. This escapes one that was missed, except for its line ends.
    match output.write_all(escape::lines(text).as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// An opened source of objects, with the publisher that fills the zone. Nothing is read yet.
pub enum SourceHandle {
    /// Manifests, or the built-in example.
    Manifests(ManifestSource),
    /// API server of a cluster.
    Cluster(ClusterAccess, Publisher),
}

impl SourceHandle {
    /// Returns the zone that the source fills.
    pub fn zone(&self) -> Arc<Zone> {
        match self {
            Self::Manifests(source) => source.zone(),
            Self::Cluster(_, publisher) => publisher.zone(),
        }
    }

    /// Returns the handle that explains why a name does not resolve.
    pub fn asker(&self) -> Diagnostics {
        match self {
            Self::Manifests(source) => source.asker(),
            Self::Cluster(_, publisher) => publisher.asker(),
        }
    }
}

/// Opens the source that `config` names. `listen` are the addresses of this server, for `ns.dns.ZONE`.
///
/// # Errors
///
/// If no cluster is configured, or `--simulate` is set for one.
pub async fn open_source(config: &Config, listen: &[SocketAddr]) -> anyhow::Result<SourceHandle> {
    if let Source::Cluster { kubeconfig, context, .. } = &config.source {
        ensure!(config.simulate.is_empty(), "--simulate is for manifests: the workloads of a cluster have Pods");
        let access = kubernetes::find(kubeconfig.as_deref(), context.as_deref()).await?;
        let mut options = options(config, listen);
        if options.reverse.is_empty() && access.in_cluster {
            options.reverse = PRIVATE_NETWORKS.into();
        }
        return Ok(SourceHandle::Cluster(access, Publisher::for_cluster(zone(config), options)));
    }
    Ok(SourceHandle::Manifests(open_manifests(config, listen)))
}

/// Opens the manifests that `config` names; an empty source if it names a cluster.
pub fn open_manifests(config: &Config, listen: &[SocketAddr]) -> ManifestSource {
    let namespace = config.namespace.as_deref().unwrap_or("default");
    let input = match &config.source {
        Source::Cluster { .. } => Input::Text("no manifests", ""),
        Source::Demo => Input::Text("the built-in example", DEMO),
        Source::Manifests(written) => Input::Files(Manifests::new(paths(written), namespace, config.max_manifest_size)),
    };
    let publisher = Publisher::new(zone(config), options(config, listen));
    ManifestSource::new(input, namespace, simulated(config), publisher)
}

/// Result of one read of a source.
pub(crate) struct LoadedSource {
    /// Zone with the records of the objects.
    pub(crate) zone: Arc<Zone>,
    /// Handle that explains names by the objects.
    pub(crate) asker: Diagnostics,
    /// Reports on objects and files that were skipped.
    pub(crate) reading: LoadReport,
}

/// Reads the source once. Of a cluster, the Pods are read too if `pods` is `Verified` and the API server allows it.
///
/// # Errors
///
/// If no cluster is configured, or the source cannot be read.
pub(crate) fn load_once(config: &Config, pods: PodRecords) -> anyhow::Result<LoadedSource> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    runtime.block_on(async {
        match open_source(config, &config.listen.addresses).await? {
            SourceHandle::Manifests(mut source) => {
                let reading = source.load();
                usable(&reading)?;
                Ok(LoadedSource { zone: source.zone(), asker: source.asker(), reading })
            }
            SourceHandle::Cluster(access, mut publisher) => {
                let (objects, mut reading) = cluster(&access, config, pods).read().await?;
                reading.reports.extend(publisher.replace(objects));
                Ok(LoadedSource { zone: publisher.zone(), asker: publisher.asker(), reading })
            }
        }
    })
}

/// Checks that each path of `--manifests` can be opened, and each file among them has a readable document.
///
/// # Errors
///
/// [`WrongUse`] with a sentence for each path that fails.
fn usable(reading: &LoadReport) -> Result<(), WrongUse> {
    let sentences: Vec<String> = reading.unusable.iter().map(ToString::to_string).collect();
    if sentences.is_empty() { Ok(()) } else { Err(WrongUse(sentences.join("; "))) }
}

/// Returns whether there are endpoints: in a cluster, simulated, or in the manifests.
pub(crate) fn is_alive(config: &Config, known: &DiagnosticsView<'_>) -> bool {
    let written = [Resource::EndpointSlices, Resource::Endpoints];
    let live = matches!(config.source, Source::Cluster { .. });
    live || !config.simulate.is_empty() || written.iter().any(|resource| known.cluster.count(*resource) > 0)
}

/// Returns the client that reads and watches the resources that `config` needs.
pub(crate) fn cluster(access: &ClusterAccess, config: &Config, pods: PodRecords) -> kubernetes::WatchedCluster {
    let resources = kubernetes::resources(config.endpoints_source, pods);
    kubernetes::WatchedCluster::new(Arc::clone(&access.connect), resources, Timing::default()).with_scope(scope(config))
}

/// Returns the part of the cluster that is watched.
fn scope(config: &Config) -> Scope {
    match &config.source {
        Source::Cluster { selector, .. } => Scope { namespace: config.namespace.clone(), selector: selector.clone() },
        Source::Demo | Source::Manifests(_) => Scope::default(),
    }
}

/// Returns the networks of simulated Pods, and the Service networks of the same address families; `None` without simulation.
fn simulated(config: &Config) -> Option<[Vec<IpNet>; 2]> {
    let of_family =
        |pods: &IpNet| DEFAULT_SERVICE_NETWORKS.into_iter().find(|net| net.addr().is_ipv4() == pods.addr().is_ipv4());
    let services = config.simulate.iter().filter_map(of_family).collect();
    (!config.simulate.is_empty()).then(|| [config.simulate.clone(), services])
}

fn zone(config: &Config) -> Arc<Zone> {
    let settings = Settings {
        apexes: config.zones().cloned().collect(),
        ttl: config.ttl.as_secs() as u32,
        negative_ttl: config.negative_ttl.as_secs() as u32,
        rules: config.rules,
    };
    let zone = Zone::new(settings, ReverseZones::default());
    Arc::new(match scope(config).namespace {
        Some(namespace) => zone.for_namespace(&namespace),
        None => zone,
    })
}

fn options(config: &Config, listen: &[SocketAddr]) -> PublisherOptions {
    let Scope { namespace, selector } = scope(config);
    PublisherOptions {
        reverse: config.reverse.clone(),
        simulated: simulated(config).map(|networks| networks.concat()).unwrap_or_default(),
        name_server: NameServer { configured: config.ns_addresses.clone(), fallback: own_addresses(listen) },
        service: config.service.clone(),
        endpoints_source: config.endpoints_source,
        extent: WatchScope { namespace, selected: selector.is_some() },
    }
}

/// Returns the addresses to listen on, with their transports. Skips default addresses that the machine lacks: not every
/// machine has an IPv6 loopback.
fn listen_addresses(config: &Config) -> Vec<ListenAddress> {
    let has = |address: &&SocketAddr| UdpSocket::bind((address.ip(), 0)).is_ok();
    let plain = config.listen.addresses.iter().filter(|address| !config.listen.is_default || has(address));
    let EncryptedConfig { tls, https, quic, .. } = &config.encrypted;
    let encrypted = [(ListenProtocol::Tls, tls), (ListenProtocol::Https, https), (ListenProtocol::Quic, quic)];
    let encrypted = encrypted
        .into_iter()
        .flat_map(|(kind, all)| all.iter().map(move |at| ListenAddress { protocol: kind, address: *at }));
    plain.copied().map(ListenAddress::plain).chain(encrypted).collect()
}

/// Returns the first items of a list, and the number of the others; `none` for an empty list.
fn join_first<T: ToString>(items: impl Iterator<Item = T>) -> String {
    const MAX_ITEMS: usize = 4;
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    match items.len() {
        0 => "none".to_owned(),
        count if count > MAX_ITEMS => format!("{} and {} more", items[..MAX_ITEMS].join(", "), count - MAX_ITEMS),
        _ => items.join(", "),
    }
}

fn paths(written: &[ManifestPath]) -> Vec<PathBuf> {
    written.iter().map(|path| path.text().into()).collect()
}

/// N17: returns the addresses of this server: those that it listens on; for a wildcard, the source address of the default
/// route; without one, loopback.
fn own_addresses(listen: &[SocketAddr]) -> Vec<IpAddr> {
    let named: Vec<IpAddr> = listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
    if !named.is_empty() {
        return named;
    }
    // Connecting a UDP socket sends nothing; the kernel only looks up the route.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 53))?;
        socket.local_addr()
    });
    vec![socket.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())]
}
