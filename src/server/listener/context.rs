//! The context of a listener, shared by its connections: limits, connection limiter, worker pool, and forwarder.
//!
//! Each acceptor, over TCP or UDP, has a [`Listener`]. Not here: the connections (`listener/tracker.rs`, `stream/connection.rs`,
//! `tls/`, `https/`, `quic/`). Read next: `../stream/worker.rs`, `limiter.rs`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
#[cfg(feature = "quic")]
use std::time::Instant;

use super::limiter::{self, Admission, ConnectionLimiter, ConnectionPermit};
use crate::metrics::{Counters, Event, Metrics};
use crate::server::forward::{ForwardHandle, ForwardRequest, ReplyTo, ResponseQueue};
use crate::server::hot_restart::SocketRegistration;
use crate::server::query_log::QueryLogger;
use crate::server::stream::worker::Desk;
use crate::server::{ConnectionLimits, ListenAddress, Shutdown};
#[cfg(feature = "quic")]
use headless_dns_core::answer::Peer;
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

/// Context of all connections of a listener. All but `listen`, `stop` and `desks` is shared with the other listeners.
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
    #[allow(clippy::vec_box, reason = "a desk moves twice each turn: as a pointer")]
    desks: Mutex<Vec<Box<Desk>>>,
}

impl ListenerContext {
    pub(crate) fn new(
        responder: Arc<Responder>,
        metrics: Arc<Metrics>,
        limits: ConnectionLimits,
        stop: Shutdown,
    ) -> Self {
        let seats = Arc::new(ConnectionLimiter::new(limits, metrics.worker()));
        let listen = ListenAddress::plain(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        let (log, desks) = (QueryLogger::default(), Mutex::default());
        Self {
            listen,
            responder,
            metrics,
            limits,
            stop,
            forward_handle: None,
            limiter: seats,
            query_logger: log,
            desks,
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
            desks: Mutex::default(),
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
            Admission::Admitted(seat) => Some(seat),
            Admission::AdmittedByEviction(seat) => {
                counters.count(Event::TcpOverLimit);
                Some(seat)
            }
            Admission::Refused => {
                counters.count(Event::TcpOverLimit);
                counters.count(Event::TcpClosed);
                None
            }
        }
    }

    /// Forwards a query. Its response will be put into `mailbox`, which is created for the first one.
    #[cold]
    pub(crate) fn forward(
        &self,
        question: ForwardRequest,
        mailbox: &mut Option<Arc<ResponseQueue>>,
    ) -> Result<(), ForwardRequest> {
        let Some(door) = &self.forward_handle else { return Err(question) };
        let mailbox = mailbox.get_or_insert_default();
        mailbox.expect();
        door.try_send(question, ReplyTo::Stream(Arc::clone(mailbox))).inspect_err(|_| mailbox.forget())
    }

    /// Answers one complete message, framed by its length as over TCP.
    #[cfg(feature = "quic")]
    pub(crate) fn answer(&self, peer: Peer, framed: &[u8]) -> Answer {
        let (mut desk, mut mailbox) = (self.acquire_worker(), None);
        desk.input[..framed.len()].copy_from_slice(framed);
        let answered = desk.answer(&self.responder, peer, framed.len(), |pending, logged| {
            self.forward(ForwardRequest { pending, listen: self.listen.address, log_entry: logged }, &mut mailbox)
        });
        let answer = match mailbox {
            _ if answered.written > 0 => Answer::Here(desk.output[..answered.written].to_vec()),
            Some(mailbox) => Answer::Later(mailbox),
            None => Answer::Nothing,
        };
        desk.worker.end_batch(Instant::now());
        self.release_worker(desk);
        answer
    }

    /// Takes a worker for one batch, from the pool or new.
    pub(crate) fn acquire_worker(&self) -> Box<Desk> {
        let free = lock(&self.desks).pop();
        free.unwrap_or_else(|| {
            let transport = self.listen.protocol.transport();
            let counters = self.metrics.worker_at(self.listen.address, transport);
            Box::new(Desk::new(counters, self.query_logger.clone(), transport))
        })
    }

    /// Returns a worker to the pool. One lost in a panic leaves its counts in the metrics.
    pub(crate) fn release_worker(&self, desk: Box<Desk>) {
        lock(&self.desks).push(desk);
    }
}

/// Reply to one message.
#[cfg(feature = "quic")]
pub(crate) enum Answer {
    /// The response, framed by its length.
    Here(Vec<u8>),
    /// The response will be in the queue, framed by its length.
    Later(Arc<ResponseQueue>),
    /// The message gets no response.
    Nothing,
}
