//! Question and cluster in, findings out: what each cause is detected by.
//!
//! A finding is true of the cluster that it was made from, or it is not given. [`Effort::Exact`] is for answers on the
//! wire: exact look-ups, and of a Service's endpoints no more than [`ROWS`], so that a flood of such questions costs
//! little. [`Effort::Search`] is for people who wait: it looks at everything, and guesses at what was meant.

use std::net::IpAddr;

use super::entry::Needs;
use super::finding::{Difference, Differs, Finding};
use super::{Absence, Asked, Effort, Known, Outcome};
use crate::cluster::{Resource, ServiceView};
use crate::names::labels::{Label, split};
use crate::names::{
    MAX_CHAIN, Owner, QueryName, ServiceKey, WireName, dashed, is_label, labels_of, owner, reverse, service_key,
    write_name,
};
use crate::objects::{
    Endpoint, EndpointSlice, Family, Labels, ObjectRef, Protocol, Service, ServiceKind, ServicePort, StatefulSet,
    TargetPort,
};
use crate::rtype;
use crate::rules::PodRecords;

/// How many endpoints of a Service are looked at for an answer on the wire.
pub const ROWS: usize = 256;
/// How many objects of a kind a finding lists at most.
const LISTED: usize = 3;
/// How many names of ports or endpoints a finding lists at most.
const NAMES: usize = 5;

/// All that is to be said of `asked`, the first of a severity first.
pub(super) fn find(known: &Known<'_>, asked: &Asked<'_>, effort: Effort) -> Vec<Finding> {
    let mut finder = Finder { known, asked, effort, findings: Vec::new() };
    finder.look();
    let mut findings = finder.findings;
    if known.extent.selected {
        findings.retain(|finding| !finding.needs(Needs::EveryService));
    }
    findings.sort_by_key(Finding::rank);
    findings.dedup();
    findings
}

pub(super) struct Finder<'k> {
    pub(super) known: &'k Known<'k>,
    pub(super) asked: &'k Asked<'k>,
    pub(super) effort: Effort,
    pub(super) findings: Vec<Finding>,
}

impl<'k> Finder<'k> {
    fn look(&mut self) {
        let name = self.asked.name;
        match (self.known.apex_of(name), self.asked.outcome) {
            (Some((apex, apex_at)), outcome) => self.look_forward(apex, apex_at, outcome),
            (None, Outcome::NotInZone) => self.add(Finding::OutsideZones),
            (None, Outcome::NxDomain) => self.reverse(),
            (None, _) => {}
        }
    }

    fn look_forward(&mut self, apex: &WireName, apex_at: usize, outcome: Outcome) {
        let name = self.asked.name;
        if outcome == Outcome::NxDomain && (0..apex_at).any(|label| name.label(label) == b"*") {
            self.add(Finding::Wildcard);
        }
        match (owner(name, apex_at), outcome) {
            (Owner::Service(key), Outcome::NxDomain) => self.no_service_name(&object(key)),
            (Owner::Service(key), _) => self.at_service(&object(key), outcome),
            (Owner::Endpoint(key, label), Outcome::NxDomain) => self.no_endpoint(&object(key), &text(label)),
            (Owner::Endpoint(key, label), _) => self.at_endpoint(&object(key), &text(label)),
            (Owner::Port(key, port, protocol), Outcome::NxDomain) => {
                self.no_port(&object(key), Some(&text(&port[1..])), &text(protocol));
            }
            (Owner::Protocol(key, protocol), Outcome::NxDomain) => {
                self.no_port(&object(key), None, &text(protocol));
            }
            (Owner::Namespace(namespace), Outcome::NxDomain) => self.no_namespace(&text(namespace), None),
            (Owner::PodAddress(namespace, label), Outcome::NxDomain) => self.no_pod(&text(namespace), label),
            (Owner::PodNamespace(_), Outcome::NxDomain) if self.known.rules.pod_records == PodRecords::Off => {
                self.add(Finding::PodRecordsOff);
            }
            (Owner::PodNamespace(namespace), Outcome::NxDomain) => self.no_namespace(&text(namespace), None),
            (Owner::Nothing, Outcome::NxDomain) => self.no_form(apex, apex_at),
            _ => {}
        }
    }

    fn add(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn searches(&self) -> bool {
        self.effort == Effort::Search
    }

    /// How many endpoints may be looked at.
    fn rows(&self) -> usize {
        if self.searches() { usize::MAX } else { ROWS }
    }

    pub(super) fn exists(&self, service: &ObjectRef) -> bool {
        self.known.cluster.service(service).service.is_some()
    }

    // Names that no form has.

    fn no_form(&mut self, apex: &WireName, apex_at: usize) {
        let name = self.asked.name;
        if let Some(meant) = self.without_second_zone(apex, apex_at) {
            return self.add(Finding::SuffixTwice { meant });
        }
        let label = |back: usize| text(name.label(apex_at - back));
        // `web.default.Z` and `web-0.web.default.Z`.
        if apex_at == 2 || apex_at == 3 {
            let service = ObjectRef::new(&label(1), &label(2));
            if self.exists(&service) {
                let front: Vec<&[u8]> = (0..apex_at - 2).map(|index| name.label(index)).collect();
                let key = service_key(&service.namespace, &service.name);
                if let Some(meant) = key.and_then(|key| apex.of_service(ServiceKey(&key), &front)) {
                    return self.add(Finding::NoSvcLabel { service, meant });
                }
            }
        }
        // `_http._tcp.web-0.web.default.svc.Z`.
        let underscored = |index: usize| name.label(index).starts_with(b"_");
        if apex_at == 6 && name.label(5) == b"svc" && underscored(0) && underscored(1) && !underscored(2) {
            let service = ObjectRef::new(&label(2), &label(3));
            let key = service_key(&service.namespace, &service.name).filter(|_| self.exists(&service));
            if let Some(meant) = key.and_then(|key| apex.of_service(ServiceKey(&key), &[name.label(2)])) {
                return self.add(Finding::PortOfPod { meant });
            }
        }
        if self.searches() {
            self.add(Finding::TooManyLabels);
        }
    }

    /// `X.Z.anything.Z` is `X.Z` with a search list applied; told on the wire only where X is a Service's name.
    fn without_second_zone(&self, apex: &WireName, apex_at: usize) -> Option<WireName> {
        let name = self.asked.name;
        let zone: Vec<&[u8]> = labels_of(apex.octets()).collect();
        let stands_at = |at: &usize| zone.iter().enumerate().all(|(index, label)| name.label(at + index) == *label);
        let at = (1..=apex_at.checked_sub(zone.len())?).find(stands_at)?;
        let inner = WireName::parse(&self.inner_text(at, apex)).ok()?;
        if self.searches() {
            return Some(inner);
        }
        let mut query = QueryName::default();
        query.set(&inner);
        let known = match owner(&query, at) {
            Owner::Service(key) | Owner::Endpoint(key, _) | Owner::Port(key, ..) => self.exists(&object(key)),
            _ => false,
        };
        known.then_some(inner)
    }

    fn inner_text(&self, labels: usize, apex: &WireName) -> String {
        let labels: Vec<String> = (0..labels).map(|index| text(self.asked.name.label(index))).collect();
        format!("{}.{apex}", labels.join("."))
    }

    // Namespaces and Services.

    fn no_namespace(&mut self, namespace: &str, service: Option<&str>) {
        if !self.searches() || self.known.cluster.knows_namespace(namespace) {
            return;
        }
        let declared = self.known.cluster.declares_namespaces();
        let elsewhere = service.map(|service| self.services_named(service)).unwrap_or_default();
        self.add(Finding::NoNamespace { namespace: namespace.into(), declared, elsewhere });
    }

    /// Services of this name, in the order of their namespaces.
    fn services_named(&self, name: &str) -> Vec<ObjectRef> {
        let named = self.known.cluster.services().filter(|service| *service.key.name == *name);
        few(named.map(|service| service.key.clone()), LISTED)
    }

    /// The Service's own name does not exist.
    fn no_service_name(&mut self, key: &ObjectRef) {
        let view = self.known.cluster.service(key);
        match view.service {
            Some(service) => self.no_addresses(service, &view),
            None => {
                self.governing_missing(&view);
                self.pod_as_service(key);
                self.missing_service(key);
            }
        }
    }

    /// Nothing bears the Service's name.
    fn missing_service(&mut self, key: &ObjectRef) {
        if !self.searches() {
            return;
        }
        let swapped = ObjectRef::new(&key.name, &key.namespace);
        if self.exists(&swapped) {
            self.add(Finding::Swapped { meant: swapped });
        }
        self.no_namespace(&key.namespace, Some(&key.name));
        if !self.known.cluster.knows_namespace(&key.namespace) {
            return;
        }
        let elsewhere: Vec<ObjectRef> = self.services_named(&key.name);
        let mut near: Vec<(usize, &str)> = self
            .known
            .cluster
            .services()
            .filter(|service| service.key.namespace == key.namespace)
            .map(|service| (distance(&service.key.name, &key.name), &*service.key.name))
            .filter(|(distance, name)| *distance <= 2 && *distance < name.len())
            .collect();
        near.sort_unstable();
        near.truncate(LISTED);
        let near = near.into_iter().map(|(_, name)| name.into()).collect();
        self.add(Finding::NoService { service: key.clone(), near });
        if !elsewhere.is_empty() {
            self.add(Finding::OtherNamespace { service: key.clone(), elsewhere });
        }
    }

    /// A Pod's name where a Service's is expected: an ordinal of a StatefulSet, or a hostname in a slice.
    fn pod_as_service(&mut self, key: &ObjectRef) {
        if let Some((set, ordinal)) = self.set_of(&key.namespace, &key.name) {
            let governing = ObjectRef::new(&key.namespace, &set.service_name);
            if set.service_name.is_empty() {
                self.add(Finding::NoServiceName { set: set.key.clone() });
            } else if !self.exists(&governing) {
                self.add_governing_missing(set);
            } else if range_of(set).contains(&ordinal) {
                self.add(Finding::PodAsService { pod: key.clone(), service: set.service_name.clone() });
            } else {
                self.add(out_of_range(set, ordinal));
            }
            return;
        }
        if !self.searches() {
            return;
        }
        let holds = |slice: &&EndpointSlice| {
            slice.key.namespace == key.namespace
                && slice.endpoints().any(|endpoint| endpoint.hostname.is_some_and(|label| is(label, &key.name)))
        };
        let services = self.known.cluster.slices().filter(holds).filter_map(|slice| slice.service.clone());
        let exists = |service: &str| self.exists(&ObjectRef::new(&key.namespace, service));
        for service in few(services.filter(|service| exists(service)), LISTED) {
            self.add(Finding::PodAsService { pod: key.clone(), service });
        }
    }

    /// The StatefulSet and the ordinal that a label is the Pod name of.
    fn set_of(&self, namespace: &str, label: &str) -> Option<(&'k StatefulSet, u32)> {
        let (text, ordinal) = split(label);
        let set = self.known.cluster.stateful_set(&ObjectRef::new(namespace, text.strip_suffix('-')?))?;
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
                && satisfies(&set.template.labels, &service.selector)
        };
        let cluster = self.known.cluster;
        let not_many = cluster.count(Resource::Services) <= self.rows();
        let services = cluster.services().filter(|_| not_many).filter(selects);
        let selecting = few(services.map(|service| service.key.name.clone()), LISTED);
        self.add(Finding::GoverningMissing {
            set: set.key.clone(),
            service: set.service_name.clone(),
            selecting,
            selector: selector_of(set),
            ports: ports_of(set),
        });
    }

    /// The Service exists, and its name has no record: nothing that it could be answered with counts.
    pub(super) fn no_addresses(&mut self, service: &Service, view: &ServiceView<'_>) {
        if service.kind != ServiceKind::Headless {
            return;
        }
        let key = service.key.clone();
        let endpoints: usize = view.slices().map(EndpointSlice::len).sum();
        let mut rows = view.slices().flat_map(EndpointSlice::endpoints).take(self.rows());
        if rows.any(|endpoint| service.answers_with(endpoint.conditions)) {
            return;
        }
        for slice in view.slices().filter(|slice| slice.fqdn) {
            self.add(Finding::FqdnSlice { slice: slice.key.clone() });
        }
        if endpoints > 0 {
            if endpoints <= self.rows() {
                self.add(Finding::NoneReady { service: key, of: endpoints });
            }
        } else if service.selector.is_empty() {
            if view.slices().next().is_none() {
                let unlabelled = self.unlabelled(&key.namespace);
                self.add(Finding::NoSlice { service: key, unlabelled });
            } else if view.slices().all(|slice| !slice.fqdn) {
                self.add(Finding::NoEndpoints { service: key, selects: false, differs: None });
            }
        } else if view.slices().all(|slice| !slice.fqdn) {
            self.add(Finding::NoEndpoints { service: key, selects: true, differs: mismatch(service, view) });
        }
    }

    fn unlabelled(&self, namespace: &str) -> Vec<Box<str>> {
        if !self.searches() {
            return Vec::new();
        }
        let slices = self.known.cluster.slices();
        let of_nobody = slices.filter(|slice| *slice.key.namespace == *namespace && slice.service.is_none());
        few(of_nobody.map(|slice| slice.key.name.clone()), LISTED)
    }

    /// The Service's name exists.
    fn at_service(&mut self, key: &ObjectRef, outcome: Outcome) {
        let view = self.known.cluster.service(key);
        let Some(service) = view.service else { return };
        let asked = self.asked.qtype;
        match &service.kind {
            ServiceKind::ExternalName(target) => self.external_name(key, target),
            ServiceKind::ClusterIp(addresses) if addresses.is_empty() => {
                self.add(Finding::NoClusterIp { service: key.clone() });
            }
            _ if outcome == Outcome::NoData && asked == rtype::SRV => self.no_srv(service, &view),
            ServiceKind::ClusterIp(_) if outcome == Outcome::NoData => self.no_family(key),
            ServiceKind::Headless if outcome == Outcome::NoData => self.no_family(key),
            _ => {}
        }
        if self.searches() && outcome == Outcome::Found {
            self.notes(service, &view);
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

    fn no_family(&mut self, key: &ObjectRef) {
        // Most of all traffic: AAAA at a name that has IPv4 addresses only.
        let family = match self.asked.qtype {
            rtype::A => Family::V4,
            rtype::AAAA => Family::V6,
            _ => return,
        };
        if self.searches() {
            self.add(Finding::NoFamily { service: key.clone(), family });
        }
    }

    /// What is to be known of a Service that is answered.
    pub(super) fn notes(&mut self, service: &Service, view: &ServiceView<'_>) {
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

    /// Follows an ExternalName through the zone's Services (N14).
    pub(super) fn external_name(&mut self, key: &ObjectRef, target: &str) {
        let bad = |value: &str| Finding::BadExternalName { service: key.clone(), value: value.into() };
        if target.trim_end_matches('.').parse::<IpAddr>().is_ok() {
            return self.add(bad(target));
        }
        let Ok(mut next) = WireName::parse(target) else { return self.add(bad(target)) };
        let mut visited = vec![key.clone()];
        let mut query = QueryName::default();
        loop {
            query.set(&next);
            let Some((_, apex_at)) = self.known.apex_of(&query) else {
                if self.searches() {
                    self.add(Finding::ExternalNameOutside { service: key.clone(), target: next });
                }
                return;
            };
            let Owner::Service(target) = owner(&query, apex_at) else { return };
            let target = object(target);
            if self.known.extent.namespace.as_ref().is_some_and(|only| *only != target.namespace) {
                return;
            }
            if visited.contains(&target) {
                return self.add(Finding::ExternalNameLoop { service: key.clone() });
            }
            if visited.len() > MAX_CHAIN {
                return self.add(Finding::ExternalNameLong { service: key.clone(), most: MAX_CHAIN });
            }
            match self.known.cluster.service(&target).service.map(|service| &service.kind) {
                None => {
                    return self.add(Finding::ExternalNameDangling { service: key.clone(), target: next });
                }
                Some(ServiceKind::ExternalName(further)) => match WireName::parse(further) {
                    Ok(further) => next = further,
                    Err(_) => return,
                },
                Some(_) => return,
            }
            visited.push(target);
        }
    }

    // Endpoints.

    fn no_endpoint(&mut self, key: &ObjectRef, label: &str) {
        let view = self.known.cluster.service(key);
        let before = self.findings.len();
        if let Some((set, ordinal)) = self.set_of(&key.namespace, label) {
            self.ordinal(set, ordinal, &view, label);
        } else {
            self.governing_missing(&view);
        }
        let Some(service) = view.service else {
            if self.findings.len() == before || self.searches() {
                self.missing_service(key);
            }
            return;
        };
        if let ServiceKind::ExternalName(target) = &service.kind {
            return self.add(Finding::BelowExternalName { service: key.clone(), target: target.clone() });
        }
        self.endpoint(&view, label);
        self.pod(&key.namespace, label, &view);
        if self.findings.len() == before || self.searches() {
            self.no_addresses(service, &view);
        }
        if self.findings.len() == before && self.searches() {
            let endpoints = view.slices().flat_map(EndpointSlice::endpoints);
            let known = few(endpoints.filter_map(|endpoint| Some(endpoint.hostname?.to_string().into())), NAMES);
            self.add(Finding::NoSuchEndpoint { service: key.clone(), label: label.into(), known });
        }
    }

    /// `label` is the Pod name of `set` with this ordinal.
    fn ordinal(&mut self, set: &StatefulSet, ordinal: u32, view: &ServiceView<'_>, label: &str) {
        let (key, name) = (&set.key, &set.service_name);
        if name.is_empty() {
            return self.add(Finding::NoServiceName { set: key.clone() });
        }
        let governing = ObjectRef::new(&key.namespace, name);
        let Some(service) = self.known.cluster.service(&governing).service else {
            return self.add_governing_missing(set);
        };
        let range = range_of(set);
        if !range.contains(&ordinal) {
            self.add(out_of_range(set, ordinal));
        }
        if matches!(service.kind, ServiceKind::ExternalName(_)) {
            return self.add(Finding::GoverningExternal { set: key.clone(), service: name.clone() });
        }
        if *name != view.key.name {
            if range.contains(&ordinal) {
                self.add(Finding::OtherGoverning {
                    set: key.clone(),
                    pod: label.into(),
                    governing: name.clone(),
                    asked: view.key.name.clone(),
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
            });
        }
    }

    /// Whether no slice lists the Pod; no where that is not known within the effort.
    fn is_in_no_slice(&self, view: &ServiceView<'_>, label: &str) -> bool {
        match self.asked.absence {
            Some(Absence::NotReady | Absence::Terminating | Absence::Replaced) => false,
            // The zone was built from every slice.
            Some(Absence::NotThereYet) if !self.searches() => true,
            _ => {
                let rows = view.slices().map(EndpointSlice::len).sum::<usize>();
                let names =
                    |endpoint: Endpoint<'_>| endpoint.hostname.or(endpoint.pod).is_some_and(|name| is(name, label));
                rows <= self.rows() && !view.slices().flat_map(EndpointSlice::endpoints).any(names)
            }
        }
    }

    /// The lowest ordinal that does not serve, where Pods are made one after the other.
    fn waits_for(&self, set: &StatefulSet, view: &ServiceView<'_>) -> Option<u32> {
        if set.parallel || view.slices().map(EndpointSlice::len).sum::<usize>() > self.rows() {
            return None;
        }
        let text = format!("{}-", set.key.name);
        let serving: Vec<u32> = view
            .slices()
            .flat_map(EndpointSlice::endpoints)
            .filter(|endpoint| endpoint.conditions.serving())
            .filter_map(|endpoint| endpoint.hostname.or(endpoint.pod))
            .filter(|label| label.text == text)
            .filter_map(|label| label.number)
            .collect();
        range_of(set).find(|ordinal| !serving.contains(ordinal))
    }

    /// What the Service's slices say of `label`.
    fn endpoint(&mut self, view: &ServiceView<'_>, label: &str) {
        let key = view.key;
        let spelled = dashed::parse(label.as_bytes());
        let rows = self.rows();
        let mut listed = false;
        for endpoint in view.slices().flat_map(EndpointSlice::endpoints).take(rows) {
            let own = match endpoint.hostname {
                Some(hostname) => is(hostname, label),
                None => spelled == Some(endpoint.address),
            };
            if own {
                listed = true;
                self.add(not_served(key, label, Some(endpoint)));
            } else if spelled == Some(endpoint.address) {
                if let Some(hostname) = endpoint.hostname {
                    let (address, hostname) = (endpoint.address, hostname.to_string().into());
                    listed = true;
                    self.add(Finding::HasHostname { service: key.clone(), address, hostname });
                }
            } else if endpoint.hostname.is_none() && endpoint.pod.is_some_and(|pod| is(pod, label)) {
                let (pod, address) = (label.into(), endpoint.address);
                self.add(Finding::NoHostname { service: key.clone(), pod, address });
            }
        }
        if !listed {
            match self.asked.absence {
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

    /// Services with such an endpoint at this address.
    fn services_with(&self, address: IpAddr, such: impl Fn(Endpoint<'_>) -> bool) -> Vec<ObjectRef> {
        let has =
            |slice: &&EndpointSlice| slice.endpoints().any(|endpoint| endpoint.address == address && such(endpoint));
        let owner = |slice: &EndpointSlice| Some(ObjectRef::new(&slice.key.namespace, slice.service.as_deref()?));
        let has_endpoints = |key: &ObjectRef| {
            let service = self.known.cluster.service(key).service;
            service.is_some_and(|service| !matches!(service.kind, ServiceKind::ExternalName(_)))
        };
        few(self.known.cluster.slices().filter(has).filter_map(owner).filter(has_endpoints), LISTED)
    }

    /// The first Pod with this address.
    fn pod_at(&self, address: IpAddr) -> Option<ObjectRef> {
        let pods = self.known.cluster.pods().filter(|(_, _, pod)| pod.addresses.contains(&address));
        pods.map(|(namespace, name, _)| ObjectRef::new(namespace, name)).min()
    }

    /// What is known of the Pod itself, where Pods are read.
    fn pod(&mut self, namespace: &str, label: &str, view: &ServiceView<'_>) {
        let Some(pod) = self.known.cluster.pod(namespace, label) else { return };
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

    /// An endpoint's name exists: it may be that only this server answers it.
    fn at_endpoint(&mut self, key: &ObjectRef, label: &str) {
        if self.searches() {
            let view = self.known.cluster.service(key);
            let Some(service) = view.service else { return };
            let governs = view
                .stateful_sets
                .iter()
                .any(|set| self.set_of(&key.namespace, label).is_some_and(|(other, _)| other.key == set.key));
            if governs || service.publish_not_ready {
                self.notes(service, &view);
            }
        }
    }

    // Ports.

    fn no_port(&mut self, key: &ObjectRef, port: Option<&str>, protocol: &str) {
        let view = self.known.cluster.service(key);
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
        let leads_nowhere = service.ports.iter().find_map(|declared| match &declared.target {
            TargetPort::Name(target) if *declared.name == *port && declared.protocol.label() == protocol => {
                Some(target.clone())
            }
            _ => None,
        });
        if let (Some(target), ServiceKind::Headless) = (leads_nowhere, &service.kind) {
            return self.add(Finding::NoTargetPort { service: key, port: port.into(), target });
        }
        let number = port.parse::<u16>().ok();
        if let Some((name, protocol, number)) = ports.iter().find(|(_, _, candidate)| Some(*candidate) == number) {
            let name = (!name.is_empty()).then(|| name.clone());
            let (number, protocol) = (*number, *protocol);
            return self.add(Finding::PortNumber { service: key, number, name, protocol });
        }
        let same_name = ports.iter().filter(|(name, ..)| **name == *port);
        let protocols: Vec<Protocol> = same_name.map(|(_, protocol, _)| *protocol).collect();
        if !protocols.is_empty() {
            return self.add(Finding::OtherProtocol { service: key, port: port.into(), protocols });
        }
        if let Some((_, _, number)) = ports.iter().find(|(name, ..)| name.is_empty()) {
            self.add(Finding::PortUnnamed { service: key.clone(), number: *number });
        }
        // It has the port, of endpoints of which none is ready; others are.
        if ports_of_slices(service, view, |slice| !slice.is_empty()).iter().any(|(name, ..)| **name == *port) {
            return;
        }
        let named = ports.iter().filter(|(name, ..)| !name.is_empty());
        let known = few(named.map(|(name, protocol, _)| format!("_{name}.{}", protocol.label()).into()), NAMES);
        self.add(Finding::NoPort { service: key, port: port.into(), known });
    }

    // Pods, and addresses.

    fn no_pod(&mut self, namespace: &str, label: &[u8]) {
        let Some(address) = dashed::parse(label) else {
            return self.add(Finding::PodNotAddress { label: text(label).into() });
        };
        match self.known.rules.pod_records {
            PodRecords::Off => self.add(Finding::PodRecordsOff),
            PodRecords::Insecure => self.no_namespace(namespace, None),
            PodRecords::Verified => {
                let elsewhere = if self.searches() { self.pod_at(address) } else { None };
                self.add(Finding::PodUnknown { namespace: namespace.into(), address, elsewhere });
            }
        }
    }

    fn reverse(&mut self) {
        let Some(address) = reverse::address_of(self.asked.name).filter(|_| self.searches()) else { return };
        let not_ready = self.services_with(address, |endpoint| !endpoint.conditions.ready());
        let pod = if not_ready.is_empty() { self.pod_at(address) } else { None };
        self.add(Finding::AddressUnknown { address, not_ready, pod });
    }
}

/// The first few, each once, in their order.
fn few<T: Ord>(items: impl Iterator<Item = T>, most: usize) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort();
    items.dedup();
    items.truncate(most);
    items
}

fn out_of_range(set: &StatefulSet, ordinal: u32) -> Finding {
    Finding::OrdinalOutOfRange { set: set.key.clone(), ordinal, start: set.start, replicas: set.replicas }
}

fn not_served(service: &ObjectRef, label: &str, endpoint: Option<Endpoint<'_>>) -> Finding {
    let (service, label) = (service.clone(), label.into());
    let serving = endpoint.map(|endpoint| endpoint.conditions.serving());
    match endpoint {
        Some(endpoint) if endpoint.conditions.terminating() => Finding::Terminating { service, label, serving },
        _ => Finding::NotReady { service, label, serving },
    }
}

/// The ports that a Service's SRV names can come from: its own, or of a headless one those of its slices.
pub(super) fn ports(service: &Service, view: &ServiceView<'_>) -> Vec<(Box<str>, Protocol, u16)> {
    ports_of_slices(service, view, |slice| !slice.is_empty())
}

/// Those of them that SRV names do come from: of a headless Service those of endpoints that count.
fn served_ports(service: &Service, view: &ServiceView<'_>) -> Vec<(Box<str>, Protocol, u16)> {
    ports_of_slices(service, view, |slice| slice.endpoints().any(|endpoint| service.answers_with(endpoint.conditions)))
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

/// The StatefulSet and the ordinal that an endpoint's Pod has by its name.
pub(super) fn object_of_pod(endpoint: Endpoint<'_>) -> Option<(String, u32)> {
    let pod = endpoint.pod?.to_string();
    let (text, ordinal) = split(&pod);
    Some((text.strip_suffix('-')?.to_owned(), ordinal?))
}

/// The ports of a headless Service whose named target no endpoint has, with that name. Its slices have to be the
/// controller's: it leaves such a port out.
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

/// The labels that the Service selects and the StatefulSet's Pods do not have.
pub(super) fn differs(service: &Service, set: &StatefulSet) -> Option<Differs> {
    let has = |key: &str| set.template.labels.get(key);
    let mut labels = Vec::new();
    for (key, selected) in service.selector.iter().filter(|(key, value)| has(key) != Some(value)) {
        labels.push(Difference { key: key.clone(), selected: selected.clone(), has: has(key).map(Into::into) });
    }
    let entirely = service.selector.keys().all(|key| has(key).is_none());
    (!labels.is_empty()).then(|| Differs { set: set.key.name.clone(), labels, entirely })
}

/// The same, where none of the StatefulSets that it governs has Pods that it selects: of several it may be meant for one.
pub(super) fn mismatch(service: &Service, view: &ServiceView<'_>) -> Option<Differs> {
    let all: Option<Vec<Differs>> = view.stateful_sets.iter().map(|set| differs(service, set)).collect();
    all?.into_iter().next()
}

fn satisfies(labels: &Labels, selector: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(&**value))
}

/// What a Service has to select to get the Pods of `set`.
fn selector_of(set: &StatefulSet) -> Labels {
    if !set.selector.is_empty() && satisfies(&set.template.labels, &set.selector) {
        set.selector.clone()
    } else {
        set.template.labels.clone()
    }
}

/// The ports of a StatefulSet's Pods as a Service can have them: several need different names.
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

pub(super) fn is(label: Label<'_>, text: &str) -> bool {
    // Both were split in the same way.
    label == Label::of(text)
}

/// The Service that a name says.
pub fn object(key: ServiceKey<'_>) -> ObjectRef {
    ObjectRef::new(&text(key.namespace()), &text(key.service()))
}

/// A label of a question as text; octets that no object's name has are escaped (RFC 1035 section 5.1).
pub(super) fn text(label: &[u8]) -> String {
    match std::str::from_utf8(label) {
        Ok(text) if is_label(text.strip_prefix('_').unwrap_or(text)) => text.to_owned(),
        _ => {
            let mut wire = vec![label.len() as u8];
            wire.extend_from_slice(label);
            let mut text = String::new();
            let _ = write_name(&mut text, &wire);
            text.trim_end_matches('.').to_owned()
        }
    }
}

/// How many letters have to be changed, added or left out to make one name the other (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    if one.len().abs_diff(other.len()) > 2 {
        return usize::MAX;
    }
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (one, other, expected) in
            [("web", "web", 0), ("web", "wed", 1), ("web", "we", 1), ("web", "weeb", 1), ("web", "ewb", 2)]
        {
            assert_eq!((distance(one, other), distance(other, one)), (expected, expected), "{one} {other}");
        }
        assert_eq!(distance("web", "website"), usize::MAX);
    }
}
