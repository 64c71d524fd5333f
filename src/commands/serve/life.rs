//! What happens to a server from its first answer to its last: it says that it is there, reads its configuration again,
//! and ends in good order.
//!
//! Not here: what a configuration that was read again changes (`reload.rs`), and how the sockets are emptied (`serve`).

use std::fmt::Write as _;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::sleep;

use super::manager::Manager;
use super::reload::{Changes, Running};
use super::signals::{Asked, Signals};
use super::{Progress, banner, changed, start_watching};
use crate::cli;
use crate::commands::show;
use crate::serve::Stop;
use crate::source::manifests::Watcher;
use crate::status::Status;

/// Why a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It was asked to: what was received is answered first.
    Asked,
    /// It was asked to twice: at once.
    Now,
    /// Another process answers.
    Relieved,
}

/// A running server, and who may tell it something.
pub(super) struct Life<'l> {
    pub(super) running: Running,
    pub(super) signals: Signals,
    pub(super) manager: &'l Manager,
    pub(super) status: &'l Status,
    pub(super) stop: &'l Stop,
    /// Has the certificate read again.
    pub(super) look_again: Arc<Notify>,
    /// Where the objects come from, for people.
    pub(super) from: String,
    /// Where it can be looked at.
    pub(super) admin: Vec<SocketAddr>,
    pub(super) receive_buffer: usize,
}

impl Life<'_> {
    /// Until it is asked to end, and the lame duck is over. `again` has the source read again.
    pub(super) async fn live(
        &mut self,
        mut synced: watch::Receiver<Progress>,
        again: mpsc::UnboundedSender<oneshot::Sender<()>>,
    ) -> anyhow::Result<End> {
        let mut file: Option<Watcher> =
            self.running.config.file.as_ref().and_then(|path| start_watching(std::slice::from_ref(path)));
        let mut reloading: Option<oneshot::Receiver<()>> = None;
        let mut announced = Progress::Nothing;
        self.manager.starting("reading what there is to answer");
        loop {
            tokio::select! {
                asked = self.signals.next() => match asked {
                    Asked::End | Asked::EndSoon => return Ok(self.end(asked).await),
                    Asked::Reload => {
                        tracing::info!("reading again: SIGHUP");
                        self.manager.reloading();
                        if let Some(asked) = self.reload().await {
                            return Ok(self.end(asked).await);
                        }
                        self.look_again.notify_one();
                        let (done, is_done) = oneshot::channel();
                        // Gone only where the server ends.
                        let _ = again.send(done);
                        reloading = Some(is_done);
                    }
                },
                () = changed(&mut file) => {
                    tracing::info!("reading again: the configuration changed");
                    self.manager.reloading();
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

    /// Says what is served.
    fn announce(&self) -> anyhow::Result<()> {
        let Running { config, listening, zone, .. } = &self.running;
        let addresses: Vec<_> = listening.iter().map(|(_, bound)| *bound).collect();
        show(&banner::text(config, &addresses, &self.admin, zone, &self.from))?;
        tracing::info!(receive_buffer = self.receive_buffer, serial = zone.serial(), "serving");
        Ok(())
    }

    /// Tells the service manager that the server is ready, once everything was read.
    fn ready(&self, progress: Progress) {
        match progress {
            Progress::Nothing => return,
            Progress::Partial => return self.manager.starting("some manifests cannot be read: see the log"),
            Progress::Whole => {}
        }
        let (services, addresses) = self.running.zone.size();
        self.manager.ready(&format!("{services} Services, {addresses} addresses in reverse, from {}", self.from));
    }

    /// Reads the configuration again; one that is wrong changes nothing. Returns the signal to end that came meanwhile: a
    /// file may be on a file system that hangs.
    async fn reload(&mut self) -> Option<Asked> {
        let read = tokio::select! {
            read = tokio::task::spawn_blocking(cli::read_again) => read.unwrap_or_else(|error| Err(error.to_string())),
            asked = self.signals.end() => return Some(asked),
        };
        match read.and_then(|new| self.running.take(new)) {
            Ok(changes) => say(&changes),
            Err(sentence) => tracing::error!("the configuration stays as it was: {sentence}"),
        }
        None
    }

    async fn end(&mut self, asked: Asked) -> End {
        if asked == Asked::End { self.lame_duck().await } else { End::Asked }
    }

    /// Answers as long as somebody may not know yet that it ends. Asked to end again, it ends at once.
    async fn lame_duck(&mut self) -> End {
        let length = self.running.config.lame_duck;
        self.status.set_leaving();
        self.manager.stopping("about to end: answers until its clients know");
        if length.is_zero() {
            return End::Asked;
        }
        self.stop.leave();
        tracing::info!("asked to end: answers for another {} s (--lame-duck)", length.as_secs());
        tokio::select! {
            () = sleep(length) => End::Asked,
            _ = self.signals.end() => {
                at_once();
                End::Now
            }
        }
    }

    /// While the sockets are emptied.
    pub(super) async fn ended_again(&mut self) {
        self.manager.stopping("answers what was received");
        self.signals.end().await;
        at_once();
    }
}

fn at_once() {
    tracing::warn!("ended at once by a second signal: queries may be lost");
}

/// Waits until more of the source was read; `None` where nothing will be.
async fn beyond(synced: &mut watch::Receiver<Progress>, announced: Progress) -> Option<Progress> {
    synced.wait_for(|progress| *progress > announced).await.ok().map(|progress| *progress)
}

async fn done(reloading: &mut Option<oneshot::Receiver<()>>) {
    match reloading {
        // Dropped where the source could not be read at all, which ends the server.
        Some(done) => _ = done.await,
        None => pending().await,
    }
}

fn say(changes: &Changes) {
    let Changes { taken, left } = changes;
    let mut text = "the configuration was read again".to_owned();
    let _ = match taken.as_slice() {
        [] => write!(text, ": nothing that can change while the server runs has changed"),
        keys => write!(text, " and has changed: {}", keys.join(", ")),
    };
    if left.is_empty() {
        tracing::info!("{text}");
    } else {
        tracing::warn!("{text}; what else has changed needs a restart: {}", left.join(", "));
    }
}
