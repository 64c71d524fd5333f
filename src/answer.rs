//! Request and zone in, response out. (Stub: its door only.)

use std::net::SocketAddr;
use std::sync::Arc;

use crate::metrics::Counters;

/// How a message came, and so how large a response may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: at most 1232 octets back.
    Udp,
    /// A stream: at most 65,535 octets back.
    Tcp,
}

/// Where a message came from, and which of our addresses it came to.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client.
    pub from: SocketAddr,
    /// Our own address and port. For a wildcard bind, the address that was asked.
    pub to: SocketAddr,
}

/// What one worker needs for itself: room for a name, a counter that rotates RRsets, its event counters.
pub struct Worker {
    /// Its counters.
    pub counters: Arc<Counters>,
}

impl Worker {
    /// For a thread that begins to work.
    pub fn new(counters: Arc<Counters>) -> Self {
        Self { counters }
    }
}

/// Answers messages, whatever brought them.
#[derive(Default)]
pub struct Responder {}

impl Responder {
    /// Reads the query in `message[..length]` and writes the response over it, from the start of `message`.
    ///
    /// Returns the length of the response in octets, or `None` where the message deserves none: over UDP it is then
    /// dropped, and a TCP connection is closed. Never panics: a panic inside is caught and answered with SERVFAIL.
    /// `message` is at least 1232 octets long for UDP (the whole slot of the datagram), 65,535 for TCP.
    pub fn respond(
        &self,
        _worker: &mut Worker,
        _peer: Peer,
        _transport: Transport,
        message: &mut [u8],
        length: usize,
    ) -> Option<usize> {
        message[2] |= 0x80;
        Some(length)
    }
}
