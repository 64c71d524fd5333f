//! Comparison of a Service's selector with the labels of StatefulSets and their Pod templates.

use crate::cluster::ServiceView;
use crate::diagnose::finding::{LabelMismatch, SelectorMismatch};
use crate::object::{Labels, Protocol, Service, StatefulSet};

/// Returns the labels that the Service selects, but that every Pod of the StatefulSet has with another value.
pub(in crate::diagnose) fn selector_contradiction(service: &Service, set: &StatefulSet) -> Option<SelectorMismatch> {
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
pub(in crate::diagnose) fn common_contradiction(service: &Service, view: &ServiceView<'_>) -> Option<SelectorMismatch> {
    let all: Option<Vec<SelectorMismatch>> =
        view.stateful_sets.iter().map(|set| selector_contradiction(service, set)).collect();
    let all = all?;
    let only = all.len() == 1;
    all.into_iter().next().map(|first| SelectorMismatch { alone: first.alone && only, ..first })
}

/// Returns the labels that the Service selects, but that the Pod template lacks or has with another value.
pub(in crate::diagnose) fn template_mismatch(service: &Service, set: &StatefulSet) -> Option<SelectorMismatch> {
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
pub(in crate::diagnose) fn common_template_mismatch(
    service: &Service,
    view: &ServiceView<'_>,
) -> Option<SelectorMismatch> {
    let all: Option<Vec<SelectorMismatch>> =
        view.stateful_sets.iter().map(|set| template_mismatch(service, set)).collect();
    all?.into_iter().next()
}

/// Returns the labels that every Pod of the StatefulSet has: the API server rejects a template without them, and the
/// controller releases a Pod that loses them.
pub(super) fn required_labels(set: &StatefulSet) -> &Labels {
    &set.selector
}

pub(super) fn has_labels(labels: &Labels, selector: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(&**value))
}

/// Returns the selector that a governing Service of `set` needs.
pub(super) fn governing_selector(set: &StatefulSet) -> Labels {
    if !set.selector.is_empty() && has_labels(&set.template.labels, &set.selector) {
        set.selector.clone()
    } else {
        set.template.labels.clone()
    }
}

/// Returns the ports of a StatefulSet's Pods for its Service: only named ports, and each name once.
pub(super) fn governing_ports(set: &StatefulSet) -> Vec<(Box<str>, Protocol, u16)> {
    let mut ports: Vec<(Box<str>, Protocol, u16)> = Vec::new();
    for port in &set.template.spec.ports {
        if !port.name.is_empty() && !ports.iter().any(|(name, ..)| *name == port.name) {
            ports.push((port.name.clone(), port.protocol, port.number));
        }
    }
    ports
}
