//! The command `serve`: assembles the server, and runs it until shutdown.
//!
//! Here: the tasks of the server, and the order of startup and shutdown. `life.rs` has signals, reload and the lame duck,
//! `reload.rs` the options that a reload changes, `certificates.rs` the renewal of the certificate, `manager.rs` the
//! notifications to systemd, `banner.rs` the startup summary, and `supervise.rs` the restart of tasks. `docs/operations.md`
//! describes all of it for operators. Not here: sockets and queries (`serve`).

mod banner;
mod certificates;
mod life;
mod manager;
mod reload;
mod signals;
mod supervise;

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::pending;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch as watching};
use tokio::time::timeout;

use super::forward::forwarding;
use super::{SourceHandle, WrongUse, cluster, listen_addresses, open_source};
use crate::admin::{self, AdminContext, ListenAddresses, ServerInfo};
use crate::config::{Config, NotAllowed, QueryClass, QueryFormat, Source};
use crate::duration::rough;
use crate::liveness::Heartbeats;
use crate::log::Filter;
use crate::metrics::{Event, Metrics};
use crate::regular_file::FileError;
use crate::serve::encrypted::certificates::Certificates;
use crate::serve::forward::Forwarder;
use crate::serve::takeover::{self, Predecessor, SocketRegistry, TakeoverListener};
use crate::serve::{
    ConnectionLimits, InheritedSockets, ListenAddress, ListenProtocol, Listeners, LogWriter, QueryLog, QueryLogFilter,
    QueryLogFormat, Server, Shutdown, set_mmap_threshold,
};
use crate::source::manifests::{ManifestWatcher, Report};
use crate::source::snapshot::{Restored, Snapshot};
use crate::source::{self, ManifestSource, Notice, Publisher};
use headless_dns_core::answer::{AccessList, ForwardPolicy, Responder};
use headless_dns_core::diagnose::Finding;
use headless_dns_core::status::Status;

use certificates::{CertificateObserver, Renewal};
use life::{ExitReason, Lifecycle};
use manager::ServiceNotifier;
use reload::RuntimeConfig;
use signals::Signals;
use supervise::supervise;

/// Serves until SIGTERM or SIGINT, or until a new process takes over (hot restart).
///
/// # Errors
///
/// If an address cannot be bound, or a task of the server fails.
pub fn run(config: Config, filter: Filter) -> anyhow::Result<ExitCode> {
    set_mmap_threshold();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers.get())
        .enable_all()
        .build()
        .context("cannot start the threads for TCP")?;
    let result = runtime.block_on(serve(config, filter));
    // Do not wait for blocking tasks: a read of standard input that never ends would keep the process.
    runtime.shutdown_background();
    result
}

async fn serve(config: Config, filter: Filter) -> anyhow::Result<ExitCode> {
    // From here on a signal is an event, and does not end the process.
    let mut signals = Signals::new()?;
    let manager = ServiceNotifier::new();
    let Some(prepared) = until_shutdown(&mut signals, prepare(config.clone())).await? else {
        tracing::info!("a signal ended the server before it answered");
        return Ok(ExitCode::SUCCESS);
    };
    let Prepared { certificates, sockets, admin, watcher, source, status, snapshot, forwarding } = prepared;
    let Sockets { listeners, activated, given, listening, predecessor } = sockets;
    let receive_buffer = listeners.receive_buffer();
    let zone = source.zone();
    let zones: Vec<String> = config.zones().map(ToString::to_string).collect();
    let metrics = Arc::new(Metrics::new(&zones));
    let responder = Responder::new(Arc::clone(&zone), Arc::clone(&status), access(&config));
    let responder = responder.with_nsid(config.nsid.as_deref().unwrap_or_default());
    let responder = responder.with_explanations(source.asker(), config.explain_to.clone());
    let (outside, forwarder) = forwarding.unzip();
    let responder = Arc::new(match outside {
        Some(outside) => responder.with_forwarding(outside),
        None => responder,
    });

    let admin_addresses = admin.addresses();
    let liveness = Heartbeats::default();
    liveness.watch_runtime("stream", &Handle::current().metrics());
    let from = banner::source_text(&config, &source);
    let view = AdminContext {
        zone: Arc::clone(&zone),
        diagnostics: source.asker(),
        status: Arc::clone(&status),
        metrics: Arc::clone(&metrics),
        liveness: liveness.clone(),
        info: server_info(&config, &from, &listening),
    };
    let (shown, in_use) = (Arc::clone(&view.info.listen), Arc::clone(&view.info.certificate));
    let mut looked_at = pin!(admin.serve(view, admin::AdminLimits::default()));

    let (stop, handout) = (Shutdown::default(), SocketRegistry::default());
    let workers = config.workers.get();
    let server = Server::new(Arc::clone(&responder), Arc::clone(&metrics), limits(&config), workers, stop.clone());
    let mut server = server.with_liveness(liveness.clone());
    if config.takeover.is_some() {
        server = server.with_takeover(handout.clone());
    }
    if let Some(forwarder) = forwarder {
        server = server.with_forwarder(forwarder)?;
    }
    let (log, log_writer) = query_log(&config)?.unzip();
    if let Some(log) = log {
        server = server.with_query_log(log);
    }
    let (changes, changed) = mpsc::unbounded_channel();
    let (begin, begun) = oneshot::channel();
    let (started, answering) = oneshot::channel();
    let mut serving = pin!(async move {
        if begun.await.is_err() {
            // The server ended before it was to begin.
            return Ok(());
        }
        server.start(listeners)?;
        // The receiver may be gone, if the hot restart has failed.
        let _ = started.send(());
        server.run(changed).await
    });

    let (synced, is_synced) = watching::channel(Progress::Nothing);
    let (again, asked_again) = mpsc::unbounded_channel();
    let path = config.takeover.clone();
    let place = Takeover {
        predecessor,
        activated,
        synced: is_synced.clone(),
        begin,
        answering,
        path,
        handout: handout.clone(),
    };
    let reading = SourceTask { source, config: config.clone(), watcher, reload_requests: asked_again, synced };
    let reading = reading.read(Arc::clone(&status), Arc::clone(&metrics));
    let (certificates, shown_certificates) = watching::channel(certificates);
    let told = CertificateObserver { metrics: Arc::clone(&metrics), in_use };
    let renewal = Renewal { certificates: shown_certificates, asked: Arc::default(), told };
    let look_again = Arc::clone(&renewal.asked);
    let running = RuntimeConfig { config, given, listening, shown, responder, zone, filter, changes, certificates };
    let mut life = Lifecycle {
        runtime: running,
        signals,
        notifier: &manager,
        status: &status,
        stop: &stop,
        look_again,
        from,
        admin: admin_addresses,
        receive_buffer,
    };

    // Polled in this order: the sockets are served first, with SERVFAIL until the source was read.
    let ended = tokio::select! {
        biased;
        served = &mut serving => return served.and_then(|()| bail!("the server stopped answering")),
        relieved = place.run() => relieved.map(|()| ExitReason::TakenOver),
        read = reading => read.map(|never| match never {}),
        lived = life.run(is_synced, again) => lived,
        looked_at = &mut looked_at => looked_at.and_then(|()| bail!("the admin listener stopped answering")),
        never = write_snapshots(snapshot.as_ref(), &status) => match never {},
        never = renewal.follow() => match never {},
        never = manager.run_watchdog(&liveness) => match never {},
    };
    status.set_leaving();
    match &ended {
        Ok(ExitReason::Immediate) => return Ok(ExitCode::SUCCESS),
        // Also if a signal arrives when the new process has the sockets and does not read them yet.
        _ if handout.is_taken_over() => stop.hand_over(),
        _ => stop.drain(),
    }
    let last_snapshot = async {
        // After a hot restart the new process writes the snapshot, from newer data.
        if let (Ok(ExitReason::Requested), Some((snapshot, publisher))) = (&ended, &snapshot) {
            snapshot.finish(publisher, &status).await;
        }
    };
    let finished = async { tokio::join!(&mut serving, last_snapshot).0 };
    tokio::select! {
        served = finished => ended.and(served)?,
        () = life.ended_again() => {}
    }
    log_writer.into_iter().for_each(LogWriter::finish);
    tracing::info!("stopped: {}", banner::summary(&metrics));
    Ok(ExitCode::SUCCESS)
}

/// Opened files, sockets and source of a server.
struct Prepared {
    certificates: Option<Certificates>,
    sockets: Sockets,
    admin: admin::AdminListeners,
    watcher: Option<ManifestWatcher>,
    source: SourceHandle,
    status: Arc<Status>,
    snapshot: Kept,
    forwarding: Option<(ForwardPolicy, Forwarder)>,
}

/// Opens the files, the sockets and the source of the configuration. May block if a file system hangs.
async fn prepare(config: Config) -> anyhow::Result<Prepared> {
    let certificates = config.encrypted.pair().map(|(cert, key)| Certificates::load(cert, key)).transpose()?;
    let mut sockets = sockets(&config).await?;
    sockets.listeners = sockets.listeners.certified(certificates.clone());
    let admin = admin::AdminListeners::bind(config.admin.address, config.admin.api)?;
    let addresses = of_kind(&sockets.listening, ListenProtocol::Plain);
    // Watch before the first read, so that no change between the two is missed.
    let watcher = watch(&config);
    let mut source = open_source(&config, &addresses).await?;
    let status = Arc::new(Status::default());
    let snapshot = restore(&config, &mut source, &status)?;
    let forwarding = forwarding(&config.forward, &addresses, &of_kind(&sockets.listening, ListenProtocol::Tls))?;
    Ok(Prepared { certificates, sockets, admin, watcher, source, status, snapshot, forwarding })
}

/// Runs a task that may block, on a thread that shutdown does not wait for. Returns `None` if a signal asks to end first.
async fn until_shutdown<T: Send + 'static>(
    signals: &mut Signals,
    task: impl Future<Output = anyhow::Result<T>> + Send + 'static,
) -> anyhow::Result<Option<T>> {
    let runtime = Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(task));
    tokio::select! {
        done = done => done.context("the startup of the server failed")?.map(Some),
        _ = signals.end() => Ok(None),
    }
}

/// Time that queries may wait in sockets of the service manager for the first read of the source, which mostly takes less.
/// After it, a response with SERVFAIL is better than none.
const ACTIVATED_QUEUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Requested addresses, each with the address that was bound for it.
type Listening = Vec<(ListenAddress, ListenAddress)>;

/// Returns the bound addresses of one kind.
fn of_kind(listening: &[(ListenAddress, ListenAddress)], kind: ListenProtocol) -> Vec<SocketAddr> {
    let bound = listening.iter().map(|(_, bound)| bound);
    bound.filter(|bound| bound.protocol == kind).map(|bound| bound.address).collect()
}

/// Returns the bound addresses for the admin listener.
fn as_shown(listening: &[(ListenAddress, ListenAddress)]) -> ListenAddresses {
    let encrypted = listening.iter().map(|(_, bound)| bound).filter(|bound| bound.protocol != ListenProtocol::Plain);
    let encrypted = encrypted.map(|bound| (bound.protocol.transport(), bound.address)).collect();
    ListenAddresses { plain: of_kind(listening, ListenProtocol::Plain), encrypted }
}

/// Sockets, and the process that has them too.
struct Sockets {
    listeners: Listeners,
    /// True if the service manager passed sockets (socket activation).
    activated: bool,
    /// Addresses of the sockets of the service manager, except for encrypted ones.
    given: Vec<ListenAddress>,
    /// Requested and bound addresses.
    listening: Listening,
    predecessor: Option<Predecessor>,
}

/// Takes the sockets of the predecessor or of the service manager, if there is one, and binds the rest.
async fn sockets(config: &Config) -> anyhow::Result<Sockets> {
    let sockets = InheritedSockets::from_service_manager()?;
    let activated = sockets.count() > 0;
    let encrypted: Vec<_> =
        listen_addresses(config).into_iter().filter(|one| one.protocol != ListenProtocol::Plain).collect();
    // Sockets that no option names are for DNS over UDP and TCP.
    let given: Vec<_> = sockets.addresses_but_for(&encrypted).into_iter().map(ListenAddress::plain).collect();
    let wanted = wanted(config, &given);
    if activated {
        tracing::info!(sockets = sockets.count(), addresses = ?sockets.addresses(), "took the sockets of the service manager");
    }
    let asked = match &config.takeover {
        Some(path) if !activated => takeover::request_takeover(path).await?,
        _ => None,
    };
    let (predecessor, inherited) = asked.map_or((None, sockets), |(predecessor, sockets)| (Some(predecessor), sockets));
    if predecessor.is_some() {
        tracing::info!(
            sockets = inherited.count(),
            addresses = ?inherited.addresses(),
            "the old process answers until this one has read its source"
        );
    }
    let listeners = Listeners::inherit(inherited, &wanted, config.workers.get())?;
    let listening = wanted.into_iter().zip(listeners.listen_addresses()).collect();
    Ok(Sockets { listeners, activated, given, listening, predecessor })
}

/// Returns all addresses to listen on. Sockets of the service manager replace the default of `--listen`.
fn wanted(config: &Config, given: &[ListenAddress]) -> Vec<ListenAddress> {
    let mut wanted = listen_addresses(config);
    if config.listen.is_default && !given.is_empty() {
        wanted.retain(|listen| listen.protocol != ListenProtocol::Plain);
    }
    let more: Vec<_> = given.iter().filter(|listen| !wanted.contains(listen)).copied().collect();
    wanted.extend(more);
    wanted
}

/// Snapshot, with the publisher of the objects that it stores.
type Kept = Option<(Snapshot, Publisher)>;

/// Fills the zone from the snapshot, if one is configured: the server answers from it until the source was read.
///
/// # Errors
///
/// If the path names something that a snapshot must not replace. A folder that cannot be written to is a warning: a server
/// without a snapshot answers, and one that does not start because a disk went read-only does not.
fn restore(config: &Config, source: &mut SourceHandle, status: &Status) -> anyhow::Result<Kept> {
    let (Some(path), SourceHandle::Cluster(access, publisher)) = (&config.snapshot, &mut *source) else {
        return Ok(None);
    };
    let (server, namespace) = (&access.server, config.namespace.as_deref().unwrap_or("*"));
    let selector = match &config.source {
        Source::Cluster { selector: Some(selector), .. } => selector,
        _ => "",
    };
    // Blanks separate the fields of the snapshot's first line. The selector is the last one, as it may contain blanks.
    let scope = format!("{server} {namespace} {} {selector}", config.endpoints_source.name());
    let snapshot = Snapshot { path: path.clone(), max_age: config.snapshot_max_age, scope, writing: Arc::default() };
    let shown = path.display();
    match snapshot.check() {
        Ok(()) => {}
        Err(error @ FileError::NotRegular(_)) => bail!(WrongUse(format!("--snapshot {shown}: {error}"))),
        Err(error) => tracing::warn!("cannot write a snapshot to {shown}, and the server continues without: {error}"),
    }
    match snapshot.restore(publisher, status) {
        Ok(Some(Restored { objects, age })) => {
            let age = rough(age);
            tracing::info!(objects, "answering from a snapshot that was current {age} ago, until the source was read");
        }
        Ok(None) => tracing::info!("there is no snapshot at {shown} yet"),
        Err(error) => tracing::warn!("{error:#}"),
    }
    Ok(Some((snapshot, publisher.try_clone_handle())))
}

async fn write_snapshots(snapshot: Option<&(Snapshot, Publisher)>, status: &Status) -> Infallible {
    match snapshot {
        Some((snapshot, publisher)) => snapshot.keep(publisher, status).await,
        None => pending().await,
    }
}

/// Hot restart: the takeover from the predecessor, and by the successor.
struct Takeover {
    predecessor: Option<Predecessor>,
    activated: bool,
    synced: watching::Receiver<Progress>,
    /// Starts the server.
    begin: oneshot::Sender<()>,
    /// Received when the server reads its sockets.
    answering: oneshot::Receiver<()>,
    path: Option<PathBuf>,
    handout: SocketRegistry,
}

impl Takeover {
    /// Takes over from the predecessor, and returns when a successor has taken over from this process.
    async fn run(self) -> anyhow::Result<()> {
        let Self { predecessor, activated, mut synced, begin, answering, path, handout } = self;
        let predecessor = match predecessor {
            Some(predecessor) => wait_until_synced(predecessor, synced).await,
            None => {
                if activated {
                    let _ = timeout(ACTIVATED_QUEUE_TIMEOUT, synced.wait_for(|progress| *progress > Progress::Nothing))
                        .await;
                }
                None
            }
        };
        // If the receiver is gone, the server has ended, and this task ends with it.
        let _ = begin.send(());
        let Ok(()) = answering.await else { return pending().await };
        let Some(path) = path else { return pending().await };
        let offer = TakeoverListener::bind(&path, handout);
        let confirming = async {
            let Some(predecessor) = predecessor else { return };
            match predecessor.confirm_takeover().await {
                Ok(()) => tracing::info!("took over from the old process"),
                Err(_) => tracing::warn!("the old process ended before the takeover was complete"),
            }
        };
        let ((), offered) = tokio::join!(confirming, async {
            offer?.taken_over().await;
            anyhow::Ok(())
        });
        offered?;
        tracing::info!("a new process has taken over");
        Ok(())
    }
}

/// Waits until the source was read. Returns `None` if the predecessor ends before that, and this process must answer.
async fn wait_until_synced(
    mut predecessor: Predecessor,
    mut synced: watching::Receiver<Progress>,
) -> Option<Predecessor> {
    tokio::select! {
        _ = synced.wait_for(|progress| *progress == Progress::Whole) => Some(predecessor),
        () = predecessor.has_ended() => {
            tracing::warn!("the old process ended before this one has read its source: this one answers now");
            None
        }
    }
}

/// Task that reads the source and keeps the zone in step with it.
struct SourceTask {
    source: SourceHandle,
    config: Config,
    watcher: Option<ManifestWatcher>,
    /// Requests to read the source again, each with the sender for its completion.
    reload_requests: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    synced: watching::Sender<Progress>,
}

/// Progress of the first read of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Nothing,
    /// All but files and documents that cannot be read: known names are answered.
    Partial,
    /// All of the source.
    Whole,
}

impl SourceTask {
    /// Reads the source and its changes. Returns only for an error.
    async fn read(self, status: Arc<Status>, metrics: Arc<Metrics>) -> anyhow::Result<Infallible> {
        let Self { source, config, mut watcher, reload_requests: mut again, synced } = self;
        match source {
            SourceHandle::Manifests(source) => {
                let (mut source, reading) = load(source.counting(Arc::clone(&metrics)), &metrics).await?;
                let Some(reading) = reading else {
                    bail!("reading the manifests panicked, which is a bug in headless-dns: please report it");
                };
                super::usable(&reading)?;
                let settle = |reading: &source::LoadReport| {
                    if *synced.borrow() < Progress::Whole {
                        synced.send_replace(settled(reading, config.allow_unreadable, &status));
                    }
                };
                settle(&reading);
                loop {
                    let asked = tokio::select! {
                        asked = again.recv() => asked,
                        () = changed(&mut watcher) => {
                            tracing::info!("reading the manifests again: a file changed");
                            None
                        }
                    };
                    let reading;
                    (source, reading) = load(source, &metrics).await?;
                    reading.iter().for_each(settle);
                    // The requester may have ended.
                    let _ = asked.map(|asked| asked.send(()));
                }
            }
            SourceHandle::Cluster(access, publisher) => {
                tracing::info!(server = access.server, "watching a cluster");
                let synced = Arc::new(synced);
                let follow = || {
                    let (sender, read) = oneshot::channel();
                    let cluster = cluster(&access, &config, config.rules.pod_records);
                    let (publisher, status) = (publisher.try_clone_handle(), Arc::clone(&status));
                    let (metrics, synced) = (Arc::clone(&metrics), Arc::clone(&synced));
                    async move {
                        let tell = async {
                            if read.await.is_ok() {
                                synced.send_replace(Progress::Whole);
                            }
                            pending::<()>().await;
                        };
                        tokio::select! { () = cluster.follow(publisher, status, &metrics, sender) => {}, () = tell => {} }
                    }
                };
                // A cluster is watched all the time, so that a request to read again completes at once.
                let answer = async {
                    while let Some(asked) = again.recv().await {
                        let _ = asked.send(());
                    }
                    pending().await
                };
                tokio::select! { never = supervise("the watch of the cluster", &metrics, follow) => Ok(never), never = answer => never }
            }
        }
    }
}

/// Decides whether unknown names get NXDOMAIN before the source was read without errors, and sets the status.
fn settled(reading: &source::LoadReport, allow_unreadable: bool, status: &Status) -> Progress {
    if reading.complete || allow_unreadable {
        status.set_synced();
        return Progress::Whole;
    }
    /// Maximum number of files in the message; each has a log line of its own before.
    const NAMED: usize = 3;
    let unread: Vec<String> = reading.unread.iter().map(ToString::to_string).collect();
    tracing::error!(
        unread = unread.len(),
        "unknown names get SERVFAIL, or NXDOMAIN with --allow-unreadable, until these can be read: {}",
        unread[..unread.len().min(NAMED)].join("; ")
    );
    status.set_sentence(unread_sentence(&reading.unread));
    status.set_partial(unread);
    Progress::Partial
}

/// Returns the extended error's text for names that may be in an unreadable file: file and line of the first one.
fn unread_sentence(unread: &[Report]) -> String {
    /// Maximum length of the path in characters, cut at its start: the text has to fit into a response with its line number.
    const PATH: usize = 60;
    let Some(Report { file, line, .. }) = unread.first() else { return String::new() };
    let file: Vec<char> = file.escape_default().collect();
    let cut = file.len().saturating_sub(PATH);
    let mut text = format!("cannot read {}{}", if cut > 0 { "..." } else { "" }, String::from_iter(&file[cut..]));
    if let Some(line) = line {
        let _ = write!(text, ", line {line}");
    }
    if let more @ 1.. = unread.len() - 1 {
        let _ = write!(text, ", and {more} more");
    }
    Finding::NotSynced { waiting_for: vec![text], forbidden: false, seconds: 0 }.ede_text()
}

/// Reads the manifests on a thread that may block, and logs the reports. The result is `None` after a panic.
async fn load(
    mut source: ManifestSource,
    metrics: &Metrics,
) -> anyhow::Result<(ManifestSource, Option<source::LoadReport>)> {
    let read = tokio::task::spawn_blocking(move || {
        let reading = catch_unwind(AssertUnwindSafe(|| source.load()));
        (source, reading)
    });
    let (source, reading) = read.await.context("reading the manifests failed")?;
    let Ok(reading) = reading else {
        metrics.worker().count(Event::TaskRestarts);
        tracing::error!("reading the manifests panicked: the zone keeps records of the read before");
        return Ok((source, None));
    };
    reading.reports.iter().for_each(Notice::log);
    let (services, addresses) = source.zone().size();
    tracing::info!(services, addresses, serial = source.zone().serial(), "read");
    Ok((source, Some(reading)))
}

async fn changed(watcher: &mut Option<ManifestWatcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => pending().await,
    }
}

/// Starts to watch the manifests of `config`.
fn watch(config: &Config) -> Option<ManifestWatcher> {
    let Source::Manifests(paths) = &config.source else { return None };
    start_watching(&super::paths(paths))
}

fn start_watching(paths: &[PathBuf]) -> Option<ManifestWatcher> {
    ManifestWatcher::start(paths).inspect_err(|refused| tracing::warn!("{refused}")).ok()
}

/// Returns the description of the server for the admin listener.
fn server_info(config: &Config, from: &str, listening: &[(ListenAddress, ListenAddress)]) -> ServerInfo {
    ServerInfo {
        source: from.to_owned(),
        alive: matches!(config.source, Source::Cluster { .. }) || !config.simulate.is_empty(),
        namespace: config.namespace.as_deref().unwrap_or("default").to_owned(),
        listen: Arc::new(ArcSwap::from_pointee(as_shown(listening))),
        certificate: Arc::default(),
        workers: config.workers.get(),
    }
}

fn access(config: &Config) -> AccessList {
    AccessList {
        allow: if config.clients.allows_everyone() { Vec::new() } else { config.clients.allow.clone() },
        silent: config.clients.not_allowed == NotAllowed::Drop,
    }
}

/// Starts the query log, if one is configured. Returns the log and its writer.
fn query_log(config: &Config) -> anyhow::Result<Option<(Arc<QueryLog>, LogWriter)>> {
    let wanted = &config.query_log;
    let [success, denial, error] =
        [QueryClass::Success, QueryClass::Denial, QueryClass::Error].map(|class| wanted.has(class));
    let format = match wanted.format {
        QueryFormat::Common => QueryLogFormat::Common,
        QueryFormat::Json => QueryLogFormat::Json,
    };
    let choice = QueryLogFilter { success, denial, error, sample: wanted.sample };
    let none = wanted.classes.is_empty();
    (!none).then(|| QueryLog::start(choice, format, std::io::stdout())).transpose()
}

fn limits(config: &Config) -> ConnectionLimits {
    ConnectionLimits {
        connections: config.tcp.connections,
        // Connections over HTTPS and QUIC take more memory. `docs/install.md` computes the memory limit from this quarter.
        large: (config.tcp.connections / 4).max(1),
        per_client: config.tcp.connections_per_client,
        client_prefix_v6: config.tcp.client_prefix_v6,
        idle: config.tcp.idle,
        ..ConnectionLimits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Invocation};
    use crate::source::manifests::Cause;
    use headless_dns_core::object::Subject;

    #[test]
    fn the_line_of_an_unread_file_fits_into_an_answer() {
        let report = |file: &str, line| Report {
            file: file.into(),
            document: Some(1),
            line,
            cause: Cause::Syntax,
            text: "not told".into(),
            subject: Subject::Unknown,
        };
        for (unread, expected) in [
            (vec![report("a.yaml", Some(7))], "NOT-SYNCED: cannot read a.yaml, line 7"),
            (vec![report("a", None), report("b", None)], "NOT-SYNCED: cannot read a, and 1 more"),
            (vec![report("a\n\u{202e}", None)], "NOT-SYNCED: cannot read a\\n\\u{202e}"),
        ] {
            assert_eq!(unread_sentence(&unread), expected);
        }
        let long = unread_sentence(&[report(&format!("/{}/z.yaml", "x".repeat(300)), Some(123_456))]);
        assert!(long.len() < 120 && long.contains("read ...x") && long.ends_with("x/z.yaml, line 123456"), "{long}");
    }

    #[test]
    fn a_quarter_of_the_connections_may_be_large() {
        for (options, all, large) in
            [("", 16_384, 4_096), (" --tcp-connections 9", 9, 2), (" --tcp-connections 1", 1, 1)]
        {
            let line = format!("headless-dns serve --demo{options}");
            let Ok(Invocation::Serve(config)) = cli::read(line.split(' ').map(Into::into)) else { panic!("{line}") };
            let limits = limits(&config);
            assert_eq!((limits.connections, limits.large), (all, large), "{line}");
        }
        assert_eq!(ConnectionLimits::default().large * 4, ConnectionLimits::default().connections);
    }
}
