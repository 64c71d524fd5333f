//! TCP: accepts connections, and hands each to what is spoken there: to its handshake, or to the loop that answers.
//!
//! Not here: what happens on a connection (`connection.rs`, `encrypted/`), and how many there may be (`seats.rs`). Read
//! next: `guests.rs`, `connection.rs`.

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

/// The shortest and longest pause after a failed accept.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// The listening socket, in this runtime.
pub(super) fn listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener)
}

/// Accepts connections until told to stop, and then until the last of them has ended. `handshakes` is what they begin
/// with; `None` where they are plain.
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
    // Its copies of the sockets are closed with ours.
    drop(registered);
    if !kept && !host.guests.shared.stop.is_handed_over() {
        host.welcome_the_last(listener);
    } else {
        // Who waits in it is for the others who have it.
        drop(listener);
    }
    let deadline = host.guests.call_time();
    host.guests.see_all_off(deadline).await;
}

/// Who takes them.
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
            // Which of ours was asked. Fails only where the connection has already failed, which its first read tells.
            to = stream.local_addr().unwrap_or(to);
        }
        let (closer, peer, shared) = (seat.closer(), Peer { from: client, to }, Arc::clone(shared));
        closer.set(match &self.handshakes {
            None => self.guests.spawn(Connection::new(stream, peer, seat, shared).run()),
            Some(handshakes) => self.guests.spawn(handshakes.begin(stream, peer, seat, shared)),
        });
    }

    /// Those who had connected before we stopped listening. The kernel resets connections that nobody accepted.
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
        // Out of file descriptors is a limit like ours on connections, and so is the remedy.
        if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && shared.seats.evict() {
            counters.count(Event::TcpOverLimit);
        }
    }
}

/// After a failure to accept, the same would most likely happen at once again, and again.
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
