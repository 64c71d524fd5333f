//! Findings about the form of a name: missing, misplaced and repeated labels, and missing namespaces.

use strsim::levenshtein;

use super::Detector;
use crate::diagnose::finding::Finding;
use crate::diagnose::label::{label_text, service_ref};
use crate::name::{NameKind, QueryName, ServiceKey, WireName, classify, service_key, wire_labels};
use crate::object::{EndpointSlice, ObjectRef};

impl Detector<'_> {
    pub(super) fn detect_invalid_name(&mut self, apex: &WireName, apex_at: usize) {
        if let Some(finding) = self.find_second_zone(apex, apex_at) {
            return self.report(finding);
        }
        let label = |back: usize| label_text(self.query.name.label(apex_at - back));
        let finding = match (&*label(1), apex_at) {
            ("svc", 5 | 6) => self.find_malformed_port(apex, apex_at),
            // `web-0.web.default.pod.Z`.
            ("pod", _) => {
                let front: Vec<String> = (3..=apex_at).rev().map(label).collect();
                let service = ObjectRef::new(&label(2), &label(3));
                let meant = self.existing_name(&service, &front[..front.len() - 1]).filter(|_| self.is_search());
                Some(Finding::PodNotAddress { label: front.join(".").into(), meant })
            }
            // `web.default.Z` and `web-0.web.default.Z`.
            (_, 2 | 3) => self.find_missing_svc_label(apex, self.query.name, apex_at),
            _ => None,
        };
        match finding {
            Some(finding) => self.report(finding),
            None if !self.is_search() => {}
            None if matches!(&*label(1), "svc" | "pod") => self.report(Finding::TooManyLabels),
            None => {
                let front: Vec<String> = (1..=apex_at).rev().map(label).collect();
                self.report(Finding::NoBranch { label: label(1).into() });
                self.detect_forgotten_namespace(&front);
            }
        }
    }

    /// Detects a missing `svc` label in `web.default.Z` or `web-0.web.default.Z`, if the Service exists.
    fn find_missing_svc_label(&self, apex: &WireName, name: &QueryName, apex_at: usize) -> Option<Finding> {
        let label = |back: usize| label_text(name.label(apex_at - back));
        let service = ObjectRef::new(&label(1), &label(2));
        let key = service_key(&service.namespace, &service.name).filter(|_| self.exists(&service))?;
        let front: Vec<&[u8]> = (0..apex_at - 2).map(|index| name.label(index)).collect();
        let meant = apex.for_service(ServiceKey(&key), &front)?;
        let front: Vec<String> = front.iter().map(|label| label_text(label)).collect();
        let resolves = self.can_recommend(&service, &front);
        Some(Finding::NoSvcLabel { service, meant, resolves })
    }

    /// Detects `_http._tcp.web-0.web.default.svc.Z` and `http.tcp.web.default.svc.Z`.
    fn find_malformed_port(&self, apex: &WireName, apex_at: usize) -> Option<Finding> {
        let name = self.query.name;
        let label = |back: usize| label_text(name.label(apex_at - back));
        let service = ObjectRef::new(&label(2), &label(3));
        let key = service_key(&service.namespace, &service.name).filter(|_| self.exists(&service))?;
        let underscored = |index: usize| name.label(index).starts_with(b"_");
        if apex_at == 6 {
            let of_pod = underscored(0) && underscored(1) && !underscored(2);
            let meant = apex.for_service(ServiceKey(&key), &[name.label(2)]).filter(|_| of_pod)?;
            let resolves = self.can_recommend(&service, &[label(4)]) && self.has_srv_records(&service, &label(4));
            return Some(Finding::PortOfPod { meant, resolves });
        }
        let with = |index: usize| format!("_{}", label_text(name.label(index)).trim_start_matches('_'));
        let (port, protocol) = (with(0), with(1));
        if !self.resolves(&service, &[port.clone(), protocol.clone()]) {
            return None;
        }
        let meant = apex.for_service(ServiceKey(&key), &[port.as_bytes(), protocol.as_bytes()])?;
        Some(Finding::NoUnderscore { service, meant })
    }

    /// Detects `X.Z.anything.Z`: `X.Z` with a search list applied. For a response, only if X is the name of a Service or
    /// below it.
    fn find_second_zone(&self, apex: &WireName, apex_at: usize) -> Option<Finding> {
        let name = self.query.name;
        let zone: Vec<&[u8]> = wire_labels(apex.octets()).collect();
        let is_zone = |at: &usize| zone.iter().enumerate().all(|(index, label)| name.label(at + index) == *label);
        let at = (1..=apex_at.checked_sub(zone.len())?).find(is_zone)?;
        let inner = WireName::parse(&self.inner_name(at, apex)).ok()?;
        let mut query = QueryName::default();
        query.set(&inner);
        let (exists, resolves) = match classify(&query, at) {
            NameKind::Service(key) | NameKind::Endpoint(key, _) | NameKind::Port(key, ..) => {
                let front: Vec<String> = (0..at - 3).map(|index| label_text(query.label(index))).collect();
                let key = service_ref(key);
                if self.view.cluster.service(&key).slices().map(EndpointSlice::len).sum::<usize>()
                    > self.max_endpoints()
                {
                    return None;
                }
                (self.exists(&key), self.resolves(&key, &front))
            }
            NameKind::Invalid if at == 2 || at == 3 => match self.find_missing_svc_label(apex, &query, at) {
                Some(finding) if self.is_search() => return Some(finding),
                _ => (false, false),
            },
            NameKind::Invalid => (false, false),
            _ => (false, self.is_search()),
        };
        (exists || self.is_search()).then_some(Finding::SuffixTwice { meant: inner, resolves })
    }

    fn inner_name(&self, labels: usize, apex: &WireName) -> String {
        let labels: Vec<String> = (0..labels).map(|index| label_text(self.query.name.label(index))).collect();
        format!("{}.{apex}", labels.join("."))
    }

    pub(super) fn report_missing_namespace(&mut self, namespace: &str, service: Option<&str>) {
        if !self.is_search() || self.view.cluster.knows_namespace(namespace) {
            return;
        }
        let declared = self.view.cluster.declares_namespaces();
        let is_near = |key: &ObjectRef| levenshtein(&key.namespace, namespace) <= 2 && namespace.len() > 2;
        let near = service.map(|service| self.candidates_with_name(service, is_near));
        let elsewhere = near.filter(|near| near.total > 0).or_else(|| Some(self.candidates_named(service?)));
        let elsewhere = elsewhere.unwrap_or_default();
        let meant = elsewhere.only().and_then(|only| self.qname_at_service(only));
        self.report(Finding::NoNamespace { namespace: namespace.into(), declared, elsewhere, meant });
    }

    /// Detects a missing namespace: the labels are those of a Service's name, or of a name below it.
    pub(super) fn detect_forgotten_namespace(&mut self, front: &[String]) {
        let Some((service, front)) = front.split_last().filter(|(_, front)| self.is_search() && front.len() < 3) else {
            return;
        };
        let candidates = self.candidates_with_name(service, |key| front.is_empty() || self.resolves(key, front));
        if candidates.total > 0 {
            let meant = candidates.only().and_then(|only| self.existing_name(only, front));
            self.report(Finding::NamespaceForgotten { service: service.as_str().into(), candidates, meant });
        }
    }

    /// Detects a Service's name with a wrong zone, or none, at its end.
    pub(super) fn detect_mistyped_suffix(&mut self) {
        let name = self.query.name;
        let labels: Vec<String> = (0..name.labels()).map(|index| label_text(name.label(index))).collect();
        let svc = labels.iter().rposition(|label| label == "svc");
        let end = svc.unwrap_or(labels.len());
        let Some(apex) = self.view.apexes.first().filter(|_| self.is_search() && end >= 2) else { return };
        let service = ObjectRef::new(&labels[end - 1], &labels[end - 2]);
        let Some(key) = service_key(&service.namespace, &service.name).filter(|_| self.exists(&service)) else {
            return;
        };
        let front: Vec<&[u8]> = (0..end - 2).map(|index| name.label(index)).collect();
        if let Some(meant) = apex.for_service(ServiceKey(&key), &front) {
            let resolves = self.resolves(&service, &labels[..end - 2]);
            self.report(Finding::SuffixMistyped { service, meant, resolves });
        }
    }
}
