//! Workloads in manifests -> the Pods, addresses and EndpointSlices that a cluster would make of them.
//!
//! The rules are those of the controllers; where a controller draws at random, a hash of the names decides, so that
//! equal manifests always give the same cluster. Objects of the files are never made again and never changed, but for
//! missing addresses and the API server's defaults. `pods.rs` makes Pods, `families.rs` chooses families,
//! `addresses.rs` gives addresses, `slices.rs` makes slices of Pods, `mirror.rs` of Endpoints. Not here: reading files
//! (`source/manifests`), and records (`records/`). `docs/objects.md` lists the fields that are followed, checked and
//! ignored.
//!
//! A DaemonSet gets one Pod: a cluster of one node is assumed.

mod addresses;
mod families;
mod mirror;
mod pods;
mod slices;

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::naming_rules::EndpointsSource;
use crate::object::{
    AddressFamily, EndpointSlice, Object, ObjectRef, Pod, Reason, Service, ServiceKind, Skipped, Workload, WorkloadKind,
};
use addresses::Pools;
use families::families_of;
use pods::PodPlan;
use slices::Owners;

/// Maximum number of simulated Pods: without it, a typing error in `replicas` exhausts the memory.
pub const MAX_PODS: usize = 1_000_000;

/// Result of a simulation.
#[derive(Debug)]
pub struct Simulated {
    /// All objects: those of the files, with missing addresses added, followed by the simulated ones.
    pub objects: Vec<Object>,
    /// Objects that could not be simulated, with the reasons.
    pub reports: Vec<Skipped>,
    /// Objects that deliberately are no endpoints, each with a sentence.
    pub notes: Vec<(ObjectRef, String)>,
}

/// Simulates the workloads among `objects`.
///
/// `pods` are the networks of the cluster's Pods, and their families are those of the cluster; `services` are the
/// networks of Services. A Pod gets an address of each family; a Service one of each family that the API server's
/// defaulting gives it. An address that any object already has is not given again. Endpoints are mirrored, unless
/// `source` is the Endpoints themselves.
pub fn simulate(objects: Vec<Object>, pods: &[IpNet], services: &[IpNet], source: EndpointsSource) -> Simulated {
    let mut simulation = Simulation { taken: used_addresses(&objects), objects, reports: Vec::new() };
    let (mut pools, mut unassigned) = (Pools::new(pods), Unassigned::default());
    simulation.complete_services(&pools.families(), services);
    let notes = simulation.objects.iter().filter_map(note_of_hook).collect();
    simulation.address_bare_pods(&mut pools, &mut unassigned);
    simulation.make_pods(&mut pools, &mut unassigned);
    simulation.reports.extend(unassigned.report("Pods", pods));
    let slices = make_slices(&simulation.objects, source);
    simulation.objects.extend(slices.into_iter().map(Object::EndpointSlice));
    Simulated { objects: simulation.objects, reports: simulation.reports, notes }
}

fn make_slices(objects: &[Object], source: EndpointsSource) -> Vec<EndpointSlice> {
    let written = Owners::new(objects, source);
    let mut names: HashSet<ObjectRef> = objects.iter().filter_map(slice_key).collect();
    let mut made = slices::slices(objects, &written, &mut names);
    if source == EndpointsSource::Slices {
        made.extend(mirror::slices(objects, &written, &mut names));
    }
    made
}

struct Simulation {
    objects: Vec<Object>,
    taken: HashSet<IpAddr>,
    reports: Vec<Skipped>,
}

impl Simulation {
    /// Sets the families of Services, and adds addresses of the families that a Service has none of.
    fn complete_services(&mut self, cluster: &[AddressFamily], ranges: &[IpNet]) {
        let mut pools = Pools::new(ranges);
        let known = pools.families();
        let mut unassigned = Unassigned::default();
        let services = self.objects.iter_mut().filter_map(|object| match object {
            Object::Service(service) => Some(service),
            _ => None,
        });
        for service in sort_by_key(services, |service| &service.key) {
            service.families = families_of(service, cluster);
            let ServiceKind::ClusterIp(addresses) = &mut service.kind else { continue };
            let key = &service.key;
            let has = |addresses: &[IpAddr], family| {
                addresses.iter().any(|address| AddressFamily::from_address(*address) == family)
            };
            for family in service.families.iter().copied().filter(|family| !has(addresses, *family)).collect::<Vec<_>>()
            {
                if !known.contains(&family) {
                    self.reports.push(no_range(key, family));
                } else if let Some(address) =
                    pools.take(family, &["service", &key.namespace, &key.name], &mut self.taken)
                {
                    addresses.push(address);
                } else {
                    unassigned.add(1, || format!("Service {key}"));
                }
            }
        }
        self.reports.extend(unassigned.report("Services", ranges));
    }

    /// Gives addresses to Pods written by hand. A Pod with a controller comes from a dump, and has no address because
    /// it had none in its cluster.
    fn address_bare_pods(&mut self, pools: &mut Pools, unassigned: &mut Unassigned) {
        let bare = self.objects.iter_mut().filter_map(|object| match object {
            Object::Pod(pod) if is_bare(pod) && pod.hook.is_none() => Some(pod),
            _ => None,
        });
        for pod in sort_by_key(bare, |pod| &pod.key) {
            if address(pod, pools, &mut self.taken) {
                pod.ready = Some(true);
            } else {
                unassigned.add(1, || format!("Pod {}", pod.key));
            }
        }
    }

    fn make_pods(&mut self, pools: &mut Pools, unassigned: &mut Unassigned) {
        let occupied = pods::existing_workloads(&self.objects);
        let mut plans: Vec<PodPlan> =
            self.objects.iter().filter(|object| !is_hook_job(object)).filter_map(PodPlan::from_object).collect();
        plans.retain(|plan| !plan.is_occupied(&occupied));
        plans.sort_by(|one, other| one.sort_key().cmp(&other.sort_key()));
        let mut names: HashSet<ObjectRef> = self.objects.iter().filter_map(pod_key).collect();
        let mut made = Vec::new();
        for plan in plans {
            if let Some(error) = plan.name_error() {
                self.reports.push(error);
                continue;
            }
            for index in 0..plan.count {
                // If the files have a Pod of this name of another workload, the controller cannot make its own.
                let Some(mut pod) = plan.pod(index, &mut names) else { continue };
                if made.len() == MAX_PODS || !address(&mut pod, pools, &mut self.taken) {
                    unassigned.add(u64::from(plan.count - index), || plan.to_string());
                    break;
                }
                made.push(Object::Pod(pod));
            }
        }
        self.objects.extend(made);
    }
}

/// Gives a Pod an address of each family of the networks. Returns `false` if it got none.
fn address(pod: &mut Pod, pools: &mut Pools, taken: &mut HashSet<IpAddr>) -> bool {
    let key = ["pod", &*pod.key.namespace, &*pod.key.name];
    pod.addresses = pools.families().into_iter().filter_map(|family| pools.take(family, &key, taken)).collect();
    !pod.addresses.is_empty()
}

/// Sorts objects by name: those that share a hash get their addresses in this order, whatever the order of the files.
fn sort_by_key<'o, T>(objects: impl Iterator<Item = &'o mut T>, key: impl Fn(&T) -> &ObjectRef) -> Vec<&'o mut T> {
    let mut objects: Vec<_> = objects.collect();
    objects.sort_by(|one, other| key(one).cmp(key(other)));
    objects
}

/// Returns whether a Pod was written by hand: it has no owner, no address and no status.
fn is_bare(pod: &Pod) -> bool {
    pod.owner.is_none() && pod.addresses.is_empty() && !pod.finished && pod.ready.is_none()
}

fn is_hook_job(object: &Object) -> bool {
    matches!(object, Object::Workload(Workload { kind: WorkloadKind::Job { .. }, hook: Some(_), .. }))
}

/// Returns the note about a Pod or a Job that Helm runs to its end: for `helm test`, or before or after an upgrade.
fn note_of_hook(object: &Object) -> Option<(ObjectRef, String)> {
    let (key, hook) = match object {
        Object::Pod(pod) if is_bare(pod) => (&pod.key, pod.hook.as_deref()?),
        Object::Workload(Workload { key, hook, .. }) if is_hook_job(object) => (key, hook.as_deref()?),
        _ => return None,
    };
    let text = format!(
        "{} {key}: Helm runs it as a hook (`helm.sh/hook: {hook}`), to its end, so it is no part of the running \
         release, and no endpoint",
        object.kind()
    );
    Some((key.clone(), text))
}

fn slice_key(object: &Object) -> Option<ObjectRef> {
    match object {
        Object::EndpointSlice(slice) => Some(slice.key.clone()),
        _ => None,
    }
}

fn pod_key(object: &Object) -> Option<ObjectRef> {
    match object {
        Object::Pod(pod) => Some(pod.key.clone()),
        _ => None,
    }
}

/// Returns every address of the objects.
fn used_addresses(objects: &[Object]) -> HashSet<IpAddr> {
    let mut taken = HashSet::new();
    for object in objects {
        match object {
            Object::Pod(pod) => taken.extend(&pod.addresses),
            Object::Service(Service { kind: ServiceKind::ClusterIp(addresses), .. }) => taken.extend(addresses),
            Object::EndpointSlice(slice) => taken.extend(slice.endpoints().map(|endpoint| endpoint.address)),
            Object::Endpoints(endpoints) => {
                let all = endpoints.slices.iter().flat_map(EndpointSlice::endpoints);
                taken.extend(all.map(|endpoint| endpoint.address));
            }
            _ => {}
        }
    }
    taken
}

fn no_range(key: &ObjectRef, family: AddressFamily) -> Skipped {
    let family = family.name();
    let text = format!(
        "Service {key}: `ipFamilies` or `ipFamilyPolicy` ask for {family}, and no {family} network is simulated; the \
         Service gets no {family} address"
    );
    Skipped { reason: Reason::NoAddress, object: Some(key.clone()), text }
}

/// Objects that got no address: their number, and the first of them.
#[derive(Default)]
struct Unassigned {
    count: u64,
    first: Option<String>,
}

impl Unassigned {
    fn add(&mut self, count: u64, name: impl FnOnce() -> String) {
        self.count += count;
        self.first.get_or_insert_with(name);
    }

    fn report(self, what: &str, ranges: &[IpNet]) -> Option<Skipped> {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let cause = if ranges.is_empty() {
            "no network is simulated".into()
        } else {
            format!("no address of {} is free, or more than {MAX_PODS} Pods were to be made", ranges.join(", "))
        };
        let text = format!(
            "{what} without an address: {}, beginning with {}: {cause}; simulate with a larger network",
            self.count, self.first?
        );
        Some(Skipped { reason: Reason::NoAddress, object: None, text })
    }
}

#[cfg(test)]
mod tests;
