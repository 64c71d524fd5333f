//! Absences: known reasons for NXDOMAIN, published with a Service's records.
//!
//! They let a negative response choose its TTL, and show whether a search for the cause is worthwhile, without a look at
//! the cluster. Not here: the search itself (`diagnose`).

use crate::cluster::ServiceView;
use crate::name::label_pool::Label;
use crate::object::StatefulSet;

/// Reason for NXDOMAIN of a name at or below a known Service's name.
///
/// A Service's name is known if the Service exists, or a StatefulSet names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The endpoint is in a slice, but not ready.
    NotReady,
    /// The endpoint is in a slice, but terminating.
    Terminating,
    /// The endpoint is terminating, and its StatefulSet will create another Pod of its name.
    Replaced,
    /// The label is an ordinal within a StatefulSet's `replicas`, but in no slice.
    Pending,
    /// No reason is known for this name.
    Unknown,
}

impl Absence {
    /// Returns whether the name is expected to exist soon, so that caches must not keep a negative response for long.
    pub fn is_expected(self) -> bool {
        matches!(self, Self::NotReady | Self::Replaced | Self::Pending)
    }
}

/// Ordinals of a StatefulSet: `prefix` with a number in `from..to` is the name of a Pod that should exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExpectedOrdinals {
    prefix: Box<str>,
    from: u32,
    to: u32,
}

impl ExpectedOrdinals {
    /// Returns whether `label` is the name of such a Pod.
    pub(super) fn contains(&self, label: Label<'_>) -> bool {
        label.prefix == &*self.prefix && label.number.is_some_and(|number| (self.from..self.to).contains(&number))
    }
}

/// Returns the ordinals that should exist below a Service: those of the StatefulSets that it governs.
pub(super) fn expected_ordinals(view: &ServiceView<'_>) -> Box<[ExpectedOrdinals]> {
    let expected = |set: &&StatefulSet| ExpectedOrdinals {
        prefix: format!("{}-", set.key.name).into(),
        from: set.start,
        to: set.start.saturating_add(set.replicas),
    };
    view.stateful_sets.iter().map(expected).collect()
}
