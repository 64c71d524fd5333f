//! Trimmed Kubernetes objects: the fields that are served, simulated or explained, and no others.
//!
//! Decoding is lenient: the valid part of an object is kept, and each invalid part is left out and reported as
//! [`Skipped`]; only a document that is no object of its kind is [`Invalid`]. Beyond this module, addresses, families
//! and protocols are values and no strings. Not here: relations between objects (`cluster/mod.rs`) and their records
//! (`records/`). Read `raw.rs` next, the JSON shapes and their decoder; `validate.rs` checks manifests as the API
//! server does, `write.rs` encodes objects for the snapshot.

mod raw;
mod validate;
mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use crate::name::label_pool::{Label, LabelColumn, LabelPoolBuilder, Remapped};

pub use raw::{decode, decode_text, is_read, key};
pub use validate::violations;
pub use write::encode;

/// Label with the name of the Service that an EndpointSlice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Label with the name of the controller or person that manages an EndpointSlice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";

/// Label that, with the value `true`, keeps the mirroring controller from copying an Endpoints object.
pub const SKIP_MIRROR_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";

/// Maximum number of addresses that the mirroring controller copies of one subset, by default.
pub const MAX_MIRRORED: usize = 1000;

/// Labels of an object, or the label pairs of a selector, sorted by key. Most have one or two, so a slice replaces a
/// tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// Returns whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns keys and values, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Box<str>, &Box<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Returns the keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &Box<str>> {
        self.0.iter().map(|(key, _)| key)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: Box<str>, value: Box<str>) {
        *self = std::mem::take(self).0.into_iter().chain([(key, value)]).collect();
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(other, _)| (**other).cmp(key)).ok()?;
        Some(&self.0[at].1)
    }
}

impl FromIterator<(Box<str>, Box<str>)> for Labels {
    /// Collects pairs. The last value of a repeated key counts.
    fn from_iter<I: IntoIterator<Item = (Box<str>, Box<str>)>>(pairs: I) -> Self {
        Self(BTreeMap::from_iter(pairs).into_iter().collect())
    }
}

/// Namespace and name of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Namespace of the object.
    pub namespace: Box<str>,
    /// Name of the object in that namespace.
    pub name: Box<str>,
}

impl ObjectRef {
    /// Returns the reference `namespace/name`.
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
    /// A Deployment, ReplicaSet, DaemonSet, Job or other workload: simulated, never watched.
    Workload(Workload),
}

impl Object {
    /// Returns the kind, as the Kubernetes API writes it.
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

    /// Returns the namespace of the object; for a Namespace, its own name.
    pub fn namespace(&self) -> &str {
        self.namespace_and_name().0
    }

    /// Returns the name of the object.
    pub fn name(&self) -> &str {
        self.namespace_and_name().1
    }

    fn namespace_and_name(&self) -> (&str, &str) {
        let key = match self {
            Self::Namespace(object) => return (&object.name, &object.name),
            Self::Service(object) => &object.key,
            Self::EndpointSlice(object) => &object.key,
            Self::Endpoints(object) => &object.key,
            Self::Pod(object) => &object.key,
            Self::StatefulSet(object) => &object.key,
            Self::Workload(object) => &object.key,
        };
        (&key.namespace, &key.name)
    }
}

/// A part of an object, or a whole object, that is left out: one sentence for people, and a reason for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Reason, as a label of a metric.
    pub reason: Reason,
    /// Object concerned, if it is a single one.
    pub object: Option<ObjectRef>,
    /// One sentence: the object, the error, and the consequence.
    pub text: String,
}

/// Objects that an error in the input may concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Any object: a file cannot be read, or an object has no name.
    Unknown,
    /// The object of this namespace and name.
    Object(ObjectRef),
    /// Objects of these names, sorted, in any namespace: a document cannot be parsed.
    Names(Vec<Box<str>>),
}

impl From<Option<ObjectRef>> for Subject {
    fn from(object: Option<ObjectRef>) -> Self {
        object.map_or(Self::Unknown, Self::Object)
    }
}

/// Reason why an object or a part of it is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// An address that does not parse, or is not of the family of its slice.
    Address,
    /// `addressType: FQDN`: names instead of addresses.
    Fqdn,
    /// A hostname that is not a DNS label.
    Hostname,
    /// A port without a usable name, number or protocol.
    Port,
    /// An external name that is an address, or no domain name.
    ExternalName,
    /// A name or namespace that cannot be a label.
    Name,
    /// A Service or Pod that should have an address and has none.
    NoAddress,
}

impl Reason {
    /// Returns the value of the metric's label.
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

/// Error of a document that cannot be used at all: one sentence with the object and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub String);

impl Invalid {
    /// Returns the error of a document with these [`violations`], of which it lists the first three.
    pub fn new(document: &serde_json::Value, default_namespace: &str, violations: &[String]) -> Self {
        const MAX_LISTED: usize = 3;
        let kind = document.get("kind").and_then(serde_json::Value::as_str).unwrap_or_default();
        let object = match key(document, default_namespace) {
            Some(key) => format!("{kind} {key}"),
            None => format!("the {kind}"),
        };
        let more = match violations.len() {
            0..=MAX_LISTED => String::new(),
            len => format!("; and {} more", len - MAX_LISTED),
        };
        let listed = &violations[..violations.len().min(MAX_LISTED)];
        Self(format!("{object} is invalid: {}{more}", listed.join("; ")))
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Result of decoding one document.
#[allow(clippy::large_enum_variant)] // nearly all are objects, and each is matched at once
#[derive(Clone, Debug, PartialEq)]
pub enum Decoded {
    /// An object, and the parts of it that cannot be served.
    Object(Object, Vec<Skipped>),
    /// The items of a `List` (or `ServiceList`, ...), each to be decoded by itself.
    List(Vec<serde_json::Value>),
    /// A document of a kind that is not read: a ConfigMap, an Ingress, ...
    Ignored,
}

/// Transport protocol of a port.
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
    /// All protocols, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Returns the protocol, as the Kubernetes API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// Returns the protocol label of an SRV name (RFC 2782): `_tcp`.
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
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl AddressFamily {
    /// Returns the family of an address.
    pub fn from_address(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Returns the family, as the Kubernetes API writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::V4, Self::V6].into_iter().find(|family| family.name() == name)
    }
}

/// Namespace, reduced to the fields in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Name, a DNS label.
    pub name: Box<str>,
    /// True while the Namespace and all objects in it are being deleted.
    pub terminating: bool,
}

impl Namespace {
    /// Returns an active Namespace.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self { name: name.into(), terminating: false }
    }
}

/// Service, reduced to the fields in use.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Namespace and name; both are DNS labels.
    pub key: ObjectRef,
    /// Kind of records at the Service's name.
    pub kind: ServiceKind,
    /// `publishNotReadyAddresses`: endpoints that are not ready are answered too.
    pub publish_not_ready: bool,
    /// `spec.selector`: labels of the Pods that are the Service's endpoints; empty if no controller writes its
    /// EndpointSlices.
    pub selector: Labels,
    /// Ports, in the order of the object.
    pub ports: Vec<ServicePort>,
    /// `ipFamilies` as written; may be empty in a manifest.
    pub families: Vec<AddressFamily>,
    /// `ipFamilyPolicy` as written; may be absent in a manifest.
    pub family_policy: Option<FamilyPolicy>,
}

impl Service {
    /// Returns whether an endpoint with these conditions is in the answer for the Service's name: it is ready, whatever
    /// its `terminating` condition, or the Service publishes endpoints that are not ready, also of slices written by
    /// hand (E1, E4 of `tests/rows.md`).
    pub fn answers_with(&self, conditions: Conditions) -> bool {
        conditions.ready() || self.publish_not_ready
    }

    /// Returns the cluster IPs; none for a headless Service or an ExternalName.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let own = match &self.kind {
            ServiceKind::ClusterIp(addresses) => &addresses[..],
            _ => &[],
        };
        own.iter().copied()
    }
}

/// Kind of records at a Service's name.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceKind {
    /// Address records of the cluster IPs: none if a manifest gives none, one, or two of different families.
    ClusterIp(Vec<IpAddr>),
    /// Address records of the endpoints (`clusterIP: None`).
    Headless,
    /// A CNAME record with this target, as written.
    ExternalName(Box<str>),
}

/// Number of families that a Service has addresses of (`ipFamilyPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FamilyPolicy {
    /// Addresses of one family.
    SingleStack,
    /// Addresses of two families if the cluster has two, else of one.
    PreferDualStack,
    /// Addresses of two families, or the API server rejects the Service.
    RequireDualStack,
}

impl FamilyPolicy {
    /// All policies, in the order of their discriminants.
    pub const ALL: [Self; 3] = [Self::SingleStack, Self::PreferDualStack, Self::RequireDualStack];

    /// Returns the policy, as the Kubernetes API writes it.
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
    /// Name in lower case, or empty.
    pub name: Box<str>,
    /// Transport protocol of the port.
    pub protocol: Protocol,
    /// `port`: the port of the cluster IP.
    pub number: u16,
    /// `targetPort`: the port of the Pods.
    pub target: TargetPort,
}

/// `targetPort` of a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number (default: the port at the cluster IP).
    Number(u16),
    /// Name of a container's port.
    Name(Box<str>),
}

/// An EndpointSlice in columns: row `i` of each column belongs to one address.
///
/// An endpoint with several addresses has several rows. Endpoints that cannot be served have no row.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: ObjectRef,
    /// Value of [`SERVICE_NAME_LABEL`]: name of the Service, in the same namespace.
    pub service: Option<Box<str>>,
    /// Ports of every endpoint of this slice.
    pub ports: Box<[EndpointPort]>,
    /// True for `addressType: FQDN`: the slice has no rows, even if the object lists endpoints.
    pub fqdn: bool,
    /// Controller that writes the slice.
    pub manager: SliceManager,
    addresses: SliceAddresses,
    conditions: Box<[Conditions]>,
    hostnames: LabelColumn,
    pods: LabelColumn,
}

#[derive(Clone, Debug, PartialEq)]
enum SliceAddresses {
    V4(Box<[u32]>),
    V6(Box<[u128]>),
}

impl EndpointSlice {
    /// Returns a slice of these rows, without those of another family than `family`.
    pub fn new(
        key: ObjectRef,
        service: Option<Box<str>>,
        family: AddressFamily,
        ports: Vec<EndpointPort>,
        rows: &[EndpointRow],
    ) -> Self {
        let rows: Vec<&EndpointRow> =
            rows.iter().filter(|row| AddressFamily::from_address(row.address) == family).collect();
        let addresses = match family {
            AddressFamily::V4 => SliceAddresses::V4(rows.iter().filter_map(|row| v4(row.address)).collect()),
            AddressFamily::V6 => SliceAddresses::V6(rows.iter().filter_map(|row| v6(row.address)).collect()),
        };
        // The Pod's name is stored only if it differs from the hostname: for a StatefulSet it never does.
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

    /// Returns a slice with `addressType: FQDN`, of which nothing is served.
    pub fn for_names(key: ObjectRef, service: Option<Box<str>>) -> Self {
        Self { fqdn: true, ..Self::new(key, service, AddressFamily::V4, Vec::new(), &[]) }
    }

    /// Sets the controller that writes the slice.
    pub fn managed_by(self, manager: SliceManager) -> Self {
        Self { manager, ..self }
    }

    /// Returns the family of every address in this slice.
    pub fn family(&self) -> AddressFamily {
        match self.addresses {
            SliceAddresses::V4(_) => AddressFamily::V4,
            SliceAddresses::V6(_) => AddressFamily::V6,
        }
    }

    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.conditions.len()
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Returns the addresses, in the order of the object.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.states().map(|(address, _)| address)
    }

    /// Returns the address and the conditions of each row, in the order of the object.
    pub fn states(&self) -> impl Iterator<Item = (IpAddr, Conditions)> {
        (0..self.len()).map(|row| (self.address(row), self.conditions[row]))
    }

    /// Returns the hostnames of the rows, packed with the label pool that `texts` builds.
    pub fn hostnames(&self, texts: &mut LabelPoolBuilder) -> Remapped<'_> {
        texts.repack(&self.hostnames)
    }

    /// Returns the name of a row's Pod, as [`Endpoint::pod`].
    pub fn pod(&self, row: usize) -> Option<Label<'_>> {
        self.pods.get(row).or_else(|| self.hostnames.get(row))
    }

    fn address(&self, row: usize) -> IpAddr {
        match &self.addresses {
            SliceAddresses::V4(column) => Ipv4Addr::from(column[row]).into(),
            SliceAddresses::V6(column) => Ipv6Addr::from(column[row]).into(),
        }
    }

    /// Returns the rows, in the order of the object.
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

/// Controller that writes an EndpointSlice, by [`MANAGED_BY_LABEL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SliceManager {
    /// The EndpointSlice controller, for Services with a selector.
    Selector,
    /// The EndpointSlice mirroring controller, which copies Endpoints of Services without a selector.
    Mirroring,
    /// Another controller, or a person.
    #[default]
    Other,
}

impl SliceManager {
    /// Returns the value of [`MANAGED_BY_LABEL`] for a controller of Kubernetes.
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

/// One row for [`EndpointSlice::new`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRow {
    /// IP address of the endpoint.
    pub address: IpAddr,
    /// Conditions: ready, serving, terminating.
    pub conditions: Conditions,
    /// Hostname, a DNS label in lower case.
    pub hostname: Option<Box<str>>,
    /// `targetRef.name`, if the target is a Pod.
    pub pod: Option<Box<str>>,
}

/// One row of an [`EndpointSlice`].
#[derive(Clone, Copy, Debug)]
pub struct Endpoint<'s> {
    /// IP address of the endpoint.
    pub address: IpAddr,
    /// Conditions: ready, serving, terminating.
    pub conditions: Conditions,
    /// Hostname, a DNS label in lower case.
    pub hostname: Option<Label<'s>>,
    /// Name of the Pod: `targetRef.name`, or the hostname if the object names no Pod.
    pub pod: Option<Label<'s>>,
}

/// Conditions of an endpoint. Absent conditions have the API's defaults: `ready` is true, `serving` is as `ready`,
/// `terminating` is false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions(u8);

impl Conditions {
    /// Ready, serving and not terminating.
    pub const READY: Self = Self(0b011);

    /// Returns conditions from the three fields of the API.
    pub fn new(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Self {
        let ready = ready.unwrap_or(true);
        let serving = serving.unwrap_or(ready);
        Self(u8::from(ready) | u8::from(serving) << 1 | u8::from(terminating.unwrap_or(false)) << 2)
    }

    /// Returns whether the endpoint takes new connections.
    pub fn ready(self) -> bool {
        self.0 & 0b001 != 0
    }

    /// Returns whether the endpoint responds, even while it terminates.
    pub fn serving(self) -> bool {
        self.0 & 0b010 != 0
    }

    /// Returns whether the endpoint's Pod is being deleted.
    pub fn terminating(self) -> bool {
        self.0 & 0b100 != 0
    }
}

/// One port of an EndpointSlice or Endpoints object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointPort {
    /// Name in lower case, or empty.
    pub name: Box<str>,
    /// Transport protocol of the port.
    pub protocol: Protocol,
    /// `port`: the port of the endpoints.
    pub number: u16,
}

/// An Endpoints object, as EndpointSlices of the Service of its name.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    /// Namespace and name, which are those of the Service.
    pub key: ObjectRef,
    /// One slice per subset and address family.
    pub slices: Vec<EndpointSlice>,
    /// Number of rows of each slice that the mirroring controller copies: 0 if the object's metadata forbids it.
    pub mirrored: Vec<usize>,
}

/// Pod, reduced to the fields in use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectRef,
    /// `metadata.labels` of the Pod.
    pub labels: Labels,
    /// `status.podIPs`; empty before the Pod has an address.
    pub addresses: Vec<IpAddr>,
    /// Fields of `spec`.
    pub spec: PodSpec,
    /// Controller of the Pod, if it has one.
    pub owner: Option<OwnerRef>,
    /// Condition `Ready`; `None` if the manifest has no status.
    pub ready: Option<bool>,
    /// True if the Pod has a `deletionTimestamp`.
    pub terminating: bool,
    /// True if `status.phase` is `Succeeded` or `Failed`.
    pub finished: bool,
    /// Annotation `helm.sh/hook`: events at which Helm runs the Pod, which is then no part of the release.
    pub hook: Option<Box<str>>,
}

impl Default for ObjectRef {
    fn default() -> Self {
        Self::new("default", "")
    }
}

/// Controller of an object: its owner reference with `controller: true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerRef {
    /// Kind of the controller.
    pub kind: Box<str>,
    /// Name of the controller, in the namespace of the object.
    pub name: Box<str>,
}

/// Fields of a Pod's spec that names and ports depend on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodSpec {
    /// `spec.hostname` of the Pod.
    pub hostname: Option<Box<str>>,
    /// `spec.subdomain` of the Pod: the Service below which its name is published.
    pub subdomain: Option<Box<str>>,
    /// Ports of all containers and sidecars; only named ports are used.
    pub ports: Vec<EndpointPort>,
}

/// The template of a workload's Pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodTemplate {
    /// Labels of the Pods.
    pub labels: Labels,
    /// Spec of the Pods.
    pub spec: PodSpec,
}

/// StatefulSet, reduced to the fields in use.
#[derive(Clone, Debug, PartialEq)]
pub struct StatefulSet {
    /// Namespace and name.
    pub key: ObjectRef,
    /// `serviceName`, the governing Service; empty if the object has none (allowed since Kubernetes 1.33).
    pub service_name: Box<str>,
    /// Number of Pods.
    pub replicas: u32,
    /// `ordinals.start`, the first ordinal.
    pub start: u32,
    /// True if `podManagementPolicy` is `Parallel`: no Pod waits for the one before it.
    pub parallel: bool,
    /// `spec.selector.matchLabels` of the StatefulSet.
    pub selector: Labels,
    /// Template of the Pods.
    pub template: PodTemplate,
}

impl StatefulSet {
    /// Returns the ordinals of the Pods that the StatefulSet should have.
    pub fn ordinals(&self) -> Range<u32> {
        self.start..self.start.saturating_add(self.replicas)
    }
}

/// A workload other than a StatefulSet: simulated, never watched.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Kind of the workload.
    pub kind: WorkloadKind,
    /// Namespace and name.
    pub key: ObjectRef,
    /// Number of Pods: for a DaemonSet 1, for a Job by its parallelism and completions.
    pub replicas: u32,
    /// Template of the Pods.
    pub template: PodTemplate,
    /// Controller of the workload: a Deployment controls its ReplicaSets.
    pub owner: Option<OwnerRef>,
    /// Annotation `helm.sh/hook`, as [`Pod::hook`].
    pub hook: Option<Box<str>>,
}

/// Kind of a [`Workload`].
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
    /// `batch/v1` Job.
    Job {
        /// True if `completionMode` is `Indexed`: the Pods are numbered, and so are their hostnames.
        indexed: bool,
    },
}

impl WorkloadKind {
    /// Returns the kind, as the Kubernetes API writes it.
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
