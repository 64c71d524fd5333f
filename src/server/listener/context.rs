//! The context of a listener, shared by its connections: limits, connection limiter, worker pool, and forwarder.
//!
//! Each acceptor, over TCP or UDP, has a [`Listener`]. Not here: the connections (`listener/tracker.rs`,
//! `stream/connection.rs`, `tls/`, `https/`, `quic/`). Read next: `../stream/worker.rs`, `limiter.rs`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use super::limiter::{self, Admission, ConnectionLimiter, ConnectionPermit};
use crate::metrics::{Counters, Event, Metrics};
use crate::server::forward::ForwardHandle;
use crate::server::hot_restart::SocketRegistration;
use crate::server::query_log::QueryLogger;
use crate::server::stream::worker::BufferedWorker;
use crate::server::{ConnectionLimits, ListenAddress, Shutdown};
use headless_dns_core::answer::Responder;
use headless_dns_core::lock::lock;

/// A listener: one address with its protocol.
pub(crate) struct Listener {
    /// Another process has the socket too, and gets the connections queued in it.
    pub(crate) is_shared: bool,
    pub(crate) context: Arc<ListenerContext>,
    /// Registration for a hot restart: while it lives, another process can get the sockets.
    pub(crate) registration: Option<SocketRegistration>,
}

/// Context of all connections of a listener. All but `listen`, `stop` and `idle_workers` is shared with the other listeners.
pub(crate) struct ListenerContext {
    /// The listen address, by which metrics are labelled.
    pub(crate) listen: ListenAddress,
    pub(crate) responder: Arc<Responder>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: ConnectionLimits,
    pub(crate) stop: Shutdown,
    /// Queue of the forwarder.
    pub(crate) forward_handle: Option<ForwardHandle>,
    pub(crate) limiter: Arc<ConnectionLimiter>,
    pub(crate) query_logger: QueryLogger,
    /// Idle workers. In all, there are as many as threads ever answered at one time.
    #[allow(clippy::vec_box, reason = "a worker moves twice for each batch: as a pointer")]
    idle_workers: Mutex<Vec<Box<BufferedWorker>>>,
}

impl ListenerContext {
    pub(crate) fn new(
        responder: Arc<Responder>,
        metrics: Arc<Metrics>,
        limits: ConnectionLimits,
        stop: Shutdown,
    ) -> Self {
        let limiter = Arc::new(ConnectionLimiter::new(limits, metrics.worker()));
        let listen = ListenAddress::plain(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        Self {
            listen,
            responder,
            metrics,
            limits,
            stop,
            forward_handle: None,
            limiter,
            query_logger: QueryLogger::default(),
            idle_workers: Mutex::default(),
        }
    }

    /// Returns the context of one listener, which can be shut down alone.
    pub(crate) fn for_listener(&self, listen: ListenAddress, stop: Shutdown) -> Self {
        Self {
            listen,
            responder: Arc::clone(&self.responder),
            metrics: Arc::clone(&self.metrics),
            limits: self.limits,
            stop,
            forward_handle: self.forward_handle.clone(),
            limiter: Arc::clone(&self.limiter),
            query_logger: self.query_logger.clone(),
            idle_workers: Mutex::default(),
        }
    }

    /// Admits an accepted connection; `None` if the client has too many. Counts either.
    pub(crate) fn admit(&self, counters: &Counters, client: IpAddr) -> Option<ConnectionPermit> {
        counters.count(Event::TcpAccepted);
        let client = client.to_canonical();
        let client = match client {
            IpAddr::V6(address) if !self.responder.is_explained_to(client) => {
                limiter::client_network(address, self.limits.client_prefix_v6)
            }
            _ => client,
        };
        match self.limiter.admit(client, self.listen.protocol.is_large()) {
            Admission::Admitted(permit) => Some(permit),
            Admission::AdmittedByEviction(permit) => {
                counters.count(Event::TcpOverLimit);
                Some(permit)
            }
            Admission::Refused => {
                counters.count(Event::TcpOverLimit);
                counters.count(Event::TcpClosed);
                None
            }
        }
    }

    /// Takes a worker for one batch, from the pool or new.
    pub(crate) fn acquire_worker(&self) -> Box<BufferedWorker> {
        let idle = lock(&self.idle_workers).pop();
        idle.unwrap_or_else(|| {
            Box::new(BufferedWorker::new(
                self.listen,
                Arc::clone(&self.responder),
                self.forward_handle.clone(),
                self.metrics.worker_at(self.listen.address, self.listen.protocol.transport()),
                self.query_logger.clone(),
            ))
        })
    }

    /// Returns a worker to the pool. One lost in a panic leaves its counts in the metrics.
    pub(crate) fn release_worker(&self, worker: Box<BufferedWorker>) {
        lock(&self.idle_workers).push(worker);
    }
}
