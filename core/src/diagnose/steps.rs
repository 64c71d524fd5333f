//! Trace of the decision on a name: the checks from the zone to the records, each with its result.
//!
//! A name that resolves passes all checks; a name that does not fails at least one. A step describes the present state of
//! an object. Not here: the cause of a failed check ([`explain`](super::explain)).

use std::net::IpAddr;

use super::detector::{common_contradiction, common_template_mismatch};
use super::finding::{LabelMismatch, SelectorMismatch};
use super::fix::pairs;
use super::label::{is_object_named, label_text, service_ref};
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
pub fn steps(view: &DiagnosticsView<'_>, asked: &DiagnosedQuery<'_>, zone: Option<&WireName>) -> Vec<TraceStep> {
    let mut walk = Trace { view, asked, steps: Vec::new() };
    walk.trace(zone);
    walk.steps
}

struct Trace<'k> {
    view: &'k DiagnosticsView<'k>,
    asked: &'k DiagnosedQuery<'k>,
    steps: Vec<TraceStep>,
}

impl Trace<'_> {
    fn trace(&mut self, zone: Option<&WireName>) {
        let name = self.asked.name;
        let Some(zone) = zone else {
            let apexes: Vec<String> = self.view.apexes.iter().map(ToString::to_string).collect();
            return self.fail("zone", format!("neither {} nor a reverse zone here is its end", apexes.join(" nor ")));
        };
        self.pass("zone", zone.to_string());
        match self.view.apex_of(name).map(|(_, apex_at)| apex_at) {
            Some(apex_at) => self.trace_forward(apex_at),
            None => self.trace_reverse(),
        }
        let failed = self.steps.iter().any(|step| step.passed == Some(false));
        if self.asked.outcome == ZoneVerdict::NxDomain && !failed {
            self.fail("name", "it has no record, and no name is below it");
        }
        if self.asked.outcome == ZoneVerdict::NoData {
            self.fail("records", format!("the name exists, and has none of type {}", rtype::name(self.asked.qtype)));
        }
    }

    fn trace_forward(&mut self, apex_at: usize) {
        match classify(self.asked.name, apex_at) {
            NameKind::Apex => self.pass("name", "the apex of the zone"),
            NameKind::EmptyNonTerminal => self.pass("name", "part of every zone, with nothing at it"),
            NameKind::NameServer => self.pass("name", "the addresses of the name server"),
            NameKind::Version => self.pass("name", "the version of the Kubernetes DNS specification"),
            NameKind::Invalid => self.check_form(apex_at),
            NameKind::Namespace(namespace) => _ = self.check_namespace(&label_text(namespace)),
            NameKind::PodNamespace(namespace) => _ = self.check_pod_records(&label_text(namespace)),
            NameKind::PodAddress(namespace, label) => self.check_pod_address(&label_text(namespace), label),
            NameKind::Service(key) => self.check_service(&service_ref(key), SubName::Nothing),
            NameKind::Endpoint(key, label) => {
                self.check_service(&service_ref(key), SubName::Endpoint(&label_text(label)));
            }
            NameKind::Protocol(key, protocol) => {
                self.check_service(&service_ref(key), SubName::Port(None, &label_text(protocol)));
            }
            NameKind::Port(key, port, protocol) => {
                self.check_service(
                    &service_ref(key),
                    SubName::Port(Some(&label_text(&port[1..])), &label_text(protocol)),
                );
            }
        }
    }

    /// Adds the step `labels`: the branch, and the number of labels, of a name that no form of the zone has.
    fn check_form(&mut self, apex_at: usize) {
        let branch = label_text(self.asked.name.label(apex_at - 1));
        match branch.as_str() {
            "svc" => {
                let form = "at most 3 are in front of a Service's namespace, two of them with underscores";
                self.fail("labels", format!("{apex_at} in front of the zone: {form}"));
            }
            "pod" => self.fail("labels", format!("{apex_at} in front of the zone: names of Pod addresses have 3")),
            _ => self.fail("labels", format!("{branch} is neither svc nor pod, the branches of the zone")),
        }
    }

    /// Adds the step `namespace`: whether the namespace exists, or an object in it is known. Returns true if the trace
    /// goes on.
    fn check_namespace(&mut self, namespace: &str) -> bool {
        let cluster = self.view.cluster;
        if cluster.namespace_exists(namespace) {
            self.pass("namespace", namespace);
            return true;
        }
        if cluster.knows_namespace(namespace) {
            self.pass("namespace", format!("{namespace}: an object is in it; Namespaces were not read"));
            return true;
        }
        self.fail("namespace", format!("there is no {namespace}"));
        false
    }

    /// Adds the steps of a name at or below a Service, from `namespace` on.
    fn check_service(&mut self, key: &ObjectRef, below: SubName<'_>) {
        if !self.check_namespace(&key.namespace) {
            return;
        }
        let cluster = self.view.cluster;
        let view = cluster.service(key);
        if let SubName::Endpoint(label) = below {
            self.check_stateful_set(key, label);
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
            ServiceKind::ExternalName(target) => self.check_external_name(service, target, below),
            ServiceKind::ClusterIp(addresses) => {
                self.check_cluster_ip(key, addresses);
                match below {
                    SubName::Nothing => {}
                    SubName::Port(port, protocol) => self.check_port(service, &view, port, protocol),
                    SubName::Endpoint(label) => {
                        self.check_selector(service, &view);
                        self.check_slices(&view);
                        self.check_endpoint(service, &view, label);
                    }
                }
            }
            ServiceKind::Headless => {
                self.pass("Service", format!("{key} is headless"));
                self.check_selector(service, &view);
                if !self.check_slices(&view) {
                    return;
                }
                match below {
                    SubName::Nothing => self.check_readiness(service, &view),
                    SubName::Endpoint(label) => self.check_endpoint(service, &view, label),
                    SubName::Port(port, protocol) => {
                        self.check_readiness(service, &view);
                        self.check_port(service, &view, port, protocol);
                    }
                }
            }
        }
    }

    /// Adds the step `Service` of an ExternalName, below which no name exists.
    fn check_external_name(&mut self, service: &Service, target: &str, below: SubName<'_>) {
        let key = &service.key;
        match below {
            SubName::Nothing => self.pass("Service", format!("{key} is an ExternalName for {target}")),
            _ => self.fail("Service", format!("{key} is an ExternalName: nothing is below it")),
        }
    }

    /// Adds the step `Service` of a Service that is not headless: its cluster IPs.
    fn check_cluster_ip(&mut self, key: &ObjectRef, addresses: &[IpAddr]) {
        let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        if list.is_empty() {
            // No failure: names below the Service can exist without a clusterIP.
            self.note("Service", format!("{key} is not headless, and has no clusterIP"));
        } else {
            self.pass("Service", format!("{key} has the clusterIP {}", list.join(" and ")));
        }
    }

    /// Adds the step `StatefulSet` if the label is the name of a known StatefulSet and an ordinal: whether the Service is its
    /// governing Service, and it has the ordinal.
    fn check_stateful_set(&mut self, asked: &ObjectRef, label: &str) {
        let (text, ordinal) = split(label);
        let (Some(name), Some(ordinal)) = (text.strip_suffix('-'), ordinal) else { return };
        let Some(set) = self.view.cluster.stateful_set(&ObjectRef::new(&asked.namespace, name)) else { return };
        let range = set.ordinals();
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
        self.push("StatefulSet", if holds { Some(true) } else { self.failed_unless_exists() }, text);
    }

    /// Adds the step `selector`: whether a governed StatefulSet has Pods with the labels that the Service selects.
    fn check_selector(&mut self, service: &Service, view: &ServiceView<'_>) {
        if service.selector.is_empty() {
            return self.note("selector", "none: no controller writes its slices");
        }
        let pairs = pairs(&service.selector);
        let has = |labels: &[LabelMismatch]| {
            let has = labels.iter().map(|label| match &label.has {
                Some(has) => format!("{}={has}", label.key),
                None => format!("no {}", label.key),
            });
            has.collect::<Vec<_>>().join(", ")
        };
        if let Some(SelectorMismatch { set, labels, .. }) = common_contradiction(service, view) {
            let text = format!("{pairs}, but StatefulSet {set} requires {} of its Pods", has(&labels));
            self.push("selector", self.failed_unless_exists(), text);
        } else if let Some(SelectorMismatch { set, labels, .. }) = common_template_mismatch(service, view) {
            self.note("selector", format!("{pairs}; the Pod template of StatefulSet {set} has {}", has(&labels)));
        } else {
            self.pass("selector", pairs);
        }
    }

    /// Adds the step `slices`: whether the Service's EndpointSlices list an endpoint. Returns true if the trace goes on.
    fn check_slices(&mut self, view: &ServiceView<'_>) -> bool {
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

    /// Adds the step `readiness`: whether an endpoint is ready, or `publishNotReadyAddresses` is set.
    fn check_readiness(&mut self, service: &Service, view: &ServiceView<'_>) {
        let endpoints = || view.slices().flat_map(EndpointSlice::endpoints);
        if service.publish_not_ready {
            return self.pass("readiness", "publishNotReadyAddresses: every endpoint counts");
        }
        if endpoints().any(|endpoint| endpoint.conditions.ready()) {
            return self.pass("readiness", "at least one endpoint is ready");
        }
        // Row N3 of `tests/rows.md`: the Service's name exists while a name below it does.
        let holds = self.asked.outcome != ZoneVerdict::NxDomain && endpoints().any(|row| self.is_served(service, row));
        self.push("readiness", if holds { None } else { Some(false) }, "no endpoint is ready");
    }

    /// Returns whether an endpoint's own name exists (E1 to E4).
    fn is_served(&self, service: &Service, endpoint: Endpoint<'_>) -> bool {
        let conditions = endpoint.conditions;
        service.answers_with(conditions) || self.view.rules.ordinals.keeps(conditions.serving())
    }

    /// Adds the step `endpoint`: whether an endpoint has this label; then `readiness`: whether its name exists.
    fn check_endpoint(&mut self, service: &Service, view: &ServiceView<'_>, label: &str) {
        let spelled = dashed::parse(label.as_bytes());
        let rows = || view.slices().flat_map(EndpointSlice::endpoints);
        let named: Vec<Endpoint<'_>> = rows().filter(|row| self.view.is_called(row, label, spelled)).collect();
        let served = named.iter().find(|row| self.is_served(service, **row));
        let Some(endpoint) = served.or(named.first()) else {
            return self.fail("endpoint", format!("no endpoint has the label {label}"));
        };
        let address = endpoint.address;
        let sentence = match (endpoint.hostname, self.view.label_of(endpoint)) {
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
        self.push("readiness", Some(served.is_some()), self.describe_conditions(service, *endpoint));
    }

    fn describe_conditions(&self, service: &Service, endpoint: Endpoint<'_>) -> String {
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
        } else if !conditions.ready() && self.is_served(service, endpoint) {
            text += &format!("; --ordinals {}: it counts", self.view.rules.ordinals);
        }
        text
    }

    /// Adds the step `port`: whether a port has this name and protocol. A headless Service has the ports of its slices, other
    /// Services have their own.
    fn check_port(&mut self, service: &Service, view: &ServiceView<'_>, port: Option<&str>, protocol: &str) {
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
            (None, Some(port)) => self.fail("port", format!("no port has the name _{port}.{protocol}")),
            (None, None) => self.fail("port", format!("none with a name is below {protocol}")),
        }
    }

    /// Adds the steps `Pod records` (`--pod-records`) and `namespace`. Returns true if the trace goes on.
    fn check_pod_records(&mut self, namespace: &str) -> bool {
        match self.view.rules.pod_records {
            PodRecords::Off => self.fail("Pod records", "off"),
            PodRecords::Insecure => {
                self.pass("Pod records", "insecure: any address");
                return self.check_namespace(namespace);
            }
            PodRecords::Verified => {
                self.pass("Pod records", "verified: addresses of Pods");
                let any = self.view.cluster.pod_addresses(namespace).next().is_some();
                if any {
                    self.pass("namespace", format!("Pods of {namespace} have addresses"));
                    return true;
                }
                self.fail("namespace", format!("no Pod of {namespace} has an address"));
            }
        }
        false
    }

    /// Adds the steps of a name in the `pod` branch, at last `address`: whether a Pod of the namespace has it.
    fn check_pod_address(&mut self, namespace: &str, label: &[u8]) {
        if !self.check_pod_records(namespace) {
            return;
        }
        let Some(address) = dashed::parse(label) else {
            return self.fail("address", format!("{} is no address with dashes", label_text(label)));
        };
        if self.view.rules.pod_records == PodRecords::Insecure {
            return self.pass("address", address.to_string());
        }
        let mut pods = self.view.cluster.pods_of(namespace);
        match pods.find(|(_, pod)| pod.addresses.contains(&address)) {
            Some((name, _)) => self.pass("address", format!("{address} is Pod {namespace}/{name}")),
            None => self.fail("address", format!("{address} is no Pod of {namespace}")),
        }
    }

    /// Adds the step `address` of a reverse name: the Services that have the address, and their endpoints with it.
    fn trace_reverse(&mut self) {
        let exists = self.asked.outcome != ZoneVerdict::NxDomain;
        let Some(address) = reverse::parse_address(self.asked.name) else {
            let text = if exists {
                "part of an address, with names below it"
            } else {
                "no address, or a part of one without names below it"
            };
            return self.push("address", Some(exists), text);
        };
        let cluster = self.view.cluster;
        let own = cluster.services().filter(|service| service.own_addresses().any(|own| own == address));
        let mut names: Vec<String> = own.map(|service| format!("the clusterIP of Service {}", service.key)).collect();
        for service in cluster.services() {
            let view = cluster.service(&service.key);
            for row in view.slices().flat_map(EndpointSlice::endpoints).filter(|row| row.address == address) {
                names.push(format!(
                    "an endpoint of Service {} ({})",
                    service.key,
                    self.describe_conditions(service, row)
                ));
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
    fn failed_unless_exists(&self) -> Option<bool> {
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
