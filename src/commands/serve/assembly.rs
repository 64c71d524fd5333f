//! Assembly of the server from its configuration and its opened parts: the engine, the listeners and the tasks.
//!
//! Not here: the opening of the parts (`startup.rs`), and the run of the tasks (`mod.rs`).

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};

use super::certificates::{CertificateObserver, Renewal};
use super::lifecycle::Lifecycle;
use super::reload::{RuntimeConfig, access};
use super::signals::Signals;
use super::source_task::{Progress, SourceTask};
use super::startup::{Listening, Prepared, SnapshotWriter, Sockets, shown_addresses};
use super::takeover::Takeover;
use super::{Shared, banner};
use crate::admin::{AdminContext, AdminLimits, ServerInfo};
use crate::commands::SourceHandle;
use crate::config::{Config, QueryClass, QueryFormat, Source};
use crate::log::Filter;
use crate::server::forward::Forwarder;
use crate::server::{
    ConnectionLimits, ListenerChange, Listeners, LogWriter, QueryLog, QueryLogFilter, QueryLogFormat, Server,
};
use headless_dns_core::answer::{ForwardPolicy, Responder};

/// Task with a result, behind a pointer, so that it can be polled by reference.
type Task<T> = Pin<Box<dyn Future<Output = anyhow::Result<T>>>>;

/// Tasks of the server.
pub(super) struct Tasks {
    /// Listeners: begins when the hot restart starts it, ends when they are drained.
    pub(super) server: Task<()>,
    pub(super) admin: Task<()>,
    pub(super) takeover: Takeover,
    pub(super) source: Task<Infallible>,
    pub(super) lifecycle: Lifecycle,
    pub(super) renewal: Renewal,
    pub(super) snapshot: SnapshotWriter,
    pub(super) query_log: Option<LogWriter>,
}

impl Tasks {
    /// Connects the opened parts with each other. No task runs yet.
    ///
    /// # Errors
    ///
    /// If a thread of the forwarder or of the query log cannot be started.
    pub(super) fn assemble(
        config: Config,
        filter: Filter,
        signals: Signals,
        prepared: Prepared,
        shared: &Shared,
    ) -> anyhow::Result<Self> {
        let Prepared { certificates, sockets, admin, watcher, source, snapshot, forwarding, .. } = prepared;
        let Sockets { listeners, activated, given, listening, predecessor } = sockets;
        let (policy, forwarder) = forwarding.unzip();
        let (query_log, log_writer) = query_log(&config)?.unzip();
        let responder = Arc::new(responder(&config, &source, policy, shared));
        let server = server(&config, &responder, forwarder, query_log, shared)?;
        let source_text = banner::source_text(&config, &source);
        let context = admin_context(&source, server_info(&config, &source_text, &listening), shared);
        let (shown, in_use) = (Arc::clone(&context.info.listen), Arc::clone(&context.info.certificate));

        let (changes, changed) = mpsc::unbounded_channel();
        let (begin, begun) = oneshot::channel();
        let (started, answering) = oneshot::channel();
        let (progress, synced) = watch::channel(Progress::Nothing);
        let (source_reload, reload_requests) = mpsc::unbounded_channel();
        let (certificates, certificates_in_use) = watch::channel(certificates);
        let observer = CertificateObserver { metrics: Arc::clone(&shared.metrics), in_use };
        let renewal = Renewal { certificates: certificates_in_use, reload_request: Arc::default(), observer };
        let takeover = Takeover {
            predecessor,
            activated,
            progress: synced.clone(),
            begin,
            answering,
            path: config.takeover.clone(),
            registry: shared.registry.clone(),
        };
        let source_task =
            SourceTask { config: config.clone(), watcher, reload_requests, progress, shared: shared.clone() };
        let zone = source.zone();
        let lifecycle = Lifecycle {
            receive_buffer: listeners.receive_buffer(),
            runtime: RuntimeConfig { config, given, listening, shown, responder, zone, filter, changes, certificates },
            signals,
            shared: shared.clone(),
            synced,
            source_reload,
            certificate_reload: Arc::clone(&renewal.reload_request),
            source_text,
            admin: admin.addresses(),
        };
        Ok(Self {
            server: Box::pin(run_server(server, listeners, begun, started, changed)),
            admin: Box::pin(admin.serve(context, AdminLimits::default())),
            takeover,
            source: Box::pin(source_task.run(source)),
            lifecycle,
            renewal,
            snapshot,
            query_log: log_writer,
        })
    }
}

/// Starts the server when `begin` is received, reports its start, and runs it until its listeners are drained.
async fn run_server(
    mut server: Server,
    listeners: Listeners,
    begin: oneshot::Receiver<()>,
    started: oneshot::Sender<()>,
    changes: mpsc::UnboundedReceiver<ListenerChange>,
) -> anyhow::Result<()> {
    if begin.await.is_err() {
        // The server ended before it was to begin.
        return Ok(());
    }
    server.start(listeners)?;
    // The receiver may be gone, if the hot restart has failed.
    let _ = started.send(());
    server.run(changes).await
}

fn responder(config: &Config, source: &SourceHandle, policy: Option<ForwardPolicy>, shared: &Shared) -> Responder {
    let responder = Responder::new(source.zone(), Arc::clone(&shared.status), access(config))
        .with_nsid(config.nsid.as_deref().unwrap_or_default())
        .with_explanations(source.asker(), config.explain_to.clone());
    match policy {
        Some(policy) => responder.with_forwarding(policy),
        None => responder,
    }
}

fn server(
    config: &Config,
    responder: &Arc<Responder>,
    forwarder: Option<Forwarder>,
    query_log: Option<Arc<QueryLog>>,
    shared: &Shared,
) -> anyhow::Result<Server> {
    let (responder, metrics) = (Arc::clone(responder), Arc::clone(&shared.metrics));
    let mut server = Server::new(responder, metrics, limits(config), config.workers.get(), shared.shutdown.clone())
        .with_heartbeats(shared.heartbeats.clone());
    if config.takeover.is_some() {
        server = server.with_takeover(shared.registry.clone());
    }
    if let Some(forwarder) = forwarder {
        server = server.with_forwarder(forwarder)?;
    }
    if let Some(query_log) = query_log {
        server = server.with_query_log(query_log);
    }
    Ok(server)
}

fn admin_context(source: &SourceHandle, info: ServerInfo, shared: &Shared) -> AdminContext {
    AdminContext {
        zone: source.zone(),
        diagnostics: source.asker(),
        status: Arc::clone(&shared.status),
        metrics: Arc::clone(&shared.metrics),
        liveness: shared.heartbeats.clone(),
        info,
    }
}

/// Returns the description of the server for the admin listener.
fn server_info(config: &Config, source_text: &str, listening: &Listening) -> ServerInfo {
    ServerInfo {
        source: source_text.to_owned(),
        alive: matches!(config.source, Source::Cluster { .. }) || !config.simulate.is_empty(),
        namespace: config.namespace.as_deref().unwrap_or("default").to_owned(),
        listen: Arc::new(ArcSwap::from_pointee(shown_addresses(listening))),
        certificate: Arc::default(),
        workers: config.workers.get(),
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

    #[test]
    fn limits_large_connections_to_a_quarter() {
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
