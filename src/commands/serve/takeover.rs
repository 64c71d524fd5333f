//! The hot restart: takes over from the old process once the source was read, and hands the sockets to the next process.
//!
//! Not here: the exchange over the Unix socket (`server/hot_restart/mod.rs`).

use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::source_task::Progress;
use crate::server::hot_restart::{Predecessor, SocketRegistry, TakeoverListener};

/// Time that queries may wait in sockets of the service manager for the first read of the source, which mostly takes less.
/// After it, a response with SERVFAIL is better than none.
const ACTIVATED_QUEUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Hot restart: the takeover from the predecessor, and by the successor.
pub(super) struct Takeover {
    pub(super) predecessor: Option<Predecessor>,
    pub(super) activated: bool,
    pub(super) progress: watch::Receiver<Progress>,
    /// Starts the server.
    pub(super) begin: oneshot::Sender<()>,
    /// Received when the server reads its sockets.
    pub(super) answering: oneshot::Receiver<()>,
    pub(super) path: Option<PathBuf>,
    pub(super) registry: SocketRegistry,
}

impl Takeover {
    /// Takes over from the predecessor, and returns when a successor has taken over from this process.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let Self { predecessor, activated, mut progress, begin, answering, path, registry } = self;
        let predecessor = match predecessor {
            Some(predecessor) => wait_until_synced(predecessor, progress).await,
            None => {
                if activated {
                    let _ =
                        timeout(ACTIVATED_QUEUE_TIMEOUT, progress.wait_for(|progress| *progress > Progress::Nothing))
                            .await;
                }
                None
            }
        };
        // If the receiver is gone, the server has ended, and this task ends with it.
        let _ = begin.send(());
        let Ok(()) = answering.await else { return pending().await };
        let Some(path) = path else { return pending().await };
        let offer = TakeoverListener::bind(&path, registry);
        let confirming = async {
            let Some(predecessor) = predecessor else { return };
            match predecessor.confirm_takeover().await {
                Ok(()) => tracing::info!("took over from the old process"),
                Err(_) => tracing::warn!("the old process ended before the takeover was complete"),
            }
        };
        let ((), offered) = tokio::join!(confirming, async {
            offer?.taken_over().await;
            anyhow::Ok(())
        });
        offered?;
        tracing::info!("a new process has taken over");
        Ok(())
    }
}

/// Waits until the source was read. Returns `None` if the predecessor ends before that, and this process must answer.
async fn wait_until_synced(
    mut predecessor: Predecessor,
    mut progress: watch::Receiver<Progress>,
) -> Option<Predecessor> {
    tokio::select! {
        _ = progress.wait_for(|progress| *progress == Progress::Whole) => Some(predecessor),
        () = predecessor.has_ended() => {
            tracing::warn!("the old process ended before this one has read its source: this one answers now");
            None
        }
    }
}
