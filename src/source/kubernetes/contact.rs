//! Contact with one API server: the time of its last octet, and the rate limit of requests to it.
//!
//! Not here: the probe after a silence (`probe.rs`), and the state of one watch (`state.rs`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Mutex, Notify};
use tokio::time::{Duration, Instant, sleep_until};

/// The time of the last octet from an API server, over all connections to it.
pub(super) struct Contact {
    begun: Instant,
    /// Microseconds since `begun`.
    last_contact: AtomicU64,
    lost: AtomicBool,
    resumed: Notify,
}

impl Default for Contact {
    fn default() -> Self {
        let (heard, lost) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { begun: Instant::now(), last_contact: heard, lost, resumed: Notify::new() }
    }
}

impl Contact {
    /// Notes an octet of a successful response.
    pub(super) fn record_contact(&self) {
        self.last_contact.store(self.begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        if self.lost.load(Ordering::Relaxed) && self.lost.swap(false, Ordering::Relaxed) {
            self.resumed.notify_one();
        }
    }

    /// Notes the loss of contact, which lasts until the next octet.
    pub(super) fn record_loss(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Waits for the first octet after contact was lost.
    pub(super) async fn resumed(&self) {
        self.resumed.notified().await;
    }

    /// Returns the time of the last octet.
    pub(super) fn last(&self) -> Instant {
        self.begun + Duration::from_micros(self.last_contact.load(Ordering::Relaxed))
    }
}

/// A rate limit: at most two requests of one watch within any second, whatever their purpose and outcome (K17 of
/// `tests/rows.md`).
#[derive(Default)]
pub(super) struct Pace(Mutex<[Option<Instant>; 2]>);

impl Pace {
    /// Waits until the next request may be made.
    pub(super) async fn next_turn(&self) {
        let mut last = self.0.lock().await;
        if let Some(first) = last[0] {
            sleep_until(first + Duration::from_secs(1)).await;
        }
        *last = [last[1], Some(Instant::now())];
    }

    /// Returns the last turn, which a request that is never repeated took.
    pub(super) async fn refund(&self) {
        let mut last = self.0.lock().await;
        *last = [None, last[0]];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn limits_requests_to_two_per_second() {
        let pace = Pace::default();
        let begun = Instant::now();
        let mut starts = Vec::new();
        for _ in 0..40 {
            pace.next_turn().await;
            starts.push(Instant::now());
        }
        assert!(starts.windows(3).all(|three| three[2] - three[0] >= Duration::from_secs(1)));
        assert_eq!((begun.elapsed().as_secs(), starts[1] - starts[0]), (19, Duration::ZERO));
    }
}
