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
//! the [`Server`] that runs all listeners, and its shutdown ([`Shutdown`]). Elsewhere: parsing and answering (`answer/`),
//! and the choice of listen addresses (`config/`). Read next: `listener/bind.rs`, `udp/mod.rs`.

pub mod forward;
#[doc(hidden)]
pub mod fuzzing;
pub mod heartbeats;
pub mod hot_restart;
#[cfg(feature = "https")]
pub mod https;
mod listener;
mod query_log;
#[cfg(feature = "quic")]
mod quic;
#[cfg(not(feature = "quic"))]
#[path = "quic/disabled.rs"]
mod quic;
mod stream;
mod sys;
pub mod tls;
mod udp;

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::metrics::Metrics;
use headless_dns_core::answer::{Responder, Transport};

pub use listener::bind::{InheritedSockets, Listeners};
pub use query_log::{LogWriter, QueryLog, QueryLogFilter, QueryLogFormat};
pub use sys::set_mmap_threshold;

use forward::{Forwarder, ForwarderTask};
use heartbeats::Heartbeats;
use hot_restart::SocketRegistry;
use listener::bind::{self, BoundSockets};
use listener::context::{Listener, ListenerContext};
use listener::limiter::ConnectionLimiter;
use query_log::QueryLogger;
use stream::acceptor;
use tls::TlsHandshakes;
use tls::certificates::Certificates;

/// Interval between checks for a large decrease in the number of connections.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(2);
/// Number of times that free memory is returned to the system after such a decrease.
const GIVE_BACK_ROUNDS: usize = 3;

/// Protocol of a listen address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListenProtocol {
    /// DNS over UDP and TCP.
    Plain,
    /// DNS over TLS (RFC 7858).
    Tls,
    /// DNS over HTTPS (RFC 8484).
    Https,
    /// DNS over QUIC (RFC 9250).
    Quic,
}

impl ListenProtocol {
    fn is_over_tcp(self) -> bool {
        self != Self::Quic
    }

    fn is_over_udp(self) -> bool {
        matches!(self, Self::Plain | Self::Quic)
    }

    /// Returns whether a connection holds large buffers even when idle: those of HTTP/2 or QUIC.
    fn is_large(self) -> bool {
        matches!(self, Self::Https | Self::Quic)
    }

    /// Returns the transport of messages on the streams of this protocol.
    pub(crate) fn transport(self) -> Transport {
        match self {
            Self::Plain => Transport::Tcp,
            Self::Tls => Transport::Tls,
            Self::Https => Transport::Https,
            Self::Quic => Transport::Quic,
        }
    }
}

impl fmt::Display for ListenProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "UDP and TCP",
            Self::Tls => "TLS",
            Self::Https => "HTTPS",
            Self::Quic => "QUIC",
        })
    }
}

/// A listen address and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress {
    /// Protocol.
    pub protocol: ListenProtocol,
    /// IP address and port.
    pub address: SocketAddr,
}

impl ListenAddress {
    /// Returns a listen address for DNS over UDP and TCP.
    pub fn plain(address: SocketAddr) -> Self {
        Self { protocol: ListenProtocol::Plain, address }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} over {}", self.address, self.protocol)
    }
}

/// Limits on clients with connections: over TCP, TLS, HTTPS and QUIC (RFC 7766 sections 6.2 and 10, RFC 9210 section
/// 4).
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Maximum number of concurrent connections, over all addresses. Above it, the longest idle connection (by the time of
    /// its last query) is closed in favour of the new one. Default: 16,384.
    pub connections: usize,
    /// Maximum number of these over HTTPS and QUIC, which hold many times as much memory as others. Above it, the
    /// longest idle of them is closed in favour of a new one of them. Default: 4,096, a quarter.
    pub large: usize,
    /// Maximum number of concurrent connections per client; above it, a new connection is closed. Default: 1,024.
    pub per_client: usize,
    /// Length in bits, 1 to 128, of the prefix by which clients with global IPv6 addresses are counted, because one
    /// host may have a whole /64 (RFC 4862). Clients to which names are explained ([`Responder::is_explained_to`]) count by
    /// their address: a Kubernetes Node may have one /64 for all its Pods. Default: 64.
    pub client_prefix_v6: u8,
    /// Timeout of the handshake of an encrypted connection. Default: 3 s.
    pub handshake: Duration,
    /// Idle timeout of a connection without queries. Default: 30 s, longer than the timeout after which CoreDNS closes
    /// its own connections to an upstream.
    pub idle: Duration,
    /// Time limit for one message, from its first octet to its last. Default: 3 s.
    pub unfinished: Duration,
    /// Time for which responses wait for a client that does not read. Default: 5 s.
    pub unread: Duration,
    /// Maximum number of octets buffered for all clients that are slow in sending, in reading or in their handshakes,
    /// without the first 1,024 of each connection. Above it, the longest idle of these connections are closed. Default:
    /// 64 MiB.
    pub buffered_bytes: usize,
    /// Time limit at shutdown for requests in flight, including those that wait for an upstream. Default: 5 s.
    pub drain: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            large: 4_096,
            per_client: 1_024,
            client_prefix_v6: 64,
            handshake: Duration::from_secs(3),
            idle: Duration::from_secs(30),
            unfinished: Duration::from_secs(3),
            unread: Duration::from_secs(5),
            buffered_bytes: 64 << 20,
            drain: Duration::from_secs(5),
        }
    }
}

/// Shutdown signal for threads and tasks, with three phases. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    own: Arc<ShutdownState>,
    /// State of the parent: its phases hold here too.
    above: Option<Arc<ShutdownState>>,
}

#[derive(Debug, Default)]
struct ShutdownState {
    phase: AtomicU8,
    waiters: Notify,
}

/// Phase of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    /// Lame duck: queries are answered as before, and idle connections are closed.
    Leaving = 1,
    /// Queries received so far are answered; no more are read.
    Draining = 2,
    /// Another process reads the same sockets, and gets all datagrams and connections queued in them.
    HandedOver = 3,
}

impl Shutdown {
    /// Returns a signal that follows this one, and can be signalled alone.
    fn child(&self) -> Self {
        Self { own: Arc::default(), above: Some(Arc::clone(&self.own)) }
    }

    /// Begins the lame-duck phase: queries are answered as before, and idle connections are closed.
    pub fn lame_duck(&self) {
        self.enter(Phase::Leaving);
    }

    /// Begins the drain, for good: queries received so far are answered, then threads and tasks end.
    pub fn drain(&self) {
        self.enter(Phase::Draining);
    }

    /// Begins the end of a hot restart, for good: threads and tasks end, and leave queued datagrams and connections to
    /// the other process that reads the sockets.
    pub fn hand_over(&self) {
        self.enter(Phase::HandedOver);
    }

    fn enter(&self, phase: Phase) {
        self.own.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.own.waiters.notify_waiters();
    }

    /// Returns whether the drain has begun. For threads; two atomic loads.
    pub fn is_draining(&self) -> bool {
        self.is_in(Phase::Draining)
    }

    fn is_lame_duck(&self) -> bool {
        self.is_in(Phase::Leaving)
    }

    fn is_handed_over(&self) -> bool {
        self.is_in(Phase::HandedOver)
    }

    fn is_in(&self, phase: Phase) -> bool {
        let told = |told: &ShutdownState| told.phase.load(Ordering::Acquire) >= phase as u8;
        told(&self.own) || self.above.as_deref().is_some_and(told)
    }

    /// Completes once the drain begins. For tasks.
    pub async fn wait(&self) {
        self.wait_for(Phase::Draining).await;
    }

    async fn wait_for(&self, phase: Phase) {
        loop {
            let mut own = std::pin::pin!(self.own.waiters.notified());
            let mut above = std::pin::pin!(self.above.as_ref().map(|above| above.waiters.notified()));
            // Register before the check, so that no signal between the two is lost.
            own.as_mut().enable();
            if let Some(above) = above.as_mut().as_pin_mut() {
                above.enable();
            }
            if self.is_in(phase) {
                return;
            }
            match above.as_mut().as_pin_mut() {
                Some(above) => tokio::select! { () = own => {}, () = above => {} },
                None => own.await,
            }
        }
    }
}

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
            &self.udp.liveness,
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

    /// Sets the [`Heartbeats`] that watches the workers. Call it before [`Self::with_forwarder`] and [`Self::start`], which
    /// register them.
    pub fn with_liveness(mut self, liveness: Heartbeats) -> Self {
        self.udp.liveness = liveness;
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
        let handshakes = TlsHandshakes::of(listen.protocol, certificates)?;
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

struct DrainOnDrop(Shutdown);

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        self.0.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn child_shutdown_is_independent() {
        let all = Shutdown::default();
        let (one, other) = (all.child(), all.child());
        one.drain();
        one.wait().await;
        assert!(one.is_draining() && !other.is_draining() && !all.is_draining());
        all.lame_duck();
        other.wait_for(Phase::Leaving).await;
        assert!(!other.is_draining());
        let waits = async { other.wait().await };
        let tells = async { all.hand_over() };
        tokio::join!(waits, tells);
        assert!(other.is_handed_over());
    }
}
