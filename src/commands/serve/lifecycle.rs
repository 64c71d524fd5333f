//! Life cycle of a running server: readiness, reload, lame duck and shutdown.
//!
//! Not here: the options that a reload changes (`reload.rs`), and the draining of sockets (`server`).

use std::fmt::Write as _;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep;

use super::reload::{Changes, RuntimeConfig};
use super::signals::{ShutdownRequest, Signals};
use super::source_task::{Progress, changed, start_watching};
use super::{Shared, banner};
use crate::cli;
use crate::commands::write_stdout;
use crate::source::manifests::ManifestWatcher;

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
pub(super) struct Lifecycle {
    pub(super) runtime: RuntimeConfig,
    pub(super) signals: Signals,
    pub(super) shared: Shared,
    pub(super) synced: watch::Receiver<Progress>,
    /// Requests a read of the source, with the sender for its completion.
    pub(super) source_reload: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Requests a read of the certificate.
    pub(super) certificate_reload: Arc<Notify>,
    /// Description of the source, for people.
    pub(super) source_text: String,
    /// Addresses of the admin listeners.
    pub(super) admin: Vec<SocketAddr>,
    pub(super) receive_buffer: usize,
}

impl Lifecycle {
    /// Handles signals and reloads until a signal asks to end and the lame duck is over.
    pub(super) async fn run(&mut self) -> anyhow::Result<ExitReason> {
        let mut file: Option<ManifestWatcher> =
            self.runtime.config.file.as_ref().and_then(|path| start_watching(std::slice::from_ref(path)));
        let mut reloading: Option<oneshot::Receiver<()>> = None;
        let mut announced = Progress::Nothing;
        self.shared.notifier.starting("reading the source");
        loop {
            tokio::select! {
                request = self.signals.next() => match request {
                    ShutdownRequest::End | ShutdownRequest::EndSoon => return Ok(self.exit_reason(request).await),
                    ShutdownRequest::Reload => {
                        tracing::info!("reloading: SIGHUP");
                        self.shared.notifier.reloading();
                        if let Some(request) = self.reload().await {
                            return Ok(self.exit_reason(request).await);
                        }
                        self.certificate_reload.notify_one();
                        let (done, is_done) = oneshot::channel();
                        // The receiver is gone only if the server ends.
                        let _ = self.source_reload.send(done);
                        reloading = Some(is_done);
                    }
                },
                () = changed(&mut file) => {
                    tracing::info!("reloading: the configuration file changed");
                    self.shared.notifier.reloading();
                    if let Some(request) = self.reload().await {
                        return Ok(self.exit_reason(request).await);
                    }
                    self.report_readiness(announced);
                }
                () = reload_done(&mut reloading), if reloading.is_some() => {
                    reloading = None;
                    self.report_readiness(announced);
                }
                Some(progress) = progress_beyond(&mut self.synced, announced) => {
                    if announced == Progress::Nothing {
                        self.announce()?;
                    }
                    announced = progress;
                    self.report_readiness(announced);
                }
            }
        }
    }

    /// Prints the banner, and logs the start.
    fn announce(&self) -> anyhow::Result<()> {
        let RuntimeConfig { config, listening, zone, .. } = &self.runtime;
        let addresses: Vec<_> = listening.iter().map(|(_, bound)| *bound).collect();
        write_stdout(&banner::startup_summary(config, &addresses, &self.admin, zone, &self.source_text))?;
        tracing::info!(receive_buffer = self.receive_buffer, serial = zone.serial(), "serving");
        Ok(())
    }

    /// Reports to the service manager that the server is ready, or why it is not.
    fn report_readiness(&self, progress: Progress) {
        match progress {
            Progress::Nothing => return,
            Progress::Partial => return self.shared.notifier.starting("some manifests cannot be read: see the log"),
            Progress::Whole => {}
        }
        let (services, addresses) = self.runtime.zone.size();
        self.shared
            .notifier
            .ready(&format!("{services} Services, {addresses} addresses in reverse, from {}", self.source_text));
    }

    /// Reads the configuration again; an invalid one changes nothing. Returns a signal to end that arrives meanwhile, since a
    /// file system may hang.
    async fn reload(&mut self) -> Option<ShutdownRequest> {
        let read = tokio::select! {
            read = tokio::task::spawn_blocking(cli::read_again) => read.unwrap_or_else(|error| Err(error.to_string())),
            request = self.signals.end() => return Some(request),
        };
        match read.and_then(|new| self.runtime.apply(new)) {
            Ok(changes) => log_changes(&changes),
            Err(sentence) => tracing::error!("the configuration is unchanged: {sentence}"),
        }
        None
    }

    async fn exit_reason(&mut self, request: ShutdownRequest) -> ExitReason {
        if request == ShutdownRequest::End { self.lame_duck().await } else { ExitReason::Requested }
    }

    /// Answers for the duration of `--lame-duck`, in which clients learn that the server ends. A second signal ends it at once.
    async fn lame_duck(&mut self) -> ExitReason {
        let length = self.runtime.config.lame_duck;
        self.shared.status.set_leaving();
        self.shared.notifier.stopping("lame duck: still answering");
        if length.is_zero() {
            return ExitReason::Requested;
        }
        self.shared.shutdown.lame_duck();
        tracing::info!("shutting down: answering for another {} s (--lame-duck)", length.as_secs());
        tokio::select! {
            () = sleep(length) => ExitReason::Requested,
            _ = self.signals.end() => {
                log_immediate_exit();
                ExitReason::Immediate
            }
        }
    }

    /// Waits for a second signal while the sockets are drained.
    pub(super) async fn wait_for_second_signal(&mut self) {
        self.shared.notifier.stopping("answering the queries that were received");
        self.signals.end().await;
        log_immediate_exit();
    }
}

fn log_immediate_exit() {
    tracing::warn!("ended at once by a second signal: queries may be lost");
}

/// Waits for progress beyond `announced`; `None` if there will be none.
async fn progress_beyond(synced: &mut watch::Receiver<Progress>, announced: Progress) -> Option<Progress> {
    synced.wait_for(|progress| *progress > announced).await.ok().map(|progress| *progress)
}

async fn reload_done(reloading: &mut Option<oneshot::Receiver<()>>) {
    match reloading {
        // The sender is dropped if the source cannot be read at all, which ends the server.
        Some(done) => _ = done.await,
        None => pending().await,
    }
}

fn log_changes(changes: &Changes) {
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
