//! Timeout of a TLS or QUIC handshake, and the metric of those that fail.
//!
//! Not here: the handshakes themselves (`tls.rs`, `quic.rs`).

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use crate::metrics::table;
use crate::serve::guests::End;
use crate::serve::place::Shared;

/// Time limit for handshakes in progress when the server shuts down.
const LAST: Duration = Duration::from_millis(500);

/// Completes a handshake within its time limit. `reason` returns the metric label of a failure.
///
/// # Errors
///
/// The handshake failed or timed out, or the server shuts down: the reason why the connection is closed.
pub(super) async fn in_time<T, E: fmt::Display>(
    handshake: impl Future<Output = Result<T, E>>,
    reason: impl Fn(&E) -> &'static str,
    client: SocketAddr,
    shared: &Shared,
) -> Result<T, End> {
    let fail = |reason, end| {
        let transport = shared.listen.kind.transport();
        shared.metrics.count(&table::HANDSHAKE_FAILURES, &[transport.label(), reason]);
        Err(end)
    };
    let stopping = async {
        shared.stop.wait().await;
        sleep(LAST).await;
    };
    tokio::select! {
        biased;
        shaken = handshake => shaken.or_else(|error| {
            tracing::debug!(%client, "the handshake failed: {error}");
            fail(reason(&error), End::Closed)
        }),
        () = sleep(shared.limits.handshake) => fail("late", End::Slow),
        () = stopping => Err(End::Stopped),
    }
}
