//! The server: listening sockets, and the threads and tasks that read queries from them and send responses.
//!
//! ```text
//!   listener/bind.rs ──▶ Listeners ──▶ Server ──┬─▶ udp/       one thread per worker and address ──▶ sys/
//!   hot_restart/                                ├─▶ stream/    accepts ──┬──────────▶ stream/connection.rs
//!                                               │                        └─▶ tls/ ──┘ and https/
//!                                               ├─▶ quic/
//!                                               └─▶ forward/   one thread, for queries that need an upstream
//!
//!   connections of all kinds ──▶ listener/tracker.rs (tasks) ──▶ listener/context.rs ──▶ stream/worker.rs (buffers),
//!                                                                listener/limiter.rs (limits)
//! ```
//!
//! Arrows point to the right and down, and no file names one above it; this file names all of them. Every message goes
//! to the one [`Responder`], and its response is sent: nothing in this module knows the contents of a query. This file:
//! the [`Server`] that runs all listeners. Elsewhere: parsing and answering (`core/src/answer/`), and the choice of
//! listen addresses (`config/`). Read next: `listener/bind.rs`, `udp/mod.rs`.

pub mod forward;
#[doc(hidden)]
pub mod fuzzing;
pub mod heartbeats;
pub mod hot_restart;
#[cfg(feature = "https")]
pub mod https;
mod limits;
mod listener;
mod query_log;
#[cfg(feature = "quic")]
mod quic;
#[cfg(not(feature = "quic"))]
#[path = "quic/disabled.rs"]
mod quic;
mod shutdown;
mod stream;
mod sys;
pub mod tls;
mod udp;

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::UdpSocket;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::metrics::Metrics;
use headless_dns_core::answer::Responder;

pub use limits::ConnectionLimits;
pub use listener::address::{ListenAddress, ListenProtocol};
pub use listener::bind::{InheritedSockets, Listeners};
pub use query_log::{LogWriter, QueryLog, QueryLogFilter, QueryLogFormat};
pub use shutdown::Shutdown;
pub use sys::set_mmap_threshold;

pub(crate) use shutdown::Phase;

use forward::{Forwarder, ForwarderTask};
use heartbeats::Heartbeats;
use hot_restart::SocketRegistry;
use listener::bind::{self, BoundSockets};
use listener::context::{Listener, ListenerContext};
use listener::limiter::ConnectionLimiter;
use query_log::QueryLogger;
use shutdown::DrainOnDrop;
use stream::acceptor;
use tls::TlsHandshakes;
use tls::certificates::Certificates;

/// Interval between checks for a large decrease in the number of connections.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(2);
/// Number of times that free memory is returned to the system after such a decrease.
const GIVE_BACK_ROUNDS: usize = 3;

/// Change of the listeners of a running server: sockets to serve, then addresses to close.
#[derive(Debug)]
pub struct ListenerChange {
    /// Sockets to serve from now on.
    pub start: Option<Listeners>,
    /// Addresses to close; queries received there so far are answered.
    pub stop: Vec<ListenAddress>,
}

impl ListenerChange {
    /// Sets the certificate of encrypted listeners.
    pub fn certified(self, certificates: Option<Certificates>) -> Self {
        Self { start: self.start.map(|start| start.certified(certificates)), ..self }
    }
}

/// The running server: the threads and tasks of all listen addresses.
pub struct Server {
    shutdown: Shutdown,
    udp: udp::UdpContext,
    streams: ListenerContext,
    registry: Option<SocketRegistry>,
    forwarder: Option<ForwarderTask>,
    /// One task for each address, the parent of all threads and tasks that serve it.
    listeners: JoinSet<(ListenAddress, Result<()>)>,
    shutdowns: HashMap<ListenAddress, Shutdown>,
    workers: usize,
}

impl Server {
    /// Creates a server without listeners. `workers` is the number of threads of each address, at least 1.
    pub fn new(
        responder: Arc<Responder>,
        metrics: Arc<Metrics>,
        limits: ConnectionLimits,
        workers: usize,
        stop: Shutdown,
    ) -> Self {
        let udp = udp::UdpContext::new(Arc::clone(&responder), Arc::clone(&metrics));
        let streams = ListenerContext::new(responder, metrics, limits, stop.clone());
        Self {
            shutdown: stop,
            udp,
            streams,
            registry: None,
            forwarder: None,
            listeners: JoinSet::new(),
            shutdowns: HashMap::new(),
            workers,
        }
    }

    /// Enables the query log.
    pub fn with_query_log(mut self, log: Arc<QueryLog>) -> Self {
        let log = QueryLogger::new(log);
        (self.udp.log, self.streams.query_logger) = (log.clone(), log);
        self
    }

    /// Enables forwarding: queries that the responder cannot answer alone are completed by upstreams.
    ///
    /// # Errors
    ///
    /// The thread of the forwarder could not be started.
    pub fn with_forwarder(mut self, forwarder: Forwarder) -> Result<Self> {
        let responder = Arc::clone(&self.streams.responder);
        let lane = forwarder.start(
            responder,
            self.udp.metrics(),
            &self.udp.heartbeats,
            &self.shutdown,
            self.streams.limits.drain,
        )?;
        (self.udp.door, self.streams.forward_handle) = (Some(lane.handle()), Some(lane.handle()));
        self.forwarder = Some(lane);
        Ok(self)
    }

    /// Enables hot restart: the sockets of all listeners are registered in `handout`.
    pub fn with_takeover(self, handout: SocketRegistry) -> Self {
        Self { registry: Some(handout), ..self }
    }

    /// Sets the [`Heartbeats`] that watches the workers. Call it before [`Self::with_forwarder`] and [`Self::start`],
    /// which register them.
    pub fn with_heartbeats(mut self, heartbeats: Heartbeats) -> Self {
        self.udp.heartbeats = heartbeats;
        self
    }

    /// Begins to answer. Must run in a Tokio runtime with time and I/O.
    ///
    /// # Errors
    ///
    /// A thread could not be started, or an encrypted address has no certificate. Listeners started before the failure
    /// go on.
    pub fn start(&mut self, listeners: Listeners) -> Result<()> {
        let (bound, certificates) = listeners.into_parts();
        bound.into_iter().try_for_each(|bound| self.start_one(bound, certificates.as_ref()))
    }

    fn start_one(&mut self, mut bound: BoundSockets, certificates: Option<&Certificates>) -> Result<()> {
        bound.fill(self.workers);
        let BoundSockets { listen, udp, tcp, is_shared: kept, release } = bound;
        let stop = self.shutdown.child();
        let registered = self.registry.as_ref().map(|handout| handout.register(&udp, tcp.as_ref())).transpose();
        let registered = registered.with_context(|| format!("cannot keep {listen} ready for another process"))?;
        let handshakes = TlsHandshakes::for_protocol(listen.protocol, certificates)?;
        let shared = Arc::new(self.streams.for_listener(listen, stop.clone()));
        let place = Listener { is_shared: kept, context: shared, registration: registered };
        let mut parts = ListenerTasks::new();
        match tcp {
            Some(tcp) => {
                let listener = acceptor::listener(tcp).with_context(|| bind::cannot_listen(listen, "TCP"))?;
                parts.spawn(async move {
                    acceptor::listen(listener, place, handshakes).await;
                    Ok(())
                });
                if !udp.is_empty() {
                    parts.spawn(self.threads(listen, udp, kept, &stop)?.ended());
                }
            }
            None => quic::start(&mut parts, (udp, release), certificates, place)?,
        }
        self.shutdowns.insert(listen, stop.clone());
        self.listeners.spawn(async move { (listen, all_tasks(parts, listen, &stop).await) });
        Ok(())
    }

    fn threads(
        &self,
        listen: ListenAddress,
        sockets: Vec<UdpSocket>,
        kept: bool,
        stop: &Shutdown,
    ) -> Result<udp::UdpWorkers> {
        let mut threads = udp::UdpWorkers::new(self.udp.clone(), stop.clone(), listen.address, kept);
        for socket in sockets {
            // Ends the threads that were started before the failure.
            threads.start(socket).inspect_err(|_| stop.drain())?;
        }
        Ok(threads)
    }

    /// Answers until shutdown, and applies `changes`. Returns when all queries received before are answered and all
    /// sockets are closed; clients that do not read their responses have [`ConnectionLimits::drain`].
    ///
    /// # Errors
    ///
    /// The threads or tasks of an address ended without being asked to. All others are shut down then.
    pub async fn run(mut self, mut changes: mpsc::UnboundedReceiver<ListenerChange>) -> Result<()> {
        // Shuts the other listeners down however this function ends, also if its future is dropped.
        let _last = DrainOnDrop(self.shutdown.clone());
        let mut memory = pin!(return_memory(Arc::clone(&self.streams.limiter)));
        let mut result = Ok(());
        let mut open = true;
        loop {
            let change = tokio::select! {
                biased;
                never = &mut memory => match never {},
                ended = self.listeners.join_next() => match ended {
                    Some(ended) => {
                        result = result.and(self.ended(ended));
                        continue;
                    }
                    None => break,
                },
                change = changes.recv(), if open => change,
            };
            match change {
                Some(ListenerChange { start, stop }) => {
                    if let Some(listeners) = start
                        && let Err(error) = self.start(listeners)
                    {
                        tracing::error!("{error:#}");
                    }
                    stop.iter().filter_map(|address| self.shutdowns.get(address)).for_each(Shutdown::drain);
                }
                None => open = false,
            }
        }
        let Self { udp, streams, forwarder: lane, .. } = self;
        drop((udp, streams));
        if let Some(lane) = lane {
            lane.ended().await;
        }
        result
    }

    fn ended(&mut self, ended: Result<(ListenAddress, Result<()>), tokio::task::JoinError>) -> Result<()> {
        let result = match ended {
            Ok((listen, result)) => {
                self.shutdowns.remove(&listen);
                result
            }
            Err(error) => Err(error).context("answering failed"),
        };
        if result.is_err() {
            self.shutdown.drain();
        }
        result
    }
}

/// Returns free memory to the system when many connections have ended: at once, and again a little later, when QUIC has
/// dropped the state that it keeps for the last packets of a closed connection (RFC 9000 section 10.2).
async fn return_memory(seats: Arc<ConnectionLimiter>) -> Infallible {
    let mut rounds = 0;
    loop {
        sleep(GIVE_BACK_INTERVAL).await;
        if seats.take_decrease() {
            rounds = GIVE_BACK_ROUNDS;
        }
        if rounds > 0 {
            rounds -= 1;
            sys::trim_heap();
        }
    }
}

/// Tasks of one listen address.
type ListenerTasks = JoinSet<Result<()>>;

/// Completes when all tasks of an address have ended. When one of them ends, the others are shut down too.
async fn all_tasks(mut parts: ListenerTasks, listen: ListenAddress, stop: &Shutdown) -> Result<()> {
    let mut result = Ok(());
    while let Some(ended) = parts.join_next().await {
        if !stop.is_draining() {
            result = Err(anyhow!("stopped answering on {listen}, and so altogether"));
            stop.drain();
        }
        result = result.and(ended.context("answering failed").flatten());
    }
    result
}

impl Listeners {
    /// Answers until shutdown, as [`Server::run`] does and with its errors. Dropping the future signals `stop`.
    pub async fn serve(
        self,
        responder: Arc<Responder>,
        metrics: Arc<Metrics>,
        limits: ConnectionLimits,
        stop: Shutdown,
    ) -> Result<()> {
        let _last = DrainOnDrop(stop.clone());
        let mut server = Server::new(responder, metrics, limits, 1, stop);
        server.start(self)?;
        let (_, none) = mpsc::unbounded_channel();
        server.run(none).await
    }
}
