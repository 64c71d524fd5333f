//! Detection of findings: question and cluster in, findings out.
//!
//! Every finding is true of the cluster that it was made from. [`SearchDepth::Exact`] is for responses to clients: exact
//! look-ups, and at most [`MAX_EXACT_ENDPOINTS`] endpoints of a Service, so that a flood of such queries costs little. [`SearchDepth::Search`]
//! is for people: it searches all objects, and guesses at the intended name. Not here: the texts and fixes of findings
//! (`finding.rs`).

use std::net::IpAddr;

use strsim::levenshtein;

use super::catalog::Needs;
use super::finding::{Candidates, Finding, LabelMismatch, MAX_NAMES, SelectorMismatch, dashed};
use super::{DiagnosedQuery, DiagnosticsView, SearchDepth, ZoneVerdict};
use crate::cluster::{Resource, ServiceView};
use crate::name::label_pool::{Label, split};
use crate::name::{
    MAX_CHAIN, NameKind, QueryName, ServiceKey, WireName, classify, dashed as spelled, is_address, is_label, reverse,
    service_key, wire_labels, write_label,
};
use crate::naming_rules::PodRecords;
use crate::object::{
    AddressFamily, Endpoint, EndpointPort, EndpointSlice, Labels, ObjectRef, Protocol, Service, ServiceKind,
    ServicePort, StatefulSet, TargetPort,
};
use crate::records::Absence;
use crate::rtype;

/// Maximum number of endpoints of a Service that a search for a response examines.
pub const MAX_EXACT_ENDPOINTS: usize = 256;
/// Maximum number of objects that a finding lists.
const MAX_LISTED: usize = 3;

/// Returns the findings about `asked`, sorted by rank, without those that another finding explains.
pub(super) fn find(known: &DiagnosticsView<'_>, asked: &DiagnosedQuery<'_>, effort: SearchDepth) -> Vec<Finding> {
    let mut finder = Detector { view: known, query: asked, depth: effort, findings: Vec::new() };
    finder.detect();
    let mut findings = finder.findings;
    if known.extent.selected {
        findings.retain(|finding| !finding.needs(Needs::EveryService));
    }
    findings.sort_by_key(Finding::rank);
    findings.dedup();
    without_consequences(findings)
}

/// Removes findings that a finding of lower rank explains.
fn without_consequences(findings: Vec<Finding>) -> Vec<Finding> {
    let explained =
        |finding: &Finding| findings.iter().any(|other| other.rank() < finding.rank() && other.explains(finding));
    let alone: Vec<bool> = findings.iter().map(|finding| !explained(finding)).collect();
    findings.into_iter().zip(alone).filter_map(|(finding, alone)| alone.then_some(finding)).collect()
}

pub(super) struct Detector<'k> {
    pub(super) view: &'k DiagnosticsView<'k>,
    pub(super) query: &'k DiagnosedQuery<'k>,
    pub(super) depth: SearchDepth,
    pub(super) findings: Vec<Finding>,
}

impl<'k> Detector<'k> {
    fn detect(&mut self) {
        let name = self.query.name;
        match (self.view.apex_of(name), self.query.outcome) {
            (Some((apex, apex_at)), outcome) => self.detect_forward(apex, apex_at, outcome),
            (None, ZoneVerdict::NotInZone) => {
                self.add(Finding::OutsideZones);
                self.mistyped_suffix();
            }
            (None, ZoneVerdict::NxDomain) => self.reverse(),
            (None, _) => {}
        }
    }

    fn detect_forward(&mut self, apex: &WireName, apex_at: usize, outcome: ZoneVerdict) {
        let name = self.query.name;
        if outcome == ZoneVerdict::NxDomain && (0..apex_at).any(|label| name.label(label) == b"*") {
            self.add(Finding::Wildcard);
        }
        match (classify(name, apex_at), outcome) {
            (NameKind::Service(key), ZoneVerdict::NxDomain) => self.no_service_name(&object(key)),
            (NameKind::Service(key), _) => self.at_service(&object(key), outcome),
            (NameKind::Endpoint(key, label), ZoneVerdict::NxDomain) => self.no_endpoint(&object(key), &text(label)),
            (NameKind::Endpoint(key, label), _) => self.at_endpoint(&object(key), &text(label)),
            (NameKind::Port(key, port, protocol), ZoneVerdict::NxDomain) => {
                self.no_port(&object(key), Some(&text(&port[1..])), &text(protocol));
            }
            (NameKind::Protocol(key, protocol), ZoneVerdict::NxDomain) => {
                self.no_port(&object(key), None, &text(protocol));
            }
            (NameKind::Namespace(namespace), ZoneVerdict::NxDomain) => {
                self.namespace_forgotten(&[text(namespace)]);
                self.no_namespace(&text(namespace), None);
            }
            (NameKind::PodAddress(namespace, label), ZoneVerdict::NxDomain) => self.no_pod(&text(namespace), label),
            (NameKind::PodNamespace(_), ZoneVerdict::NxDomain) if self.view.rules.pod_records == PodRecords::Off => {
                self.add(Finding::PodRecordsOff);
            }
            (NameKind::PodNamespace(namespace), ZoneVerdict::NxDomain) => self.no_namespace(&text(namespace), None),
            (NameKind::Invalid, ZoneVerdict::NxDomain) => self.no_form(apex, apex_at),
            _ => {}
        }
        self.terminating_namespace(&classify(name, apex_at), outcome);
    }

    fn terminating_namespace(&mut self, kind: &NameKind<'_>, outcome: ZoneVerdict) {
        let Some(namespace) = kind.namespace().map(text) else { return };
        if self.searches() && self.view.cluster.is_terminating(&namespace) {
            let resolves = outcome != ZoneVerdict::NxDomain;
            self.add(Finding::NamespaceTerminating { namespace: namespace.into(), resolves });
        }
    }

    fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn searches(&self) -> bool {
        self.depth == SearchDepth::Search
    }

    /// Returns the maximum number of endpoints to examine.
    fn bounded_endpoints(&self) -> usize {
        if self.searches() { usize::MAX } else { MAX_EXACT_ENDPOINTS }
    }

    pub(super) fn exists(&self, service: &ObjectRef) -> bool {
        self.view.cluster.service(service).service.is_some()
    }

    // Names of no valid form.

    fn no_form(&mut self, apex: &WireName, apex_at: usize) {
        if let Some(finding) = self.second_zone(apex, apex_at) {
            return self.add(finding);
        }
        let label = |back: usize| text(self.query.name.label(apex_at - back));
        let finding = match (&*label(1), apex_at) {
            ("svc", 5 | 6) => self.port_form(apex, apex_at),
            // `web-0.web.default.pod.Z`.
            ("pod", _) => {
                let front: Vec<String> = (3..=apex_at).rev().map(label).collect();
                let service = ObjectRef::new(&label(2), &label(3));
                let meant = self.name_at(&service, &front[..front.len() - 1]).filter(|_| self.searches());
                Some(Finding::PodNotAddress { label: front.join(".").into(), meant })
            }
            // `web.default.Z` and `web-0.web.default.Z`.
            (_, 2 | 3) => self.without_svc(apex, self.query.name, apex_at),
            _ => None,
        };
        match finding {
            Some(finding) => self.add(finding),
            None if !self.searches() => {}
            None if matches!(&*label(1), "svc" | "pod") => self.add(Finding::TooManyLabels),
            None => {
                let front: Vec<String> = (1..=apex_at).rev().map(label).collect();
                self.add(Finding::NoBranch { label: label(1).into() });
                self.namespace_forgotten(&front);
            }
        }
    }

    /// Detects a missing `svc` label in `web.default.Z` or `web-0.web.default.Z`, if the Service exists.
    fn without_svc(&self, apex: &WireName, name: &QueryName, apex_at: usize) -> Option<Finding> {
        let label = |back: usize| text(name.label(apex_at - back));
        let service = ObjectRef::new(&label(1), &label(2));
        let key = service_key(&service.namespace, &service.name).filter(|_| self.exists(&service))?;
        let front: Vec<&[u8]> = (0..apex_at - 2).map(|index| name.label(index)).collect();
        let meant = apex.for_service(ServiceKey(&key), &front)?;
        let front: Vec<String> = front.iter().map(|label| text(label)).collect();
        let resolves = self.recommends(&service, &front);
        Some(Finding::NoSvcLabel { service, meant, resolves })
    }

    /// Detects `_http._tcp.web-0.web.default.svc.Z` and `http.tcp.web.default.svc.Z`.
    fn port_form(&self, apex: &WireName, apex_at: usize) -> Option<Finding> {
        let name = self.query.name;
        let label = |back: usize| text(name.label(apex_at - back));
        let service = ObjectRef::new(&label(2), &label(3));
        let key = service_key(&service.namespace, &service.name).filter(|_| self.exists(&service))?;
        let underscored = |index: usize| name.label(index).starts_with(b"_");
        if apex_at == 6 {
            let of_pod = underscored(0) && underscored(1) && !underscored(2);
            let meant = apex.for_service(ServiceKey(&key), &[name.label(2)]).filter(|_| of_pod)?;
            let resolves = self.recommends(&service, &[label(4)]) && self.has_ports(&service, &label(4));
            return Some(Finding::PortOfPod { meant, resolves });
        }
        let with = |index: usize| format!("_{}", text(name.label(index)).trim_start_matches('_'));
        let (port, protocol) = (with(0), with(1));
        if !self.resolves(&service, &[port.clone(), protocol.clone()]) {
            return None;
        }
        let meant = apex.for_service(ServiceKey(&key), &[port.as_bytes(), protocol.as_bytes()])?;
        Some(Finding::NoUnderscore { service, meant })
    }

    /// Detects `X.Z.anything.Z`: `X.Z` with a search list applied. For a response, only if X is the name of a Service or
    /// below it.
    fn second_zone(&self, apex: &WireName, apex_at: usize) -> Option<Finding> {
        let name = self.query.name;
        let zone: Vec<&[u8]> = wire_labels(apex.octets()).collect();
        let is_zone = |at: &usize| zone.iter().enumerate().all(|(index, label)| name.label(at + index) == *label);
        let at = (1..=apex_at.checked_sub(zone.len())?).find(is_zone)?;
        let inner = WireName::parse(&self.inner_text(at, apex)).ok()?;
        let mut query = QueryName::default();
        query.set(&inner);
        let (exists, resolves) = match classify(&query, at) {
            NameKind::Service(key) | NameKind::Endpoint(key, _) | NameKind::Port(key, ..) => {
                let front: Vec<String> = (0..at - 3).map(|index| text(query.label(index))).collect();
                let key = object(key);
                if self.view.cluster.service(&key).slices().map(EndpointSlice::len).sum::<usize>()
                    > self.bounded_endpoints()
                {
                    return None;
                }
                (self.exists(&key), self.resolves(&key, &front))
            }
            NameKind::Invalid if at == 2 || at == 3 => match self.without_svc(apex, &query, at) {
                Some(finding) if self.searches() => return Some(finding),
                _ => (false, false),
            },
            NameKind::Invalid => (false, false),
            _ => (false, self.searches()),
        };
        (exists || self.searches()).then_some(Finding::SuffixTwice { meant: inner, resolves })
    }

    fn inner_text(&self, labels: usize, apex: &WireName) -> String {
        let labels: Vec<String> = (0..labels).map(|index| text(self.query.name.label(index))).collect();
        format!("{}.{apex}", labels.join("."))
    }

    // Namespaces and Services.

    fn no_namespace(&mut self, namespace: &str, service: Option<&str>) {
        if !self.searches() || self.view.cluster.knows_namespace(namespace) {
            return;
        }
        let declared = self.view.cluster.declares_namespaces();
        let is_near = |key: &ObjectRef| levenshtein(&key.namespace, namespace) <= 2 && namespace.len() > 2;
        let near = service.map(|service| self.services_with_name(service, is_near));
        let elsewhere = near.filter(|near| near.total > 0).or_else(|| Some(self.services_named(service?)));
        let elsewhere = elsewhere.unwrap_or_default();
        let meant = elsewhere.only().and_then(|only| self.name_instead(only));
        self.add(Finding::NoNamespace { namespace: namespace.into(), declared, elsewhere, meant });
    }

    /// Detects a missing namespace: the labels are those of a Service's name, or of a name below it.
    fn namespace_forgotten(&mut self, front: &[String]) {
        let Some((service, front)) = front.split_last().filter(|(_, front)| self.searches() && front.len() < 3) else {
            return;
        };
        let candidates = self.services_with_name(service, |key| front.is_empty() || self.resolves(key, front));
        if candidates.total > 0 {
            let meant = candidates.only().and_then(|only| self.name_at(only, front));
            self.add(Finding::NamespaceForgotten { service: service.as_str().into(), candidates, meant });
        }
    }

    /// Detects a Service's name with a wrong zone, or none, at its end.
    fn mistyped_suffix(&mut self) {
        let name = self.query.name;
        let labels: Vec<String> = (0..name.labels()).map(|index| text(name.label(index))).collect();
        let svc = labels.iter().rposition(|label| label == "svc");
        let end = svc.unwrap_or(labels.len());
        let Some(apex) = self.view.apexes.first().filter(|_| self.searches() && end >= 2) else { return };
        let service = ObjectRef::new(&labels[end - 1], &labels[end - 2]);
        let Some(key) = service_key(&service.namespace, &service.name).filter(|_| self.exists(&service)) else {
            return;
        };
        let front: Vec<&[u8]> = (0..end - 2).map(|index| name.label(index)).collect();
        if let Some(meant) = apex.for_service(ServiceKey(&key), &front) {
            let resolves = self.resolves(&service, &labels[..end - 2]);
            self.add(Finding::SuffixMistyped { service, meant, resolves });
        }
    }

    /// Returns the Services of this name, sorted by namespace.
    fn services_named(&self, name: &str) -> Candidates {
        self.services_with_name(name, |_| true)
    }

    fn services_with_name(&self, name: &str, such: impl Fn(&ObjectRef) -> bool) -> Candidates {
        let named = self.view.cluster.services().map(|service| &service.key);
        candidates(named.filter(|key| *key.name == *name && such(key)).cloned())
    }

    /// Returns QNAME with another Service and namespace, if that name resolves: `web-0.web.shop.svc`.
    fn name_instead(&self, service: &ObjectRef) -> Option<Box<str>> {
        let (_, apex_at) = self.view.apex_of(self.query.name)?;
        let front: Vec<String> = (0..apex_at.checked_sub(3)?).map(|index| text(self.query.name.label(index))).collect();
        self.name_at(service, &front)
    }

    /// Returns the name of these labels below a Service, if it resolves.
    fn name_at(&self, service: &ObjectRef, front: &[String]) -> Option<Box<str>> {
        let front_text: String = front.iter().map(|label| format!("{label}.")).collect();
        let name = format!("{front_text}{}.{}.svc", service.name, service.namespace);
        self.resolves(service, front).then(|| name.into())
    }

    /// Returns whether a fix can recommend the name of these labels below a Service. Responses carry no fix, so a search for
    /// one never does.
    fn recommends(&self, service: &ObjectRef, front: &[String]) -> bool {
        self.searches() && self.resolves(service, front)
    }

    /// Returns whether the name of these labels below a Service resolves.
    fn resolves(&self, key: &ObjectRef, front: &[String]) -> bool {
        let view = self.view.cluster.service(key);
        let Some(service) = view.service else { return false };
        let mut rows = view.slices().flat_map(EndpointSlice::endpoints);
        match (front, &service.kind) {
            ([], ServiceKind::ExternalName(target)) => !is_address(target) && WireName::parse(target).is_ok(),
            (_, ServiceKind::ExternalName(_)) => false,
            ([], ServiceKind::ClusterIp(addresses)) => !addresses.is_empty(),
            ([], ServiceKind::Headless) => rows.any(|row| service.answers_with(row.conditions)),
            ([label], _) if !label.starts_with('_') => rows.any(|row| self.is_named(service, &row, label)),
            (_, ServiceKind::ClusterIp(addresses)) if addresses.is_empty() => false,
            ([port, protocol], _) => served_ports(service, &view)
                .iter()
                .any(|(name, of, _)| Some(&**name) == port.strip_prefix('_') && of.label() == protocol),
            _ => false,
        }
    }

    /// Returns whether an endpoint has this label as its name below the Service.
    fn is_named(&self, service: &Service, row: &Endpoint<'_>, label: &str) -> bool {
        let serves = service.answers_with(row.conditions) || self.view.rules.ordinals.keeps(row.conditions.serving());
        serves && self.view.is_called(row, label, spelled::parse(label.as_bytes()))
    }

    /// Returns whether there are SRV records at the name of an endpoint, which resolves.
    fn has_ports(&self, key: &ObjectRef, label: &str) -> bool {
        let view = self.view.cluster.service(key);
        let Some(service) = view.service else { return false };
        let slices = view.slices().filter(|slice| !slice.ports.is_empty());
        slices.flat_map(EndpointSlice::endpoints).any(|row| self.is_named(service, &row, label))
    }

    /// Detects the causes of NXDOMAIN at a Service's name.
    fn no_service_name(&mut self, key: &ObjectRef) {
        let view = self.view.cluster.service(key);
        match view.service {
            Some(service) => self.no_addresses(service, &view),
            None => {
                self.governing_missing(&view);
                self.pod_as_service(key);
                if !self.view.cluster.knows_namespace(&key.namespace) {
                    self.namespace_forgotten(&[key.name.to_string(), key.namespace.to_string()]);
                }
                self.missing_service(key);
            }
        }
    }

    /// Reports a missing Service, and guesses at the intended one.
    fn missing_service(&mut self, key: &ObjectRef) {
        if !self.searches() {
            return;
        }
        let swapped = ObjectRef::new(&key.name, &key.namespace);
        if self.exists(&swapped) {
            let meant = self.name_instead(&swapped);
            self.add(Finding::Swapped { service: swapped, meant });
        }
        self.no_namespace(&key.namespace, Some(&key.name));
        if !self.view.cluster.knows_namespace(&key.namespace) {
            return;
        }
        let elsewhere = self.services_named(&key.name);
        let mut near: Vec<(usize, &str)> = self
            .view
            .cluster
            .services()
            .filter(|service| service.key.namespace == key.namespace)
            .map(|service| (levenshtein(&service.key.name, &key.name), &*service.key.name))
            .filter(|(distance, name)| *distance <= 2 && *distance < name.len())
            .collect();
        near.sort_unstable();
        near.truncate(MAX_LISTED);
        let near: Vec<Box<str>> = near.into_iter().map(|(_, name)| name.into()).collect();
        let meant = match &near[..] {
            [near] => self.name_instead(&ObjectRef::new(&key.namespace, near)),
            _ => None,
        };
        self.add(Finding::NoService { service: key.clone(), near, meant });
        if elsewhere.total > 0 {
            let meant = elsewhere.only().and_then(|only| self.name_instead(only));
            self.add(Finding::OtherNamespace { service: key.clone(), elsewhere, meant });
        }
    }

    /// Detects a Pod's name in place of a Service's: an ordinal of a StatefulSet, or a hostname in a slice.
    fn pod_as_service(&mut self, key: &ObjectRef) {
        if let Some((set, ordinal)) = self.set_of(&key.namespace, &key.name) {
            let governing = ObjectRef::new(&key.namespace, &set.service_name);
            if set.service_name.is_empty() && range_of(set).contains(&ordinal) {
                self.add(Finding::NoServiceName { set: set.key.clone() });
            } else if set.service_name.is_empty() {
                self.add(out_of_range(set, ordinal, None, false));
            } else if !self.exists(&governing) {
                self.add_governing_missing(set);
            } else if range_of(set).contains(&ordinal) {
                let resolves = self.recommends(&governing, &[key.name.to_string()]);
                self.add(Finding::PodAsService { pod: key.clone(), service: set.service_name.clone(), resolves });
            } else {
                self.add(out_of_range(set, ordinal, Some(set.service_name.clone()), false));
            }
            return;
        }
        if !self.searches() {
            return;
        }
        let holds = |slice: &&EndpointSlice| {
            slice.key.namespace == key.namespace
                && slice.endpoints().any(|endpoint| {
                    self.view.label_of(&endpoint).is_some_and(|label| is_object_named(label, &key.name))
                })
        };
        let services = self.view.cluster.slices().filter(holds).filter_map(|slice| slice.service.clone());
        let exists = |service: &str| self.exists(&ObjectRef::new(&key.namespace, service));
        for service in top_n(services.filter(|service| exists(service)), MAX_LISTED) {
            let resolves = self.recommends(&ObjectRef::new(&key.namespace, &service), &[key.name.to_string()]);
            self.add(Finding::PodAsService { pod: key.clone(), service, resolves });
        }
    }

    /// Returns the StatefulSet and the ordinal, if the label has the form of a Pod's name of an existing StatefulSet.
    fn set_of(&self, namespace: &str, label: &str) -> Option<(&'k StatefulSet, u32)> {
        let (text, ordinal) = split(label);
        let set = self.view.cluster.stateful_set(&ObjectRef::new(namespace, text.strip_suffix('-')?))?;
        Some((set, ordinal?))
    }

    fn governing_missing(&mut self, view: &ServiceView<'_>) {
        if view.service.is_none() && !view.key.name.is_empty() {
            for set in &view.stateful_sets {
                self.add_governing_missing(set);
            }
        }
    }

    pub(super) fn add_governing_missing(&mut self, set: &StatefulSet) {
        let selects = |service: &&Service| {
            service.key.namespace == set.key.namespace
                && !service.selector.is_empty()
                && satisfies(required_labels(set), &service.selector)
        };
        let cluster = self.view.cluster;
        let not_many = cluster.count(Resource::Services) <= self.bounded_endpoints();
        let services = cluster.services().filter(|_| not_many).filter(selects);
        let selecting = top_n(services.map(|service| service.key.name.clone()), MAX_LISTED);
        self.add(Finding::GoverningMissing {
            set: set.key.clone(),
            service: set.service_name.clone(),
            selecting,
            selector: selector_of(set),
            ports: ports_of(set),
        });
    }

    /// Detects why a headless Service's name has no record: none of its endpoints counts.
    pub(super) fn no_addresses(&mut self, service: &Service, view: &ServiceView<'_>) {
        if service.kind != ServiceKind::Headless {
            return;
        }
        let key = service.key.clone();
        let endpoints: usize = view.slices().map(EndpointSlice::len).sum();
        let mut rows = view.slices().flat_map(EndpointSlice::endpoints).take(self.bounded_endpoints());
        if rows.any(|endpoint| service.answers_with(endpoint.conditions)) {
            return;
        }
        for slice in view.slices().filter(|slice| slice.fqdn) {
            self.add(Finding::FqdnSlice { slice: slice.key.clone() });
        }
        if endpoints > 0 {
            if endpoints <= self.bounded_endpoints() {
                self.add(Finding::NoneReady { service: key, of: endpoints, selector: service.selector.clone() });
            }
        } else if service.selector.is_empty() {
            if view.slices().next().is_none() {
                let unlabelled = self.unlabelled(&key.namespace);
                self.add(Finding::NoSlice { service: key, unlabelled });
            } else if view.slices().all(|slice| !slice.fqdn) {
                self.add(Finding::NoEndpoints { service: key, selector: Labels::default(), differs: None });
            }
        } else if view.slices().all(|slice| !slice.fqdn) {
            self.nothing_selected(service, view);
        }
    }

    /// Reports a Service with a selector, but without any endpoint in its slices.
    fn nothing_selected(&mut self, service: &Service, view: &ServiceView<'_>) {
        let key = service.key.clone();
        let differs = contradiction(service, view);
        let sets = &view.stateful_sets;
        if let Some(set) = sets.first().filter(|_| differs.is_none() && sets.iter().all(|set| set.replicas == 0)) {
            return self.add(Finding::NoReplicas { set: set.key.clone(), service: key });
        }
        if differs.is_none() && self.searches() {
            self.template_differs(service, view);
        }
        self.add(Finding::NoEndpoints { service: key, selector: service.selector.clone(), differs });
    }

    /// Reports selected labels that the Pod templates lack. Only a note, since a controller may set them on the Pods.
    pub(super) fn template_differs(&mut self, service: &Service, view: &ServiceView<'_>) {
        if let Some(differs) = template_difference(service, view) {
            let set = ObjectRef::new(&service.key.namespace, &differs.set);
            self.add(Finding::TemplateDiffers { set, service: service.key.name.clone(), differs });
        }
    }

    fn unlabelled(&self, namespace: &str) -> Vec<Box<str>> {
        if !self.searches() {
            return Vec::new();
        }
        let slices = self.view.cluster.slices();
        let of_nobody = slices.filter(|slice| *slice.key.namespace == *namespace && slice.service.is_none());
        top_n(of_nobody.map(|slice| slice.key.name.clone()), MAX_NAMES + 1)
    }

    /// Detects findings at a Service's name that exists.
    fn at_service(&mut self, key: &ObjectRef, outcome: ZoneVerdict) {
        let view = self.view.cluster.service(key);
        let Some(service) = view.service else { return };
        let asked = self.query.qtype;
        match &service.kind {
            ServiceKind::ExternalName(target) => self.external_name(key, target),
            ServiceKind::ClusterIp(addresses) if addresses.is_empty() => {
                self.add(Finding::NoClusterIp { service: key.clone() });
            }
            _ if outcome == ZoneVerdict::NoData && asked == rtype::SRV => self.no_srv(service, &view),
            ServiceKind::ClusterIp(_) if outcome == ZoneVerdict::NoData => self.no_family(key, None),
            ServiceKind::Headless if outcome == ZoneVerdict::NoData => self.no_family(key, None),
            _ => {}
        }
        if self.searches() && outcome == ZoneVerdict::Found {
            self.additional_findings(service, &view);
            self.nothing_behind(service, &view);
        }
    }

    fn no_srv(&mut self, service: &Service, view: &ServiceView<'_>) {
        let has_ports = match service.kind {
            ServiceKind::Headless => view.slices().any(|slice| !slice.is_empty() && !slice.ports.is_empty()),
            _ => !service.ports.is_empty(),
        };
        if !has_ports {
            self.add(Finding::NoPorts { service: service.key.clone() });
        }
    }

    /// Reports a clusterIP without ready endpoints. If no slice of any Service is known, slices are not read.
    fn nothing_behind(&mut self, service: &Service, view: &ServiceView<'_>) {
        let cluster = self.view.cluster;
        let slices_are_read = cluster.count(Resource::EndpointSlices) + cluster.count(Resource::Endpoints) > 0;
        let mut rows = view.slices().flat_map(EndpointSlice::endpoints);
        let is_selecting_cluster_ip = matches!(service.kind, ServiceKind::ClusterIp(_)) && !service.selector.is_empty();
        if is_selecting_cluster_ip && slices_are_read && !rows.any(|row| service.answers_with(row.conditions)) {
            self.add(Finding::NothingBehind { service: service.key.clone() });
        }
    }

    fn no_family(&mut self, key: &ObjectRef, label: Option<&str>) {
        // AAAA queries for names that have IPv4 addresses only are ordinary traffic: no finding for a response.
        let family = match self.query.qtype {
            rtype::A => AddressFamily::V4,
            rtype::AAAA => AddressFamily::V6,
            _ => return,
        };
        if self.searches() {
            self.add(Finding::NoFamily { service: key.clone(), label: label.map(Into::into), family });
        }
    }

    /// Reports notes about a Service that resolves.
    pub(super) fn additional_findings(&mut self, service: &Service, view: &ServiceView<'_>) {
        if matches!(service.kind, ServiceKind::ClusterIp(_)) {
            for set in &view.stateful_sets {
                let (set, service) = (set.key.clone(), service.key.name.clone());
                self.add(Finding::GoverningNotHeadless { set, service });
            }
        }
        let hidden = |endpoint: Endpoint<'_>| !endpoint.conditions.ready();
        if service.publish_not_ready && view.slices().flat_map(EndpointSlice::endpoints).any(hidden) {
            self.add(Finding::PublishedNotReady { service: service.key.clone() });
        }
    }

    /// Follows an ExternalName through the zone's Services (row N14 of `tests/rows.md`), and reports a bad end.
    pub(super) fn external_name(&mut self, key: &ObjectRef, target: &str) {
        let bad = |value: &str| Finding::BadExternalName { service: key.clone(), value: value.into() };
        if is_address(target) {
            return self.add(bad(target));
        }
        let Ok(mut next) = WireName::parse(target) else { return self.add(bad(target)) };
        let dangling =
            |target: WireName, endpoint: bool| Finding::ExternalNameDangling { service: key.clone(), target, endpoint };
        let mut visited = vec![key.clone()];
        let mut query = QueryName::default();
        loop {
            query.set(&next);
            let Some((_, apex_at)) = self.view.apex_of(&query) else { return self.leads_outside(key, next) };
            let target = match classify(&query, apex_at) {
                NameKind::Service(target) => object(target),
                NameKind::Endpoint(target, label) => {
                    let (target, label) = (object(target), text(label));
                    if self.reads(&target) && self.searches() && !self.resolves(&target, &[label]) {
                        self.add(dangling(next, self.exists(&target)));
                    }
                    return;
                }
                NameKind::Invalid => return self.add(dangling(next, false)),
                _ => return,
            };
            if !self.reads(&target) {
                return;
            }
            if visited.contains(&target) {
                return self.add(Finding::ExternalNameLoop { service: key.clone() });
            }
            if visited.len() > MAX_CHAIN {
                return self.add(Finding::ExternalNameLong { service: key.clone(), most: MAX_CHAIN });
            }
            match self.view.cluster.service(&target).service.map(|service| &service.kind) {
                None => return self.add(dangling(next, false)),
                Some(ServiceKind::ExternalName(further)) => match WireName::parse(further) {
                    Ok(further) => next = further,
                    Err(_) => return,
                },
                Some(_) => return,
            }
            visited.push(target);
        }
    }

    /// Returns whether objects in the namespace of the Service are read.
    fn reads(&self, service: &ObjectRef) -> bool {
        self.view.extent.namespace.as_ref().is_none_or(|only| *only == service.namespace)
    }

    /// Reports an ExternalName with a target in no zone: a name outside the cluster, or one of the cluster without its zone.
    fn leads_outside(&mut self, key: &ObjectRef, target: WireName) {
        if !self.searches() {
            return;
        }
        let labels: Vec<&[u8]> = wire_labels(target.octets()).collect();
        let short: Vec<String> = labels.iter().map(|label| text(label)).collect();
        let (short, is_svc) = match short.split_last() {
            Some((last, rest)) if last == "svc" => (rest, true),
            _ => (&short[..], false),
        };
        let service = match short {
            [service] if !is_svc => ObjectRef::new(&key.namespace, service),
            [.., service, namespace] if is_svc || short.len() == 2 => ObjectRef::new(namespace, service),
            _ => return self.add(Finding::ExternalNameOutside { service: key.clone(), target }),
        };
        let wire_key = service_key(&service.namespace, &service.name).filter(|_| self.exists(&service));
        let front = &labels[..short.len().saturating_sub(2)];
        let meant = wire_key.and_then(|wire_key| self.view.apexes.first()?.for_service(ServiceKey(&wire_key), front));
        let service = key.clone();
        self.add(match meant {
            Some(meant) => Finding::ExternalNameShort { service, target, meant },
            None => Finding::ExternalNameOutside { service, target },
        });
    }

    // Endpoints.

    fn no_endpoint(&mut self, key: &ObjectRef, label: &str) {
        let view = self.view.cluster.service(key);
        let before = self.findings.len();
        if let Some((set, ordinal)) = self.set_of(&key.namespace, label) {
            self.ordinal(set, ordinal, &view, label);
        } else {
            self.governing_missing(&view);
        }
        let Some(service) = view.service else {
            if self.searches() {
                self.pods_of_missing_service(key, label);
            }
            if self.findings.len() == before || self.searches() {
                self.missing_service(key);
            }
            return;
        };
        if let ServiceKind::ExternalName(target) = &service.kind {
            return self.add(Finding::BelowExternalName { service: key.clone(), target: target.clone() });
        }
        self.endpoint(&view, label);
        self.pod_elsewhere(&view, label);
        self.pod(&key.namespace, label, &view);
        self.no_addresses(service, &view);
        if self.findings.len() == before && self.searches() {
            let endpoints = view.slices().flat_map(EndpointSlice::endpoints);
            let known = top_n(
                endpoints.filter_map(|endpoint| Some(self.view.label_of(&endpoint)?.to_string().into())),
                MAX_NAMES + 1,
            );
            self.add(Finding::NoSuchEndpoint { service: key.clone(), label: label.into(), known });
        }
    }

    /// Detects why `label`, the Pod of `set` with this ordinal, has no name below the Service of `view`.
    fn ordinal(&mut self, set: &StatefulSet, ordinal: u32, view: &ServiceView<'_>, label: &str) {
        let (key, name) = (&set.key, &set.service_name);
        if name.is_empty() {
            return self.add(Finding::NoServiceName { set: key.clone() });
        }
        let governing = ObjectRef::new(&key.namespace, name);
        let Some(service) = self.view.cluster.service(&governing).service else {
            return self.add_governing_missing(set);
        };
        if matches!(service.kind, ServiceKind::ExternalName(_)) {
            return self.add(Finding::GoverningExternal { set: key.clone(), service: name.clone() });
        }
        let range = range_of(set);
        if !range.contains(&ordinal) {
            let elsewhere = (*name != view.key.name).then(|| name.clone());
            let selects = !service.selector.is_empty() && satisfies(&set.template.labels, &service.selector);
            let scales = elsewhere.is_none() && selects;
            self.add(out_of_range(set, ordinal, elsewhere, scales));
        }
        if *name != view.key.name {
            if range.contains(&ordinal) {
                let resolves = self.recommends(&governing, &[label.to_owned()]);
                self.add(Finding::OtherGoverning {
                    set: key.clone(),
                    pod: label.into(),
                    governing: name.clone(),
                    asked: view.key.name.clone(),
                    resolves,
                });
            }
            return;
        }
        if range.contains(&ordinal) && self.is_in_no_slice(view, label) {
            self.add(Finding::OrdinalNotThere {
                set: key.clone(),
                service: name.clone(),
                ordinal,
                waits_for: self.waits_for(set, view),
                selects: !service.selector.is_empty(),
                has_address: self.view.cluster.pod(&key.namespace, label).is_some_and(|pod| !pod.addresses.is_empty()),
            });
        }
    }

    /// Returns whether no slice lists the Pod; false if that cannot be determined within [`Self::bounded_endpoints`] endpoints.
    fn is_in_no_slice(&self, view: &ServiceView<'_>, label: &str) -> bool {
        match self.query.absence {
            Some(Absence::NotReady | Absence::Terminating | Absence::Replaced) => false,
            // The absence was published with the records of all slices of the Service.
            Some(Absence::Pending) if !self.searches() => true,
            _ => {
                let rows = view.slices().map(EndpointSlice::len).sum::<usize>();
                let names = |endpoint: Endpoint<'_>| {
                    endpoint.hostname.or(endpoint.pod).is_some_and(|name| is_object_named(name, label))
                };
                rows <= self.bounded_endpoints() && !view.slices().flat_map(EndpointSlice::endpoints).any(names)
            }
        }
    }

    /// Returns the lowest ordinal that does not serve, if the controller creates Pods in order.
    fn waits_for(&self, set: &StatefulSet, view: &ServiceView<'_>) -> Option<u32> {
        if set.parallel || view.slices().map(EndpointSlice::len).sum::<usize>() > self.bounded_endpoints() {
            return None;
        }
        let text = format!("{}-", set.key.name);
        let serving: Vec<u32> = view
            .slices()
            .flat_map(EndpointSlice::endpoints)
            .filter(|endpoint| endpoint.conditions.serving())
            .filter_map(|endpoint| endpoint.hostname.or(endpoint.pod))
            .filter(|label| label.prefix == text)
            .filter_map(|label| label.number)
            .collect();
        range_of(set).find(|ordinal| !serving.contains(ordinal))
    }

    /// Reports the endpoints in the Service's slices that `label` refers to.
    fn endpoint(&mut self, view: &ServiceView<'_>, label: &str) {
        let key = view.key;
        let spelled = spelled::parse(label.as_bytes());
        let rows = self.bounded_endpoints();
        let mut listed = false;
        for endpoint in view.slices().flat_map(EndpointSlice::endpoints).take(rows) {
            if self.view.is_called(&endpoint, label, spelled) {
                listed = true;
                let finding = not_served(key, label, Some(endpoint));
                self.add(of_selected_pod(finding, view));
            } else if spelled == Some(endpoint.address) {
                if let Some(hostname) = endpoint.hostname {
                    let (address, hostname): (_, Box<str>) = (endpoint.address, hostname.to_string().into());
                    listed = true;
                    let resolves = self.recommends(key, &[hostname.to_string()]);
                    self.add(Finding::HasHostname { service: key.clone(), address, hostname, resolves });
                }
            } else if endpoint.hostname.is_none() && endpoint.pod.is_some_and(|pod| is_object_named(pod, label)) {
                let (pod, address) = (label.into(), endpoint.address);
                let resolves = self.recommends(key, &[dashed(address)]);
                let selects = view.service.is_some_and(|service| !service.selector.is_empty());
                self.add(Finding::NoHostname { service: key.clone(), pod, address, selects, resolves });
            }
        }
        if !listed {
            match self.query.absence {
                Some(Absence::NotReady) => self.add(not_served(key, label, None)),
                Some(Absence::Terminating | Absence::Replaced) => {
                    self.add(Finding::Terminating { service: key.clone(), label: label.into(), serving: None });
                }
                _ => {}
            }
        }
        if let (Some(address), false, true) = (spelled, listed, self.searches()) {
            let elsewhere =
                self.services_with(address, |endpoint| endpoint.conditions.ready() && endpoint.hostname.is_none());
            self.add(Finding::NotAnEndpoint { service: key.clone(), address, elsewhere });
        }
    }

    /// Returns the Services with an endpoint at this address that matches the condition.
    fn services_with(&self, address: IpAddr, such: impl Fn(Endpoint<'_>) -> bool) -> Candidates {
        let has =
            |slice: &&EndpointSlice| slice.endpoints().any(|endpoint| endpoint.address == address && such(endpoint));
        let owner = |slice: &EndpointSlice| Some(ObjectRef::new(&slice.key.namespace, slice.service.as_deref()?));
        let has_endpoints = |key: &ObjectRef| {
            let service = self.view.cluster.service(key).service;
            service.is_some_and(|service| !matches!(service.kind, ServiceKind::ExternalName(_)))
        };
        candidates(self.view.cluster.slices().filter(has).filter_map(owner).filter(has_endpoints))
    }

    /// Returns the first Pod with this address, by namespace and name.
    fn pod_at(&self, address: IpAddr) -> Option<ObjectRef> {
        let pods = self.view.cluster.pods().filter(|(_, _, pod)| pod.addresses.contains(&address));
        pods.map(|(namespace, name, _)| ObjectRef::new(namespace, name)).min()
    }

    /// Reports a Pod of a StatefulSet that has finished or has no address, if Pods are read.
    fn pod(&mut self, namespace: &str, label: &str, view: &ServiceView<'_>) {
        let Some(pod) = self.view.cluster.pod(namespace, label) else { return };
        let governed = self.set_of(namespace, label).is_some_and(|(set, _)| *set.service_name == *view.key.name);
        if !governed {
            return;
        }
        let key = ObjectRef::new(namespace, label);
        if pod.finished {
            self.add(Finding::PodFinished { pod: key });
        } else if pod.addresses.is_empty() {
            self.add(Finding::PodWithoutAddress { pod: key });
        }
    }

    /// Reports Pods of the Service's slices that have the label as their `hostname`, but another subdomain or none, if Pods
    /// are read.
    fn pod_elsewhere(&mut self, view: &ServiceView<'_>, label: &str) {
        let cluster = self.view.cluster;
        if cluster.count(Resource::Pods) == 0 {
            return;
        }
        for row in view.slices().flat_map(EndpointSlice::endpoints).take(self.bounded_endpoints()) {
            let Some(pod) = row.pod.filter(|_| row.hostname.is_none()).map(|pod| pod.to_string()) else { continue };
            let Some(state) = cluster.pod(&view.key.namespace, &pod) else { continue };
            let exists = |name: &str| self.exists(&ObjectRef::new(&view.key.namespace, name));
            let is_published = state.subdomain.as_deref().is_some_and(exists);
            let is_asked_for = state.hostname.as_deref() == Some(label) && !self.is_of_set(&view.key.namespace, &pod);
            if is_asked_for && !is_published {
                let pod = ObjectRef::new(&view.key.namespace, &pod);
                self.pod_subdomain(pod, label, state.subdomain.clone(), Some(view.key.name.clone()));
            }
        }
    }

    /// Reports Pods with this hostname and the missing Service as their subdomain, if Pods are read.
    fn pods_of_missing_service(&mut self, service: &ObjectRef, label: &str) {
        let cluster = self.view.cluster;
        for (name, state) in cluster.pods_of(&service.namespace) {
            let is_it = state.hostname.as_deref().unwrap_or(name) == label;
            if is_it && state.subdomain.as_deref() == Some(&*service.name) && !self.is_of_set(&service.namespace, name)
            {
                let pod = ObjectRef::new(&service.namespace, name);
                let selecting = self.selecting(&pod);
                self.pod_subdomain(pod, label, state.subdomain.clone(), selecting);
            }
        }
    }

    /// Reports every Pod that belongs to no StatefulSet, and has a subdomain that names no Service.
    pub(super) fn pods_of_missing_services(&mut self) {
        let cluster = self.view.cluster;
        for (namespace, name, state) in cluster.pods().filter(|(.., pod)| !pod.finished) {
            let Some(subdomain) = state.subdomain.as_deref() else { continue };
            if !self.exists(&ObjectRef::new(namespace, subdomain)) && !self.is_of_set(namespace, name) {
                let pod = ObjectRef::new(namespace, name);
                let (label, selecting) = (state.hostname.as_deref().unwrap_or(name), self.selecting(&pod));
                self.pod_subdomain(pod, label, state.subdomain.clone(), selecting);
            }
        }
    }

    fn pod_subdomain(&mut self, pod: ObjectRef, label: &str, subdomain: Option<Box<str>>, selecting: Option<Box<str>>) {
        self.add(Finding::PodSubdomain { pod, hostname: label.into(), subdomain, selecting });
    }

    /// Returns whether the Pod belongs to a StatefulSet by its name. Its subdomain is that StatefulSet's `serviceName`.
    fn is_of_set(&self, namespace: &str, pod: &str) -> bool {
        self.set_of(namespace, pod).is_some()
    }

    /// Returns the headless Service with the Pod in its slices, if there is only one.
    fn selecting(&self, pod: &ObjectRef) -> Option<Box<str>> {
        let of_namespace = self.view.cluster.slices().filter(|slice| slice.key.namespace == pod.namespace);
        let lists = |slice: &&EndpointSlice| {
            slice.endpoints().any(|row| row.pod.is_some_and(|name| is_object_named(name, &pod.name)))
        };
        let services = of_namespace.filter(lists).filter_map(|slice| slice.service.clone());
        let is_headless = |name: &str| {
            let key = ObjectRef::new(&pod.namespace, name);
            let service = self.view.cluster.service(&key).service;
            service.is_some_and(|service| service.kind == ServiceKind::Headless)
        };
        match &top_n(services.filter(|name| is_headless(name)), 2)[..] {
            [only] => Some(only.clone()),
            _ => None,
        }
    }

    /// Detects findings at an endpoint's name that exists: NODATA, or a name that other DNS servers may not answer.
    fn at_endpoint(&mut self, key: &ObjectRef, label: &str) {
        if self.searches() {
            let view = self.view.cluster.service(key);
            let Some(service) = view.service else { return };
            if self.query.outcome == ZoneVerdict::NoData {
                self.no_family(key, Some(label));
                if self.query.qtype == rtype::SRV {
                    self.no_srv_of_endpoint(service, &view);
                }
            }
            let governs = view
                .stateful_sets
                .iter()
                .any(|set| self.set_of(&key.namespace, label).is_some_and(|(other, _)| other.key == set.key));
            if governs || service.publish_not_ready {
                self.additional_findings(service, &view);
            }
        }
    }

    // Ports.

    fn no_srv_of_endpoint(&mut self, service: &Service, view: &ServiceView<'_>) {
        let missing = ports_without_target(service, view);
        if missing.is_empty() {
            return self.no_srv(service, view);
        }
        for (port, target) in missing {
            self.add(Finding::NoTargetPort { service: service.key.clone(), port, target });
        }
    }

    fn no_port(&mut self, key: &ObjectRef, port: Option<&str>, protocol: &str) {
        let view = self.view.cluster.service(key);
        let Some(service) = view.service else {
            self.governing_missing(&view);
            if self.findings.is_empty() || self.searches() {
                self.missing_service(key);
            }
            return;
        };
        if let ServiceKind::ExternalName(target) = &service.kind {
            return self.add(Finding::BelowExternalName { service: key.clone(), target: target.clone() });
        }
        if service.kind == ServiceKind::ClusterIp(Vec::new()) {
            return self.add(Finding::NoClusterIp { service: key.clone() });
        }
        self.no_addresses(service, &view);
        let nothing_below = !self.findings.is_empty();
        if let Some(port) = port
            && !nothing_below
        {
            self.port(service, &view, port, protocol);
        }
    }

    fn port(&mut self, service: &Service, view: &ServiceView<'_>, port: &str, protocol: &str) {
        let ports = served_ports(service, view);
        let key = service.key.clone();
        let declared = service.ports.iter().find(|own| *own.name == *port && own.protocol.label() == protocol);
        if let (Some(declared), ServiceKind::Headless) = (declared, &service.kind) {
            return self.add(match (&declared.target, misnamed(service, view, declared)) {
                (TargetPort::Name(target), None) => {
                    Finding::NoTargetPort { service: key, port: port.into(), target: target.clone() }
                }
                (_, instead) => not_in_slices(service, declared, instead),
            });
        }
        let number = port.parse::<u16>().ok();
        if let Some((name, protocol, number)) = ports.iter().find(|(_, _, candidate)| Some(*candidate) == number) {
            if let Some(finding) = self.misnamed_port(service, view, name, *protocol, *number) {
                return self.add(finding);
            }
            let name = (!name.is_empty()).then(|| name.clone());
            let (number, protocol) = (*number, *protocol);
            return self.add(Finding::PortNumber { service: key, number, name, protocol });
        }
        let same_name = ports.iter().filter(|(name, ..)| **name == *port);
        let protocols: Vec<Protocol> = same_name.map(|(_, protocol, _)| *protocol).collect();
        if !protocols.is_empty() {
            return self.add(Finding::OtherProtocol { service: key, port: port.into(), protocols });
        }
        if let Some((name, protocol, number)) = ports.iter().find(|(name, ..)| name.is_empty()) {
            let unnamed =
                Finding::PortUnnamed { service: key.clone(), number: *number, is_only: has_one_port(service, view) };
            self.add(self.misnamed_port(service, view, name, *protocol, *number).unwrap_or(unnamed));
        }
        // Endpoints have the port, but only endpoints that do not count.
        let with_port = |slice: &&EndpointSlice| slice.ports.iter().any(|own| *own.name == *port);
        if service.kind == ServiceKind::Headless
            && let Some(endpoint) = view.slices().filter(with_port).flat_map(EndpointSlice::endpoints).next()
        {
            if self.searches() {
                let name = self.view.label_of(&endpoint);
                let label = name.map_or_else(|| dashed(endpoint.address), |name| name.to_string());
                self.add(of_selected_pod(not_served(&key, &label, Some(endpoint)), view));
            }
            return;
        }
        let named = ports.iter().filter(|(name, ..)| !name.is_empty());
        let known: Vec<Box<str>> =
            top_n(named.map(|(name, protocol, _)| format!("_{name}.{}", protocol.label()).into()), usize::MAX);
        let asked = format!("_{port}.{protocol}");
        let nearest = known.iter().map(|name| levenshtein(name, &asked)).min().filter(|distance| *distance <= 2);
        let near: Vec<&Box<str>> = known.iter().filter(|name| Some(levenshtein(name, &asked)) == nearest).collect();
        let meant = match (&near[..], &known[..]) {
            ([near], _) => Some((*near).clone()),
            ([], [only]) => Some(only.clone()),
            _ => None,
        };
        self.add(Finding::NoPort { service: key, port: port.into(), known, meant });
    }

    /// Returns the finding about a port that the Service names and a slice names otherwise or not at all, if it is one.
    fn misnamed_port(
        &self,
        service: &Service,
        view: &ServiceView<'_>,
        name: &str,
        protocol: Protocol,
        number: u16,
    ) -> Option<Finding> {
        let is_it = |port: &EndpointPort| *port.name == *name && port.protocol == protocol && port.number == number;
        let of_it = |declared: &&ServicePort| misnamed(service, view, declared).is_some_and(|(_, port)| is_it(port));
        let declared = service.ports.iter().find(of_it).filter(|_| service.kind == ServiceKind::Headless)?;
        Some(not_in_slices(service, declared, misnamed(service, view, declared)))
    }

    // Pods, and addresses.

    fn no_pod(&mut self, namespace: &str, label: &[u8]) {
        let Some(address) = spelled::parse(label) else {
            return self.pod_not_address(namespace, &text(label));
        };
        match self.view.rules.pod_records {
            PodRecords::Off => self.add(Finding::PodRecordsOff),
            PodRecords::Insecure => self.no_namespace(namespace, None),
            PodRecords::Verified => {
                let elsewhere = if self.searches() { self.pod_at(address) } else { None };
                self.add(Finding::PodUnknown { namespace: namespace.into(), address, elsewhere });
            }
        }
    }

    /// Reports a Pod's name in the `pod` branch. Recommends only a name that exists: the Pod of a Deployment has none.
    fn pod_not_address(&mut self, namespace: &str, label: &str) {
        let front = [label.to_owned()];
        let governing = self.set_of(namespace, label).map(|(set, _)| ObjectRef::new(namespace, &set.service_name));
        let of_set = governing.filter(|_| self.searches()).and_then(|governing| self.name_at(&governing, &front));
        let meant = of_set.or_else(|| {
            let services = self.view.cluster.services().filter(|_| self.searches()).map(|service| &service.key);
            let having = services.filter(|key| *key.namespace == *namespace && self.resolves(key, &front));
            candidates(having.cloned()).only().and_then(|only| self.name_at(only, &front))
        });
        self.add(Finding::PodNotAddress { label: label.into(), meant });
    }

    fn reverse(&mut self) {
        let Some(address) = reverse::parse_address(self.query.name).filter(|_| self.searches()) else { return };
        let not_ready = self.services_with(address, |endpoint| !endpoint.conditions.ready()).listed;
        let pod = if not_ready.is_empty() { self.pod_at(address) } else { None };
        self.add(Finding::AddressUnknown { address, not_ready, pod });
    }
}

/// Returns the first `most` items, sorted and without duplicates.
fn top_n<T: Ord>(items: impl Iterator<Item = T>, most: usize) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort();
    items.dedup();
    items.truncate(most);
    items
}

/// Returns the candidates, sorted and without duplicates: the first [`MAX_LISTED`], and the number of all.
fn candidates(keys: impl Iterator<Item = ObjectRef>) -> Candidates {
    let mut listed = top_n(keys, usize::MAX);
    let total = listed.len();
    listed.truncate(MAX_LISTED);
    Candidates { listed, total }
}

/// Returns the finding about an ordinal out of range. `governing` is the governing Service if QNAME is not below it;
/// `scales` is true if more replicas would make the name exist.
fn out_of_range(set: &StatefulSet, ordinal: u32, governing: Option<Box<str>>, scales: bool) -> Finding {
    let (set, start, replicas) = (set.key.clone(), set.start, set.replicas);
    Finding::OrdinalOutOfRange { set, ordinal, start, replicas, governing, scales }
}

/// Removes the Pod from the finding if the Service has no selector: then no controller guarantees that the endpoint is the
/// Pod's.
fn of_selected_pod(mut finding: Finding, view: &ServiceView<'_>) -> Finding {
    if let Finding::NotReady { pod, .. } = &mut finding
        && view.service.is_some_and(|service| service.selector.is_empty())
    {
        *pod = None;
    }
    finding
}

fn not_served(service: &ObjectRef, label: &str, endpoint: Option<Endpoint<'_>>) -> Finding {
    let (service, label) = (service.clone(), label.into());
    let serving = endpoint.map(|endpoint| endpoint.conditions.serving());
    let pod = endpoint.and_then(|endpoint| Some(endpoint.pod?.to_string().into()));
    match endpoint {
        Some(endpoint) if endpoint.conditions.terminating() => Finding::Terminating { service, label, serving },
        _ => Finding::NotReady { service, label, pod, serving },
    }
}

/// Returns the ports that SRV names of a Service can come from: its own, or for a headless Service those of its slices.
pub(super) fn ports(service: &Service, view: &ServiceView<'_>) -> Vec<(Box<str>, Protocol, u16)> {
    ports_of_slices(service, view, |slice| !slice.is_empty())
}

/// Returns the ports that SRV names of a Service come from: of a headless Service, only the ports of endpoints that count.
fn served_ports(service: &Service, view: &ServiceView<'_>) -> Vec<(Box<str>, Protocol, u16)> {
    ports_of_slices(service, view, |slice| slice.endpoints().any(|endpoint| service.answers_with(endpoint.conditions)))
}

/// Returns whether the Service declares one port, or none and its slices have one. A single port needs no name.
pub(super) fn has_one_port(service: &Service, view: &ServiceView<'_>) -> bool {
    match &service.ports[..] {
        [] => ports(service, view).len() == 1,
        declared => declared.len() == 1,
    }
}

fn ports_of_slices(
    service: &Service,
    view: &ServiceView<'_>,
    such: impl Fn(&EndpointSlice) -> bool,
) -> Vec<(Box<str>, Protocol, u16)> {
    let mut ports: Vec<(Box<str>, Protocol, u16)> = match service.kind {
        ServiceKind::Headless => {
            let ports = view.slices().filter(|slice| such(slice)).flat_map(|slice| slice.ports.iter());
            ports.map(|port| (port.name.clone(), port.protocol, port.number)).collect()
        }
        _ => service.ports.iter().map(|port| (port.name.clone(), port.protocol, port.number)).collect(),
    };
    ports.sort();
    ports.dedup();
    ports
}

/// Returns the StatefulSet and the ordinal of an endpoint's Pod, by the Pod's name.
pub(super) fn object_of_pod(endpoint: Endpoint<'_>) -> Option<(String, u32)> {
    let pod = endpoint.pod?.to_string();
    let (text, ordinal) = split(&pod);
    Some((text.strip_suffix('-')?.to_owned(), ordinal?))
}

/// Returns the ports of a headless Service with a named `targetPort` that no endpoint has, each with that name. Only for
/// slices of the controller, which omits such a port.
pub(super) fn ports_without_target(service: &Service, view: &ServiceView<'_>) -> Vec<(Box<str>, Box<str>)> {
    let slices = || view.slices().filter(|slice| !slice.is_empty());
    if service.selector.is_empty() || slices().next().is_none() {
        return Vec::new();
    }
    let missing = |port: &&ServicePort| {
        let mut ports = slices().flat_map(|slice| slice.ports.iter());
        !port.name.is_empty() && !ports.any(|own| own.name == port.name && own.protocol == port.protocol)
    };
    let target = |port: &ServicePort| match &port.target {
        TargetPort::Name(target) => Some((port.name.clone(), target.clone())),
        TargetPort::Number(_) => None,
    };
    service.ports.iter().filter(missing).filter_map(target).collect()
}

/// Returns findings about the declared ports of a headless Service that no slice with endpoints has.
pub(super) fn ports_not_in_slices(service: &Service, view: &ServiceView<'_>) -> Vec<Finding> {
    let slices = || view.slices().filter(|slice| !slice.is_empty());
    let is_there = |port: &ServicePort| {
        let mut ports = slices().flat_map(|slice| slice.ports.iter());
        ports.any(|own| own.name == port.name && own.protocol == port.protocol)
    };
    let leads_nowhere = ports_without_target(service, view);
    let missing = |port: &&ServicePort| {
        !port.name.is_empty() && !is_there(port) && !leads_nowhere.iter().any(|(name, _)| *name == port.name)
    };
    if slices().next().is_none() {
        return Vec::new();
    }
    let missing = service.ports.iter().filter(missing);
    missing.map(|port| not_in_slices(service, port, misnamed(service, view, port))).collect()
}

/// Returns the port of a slice that has the number of `declared`, but a name that the Service does not declare.
fn misnamed<'c>(
    service: &Service,
    view: &ServiceView<'c>,
    declared: &ServicePort,
) -> Option<(&'c EndpointSlice, &'c EndpointPort)> {
    if declared.name.is_empty() {
        return None;
    }
    let is_number = |number: u16| match declared.target {
        TargetPort::Number(target) => number == target || number == declared.number,
        TargetPort::Name(_) => number == declared.number,
    };
    let is_declared =
        |port: &EndpointPort| service.ports.iter().any(|own| own.name == port.name && own.protocol == port.protocol);
    let ports = view
        .slices()
        .filter(|slice| !slice.is_empty())
        .flat_map(|slice| slice.ports.iter().map(move |port| (slice, port)));
    let mut ports = ports.filter(|(_, port)| port.protocol == declared.protocol && is_number(port.number));
    ports.find(|(_, port)| !is_declared(port))
}

fn not_in_slices(
    service: &Service,
    declared: &ServicePort,
    instead: Option<(&EndpointSlice, &EndpointPort)>,
) -> Finding {
    Finding::PortNotInSlices {
        service: service.key.clone(),
        port: declared.name.clone(),
        protocol: declared.protocol,
        instead: instead.map(|(slice, port)| (slice.key.clone(), port.clone())),
    }
}

/// Returns the labels that every Pod of the StatefulSet has: the API server rejects a template without them, and the
/// controller releases a Pod that loses them.
fn required_labels(set: &StatefulSet) -> &Labels {
    &set.selector
}

/// Returns the labels that the Service selects, but that every Pod of the StatefulSet has with another value.
pub(super) fn contradicts(service: &Service, set: &StatefulSet) -> Option<SelectorMismatch> {
    let (required, template) = (required_labels(set), &set.template.labels);
    let contradicted = |key: &str, selected: &str| required.get(key).filter(|has| *has != selected);
    let mut labels = Vec::new();
    let mut alone = true;
    for (key, selected) in service.selector.iter() {
        if let Some(has) = contradicted(key, selected) {
            labels.push(LabelMismatch { key: key.clone(), selected: selected.clone(), has: Some(has.into()) });
            alone &= template.get(key) == Some(has);
        } else {
            alone &= template.get(key) == Some(&**selected);
        }
    }
    (!labels.is_empty()).then(|| SelectorMismatch { set: set.key.name.clone(), labels, alone })
}

/// Returns the mismatch of a Service with the first StatefulSet that it governs, if it has one with each of them: a
/// Service can be intended for one of several.
pub(super) fn contradiction(service: &Service, view: &ServiceView<'_>) -> Option<SelectorMismatch> {
    let all: Option<Vec<SelectorMismatch>> = view.stateful_sets.iter().map(|set| contradicts(service, set)).collect();
    let all = all?;
    let only = all.len() == 1;
    all.into_iter().next().map(|first| SelectorMismatch { alone: first.alone && only, ..first })
}

/// Returns the labels that the Service selects, but that the Pod template lacks or has with another value.
pub(super) fn differs(service: &Service, set: &StatefulSet) -> Option<SelectorMismatch> {
    let has = |key: &str| set.template.labels.get(key);
    let differ = service.selector.iter().filter(|(key, value)| has(key) != Some(value));
    let labels: Vec<LabelMismatch> = differ
        .map(|(key, selected)| LabelMismatch {
            key: key.clone(),
            selected: selected.clone(),
            has: has(key).map(Into::into),
        })
        .collect();
    (!labels.is_empty()).then(|| SelectorMismatch { set: set.key.name.clone(), labels, alone: false })
}

/// Returns the mismatch of a Service with the first Pod template, if it has one with the templates of all StatefulSets that
/// it governs.
pub(super) fn template_difference(service: &Service, view: &ServiceView<'_>) -> Option<SelectorMismatch> {
    let all: Option<Vec<SelectorMismatch>> = view.stateful_sets.iter().map(|set| differs(service, set)).collect();
    all?.into_iter().next()
}

fn satisfies(labels: &Labels, selector: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(&**value))
}

/// Returns the selector that a governing Service of `set` needs.
fn selector_of(set: &StatefulSet) -> Labels {
    if !set.selector.is_empty() && satisfies(&set.template.labels, &set.selector) {
        set.selector.clone()
    } else {
        set.template.labels.clone()
    }
}

/// Returns the ports of a StatefulSet's Pods for its Service: only named ports, and each name once.
fn ports_of(set: &StatefulSet) -> Vec<(Box<str>, Protocol, u16)> {
    let mut ports: Vec<(Box<str>, Protocol, u16)> = Vec::new();
    for port in &set.template.spec.ports {
        if !port.name.is_empty() && !ports.iter().any(|(name, ..)| *name == port.name) {
            ports.push((port.name.clone(), port.protocol, port.number));
        }
    }
    ports
}

pub(super) fn range_of(set: &StatefulSet) -> std::ops::Range<u32> {
    set.start..set.start.saturating_add(set.replicas)
}

pub(super) fn is_object_named(label: Label<'_>, text: &str) -> bool {
    // Equal texts are split equally, so that the parts can be compared.
    label == Label::new(text)
}

/// Returns the Service of a key in a name.
pub fn object(key: ServiceKey<'_>) -> ObjectRef {
    ObjectRef::new(&text(key.namespace()), &text(key.service()))
}

/// Returns a label as text. A label that no object can have as its name is escaped (RFC 1035 section 5.1).
pub(super) fn text(label: &[u8]) -> String {
    match std::str::from_utf8(label) {
        Ok(text) if is_label(text.strip_prefix('_').unwrap_or(text)) => text.to_owned(),
        _ => {
            let mut text = String::new();
            let _ = write_label(&mut text, label);
            text
        }
    }
}
