//! Limits on the connections of clients: their number, their buffers and their timeouts.
//!
//! Not here: their enforcement (`listener/limiter.rs`, and the loops of connections).

use std::time::Duration;

/// Limits on clients with connections: over TCP, TLS, HTTPS and QUIC (RFC 7766 sections 6.2 and 10, RFC 9210
/// section 4).
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Maximum number of concurrent connections, over all addresses. Above it, the longest idle connection (by the time
    /// of its last query) is closed in favour of the new one. Default: 16,384.
    pub connections: usize,
    /// Maximum number of these over HTTPS and QUIC, which hold many times as much memory as others. Above it, the
    /// longest idle of them is closed in favour of a new one of them. Default: 4,096, a quarter.
    pub large: usize,
    /// Maximum number of concurrent connections per client; above it, a new connection is closed. Default: 1,024.
    pub per_client: usize,
    /// Length in bits, 1 to 128, of the prefix by which clients with global IPv6 addresses are counted, because one
    /// host may have a whole /64 (RFC 4862). Clients to which names are explained ([`Responder::is_explained_to`]) count
    /// by their address: a Kubernetes Node may have one /64 for all its Pods. Default: 64.
    ///
    /// [`Responder::is_explained_to`]: headless_dns_core::answer::Responder::is_explained_to
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
