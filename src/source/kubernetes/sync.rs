//! The owner of a live cluster's objects: applies the updates of all watches and publishes each batch at once.
//!
//! Updates arrive in batches. A Service that many events of a batch change is built once. Nothing is published before
//! every required resource was listed, so that no name is denied too early; the changes of a relist are published together
//! at its end. Row ids (K11, K14, R6) are those of `tests/rows.md`. Not here: requests to the API server, and the steps of
//! one watch (`kubernetes/`). Read next: `ClusterSync::take`.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::state::Timing;
use crate::metrics::{Counters, Event, table};
use crate::source::Publisher;
use headless_dns_core::cluster::{Contributor, Resource};
use headless_dns_core::diagnose::Finding;
use headless_dns_core::object::{Object, ObjectRef, ServiceKind, Skipped};
use headless_dns_core::status::{DataState, Loss, LossReason, Status, WatchState, WatchStatus};

/// A message from one watch, or from the probe, to the owner of the cluster.
pub(super) enum WatchUpdate {
    /// The watch of this resource is established.
    Connected(Resource),
    /// The watch of this resource failed.
    Lost {
        /// Resource of the watch.
        resource: Resource,
        /// [`WatchState::Denied`] or [`WatchState::Lost`].
        state: WatchState,
        /// Beginning of the loss: the objects are known to be current up to this time.
        since: Instant,
    },
    /// No octet came from the API server since this time, and a probe failed: every watch counts as lost, even one
    /// whose connection is still open.
    NoContact {
        /// Time of the last octet.
        since: Instant,
        /// Reason of the failed probe.
        loss: Loss,
    },
    /// The API server sends octets again.
    Contact,
    /// A list of this resource begins. The flag marks an audit: each of its changes is an event that was missed (K14).
    Begin(Resource, bool),
    /// An object as the API server has it now, the parts that were left out of it, and the time of the change in the
    /// cluster, if the object notes it.
    Apply(Box<Object>, Vec<Skipped>, Option<SystemTime>),
    /// An object that cannot be decoded, with the reason.
    Invalid(String),
    /// An object was deleted.
    Delete(Resource, ObjectRef),
    /// A list ends: objects that were not in it are deleted, unless they are too many.
    End {
        /// Resource that was listed.
        resource: Resource,
        /// True for the second of two lists: it is applied however many objects it deletes (K11).
        confirmed: bool,
        /// Receives the result.
        reply: oneshot::Sender<RelistOutcome>,
    },
}

/// Result of the end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelistOutcome {
    /// The objects that were not in the list are deleted.
    Done,
    /// The list would delete most of the known objects: none is deleted until a second list confirms it (K11).
    Suspicious {
        /// Number of known objects that were not in the list.
        unseen: usize,
        /// Number of known objects.
        known: usize,
    },
}

/// A resource to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchedResource {
    /// Resource to watch.
    pub resource: Resource,
    /// Name of the resource in the Kubernetes API.
    pub name: &'static str,
    /// Readiness of the server depends on it.
    pub required: bool,
}

struct WatchEntry {
    resource: WatchedResource,
    state: WatchState,
    /// Time of the last change of `state`.
    since: Option<Instant>,
    /// A list was read to its end at least once.
    listed: bool,
    /// The watch was established at least once. A list alone goes stale at once, and does not count.
    followed: bool,
    lost_since: Option<Instant>,
    /// Reason of the present loss, once its log line is pending or written.
    noted: Option<LossReason>,
    /// A log line reports the present loss.
    logged: bool,
    auditing: bool,
    /// Contributors that the relist in progress has made dirty so far; `None` while no relist runs.
    relist: Option<HashSet<Contributor>>,
}

impl WatchEntry {
    /// Returns whether the first publication does not have to wait for this resource. An optional resource may be
    /// denied, and with `late` (the required ones are complete, and 2 s passed) it may be lost.
    fn is_settled(&self, late: bool) -> bool {
        let given_up = match self.state {
            WatchState::Denied(_) => true,
            WatchState::Lost(_) => late,
            WatchState::Waiting | WatchState::Current => false,
        };
        self.followed || !self.resource.required && given_up
    }

    /// Returns the state and the beginning of a loss, with a loss of contact taken into account.
    fn effective_state(&self, no_contact: Option<&NoContact>) -> (WatchState, Option<Instant>) {
        match (&self.state, no_contact) {
            (WatchState::Current, Some(NoContact { since, loss })) => (WatchState::Lost(loss.clone()), Some(*since)),
            (state, _) => (state.clone(), self.lost_since),
        }
    }
}

/// A loss of contact with the API server.
struct NoContact {
    since: Instant,
    loss: Loss,
}

/// Minimum time between two log lines about one reason.
pub(super) const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Losses without a log line yet: one line is written for each reason, for all resources that it concerns.
#[derive(Default)]
struct LossLog {
    pending: BTreeMap<LogKey, (WatchState, BTreeSet<Resource>)>,
    last: BTreeMap<LogKey, Instant>,
}

/// Subject of a log line. Missing rights are reported for each resource alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum LogKey {
    Loss(LossReason, Option<Resource>),
    Recovery,
    Stale,
    HoldDown,
}

impl LossLog {
    /// Records the loss of a resource, unless it is recorded for the present reason already.
    fn note(&mut self, follow: &mut WatchEntry, state: &WatchState) {
        let resource = follow.resource.resource;
        let Some(reason) = state.reason().filter(|reason| follow.noted != Some(*reason)) else { return };
        follow.noted = Some(reason);
        let of = matches!(reason, LossReason::Denied(_)).then_some(resource);
        let pending = self.pending.entry(LogKey::Loss(reason, of));
        pending.or_insert_with(|| (state.clone(), BTreeSet::new())).1.insert(resource);
    }

    /// Returns whether a line about `key` may be written now, and if so starts its interval.
    fn is_due(&mut self, key: LogKey, now: Instant) -> bool {
        let due = self.last.get(&key).is_none_or(|last| now - *last >= LOG_INTERVAL);
        if due {
            self.last.insert(key, now);
        }
        due
    }

    /// Removes and returns the losses whose line is due. The rest stays pending, without the resources that `is_lost`
    /// reports as recovered.
    fn due(&mut self, now: Instant, is_lost: impl Fn(Resource) -> bool) -> Vec<(WatchState, BTreeSet<Resource>)> {
        let mut due = Vec::new();
        for (key, (state, mut resources)) in std::mem::take(&mut self.pending) {
            if self.is_due(key, now) {
                due.push((state, resources));
                continue;
            }
            resources.retain(|resource| is_lost(*resource));
            if !resources.is_empty() {
                self.pending.insert(key, (state, resources));
            }
        }
        due
    }
}

/// The owner of the cluster's objects: applies updates through a [`Publisher`] and keeps the [`Status`].
pub(super) struct ClusterSync {
    publisher: Publisher,
    status: Arc<Status>,
    counters: Arc<Counters>,
    stale: Duration,
    mass_delete_guard: usize,
    watches: BTreeMap<Resource, WatchEntry>,
    dirty: HashSet<Contributor>,
    synced: bool,
    /// The zone has contents already, from an owner that was aborted or from a snapshot. They are served until the
    /// first synchronization completes.
    is_resync: bool,
    /// Time of the first tick without a complete synchronization.
    since: Option<Instant>,
    /// Time at which the last required resource was complete.
    required_since: Option<Instant>,
    /// Addresses changed since the reverse zones were last derived.
    reverse_dirty: bool,
    no_contact: Option<NoContact>,
    log: LossLog,
    logged_objects: HashSet<String>,
    /// Services with the time at which their endpoints changed, to be observed at the next publication.
    change_times: Vec<(ObjectRef, SystemTime)>,
}

impl ClusterSync {
    /// Starts without objects. If `status` shows that a zone is served already, that zone stays in service until
    /// everything was listed again. Of `timing` only
    /// [`Timing::stale`] and [`Timing::mass_delete_guard`] are used.
    pub(super) fn new(
        publisher: Publisher,
        status: Arc<Status>,
        counters: Arc<Counters>,
        followed: &[WatchedResource],
        timing: &Timing,
    ) -> Self {
        let follow = |what: &WatchedResource| {
            let follow = WatchEntry {
                resource: *what,
                state: WatchState::Waiting,
                since: None,
                listed: false,
                followed: false,
                lost_since: None,
                noted: None,
                logged: false,
                auditing: false,
                relist: None,
            };
            (what.resource, follow)
        };
        let resumed = status.data_state() != DataState::NotSynced;
        let sync = Self {
            publisher,
            is_resync: resumed,
            status,
            counters,
            stale: timing.stale,
            mass_delete_guard: timing.mass_delete_guard,
            watches: followed.iter().map(follow).collect(),
            dirty: HashSet::new(),
            synced: false,
            since: None,
            required_since: None,
            reverse_dirty: false,
            no_contact: None,
            log: LossLog::default(),
            logged_objects: HashSet::new(),
            change_times: Vec::new(),
        };
        sync.publish_status();
        // R6: the configured reverse zones are served from the start, or their queries would be refused until the first
        // list.
        sync.publisher.refresh_reverse_zones();
        sync
    }

    /// Applies a batch of updates in order, and publishes their changes at once.
    pub(super) fn apply_updates(&mut self, updates: impl IntoIterator<Item = WatchUpdate>, now: Instant) {
        updates.into_iter().for_each(|update| self.update(update, now));
        if !self.synced {
            self.sync_if_settled(now);
        } else if !self.dirty.is_empty() {
            self.reverse_dirty = true;
            let dirty = self.changed();
            self.publish(dirty);
            self.publisher.published(now.into_std());
            self.observe_programming();
        }
    }

    /// Observes how long changes of the cluster took to be published. Like CoreDNS's metric it covers headless Services
    /// with a selector: a controller writes their slices and notes the time of the change.
    fn observe_programming(&mut self) {
        let now = SystemTime::now();
        for (service, triggered) in std::mem::take(&mut self.change_times) {
            let controlled = self
                .publisher
                .cluster()
                .service(&service)
                .service
                .is_some_and(|service| service.kind == ServiceKind::Headless && !service.selector.is_empty());
            if controlled {
                let took = now.duration_since(triggered).unwrap_or_default();
                self.publisher.metrics.observe(&table::PROGRAMMING, &["headless_with_selector"], took);
            }
        }
    }

    /// Notes the time of a change for [`Self::observe_programming`]. Objects of a list are left out: they may have
    /// changed long before this server started.
    fn note_trigger(&mut self, resource: Resource, dirty: &[Contributor], triggered: Option<SystemTime>) {
        let watched = self.watches.get(&resource).is_some_and(|follow| follow.followed && follow.relist.is_none());
        if let Some(triggered) = triggered.filter(|_| self.synced && watched) {
            self.change_times.extend(dirty.iter().filter_map(|contributor| match contributor {
                Contributor::Service(service) => Some((service.clone(), triggered)),
                _ => None,
            }));
        }
    }

    /// Returns whether everything was read once.
    pub(super) fn is_synced(&self) -> bool {
        self.synced
    }

    /// Applies the effects of time: stale answers, and reverse zones derived from new addresses.
    pub(super) fn tick(&mut self, now: Instant) {
        let required = self.watches.values().filter(|follow| follow.resource.required);
        let lost = required.filter_map(|follow| {
            let (state, since) = follow.effective_state(self.no_contact.as_ref());
            Some((since?, state.reason()?, follow.resource.name))
        });
        let lost = lost.min();
        let lost_for = lost.map(|(since, ..)| now - since);
        let cut_off = lost.filter(|(since, ..)| now - *since >= self.stale);
        self.log_changes(now);
        if !self.synced {
            self.sync_if_settled(now);
        }
        // The sentence first, then the state: a response that carries the state must find its sentence.
        if !self.synced && self.status.data_state() == DataState::Restored {
            // The sentence of the snapshot, with its age, stays.
        } else if !self.synced && self.is_resync {
            let seconds = (now - *self.since.get_or_insert(now)).as_secs();
            let (reason, resource) = lost.map_or((LossReason::OutOfReach, ""), |(_, reason, name)| (reason, name));
            self.status.set_sentence(Finding::Stale { reason, resource, seconds }.ede_text());
        } else if !self.synced {
            self.set_not_synced_sentence(now);
        } else if let Some((since, reason, resource)) = cut_off {
            let sentence = Finding::Stale { reason, resource, seconds: (now - since).as_secs() }.ede_text();
            if self.status.data_state() != DataState::Stale && self.log.is_due(LogKey::Stale, now) {
                tracing::warn!("answers carry the extended error {sentence}");
            }
            self.status.set_sentence(sentence);
        }
        self.status.set_cut_off(cut_off.is_some() || self.is_resync && !self.synced);
        self.publisher.metrics.set(&table::LOST, &[], lost_for.unwrap_or_default().as_secs_f64());
        if std::mem::take(&mut self.reverse_dirty) {
            self.publisher.refresh_reverse_zones();
        }
    }

    fn set_not_synced_sentence(&mut self, now: Instant) {
        let denied = |follow: &WatchEntry| follow.resource.required && matches!(follow.state, WatchState::Denied(_));
        let finding = Finding::NotSynced {
            waiting_for: self.status.waiting_for(),
            forbidden: self.watches.values().any(denied),
            seconds: (now - *self.since.get_or_insert(now)).as_secs(),
        };
        self.status.set_sentence(finding.ede_text());
    }

    fn update(&mut self, update: WatchUpdate, now: Instant) {
        match update {
            WatchUpdate::Connected(resource) => self.set_state(resource, WatchState::Current, now),
            WatchUpdate::Lost { resource, state, since } => {
                if let Some(follow) = self.watches.get_mut(&resource) {
                    follow.lost_since = Some(since);
                }
                self.set_state(resource, state, now);
            }
            WatchUpdate::NoContact { since, loss } => {
                let state = WatchState::Lost(loss.clone());
                for follow in self.watches.values_mut().filter(|follow| follow.state == WatchState::Current) {
                    self.log.note(follow, &state);
                }
                self.no_contact = Some(NoContact { since, loss });
                self.publish_status();
            }
            WatchUpdate::Contact => {
                self.no_contact = None;
                self.publish_status();
            }
            WatchUpdate::Begin(resource, audit) => {
                self.publisher.cluster_mut().begin_relist(resource);
                if let Some(follow) = self.watches.get_mut(&resource) {
                    follow.auditing = audit;
                    if follow.listed {
                        // Keep the changes of a list that failed half-way: they are published with the next one.
                        follow.relist.get_or_insert_default();
                    }
                }
            }
            WatchUpdate::Apply(object, skipped, triggered) => {
                let resource = Resource::for_object(&object);
                let dirty = self.publisher.cluster_mut().apply(*object);
                self.note_trigger(resource, &dirty, triggered);
                self.touch(resource, dirty);
                for skipped in skipped {
                    self.publisher.metrics.count(&table::REJECTED, &[skipped.reason.label()]);
                    self.warn_once(skipped.text);
                }
            }
            WatchUpdate::Invalid(why) => {
                self.counters.count(Event::ObjectsSkipped);
                self.publisher.metrics.count(&table::REJECTED, &["invalid"]);
                self.warn_once(why);
            }
            WatchUpdate::Delete(resource, key) => {
                let dirty = self.publisher.cluster_mut().delete(resource, &key);
                self.touch(resource, dirty);
            }
            WatchUpdate::End { resource, confirmed, reply } => {
                // The send fails if the watch was aborted. Its successor lists again.
                let _ = reply.send(self.end(resource, confirmed));
            }
        }
    }

    fn end(&mut self, resource: Resource, confirmed: bool) -> RelistOutcome {
        let (known, unseen) = self.publisher.cluster().unseen_count(resource);
        if !confirmed && is_suspicious(known, unseen, self.mass_delete_guard) {
            if self.log.is_due(LogKey::HoldDown, Instant::now()) {
                tracing::warn!(
                    "a list of {} would remove {unseen} of {known} objects: listing again over a new connection first",
                    self.watches.get(&resource).map_or("objects", |follow| follow.resource.name)
                );
            }
            return RelistOutcome::Suspicious { unseen, known };
        }
        let dirty = self.publisher.cluster_mut().finish_relist(resource);
        self.touch(resource, dirty);
        if let Some(follow) = self.watches.get_mut(&resource) {
            (follow.listed, follow.auditing) = (true, false);
            self.dirty.extend(follow.relist.take().into_iter().flatten());
        }
        RelistOutcome::Done
    }

    fn touch(&mut self, resource: Resource, dirty: Vec<Contributor>) {
        // An object that is given by the configuration and not watched: the namespace of `--namespace`.
        let Some(follow) = self.watches.get_mut(&resource) else { return self.dirty.extend(dirty) };
        if !dirty.is_empty() && follow.auditing {
            self.counters.count(Event::AuditRepairs);
        }
        follow.relist.as_mut().unwrap_or(&mut self.dirty).extend(dirty);
    }

    fn set_state(&mut self, resource: Resource, state: WatchState, now: Instant) {
        let Some(follow) = self.watches.get_mut(&resource) else { return };
        // The API server accepts the watch, but its list has not ended yet.
        let state = if state == WatchState::Current && !follow.listed { WatchState::Waiting } else { state };
        follow.followed |= state == WatchState::Current;
        if matches!(state, WatchState::Current | WatchState::Waiting) {
            follow.lost_since = None;
        }
        // The list of an optional resource may never end. Its changes must not hold back those of other resources for
        // the Services that it touched.
        if follow.lost_since.is_some() && !follow.resource.required {
            self.dirty.extend(follow.relist.take().into_iter().flatten());
        }
        let old = std::mem::replace(&mut follow.state, state);
        if old == follow.state {
            return;
        }
        // Another reason does not begin another failure.
        if std::mem::discriminant(&old) != std::mem::discriminant(&follow.state) {
            follow.since = Some(now);
        }
        let state = follow.state.clone();
        self.log.note(follow, &state);
        self.publish_status();
    }

    fn publish_status(&self) {
        let shown = |follow: &WatchEntry| {
            let (state, lost_since) = follow.effective_state(self.no_contact.as_ref());
            // The status shows the beginning of the loss, from which answers count their age.
            let since = lost_since.or(follow.since).map(Instant::into_std);
            WatchStatus { resource: follow.resource.name, required: follow.resource.required, state, since }
        };
        self.status.set_watches(self.watches.values().map(shown).collect());
    }

    /// Writes one line for each reason of new losses, and one for all resources that have recovered.
    fn log_changes(&mut self, now: Instant) {
        let no_contact = self.no_contact.as_ref();
        let follows = &self.watches;
        let is_lost = |resource: Resource| {
            follows.get(&resource).is_some_and(|follow| follow.effective_state(no_contact).0.reason().is_some())
        };
        for (state, resources) in self.log.due(now, is_lost) {
            let lost: Vec<&WatchEntry> = resources.iter().filter_map(|resource| self.watches.get(resource)).collect();
            tracing::warn!("{}", loss_line(&state, &lost));
            for resource in resources {
                if let Some(follow) = self.watches.get_mut(&resource) {
                    follow.logged = true;
                }
            }
        }
        /// Time for which the line about a recovery waits for the other resources that were lost.
        const PATIENCE: Duration = Duration::from_secs(2);
        let (mut back, mut all) = (Vec::new(), true);
        for follow in self.watches.values_mut() {
            if follow.effective_state(self.no_contact.as_ref()).0 != WatchState::Current {
                all &= !follow.logged;
                continue;
            }
            match follow.logged {
                true => back.push(follow),
                false => follow.noted = None,
            }
        }
        let is_complete = all || back.iter().any(|follow| follow.since.is_none_or(|since| now - since >= PATIENCE));
        if !back.is_empty() && is_complete && self.log.is_due(LogKey::Recovery, now) {
            let names: Vec<&str> = back.iter().map(|follow| follow.resource.name).collect();
            tracing::info!("{} are followed again", enumerate(&names));
            back.into_iter().for_each(|follow| (follow.noted, follow.logged) = (None, false));
        }
    }

    fn sync_if_settled(&mut self, now: Instant) {
        /// Time for which lost optional resources may delay the first publication.
        const PATIENCE: Duration = Duration::from_secs(2);
        let unread = |follow: &WatchEntry| !follow.followed || follow.relist.is_some();
        if self.watches.values().any(|follow| follow.resource.required && unread(follow)) {
            return;
        }
        let late = now - *self.required_since.get_or_insert(now) >= PATIENCE;
        if self.watches.values().all(|follow| follow.is_settled(late)) {
            self.sync();
        }
    }

    fn sync(&mut self) {
        /// Contributors of one publication. The first one need not be atomic since nothing is served yet, and the
        /// records of a whole large cluster would be in memory twice.
        const AT_ONCE: usize = 64;
        self.dirty.insert(Contributor::Apex);
        if self.is_resync {
            // Contributors that only the aborted owner knew may be outdated: publish all.
            self.dirty.extend(self.publisher.contributors());
        }
        let dirty = self.changed();
        dirty.chunks(AT_ONCE).for_each(|part| self.publish(part.to_vec()));
        self.publisher.refresh_reverse_zones();
        // Release the memory: no later batch is as large.
        self.dirty = HashSet::new();
        self.synced = true;
        self.status.set_synced();
        let (services, addresses) = self.publisher.zone.size();
        tracing::info!(services, addresses, serial = self.publisher.zone.serial(), "synced");
    }

    /// Removes and returns the dirty contributors, except those that a relist in progress has touched: until the list
    /// ends, a Service would show old slices beside new ones.
    fn changed(&mut self) -> Vec<Contributor> {
        let half_way = |contributor: &Contributor| {
            self.watches.values().any(|follow| follow.relist.as_ref().is_some_and(|held| held.contains(contributor)))
        };
        self.dirty.drain().filter(|contributor| !half_way(contributor)).collect()
    }

    fn publish(&mut self, dirty: Vec<Contributor>) {
        self.counters.add(Event::Published, dirty.len() as u64);
        for skipped in self.publisher.publish(dirty) {
            self.warn_once(skipped.text);
        }
    }

    /// Logs a sentence once: each list repeats the defects of an object.
    fn warn_once(&mut self, sentence: String) {
        const REMEMBERED: usize = 10_000;
        if self.logged_objects.contains(&sentence) {
            return;
        }
        tracing::warn!("{sentence}");
        if self.logged_objects.len() >= REMEMBERED {
            self.logged_objects.clear();
        }
        self.logged_objects.insert(sentence);
    }
}

/// Returns whether a list that would delete `unseen` of `known` objects must be confirmed by a second one (K11).
fn is_suspicious(known: usize, unseen: usize, least: usize) -> bool {
    unseen >= least && unseen * 2 > known
}

/// Formats the log line for resources that are lost for one reason: names, reason, and the effect on answers.
fn loss_line(state: &WatchState, lost: &[&WatchEntry]) -> String {
    let names: Vec<&str> = lost.iter().map(|follow| follow.resource.name).collect();
    let names = enumerate(&names);
    let meanwhile = if lost.iter().any(|follow| follow.resource.required && !follow.followed) {
        "nothing is answered before they can be followed"
    } else if lost.iter().all(|follow| !follow.resource.required && !follow.followed) {
        "they are optional, and nothing else changes"
    } else {
        "names are answered from the last data that was read"
    };
    match state {
        WatchState::Denied(_) => format!("{state} on {names}: {meanwhile}"),
        _ => format!("cannot follow {names}: {state}; {meanwhile}"),
    }
}

/// Joins names for a sentence: `a`, `a and b`, `a, b and c`.
fn enumerate(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [name] => (*name).to_owned(),
        [names @ .., last] => format!("{} and {last}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::source::PublisherOptions;
    use headless_dns_core::name::reverse::ReverseZones;
    use headless_dns_core::name::{ServiceKey, WireName, service_key};
    use headless_dns_core::naming_rules::NamingRules;
    use headless_dns_core::object::{Labels, Service, ServiceKind};
    use headless_dns_core::zone::{Settings, Zone};

    fn never_stale() -> Timing {
        Timing { stale: Duration::MAX, ..Timing::default() }
    }

    /// Lists and watches these Services through a new owner, which continues with the contents of the publisher.
    fn follow(publisher: Publisher, status: &Arc<Status>, services: &[&str]) -> ClusterSync {
        let followed = WatchedResource { resource: Resource::Services, name: "services", required: true };
        let mut sync =
            ClusterSync::new(publisher, Arc::clone(status), Metrics::default().worker(), &[followed], &never_stale());
        let (reply, _swept) = oneshot::channel();
        let mut updates = vec![WatchUpdate::Begin(Resource::Services, false)];
        for name in services {
            let service = Service {
                key: ObjectRef::new("default", name),
                kind: ServiceKind::Headless,
                publish_not_ready: false,
                selector: Labels::default(),
                ports: Vec::new(),
                families: Vec::new(),
                family_policy: None,
            };
            updates.push(WatchUpdate::Apply(Box::new(Object::Service(service)), Vec::new(), None));
        }
        updates.push(WatchUpdate::End { resource: Resource::Services, confirmed: true, reply });
        updates.push(WatchUpdate::Connected(Resource::Services));
        sync.apply_updates(updates, Instant::now());
        sync
    }

    #[tokio::test]
    async fn publishes_interrupted_changes() {
        let apex = WireName::parse("cluster.local").unwrap();
        let settings = Settings { apexes: vec![apex], ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
        let publisher =
            Publisher::for_cluster(Arc::new(Zone::new(settings, ReverseZones::default())), PublisherOptions::default());
        let (zone, status) = (publisher.zone(), Arc::new(Status::default()));
        let known = || ["a", "b", "c"].map(|name| zone.has_name(ServiceKey(&service_key("default", name).unwrap())));
        assert!(follow(publisher.try_clone_handle(), &status, &["a", "b"]).is_synced());
        assert_eq!(known(), [true, true, false]);
        // The owner was aborted between a change of the cluster and its publication: no update repeats that change.
        publisher.cluster_mut().delete(Resource::Services, &ObjectRef::new("default", "a"));
        let waiting = ClusterSync::new(
            publisher.try_clone_handle(),
            Arc::clone(&status),
            Metrics::default().worker(),
            &[],
            &never_stale(),
        );
        assert!(waiting.is_resync && !waiting.is_synced());
        assert!(follow(publisher.try_clone_handle(), &status, &["b", "c"]).is_synced());
        assert_eq!(known(), [false, true, true]);
    }

    #[tokio::test]
    async fn answers_are_stale_during_relist() {
        let apex = WireName::parse("cluster.local").unwrap();
        let settings = Settings { apexes: vec![apex], ttl: 5, negative_ttl: 5, rules: NamingRules::default() };
        let publisher =
            Publisher::for_cluster(Arc::new(Zone::new(settings, ReverseZones::default())), PublisherOptions::default());
        let status = Arc::new(Status::default());
        follow(publisher.try_clone_handle(), &status, &[]).tick(Instant::now());
        assert_eq!(status.data_state(), DataState::Current);
        let followed = WatchedResource { resource: Resource::Services, name: "services", required: true };
        let new = || {
            ClusterSync::new(
                publisher.try_clone_handle(),
                Arc::clone(&status),
                Metrics::default().worker(),
                &[followed],
                &never_stale(),
            )
        };
        new().tick(Instant::now());
        assert_eq!(status.data_state(), DataState::Stale);
        follow(publisher.try_clone_handle(), &status, &[]).tick(Instant::now());
        assert_eq!(status.data_state(), DataState::Current);
    }

    #[test]
    fn confirms_large_decrease() {
        for (known, unseen, held) in [(1000, 501, true), (1000, 500, false), (99, 99, false), (100, 100, true)] {
            assert_eq!(is_suspicious(known, unseen, 100), held, "{unseen} of {known}");
        }
    }
}
