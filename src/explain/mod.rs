//! Why a name does not resolve: question and cluster in, findings out.
//!
//! One function, [`explain`], for all faces: the command `explain`, the Extended DNS Error of an answer, the TXT record
//! at `_why.NAME`, the API. It is pure; who holds the cluster, and who may ask, is not decided here. `finding.rs` has
//! the causes, one entry each, `find.rs` how each is detected; `absence.rs` is what is known
//! beforehand and published with a Service's records, so that most answers need no search. [`Asker`] is the door for
//! threads that answer and must not wait. For people there are [`steps()`], the decision on one name, and [`check()`],
//! the findings about all objects without a question.

mod absence;
mod asker;
mod check;
mod entry;
mod find;
mod finding;
mod fix;
mod steps;

use std::net::IpAddr;

use crate::cluster::Cluster;
use crate::names::labels::Label;
use crate::names::{QueryName, WireName, is_label};
use crate::objects::Endpoint;
use crate::rules::Rules;

pub use absence::{Absence, ExpectedOrdinals, expected_ordinals};
pub use asker::{Asker, Busy};
pub use check::{Checked, Seen, check};
pub use entry::{About, Level, Severity};
pub use find::{ROWS, object};
pub use finding::{Candidates, Difference, Differs, Finding, MAX_BRIEF};
pub use fix::Fix;
pub use steps::{Step, steps};

/// What is known, and by which rules names are made of it.
#[derive(Clone, Copy)]
pub struct Known<'k> {
    /// The objects.
    pub cluster: &'k Cluster,
    /// The zone and its aliases.
    pub apexes: &'k [WireName],
    /// Which names exist.
    pub rules: Rules,
    /// How much of the cluster the objects are.
    pub extent: &'k Extent,
}

impl<'k> Known<'k> {
    /// Returns the name that an endpoint has besides its dashed address: its hostname, or its Pod's name (N9).
    fn label_of<'s>(&self, endpoint: &Endpoint<'s>) -> Option<Label<'s>> {
        let pod = || endpoint.pod.filter(|pod| self.rules.endpoint_pod_names && is_label(&pod.to_string()));
        endpoint.hostname.or_else(pod)
    }

    /// Returns whether an endpoint has this label as its hostname, or without one its dashed address or its Pod's name.
    /// `spelled` is the address that the label spells.
    fn is_called(&self, endpoint: &Endpoint<'_>, label: &str, spelled: Option<IpAddr>) -> bool {
        endpoint.hostname.is_none() && spelled == Some(endpoint.address)
            || self.label_of(endpoint).is_some_and(|name| find::is(name, label))
    }

    /// The zone that a name stands in, and the label of the name at which its apex begins.
    pub fn apex_of(&self, name: &QueryName) -> Option<(&'k WireName, usize)> {
        self.apexes.iter().find_map(|apex| Some((apex, name.apex_at(apex)?)))
    }
}

/// How much of a cluster is read: what is left out is not known to be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// The one namespace that is; `None` for all.
    pub namespace: Option<Box<str>>,
    /// Of Services only those with some labels.
    pub selected: bool,
}

/// What was asked, and what came of it.
#[derive(Clone, Copy)]
pub struct Asked<'q> {
    /// The name.
    pub name: &'q QueryName,
    /// The type.
    pub qtype: u16,
    /// What the zone says.
    pub outcome: Outcome,
    /// What the zone knows beforehand of a name that does not exist.
    pub absence: Option<Absence>,
}

/// What the zone says of a name and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There are records, or an alias.
    Found,
    /// The name exists and has no record of this type.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// No zone here has the name.
    NotInZone,
}

/// How far to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// For an answer on the wire: exact look-ups, no guesses, bounded work.
    Exact,
    /// For people: everything, and what may have been meant.
    Search,
}

/// All that is to be said of a question, what goes into an answer first. Empty where the name resolves and there is
/// nothing to know, or where no cause is known for certain.
pub fn explain(known: &Known<'_>, asked: &Asked<'_>, effort: Effort) -> Vec<Finding> {
    find::find(known, asked, effort)
}
