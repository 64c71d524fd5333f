//! `serve`: binds, reads, says what it serves, and answers until it is told to stop.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::forward::forwarding;
use super::{Opened, cluster, open, show};
use crate::answer::{Access, Responder};
use crate::config::{Config, Forward, ManifestPath, NotAllowed, Source};
use crate::metrics::{Event, Metrics};
use crate::serve::{Limits, Listeners, Stop};
use crate::source::ManifestSource;
use crate::source::manifests::Watcher;
use crate::status::Status;
use crate::zone::Zone;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
///
/// If an address cannot be bound, or the server cannot go on.
pub fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers.get())
        .enable_all()
        .build()
        .context("cannot start the threads for TCP")?;
    let result = runtime.block_on(serve(config));
    // A reading of standard input that never ends must not keep the process.
    runtime.shutdown_background();
    result
}

async fn serve(config: &Config) -> anyhow::Result<ExitCode> {
    // From here on a signal is an event, and no longer the end of the process.
    let mut signals = Signals::new()?;
    let listeners = bind(config)?;
    let addresses = listeners.addresses();
    let receive_buffer = listeners.receive_buffer();
    let forwarding = forwarding(&config.forward, &addresses)?;
    // Before the first reading, so that no change falls between.
    let mut watcher = watch(config);
    let source = open(config, &addresses).await?;
    let (zone, status, metrics) = (source.zone(), Arc::new(Status::default()), Arc::new(Metrics::default()));
    let responder = Responder::new(Arc::clone(&zone), Arc::clone(&status), access(config));
    let responder = responder.explaining(source.asker(), config.explain_to.clone());
    let (responder, listeners) = match forwarding {
        Some((outside, forwarder)) => (responder.asking(outside), listeners.forwarding(forwarder)),
        None => (responder, listeners),
    };
    let responder = Arc::new(responder);
    let stop = Stop::default();
    let mut serving = pin!(listeners.serve(responder, Arc::clone(&metrics), limits(config), stop.clone()));
    let announce = |from: &str| {
        show(banner(config, &addresses, &zone, from).as_bytes())?;
        tracing::info!(receive_buffer, serial = zone.serial(), "serving");
        anyhow::Ok(())
    };
    let reading = async {
        let mut source = match source {
            Opened::Manifests(source) => tokio::select! {
                source = load(source) => source?,
                () = signals.end() => return anyhow::Ok(()),
            },
            Opened::Cluster(access, publisher) => {
                tracing::info!(server = access.server, "watching a cluster");
                let (sender, synced) = oneshot::channel();
                let following = cluster(&access, config, config.rules.pod_records).follow(
                    publisher,
                    Arc::clone(&status),
                    &metrics,
                    sender,
                );
                return follow(following, synced, || announce(&watched(config, &access.server)), &mut signals).await;
            }
        };
        status.set_synced();
        announce(&written(config))?;
        loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::End => return Ok(()),
                    Asked::Reload => tracing::info!("reading again: SIGHUP"),
                },
                () = changed(&mut watcher) => tracing::info!("reading again: a file changed"),
            }
            source = load(source).await?;
        }
    };
    // In this order: the sockets are served from the first moment, and say that nothing was read yet.
    tokio::select! {
        biased;
        served = &mut serving => served?,
        read = reading => {
            stop.tell();
            read?;
            tokio::select! {
                served = &mut serving => served?,
                () = signals.end() => tracing::warn!("ended at once by a second signal: queries may be lost"),
            }
        }
    }
    tracing::info!("stopped: {}", summary(&metrics));
    Ok(ExitCode::SUCCESS)
}

/// Follows a cluster until a signal ends it; announces when everything was read once.
async fn follow(
    following: impl Future<Output = ()>,
    mut synced: oneshot::Receiver<()>,
    announce: impl FnOnce() -> anyhow::Result<()>,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    let mut following = pin!(following);
    let mut announce = Some(announce);
    loop {
        tokio::select! {
            () = &mut following => return Ok(()),
            asked = signals.next() => match asked {
                Asked::End => return Ok(()),
                Asked::Reload => tracing::info!("SIGHUP: a cluster is followed, there is nothing to read again"),
            },
            Ok(()) = &mut synced, if announce.is_some() => {
                if let Some(announce) = announce.take() {
                    announce()?;
                }
            }
        }
    }
}

/// Reads everything, or reads it again, where it may block.
async fn load(mut source: ManifestSource) -> anyhow::Result<ManifestSource> {
    let read = tokio::task::spawn_blocking(move || {
        let reading = source.load();
        (source, reading)
    });
    let (source, reading) = read.await.context("reading the manifests failed")?;
    for report in reading.reports {
        tracing::warn!("{report}");
    }
    let (services, addresses) = source.zone().size();
    tracing::info!(services, addresses, serial = source.zone().serial(), "read");
    Ok(source)
}

async fn changed(watcher: &mut Option<Watcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => std::future::pending().await,
    }
}

fn watch(config: &Config) -> Option<Watcher> {
    let Source::Manifests(paths) = &config.source else { return None };
    match Watcher::start(&super::paths(paths)) {
        Ok(watcher) => Some(watcher),
        Err(refused) => {
            tracing::warn!("{refused}");
            None
        }
    }
}

/// The signals that a server obeys.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    async fn end(&mut self) {
        while self.next().await != Asked::End {}
    }
}

/// What a signal asks for.
#[derive(PartialEq, Eq)]
enum Asked {
    End,
    Reload,
}

/// Of the default addresses those that this machine has: not every one has an IPv6 loopback.
fn bind(config: &Config) -> anyhow::Result<Listeners> {
    let has = |address: &SocketAddr| UdpSocket::bind((address.ip(), 0)).is_ok();
    let mut addresses = config.listen.addresses.clone();
    if config.listen.is_default {
        addresses.retain(has);
    }
    Listeners::bind(&addresses, config.workers.get())
}

fn access(config: &Config) -> Access {
    Access {
        allow: if config.clients.is_everyone() { Vec::new() } else { config.clients.allow.clone() },
        silent: config.clients.not_allowed == NotAllowed::Drop,
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        connections: config.tcp.connections,
        per_client: config.tcp.connections_per_client,
        idle: config.tcp.idle,
        ..Limits::default()
    }
}

/// What is served, from where, at which addresses, and a line to try.
fn banner(config: &Config, addresses: &[SocketAddr], zone: &Zone, from: &str) -> String {
    let (services, names) = zone.size();
    let mut source = from.to_owned();
    if let Some(range) = config.simulate {
        let _ = write!(source, ", workloads simulated in {range}");
    }
    let listen = list(addresses.iter());
    let to = addresses.iter().find(|address| address.is_ipv4()).unwrap_or(&addresses[0]);
    let ip = match to.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let example = zone.example().to_string();
    let others = others(config);
    format!(
        "headless-dns {}\n\
         zone    {} with {services} Services; {names} addresses in reverse, in {}\n\
         source  {source}\n\
         listen  {listen} over UDP and TCP, {} workers\n\
         {others}\
         try     dig @{ip} -p {} +short {}\n",
        env!("CARGO_PKG_VERSION"),
        list(config.zones()),
        list(zone.reverse_zones().apexes().iter()),
        config.workers,
        to.port(),
        example.trim_end_matches('.'),
    )
}

/// Who is asked for names of others, and for whom: lines, or nothing.
fn others(config: &Config) -> String {
    let mut lines = String::new();
    let Forward { to, clients, aliases } = &config.forward;
    if !to.is_empty() {
        let _ = writeln!(lines, "forward other names to {}, for {}", list(to.iter()), list(clients.iter()));
    }
    if !aliases.is_empty() {
        let _ = writeln!(lines, "alias   what ExternalName Services stand for, at {}", list(aliases.iter()));
    }
    lines
}

/// Which part of which cluster is watched.
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

/// Where manifests come from.
fn written(config: &Config) -> String {
    match &config.source {
        Source::Cluster { .. } => String::new(),
        Source::Demo => "the built-in example".to_owned(),
        Source::Manifests(paths) => list(paths.iter().map(ManifestPath::text)),
    }
}

/// The first few of a list, and how many more there are.
fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    const MOST: usize = 4;
    let items: Vec<String> = items.map(|item| item.to_string()).collect();
    match items.len() {
        0 => "none".to_owned(),
        count if count > MOST => format!("{} and {} more", items[..MOST].join(", "), count - MOST),
        _ => items.join(", "),
    }
}

/// What was counted, but for what never happened.
fn summary(metrics: &Metrics) -> String {
    let totals = Event::ALL.iter().map(|event| (event.label(), metrics.total(*event)));
    let counted: Vec<String> =
        totals.filter(|(_, total)| *total > 0).map(|(label, total)| format!("{label} {total}")).collect();
    if counted.is_empty() { "nothing was asked".to_owned() } else { counted.join(", ") }
}
