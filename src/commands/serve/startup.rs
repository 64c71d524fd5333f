//! Startup of the server: opens its files, sockets and source, and restores the snapshot.
//!
//! Here too: the addresses to listen on, which a reload compares with. Not here: the tasks that use all of this
//! (`assembly.rs`).

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::runtime::Handle;

use super::signals::Signals;
use super::source_task::watch_manifests;
use crate::admin::{AdminListeners, ListenAddresses};
use crate::commands::forward::forwarding;
use crate::commands::{SourceHandle, WrongUse, listen_addresses, open_source};
use crate::config::{Config, Source};
use crate::duration::rough;
use crate::regular_file::FileError;
use crate::server::forward::Forwarder;
use crate::server::hot_restart::{self, Predecessor};
use crate::server::tls::certificates::Certificates;
use crate::server::{InheritedSockets, ListenAddress, ListenProtocol, Listeners};
use crate::source::Publisher;
use crate::source::manifests::ManifestWatcher;
use crate::source::snapshot::{Restored, Snapshot};
use headless_dns_core::answer::ForwardPolicy;
use headless_dns_core::status::Status;

/// Opened files, sockets and source of a server.
pub(super) struct Prepared {
    pub(super) certificates: Option<Certificates>,
    pub(super) sockets: Sockets,
    pub(super) admin: AdminListeners,
    pub(super) watcher: Option<ManifestWatcher>,
    pub(super) source: SourceHandle,
    pub(super) status: Arc<Status>,
    pub(super) snapshot: SnapshotWriter,
    pub(super) forwarding: Option<(ForwardPolicy, Forwarder)>,
}

impl Prepared {
    /// Opens the certificate files, the sockets and the source of objects that the configuration names. Blocks while a
    /// file system hangs.
    pub(super) async fn open(config: Config) -> anyhow::Result<Self> {
        let certificates = config.encrypted.pair().map(|(cert, key)| Certificates::load(cert, key)).transpose()?;
        let mut sockets = Sockets::open(&config).await?;
        sockets.listeners = sockets.listeners.certified(certificates.clone());
        let admin = AdminListeners::bind(config.admin.address, config.admin.api)?;
        let addresses = bound_addresses(&sockets.listening, ListenProtocol::Plain);
        // Watch before the first read, so that no change between the two is missed.
        let watcher = watch_manifests(&config);
        let mut source = open_source(&config, &addresses).await?;
        let status = Arc::new(Status::default());
        let snapshot = restore_snapshot(&config, &mut source, &status)?;
        let tls = bound_addresses(&sockets.listening, ListenProtocol::Tls);
        let forwarding = forwarding(&config.forward, &addresses, &tls)?;
        Ok(Self { certificates, sockets, admin, watcher, source, status, snapshot, forwarding })
    }
}

/// Runs a task that may block, on a thread that shutdown does not wait for. Returns `None` if a signal asks to end first.
pub(super) async fn until_shutdown<T: Send + 'static>(
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

/// Requested addresses, each with the address that was bound for it.
pub(super) type Listening = Vec<(ListenAddress, ListenAddress)>;

/// Returns the bound addresses of one kind.
fn bound_addresses(listening: &[(ListenAddress, ListenAddress)], kind: ListenProtocol) -> Vec<SocketAddr> {
    let bound = listening.iter().map(|(_, bound)| bound);
    bound.filter(|bound| bound.protocol == kind).map(|bound| bound.address).collect()
}

/// Returns the bound addresses for the admin listener.
pub(super) fn shown_addresses(listening: &[(ListenAddress, ListenAddress)]) -> ListenAddresses {
    let encrypted = listening.iter().map(|(_, bound)| bound).filter(|bound| bound.protocol != ListenProtocol::Plain);
    let encrypted = encrypted.map(|bound| (bound.protocol.transport(), bound.address)).collect();
    ListenAddresses { plain: bound_addresses(listening, ListenProtocol::Plain), encrypted }
}

/// Sockets, and the process that has them too.
pub(super) struct Sockets {
    pub(super) listeners: Listeners,
    /// True if the service manager passed sockets (socket activation).
    pub(super) activated: bool,
    /// Addresses of the sockets of the service manager, except for encrypted ones.
    pub(super) given: Vec<ListenAddress>,
    /// Requested and bound addresses.
    pub(super) listening: Listening,
    pub(super) predecessor: Option<Predecessor>,
}

impl Sockets {
    /// Takes the sockets of the predecessor or of the service manager, if there is one, and binds the rest.
    pub(super) async fn open(config: &Config) -> anyhow::Result<Self> {
        let sockets = InheritedSockets::from_service_manager()?;
        let activated = sockets.count() > 0;
        let encrypted: Vec<_> =
            listen_addresses(config).into_iter().filter(|one| one.protocol != ListenProtocol::Plain).collect();
        // Sockets that no option names are for DNS over UDP and TCP.
        let given: Vec<_> = sockets.addresses_but_for(&encrypted).into_iter().map(ListenAddress::plain).collect();
        let requested = requested_addresses(config, &given);
        if activated {
            tracing::info!(sockets = sockets.count(), addresses = ?sockets.addresses(), "took the sockets of the service manager");
        }
        let takeover = match &config.takeover {
            Some(path) if !activated => hot_restart::request_takeover(path).await?,
            _ => None,
        };
        let (predecessor, inherited) =
            takeover.map_or((None, sockets), |(predecessor, sockets)| (Some(predecessor), sockets));
        if predecessor.is_some() {
            tracing::info!(
                sockets = inherited.count(),
                addresses = ?inherited.addresses(),
                "the old process answers until this one has read its source"
            );
        }
        let listeners = Listeners::inherit(inherited, &requested, config.workers.get())?;
        let listening = requested.into_iter().zip(listeners.listen_addresses()).collect();
        Ok(Self { listeners, activated, given, listening, predecessor })
    }
}

/// Returns all addresses to listen on. Sockets of the service manager replace the default of `--listen`.
pub(super) fn requested_addresses(config: &Config, given: &[ListenAddress]) -> Vec<ListenAddress> {
    let mut addresses = listen_addresses(config);
    if config.listen.is_default && !given.is_empty() {
        addresses.retain(|listen| listen.protocol != ListenProtocol::Plain);
    }
    let more: Vec<_> = given.iter().filter(|listen| !addresses.contains(listen)).copied().collect();
    addresses.extend(more);
    addresses
}

/// Snapshot, with the publisher of the objects that it stores.
pub(super) type SnapshotWriter = Option<(Snapshot, Publisher)>;

/// Fills the zone from the snapshot, if one is configured: the server answers from it until the source was read.
///
/// # Errors
///
/// If the path names something that a snapshot must not replace. A folder that cannot be written to is a warning: a server
/// without a snapshot answers, and one that does not start because a disk went read-only does not.
fn restore_snapshot(config: &Config, source: &mut SourceHandle, status: &Status) -> anyhow::Result<SnapshotWriter> {
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
