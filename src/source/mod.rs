//! Where objects come from: the one owner of [`Cluster`], who publishes what each change touches.
//!
//! [`Publisher`] takes objects and keeps a [`Zone`] in step; [`ManifestSource`] feeds it from files,
//! [`live::Live`] from a cluster. Not here: what an object answers (`records.rs`), how files are read ([`manifests`])
//! and how a cluster is watched ([`mod@kubernetes`]).

pub mod kubernetes;
pub mod live;
pub mod manifests;
pub mod snapshot;

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

use crate::cluster::{Cluster, Contributor, Namespaces, Resource};
use crate::explain::{Asker, Extent};
use crate::metrics::{Metrics, table};
use crate::names::reverse::ReverseZones;
use crate::objects::{Object, ObjectRef, Reason, Skipped, Subject};
use crate::records::{NameServer, contribution};
use crate::rules::EndpointsSource;
use crate::simulate;
use crate::zone::Zone;

use manifests::{Cause, Manifests};

/// What decides how objects become a zone, besides the zone's own settings.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The networks whose reverse names are served; empty for those of the known addresses.
    pub reverse: Vec<IpNet>,
    /// Networks that are served in reverse besides those of the known addresses.
    pub simulated: Vec<IpNet>,
    /// Where the addresses of `ns.dns.Z` come from.
    pub name_server: NameServer,
    /// The Service in front of this server.
    pub service: Option<ObjectRef>,
    /// Which objects list endpoints.
    pub endpoints_source: EndpointsSource,
    /// How much of a cluster is read.
    pub extent: Extent,
}

/// Owns the [`Cluster`], and keeps a [`Zone`] in step with it.
pub struct Publisher {
    cluster: Arc<RwLock<Cluster>>,
    zone: Arc<Zone>,
    options: Options,
    metrics: Arc<Metrics>,
}

impl Publisher {
    /// For a zone that nothing was published in yet.
    pub fn new(zone: Arc<Zone>, options: Options) -> Self {
        Self::with(Namespaces::Inferred, zone, options)
    }

    /// The same for a live cluster, whose Namespaces are objects like the others.
    pub fn of_cluster(zone: Arc<Zone>, options: Options) -> Self {
        Self::with(Namespaces::Declared, zone, options)
    }

    fn with(namespaces: Namespaces, zone: Arc<Zone>, options: Options) -> Self {
        let cluster = Arc::new(RwLock::new(Cluster::new(namespaces, options.service.clone())));
        Self { cluster, zone, options, metrics: Arc::default() }
    }

    /// Counts in `metrics` what is published and what is left out.
    pub fn counting(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// The same cluster and the same zone, for who goes on where another was broken off. One of them may publish.
    pub fn again(&self) -> Self {
        Self {
            cluster: Arc::clone(&self.cluster),
            zone: Arc::clone(&self.zone),
            options: self.options.clone(),
            metrics: Arc::clone(&self.metrics),
        }
    }

    /// Every object that is known.
    fn objects(&self) -> Vec<Object> {
        self.cluster().objects()
    }

    /// Everyone who could have contributed to what is published, or could contribute now.
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

    /// Who can say why a name does not resolve.
    pub fn asker(&self) -> Asker {
        let settings = self.zone.settings();
        Asker::new(Arc::clone(&self.cluster), settings.apexes.clone(), settings.rules, self.options.extent.clone())
    }

    /// To change it: for one object at a time, so that nobody waits for long.
    fn cluster_mut(&self) -> RwLockWriteGuard<'_, Cluster> {
        self.cluster.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn cluster(&self) -> RwLockReadGuard<'_, Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The zone that is kept in step.
    pub fn zone(&self) -> Arc<Zone> {
        Arc::clone(&self.zone)
    }

    /// Makes `objects` all that is known, publishes what that changes, and returns what could not be served of what
    /// changed.
    pub fn replace(&mut self, objects: Vec<Object>) -> Vec<Notice> {
        for resource in Resource::ALL {
            self.cluster_mut().begin(resource);
        }
        let mut dirty: Vec<Contributor> = vec![Contributor::Apex];
        for object in objects {
            dirty.extend(self.cluster_mut().apply(object));
        }
        for resource in Resource::ALL {
            dirty.extend(self.cluster_mut().sweep(resource));
        }
        let skipped = self.publish(dirty);
        self.refresh_reverse_zones();
        skipped
    }

    /// Takes the present state of one object, publishes what that changes, and returns what could not be served of it.
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
            skipped.extend(left_out.into_iter().map(Notice::of_part));
            contribution
        });
        let contributions = contributions.collect();
        drop(cluster);
        self.zone.publish(contributions, unix_time());
        skipped.iter().for_each(|notice| self.reject(notice.loss));
        skipped
    }

    fn reject(&self, loss: Loss) {
        if let Some(reason) = loss.label() {
            self.metrics.count(&table::REJECTED, &[reason]);
        }
    }

    /// What was received `since` is published.
    fn published(&self, since: Instant) {
        self.metrics.observe(&table::PUBLISH_DURATION, &[], since.elapsed());
    }

    /// Not for every change: they rarely move.
    fn refresh_reverse_zones(&self) {
        self.zone.set_reverse_zones(self.reverse_zones());
    }

    /// R6: the networks that were asked for, or the simulated ones and the /16 or /64 of each known address. An
    /// authoritative NXDOMAIN for more than that would break somebody's own reverse names.
    fn reverse_zones(&self) -> ReverseZones {
        if !self.options.reverse.is_empty() {
            return ReverseZones::new(self.options.reverse.iter().copied());
        }
        ReverseZones::new(self.options.simulated.iter().copied().chain(self.cluster().networks()))
    }
}

fn unix_time() -> u32 {
    // SOA serials are 32 bits and compared modulo 2^32 (RFC 1982): the cut is meant.
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

/// Where a [`ManifestSource`] reads.
pub enum Input {
    /// Files and folders.
    Files(Manifests),
    /// One text under a name, which never changes.
    Text(&'static str, &'static str),
}

/// What became of one reading.
pub struct Reading {
    /// Each thing that is wrong and was not so the last time.
    pub reports: Vec<Notice>,
    /// Every file could be read, and every document in it.
    pub complete: bool,
    /// Each file and document that could not be read, this time or before: names that they give are not known.
    pub unread: Vec<manifests::Report>,
    /// Of these, each path that was named and cannot be opened, and each named file without one readable document.
    pub unusable: Vec<manifests::Report>,
}

impl Reading {
    /// Whether everything there is was read: nothing that is missing stands in what was not.
    pub fn is_whole(&self) -> bool {
        self.complete && self.reports.iter().all(|report| report.loss != Loss::Whole)
    }
}

/// One thing that is wrong with what was read: a sentence for people, and what is lost by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What is lost.
    pub loss: Loss,
    /// The objects that it is about.
    pub subject: Subject,
    /// The sentence.
    pub text: String,
}

/// What is lost by something that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A file, a document or an object: what it says is not known.
    Whole,
    /// A part of an object.
    Part(Reason),
    /// One of two definitions of an object.
    Twice,
    /// Objects of a resource that may be missing.
    Optional,
    /// What simulation could not make.
    Unmade,
    /// The addresses of Endpoints that do not count.
    Uncounted,
    /// Nothing that should be there.
    Nothing,
}

impl Loss {
    /// A word for metrics, where something is lost that should not be.
    fn label(self) -> Option<&'static str> {
        match self {
            Self::Whole => Some("invalid"),
            Self::Part(reason) => Some(reason.label()),
            Self::Twice => Some("duplicate"),
            Self::Unmade => Some("not_simulated"),
            Self::Optional | Self::Uncounted | Self::Nothing => None,
        }
    }
}

impl Notice {
    /// Writes the sentence to the log: as a warning, where something is lost.
    pub fn log(&self) {
        match self.loss {
            Loss::Nothing => tracing::info!("{self}"),
            _ => tracing::warn!("{self}"),
        }
    }

    fn of_part(skipped: Skipped) -> Self {
        Self { loss: Loss::Part(skipped.reason), subject: skipped.object.into(), text: skipped.text }
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
            Cause::Unreadable | Cause::Syntax | Cause::Invalid => Loss::Whole,
            Cause::Duplicate => Loss::Twice,
            Cause::Skipped(reason) => Loss::Part(reason),
            Cause::NotSimulated => Loss::Nothing,
        };
        Self { loss, subject: report.subject.clone(), text: report.to_string() }
    }
}

/// Manifests as the source: reads, simulates and publishes, as often as it is told to.
pub struct ManifestSource {
    input: Input,
    /// The namespace of objects that name none.
    namespace: Box<str>,
    /// Networks of simulated Pods and Services; `None` to simulate nothing.
    simulate: Option<[Vec<IpNet>; 2]>,
    publisher: Publisher,
    /// What was reported last time: the same sentence is not said again.
    reported: HashSet<String>,
}

impl ManifestSource {
    /// Nothing is read yet.
    pub fn new(input: Input, namespace: &str, simulate: Option<[Vec<IpNet>; 2]>, publisher: Publisher) -> Self {
        Self { input, namespace: namespace.into(), simulate, publisher, reported: HashSet::new() }
    }

    /// Counts in `metrics` what is published and what is left out.
    pub fn counting(self, metrics: Arc<Metrics>) -> Self {
        Self { publisher: self.publisher.counting(metrics), ..self }
    }

    /// Reads everything, or reads it again, and publishes what changed. What is wrong never stops the rest.
    pub fn load(&mut self) -> Reading {
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
            let unmade =
                simulated.reports.into_iter().map(|report| Notice { loss: Loss::Unmade, ..Notice::of_part(report) });
            let notes = simulated.notes.into_iter();
            reports.extend(unmade.chain(notes.map(|(key, text)| Notice {
                loss: Loss::Nothing,
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
        reports.iter().for_each(|report| self.publisher.reject(report.loss));
        reports.extend(self.publisher.replace(objects));
        self.publisher.published(begun);
        loaded.reports.retain(manifests::Report::is_unread);
        Reading { complete: loaded.reports.is_empty(), reports, unread: loaded.reports, unusable: loaded.unusable }
    }

    /// The zone that is kept in step.
    pub fn zone(&self) -> Arc<Zone> {
        self.publisher.zone()
    }

    /// Who can say why a name does not resolve.
    pub fn asker(&self) -> Asker {
        self.publisher.asker()
    }
}

/// Returns the sentence about Endpoints with addresses of a Service without EndpointSlices, the names of which they could
/// be meant for.
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
        0 => format!("the Endpoints {first} were read and do"),
        more => format!("the Endpoints {first} and {more} more were read and do"),
    };
    let text = format!(
        "{which} not count, because names are made of EndpointSlices: --simulate makes these of them as a cluster does, \
         --endpoints-source endpoints reads Endpoints instead"
    );
    let mut names: Vec<Box<str>> = uncounted.iter().map(|key| key.name.clone()).collect();
    names.sort();
    Some(Notice { loss: Loss::Uncounted, subject: Subject::Names(names), text })
}
