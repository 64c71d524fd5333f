//! Findings at a Service's name: a missing Service, no endpoint that counts, and notes about a name that resolves.
//!
//! Not here: the target of an ExternalName (`external_name.rs`).

use strsim::levenshtein;

use super::endpoint::ordinal_out_of_range;
use super::selector::{
    common_contradiction, common_template_mismatch, governing_ports, governing_selector, has_labels, required_labels,
};
use super::{Detector, MAX_LISTED, top_n};
use crate::cluster::{Resource, ServiceView};
use crate::diagnose::ZoneVerdict;
use crate::diagnose::finding::{Candidates, Finding, MAX_NAMES};
use crate::diagnose::label::is_object_named;
use crate::object::{AddressFamily, Endpoint, EndpointSlice, Labels, ObjectRef, Service, ServiceKind, StatefulSet};
use crate::rtype;

impl Detector<'_> {
    /// Detects the causes of NXDOMAIN at a Service's name.
    pub(super) fn detect_service_nxdomain(&mut self, key: &ObjectRef) {
        let view = self.view.cluster.service(key);
        match view.service {
            Some(service) => self.detect_no_addresses(service, &view),
            None => {
                self.detect_missing_governing(&view);
                self.detect_pod_as_service(key);
                if !self.view.cluster.knows_namespace(&key.namespace) {
                    self.detect_forgotten_namespace(&[key.name.to_string(), key.namespace.to_string()]);
                }
                self.report_missing_service(key);
            }
        }
    }

    /// Reports a missing Service, and guesses at the intended one.
    pub(super) fn report_missing_service(&mut self, key: &ObjectRef) {
        if !self.is_search() {
            return;
        }
        let swapped = ObjectRef::new(&key.name, &key.namespace);
        if self.exists(&swapped) {
            let meant = self.qname_at_service(&swapped);
            self.report(Finding::Swapped { service: swapped, meant });
        }
        self.report_missing_namespace(&key.namespace, Some(&key.name));
        if !self.view.cluster.knows_namespace(&key.namespace) {
            return;
        }
        let elsewhere = self.candidates_named(&key.name);
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
            [near] => self.qname_at_service(&ObjectRef::new(&key.namespace, near)),
            _ => None,
        };
        self.report(Finding::NoService { service: key.clone(), near, meant });
        if elsewhere.total > 0 {
            let meant = elsewhere.only().and_then(|only| self.qname_at_service(only));
            self.report(Finding::OtherNamespace { service: key.clone(), elsewhere, meant });
        }
    }

    /// Returns the Services of this name, sorted by namespace.
    pub(super) fn candidates_named(&self, name: &str) -> Candidates {
        self.candidates_with_name(name, |_| true)
    }

    /// Detects a Pod's name in place of a Service's: an ordinal of a StatefulSet, or a hostname in a slice.
    fn detect_pod_as_service(&mut self, key: &ObjectRef) {
        if let Some((set, ordinal)) = self.find_stateful_set(&key.namespace, &key.name) {
            let governing = ObjectRef::new(&key.namespace, &set.service_name);
            if set.service_name.is_empty() && set.ordinals().contains(&ordinal) {
                self.report(Finding::NoServiceName { set: set.key.clone() });
            } else if set.service_name.is_empty() {
                self.report(ordinal_out_of_range(set, ordinal, None, false));
            } else if !self.exists(&governing) {
                self.report_missing_governing(set);
            } else if set.ordinals().contains(&ordinal) {
                let resolves = self.can_recommend(&governing, &[key.name.to_string()]);
                self.report(Finding::PodAsService { pod: key.clone(), service: set.service_name.clone(), resolves });
            } else {
                self.report(ordinal_out_of_range(set, ordinal, Some(set.service_name.clone()), false));
            }
            return;
        }
        if !self.is_search() {
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
            let resolves = self.can_recommend(&ObjectRef::new(&key.namespace, &service), &[key.name.to_string()]);
            self.report(Finding::PodAsService { pod: key.clone(), service, resolves });
        }
    }

    pub(super) fn detect_missing_governing(&mut self, view: &ServiceView<'_>) {
        if view.service.is_none() && !view.key.name.is_empty() {
            for set in &view.stateful_sets {
                self.report_missing_governing(set);
            }
        }
    }

    pub(in crate::diagnose) fn report_missing_governing(&mut self, set: &StatefulSet) {
        let selects = |service: &&Service| {
            service.key.namespace == set.key.namespace
                && !service.selector.is_empty()
                && has_labels(required_labels(set), &service.selector)
        };
        let cluster = self.view.cluster;
        let not_many = cluster.count(Resource::Services) <= self.max_endpoints();
        let services = cluster.services().filter(|_| not_many).filter(selects);
        let selecting = top_n(services.map(|service| service.key.name.clone()), MAX_LISTED);
        self.report(Finding::GoverningMissing {
            set: set.key.clone(),
            service: set.service_name.clone(),
            selecting,
            selector: governing_selector(set),
            ports: governing_ports(set),
        });
    }

    /// Detects why a headless Service's name has no record: none of its endpoints counts.
    pub(in crate::diagnose) fn detect_no_addresses(&mut self, service: &Service, view: &ServiceView<'_>) {
        if service.kind != ServiceKind::Headless {
            return;
        }
        let key = service.key.clone();
        let endpoints: usize = view.slices().map(EndpointSlice::len).sum();
        let mut rows = view.slices().flat_map(EndpointSlice::endpoints).take(self.max_endpoints());
        if rows.any(|endpoint| service.answers_with(endpoint.conditions)) {
            return;
        }
        for slice in view.slices().filter(|slice| slice.fqdn) {
            self.report(Finding::FqdnSlice { slice: slice.key.clone() });
        }
        if endpoints > 0 {
            if endpoints <= self.max_endpoints() {
                self.report(Finding::NoneReady { service: key, of: endpoints, selector: service.selector.clone() });
            }
        } else if service.selector.is_empty() {
            if view.slices().next().is_none() {
                let unlabelled = self.unlabelled_slices(&key.namespace);
                self.report(Finding::NoSlice { service: key, unlabelled });
            } else if view.slices().all(|slice| !slice.fqdn) {
                self.report(Finding::NoEndpoints { service: key, selector: Labels::default(), differs: None });
            }
        } else if view.slices().all(|slice| !slice.fqdn) {
            self.report_nothing_selected(service, view);
        }
    }

    /// Reports a Service with a selector, but without any endpoint in its slices.
    fn report_nothing_selected(&mut self, service: &Service, view: &ServiceView<'_>) {
        let key = service.key.clone();
        let differs = common_contradiction(service, view);
        let sets = &view.stateful_sets;
        if let Some(set) = sets.first().filter(|_| differs.is_none() && sets.iter().all(|set| set.replicas == 0)) {
            return self.report(Finding::NoReplicas { set: set.key.clone(), service: key });
        }
        if differs.is_none() && self.is_search() {
            self.report_template_mismatch(service, view);
        }
        self.report(Finding::NoEndpoints { service: key, selector: service.selector.clone(), differs });
    }

    /// Reports selected labels that the Pod templates lack. Only a note, since a controller may set them on the Pods.
    fn report_template_mismatch(&mut self, service: &Service, view: &ServiceView<'_>) {
        if let Some(differs) = common_template_mismatch(service, view) {
            let set = ObjectRef::new(&service.key.namespace, &differs.set);
            self.report(Finding::TemplateDiffers { set, service: service.key.name.clone(), differs });
        }
    }

    fn unlabelled_slices(&self, namespace: &str) -> Vec<Box<str>> {
        if !self.is_search() {
            return Vec::new();
        }
        let slices = self.view.cluster.slices();
        let of_nobody = slices.filter(|slice| *slice.key.namespace == *namespace && slice.service.is_none());
        top_n(of_nobody.map(|slice| slice.key.name.clone()), MAX_NAMES + 1)
    }

    /// Detects findings at a Service's name that exists.
    pub(super) fn detect_at_service(&mut self, key: &ObjectRef, outcome: ZoneVerdict) {
        let view = self.view.cluster.service(key);
        let Some(service) = view.service else { return };
        let asked = self.query.qtype;
        match &service.kind {
            ServiceKind::ExternalName(target) => self.detect_external_name(key, target),
            ServiceKind::ClusterIp(addresses) if addresses.is_empty() => {
                self.report(Finding::NoClusterIp { service: key.clone() });
            }
            _ if outcome == ZoneVerdict::NoData && asked == rtype::SRV => self.detect_missing_srv(service, &view),
            ServiceKind::ClusterIp(_) if outcome == ZoneVerdict::NoData => self.report_missing_family(key, None),
            ServiceKind::Headless if outcome == ZoneVerdict::NoData => self.report_missing_family(key, None),
            _ => {}
        }
        if self.is_search() && outcome == ZoneVerdict::Found {
            self.report_notes(service, &view);
            self.detect_nothing_behind(service, &view);
        }
    }

    /// Reports a clusterIP without ready endpoints. If no slice of any Service is known, slices are not read.
    fn detect_nothing_behind(&mut self, service: &Service, view: &ServiceView<'_>) {
        let cluster = self.view.cluster;
        let slices_are_read = cluster.count(Resource::EndpointSlices) + cluster.count(Resource::Endpoints) > 0;
        let mut rows = view.slices().flat_map(EndpointSlice::endpoints);
        let is_selecting_cluster_ip = matches!(service.kind, ServiceKind::ClusterIp(_)) && !service.selector.is_empty();
        if is_selecting_cluster_ip && slices_are_read && !rows.any(|row| service.answers_with(row.conditions)) {
            self.report(Finding::NothingBehind { service: service.key.clone() });
        }
    }

    pub(super) fn report_missing_family(&mut self, key: &ObjectRef, label: Option<&str>) {
        // AAAA queries for names that have IPv4 addresses only are ordinary traffic: no finding for a response.
        let family = match self.query.qtype {
            rtype::A => AddressFamily::V4,
            rtype::AAAA => AddressFamily::V6,
            _ => return,
        };
        if self.is_search() {
            self.report(Finding::NoFamily { service: key.clone(), label: label.map(Into::into), family });
        }
    }

    /// Reports notes about a Service that resolves.
    pub(in crate::diagnose) fn report_notes(&mut self, service: &Service, view: &ServiceView<'_>) {
        if matches!(service.kind, ServiceKind::ClusterIp(_)) {
            for set in &view.stateful_sets {
                let (set, service) = (set.key.clone(), service.key.name.clone());
                self.report(Finding::GoverningNotHeadless { set, service });
            }
        }
        let hidden = |endpoint: Endpoint<'_>| !endpoint.conditions.ready();
        if service.publish_not_ready && view.slices().flat_map(EndpointSlice::endpoints).any(hidden) {
            self.report(Finding::PublishedNotReady { service: service.key.clone() });
        }
    }
}
