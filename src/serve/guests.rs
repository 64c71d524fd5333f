//! The open connections of one listener: their tasks, the reasons for which they close, and the timeouts at shutdown.
//!
//! Each connection has a task, whatever its transport. Not here: accepting (`tcp.rs`, `encrypted/quic.rs`), and the
//! protocols on a connection (`connection.rs`, `encrypted/`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::place::Shared;
use super::{Phase, forward};
use crate::metrics::{Counters, Event};

/// Idle timeout in the lame-duck phase, so that clients move to another server before the drain.
pub(super) const LEAVING_IDLE: Duration = Duration::from_millis(500);
/// Idle timeout in the drain: time for a query that is on its way.
pub(super) const LAST_WORD: Duration = Duration::from_millis(100);
/// Time that a client has to read the last octets. If a socket is closed with a query unread, the kernel discards
/// responses on their way.
pub(super) const LINGER: Duration = Duration::from_millis(250);
/// Timeout of a connection with forwarded queries, longer than any of them takes.
pub(super) const LATE: Duration = forward::PATIENCE.saturating_mul(2);

/// Reason for which a connection was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
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
pub(super) struct Guests {
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    tasks: JoinSet<End>,
    /// Connections have been woken for the lame-duck phase.
    told_to_leave: bool,
}

impl Guests {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let counters = shared.metrics.worker();
        Self { shared, counters, tasks: JoinSet::new(), told_to_leave: false }
    }

    /// Starts the task of a connection.
    pub(super) fn spawn(&mut self, connection: impl Future<Output = End> + Send + 'static) -> AbortHandle {
        self.tasks.spawn(connection)
    }

    /// Collects ended tasks, and returns once the drain begins. Cancel-safe.
    pub(super) async fn until_stop(&mut self) {
        let Self { shared, counters, tasks, told_to_leave } = self;
        loop {
            tokio::select! {
                biased;
                () = shared.stop.wait() => return,
                () = shared.stop.wait_for(Phase::Leaving), if !*told_to_leave => {
                    *told_to_leave = true;
                    shared.seats.wake_all();
                }
                Some(ended) = tasks.join_next() => count_end(counters, &ended),
            }
        }
    }

    /// Wakes all connections for the drain, and returns its deadline.
    pub(super) fn call_time(&self) -> Instant {
        self.shared.seats.wake_all();
        Instant::now() + self.shared.limits.drain
    }

    /// Waits for all tasks, and aborts those that run at the deadline. Cancel-safe.
    pub(super) async fn see_all_off(&mut self, deadline: Instant) {
        while let Ok(Some(ended)) = timeout_at(deadline, self.tasks.join_next()).await {
            count_end(&self.counters, &ended);
        }
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next().await {
            count_end(&self.counters, &ended);
        }
    }
}

/// Counts the end of a connection's task.
fn count_end(counters: &Counters, ended: &Result<End, JoinError>) {
    counters.count(Event::TcpClosed);
    match ended {
        Ok(End::Idle) => counters.count(Event::TcpIdle),
        Ok(End::Slow) => counters.count(Event::TcpSlow),
        Ok(End::Closed | End::Refused | End::Stopped) => {}
        // Evicted connections are counted by the limiter, panics by the panic hook.
        Err(_) => {}
    }
}
