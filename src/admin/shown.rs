//! The state behind the admin listener: handles of the running server, and limits on expensive requests.
//!
//! Few clients export a zone or search the cluster at a time, and the lint holds the cluster's lock for a small share of
//! the time. Not here: the responses (`api.rs`, `page.rs`).

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{MissedTickBehavior, interval};

use crate::cluster::Resource;
use crate::config::AskedName;
use crate::explain::{self, Asker, Checked, Known, Seen};
use crate::liveness::Liveness;
use crate::metrics::{Event, Metrics};
use crate::names::WireName;
use crate::show::explained::Explained;
use crate::show::explaining::{self, Read, Sought};
use crate::status::Status;
use crate::transport::Transport;
use crate::zone::Zone;

use super::route::Question;

/// Handles of the running server.
pub struct View {
    /// The records.
    pub zone: Arc<Zone>,
    /// Read access to the cluster, for explanations.
    pub asker: Asker,
    /// State of the data and of the watches.
    pub status: Arc<Status>,
    /// The counters.
    pub metrics: Arc<Metrics>,
    /// Heartbeats of the workers.
    pub liveness: Liveness,
    /// Description of the server.
    pub about: About,
}

/// A description of the server, fixed at its start unless noted.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Name of the source, for people.
    pub source: String,
    /// Pods run: the source is a live cluster, or simulates workloads.
    pub alive: bool,
    /// Namespace for explanations that name none.
    pub namespace: String,
    /// Addresses of the DNS listeners. A reload changes them.
    pub listen: Arc<ArcSwap<Addresses>>,
    /// Certificate of the encrypted listeners; `None` without such listeners.
    pub certificate: Arc<ArcSwapOption<CertificateInUse>>,
    /// Number of worker threads.
    pub workers: usize,
}

/// Addresses of the DNS listeners.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
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
const ZONES_AT_ONCE: usize = 2;
const SEARCHES_AT_ONCE: usize = 4;
/// Number of seconds for which query rates are kept.
pub(super) const SECONDS: usize = 60;

/// Handles of the server, with the state of the admin listener.
pub(super) struct Shown {
    pub(super) view: View,
    pub(super) began: Instant,
    rates: Mutex<Rates>,
    pub(super) zones: Room,
    pub(super) searches: Room,
    lint: Mutex<Option<Lint>>,
}

/// A pool of permits for expensive requests.
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }

    /// Takes a permit until the result is dropped; `None` if all are taken.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

/// Query rates of the last seconds.
#[derive(Default)]
struct Rates {
    last: Option<(Instant, u64)>,
    history: VecDeque<f64>,
}

/// Findings of the last lint, with its time and duration.
struct Lint {
    checked: Arc<Vec<Checked>>,
    made: Instant,
    took: Duration,
    serial: u32,
}

impl Shown {
    pub(super) fn new(view: View) -> Self {
        Self {
            view,
            began: Instant::now(),
            rates: Mutex::default(),
            zones: Room::new(ZONES_AT_ONCE),
            searches: Room::new(SEARCHES_AT_ONCE),
            lint: Mutex::new(None),
        }
    }

    /// Records the query rate of each second, until the future is dropped.
    pub(super) async fn count(&self) {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            seconds.tick().await;
            let (now, queries) = (Instant::now(), self.queries());
            let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((before, counted)) = rates.last.replace((now, queries)) {
                let rate = queries.saturating_sub(counted) as f64 / (now - before).as_secs_f64();
                rates.history.push_back(rate);
                if rates.history.len() > SECONDS {
                    rates.history.pop_front();
                }
            }
        }
    }

    /// Returns the queries per second of the last seconds, the oldest first.
    pub(super) fn rates(&self) -> Vec<f64> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).history.iter().copied().collect()
    }

    /// Returns the number of queries since the start.
    pub(super) fn queries(&self) -> u64 {
        Transport::ALL.map(|transport| self.view.metrics.total(Event::received(transport))).iter().sum()
    }

    /// Explains a name. Blocks for the duration of a search.
    pub(super) fn explain(&self, question: &Question) -> anyhow::Result<Explained> {
        let View { zone, asker, about, .. } = &self.view;
        let name: &AskedName = &question.name;
        let namespace = question.namespace.as_deref().unwrap_or(&about.namespace);
        let zones: &[WireName] = &zone.settings().apexes;
        let sought = Sought { name, qtype: question.qtype, zones, namespace };
        explaining::explain(zone, asker, &sought, |known| self.hints(known), Read { whole: true, may_deny: true })
    }

    fn hints(&self, known: &Known<'_>) -> Vec<String> {
        let mut hints = Vec::new();
        if known.extent.selected {
            hints.push("Services without the labels of --selector were not read: they may exist".into());
        }
        if !self.is_alive(known) {
            hints.push("these manifests hold no endpoints: --simulate brings their workloads to life".into());
        }
        hints
    }

    fn is_alive(&self, known: &Known<'_>) -> bool {
        let written = [Resource::EndpointSlices, Resource::Endpoints];
        self.view.about.alive || written.iter().any(|resource| known.cluster.count(*resource) > 0)
    }

    /// Returns the findings of the lint. The lint blocks changes of the cluster, so it runs at most every 2 s, and for
    /// at most a twentieth of the time.
    pub(super) fn lint(&self) -> Arc<Vec<Checked>> {
        let mut lint = self.lint.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = self.view.zone.serial();
        if let Some(Lint { checked, made, took, serial: then }) = &*lint {
            let pause = (*took * 20).max(Duration::from_secs(2));
            // Changes within one second have the same serial, so the findings are not kept for ever.
            if made.elapsed() < pause || *then == serial && made.elapsed() < pause * 10 {
                return Arc::clone(checked);
            }
        }
        let begun = Instant::now();
        let reverse = self.view.zone.reverse_zones();
        let checked = Arc::new(self.view.asker.with(|known| {
            let seen = Seen { whole: self.view.status.data_state().may_deny(), alive: self.is_alive(known) };
            explain::check(known, &reverse, seen)
        }));
        *lint = Some(Lint { checked: Arc::clone(&checked), made: Instant::now(), took: begun.elapsed(), serial });
        checked
    }
}
