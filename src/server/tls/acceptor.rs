//! TLS over a TCP connection: the handshake, then DNS over TLS (RFC 7858) or HTTPS.
//!
//! The handshake runs in the connection's own task, after the connection was admitted, and is limited in time and
//! octets: a slow one delays no other. Its memory is freed when it is complete; then DNS over TLS is the loop of
//! `stream/connection.rs`. Not here: the certificate (`tls/certificates.rs`), and HTTP (`https/`). Read next:
//! `tls/record_stream.rs`.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, bail};
use rustls::{AlertDescription, Error};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::{Accept, TlsStream};

use super::certificates::Certificates;
use super::handshake;
use super::record_stream::{HandshakeTooLarge, TlsRecordStream};
use crate::server::ListenProtocol;
use crate::server::listener::context::ListenerContext;
use crate::server::listener::limiter::ConnectionPermit;
use crate::server::listener::tracker::CloseReason;
use crate::server::stream::connection::{Connection, Stream};
use headless_dns_core::answer::Peer;

/// Limit of the octets that TLS buffers for writing on one connection: a record of the largest size.
const MAX_RECORD_BYTES: usize = 16 << 10;

/// A TLS connection after its handshake.
struct TlsSession(TlsStream<TlsRecordStream>);

impl Stream for TlsSession {
    const HOLDS: usize = MAX_RECORD_BYTES;
    // RFC 7858 section 3.4 and RFC 8446 section 6.1: close_notify.
    const SAYS_ITS_END: bool = true;

    fn partial(&self) -> Option<(Instant, usize)> {
        let under = self.0.get_ref().0;
        under.begun().map(|since| (since, under.held()))
    }
}

impl AsyncRead for TlsSession {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = room.filled().len();
        let read = Pin::new(&mut self.0).poll_read(context, room);
        let records = self.0.get_mut().0;
        if room.filled().len() > before {
            records.note_data();
        } else if records.is_too_large() {
            return Poll::Ready(Err(io::Error::other(HandshakeTooLarge)));
        }
        read
    }
}

forward_async_write!(TlsSession, 0);

/// TLS acceptor of one listener.
pub(crate) struct TlsHandshakes {
    acceptor: TlsAcceptor,
    kind: ListenProtocol,
}

/// Future that runs a connection after its handshake, until it is closed.
type ConnectionFuture = Pin<Box<dyn Future<Output = CloseReason> + Send>>;

impl TlsHandshakes {
    /// Creates the acceptor of a protocol; `None` for protocols without TLS over TCP.
    ///
    /// # Errors
    ///
    /// There is no certificate, or this build lacks the protocol.
    pub(crate) fn for_protocol(kind: ListenProtocol, certificates: Option<&Certificates>) -> Result<Option<Self>> {
        let protocol: &[u8] = match kind {
            ListenProtocol::Plain | ListenProtocol::Quic => return Ok(None),
            ListenProtocol::Tls => b"dot",
            ListenProtocol::Https if cfg!(feature = "https") => b"h2",
            ListenProtocol::Https => bail!("this build has no HTTPS (cargo feature https)"),
        };
        let certificates = certificates.with_context(|| format!("there is no certificate for {kind}"))?;
        Ok(Some(Self { acceptor: certificates.server_config(&[protocol]).into(), kind }))
    }

    /// Runs a connection from its handshake until it is closed.
    pub(crate) fn begin(
        &self,
        stream: TcpStream,
        peer: Peer,
        seat: ConnectionPermit,
        shared: Arc<ListenerContext>,
    ) -> impl Future<Output = CloseReason> + Send + use<> {
        let accept = self
            .acceptor
            .accept_with(TlsRecordStream::new(stream), |session| session.set_buffer_limit(Some(MAX_RECORD_BYTES)));
        // Both futures are boxed: a task keeps the size of its largest state, and idle connections would keep the
        // handshake's.
        let beginning = Box::pin(handshake(accept, self.kind, peer, seat, shared));
        async move {
            match beginning.await {
                Ok(conversation) => conversation.await,
                Err(end) => end,
            }
        }
    }
}

async fn handshake(
    mut accept: Accept<TlsRecordStream>,
    kind: ListenProtocol,
    peer: Peer,
    mut seat: ConnectionPermit,
    shared: Arc<ListenerContext>,
) -> Result<ConnectionFuture, CloseReason> {
    let handshake = poll_fn(|context| poll_handshake(&mut accept, &mut seat, context));
    let mut stream = handshake::with_timeout(handshake, failure_label, peer.from, &shared).await?;
    stream.get_mut().0.complete_handshake();
    let stream = TlsSession(stream);
    Ok(match kind {
        #[cfg(feature = "https")]
        ListenProtocol::Https => Box::pin(crate::server::https::serve(stream, peer, seat, shared)),
        _ => Box::pin(Connection::new(stream, peer, seat, shared).run()),
    })
}

/// Polls a handshake, and accounts for the octets that TLS buffers meanwhile.
fn poll_handshake(
    accept: &mut Accept<TlsRecordStream>,
    seat: &mut ConnectionPermit,
    context: &mut Context<'_>,
) -> Poll<io::Result<TlsStream<TlsRecordStream>>> {
    if let Some(records) = accept.get_mut() {
        records.begin_turn();
    }
    let shaken = Pin::new(&mut *accept).poll(context);
    let held = if shaken.is_pending() { accept.get_ref().map_or(0, TlsRecordStream::held) } else { 0 };
    if seat.set_buffered_bytes(held) { shaken } else { Poll::Ready(Err(io::Error::other(HandshakeOverBudget))) }
}

/// Error of a handshake that is closed because too many octets are buffered for slow clients.
#[derive(Debug)]
struct HandshakeOverBudget;

impl fmt::Display for HandshakeOverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too much is held for slow clients")
    }
}

impl std::error::Error for HandshakeOverBudget {}

fn is_own<E: std::error::Error + 'static>(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<E>)
}

/// Returns the metric label of a failed handshake.
fn failure_label(error: &io::Error) -> &'static str {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            // The client trusts an authority of this name with another key.
            | AlertDescription::DecryptError,
        )) => "certificate",
        // knot and other clients send only this alert when they reject the certificate.
        Some(Error::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled)) => "closed",
        Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. }) => "no_tls",
        Some(_) => "refused",
        None if is_own::<HandshakeTooLarge>(error) => "too_large",
        None if is_own::<HandshakeOverBudget>(error) => "over_budget",
        // Port scans and TCP health checks end like this too.
        None if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => "closed",
        None => "refused",
    }
}
