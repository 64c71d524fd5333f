//! State of the cluster: all known objects, and for each change the contributors that it makes dirty.
//!
//! [`Cluster::apply`] and [`Cluster::delete`] return the dirty [`Contributor`]s: none if no published record can change.
//! A relist is mark and sweep in place: [`Cluster::begin_relist`], `apply` for each object, [`Cluster::finish_relist`]. Until the sweep,
//! objects that the relist has not listed stay. `records/` and `diagnose/` read the views. Not here: the records of a name
//! (`records/`, the module to read next), and the source of the objects (`source/`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::object::{
    EndpointSlice, Endpoints, Namespace, Object, ObjectRef, Pod, PodSpec, Service, ServiceKind, StatefulSet,
};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Part of the cluster that is published as one value. The publisher replaces records by contributor and never by name,
/// since two Services can contribute to one PTR RRset.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Contributor {
    /// The apex: the addresses of the name server.
    Apex,
    /// The name of a namespace.
    Namespace(Box<str>),
    /// All records at and below a Service's name, and the PTR records that point there.
    Service(ObjectRef),
    /// The Pod records of a namespace.
    PodAddresses(Box<str>),
}

/// Resource of the Kubernetes API, the unit of a relist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Namespaces.
    Namespaces,
    /// Services.
    Services,
    /// EndpointSlices.
    EndpointSlices,
    /// Endpoints.
    Endpoints,
    /// Pods.
    Pods,
    /// StatefulSets.
    StatefulSets,
    /// Workloads, which only manifests contain.
    Workloads,
}

impl Resource {
    /// All resources, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Namespaces,
        Self::Services,
        Self::EndpointSlices,
        Self::Endpoints,
        Self::Pods,
        Self::StatefulSets,
        Self::Workloads,
    ];

    /// Returns the resource that `object` belongs to.
    pub fn for_object(object: &Object) -> Self {
        match object {
            Object::Namespace(_) => Self::Namespaces,
            Object::Service(_) => Self::Services,
            Object::EndpointSlice(_) => Self::EndpointSlices,
            Object::Endpoints(_) => Self::Endpoints,
            Object::Pod(_) => Self::Pods,
            Object::StatefulSet(_) => Self::StatefulSets,
            Object::Workload(_) => Self::Workloads,
        }
    }
}

/// Rule for the existence of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// A namespace exists if its Namespace object does: for clusters, where Namespaces are watched.
    Declared,
    /// A namespace also exists if it contains any object: for manifests, which rarely include their Namespaces.
    Inferred,
}

/// All known objects, indexed for records and explanations.
pub struct Cluster {
    namespaces_exist: Namespaces,
    /// Service of this server. Its cluster IPs are the addresses of `ns.dns.Z`.
    apex_service: Option<ObjectRef>,
    /// Marks of all objects except Services and EndpointSlices. Those are numerous, so each mark is beside its object instead
    /// of under a second copy of the key.
    known: [Map<ObjectRef, Mark>; 7],
    services: Map<ObjectRef, Box<ServiceState>>,
    /// Number of entries of `services` with a Service.
    service_count: usize,
    slices: Map<ObjectRef, TrackedObject<Arc<EndpointSlice>>>,
    pods: Map<Box<str>, BTreeMap<Box<str>, PodState>>,
    stateful_sets: Map<ObjectRef, StatefulSet>,
    namespaces: Map<Box<str>, NamespaceState>,
    networks: Networks,
    /// Current relist of each resource: each resource is relisted separately.
    marks: [Mark; 7],
}

/// Number of the relist in which an object was last listed.
type Mark = u32;

/// Object with its mark.
struct TrackedObject<T> {
    object: T,
    mark: Mark,
}

/// Known fields of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodState {
    /// Addresses. Empty for a finished Pod: another Pod may have its address by now.
    pub addresses: Vec<IpAddr>,
    /// True if the phase is Succeeded or Failed.
    pub finished: bool,
    /// `spec.hostname` of the Pod.
    pub hostname: Option<Box<str>>,
    /// `spec.subdomain` of the Pod: the Service below which the Pod's name is published.
    pub subdomain: Option<Box<str>>,
}

/// Objects that belong to a Service's name. The Service itself may be missing.
#[derive(Default)]
struct ServiceState {
    service: Option<Service>,
    /// Mark of the Service, if there is one.
    mark: Mark,
    /// EndpointSlices, sorted by name.
    slices: Vec<Arc<EndpointSlice>>,
    /// The slices that the Service's Endpoints object is converted to.
    endpoints: Vec<Arc<EndpointSlice>>,
    /// Names of the StatefulSets that the Service governs.
    governs: BTreeSet<Box<str>>,
}

impl ServiceState {
    fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty() && self.endpoints.is_empty() && self.governs.is_empty()
    }
}

#[derive(Default)]
struct NamespaceState {
    declared: bool,
    terminating: bool,
    objects: usize,
}

/// Number of known addresses in each network, updated with each change, since there may be a million addresses.
#[derive(Default)]
struct Networks(Map<IpNet, usize>);

impl Networks {
    fn add(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        counted(addresses, |network, count| *self.0.entry(network).or_default() += count);
    }

    fn remove(&mut self, addresses: impl Iterator<Item = IpAddr>) {
        counted(addresses, |network, count| {
            if let Some(known) = self.0.get_mut(&network) {
                *known -= count;
                if *known == 0 {
                    self.0.remove(&network);
                }
            }
        });
    }
}

/// Passes the network of each run of adjacent `addresses` to `see`, with the length of the run. Adjacent addresses mostly
/// share a network.
fn counted(addresses: impl Iterator<Item = IpAddr>, mut see: impl FnMut(IpNet, usize)) {
    let mut last: Option<(IpNet, usize)> = None;
    for address in addresses {
        match &mut last {
            Some((network, count)) if network.contains(&address) => *count += 1,
            _ => {
                let next = network_of(address).map(|network| (network, 1));
                if let Some((network, count)) = std::mem::replace(&mut last, next) {
                    see(network, count);
                }
            }
        }
    }
    if let Some((network, count)) = last {
        see(network, count);
    }
}

/// Returns the network around an address that is served in reverse without `--reverse` (row R6 of `tests/rows.md`).
fn network_of(address: IpAddr) -> Option<IpNet> {
    match address {
        IpAddr::V4(v4) => Ipv4Net::new(v4, 16).ok().map(|network| network.trunc().into()),
        IpAddr::V6(v6) => Ipv6Net::new(v6, 64).ok().map(|network| network.trunc().into()),
    }
}

/// View of the objects that belong to one Service's name.
pub struct ServiceView<'c> {
    /// Namespace and name of the Service.
    pub key: &'c ObjectRef,
    /// The Service, if it exists.
    pub service: Option<&'c Service>,
    slices: &'c [Arc<EndpointSlice>],
    endpoints: &'c [Arc<EndpointSlice>],
    /// StatefulSets with the Service as their `serviceName`.
    pub stateful_sets: Vec<&'c StatefulSet>,
}

impl<'c> ServiceView<'c> {
    /// Returns the slices of the Service: those of its Endpoints object first, then its EndpointSlices, sorted by name.
    pub fn slices(&self) -> impl Iterator<Item = &'c EndpointSlice> + Clone {
        self.endpoints.iter().chain(self.slices).map(AsRef::as_ref)
    }
}

impl Cluster {
    /// Creates an empty cluster. The cluster IPs of `apex_service` are the addresses of `ns.dns.Z`.
    pub fn new(namespaces: Namespaces, apex_service: Option<ObjectRef>) -> Self {
        Self {
            namespaces_exist: namespaces,
            apex_service,
            known: Default::default(),
            services: Map::default(),
            service_count: 0,
            slices: Map::default(),
            pods: Map::default(),
            stateful_sets: Map::default(),
            namespaces: Map::default(),
            networks: Networks::default(),
            marks: [0; 7],
        }
    }

    /// Adds or replaces one object, and returns the dirty contributors: none if no published record can change.
    pub fn apply(&mut self, object: Object) -> Vec<Contributor> {
        let mut dirty = Vec::new();
        let resource = Resource::for_object(&object);
        let key = ObjectRef::new(object.namespace(), object.name());
        if !self.mark_seen(resource, key) && resource != Resource::Namespaces {
            self.count_in_namespace(object.namespace(), 1, &mut dirty);
        }
        match object {
            Object::Namespace(namespace) => self.declare_namespace(&namespace.name, Some(&namespace), &mut dirty),
            Object::Service(service) => self.apply_service(service, &mut dirty),
            Object::EndpointSlice(slice) => self.apply_slice(slice, &mut dirty),
            Object::Endpoints(endpoints) => {
                self.replace_endpoints(endpoints.key, endpoints.slices, &mut dirty);
            }
            Object::Pod(pod) => self.apply_pod(pod, &mut dirty),
            Object::StatefulSet(set) => self.apply_stateful_set(set, &mut dirty),
            Object::Workload(_) => {}
        }
        dirty
    }

    /// Removes one object, and returns the dirty contributors. For a Namespace, both parts of `key` are its name.
    pub fn delete(&mut self, resource: Resource, key: &ObjectRef) -> Vec<Contributor> {
        let mut dirty = Vec::new();
        match resource {
            Resource::Services | Resource::EndpointSlices if !self.contains(resource, key) => return dirty,
            Resource::Services | Resource::EndpointSlices => {}
            _ if self.known[resource as usize].remove(key).is_none() => return dirty,
            _ => {}
        }
        match resource {
            Resource::Namespaces => self.declare_namespace(&key.name, None, &mut dirty),
            Resource::Services => self.delete_service(key, &mut dirty),
            Resource::EndpointSlices => self.delete_slice(key, &mut dirty),
            Resource::Endpoints => self.replace_endpoints(key.clone(), Vec::new(), &mut dirty),
            Resource::Pods => self.delete_pod(key, &mut dirty),
            Resource::StatefulSets => self.delete_stateful_set(key, &mut dirty),
            Resource::Workloads => {}
        }
        if resource != Resource::Namespaces {
            self.count_in_namespace(&key.namespace, -1, &mut dirty);
        }
        dirty
    }

    /// Begins a relist of `resource`: its objects that are applied from now on are marked as listed.
    pub fn begin_relist(&mut self, resource: Resource) {
        self.marks[resource as usize] += 1;
    }

    /// Returns the number of known objects of `resource`.
    pub fn count(&self, resource: Resource) -> usize {
        match resource {
            Resource::Services => self.service_count,
            Resource::EndpointSlices => self.slices.len(),
            _ => self.known[resource as usize].len(),
        }
    }

    /// Returns the number of known objects of `resource`, and how many of them the relist has not listed, so that
    /// [`Self::finish_relist`] would remove them.
    pub fn unseen_count(&self, resource: Resource) -> (usize, usize) {
        (self.count(resource), self.not_seen(resource).count())
    }

    /// Ends a relist of `resource`: removes its objects that were not applied since [`Self::begin_relist`], and returns the dirty
    /// contributors.
    pub fn finish_relist(&mut self, resource: Resource) -> Vec<Contributor> {
        let unseen: Vec<ObjectRef> = self.not_seen(resource).cloned().collect();
        unseen.iter().flat_map(|key| self.delete(resource, key)).collect()
    }

    fn not_seen(&self, resource: Resource) -> impl Iterator<Item = &ObjectRef> {
        let now = self.marks[resource as usize];
        let not_now = move |(key, mark): (_, Mark)| (mark != now).then_some(key);
        let services =
            self.services.iter().filter(move |(_, state)| resource == Resource::Services && state.service.is_some());
        let slices = self.slices.iter().filter(move |_| resource == Resource::EndpointSlices);
        let others = self.known[resource as usize].iter().map(|(key, mark)| (key, *mark));
        let services = services.map(|(key, state)| (key, state.mark));
        services.chain(slices.map(|(key, seen)| (key, seen.mark))).chain(others).filter_map(not_now)
    }

    /// Returns whether a Service or an EndpointSlice is known.
    fn contains(&self, resource: Resource, key: &ObjectRef) -> bool {
        match resource {
            Resource::Services => self.services.get(key).is_some_and(|state| state.service.is_some()),
            _ => self.slices.contains_key(key),
        }
    }

    /// Marks an object as listed, and returns whether it was known before. A new Service or EndpointSlice gets its mark when
    /// it is stored.
    fn mark_seen(&mut self, resource: Resource, key: ObjectRef) -> bool {
        let mark = self.marks[resource as usize];
        match resource {
            Resource::Services => match self.services.get_mut(&key) {
                Some(state) if state.service.is_some() => {
                    state.mark = mark;
                    true
                }
                _ => false,
            },
            Resource::EndpointSlices => match self.slices.get_mut(&key) {
                Some(seen) => {
                    seen.mark = mark;
                    true
                }
                None => false,
            },
            _ => self.known[resource as usize].insert(key, mark).is_some(),
        }
    }

    /// Returns the view of the Service's name `key`.
    pub fn service<'c>(&'c self, key: &'c ObjectRef) -> ServiceView<'c> {
        let state = self.services.get(key);
        let governs = state.map(|state| &state.governs).into_iter().flatten();
        ServiceView {
            key,
            service: state.and_then(|state| state.service.as_ref()),
            slices: state.map_or(&[], |state| &state.slices),
            endpoints: state.map_or(&[], |state| &state.endpoints),
            stateful_sets: governs
                .filter_map(|name| self.stateful_sets.get(&ObjectRef::new(&key.namespace, name)))
                .collect(),
        }
    }

    /// Returns whether a namespace exists, by the rule of [`Namespaces`].
    pub fn namespace_exists(&self, name: &str) -> bool {
        self.namespaces
            .get(name)
            .is_some_and(|state| state.declared || self.namespaces_exist == Namespaces::Inferred && state.objects > 0)
    }

    /// Returns whether a namespace is being deleted; false if Namespaces are not read.
    pub fn is_terminating(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some_and(|state| state.terminating)
    }

    /// Returns whether a namespace is known to exist: by its Namespace object, or, if Namespaces may not be read, by an
    /// object in it.
    pub fn knows_namespace(&self, name: &str) -> bool {
        let holds = || self.namespaces.get(name).is_some_and(|state| state.objects > 0);
        self.namespace_exists(name) || !self.declares_namespaces() && holds()
    }

    /// Returns the addresses of the Pods of a namespace.
    pub fn pod_addresses(&self, namespace: &str) -> impl Iterator<Item = IpAddr> {
        self.pods_of(namespace).flat_map(|(_, pod)| &pod.addresses).copied()
    }

    /// Returns the known Pods of a namespace, sorted by name; none if Pods are not read.
    pub fn pods_of(&self, namespace: &str) -> impl Iterator<Item = (&str, &PodState)> {
        self.pods.get(namespace).into_iter().flatten().map(|(name, pod)| (&**name, pod))
    }

    /// Returns a Pod, if Pods are read.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<&PodState> {
        self.pods.get(namespace)?.get(name)
    }

    /// Returns every known Pod with its namespace and name, in no order of namespaces.
    pub fn pods(&self) -> impl Iterator<Item = (&str, &str, &PodState)> {
        self.pods.iter().flat_map(|(namespace, pods)| pods.iter().map(move |(name, pod)| (&**namespace, &**name, pod)))
    }

    /// Returns a StatefulSet.
    pub fn stateful_set(&self, key: &ObjectRef) -> Option<&StatefulSet> {
        self.stateful_sets.get(key)
    }

    /// Returns every StatefulSet, in no order.
    pub fn stateful_sets(&self) -> impl Iterator<Item = &StatefulSet> {
        self.stateful_sets.values()
    }

    /// Returns every Service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values().filter_map(|state| state.service.as_ref())
    }

    /// Returns every EndpointSlice, in no order, including those that belong to no Service.
    pub fn slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.values().map(|seen| &*seen.object)
    }

    /// Returns whether Namespaces are read. If not, a namespace without objects is unknown.
    pub fn declares_namespaces(&self) -> bool {
        self.namespaces_exist == Namespaces::Declared && !self.known[Resource::Namespaces as usize].is_empty()
    }

    /// Returns the cluster IPs of this server's Service.
    pub fn apex_addresses(&self) -> &[IpAddr] {
        let service = self.apex_service.as_ref().and_then(|key| self.services.get(key)?.service.as_ref());
        match service.map(|service| &service.kind) {
            Some(ServiceKind::ClusterIp(addresses)) => addresses,
            _ => &[],
        }
    }

    /// Returns the networks (/16, /64) of all addresses with PTR records: those of Services and endpoints.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.networks.0.keys().copied()
    }

    /// Returns every object, reduced to the stored fields. Applied to an empty cluster, they restore this one.
    pub fn objects(&self) -> Vec<Object> {
        let namespaces = self.namespaces.iter().filter(|(_, state)| state.declared);
        let mut objects: Vec<Object> = namespaces
            .map(|(name, state)| Namespace { name: name.clone(), terminating: state.terminating })
            .map(Object::Namespace)
            .collect();
        for (key, state) in &self.services {
            objects.extend(state.service.clone().map(Object::Service));
            if !state.endpoints.is_empty() {
                let slices: Vec<EndpointSlice> = state.endpoints.iter().map(|slice| (**slice).clone()).collect();
                let mirrored = slices.iter().map(EndpointSlice::len).collect();
                objects.push(Object::Endpoints(Endpoints { key: key.clone(), slices, mirrored }));
            }
        }
        objects.extend(self.slices().cloned().map(Object::EndpointSlice));
        objects.extend(self.stateful_sets().cloned().map(Object::StatefulSet));
        objects.extend(self.pods().map(|(namespace, name, pod)| {
            let (addresses, finished) = (pod.addresses.clone(), pod.finished);
            let (hostname, subdomain) = (pod.hostname.clone(), pod.subdomain.clone());
            let spec = PodSpec { hostname, subdomain, ..PodSpec::default() };
            Object::Pod(Pod { key: ObjectRef::new(namespace, name), addresses, finished, spec, ..Pod::default() })
        }));
        objects
    }

    /// Returns all contributors, for building a zone from scratch.
    pub fn contributors(&self) -> Vec<Contributor> {
        let services = self.services.keys().cloned().map(Contributor::Service);
        let namespaces = self.namespaces.keys().cloned().map(Contributor::Namespace);
        let pods = self.pods.keys().cloned().map(Contributor::PodAddresses);
        std::iter::once(Contributor::Apex).chain(services).chain(namespaces).chain(pods).collect()
    }

    fn apply_service(&mut self, service: Service, dirty: &mut Vec<Contributor>) {
        let key = service.key.clone();
        let state = self.services.entry(key.clone()).or_default();
        state.mark = self.marks[Resource::Services as usize];
        if state.service.as_ref() != Some(&service) {
            self.networks.add(service.own_addresses());
            match state.service.replace(service) {
                Some(old) => self.networks.remove(old.own_addresses()),
                None => self.service_count += 1,
            }
            self.mark_service_dirty(key, dirty);
        }
    }

    fn delete_service(&mut self, key: &ObjectRef, dirty: &mut Vec<Contributor>) {
        let mut gone = None;
        self.change(key, |state| gone = state.service.take());
        self.service_count -= usize::from(gone.is_some());
        gone.iter().for_each(|service| self.networks.remove(service.own_addresses()));
        self.mark_service_dirty(key.clone(), dirty);
    }

    fn mark_service_dirty(&self, key: ObjectRef, dirty: &mut Vec<Contributor>) {
        if self.apex_service.as_ref() == Some(&key) {
            dirty.push(Contributor::Apex);
        }
        dirty.push(Contributor::Service(key));
    }

    fn apply_slice(&mut self, slice: EndpointSlice, dirty: &mut Vec<Contributor>) {
        if self.slices.get(&slice.key).is_some_and(|old| *old.object == slice) {
            return;
        }
        let key = slice.key.clone();
        let owner = owner_of(&slice);
        // A slice that moves from one Service to another makes both dirty.
        self.detach_slice(&key, dirty);
        let slice = Arc::new(slice);
        if let Some(owner) = owner {
            self.networks.add(slice.addresses());
            let slices = &mut self.services.entry(owner.clone()).or_default().slices;
            let at = slices.partition_point(|other| other.key.name < key.name);
            slices.insert(at, Arc::clone(&slice));
            if !dirty.iter().any(|other| matches!(other, Contributor::Service(other) if *other == owner)) {
                dirty.push(Contributor::Service(owner));
            }
        }
        let mark = self.marks[Resource::EndpointSlices as usize];
        self.slices.insert(key, TrackedObject { object: slice, mark });
    }

    fn delete_slice(&mut self, key: &ObjectRef, dirty: &mut Vec<Contributor>) {
        self.detach_slice(key, dirty);
        self.slices.remove(key);
    }

    fn detach_slice(&mut self, key: &ObjectRef, dirty: &mut Vec<Contributor>) {
        if let Some(seen) = self.slices.get(key)
            && let Some(owner) = owner_of(&seen.object)
        {
            self.networks.remove(seen.object.addresses());
            self.change(&owner, |state| state.slices.retain(|slice| slice.key != *key));
            dirty.push(Contributor::Service(owner));
        }
    }

    fn replace_endpoints(&mut self, key: ObjectRef, slices: Vec<EndpointSlice>, dirty: &mut Vec<Contributor>) {
        let old = self.services.get(&key).map_or(&[][..], |state| &state.endpoints);
        if old.iter().map(AsRef::as_ref).eq(slices.iter()) {
            return;
        }
        old.iter().for_each(|slice| self.networks.remove(slice.addresses()));
        slices.iter().for_each(|slice| self.networks.add(slice.addresses()));
        self.services.entry(key.clone()).or_default();
        self.change(&key, |state| state.endpoints = slices.into_iter().map(Arc::new).collect());
        dirty.push(Contributor::Service(key));
    }

    fn apply_pod(&mut self, pod: Pod, dirty: &mut Vec<Contributor>) {
        let addresses = if pod.finished { Vec::new() } else { pod.addresses };
        let pods = self.pods.entry(pod.key.namespace.clone()).or_default();
        let PodSpec { hostname, subdomain, .. } = pod.spec;
        let state = PodState { addresses: addresses.clone(), finished: pod.finished, hostname, subdomain };
        let old = pods.insert(pod.key.name, state);
        if old.is_none_or(|old| old.addresses != addresses) {
            dirty.push(Contributor::PodAddresses(pod.key.namespace));
        }
    }

    fn delete_pod(&mut self, key: &ObjectRef, dirty: &mut Vec<Contributor>) {
        let Some(pods) = self.pods.get_mut(&key.namespace) else { return };
        if pods.remove(&key.name).is_some_and(|pod| !pod.addresses.is_empty()) {
            dirty.push(Contributor::PodAddresses(key.namespace.clone()));
        }
        if pods.is_empty() {
            self.pods.remove(&key.namespace);
        }
    }

    fn apply_stateful_set(&mut self, set: StatefulSet, dirty: &mut Vec<Contributor>) {
        if self.stateful_sets.get(&set.key) == Some(&set) {
            return;
        }
        self.detach_stateful_set(&set.key, dirty);
        let governing = ObjectRef::new(&set.key.namespace, &set.service_name);
        self.services.entry(governing.clone()).or_default().governs.insert(set.key.name.clone());
        dirty.push(Contributor::Service(governing));
        self.stateful_sets.insert(set.key.clone(), set);
    }

    fn delete_stateful_set(&mut self, key: &ObjectRef, dirty: &mut Vec<Contributor>) {
        self.detach_stateful_set(key, dirty);
        self.stateful_sets.remove(key);
    }

    fn detach_stateful_set(&mut self, key: &ObjectRef, dirty: &mut Vec<Contributor>) {
        if let Some(set) = self.stateful_sets.get(key) {
            let governing = ObjectRef::new(&key.namespace, &set.service_name);
            self.change(&governing, |state| {
                state.governs.remove(&key.name);
            });
            dirty.push(Contributor::Service(governing));
        }
    }

    /// Changes the entry of a Service's name, and removes the entry if no object is left in it.
    fn change(&mut self, key: &ObjectRef, change: impl FnOnce(&mut ServiceState)) {
        if let Some(state) = self.services.get_mut(key) {
            change(state);
            if state.is_empty() {
                self.services.remove(key);
            }
        }
    }

    fn declare_namespace(&mut self, name: &str, object: Option<&Namespace>, dirty: &mut Vec<Contributor>) {
        let change = |state: &mut NamespaceState| {
            state.declared = object.is_some();
            state.terminating = object.is_some_and(|object| object.terminating);
        };
        self.change_namespace(name, change, dirty);
    }

    fn count_in_namespace(&mut self, name: &str, change: isize, dirty: &mut Vec<Contributor>) {
        self.change_namespace(name, |state| state.objects = state.objects.saturating_add_signed(change), dirty);
    }

    fn change_namespace(&mut self, name: &str, change: impl FnOnce(&mut NamespaceState), dirty: &mut Vec<Contributor>) {
        let before = self.namespace_exists(name);
        if !self.namespaces.contains_key(name) {
            self.namespaces.insert(name.into(), NamespaceState::default());
        }
        if let Some(state) = self.namespaces.get_mut(name) {
            change(state);
            if !state.declared && state.objects == 0 {
                self.namespaces.remove(name);
            }
        }
        if self.namespace_exists(name) != before {
            dirty.push(Contributor::Namespace(name.into()));
        }
    }
}

/// Returns the Service that a slice belongs to, by the label `kubernetes.io/service-name`.
fn owner_of(slice: &EndpointSlice) -> Option<ObjectRef> {
    slice.service.as_deref().map(|service| ObjectRef::new(&slice.key.namespace, service))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Decoded, decode};

    fn object(json: &str) -> Object {
        match decode(serde_json::from_str(json).unwrap(), "default") {
            Ok(Decoded::Object(object, _)) => object,
            other => panic!("{other:?}"),
        }
    }

    fn service(name: &str) -> Object {
        object(&format!(r#"{{"kind":"Service","metadata":{{"name":"{name}"}},"spec":{{"clusterIP":"None"}}}}"#))
    }

    fn slice(service: &str, address: &str) -> Object {
        object(&format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
                "metadata":{{"name":"slice","labels":{{"kubernetes.io/service-name":"{service}"}}}},
                "endpoints":[{{"addresses":["{address}"]}}]}}"#
        ))
    }

    fn names(dirty: &[Contributor]) -> Vec<String> {
        dirty.iter().map(|contributor| format!("{contributor:?}").replace("ObjectRef ", "")).collect()
    }

    #[test]
    fn returns_dirty_contributors() {
        let mut cluster = Cluster::new(Namespaces::Inferred, Some(ObjectRef::new("default", "b")));
        let web = |name: &str| Contributor::Service(ObjectRef::new("default", name));
        assert_eq!(cluster.apply(service("a")), [Contributor::Namespace("default".into()), web("a")]);
        assert_eq!(cluster.apply(service("a")), [], "nothing served changed");
        assert_eq!(cluster.apply(service("b")), [Contributor::Apex, web("b")], "the Service in front");
        assert_eq!(cluster.apply(slice("a", "10.0.0.1")), [web("a")]);
        assert_eq!(cluster.apply(slice("a", "10.0.0.1")), []);
        assert_eq!(cluster.apply(slice("b", "10.0.0.1")), [web("a"), web("b")], "both owners");
        let key = ObjectRef::new("default", "slice");
        assert_eq!(cluster.delete(Resource::EndpointSlices, &key), [web("b")]);
        assert_eq!(cluster.delete(Resource::EndpointSlices, &key), []);
    }

    #[test]
    fn adds_and_removes_networks() {
        let mut cluster = Cluster::new(Namespaces::Inferred, None);
        let networks = |cluster: &Cluster| {
            let mut networks: Vec<String> = cluster.networks().map(|network| network.to_string()).collect();
            networks.sort();
            networks.join(" ")
        };
        let cluster_ip = |ip: &str| {
            object(&format!(r#"{{"kind":"Service","metadata":{{"name":"c"}},"spec":{{"clusterIP":"{ip}"}}}}"#))
        };
        let endpoints = |ip: &str| {
            object(&format!(
                r#"{{"kind":"Endpoints","metadata":{{"name":"c"}},"subsets":[{{"addresses":[{{"ip":"{ip}"}}]}}]}}"#
            ))
        };
        cluster.apply(cluster_ip("10.96.0.1"));
        assert_eq!(networks(&cluster), "10.96.0.0/16");
        cluster.apply(slice("a", "10.1.0.1"));
        cluster.apply(slice("b", "10.1.9.1"));
        cluster.apply(endpoints("10.1.0.7"));
        assert_eq!(networks(&cluster), "10.1.0.0/16 10.96.0.0/16");
        cluster.apply(slice("b", "10.2.0.1"));
        cluster.apply(cluster_ip("fd00::1"));
        assert_eq!(networks(&cluster), "10.1.0.0/16 10.2.0.0/16 fd00::/64");
        cluster.apply(endpoints("10.2.0.7"));
        cluster.delete(Resource::Services, &ObjectRef::new("default", "c"));
        assert_eq!(networks(&cluster), "10.2.0.0/16");
        cluster.delete(Resource::EndpointSlices, &ObjectRef::new("default", "slice"));
        assert_eq!(networks(&cluster), "10.2.0.0/16");
        cluster.delete(Resource::Endpoints, &ObjectRef::new("default", "c"));
        assert_eq!(networks(&cluster), "");
    }

    #[test]
    fn infers_namespaces_without_permission() {
        let mut cluster = Cluster::new(Namespaces::Declared, None);
        cluster.apply(service("a"));
        assert!(!cluster.namespace_exists("default") && cluster.knows_namespace("default"));
        cluster.apply(object(r#"{"kind":"Namespace","metadata":{"name":"shop"}}"#));
        assert!(!cluster.knows_namespace("default"), "they are read: this one is gone");
        assert!(cluster.knows_namespace("shop") && !cluster.knows_namespace("else"));
    }

    #[test]
    fn relist_deletes_missing_objects() {
        let mut cluster = Cluster::new(Namespaces::Inferred, None);
        cluster.apply(service("a"));
        cluster.apply(service("b"));
        cluster.begin_relist(Resource::Services);
        assert_eq!(cluster.unseen_count(Resource::Services), (2, 2));
        cluster.begin_relist(Resource::EndpointSlices);
        assert_eq!(cluster.apply(service("a")), []);
        assert_eq!(cluster.unseen_count(Resource::Services), (2, 1), "another resource's relist is another one");
        assert!(cluster.service(&ObjectRef::new("default", "b")).service.is_some(), "known until the sweep");
        assert_eq!(names(&cluster.finish_relist(Resource::Services)).len(), 1);
        assert!(cluster.service(&ObjectRef::new("default", "b")).service.is_none());
        cluster.begin_relist(Resource::Services);
        let dirty = cluster.finish_relist(Resource::Services);
        assert!(dirty.contains(&Contributor::Namespace("default".into())), "the last object takes its namespace along");
        assert!(!cluster.namespace_exists("default"));
    }
}
