//! Encrypted transports: DNS over TLS (RFC 7858), HTTPS (RFC 8484) and QUIC (RFC 9250).
//!
//! ```text
//!   tcp.rs accepts ──▶ tls.rs: the handshake ──┬─▶ ../connection.rs: the same loop as over TCP
//!                                              └─▶ https.rs ──▶ doh.rs
//!   quic/ has a socket and an acceptor of its own
//! ```
//!
//! Encryption begins and ends here: the messages go to the one [`headless_dns_core::answer::Responder`], and the connections count among
//! those over TCP. A transport that is not compiled in is refused with one error, before the server starts. Not here:
//! binding of addresses (`bind.rs`), and limits on connections (`seats.rs`). Read next: `certificates.rs`, `tls.rs`,
//! `https.rs`.

pub mod certificates;
#[cfg(feature = "https")]
pub mod doh;
#[cfg(any(feature = "tls", feature = "quic"))]
mod handshake;
#[cfg(feature = "https")]
mod https;
#[cfg(feature = "https")]
mod link;
#[cfg(feature = "quic")]
mod quic;
#[cfg(feature = "tls")]
mod records;
#[cfg(feature = "tls")]
mod tls;

use std::net::UdpSocket;

#[cfg(feature = "quic")]
use anyhow::Context as _;
use anyhow::Result;
#[cfg(not(feature = "quic"))]
use anyhow::bail;

use super::ListenerTasks;
use super::bind::SocketRelease;
use super::place::Listener;
use certificates::Certificates;

#[cfg(feature = "tls")]
pub(super) use tls::TlsHandshakes;

/// Starts the QUIC listener on the one socket of an address. At a hot restart, the socket is read after `release`.
#[cfg(feature = "quic")]
pub(super) fn start_quic(
    parts: &mut ListenerTasks,
    (sockets, release): (Vec<UdpSocket>, Option<SocketRelease>),
    certificates: Option<&Certificates>,
    place: Listener,
) -> Result<()> {
    let listen = place.context.listen;
    let socket = sockets.into_iter().next().with_context(|| format!("there is no socket for {listen}"))?;
    let certificates = certificates.with_context(|| format!("there is no certificate for {listen}"))?;
    parts.spawn(quic::listen((socket, release), certificates.server_config(&[b"doq"]), place));
    Ok(())
}

/// Checks the content of a QUIC stream. For fuzzing.
#[cfg(feature = "quic")]
pub(super) fn check_quic_stream(octets: &[u8]) -> Result<(), String> {
    quic::check_content(octets).map_err(|error| format!("{error:?}"))
}

/// Refuses to listen: this build has no QUIC.
///
/// # Errors
///
/// Always.
#[cfg(not(feature = "quic"))]
pub(super) fn start_quic(
    _parts: &mut ListenerTasks,
    _sockets: (Vec<UdpSocket>, Option<SocketRelease>),
    _certificates: Option<&Certificates>,
    place: Listener,
) -> Result<()> {
    let Listener { shared, .. } = place;
    bail!("{} cannot be served: this build has no QUIC (cargo feature quic)", shared.listen)
}

/// Acceptor of encrypted connections, which this build does not have.
#[cfg(not(feature = "tls"))]
pub(super) enum Handshakes {}

#[cfg(not(feature = "tls"))]
mod none {
    use anyhow::{Result, ensure};
    use tokio::net::TcpStream;

    use super::{Certificates, TlsHandshakes};
    use crate::serve::ListenProtocol;
    use crate::serve::guests::CloseReason;
    use crate::serve::place::ListenerContext;
    use crate::serve::seats::ConnectionPermit;
    use headless_dns_core::answer::Peer;

    impl TlsHandshakes {
        /// Returns `None` for plain DNS.
        ///
        /// # Errors
        ///
        /// The protocol needs TLS.
        pub(in crate::serve) fn of(kind: Kind, _: Option<&Certificates>) -> Result<Option<Self>> {
            ensure!(matches!(kind, Kind::Plain | Kind::Quic), "this build has no {kind} (cargo feature tls)");
            Ok(None)
        }

        pub(in crate::serve) fn begin(
            &self,
            _: TcpStream,
            _: Peer,
            _: Seat,
            _: std::sync::Arc<Shared>,
        ) -> std::future::Ready<End> {
            match *self {}
        }
    }
}
