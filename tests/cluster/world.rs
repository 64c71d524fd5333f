//! A small part of a cluster, as a value: headless Services and handwritten EndpointSlices of one namespace, their objects, and
//! the true answer for every name below them.
//!
//! The true answers are derived in the plainest way, without the server's code, which could not find its own mistakes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::asker::{Answer, Question};

/// The namespace of all of it.
pub const NAMESPACE: &str = "drill";
pub const A: u16 = 1;
pub const PTR: u16 = 12;
pub const SRV: u16 = 33;

/// Objects that exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    pub services: BTreeSet<String>,
    pub slices: BTreeMap<String, Slice>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub service: String,
    /// Number of the port `http`.
    pub port: u16,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: Ipv4Addr,
    pub hostname: Option<String>,
}

impl Endpoint {
    /// The label of its own name (N7, N9).
    fn label(&self) -> String {
        self.hostname.clone().unwrap_or_else(|| self.address.to_string().replace('.', "-"))
    }
}

impl World {
    /// Returns the true answer to `question`: names at and below Services, and reverse names.
    pub fn answer(&self, question: &Question) -> Answer {
        let labels: Vec<&str> = question.name.split('.').collect();
        match (&labels[..], question.qtype) {
            ([d, c, b, a, "in-addr", "arpa"], PTR) => {
                let address: Ipv4Addr = format!("{a}.{b}.{c}.{d}").parse().unwrap();
                let same = self.live().filter(|(_, endpoint)| endpoint.address == address);
                Answer::of(same.map(|(slice, endpoint)| format!("PTR {}.{}", endpoint.label(), of(&slice.service))))
            }
            ([service, NAMESPACE, "svc", "cluster", "local"], A) => self.addresses(service, |_| true),
            (["_http", "_tcp", service, NAMESPACE, "svc", "cluster", "local"], SRV) => self.servers(service),
            ([host, service, NAMESPACE, "svc", "cluster", "local"], A) => {
                self.addresses(service, |endpoint| endpoint.label() == *host)
            }
            _ => panic!("{question:?} is none of the questions of the drills"),
        }
    }

    /// Returns every endpoint of a slice with an existing Service.
    fn live(&self) -> impl Iterator<Item = (&Slice, &Endpoint)> {
        let live = self.slices.values().filter(|slice| self.services.contains(&slice.service));
        live.flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)))
    }

    fn of_service(&self, service: &str) -> impl Iterator<Item = (&Slice, &Endpoint)> {
        self.live().filter(move |(slice, _)| slice.service == service)
    }

    fn addresses(&self, service: &str, wanted: impl Fn(&Endpoint) -> bool) -> Answer {
        let wanted = self.of_service(service).filter(|(_, endpoint)| wanted(endpoint));
        Answer::of(wanted.map(|(_, endpoint)| format!("A {}", endpoint.address)))
    }

    /// N5, with the weights of N4.
    fn servers(&self, service: &str) -> Answer {
        let pairs: BTreeSet<_> = self.of_service(service).map(|(slice, end)| (end.address, slice.port)).collect();
        let weight = (100 / pairs.len().max(1)).max(1);
        let server = |(slice, endpoint): (&Slice, &Endpoint)| {
            format!("SRV 0 {weight} {} {}.{}", slice.port, endpoint.label(), of(service))
        };
        Answer::of(self.of_service(service).map(server))
    }
}

/// The name of a Service, with a dot at its end.
fn of(service: &str) -> String {
    format!("{service}.{NAMESPACE}.svc.cluster.local.")
}

/// The question for a name at or below a Service: `web`, `web-0.web`, `_http._tcp.web`.
pub fn below(name: &str, qtype: u16) -> Question {
    Question { name: format!("{name}.{NAMESPACE}.svc.cluster.local"), qtype }
}

/// The question for the names of an address.
pub fn reverse(address: Ipv4Addr) -> Question {
    let [a, b, c, d] = address.octets();
    Question { name: format!("{d}.{c}.{b}.{a}.in-addr.arpa"), qtype: PTR }
}

/// A headless Service.
pub fn service_object(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}})
}

/// The EndpointSlice `name`.
pub fn slice_object(name: &str, slice: &Slice) -> Value {
    let endpoint = |endpoint: &Endpoint| {
        let mut object = json!({"addresses": [endpoint.address], "conditions": {"ready": true}});
        if let Some(hostname) = &endpoint.hostname {
            object["hostname"] = hostname.as_str().into();
        }
        object
    };
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": slice.service}},
        "ports": [{"name": "http", "port": slice.port, "protocol": "TCP"}],
        "endpoints": slice.endpoints.iter().map(endpoint).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derives_expected_answers() {
        let endpoint = |last, hostname: Option<&str>| Endpoint {
            address: Ipv4Addr::new(10, 77, 0, last),
            hostname: hostname.map(Into::into),
        };
        let mut world = World::default();
        let endpoints = vec![endpoint(1, Some("h-0")), endpoint(2, None)];
        world.slices.insert("web-a".into(), Slice { service: "web".into(), port: 80, endpoints });
        let answer = |world: &World, question| world.answer(&question).records;
        assert_eq!(world.answer(&below("web", A)).rcode, 3, "a slice without its Service is nothing");
        world.services.insert("web".into());
        assert_eq!(answer(&world, below("web", A)), ["A 10.77.0.1", "A 10.77.0.2"]);
        assert_eq!(answer(&world, below("h-0.web", A)), ["A 10.77.0.1"]);
        assert_eq!(answer(&world, below("10-77-0-2.web", A)), ["A 10.77.0.2"]);
        assert_eq!(world.answer(&below("h-1.web", A)), Answer { rcode: 3, records: vec![] });
        assert_eq!(
            answer(&world, below("_http._tcp.web", SRV)),
            ["SRV 0 50 80 10-77-0-2.web.drill.svc.cluster.local.", "SRV 0 50 80 h-0.web.drill.svc.cluster.local."]
        );
        assert_eq!(answer(&world, reverse(Ipv4Addr::new(10, 77, 0, 1))), ["PTR h-0.web.drill.svc.cluster.local."]);
    }
}
