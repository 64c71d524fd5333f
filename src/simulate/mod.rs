//! Workloads in manifests -> the Pods, addresses and EndpointSlices that a cluster would make of them.
//!
//! The rules are the controllers'; where they draw at random, a hash of the names stands in, so that the same manifests
//! always come to the same cluster. What the files hold themselves is never made again, and never changed, but for
//! addresses that are missing. `pods.rs` makes Pods, `addresses.rs` gives addresses, `slices.rs` makes slices.
//! Not here: reading files (`source/manifests`), and what is answered (`records.rs`).
//!
//! A DaemonSet gets one Pod: a cluster of one node is assumed.

mod addresses;
mod pods;
mod slices;

use std::collections::HashSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::objects::{EndpointSlice, Family, Object, ObjectRef, Pod, Reason, Service, ServiceKind, Skipped};
use addresses::Pools;
use pods::Plan;

/// How many Pods are made at most: a slip in `replicas` must not eat the machine.
pub const MAX_PODS: usize = 1_000_000;

/// What the manifests come to.
#[derive(Debug)]
pub struct Simulated {
    /// All objects: those given, with addresses where they were missing, and behind them those that were made.
    pub objects: Vec<Object>,
    /// What could not be made, and why.
    pub reports: Vec<Skipped>,
}

/// Brings the workloads among `objects` to life.
///
/// Pods get an address of each family that `pods` has a range of; Services without an address get one of `services`
/// for each of their families (or, where they name none, of the first range's family). An address that any object
/// already has is not given again.
pub fn simulate(objects: Vec<Object>, pods: &[IpNet], services: &[IpNet]) -> Simulated {
    let mut simulation = Simulation { taken: taken(&objects), objects, reports: Vec::new() };
    simulation.address_services(services);
    let (mut pools, mut left) = (Pools::new(pods), Left::default());
    simulation.address_bare_pods(&mut pools, &mut left);
    simulation.make_pods(&mut pools, &mut left);
    simulation.reports.extend(left.report("Pods", pods));
    let slices = slices::slices(&simulation.objects);
    simulation.objects.extend(slices.into_iter().map(Object::EndpointSlice));
    Simulated { objects: simulation.objects, reports: simulation.reports }
}

struct Simulation {
    objects: Vec<Object>,
    taken: HashSet<IpAddr>,
    reports: Vec<Skipped>,
}

impl Simulation {
    fn address_services(&mut self, ranges: &[IpNet]) {
        let mut pools = Pools::new(ranges);
        let known = pools.families();
        let mut left = Left::default();
        for service in in_order(self.objects.iter_mut().filter_map(without_address)) {
            let key = &service.key;
            let asked = if service.families.is_empty() { &known[..known.len().min(1)] } else { &service.families[..] };
            let mut given = Vec::new();
            for family in asked {
                if !known.contains(family) {
                    self.reports.push(no_range(key, *family));
                } else if let Some(address) =
                    pools.take(*family, &["service", &key.namespace, &key.name], &mut self.taken)
                {
                    given.push(address);
                } else {
                    left.add(1, || format!("Service {key}"));
                }
            }
            service.kind = ServiceKind::ClusterIp(given);
        }
        self.reports.extend(left.report("Services", ranges));
    }

    /// Pods that somebody wrote down as such. One that a workload controls comes out of a cluster, and has no address
    /// because it had none there.
    fn address_bare_pods(&mut self, pools: &mut Pools, left: &mut Left) {
        let bare = self.objects.iter_mut().filter_map(|object| match object {
            Object::Pod(pod) if pod.owner.is_none() && pod.addresses.is_empty() && !pod.finished => Some(pod),
            _ => None,
        });
        for pod in in_order(bare.filter(|pod| pod.ready.is_none())) {
            if address(pod, pools, &mut self.taken) {
                pod.ready = Some(true);
            } else {
                left.add(1, || format!("Pod {}", pod.key));
            }
        }
    }

    fn make_pods(&mut self, pools: &mut Pools, left: &mut Left) {
        let occupied = pods::occupied(&self.objects);
        let mut plans: Vec<Plan> = self.objects.iter().filter_map(Plan::of).collect();
        plans.retain(|plan| !plan.is_occupied(&occupied));
        plans.sort_by(|one, other| one.order().cmp(&other.order()));
        let mut names: HashSet<ObjectRef> = self.objects.iter().filter_map(pod_key).collect();
        let mut made = Vec::new();
        for plan in plans {
            if let Some(refusal) = plan.refusal() {
                self.reports.push(refusal);
                continue;
            }
            for index in 0..plan.count {
                // Where the files have a Pod of this name, of another workload, the controller cannot make its own.
                let Some(mut pod) = plan.pod(index, &mut names) else { continue };
                if made.len() == MAX_PODS || !address(&mut pod, pools, &mut self.taken) {
                    left.add(u64::from(plan.count - index), || plan.to_string());
                    break;
                }
                made.push(Object::Pod(pod));
            }
        }
        self.objects.extend(made);
    }
}

/// Gives a Pod an address of each family there is a range of. `false` if it got none.
fn address(pod: &mut Pod, pools: &mut Pools, taken: &mut HashSet<IpAddr>) -> bool {
    let key = ["pod", &*pod.key.namespace, &*pod.key.name];
    pod.addresses = pools.families().into_iter().filter_map(|family| pools.take(family, &key, taken)).collect();
    !pod.addresses.is_empty()
}

/// Things that share a hash get their addresses in this order, whatever the order of the files.
fn in_order<'o, T: Keyed + 'o>(things: impl Iterator<Item = &'o mut T>) -> Vec<&'o mut T> {
    let mut things: Vec<_> = things.collect();
    things.sort_by(|one, other| one.key().cmp(other.key()));
    things
}

trait Keyed {
    fn key(&self) -> &ObjectRef;
}

impl Keyed for Pod {
    fn key(&self) -> &ObjectRef {
        &self.key
    }
}

impl Keyed for Service {
    fn key(&self) -> &ObjectRef {
        &self.key
    }
}

fn without_address(object: &mut Object) -> Option<&mut Service> {
    match object {
        Object::Service(service) if service.kind == ServiceKind::ClusterIp(Vec::new()) => Some(service),
        _ => None,
    }
}

fn pod_key(object: &Object) -> Option<ObjectRef> {
    match object {
        Object::Pod(pod) => Some(pod.key.clone()),
        _ => None,
    }
}

/// Every address that an object has.
fn taken(objects: &[Object]) -> HashSet<IpAddr> {
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

fn no_range(key: &ObjectRef, family: Family) -> Skipped {
    let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
    let text = format!(
        "Service {key}: its `ipFamilies` ask for {family}, and no {family} range is simulated; it gets no such address"
    );
    Skipped { reason: Reason::NoAddress, object: Some(key.clone()), text }
}

/// Those that got no address: how many, and the first of them.
#[derive(Default)]
struct Left {
    count: u64,
    first: Option<String>,
}

impl Left {
    fn add(&mut self, count: u64, name: impl FnOnce() -> String) {
        self.count += count;
        self.first.get_or_insert_with(name);
    }

    fn report(self, what: &str, ranges: &[IpNet]) -> Option<Skipped> {
        let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
        let text = format!(
            "{what} without an address: {}, from {} on; {} has no more of them (nor are more than {MAX_PODS} Pods made), \
             so simulate with a larger range",
            self.count,
            self.first?,
            if ranges.is_empty() { "no range".into() } else { ranges.join(", ") },
        );
        Some(Skipped { reason: Reason::NoAddress, object: None, text })
    }
}

#[cfg(test)]
mod tests;
