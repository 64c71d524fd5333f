//! What the service manager is told (sd_notify(3)): ready, reloading, stopping, alive, and a line of status.
//!
//! Without one, or without `Type=notify`, everything here does nothing. Not here: the sockets that it opens for a
//! server (`serve/fds.rs`).

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::liveness::Liveness;

/// The service manager.
pub(super) struct Manager {
    /// How often it wants to hear that the server lives, at the least.
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that started this process, if one did.
    pub(super) fn new() -> Self {
        let mut microseconds = 0;
        let wants = sd_notify::watchdog_enabled(false, &mut microseconds);
        Self { watchdog: (wants && microseconds > 0).then(|| Duration::from_micros(microseconds)) }
    }

    /// What it is waiting for is not there yet.
    pub(super) fn starting(&self, status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    /// Everything was read.
    pub(super) fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Everything is being read again; [`Manager::ready`] is the end of it.
    pub(super) fn reloading(&self) {
        // `Type=notify-reload` wants the time too.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }

    /// It will end.
    pub(super) fn stopping(&self, status: &str) {
        tell(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Tells the service manager's watchdog that the server lives, as long as this task runs and no worker is stalled.
    /// Never returns.
    pub(super) async fn keep_watch(&self, liveness: &Liveness) -> Infallible {
        let Some(watchdog) = self.watchdog else { return pending().await };
        // Twice in its time, as sd_watchdog_enabled(3) says.
        let mut ticks = interval(watchdog / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let stalled = liveness.stalled(Instant::now());
            if stalled.is_empty() {
                tell(&[NotifyState::Watchdog]);
            } else {
                tracing::error!(?stalled, "workers have stalled: the service manager is to end this process");
            }
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!("the service manager does not hear: {error}");
    }
}
