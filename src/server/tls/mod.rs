//! DNS over TLS (RFC 7858): the server's certificate, and the handshake that TLS, HTTPS and QUIC begin with.
//!
//! After the handshake, TLS connections run the loop of TCP (`../stream/connection.rs`), HTTPS its own (`../https/`). A
//! transport that is not compiled in is refused with one error, before the server starts. Not here: QUIC connections
//! (`../quic/`). Read next: `certificates.rs`, `acceptor.rs`.

#[cfg(feature = "tls")]
mod acceptor;
pub mod certificates;
#[cfg(any(feature = "tls", feature = "quic"))]
pub(super) mod handshake;
#[cfg(feature = "tls")]
mod record_stream;

#[cfg(feature = "tls")]
pub(crate) use acceptor::TlsHandshakes;
#[cfg(not(feature = "tls"))]
pub(crate) use disabled::NoTls as TlsHandshakes;

#[cfg(not(feature = "tls"))]
mod disabled {
    use anyhow::{Result, ensure};
    use tokio::net::TcpStream;

    use super::certificates::Certificates;
    use crate::server::ListenProtocol;
    use crate::server::listener::context::ListenerContext;
    use crate::server::listener::limiter::ConnectionPermit;
    use crate::server::listener::tracker::CloseReason;
    use headless_dns_core::answer::Peer;

    /// Acceptor of encrypted connections in a build without them: never constructed.
    pub(crate) enum NoTls {}

    impl NoTls {
        /// Returns `None` for plain DNS.
        ///
        /// # Errors
        ///
        /// The protocol needs TLS.
        pub(crate) fn for_protocol(protocol: ListenProtocol, _: Option<&Certificates>) -> Result<Option<Self>> {
            ensure!(
                matches!(protocol, ListenProtocol::Plain | ListenProtocol::Quic),
                "this build has no {protocol} (cargo feature tls)"
            );
            Ok(None)
        }

        pub(crate) fn begin(
            &self,
            _: TcpStream,
            _: Peer,
            _: ConnectionPermit,
            _: std::sync::Arc<ListenerContext>,
        ) -> std::future::Ready<CloseReason> {
            match *self {}
        }
    }
}
