//! Services and Pods -> EndpointSlices, by the rules of the EndpointSlice controller (Kubernetes,
//! `staging/src/k8s.io/endpointslice`).
//!
//! The empty slice that the controller keeps for a Service without endpoints is not made, because no record comes of
//! it. Not here: the Pods (`pods.rs`), and slices for Endpoints (`mirror.rs`).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::addresses::hash;
use super::pods::random_letters;
use crate::naming_rules::EndpointsSource;
use crate::object::{
    AddressFamily, Conditions, EndpointPort, EndpointRow, EndpointSlice, Endpoints, Object, ObjectRef, Pod, Service,
    ServiceKind, ServicePort, SliceManager, TargetPort,
};

/// Maximum number of endpoints of one slice, the controller's default.
const MAX_ENDPOINTS: usize = 100;

/// Services that have EndpointSlices, or Endpoints that count as such, among the objects, by the controller that wrote
/// them.
pub(super) struct Owners<'o>(HashSet<(SliceManager, &'o str, &'o str)>);

impl<'o> Owners<'o> {
    /// Collects the Services and writers of all slices. A controller ignores the slices of other writers, so its own
    /// are made beside them. Endpoints without addresses do not count: a cluster makes them for a Service without Pods.
    pub(super) fn new(objects: &'o [Object], source: EndpointsSource) -> Self {
        let owner = |object: &'o Object| match object {
            Object::EndpointSlice(slice) => Some((slice.manager, &*slice.key.namespace, slice.service.as_deref()?)),
            Object::Endpoints(Endpoints { key, slices, .. }) => {
                let counts = source == EndpointsSource::Endpoints && !slices.is_empty();
                counts.then_some((SliceManager::Selector, &*key.namespace, &*key.name))
            }
            _ => None,
        };
        Self(objects.iter().filter_map(owner).collect())
    }

    pub(super) fn contains(&self, manager: SliceManager, service: &ObjectRef) -> bool {
        self.0.contains(&(manager, &*service.namespace, &*service.name))
    }
}

/// Returns the slices of every Service with a selector that has none of the EndpointSlice controller yet. `names` are
/// the names of all slices so far.
pub(super) fn slices(objects: &[Object], written: &Owners<'_>, names: &mut HashSet<ObjectRef>) -> Vec<EndpointSlice> {
    let pods = PodIndex::from_objects(objects);
    let mut slices = Vec::new();
    for object in objects {
        if let Object::Service(service) = object
            && !matches!(service.kind, ServiceKind::ExternalName(_))
            && !service.selector.is_empty()
            && !written.contains(SliceManager::Selector, &service.key)
        {
            slices_of(service, &pods.selected_by(service), names, &mut slices);
        }
    }
    slices
}

/// Pods by label, so that a selector inspects only the Pods that have its rarest label.
struct PodIndex<'o>(HashMap<(&'o str, &'o str, &'o str), Vec<&'o Pod>>);

impl<'o> PodIndex<'o> {
    fn from_objects(objects: &'o [Object]) -> Self {
        let mut index: HashMap<_, Vec<&Pod>> = HashMap::new();
        for object in objects {
            if let Object::Pod(pod) = object {
                for (key, value) in pod.labels.iter() {
                    index.entry((&*pod.key.namespace, &**key, &**value)).or_default().push(pod);
                }
            }
        }
        Self(index)
    }

    fn with<'a>(&'a self, namespace: &'a str, key: &'a str, value: &'a str) -> &'a [&'o Pod] {
        self.0.get(&(namespace, key, value)).map_or(&[], Vec::as_slice)
    }

    /// Returns the Pods of the Service's namespace that have every label of its selector, in the order of the objects.
    fn selected_by(&self, service: &Service) -> Vec<&'o Pod> {
        let pairs = service.selector.iter().map(|(key, value)| self.with(&service.key.namespace, key, value));
        let rarest = pairs.min_by_key(|pods| pods.len()).unwrap_or_default();
        let matches = |pod: &&&Pod| {
            service.selector.iter().all(|(key, value)| pod.labels.get(key).is_some_and(|has| *has == **value))
        };
        rarest.iter().filter(matches).copied().collect()
    }
}

fn slices_of(service: &Service, pods: &[&Pod], names: &mut HashSet<ObjectRef>, slices: &mut Vec<EndpointSlice>) {
    // Pods cannot share a slice if a named port has different numbers in them, or is absent in one.
    let mut groups: BTreeMap<(AddressFamily, Vec<EndpointPort>), Vec<EndpointRow>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.finished) {
        let ports = ports_of(service, pod);
        for address in &pod.addresses {
            let family = AddressFamily::from_address(*address);
            if service.families.contains(&family) {
                let row = EndpointRow {
                    address: *address,
                    conditions: conditions_of(service, pod),
                    hostname: hostname_of(service, pod),
                    pod: Some(pod.key.name.clone()),
                };
                groups.entry((family, ports.clone())).or_default().push(row);
            }
        }
    }
    for (number, ((family, ports), rows)) in groups.into_iter().enumerate() {
        for (part, rows) in rows.chunks(MAX_ENDPOINTS).enumerate() {
            let key = unused_name(service, number, part, names);
            let slice = EndpointSlice::new(key, Some(service.key.name.clone()), family, ports.clone(), rows);
            slices.push(slice.managed_by(SliceManager::Selector));
        }
    }
}

/// Returns the conditions of `podToEndpoint`: an endpoint is serving if its Pod is ready, and ready if it also is not
/// terminating, or if the Service publishes addresses that are not ready.
fn conditions_of(service: &Service, pod: &Pod) -> Conditions {
    let serving = pod.ready.unwrap_or(false);
    let ready = service.publish_not_ready || serving && !pod.terminating;
    Conditions::new(Some(ready), Some(serving), Some(pod.terminating))
}

/// Returns the hostname of `ShouldSetHostname`: the Pod's, if its subdomain is the name of the Service.
fn hostname_of(service: &Service, pod: &Pod) -> Option<Box<str>> {
    let hostname = pod.spec.hostname.as_deref()?;
    let governed = pod.spec.subdomain.as_deref() == Some(&*service.key.name);
    (governed && crate::name::is_label(hostname)).then(|| hostname.to_ascii_lowercase().into())
}

/// Returns the ports of `getEndpointPorts`: a named port that the Pod lacks is left out.
fn ports_of(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let port = |port: &ServicePort| {
        let number = match &port.target {
            TargetPort::Number(number) => *number,
            TargetPort::Name(name) => find_port(pod, name, port)?,
        };
        Some(EndpointPort { name: port.name.clone(), protocol: port.protocol, number })
    };
    service.ports.iter().filter_map(port).collect()
}

/// Returns the port number of `FindPort`: the first of the containers' ports with this name and protocol.
fn find_port(pod: &Pod, name: &str, port: &ServicePort) -> Option<u16> {
    let mut ports = pod.spec.ports.iter().filter(|has| has.protocol == port.protocol);
    ports.find(|has| has.name.eq_ignore_ascii_case(name)).map(|has| has.number)
}

/// Returns an unused name of `generateName`: the Service's name with five letters.
pub(super) fn unused_name(service: &Service, number: usize, part: usize, names: &mut HashSet<ObjectRef>) -> ObjectRef {
    let ObjectRef { namespace, name } = &service.key;
    let mut seed = hash(&["slice", namespace, name, &number.to_string(), &part.to_string()]);
    loop {
        let key = ObjectRef::new(namespace, &format!("{name}-{}", random_letters(seed, 5)));
        if names.insert(key.clone()) {
            return key;
        }
        seed = seed.wrapping_add(1);
    }
}
