//! What is shown of a running server, and what it may cost: a few look at much at a time, and nobody keeps the cluster
//! from being changed for long.

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

/// What is looked at.
pub struct View {
    /// What is answered.
    pub zone: Arc<Zone>,
    /// Who knows the cluster.
    pub asker: Asker,
    /// Whether the data can be trusted, and what is waited for.
    pub status: Arc<Status>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Liveness of its workers.
    pub liveness: Liveness,
    /// What else is to be told.
    pub about: About,
}

/// What is known of a server from its start.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// Where the objects come from, for people.
    pub source: String,
    /// Pods run: a cluster is watched, or workloads are simulated.
    pub alive: bool,
    /// The namespace of who asks and names none.
    pub namespace: String,
    /// Where questions are taken; a reload changes it.
    pub listen: Arc<ArcSwap<Addresses>>,
    /// What clients are shown where it is encrypted; none where nothing is.
    pub certificate: Arc<ArcSwapOption<CertificateInUse>>,
    /// Threads that answer.
    pub workers: usize,
}

/// Where questions are taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// Over UDP and TCP.
    pub plain: Vec<SocketAddr>,
    /// Encrypted, each over one transport.
    pub encrypted: Vec<(Transport, SocketAddr)>,
}

/// The certificate that clients are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateInUse {
    /// From when to when it is good; `None` where that cannot be read from it.
    pub good: Option<(SystemTime, SystemTime)>,
    /// Why what its files hold now was not taken: a sentence.
    pub refused: Option<String>,
}

/// How many are sent a whole zone at a time, and for how many the cluster is searched. Others are told to come again.
const ZONES_AT_ONCE: usize = 2;
const SEARCHES_AT_ONCE: usize = 4;
/// How many seconds of rates are kept.
pub(super) const SECONDS: usize = 60;

/// A view, and what is remembered of it.
pub(super) struct Shown {
    pub(super) view: View,
    pub(super) began: Instant,
    rates: Mutex<Rates>,
    pub(super) zones: Room,
    pub(super) searches: Room,
    lint: Mutex<Option<Lint>>,
}

/// Room for those who look at much.
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    fn new(places: usize) -> Self {
        Self(Arc::new(Semaphore::new(places)))
    }

    /// For one more, until it is dropped; `None` where there is none now.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

/// Queries of each of the last seconds.
#[derive(Default)]
struct Rates {
    last: Option<(Instant, u64)>,
    history: VecDeque<f64>,
}

/// What the lint said, when, and how long it took.
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

    /// Counts what is asked in each second, for ever.
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

    /// Queries of each of the last seconds, the oldest first.
    pub(super) fn rates(&self) -> Vec<f64> {
        self.rates.lock().unwrap_or_else(PoisonError::into_inner).history.iter().copied().collect()
    }

    /// Queries since the beginning.
    pub(super) fn queries(&self) -> u64 {
        Transport::ALL.map(|transport| self.view.metrics.total(Event::received(transport))).iter().sum()
    }

    /// What is to be said of a name. Blocks for as long as a search takes.
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

    /// What will not be answered as it is meant. Blocks while it is looked for, which it is not more often than every
    /// 2 s and a twentieth of the time: the cluster cannot be changed meanwhile.
    pub(super) fn lint(&self) -> Arc<Vec<Checked>> {
        let mut lint = self.lint.lock().unwrap_or_else(PoisonError::into_inner);
        let serial = self.view.zone.serial();
        if let Some(Lint { checked, made, took, serial: then }) = &*lint {
            let pause = (*took * 20).max(Duration::from_secs(2));
            // A serial is a second: what came later in it has the same.
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
