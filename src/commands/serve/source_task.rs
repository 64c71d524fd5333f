//! The task that reads the source and keeps the zone in step with it: manifests, read again when they change, or a cluster
//! that is watched.
//!
//! Not here: parsing and publication (`source`), and the opening of the source (`startup.rs`).

use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::sync::{mpsc, oneshot, watch};

use super::Shared;
use super::supervise::supervise;
use crate::commands::{SourceHandle, cluster, paths, usable};
use crate::config::{Config, Source};
use crate::metrics::{Event, Metrics};
use crate::source::kubernetes::ClusterAccess;
use crate::source::manifests::{ManifestWatcher, Report};
use crate::source::{LoadReport, ManifestSource, Notice, Publisher};
use headless_dns_core::diagnose::Finding;
use headless_dns_core::status::Status;

/// Task that reads the source and keeps the zone in step with it.
pub(super) struct SourceTask {
    pub(super) config: Config,
    pub(super) watcher: Option<ManifestWatcher>,
    /// Requests to read the source again, each with the sender for its completion.
    pub(super) reload_requests: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
    pub(super) progress: watch::Sender<Progress>,
    pub(super) shared: Shared,
}

/// Progress of the first read of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Progress {
    Nothing,
    /// All but files and documents that cannot be read: known names are answered.
    Partial,
    /// All of the source.
    Whole,
}

impl SourceTask {
    /// Reads the source and its changes. Returns only for an error.
    pub(super) async fn run(self, source: SourceHandle) -> anyhow::Result<Infallible> {
        match source {
            SourceHandle::Manifests(source) => self.follow_manifests(source).await,
            SourceHandle::Cluster(access, publisher) => Ok(self.follow_cluster(&access, &publisher).await),
        }
    }

    async fn follow_manifests(mut self, source: ManifestSource) -> anyhow::Result<Infallible> {
        let metrics = Arc::clone(&self.shared.metrics);
        let (mut source, report) = load_manifests(source.counting(Arc::clone(&metrics)), &metrics).await?;
        let Some(report) = report else {
            bail!("reading the manifests panicked, which is a bug in headless-dns: please report it");
        };
        usable(&report)?;
        self.update_progress(&report);
        loop {
            let requester = tokio::select! {
                requester = self.reload_requests.recv() => requester,
                () = changed(&mut self.watcher) => {
                    tracing::info!("reading the manifests again: a file changed");
                    None
                }
            };
            let report;
            (source, report) = load_manifests(source, &metrics).await?;
            report.iter().for_each(|report| self.update_progress(report));
            // The requester may have ended.
            let _ = requester.map(|requester| requester.send(()));
        }
    }

    fn update_progress(&self, report: &LoadReport) {
        if *self.progress.borrow() < Progress::Whole {
            self.progress.send_replace(settle(report, self.config.allow_unreadable, &self.shared.status));
        }
    }

    async fn follow_cluster(self, access: &ClusterAccess, publisher: &Publisher) -> Infallible {
        tracing::info!(server = access.server, "watching a cluster");
        let Self { config, mut reload_requests, progress, shared: Shared { status, metrics, .. }, .. } = self;
        let progress = Arc::new(progress);
        let follow = || {
            let (sender, synced) = oneshot::channel();
            let cluster = cluster(access, &config, config.rules.pod_records);
            let (publisher, status) = (publisher.try_clone_handle(), Arc::clone(&status));
            let (metrics, progress) = (Arc::clone(&metrics), Arc::clone(&progress));
            async move {
                let announce = async {
                    if synced.await.is_ok() {
                        progress.send_replace(Progress::Whole);
                    }
                    pending::<()>().await;
                };
                tokio::select! {
                    () = cluster.follow(publisher, status, &metrics, sender) => {}
                    () = announce => {}
                }
            }
        };
        // A cluster is watched all the time, so that a request to read again completes at once.
        let complete_requests = async {
            while let Some(requester) = reload_requests.recv().await {
                let _ = requester.send(());
            }
            pending().await
        };
        tokio::select! {
            never = supervise("the watch of the cluster", &metrics, follow) => never,
            never = complete_requests => never,
        }
    }
}

/// Decides whether unknown names get NXDOMAIN before the source was read without errors, and sets the status.
fn settle(report: &LoadReport, allow_unreadable: bool, status: &Status) -> Progress {
    if report.complete || allow_unreadable {
        status.set_synced();
        return Progress::Whole;
    }
    /// Maximum number of files in the message; each has a log line of its own before.
    const MAX_NAMED: usize = 3;
    let unread: Vec<String> = report.unread.iter().map(ToString::to_string).collect();
    tracing::error!(
        unread = unread.len(),
        "unknown names get SERVFAIL, or NXDOMAIN with --allow-unreadable, until these can be read: {}",
        unread[..unread.len().min(MAX_NAMED)].join("; ")
    );
    status.set_sentence(unread_sentence(&report.unread));
    status.set_partial(unread);
    Progress::Partial
}

/// Returns the extended error's text for names that may be in an unreadable file: file and line of the first one.
fn unread_sentence(unread: &[Report]) -> String {
    /// Maximum length of the path in characters, cut at its start: the text has to fit into a response with its line number.
    const MAX_PATH_CHARS: usize = 60;
    let Some(Report { file, line, .. }) = unread.first() else { return String::new() };
    let file: Vec<char> = file.escape_default().collect();
    let cut = file.len().saturating_sub(MAX_PATH_CHARS);
    let mut text = format!("cannot read {}{}", if cut > 0 { "..." } else { "" }, String::from_iter(&file[cut..]));
    if let Some(line) = line {
        let _ = write!(text, ", line {line}");
    }
    if let more @ 1.. = unread.len() - 1 {
        let _ = write!(text, ", and {more} more");
    }
    Finding::NotSynced { waiting_for: vec![text], forbidden: false, seconds: 0 }.ede_text()
}

/// Reads the manifests on a thread that may block, and logs the reports. The result is `None` after a panic.
async fn load_manifests(
    mut source: ManifestSource,
    metrics: &Metrics,
) -> anyhow::Result<(ManifestSource, Option<LoadReport>)> {
    let load = move || {
        let report = catch_unwind(AssertUnwindSafe(|| source.load()));
        (source, report)
    };
    let (source, report) = tokio::task::spawn_blocking(load).await.context("reading the manifests failed")?;
    let Ok(report) = report else {
        metrics.worker().count(Event::TaskRestarts);
        tracing::error!("reading the manifests panicked: the zone keeps records of the read before");
        return Ok((source, None));
    };
    report.reports.iter().for_each(Notice::log);
    let (services, addresses) = source.zone().size();
    tracing::info!(services, addresses, serial = source.zone().serial(), "read the manifests");
    Ok((source, Some(report)))
}

/// Completes when a watched file changes; never without a watcher.
pub(super) async fn changed(watcher: &mut Option<ManifestWatcher>) {
    match watcher {
        Some(watcher) => watcher.changed().await,
        None => pending().await,
    }
}

/// Starts to watch the manifests of `config`.
pub(super) fn watch_manifests(config: &Config) -> Option<ManifestWatcher> {
    let Source::Manifests(files) = &config.source else { return None };
    start_watching(&paths(files))
}

/// Starts to watch files. A failure is logged, and the files are then not watched.
pub(super) fn start_watching(paths: &[PathBuf]) -> Option<ManifestWatcher> {
    ManifestWatcher::start(paths).inspect_err(|refused| tracing::warn!("{refused}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::manifests::Cause;
    use headless_dns_core::object::Subject;

    #[test]
    fn text_about_an_unreadable_file_fits_into_a_response() {
        let report = |file: &str, line| Report {
            file: file.into(),
            document: Some(1),
            line,
            cause: Cause::Syntax,
            text: "not told".into(),
            subject: Subject::Unknown,
        };
        for (unread, expected) in [
            (vec![report("a.yaml", Some(7))], "NOT-SYNCED: cannot read a.yaml, line 7"),
            (vec![report("a", None), report("b", None)], "NOT-SYNCED: cannot read a, and 1 more"),
            (vec![report("a\n\u{202e}", None)], "NOT-SYNCED: cannot read a\\n\\u{202e}"),
        ] {
            assert_eq!(unread_sentence(&unread), expected);
        }
        let long = unread_sentence(&[report(&format!("/{}/z.yaml", "x".repeat(300)), Some(123_456))]);
        assert!(long.len() < 120 && long.contains("read ...x") && long.ends_with("x/z.yaml, line 123456"), "{long}");
    }
}
