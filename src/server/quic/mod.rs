//! DNS over QUIC (RFC 9250): one task for each connection, from its handshake until it is closed, and one stream for
//! each query.
//!
//! ```text
//!   listen ──▶ QuicAcceptor ──▶ a task for each connection: handshake ──▶ QuicConnection ──▶ QuicStream, answered at once
//!     │          │ Retry, refusal                                              └──────▶ a task for each stream that waits
//!     │          │                                                                             │
//!     │          │                                    the Responder ◀── stream/worker.rs ◀─────┘
//!     ▼          ▼
//!   quinn: packets, encryption, loss recovery and flow control, over a QuicSocket, its tasks in a TrackedRuntime
//! ```
//!
//! No handshake waits for another, and no stream for another. Connections count among those over TCP, and so do the
//! octets that they buffer. Not here: the answer to a query (`stream/worker.rs`, `core/src/answer/`), the certificate
//! (`tls/certificates.rs`), and the listen addresses. Read next: `acceptor.rs`, `connection.rs`, `stream.rs`.

mod acceptor;
mod amplification;
mod connection;
mod error;
mod runtime;
mod session;
mod socket;
mod stream;

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, ServerConfig, TransportConfig};

use super::listener::bind::SocketRelease;
use super::listener::context::Listener;
use super::listener::tracker::LINGER_TIMEOUT;
use super::stream::worker::MAX_MESSAGE_BYTES;
use super::{ConnectionLimits, ListenerTasks};
use crate::server::tls::certificates::Certificates;
use acceptor::{DrainPolicy, QuicAcceptor};
use amplification::AmplificationLimit;
use runtime::TrackedRuntime;
use socket::QuicSocket;

pub(super) use stream::answer_content;

/// Supported QUIC version (RFC 9000 section 15), and no draft.
const QUIC_VERSION: u32 = 1;
/// Limit of concurrent streams, and so of queries in flight, on a connection.
const MAX_CONCURRENT_STREAMS: u32 = 100;
/// Flow-control window of a stream, in octets: a message of maximum length, and its length field.
const STREAM_WINDOW_BYTES: u32 = 2 + MAX_MESSAGE_BYTES as u32;
/// Flow-control window of a connection, in octets. Small, because data that arrives out of order waits in quinn and is
/// not counted among the buffered octets; all other data is read at once.
const RECEIVE_WINDOW_BYTES: u32 = 32 << 10;
/// Limit of the octets of responses that are sent and not acknowledged on a connection. They count as buffered.
const SEND_WINDOW_BYTES: u64 = 128 << 10;
/// Limit of the octets in CRYPTO frames that arrive out of order: the minimum of RFC 9000 section 7.5.
const CRYPTO_BUFFER_BYTES: usize = 4 << 10;
/// Limit of the connections that wait to be accepted.
const ACCEPT_QUEUE_LEN: usize = 4096;
/// Limit of the octets buffered for one of them.
const EARLY_BYTES: u64 = 16 << 10;
/// Limit of the octets buffered for all of them.
const MAX_EARLY_BYTES: u64 = 1 << 20;

/// Starts the QUIC listener on the one socket of an address. At a hot restart, the socket is read after `release`.
///
/// # Errors
///
/// There is no socket, or no certificate.
pub(super) fn start(
    tasks: &mut ListenerTasks,
    (sockets, release): (Vec<UdpSocket>, Option<SocketRelease>),
    certificates: Option<&Certificates>,
    listener: Listener,
) -> Result<()> {
    let listen = listener.context.listen;
    let socket = sockets.into_iter().next().with_context(|| format!("there is no socket for {listen}"))?;
    let certificates = certificates.with_context(|| format!("there is no certificate for {listen}"))?;
    tasks.spawn(serve((socket, release), certificates.server_config(&[b"doq"]), listener));
    Ok(())
}

/// Serves QUIC on `socket` until shutdown, and then until the last connection is closed. At a hot restart the socket is
/// read after `release`, when the predecessor has stopped reading it; datagrams that arrive before wait in it.
///
/// # Errors
///
/// The TLS configuration cannot be used for QUIC, the endpoint cannot be opened, or the socket failed.
async fn serve(
    (socket, release): (UdpSocket, Option<SocketRelease>),
    tls: Arc<rustls::ServerConfig>,
    listener: Listener,
) -> Result<()> {
    let Listener { is_shared, context, registration } = listener;
    let address = context.listen.address;
    let runtime = Arc::new(TrackedRuntime::default());
    let (config, tls) = server_config(&tls, &context.limits)?;
    let limit = AmplificationLimit::default();
    if let Some(release) = release {
        tokio::select! {
            () = release.wait() => {}
            () = context.stop.wait() => return Ok(()),
        }
    }
    let opened = open(socket, limit.clone(), config.clone(), Arc::clone(&runtime) as Arc<dyn Runtime>);
    let (endpoint, socket) = opened.with_context(|| format!("cannot open the QUIC endpoint {address}"))?;
    let mut acceptor = QuicAcceptor::new(context, config, tls, limit);
    loop {
        tokio::select! {
            biased;
            () = acceptor.tracker.run_until_shutdown() => break,
            _ = runtime.next_end() => {}
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => acceptor.accept(incoming),
                None => return Err(anyhow!("the QUIC socket of {address} failed")),
            },
        }
    }
    let policy = if acceptor.tracker.context.stop.is_handed_over() {
        socket.stop_receiving();
        DrainPolicy::Close
    } else if is_shared {
        DrainPolicy::Ignore
    } else {
        DrainPolicy::Refuse
    };
    // Before the drain: at a hot restart, the successor reads the socket when the last registration is dropped.
    drop(registration);
    acceptor.drain(endpoint, policy).await;
    runtime.abort_all().await;
    Ok(())
}

fn open(
    socket: UdpSocket,
    limit: AmplificationLimit,
    config: ServerConfig,
    runtime: Arc<dyn Runtime>,
) -> io::Result<(Endpoint, Arc<QuicSocket>)> {
    let mut settings = EndpointConfig::default();
    settings.supported_versions(vec![QUIC_VERSION]);
    let socket = Arc::new(QuicSocket::new(runtime.wrap_udp_socket(socket)?, limit));
    let shared_socket = Arc::clone(&socket) as Arc<dyn AsyncUdpSocket>;
    Ok((Endpoint::new_with_abstract_socket(settings, Some(config), shared_socket, runtime)?, socket))
}

/// Returns quinn's configuration with the limits of this module, and the TLS configuration within it.
fn server_config(
    tls: &rustls::ServerConfig,
    limits: &ConnectionLimits,
) -> Result<(ServerConfig, Arc<QuicServerConfig>)> {
    let mut tls = tls.clone();
    // RFC 9250 sections 4.5 and 9.2: no 0-RTT. A third party can replay such data and learn from the server's reaction,
    // and it would save a round trip of few connections only.
    tls.max_early_data_size = 0;
    let crypto = QuicServerConfig::try_from(tls)
        .context("the TLS configuration cannot be used for QUIC, which needs TLS 1.3")?;
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(MAX_CONCURRENT_STREAMS.into())
        // RFC 9250 section 4.3.3: clients open none. quinn closes the connection of one that does.
        .max_concurrent_uni_streams(0_u32.into())
        // Longer than the idle timeout of the connection task, which closes with a code; quinn's sends nothing.
        .max_idle_timeout(limits.idle.saturating_add(LINGER_TIMEOUT).try_into().ok())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(RECEIVE_WINDOW_BYTES.into())
        .send_window(SEND_WINDOW_BYTES)
        .crypto_buffer_size(CRYPTO_BUFFER_BYTES)
        .datagram_receive_buffer_size(None);
    let crypto = Arc::new(crypto);
    let mut config = ServerConfig::with_crypto(Arc::clone(&crypto) as Arc<dyn quinn::crypto::ServerConfig>);
    config
        // RFC 9000 sections 8 and 9.3: path validation would send 1,200 octets to a forged source address for a few, and
        // quinn limits it by whole datagrams.
        .migration(false)
        .transport_config(Arc::new(transport))
        .max_incoming(ACCEPT_QUEUE_LEN)
        .incoming_buffer_size(EARLY_BYTES)
        .incoming_buffer_size_total(MAX_EARLY_BYTES);
    Ok((config, crypto))
}
