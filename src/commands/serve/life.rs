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
use super::{banner, changed, start_watching};
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
        mut synced: watch::Receiver<bool>,
        again: mpsc::UnboundedSender<oneshot::Sender<()>>,
    ) -> anyhow::Result<End> {
        let mut file: Option<Watcher> =
            self.running.config.file.as_ref().and_then(|path| start_watching(std::slice::from_ref(path)));
        let mut reloading: Option<oneshot::Receiver<()>> = None;
        let mut announced = false;
        self.manager.starting("reading what there is to answer");
        loop {
            tokio::select! {
                asked = self.signals.next() => match asked {
                    Asked::End => return Ok(self.lame_duck().await),
                    Asked::EndSoon => return Ok(End::Asked),
                    Asked::Reload => {
                        tracing::info!("reading again: SIGHUP");
                        self.manager.reloading();
                        self.reload().await;
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
                    self.reload().await;
                    self.ready(announced);
                }
                () = done(&mut reloading), if reloading.is_some() => {
                    reloading = None;
                    self.ready(announced);
                }
                Ok(_) = synced.wait_for(|synced| *synced), if !announced => {
                    announced = true;
                    self.announce()?;
                }
            }
        }
    }

    /// Says what is served.
    fn announce(&self) -> anyhow::Result<()> {
        let Running { config, listening, zone, .. } = &self.running;
        let addresses: Vec<_> = listening.iter().map(|(_, bound)| *bound).collect();
        show(banner::text(config, &addresses, &self.admin, zone, &self.from).as_bytes())?;
        tracing::info!(receive_buffer = self.receive_buffer, serial = zone.serial(), "serving");
        self.ready(true);
        Ok(())
    }

    /// Tells the service manager what it is waiting for; before the first reading that is not over.
    fn ready(&self, announced: bool) {
        if !announced {
            return;
        }
        let (services, addresses) = self.running.zone.size();
        self.manager.ready(&format!("{services} Services, {addresses} addresses in reverse, from {}", self.from));
    }

    /// Reads the configuration again; one that is wrong changes nothing.
    async fn reload(&mut self) {
        // A file may be on a file system that hangs.
        let read = tokio::task::spawn_blocking(cli::read_again).await;
        let read = read.unwrap_or_else(|error| Err(error.to_string()));
        match read.and_then(|new| self.running.take(new)) {
            Ok(changes) => say(&changes),
            Err(sentence) => tracing::error!("the configuration stays as it was: {sentence}"),
        }
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
            () = self.signals.end() => {
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
