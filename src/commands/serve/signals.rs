//! The signals that a server obeys: from here on they are events, and no longer the end of the process.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// SIGTERM: to end, in good order.
    End,
    /// SIGINT: to end; somebody at a keyboard waits for it.
    EndSoon,
    /// SIGHUP: to read everything again.
    Reload,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::EndSoon,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// Returns once it is asked to end, and how. A SIGHUP meanwhile waits for [`Self::next`].
    pub(super) async fn end(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::EndSoon,
        }
    }
}
