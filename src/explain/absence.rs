//! What is known beforehand of names that do not exist: published with the Service's records, so that a negative
//! answer can say how soon it may change, and whether there is more to tell, without searching for anything.

use crate::cluster::ServiceView;
use crate::names::labels::Label;
use crate::objects::StatefulSet;

/// Why a name at or below a known Service's name is not there, as far as that is known beforehand.
///
/// A Service's name is known where the Service exists, or a StatefulSet names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The endpoint is in a slice, and not ready.
    NotReady,
    /// The endpoint is in a slice, and terminating.
    Terminating,
    /// The same, and its StatefulSet makes another Pod of its name.
    Replaced,
    /// An ordinal within a StatefulSet's `replicas` that is in no slice.
    NotThereYet,
    /// Nothing is known of this very name.
    Unlisted,
}

impl Absence {
    /// Whether the name is expected to exist soon, so that a negative answer must not be kept for long.
    pub fn is_expected(self) -> bool {
        matches!(self, Self::NotReady | Self::Replaced | Self::NotThereYet)
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
    let expected = |set: &&StatefulSet| ExpectedOrdinals {
        text: format!("{}-", set.key.name).into(),
        from: set.start,
        to: set.start.saturating_add(set.replicas),
    };
    view.stateful_sets.iter().map(expected).collect()
}
