//! One cluster with the server beside it, and the steps of stories.
//!
//! A step changes objects, then waits until its facts are answered, and until all names are (`whole.rs`).

use std::collections::BTreeSet;
use std::time::Instant;

use super::control_plane::ControlPlane;
use super::kubelet::Kubelet;
use super::server::{CONVERGED, Server};
use super::until;
use super::whole::{self, OPTIONS};

/// A condition; its error is the sentence that a failed test shows.
pub type Fact = Result<(), String>;

pub struct Story {
    // They are dropped in this order: clients before the server.
    pub server: Server,
    pub kubelet: Kubelet,
    pub plane: ControlPlane,
    /// The owner names of all steps so far.
    seen: BTreeSet<String>,
    begun: Instant,
}

impl Story {
    pub fn begin() -> Self {
        let begun = Instant::now();
        let plane = ControlPlane::start();
        plane.let_server_read();
        let kubelet = Kubelet::start(&plane);
        let server = Server::start(&plane.server_kubeconfig(), &OPTIONS).synced();
        Self { server, kubelet, plane, seen: BTreeSet::new(), begun }
    }

    /// Waits until these facts hold, and until every name is answered by the API server's objects.
    pub fn then(&mut self, what: &str, facts: impl Fn(&Self) -> Fact) {
        until(what, CONVERGED, || facts(self));
        whole::compare(&self.plane, &self.server, &OPTIONS, &mut self.seen);
        println!("  {:>5.1} s  {what}", self.begun.elapsed().as_secs_f32());
    }

    /// A second server on the same cluster, with one option more.
    pub fn server_with(&self, option: &str, value: &str) -> Server {
        let options: Vec<&str> = OPTIONS.into_iter().chain([option, value]).collect();
        Server::start(&self.plane.server_kubeconfig(), &options).synced()
    }

    /// Returns a field of an object (`statefulset/web`) by its JSON path; empty if it is missing.
    pub fn field(&self, namespace: &str, object: &str, path: &str) -> String {
        self.plane.kubectl(&["-n", namespace, "get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// The Pods of the namespace, sorted, are these.
    pub fn pods(&self, namespace: &str, expected: &[&str]) -> Fact {
        let found = self.plane.kubectl(&["-n", namespace, "get", "pods", "-o", "jsonpath={.items[*].metadata.name}"]);
        let found: BTreeSet<&str> = found.split_whitespace().collect();
        equal("the Pods", &found, &expected.iter().copied().collect())
    }

    /// The name has exactly the addresses of these Pods, in both families, and each Pod has some.
    pub fn resolves(&self, name: &str, pods: &[&str]) -> Fact {
        resolves(&self.server, &self.kubelet, name, pods)
    }

    /// A Pod of a StatefulSet has its own name below the Service, and its addresses point back to it.
    pub fn has_its_name(&self, pod: &str, service: &str) -> Fact {
        let name = format!("{pod}.{service}");
        self.resolves(&name, &[pod])?;
        let namespace = service.rsplit('.').next().unwrap();
        for address in self.kubelet.addresses(namespace, pod) {
            let back = self.server.data(&reverse(address), "PTR");
            if !back.contains(&format!("{name}.svc.cluster.local.")) {
                return Err(format!("{address} points back to {back:?} and not to {name}"));
            }
        }
        Ok(())
    }

    /// There is no such name.
    pub fn denied(&self, name: &str) -> Fact {
        has_rcode(&self.server, name, "NXDOMAIN")
    }

    /// There is such a name, and it has no address.
    pub fn without_data(&self, name: &str) -> Fact {
        has_rcode(&self.server, name, "NOERROR")
    }

    /// The records of this type at the name, sorted, are these.
    pub fn answers(&self, name: &str, rtype: &str, expected: &[&str]) -> Fact {
        let found: BTreeSet<String> = self.server.data(&full(name), rtype).into_iter().collect();
        equal(&format!("{name} {rtype}"), &found, &expected.iter().map(|&data| data.to_owned()).collect())
    }
}

/// Checks the addresses of a name at another server.
pub fn resolves(server: &Server, kubelet: &Kubelet, name: &str, pods: &[&str]) -> Fact {
    let namespace = name.rsplit('.').next().unwrap();
    let mut expected = BTreeSet::new();
    for pod in pods {
        let addresses = kubelet.addresses(namespace, pod);
        if addresses.is_empty() {
            return Err(format!("{pod} has no address"));
        }
        expected.extend(addresses.iter().map(ToString::to_string));
    }
    let found = ["A", "AAAA"].map(|rtype| server.data(&full(name), rtype)).concat();
    equal(name, &found.into_iter().collect(), &expected)
}

/// The rcode for the name's addresses, of which there are none.
pub fn has_rcode(server: &Server, name: &str, expected: &str) -> Fact {
    for rtype in ["A", "AAAA"] {
        let answer = server.ask(&full(name), rtype);
        if answer.rcode.as_deref() != Some(expected) || !answer.records.is_empty() {
            return Err(format!("{name} {rtype}: expected {expected}, answered {answer}"));
        }
    }
    Ok(())
}

fn equal<T: std::fmt::Debug + PartialEq>(what: &str, found: &T, expected: &T) -> Fact {
    if found == expected { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}")) }
}

/// `web-0.web.default` in its zone.
fn full(name: &str) -> String {
    if name.ends_with(".arpa") { name.to_owned() } else { format!("{name}.svc.cluster.local") }
}

/// The name that an address points back from.
pub fn reverse(address: std::net::IpAddr) -> String {
    headless_dns_core::name::reverse::reverse_name(address).without_final_dot()
}
