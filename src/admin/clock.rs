//! What a connection is at, and how long that may take. Not here: how many there may be (`listen.rs`).

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. Above it, the one that has waited longest is closed in favour of the new one. Default: 64.
    pub connections: usize,
    /// How long a request's head may take from its first octet to its last. Default: 5 s.
    pub head: Duration,
    /// How long a request may take from the end of its head to the end of its response; of one that is sent in parts,
    /// each part. Default: 30 s.
    pub request: Duration,
    /// How long a connection is kept that asks nothing. Default: 75 s, which is longer than metrics are usually left
    /// unasked.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connections: 64, head: seconds(5), request: seconds(30), idle: seconds(75) }
    }
}

/// What a connection is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// Nothing is asked.
    Nothing,
    /// A request's head has begun.
    Head,
    /// A request is answered.
    Request,
}

/// What one connection is at, and since when.
#[derive(Debug)]
pub(super) struct Clock {
    at: Mutex<(At, Instant)>,
    turned: Notify,
    limits: Limits,
}

impl Clock {
    pub(super) fn new(limits: Limits) -> Self {
        Self { at: Mutex::new((At::Nothing, Instant::now())), turned: Notify::new(), limits }
    }

    /// From now on it is at this.
    pub(super) fn turn(&self, at: At) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = (at, Instant::now());
        self.turned.notify_one();
    }

    pub(super) fn now_at(&self) -> (At, Instant) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once it takes longer than it may.
    pub(super) async fn late(&self) {
        loop {
            let (at, since) = self.now_at();
            let limit = match at {
                At::Nothing => self.limits.idle,
                At::Head => self.limits.head,
                At::Request => self.limits.request,
            };
            tokio::select! {
                () = sleep_until(since + limit) => return,
                () = self.turned.notified() => {}
            }
        }
    }
}
