//! The state behind the admin listener: handles of the running server, and limits on expensive requests.
//!
//! Few clients export a zone or search the cluster at a time, and the lint holds the cluster's lock for a small share of
//! the time. Not here: the responses (`api.rs`, `page.rs`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::NameSpec;
use crate::metrics::{Event, Metrics};
use crate::report::explain::{self, ExplainQuery, SourceState};
use crate::report::explain_report::ExplainReport;
use crate::server::heartbeats::Heartbeats;
use headless_dns_core::cluster::Resource;
use headless_dns_core::diagnose::{self, CheckScope, Checked, Diagnostics, DiagnosticsView};
use headless_dns_core::lock::lock;
use headless_dns_core::name::WireName;
use headless_dns_core::status::Status;
use headless_dns_core::transport::Transport;
use headless_dns_core::zone::Zone;

use super::params::ExplainParams;

/// Handles of the running server.
pub struct AdminContext {
    /// The records.
    pub zone: Arc<Zone>,
    /// Read access to the cluster, for explanations.
    pub diagnostics: Diagnostics,
    /// State of the data and of the watches.
    pub status: Arc<Status>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Heartbeats of the workers.
    pub liveness: Heartbeats,
    /// Description of the server.
    pub info: ServerInfo,
}

/// A description of the server, fixed at its start unless noted.
#[derive(Clone, Debug, Default)]
pub struct ServerInfo {
    /// Name of the source, for people.
    pub source: String,
    /// Pods run: the source is a live cluster, or simulates workloads.
    pub alive: bool,
    /// Namespace for explanations that name none.
    pub namespace: String,
    /// Addresses of the DNS listeners. A reload changes them.
    pub listen: Arc<ArcSwap<ListenAddresses>>,
    /// Certificate of the encrypted listeners; `None` without such listeners.
    pub certificate: Arc<ArcSwapOption<CertificateInUse>>,
    /// Number of worker threads.
    pub workers: usize,
}

/// Addresses of the DNS listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenAddresses {
    /// Addresses for UDP and TCP.
    pub plain: Vec<SocketAddr>,
    /// Addresses of encrypted transports.
    pub encrypted: Vec<(Transport, SocketAddr)>,
}

/// The certificate of the encrypted listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateInUse {
    /// Beginning and end of its validity; `None` if they cannot be parsed.
    pub good: Option<(SystemTime, SystemTime)>,
    /// Reason for which the present contents of the certificate's files are rejected; `None` if they are in use.
    pub refused: Option<String>,
}

/// Limits on concurrent zone exports and searches. Beyond them the status is 503 with `Retry-After`.
const MAX_ZONE_EXPORTS: usize = 2;
const MAX_SEARCHES: usize = 4;
/// Number of seconds for which query rates are kept.
pub(super) const RATE_HISTORY_SECONDS: usize = 60;

/// Handles of the server, with the state of the admin listener.
pub(super) struct AdminState {
    pub(super) context: AdminContext,
    pub(super) started_at: Instant,
    rates: Mutex<Rates>,
    pub(super) zones: Arc<Semaphore>,
    pub(super) searches: Arc<Semaphore>,
    check_cache: Mutex<Option<CheckCache>>,
}

/// Query rates of the last seconds.
#[derive(Default)]
struct Rates {
    last: Option<(Instant, u64)>,
    history: VecDeque<f64>,
}

/// Findings of the last lint, with its time and duration.
struct CheckCache {
    checked: Arc<Vec<Checked>>,
    made: Instant,
    took: Duration,
    serial: u32,
}

impl AdminState {
    pub(super) fn new(view: AdminContext) -> Self {
        Self {
            context: view,
            started_at: Instant::now(),
            rates: Mutex::default(),
            zones: Arc::new(Semaphore::new(MAX_ZONE_EXPORTS)),
            searches: Arc::new(Semaphore::new(MAX_SEARCHES)),
            check_cache: Mutex::new(None),
        }
    }

    /// Records the query rate of each second, until the future is dropped.
    pub(super) async fn count(&self) {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            seconds.tick().await;
            let (now, queries) = (Instant::now(), self.queries());
            let mut rates = lock(&self.rates);
            if let Some((before, counted)) = rates.last.replace((now, queries)) {
                let rate = queries.saturating_sub(counted) as f64 / (now - before).as_secs_f64();
                rates.history.push_back(rate);
                if rates.history.len() > RATE_HISTORY_SECONDS {
                    rates.history.pop_front();
                }
            }
        }
    }

    /// Returns the queries per second of the last seconds, the oldest first.
    pub(super) fn rates(&self) -> Vec<f64> {
        lock(&self.rates).history.iter().copied().collect()
    }

    /// Returns the number of queries since the start.
    pub(super) fn queries(&self) -> u64 {
        Transport::ALL.map(|transport| self.context.metrics.total(Event::received(transport))).iter().sum()
    }

    /// Explains a name. Blocks for the duration of a search.
    pub(super) fn explain(&self, params: &ExplainParams) -> anyhow::Result<ExplainReport> {
        let AdminContext { zone, diagnostics: asker, info: about, .. } = &self.context;
        let name: &NameSpec = &params.name;
        let namespace = params.namespace.as_deref().unwrap_or(&about.namespace);
        let zones: &[WireName] = &zone.settings().apexes;
        let query = ExplainQuery { name, qtype: params.qtype, zones, namespace };
        explain::explain(
            zone,
            asker,
            &query,
            |known| self.hints(known),
            SourceState { is_complete: true, may_deny: true },
        )
    }

    fn hints(&self, known: &DiagnosticsView<'_>) -> Vec<String> {
        let mut hints = Vec::new();
        if known.extent.selected {
            hints.push("Services without the labels of --selector were not read: they may exist".into());
        }
        if !self.is_alive(known) {
            hints.push("these manifests have no endpoints: --simulate creates the Pods of their workloads".into());
        }
        hints
    }

    fn is_alive(&self, known: &DiagnosticsView<'_>) -> bool {
        let written = [Resource::EndpointSlices, Resource::Endpoints];
        self.context.info.alive || written.iter().any(|resource| known.cluster.count(*resource) > 0)
    }

    /// Returns the findings of the lint. The lint blocks changes of the cluster, so it runs at most every 2 s, and for
    /// at most a twentieth of the time.
    pub(super) fn check_findings(&self) -> Arc<Vec<Checked>> {
        let mut lint = lock(&self.check_cache);
        let serial = self.context.zone.serial();
        if let Some(CheckCache { checked, made, took, serial: then }) = &*lint {
            let pause = (*took * 20).max(Duration::from_secs(2));
            // Changes within one second have the same serial, so the findings are not kept for ever.
            if made.elapsed() < pause || *then == serial && made.elapsed() < pause * 10 {
                return Arc::clone(checked);
            }
        }
        let begun = Instant::now();
        let reverse = self.context.zone.reverse_zones();
        let checked = Arc::new(self.context.diagnostics.with_view(|known| {
            let seen = CheckScope {
                is_complete: self.context.status.data_state().may_deny(),
                has_live_pods: self.is_alive(known),
            };
            diagnose::check(known, &reverse, seen)
        }));
        *lint = Some(CheckCache { checked: Arc::clone(&checked), made: Instant::now(), took: begun.elapsed(), serial });
        checked
    }
}
