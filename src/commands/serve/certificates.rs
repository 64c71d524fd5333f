//! The certificate while the server runs: its files are read again when they change, on SIGHUP, and once a minute
//! whatever happens, as not every file system tells of changes.
//!
//! Not here: what is read, and what is wrong with it (`serve/encrypted/certificates.rs`).

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::{changed, start_watching};
use crate::admin::CertificateInUse;
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
    /// What is told of it to who looks at the server.
    pub(super) told: Told,
}

/// Who is told of a certificate.
pub(super) struct Told {
    pub(super) metrics: Arc<Metrics>,
    pub(super) in_use: Arc<ArcSwapOption<CertificateInUse>>,
}

impl Told {
    /// Nobody is shown one any more: that the last one expires is no news.
    fn none(&self) {
        self.in_use.store(None);
        self.metrics.unset(&table::CERTIFICATE_EXPIRATION, &[]);
    }

    fn certificate(&self, in_use: CertificateInUse) {
        let good = in_use.good;
        self.in_use.store(Some(Arc::new(in_use)));
        match good {
            Some((_, expires)) => {
                let seconds = expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                self.metrics.set(&table::CERTIFICATE_EXPIRATION, &[], seconds);
            }
            None => self.metrics.unset(&table::CERTIFICATE_EXPIRATION, &[]),
        }
    }

    fn reload(&self, result: &str) {
        self.metrics.count(&table::CERTIFICATE_RELOADS, &[result]);
    }
}

impl Renewal {
    /// Follows the files for ever.
    pub(super) async fn follow(self) -> Infallible {
        let Self { mut certificates, asked, told } = self;
        loop {
            let shown = certificates.borrow_and_update().clone();
            let keep = async {
                match shown {
                    Some(shown) => Kept::new(shown, &told).follow(&asked).await,
                    None => {
                        told.none();
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
    told: &'k Told,
    /// Why the files are not taken, and what clients will not like: each is said once.
    said: [Option<String>; 2],
}

impl<'k> Kept<'k> {
    fn new(certificates: Certificates, told: &'k Told) -> Self {
        Self { certificates, told, said: [None, None] }
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
                    self.told.reload("taken");
                    tracing::info!("the certificate was read again: new connections get it");
                }
                None
            }
            Err(error) => {
                self.told.reload("refused");
                Some(format!("{error:#}"))
            }
        };
        if let Some(refused) = self.say(0, refused) {
            tracing::error!("the certificate stays as it was: {refused}");
        }
        self.show();
    }

    /// A file may be on a file system that hangs.
    async fn read(&self) -> anyhow::Result<bool> {
        let certificates = self.certificates.clone();
        let read = tokio::task::spawn_blocking(move || certificates.reload()).await;
        read.context("reading the certificate failed").flatten()
    }

    /// Shows until when the certificate is good, and why no other has taken its place.
    fn show(&mut self) {
        let [refused, _] = &self.said;
        self.told.certificate(CertificateInUse { good: self.certificates.validity(), refused: refused.clone() });
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
