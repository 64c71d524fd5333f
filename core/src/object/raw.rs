//! JSON shapes of the Kubernetes API, and the decoder that trims each to an [`Object`].
//!
//! Every field may be absent or `null`: manifests written by hand and objects printed by `kubectl` both arrive here.
//! Defaults are those of the API server. Not here: checks of manifests by the API server's rules (`validate.rs`; read
//! it next).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Deref;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{
    AddressFamily, Conditions, Decoded, EndpointPort, EndpointRow, EndpointSlice, Endpoints, FamilyPolicy, Invalid,
    Labels, MAX_MIRRORED, Namespace, Object, ObjectRef, OwnerRef, Pod, PodSpec, PodTemplate, Protocol, Reason, Service,
    ServiceKind, ServicePort, Skipped, SliceManager, StatefulSet, TargetPort, Workload, WorkloadKind,
};
use crate::name::is_label;

/// Decodes one document. `default_namespace` is for objects without a namespace.
///
/// The kind is checked first: of a kind that is not read, no other field has to be valid.
///
/// # Errors
///
/// [`Invalid`] describes a document that is no object of its kind, in one sentence.
pub fn decode(document: Value, default_namespace: &str) -> Result<Decoded, Invalid> {
    let Some(kind) = kind_of(&document)? else { return Ok(Decoded::Ignored) };
    if let Some(item) = kind.strip_suffix("List") {
        return decode_list(item, document);
    }
    let Some(shape) = ObjectShape::new(group_of(&document), &kind) else { return Ok(Decoded::Ignored) };
    match valid_key(&document, &kind, default_namespace)? {
        Some(key) => trim(&kind, shape, key, RawDocument::Tree(&document)),
        None => Ok(Decoded::Ignored),
    }
}

/// Splits a list of objects of one kind into its items; an empty `kind` allows any.
fn decode_list(kind: &str, mut document: Value) -> Result<Decoded, Invalid> {
    match document.get_mut("items").map(Value::take) {
        Some(Value::Array(mut items)) => {
            name_kinds(kind, document.get("apiVersion"), &mut items);
            Ok(Decoded::List(items))
        }
        None | Some(Value::Null) => Ok(Decoded::List(Vec::new())),
        Some(_) if kind.is_empty() || ObjectShape::new(group_of(&document), kind).is_some() => {
            Err(Invalid(format!("the {kind}List has `items` that are no list")))
        }
        Some(_) => Ok(Decoded::Ignored),
    }
}

/// Returns the kind of a document; `None` for one that is no Kubernetes object, such as the values of a chart or a
/// dashboard.
fn kind_of(document: &Value) -> Result<Option<String>, Invalid> {
    match document.get("kind") {
        Some(Value::String(kind)) => Ok(Some(kind.clone())),
        _ if !document.is_object() => Err(Invalid("the document is a plain value and no Kubernetes object".into())),
        _ if document.get("apiVersion").is_none() => Ok(None),
        _ => Err(Invalid("the document has an `apiVersion` and no `kind`, so it is no Kubernetes object".into())),
    }
}

/// Returns whether objects of the document's kind are read.
pub fn is_read(document: &Value, kind: &str) -> bool {
    ObjectShape::new(group_of(document), kind).is_some()
}

/// Returns the group of a document's `apiVersion`: `apps` of `apps/v1`, an empty one of `v1`.
fn group_of(document: &Value) -> Option<&str> {
    let version = document.get("apiVersion")?.as_str()?;
    Some(version.split_once('/').map_or("", |(group, _)| group))
}

/// Decodes the JSON text of an object of known kind, group and key. The result is that of [`decode`], at a third of the
/// cost, because fields that are not read are skipped without allocating.
///
/// # Errors
///
/// As for [`decode`], possibly with less detail.
pub fn decode_text(kind: &str, group: &str, key: ObjectRef, text: &str) -> Result<Decoded, Invalid> {
    match ObjectShape::new(Some(group), kind) {
        Some(shape) => trim(kind, shape, key, RawDocument::Text(text)),
        None => Ok(Decoded::Ignored),
    }
}

/// Source of an object's fields.
#[derive(Clone, Copy)]
enum RawDocument<'d> {
    Tree(&'d Value),
    Text(&'d str),
}

/// Kinds of objects that are read.
#[derive(Clone, Copy)]
enum ObjectShape {
    Namespace,
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    StatefulSet,
    Workload(WorkloadKind),
}

impl ObjectShape {
    /// Group, kind and shape of each.
    const ALL: [(&str, &str, Self); 14] = [
        ("", "Namespace", Self::Namespace),
        ("", "Service", Self::Service),
        ("discovery.k8s.io", "EndpointSlice", Self::EndpointSlice),
        ("", "Endpoints", Self::Endpoints),
        ("", "Pod", Self::Pod),
        ("apps", "StatefulSet", Self::StatefulSet),
        ("apps", "Deployment", Self::Workload(WorkloadKind::Deployment)),
        ("apps", "ReplicaSet", Self::Workload(WorkloadKind::ReplicaSet)),
        ("apps", "DaemonSet", Self::Workload(WorkloadKind::DaemonSet)),
        ("", "ReplicationController", Self::Workload(WorkloadKind::ReplicationController)),
        ("apps.openshift.io", "DeploymentConfig", Self::Workload(WorkloadKind::DeploymentConfig)),
        ("argoproj.io", "Rollout", Self::Workload(WorkloadKind::Rollout)),
        ("apps.kruise.io", "CloneSet", Self::Workload(WorkloadKind::CloneSet)),
        ("batch", "Job", Self::Workload(WorkloadKind::Job { indexed: false })),
    ];

    /// Returns the shape of a kind that is read. Without a group the kind decides, because items of lists may lack it.
    fn new(group: Option<&str>, kind: &str) -> Option<Self> {
        let is_it = |own: &str, name: &str| name == kind && group.is_none_or(|group| group == own);
        Self::ALL.into_iter().find(|(own, name, _)| is_it(own, name)).map(|(.., shape)| shape)
    }
}

fn trim(kind: &str, shape: ObjectShape, key: ObjectRef, document: RawDocument<'_>) -> Result<Decoded, Invalid> {
    let mut trim = Trimmer { kind, key, skipped: Vec::new() };
    let object = match shape {
        ObjectShape::Namespace => Object::Namespace(trim.namespace(document)?),
        ObjectShape::Service => Object::Service(trim.service(document)?),
        ObjectShape::EndpointSlice => Object::EndpointSlice(trim.slice(document)?),
        ObjectShape::Endpoints => Object::Endpoints(trim.endpoints(document)?),
        ObjectShape::Pod => Object::Pod(trim.pod(document)?),
        ObjectShape::StatefulSet => Object::StatefulSet(trim.stateful_set(document)?),
        ObjectShape::Workload(kind) => Object::Workload(trim.workload(document, kind)?),
    };
    Ok(Decoded::Object(object, trim.skipped))
}

/// Adds the kind and version of a list to its items, which a `ServiceList` may omit.
fn name_kinds(kind: &str, api_version: Option<&Value>, items: &mut [Value]) {
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        if !kind.is_empty() && !item.contains_key("kind") {
            item.insert("kind".into(), kind.into());
            if let Some(version) = api_version {
                item.insert("apiVersion".into(), version.clone());
            }
        }
    }
}

/// Returns the namespace and the name of a document that has a name.
pub fn key(document: &Value, default_namespace: &str) -> Option<ObjectRef> {
    let namespace = text_of(document, "namespace").unwrap_or(default_namespace);
    Some(ObjectRef::new(namespace, text_of(document, "name")?))
}

/// Returns a field of an object's metadata, if it is a string that is not empty.
fn text_of<'d>(document: &'d Value, field: &str) -> Option<&'d str> {
    document.get("metadata")?.get(field)?.as_str().filter(|text| !text.is_empty())
}

/// Returns the object's namespace and name; `None` if the API server generates the name (`generateName`).
fn valid_key(document: &Value, kind: &str, default_namespace: &str) -> Result<Option<ObjectRef>, Invalid> {
    match key(document, default_namespace) {
        Some(key) if is_label(&key.namespace) => Ok(Some(key)),
        Some(ObjectRef { namespace, name }) => Err(Invalid(format!(
            "{kind} {name}: the namespace {namespace:?} is not a DNS label (1 to 63 letters, digits and inner hyphens)"
        ))),
        None if text_of(document, "generateName").is_some() => Ok(None),
        None => Err(Invalid(format!("the {kind} has no `metadata.name`"))),
    }
}

/// Decoder of one object, which collects the parts that are left out.
struct Trimmer<'k> {
    kind: &'k str,
    key: ObjectRef,
    skipped: Vec<Skipped>,
}

impl Trimmer<'_> {
    fn skip(&mut self, reason: Reason, text: &str) {
        self.skipped.push(Skipped {
            reason,
            object: Some(self.key.clone()),
            text: format!("{} {}: {text}", self.kind, self.key),
        });
    }

    fn read<'d, T: Deserialize<'d>>(&self, document: RawDocument<'d>) -> Result<T, Invalid> {
        let read = match document {
            RawDocument::Tree(document) => T::deserialize(document),
            RawDocument::Text(text) => serde_json::from_str(text),
        };
        read.map_err(|error| Invalid(format!("{} {}: {error}", self.kind, self.key)))
    }

    /// Checks that the object's name can be a label of a domain name.
    fn check_name_is_label(&self) -> Result<(), Invalid> {
        if is_label(&self.key.name) {
            return Ok(());
        }
        Err(Invalid(format!(
            "{} {}: its name is not a DNS label (1 to 63 letters, digits and inner hyphens)",
            self.kind, self.key
        )))
    }

    fn namespace(&self, document: RawDocument<'_>) -> Result<Namespace, Invalid> {
        self.check_name_is_label()?;
        let RawNamespace { metadata, status } = self.read(document)?;
        let terminating = metadata.deletion_timestamp.is_some() || status.phase.as_deref() == Some("Terminating");
        Ok(Namespace { name: self.key.name.clone(), terminating })
    }

    fn service(&mut self, document: RawDocument<'_>) -> Result<Service, Invalid> {
        self.check_name_is_label()?;
        let RawService { spec } = self.read(document)?;
        let kind = if spec.kind.as_deref() == Some("ExternalName") {
            ServiceKind::ExternalName(spec.external_name.unwrap_or_default().into())
        } else if spec.cluster_ip.as_deref() == Some("None") || spec.cluster_ips.first().is_some_and(|ip| ip == "None")
        {
            ServiceKind::Headless
        } else {
            let written =
                if spec.cluster_ips.is_empty() { spec.cluster_ip.into_iter().collect() } else { spec.cluster_ips };
            ServiceKind::ClusterIp(written.iter().filter_map(|text| self.cluster_ip(text)).collect())
        };
        Ok(Service {
            kind,
            publish_not_ready: spec.publish_not_ready_addresses,
            selector: labels(spec.selector),
            // A boxed slice first: a vector collected in place keeps the allocation of the raw ports, which are several
            // times as large.
            ports: Vec::from(spec.ports.into_iter().filter_map(|port| self.service_port(port)).collect::<Box<[_]>>()),
            families: spec.ip_families.iter().filter_map(|family| AddressFamily::from_name(family)).collect(),
            family_policy: FamilyPolicy::ALL
                .into_iter()
                .find(|policy| spec.ip_family_policy.as_deref() == Some(policy.name())),
            key: self.key.clone(),
        })
    }

    fn cluster_ip(&mut self, text: &str) -> Option<IpAddr> {
        if text.is_empty() {
            return None;
        }
        match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                self.skip(Reason::Address, &format!("`clusterIP` {text:?} is no address; it is left out"));
                None
            }
        }
    }

    fn service_port(&mut self, port: RawServicePort) -> Option<ServicePort> {
        let RawServicePort { name, protocol, port: number, target_port } = port;
        let EndpointPort { name, protocol, number } = self.port(RawPort { name, protocol, port: number })?;
        let target = match target_port {
            None => TargetPort::Number(number),
            Some(RawTargetPort::Number(0)) => TargetPort::Number(number),
            Some(RawTargetPort::Number(target)) => TargetPort::Number(target),
            Some(RawTargetPort::Name(target)) => match target.parse() {
                Ok(target) => TargetPort::Number(target),
                Err(_) => TargetPort::Name(target.into()),
            },
        };
        Some(ServicePort { name, protocol, number, target })
    }

    /// Returns the port if it can be served: its number is valid and SRV has its protocol. A name that does not fit
    /// behind an underscore is dropped.
    fn port(&mut self, port: RawPort) -> Option<EndpointPort> {
        let name = port.name.unwrap_or_default().to_ascii_lowercase();
        let written = port.protocol.as_deref().filter(|protocol| !protocol.is_empty()).unwrap_or("TCP");
        let Some(protocol) = Protocol::ALL.into_iter().find(|protocol| protocol.name() == written) else {
            let text =
                format!("port {name:?} has the protocol {written:?}, which is not TCP, UDP or SCTP; it is left out");
            self.skip(Reason::Port, &text);
            return None;
        };
        let number = match port.port {
            Some(number @ 1..=65535) => number as u16,
            // An EndpointSlice port without a number means all ports, which an SRV record cannot express.
            None => return None,
            Some(number) => {
                self.skip(
                    Reason::Port,
                    &format!("port {name:?} has the number {number}, which is not 1 to 65535; it is left out"),
                );
                return None;
            }
        };
        if name.is_empty() || name.len() < 63 && is_label(&name) {
            return Some(EndpointPort { name: name.into(), protocol, number });
        }
        self.skip(
            Reason::Port,
            &format!(
                "the port name {name:?} is not a DNS label of at most 62 octets; the port is served without its name"
            ),
        );
        Some(EndpointPort { name: "".into(), protocol, number })
    }

    fn ports(&mut self, ports: Vec<RawPort>) -> Vec<EndpointPort> {
        ports.into_iter().filter_map(|port| self.port(port)).collect()
    }

    fn slice(&mut self, document: RawDocument<'_>) -> Result<EndpointSlice, Invalid> {
        let raw: RawSlice<'_> = self.read(document)?;
        let RawSliceLabels { service, manager } = raw.metadata.labels;
        let service = service.map(Text::into_box);
        let manager = manager.map_or_else(SliceManager::default, |text| SliceManager::from_label(&text));
        let Some(address_type) = raw.address_type.as_deref() else {
            let text = format!("EndpointSlice {}: `addressType` is missing; it must be IPv4, IPv6 or FQDN", self.key);
            return Err(Invalid(text));
        };
        if address_type == "FQDN" {
            self.skip(Reason::Fqdn, "`addressType` is FQDN; names of endpoints are not answered");
            return Ok(EndpointSlice::for_names(self.key.clone(), service));
        }
        let family = AddressFamily::from_name(address_type).ok_or_else(|| {
            let key = &self.key;
            Invalid(format!("EndpointSlice {key}: `addressType` is {address_type:?}; it must be IPv4, IPv6 or FQDN"))
        })?;
        let ports = self.ports(raw.ports);
        let mut rows = Vec::with_capacity(raw.endpoints.len());
        for (index, endpoint) in raw.endpoints.into_iter().enumerate() {
            let conditions = Conditions::new(
                endpoint.conditions.ready,
                endpoint.conditions.serving,
                endpoint.conditions.terminating,
            );
            let place = || format!("endpoint {index}");
            let Some(hostname) = self.read_hostname(place, endpoint.hostname.as_deref()) else { continue };
            let pod = endpoint.target_ref.and_then(RawTargetRef::pod);
            let mut addresses = endpoint.addresses.iter().filter_map(|text| self.address(place, text, Some(family)));
            let Some(address) = addresses.next() else { continue };
            let row = EndpointRow { address, conditions, hostname, pod };
            // Most endpoints have one address: a single row is not cloned.
            let others: Vec<EndpointRow> = addresses.map(|address| EndpointRow { address, ..row.clone() }).collect();
            rows.push(row);
            rows.extend(others);
        }
        Ok(EndpointSlice::new(self.key.clone(), service, family, ports, &rows).managed_by(manager))
    }

    /// Validates an endpoint's `hostname`. Returns `None`, and reports it, if that is not a DNS label: the endpoint is left
    /// out then. `Some(None)`: no hostname.
    #[allow(clippy::option_option)] // left out, without a hostname, with one: read once, in the line below the call
    fn read_hostname(&mut self, place: impl Fn() -> String, hostname: Option<&str>) -> Option<Option<Box<str>>> {
        match hostname.filter(|hostname| !hostname.is_empty()) {
            None => Some(None),
            Some(hostname) if is_label(hostname) => Some(Some(hostname.to_ascii_lowercase().into())),
            Some(hostname) => {
                self.skip(
                    Reason::Hostname,
                    &format!(
                        "{} has the hostname {hostname:?}, which is not a DNS label; the endpoint is left out",
                        place()
                    ),
                );
                None
            }
        }
    }

    fn address(&mut self, place: impl Fn() -> String, text: &str, family: Option<AddressFamily>) -> Option<IpAddr> {
        let parsed = text.parse::<IpAddr>().ok();
        let fits = |address: &IpAddr| family.is_none_or(|family| AddressFamily::from_address(*address) == family);
        if let Some(address) = parsed.filter(fits) {
            return Some(address);
        }
        let wrong = match family {
            Some(family) if parsed.is_some() => format!("not an {} address", family.name()),
            _ => "no address".into(),
        };
        let place = place();
        self.skip(Reason::Address, &format!("{place} has the address {text:?}, which is {wrong}; it is left out"));
        None
    }

    fn endpoints(&mut self, document: RawDocument<'_>) -> Result<Endpoints, Invalid> {
        let raw: RawEndpoints<'_> = self.read(document)?;
        let RawEndpointsMetadata { labels, annotations } = raw.metadata;
        // pkg/controller/endpointslicemirroring: skipMirror, hasLeaderElection.
        let is_mirrored = labels.skip_mirror.as_deref() != Some("true") && annotations.leader.is_none();
        let (mut slices, mut mirrored) = (Vec::new(), Vec::new());
        for (index, subset) in raw.subsets.into_iter().enumerate() {
            let ports = self.ports(subset.ports);
            let ready = Conditions::new(Some(true), None, None);
            let not_ready = Conditions::new(Some(false), None, None);
            let listed = subset.addresses.into_iter().map(|address| (address, ready));
            let all = listed.chain(subset.not_ready_addresses.into_iter().map(|address| (address, not_ready)));
            let mut rows = Vec::new();
            for (raw, conditions) in all {
                let place = || format!("subset {index}");
                let Some(hostname) = self.read_hostname(place, raw.hostname.as_deref()) else { continue };
                if let Some(address) = self.address(place, &raw.ip, None) {
                    let pod = raw.target_ref.and_then(RawTargetRef::pod);
                    rows.push(EndpointRow { address, conditions, hostname, pod });
                }
            }
            for family in [AddressFamily::V4, AddressFamily::V6] {
                let service = Some(self.key.name.clone());
                let slice = EndpointSlice::new(self.key.clone(), service, family, ports.clone(), &rows);
                if !slice.is_empty() {
                    let copied = rows.iter().take(if is_mirrored { MAX_MIRRORED } else { 0 });
                    mirrored.push(copied.filter(|row| AddressFamily::from_address(row.address) == family).count());
                    slices.push(slice);
                }
            }
        }
        Ok(Endpoints { key: self.key.clone(), slices, mirrored })
    }

    fn pod(&mut self, document: RawDocument<'_>) -> Result<Pod, Invalid> {
        let raw: RawPod = self.read(document)?;
        let mut listed: Vec<String> = raw.status.pod_ips.into_iter().filter_map(|entry| entry.ip).collect();
        if listed.is_empty() {
            listed.extend(raw.status.pod_ip);
        }
        listed.retain(|text| !text.is_empty());
        let addresses =
            listed.iter().filter_map(|text| self.address(|| "`status.podIPs`".into(), text, None)).collect();
        let ready = raw.status.conditions.iter().find(|condition| condition.kind.as_deref() == Some("Ready"));
        Ok(Pod {
            labels: labels(raw.metadata.labels.clone()),
            addresses,
            spec: self.pod_spec(raw.spec),
            ready: ready.map(|condition| condition.status.as_deref() == Some("True")),
            terminating: raw.metadata.deletion_timestamp.is_some(),
            finished: matches!(raw.status.phase.as_deref(), Some("Succeeded" | "Failed")),
            hook: hook_of(&raw.metadata),
            owner: owner_of(raw.metadata),
            key: self.key.clone(),
        })
    }

    fn pod_spec(&mut self, spec: RawPodSpec) -> PodSpec {
        let sidecars = spec.init_containers.into_iter().filter(|init| init.restart_policy.as_deref() == Some("Always"));
        let raw_ports = spec.containers.into_iter().chain(sidecars).flat_map(|container| container.ports);
        let ports =
            raw_ports.map(|port| RawPort { name: port.name, protocol: port.protocol, port: port.container_port });
        PodSpec {
            ports: self.ports(ports.collect()),
            hostname: spec.hostname.filter(|text| !text.is_empty()).map(Into::into),
            subdomain: spec.subdomain.filter(|text| !text.is_empty()).map(Into::into),
        }
    }

    fn template(&mut self, template: RawTemplate) -> PodTemplate {
        PodTemplate { labels: labels(template.metadata.labels), spec: self.pod_spec(template.spec) }
    }

    fn stateful_set(&mut self, document: RawDocument<'_>) -> Result<StatefulSet, Invalid> {
        let RawStatefulSet { spec } = self.read(document)?;
        Ok(StatefulSet {
            service_name: spec.service_name.unwrap_or_default().into(),
            replicas: spec.replicas.unwrap_or(1),
            start: spec.ordinals.start,
            parallel: spec.pod_management_policy.as_deref() == Some("Parallel"),
            selector: labels(spec.selector.match_labels),
            template: self.template(spec.template),
            key: self.key.clone(),
        })
    }

    fn workload(&mut self, document: RawDocument<'_>, kind: WorkloadKind) -> Result<Workload, Invalid> {
        let RawWorkload { metadata, spec, status } = self.read(document)?;
        let (kind, replicas) = match kind {
            WorkloadKind::DaemonSet => (kind, 1),
            WorkloadKind::Job { .. } => {
                let indexed = spec.completion_mode.as_deref() == Some("Indexed");
                // Each Pod of an indexed Job has a name of its own; another Job has as many Pods as run at a time.
                let parallelism = spec.parallelism.unwrap_or(1);
                let count = match spec.completions {
                    None => parallelism,
                    Some(completions) if indexed && parallelism > 0 => completions,
                    Some(completions) => parallelism.min(completions),
                };
                // A Job from a dump may have finished, or be suspended: it has no Pods.
                let over = |condition: &RawCondition| {
                    matches!(condition.kind.as_deref(), Some("Complete" | "Failed"))
                        && condition.status.as_deref() == Some("True")
                };
                let idle = spec.suspend || status.conditions.iter().any(over);
                (WorkloadKind::Job { indexed }, if idle { 0 } else { count })
            }
            // A new Deployment that is paused has no ReplicaSet.
            WorkloadKind::Deployment if spec.paused => (kind, 0),
            _ => (kind, spec.replicas.unwrap_or(1)),
        };
        Ok(Workload {
            kind,
            replicas,
            template: self.template(spec.template),
            hook: hook_of(&metadata),
            owner: owner_of(metadata),
            key: self.key.clone(),
        })
    }
}

fn labels(raw: Option<BTreeMap<String, Option<String>>>) -> Labels {
    raw.into_iter().flatten().map(|(key, value)| (key.into(), value.unwrap_or_default().into())).collect()
}

impl RawTargetRef<'_> {
    fn pod(self) -> Option<Box<str>> {
        let name = self.name.filter(|name| !name.is_empty() && self.kind.as_deref() == Some("Pod"))?;
        Some(name.into_box())
    }
}

fn owner_of(metadata: RawMetadata) -> Option<OwnerRef> {
    let controller = metadata.owner_references.into_iter().find(|owner| owner.controller)?;
    Some(OwnerRef { kind: controller.kind.into(), name: controller.name.into() })
}

fn hook_of(metadata: &RawMetadata) -> Option<Box<str>> {
    metadata.annotations.hook.as_deref().filter(|hook| !hook.is_empty()).map(Into::into)
}

/// Deserializes a field; `null` means the default.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// String that borrows from the input, unless it is escaped there.
#[derive(Default, Deserialize)]
#[serde(transparent)]
struct Text<'d>(#[serde(borrow)] Cow<'d, str>);

impl Text<'_> {
    fn into_box(self) -> Box<str> {
        self.0.into()
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

macro_rules! shapes {
    ($($(#[$meta:meta])* $name:ident $(<$life:lifetime>)? { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            #[derive(Default, Deserialize)]
            #[serde(rename_all = "camelCase")]
            $(#[$meta])*
            struct $name $(<$life>)? {
                $(
                    #[serde(default, deserialize_with = "or_default")]
                    $(#[$field_meta])*
                    $field: $type,
                )*
            }
        )*
    };
}

shapes! {
    RawMetadata {
        labels: Option<BTreeMap<String, Option<String>>>,
        owner_references: Vec<RawOwner>,
        deletion_timestamp: Option<String>,
        annotations: RawAnnotations,
    }
    RawAnnotations {
        #[serde(rename = "helm.sh/hook")]
        hook: Option<String>,
    }
    RawOwner { kind: String, name: String, controller: bool, }
    RawNamespace { metadata: RawMetadata, status: RawNamespaceStatus, }
    RawNamespaceStatus { phase: Option<String>, }
    RawService { spec: RawServiceSpec, }
    RawServiceSpec {
        #[serde(rename = "type")]
        kind: Option<String>,
        #[serde(rename = "clusterIP")]
        cluster_ip: Option<String>,
        #[serde(rename = "clusterIPs")]
        cluster_ips: Vec<String>,
        external_name: Option<String>,
        publish_not_ready_addresses: bool,
        selector: Option<BTreeMap<String, Option<String>>>,
        ports: Vec<RawServicePort>,
        ip_families: Vec<String>,
        ip_family_policy: Option<String>,
    }
    RawServicePort {
        name: Option<String>,
        protocol: Option<String>,
        port: Option<i64>,
        target_port: Option<RawTargetPort>,
    }
    RawPort { name: Option<String>, protocol: Option<String>, port: Option<i64>, }
    RawSlice<'d> {
        #[serde(borrow)]
        metadata: RawSliceMetadata<'d>,
        #[serde(borrow)]
        address_type: Option<Text<'d>>,
        ports: Vec<RawPort>,
        #[serde(borrow)]
        endpoints: Vec<RawEndpoint<'d>>,
    }
    RawSliceMetadata<'d> {
        #[serde(borrow)]
        labels: RawSliceLabels<'d>,
    }
    RawSliceLabels<'d> {
        #[serde(rename = "kubernetes.io/service-name", borrow)]
        service: Option<Text<'d>>,
        #[serde(rename = "endpointslice.kubernetes.io/managed-by", borrow)]
        manager: Option<Text<'d>>,
    }
    RawEndpoint<'d> {
        #[serde(borrow)]
        addresses: Vec<Text<'d>>,
        conditions: RawConditions,
        #[serde(borrow)]
        hostname: Option<Text<'d>>,
        #[serde(borrow)]
        target_ref: Option<RawTargetRef<'d>>,
    }
    RawConditions { ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>, }
    RawTargetRef<'d> {
        #[serde(borrow)]
        kind: Option<Text<'d>>,
        #[serde(borrow)]
        name: Option<Text<'d>>,
    }
    RawEndpoints<'d> {
        #[serde(borrow)]
        metadata: RawEndpointsMetadata<'d>,
        #[serde(borrow)]
        subsets: Vec<RawSubset<'d>>,
    }
    RawEndpointsMetadata<'d> {
        #[serde(borrow)]
        labels: RawEndpointsLabels<'d>,
        #[serde(borrow)]
        annotations: RawEndpointsAnnotations<'d>,
    }
    RawEndpointsLabels<'d> {
        #[serde(rename = "endpointslice.kubernetes.io/skip-mirror", borrow)]
        skip_mirror: Option<Text<'d>>,
    }
    RawEndpointsAnnotations<'d> {
        #[serde(rename = "control-plane.alpha.kubernetes.io/leader", borrow)]
        leader: Option<Text<'d>>,
    }
    RawSubset<'d> {
        #[serde(borrow)]
        addresses: Vec<RawEndpointAddress<'d>>,
        #[serde(borrow)]
        not_ready_addresses: Vec<RawEndpointAddress<'d>>,
        ports: Vec<RawPort>,
    }
    RawEndpointAddress<'d> {
        #[serde(borrow)]
        ip: Text<'d>,
        #[serde(borrow)]
        hostname: Option<Text<'d>>,
        #[serde(borrow)]
        target_ref: Option<RawTargetRef<'d>>,
    }
    RawPod { metadata: RawMetadata, spec: RawPodSpec, status: RawPodStatus, }
    RawPodSpec {
        hostname: Option<String>,
        subdomain: Option<String>,
        containers: Vec<RawContainer>,
        init_containers: Vec<RawContainer>,
    }
    RawContainer { ports: Vec<RawContainerPort>, restart_policy: Option<String>, }
    RawContainerPort { name: Option<String>, protocol: Option<String>, container_port: Option<i64>, }
    RawPodStatus {
        phase: Option<String>,
        #[serde(rename = "podIP")]
        pod_ip: Option<String>,
        #[serde(rename = "podIPs")]
        pod_ips: Vec<RawPodIp>,
        conditions: Vec<RawCondition>,
    }
    RawPodIp { ip: Option<String>, }
    RawCondition {
        #[serde(rename = "type")]
        kind: Option<String>,
        status: Option<String>,
    }
    RawTemplate { metadata: RawMetadata, spec: RawPodSpec, }
    RawStatefulSet { spec: RawStatefulSetSpec, }
    RawStatefulSetSpec {
        service_name: Option<String>,
        replicas: Option<u32>,
        ordinals: RawOrdinals,
        pod_management_policy: Option<String>,
        selector: RawSelector,
        template: RawTemplate,
    }
    RawOrdinals { start: u32, }
    RawSelector { match_labels: Option<BTreeMap<String, Option<String>>>, }
    RawWorkload { metadata: RawMetadata, spec: RawWorkloadSpec, status: RawWorkloadStatus, }
    RawWorkloadStatus { conditions: Vec<RawCondition>, }
    RawWorkloadSpec {
        replicas: Option<u32>,
        template: RawTemplate,
        completions: Option<u32>,
        parallelism: Option<u32>,
        completion_mode: Option<String>,
        suspend: bool,
        paused: bool,
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawTargetPort {
    Number(u16),
    Name(String),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_pods_of_paused_deployment() {
        for (kind, spec, expected) in [
            ("Deployment", json!({"replicas": 2}), 2),
            ("Deployment", json!({"replicas": 2, "paused": false}), 2),
            ("Deployment", json!({"replicas": 2, "paused": true}), 0),
            ("ReplicaSet", json!({"replicas": 2, "paused": true}), 2),
        ] {
            let object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "d"}, "spec": spec});
            let Ok(Decoded::Object(Object::Workload(workload), _)) = decode(object, "default") else {
                panic!("{kind}")
            };
            assert_eq!(workload.replicas, expected, "{kind} {spec}");
        }
    }

    #[test]
    fn counts_pods_of_job() {
        for (spec, conditions, expected) in [
            (json!({}), json!([]), 1),
            (json!({"parallelism": 4}), json!([]), 4),
            (json!({"parallelism": 4, "completions": 2}), json!(null), 2),
            (json!({"parallelism": 2, "completions": 5}), json!([]), 2),
            (json!({"parallelism": 2, "completions": 5, "completionMode": "Indexed"}), json!([]), 5),
            (json!({"parallelism": 0, "completions": 5, "completionMode": "Indexed"}), json!([]), 0),
            (json!({"suspend": true}), json!([]), 0),
            (json!({}), json!([{"type": "Complete", "status": "True"}]), 0),
            (json!({}), json!([{"type": "Failed", "status": "True"}]), 0),
            (json!({}), json!([{"type": "Suspended", "status": "False"}]), 1),
        ] {
            let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": spec,
                "status": {"conditions": conditions}});
            let Ok(Decoded::Object(Object::Workload(job), _)) = decode(job, "default") else { panic!("a Job") };
            assert_eq!(job.replicas, expected, "{spec}");
        }
    }
}
