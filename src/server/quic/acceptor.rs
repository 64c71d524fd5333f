//! Acceptor of QUIC connections: admission, address validation, handshakes, and the drain of a listener.
//!
//! Not here: connections after their handshake (`connection.rs`). Read next: `tls/handshake.rs`,
//! `listener/limiter.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{ConnectionError, Endpoint, Incoming, ServerConfig};
use tokio::time::{Instant, timeout};

use super::amplification::AmplificationLimit;
use super::connection::QuicConnection;
use super::error::DOQ_NO_ERROR;
use super::session::OneConnection;
use crate::server::listener::context::ListenerContext;
use crate::server::listener::limiter::ConnectionPermit;
use crate::server::listener::tracker::{CloseReason, ConnectionTracker, LINGER_TIMEOUT};
use crate::server::tls::handshake;

/// Limit of concurrent handshakes with unvalidated addresses. Above it, a client gets a Retry packet (RFC 9000 section
/// 8.1.2), which costs it a round trip, and the server no state.
const MAX_UNVALIDATED_HANDSHAKES: usize = 128;
/// Octets that a handshake counts as buffered: about the maximum that quinn and rustls buffer of incomplete messages,
/// with their datagrams.
const HANDSHAKE_BYTES: usize = 64 << 10;

/// Treatment of connections while the listener drains.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DrainPolicy {
    /// At a hot restart: open connections are closed at once, and new ones are the successor's.
    Close,
    /// Open connections are drained. New ones are ignored: the service manager keeps the socket, and clients that get no
    /// response send their first packet again, to the next process.
    Ignore,
    /// Open connections are drained. New ones are refused, so that clients turn to another server at once.
    Refuse,
}

/// Acceptor of one QUIC listener.
pub(super) struct QuicAcceptor {
    pub(super) tracker: ConnectionTracker,
    config: ServerConfig,
    tls: Arc<QuicServerConfig>,
    limit: AmplificationLimit,
    /// Number of handshakes with unvalidated addresses.
    unvalidated: Arc<AtomicUsize>,
}

impl QuicAcceptor {
    pub(super) fn new(
        context: Arc<ListenerContext>,
        config: ServerConfig,
        tls: Arc<QuicServerConfig>,
        limit: AmplificationLimit,
    ) -> Self {
        Self { tracker: ConnectionTracker::new(context), config, tls, limit, unvalidated: Arc::default() }
    }

    /// Admits a connection and starts its task; or sends a Retry packet, or refuses it.
    pub(super) fn accept(&mut self, incoming: Incoming) {
        let ConnectionTracker { context, counters, .. } = &self.tracker;
        let is_validated = incoming.remote_address_validated();
        let unvalidated = (!is_validated).then(|| UnvalidatedHandshake::begin(&self.unvalidated));
        // An existing connection is evicted only for a client whose address is validated.
        if unvalidated.as_ref().is_some_and(|unvalidated| {
            unvalidated.count > MAX_UNVALIDATED_HANDSHAKES || context.limiter.is_full_for_large()
        }) {
            // Fails only for a validated address.
            return drop(incoming.retry());
        }
        let Some(permit) = context.admit(counters, incoming.remote_address().ip()) else {
            return incoming.refuse();
        };
        let listen = context.listen.address;
        // The destination address, if the socket is bound to a wildcard address.
        let to = SocketAddr::new(incoming.local_ip().unwrap_or(listen.ip()), listen.port());
        let eviction_handle = permit.eviction_handle();
        let address = self.limit.begin(incoming.remote_address(), is_validated);
        let mut config = self.config.clone();
        config.crypto = Arc::new(OneConnection::new(Arc::clone(&self.tls), address));
        let connection = PendingConnection { incoming, config: Arc::new(config), unvalidated, to, permit };
        let connection = connection.run(Arc::clone(context));
        eviction_handle.set(self.tracker.spawn(connection));
    }

    /// Drains the connections, closes those that are left with DOQ_NO_ERROR, and waits until the last packets are sent.
    pub(super) async fn drain(&mut self, endpoint: Endpoint, policy: DrainPolicy) {
        let deadline = if policy == DrainPolicy::Close { Instant::now() } else { self.tracker.begin_drain() };
        loop {
            tokio::select! {
                biased;
                () = self.tracker.drain(deadline) => break,
                Some(incoming) = endpoint.accept() => match policy {
                    DrainPolicy::Close | DrainPolicy::Ignore => incoming.ignore(),
                    DrainPolicy::Refuse => incoming.refuse(),
                },
            }
        }
        endpoint.close(DOQ_NO_ERROR, b"");
        let _ = timeout(LINGER_TIMEOUT, endpoint.wait_idle()).await;
    }
}

/// Count of one handshake with an unvalidated address. Dropping it decrements the counter.
struct UnvalidatedHandshake {
    counter: Arc<AtomicUsize>,
    /// Value of the counter with this one.
    count: usize,
}

impl UnvalidatedHandshake {
    fn begin(counter: &Arc<AtomicUsize>) -> Self {
        let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
        Self { counter: Arc::clone(counter), count }
    }
}

impl Drop for UnvalidatedHandshake {
    fn drop(&mut self) {
        self.counter.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection before its handshake is complete.
struct PendingConnection {
    incoming: Incoming,
    config: Arc<ServerConfig>,
    unvalidated: Option<UnvalidatedHandshake>,
    /// Destination address of the client's packets.
    to: SocketAddr,
    permit: ConnectionPermit,
}

impl PendingConnection {
    /// Completes the handshake, and serves the connection until it is closed.
    async fn run(self, context: Arc<ListenerContext>) -> CloseReason {
        let Self { incoming, config, unvalidated, to, mut permit } = self;
        let client = incoming.remote_address();
        if !permit.set_buffered_bytes(HANDSHAKE_BYTES) {
            incoming.refuse();
            return CloseReason::Slow;
        }
        let handshake = async { incoming.accept_with(config)?.await };
        match handshake::with_timeout(handshake, failure_label, client, &context).await {
            Ok(connection) => {
                // A complete handshake validates the address.
                drop(unvalidated);
                // Fewer octets than before are no reason to close the connection.
                let _ = permit.set_buffered_bytes(0);
                QuicConnection::new(connection, to, permit, context).run().await
            }
            Err(end) => end,
        }
    }
}

/// Returns the metric label of a failed handshake.
fn failure_label(error: &ConnectionError) -> &'static str {
    match error {
        // RFC 9001 section 4.8: a TLS alert; those about certificates are in RFC 8446 section 6.
        ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
            0x12a..=0x12e | 0x130 | 0x133 => "certificate",
            0x100..=0x1ff => "refused",
            _ => "closed",
        },
        ConnectionError::ApplicationClosed(_) | ConnectionError::Reset | ConnectionError::TimedOut => "closed",
        ConnectionError::TransportError(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::CidsExhausted
        | ConnectionError::LocallyClosed => "refused",
    }
}
