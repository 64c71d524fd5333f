//! The context of a listener, shared by its connections: limits, connection limiter, worker pool, and forwarder.
//!
//! Each acceptor, over TCP or UDP, has a [`Place`]. Not here: the connections (`guests.rs`, `connection.rs`,
//! `encrypted/`). Read next: `desk.rs`, `seats.rs`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
#[cfg(feature = "quic")]
use std::time::Instant;

use super::desk::Desk;
use super::forward::{Door, Mailbox, Question, Way};
use super::query_log::QueryLogger;
use super::seats::{self, Admission, Seat, Seats};
use super::takeover::Registered;
use super::{Limits, ListenAddress, Stop};
#[cfg(feature = "quic")]
use crate::answer::Peer;
use crate::answer::Responder;
use crate::metrics::{Counters, Event, Metrics};

/// A listener: one address with its protocol.
pub(super) struct Place {
    /// Another process has the socket too, and gets the connections queued in it.
    pub(super) kept: bool,
    pub(super) shared: Arc<Shared>,
    /// Registration for a hot restart: while it lives, another process can get the sockets.
    pub(super) registered: Option<Registered>,
}

/// Context of all connections of a listener. All but `listen`, `stop` and `desks` is shared with the other listeners.
pub(super) struct Shared {
    /// The listen address, by which metrics are labelled.
    pub(super) listen: ListenAddress,
    pub(super) responder: Arc<Responder>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: Limits,
    pub(super) stop: Stop,
    /// Queue of the forwarder.
    pub(super) door: Option<Door>,
    pub(super) seats: Arc<Seats>,
    pub(super) log: QueryLogger,
    /// Idle workers. In all, there are as many as threads ever answered at one time.
    #[allow(clippy::vec_box, reason = "a desk moves twice each turn: as a pointer")]
    desks: Mutex<Vec<Box<Desk>>>,
}

impl Shared {
    pub(super) fn new(responder: Arc<Responder>, metrics: Arc<Metrics>, limits: Limits, stop: Stop) -> Self {
        let seats = Arc::new(Seats::new(limits, metrics.worker()));
        let listen = ListenAddress::plain(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        let (log, desks) = (QueryLogger::default(), Mutex::default());
        Self { listen, responder, metrics, limits, stop, door: None, seats, log, desks }
    }

    /// Returns the context of one listener, which can be shut down alone.
    pub(super) fn for_place(&self, listen: ListenAddress, stop: Stop) -> Self {
        Self {
            listen,
            responder: Arc::clone(&self.responder),
            metrics: Arc::clone(&self.metrics),
            limits: self.limits,
            stop,
            door: self.door.clone(),
            seats: Arc::clone(&self.seats),
            log: self.log.clone(),
            desks: Mutex::default(),
        }
    }

    /// Admits an accepted connection; `None` if the client has too many. Counts either.
    pub(super) fn admit(&self, counters: &Counters, client: IpAddr) -> Option<Seat> {
        counters.count(Event::TcpAccepted);
        let client = client.to_canonical();
        let client = match client {
            IpAddr::V6(address) if !self.responder.explains_to(client) => {
                seats::client_network(address, self.limits.client_prefix_v6)
            }
            _ => client,
        };
        match self.seats.admit(client, self.listen.kind.is_large()) {
            Admission::Seated(seat) => Some(seat),
            Admission::SeatedForAnother(seat) => {
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
    pub(super) fn hand_over(&self, question: Question, mailbox: &mut Option<Arc<Mailbox>>) -> Result<(), Question> {
        let Some(door) = &self.door else { return Err(question) };
        let mailbox = mailbox.get_or_insert_default();
        mailbox.expect();
        door.hand(question, Way::Stream(Arc::clone(mailbox))).inspect_err(|_| mailbox.forget())
    }

    /// Answers one complete message, framed by its length as over TCP.
    #[cfg(feature = "quic")]
    pub(super) fn answer(&self, peer: Peer, framed: &[u8]) -> Answer {
        let (mut desk, mut mailbox) = (self.take_desk(), None);
        desk.input[..framed.len()].copy_from_slice(framed);
        let answered = desk.answer(&self.responder, peer, framed.len(), |pending, logged| {
            self.hand_over(Question { pending, listen: self.listen.address, logged }, &mut mailbox)
        });
        let answer = match mailbox {
            _ if answered.written > 0 => Answer::Here(desk.output[..answered.written].to_vec()),
            Some(mailbox) => Answer::Later(mailbox),
            None => Answer::Nothing,
        };
        desk.worker.end_batch(Instant::now());
        self.give_back(desk);
        answer
    }

    /// Takes a worker for one batch, from the pool or new.
    pub(super) fn take_desk(&self) -> Box<Desk> {
        let free = self.desks.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| {
            let transport = self.listen.kind.transport();
            let counters = self.metrics.worker_at(self.listen.address, transport);
            Box::new(Desk::new(counters, self.log.clone(), transport))
        })
    }

    /// Returns a worker to the pool. One lost in a panic leaves its counts in the metrics.
    pub(super) fn give_back(&self, desk: Box<Desk>) {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner).push(desk);
    }
}

/// Reply to one message.
#[cfg(feature = "quic")]
pub(super) enum Answer {
    /// The response, framed by its length.
    Here(Vec<u8>),
    /// The response will be in the queue, framed by its length.
    Later(Arc<Mailbox>),
    /// The message gets no response.
    Nothing,
}
