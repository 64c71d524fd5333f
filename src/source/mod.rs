//! Sources of objects, and the one owner of [`Cluster`], which publishes the records that each change affects.
//!
//! [`Publisher`] applies objects and keeps a [`Zone`] in step; [`ManifestSource`] feeds it from files, [`kubernetes`]
//! from a cluster. Not here: records of an object (`core/src/records/`), reading files ([`manifests`]) and watching a cluster
//! ([`mod@kubernetes`]), which are the next to read.

pub mod kubernetes;
pub mod manifests;
pub mod snapshot;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

use crate::metrics::{Metrics, table};
use headless_dns_core::cluster::{Cluster, Contributor, Namespaces, Resource};
use headless_dns_core::diagnose::{Diagnostics, WatchScope};
use headless_dns_core::lock::{read, write};
use headless_dns_core::name::reverse::ReverseZones;
use headless_dns_core::naming_rules::EndpointsSource;
use headless_dns_core::object::{Object, ObjectRef, Reason, Skipped, Subject};
use headless_dns_core::records::{NameServer, contribution};
use headless_dns_core::simulate;
use headless_dns_core::zone::Zone;

use manifests::{Cause, Manifests};

/// Settings that decide the records of objects, beside the settings of the zone.
#[derive(Clone, Debug, Default)]
pub struct PublisherOptions {
    /// Networks of the reverse zones; empty for those of the known addresses.
    pub reverse: Vec<IpNet>,
    /// Simulated networks, which have reverse zones beside those of the known addresses.
    pub simulated: Vec<IpNet>,
    /// Source of the addresses of `ns.dns.Z`.
    pub name_server: NameServer,
    /// Service in front of this server.
    pub service: Option<ObjectRef>,
    /// Kind of object that lists endpoints.
    pub endpoints_source: EndpointsSource,
    /// Part of the cluster that is read.
    pub extent: WatchScope,
}

/// Owner of the [`Cluster`], which keeps a [`Zone`] in step with it.
pub struct Publisher {
    cluster: Arc<RwLock<Cluster>>,
    zone: Arc<Zone>,
    options: PublisherOptions,
    metrics: Arc<Metrics>,
}

impl Publisher {
    /// Returns a publisher of manifests, for an empty zone.
    pub fn new(zone: Arc<Zone>, options: PublisherOptions) -> Self {
        Self::with(Namespaces::Inferred, zone, options)
    }

    /// Returns a publisher of a live cluster, in which Namespaces are objects of their own.
    pub fn for_cluster(zone: Arc<Zone>, options: PublisherOptions) -> Self {
        Self::with(Namespaces::Declared, zone, options)
    }

    fn with(namespaces: Namespaces, zone: Arc<Zone>, options: PublisherOptions) -> Self {
        let cluster = Arc::new(RwLock::new(Cluster::new(namespaces, options.service.clone())));
        Self { cluster, zone, options, metrics: Arc::default() }
    }

    /// Sets the metrics that count publications and rejected objects.
    pub fn with_metrics(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// Returns another handle to the same cluster and zone, for a task that continues after another was cancelled. Only
    /// one handle may publish at a time.
    pub fn try_clone_handle(&self) -> Self {
        Self {
            cluster: Arc::clone(&self.cluster),
            zone: Arc::clone(&self.zone),
            options: self.options.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Returns every known object.
    fn objects(&self) -> Vec<Object> {
        self.cluster().objects()
    }

    /// Returns every contributor that may have contributed to the zone, or may contribute now.
    fn contributors(&self) -> Vec<Contributor> {
        let mut all = self.cluster().contributors();
        let services = self.zone.services().into_iter();
        all.extend(services.map(|(namespace, name)| Contributor::Service(ObjectRef::new(&namespace, &name))));
        for namespace in self.zone.namespaces() {
            all.push(Contributor::PodAddresses(namespace.as_str().into()));
            all.push(Contributor::Namespace(namespace.into()));
        }
        all
    }

    /// Returns the handle that explains why a name does not resolve.
    pub fn asker(&self) -> Diagnostics {
        let settings = self.zone.settings();
        Diagnostics::new(
            Arc::clone(&self.cluster),
            settings.apexes.clone(),
            settings.rules,
            self.options.extent.clone(),
        )
    }

    /// Locks the cluster for writing. Held for one object at a time, or an explanation would wait for a whole list.
    fn cluster_mut(&self) -> RwLockWriteGuard<'_, Cluster> {
        write(&self.cluster)
    }

    fn cluster(&self) -> RwLockReadGuard<'_, Cluster> {
        read(&self.cluster)
    }

    /// Returns the zone that is kept in step.
    pub fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.zone)
    }

    /// Replaces all known objects by `objects`, publishes the changes, and returns the parts of changed objects that
    /// cannot be served.
    pub fn replace(&mut self, objects: Vec<Object>) -> Vec<Notice> {
        for resource in Resource::ALL {
            self.cluster_mut().begin_relist(resource);
        }
        let mut dirty: Vec<Contributor> = vec![Contributor::Apex];
        for object in objects {
            dirty.extend(self.cluster_mut().apply(object));
        }
        for resource in Resource::ALL {
            dirty.extend(self.cluster_mut().finish_relist(resource));
        }
        let skipped = self.publish(dirty);
        self.refresh_reverse_zones();
        skipped
    }

    /// Applies the present state of one object, publishes the changes, and returns its parts that cannot be served.
    pub fn apply(&mut self, object: Object) -> Vec<Notice> {
        let dirty = self.cluster_mut().apply(object);
        self.publish(dirty)
    }

    fn publish(&self, mut dirty: Vec<Contributor>) -> Vec<Notice> {
        dirty.sort();
        dirty.dedup();
        let rules = self.zone.settings().rules;
        let mut skipped = Vec::new();
        let cluster = self.cluster();
        let contributions = dirty.iter().map(|contributor| {
            let (contribution, left_out) = contribution(&cluster, contributor, rules, &self.options.name_server);
            skipped.extend(left_out.into_iter().map(Notice::from_skipped));
            contribution
        });
        let contributions = contributions.collect();
        drop(cluster);
        self.zone.publish(contributions, unix_time());
        skipped.iter().for_each(|notice| self.reject(notice.kind));
        skipped
    }

    fn reject(&self, loss: NoticeKind) {
        if let Some(reason) = loss.label() {
            self.metrics.count(&table::REJECTED, &[reason]);
        }
    }

    /// Observes the time from `since`, when a change was received, to its publication.
    fn published(&self, since: Instant) {
        self.metrics.observe(&table::PUBLISH_DURATION, &[], since.elapsed());
    }

    /// Sets the reverse zones of the known addresses. Not called for every change, because networks rarely change.
    fn refresh_reverse_zones(&self) {
        self.zone.set_reverse_zones(self.reverse_zones());
    }

    /// Returns the reverse zones (R6 of `tests/rows.md`): the networks of the options, or else the simulated ones and
    /// the /16 or /64 of each known address. An authoritative NXDOMAIN for more than that would break reverse names of
    /// other servers.
    fn reverse_zones(&self) -> ReverseZones {
        if !self.options.reverse.is_empty() {
            return ReverseZones::new(self.options.reverse.iter().copied());
        }
        ReverseZones::new(self.options.simulated.iter().copied().chain(self.cluster().networks()))
    }
}

fn unix_time() -> u32 {
    // SOA serials are 32 bits and compared modulo 2^32 (RFC 1982), so truncation is correct.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as u32)
}

/// Returns whether the subject controls Pods among these objects.
fn owns_pods(subject: &Subject, objects: &[Object]) -> bool {
    let Subject::Object(key) = subject else { return false };
    objects.iter().any(|object| match object {
        Object::Pod(pod) => {
            pod.key.namespace == key.namespace && pod.owner.as_ref().is_some_and(|owner| owner.name == key.name)
        }
        _ => false,
    })
}

/// Input of a [`ManifestSource`].
pub enum Input {
    /// Files and folders.
    Files(Manifests),
    /// One constant text, with a name for reports.
    Text(&'static str, &'static str),
}

/// Result of one load.
pub struct LoadReport {
    /// Errors and notes that the previous load did not have.
    pub reports: Vec<Notice>,
    /// True if every file, and every document in it, could be read.
    pub complete: bool,
    /// Files and documents that could not be read, now or before: the names in them are unknown.
    pub unread: Vec<manifests::Report>,
    /// Paths of the options that cannot be opened, and files of the options without one readable document.
    pub unusable: Vec<manifests::Report>,
}

impl LoadReport {
    /// Returns whether every file, document and object was read, so that a missing name is not in an unread one.
    pub fn is_complete(&self) -> bool {
        self.complete && self.reports.iter().all(|report| report.kind != NoticeKind::Whole)
    }
}

/// Notice about the input: one sentence for people, and the kind of loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Kind of loss.
    pub kind: NoticeKind,
    /// Objects that the notice concerns.
    pub subject: Subject,
    /// Notice for people, in one sentence.
    pub text: String,
}

/// Kind of loss by an error in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// A file, a document or an object: its content is not known.
    Whole,
    /// A part of an object.
    Part(Reason),
    /// One of two definitions of an object.
    Duplicate,
    /// Objects of an optional resource, which may be missing.
    Optional,
    /// Objects that could not be simulated.
    NotSimulated,
    /// Addresses of Endpoints, which are not read as a source of names.
    Uncounted,
    /// Nothing: a note, and no error.
    Nothing,
}

impl NoticeKind {
    /// Returns the label `reason` of the metric; `None` if nothing was rejected.
    fn label(self) -> Option<&'static str> {
        match self {
            Self::Whole => Some("invalid"),
            Self::Part(reason) => Some(reason.label()),
            Self::Duplicate => Some("duplicate"),
            Self::NotSimulated => Some("not_simulated"),
            Self::Optional | Self::Uncounted | Self::Nothing => None,
        }
    }
}

impl Notice {
    /// Logs the sentence: as a warning if something is lost, else as information.
    pub fn log(&self) {
        match self.kind {
            NoticeKind::Nothing => tracing::info!("{self}"),
            _ => tracing::warn!("{self}"),
        }
    }

    fn from_skipped(skipped: Skipped) -> Self {
        Self { kind: NoticeKind::Part(skipped.reason), subject: skipped.object.into(), text: skipped.text }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<&manifests::Report> for Notice {
    fn from(report: &manifests::Report) -> Self {
        let loss = match report.cause {
            Cause::Unreadable | Cause::Syntax | Cause::Invalid => NoticeKind::Whole,
            Cause::Duplicate => NoticeKind::Duplicate,
            Cause::Skipped(reason) => NoticeKind::Part(reason),
            Cause::NotSimulated => NoticeKind::Nothing,
        };
        Self { kind: loss, subject: report.subject.clone(), text: report.to_string() }
    }
}

/// Manifests as the source of objects: reads, simulates and publishes them with each load.
pub struct ManifestSource {
    input: Input,
    /// Namespace of objects without one.
    namespace: Box<str>,
    /// Networks of simulated Pods and Services; `None` to simulate nothing.
    simulate: Option<[Vec<IpNet>; 2]>,
    publisher: Publisher,
    /// Sentences of the previous load, which are not reported again.
    reported: HashSet<String>,
}

impl ManifestSource {
    /// Returns a source that has read nothing yet.
    pub fn new(input: Input, namespace: &str, simulate: Option<[Vec<IpNet>; 2]>, publisher: Publisher) -> Self {
        Self { input, namespace: namespace.into(), simulate, publisher, reported: HashSet::new() }
    }

    /// Sets the metrics that count publications and rejected objects.
    pub fn counting(self, metrics: Arc<Metrics>) -> Self {
        Self { publisher: self.publisher.with_metrics(metrics), ..self }
    }

    /// Reads the input, for the first time or again, and publishes the changes. An error never keeps the rest from
    /// service.
    pub fn load(&mut self) -> LoadReport {
        let begun = Instant::now();
        let mut loaded = match &mut self.input {
            Input::Files(manifests) => manifests.reload(),
            Input::Text(name, text) => manifests::read_text(name, text, &self.namespace),
        };
        let source = self.publisher.options.endpoints_source;
        let mut objects = loaded.objects;
        if source == EndpointsSource::Endpoints {
            objects.retain(|object| !matches!(object, Object::EndpointSlice(_)));
        }
        loaded.reports.retain(|report| {
            report.cause != Cause::NotSimulated || self.simulate.is_some() && !owns_pods(&report.subject, &objects)
        });
        let mut reports: Vec<Notice> = loaded.reports.iter().map(Notice::from).collect();
        if let Some([pods, services]) = &self.simulate {
            let simulated = simulate::simulate(objects, pods, services, source);
            objects = simulated.objects;
            let unmade = simulated
                .reports
                .into_iter()
                .map(|report| Notice { kind: NoticeKind::NotSimulated, ..Notice::from_skipped(report) });
            let notes = simulated.notes.into_iter();
            reports.extend(unmade.chain(notes.map(|(key, text)| Notice {
                kind: NoticeKind::Nothing,
                subject: Subject::Object(key),
                text,
            })));
        } else if source == EndpointsSource::Slices {
            reports.extend(uncounted_endpoints(&objects));
        }
        if source == EndpointsSource::Slices {
            objects.retain(|object| !matches!(object, Object::Endpoints(_)));
        }
        let said: HashSet<String> = reports.iter().map(ToString::to_string).collect();
        reports.retain(|report| !self.reported.contains(&report.text));
        self.reported = said;
        reports.iter().for_each(|report| self.publisher.reject(report.kind));
        reports.extend(self.publisher.replace(objects));
        self.publisher.published(begun);
        loaded.reports.retain(manifests::Report::is_unread);
        LoadReport { complete: loaded.reports.is_empty(), reports, unread: loaded.reports, unusable: loaded.unusable }
    }

    /// Returns the zone that is kept in step.
    pub fn zone(&self) -> Arc<Zone> {
        self.publisher.zone()
    }

    /// Returns the handle that explains why a name does not resolve.
    pub fn asker(&self) -> Diagnostics {
        self.publisher.asker()
    }
}

/// Returns the notice about Endpoints with addresses of Services without EndpointSlices: the operator may have meant
/// names to be made of them.
fn uncounted_endpoints(objects: &[Object]) -> Option<Notice> {
    let sliced = objects.iter().filter_map(|object| match object {
        Object::EndpointSlice(slice) => Some((&*slice.key.namespace, slice.service.as_deref()?)),
        _ => None,
    });
    let sliced: HashSet<(&str, &str)> = sliced.collect();
    let uncounted = objects.iter().filter_map(|object| match object {
        Object::Endpoints(endpoints) if !endpoints.slices.is_empty() => Some(&endpoints.key),
        _ => None,
    });
    let uncounted: Vec<&ObjectRef> = uncounted.filter(|key| !sliced.contains(&(&*key.namespace, &*key.name))).collect();
    let (first, others) = uncounted.split_first()?;
    let which = match others.len() {
        0 => format!("the Endpoints {first} are"),
        more => format!("the Endpoints {first} and {more} more are"),
    };
    let text = format!(
        "{which} ignored, because names are made of EndpointSlices: --simulate makes these of them as a cluster does, \
         --endpoints-source endpoints reads Endpoints instead"
    );
    let mut names: Vec<Box<str>> = uncounted.iter().map(|key| key.name.clone()).collect();
    names.sort();
    Some(Notice { kind: NoticeKind::Uncounted, subject: Subject::Names(names), text })
}
