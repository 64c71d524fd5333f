//! `serve`: binds, reads, says what it serves, and answers until it is told to stop.
//!
//! Here: what runs side by side, and in which order it begins and ends. Beside it: `life.rs` (signals, reload, lame
//! duck), `reload.rs` (which options change while it runs), `certificates.rs` (which files do), `manager.rs` (systemd),
//! `banner.rs` (what it says of itself), `supervise.rs` (what must not end). The whole is told in `docs/life-cycle.md`.

mod banner;
mod certificates;
mod life;
mod manager;
mod reload;
mod signals;
mod supervise;

use std::convert::Infallible;
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
use super::{Opened, cluster, listen_addresses, open};
use crate::admin::{self, About, Addresses, View};
use crate::answer::{Access, Responder};
use crate::config::{Config, NotAllowed, QueryClass, QueryFormat, Source};
use crate::liveness::Liveness;
use crate::log::Filter;
use crate::metrics::{Event, Metrics};
use crate::serve::encrypted::certificates::Certificates;
use crate::serve::takeover::{self, Handout, Offer, Predecessor};
use crate::serve::{
    Choice, Format, Inherited, Kind, Limits, ListenAddress, Listeners, LogWriter, QueryLog, Server, Stop,
    give_back_large_blocks,
};
use crate::source::manifests::Watcher;
use crate::source::snapshot::{Restored, Snapshot};
use crate::source::{ManifestSource, Publisher};
use crate::status::Status;

use certificates::{Renewal, Told};
use life::{End, Life};
use manager::Manager;
use reload::Running;
use signals::Signals;
use supervise::supervise;

/// Serves until SIGTERM or SIGINT, or until another process does so in its place.
///
/// # Errors
///
/// If an address cannot be bound, or the server cannot go on.
pub fn run(config: Config, filter: Filter) -> anyhow::Result<ExitCode> {
    give_back_large_blocks();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.workers.get())
        .enable_all()
        .build()
        .context("cannot start the threads for TCP")?;
    let result = runtime.block_on(serve(config, filter));
    // A reading of standard input that never ends must not keep the process.
    runtime.shutdown_background();
    result
}

async fn serve(config: Config, filter: Filter) -> anyhow::Result<ExitCode> {
    // From here on a signal is an event, and no longer the end of the process.
    let signals = Signals::new()?;
    let manager = Manager::new();
    let certificates = config.encrypted.pair().map(|(cert, key)| Certificates::load(cert, key)).transpose()?;
    let Sockets { listeners, activated, given, listening, predecessor } = sockets(&config).await?;
    let listeners = listeners.certified(certificates.clone());
    let admin = admin::Listeners::bind(config.admin.address, config.admin.api)?;
    let receive_buffer = listeners.receive_buffer();
    let addresses = of_kind(&listening, Kind::Plain);
    // Before the first reading, so that no change falls between.
    let watcher = watch(&config);
    let mut source = open(&config, &addresses).await?;
    let (zone, status) = (source.zone(), Arc::new(Status::default()));
    let snapshot = restore(&config, &mut source, &status);
    let zones: Vec<String> = config.zones().map(ToString::to_string).collect();
    let metrics = Arc::new(Metrics::new(&zones));
    let responder = Responder::new(Arc::clone(&zone), Arc::clone(&status), access(&config));
    let responder = responder.named(config.nsid.as_deref().unwrap_or_default());
    let responder = responder.explaining(source.asker(), config.explain_to.clone());
    let (outside, forwarder) = forwarding(&config.forward, &addresses, &of_kind(&listening, Kind::Tls))?.unzip();
    let responder = Arc::new(match outside {
        Some(outside) => responder.asking(outside),
        None => responder,
    });

    let admin_addresses = admin.addresses();
    let liveness = Liveness::default();
    liveness.watch_runtime("stream", &Handle::current().metrics());
    let from = banner::from(&config, &source);
    let view = View {
        zone: Arc::clone(&zone),
        asker: source.asker(),
        status: Arc::clone(&status),
        metrics: Arc::clone(&metrics),
        liveness: liveness.clone(),
        about: about(&config, &from, &listening),
    };
    let (shown, in_use) = (Arc::clone(&view.about.listen), Arc::clone(&view.about.certificate));
    let mut looked_at = pin!(admin.serve(view, admin::Limits::default()));

    let (stop, handout) = (Stop::default(), Handout::default());
    let workers = config.workers.get();
    let server = Server::new(Arc::clone(&responder), Arc::clone(&metrics), limits(&config), workers, stop.clone());
    let mut server = server.with_liveness(liveness.clone());
    if config.takeover.is_some() {
        server = server.handing_out(handout.clone());
    }
    if let Some(forwarder) = forwarder {
        server = server.forwarding(forwarder)?;
    }
    let (log, log_writer) = query_log(&config)?.unzip();
    if let Some(log) = log {
        server = server.logging(log);
    }
    let (changes, changed) = mpsc::unbounded_channel();
    let (begin, begun) = oneshot::channel();
    let (started, answering) = oneshot::channel();
    let mut serving = pin!(async move {
        if begun.await.is_err() {
            // Ended before it was its turn.
            return Ok(());
        }
        server.start(listeners)?;
        // Who waits for it has gone, or hears it.
        let _ = started.send(());
        server.run(changed).await
    });

    let (synced, is_synced) = watching::channel(false);
    let (again, asked_again) = mpsc::unbounded_channel();
    let path = config.takeover.clone();
    let place =
        Place { predecessor, activated, synced: is_synced.clone(), begin, answering, path, handout: handout.clone() };
    let reading = Reading { source, config: config.clone(), watcher, again: asked_again, synced };
    let reading = reading.read(Arc::clone(&status), Arc::clone(&metrics));
    let (certificates, shown_certificates) = watching::channel(certificates);
    let told = Told { metrics: Arc::clone(&metrics), in_use };
    let renewal = Renewal { certificates: shown_certificates, asked: Arc::default(), told };
    let look_again = Arc::clone(&renewal.asked);
    let running = Running { config, given, listening, shown, responder, zone, filter, changes, certificates };
    let mut life = Life {
        running,
        signals,
        manager: &manager,
        status: &status,
        stop: &stop,
        look_again,
        from,
        admin: admin_addresses,
        receive_buffer,
    };

    // In this order: the sockets are served from the first moment, and say that nothing was read yet.
    let ended = tokio::select! {
        biased;
        served = &mut serving => return served.and_then(|()| bail!("stopped answering")),
        relieved = place.hold() => relieved.map(|()| End::Relieved),
        read = reading => read.map(|never| match never {}),
        lived = life.live(is_synced, again) => lived,
        looked_at = &mut looked_at => looked_at.and_then(|()| bail!("stopped answering over HTTP")),
        never = keep(snapshot, &status) => match never {},
        never = renewal.follow() => match never {},
        never = manager.keep_watch(&liveness) => match never {},
    };
    status.set_leaving();
    match &ended {
        Ok(End::Now) => return Ok(ExitCode::SUCCESS),
        // Also where it is asked to end while another has the sockets and does not read them yet.
        _ if handout.is_given() => stop.hand_over(),
        _ => stop.tell(),
    }
    tokio::select! {
        served = &mut serving => ended.and(served)?,
        () = life.ended_again() => {}
    }
    log_writer.into_iter().for_each(LogWriter::finish);
    tracing::info!("stopped: {}", banner::summary(&metrics));
    Ok(ExitCode::SUCCESS)
}

/// How long what is queued in sockets of the service manager may wait for the first reading, which mostly takes less.
/// Then it is better answered with SERVFAIL than not at all.
const QUEUED: Duration = Duration::from_secs(1);

/// What was asked for, and what was bound for it.
type Listening = Vec<(ListenAddress, ListenAddress)>;

/// What is bound of one kind.
fn of_kind(listening: &[(ListenAddress, ListenAddress)], kind: Kind) -> Vec<SocketAddr> {
    let bound = listening.iter().map(|(_, bound)| bound);
    bound.filter(|bound| bound.kind == kind).map(|bound| bound.address).collect()
}

/// What is told of it to who looks at the server.
fn as_shown(listening: &[(ListenAddress, ListenAddress)]) -> Addresses {
    let encrypted = listening.iter().map(|(_, bound)| bound).filter(|bound| bound.kind != Kind::Plain);
    let encrypted = encrypted.map(|bound| (bound.kind.transport(), bound.address)).collect();
    Addresses { plain: of_kind(listening, Kind::Plain), encrypted }
}

/// The sockets, and who has them too.
struct Sockets {
    listeners: Listeners,
    /// They are of the service manager.
    activated: bool,
    /// Where they are, but for those of what is encrypted.
    given: Vec<ListenAddress>,
    /// What was asked for, and what it became.
    listening: Listening,
    predecessor: Option<Predecessor>,
}

/// Takes the sockets of another process or of the service manager where there is one, and binds the rest.
async fn sockets(config: &Config) -> anyhow::Result<Sockets> {
    let sockets = Inherited::from_service_manager()?;
    let activated = sockets.count() > 0;
    let encrypted: Vec<_> = listen_addresses(config).into_iter().filter(|one| one.kind != Kind::Plain).collect();
    // What no option names is for DNS over UDP and TCP.
    let given: Vec<_> = sockets.addresses_but_for(&encrypted).into_iter().map(ListenAddress::plain).collect();
    let wanted = wanted(config, &given);
    if activated {
        tracing::info!(sockets = sockets.count(), addresses = ?sockets.addresses(), "sockets of the service manager");
    }
    let asked = match &config.takeover {
        Some(path) if !activated => takeover::ask(path).await?,
        _ => None,
    };
    let (predecessor, inherited) = asked.map_or((None, sockets), |(predecessor, sockets)| (Some(predecessor), sockets));
    if predecessor.is_some() {
        tracing::info!(
            sockets = inherited.count(),
            addresses = ?inherited.addresses(),
            "another process answers until everything was read here"
        );
    }
    let listeners = Listeners::inherit(inherited, &wanted, config.workers.get())?;
    let listening = wanted.into_iter().zip(listeners.listen_addresses()).collect();
    Ok(Sockets { listeners, activated, given, listening, predecessor })
}

/// All that is to be listened on: what the service manager has given is in the place of the default.
fn wanted(config: &Config, given: &[ListenAddress]) -> Vec<ListenAddress> {
    let mut wanted = listen_addresses(config);
    if config.listen.is_default && !given.is_empty() {
        wanted.retain(|listen| listen.kind != Kind::Plain);
    }
    let more: Vec<_> = given.iter().filter(|listen| !wanted.contains(listen)).copied().collect();
    wanted.extend(more);
    wanted
}

/// A snapshot, and who knows what is to be in it.
type Kept = Option<(Snapshot, Publisher)>;

/// Answers from the snapshot, until everything was read.
fn restore(config: &Config, source: &mut Opened, status: &Status) -> Kept {
    let (Some(path), Opened::Cluster(access, publisher)) = (&config.snapshot, &mut *source) else { return None };
    let (server, namespace) = (&access.server, config.namespace.as_deref().unwrap_or("*"));
    let selector = match &config.source {
        Source::Cluster { selector: Some(selector), .. } => selector,
        _ => "",
    };
    // A blank would end a field of the snapshot's first line; this is its last.
    let scope = format!("{server} {namespace} {} {selector}", config.endpoints_source.name());
    let snapshot = Snapshot { path: path.clone(), max_age: config.snapshot_max_age, scope };
    match snapshot.restore(publisher, status) {
        Ok(Some(Restored { objects, age })) => {
            let age = age.as_secs();
            tracing::info!(objects, "answers from a snapshot that was true {age} s ago, until everything was read");
        }
        Ok(None) => tracing::info!("there is no snapshot yet: {}", path.display()),
        Err(error) => tracing::warn!("{error:#}"),
    }
    Some((snapshot, publisher.again()))
}

async fn keep(snapshot: Kept, status: &Status) -> Infallible {
    match snapshot {
        Some((snapshot, publisher)) => snapshot.keep(&publisher, status).await,
        None => pending().await,
    }
}

/// The place of this process among those that answer on the same sockets, one after the other.
struct Place {
    predecessor: Option<Predecessor>,
    activated: bool,
    synced: watching::Receiver<bool>,
    /// Has the sockets read.
    begin: oneshot::Sender<()>,
    /// They are read.
    answering: oneshot::Receiver<()>,
    path: Option<PathBuf>,
    handout: Handout,
}

impl Place {
    /// Takes the place of the predecessor, and returns when a successor has taken this one.
    async fn hold(self) -> anyhow::Result<()> {
        let Self { predecessor, activated, mut synced, begin, answering, path, handout } = self;
        let predecessor = match predecessor {
            Some(predecessor) => until_its_turn(predecessor, synced).await,
            None => {
                if activated {
                    let _ = timeout(QUEUED, synced.wait_for(|synced| *synced)).await;
                }
                None
            }
        };
        // Whoever does not hear has ended, and this with it.
        let _ = begin.send(());
        let Ok(()) = answering.await else { return pending().await };
        let Some(path) = path else { return pending().await };
        let offer = Offer::bind(&path, handout);
        let relaying = async {
            let Some(predecessor) = predecessor else { return };
            match predecessor.relieve().await {
                Ok(relay) => {
                    tracing::info!("took the place of another process");
                    relay.run().await;
                }
                Err(_) => tracing::warn!("the process that answered before is gone"),
            }
        };
        let ((), offered) = tokio::join!(relaying, async {
            offer?.relieved().await;
            anyhow::Ok(())
        });
        offered?;
        tracing::info!("another process has taken this one's place");
        Ok(())
    }
}

/// Waits until everything was read; or until the predecessor is gone, and somebody must answer.
async fn until_its_turn(mut predecessor: Predecessor, mut synced: watching::Receiver<bool>) -> Option<Predecessor> {
    tokio::select! {
        _ = synced.wait_for(|synced| *synced) => Some(predecessor),
        () = predecessor.gone() => {
            tracing::warn!("the process that answered has ended before everything was read here: this one answers now");
            None
        }
    }
}

/// Who reads the source, and when.
struct Reading {
    source: Opened,
    config: Config,
    watcher: Option<Watcher>,
    /// Asked to read again; says when it has.
    again: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    synced: watching::Sender<bool>,
}

impl Reading {
    /// Keeps the zone in step for ever.
    async fn read(self, status: Arc<Status>, metrics: Arc<Metrics>) -> anyhow::Result<Infallible> {
        let Self { source, config, mut watcher, mut again, synced } = self;
        match source {
            Opened::Manifests(source) => {
                let (mut source, read) = load(source.counting(Arc::clone(&metrics)), &metrics).await?;
                if !read {
                    bail!("reading the manifests panicked, which is a mistake of headless-dns: please report it");
                }
                status.set_synced();
                synced.send_replace(true);
                loop {
                    let asked = tokio::select! {
                        asked = again.recv() => asked,
                        () = changed(&mut watcher) => {
                            tracing::info!("reading again: a file changed");
                            None
                        }
                    };
                    (source, _) = load(source, &metrics).await?;
                    // Who asked may not wait for it any more.
                    let _ = asked.map(|asked| asked.send(()));
                }
            }
            Opened::Cluster(access, publisher) => {
                tracing::info!(server = access.server, "watching a cluster");
                let synced = Arc::new(synced);
                let follow = || {
                    let (sender, read) = oneshot::channel();
                    let cluster = cluster(&access, &config, config.rules.pod_records);
                    let (publisher, status) = (publisher.again(), Arc::clone(&status));
                    let (metrics, synced) = (Arc::clone(&metrics), Arc::clone(&synced));
                    async move {
                        let tell = async {
                            if read.await.is_ok() {
                                synced.send_replace(true);
                            }
                            pending::<()>().await;
                        };
                        tokio::select! { () = cluster.follow(publisher, status, &metrics, sender) => {}, () = tell => {} }
                    }
                };
                // There is nothing to read again: it is followed.
                let answer = async {
                    while let Some(asked) = again.recv().await {
                        let _ = asked.send(());
                    }
                    pending().await
                };
                tokio::select! { never = supervise("what follows the cluster", &metrics, follow) => Ok(never), never = answer => never }
            }
        }
    }
}

/// Reads everything, or reads it again, where it may block. A panic costs this reading, and says so by `false`.
async fn load(mut source: ManifestSource, metrics: &Metrics) -> anyhow::Result<(ManifestSource, bool)> {
    let read = tokio::task::spawn_blocking(move || {
        let reading = catch_unwind(AssertUnwindSafe(|| source.load()));
        (source, reading)
    });
    let (source, reading) = read.await.context("reading the manifests failed")?;
    let Ok(reading) = reading else {
        metrics.worker().count(Event::TaskRestarts);
        tracing::error!("reading the manifests panicked: what was read before stays, in parts or as a whole");
        return Ok((source, false));
    };
    for report in reading.reports {
        tracing::warn!("{report}");
    }
    let (services, addresses) = source.zone().size();
    tracing::info!(services, addresses, serial = source.zone().serial(), "read");
    Ok((source, true))
}

async fn changed(watcher: &mut Option<Watcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => pending().await,
    }
}

/// Watches what `config` names as manifests.
fn watch(config: &Config) -> Option<Watcher> {
    let Source::Manifests(paths) = &config.source else { return None };
    start_watching(&super::paths(paths))
}

fn start_watching(paths: &[PathBuf]) -> Option<Watcher> {
    Watcher::start(paths).inspect_err(|refused| tracing::warn!("{refused}")).ok()
}

/// What the admin listener tells of a server.
fn about(config: &Config, from: &str, listening: &[(ListenAddress, ListenAddress)]) -> About {
    About {
        source: from.to_owned(),
        alive: matches!(config.source, Source::Cluster { .. }) || config.simulate.is_some(),
        namespace: config.namespace.as_deref().unwrap_or("default").to_owned(),
        listen: Arc::new(ArcSwap::from_pointee(as_shown(listening))),
        certificate: Arc::default(),
        workers: config.workers.get(),
    }
}

fn access(config: &Config) -> Access {
    Access {
        allow: if config.clients.is_everyone() { Vec::new() } else { config.clients.allow.clone() },
        silent: config.clients.not_allowed == NotAllowed::Drop,
    }
}

/// The log of questions, if there is to be one, and who writes it.
fn query_log(config: &Config) -> anyhow::Result<Option<(Arc<QueryLog>, LogWriter)>> {
    let wanted = &config.query_log;
    let [success, denial, error] =
        [QueryClass::Success, QueryClass::Denial, QueryClass::Error].map(|class| wanted.has(class));
    let format = match wanted.format {
        QueryFormat::Common => Format::Common,
        QueryFormat::Json => Format::Json,
    };
    let choice = Choice { success, denial, error, sample: wanted.sample };
    let none = wanted.classes.is_empty();
    (!none).then(|| QueryLog::start(choice, format, std::io::stdout())).transpose()
}

fn limits(config: &Config) -> Limits {
    Limits {
        connections: config.tcp.connections,
        // `docs/install.md` counts on it.
        large: (config.tcp.connections / 4).max(1),
        per_client: config.tcp.connections_per_client,
        client_prefix_v6: config.tcp.client_prefix_v6,
        idle: config.tcp.idle,
        ..Limits::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Invocation};

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
        assert_eq!(Limits::default().large * 4, Limits::default().connections);
    }
}
