//! Clusters to ask about: headless Services whose Pods have ordinals, on the fake API server of `tests/it/api_server/`.
//!
//! Objects are made when they are asked for, so that a large cluster takes no room here. Every server gets the same
//! ones: ours and CoreDNS as objects, the others as the zone files that `headless-dns records` writes of them.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use super::fake::Fake;

pub const SERVICES: &str = "services";
pub const SLICES: &str = "endpointslices";
const NAMESPACES: &str = "namespaces";
/// Endpoints of a slice, as the EndpointSlice controller fills it.
const SLICE: usize = 100;

/// A headless Service, and the Pods `NAME-0`, `NAME-1`, ... of its StatefulSet.
#[derive(Clone)]
pub struct Service {
    pub name: String,
    pub namespace: String,
    pub endpoints: usize,
    /// How many endpoints the Services before it have: its addresses follow theirs.
    before: usize,
}

impl Service {
    /// Its name, in the zone.
    pub fn owner(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    /// The name of its Pod with this ordinal.
    pub fn pod(&self, ordinal: usize) -> String {
        format!("{}-{ordinal}.{}", self.name, self.owner())
    }

    /// The address of that Pod, before it ever moved.
    pub fn address(&self, ordinal: usize) -> Ipv4Addr {
        (0x0a10_0000 + (self.before + ordinal) as u32).into()
    }
}

/// The cluster of the workloads, or one that is only large.
#[derive(Clone)]
pub struct Cluster {
    pub services: Vec<Service>,
    /// Of each slice its Service and its first ordinal.
    slices: Vec<(usize, usize)>,
}

impl Cluster {
    /// 1,000 Services with 3 Pods each, then one with 100, then one with 5,000.
    pub fn of_workloads() -> Self {
        let small = (0..1000).map(|number| (format!("web-{number}"), format!("team-{}", number % 100), 3));
        let large = [("hundred".to_owned(), "default".to_owned(), 100), ("web".to_owned(), "default".to_owned(), 5000)];
        Self::of(small.chain(large))
    }

    /// So many endpoints, 100 in each Service.
    pub fn of_size(endpoints: usize) -> Self {
        let services = endpoints.div_ceil(SLICE);
        Self::of((0..services).map(|number| (format!("web-{number}"), format!("team-{}", number % 100), SLICE)))
    }

    fn of(shapes: impl Iterator<Item = (String, String, usize)>) -> Self {
        let mut cluster = Self { services: Vec::new(), slices: Vec::new() };
        let mut before = 0;
        for (number, (name, namespace, endpoints)) in shapes.enumerate() {
            cluster.slices.extend((0..endpoints).step_by(SLICE).map(|first| (number, first)));
            cluster.services.push(Service { name, namespace, endpoints, before });
            before += endpoints;
        }
        cluster
    }

    /// Those with 3 Pods, whose first slice has the number of the Service.
    pub fn small(&self) -> &[Service] {
        &self.services[..self.services.iter().take_while(|service| service.endpoints == 3).count()]
    }

    /// The fake API server with all of it. When a slice changes, its first endpoint has another address.
    pub fn serve(&self) -> Fake {
        let fake = Fake::default();
        let names: std::collections::BTreeSet<String> =
            self.services.iter().map(|service| service.namespace.clone()).collect();
        let names: Vec<String> = names.into_iter().collect();
        fake.make(NAMESPACES, names.len(), move |number, _| namespace(&names[number]));
        let cluster = self.clone();
        fake.make(SERVICES, self.services.len(), move |number, _| service(&cluster.services[number], number));
        let cluster = self.clone();
        fake.make(SLICES, self.slices.len(), move |number, version| cluster.slice(number, version));
        fake
    }

    /// A slice as the controller writes it.
    fn slice(&self, number: usize, version: u64) -> String {
        let (of, first) = self.slices[number];
        let Service { name, namespace, endpoints, .. } = &self.services[of];
        let mut rows = String::new();
        for ordinal in first..(first + SLICE).min(*endpoints) {
            let address = match (version, ordinal == first) {
                (2.., true) => (0x0a80_0000 | version as u32 & 0x7f_ffff).into(),
                _ => self.services[of].address(ordinal),
            };
            let comma = if ordinal == first { "" } else { "," };
            let _ = write!(
                rows,
                r#"{comma}{{"addresses":["{address}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"hostname":"{name}-{ordinal}","nodeName":"node-{}","targetRef":{{"kind":"Pod","name":"{name}-{ordinal}","namespace":"{namespace}","uid":"9c1b7f64-0000-4000-8000-{ordinal:012}"}},"zone":"zone-{}"}}"#,
                ordinal % 500,
                ordinal % 3
            );
        }
        format!(
            r#"{{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","metadata":{{"name":"{name}-{number:06}","generateName":"{name}-","namespace":"{namespace}","uid":"77e1d2aa-0000-4000-8000-{number:012}","resourceVersion":"{version}","generation":{version},"creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"app":"{name}","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"{name}","service.kubernetes.io/headless":""}},"annotations":{{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-01T00:00:00Z"}},"ownerReferences":[{{"apiVersion":"v1","kind":"Service","name":"{name}","uid":"5f0a9b3c-0000-4000-8000-{of:012}","controller":true,"blockOwnerDeletion":true}}]}},"addressType":"IPv4","endpoints":[{rows}],"ports":[{{"name":"http","port":80,"protocol":"TCP"}}]}}"#
        )
    }
}

fn service(Service { name, namespace, .. }: &Service, number: usize) -> String {
    format!(
        r#"{{"kind":"Service","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"{namespace}","uid":"5f0a9b3c-0000-4000-8000-{number:012}","resourceVersion":"1","creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"app":"{name}"}}}},"spec":{{"clusterIP":"None","clusterIPs":["None"],"internalTrafficPolicy":"Cluster","ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","ports":[{{"name":"http","port":80,"protocol":"TCP","targetPort":80}}],"selector":{{"app":"{name}"}},"sessionAffinity":"None","type":"ClusterIP"}},"status":{{"loadBalancer":{{}}}}}}"#
    )
}

fn namespace(name: &str) -> String {
    format!(
        r#"{{"kind":"Namespace","apiVersion":"v1","metadata":{{"name":"{name}","resourceVersion":"1","creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"kubernetes.io/metadata.name":"{name}"}}}},"spec":{{"finalizers":["kubernetes"]}},"status":{{"phase":"Active"}}}}"#
    )
}
