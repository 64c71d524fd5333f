//! Findings at the name of an endpoint: StatefulSet ordinals, hostnames and dashed addresses.
//!
//! Not here: findings about the Pod object itself (`pod.rs`).

use super::selector::has_labels;
use super::{Detector, top_n};
use crate::cluster::ServiceView;
use crate::diagnose::ZoneVerdict;
use crate::diagnose::catalog::dashed_label;
use crate::diagnose::finding::{Finding, MAX_NAMES};
use crate::diagnose::label::is_object_named;
use crate::name::dashed;
use crate::object::{Endpoint, EndpointSlice, ObjectRef, ServiceKind, StatefulSet};
use crate::records::Absence;
use crate::rtype;

impl Detector<'_> {
    pub(super) fn detect_endpoint_nxdomain(&mut self, key: &ObjectRef, label: &str) {
        let view = self.view.cluster.service(key);
        let before = self.findings.len();
        if let Some((set, ordinal)) = self.find_stateful_set(&key.namespace, label) {
            self.detect_ordinal(set, ordinal, &view, label);
        } else {
            self.detect_missing_governing(&view);
        }
        let Some(service) = view.service else {
            if self.is_search() {
                self.detect_pods_of_missing_service(key, label);
            }
            if self.findings.len() == before || self.is_search() {
                self.report_missing_service(key);
            }
            return;
        };
        if let ServiceKind::ExternalName(target) = &service.kind {
            return self.report(Finding::BelowExternalName { service: key.clone(), target: target.clone() });
        }
        self.detect_endpoint(&view, label);
        self.detect_pod_elsewhere(&view, label);
        self.detect_pod(&key.namespace, label, &view);
        self.detect_no_addresses(service, &view);
        if self.findings.len() == before && self.is_search() {
            let endpoints = view.slices().flat_map(EndpointSlice::endpoints);
            let known = top_n(
                endpoints.filter_map(|endpoint| Some(self.view.label_of(&endpoint)?.to_string().into())),
                MAX_NAMES + 1,
            );
            self.report(Finding::NoSuchEndpoint { service: key.clone(), label: label.into(), known });
        }
    }

    /// Detects why `label`, the Pod of `set` with this ordinal, has no name below the Service of `view`.
    fn detect_ordinal(&mut self, set: &StatefulSet, ordinal: u32, view: &ServiceView<'_>, label: &str) {
        let (key, name) = (&set.key, &set.service_name);
        if name.is_empty() {
            return self.report(Finding::NoServiceName { set: key.clone() });
        }
        let governing = ObjectRef::new(&key.namespace, name);
        let Some(service) = self.view.cluster.service(&governing).service else {
            return self.report_missing_governing(set);
        };
        if matches!(service.kind, ServiceKind::ExternalName(_)) {
            return self.report(Finding::GoverningExternal { set: key.clone(), service: name.clone() });
        }
        let range = set.ordinals();
        if !range.contains(&ordinal) {
            let elsewhere = (*name != view.key.name).then(|| name.clone());
            let selects = !service.selector.is_empty() && has_labels(&set.template.labels, &service.selector);
            let scales = elsewhere.is_none() && selects;
            self.report(ordinal_out_of_range(set, ordinal, elsewhere, scales));
        }
        if *name != view.key.name {
            if range.contains(&ordinal) {
                let resolves = self.can_recommend(&governing, &[label.to_owned()]);
                self.report(Finding::OtherGoverning {
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
            self.report(Finding::OrdinalNotThere {
                set: key.clone(),
                service: name.clone(),
                ordinal,
                waits_for: self.first_ordinal_not_serving(set, view),
                selects: !service.selector.is_empty(),
                has_address: self.view.cluster.pod(&key.namespace, label).is_some_and(|pod| !pod.addresses.is_empty()),
            });
        }
    }

    /// Returns whether no slice lists the Pod; false if that cannot be determined within `bounded_endpoints` endpoints.
    fn is_in_no_slice(&self, view: &ServiceView<'_>, label: &str) -> bool {
        match self.query.absence {
            Some(Absence::NotReady | Absence::Terminating | Absence::Replaced) => false,
            // The absence was published with the records of all slices of the Service.
            Some(Absence::Pending) if !self.is_search() => true,
            _ => {
                let rows = view.slices().map(EndpointSlice::len).sum::<usize>();
                let names = |endpoint: Endpoint<'_>| {
                    endpoint.hostname.or(endpoint.pod).is_some_and(|name| is_object_named(name, label))
                };
                rows <= self.max_endpoints() && !view.slices().flat_map(EndpointSlice::endpoints).any(names)
            }
        }
    }

    /// Returns the lowest ordinal that does not serve, if the controller creates Pods in order.
    fn first_ordinal_not_serving(&self, set: &StatefulSet, view: &ServiceView<'_>) -> Option<u32> {
        if set.parallel || view.slices().map(EndpointSlice::len).sum::<usize>() > self.max_endpoints() {
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
        set.ordinals().find(|ordinal| !serving.contains(ordinal))
    }

    /// Reports the endpoints in the Service's slices that `label` refers to.
    fn detect_endpoint(&mut self, view: &ServiceView<'_>, label: &str) {
        let key = view.key;
        let spelled = dashed::parse(label.as_bytes());
        let rows = self.max_endpoints();
        let mut listed = false;
        for endpoint in view.slices().flat_map(EndpointSlice::endpoints).take(rows) {
            if self.view.is_called(&endpoint, label, spelled) {
                listed = true;
                let finding = endpoint_not_served(key, label, Some(endpoint));
                self.report(without_unselected_pod(finding, view));
            } else if spelled == Some(endpoint.address) {
                if let Some(hostname) = endpoint.hostname {
                    let (address, hostname): (_, Box<str>) = (endpoint.address, hostname.to_string().into());
                    listed = true;
                    let resolves = self.can_recommend(key, &[hostname.to_string()]);
                    self.report(Finding::HasHostname { service: key.clone(), address, hostname, resolves });
                }
            } else if endpoint.hostname.is_none() && endpoint.pod.is_some_and(|pod| is_object_named(pod, label)) {
                let (pod, address) = (label.into(), endpoint.address);
                let resolves = self.can_recommend(key, &[dashed_label(address)]);
                let selects = view.service.is_some_and(|service| !service.selector.is_empty());
                self.report(Finding::NoHostname { service: key.clone(), pod, address, selects, resolves });
            }
        }
        if !listed {
            match self.query.absence {
                Some(Absence::NotReady) => self.report(endpoint_not_served(key, label, None)),
                Some(Absence::Terminating | Absence::Replaced) => {
                    self.report(Finding::Terminating { service: key.clone(), label: label.into(), serving: None });
                }
                _ => {}
            }
        }
        if let (Some(address), false, true) = (spelled, listed, self.is_search()) {
            let elsewhere = self.candidates_with_endpoint(address, |endpoint| {
                endpoint.conditions.ready() && endpoint.hostname.is_none()
            });
            self.report(Finding::NotAnEndpoint { service: key.clone(), address, elsewhere });
        }
    }

    /// Detects findings at an endpoint's name that exists: NODATA, or a name that other DNS servers may not answer.
    pub(super) fn detect_at_endpoint(&mut self, key: &ObjectRef, label: &str) {
        if self.is_search() {
            let view = self.view.cluster.service(key);
            let Some(service) = view.service else { return };
            if self.query.outcome == ZoneVerdict::NoData {
                self.report_missing_family(key, Some(label));
                if self.query.qtype == rtype::SRV {
                    self.detect_missing_srv_at_endpoint(service, &view);
                }
            }
            let governs = view.stateful_sets.iter().any(|set| {
                self.find_stateful_set(&key.namespace, label).is_some_and(|(other, _)| other.key == set.key)
            });
            if governs || service.publish_not_ready {
                self.report_notes(service, &view);
            }
        }
    }
}

/// Returns the finding about an ordinal out of range. `governing` is the governing Service if QNAME is not below it;
/// `scales` is true if more replicas would make the name exist.
pub(super) fn ordinal_out_of_range(
    set: &StatefulSet,
    ordinal: u32,
    governing: Option<Box<str>>,
    scales: bool,
) -> Finding {
    let (set, start, replicas) = (set.key.clone(), set.start, set.replicas);
    Finding::OrdinalOutOfRange { set, ordinal, start, replicas, governing, scales }
}

/// Removes the Pod from the finding if the Service has no selector: then no controller guarantees that the endpoint is the
/// Pod's.
pub(super) fn without_unselected_pod(mut finding: Finding, view: &ServiceView<'_>) -> Finding {
    if let Finding::NotReady { pod, .. } = &mut finding
        && view.service.is_some_and(|service| service.selector.is_empty())
    {
        *pod = None;
    }
    finding
}

pub(super) fn endpoint_not_served(service: &ObjectRef, label: &str, endpoint: Option<Endpoint<'_>>) -> Finding {
    let (service, label) = (service.clone(), label.into());
    let serving = endpoint.map(|endpoint| endpoint.conditions.serving());
    let pod = endpoint.and_then(|endpoint| Some(endpoint.pod?.to_string().into()));
    match endpoint {
        Some(endpoint) if endpoint.conditions.terminating() => Finding::Terminating { service, label, serving },
        _ => Finding::NotReady { service, label, pod, serving },
    }
}
