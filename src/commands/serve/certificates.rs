//! Renewal of the certificate while the server runs: its files are read again when they change, on SIGHUP, and once a minute,
//! since not every file system reports changes.
//!
//! Not here: parsing and validation of the files (`server/tls/certificates.rs`).

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::source_task::{changed, start_watching};
use crate::admin::CertificateInUse;
use crate::metrics::{Metrics, table};
use crate::server::tls::certificates::Certificates;

/// Maximum time between two reads of the files.
const POLL_INTERVAL: Duration = Duration::from_secs(60);
/// Pause before a failed read is repeated: the certificate and its key are two files, mostly not written at one instant.
const DEBOUNCE: Duration = Duration::from_secs(1);

/// Task that keeps the certificate in step with its files.
pub(super) struct Renewal {
    /// Certificate in use; a reload of the configuration may replace it.
    pub(super) certificates: watch::Receiver<Option<Certificates>>,
    /// Requests a read of the files.
    pub(super) reload_request: Arc<Notify>,
    /// Receiver of the state of the certificate.
    pub(super) observer: CertificateObserver,
}

/// Receiver of the state of the certificate: metrics and the admin listener.
pub(super) struct CertificateObserver {
    pub(super) metrics: Arc<Metrics>,
    pub(super) in_use: Arc<ArcSwapOption<CertificateInUse>>,
}

impl CertificateObserver {
    /// Clears the state when no listener is encrypted any more, so that the expiry of an unused certificate raises no alert.
    fn clear(&self) {
        self.in_use.store(None);
        self.metrics.unset(&table::CERTIFICATE_EXPIRATION, &[]);
    }

    fn set_certificate(&self, in_use: CertificateInUse) {
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

    fn count_reload(&self, result: &str) {
        self.metrics.count(&table::CERTIFICATE_RELOADS, &[result]);
    }
}

impl Renewal {
    /// Follows the files of the certificate in use. Never returns.
    pub(super) async fn follow(self) -> Infallible {
        let Self { mut certificates, reload_request, observer } = self;
        loop {
            let in_use = certificates.borrow_and_update().clone();
            let follow = async {
                match in_use {
                    Some(in_use) => CertificateFollower::new(in_use, &observer).follow(&reload_request).await,
                    None => {
                        observer.clear();
                        pending().await
                    }
                }
            };
            tokio::select! {
                never = follow => match never {},
                changed = certificates.changed() => if changed.is_err() {
                    // The sender is dropped when the server ends.
                    pending::<()>().await;
                },
            }
        }
    }
}

struct CertificateFollower<'k> {
    certificates: Certificates,
    observer: &'k CertificateObserver,
    /// Last refusal of the files, and last warning about the certificate: each is logged once.
    last_warning: [Option<String>; 2],
}

impl<'k> CertificateFollower<'k> {
    fn new(certificates: Certificates, observer: &'k CertificateObserver) -> Self {
        Self { certificates, observer, last_warning: [None, None] }
    }

    async fn follow(mut self, reload_request: &Notify) -> Infallible {
        let mut watcher = start_watching(&self.certificates.paths());
        self.publish_state();
        loop {
            // Read at the start too: the files may have changed before they were watched.
            self.poll_files().await;
            tokio::select! {
                () = changed(&mut watcher) => {}
                () = reload_request.notified() => {}
                () = sleep(POLL_INTERVAL) => {}
            }
        }
    }

    async fn poll_files(&mut self) {
        let mut read = self.read().await;
        if read.is_err() {
            sleep(DEBOUNCE).await;
            read = self.read().await;
        }
        let refused = match read {
            Ok(is_new) => {
                if is_new {
                    self.observer.count_reload("taken");
                    tracing::info!("the certificate has changed: new connections get the new one");
                }
                None
            }
            Err(error) => {
                self.observer.count_reload("refused");
                Some(format!("{error:#}"))
            }
        };
        if let Some(refused) = self.warn_once(0, refused) {
            tracing::error!("the certificate is unchanged: {refused}");
        }
        self.publish_state();
    }

    /// Reads the files, and returns whether they have changed. Runs on a blocking thread, since a file system may hang.
    async fn read(&self) -> anyhow::Result<bool> {
        let certificates = self.certificates.clone();
        let read = tokio::task::spawn_blocking(move || certificates.reload()).await;
        read.context("reading the certificate failed").flatten()
    }

    /// Publishes the validity period of the certificate in use, and the error of the last reload. Logs once if the
    /// certificate is about to expire or has expired.
    fn publish_state(&mut self) {
        let [refused, _] = &self.last_warning;
        self.observer
            .set_certificate(CertificateInUse { good: self.certificates.validity(), refused: refused.clone() });
        // Compare by presence only: the text has a duration that differs each time.
        let warning = self.certificates.expiry_warning(SystemTime::now());
        if self.last_warning[1].is_some() && warning.is_some() {
            return;
        }
        if let Some(warning) = self.warn_once(1, warning) {
            tracing::warn!("{warning}");
        }
    }

    /// Stores the text, and returns it if it is not the last one at this index.
    fn warn_once(&mut self, at: usize, text: Option<String>) -> Option<String> {
        let is_new = self.last_warning[at] != text;
        self.last_warning[at].clone_from(&text);
        text.filter(|_| is_new)
    }
}
