//! The phases of a connection and their deadlines. Not here: the number of connections (`listen.rs`).

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use headless_dns_core::lock::lock;

/// Limits of the admin listener's clients.
#[derive(Clone, Copy, Debug)]
pub struct AdminLimits {
    /// Number of concurrent connections. Beyond it the connection that has waited longest is evicted. Default: 64.
    pub connections: usize,
    /// Deadline of a request's head, from its first octet to its last. Default: 5 s.
    pub head: Duration,
    /// Deadline of a response, from the end of the request's head to the last octet; of a streamed response, of each
    /// part. Default: 30 s.
    pub request: Duration,
    /// Timeout of an idle connection. Default: 75 s, which is longer than usual scrape intervals.
    pub idle: Duration,
}

impl Default for AdminLimits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connections: 64, head: seconds(5), request: seconds(30), idle: seconds(75) }
    }
}

/// The phase of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestPhase {
    /// Idle: no octet of a request has arrived.
    Idle,
    /// The head of a request is incomplete.
    Head,
    /// The response is not sent yet.
    Request,
}

/// The phase of one connection, with the time of its beginning.
#[derive(Debug)]
pub(super) struct PhaseTimer {
    at: Mutex<(RequestPhase, Instant)>,
    changed: Notify,
    limits: AdminLimits,
}

impl PhaseTimer {
    pub(super) fn new(limits: AdminLimits) -> Self {
        Self { at: Mutex::new((RequestPhase::Idle, Instant::now())), changed: Notify::new(), limits }
    }

    /// Begins a phase.
    pub(super) fn enter_phase(&self, at: RequestPhase) {
        *lock(&self.at) = (at, Instant::now());
        self.changed.notify_one();
    }

    pub(super) fn current(&self) -> (RequestPhase, Instant) {
        *lock(&self.at)
    }

    /// Waits until the present phase exceeds its deadline.
    pub(super) async fn expired(&self) {
        loop {
            let (at, since) = self.current();
            let limit = match at {
                RequestPhase::Idle => self.limits.idle,
                RequestPhase::Head => self.limits.head,
                RequestPhase::Request => self.limits.request,
            };
            tokio::select! {
                () = sleep_until(since + limit) => return,
                () = self.changed.notified() => {}
            }
        }
    }
}
