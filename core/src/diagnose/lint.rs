//! Findings about all objects, without a question: names that will not resolve as their author intends.
//!
//! A finding that an unread object could refute ([`CheckScope`]) is omitted. Not here: the detection of most causes
//! (`detector/`), and the level of each (`catalog.rs`).

use super::catalog_entry::{Level, Needs};
use super::detector::{
    Detector, candidate_ports, common_contradiction, has_one_port, ports_not_in_slices, ports_without_target,
    selector_contradiction, split_pod_name, template_mismatch,
};
use super::{DiagnosedQuery, DiagnosticsView, Finding, SearchDepth, ZoneVerdict};
use crate::cluster::ServiceView;
use crate::name::QueryName;
use crate::name::reverse::ReverseZones;
use crate::object::{EndpointSlice, ObjectRef, Service, ServiceKind, StatefulSet};

/// Completeness of the objects that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckScope {
    /// True if every object was read, so that a missing object does not exist.
    pub is_complete: bool,
    /// True if Pods are running, real or simulated, so that a Service without listed endpoints has none.
    pub has_live_pods: bool,
}

/// Finding with its level.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// Importance of the finding for the author of the objects.
    pub level: Level,
    /// Finding about one or more objects.
    pub finding: Finding,
}

/// Returns the findings about all objects, sorted by object: StatefulSets, Services, EndpointSlices, each by name.
/// `reverse` are the reverse zones that are served.
pub fn check(view: &DiagnosticsView<'_>, reverse: &ReverseZones, scope: CheckScope) -> Vec<Checked> {
    let name = QueryName::default();
    let query = DiagnosedQuery { name: &name, qtype: 0, outcome: ZoneVerdict::Found, absence: None };
    let detector = Detector { view, query: &query, depth: SearchDepth::Search, findings: Vec::new() };
    let mut check = Check { detector, reverse };
    view.cluster.stateful_sets().for_each(|set| check.check_stateful_set(set));
    view.cluster.services().for_each(|service| check.check_service(service));
    view.cluster.slices().for_each(|slice| check.check_slice(slice));
    check.detector.detect_pods_of_missing_services();
    let is_certain = |finding: &Finding| {
        (scope.is_complete || !finding.needs(Needs::EveryObject))
            && (scope.has_live_pods || !finding.needs(Needs::LivePods))
            && !(view.extent.selected && finding.needs(Needs::EveryService))
    };
    let leveled = |finding: Finding| Some(Checked { level: finding.level()?, finding });
    let mut checked: Vec<Checked> =
        check.detector.findings.into_iter().filter(is_certain).filter_map(leveled).collect();
    let place = |checked: &Checked| {
        let about = checked.finding.about().into_iter().next();
        about.map(|about| (std::cmp::Reverse(about.kind), about.key))
    };
    checked.sort_by_cached_key(|checked| {
        (place(checked), checked.level, checked.finding.rank(), checked.finding.summary())
    });
    checked.dedup();
    checked
}

struct Check<'k> {
    detector: Detector<'k>,
    reverse: &'k ReverseZones,
}

impl Check<'_> {
    fn report(&mut self, finding: Finding) {
        self.detector.findings.push(finding);
    }

    fn check_stateful_set(&mut self, set: &StatefulSet) {
        let (key, name) = (&set.key, &set.service_name);
        if name.is_empty() {
            return self.report(Finding::NoServiceName { set: key.clone() });
        }
        let governing = ObjectRef::new(&key.namespace, name);
        let view = self.detector.view.cluster.service(&governing);
        let Some(service) = view.service else { return self.detector.report_missing_governing(set) };
        if matches!(service.kind, ServiceKind::ExternalName(_)) {
            return self.report(Finding::GoverningExternal { set: key.clone(), service: name.clone() });
        }
        let rows = || view.slices().flat_map(EndpointSlice::endpoints);
        let pods = || rows().filter(|row| split_pod_name(*row).is_some_and(|(text, _)| text == *key.name));
        // EndpointSlices written by hand can list Pods that the selector does not match: then their names resolve.
        if pods().next().is_none() && !service.selector.is_empty() {
            self.check_selector(set, service, &view);
        }
        let nameless = pods().find(|row| self.detector.view.label_of(row).is_none());
        if let Some((row, pod)) = nameless.and_then(|row| Some((row, row.pod?.to_string()))) {
            let (selects, address) = (!service.selector.is_empty(), row.address);
            self.report(Finding::NoHostname {
                service: governing.clone(),
                pod: pod.into(),
                address,
                selects,
                resolves: false,
            });
        }
    }

    /// Compares the selector of the governing Service with the StatefulSet's selector and its Pod template.
    fn check_selector(&mut self, set: &StatefulSet, service: &Service, view: &ServiceView<'_>) {
        let (key, name) = (set.key.clone(), service.key.name.clone());
        let rows = view.slices().map(EndpointSlice::len).sum::<usize>();
        match (
            selector_contradiction(service, set),
            common_contradiction(service, view),
            template_mismatch(service, set),
        ) {
            (Some(_), Some(differs), _) if rows == 0 => {
                let selector = service.selector.clone();
                self.report(Finding::NoEndpoints { service: service.key.clone(), selector, differs: Some(differs) });
            }
            (Some(differs), ..) => {
                let selects_another =
                    view.stateful_sets.iter().any(|other| selector_contradiction(service, other).is_none());
                self.report(Finding::SetNotSelected { set: key, service: name, differs, selects_another });
            }
            (None, _, Some(differs)) => self.report(Finding::TemplateDiffers { set: key, service: name, differs }),
            (None, _, None) => {}
        }
    }

    fn check_service(&mut self, service: &Service) {
        let view = self.detector.view.cluster.service(&service.key);
        let key = &service.key;
        match &service.kind {
            ServiceKind::ExternalName(target) => return self.detector.detect_external_name(key, target),
            ServiceKind::ClusterIp(addresses) if addresses.is_empty() => {
                self.report(Finding::NoClusterIp { service: key.clone() });
            }
            ServiceKind::ClusterIp(_) => {}
            ServiceKind::Headless => {
                self.detector.detect_no_addresses(service, &view);
                for (port, target) in ports_without_target(service, &view) {
                    self.report(Finding::NoTargetPort { service: key.clone(), port, target });
                }
                self.detector.findings.extend(ports_not_in_slices(service, &view));
                if service.ports.is_empty() && view.slices().all(|slice| slice.ports.is_empty()) {
                    self.report(Finding::NoPorts { service: key.clone() });
                }
            }
        }
        self.detector.report_notes(service, &view);
        let is_only = has_one_port(service, &view);
        for number in unnamed_ports(service, &view) {
            self.report(Finding::PortUnnamed { service: key.clone(), number, is_only });
        }
        self.check_reverse_zones(key, &view);
    }

    /// Reports addresses of endpoints in no reverse zone (row R6 of `tests/rows.md`).
    fn check_reverse_zones(&mut self, key: &ObjectRef, view: &ServiceView<'_>) {
        let rows = view.slices().flat_map(EndpointSlice::endpoints).map(|row| row.address);
        let mut outside: Vec<_> = rows.filter(|address| !self.reverse.covers(*address)).collect();
        outside.sort();
        outside.dedup();
        if let Some(address) = outside.first().copied() {
            self.report(Finding::OutsideReverse { service: key.clone(), address, of: outside.len() });
        }
    }

    fn check_slice(&mut self, slice: &EndpointSlice) {
        let key = &slice.key;
        let Some(service) = &slice.service else {
            if !slice.is_empty() {
                self.report(Finding::SliceOfNobody { slice: key.clone(), endpoints: slice.len() });
            }
            return;
        };
        if !self.detector.exists(&ObjectRef::new(&key.namespace, service)) {
            return self.report(Finding::SliceWithoutService { slice: key.clone(), service: service.clone() });
        }
        if slice.fqdn {
            self.report(Finding::FqdnSlice { slice: key.clone() });
        }
    }
}

/// Returns the numbers of ports without a name. A headless Service with endpoints has the ports of its slices; a port that
/// the Service itself names is another finding (`PORT-NOT-IN-SLICE`).
fn unnamed_ports(service: &Service, view: &ServiceView<'_>) -> Vec<u16> {
    let of_slices = service.kind == ServiceKind::Headless && view.slices().any(|slice| !slice.is_empty());
    if of_slices {
        let misnamed = ports_not_in_slices(service, view);
        let is_misnamed = |number: u16| {
            misnamed.iter().any(|finding| {
                matches!(finding, Finding::PortNotInSlices { instead: Some((_, port)), .. } if port.number == number)
            })
        };
        let unnamed = candidate_ports(service, view).into_iter().filter(|(name, ..)| name.is_empty());
        return unnamed.map(|(_, _, number)| number).filter(|number| !is_misnamed(*number)).collect();
    }
    service.ports.iter().filter(|port| port.name.is_empty()).map(|port| port.number).collect()
}
