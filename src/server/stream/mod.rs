//! DNS over streams: the acceptor of TCP connections, the loop of a connection over TCP or TLS, and the worker that
//! answers.
//!
//! Not here: handshakes (`../tls/`), HTTPS and QUIC, which use the same worker. Read next: `acceptor.rs`,
//! `connection.rs`.

pub(super) mod acceptor;
pub(super) mod connection;
pub(super) mod worker;
