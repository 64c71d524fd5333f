//! TCP acceptor: accepts connections, and starts the task of each: its handshake, or the loop that answers.
//!
//! Not here: the protocols on a connection (`connection.rs`, `encrypted/`), and the limits on connections (`seats.rs`).
//! Read next: `guests.rs`, `connection.rs`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use super::encrypted::Handshakes;
use super::guests::Guests;
use super::place::Place;
use crate::answer::Peer;
use crate::metrics::Event;

/// Shortest and longest pause after a failed accept.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Registers the listening socket with this runtime.
pub(super) fn listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener)
}

/// Accepts connections until the drain begins, and returns when the last of them has ended. `handshakes` starts
/// encrypted ones; `None` for plain TCP.
pub(super) async fn listen(listener: TcpListener, place: Place, handshakes: Option<Handshakes>) {
    let Place { kept, shared, registered } = place;
    let mut host = Host { guests: Guests::new(shared), handshakes };
    let mut pause = Pause::default();
    loop {
        tokio::select! {
            biased;
            () = host.guests.until_stop() => break,
            accepted = pause.then_accept(&listener) => match accepted {
                Ok((stream, client)) => host.welcome(stream, client),
                Err(error) => {
                    pause.lengthen();
                    host.count_failure(&error);
                }
            },
        }
    }
    // The registry's copies of the sockets must be closed with this process's own, or the kernel would go on queueing
    // connections.
    drop(registered);
    if !kept && !host.guests.shared.stop.is_handed_over() {
        host.welcome_the_last(listener);
    } else {
        // Connections queued in it are for the process that has the socket too.
        drop(listener);
    }
    let deadline = host.guests.call_time();
    host.guests.see_all_off(deadline).await;
}

/// Accepts connections on one TCP socket.
struct Host {
    guests: Guests,
    handshakes: Option<Handshakes>,
}

impl Host {
    fn welcome(&mut self, stream: TcpStream, client: SocketAddr) {
        let Guests { shared, counters, .. } = &self.guests;
        let Some(seat) = shared.admit(counters, client.ip()) else { return };
        let mut to = shared.listen.address;
        if to.ip().is_unspecified() {
            // The local address that the client connected to. Fails only if the connection has already failed, which
            // the first read reports.
            to = stream.local_addr().unwrap_or(to);
        }
        let (closer, peer, shared) = (seat.closer(), Peer { from: client, to }, Arc::clone(shared));
        closer.set(match &self.handshakes {
            None => self.guests.spawn(Connection::new(stream, peer, seat, shared).run()),
            Some(handshakes) => self.guests.spawn(handshakes.begin(stream, peer, seat, shared)),
        });
    }

    /// Accepts the connections that the kernel has queued. It would reset them when the socket is closed.
    fn welcome_the_last(&mut self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok((stream, client)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.welcome(stream, client);
            }
        }
    }

    fn count_failure(&self, error: &io::Error) {
        let Guests { shared, counters, .. } = &self.guests;
        counters.count(Event::TcpAcceptErrors);
        // Running out of file descriptors has the remedy of a full connection limit: eviction.
        if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && shared.seats.evict() {
            counters.count(Event::TcpOverLimit);
        }
    }
}

/// Back-off after a failed accept, which would most likely fail again at once.
#[derive(Default)]
struct Pause {
    length: Duration,
    until: Option<Instant>,
}

impl Pause {
    async fn then_accept(&mut self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        if let Some(until) = self.until {
            sleep_until(until).await;
        }
        let accepted = listener.accept().await?;
        *self = Self::default();
        Ok(accepted)
    }

    fn lengthen(&mut self) {
        self.length = (self.length * 2).clamp(PAUSES.0, PAUSES.1);
        self.until = Some(Instant::now() + self.length);
    }
}
