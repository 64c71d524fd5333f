//! How long a handshake may take, whatever it is of, and what is counted of one that fails.
//!
//! Not here: what is shaken (`tls.rs`, `quic.rs`).

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use crate::metrics::table;
use crate::serve::guests::End;
use crate::serve::place::Shared;

/// When the server stops, how long a handshake that has begun may still take.
const LAST: Duration = Duration::from_millis(500);

/// Waits for it, as long as it is in time. `reason` says why it failed, in a word.
///
/// # Errors
///
/// How the connection ends: it failed, it came too late, or the server stops.
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
