//! Signals of a server as events: they do not end the process any more. Not here: the reaction to each (`lifecycle.rs`).

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Streams of the signals that are handled.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// Request that a signal makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ShutdownRequest {
    /// SIGTERM: shutdown, with the lame duck.
    End,
    /// SIGINT: shutdown without the lame duck, since a person at the keyboard waits for it.
    EndSoon,
    /// SIGHUP: reload of the configuration, the certificate and the manifests.
    Reload,
}

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot handle signals");
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    pub(super) async fn next(&mut self) -> ShutdownRequest {
        tokio::select! {
            _ = self.terminate.recv() => ShutdownRequest::End,
            _ = self.interrupt.recv() => ShutdownRequest::EndSoon,
            _ = self.hangup.recv() => ShutdownRequest::Reload,
        }
    }

    /// Waits for SIGTERM or SIGINT. A SIGHUP that arrives meanwhile is left for [`Self::next`].
    pub(super) async fn end(&mut self) -> ShutdownRequest {
        tokio::select! {
            _ = self.terminate.recv() => ShutdownRequest::End,
            _ = self.interrupt.recv() => ShutdownRequest::EndSoon,
        }
    }
}
