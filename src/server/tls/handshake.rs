//! Timeout of a TLS or QUIC handshake, and the metric of those that fail.
//!
//! Not here: the handshakes themselves (`tls/acceptor.rs`, `quic/acceptor.rs`).

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use crate::metrics::table;
use crate::server::listener::context::ListenerContext;
use crate::server::listener::tracker::CloseReason;

/// Time limit for handshakes in progress when the server shuts down.
const DRAIN_HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(500);

/// Completes a handshake within its time limit. `reason` returns the metric label of a failure.
///
/// # Errors
///
/// The handshake failed or timed out, or the server shuts down: the reason why the connection is closed.
pub(crate) async fn with_timeout<T, E: fmt::Display>(
    handshake: impl Future<Output = Result<T, E>>,
    reason: impl Fn(&E) -> &'static str,
    client: SocketAddr,
    context: &ListenerContext,
) -> Result<T, CloseReason> {
    let fail = |reason, end| {
        let transport = context.listen.protocol.transport();
        context.metrics.count(&table::HANDSHAKE_FAILURES, &[transport.label(), reason]);
        Err(end)
    };
    let stopping = async {
        context.stop.wait().await;
        sleep(DRAIN_HANDSHAKE_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        shaken = handshake => shaken.or_else(|error| {
            tracing::debug!(%client, "the handshake failed: {error}");
            fail(reason(&error), CloseReason::Closed)
        }),
        () = sleep(context.limits.handshake) => fail("late", CloseReason::Slow),
        () = stopping => Err(CloseReason::Stopped),
    }
}
