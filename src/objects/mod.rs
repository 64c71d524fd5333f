//! Trimmed Kubernetes objects: the fields that are served, simulated or explained, and no others.
//!
//! Decoding is lenient: what can be served of an object is kept, what cannot is left out and said in a
//! [`Skipped`]; only an object that is not of its kind at all is [`Invalid`]. Behind this file there are no strings
//! that should be addresses, families or protocols. The JSON shapes are in `raw.rs`, and written again in `write.rs`; what the objects mean to each
//! other is `cluster.rs`.

mod raw;
mod validate;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::names::labels::{Label, LabelColumn, Repacked, TextsBuilder};

pub use raw::{decode, decode_text, is_read, key};
pub use validate::violations;
pub use write::encode;

/// The label that says which Service an EndpointSlice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The label with the name of the controller, or person, that writes an EndpointSlice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// The label by which an Endpoints object is not mirrored, if its value is `true`.
pub const SKIP_MIRROR_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Number of addresses of a subset that the mirroring controller copies at most, by default.
pub const MAX_MIRRORED: usize = 1000;

/// Labels of an object, or the pairs that a selector asks for, by key. Most have one or two: no tree is worth it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Box<str>, &Box<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &Box<str>> {
        self.0.iter().map(|(key, _)| key)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: Box<str>, value: Box<str>) {
        *self = std::mem::take(self).0.into_iter().chain([(key, value)]).collect();
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(other, _)| (**other).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }
}

impl FromIterator<(Box<str>, Box<str>)> for Labels {
    /// Of one key the last value counts.
    fn from_iter<I: IntoIterator<Item = (Box<str>, Box<str>)>>(pairs: I) -> Self {
        Self(BTreeMap::from_iter(pairs).into_iter().collect())
    }
}

/// Which object: its namespace and its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name in that namespace.
    pub name: Box<str>,
}

impl ObjectRef {
    /// `namespace/name`.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A decoded object.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Namespace.
    Namespace(Namespace),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// An Endpoints object.
    Endpoints(Endpoints),
    /// A Pod.
    Pod(Pod),
    /// A StatefulSet.
    StatefulSet(StatefulSet),
    /// A Deployment, ReplicaSet, DaemonSet or Job: needed to simulate, never watched.
    Workload(Workload),
}

impl Object {
    /// Which kind it is, as the Kubernetes API writes it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Namespace(_) => "Namespace",
            Self::Service(_) => "Service",
            Self::EndpointSlice(_) => "EndpointSlice",
            Self::Endpoints(_) => "Endpoints",
            Self::Pod(_) => "Pod",
            Self::StatefulSet(_) => "StatefulSet",
            Self::Workload(workload) => workload.kind.name(),
        }
    }

    /// The namespace it stands in; for a Namespace, itself.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Namespace(object) => &object.name,
            Self::Service(object) => &object.key.namespace,
            Self::EndpointSlice(object) => &object.key.namespace,
            Self::Endpoints(object) => &object.key.namespace,
            Self::Pod(object) => &object.key.namespace,
            Self::StatefulSet(object) => &object.key.namespace,
            Self::Workload(object) => &object.key.namespace,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Namespace(object) => &object.name,
            Self::Service(object) => &object.key.name,
            Self::EndpointSlice(object) => &object.key.name,
            Self::Endpoints(object) => &object.key.name,
            Self::Pod(object) => &object.key.name,
            Self::StatefulSet(object) => &object.key.name,
            Self::Workload(object) => &object.key.name,
        }
    }
}

/// What was left out of an object, or the whole of it: one sentence for people, and a reason for counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Why, as a label of a counter.
    pub reason: Reason,
    /// The object, where it is about one.
    pub object: Option<ObjectRef>,
    /// One sentence: the object, what is wrong with it, what happens instead.
    pub text: String,
}

/// The objects that something read wrongly is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Any: a file that cannot be read, an object without a name.
    Unknown,
    /// One object.
    Object(ObjectRef),
    /// Objects with these names, sorted, in any namespace: a document that cannot be parsed.
    Names(Vec<Box<str>>),
}

impl From<Option<ObjectRef>> for Subject {
    fn from(object: Option<ObjectRef>) -> Self {
        object.map_or(Self::Unknown, Self::Object)
    }
}

/// Why something was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// An address that does not parse, or is of another family than its slice says.
    Address,
    /// `addressType: FQDN`: names instead of addresses.
    Fqdn,
    /// A hostname that is not a DNS label.
    Hostname,
    /// A port without a usable name, number or protocol.
    Port,
    /// An external name that is an address or no name at all.
    ExternalName,
    /// A name or namespace that cannot be a label.
    Name,
    /// A Service without an address that should have one.
    NoAddress,
}

impl Reason {
    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Fqdn => "fqdn",
            Self::Hostname => "hostname",
            Self::Port => "port",
            Self::ExternalName => "external_name",
            Self::Name => "name",
            Self::NoAddress => "no_address",
        }
    }
}

/// An object that cannot be used at all: one sentence that names it and says what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub String);

impl Invalid {
    /// For a document with these [`violations`]; the first few are listed.
    pub fn new(document: &serde_json::Value, default_namespace: &str, violations: &[String]) -> Self {
        const LISTED: usize = 3;
        let kind = document.get("kind").and_then(serde_json::Value::as_str).unwrap_or_default();
        let object = match key(document, default_namespace) {
            Some(key) => format!("{kind} {key}"),
            None => format!("the {kind}"),
        };
        let more = match violations.len() {
            0..=LISTED => String::new(),
            len => format!("; and {} more", len - LISTED),
        };
        let listed = &violations[..violations.len().min(LISTED)];
        Self(format!("{object} is invalid: {}{more}", listed.join("; ")))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a document turned out to be.
#[allow(clippy::large_enum_variant)] // it is taken apart at once, and nearly all of them are objects
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// An object, and what of it could not be served.
    Object(Object, Vec<Skipped>),
    /// The items of a `List` (or `ServiceList`, ...), each to be decoded alone.
    List(Vec<serde_json::Value>),
    /// An object of a kind that is not served: a ConfigMap, an Ingress, ...
    Ignored,
}

/// A transport protocol of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, the API server's default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The label of an SRV name: `_tcp`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Tcp => "_tcp",
            Self::Udp => "_udp",
            Self::Sctp => "_sctp",
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name, a DNS label.
    pub name: Box<str>,
    /// True while it is being deleted, with all objects in it.
    pub terminating: bool,
}

impl Namespace {
    /// Returns an active Namespace.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self { name: name.into(), terminating: false }
    }
}

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its namespace and name; both are DNS labels.
    pub key: ObjectRef,
    /// How it is answered.
    pub kind: ServiceKind,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Which Pods it selects; empty for a Service whose endpoints somebody else writes.
    pub selector: Labels,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// `ipFamilies` as written: may be empty in a manifest.
    pub families: Vec<Family>,
    /// `ipFamilyPolicy` as written: may be missing in a manifest.
    pub family_policy: Option<FamilyPolicy>,
}

impl Service {
    /// Whether its name is answered with an endpoint of these conditions: `ready` decides, whatever `terminating` says,
    /// and the Service's own field counts for slices written by hand (E1, E4).
    pub fn answers_with(&self, conditions: Conditions) -> bool {
        conditions.ready() || self.publish_not_ready
    }

    /// The addresses that are its own.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let own = match &self.kind {
            ServiceKind::ClusterIp(addresses) => &addresses[..],
            _ => &[],
        };
        own.iter().copied()
    }
}

/// How a Service is answered.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceKind {
    /// By its own addresses: none where a manifest gives none, one, or two of different families.
    ClusterIp(Vec<IpAddr>),
    /// By the addresses of its endpoints (`clusterIP: None`).
    Headless,
    /// By a CNAME to this name, as written.
    ExternalName(Box<str>),
}

/// Number of families that a Service has addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyPolicy {
    /// One.
    SingleStack,
    /// Two, where the cluster has two.
    PreferDualStack,
    /// Two.
    RequireDualStack,
}

impl FamilyPolicy {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::SingleStack, Self::PreferDualStack, Self::RequireDualStack];

    /// As the Kubernetes API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SingleStack => "SingleStack",
            Self::PreferDualStack => "PreferDualStack",
            Self::RequireDualStack => "RequireDualStack",
        }
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, lower case, or empty.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the Service's address.
    pub number: u16,
    /// The port at the Pods.
    pub target: TargetPort,
}

/// `targetPort` of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number (the default is the Service's port).
    Number(u16),
    /// The name of a container's port.
    Name(Box<str>),
}

/// An EndpointSlice, as columns: row `i` of each belongs to the same address.
///
/// An endpoint with several addresses is several rows. Rows that cannot be served are not here.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Its namespace and name.
    pub key: ObjectRef,
    /// The Service named by its label, in the same namespace.
    pub service: Option<Box<str>>,
    /// Ports of every endpoint of this slice.
    pub ports: Box<[EndpointPort]>,
    /// `addressType` is FQDN: it has no rows, whatever endpoints the object lists.
    pub fqdn: bool,
    /// The controller that writes it.
    pub manager: SliceManager,
    addresses: Addresses,
    conditions: Box<[Conditions]>,
    hostnames: LabelColumn,
    pods: LabelColumn,
}

#[derive(Clone, Debug, PartialEq)]
enum Addresses {
    V4(Box<[u32]>),
    V6(Box<[u128]>),
}

impl EndpointSlice {
    /// A slice of these rows. All addresses are of `family`; others are left out.
    pub fn new(
        key: ObjectRef,
        service: Option<Box<str>>,
        family: Family,
        ports: Vec<EndpointPort>,
        rows: &[EndpointRow],
    ) -> Self {
        let rows: Vec<&EndpointRow> =
            rows.iter().filter(|row| row.address.is_ipv4() == (family == Family::V4)).collect();
        let addresses = match family {
            Family::V4 => Addresses::V4(rows.iter().filter_map(|row| v4(row.address)).collect()),
            Family::V6 => Addresses::V6(rows.iter().filter_map(|row| v6(row.address)).collect()),
        };
        // The Pod's name is kept only where it differs from the hostname: for a StatefulSet it never does.
        let pods = rows.iter().map(|row| row.pod.as_deref().filter(|pod| row.hostname.as_deref() != Some(pod)));
        Self {
            key,
            service,
            ports: ports.into(),
            fqdn: false,
            manager: SliceManager::default(),
            conditions: rows.iter().map(|row| row.conditions).collect(),
            hostnames: LabelColumn::new(rows.iter().map(|row| row.hostname.as_deref())),
            pods: LabelColumn::new(pods),
            addresses,
        }
    }

    /// A slice of names instead of addresses (`addressType: FQDN`), of which nothing is served.
    pub fn of_names(key: ObjectRef, service: Option<Box<str>>) -> Self {
        Self { fqdn: true, ..Self::new(key, service, Family::V4, Vec::new(), &[]) }
    }

    /// Sets the controller that writes the slice.
    pub fn managed_by(self, manager: SliceManager) -> Self {
        Self { manager, ..self }
    }

    /// The family of every address in this slice.
    pub fn family(&self) -> Family {
        match self.addresses {
            Addresses::V4(_) => Family::V4,
            Addresses::V6(_) => Family::V6,
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.conditions.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// The addresses, in the order of the object.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.states().map(|(address, _)| address)
    }

    /// The address and the conditions of each row, in the order of the object.
    pub fn states(&self) -> impl Iterator<Item = (IpAddr, Conditions)> {
        (0..self.len()).map(|row| (self.address(row), self.conditions[row]))
    }

    /// The hostnames of the rows, as `texts` writes them.
    pub fn hostnames(&self, texts: &mut TextsBuilder) -> Repacked<'_> {
        texts.repack(&self.hostnames)
    }

    /// The name of a row's Pod: [`Endpoint::pod`].
    pub fn pod(&self, row: usize) -> Option<Label<'_>> {
        self.pods.get(row).or_else(|| self.hostnames.get(row))
    }

    fn address(&self, row: usize) -> IpAddr {
        match &self.addresses {
            Addresses::V4(column) => Ipv4Addr::from(column[row]).into(),
            Addresses::V6(column) => Ipv6Addr::from(column[row]).into(),
        }
    }

    /// The rows, in the order of the object.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint<'_>> {
        (0..self.len()).map(|row| Endpoint {
            address: self.address(row),
            conditions: self.conditions[row],
            hostname: self.hostnames.get(row),
            pod: self.pod(row),
        })
    }
}

fn v4(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(address) => Some(address.into()),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<u128> {
    match address {
        IpAddr::V6(address) => Some(address.into()),
        IpAddr::V4(_) => None,
    }
}

/// The controller that writes an EndpointSlice, by its label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SliceManager {
    /// The one that follows Services with a selector.
    Selector,
    /// The one that copies Endpoints of Services without a selector.
    Mirroring,
    /// Another, or a person.
    #[default]
    Other,
}

impl SliceManager {
    /// The value of [`MANAGED_BY_LABEL`], for the controllers of a cluster.
    pub fn label(self) -> Option<&'static str> {
        match self {
            Self::Selector => Some("endpointslice-controller.k8s.io"),
            Self::Mirroring => Some("endpointslicemirroring-controller.k8s.io"),
            Self::Other => None,
        }
    }

    fn from_label(text: &str) -> Self {
        let named = [Self::Selector, Self::Mirroring].into_iter().find(|manager| manager.label() == Some(text));
        named.unwrap_or_default()
    }
}

/// One row of an [`EndpointSlice`], to build it from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRow {
    /// The address.
    pub address: IpAddr,
    /// Ready, serving, terminating.
    pub conditions: Conditions,
    /// A DNS label, lower case.
    pub hostname: Option<Box<str>>,
    /// `targetRef.name` where that is a Pod.
    pub pod: Option<Box<str>>,
}

/// One row of an [`EndpointSlice`], as read.
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'s> {
    /// The address.
    pub address: IpAddr,
    /// Ready, serving, terminating.
    pub conditions: Conditions,
    /// A DNS label, lower case.
    pub hostname: Option<Label<'s>>,
    /// The Pod's name: `targetRef.name`, or the hostname where the object names no Pod or the same.
    pub pod: Option<Label<'s>>,
}

/// The conditions of an endpoint. Absent ones have the API's meaning: `ready` true, `serving` as `ready`,
/// `terminating` false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions(u8);

impl Conditions {
    /// Ready and serving.
    pub const READY: Self = Self(0b011);

    /// From the three fields of the API.
    pub fn new(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Self {
        let ready = ready.unwrap_or(true);
        let serving = serving.unwrap_or(ready);
        Self(u8::from(ready) | u8::from(serving) << 1 | u8::from(terminating.unwrap_or(false)) << 2)
    }

    /// The endpoint takes new connections.
    pub fn ready(self) -> bool {
        self.0 & 0b001 != 0
    }

    /// It could, were it not terminating.
    pub fn serving(self) -> bool {
        self.0 & 0b010 != 0
    }

    /// Its Pod is being deleted.
    pub fn terminating(self) -> bool {
        self.0 & 0b100 != 0
    }
}

/// One port of an EndpointSlice or Endpoints object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointPort {
    /// Its name, lower case, or empty.
    pub name: Box<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the endpoints.
    pub number: u16,
}

/// An Endpoints object: the same as some slices of the Service of its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    /// Its namespace and name, which are the Service's.
    pub key: ObjectRef,
    /// One slice per subset and family.
    pub slices: Vec<EndpointSlice>,
    /// Number of rows of each slice that the mirroring controller copies: none where the object's metadata forbids it.
    pub mirrored: Vec<usize>,
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Its namespace and name.
    pub key: ObjectRef,
    /// Its labels.
    pub labels: Labels,
    /// `status.podIPs`, or none.
    pub addresses: Vec<IpAddr>,
    /// What its template says of it.
    pub spec: PodSpec,
    /// The object that controls it: kind and name.
    pub owner: Option<Owner>,
    /// The condition `Ready`; `None` where the manifest has no status.
    pub ready: Option<bool>,
    /// It has a `deletionTimestamp`.
    pub terminating: bool,
    /// `status.phase` is `Succeeded` or `Failed`.
    pub finished: bool,
    /// The annotation `helm.sh/hook`: when Helm runs the Pod, which is then no part of the release.
    pub hook: Option<Box<str>>,
}

impl Default for ObjectRef {
    fn default() -> Self {
        Self::new("default", "")
    }
}

/// The controller of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its kind.
    pub kind: Box<str>,
    /// Its name, in the same namespace.
    pub name: Box<str>,
}

/// What names and ports come from in a Pod's spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodSpec {
    /// `hostname`.
    pub hostname: Option<Box<str>>,
    /// `subdomain`.
    pub subdomain: Option<Box<str>>,
    /// Ports of all containers, also of sidecars; only named ones matter.
    pub ports: Vec<EndpointPort>,
}

/// The template of a workload's Pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodTemplate {
    /// Labels of the Pods.
    pub labels: Labels,
    /// Their spec.
    pub spec: PodSpec,
}

/// A StatefulSet.
#[derive(Clone, Debug, PartialEq)]
pub struct StatefulSet {
    /// Its namespace and name.
    pub key: ObjectRef,
    /// The governing Service; empty where the object names none (allowed since Kubernetes 1.33).
    pub service_name: Box<str>,
    /// How many Pods.
    pub replicas: u32,
    /// `ordinals.start`.
    pub start: u32,
    /// `podManagementPolicy` is `Parallel`: no Pod waits for the one before it.
    pub parallel: bool,
    /// `selector.matchLabels`.
    pub selector: Labels,
    /// The template of its Pods.
    pub template: PodTemplate,
}

/// A workload whose Pods are not numbered names of a governing Service: simulated, never watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Which kind.
    pub kind: WorkloadKind,
    /// Its namespace and name.
    pub key: ObjectRef,
    /// How many Pods; for a DaemonSet 1, for a Job its completions.
    pub replicas: u32,
    /// The template of its Pods.
    pub template: PodTemplate,
    /// The object that controls it: of a ReplicaSet a Deployment.
    pub owner: Option<Owner>,
    /// The annotation `helm.sh/hook`, as of a Pod.
    pub hook: Option<Box<str>>,
}

/// Kinds of [`Workload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` ReplicaSet.
    ReplicaSet,
    /// `apps/v1` DaemonSet.
    DaemonSet,
    /// `v1` ReplicationController.
    ReplicationController,
    /// `apps.openshift.io/v1` DeploymentConfig.
    DeploymentConfig,
    /// `argoproj.io/v1alpha1` Rollout.
    Rollout,
    /// `apps.kruise.io/v1alpha1` CloneSet.
    CloneSet,
    /// `batch/v1` Job; `indexed` is its `completionMode`.
    Job {
        /// Its Pods are numbered, and their hostnames with them.
        indexed: bool,
    },
}

impl WorkloadKind {
    /// As the Kubernetes API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::ReplicaSet => "ReplicaSet",
            Self::DaemonSet => "DaemonSet",
            Self::ReplicationController => "ReplicationController",
            Self::DeploymentConfig => "DeploymentConfig",
            Self::Rollout => "Rollout",
            Self::CloneSet => "CloneSet",
            Self::Job { .. } => "Job",
        }
    }
}
