//! Findings about Pods, names in the `pod` branch, and reverse names.

use super::Detector;
use super::lookup::candidates;
use crate::cluster::{Resource, ServiceView};
use crate::diagnose::finding::Finding;
use crate::diagnose::label::label_text;
use crate::name::{dashed, reverse};
use crate::naming_rules::PodRecords;
use crate::object::{EndpointSlice, ObjectRef};

impl Detector<'_> {
    /// Reports a Pod of a StatefulSet that has finished or has no address, if Pods are read.
    pub(super) fn detect_pod(&mut self, namespace: &str, label: &str, view: &ServiceView<'_>) {
        let Some(pod) = self.view.cluster.pod(namespace, label) else { return };
        let governed =
            self.find_stateful_set(namespace, label).is_some_and(|(set, _)| *set.service_name == *view.key.name);
        if !governed {
            return;
        }
        let key = ObjectRef::new(namespace, label);
        if pod.finished {
            self.report(Finding::PodFinished { pod: key });
        } else if pod.addresses.is_empty() {
            self.report(Finding::PodWithoutAddress { pod: key });
        }
    }

    /// Reports Pods of the Service's slices that have the label as their `hostname`, but another subdomain or none, if Pods
    /// are read.
    pub(super) fn detect_pod_elsewhere(&mut self, view: &ServiceView<'_>, label: &str) {
        let cluster = self.view.cluster;
        if cluster.count(Resource::Pods) == 0 {
            return;
        }
        for row in view.slices().flat_map(EndpointSlice::endpoints).take(self.max_endpoints()) {
            let Some(pod) = row.pod.filter(|_| row.hostname.is_none()).map(|pod| pod.to_string()) else { continue };
            let Some(state) = cluster.pod(&view.key.namespace, &pod) else { continue };
            let exists = |name: &str| self.exists(&ObjectRef::new(&view.key.namespace, name));
            let is_published = state.subdomain.as_deref().is_some_and(exists);
            let is_asked_for =
                state.hostname.as_deref() == Some(label) && !self.is_stateful_set_pod(&view.key.namespace, &pod);
            if is_asked_for && !is_published {
                let pod = ObjectRef::new(&view.key.namespace, &pod);
                self.report_pod_subdomain(pod, label, state.subdomain.clone(), Some(view.key.name.clone()));
            }
        }
    }

    /// Reports Pods with this hostname and the missing Service as their subdomain, if Pods are read.
    pub(super) fn detect_pods_of_missing_service(&mut self, service: &ObjectRef, label: &str) {
        let cluster = self.view.cluster;
        for (name, state) in cluster.pods_of(&service.namespace) {
            let is_it = state.hostname.as_deref().unwrap_or(name) == label;
            if is_it
                && state.subdomain.as_deref() == Some(&*service.name)
                && !self.is_stateful_set_pod(&service.namespace, name)
            {
                let pod = ObjectRef::new(&service.namespace, name);
                let selecting = self.find_selecting_service(&pod);
                self.report_pod_subdomain(pod, label, state.subdomain.clone(), selecting);
            }
        }
    }

    /// Reports every Pod that belongs to no StatefulSet, and has a subdomain that names no Service.
    pub(in crate::diagnose) fn detect_pods_of_missing_services(&mut self) {
        let cluster = self.view.cluster;
        for (namespace, name, state) in cluster.pods().filter(|(.., pod)| !pod.finished) {
            let Some(subdomain) = state.subdomain.as_deref() else { continue };
            if !self.exists(&ObjectRef::new(namespace, subdomain)) && !self.is_stateful_set_pod(namespace, name) {
                let pod = ObjectRef::new(namespace, name);
                let (label, selecting) = (state.hostname.as_deref().unwrap_or(name), self.find_selecting_service(&pod));
                self.report_pod_subdomain(pod, label, state.subdomain.clone(), selecting);
            }
        }
    }

    fn report_pod_subdomain(
        &mut self,
        pod: ObjectRef,
        label: &str,
        subdomain: Option<Box<str>>,
        selecting: Option<Box<str>>,
    ) {
        self.report(Finding::PodSubdomain { pod, hostname: label.into(), subdomain, selecting });
    }

    pub(super) fn detect_pod_nxdomain(&mut self, namespace: &str, label: &[u8]) {
        let Some(address) = dashed::parse(label) else {
            return self.report_pod_not_address(namespace, &label_text(label));
        };
        match self.view.rules.pod_records {
            PodRecords::Off => self.report(Finding::PodRecordsOff),
            PodRecords::Insecure => self.report_missing_namespace(namespace, None),
            PodRecords::Verified => {
                let elsewhere = if self.is_search() { self.find_pod_by_address(address) } else { None };
                self.report(Finding::PodUnknown { namespace: namespace.into(), address, elsewhere });
            }
        }
    }

    /// Reports a Pod's name in the `pod` branch. Recommends only a name that exists: the Pod of a Deployment has none.
    fn report_pod_not_address(&mut self, namespace: &str, label: &str) {
        let front = [label.to_owned()];
        let governing =
            self.find_stateful_set(namespace, label).map(|(set, _)| ObjectRef::new(namespace, &set.service_name));
        let of_set =
            governing.filter(|_| self.is_search()).and_then(|governing| self.existing_name(&governing, &front));
        let meant = of_set.or_else(|| {
            let services = self.view.cluster.services().filter(|_| self.is_search()).map(|service| &service.key);
            let having = services.filter(|key| *key.namespace == *namespace && self.resolves(key, &front));
            candidates(having.cloned()).only().and_then(|only| self.existing_name(only, &front))
        });
        self.report(Finding::PodNotAddress { label: label.into(), meant });
    }

    pub(super) fn detect_reverse(&mut self) {
        let Some(address) = reverse::parse_address(self.query.name).filter(|_| self.is_search()) else { return };
        let not_ready = self.candidates_with_endpoint(address, |endpoint| !endpoint.conditions.ready()).listed;
        let pod = if not_ready.is_empty() { self.find_pod_by_address(address) } else { None };
        self.report(Finding::AddressUnknown { address, not_ready, pod });
    }
}
