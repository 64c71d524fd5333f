//! Findings at the name of a port, and the ports of Services and slices.

use strsim::levenshtein;

use super::endpoint::{endpoint_not_served, without_unselected_pod};
use super::{Detector, top_n};
use crate::cluster::ServiceView;
use crate::diagnose::catalog::dashed_label;
use crate::diagnose::finding::Finding;
use crate::object::{EndpointPort, EndpointSlice, ObjectRef, Protocol, Service, ServiceKind, ServicePort, TargetPort};

impl Detector<'_> {
    pub(super) fn detect_missing_srv(&mut self, service: &Service, view: &ServiceView<'_>) {
        let has_ports = match service.kind {
            ServiceKind::Headless => view.slices().any(|slice| !slice.is_empty() && !slice.ports.is_empty()),
            _ => !service.ports.is_empty(),
        };
        if !has_ports {
            self.report(Finding::NoPorts { service: service.key.clone() });
        }
    }

    pub(super) fn detect_missing_srv_at_endpoint(&mut self, service: &Service, view: &ServiceView<'_>) {
        let missing = ports_without_target(service, view);
        if missing.is_empty() {
            return self.detect_missing_srv(service, view);
        }
        for (port, target) in missing {
            self.report(Finding::NoTargetPort { service: service.key.clone(), port, target });
        }
    }

    pub(super) fn detect_port_nxdomain(&mut self, key: &ObjectRef, port: Option<&str>, protocol: &str) {
        let view = self.view.cluster.service(key);
        let Some(service) = view.service else {
            self.detect_missing_governing(&view);
            if self.findings.is_empty() || self.is_search() {
                self.report_missing_service(key);
            }
            return;
        };
        if let ServiceKind::ExternalName(target) = &service.kind {
            return self.report(Finding::BelowExternalName { service: key.clone(), target: target.clone() });
        }
        if service.kind == ServiceKind::ClusterIp(Vec::new()) {
            return self.report(Finding::NoClusterIp { service: key.clone() });
        }
        self.detect_no_addresses(service, &view);
        let nothing_below = !self.findings.is_empty();
        if let Some(port) = port
            && !nothing_below
        {
            self.detect_port(service, &view, port, protocol);
        }
    }

    fn detect_port(&mut self, service: &Service, view: &ServiceView<'_>, port: &str, protocol: &str) {
        let ports = served_ports(service, view);
        let key = service.key.clone();
        let declared = service.ports.iter().find(|own| *own.name == *port && own.protocol.label() == protocol);
        if let (Some(declared), ServiceKind::Headless) = (declared, &service.kind) {
            return self.report(match (&declared.target, find_misnamed(service, view, declared)) {
                (TargetPort::Name(target), None) => {
                    Finding::NoTargetPort { service: key, port: port.into(), target: target.clone() }
                }
                (_, instead) => port_not_in_slices(service, declared, instead),
            });
        }
        let number = port.parse::<u16>().ok();
        if let Some(found) = ports.iter().find(|(.., candidate)| Some(*candidate) == number) {
            return self.report(find_misnamed_port(service, view, found).unwrap_or_else(|| {
                let (name, protocol, number) = found.clone();
                let name = Some(name).filter(|name| !name.is_empty());
                Finding::PortNumber { service: key, number, name, protocol }
            }));
        }
        let same_name = ports.iter().filter(|(name, ..)| **name == *port);
        let protocols: Vec<Protocol> = same_name.map(|(_, protocol, _)| *protocol).collect();
        if !protocols.is_empty() {
            return self.report(Finding::OtherProtocol { service: key, port: port.into(), protocols });
        }
        if let Some(found) = ports.iter().find(|(name, ..)| name.is_empty()) {
            let unnamed =
                Finding::PortUnnamed { service: key.clone(), number: found.2, is_only: has_one_port(service, view) };
            self.report(find_misnamed_port(service, view, found).unwrap_or(unnamed));
        }
        // Endpoints have the port, but only endpoints that do not count.
        let with_port = |slice: &&EndpointSlice| slice.ports.iter().any(|own| *own.name == *port);
        if service.kind == ServiceKind::Headless
            && let Some(endpoint) = view.slices().filter(with_port).flat_map(EndpointSlice::endpoints).next()
        {
            if self.is_search() {
                let name = self.view.label_of(&endpoint);
                let label = name.map_or_else(|| dashed_label(endpoint.address), |name| name.to_string());
                self.report(without_unselected_pod(endpoint_not_served(&key, &label, Some(endpoint)), view));
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
        self.report(Finding::NoPort { service: key, port: port.into(), known, meant });
    }
}

/// Returns the finding about a port that the Service names and a slice names otherwise or not at all, if it is one.
fn find_misnamed_port(
    service: &Service,
    view: &ServiceView<'_>,
    (name, protocol, number): &(Box<str>, Protocol, u16),
) -> Option<Finding> {
    let is_it = |port: &EndpointPort| port.name == *name && port.protocol == *protocol && port.number == *number;
    let of_it = |declared: &&ServicePort| find_misnamed(service, view, declared).is_some_and(|(_, port)| is_it(port));
    let declared = service.ports.iter().find(of_it).filter(|_| service.kind == ServiceKind::Headless)?;
    Some(port_not_in_slices(service, declared, find_misnamed(service, view, declared)))
}

/// Returns the ports that SRV names of a Service can come from: its own, or for a headless Service those of its slices.
pub(in crate::diagnose) fn candidate_ports(
    service: &Service,
    view: &ServiceView<'_>,
) -> Vec<(Box<str>, Protocol, u16)> {
    ports_of_slices(service, view, |slice| !slice.is_empty())
}

/// Returns the ports that SRV names of a Service come from: of a headless Service, only the ports of endpoints that count.
pub(super) fn served_ports(service: &Service, view: &ServiceView<'_>) -> Vec<(Box<str>, Protocol, u16)> {
    ports_of_slices(service, view, |slice| slice.endpoints().any(|endpoint| service.answers_with(endpoint.conditions)))
}

/// Returns whether the Service declares one port, or none and its slices have one. A single port needs no name.
pub(in crate::diagnose) fn has_one_port(service: &Service, view: &ServiceView<'_>) -> bool {
    match &service.ports[..] {
        [] => candidate_ports(service, view).len() == 1,
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

/// Returns the ports of a headless Service with a named `targetPort` that no endpoint has, each with that name. Only for
/// slices of the controller, which omits such a port.
pub(in crate::diagnose) fn ports_without_target(
    service: &Service,
    view: &ServiceView<'_>,
) -> Vec<(Box<str>, Box<str>)> {
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
pub(in crate::diagnose) fn ports_not_in_slices(service: &Service, view: &ServiceView<'_>) -> Vec<Finding> {
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
    missing.map(|port| port_not_in_slices(service, port, find_misnamed(service, view, port))).collect()
}

/// Returns the port of a slice that has the number of `declared`, but a name that the Service does not declare.
fn find_misnamed<'c>(
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

fn port_not_in_slices(
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
