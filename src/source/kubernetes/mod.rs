//! A live cluster as the source: one supervised watch for each resource, and one owner of the objects.
//!
//! ```text
//!   API server ──▶ client.rs ──▶ watcher.rs ──▶ WatchUpdate ──▶ sync.rs ──▶ Publisher ──▶ zone
//!                                   │  ▲        (a bounded channel)
//!                         outcome   ▼  │ step
//!                                  state.rs
//! ```
//!
//! [`find`] locates the cluster, [`WatchedCluster::follow`] watches it until it is dropped, [`WatchedCluster::read`] lists it once.
//! Nothing writes to the API server. `kube` is confined to `client.rs`, for configuration, authentication and TLS. Its
//! watcher is not used: it relists without a pause, does not relist after a watch request that is refused with status 410,
//! fails a whole list for one object, and never notices an API server that went back in time. Read next: `state.rs`.

mod client;
mod contact;
mod decode;
#[doc(hidden)]
pub mod fuzzing;
mod probe;
mod state;
mod sync;
mod watcher;

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::bail;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{LoadReport, Notice, NoticeKind, Publisher};
use crate::metrics::{Counters, Event, Metrics};
use headless_dns_core::cluster::Resource;
use headless_dns_core::naming_rules::{EndpointsSource, PodRecords};
use headless_dns_core::object::{Namespace, Object, Subject};
use headless_dns_core::status::Status;

pub use client::{ClusterAccess, Connect, Connecting, find};
pub use state::Timing;
pub use sync::WatchedResource;

use contact::Contact;
use decode::name_of;
use probe::Probe;
use sync::{ClusterSync, LOG_INTERVAL, WatchUpdate};
use watcher::WatchConfig;

/// Returns the resources that a configuration needs. Services and endpoints are required; the rest improves answers
/// where the API server allows it.
pub fn resources(endpoints: EndpointsSource, pods: PodRecords) -> Vec<WatchedResource> {
    let endpoints = match endpoints {
        EndpointsSource::Slices => Resource::EndpointSlices,
        EndpointsSource::Endpoints => Resource::Endpoints,
    };
    let mut wanted = vec![(Resource::Services, true), (endpoints, true)];
    wanted.extend([(Resource::Namespaces, false), (Resource::StatefulSets, false)]);
    if pods == PodRecords::Verified {
        wanted.push((Resource::Pods, false));
    }
    let followed = |(resource, required)| WatchedResource { resource, name: name_of(resource), required };
    wanted.into_iter().map(followed).collect()
}

/// The part of a cluster that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Namespace of the objects; `None` for all namespaces.
    pub namespace: Option<Box<str>>,
    /// Label selector of the Services; `None` for all. Endpoints of other Services stay unused.
    pub selector: Option<Box<str>>,
}

/// A cluster, and the resources to watch in it.
pub struct WatchedCluster {
    connect: Connect,
    resources: Vec<WatchedResource>,
    timing: Timing,
    scope: Arc<Scope>,
}

impl WatchedCluster {
    /// Describes the cluster. No request is made yet.
    pub fn new(connect: Connect, resources: Vec<WatchedResource>, timing: Timing) -> Self {
        Self { connect, resources, timing, scope: Arc::default() }
    }

    /// Restricts the cluster to a scope. With a namespace, Namespaces are not watched: a Role cannot grant access to
    /// them.
    pub fn with_scope(mut self, scope: Scope) -> Self {
        if scope.namespace.is_some() {
            self.resources.retain(|followed| followed.resource != Resource::Namespaces);
        }
        Self { scope: Arc::new(scope), ..self }
    }

    /// Returns the object that is known without a request: the namespace of the scope exists.
    fn given_namespace(&self) -> Option<Object> {
        self.scope.namespace.clone().map(|name| Object::Namespace(Namespace::new(name)))
    }

    /// Watches the cluster until the future is dropped: publishes changes, keeps `status`, and sends to `synced` once
    /// everything was listed.
    pub async fn follow(
        self,
        publisher: Publisher,
        status: Arc<Status>,
        metrics: &Arc<Metrics>,
        synced: oneshot::Sender<()>,
    ) {
        /// Capacity of the channel of updates.
        const WAITING: usize = 1024;
        let stale = self.timing.stale;
        let publisher = publisher.with_metrics(Arc::clone(metrics));
        let mut sync = ClusterSync::new(publisher, status, metrics.worker(), &self.resources, &self.timing);
        let given = self.given_namespace().map(|object| WatchUpdate::Apply(Box::new(object), Vec::new(), None));
        sync.apply_updates(given, Instant::now());
        let mut synced = Some(synced);
        let (sender, mut updates) = mpsc::channel(WAITING);
        let mut watches = Watches {
            cluster: self,
            sender,
            tasks: JoinSet::new(),
            running: HashMap::new(),
            reachable: Arc::default(),
            contact: Arc::default(),
            metrics: Arc::clone(metrics),
            logged: None,
        };
        watches.start();
        let mut probe = std::pin::pin!(watches.probe().run());
        let counters = metrics.worker();
        let mut ticks = interval((stale / 30).max(std::time::Duration::from_millis(10)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(WAITING);
        loop {
            tokio::select! {
                _ = updates.recv_many(&mut batch, WAITING) => sync.apply_updates(batch.drain(..), Instant::now()),
                () = watches.ended(&counters) => {}
                never = &mut probe => match never {},
                _ = ticks.tick() => sync.tick(Instant::now()),
            }
            if sync.is_synced()
                && let Some(synced) = synced.take()
            {
                // The receiver may be dropped: not every caller waits.
                let _ = synced.send(());
            }
        }
    }

    /// Lists the cluster once and returns its objects with a report. Denied optional resources leave the report
    /// complete.
    ///
    /// # Errors
    ///
    /// If a required resource cannot be listed.
    pub async fn read(&self) -> anyhow::Result<(Vec<Object>, LoadReport)> {
        let (mut objects, mut reports, mut complete) = (Vec::from_iter(self.given_namespace()), Vec::new(), true);
        for WatchedResource { resource, name, required } in &self.resources {
            let listed = match watcher::list_once(&self.connect, self.timing, *resource, &self.scope).await {
                Ok(listed) => listed,
                Err(failure) if *required => bail!("cannot list {name}: {}", failure.state()),
                Err(failure) => {
                    let text = format!("cannot list {name}, which are optional: {}", failure.state());
                    reports.push(Notice { kind: NoticeKind::Optional, subject: Subject::Unknown, text });
                    continue;
                }
            };
            for watched in listed {
                match watched.object {
                    Ok((object, skipped)) => {
                        objects.push(object);
                        reports.extend(skipped.into_iter().map(Notice::from_skipped));
                    }
                    Err(invalid) => {
                        reports.push(Notice {
                            kind: NoticeKind::Whole,
                            subject: Subject::Unknown,
                            text: invalid.to_string(),
                        });
                        complete = false;
                    }
                }
            }
        }
        Ok((objects, LoadReport { reports, complete, unread: Vec::new(), unusable: Vec::new() }))
    }
}

/// The watch tasks, one for each resource.
struct Watches {
    cluster: WatchedCluster,
    sender: mpsc::Sender<WatchUpdate>,
    tasks: JoinSet<()>,
    running: HashMap<Id, (WatchedResource, Arc<Counters>)>,
    /// Notified when a lost watch is proven again.
    reachable: Arc<Notify>,
    contact: Arc<Contact>,
    metrics: Arc<Metrics>,
    /// Time of the last log line about a watch task that ended.
    logged: Option<Instant>,
}

impl Watches {
    fn start(&mut self) {
        for resource in self.cluster.resources.clone() {
            self.spawn(resource, self.metrics.worker(), false);
        }
    }

    fn spawn(&mut self, resource: WatchedResource, counters: Arc<Counters>, again: bool) {
        let config = WatchConfig {
            resource,
            connect: Arc::clone(&self.cluster.connect),
            timing: self.cluster.timing,
            updates: self.sender.clone(),
            counters: Arc::clone(&counters),
            metrics: Arc::clone(&self.metrics),
            reachable: Arc::clone(&self.reachable),
            contact: Arc::clone(&self.contact),
            scope: Arc::clone(&self.cluster.scope),
        };
        let wait = again.then_some(self.cluster.timing.back_off[0]);
        let task = self.tasks.spawn(config.run(wait));
        self.running.insert(task.id(), (resource, counters));
    }

    /// Returns the probe of the API server. It lists the first resource, which is required.
    fn probe(&self) -> Probe {
        Probe {
            contact: Arc::clone(&self.contact),
            connect: Arc::clone(&self.cluster.connect),
            resource: self.cluster.resources.first().map_or(Resource::Services, |followed| followed.resource),
            scope: Arc::clone(&self.cluster.scope),
            timing: self.cluster.timing,
            updates: self.sender.clone(),
            reachable: Arc::clone(&self.reachable),
        }
    }

    /// Waits for a watch task that ends, which is a defect (K9 of `tests/rows.md`), and starts it again.
    async fn ended(&mut self, counters: &Counters) {
        let Some(ended) = self.tasks.join_next_with_id().await else { return std::future::pending().await };
        let (id, why) = match ended {
            Ok((id, ())) => (id, "it ended".to_owned()),
            Err(error) => (error.id(), error.to_string()),
        };
        if let Some((resource, own)) = self.running.remove(&id) {
            counters.count(Event::WatchRestarts);
            if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
                tracing::error!("the watch of {} is started again: {why}", resource.name);
                self.logged = Some(Instant::now());
            }
            self.spawn(resource, own, true);
        }
    }
}
