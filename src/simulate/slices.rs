//! Services and Pods -> EndpointSlices, by the EndpointSlice controller's rules (Kubernetes,
//! `staging/src/k8s.io/endpointslice`). The empty slice that the controller keeps for a Service without endpoints is
//! not made: it says nothing.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::addresses::{family_of, hash};
use super::pods::letters;
use crate::objects::{
    Conditions, EndpointPort, EndpointRow, EndpointSlice, Endpoints, Family, Object, ObjectRef, Pod, Service,
    ServiceKind, ServicePort, SliceManager, TargetPort,
};
use crate::rules::EndpointsSource;

/// The controller's default for the endpoints of one slice.
const MAX_ENDPOINTS: usize = 100;

/// Services for which the objects hold slices, or Endpoints that count as such, by the controller that wrote them.
pub(super) struct Owners<'o>(HashSet<(SliceManager, &'o str, &'o str)>);

impl<'o> Owners<'o> {
    /// A controller minds its own slices only: those of other writers are kept beside them. A cluster makes Endpoints
    /// without addresses for a Service without Pods.
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

/// The slices of every Service with a selector for which the objects hold none of the controller's. `names` are those
/// of all slices so far.
pub(super) fn slices(objects: &[Object], written: &Owners<'_>, names: &mut HashSet<ObjectRef>) -> Vec<EndpointSlice> {
    let pods = PodIndex::of(objects);
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

/// Pods by the labels they have, so that a selector looks only at those of its rarest pair.
struct PodIndex<'o>(HashMap<(&'o str, &'o str, &'o str), Vec<&'o Pod>>);

impl<'o> PodIndex<'o> {
    fn of(objects: &'o [Object]) -> Self {
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

    /// Pods of the Service's namespace that have every label it asks for, in the order of the objects.
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
    // Pods whose named ports are different numbers, or missing, cannot share a slice.
    let mut groups: BTreeMap<(Family, Vec<EndpointPort>), Vec<EndpointRow>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.finished) {
        let ports = ports_of(service, pod);
        for address in &pod.addresses {
            let family = family_of(*address);
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
            let key = name_of(service, number, part, names);
            let slice = EndpointSlice::new(key, Some(service.key.name.clone()), family, ports.clone(), rows);
            slices.push(slice.managed_by(SliceManager::Selector));
        }
    }
}

/// `podToEndpoint`: serving is the Pod's readiness; ready is that and not terminating, unless the Service says that
/// readiness does not matter.
fn conditions_of(service: &Service, pod: &Pod) -> Conditions {
    let serving = pod.ready.unwrap_or(false);
    let ready = service.publish_not_ready || serving && !pod.terminating;
    Conditions::new(Some(ready), Some(serving), Some(pod.terminating))
}

/// `ShouldSetHostname`: only the Service that the Pod calls its subdomain knows its hostname.
fn hostname_of(service: &Service, pod: &Pod) -> Option<Box<str>> {
    let hostname = pod.spec.hostname.as_deref()?;
    let governed = pod.spec.subdomain.as_deref() == Some(&*service.key.name);
    (governed && crate::names::is_label(hostname)).then(|| hostname.to_ascii_lowercase().into())
}

/// `getEndpointPorts`: a port that the Pod does not have is left out of its endpoint.
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

/// `FindPort`: by name and protocol, the first of the containers in their order.
fn find_port(pod: &Pod, name: &str, port: &ServicePort) -> Option<u16> {
    let mut ports = pod.spec.ports.iter().filter(|has| has.protocol == port.protocol);
    ports.find(|has| has.name.eq_ignore_ascii_case(name)).map(|has| has.number)
}

/// `generateName`: the Service's name with five letters.
pub(super) fn name_of(service: &Service, number: usize, part: usize, names: &mut HashSet<ObjectRef>) -> ObjectRef {
    let ObjectRef { namespace, name } = &service.key;
    let mut seed = hash(&["slice", namespace, name, &number.to_string(), &part.to_string()]);
    loop {
        let key = ObjectRef::new(namespace, &format!("{name}-{}", letters(seed, 5)));
        if names.insert(key.clone()) {
            return key;
        }
        seed = seed.wrapping_add(1);
    }
}
