//! The certificate while the server runs: its files are read again when they change, on SIGHUP, and once a minute
//! whatever happens, as not every file system tells of changes.
//!
//! Not here: what is read, and what is wrong with it (`serve/encrypted/certificates.rs`).

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::{changed, start_watching};
use crate::metrics::{Metrics, table};
use crate::serve::encrypted::certificates::Certificates;

/// How long the files are not looked at, at most.
const LOOK: Duration = Duration::from_secs(60);
/// A certificate and its key are two files, which are mostly not written at one instant.
const MOMENT: Duration = Duration::from_secs(1);

/// Keeps a certificate as its files are.
pub(super) struct Renewal {
    /// What is shown; another, or of other files, where the configuration has changed.
    pub(super) certificates: watch::Receiver<Option<Certificates>>,
    /// Asks to look at once.
    pub(super) asked: Arc<Notify>,
    pub(super) metrics: Arc<Metrics>,
}

impl Renewal {
    /// Follows the files for ever.
    pub(super) async fn follow(self) -> Infallible {
        let Self { mut certificates, asked, metrics } = self;
        loop {
            let shown = certificates.borrow_and_update().clone();
            let keep = async {
                match shown {
                    Some(shown) => Kept::new(shown, &metrics).follow(&asked).await,
                    None => {
                        // Nobody is shown the one before any more: that it expires is no news.
                        metrics.unset(&table::CERTIFICATE_EXPIRATION, &[]);
                        pending().await
                    }
                }
            };
            tokio::select! {
                never = keep => match never {},
                changed = certificates.changed() => if changed.is_err() {
                    // The server ends.
                    pending::<()>().await;
                },
            }
        }
    }
}

struct Kept<'k> {
    certificates: Certificates,
    metrics: &'k Metrics,
    /// Why the files are not taken, and what clients will not like: each is said once.
    said: [Option<String>; 2],
}

impl<'k> Kept<'k> {
    fn new(certificates: Certificates, metrics: &'k Metrics) -> Self {
        Self { certificates, metrics, said: [None, None] }
    }

    async fn follow(mut self, asked: &Notify) -> Infallible {
        let mut watcher = start_watching(&self.certificates.paths());
        self.show();
        loop {
            // Once more at the begin: the files may have changed before they were watched.
            self.look().await;
            tokio::select! {
                () = changed(&mut watcher) => {}
                () = asked.notified() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    async fn look(&mut self) {
        let mut read = self.read().await;
        if read.is_err() {
            sleep(MOMENT).await;
            read = self.read().await;
        }
        let refused = match read {
            Ok(is_new) => {
                if is_new {
                    self.metrics.count(&table::CERTIFICATE_RELOADS, &["taken"]);
                    tracing::info!("the certificate was read again: new connections get it");
                }
                None
            }
            Err(error) => {
                self.metrics.count(&table::CERTIFICATE_RELOADS, &["refused"]);
                Some(format!("the certificate stays as it was: {error:#}"))
            }
        };
        if let Some(refused) = self.say(0, refused) {
            tracing::error!("{refused}");
        }
        self.show();
    }

    /// A file may be on a file system that hangs.
    async fn read(&self) -> anyhow::Result<bool> {
        let certificates = self.certificates.clone();
        let read = tokio::task::spawn_blocking(move || certificates.reload()).await;
        read.context("reading the certificate failed").flatten()
    }

    /// Shows until when the certificate is good.
    fn show(&mut self) {
        match self.certificates.expires() {
            Some(expires) => {
                let seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                self.metrics.set(&table::CERTIFICATE_EXPIRATION, &[], seconds);
            }
            None => self.metrics.unset(&table::CERTIFICATE_EXPIRATION, &[]),
        }
        // How long ago it was differs each time.
        let complaint = self.certificates.complaint(SystemTime::now());
        if self.said[1].is_some() && complaint.is_some() {
            return;
        }
        if let Some(complaint) = self.say(1, complaint) {
            tracing::warn!("{complaint}");
        }
    }

    /// What is to be said now, if it was not said before.
    fn say(&mut self, at: usize, text: Option<String>) -> Option<String> {
        let is_new = self.said[at] != text;
        self.said[at].clone_from(&text);
        text.filter(|_| is_new)
    }
}
