//! The connections of one address: their parent, how each may end, and how long the last ones have.
//!
//! Each has a task, whatever it is over. Not here: how they come (`tcp.rs`, `encrypted/quic.rs`), and what is said over
//! them (`connection.rs`, `encrypted/`).

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::place::Shared;
use super::{Phase, forward};
use crate::metrics::{Counters, Event};

/// Once we are about to stop, how long a connection stays open after its last reply.
pub(super) const LEAVING_IDLE: Duration = Duration::from_millis(500);
/// When we stop, how long a quiet connection stays open for a query that is on its way.
pub(super) const LAST_WORD: Duration = Duration::from_millis(100);
/// After our last octet, how long the client has to take it. Closed with a query unread, the kernel throws away
/// responses that are on their way.
pub(super) const LINGER: Duration = Duration::from_millis(250);
/// How long a connection is kept, whatever else, that waits for what others say: longer than that takes.
pub(super) const LATE: Duration = forward::PATIENCE.saturating_mul(2);

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The client closed it, or it broke.
    Closed,
    /// The client sent what deserves no response.
    Refused,
    /// Nothing was asked for too long.
    Idle,
    /// The client was too slow in sending a message or in taking responses.
    Slow,
    /// We stop.
    Stopped,
}

/// The parent of one address's connections.
pub(super) struct Guests {
    pub(super) shared: Arc<Shared>,
    pub(super) counters: Arc<Counters>,
    tasks: JoinSet<End>,
    /// They have been told that we are about to stop.
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

    /// Looks after those who are there, and returns once told to stop. May be dropped and called again.
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

    /// Tells all that we stop, and returns by when they have to have ended.
    pub(super) fn call_time(&self) -> Instant {
        self.shared.seats.wake_all();
        Instant::now() + self.shared.limits.drain
    }

    /// Returns when all have ended: by themselves, unless their client keeps them. May be dropped and called again.
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

/// Counts how the task of a connection ended.
fn count_end(counters: &Counters, ended: &Result<End, JoinError>) {
    counters.count(Event::TcpClosed);
    match ended {
        Ok(End::Idle) => counters.count(Event::TcpIdle),
        Ok(End::Slow) => counters.count(Event::TcpSlow),
        Ok(End::Closed | End::Refused | End::Stopped) => {}
        // Closed in favour of another connection, which is counted; a panic is counted by its hook.
        Err(_) => {}
    }
}
