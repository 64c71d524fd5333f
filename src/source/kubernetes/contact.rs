//! Contact with one API server: the time of its last octet, one probe while none comes, and the pace of requests to it.
//!
//! Silence alone is no staleness: nothing may have changed. So after [`Timing::quiet`] without an octet on any watch one
//! list with `limit=1` goes the way that the watches go. If it fails, contact was lost at the last octet (K18). Not here:
//! the life of one watch (`machine.rs`).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::Scope;
use super::client::{Api, Connect};
use super::machine::{Failure, Timing};
use super::watched::Page;
use crate::cluster::Resource;
use crate::source::live::Update;
use crate::status::WatchState;

/// The time of the last octet from an API server, over all connections to it.
pub(super) struct Contact {
    begun: Instant,
    /// Microseconds since `begun`.
    heard: AtomicU64,
    lost: AtomicBool,
    resumed: Notify,
}

impl Default for Contact {
    fn default() -> Self {
        let (heard, lost) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { begun: Instant::now(), heard, lost, resumed: Notify::new() }
    }
}

impl Contact {
    /// Notes that octets of a good response came.
    pub(super) fn hear(&self) {
        self.heard.store(self.begun.elapsed().as_micros() as u64, Ordering::Relaxed);
        if self.lost.load(Ordering::Relaxed) && self.lost.swap(false, Ordering::Relaxed) {
            self.resumed.notify_one();
        }
    }

    /// Returns the time of the last octet.
    fn last(&self) -> Instant {
        self.begun + Duration::from_micros(self.heard.load(Ordering::Relaxed))
    }
}

/// Limits requests of one watch to two within any second, whatever they are for and whatever is answered (K17).
#[derive(Default)]
pub(super) struct Pace(Mutex<[Option<Instant>; 2]>);

impl Pace {
    /// Waits until the next request may be made.
    pub(super) async fn turn(&self) {
        let mut last = self.0.lock().await;
        if let Some(first) = last[0] {
            sleep_until(first + Duration::from_secs(1)).await;
        }
        *last = [last[1], Some(Instant::now())];
    }

    /// Gives the last turn back: for a request that is never made again.
    pub(super) async fn refund(&self) {
        let mut last = self.0.lock().await;
        *last = [None, last[0]];
    }
}

/// Probes the API server while no octet comes from it.
pub(super) struct Probe {
    pub(super) contact: Arc<Contact>,
    pub(super) connect: Connect,
    pub(super) resource: Resource,
    pub(super) scope: Arc<Scope>,
    pub(super) timing: Timing,
    pub(super) updates: mpsc::Sender<Update>,
    /// Wakes the watches that wait to try again.
    pub(super) back: Arc<Notify>,
}

impl Probe {
    /// Tells of each loss of contact, and of its end.
    pub(super) async fn run(self) -> Infallible {
        let (mut api, mut lost, mut probed) = (None, None::<Instant>, None::<Instant>);
        loop {
            let heard = self.contact.last();
            if lost.take_if(|since| heard > *since).is_some() {
                self.tell(Update::Contact).await;
                self.back.notify_waiters();
            }
            let due = probed.map_or(heard, |probed| probed.max(heard)) + self.timing.quiet;
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.contact.resumed.notified() => {}
            }
            if self.contact.last() > heard || Instant::now() < due {
                continue;
            }
            probed = Some(Instant::now());
            let result = tokio::select! {
                result = self.probe(&mut api) => result,
                () = self.contact.resumed.notified() => continue,
            };
            let failure = result.err().filter(|failure| !failure.is_answer());
            let Some(failure) = failure else {
                self.contact.hear();
                continue;
            };
            api = None;
            if lost.is_none() && self.contact.last() <= heard {
                lost = Some(heard);
                self.contact.lost.store(true, Ordering::Relaxed);
                if let WatchState::Lost(loss) = failure.state() {
                    self.tell(Update::NoContact { since: heard, loss }).await;
                }
            }
        }
    }

    /// Lists one object, within the deadline.
    async fn probe(&self, api: &mut Option<Api>) -> Result<(), Failure> {
        let request = async {
            let api = match api {
                Some(api) => api,
                None => {
                    let client = (self.connect)().await.map_err(|error| Failure::Unreachable(format!("{error:#}")))?;
                    api.insert(Api::new(client, self.resource, &self.scope, &Arc::default(), &self.contact))
                }
            };
            let octets = api.page(1, None).await?;
            let page: Result<Page<'_>, _> = serde_json::from_slice(&octets);
            page.map(drop).map_err(|error| Failure::Unreachable(format!("the answer to a probe is no list: {error}")))
        };
        let quiet = self.timing.quiet;
        let late = || Failure::Late(format!("no octet for {quiet:?}, and no answer to a probe within {quiet:?}"));
        timeout(quiet, request).await.unwrap_or_else(|_| Err(late()))
    }

    async fn tell(&self, update: Update) {
        // Fails only if the owner of the other end is gone, which ends this task too.
        let _ = self.updates.send(update).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_requests_start_within_any_second() {
        let pace = Pace::default();
        let begun = Instant::now();
        let mut starts = Vec::new();
        for _ in 0..40 {
            pace.turn().await;
            starts.push(Instant::now());
        }
        assert!(starts.windows(3).all(|three| three[2] - three[0] >= Duration::from_secs(1)));
        assert_eq!((begun.elapsed().as_secs(), starts[1] - starts[0]), (19, Duration::ZERO));
    }
}
