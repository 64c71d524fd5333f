//! The open connections of one listener: their tasks, the reasons for which they close, and the timeouts at shutdown.
//!
//! Each connection has a task, whatever its transport. Not here: accepting (`stream/acceptor.rs`, `quic/acceptor.rs`),
//! and the protocols on a connection (`stream/connection.rs`, `tls/`, `https/`, `quic/`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::context::ListenerContext;
use crate::metrics::{Counters, Event};
use crate::server::{Phase, forward};

/// Idle timeout in the lame-duck phase, so that clients move to another server before the drain.
pub(crate) const LAME_DUCK_IDLE_TIMEOUT: Duration = Duration::from_millis(500);
/// Idle timeout in the drain: time for a query that is on its way.
pub(crate) const DRAIN_IDLE_TIMEOUT: Duration = Duration::from_millis(100);
/// Time that a client has to read the last octets. If a socket is closed with a query unread, the kernel discards
/// responses on their way.
pub(crate) const LINGER_TIMEOUT: Duration = Duration::from_millis(250);
/// Timeout of a connection with forwarded queries, longer than any of them takes.
pub(crate) const FORWARD_IDLE_TIMEOUT: Duration = forward::FORWARD_TIMEOUT.saturating_mul(2);

/// Reason for which a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The client closed the connection, or it failed.
    Closed,
    /// The client sent a message that gets no response.
    Refused,
    /// The idle timeout passed.
    Idle,
    /// The client was too slow in sending a message or in reading responses.
    Slow,
    /// The server shuts down.
    Stopped,
}

/// The tasks of one listener's connections.
pub(crate) struct ConnectionTracker {
    pub(crate) context: Arc<ListenerContext>,
    pub(crate) counters: Arc<Counters>,
    tasks: JoinSet<CloseReason>,
    /// The lame-duck phase has begun, and connections have been woken for it.
    is_lame_duck: bool,
}

impl ConnectionTracker {
    pub(crate) fn new(context: Arc<ListenerContext>) -> Self {
        let counters = context.metrics.worker();
        Self { context, counters, tasks: JoinSet::new(), is_lame_duck: false }
    }

    /// Starts the task of a connection.
    pub(crate) fn spawn(&mut self, connection: impl Future<Output = CloseReason> + Send + 'static) -> AbortHandle {
        self.tasks.spawn(connection)
    }

    /// Collects ended tasks, and returns once the drain begins. Cancel-safe.
    pub(crate) async fn run_until_shutdown(&mut self) {
        let Self { context, counters, tasks, is_lame_duck } = self;
        loop {
            tokio::select! {
                biased;
                () = context.stop.wait() => return,
                () = context.stop.wait_for(Phase::LameDuck), if !*is_lame_duck => {
                    *is_lame_duck = true;
                    context.limiter.wake_all();
                }
                Some(ended) = tasks.join_next() => count_close(counters, &ended),
            }
        }
    }

    /// Wakes all connections for the drain, and returns its deadline.
    pub(crate) fn begin_drain(&self) -> Instant {
        self.context.limiter.wake_all();
        Instant::now() + self.context.limits.drain
    }

    /// Waits for all tasks, and aborts those that run at the deadline. Cancel-safe.
    pub(crate) async fn drain(&mut self, deadline: Instant) {
        while let Ok(Some(ended)) = timeout_at(deadline, self.tasks.join_next()).await {
            count_close(&self.counters, &ended);
        }
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            count_close(&self.counters, &ended);
        }
    }
}

/// Counts the end of a connection's task.
fn count_close(counters: &Counters, ended: &Result<CloseReason, JoinError>) {
    counters.count(Event::TcpClosed);
    match ended {
        Ok(CloseReason::Idle) => counters.count(Event::TcpIdle),
        Ok(CloseReason::Slow) => counters.count(Event::TcpSlow),
        Ok(CloseReason::Closed | CloseReason::Refused | CloseReason::Stopped) => {}
        // Evicted connections are counted by the limiter, panics by the panic hook.
        Err(_) => {}
    }
}
