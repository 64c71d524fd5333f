//! Notifications to the service manager (sd_notify(3)): ready, reloading, stopping, watchdog, and a line of status.
//!
//! Without a service manager, or without `Type=notify`, all functions do nothing. Not here: the sockets that the service
//! manager passes to a server (`server/sys/fds.rs`).

use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::server::heartbeats::Heartbeats;

/// Notifier of the service manager.
#[derive(Clone)]
pub(super) struct ServiceNotifier {
    /// Watchdog timeout of the service manager, if it has one.
    watchdog: Option<Duration>,
}

impl ServiceNotifier {
    /// Returns the notifier, with the watchdog timeout from the environment.
    pub(super) fn new() -> Self {
        let mut microseconds = 0;
        let wants = sd_notify::watchdog_enabled(false, &mut microseconds);
        Self { watchdog: (wants && microseconds > 0).then(|| Duration::from_micros(microseconds)) }
    }

    /// Reports a status before the server is ready.
    pub(super) fn starting(&self, status: &str) {
        notify(&[NotifyState::Status(status)]);
    }

    /// Reports that the server is ready.
    pub(super) fn ready(&self, status: &str) {
        notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Reports the start of a reload; [`ServiceNotifier::ready`] reports its end.
    pub(super) fn reloading(&self) {
        // `Type=notify-reload` requires the time too.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(_) => notify(&[NotifyState::Reloading]),
        }
    }

    /// Reports the shutdown.
    pub(super) fn stopping(&self, status: &str) {
        notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
    }

    /// Notifies the watchdog of the service manager as long as this task runs and no worker is stalled. Never returns.
    pub(super) async fn run_watchdog(&self, heartbeats: &Heartbeats) -> Infallible {
        let Some(watchdog) = self.watchdog else { return pending().await };
        // At half of the timeout, as sd_watchdog_enabled(3) recommends.
        let mut ticks = interval(watchdog / 2);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let stalled = heartbeats.stalled(Instant::now());
            if stalled.is_empty() {
                notify(&[NotifyState::Watchdog]);
            } else {
                tracing::error!(
                    ?stalled,
                    "workers have stalled: the watchdog of the service manager will end this process"
                );
            }
        }
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}
