//! The shutdown signal: lame duck, drain, and the end of a hot restart.
//!
//! Not here: the reactions to it (`udp/`, `listener/tracker.rs`, `quic/`), and the signals of the operating system
//! (`commands/serve/signals.rs`).

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// Shutdown signal for threads and tasks, with three phases. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    own: Arc<ShutdownState>,
    /// State of the parent: its phases hold here too.
    above: Option<Arc<ShutdownState>>,
}

#[derive(Debug, Default)]
struct ShutdownState {
    phase: AtomicU8,
    waiters: Notify,
}

/// Phase of the shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Lame duck: queries are answered as before, and idle connections are closed.
    LameDuck = 1,
    /// Queries received so far are answered; no more are read.
    Draining = 2,
    /// Another process reads the same sockets, and gets all datagrams and connections queued in them.
    HandedOver = 3,
}

impl Shutdown {
    /// Returns a signal that follows this one, and can be signalled alone.
    pub(crate) fn child(&self) -> Self {
        Self { own: Arc::default(), above: Some(Arc::clone(&self.own)) }
    }

    /// Begins the lame-duck phase: queries are answered as before, and idle connections are closed.
    pub fn lame_duck(&self) {
        self.enter(Phase::LameDuck);
    }

    /// Begins the drain, for good: queries received so far are answered, then threads and tasks end.
    pub fn drain(&self) {
        self.enter(Phase::Draining);
    }

    /// Begins the end of a hot restart, for good: threads and tasks end, and leave queued datagrams and connections to
    /// the other process that reads the sockets.
    pub fn hand_over(&self) {
        self.enter(Phase::HandedOver);
    }

    fn enter(&self, phase: Phase) {
        self.own.phase.fetch_max(phase as u8, Ordering::AcqRel);
        self.own.waiters.notify_waiters();
    }

    /// Returns whether the drain has begun. For threads; two atomic loads.
    pub fn is_draining(&self) -> bool {
        self.is_in(Phase::Draining)
    }

    pub(crate) fn is_lame_duck(&self) -> bool {
        self.is_in(Phase::LameDuck)
    }

    pub(crate) fn is_handed_over(&self) -> bool {
        self.is_in(Phase::HandedOver)
    }

    pub(crate) fn is_in(&self, phase: Phase) -> bool {
        let has_begun = |state: &ShutdownState| state.phase.load(Ordering::Acquire) >= phase as u8;
        has_begun(&self.own) || self.above.as_deref().is_some_and(has_begun)
    }

    /// Completes once the drain begins. For tasks.
    pub async fn wait(&self) {
        self.wait_for(Phase::Draining).await;
    }

    pub(crate) async fn wait_for(&self, phase: Phase) {
        loop {
            let mut own = pin!(self.own.waiters.notified());
            let mut above = pin!(self.above.as_ref().map(|above| above.waiters.notified()));
            // Register before the check, so that no signal between the two is lost.
            own.as_mut().enable();
            if let Some(above) = above.as_mut().as_pin_mut() {
                above.enable();
            }
            if self.is_in(phase) {
                return;
            }
            match above.as_mut().as_pin_mut() {
                Some(above) => tokio::select! { () = own => {}, () = above => {} },
                None => own.await,
            }
        }
    }
}

/// Begins the drain when dropped.
pub(crate) struct DrainOnDrop(pub(crate) Shutdown);

impl Drop for DrainOnDrop {
    fn drop(&mut self) {
        self.0.drain();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn child_shutdown_is_independent() {
        let all = Shutdown::default();
        let (one, other) = (all.child(), all.child());
        one.drain();
        one.wait().await;
        assert!(one.is_draining() && !other.is_draining() && !all.is_draining());
        all.lame_duck();
        other.wait_for(Phase::LameDuck).await;
        assert!(!other.is_draining());
        let waits = async { other.wait().await };
        let tells = async { all.hand_over() };
        tokio::join!(waits, tells);
        assert!(other.is_handed_over());
    }
}
