//! Detection of findings: question and cluster in, findings out.
//!
//! Every finding is true of the cluster that it was made from. [`SearchDepth::Exact`] is for responses to clients: exact
//! look-ups, and at most [`MAX_EXACT_ENDPOINTS`] endpoints of a Service, so that a flood of such queries costs little.
//! [`SearchDepth::Search`] is for people: it searches all objects, and guesses at the intended name.
//!
//! This file dispatches by the form of the name; each file beside it detects the findings of one kind of object.
//! `lookup.rs` has the look-ups that they share. Not here: the texts and fixes of findings (`catalog.rs`).

mod endpoint;
mod external_name;
mod lookup;
mod name;
mod pod;
mod port;
mod selector;
mod service;

use super::catalog_entry::Needs;
use super::finding::Finding;
use super::label::{label_text, service_ref};
use super::{DiagnosedQuery, DiagnosticsView, SearchDepth, ZoneVerdict};
use crate::name::{NameKind, WireName, classify};
use crate::naming_rules::PodRecords;

pub(super) use lookup::split_pod_name;
pub(super) use port::{candidate_ports, has_one_port, ports_not_in_slices, ports_without_target};
pub(super) use selector::{common_contradiction, common_template_mismatch, selector_contradiction, template_mismatch};

/// Maximum number of endpoints of a Service that a search for a response examines.
pub const MAX_EXACT_ENDPOINTS: usize = 256;
/// Maximum number of objects that a finding lists.
const MAX_LISTED: usize = 3;

/// Returns all findings about a question, sorted by rank, without those that another finding explains: a response reports
/// the first cause. Empty if the name resolves without a note, or no cause is certain.
pub fn explain(view: &DiagnosticsView<'_>, query: &DiagnosedQuery<'_>, depth: SearchDepth) -> Vec<Finding> {
    let mut detector = Detector { view, query, depth, findings: Vec::new() };
    detector.detect();
    let mut findings = detector.findings;
    if view.extent.selected {
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

/// Search for the findings about one question.
pub(super) struct Detector<'k> {
    pub(super) view: &'k DiagnosticsView<'k>,
    pub(super) query: &'k DiagnosedQuery<'k>,
    pub(super) depth: SearchDepth,
    pub(super) findings: Vec<Finding>,
}

impl Detector<'_> {
    fn detect(&mut self) {
        let name = self.query.name;
        match (self.view.apex_of(name), self.query.outcome) {
            (Some((apex, apex_at)), outcome) => self.detect_forward(apex, apex_at, outcome),
            (None, ZoneVerdict::NotInZone) => {
                self.report(Finding::OutsideZones);
                self.detect_mistyped_suffix();
            }
            (None, ZoneVerdict::NxDomain) => self.detect_reverse(),
            (None, _) => {}
        }
    }

    fn detect_forward(&mut self, apex: &WireName, apex_at: usize, outcome: ZoneVerdict) {
        let name = self.query.name;
        if outcome == ZoneVerdict::NxDomain && (0..apex_at).any(|label| name.label(label) == b"*") {
            self.report(Finding::Wildcard);
        }
        match (classify(name, apex_at), outcome) {
            (NameKind::Service(key), ZoneVerdict::NxDomain) => self.detect_service_nxdomain(&service_ref(key)),
            (NameKind::Service(key), _) => self.detect_at_service(&service_ref(key), outcome),
            (NameKind::Endpoint(key, label), ZoneVerdict::NxDomain) => {
                self.detect_endpoint_nxdomain(&service_ref(key), &label_text(label));
            }
            (NameKind::Endpoint(key, label), _) => self.detect_at_endpoint(&service_ref(key), &label_text(label)),
            (NameKind::Port(key, port, protocol), ZoneVerdict::NxDomain) => {
                self.detect_port_nxdomain(&service_ref(key), Some(&label_text(&port[1..])), &label_text(protocol));
            }
            (NameKind::Protocol(key, protocol), ZoneVerdict::NxDomain) => {
                self.detect_port_nxdomain(&service_ref(key), None, &label_text(protocol));
            }
            (NameKind::Namespace(namespace), ZoneVerdict::NxDomain) => {
                self.detect_forgotten_namespace(&[label_text(namespace)]);
                self.report_missing_namespace(&label_text(namespace), None);
            }
            (NameKind::PodAddress(namespace, label), ZoneVerdict::NxDomain) => {
                self.detect_pod_nxdomain(&label_text(namespace), label);
            }
            (NameKind::PodNamespace(_), ZoneVerdict::NxDomain) if self.view.rules.pod_records == PodRecords::Off => {
                self.report(Finding::PodRecordsOff);
            }
            (NameKind::PodNamespace(namespace), ZoneVerdict::NxDomain) => {
                self.report_missing_namespace(&label_text(namespace), None);
            }
            (NameKind::Invalid, ZoneVerdict::NxDomain) => self.detect_invalid_name(apex, apex_at),
            _ => {}
        }
        self.detect_terminating_namespace(&classify(name, apex_at), outcome);
    }

    fn detect_terminating_namespace(&mut self, kind: &NameKind<'_>, outcome: ZoneVerdict) {
        let Some(namespace) = kind.namespace().map(label_text) else { return };
        if self.is_search() && self.view.cluster.is_terminating(&namespace) {
            let resolves = outcome != ZoneVerdict::NxDomain;
            self.report(Finding::NamespaceTerminating { namespace: namespace.into(), resolves });
        }
    }

    fn report(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    fn is_search(&self) -> bool {
        self.depth == SearchDepth::Search
    }

    /// Returns the maximum number of endpoints to examine.
    fn max_endpoints(&self) -> usize {
        if self.is_search() { usize::MAX } else { MAX_EXACT_ENDPOINTS }
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
