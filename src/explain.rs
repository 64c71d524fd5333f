//! Why a name does not resolve.
//!
//! Here is what is known beforehand of names that do not exist: [`Absence`]s, published with the Service's records,
//! so that a negative answer can say how soon it may change without searching for anything.

use crate::cluster::ServiceView;
use crate::names::labels::Label;

/// Why a name below an existing Service is not there, as far as that is known beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The endpoint is in a slice, and not ready.
    NotReady,
    /// The endpoint is in a slice, and terminating.
    Terminating,
    /// An ordinal within a StatefulSet's `replicas` that is in no slice.
    NotThereYet,
}

impl Absence {
    /// Whether the name is expected to exist soon, so that a negative answer must not be kept for long.
    pub fn is_expected(self) -> bool {
        matches!(self, Self::NotReady | Self::NotThereYet)
    }
}

/// The ordinals of a StatefulSet: `text` and a number in `from..to` are the name of a Pod that should exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedOrdinals {
    text: Box<str>,
    from: u32,
    to: u32,
}

impl ExpectedOrdinals {
    /// Whether `label` is one of them.
    pub fn contains(&self, label: Label<'_>) -> bool {
        label.text == &*self.text && label.number.is_some_and(|number| (self.from..self.to).contains(&number))
    }
}

/// The ordinals that should exist below a Service: of the StatefulSets that it governs.
pub fn expected_ordinals(view: &ServiceView<'_>) -> Box<[ExpectedOrdinals]> {
    let expected = |set: &&crate::objects::StatefulSet| ExpectedOrdinals {
        text: format!("{}-", set.key.name).into(),
        from: set.start,
        to: set.start.saturating_add(set.replicas),
    };
    view.stateful_sets.iter().map(expected).collect()
}
