//! TCP acceptor: accepts connections, and starts the task of each: its handshake, or the loop that answers.
//!
//! Not here: the protocols on a connection (`stream/connection.rs`, `tls/`, `https/`, `quic/`), and the limits on
//! connections (`listener/limiter.rs`). Read next: `listener/tracker.rs`, `stream/connection.rs`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until};

use super::connection::Connection;
use crate::metrics::Event;
use crate::server::listener::context::Listener;
use crate::server::listener::tracker::ConnectionTracker;
use crate::server::tls::TlsHandshakes;
use headless_dns_core::answer::Peer;

/// Shortest and longest pause after a failed accept.
const ACCEPT_BACKOFF_RANGE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Registers the listening socket with this runtime.
pub(crate) fn listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(listener)
}

/// Accepts connections until the drain begins, and returns when the last of them has ended. `handshakes` starts
/// encrypted ones; `None` for plain TCP.
pub(crate) async fn listen(tcp_listener: TcpListener, listener: Listener, handshakes: Option<TlsHandshakes>) {
    let Listener { is_shared, context, registration } = listener;
    let mut acceptor = Acceptor { tracker: ConnectionTracker::new(context), handshakes };
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            biased;
            () = acceptor.tracker.run_until_shutdown() => break,
            accepted = backoff.then_accept(&tcp_listener) => match accepted {
                Ok((stream, client)) => acceptor.accept(stream, client),
                Err(error) => {
                    backoff.increase();
                    acceptor.count_failure(&error);
                }
            },
        }
    }
    // The registry's copies of the sockets must be closed with this process's own, or the kernel would go on queueing
    // connections.
    drop(registration);
    if !is_shared && !acceptor.tracker.context.stop.is_handed_over() {
        acceptor.accept_backlog(tcp_listener);
    } else {
        // Connections queued in it are for the process that has the socket too.
        drop(tcp_listener);
    }
    let deadline = acceptor.tracker.begin_drain();
    acceptor.tracker.drain(deadline).await;
}

/// Accepts connections on one TCP socket.
struct Acceptor {
    tracker: ConnectionTracker,
    handshakes: Option<TlsHandshakes>,
}

impl Acceptor {
    fn accept(&mut self, stream: TcpStream, client: SocketAddr) {
        let ConnectionTracker { context, counters, .. } = &self.tracker;
        let Some(permit) = context.admit(counters, client.ip()) else { return };
        let mut to = context.listen.address;
        if to.ip().is_unspecified() {
            // The local address that the client connected to. Fails only if the connection has already failed, which
            // the first read reports.
            to = stream.local_addr().unwrap_or(to);
        }
        let (eviction_handle, peer, context) =
            (permit.eviction_handle(), Peer { from: client, to }, Arc::clone(context));
        eviction_handle.set(match &self.handshakes {
            None => self.tracker.spawn(Connection::new(stream, peer, permit, context).run()),
            Some(handshakes) => self.tracker.spawn(handshakes.begin(stream, peer, permit, context)),
        });
    }

    /// Accepts the connections that the kernel has queued. It would reset them when the socket is closed.
    fn accept_backlog(&mut self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        while let Ok((stream, client)) = listener.accept() {
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                self.accept(stream, client);
            }
        }
    }

    fn count_failure(&self, error: &io::Error) {
        let ConnectionTracker { context, counters, .. } = &self.tracker;
        counters.count(Event::TcpAcceptErrors);
        // Running out of file descriptors has the remedy of a full connection limit: eviction.
        if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) && context.limiter.evict() {
            counters.count(Event::TcpOverLimit);
        }
    }
}

/// Back-off after a failed accept, which would most likely fail again at once.
#[derive(Default)]
struct Backoff {
    length: Duration,
    until: Option<Instant>,
}

impl Backoff {
    async fn then_accept(&mut self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        if let Some(until) = self.until {
            sleep_until(until).await;
        }
        let accepted = listener.accept().await?;
        *self = Self::default();
        Ok(accepted)
    }

    fn increase(&mut self) {
        self.length = (self.length * 2).clamp(ACCEPT_BACKOFF_RANGE.0, ACCEPT_BACKOFF_RANGE.1);
        self.until = Some(Instant::now() + self.length);
    }
}
