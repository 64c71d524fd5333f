//! What all that serves one address has in common: its limits, its seats, its desks, and who is asked.
//!
//! Whoever takes connections, over TCP or over UDP, has a [`Place`] to take them for. Not here: the connections themselves
//! (`guests.rs`, `connection.rs`, `encrypted/`). Read next: `desk.rs`, `seats.rs`.

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

/// One address that is listened on.
pub(super) struct Place {
    /// Somebody keeps the socket, and what waits in it.
    pub(super) kept: bool,
    pub(super) shared: Arc<Shared>,
    /// As long as it lives, another process can have the sockets.
    pub(super) registered: Option<Registered>,
}

/// What all connections of an address share; all but `listen`, `stop` and `desks` with those of the other addresses.
pub(super) struct Shared {
    /// What is listened on; figures are told apart by it.
    pub(super) listen: ListenAddress,
    pub(super) responder: Arc<Responder>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) limits: Limits,
    pub(super) stop: Stop,
    /// Where questions for others are handed over.
    pub(super) door: Option<Door>,
    pub(super) seats: Arc<Seats>,
    pub(super) log: QueryLogger,
    /// Desks that nobody works at. There are as many in all as threads ever worked at one time.
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

    /// The same for one address, which can be told to stop alone.
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

    /// A seat for a connection that was accepted; none where its client has too many. Both are counted.
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

    /// Hands a question over; what comes of it will be in the mailbox, which is made for the first.
    #[cold]
    pub(super) fn hand_over(&self, question: Question, mailbox: &mut Option<Arc<Mailbox>>) -> Result<(), Question> {
        let Some(door) = &self.door else { return Err(question) };
        let mailbox = mailbox.get_or_insert_default();
        mailbox.expect();
        door.hand(question, Way::Stream(Arc::clone(mailbox))).inspect_err(|_| mailbox.forget())
    }

    /// Answers one message that came whole, behind its length, as it would come over TCP.
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

    /// A desk for the length of one turn.
    pub(super) fn take_desk(&self) -> Box<Desk> {
        let free = self.desks.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| {
            let transport = self.listen.kind.transport();
            let counters = self.metrics.worker_at(self.listen.address, transport);
            Box::new(Desk::new(counters, self.log.clone(), transport))
        })
    }

    /// One that a panic kept from being given back is not missed: its counters are in the metrics.
    pub(super) fn give_back(&self, desk: Box<Desk>) {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner).push(desk);
    }
}

/// What becomes of one message.
#[cfg(feature = "quic")]
pub(super) enum Answer {
    /// The response, behind its length.
    Here(Vec<u8>),
    /// The same will be in the mailbox.
    Later(Arc<Mailbox>),
    /// It deserves none.
    Nothing,
}
