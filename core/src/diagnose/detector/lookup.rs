//! Look-ups in the cluster that several detections share: existence, candidates, names that resolve.

use std::net::IpAddr;

use super::port::served_ports;
use super::{Detector, MAX_LISTED, top_n};
use crate::diagnose::finding::Candidates;
use crate::diagnose::label::{is_object_named, label_text};
use crate::name::label_pool::split;
use crate::name::{WireName, dashed, is_address};
use crate::object::{Endpoint, EndpointSlice, ObjectRef, Service, ServiceKind, StatefulSet};

impl<'k> Detector<'k> {
    pub(in crate::diagnose) fn exists(&self, service: &ObjectRef) -> bool {
        self.view.cluster.service(service).service.is_some()
    }

    /// Returns whether objects in the namespace of the Service are read.
    pub(super) fn reads_namespace(&self, service: &ObjectRef) -> bool {
        self.view.extent.namespace.as_ref().is_none_or(|only| *only == service.namespace)
    }

    pub(super) fn candidates_with_name(&self, name: &str, such: impl Fn(&ObjectRef) -> bool) -> Candidates {
        let named = self.view.cluster.services().map(|service| &service.key);
        candidates(named.filter(|key| *key.name == *name && such(key)).cloned())
    }

    /// Returns the Services with an endpoint at this address that matches the condition.
    pub(super) fn candidates_with_endpoint(&self, address: IpAddr, such: impl Fn(Endpoint<'_>) -> bool) -> Candidates {
        let has =
            |slice: &&EndpointSlice| slice.endpoints().any(|endpoint| endpoint.address == address && such(endpoint));
        let owner = |slice: &EndpointSlice| Some(ObjectRef::new(&slice.key.namespace, slice.service.as_deref()?));
        let has_endpoints = |key: &ObjectRef| {
            let service = self.view.cluster.service(key).service;
            service.is_some_and(|service| !matches!(service.kind, ServiceKind::ExternalName(_)))
        };
        candidates(self.view.cluster.slices().filter(has).filter_map(owner).filter(has_endpoints))
    }

    /// Returns QNAME with another Service and namespace, if that name resolves: `web-0.web.shop.svc`.
    pub(super) fn qname_at_service(&self, service: &ObjectRef) -> Option<Box<str>> {
        let (_, apex_at) = self.view.apex_of(self.query.name)?;
        let front: Vec<String> =
            (0..apex_at.checked_sub(3)?).map(|index| label_text(self.query.name.label(index))).collect();
        self.existing_name(service, &front)
    }

    /// Returns the name of these labels below a Service, if it resolves.
    pub(super) fn existing_name(&self, service: &ObjectRef, front: &[String]) -> Option<Box<str>> {
        let front_text: String = front.iter().map(|label| format!("{label}.")).collect();
        let name = format!("{front_text}{}.{}.svc", service.name, service.namespace);
        self.resolves(service, front).then(|| name.into())
    }

    /// Returns whether a fix can recommend the name of these labels below a Service. Responses carry no fix, so a search for
    /// one never does.
    pub(super) fn can_recommend(&self, service: &ObjectRef, front: &[String]) -> bool {
        self.is_search() && self.resolves(service, front)
    }

    /// Returns whether the name of these labels below a Service resolves.
    pub(super) fn resolves(&self, key: &ObjectRef, front: &[String]) -> bool {
        let view = self.view.cluster.service(key);
        let Some(service) = view.service else { return false };
        let mut rows = view.slices().flat_map(EndpointSlice::endpoints);
        match (front, &service.kind) {
            ([], ServiceKind::ExternalName(target)) => !is_address(target) && WireName::parse(target).is_ok(),
            (_, ServiceKind::ExternalName(_)) => false,
            ([], ServiceKind::ClusterIp(addresses)) => !addresses.is_empty(),
            ([], ServiceKind::Headless) => rows.any(|row| service.answers_with(row.conditions)),
            ([label], _) if !label.starts_with('_') => rows.any(|row| self.has_label(service, &row, label)),
            (_, ServiceKind::ClusterIp(addresses)) if addresses.is_empty() => false,
            ([port, protocol], _) => served_ports(service, &view)
                .iter()
                .any(|(name, of, _)| Some(&**name) == port.strip_prefix('_') && of.label() == protocol),
            _ => false,
        }
    }

    /// Returns whether an endpoint has this label as its name below the Service.
    fn has_label(&self, service: &Service, row: &Endpoint<'_>, label: &str) -> bool {
        let serves = service.answers_with(row.conditions) || self.view.rules.ordinals.keeps(row.conditions.serving());
        serves && self.view.is_called(row, label, dashed::parse(label.as_bytes()))
    }

    /// Returns whether there are SRV records at the name of an endpoint, which resolves.
    pub(super) fn has_srv_records(&self, key: &ObjectRef, label: &str) -> bool {
        let view = self.view.cluster.service(key);
        let Some(service) = view.service else { return false };
        let slices = view.slices().filter(|slice| !slice.ports.is_empty());
        slices.flat_map(EndpointSlice::endpoints).any(|row| self.has_label(service, &row, label))
    }

    /// Returns the StatefulSet and the ordinal, if the label has the form of a Pod's name of an existing StatefulSet.
    pub(super) fn find_stateful_set(&self, namespace: &str, label: &str) -> Option<(&'k StatefulSet, u32)> {
        let (text, ordinal) = split(label);
        let set = self.view.cluster.stateful_set(&ObjectRef::new(namespace, text.strip_suffix('-')?))?;
        Some((set, ordinal?))
    }

    /// Returns whether the Pod belongs to a StatefulSet by its name. Its subdomain is that StatefulSet's `serviceName`.
    pub(super) fn is_stateful_set_pod(&self, namespace: &str, pod: &str) -> bool {
        self.find_stateful_set(namespace, pod).is_some()
    }

    /// Returns the first Pod with this address, by namespace and name.
    pub(super) fn find_pod_by_address(&self, address: IpAddr) -> Option<ObjectRef> {
        let pods = self.view.cluster.pods().filter(|(_, _, pod)| pod.addresses.contains(&address));
        pods.map(|(namespace, name, _)| ObjectRef::new(namespace, name)).min()
    }

    /// Returns the headless Service with the Pod in its slices, if there is only one.
    pub(super) fn find_selecting_service(&self, pod: &ObjectRef) -> Option<Box<str>> {
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
}

/// Returns the candidates, sorted and without duplicates: the first [`MAX_LISTED`], and the number of all.
pub(super) fn candidates(keys: impl Iterator<Item = ObjectRef>) -> Candidates {
    let mut listed = top_n(keys, usize::MAX);
    let total = listed.len();
    listed.truncate(MAX_LISTED);
    Candidates { listed, total }
}

/// Returns the StatefulSet and the ordinal of an endpoint's Pod, by the Pod's name.
pub(in crate::diagnose) fn split_pod_name(endpoint: Endpoint<'_>) -> Option<(String, u32)> {
    let pod = endpoint.pod?.to_string();
    let (text, ordinal) = split(&pod);
    Some((text.strip_suffix('-')?.to_owned(), ordinal?))
}
