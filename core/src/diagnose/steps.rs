//! Trace of the decision on a name: the checks from the zone to the records, each with its result.
//!
//! A name that resolves passes all checks; a name that does not fails at least one. A step describes the present state of
//! an object. Not here: the cause of a failed check ([`explain`](super::explain)).

use std::net::IpAddr;

use super::detector::{contradiction, is_object_named, object, range_of, template_difference, text};
use super::finding::{LabelMismatch, SelectorMismatch};
use super::fix::pairs;
use super::{DiagnosedQuery, DiagnosticsView, ZoneVerdict};
use crate::cluster::ServiceView;
use crate::name::label_pool::split;
use crate::name::{NameKind, WireName, classify, dashed, reverse};
use crate::naming_rules::PodRecords;
use crate::object::{Conditions, Endpoint, EndpointSlice, ObjectRef, Service, ServiceKind};
use crate::rtype;

/// Step of the decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceStep {
    /// Subject of the check: `Service`, `slices`.
    pub check: &'static str,
    /// True if the check passed, false if it failed; `None` for a note.
    pub passed: Option<bool>,
    /// State that the check found.
    pub text: String,
}

/// Returns the steps from the zone to the records of `asked`. `zone` is the apex of the zone that the name is in, if any.
pub fn steps(known: &DiagnosticsView<'_>, asked: &DiagnosedQuery<'_>, zone: Option<&WireName>) -> Vec<TraceStep> {
    let mut walk = Trace { known, asked, steps: Vec::new() };
    walk.trace(zone);
    walk.steps
}

struct Trace<'k> {
    known: &'k DiagnosticsView<'k>,
    asked: &'k DiagnosedQuery<'k>,
    steps: Vec<TraceStep>,
}

impl Trace<'_> {
    fn trace(&mut self, zone: Option<&WireName>) {
        let name = self.asked.name;
        let Some(zone) = zone else {
            let apexes: Vec<String> = self.known.apexes.iter().map(ToString::to_string).collect();
            return self.fail("zone", format!("neither {} nor a reverse zone here is its end", apexes.join(" nor ")));
        };
        self.pass("zone", zone.to_string());
        match self.known.apex_of(name).map(|(_, apex_at)| apex_at) {
            Some(apex_at) => self.forward(apex_at),
            None => self.reverse(),
        }
        let failed = self.steps.iter().any(|step| step.passed == Some(false));
        if self.asked.outcome == ZoneVerdict::NxDomain && !failed {
            self.fail("name", "nothing stands at it, and nothing below it");
        }
        if self.asked.outcome == ZoneVerdict::NoData {
            self.fail("records", format!("the name exists, and has none of type {}", rtype::name(self.asked.qtype)));
        }
    }

    fn forward(&mut self, apex_at: usize) {
        match classify(self.asked.name, apex_at) {
            NameKind::Apex => self.pass("name", "the apex of the zone"),
            NameKind::EmptyNonTerminal => self.pass("name", "part of every zone, with nothing at it"),
            NameKind::NameServer => self.pass("name", "the addresses of the name server"),
            NameKind::Version => self.pass("name", "the version of the Kubernetes DNS specification"),
            NameKind::Invalid => self.form(apex_at),
            NameKind::Namespace(namespace) => _ = self.namespace(&text(namespace)),
            NameKind::PodNamespace(namespace) => _ = self.pods(&text(namespace)),
            NameKind::PodAddress(namespace, label) => self.pod(&text(namespace), label),
            NameKind::Service(key) => self.below(&object(key), SubName::Nothing),
            NameKind::Endpoint(key, label) => self.below(&object(key), SubName::Endpoint(&text(label))),
            NameKind::Protocol(key, protocol) => self.below(&object(key), SubName::Port(None, &text(protocol))),
            NameKind::Port(key, port, protocol) => {
                self.below(&object(key), SubName::Port(Some(&text(&port[1..])), &text(protocol)));
            }
        }
    }

    fn form(&mut self, apex_at: usize) {
        let branch = text(self.asked.name.label(apex_at - 1));
        match branch.as_str() {
            "svc" => {
                let form = "at most 3 are in front of a Service's namespace, two of them with underscores";
                self.fail("labels", format!("{apex_at} in front of the zone: {form}"));
            }
            "pod" => self.fail("labels", format!("{apex_at} in front of the zone: names of Pod addresses have 3")),
            _ => self.fail("labels", format!("{branch} is neither svc nor pod, the branches of the zone")),
        }
    }

    /// Checks the namespace. Returns true if the trace goes on.
    fn namespace(&mut self, namespace: &str) -> bool {
        let cluster = self.known.cluster;
        if cluster.namespace_exists(namespace) {
            self.pass("namespace", namespace);
            return true;
        }
        if cluster.knows_namespace(namespace) {
            self.pass("namespace", format!("{namespace}: an object stands in it; Namespaces were not read"));
            return true;
        }
        self.fail("namespace", format!("there is no {namespace}"));
        false
    }

    fn below(&mut self, key: &ObjectRef, below: SubName<'_>) {
        if !self.namespace(&key.namespace) {
            return;
        }
        let cluster = self.known.cluster;
        let view = cluster.service(key);
        if let SubName::Endpoint(label) = below {
            self.stateful_set(key, label);
        }
        let Some(service) = view.service else {
            let names: Vec<String> = view.stateful_sets.iter().map(|set| set.key.to_string()).collect();
            let named = match &names[..] {
                [] => String::new(),
                _ => format!(", which StatefulSet {} names", names.join(" and ")),
            };
            return self.fail("Service", format!("there is no {key}{named}"));
        };
        match &service.kind {
            ServiceKind::ExternalName(target) => self.alias(service, target, below),
            ServiceKind::ClusterIp(addresses) => {
                self.cluster_ip(key, addresses);
                match below {
                    SubName::Nothing => {}
                    SubName::Port(port, protocol) => self.port(service, &view, port, protocol),
                    SubName::Endpoint(label) => {
                        self.selector(service, &view);
                        self.slices(&view);
                        self.endpoint(service, &view, label);
                    }
                }
            }
            ServiceKind::Headless => {
                self.pass("Service", format!("{key} is headless"));
                self.selector(service, &view);
                if !self.slices(&view) {
                    return;
                }
                match below {
                    SubName::Nothing => self.ready(service, &view),
                    SubName::Endpoint(label) => self.endpoint(service, &view, label),
                    SubName::Port(port, protocol) => {
                        self.ready(service, &view);
                        self.port(service, &view, port, protocol);
                    }
                }
            }
        }
    }

    fn alias(&mut self, service: &Service, target: &str, below: SubName<'_>) {
        let key = &service.key;
        match below {
            SubName::Nothing => self.pass("Service", format!("{key} is an ExternalName for {target}")),
            _ => self.fail("Service", format!("{key} is an ExternalName: nothing is below it")),
        }
    }

    fn cluster_ip(&mut self, key: &ObjectRef, addresses: &[IpAddr]) {
        let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        if list.is_empty() {
            // No failure: names below the Service can exist without a clusterIP.
            self.note("Service", format!("{key} is not headless, and has no clusterIP"));
        } else {
            self.pass("Service", format!("{key} has the clusterIP {}", list.join(" and ")));
        }
    }

    /// Checks the StatefulSet, if the label has the form of its Pods' names.
    fn stateful_set(&mut self, asked: &ObjectRef, label: &str) {
        let (text, ordinal) = split(label);
        let (Some(name), Some(ordinal)) = (text.strip_suffix('-'), ordinal) else { return };
        let Some(set) = self.known.cluster.stateful_set(&ObjectRef::new(&asked.namespace, name)) else { return };
        let range = range_of(set);
        let mut text = if range.is_empty() {
            format!("{} has no replicas", set.key)
        } else {
            format!("{} has the ordinals {} to {}", set.key, range.start, range.end - 1)
        };
        let governs = set.service_name == asked.name;
        if !governs {
            text +=
                &format!(", below Service {}", Some(&*set.service_name).filter(|n| !n.is_empty()).unwrap_or("(none)"));
        }
        // No failure if the name exists: a slice can list it without the StatefulSet.
        let holds = governs && range.contains(&ordinal);
        self.push("StatefulSet", if holds { Some(true) } else { self.failed() }, text);
    }

    fn selector(&mut self, service: &Service, view: &ServiceView<'_>) {
        if service.selector.is_empty() {
            return self.note("selector", "none: its slices are somebody else's matter");
        }
        let pairs = pairs(&service.selector);
        let has = |labels: &[LabelMismatch]| {
            let has = labels.iter().map(|label| match &label.has {
                Some(has) => format!("{}={has}", label.key),
                None => format!("no {}", label.key),
            });
            has.collect::<Vec<_>>().join(", ")
        };
        if let Some(SelectorMismatch { set, labels, .. }) = contradiction(service, view) {
            let text = format!("{pairs}, but StatefulSet {set} requires {} of its Pods", has(&labels));
            self.push("selector", self.failed(), text);
        } else if let Some(SelectorMismatch { set, labels, .. }) = template_difference(service, view) {
            self.note("selector", format!("{pairs}; the Pod template of StatefulSet {set} has {}", has(&labels)));
        } else {
            self.pass("selector", pairs);
        }
    }

    /// Checks the slices. Returns true if the trace goes on.
    fn slices(&mut self, view: &ServiceView<'_>) -> bool {
        let (slices, names) = (view.slices().count(), view.slices().filter(|slice| slice.fqdn).count());
        let all: Vec<Conditions> = view.slices().flat_map(EndpointSlice::endpoints).map(|row| row.conditions).collect();
        let count = |is: fn(Conditions) -> bool| all.iter().filter(|conditions| is(**conditions)).count();
        let mut text = format!("{slices} with {} endpoints", all.len());
        if !all.is_empty() {
            let [ready, serving] = [Conditions::ready, Conditions::serving].map(count);
            text += &format!(": {ready} ready, {serving} serving, {} terminating", count(Conditions::terminating));
        }
        if names > 0 {
            text += &format!("; {names} of addressType FQDN");
        }
        self.push("slices", Some(!all.is_empty()), text);
        !all.is_empty()
    }

    /// Checks whether any endpoint counts for the Service's name.
    fn ready(&mut self, service: &Service, view: &ServiceView<'_>) {
        let endpoints = || view.slices().flat_map(EndpointSlice::endpoints);
        if service.publish_not_ready {
            return self.pass("readiness", "publishNotReadyAddresses: every endpoint counts");
        }
        if endpoints().any(|endpoint| endpoint.conditions.ready()) {
            return self.pass("readiness", "at least one endpoint is ready");
        }
        // Row N3 of `tests/rows.md`: the Service's name exists while a name below it does.
        let holds = self.asked.outcome != ZoneVerdict::NxDomain && endpoints().any(|row| self.served(service, row));
        self.push("readiness", if holds { None } else { Some(false) }, "no endpoint is ready");
    }

    /// Returns whether an endpoint's own name exists (E1 to E4).
    fn served(&self, service: &Service, endpoint: Endpoint<'_>) -> bool {
        let conditions = endpoint.conditions;
        service.answers_with(conditions) || self.known.rules.ordinals.keeps(conditions.serving())
    }

    fn endpoint(&mut self, service: &Service, view: &ServiceView<'_>, label: &str) {
        let spelled = dashed::parse(label.as_bytes());
        let rows = || view.slices().flat_map(EndpointSlice::endpoints);
        let named: Vec<Endpoint<'_>> = rows().filter(|row| self.known.is_called(row, label, spelled)).collect();
        let served = named.iter().find(|row| self.served(service, **row));
        let Some(endpoint) = served.or(named.first()) else {
            return self.fail("endpoint", format!("none is called {label}"));
        };
        let address = endpoint.address;
        let sentence = match (endpoint.hostname, self.known.label_of(endpoint)) {
            (Some(hostname), _) => format!("{address} has the hostname {hostname}"),
            (None, None) => format!("{address} has no hostname: its address is its name"),
            (None, Some(pod)) if is_object_named(pod, label) => {
                format!("{address} has no hostname: its Pod's name {pod} is its name")
            }
            (None, Some(pod)) => {
                format!("{address} has no hostname: its Pod's name {pod} is its name, its address an alias")
            }
        };
        self.pass("endpoint", sentence);
        self.push("readiness", Some(served.is_some()), self.state(service, *endpoint));
    }

    fn state(&self, service: &Service, endpoint: Endpoint<'_>) -> String {
        let conditions = endpoint.conditions;
        let yes_no = |is: bool| if is { "yes" } else { "no" };
        let mut text = format!(
            "ready: {}, serving: {}, terminating: {}",
            yes_no(conditions.ready()),
            yes_no(conditions.serving()),
            yes_no(conditions.terminating())
        );
        if !conditions.ready() && service.publish_not_ready {
            text += "; publishNotReadyAddresses: it counts";
        } else if !conditions.ready() && self.served(service, endpoint) {
            text += &format!("; --endpoint-names {}: it counts", self.known.rules.ordinals);
        }
        text
    }

    /// Checks the port: a headless Service has the ports of its slices, other Services have their own.
    fn port(&mut self, service: &Service, view: &ServiceView<'_>, port: Option<&str>, protocol: &str) {
        let fits = |name: &str, of: &str| !name.is_empty() && of == protocol && port.is_none_or(|port| name == port);
        let found = match service.kind {
            ServiceKind::Headless => view
                .slices()
                .filter(|slice| slice.endpoints().any(|row| service.answers_with(row.conditions)))
                .flat_map(|slice| slice.ports.iter())
                .find(|own| fits(&own.name, own.protocol.label()))
                .map(|own| own.number),
            _ => service.ports.iter().find(|own| fits(&own.name, own.protocol.label())).map(|own| own.number),
        };
        match (found, port) {
            (Some(number), Some(port)) => self.pass("port", format!("_{port}.{protocol} is {number}")),
            (Some(_), None) => self.pass("port", format!("there are ports below {protocol}")),
            (None, Some(port)) => self.fail("port", format!("none is called _{port}.{protocol}")),
            (None, None) => self.fail("port", format!("none with a name is below {protocol}")),
        }
    }

    /// Checks Pod records and the namespace of a Pod. Returns true if the trace goes on.
    fn pods(&mut self, namespace: &str) -> bool {
        match self.known.rules.pod_records {
            PodRecords::Off => self.fail("Pod records", "off"),
            PodRecords::Insecure => {
                self.pass("Pod records", "insecure: any address");
                return self.namespace(namespace);
            }
            PodRecords::Verified => {
                self.pass("Pod records", "verified: addresses of Pods");
                let any = self.known.cluster.pod_addresses(namespace).next().is_some();
                if any {
                    self.pass("namespace", format!("Pods of {namespace} have addresses"));
                    return true;
                }
                self.fail("namespace", format!("no Pod of {namespace} has an address"));
            }
        }
        false
    }

    fn pod(&mut self, namespace: &str, label: &[u8]) {
        if !self.pods(namespace) {
            return;
        }
        let Some(address) = dashed::parse(label) else {
            return self.fail("address", format!("{} spells none", text(label)));
        };
        if self.known.rules.pod_records == PodRecords::Insecure {
            return self.pass("address", address.to_string());
        }
        let mut pods = self.known.cluster.pods_of(namespace);
        match pods.find(|(_, pod)| pod.addresses.contains(&address)) {
            Some((name, _)) => self.pass("address", format!("{address} is Pod {namespace}/{name}")),
            None => self.fail("address", format!("{address} is no Pod of {namespace}")),
        }
    }

    fn reverse(&mut self) {
        let exists = self.asked.outcome != ZoneVerdict::NxDomain;
        let Some(address) = reverse::parse_address(self.asked.name) else {
            let text = if exists {
                "a part of one, which names are below"
            } else {
                "none is spelled, or none below has a name"
            };
            return self.push("address", Some(exists), text);
        };
        let cluster = self.known.cluster;
        let own = cluster.services().filter(|service| service.own_addresses().any(|own| own == address));
        let mut names: Vec<String> = own.map(|service| format!("the clusterIP of Service {}", service.key)).collect();
        for service in cluster.services() {
            let view = cluster.service(&service.key);
            for row in view.slices().flat_map(EndpointSlice::endpoints).filter(|row| row.address == address) {
                names.push(format!("an endpoint of Service {} ({})", service.key, self.state(service, row)));
            }
        }
        names.sort();
        names.dedup();
        names.truncate(5);
        let text = if names.is_empty() { "nothing here has it".to_owned() } else { names.join("; ") };
        self.push("address", Some(exists), format!("{address}: {text}"));
    }

    fn pass(&mut self, what: &'static str, text: impl Into<String>) {
        self.push(what, Some(true), text);
    }

    fn fail(&mut self, what: &'static str, text: impl Into<String>) {
        self.push(what, Some(false), text);
    }

    fn note(&mut self, what: &'static str, text: impl Into<String>) {
        self.push(what, None, text);
    }

    fn push(&mut self, what: &'static str, holds: Option<bool>, text: impl Into<String>) {
        self.steps.push(TraceStep { check: what, passed: holds, text: text.into() });
    }

    /// Returns the result of a failed check: a note if the name exists in spite of it.
    fn failed(&self) -> Option<bool> {
        if self.asked.outcome == ZoneVerdict::NxDomain { Some(false) } else { None }
    }
}

/// Part of a Service's name space that a name is in.
#[derive(Clone, Copy)]
enum SubName<'q> {
    Nothing,
    Endpoint(&'q str),
    /// A port without its underscore, and a protocol with its underscore.
    Port(Option<&'q str>, &'q str),
}
