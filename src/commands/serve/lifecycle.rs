//! Life cycle of a running server: readiness, reload, lame duck and shutdown.
//!
//! Not here: the options that a reload changes (`reload.rs`), and the draining of sockets (`serve`).

use std::fmt::Write as _;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep;

use super::manager::ServiceNotifier;
use super::reload::{Changes, RuntimeConfig};
use super::signals::{ShutdownRequest, Signals};
use super::{Progress, banner, changed, start_watching};
use crate::cli;
use crate::commands::write_stdout;
use crate::serve::Shutdown;
use crate::source::manifests::ManifestWatcher;
use headless_dns_core::status::Status;

/// Reason why a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExitReason {
    /// A signal: queries that were received are answered first.
    Requested,
    /// A second signal: the server ends at once.
    Immediate,
    /// A new process has taken over (hot restart).
    TakenOver,
}

/// State of the life cycle, and handles to the tasks that it controls.
pub(super) struct Lifecycle<'l> {
    pub(super) runtime: RuntimeConfig,
    pub(super) signals: Signals,
    pub(super) notifier: &'l ServiceNotifier,
    pub(super) status: &'l Status,
    pub(super) stop: &'l Shutdown,
    /// Requests a read of the certificate.
    pub(super) look_again: Arc<Notify>,
    /// Description of the source, for people.
    pub(super) from: String,
    /// Addresses of the admin listeners.
    pub(super) admin: Vec<SocketAddr>,
    pub(super) receive_buffer: usize,
}

impl Lifecycle<'_> {
    /// Handles signals and reloads until a signal asks to end and the lame duck is over. `again` requests a read of the source.
    pub(super) async fn run(
        &mut self,
        mut synced: watch::Receiver<Progress>,
        again: mpsc::UnboundedSender<oneshot::Sender<()>>,
    ) -> anyhow::Result<ExitReason> {
        let mut file: Option<ManifestWatcher> =
            self.runtime.config.file.as_ref().and_then(|path| start_watching(std::slice::from_ref(path)));
        let mut reloading: Option<oneshot::Receiver<()>> = None;
        let mut announced = Progress::Nothing;
        self.notifier.starting("reading the source");
        loop {
            tokio::select! {
                asked = self.signals.next() => match asked {
                    ShutdownRequest::End | ShutdownRequest::EndSoon => return Ok(self.end(asked).await),
                    ShutdownRequest::Reload => {
                        tracing::info!("reloading: SIGHUP");
                        self.notifier.reloading();
                        if let Some(asked) = self.reload().await {
                            return Ok(self.end(asked).await);
                        }
                        self.look_again.notify_one();
                        let (done, is_done) = oneshot::channel();
                        // The receiver is gone only if the server ends.
                        let _ = again.send(done);
                        reloading = Some(is_done);
                    }
                },
                () = changed(&mut file) => {
                    tracing::info!("reloading: the configuration file changed");
                    self.notifier.reloading();
                    if let Some(asked) = self.reload().await {
                        return Ok(self.end(asked).await);
                    }
                    self.ready(announced);
                }
                () = done(&mut reloading), if reloading.is_some() => {
                    reloading = None;
                    self.ready(announced);
                }
                Some(progress) = beyond(&mut synced, announced) => {
                    if announced == Progress::Nothing {
                        self.announce()?;
                    }
                    announced = progress;
                    self.ready(announced);
                }
            }
        }
    }

    /// Prints the banner, and logs the start.
    fn announce(&self) -> anyhow::Result<()> {
        let RuntimeConfig { config, listening, zone, .. } = &self.runtime;
        let addresses: Vec<_> = listening.iter().map(|(_, bound)| *bound).collect();
        write_stdout(&banner::startup_summary(config, &addresses, &self.admin, zone, &self.from))?;
        tracing::info!(receive_buffer = self.receive_buffer, serial = zone.serial(), "serving");
        Ok(())
    }

    /// Reports to the service manager that the server is ready, or why it is not.
    fn ready(&self, progress: Progress) {
        match progress {
            Progress::Nothing => return,
            Progress::Partial => return self.notifier.starting("some manifests cannot be read: see the log"),
            Progress::Whole => {}
        }
        let (services, addresses) = self.runtime.zone.size();
        self.notifier.ready(&format!("{services} Services, {addresses} addresses in reverse, from {}", self.from));
    }

    /// Reads the configuration again; an invalid one changes nothing. Returns a signal to end that arrives meanwhile, since a
    /// file system may hang.
    async fn reload(&mut self) -> Option<ShutdownRequest> {
        let read = tokio::select! {
            read = tokio::task::spawn_blocking(cli::read_again) => read.unwrap_or_else(|error| Err(error.to_string())),
            asked = self.signals.end() => return Some(asked),
        };
        match read.and_then(|new| self.runtime.apply(new)) {
            Ok(changes) => log_once(&changes),
            Err(sentence) => tracing::error!("the configuration is unchanged: {sentence}"),
        }
        None
    }

    async fn end(&mut self, asked: ShutdownRequest) -> ExitReason {
        if asked == ShutdownRequest::End { self.lame_duck().await } else { ExitReason::Requested }
    }

    /// Answers for the duration of `--lame-duck`, in which clients learn that the server ends. A second signal ends it at once.
    async fn lame_duck(&mut self) -> ExitReason {
        let length = self.runtime.config.lame_duck;
        self.status.set_leaving();
        self.notifier.stopping("lame duck: still answering");
        if length.is_zero() {
            return ExitReason::Requested;
        }
        self.stop.lame_duck();
        tracing::info!("shutting down: answering for another {} s (--lame-duck)", length.as_secs());
        tokio::select! {
            () = sleep(length) => ExitReason::Requested,
            _ = self.signals.end() => {
                at_once();
                ExitReason::Immediate
            }
        }
    }

    /// Waits for a second signal while the sockets are drained.
    pub(super) async fn ended_again(&mut self) {
        self.notifier.stopping("answering the queries that were received");
        self.signals.end().await;
        at_once();
    }
}

fn at_once() {
    tracing::warn!("ended at once by a second signal: queries may be lost");
}

/// Waits for progress beyond `announced`; `None` if there will be none.
async fn beyond(synced: &mut watch::Receiver<Progress>, announced: Progress) -> Option<Progress> {
    synced.wait_for(|progress| *progress > announced).await.ok().map(|progress| *progress)
}

async fn done(reloading: &mut Option<oneshot::Receiver<()>>) {
    match reloading {
        // The sender is dropped if the source cannot be read at all, which ends the server.
        Some(done) => _ = done.await,
        None => pending().await,
    }
}

fn log_once(changes: &Changes) {
    let Changes { taken, left } = changes;
    let mut text = "the configuration was read again".to_owned();
    let _ = match taken.as_slice() {
        [] => write!(text, ": nothing to apply without a restart"),
        keys => write!(text, ", and these keys have changed: {}", keys.join(", ")),
    };
    if left.is_empty() {
        tracing::info!("{text}");
    } else {
        tracing::warn!("{text}; these keys need a restart: {}", left.join(", "));
    }
}
